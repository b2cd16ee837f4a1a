"""Several labels at once: each is there or not by itself. File -> examples -> features -> logits -> metrics.

The head gives one logit z a label, as that of classification.py does; its probability is sigmoid(z), whatever
the others are. A text gets the labels that are at least as probable as the model's threshold: one for all labels,
chosen on dev so that micro-F1 is highest. (One a label would be chosen on that label's few examples: with 20 of
them, a matter of chance.)
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kd_scratch.common.console import shorten
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import UNLABELLED, EncodedInputs
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.base import Confidence, Labels, Mistake, Predictions, Summary, f1_score, surest_mistakes
from kd_scratch.tasks.classification import CSV, encode, refuse_label, sorted_labels
from kd_scratch.tasks.text_files import Example, read_multi_label

NONE = "(none)"  # what stands for no label at all


# --- examples -> features ---


def label_list(examples: Sequence[Example]) -> Labels:
    """The labels of the training examples, and those that their file has columns for, as sorted_labels has them."""
    names = {label for example in examples for label in (*(example.label or ()), *example.known)}
    if not names:
        raise UserError("--train: no text has a label; is that their column? choose it with --label-column")
    return sorted_labels(names)


def featurize(
    examples: Sequence[Example], tokenizer: Tokenizer, labels: Labels, max_length: int, data: DataConfig
) -> EncodedInputs:
    """As in classification; labels N,C: 1 where a text has a label, else 0; UNLABELLED where that is not known."""
    index = {label: i for i, label in enumerate(labels)}
    marks = np.zeros((len(examples), len(labels)), np.int64)
    for row, example in zip(marks, examples, strict=True):
        for label in example.label or ():
            if label not in index:
                raise refuse_label(example.id, label, labels)
            row[index[label]] = 1
        if example.label is None:
            row[:] = UNLABELLED
        elif example.known:  # what the file has no column for may be there or not
            row[[i for label, i in index.items() if label not in example.known]] = UNLABELLED
    return encode(examples, tokenizer, max_length, marks)


def student_labels(labels: Labels, teacher_labels: Labels) -> Labels:
    """The teacher's where they are more: a label that no training text has may still be learned from it."""
    return teacher_labels if set(labels) < set(teacher_labels) else labels


# --- logits -> decisions ---


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + e^−z) in float64, without an overflow."""
    return np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))


def threshold_of(predictions: Predictions) -> float:
    """--label-threshold, or else the model's."""
    return predictions.data.threshold_or(predictions.threshold)


def known_of(predictions: Predictions) -> np.ndarray:
    """Of which labels the file says whether a text has them, N,C booleans: of those that it has columns for, or all."""
    known = np.ones(predictions.logits.shape, bool)
    for row, example in zip(known, predictions.examples, strict=True):
        if example.known:
            row[:] = [label in example.known for label in predictions.labels]
    return known


def given(predictions: Predictions) -> np.ndarray:
    """Which labels each text gets: N,C booleans. One that the file has no column for is neither right nor wrong."""
    return (sigmoid(predictions.logits) >= threshold_of(predictions)) & known_of(predictions)


def decide(predictions: Predictions) -> list[tuple[str, ...]]:
    """The labels that each text gets, sorted."""
    return [tuple(sorted(predictions.labels[i] for i in np.flatnonzero(row))) for row in given(predictions)]


def gold_of(predictions: Predictions) -> np.ndarray:
    """Which labels each text has: N,C booleans."""
    index = {label: i for i, label in enumerate(predictions.labels)}
    marks = np.zeros((len(predictions.gold), len(index)), bool)
    for row, gold in zip(marks, predictions.gold, strict=True):
        row[[index[label] for label in gold]] = True
    return marks


def choose_threshold(predictions: Predictions) -> float:
    """The threshold at which micro-F1 is highest; of several as good ones that nearest to 0.5. It lies halfway
    between two probabilities, so that rounding changes nothing. 0.5 where no text has a label."""
    known = known_of(predictions)
    p, gold = sigmoid(predictions.logits)[known], gold_of(predictions)[known]
    order = np.argsort(-p, kind="stable")
    p, hits = p[order], np.cumsum(gold[order])  # of the most probable 1, 2, … pairs of text and label
    f1 = 2 * hits / (np.arange(1, len(p) + 1) + gold.sum())
    following = np.append(p[1:], 0.0)
    f1[p == following] = -1.0  # of those equally probable all are taken, or none
    best = f1 >= f1.max() - 1e-12
    between = (p + following)[best] / 2
    return float(between[np.abs(between - 0.5).argmin()]) if gold.any() else 0.5


def sureness(predictions: Predictions) -> np.ndarray:
    """How probable the least sure decision on each text is, N: of a label that it gets p, of another 1 − p.

    Of all labels, as for a text from a user, whatever columns a file has.
    """
    p = sigmoid(predictions.logits)
    return np.where(p >= threshold_of(predictions), p, 1 - p).min(axis=1)


