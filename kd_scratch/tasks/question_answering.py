"""Extractive question answering, the whole way: SQuAD JSON -> windows -> start and end logits -> answers -> EM and F1.

An answer is a span of the context (Rajpurkar et al. 2016), or nothing where the file is of version 2.0, in which some
questions have none (Rajpurkar et al. 2018). A context too long for one input is read through overlapping windows:

    [CLS] how long is it ? [SEP] the bridge is 90 metres long . it stands in [SEP]
    [CLS] how long is it ? [SEP]              long . it stands in the old town [SEP]

Each position of the context may start or end an answer, and position 0, [CLS], stands for "no answer in this window".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from kd_scratch.common.console import shorten, table
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_length, read_json
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import IGNORE, UNLABELLED, EncodedInputs
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.base import Predictions, Task, mean_score, surest_mistakes
from kd_scratch.tasks.spans import best_spans, log_sum_exp, merge, piece_spans, span_scores, window_bounds
from kd_scratch.tasks.squad_metric import official_scores, question_scores, squad_metrics

CHUNK = 1000  # examples that are tokenized together: enough for all cores, and no more of them in memory at once


@dataclass(frozen=True)
class Example:
    """One question about one context, with its gold answers (none: it cannot be answered)."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...] = ()
    start: int | None = None  # code point at which the first answer begins; None: no answer, or not to be found
    moved: bool = False  # the file's answer_start was wrong; `start` is where the text occurs, exactly once
    may_be_unanswerable: bool = False  # the file is of version 2.0
    labelled: bool = True  # False: nobody knows the answer, for soft targets


# --- file -> examples ---


def read_squad(path: Path, split: str, data: DataConfig) -> list[Example]:
    """{"data": [{"paragraphs": [{"context", "qas": [{"id", "question", "answers": [{"text", "answer_start"}]}]}]}]}.

    Keys beyond these are ignored, but for "is_impossible", which tells version 2.0: where it is true, "answers" may be
    missing. (Whether a question has an answer is told by "answers", as in the official script.) UserError names the
    odd place.
    """
    raw = read_json(path)
    examples, impossible, ids = [], False, {}
    for article, at in _items(raw, "data", str(path), ""):
        for paragraph, at_paragraph in _items(article, "paragraphs", str(path), at):
            context = _text(paragraph, "context", str(path), at_paragraph)
            check_length(context, f"{path}: {at_paragraph}.context")
            for qa, at_qa in _items(paragraph, "qas", str(path), at_paragraph):
                answers = []
                if qa.get("is_impossible") is True:
                    qa.setdefault("answers", [])
                for answer, at_answer in _items(qa, "answers", str(path), at_qa):
                    start = answer.get("answer_start")
                    if type(start) is not int or start < 0:
                        raise UserError(f"{path}: {at_answer}.answer_start: must be a number, 0 or more")
                    answers.append((_text(answer, "text", str(path), at_answer), start))
                impossible |= "is_impossible" in qa or not answers
                start, moved = _locate(context, *answers[0]) if answers else (None, False)
                key, question = (_text(qa, name, str(path), at_qa) for name in ("id", "question"))
                if key in ids:
                    raise UserError(f"{path}: {at_qa}.id: {key[:60]!r} is the id of {ids[key]} too; each needs its own")
                ids[key] = at_qa
                check_length(question, f"{path}: {at_qa}.question")
                examples.append(Example(key, question, context, tuple(text for text, _ in answers), start, moved))
    return [replace(example, may_be_unanswerable=True) for example in examples] if impossible else examples


def _items(parent: dict, key: str, path: str, place: str) -> Iterator[tuple[dict, str]]:
    """The objects in the list under a key, each with its place in the file, as in data[0].paragraphs[3]."""
    place = f"{place}.{key}".lstrip(".")
    items = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(items, list):
        raise UserError(f"{path}: is not SQuAD's JSON: {place} must be a list")
    for i, item in enumerate(items):
        if not isinstance(item, dict):
            raise UserError(f"{path}: is not SQuAD's JSON: {place}[{i}] must be an object")
        yield item, f"{place}[{i}]"


def _text(parent: dict, key: str, path: str, place: str) -> str:
    if not isinstance(parent.get(key), str):
        raise UserError(f"{path}: is not SQuAD's JSON: {place}.{key} must be a string")
    return parent[key]


