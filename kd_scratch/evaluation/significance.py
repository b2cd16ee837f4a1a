"""How sure a figure is: bootstrap intervals, McNemar's test, intervals over seeds; and how calibrated a model is.

A bootstrap starts from a tally, N,k: k numbers for each of N examples, whose sums over the examples make the score
(right and counted make accuracy; correct, gold and predicted entities make F1). Drawing examples anew, with
replacement, shows how much the score would vary between test files like this one (Efron & Tibshirani 1993, ch. 13).

Questions about one article, or sentences of one document, are right or wrong together. So groups are drawn, each
with all its examples (Davison & Hinkley 1997, section 3.8): on CoNLL-2003 the standard error of F1 is then 2.3 times
as large, on PolicyQA twice. Where groups are few their draws vary too little; `widened` makes up for it.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kd_scratch.tasks import Predictions

ROUNDS = 2000  # test files that are drawn
FEW = 10  # groups: of fewer there is no p, and a line says so
CHANCE, POWER = 1.959964, 0.841621  # standard errors: what 5% exceed on either side, and what 20% do on one


def group_sums(tally: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """A tally summed over the examples of each group, N,k -> G,k.

    groups: N, the number of each example's group. count: G, how many there are.
    """
    sums = np.zeros((count, tally.shape[1]))
    np.add.at(sums, groups, tally)
    return sums


def resampled_sums(tally: np.ndarray, seed: int = 0) -> np.ndarray:
    """The sums over G groups drawn with replacement, G,k -> ROUNDS,k. The same draws for every tally of length G."""
    rng = np.random.default_rng(seed)
    count = len(tally)
    draws = (rng.integers(count, size=count) for _ in range(ROUNDS))
    return np.stack([np.bincount(draw, minlength=count) @ tally for draw in draws])


def drawn_scores(predictions: Predictions, tally: np.ndarray | None = None) -> np.ndarray:
    """The task's score on each test file that is drawn anew from this one's groups, ROUNDS; `widened`.

    tally: in the place of that of the predictions.
    """
    tally = predictions.task.tally(predictions) if tally is None else tally
    sums = group_sums(tally, predictions.groups, predictions.num_groups)
    return widened(predictions.task.tally_score(resampled_sums(sums)), predictions.num_groups)


def widened(drawn: np.ndarray, count: int) -> np.ndarray:
    """What was drawn from so many groups, each draw as much farther from their mean as few groups demand.

    By √(G/(G-1)), since the variance of draws is too small by (G-1)/G, and by t/1.96 of G-1 degrees of
    freedom, since it is an estimate (Student 1908): 9.2 for 2 groups, 1.6 for 5, 1.06 for 30, 1.002 for 1,000.
    In simulations with groups of unequal sizes 90 to 95% of the 95% intervals then hold the truth, with 2 to 30
    groups; without it 49% with 2, 83% with 5, 92% with 30. Intervals, margins and smallest effects are made of
    these draws. The difference of two models' widened draws is their difference's draws, widened.
    """
    if count < 2:
        return drawn
    factor = critical_t(count - 1) / CHANCE * math.sqrt(count / (count - 1))
    return drawn.mean() + factor * (drawn - drawn.mean())


def describe_groups(predictions: Predictions) -> str:
    """What a bootstrap draws, in two words: "4,500 examples", or "231 groups" of them."""
    count = predictions.num_groups
    return f"{count:,} {'examples' if count == len(predictions.examples) else 'groups'}"


def note_of_few(predictions: Predictions) -> str:
    """A sentence where a bootstrap draws few groups; else ""."""
    if predictions.num_groups >= FEW:
        return ""
    what = "intervals are widened for so few, and a bootstrap gives no p"
    return f"The test file has only {describe_groups(predictions)}: {what}."


def interval(values: np.ndarray, lowest: float = -math.inf, highest: float = math.inf) -> tuple[float, float]:
    """The bounds between which a score (or a difference) lies for 95% of the test files that are drawn.

    lowest, highest: that are possible; widened draws may lie beyond.
    """
    low, high = np.percentile(values, [2.5, 97.5])
    return max(float(low), lowest), min(float(high), highest)


def interval_text(bounds: tuple[float, float] | None) -> str | None:
    """The bounds of an interval as text, where there is one."""
    return bounds and f"{bounds[0]:.4f} to {bounds[1]:.4f}"


def score_interval(predictions: Predictions, drawn: np.ndarray | None = None) -> tuple[float, float]:
    """The 95% interval of the task's score over data sets like this one. drawn: where it is known."""
    drawn = drawn_scores(predictions) if drawn is None else drawn
    return interval(drawn, predictions.task.lowest_score, 1.0)


