"""Exact match and F1 of short answers, by the rules of SQuAD's official scripts for versions 1.1 and 2.0.

The two differ in more than unanswerable questions: see f1, question_scores and official_scores.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

Questions = Sequence[tuple[str, Sequence[str]]]  # (id, gold answers), in the order of the file
BestSpans = dict[str, tuple[str, float]]  # id -> the best answer that is a span, and the probability that there is none

#: Most words of the shortest gold answer -> what the table by length calls such questions.
LENGTHS = {0: "no answer", 2: "1-2 words", 5: "3-5 words", 10: "6-10 words", 20: "11-20 words", 10**9: "more words"}


def normalize(answer: str) -> str:
    """Lowercase, without ASCII punctuation, without the articles a, an, the, and with single spaces."""
    answer = "".join(character for character in answer.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", answer).split())


def exact_match(gold: str, answer: str) -> float:
    """1 where two answers are the same after normalizing, else 0."""
    return float(normalize(gold) == normalize(answer))


def f1(gold: str, answer: str, version2: bool = False) -> float:
    """F1 of the words that two answers share. Where nothing is left of one of them: 0; in version 2.0: whether both."""
    gold_words = normalize(gold).split()
    words = normalize(answer).split()
    if version2 and not (gold_words and words):
        return float(gold_words == words)
    shared = sum((Counter(gold_words) & Counter(words)).values())
    if shared == 0:
        return 0.0
    precision = shared / len(words)
    recall = shared / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def question_scores(golds: Sequence[str], answer: str, version2: bool) -> tuple[float, float]:
    """Exact match and F1 with the gold answer that fits best. In version 2.0, golds of which nothing is left don't
    count, and where none is left, only an empty answer is right."""
    if version2:
        golds = [gold for gold in golds if normalize(gold)] or [""]
    return max(exact_match(gold, answer) for gold in golds), max(f1(gold, answer, version2) for gold in golds)


class QuestionScore(NamedTuple):
    """The scores of one question."""

    number: int  # of the question, in the order of the file
    exact_match: float
    f1: float


def official_scores(questions: Questions, predictions: dict[str, str], version2: bool) -> list[QuestionScore]:
    """The scores of each question that the official script counts. predictions: answers by id.

    Version 1.1 counts all of them, one without a prediction as wrong; version 2.0 counts each *id* once (the last
    question that has it), and only those with a prediction.
    """
    counted = range(len(questions))
    if version2:
        last_with_id = {key: i for i, (key, _) in enumerate(questions)}
        counted = [i for key, i in last_with_id.items() if key in predictions]
    rows = []
    for i in counted:
        key, golds = questions[i]
        scores = question_scores(golds, predictions[key], version2) if key in predictions else (0.0, 0.0)
        rows.append(QuestionScore(i, *scores))
    return rows


def best_threshold(rows: Sequence[tuple[float, str, float, bool]]) -> tuple[float, float]:
    """The best mean score that a threshold on the probability of "no answer" can give, and that threshold.

    rows: of each question the probability of "no answer", the best span, its score, and whether there is an answer.
    Above the threshold the answer is none. As in the official script of version 2.0: from answering nothing at all,
    give the best span to one question after another, the least probable "no answer" first. (Equal probabilities are
    taken one at a time, as there, so a best score that lies between them is out of any threshold's reach.)
    """
    total = sum(not has_answer for _, _, _, has_answer in rows)
    best = total
    threshold = 0.0
    for no_answer, span, score, has_answer in sorted(rows, key=lambda row: row[0]):
        total += score if has_answer else -bool(span)
        if total > best:
            best = total
            threshold = no_answer
    return best / len(rows), threshold


def squad_metrics(questions: Questions, predictions: dict[str, str], best_spans: BestSpans | None = None) -> dict:
    """Mean exact match and F1 over the questions, and both by the length of the gold answer.

    predictions: answers by id. best_spans: with them the rules are version 2.0's, and the means over the
    questions with and without an answer stand beside, and the best that a threshold on the probability of "no answer"
    could reach.
    """
    rows = official_scores(questions, predictions, best_spans is not None)
    metrics: dict = {"examples": len(rows)}
    for name in ("exact_match", "f1"):
        metrics[name] = float(np.mean([getattr(row, name) for row in rows]))
        if best_spans is not None:
            metrics |= version2_metrics(name, questions, rows, best_spans)
    return metrics | {"per_class": by_length(questions, rows)}


def version2_metrics(name: str, questions: Questions, rows: Sequence[QuestionScore], best_spans: BestSpans) -> dict:
    """What version 2.0 adds to the metric exact_match or f1 (name). rows: the scores of the predictions."""
    has_answer = [bool(golds) for _, golds in questions]
    metrics = {}
    for part, wanted in (("answerable", True), ("unanswerable", False)):
        values = [getattr(row, name) for row in rows if has_answer[row.number] == wanted]
        metrics[f"{part}_{name}"] = float(np.mean(values)) if values else None
    ranked = []
    for row in official_scores(questions, {key: span for key, (span, _) in best_spans.items()}, True):
        key, _ = questions[row.number]
        span, no_answer = best_spans[key]
        ranked.append((no_answer, span, getattr(row, name), has_answer[row.number]))
    metrics[f"best_{name}"], metrics[f"best_{name}_threshold"] = best_threshold(ranked)
    return metrics


def by_length(questions: Questions, rows: Sequence[QuestionScore]) -> dict[str, dict]:
    """Mean scores, and how many questions, by how many words the shortest gold answer has."""
    scores: dict[str, list] = {name: [] for name in LENGTHS.values()}
    for row in rows:
        _, golds = questions[row.number]
        words = min((len(gold.split()) for gold in golds), default=0)
        name = next(name for most, name in LENGTHS.items() if words <= most)
        scores[name].append((row.exact_match, row.f1))
    table = {}
    for name, pairs in scores.items():
        if pairs:
            exact, overlap = np.mean(pairs, axis=0).tolist()
            table[name] = {"exact_match": exact, "f1": overlap, "questions": len(pairs)}
    return table