def _locate(context: str, answer: str, start: int) -> tuple[int | None, bool]:
    """Where an answer begins, and whether that is not where the file says. None: nowhere, or at several places."""
    if context[start : start + len(answer)] == answer:
        return (start, False) if answer else (None, False)
    first = context.find(answer)
    unique = first >= 0 and context.find(answer, first + 1) < 0
    return (first, True) if unique else (None, False)


def trainable(examples: Sequence[Example]) -> tuple[list[Example], list[str]]:
    """The examples whose answer is where the file says, or has been found; and what to say about the others."""
    keep = [example for example in examples if example.start is not None or not example.answers]
    lost = [example.id for example in examples if example.start is None and example.answers]
    moved = sum(example.moved for example in keep)
    notes = []
    if moved:
        notes.append(f"wrong answer_start, repaired: {moved:,} (the answer occurs exactly once in its context)")
    if lost:
        notes.append(
            f"questions left out of training: {len(lost):,}, their answer is not at answer_start and not at exactly "
            f"one other place: {', '.join(lost[:5])}{', …' if len(lost) > 5 else ''}"
        )
    return keep, notes


# --- examples -> windows ---


@dataclass
class EncodedWindows(EncodedInputs):
    """Windows over contexts, N of them; example i may have several. Piece j of the context in window w stands at
    position context_at[w] + j, and covers the code points piece_spans[first_piece[w] + j] of the context."""

    example: np.ndarray = field(kw_only=True)  # N: which example a window belongs to, rising
    context_at: np.ndarray = field(kw_only=True)  # N
    first_piece: np.ndarray = field(kw_only=True)  # N
    piece_spans: np.ndarray = field(kw_only=True)  # P,2 int32: start and end, for all pieces of all distinct contexts


def featurize(
    examples: Sequence[Example], tokenizer: Tokenizer, labels: tuple[str, ...], max_length: int, data: DataConfig
) -> EncodedWindows:
    """[CLS] question [SEP] part of the context [SEP] for each window; a question is cut to --question-length pieces.

    Every distinct context is tokenized once, however many questions share it, and CHUNK examples at a time. Where no
    window holds the whole answer, there is nothing to learn (IGNORE), rather than that there is no answer.
    """
    sep = tokenizer.encode([""])[0].ids[-1]
    contexts: dict[str, tuple[list[int], np.ndarray, int]] = {}  # text -> token ids, spans, place in piece_spans
    piece_count, rows = 0, []  # one row per window: tokens, label, example, context_at, first_piece
    for chunk_start in range(0, len(examples), CHUNK):
        chunk = examples[chunk_start : chunk_start + CHUNK]
        new = list(dict.fromkeys(example.context for example in chunk if example.context not in contexts))
        for text, encoding in zip(new, tokenizer.encode(new, offsets=True), strict=True):
            spans = piece_spans(text, encoding.offsets[1:-1])
            contexts[text] = np.array(encoding.ids[1:-1], np.int32), spans, piece_count
            piece_count += len(spans)
        questions = tokenizer.encode([example.question for example in chunk], max_length=data.question_length + 2)
        for i, (example, question) in enumerate(zip(chunk, questions, strict=True), chunk_start):
            head = question.ids  # [CLS] question [SEP]
            tokens, spans, place = contexts[example.context]
            room = max_length - len(head) - 1
            if room < 1:
                raise UserError(
                    f"{example.id}: --max-length {max_length} leaves no room for the context beside a question of "
                    f"{len(head) - 2} pieces; choose a larger one, or a smaller --question-length"
                )
            bounds = window_bounds(len(tokens), room, data.overlap)
            labels_ = label_windows(answer_pieces(example, spans), bounds, len(head))
            if not example.labelled:
                labels_ = [(UNLABELLED, UNLABELLED)] * len(bounds)
            for (start, end), label in zip(bounds, labels_, strict=True):
                row = np.concatenate([head, tokens[start:end], [sep]], dtype=np.int32)
                rows.append((row, label, i, len(head), place + start))
    starts = np.cumsum([0] + [len(row[0]) for row in rows], dtype=np.int64)
    token_types, allowed = np.zeros(starts[-1], np.uint8), np.zeros(starts[-1], bool)
    for (_, _, _, context_at, _), start, end in zip(rows, starts[:-1], starts[1:], strict=True):
        token_types[start + context_at : end] = 1
        allowed[start + context_at : end - 1] = allowed[start] = True
    return EncodedWindows(
        head="span",
        ids=[examples[row[2]].id for row in rows],
        tokens=np.concatenate([row[0] for row in rows]),
        starts=starts,
        labels=np.array([row[1] for row in rows], np.int64),
        token_types=token_types,
        allowed=allowed,
        example=np.array([row[2] for row in rows]),
        context_at=np.array([row[3] for row in rows]),
        first_piece=np.array([row[4] for row in rows]),
        piece_spans=np.concatenate([spans for _, spans, _ in contexts.values()]),
    )


