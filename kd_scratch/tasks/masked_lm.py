"""Masked words, the whole way: plain text -> inputs -> how well masked words are guessed (Devlin et al. 2019, 3.1).

For a student that is made before any task, from text without labels (general distillation: Sanh et al. 2019). Which
words are masked is drawn anew in every epoch (masking.MaskedLMSampler).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kd_scratch.common.console import Say, say, shorten, table
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import IGNORE, EncodedInputs
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.base import Predictions, Task
from kd_scratch.tasks.text_files import read_texts


@dataclass(frozen=True)
class Example:
    """One line of text. The id is its place, as in "news.txt:3"."""

    id: str
    text: str


def read_lines(path: Path, split: str, data: DataConfig, say: Say = say) -> Sequence[Example]:
    """One text a line, or a row of a table, or of JSON lines; those that hold nothing but blanks are none."""
    return read_texts(path, data, say, Example)


@dataclass
class EncodedPassages(EncodedInputs):
    """Passages of texts, N of them; a long text has several."""

    example: np.ndarray = field(kw_only=True)  # N: which example a passage belongs to, rising


def featurize(
    examples: Sequence[Example], tokenizer: Tokenizer, labels: tuple[str, ...], max_length: int, data: DataConfig
) -> EncodedPassages:
    """[CLS] pieces [SEP] for each passage of at most max_length pieces: all of a text, cut where the room ends.

    Raises UserError where the tokenizer has no [MASK], or there is no room.
    """
    if tokenizer.mask_id is None:
        raise UserError(
            "the tokenizer has no [MASK], so no word can be masked; choose a --model (or --tokenizer) that has one"
        )
    cls, sep = tokenizer.encode([""], max_length=max_length)[0].ids
    room = max_length - 2
    rows, ids, numbers = [], [], []
    encodings = tokenizer.encode([example.text for example in examples])
    for i, (example, encoding) in enumerate(zip(examples, encodings, strict=True)):
        pieces = encoding.ids[1:-1]
        for start in range(0, len(pieces), room):  # none where the tokenizer drops every character
            rows.append([cls, *pieces[start : start + room], sep])
            ids.append(example.id)
            numbers.append(i)
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    tokens = np.fromiter((token for row in rows for token in row), np.int32, int(starts[-1]))
    return EncodedPassages(
        head="mlm",
        ids=ids,
        tokens=tokens,
        starts=starts,
        labels=np.where(np.isin(tokens, tokenizer.special_ids), IGNORE, tokens.astype(np.int64)),
        mask_id=tokenizer.mask_id,
        example=np.array(numbers, np.int64),
    )


def decide(predictions: Predictions) -> list[tuple[float, float]]:
    """How many words of each example were guessed, and how many were masked."""
    return [(right, count) for right, count in tally(predictions).tolist()]


def score(predictions: Predictions) -> dict:
    """Share of masked words that are guessed right, mean cross-entropy, and e to the power of that: the perplexity."""
    loss, right, count = predictions.logits.astype(np.float64).sum(axis=0)  # N,3: see inference.guesses
    mean_loss = float(loss / max(1, count))
    return {
        "examples": len(predictions.examples),
        "masked_words": int(count),
        "accuracy": float(right / max(1, count)),
        "loss": mean_loss,
        "perplexity": float(np.exp(min(mean_loss, 700.0))),
        "per_class": {},
    }


def tally(predictions: Predictions) -> np.ndarray:
    """Words guessed right in each example, and how many were masked: N,2"""
    points = np.zeros((len(predictions.examples), 2))
    np.add.at(points, predictions.features.example, predictions.logits[:, 1:])
    return points


def prediction_records(predictions: Predictions) -> dict:
    """Of each text, by id, how many words were masked and how many of them guessed."""
    return {
        example.id: {"masked": int(count), "right": int(right)}
        for example, (right, count) in zip(predictions.examples, tally(predictions), strict=True)
    }


def mistakes(predictions: Predictions, most: int = 5) -> str:
    """The texts with the highest mean cross-entropy."""
    means = predictions.logits[:, 0] / np.maximum(predictions.logits[:, 2], 1)
    rows = []
    for i in np.argsort(-means, kind="stable")[:most]:
        example = predictions.examples[predictions.features.example[i]]
        rows.append((f"{example.id}  {shorten(example.text, 60)}", float(means[i])))
    return table(("the hardest texts", "loss"), rows)


TASK = Task(
    name="mlm",
    head="mlm",
    read=read_lines,
    texts=lambda examples: [example.text for example in examples],
    label_list=lambda examples: (),
    featurize=featurize,
    decide=decide,
    # (Sanh et al. 2019 weigh soft targets, labels and cosine 5 : 2 : 1)
    train_defaults=dict(learning_rate=5e-4, batch_size=32, temperature=2.0, alpha=0.7),
    score=score,
    columns=("accuracy", "loss", "perplexity"),
    tally=tally,
    prediction_records=prediction_records,
    mistakes=mistakes,
)
