"""Bootstrap and McNemar, against numbers worked out by hand and against theory; and the tallies of the tasks."""

import math

import numpy as np
import pytest

from kd_scratch.significance import interval, mcnemar, resampled_sums, two_sided_p
from kd_scratch.tasks.base import mean_score
from kd_scratch.tasks.token_classification import entity_f1


def pairs(both, wins, losses, neither):
    ours = [True] * (both + wins) + [False] * (losses + neither)
    other = [True] * both + [False] * wins + [True] * losses + [False] * neither
    return np.array(ours, bool), np.array(other, bool)


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 · (1/2)
        (5, 0, 2 / 32),
        (4, 1, 2 * 6 / 32),
        (3, 3, 1.0),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemar_by_hand(wins, losses, p):
    assert mcnemar(*pairs(7, wins, losses, 2)) == pytest.approx(p)
    assert mcnemar(*pairs(0, losses, wins, 0)) == pytest.approx(p)  # whoever is called the first


def test_mcnemar_does_not_overflow_on_large_files():
    p = mcnemar(*pairs(0, 50_600, 49_400, 0))
    z = (1200 - 1) / 100_000**0.5  # the normal curve, with half an example's correction on either side
    assert p == pytest.approx(math.erfc(z / 2**0.5), rel=0.01)


def test_the_interval_of_a_mean_is_that_of_theory():
    rng = np.random.default_rng(1)
    tally = np.stack([rng.random(400) < 0.8, np.ones(400)], axis=1).astype(float)
    low, high = interval(mean_score(resampled_sums(tally)))
    mean = tally[:, 0].mean()
    margin = 1.96 * math.sqrt(mean * (1 - mean) / 400)
    assert (low, high) == pytest.approx((mean - margin, mean + margin), abs=0.15 * margin)


def test_draws_are_the_same_for_every_model_and_in_every_run():
    tally = np.random.default_rng(0).random((50, 2))
    assert np.array_equal(resampled_sums(tally), resampled_sums(tally))
    assert np.allclose(resampled_sums(np.hstack([tally, tally])), np.hstack([resampled_sums(tally)] * 2))
    assert not np.array_equal(resampled_sums(tally, seed=1), resampled_sums(tally))
    ones = np.ones((50, 1))
    assert (resampled_sums(ones) == 50).all()  # as many examples in every draw


def test_a_model_that_is_right_on_more_of_the_same_examples_is_surely_better_though_intervals_overlap():
    rng = np.random.default_rng(2)
    reference = np.stack([rng.random(300) < 0.7, np.ones(300)], axis=1).astype(float)
    ours = reference.copy()
    ours[np.flatnonzero(reference[:, 0] == 0)[:12], 0] = 1  # 12 more, none lost
    drawn, other = (mean_score(resampled_sums(tally)) for tally in (ours, reference))
    assert interval(drawn)[0] < interval(other)[1]
    assert interval(drawn - other)[0] > 0 and two_sided_p(drawn - other) < 0.001
    assert two_sided_p(other - drawn) == two_sided_p(drawn - other)
    assert two_sided_p(drawn - drawn) == 1.0


def test_scores_of_sums():
    assert mean_score(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [0.75, 0.0]
    assert entity_f1(np.array([[2.0, 4.0, 5.0], [0.0, 0.0, 0.0]])).tolist() == [4 / 9, 0.0]
