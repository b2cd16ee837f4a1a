"""What a task is: a record of functions. Adding a task is adding one such record to TASKS (tasks/__init__.py)."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from kd_scratch.common.console import shorten, table
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig, ModelConfig, TrainConfig
from kd_scratch.data.batches import EncodedInputs
from kd_scratch.data.rows import Subset
from kd_scratch.data.tokenizer import Tokenizer

Labels = tuple[str, ...]  # the names of the classes, in the order of the logits
Words = Sequence[str]
ARTICLES = 10  # so many at least, or a tenth of them is none


@dataclass
class Predictions:
    """What came out when a model ran over a data set: all that decisions and metrics are made from."""

    task: "Task"
    examples: Sequence
    features: EncodedInputs  # made of these examples, in their order
    logits: np.ndarray  # as inference.compute_logits gives them
    labels: Labels  # the model's
    data: DataConfig
    threshold: float = 0.5  # the model's, of several labels

    @cached_property
    def decisions(self) -> list:
        """The task's decision on each example, made once."""
        return self.task.decide(self)

    @cached_property
    def gold(self) -> list:
        """The right decision on each example."""
        return [self.task.gold(example) for example in self.examples]

    @cached_property
    def right(self) -> np.ndarray:
        """Whether each decision is the right one, N booleans."""
        return np.array([gold == decision for gold, decision in zip(self.gold, self.decisions, strict=True)], bool)

    @cached_property
    def groups(self) -> np.ndarray:
        """The number of each example's article or group (see Task), N. Each is one of its own where there are none, or
        a single one, as of a CoNLL file that tells no documents apart: drawn with replacement, it would never vary.
        """
        if self.task.group is not None:
            shared = articles_of(self.task, self.examples) or list(map(self.task.group, self.examples))
            numbers = {name: number for number, name in enumerate(sorted(set(shared)))}
            if len(numbers) > 1:
                return np.array([numbers[name] for name in shared])
        return np.arange(len(self.examples))

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        return int(self.groups.max(initial=-1)) + 1

    @cached_property
    def counts(self) -> np.ndarray:
        """Which examples the score is made of, N booleans: not texts that are out of scope."""
        if self.task.tally_score is mean_score:
            return self.task.tally(self)[:, 1] > 0
        return np.ones(len(self.examples), bool)

    def agreement(self, other: "Predictions") -> float:
        """The share of the examples that count on which both models decide alike."""
        alike = [a == b for a, b in zip(self.decisions, other.decisions, strict=True)]
        return float(np.mean(np.array(alike)[self.counts]))


class Confidence(NamedTuple):
    """How sure a model is of each of U things that it decided: texts, words, answers."""

    probability: np.ndarray  # U, of what was decided
    right: np.ndarray  # U booleans, whether that is right
    example: np.ndarray  # U, the number of the example that it belongs to
    loss: np.ndarray  # U, the cross-entropy of what is right; NaN where the model cannot say it


class Summary(NamedTuple):
    """One example in a few words, for the page of a comparison."""

    text: str
    gold: str
    predicted: str
    points: float  # 0…1: how right the prediction is


def are_pairs(examples: Sequence) -> bool:
    """Whether examples of a sequence head are pairs of texts; those of one file are all of one kind."""
    return bool(examples) and getattr(examples[0], "pair", None) is not None


def require_kind(owner: str, owner_pairs: bool | None, source: str, pairs: bool) -> None:
    """UserError where texts are pairs and what they are for is not, or vice versa. owner_pairs: None: unknown."""
    if owner_pairs not in (None, pairs):
        kinds = ("pairs of texts", "single ones") if owner_pairs else ("single texts", "pairs of them")
        one, two = "choose one column with --text-column", "choose two columns, as in --text-column premise,hypothesis"
        raise UserError(f"{owner}: is of {kinds[0]}, {source} of {kinds[1]}; {two if owner_pairs else one}")