def interval_around(estimate: float, values: np.ndarray) -> tuple[float, float]:
    """The same for a figure of 0 to 1 that is larger in drawn files than in this one, as a calibration error is,
    to which drawing adds: moved so that the mean of all draws is the figure itself."""
    return interval(values - values.mean() + estimate, 0.0, 1.0)


def margin_of_both(drawn: np.ndarray, by_seed: Sequence[float] = ()) -> float:
    """Half the width of the 95% interval of a mean over seeds, by both chances: that of the test file, which all
    seeds share, and that of training. Their variances add up; so do the squares of their margins.

    drawn: the differences of resampled test files, whose deviation is the standard error. by_seed: those of
    the seeds; fewer than two do not show what chance in training does.
    """
    return math.hypot(CHANCE * float(np.std(drawn)), margin(by_seed) or 0.0)


def smallest_effect(drawn: np.ndarray, by_seed: Sequence[float] = ()) -> float:
    """The smallest true difference that a test of 5% would find with a power of 80% (Cohen 1988, chapter 2).

    drawn, by_seed: as of margin_of_both, which the difference must exceed; it varies by both chances itself. How much
    training varies is known from these few seeds, and another study with as many would find another deviation. So both
    are drawn, and on average 80% of such studies find what one of them gives. (Where training alone varies, and the
    deviation of these seeds is taken for the true one, 58% do with two seeds, 63% with three, 68% with five.)
    """
    of_file, count = float(np.std(drawn)), len(by_seed)
    if count <= 1:
        return (CHANCE + POWER) * of_file
    known, found, normal = _draws_of_deviations(count)
    of_seeds = float(np.std(by_seed, ddof=1)) / math.sqrt(count) / known  # what the true one may be
    needed = np.hypot(CHANCE * of_file, critical_t(count - 1) * of_seeds * found)
    return float(np.quantile(needed + np.hypot(of_file, of_seeds) * normal, 0.8))


@lru_cache
def _draws_of_deviations(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The deviations that two studies of so many seeds find, beside the true one, and how far a mean is off: 3 x N."""
    rng, size = np.random.default_rng(0), 50_000
    known, found = np.sqrt(rng.chisquare(count - 1, (2, size)) / (count - 1))
    return known, found, rng.normal(size=size)


def two_sided_p(differences: np.ndarray, count: int) -> float | None:
    """Twice the share of the draws in which a difference has the other sign, or is 0; None of fewer than FEW groups.

    count: how many groups. Few tell whether chance makes such a difference in 5% of files, as the interval does,
    but not in how many. The observed difference counts as one more draw, so that p is never 0 (Davison & Hinkley
    1997, section 4.2).
    """
    if count < FEW:
        return None
    rarer = min((differences <= 0).sum(), (differences >= 0).sum())
    return float(min(1.0, 2 * (1 + rarer) / (1 + len(differences))))


def mcnemar(right: np.ndarray, reference: np.ndarray) -> float:
    """The probability that two equally good models differ as unequally as these, or more (McNemar 1947, exact).

    right, reference: N booleans, whether each model is right. Of the examples on which one is right and the other is
    wrong, each model should win half: a binomial test, two-sided.
    """
    wins = int((right & ~reference).sum())
    losses = int((~right & reference).sum())
    n = wins + losses
    fewer = min(wins, losses)
    ways = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(fewer + 1)]  # log(n over k)
    return min(1.0, 2 * sum(math.exp(log - n * math.log(2)) for log in ways))


#: 97.5% points of Student's t by degrees of freedom; beyond them `student_t` is exact enough.
STUDENT_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


def student_t(z: float, freedom: int) -> float:
    """The point of Student's t for one of the normal curve, by powers of 1/freedom (Fisher & Cornish 1960)."""
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    return t + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)


