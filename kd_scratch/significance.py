"""How sure a difference between two models on one test file is: bootstrap intervals and McNemar's test.

Everything here starts from a tally, N,k: a few numbers for each example, whose sums over the examples make the score
(right and counted make accuracy; correct, gold and predicted entities make F1). Drawing examples anew, with putting
back, shows how much the score would vary between test files like this one (Efron & Tibshirani 1993, chapter 13).
"""

import math

import numpy as np

ROUNDS = 2000  # test files that are drawn


def resampled_sums(tally: np.ndarray, rounds: int = ROUNDS, seed: int = 0) -> np.ndarray:
    """N,k -> rounds,k: the sums over N examples drawn with putting back. The same draws for every tally of length N."""
    rng, n = np.random.default_rng(seed), len(tally)
    return np.stack([np.bincount(rng.integers(n, size=n), minlength=n) @ tally for _ in range(rounds)])


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
    wins, losses = int((right & ~reference).sum()), int((~right & reference).sum())
    n, fewer = wins + losses, min(wins, losses)
    ways = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(fewer + 1)]  # log(n over k)
    return min(1.0, 2 * sum(math.exp(log - n * math.log(2)) for log in ways))
