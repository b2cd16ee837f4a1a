"""What a study has found in numbers: of each variant the means over its seeds, differences and their intervals."""

import math
from collections.abc import Iterable, Sequence

import numpy as np

from kd_scratch.evaluation.significance import (
    interval,
    interval_around,
    margin,
    margin_of_both,
    smallest_effect,
    two_sided_p,
)
from kd_scratch.study.variants import BASELINE, SOFT

Figures = dict  # of one model on the test file, as results.measure gives them, with dev score and learning rate


def references(name: str, runs: dict[str, list[Figures]]) -> dict[str, list[Figures]]:
    """What a variant is compared with: the baseline, and soft targets alone."""
    return {key: runs[key] for key in (BASELINE, SOFT) if key in runs and name not in (BASELINE, key)}


def summarize(models: Sequence[Figures], compared: dict[str, Sequence[Figures]], teacher: Figures) -> dict[str, object]:
    """A variant's figures: means over its seeds, and its difference to each of those that it is compared with."""
    scores = [model["score"] for model in models]
    row = {
        "learning rate": models[0]["learning rate"],
        "dev": float(np.mean([model["dev"] for model in models])),
        "test": float(np.mean(scores)),
        "margin": margin(scores),
        "by seed": scores,
        "of teacher": float(np.mean(scores)) / teacher["score"],
    } | sureness(models)
    for name, others in compared.items():
        row[f"against {name}"] = difference(models, others)
    if BASELINE in compared:
        row["gap"] = gap_closed(models, compared[BASELINE], teacher)
    else:  # how far the teacher must be above these to be more than chance
        row["chance of gap"] = (
            teacher["score"] - row["test"] - interval(teacher["drawn"]["score"] - mean_drawn(models))[0]
        )
    return row


def sureness(models: Sequence[Figures]) -> dict[str, object]:
    """How sure the models of a variant are: means over its seeds of loss, calibration error and agreement."""
    return {
        "loss": _mean(model["loss"] for model in models),
        "loss interval": interval(mean_drawn(models, "loss"), lowest=0.0) if "loss" in models[0]["drawn"] else None,
        "ece": (ece := _mean(model["ece"] for model in models)),
        "ece interval": interval_around(ece, mean_drawn(models, "ece")),
        "ece floor": _mean(model["ece_floor"] for model in models),
        "agreement": _mean(model["agreement"] for model in models),
    }


def mean_drawn(models: Sequence[Figures], name: str = "score") -> np.ndarray:
    """The mean over seeds of a figure, on each test file that is drawn: ROUNDS."""
    return np.mean([model["drawn"][name] for model in models], axis=0)


def difference(models: Sequence[Figures], reference: Sequence[Figures]) -> dict:
    """The mean over seeds of the difference of scores, with its 95% interval and p by a paired bootstrap over the test
    file's groups, which are drawn alike for all seeds and both variants; how many seeds gained; and the smallest true
    difference that would have been found, in 80 of 100 such studies: None of one seed, which does not show what chance
    in training does, and where nothing varies."""
    observed = [model["score"] - other["score"] for model, other in zip(models, reference, strict=True)]
    drawn = mean_drawn(models) - mean_drawn(reference)
    return {
        "mean": float(np.mean(observed)),
        "interval": interval(drawn),
        "p": two_sided_p(drawn, models[0]["groups"]),
        "seeds": margin(observed),  # how far chance in training alone may carry it
        "margin": margin_of_both(drawn, observed),  # how far both chances together may
        "gained": sum(value > 0 for value in observed),
        "smallest": (smallest_effect(drawn, observed) or None) if len(observed) > 1 else None,
    }


def gap_closed(models: Sequence[Figures], baseline: Sequence[Figures], teacher: Figures) -> dict | None:
    """The share of the way from baseline to teacher, with its 95% interval over test files and seeds.

    None where there is no way: the teacher is not above the baseline by more than the test file's chance.
    """
    drawn_gap = np.array(teacher["drawn"]["score"]) - mean_drawn(baseline)
    if interval(drawn_gap)[0] <= 0:
        return None
    low = _mean(model["score"] for model in baseline)
    gap = teacher["score"] - low
    share = (_mean(model["score"] for model in models) - low) / gap
    has_way = drawn_gap > 0  # in a few draws of a small file there is none
    drawn = (mean_drawn(models) - mean_drawn(baseline))[has_way] / drawn_gap[has_way]
    beside = []  # of each seed, how far the student is from this share of its own baseline's way; of mean 0
    for model, other in zip(models, baseline, strict=True):
        beside.append(model["score"] - other["score"] - share * (teacher["score"] - other["score"]))
    of_seeds = (margin(beside) or 0.0) / gap  # as of any ratio of means (Cochran 1977, section 6.3)
    low, high = interval(drawn)
    return {
        "share": share,
        "interval": (share - math.hypot(share - low, of_seeds), share + math.hypot(high - share, of_seeds)),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean, or None where one is missing."""
    values = list(values)
    return None if None in values else float(np.mean(values))


def class_gaps(teacher: Figures, models: Sequence[Figures]) -> list[tuple[str, float, float, float]]:
    """Each class (entity type, answer length), the teacher's F1 in it, the mean of a variant's models, and how far that
    is above; the widest gap first."""
    gaps = []
    for name, score in teacher["per_class"].items():
        mean = float(np.mean([model["per_class"].get(name, 0.0) for model in models]))
        gaps.append((name, score, mean, mean - score))
    return sorted(gaps, key=lambda gap: gap[3])


def pooled_bins(models: Sequence[Figures]) -> list[tuple[float, float, int]]:
    """The calibration bins of several models put together: mean confidence, share right, how many."""
    bins = np.array([model["calibration"] for model in models], np.float64)  # models,15,3
    counts = bins[:, :, 2].sum(axis=0)
    means = (bins[:, :, :2] * bins[:, :, 2:]).sum(axis=0) / np.maximum(counts, 1)[:, None]  # 15,2
    return [(float(c), float(r), int(n)) for (c, r), n in zip(means, counts, strict=True)]