def critical_t(freedom: int) -> float:
    """What 2.5% exceed of Student's t."""
    return STUDENT_T[freedom - 1] if freedom <= len(STUDENT_T) else student_t(CHANCE, freedom)


def margin(values: Sequence[float]) -> float | None:
    """Half the width of the 95% interval of a mean of n values: t · s/√n (Student 1908); None of fewer than two."""
    if len(values) < 2:
        return None
    return float(critical_t(len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values)))


BINS = 15
FLOOR_ROUNDS = 100  # perfectly calibrated models that are drawn


def calibration_tally(probability: np.ndarray, right: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Of each group and bin of probability, of which there are 15 of equal width: sums of probability and right ones,
    and how many: G,3·15.

    Of U decisions: probability U in 0…1, right U booleans, groups U. count: G, how many groups there are.
    """
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    tally = np.zeros((count, 3, BINS))
    for row, values in enumerate((probability, right, np.ones(len(bins)))):
        np.add.at(tally, (groups, row, bins), values)
    return tally.reshape(count, 3 * BINS)


def calibration_error(sums: np.ndarray) -> np.ndarray:
    """Expected calibration error (Guo et al. 2017, equation 3), from the sums of a calibration tally.  …,3·15 -> …

    It is the mean, over decisions, of the distance between the mean probability and the share of right ones in a bin.
    """
    probability, right, count = np.moveaxis(sums.reshape(*sums.shape[:-1], 3, BINS), -2, 0)
    return np.abs(probability - right).sum(axis=-1) / np.maximum(count.sum(axis=-1), 1)


def calibration_bins(sums: np.ndarray) -> list[tuple[float, float, int]]:
    """Of each bin: mean probability, share right, how many; from the sums of a calibration tally, 3·15."""
    probability, right, count = sums.reshape(3, BINS)
    bins = zip(probability / np.maximum(count, 1), right / np.maximum(count, 1), count, strict=True)
    return [(float(p), float(r), int(n)) for p, r, n in bins]


def calibration_floor(probability: np.ndarray) -> float:
    """The calibration error that a perfectly calibrated model with these probabilities would be measured to have.

    It is not 0: of ten decisions at 0.75, seven or eight are right. The mean of FLOOR_ROUNDS draws.
    """
    rng = np.random.default_rng(0)
    one_group = np.zeros(len(probability), int)
    draws = (rng.random(len(probability)) < probability for _ in range(FLOOR_ROUNDS))
    errors = [calibration_error(calibration_tally(probability, right, one_group, 1)) for right in draws]
    return float(np.mean(errors))


class Calibration(NamedTuple):
    """How far probabilities are from the share of right decisions."""

    error: float
    floor: float  # the error that a perfectly calibrated model would have
    bins: list[tuple[float, float, int]]  # mean probability, share right, how many
    drawn: np.ndarray  # the error on each test file that is drawn anew from this one's groups, ROUNDS; `widened`


def calibration(predictions: Predictions) -> Calibration:
    """How calibrated a model's decisions are."""
    sure = predictions.task.confidence(predictions)
    groups, count = predictions.groups[sure.example], predictions.num_groups
    tally = calibration_tally(sure.probability, sure.right, groups, count)
    sums, floor = tally.sum(axis=0), calibration_floor(sure.probability)
    drawn = widened(calibration_error(resampled_sums(tally)), count)
    return Calibration(float(calibration_error(sums)), floor, calibration_bins(sums), drawn)