# --- decisions -> metrics ---


def tally(predictions: Predictions) -> np.ndarray:
    """Of each text, how many labels are right, how many it has, and how many it gets: N,3"""
    has, gets = gold_of(predictions), given(predictions)
    return np.stack([has & gets, has, gets], axis=1).sum(axis=2).astype(np.float64)


def score(predictions: Predictions) -> dict:
    """Micro-F1, over all pairs of text and label; macro-F1, the plain mean of the F1 of all the model's labels;
    the share of texts whose labels are all right; mean binary cross-entropy, over all pairs.

    As in scikit-learn, with zero_division=0: a label that no text has, nor gets, has an F1 of 0.
    """
    has, gets, known = gold_of(predictions), given(predictions), known_of(predictions)
    if not known.any():
        raise UserError("none of the columns of these texts is a label of the model; rename them as it calls them")
    sums = np.stack([has & gets, has, gets], axis=2).sum(axis=0)  # N,C,3 -> C,3
    f1 = f1_score(sums)
    right, gold, found = sums.T.tolist()
    columns = zip(predictions.labels, right, gold, found, f1.tolist(), known.any(axis=0), strict=True)
    per_class = {
        label: {"precision": r / max(n, 1), "recall": r / max(g, 1), "f1": f, "support": g}
        for label, r, g, n, f, is_known in columns
        if is_known
    }
    return {
        "examples": len(has),
        "micro_f1": float(f1_score(sums.sum(axis=0))),
        "macro_f1": float(f1[known.any(axis=0)].mean()),
        "subset_accuracy": float(predictions.right.mean()),
        "loss": float(losses(predictions)[known].mean()),
        "threshold": threshold_of(predictions),
        "per_class": dict(sorted(per_class.items())),
    }


def losses(predictions: Predictions) -> np.ndarray:
    """The binary cross-entropy of each label of each text, N,C: −ln p where it has it, else −ln(1 − p)."""
    z = predictions.logits.astype(np.float64)
    return np.logaddexp(0.0, np.where(gold_of(predictions), -z, z))


def confidence(predictions: Predictions) -> Confidence:
    """Of each pair of text and label the probability of the label, and whether the text has it: U, N·C or the known."""
    known = known_of(predictions)
    p, example = sigmoid(predictions.logits)[known], np.nonzero(known)[0]
    return Confidence(p, gold_of(predictions)[known], example, losses(predictions)[known])


# --- what a person sees ---


def listed(labels: Sequence[str]) -> str:
    """Labels in a line."""
    return ", ".join(labels) or NONE


def summaries(predictions: Predictions) -> list[Summary]:
    """Each text, its labels, those that it gets, and the F1 of these; 1 where it gets none and has none."""
    texts = [" | ".join(example.texts) for example in predictions.examples]
    points = np.where(predictions.right, 1.0, f1_score(tally(predictions)))
    rows = zip(texts, predictions.gold, predictions.decisions, points, strict=True)
    return [Summary(text, listed(gold), listed(decision), float(f1)) for text, gold, decision, f1 in rows]


def prediction_records(predictions: Predictions) -> dict:
    """The labels that each text gets, by id, with the probability of each label and the gold ones."""
    columns = predictions.examples, predictions.decisions, sigmoid(predictions.logits).round(6).tolist()
    return {
        example.id: {
            "labels": labels,
            "probabilities": dict(zip(predictions.labels, p, strict=True)),
            "gold": example.label,
        }
        for example, labels, p in zip(*columns, strict=True)
    }


def mistakes(predictions: Predictions, most: int = 5) -> str:
    """The most probable of the labels that are wrong, and the least probable of those that are missing."""
    has, gets, p = gold_of(predictions), given(predictions), sigmoid(predictions.logits)
    wrong = []
    for n, c in np.argwhere(has != gets):
        example, label = predictions.examples[n], predictions.labels[c]
        what = f"{example.id}  {shorten(label, 30)} {'is not there' if gets[n, c] else 'is missing'}"
        sure = round(float(p[n, c] if gets[n, c] else 1 - p[n, c]), 6)
        below = " | ".join(shorten(text, 76 // len(example.texts)) for text in example.texts)
        wrong.append(Mistake(sure, what, below))
    return surest_mistakes(wrong, most)


MULTI_LABEL = replace(
    CSV,
    name="labels",
    multi_label=True,
    reading=f"{CSV.reading} label_separator",
    read=read_multi_label,
    label_list=label_list,
    featurize=featurize,
    student_labels=student_labels,
    decide=decide,
    choose_threshold=choose_threshold,
    sureness=sureness,
    score=score,
    score_name="micro_f1",
    columns=("micro_f1", "macro_f1", "subset_accuracy", "loss"),
    tally=tally,
    tally_score=f1_score,
    confidence=confidence,
    summaries=summaries,
    confused=None,
    prediction_records=prediction_records,
    mistakes=mistakes,
)
