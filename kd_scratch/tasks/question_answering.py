"""Extractive question answering: questions -> context windows -> start and end logits -> answers -> EM and F1.

An answer is a span of the context, or nothing where the file is of version 2.0 (its format: squad_file.py). A context
too long for one input is read through overlapping windows:

    [CLS] how long is it ? [SEP] the bridge is 90 metres long . it stands in [SEP]
    [CLS] how long is it ? [SEP]              long . it stands in the old town [SEP]

Each position of the context may start or end an answer, and position 0, [CLS], stands for "no answer in this window".
Every window may hold the answer, and all are compared. (Of the sentence windows of token_classification.py, each word
has one that decides.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from kd_scratch.common.console import shorten, table
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import IGNORE, UNLABELLED, EncodedInputs
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.base import Confidence, Mistake, Predictions, Summary, Task, surest_mistakes
from kd_scratch.tasks.cloze import add_questions
from kd_scratch.tasks.file_checks import odd_questions
from kd_scratch.tasks.spans import best_spans, change_words, context_windows, merge, piece_spans, span_scores
from kd_scratch.tasks.squad_file import Example, read_squad, read_without_answers, trainable
from kd_scratch.tasks.squad_metric import QuestionScore, official_scores, question_scores, squad_metrics

CHUNK = 1000  # examples that are tokenized together: enough for all cores, and no more of them in memory at once


# --- examples -> context windows ---


@dataclass
class EncodedWindows(EncodedInputs):
    """Context windows, N of them; example i may have several. Piece j of the context in window n stands at position
    context_at[n] + j, and covers the code points piece_spans[first_piece[n] + j] of the context."""

    example: np.ndarray = field(kw_only=True)  # N: which example a window belongs to, rising
    context_at: np.ndarray = field(kw_only=True)  # N
    first_piece: np.ndarray = field(kw_only=True)  # N
    piece_spans: np.ndarray = field(kw_only=True)  # P,2 int32: start and end, for all pieces of all distinct contexts


class EncodedContext(NamedTuple):
    """One distinct context as word pieces."""

    tokens: np.ndarray  # P int32
    spans: np.ndarray  # P,2 int32: code points
    first_piece: int  # how many pieces the contexts before it have


class Window(NamedTuple):
    """One input: a question, and a part of its context."""

    tokens: np.ndarray  # S
    label: tuple[int, int]  # positions at which the answer starts and ends
    example: int
    context_at: int
    first_piece: int


def featurize(
    examples: Sequence[Example], tokenizer: Tokenizer, labels: tuple[str, ...], max_length: int, data: DataConfig
) -> EncodedWindows:
    """[CLS] question [SEP] part of the context [SEP] for each window; a question is cut to --question-length pieces.

    Every distinct context is tokenized once, however many questions share it, and CHUNK examples at a time. Where no
    window holds the whole answer, there is nothing to learn (IGNORE), rather than that there is no answer.
    Raises UserError where a question leaves no room for the context.
    """
    sep = tokenizer.encode([""])[0].ids[-1]
    contexts: dict[str, EncodedContext] = {}
    windows: list[Window] = []
    for chunk_start in range(0, len(examples), CHUNK):
        chunk = examples[chunk_start : chunk_start + CHUNK]
        add_contexts(contexts, [example.context for example in chunk], tokenizer)
        questions = tokenizer.encode([example.question for example in chunk], max_length=data.question_length + 2)
        for i, (example, question) in enumerate(zip(chunk, questions, strict=True), chunk_start):
            context = contexts[example.context]
            head = question.ids  # [CLS] question [SEP]
            room = max_length - len(head) - 1
            if room < 1:
                what = f"inputs of {max_length} pieces leave no room for the context"
                cure = "choose a smaller --question-length, or where there is one, a larger --max-length"
                raise UserError(f"{example.id}: {what} beside a question of {len(head) - 2}; {cure}")
            bounds = context_windows(len(context.tokens), room, data.overlap)
            if example.labelled:
                positions = label_windows(answer_pieces(example, context.spans), bounds, len(head))
            else:
                positions = [(UNLABELLED, UNLABELLED)] * len(bounds)
            for (start, end), label in zip(bounds, positions, strict=True):
                tokens = np.concatenate([head, context.tokens[start:end], [sep]], dtype=np.int32)
                windows.append(Window(tokens, label, i, len(head), context.first_piece + start))
    return store(windows, [example.id for example in examples], contexts, int(tokenizer.has_token_types))


def add_contexts(contexts: dict[str, EncodedContext], texts: Sequence[str], tokenizer: Tokenizer) -> None:
    """Add those of the texts that are not yet in `contexts`, by text."""
    pieces = sum(len(context.tokens) for context in contexts.values())
    new = list(dict.fromkeys(text for text in texts if text not in contexts))
    for text, encoding in zip(new, tokenizer.encode(new, offsets=True), strict=True):
        tokens = np.array(encoding.ids[1:-1], np.int32)
        contexts[text] = EncodedContext(tokens, piece_spans(text, encoding.offsets[1:-1]), pieces)
        pieces += len(tokens)


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
    """For each window, the positions in it at which the answer starts and ends; 0, 0 where it is not whole in there.

    IGNORE in all windows where there is an answer, but no window holds the whole of it.
    """
    positions = []
    for start, end in bounds:
        if answer is not None and start <= answer[0] and answer[1] < end:
            positions.append((answer[0] - start + context_at, answer[1] - start + context_at))
        else:
            positions.append((0, 0))
    learnable = answer == (-1, -1) or any(start for start, _ in positions)
    return positions if learnable else [(IGNORE, IGNORE)] * len(bounds)


def store(
    windows: list[Window], ids: list[str], contexts: dict[str, EncodedContext], second_type: int = 1
) -> EncodedWindows:
    """The windows end to end. ids: of all examples. contexts: in the order of their first pieces, all of that type."""
    starts = np.cumsum([0] + [len(window.tokens) for window in windows], dtype=np.int64)
    token_types = np.zeros(starts[-1], np.uint8)
    allowed = np.zeros(starts[-1], bool)
    for window, start, end in zip(windows, starts[:-1], starts[1:], strict=True):
        token_types[start + window.context_at : end] = second_type
        allowed[start] = True
        allowed[start + window.context_at : end - 1] = True
    return EncodedWindows(
        head="span",
        ids=[ids[window.example] for window in windows],
        tokens=np.concatenate([window.tokens for window in windows]),
        starts=starts,
        labels=np.array([window.label for window in windows], np.int64),
        token_types=token_types,
        allowed=allowed,
        example=np.array([window.example for window in windows]),
        context_at=np.array([window.context_at for window in windows]),
        first_piece=np.array([window.first_piece for window in windows]),
        piece_spans=np.concatenate([context.spans for context in contexts.values()]),
    )


# --- logits -> answers ---


@dataclass(frozen=True)
class Answer:
    """A predicted answer; two are equal where their texts are. An empty text: the question has no answer."""

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

    logits: ΣS,2. longest: the most pieces that an answer may have.
    """
    longest = min(longest, int(windows.lengths.max(initial=1)))  # no span is longer than its window
    bounds = np.searchsorted(windows.example, np.arange(len(examples) + 1))  # example i has windows bounds[i]…
    results = []
    for example, first, after in zip(examples, bounds[:-1], bounds[1:], strict=True):
        scores, no_answer = context_scores(windows, logits, range(first, after), longest)
        all_spans = float(torch.from_numpy(scores).flatten().logsumexp(0))  # −∞ where there is none
        total = np.logaddexp(all_spans, no_answer)
        spans = windows.piece_spans[windows.first_piece[first] :]
        best = best_spans(scores, most) if len(scores) else []
        against = float(np.exp(no_answer - np.logaddexp(no_answer, best[0].score))) if best else 1.0
        places = [(int(spans[span.first, 0]), int(spans[span.last, 1]), span.score) for span in best]
        answers = []
        for start, end, score in [*places, (0, 0, no_answer)]:
            text = example.context[start:end]
            best_text = answers[0].text if answers else text
            answers.append(Answer(text, start, end, score, float(np.exp(score - total)), against, best_text))
        results.append((answers[:-1], answers[-1]))
    return results


