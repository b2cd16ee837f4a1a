"""What a task is: a record of functions. Adding a task is adding one such record."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from kd_scratch.common.console import shorten, table
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import EncodedInputs
from kd_scratch.data.rows import Subset
from kd_scratch.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class Task:
    """One task, from its files to its metric.

    `Examples` are whatever the task's reader makes of a file; the rest of the program only counts them and hands them
    back. Each has a string `id` that names its place in the file.
    """

    name: str
    head: str  # which of the model's heads it needs
    splits: tuple[str, ...]  # the splits that one file holds; empty where a file is one split
    score_name: str  # the metric by which the best epoch is kept: higher is better
    columns: tuple[str, ...]  # the metrics that a comparison shows
    read: Callable[[Path, str, DataConfig], Sequence]  # file, split -> examples
    texts: Callable[[Sequence], list[str]]  # examples -> raw texts, to learn a vocabulary from
    group: Callable[[object], str] | None  # examples of one group are held out together; None: each is its own group
    trainable: Callable[[Sequence], tuple[Sequence, list[str]]]  # examples -> those to train on, notes about the others
    label_list: Callable[[Sequence], tuple[str, ...]]  # training examples -> labels, in the order of the logits
    unlabelled: Callable[[str, str], object] | None  # id, plain text -> an example without label; None: not possible
    unlabel: Callable[[object], object]  # an example as if nobody knew its label
    reworded: (
        Callable[[object, Callable, str], object] | None
    )  # example, what is done to its words, new id -> unlabelled
    featurize: Callable[
        [Sequence, Tokenizer, tuple[str, ...], int, DataConfig], EncodedInputs
    ]  # -> token ids and labels
    decide: Callable[["Predictions"], list]  # one decision per example, to be compared with ==
    score: Callable[["Predictions"], dict]  # metrics by name
    tally: Callable[["Predictions"], np.ndarray]  # N,k: numbers of each example; the score is made of their sums
    tally_score: Callable[[np.ndarray], np.ndarray]  # sums …,k -> the metric score_name, …
    confidence: Callable[
        ["Predictions"], tuple[np.ndarray, np.ndarray]
    ]  # of each thing decided: how probable, and if right
    summaries: Callable[
        ["Predictions"], list[tuple[str, str, str, float]]
    ]  # of each example: text, gold, said, points 0…1
    confused: Callable[["Predictions"], Counter] | None  # how often (gold class, said class) occurs; None: no classes
    prediction_records: Callable[["Predictions"], dict]  # what `evaluate` writes, by the example's id
    details: Callable[[dict], str]  # metrics -> a table per class
    mistakes: Callable[["Predictions", int], str]  # a few wrong ones, as a table


@dataclass
class Predictions:
    """What came out when a model ran over a data set: all that decisions and metrics are made from."""

    task: Task
    examples: Sequence
    features: EncodedInputs  # made of these examples, in their order
    logits: np.ndarray  # as inference.compute_logits gives them
    labels: tuple[str, ...]  # the model's, in the order of the logits
    data: DataConfig

    @cached_property
    def decisions(self) -> list:
        """The task's decision on each example, made once."""
        return self.task.decide(self)

    @cached_property
    def counts(self) -> np.ndarray:
        """Which examples the score is made of, N booleans: not texts that are out of scope."""
        if self.task.tally_score is mean_score:
            return self.task.tally(self)[:, 1] > 0
        return np.ones(len(self.examples), bool)

    def agreement(self, other: "Predictions") -> float:
        """The share of the examples that count of which both models decide alike."""
        alike = [a == b for a, b in zip(self.decisions, other.decisions, strict=True)]
        return float(np.mean(np.array(alike)[self.counts]))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """N,C -> N,C in float64"""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def mean_score(sums: np.ndarray) -> np.ndarray:
    """The score of a tally whose columns are points and examples.  …,2 -> …"""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def surest_mistakes(wrong: list[tuple[float, str, str]], most: int) -> str:
    """A table of the mistakes of which the model is surest: its probability, what it was, and a line below that."""
    shown = sorted(wrong, key=lambda row: -row[0])[:most]
    rows = [(what if len(what) <= 72 else f"{what[:71]}…", p) for p, what, _ in shown]
    head, rule, *lines = table((f"surest mistakes, of {len(wrong):,}", "p"), rows).split("\n")
    below = (f"{line}\n    {shorten(below, 76)}" for line, (_, _, below) in zip(lines, shown, strict=True))
    return "\n".join([head, rule, *below])


def limited(examples: Sequence, limit: str, flag: str = "--limit") -> Sequence:
    """A random part of the examples, in their order: limit is "" (all), "500" or "10%". The same part in every run."""
    if not limit:
        return examples
    try:
        number = float(limit.removesuffix("%"))
        count = int(len(examples) * number / 100) if limit.endswith("%") else int(limit)
    except (ValueError, OverflowError):
        raise UserError(f"{flag} {limit}: must be a number of examples, or a percentage such as 10%") from None
    if count < 1:
        raise UserError(f"{flag} {limit}: leaves none of {len(examples)} examples (or of groups that stay together)")
    keep = np.random.default_rng(0).permutation(len(examples))[:count]
    return Subset(examples, np.sort(keep))