def answer_pieces(example: Example, spans: np.ndarray) -> tuple[int, int] | None:
    """First and last of the context's pieces that the first gold answer touches; (-1, -1): there is no answer.

    None where there is one, but no piece of it (its place is unknown, or the tokenizer drops all its characters).
    """
    if not example.answers:
        return -1, -1
    if example.start is None:
        return None
    first = int(np.searchsorted(spans[:, 1], example.start, side="right"))  # the first piece that ends behind its start
    last = int(np.searchsorted(spans[:, 0], example.start + len(example.answers[0]))) - 1  # begins before its end
    return (first, last) if first <= last else None


def label_windows(
    answer: tuple[int, int] | None, bounds: list[tuple[int, int]], context_at: int
) -> list[tuple[int, int]]:
    """For each window, the positions in it at which the answer starts and ends; 0, 0 where it is not whole in there."""
    positions = []
    for start, end in bounds:
        whole = answer is not None and start <= answer[0] and answer[1] < end
        positions.append((answer[0] - start + context_at, answer[1] - start + context_at) if whole else (0, 0))
    unanswerable = answer == (-1, -1)
    return positions if unanswerable or any(start for start, _ in positions) else [(IGNORE, IGNORE)] * len(bounds)


# --- logits -> answers ---


@dataclass(frozen=True)
class Answer:
    """What a model answers; two are equal where their texts are. An empty text: the question has no answer."""

    text: str
    start: int = field(compare=False)  # code points of the context
    end: int = field(compare=False)
    score: float = field(compare=False)  # start logit + end logit
    probability: float = field(compare=False)  # among all legal spans of all windows, and "no answer"
    no_answer: float = field(compare=False)  # how probable "no answer" is, against the best span alone
    best_span: str = field(compare=False)  # the best text, whether or not "no answer" is better


def candidates(
    examples: Sequence[Example], windows: EncodedWindows, logits: np.ndarray, longest: int, most: int
) -> list[tuple[list[Answer], Answer]]:
    """For each example its `most` best answers, best first (none where the context is empty), and "no answer".

    Over several windows, a span's score is its best one, and the score of "no answer" is the *lowest*: there is none
    only if no window has any.
    """
    results = []
    longest = min(longest, int(windows.lengths.max(initial=1)))  # no span is longer than its window
    firsts = np.searchsorted(windows.example, np.arange(len(examples) + 1))  # example i has windows firsts[i]…
    for i, example in enumerate(examples):
        nothing, base = np.inf, windows.first_piece[firsts[i]]
        scores = np.empty((0, 1))  # of all spans of the context: pieces, lengths
        for w in range(firsts[i], firsts[i + 1]):
            begin, end = windows.starts[w] + windows.context_at[w], windows.starts[w + 1] - 1
            nothing = min(nothing, float(logits[windows.starts[w]].astype(np.float64).sum()))
            if begin == end:
                continue
            first, here = windows.first_piece[w] - base, span_scores(logits[begin:end], longest)
            scores = here if first == 0 else merge(scores, here, first)
        spans = windows.piece_spans[base:]
        best = [(int(spans[a, 0]), int(spans[b, 1]), s) for a, b, s in best_spans(scores, most)] if len(scores) else []
        total = np.logaddexp(log_sum_exp(scores), nothing)
        against = float(np.exp(nothing - np.logaddexp(nothing, best[0][2]))) if best else 1.0
        answers = []
        for start, end, score in [*best, (0, 0, nothing)]:
            text, probability = example.context[start:end], float(np.exp(score - total))
            best_span = answers[0].text if answers else text
            answers.append(Answer(text, start, end, score, probability, against, best_span))
        results.append((answers[:-1], answers[-1]))
    return results