def require_labels_of(task: "Task", config: ModelConfig, owner: str) -> None:
    """UserError where a model gives a text several labels and the task one, or vice versa."""
    if config.multi_label != task.multi_label:
        kinds = ("one label a text", "several labels at once (problem_type in config.json)")
        cure = "choose --task labels" if config.multi_label else "choose --task csv, or train it with --task labels"
        raise UserError(f"{owner}: gives {kinds[config.multi_label]}, {task.name} {kinds[task.multi_label]}; {cure}")


# --- what a task does where its record does not say otherwise ---


def refuse_unlabelled(example) -> object:
    """UserError: the task has no examples without labels."""
    raise UserError("--labelled: the examples of this task need their labels; leave it out")


def accuracy(predictions: Predictions) -> dict:
    """How many examples there are, and the share of them that is decided right."""
    return {"examples": len(predictions.right), "accuracy": float(predictions.right.mean()), "per_class": {}}


def right_and_counted(predictions: Predictions) -> np.ndarray:
    """1 where an example is decided right, and 1 because each one counts: N,2"""
    return np.stack([predictions.right, np.ones(len(predictions.right))], axis=1)


def mean_score(sums: np.ndarray) -> np.ndarray:
    """The score of a tally whose columns are points and examples.  …,2 -> …"""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def f1_score(sums: np.ndarray) -> np.ndarray:
    """F1 of a tally: 2 · right / (gold + given); 0 where there is nothing to divide by.  …,3 -> …"""
    return 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)


def label_confidence(predictions: Predictions) -> Confidence:
    """Of a sequence head, that of each text's best label; of others nothing."""
    if predictions.task.head != "sequence":
        return Confidence(np.zeros(0), np.zeros(0, bool), np.zeros(0, int), np.zeros(0))
    numbers = np.arange(len(predictions.examples))
    return confidence_of(predictions.logits, predictions.right, numbers, predictions.features.labels)


def least_sure(predictions: Predictions) -> np.ndarray:
    """The probability of the least sure thing that is decided about each example, N; of nothing 1."""
    sure = predictions.task.confidence(predictions)
    least = np.ones(len(predictions.examples))
    np.minimum.at(least, sure.example, sure.probability)
    return least


def summaries_of_labels(predictions: Predictions) -> list[Summary]:
    """Each text, its gold label, the predicted one, and whether that is right."""
    texts = [" | ".join(predictions.task.texts([example])) for example in predictions.examples]
    rows = zip(texts, predictions.gold, predictions.decisions, predictions.right, strict=True)
    return [Summary(text, str(gold), str(decision), float(right)) for text, gold, decision, right in rows]


def records_of_labels(predictions: Predictions) -> dict:
    """The decision and the gold label of each example, by its id."""
    rows = zip(predictions.examples, predictions.decisions, predictions.gold, strict=True)
    return {example.id: {"label": decision, "gold": gold} for example, decision, gold in rows}


def first_mistakes(predictions: Predictions, most: int) -> str:
    """The first examples that are decided wrong, as a table."""
    wrong = np.flatnonzero(~predictions.right)
    rows = [(predictions.examples[i].id, predictions.gold[i], predictions.decisions[i]) for i in wrong[:most]]
    return table((f"mistakes, of {len(wrong):,}", "gold", "predicted"), rows)


# --- the record ---


