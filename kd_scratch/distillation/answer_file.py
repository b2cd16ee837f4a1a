"""A teacher as a file: its answers as JSON lines, one object an example, from any program or person.

    {"id": "my.csv:2", "hash": "1f0e5a…", "probabilities": {"refund": 0.9, "card": 0.1}}
    {"text": "where is it?", "probabilities": {"refund": 0.9}, "rest": 0.1}
    {"id": "my.csv:3", "label": "card", "confidence": 0.8}
    {"id": "my.csv:4", "labels": ["toxic", "threat"], "confidence": 0.9}
    {"id": "train.txt:1", "words": [{"label": "O"}, {"probabilities": {"O": 0.2}, "rest": 0.8}]}
    {"id": "q1", "spans": [{"text": "90 days", "start": 17, "probability": 1}]}

What the fields mean, and what is refused, is in this chapter's README.
"""

import hashlib
import json
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from kd_scratch.common.console import progress, say, shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256_of_file, write_atomically
from kd_scratch.config import DataConfig
from kd_scratch.data.json_lines import json_rows
from kd_scratch.distillation.units import LOWEST
from kd_scratch.evaluation.evaluate import LoadedModel, name_labels
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.tasks import Predictions, Task
from kd_scratch.tasks.base import log_softmax, text_of
from kd_scratch.tasks.feature_cache import chunks
from kd_scratch.tasks.label_cells import one_label
from kd_scratch.tasks.multi_label import sigmoid
from kd_scratch.tasks.question_answering import candidates

TOLERANCE = 0.01  # by which probabilities may miss a sum of 1: those that are rounded do
SPANS = 20  # answers that are written for each question, unless another number is asked for
SUREST = 1e-9  # of several labels: no probability is nearer to 0 or 1
#: Fields that look like scores of other names than ours. A label beside them may be gold, not predicted.
SCORES = re.compile(r"scores|(.*_)?(logits?|log_?probs?|probas?|probs?|probabilit(y|ies)|softmax|confidences)", re.I)
PREDICTED = re.compile(r"(.*_)?pred(s|icted|ictions?)?(_(label|class|intent|tag)s?)?", re.I)
FIRST = 64  # examples that are answered before the others, to know how large the file will be


def text_hash(text: str) -> str:
    """16 hexadecimal digits of a text's SHA-256, by which its answer is found."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def example_hash(task: Task, example) -> str:
    """That of an example's text; squad: context, line break, question; conll: words and blanks between."""
    return text_hash(text_of(task, example))


# --- writing ---


def write_answers(
    loaded: LoadedModel, task: Task, examples: Sequence, data: DataConfig, device: torch.device, top: int, output: Path
) -> None:
    """Write the file that holds a model's answers to the examples.

    top: how many labels (or spans) an answer names; 0: all labels, or 20 spans.
    """
    name_labels(loaded, task, examples)
    first = b"".join(answer_lines(loaded, task, examples[:FIRST], data, device, top))
    say(f"about {len(first) / min(len(examples), FIRST) * len(examples) / 1e6:,.1f} MB for {output}")
    with progress(examples, desc="answers", unit="ex") as bar:
        parts = (answer_lines(loaded, task, chunk, data, device, top) for chunk in chunks(bar, task))
        write_atomically(output, (line for lines in parts for line in lines))


def answer_lines(
    loaded: LoadedModel, task: Task, examples: Sequence, data: DataConfig, device: torch.device, top: int
) -> Iterator[bytes]:
    """The lines for some examples, whose labels are not looked at."""
    labels = loaded.model.config.labels
    features = task.featurize(list(map(task.unlabel, examples)), loaded.tokenizer, labels, loaded.max_length, data)
    predictions = Predictions(task, examples, features, compute_logits(loaded.model, features, device), labels, data)
    for example, answer in zip(examples, WRITERS[task.head](predictions, top), strict=True):
        row = {"id": example.id, "hash": example_hash(task, example), **answer}
        yield (json.dumps(row, ensure_ascii=False) + "\n").encode()


def answers_for_texts(predictions: Predictions, top: int) -> Iterator[dict]:
    """The distribution of each text over the labels, or of several the probability of each."""
    multi_label, logits = predictions.task.multi_label, predictions.logits
    rows = sigmoid(logits) if multi_label else np.exp(log_softmax(logits))
    return (distribution(p, predictions.labels, top, near_1 if multi_label else rounded) for p in rows)


