"""Bootstrap and McNemar, against numbers worked out by hand and against theory; and the tallies of the tasks."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from kd_scratch.config import DataConfig
from kd_scratch.evaluation.compare import quality, tables
from kd_scratch.evaluation.significance import (
    drawn_scores,
    group_sums,
    interval,
    margin,
    margin_of_both,
    mcnemar,
    note_of_few,
    resampled_sums,
    two_sided_p,
    widened,
)
from kd_scratch.pages.report import Quality
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.base import f1_score, mean_score
from kd_scratch.tasks.classification import Example
from kd_scratch.tasks.question_answering import Answer
from kd_scratch.tasks.question_answering import Example as Question


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
    assert interval(drawn - other)[0] > 0 and two_sided_p(drawn - other, 300) == 2 / 2001  # never 0
    assert two_sided_p(other - drawn, 300) == two_sided_p(drawn - other, 300)
    assert two_sided_p(drawn - drawn, 300) == 1.0 and two_sided_p(drawn - other, 9) is None


def test_scores_of_sums():
    assert mean_score(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist() == [0.75, 0.0]
    assert f1_score(np.array([[2.0, 4.0, 5.0], [0.0, 0.0, 0.0]])).tolist() == [4 / 9, 0.0]


def test_compare_draws_the_same_examples_for_all_models():
    """Two models that are right on the same texts: no draw may tell them apart."""
    rng = np.random.default_rng(3)
    examples = [Example(str(i), "", "ab"[i % 2]) for i in range(40)]
    logits = rng.normal(size=(40, 2)).astype(np.float32)
    all_predictions = {
        name: Predictions(TASKS["csv"], examples, None, z, ("a", "b"), DataConfig())
        for name, z in (("x", logits), ("y", 2 * logits))
    }
    rows = quality(
        TASKS["csv"],
        all_predictions,
        {name: TASKS["csv"].score(predictions) for name, predictions in all_predictions.items()},
    )
    assert rows["x"].interval == rows["y"].interval and rows["x"].p is None
    assert rows["y"].difference_interval == (0.0, 0.0) and rows["y"].p == 1.0 and rows["y"].agreement == 1.0
    assert rows["y"].smallest is None, "no difference could be found where none can be drawn"


def test_compare_tests_accuracy_with_mcnemar():
    examples = [Example(str(i), "", "a") for i in range(12)]
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    logits = {"x": [right] * 6 + [wrong] * 6, "y": [right] * 11 + [wrong]}  # y wins 5, x none
    all_predictions = {
        name: Predictions(TASKS["csv"], examples, None, np.array(z, np.float32), ("a", "b"), DataConfig())
        for name, z in logits.items()
    }
    row = quality(
        TASKS["csv"],
        all_predictions,
        {name: TASKS["csv"].score(predictions) for name, predictions in all_predictions.items()},
    )["y"]
    assert row.p == pytest.approx(2 / 32) and row.difference == pytest.approx(5 / 12)
    assert row.agreement == 7 / 12


def test_agreement_is_of_the_texts_that_the_score_counts():
    """Of four texts one is out of scope: what is said of it is no matter."""
    examples = [Example(str(i), "", label, label != "oos") for i, label in enumerate(("a", "a", "b", "oos"))]
    a, b = [1.0, 0.0], [0.0, 1.0]
    one, other = (
        Predictions(TASKS["clinc"], examples, None, np.array(z, np.float32), ("a", "b"), DataConfig())
        for z in ([a, a, a, a], [a, b, a, b])
    )
    assert one.counts.tolist() == [True, True, True, False]
    assert one.agreement(other) == other.agreement(one) == pytest.approx(2 / 3) and one.agreement(one) == 1.0


def test_the_tally_of_questions_counts_each_id_once_in_version_2():
    questions = [Question("q", "?", "a b c", ("a b",), 0, may_be_unanswerable=True),
                 Question("q", "?", "a b c", ("b c",), 2, may_be_unanswerable=True),
                 Question("r", "?", "a b c", (), None, may_be_unanswerable=True)]  # fmt: skip
    predictions = Predictions(TASKS["squad"], questions, None, None, (), DataConfig())
    predictions.decisions = [Answer(text, 0, 0, 0.0, 1.0, 0.0, text) for text in ("a b", "b", "c")]
    assert TASKS["squad"].tally(predictions) == pytest.approx(np.array([[0, 0], [2 / 3, 1], [0, 1]]))


def test_a_small_p_is_shown_as_such():
    quality = {name: Quality({}, (0.0, 1.0), 1.0, 0.5, (0.0, 1.0), p) for name, p in (("a", 0.0004), ("b", 0.04))}
    quality["first"] = Quality({}, (0.0, 1.0), 1.0)
    _, (header, rows) = tables(SimpleNamespace(costs={}, first="first", quality=quality))
    assert [row[header.index("p")] for row in rows] == ["<0.001", 0.04, None]


def test_examples_of_a_group_are_drawn_together():
    """Ten groups of forty alike examples say as little as ten examples: the interval is that of ten."""
    groups = np.repeat(np.arange(10), 40)
    tally = np.stack([np.repeat(np.arange(10) < 7, 40), np.ones(400)], axis=1).astype(float)
    sums = group_sums(tally, groups, 10)
    assert sums.tolist() == [[40, 40]] * 7 + [[0, 40]] * 3
    low, high = interval(mean_score(resampled_sums(sums)))
    assert (low, high) == pytest.approx((0.4, 1.0), abs=0.1)
    alone_low, alone_high = interval(mean_score(resampled_sums(tally)))
    assert high - low > 5 * (alone_high - alone_low)


def test_a_comparison_draws_questions_by_article_where_there_are_at_least_ten():
    """Each context is a part of one, or it is drawn by context, as it is with fewer articles."""

    def groups(*articles):
        questions = [Question(str(i), "?", f"context {i // 2}", article=each) for i, each in enumerate(articles)]
        return Predictions(TASKS["squad"], questions, None, None, (), DataConfig()).groups.tolist()

    of_four = [title for title in "abcdefghij" for _ in range(4)]
    assert groups(*of_four) == [i // 4 for i in range(40)]
    assert len(set(groups(*of_four[:36]))) == 18, "nine articles"
    assert len(set(groups(*of_four[1:], "a"))) == 20, "two questions about one context have two titles"
    assert len(set(groups(*of_four, *[""] * 8))) == 24, "some contexts have no title"


def test_a_comparison_draws_questions_by_context():
    """Both questions about one context are right, both about the other are wrong: half of all draws are all or none."""
    questions = [Question(str(i), "?", context, ("x",), 0) for i, context in enumerate(("x y", "x y", "x z", "x z"))]
    predictions = Predictions(TASKS["squad"], questions, None, None, (), DataConfig())
    predictions.decisions = [Answer(text, 0, 0, 0.0, 1.0, 0.0, text) for text in ("x", "x", "z", "z")]
    assert predictions.groups.tolist() == [0, 0, 1, 1] and predictions.num_groups == 2
    drawn = mean_score(resampled_sums(group_sums(TASKS["squad"].tally(predictions), predictions.groups, 2)))
    assert set(drawn) == {0.0, 0.5, 1.0} and np.mean(drawn == 0.5) == pytest.approx(0.5, abs=0.05)
    row = quality(TASKS["squad"], {"x": predictions}, {"x": {"exact_match": 0.5, "f1": 0.5}})["x"]
    assert row.interval == (0.0, 1.0), "wider than these bounds, which a score cannot exceed"


def of_contexts(right):
    """Predictions on twenty questions about each of so many contexts, the first so many of which are right."""
    contexts = [f"x {i}" for i in range(len(right))]
    questions = [Question(f"{c} {i}", "?", c, ("x",), 0) for c in contexts for i in range(20)]
    predictions = Predictions(TASKS["squad"], questions, None, None, (), DataConfig())
    texts = ["x" if i < count else "y" for count in right for i in range(20)]
    predictions.decisions = [Answer(text, 0, 0, 0.0, 1.0, 0.0, text) for text in texts]
    return predictions


@pytest.mark.parametrize("right", [(10, 11), (9, 11, 10, 12, 10), tuple(9 + i % 4 for i in range(30))])
def test_the_margin_of_few_groups_is_students(right):
    """Of groups of one size it is that of the mean of their scores: t · s/√G, s the deviation by G-1."""
    predictions = of_contexts(right)
    assert margin_of_both(drawn_scores(predictions)) == pytest.approx(margin(np.array(right) / 20), rel=0.05)
    assert widened(np.array([0.2, 0.4]), 10_000) == pytest.approx([0.2, 0.4], rel=1e-3)


def test_a_comparison_on_few_groups_has_wide_intervals_a_note_and_no_p():
    """A model that is better in three of five contexts is not beyond chance; in fifteen of twenty-five it is."""
    for few, times in ((True, 1), (False, 5)):
        found = {"x": of_contexts((10, 11, 9, 10, 10) * times), "y": of_contexts((10, 12, 12, 11, 10) * times)}
        row = quality(TASKS["squad"], found, {name: {"exact_match": 0.5, "f1": 0.5} for name in found})["y"]
        assert (row.difference_interval[0] < 0) == (row.p is None) == bool(note_of_few(found["x"])) == few
    assert note_of_few(of_contexts((10,) * 5)).startswith("The test file has only 5 groups: intervals are widened ")


def test_of_a_file_with_a_single_group_examples_are_drawn():
    """The interval of a file about one context is not the point that its only group makes of it."""
    questions = [Question(str(i), "?", "x y", ("x",), 0) for i in range(40)]
    predictions = Predictions(TASKS["squad"], questions, None, None, (), DataConfig())
    predictions.decisions = [Answer(text, 0, 0, 0.0, 1.0, 0.0, text) for text in ("x", "y") * 20]
    row = quality(TASKS["squad"], {"x": predictions}, {"x": {"exact_match": 0.5, "f1": 0.5}})["x"]
    assert row.interval == pytest.approx((0.5 - 1.96 * 0.5 / 40**0.5, 0.5 + 1.96 * 0.5 / 40**0.5), abs=0.03)