def context_scores(
    windows: EncodedWindows, logits: np.ndarray, numbers: Sequence[int], longest: int
) -> tuple[np.ndarray, float]:
    """The scores of all spans of one context, P,longest (0,1 where it is empty), and the score of "no answer".

    Over several windows, a span's score is its best one, and the score of "no answer" is the *lowest*: there is none
    only if no window has any. numbers: of the windows over the context.
    """
    scores = np.empty((0, 1))
    no_answer = np.inf
    for n in numbers:
        start = windows.starts[n]
        no_answer = min(no_answer, float(logits[start].astype(np.float64).sum()))
        begin = start + windows.context_at[n]
        end = windows.starts[n + 1] - 1
        if begin == end:
            continue
        window_scores = span_scores(logits[begin:end], longest)
        first = windows.first_piece[n] - windows.first_piece[numbers[0]]
        scores = window_scores if first == 0 else merge(scores, window_scores, first)
    return scores, no_answer


def decide(predictions: Predictions) -> list[Answer]:
    """The best answer to each question; none where the file is of version 2.0, and that is probable enough."""
    return [answer for answer, _ in decide_among(predictions, 1)]


def decide_among(predictions: Predictions, most: int) -> list[tuple[Answer, list[Answer]]]:
    """The answer to each question as `decide` has it, and its `most` best ones with "no answer" behind them."""
    data, decided = predictions.data, []
    found = candidates(predictions.examples, predictions.features, predictions.logits, data.answer_length, most)
    for example, (answers, no_answer) in zip(predictions.examples, found, strict=True):
        is_none = example.may_be_unanswerable and no_answer.no_answer > data.null_threshold
        decided.append((no_answer if is_none or not answers else answers[0], [*answers, no_answer]))
    return decided