def decide(predictions: Predictions) -> list[Answer]:
    """The best answer to each question; none where the file is of version 2.0, and that is probable enough."""
    decisions = []
    found = candidates(
        predictions.examples, predictions.features, predictions.logits, predictions.data.answer_length, 1
    )
    for example, (answers, nothing) in zip(predictions.examples, found, strict=True):
        says_none = example.may_be_unanswerable and nothing.no_answer > predictions.data.null_threshold
        decisions.append(nothing if says_none or not answers else answers[0])
    return decisions


# --- answers -> metrics ---


def is_version2(examples: Sequence[Example]) -> bool:
    """Whether the rules of version 2.0 hold."""
    return any(example.may_be_unanswerable for example in examples)


def score(predictions: Predictions) -> dict:
    """The official metrics; for version 2.0 also what a --null-threshold could reach (choose it on dev data); and how
    many questions have a gold answer that is longer than --answer-length, so that no decoding can be right."""
    questions = [(example.id, example.answers) for example in predictions.examples]
    ids = [example.id for example in predictions.examples]
    spans = {key: (answer.best_span, answer.no_answer) for key, answer in zip(ids, predictions.decisions, strict=True)}
    metrics = squad_metrics(
        questions, prediction_records(predictions), spans if is_version2(predictions.examples) else None
    )
    windows = predictions.features
    too_long = windows.labels[:, 1] - windows.labels[:, 0] >= predictions.data.answer_length
    return metrics | {"gold_beyond_answer_length": len(set(windows.example[too_long].tolist()))}


def scored(predictions: Predictions) -> list[tuple[int, float, float]]:
    """(number of the question, exact match, F1) of each question that counts."""
    questions = [(example.id, example.answers) for example in predictions.examples]
    return official_scores(questions, prediction_records(predictions), is_version2(predictions.examples))


def tally(predictions: Predictions) -> np.ndarray:
    """F1 of each question, and whether it counts: N,2"""
    points = np.zeros((len(predictions.examples), 2))
    for i, _, overlap in scored(predictions):
        points[i] = overlap, 1
    return points


def confidence(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Of each question that counts, the probability of its answer, and whether it matches a gold one exactly."""
    rows = scored(predictions)
    return np.array([predictions.decisions[i].probability for i, *_ in rows]), np.array(
        [exact > 0 for _, exact, _ in rows]
    )


def summaries(predictions: Predictions) -> list[tuple[str, str, str, float]]:
    """Each question, its (first) answer, the model's, and the F1 of that."""
    rows = zip(predictions.examples, predictions.decisions, tally(predictions)[:, 0].tolist(), strict=True)
    return [(e.question, "".join(e.answers[:1]) or "(none)", said.text or "(none)", f1) for e, said, f1 in rows]


def prediction_records(predictions: Predictions) -> dict[str, str]:
    """The answers by id, as the official scripts read them."""
    return {
        example.id: answer.text for example, answer in zip(predictions.examples, predictions.decisions, strict=True)
    }


# --- what a person sees ---


def details(metrics: dict) -> str:
    """A table by the length of the shortest gold answer."""
    rows = [(name, *row.values()) for name, row in metrics["per_class"].items()]
    return table(("by gold answer", "exact match", "F1", "questions"), rows)


def mistakes(predictions: Predictions, most: int = 5) -> str:
    """The answers without a word in common with any gold answer of which the model is surest."""
    version2, wrong = is_version2(predictions.examples), []
    for example, answer in zip(predictions.examples, predictions.decisions, strict=True):
        if max(question_scores(example.answers, answer.text, version2)) == 0:
            gold = example.answers[0] if example.answers else ""
            below = f"said {shorten(answer.text, 30)!r}, gold {shorten(gold, 30)!r}"
            wrong.append((answer.probability, f"{example.id}  {shorten(example.question, 60)}", below))
    return surest_mistakes(wrong, most)


TASK = Task(
    name="squad",
    head="span",
    splits=(),
    score_name="f1",
    columns=("exact_match", "f1"),
    read=read_squad,
    texts=lambda examples: [*dict.fromkeys(e.context for e in examples), *(e.question for e in examples)],
    group=lambda example: example.context,
    trainable=trainable,
    unlabelled=None,
    label_list=lambda examples: (),
    unlabel=lambda example: replace(example, answers=(), start=None, labelled=False),
    reworded=None,
    featurize=featurize,
    decide=decide,
    score=score,
    tally=tally,
    tally_score=mean_score,
    confidence=confidence,
    summaries=summaries,
    confused=None,
    prediction_records=prediction_records,
    details=details,
    mistakes=mistakes,
)