@dataclass(frozen=True)
class Task:
    """One task, from its files to its metric. What has a default may be left out.

    Examples are whatever `read` makes of a file: the rest of the program counts them and hands them back. Each has a
    string `id` that names its place in the file. Raises ValueError where the score is not among the columns.
    """

    name: str  # as --task takes it
    head: str  # which of the model's heads it needs: sequence, token, span or mlm
    #: file, split, how it is read, say -> examples; say: what takes a line about each kind of thing decided or repaired
    read: Callable[..., Sequence]
    texts: Callable[[Sequence], list[str]]  # examples -> raw texts, to learn a vocabulary from
    label_list: Callable[[Sequence], Labels]  # training examples -> labels, in the order of the logits
    #: examples, tokenizer, labels, longest input in pieces, settings -> token ids and labels
    featurize: Callable[[Sequence, Tokenizer, Labels, int, DataConfig], EncodedInputs]
    decide: Callable[[Predictions], list]  # one decision per example, to be compared with ==

    multi_label: bool = False  # whether each label is there or not by itself, instead of one of them

    # its files and its training
    splits: tuple[str, ...] = ()  # those that one file holds; empty where a file is one split
    reading: str = "encoding text_column label_column header"  # fields of DataConfig that decide what an example is
    group: Callable[[object], str] | None = None  # examples of one group stay together; None: no groups
    #: example -> what its group is a part of, if more than that: see articles_of; None: there is nothing larger
    article: Callable[[object], str] | None = None
    #: examples -> those to train on, and notes about the others
    trainable: Callable[[Sequence], tuple[Sequence, list[str]]] = lambda examples: (examples, [])
    #: examples -> what looks wrong though it could be read; None: what does so of their texts
    odd: Callable[[Sequence], list[str]] | None = None
    #: labels of the data, a teacher's -> the student's: the teacher's where they say the same in another way
    student_labels: Callable[[Labels, Labels], Labels] = lambda labels, teacher_labels: labels
    train_defaults: dict = field(default_factory=dict)  # fields of TrainConfig: where this task differs from it

    #: predictions on dev -> the threshold that the model keeps; None: it needs none
    choose_threshold: Callable[[Predictions], float] | None = None

    # its score
    gold: Callable[[object], object] = lambda example: example.label  # the right decision
    score: Callable[[Predictions], dict] = accuracy  # metrics by name
    score_name: str = "accuracy"  # the metric by which the best epoch is kept: higher is better, at most 1
    lowest_score: float = 0.0
    columns: tuple[str, ...] = ("accuracy",)  # the metrics that a comparison shows, with score_name
    tally: Callable[[Predictions], np.ndarray] = right_and_counted  # N,k: their sums make the score
    tally_score: Callable[[np.ndarray], np.ndarray] = mean_score  # sums …,k -> the metric score_name, …

    # text without labels, for distillation
    unlabelled: Callable[..., object] | None = None  # id, text, the second one of a pair -> example; None: not possible
    unlabel: Callable[[object], object] = refuse_unlabelled  # example -> the same without its label
    #: path, settings, say, name of the file in messages -> examples without label; None: each text is one
    read_unlabelled: Callable[..., Sequence] | None = None
    #: examples, so many questions about each context, their longest, tokenizer -> more examples, and notes; None: not
    #: possible
    add_questions: Callable[[Sequence, int, int, Tokenizer], tuple[Sequence, list[str]]] | None = None
    #: example, what changes its words, id of the copy -> a copy without label; None: not possible
    reworded: Callable[[object, Callable[[Words], Words], str], object] | None = None

    # tables and pages
    confidence: Callable[[Predictions], Confidence] = label_confidence  # of each thing that is decided
    sureness: Callable[[Predictions], np.ndarray] = least_sure  # how sure a model is of each example, N
    summaries: Callable[[Predictions], list[Summary]] = summaries_of_labels  # one per example
    confused: Callable[[Predictions], Counter] | None = None  # counts of (gold class, predicted class)
    prediction_records: Callable[[Predictions], dict] = records_of_labels  # what is written, by example id
    details: Callable[[dict], str] = lambda metrics: "this task has no classes"  # metrics -> a table by class
    mistakes: Callable[[Predictions, int], str] = first_mistakes  # so many wrong decisions, as a table

    def __post_init__(self):
        if self.score_name not in self.columns:
            raise ValueError(f"task {self.name}: its score_name {self.score_name!r} must be among its columns")

    @property
    def dev_split(self) -> str:
        """The split that is dev data, of a file that holds several; "" where a file is one split."""
        return "val" if self.splits else ""

    def train_config(self, **chosen) -> TrainConfig:
        """TrainConfig's defaults, those of the task, and the chosen values; UserError where one is not possible."""
        return TrainConfig(**(self.train_defaults | chosen))