def answers_for_words(predictions: Predictions, top: int) -> Iterator[dict]:
    """The distributions of each sentence's words, at their first pieces."""
    features = predictions.features
    words = np.exp(log_softmax(predictions.logits[features.word_at]))
    for start, end in zip(features.word_starts[:-1], features.word_starts[1:], strict=True):
        yield {"words": [distribution(p, predictions.labels, top) for p in words[start:end]]}


def answers_for_questions(predictions: Predictions, top: int) -> Iterator[dict]:
    """The best spans for each question, and "no answer" (an empty text), as probable as they are among all."""
    examples, windows, longest = predictions.examples, predictions.features, predictions.data.answer_length
    for best, none in candidates(examples, windows, predictions.logits, longest, top or SPANS):
        spans = [{"text": a.text, "start": a.start, "probability": rounded(a.probability)} for a in (*best, none)]
        yield {"spans": spans, "rest": rounded(1 - sum(span["probability"] for span in spans))}


WRITERS = {"sequence": answers_for_texts, "token": answers_for_words, "span": answers_for_questions}


def rounded(p: float) -> float:
    """A probability with nine digits: more than a float32 logit has."""
    return float(f"{max(0.0, p):.9g}")


def near_1(p: float) -> float:
    """The same where 1 − p matters, too: that has nine digits where it is small."""
    return rounded(p) if p < 0.5 else 1 - rounded(1 - p)


def distribution(p: np.ndarray, labels: Sequence[str], top: int, digits: Callable[[float], float] = rounded) -> dict:
    """One distribution, C, as JSON can hold it: all labels, or the `top` most probable and the sum of the rest."""
    if not 0 < top < len(p):
        return {"probabilities": dict(zip(labels, map(digits, p), strict=True))}
    named = {labels[i]: digits(p[i]) for i in np.argsort(-p, kind="stable")[:top]}
    return {"probabilities": named, "rest": rounded(p.sum() - sum(named.values()))}


# --- reading ---


class Span(NamedTuple):
    """A text of the context that may be the answer ("": there is none)."""

    text: str
    start: int | None  # code points; None: wherever the text stands
    probability: float


class Answer(NamedTuple):
    """A line. value: log p (sequence: C, token: words,C), or (span) its spans and the rest's mass."""

    line: int
    id: str | None
    value: np.ndarray | tuple[list[Span], float]


