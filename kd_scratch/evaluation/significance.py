"""How sure a figure is: bootstrap intervals, McNemar's test, intervals over seeds; and how calibrated a model is.

A bootstrap starts from a tally, N,k: k numbers for each of N examples, whose sums over the examples make the score
(right and counted make accuracy; correct, gold and predicted entities make F1). Drawing examples anew, with
replacement, shows how much the score would vary between test files like this one (Efron & Tibshirani 1993, ch. 13).
"""

import math
from collections.abc import Sequence

import numpy as np

ROUNDS = 2000  # test files that are drawn


def resampled_sums(tally: np.ndarray, seed: int = 0) -> np.ndarray:
    """The sums over N examples drawn with replacement, N,k -> ROUNDS,k. The same draws for every tally of length N."""
    rng = np.random.default_rng(seed)
    count = len(tally)
    draws = (rng.integers(count, size=count) for _ in range(ROUNDS))
    return np.stack([np.bincount(draw, minlength=count) @ tally for draw in draws])


def interval(values: np.ndarray) -> tuple[float, float]:
    """The bounds between which a score (or a difference) lies for 95% of the test files that are drawn."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def two_sided_p(differences: np.ndarray) -> float:
    """Twice the share of the draws in which a difference has the other sign, or is 0.

    The observed difference counts as one more draw, so that p is never 0 (Davison & Hinkley 1997, section 4.2).
    """
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


#: 97.5% points of Student's t by degrees of freedom; beyond them the expansion in `margin` is exact to 0.0001.
STUDENT_T = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)


def margin(values: Sequence[float]) -> float | None:
    """Half the width of the 95% interval of a mean of n values: t · s/√n (Student 1908); None of fewer than two."""
    freedom = len(values) - 1
    if freedom < 1:
        return None
    z = 1.959964  # t by powers of 1/freedom: Fisher & Cornish 1960
    series = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    series += (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    t = STUDENT_T[freedom - 1] if freedom <= len(STUDENT_T) else series
    return float(t * np.std(values, ddof=1) / math.sqrt(len(values)))


BINS = 15


def calibration(confidence: np.ndarray, right: np.ndarray) -> tuple[float, list[tuple[float, float, int]]]:
    """Expected calibration error (Guo et al. 2017, equation 3): the mean, over decisions, of the distance between the
    confidence and the share of right ones in its bin, of which there are 15 of equal width.

    confidence N in 0…1, right N booleans -> the error, and for each bin: mean confidence, share right, how many.
    """
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)  # N
    counts = np.bincount(which, minlength=BINS)

    def mean_by_bin(values: np.ndarray) -> np.ndarray:
        return np.bincount(which, weights=values.astype(np.float64), minlength=BINS) / np.maximum(counts, 1)

    confidences = mean_by_bin(confidence)
    shares = mean_by_bin(right)
    error = float(np.abs(confidences - shares) @ counts / max(1, len(confidence)))
    bins = zip(confidences.tolist(), shares.tolist(), counts.tolist(), strict=True)
    return error, list(bins)
