"""Exact match and F1 of short answers, by the rules of SQuAD's official scripts for versions 1.1 and 2.0.

The two differ in more than unanswerable questions: see f1, question_scores and official_scores.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

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
    gold_words, words = normalize(gold).split(), normalize(answer).split()
    if version2 and not (gold_words and words):
        return float(gold_words == words)
    shared = sum((Counter(gold_words) & Counter(words)).values())
    if shared == 0:
        return 0.0
    precision, recall = shared / len(words), shared / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def question_scores(golds: Sequence[str], answer: str, version2: bool) -> tuple[float, float]:
    """Exact match and F1 with the gold answer that fits best. In version 2.0, golds of which nothing is left don't
    count, and where none is left, only an empty answer is right."""
    if version2:
        golds = [gold for gold in golds if normalize(gold)] or [""]
    return max(exact_match(gold, answer) for gold in golds), max(f1(gold, answer, version2) for gold in golds)


def official_scores(
    questions: Sequence[tuple[str, Sequence[str]]], predictions: dict[str, str], version2: bool
) -> list[tuple[int, float, float]]:
    """(number of the question, exact match, F1) of each question that the official script counts.

    questions: (id, gold answers) in the order of the file. Version 1.1 counts all of them, one without a prediction as
    wrong; version 2.0 counts each *id* once (the last question that has it), and only those with a prediction.
    """
    counted = range(len(questions))
    if version2:
        counted = [
            i for i in {key: i for i, (key, _) in enumerate(questions)}.values() if questions[i][0] in predictions
        ]
    rows = []
    for i in counted:
        key, golds = questions[i]
        scores = question_scores(golds, predictions[key], version2) if key in predictions else (0.0, 0.0)
        rows.append((i, *scores))
    return rows


def best_threshold(rows: Sequence[tuple[bool, float, str, float]]) -> tuple[float, float]:
    """The best mean score that a threshold on the probability of "no answer" can give, and that threshold.

    rows: (has an answer, score of the best span, that span, probability of "no answer") of each question. Above the
    threshold the answer is none. As in the official script of version 2.0: from answering nothing at all, give the best
    span to one question after another, the least probable "no answer" first. (Equal probabilities are taken one at a
    time, as there, so a best score that lies between them is out of any threshold's reach.)
    """
    total = best = sum(not row[0] for row in rows)
    threshold = 0.0
    for has_answer, score, span, no_answer in sorted(rows, key=lambda row: row[3]):
        total += score if has_answer else -bool(span)
        if total > best:
            best, threshold = total, no_answer
    return best / len(rows), threshold


def squad_metrics(
    questions: Sequence[tuple[str, Sequence[str]]],
    predictions: dict[str, str],
    best_spans: dict[str, tuple[str, float]] | None = None,
) -> dict:
    """Mean exact match and F1 over the questions, each with the half width of its 95% interval (1.96 s/√n).

    questions: (id, gold answers); predictions: answers by id. With best_spans (by id: the best answer that is a span,
    and the probability that there is none) the rules are version 2.0's, and the means over the questions with and
    without an answer stand beside, and the best that a threshold on that probability could reach.
    """
    rows, spans = official_scores(questions, predictions, best_spans is not None), []
    if best_spans is not None:
        spans = official_scores(questions, {key: span for key, (span, _) in best_spans.items()}, True)
    metrics: dict = {"examples": len(rows)}
    for column, name in ((1, "exact_match"), (2, "f1")):
        values = np.array([row[column] for row in rows])
        metrics |= {name: float(values.mean()), f"{name}_margin": float(1.96 * values.std() / np.sqrt(len(values)))}
        if best_spans is not None:
            for has, which in ((True, "answerable"), (False, "unanswerable")):
                part = [row[column] for row in rows if bool(questions[row[0]][1]) == has]
                metrics[f"{which}_{name}"] = float(np.mean(part)) if part else None
            ranked = [(bool(questions[i][1]), scores[column - 1], *best_spans[questions[i][0]]) for i, *scores in spans]
            metrics[f"best_{name}"], metrics[f"best_{name}_threshold"] = best_threshold(ranked)
    by_length: dict[str, list] = {name: [] for name in LENGTHS.values()}
    for i, *scores in rows:
        words = min((len(gold.split()) for gold in questions[i][1]), default=0)
        by_length[next(name for most, name in LENGTHS.items() if words <= most)].append(scores)
    means = {name: np.mean(scores, axis=0).tolist() for name, scores in by_length.items() if scores}
    return metrics | {
        "per_class": {
            name: {"exact_match": exact, "f1": overlap, "questions": len(by_length[name])}
            for name, (exact, overlap) in means.items()
        }
    }