class AnswersFile:
    """The answers in a file, all checked when it is opened, each parsed when asked for. 50 bytes a line.

    labels: those of the student. Raises UserError with the first line that cannot be used.
    """

    def __init__(self, path: Path, task: Task, labels: Sequence[str]):
        self.path, self.sha256 = path, sha256_of_file(path)
        self.reader = read_multi_label if task.multi_label else READERS[task.head]
        self.labels = {label: i for i, label in enumerate(labels)}
        self.keys: array | None = array("Q")  # 64 bits of the hashes of each line's id and text; 0: not given
        self.without = 0  # lines
        self.rows = json_rows(path, self.parse)
        if self.without:
            say(f"{path}: lines without an answer (it is null, or an error), left out: {self.without:,}")
        self.ids, self.texts = np.array(self.keys, np.uint64).reshape(-1, 2).T.copy()
        self.keys = None
        if not len(self.ids):
            raise UserError(f"{path}: holds no answers; give each text a line")
        self.order = {"ids": np.argsort(self.ids, kind="stable"), "texts": np.argsort(self.texts, kind="stable")}
        order = np.lexsort((self.texts, self.ids))
        both = np.stack([self.ids, self.texts])[:, order]
        one_id, one_text = both[:, 1:] == both[:, :-1]
        any_text = (both[1, :-1] == 0) & (both[0, 1:] > 0)  # the first of the two is about whatever has its id
        for i in np.flatnonzero(one_id & (one_text | any_text)):
            first, second = self.rows[order[i]], self.rows[order[i + 1]]
            if not same_answers(first.value, second.value):
                what = f"contradicts line {first.line}, which is about the same text; keep one of them"
                raise UserError(f"{path}: line {second.line}: {what}")

    def parse(self, line: int, row: dict) -> Answer | None:
        """The answer in a line; None: it has none. Its keys are kept when the file is read for the first time."""
        if is_unanswered(row):
            self.without += 1
            return None
        row = {key: value for key, value in row.items() if value is not None or key == "prediction"}
        place, name = f"{self.path}: line {line}", row.get("id")
        name = str(name) if type(name) is int else name
        if not isinstance(name, str | None):
            raise UserError(f'{place}: "id" must be a text or a whole number; correct it, or leave it out')
        text = text_hash(row["text"]) if isinstance(row.get("text"), str) else str(row.get("hash") or "")[:16].lower()
        if not re.fullmatch("[0-9a-f]{16}" + "|" * isinstance(name, str), text):
            what = 'is about no text; give its "id", its "text", or as "hash" 16 digits of its SHA-256'
            raise UserError(f"{place}: {what}")
        value = self.reader(row, self.labels, place)
        if self.keys is not None:
            self.keys.extend(int(digits, 16) or 1 if digits else 0 for digits in (name and text_hash(name), text))
        return Answer(line, name, value)

    def find(self, ids: Sequence[str], hashes: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The line (from 0) that answers each of E examples, -1: none; and lines of their ids with other texts."""
        texts = np.array([int(digits, 16) for digits in hashes], np.uint64)
        by_id = self.lookup("ids", np.array([int(text_hash(name), 16) for name in ids], np.uint64))
        fits = (by_id >= 0) & ((self.texts[by_id] == 0) | (self.texts[by_id] == texts))
        found = np.where(fits, by_id, self.lookup("texts", texts))
        return found, by_id[(by_id >= 0) & (found < 0)]

    def lookup(self, name: str, keys: np.ndarray) -> np.ndarray:
        """The first line that has each of these keys, or -1."""
        known, order = getattr(self, name), self.order[name]
        at = order[np.minimum(np.searchsorted(known, keys, sorter=order), len(known) - 1)]
        return np.where(known[at] == keys, at, -1)


def same_answers(value, other) -> bool:
    """Whether the values of two answers are equal."""
    return np.array_equal(value, other) if isinstance(value, np.ndarray) else value == other


def checked(named: dict, rest, place: str, most: int = 1) -> tuple[list[float], float]:
    """The probabilities by name, and the rest's sum (None: 0), at most `most`. UserError where one is none."""
    rest = 0 if rest is None else rest
    for name, p, largest in (*((name, p, 1) for name, p in named.items()), ("rest", rest, most)):
        if type(p) not in (int, float) or not -1e-6 <= p <= largest + TOLERANCE:  # NaN is in no interval
            what = f"the probability of {shorten(name, 40)!r} is {shorten(json.dumps(p), 30)}"
            raise UserError(f"{place}: {what}; give a number from 0 to {largest}")
    return [max(0.0, p) for p in named.values()], max(0.0, rest)


def masses(named: dict, rest, place: str) -> tuple[list[float], float]:
    """The probabilities by name and the rest's (None: 0), which together sum to 1; UserError where not."""
    values, rest = checked(named, rest, place)
    if abs(sum(values) + rest - 1) > TOLERANCE:
        what = f"the probabilities and the rest sum to {sum(values) + rest:.4g} and not to 1"
        raise UserError(f'{place}: {what}; correct them, or give what is missing as "rest"')
    return values, rest


def log(p: np.ndarray) -> np.ndarray:
    """log p in float32; where p is 0, LOWEST, which is finite."""
    return np.where(p > 0, np.log(np.maximum(p, 1e-300)), LOWEST).astype(np.float32)


def by_label(row: dict, labels: dict[str, int], place: str) -> tuple[dict, object]:
    """The probabilities of a line by label, and its rest. UserError where they are not those of these labels."""
    named, rest = row.get("probabilities"), row.get("rest")
    if not isinstance(named, dict):
        what = 'has neither "probabilities" nor a "label" with "confidence"; give one of them'
        raise UserError(f"{place}: {what}")
    if unknown := named.keys() - labels.keys():
        known = ", ".join(shorten(name, 30) for name in list(labels)[:8]) + ", …" * (len(labels) > 8)
        what = f"{shorten(min(unknown), 40)!r} is not one of the {len(labels)} labels of --train: {known}"
        raise UserError(f"{place}: {what}; correct its name, or count it to the rest")
    if rest is None and (lacking := labels.keys() - named.keys()):
        what = f"lacks the label {shorten(min(lacking), 40)!r}"
        raise UserError(f'{place}: {what}; add it, or "rest": 0 for all that are not named')
    return named, rest


def is_unanswered(row: dict) -> bool:
    """Whether a line has no answer: all that would hold one is null, or `predict` wrote an error there."""
    names = ("prediction", "probabilities", "confidence", "words", "spans")
    held = [row[name] for name in names if name in row]
    if not held and isinstance(row.get("error"), str) and row["error"]:
        return True
    held = held or [row[name] for name in ("label", "labels") if name in row]  # beside null a label is gold
    scores = [row.get("score"), row.get("scores")]
    return bool(held) and all(value is None for value in held + scores)


def check_scores(row: dict, place: str) -> None:
    """UserError where scores stand under a name that is not read, so that a label would count as sure; or where a
    prediction does, so that the gold label would be taken for it."""
    unread = [] if row.keys() & {"probabilities", "confidence"} else [SCORES]
    unread += [] if row.keys() & {"probabilities", "prediction"} else [PREDICTED]
    if key := next((key for key in row for pattern in unread if pattern.fullmatch(key)), None):
        cure = 'call them "prediction" and "confidence", or "probabilities" of each label, or leave them out'
        raise UserError(f"{place}: scores under {shorten(key, 30)!r} are not read; {cure}")


def from_pipeline(row: dict) -> dict:
    """A line in our own names, where it has those of transformers' pipelines: label and score, or labels and scores."""
    scores, labels = row.get("scores"), row.get("labels")
    if isinstance(scores, list) and isinstance(labels, list) and len(scores) == len(labels):
        return {"probabilities": dict(zip(map(str, labels), scores, strict=True))} | row
    return row if row.get("score") is None else {"confidence": row["score"]} | row


def read_distribution(row: dict, labels: dict[str, int], place: str) -> np.ndarray:
    """log p of a distribution over the labels, C. The rest is spread evenly over those without a name."""
    row = from_pipeline(row)
    check_scores(row, place)
    confidence = row.get("confidence", 1)
    label = row.get("prediction", row.get("label"))  # what `predict --file` writes has the file's own label beside it
    if "probabilities" not in row and label is not None and isinstance(confidence, int | float):
        row = {"probabilities": {one_label(label, "label", place): confidence}, "rest": max(0, 1 - confidence)}
    named, rest = by_label(row, labels, place)
    values, rest = masses(named, rest if len(named) < len(labels) else 0, place)
    p = np.full(len(labels), rest / max(1, len(labels) - len(named)))
    p[[labels[name] for name in named]] = values
    return log(p / p.sum())


def read_multi_label(row: dict, labels: dict[str, int], place: str) -> np.ndarray:
    """log(p / (1 − p)) of each of several labels, C: the logit whose sigmoid is p. The rest is the sum of those
    without a name, evenly spread. Of a list, each label is so sure (confidence), and any other so unlikely."""
    row = from_pipeline(row)
    check_scores(row, place)
    sure, found = row.get("confidence", 1), row.get("prediction", row.get("labels", row.get("label")))
    if "probabilities" not in row and isinstance(found, list) and isinstance(sure, int | float):
        named = {one_label(label, "labels", place): sure for label in found}
        row = {"probabilities": named, "rest": (1 - sure) * (len(labels) - len(named))}
    named, rest = by_label(row, labels, place)
    others = len(labels) - len(named)
    values, rest = checked(named, rest if others else 0, place, others)
    p = np.full(len(labels), rest / max(1, others))
    p[[labels[name] for name in named]] = values
    p = np.clip(p, SUREST, 1 - SUREST)  # a 0 may have been rounded: one teacher must not overrule all others
    return np.log(p) - np.log1p(-p)


def read_words(row: dict, labels: dict[str, int], place: str) -> np.ndarray:
    """log p of one distribution a word: words,C"""
    words = row.get("words")
    if not isinstance(words, list) or not words or not all(isinstance(word, dict) for word in words):
        raise UserError(f'{place}: "words" is no list of objects; give one with "probabilities" or "label" a word')
    return np.stack([read_distribution(word, labels, f"{place}: word {i}") for i, word in enumerate(words, 1)])


def read_spans(row: dict, labels: dict[str, int], place: str) -> tuple[list[Span], float]:
    """The spans of a line, and the rest's mass."""
    spans = row.get("spans")
    if not isinstance(spans, list) or not all(isinstance(span, dict) for span in spans):
        raise UserError(f'{place}: "spans" is no list of objects; give one with "text" and "probability" an answer')
    for span in spans:
        start = span.get("start", 0) or 0
        if not isinstance(span.get("text"), str) or not isinstance(start, int) or start < 0:
            raise UserError(f'{place}: a span has no "text", or its "start" is no whole number from 0; correct it')
    named = {f"span {i}": span.get("probability") for i, span in enumerate(spans, 1)}
    p, rest = masses(named, row.get("rest"), place)
    return [Span(span["text"], span.get("start"), mass) for span, mass in zip(spans, p, strict=True)], rest


READERS = {"sequence": read_distribution, "token": read_words, "span": read_spans}
