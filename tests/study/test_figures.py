"""How often the figures of a study are wrong: simulated studies whose truth is known."""

import numpy as np
import pytest

from kd_scratch.study.figures import difference, gap_closed
from kd_scratch.study.summary import verdict


def models_of(scores, drawn):
    """What `difference` and `gap_closed` need of a variant's models: scores, and those on files that are drawn anew."""
    return [{"score": score, "groups": 1000, "drawn": {"score": score + drawn}} for score in scores]


def deviations(rng, count=200):
    """Draws whose mean is 0 and whose deviation is 1."""
    drawn = rng.normal(size=count)
    return (drawn - drawn.mean()) / drawn.std()


@pytest.mark.parametrize("seeds", [5, 30])
def test_what_is_no_difference_is_called_one_in_at_most_5_of_100_studies(seeds):
    """Where another test file moves the mean as far as other seeds do: 8 and 14 of 100 exceed each chance alone."""
    rng = np.random.default_rng(0)
    drawn, found = deviations(rng), 0
    reference = models_of(np.zeros(seeds), np.zeros(len(drawn)))
    for _ in range(1500):
        scores = rng.normal() + np.sqrt(seeds) * rng.normal(size=seeds)
        found += verdict(difference(models_of(scores, drawn), reference), seeds).startswith(("helped", "hurt"))
    assert 0.02 < found / 1500 < 0.06


def test_the_interval_of_the_share_of_the_gap_holds_it_in_at_least_95_of_100_studies():
    """Of five seeds, which move it as far as the test file does; an interval of the test file alone holds it in 86."""
    rng = np.random.default_rng(0)
    of_teacher, of_student, held = deviations(rng), deviations(rng), 0
    for _ in range(1000):
        file = rng.normal(size=2)  # on this file the teacher and the student are so much better, against the baseline
        teacher = models_of([12 + file[0]], of_teacher)[0]
        baseline = models_of(2 * rng.normal(size=5), np.zeros(len(of_teacher)))
        student = models_of(7 + file[1] + 2 * rng.normal(size=5), of_student)
        low, high = gap_closed(student, baseline, teacher)["interval"]
        held += low < 7 / 12 < high
    assert 0.94 < held / 1000 < 0.985
