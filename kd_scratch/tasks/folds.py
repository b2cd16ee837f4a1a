"""Parts of a training file, for cross-fitted teachers (training/cross_fitting.py)."""

import re
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kd_scratch.common.errors import UserError
from kd_scratch.tasks.base import Task, kept_together


class Fold(NamedTuple):
    """One of `count` parts of the training file, from 0."""

    number: int
    count: int


def parse_fold(text: str) -> Fold | None:
    """The fold of --fold: "2/5" -> (1, 5), "" -> None. UserError for anything else."""
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,3})/(\d{1,3})", text, re.ASCII)
    if not match or not 1 <= int(match[1]) <= int(match[2]) or int(match[2]) < 2:
        raise UserError(f"--fold {text}: must be a part such as 1/5, from 1/5 to 5/5")
    return Fold(int(match[1]) - 1, int(match[2]))


def fold_numbers(task: Task, examples: Sequence, count: int) -> np.ndarray:
    """The part, from 0, to which each of N examples belongs: N. It depends on its group, or its text, alone."""
    keys = (kept_together(task, example) for example in examples)
    return np.fromiter((zlib.crc32(key.encode()) % count for key in keys), np.int64)


def outside_fold(task: Task, examples: Sequence, fold: Fold) -> np.ndarray:
    """The numbers of the examples that are not of a fold. UserError where there are none."""
    kept = np.flatnonzero(fold_numbers(task, examples, fold.count) != fold.number)
    if not len(kept):
        raise UserError(f"--fold {fold.number + 1}/{fold.count}: leaves no examples; use fewer parts")
    return kept