# --- answers -> metrics ---


def is_version2(examples: Sequence[Example]) -> bool:
    """Whether the rules of version 2.0 hold."""
    return any(example.may_be_unanswerable for example in examples)


def score(predictions: Predictions) -> dict:
    """The official metrics; for version 2.0 also what a --null-threshold could reach (choose it on dev data); and how
    many questions have a gold answer that is longer than --answer-length, so that no decoding can be right."""
    examples = predictions.examples
    windows = predictions.features
    questions = [(example.id, example.answers) for example in examples]
    best = None
    if is_version2(examples):
        pairs = zip(examples, predictions.decisions, strict=True)
        best = {example.id: (answer.best_span, answer.no_answer) for example, answer in pairs}
    metrics = squad_metrics(questions, prediction_records(predictions), best)
    too_long = windows.labels[:, 1] - windows.labels[:, 0] >= predictions.data.answer_length
    return metrics | {"gold_beyond_answer_length": len(set(windows.example[too_long].tolist()))}


def counted_scores(predictions: Predictions) -> list[QuestionScore]:
    """Exact match and F1 of each question that counts."""
    questions = [(example.id, example.answers) for example in predictions.examples]
    return official_scores(questions, prediction_records(predictions), is_version2(predictions.examples))


def tally(predictions: Predictions) -> np.ndarray:
    """F1 of each question, and whether it counts: N,2"""
    points = np.zeros((len(predictions.examples), 2))
    for row in counted_scores(predictions):
        points[row.number] = row.f1, 1
    return points


def confidence(predictions: Predictions) -> Confidence:
    """That of the answer to each question that counts; it is right where it matches a gold one exactly."""
    rows = counted_scores(predictions)
    probability = np.array([predictions.decisions[row.number].probability for row in rows])
    right = np.array([row.exact_match > 0 for row in rows], bool)
    return Confidence(probability, right, np.array([row.number for row in rows], int), np.full(len(rows), np.nan))


def summaries(predictions: Predictions) -> list[Summary]:
    """Each question, its (first) gold answer, the predicted one, and the F1 of that."""
    summaries = []
    for example, answer, f1 in zip(predictions.examples, predictions.decisions, tally(predictions)[:, 0], strict=True):
        gold = example.answers[0] if example.answers else ""
        summaries.append(Summary(example.question, gold or "(none)", answer.text or "(none)", float(f1)))
    return summaries


def prediction_records(predictions: Predictions) -> dict[str, str]:
    """The answers by id, as the official scripts read them."""
    pairs = zip(predictions.examples, predictions.decisions, strict=True)
    return {example.id: answer.text for example, answer in pairs}


# --- what a person sees ---


def details(metrics: dict) -> str:
    """A table by the length of the shortest gold answer."""
    rows = [(name, *row.values()) for name, row in metrics["per_class"].items()]
    return table(("by gold answer", "exact match", "F1", "questions"), rows)


def mistakes(predictions: Predictions, most: int = 5) -> str:
    """The most probable of the answers that have no word in common with any gold answer."""
    version2 = is_version2(predictions.examples)
    wrong = []
    for example, answer in zip(predictions.examples, predictions.decisions, strict=True):
        if max(question_scores(example.answers, answer.text, version2)) == 0:
            gold = shorten("".join(example.answers[:1]), 25)
            below = f"predicted {shorten(answer.text, 25)!r}, gold {gold!r}"
            wrong.append(Mistake(answer.probability, f"{example.id}  {shorten(example.question, 60)}", below))
    return surest_mistakes(wrong, most)


TASK = Task(
    name="squad",
    head="span",
    reading="encoding question_column context_column answers_column",
    read=read_squad,
    texts=lambda examples: [*dict.fromkeys(e.context for e in examples), *(e.question for e in examples)],
    label_list=lambda examples: (),
    featurize=featurize,
    decide=decide,
    group=lambda example: example.context,
    article=lambda example: example.article,
    trainable=trainable,
    odd=odd_questions,
    train_defaults=dict(learning_rate=3e-5, epochs=2, batch_size=12, max_length=384),
    score=score,
    score_name="f1",
    columns=("exact_match", "f1"),
    tally=tally,
    unlabel=lambda example: replace(example, answers=(), start=None, labelled=False),
    reworded=lambda example, change, name: replace(
        example, id=name, question=change_words([example.question], change)[0], answers=(), start=None, labelled=False
    ),
    read_unlabelled=read_without_answers,
    add_questions=add_questions,
    confidence=confidence,
    sureness=lambda predictions: np.array([answer.probability for answer in predictions.decisions]),
    summaries=summaries,
    prediction_records=prediction_records,
    details=details,
    mistakes=mistakes,
)