# --- helpers of the tasks ---


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """N,C -> N,C in float64"""
    logits = logits.astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def confidence_of(logits: np.ndarray, right: np.ndarray, example: np.ndarray, labels: np.ndarray) -> Confidence:
    """The confidence of U decisions with logits U,C. labels: U, the number of the right class; below 0: none has it."""
    log_p = log_softmax(logits)
    loss = np.where(labels >= 0, -log_p[np.arange(len(labels)), np.maximum(labels, 0)], np.nan)
    return Confidence(np.exp(log_p.max(axis=1)), right, example, loss)


def best_probability(predictions: Predictions) -> np.ndarray:
    """The probability of the best label of each of N texts, in float64, from logits N,C."""
    return np.exp(log_softmax(predictions.logits).max(axis=1))


class Mistake(NamedTuple):
    """A wrong decision with its probability, as a table shows it: two lines."""

    probability: float
    what: str
    below: str


def surest_mistakes(wrong: list[Mistake], most: int) -> str:
    """A table of the most probable of the wrong decisions, two lines each."""
    shown = sorted(wrong, key=lambda mistake: -mistake.probability)[:most]
    rows = []
    for mistake in shown:
        what = mistake.what if len(mistake.what) <= 72 else f"{mistake.what[:71]}…"
        rows.append((what, mistake.probability))
    header, rule, *lines = table((f"surest mistakes, of {len(wrong):,}", "p"), rows).split("\n")
    pairs = zip(lines, shown, strict=True)
    return "\n".join([header, rule, *(f"{line}\n    {shorten(mistake.below, 76)}" for line, mistake in pairs)])


def text_of(task: Task, example) -> str:
    """All texts of an example, in one."""
    return "\n".join(task.texts([example]))


def kept_together(task: Task, example) -> str:
    """What examples on one side of every split share: their group; where each is its own group, their text."""
    group = task.group(example) if task.group else example.id
    return group if group != example.id else text_of(task, example)


def articles_of(task: Task, examples: Sequence) -> list[str] | None:
    """The article of each example, where all have one, it holds whole groups, and there are at least ARTICLES; else
    None.

    Paragraphs of one article resemble each other: what is held out for dev, or drawn anew to see what chance does, are
    whole articles. (Of PolicyQA, with 20 of them, a score's standard error is 1.5 times as large as by paragraph, and
    that of a difference 1.2 times.)
    """
    if task.article is None:
        return None
    found = [(hash(task.group(example)), task.article(example)) for example in examples]  # contexts need memory
    groups, articles = {group for group, _ in found}, [article for _, article in found]
    are_whole = len(set(found)) == len(groups) > len(set(articles)) >= ARTICLES
    return articles if are_whole and all(articles) else None


def has_groups(task: Task, examples: Sequence) -> bool:
    """Whether examples have groups of several, unlike sentences that are documents of their own."""
    return task.group is not None and any(task.group(example) != example.id for example in examples)


def drawn_by_text(task: Task, examples: Sequence) -> bool | None:
    """What records say of how shares were drawn: True where equal texts stay together; None by group, or as once."""
    return not has_groups(task, examples) or None


def limited(examples: Sequence, limit: str, flag: str = "--limit", seed: int = 0) -> Sequence:
    """A random part of the examples, in their order: limit is "" (all), "500" or "10%". The same part for a seed.

    Raises UserError for another limit, and where nothing would be left. flag: its name in the message.
    """
    if not limit:
        return examples
    try:
        if limit.endswith("%"):
            count = int(len(examples) * float(limit.removesuffix("%")) / 100)
        else:
            count = int(limit)
    except (ValueError, OverflowError):
        raise UserError(f"{flag} {limit}: must be a number of examples, or a percentage such as 10%") from None
    if count < 1:
        what = f"none of {len(examples)} examples (or of groups that stay together)"
        cure = f"take {-(-100 // len(examples))}% or more" if len(examples) > 1 else "take a file of more"
        raise UserError(f"{flag} {limit}: leaves {what}; {cure}")
    keep = np.random.default_rng(seed).permutation(len(examples))[:count]
    return Subset(examples, np.sort(keep))
