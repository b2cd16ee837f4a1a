"""Text classification, the whole way: file -> examples -> features -> logits -> metrics.

Three tasks, which differ in their reader only: AG News CSV (Zhang et al. 2015), CLINC150 JSON (Larson et al. 2019), and
anybody's CSV or TSV with a header.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from kd_scratch.common.console import Say, say, shorten, table
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import LONGEST, check_length, read_json, text_lines
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import IGNORE, UNLABELLED, EncodedInputs
from kd_scratch.data.rows import FileRows
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.base import Mistake, Predictions, Task, best_probability, log_softmax, surest_mistakes

AGNEWS_LABELS = ("World", "Sports", "Business", "Sci/Tech")  # classes 1 to 4
OOS = "oos"  # CLINC150: out of scope


@dataclass(frozen=True)
class Example:
    """One text with its label. The id is its place: file name and line, or split and number."""

    id: str
    text: str
    label: str | None  # None: unlabelled, for soft targets
    in_scope: bool = True  # False: CLINC150's texts that belong to no intent


# --- rows of a CSV file -> examples ---


def csv_rows(path: Path, delimiter: str = ",") -> Iterator[tuple[int, int, list[str]]]:
    """(line number, place of its first byte, fields) of each row that is not blank; UserError for a malformed one."""
    place = start = next(text_lines(path))[0]

    def lines():
        nonlocal place
        for begin, text in text_lines(path):
            place = begin + len(text.encode())
            yield text

    # The default refuses fields of 131,072 characters. The limit is one for the whole process.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    line = 1
    try:
        for row in reader:
            if row:
                yield line, start, row
            line, start = reader.line_num + 1, place
    except csv.Error as error:
        why = f"a field of more than {LONGEST:,} characters; is a quote left open?" if "limit" in str(error) else error
        raise UserError(f"{path}: line {line}: malformed CSV: {why}") from None


def csv_examples(
    path: Path, make: Callable[[int, list[str]], Example], delimiter: str = ",", skip: int = 0
) -> FileRows:
    """The example of each row but the first `skip`, made when asked for; and once now, so that a bad row is found.

    make: line number, fields -> example, or UserError. (For a format of lines without quotes: rows.text_rows.)
    """

    def checked():
        for line, start, row in islice(csv_rows(path, delimiter), skip, None):
            make(line, row)
            yield line, start

    def parse(line: int, text: str) -> Example:
        return make(line, next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)))

    return FileRows(path, checked(), parse)


# --- file -> examples ---


def read_agnews(path: Path, split: str, data: DataConfig, say: Say = say) -> Sequence[Example]:
    """AG News: no header; class 1-4, title, description. A bare backslash stands for a line break in the source.

    It becomes a space. (Replacing the two characters backslash and n instead would eat the first letter of the words
    that happen to follow one: "\\network", "\\not".)
    """

    def make(line: int, row: list[str]) -> Example:
        if len(row) != 3:
            raise UserError(f"{path}: line {line}: {len(row)} columns instead of 3 (class, title, description)")
        label, title, description = row
        if label not in ("1", "2", "3", "4"):
            raise UserError(f"{path}: line {line}: class {label[:40]!r} is not one of 1, 2, 3, 4")
        text = f"{title} {description}".replace("\\", " ").strip()
        return example_of_row(path, line, text, AGNEWS_LABELS[int(label) - 1])

    return csv_examples(path, make)


def read_csv(path: Path, split: str, data: DataConfig, say: Say = say) -> Sequence[Example]:
    """Anybody's texts and labels; the first line decides the format: a tab in it makes the file a TSV, else it is CSV.

    Another format is one more function such as read_table, and one more case here.
    """
    first_line = next(text_lines(path))[1]
    return read_table(path, "\t" if "\t" in first_line else ",", data)


def read_table(path: Path, delimiter: str, data: DataConfig) -> Sequence[Example]:
    """A table with a header that names the text and label columns, --text-column and --label-column."""
    _, _, header = next(csv_rows(path, delimiter), (0, 0, []))
    for flag, name in (("--text-column", data.text_column), ("--label-column", data.label_column)):
        if header.count(name) != 1:
            raise UserError(
                f"{path}: line 1: {header.count(name)} columns are called {name!r} among "
                f"{', '.join(shorten(name, 30) for name in header[:12])}; choose one with {flag}"
            )
    text_at = header.index(data.text_column)
    label_at = header.index(data.label_column)

    def make(line: int, row: list[str]) -> Example:
        if len(row) != len(header):
            raise UserError(f"{path}: line {line}: {len(row)} columns instead of the header's {len(header)}")
        return example_of_row(path, line, row[text_at], row[label_at])

    return csv_examples(path, make, delimiter, skip=1)


def example_of_row(path: Path, line: int, text: str, label: str) -> Example:
    """The example that begins in a line of a file. UserError where it has no label, or its text is too long."""
    if not label:
        raise UserError(f"{path}: line {line}: the label is empty")
    check_length(text, f"{path}: line {line}")
    return Example(f"{path.name}:{line}", text, label)


def read_clinc(path: Path, split: str, data: DataConfig, say: Say = say) -> list[Example]:
    """CLINC150: {"train": [[text, intent], …], "val": …, "test": …, "oos_train": …, "oos_val": …, "oos_test": …}.

    The out-of-scope texts of dev and test are always read (they are scored apart), those of train only with --oos.
    """
    raw = read_json(path)
    if not isinstance(raw, dict) or split not in raw:
        raise UserError(f"{path}: is not CLINC150's JSON: it has no key {split!r}")
    keys = [split] if split == "train" and not data.oos else [split, f"oos_{split}"]
    if data.oos and keys[-1] not in raw:
        raise UserError(f"{path}: --oos needs out-of-scope texts, there is no key {keys[-1]!r}")
    examples = []
    for key in keys:
        rows = raw.get(key, [])
        if not isinstance(rows, list):
            raise UserError(f"{path}: is not CLINC150's JSON: {key!r} is not a list")
        for i, row in enumerate(rows):
            if not (isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) for part in row)):
                raise UserError(f"{path}: {key}[{i}]: is not a pair [text, intent]")
            check_length(row[0], f"{path}: {key}[{i}]")
            examples.append(Example(f"{key}:{i}", row[0], row[1], in_scope=key == split))
    return examples


# --- examples -> features ---


def featurize(
    examples: Sequence[Example], tokenizer: Tokenizer, labels: tuple[str, ...], max_length: int, data: DataConfig
) -> EncodedInputs:
    """[CLS] text [SEP], cut to max_length pieces. An out-of-scope text gets IGNORE where there is no class for it."""
    index = {label: i for i, label in enumerate(labels)} | {None: UNLABELLED}
    for example in examples:
        if example.label not in index and example.in_scope:
            raise UserError(
                f"{example.id}: label {example.label[:60]!r} is not one of the {len(labels)} that the model has: "
                f"{', '.join(labels[:8])}{', …' if len(labels) > 8 else ''}"
            )
    ids = [encoding.ids for encoding in tokenizer.encode([e.text for e in examples], max_length=max_length)]
    return EncodedInputs(
        head="sequence",
        ids=[example.id for example in examples],
        tokens=np.fromiter((token for row in ids for token in row), np.int32),
        starts=np.cumsum([0] + [len(row) for row in ids], dtype=np.int64),
        labels=np.array([index.get(example.label, IGNORE) for example in examples], np.int64),
    )


def label_list(examples: Sequence[Example]) -> tuple[str, ...]:
    """The labels of the training examples, sorted: the order of the logits does not depend on the order of the file."""
    return tuple(sorted({example.label for example in examples}))


# --- logits -> decisions and metrics ---


def decide(predictions: Predictions) -> list[str]:
    """The most probable label of each text, or out of scope where even that is less probable than --oos-threshold."""
    threshold = predictions.data.oos_threshold
    labels = [predictions.labels[i] for i in predictions.logits.argmax(axis=1)]
    return [OOS if p < threshold else label for p, label in zip(best_probability(predictions), labels, strict=True)]


def per_class(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, dict]:
    """Precision, recall, F1 and support of every class in gold or prediction; 0 where there is nothing to divide by."""
    rows = {}
    gold, predicted = np.array(gold, object), np.array(predicted, object)
    for label in sorted(set(gold) | set(predicted)):
        hits = int(((gold == label) & (predicted == label)).sum())
        in_gold, in_predicted = int((gold == label).sum()), int((predicted == label).sum())
        rows[label] = {
            "precision": hits / in_predicted if in_predicted else 0.0,
            "recall": hits / in_gold if in_gold else 0.0,
            "f1": 2 * hits / (in_gold + in_predicted),
            "support": in_gold,
        }
    return rows


def score(predictions: Predictions) -> dict:
    """Accuracy, macro-F1 and mean cross-entropy over the texts that are in scope; recall over those that are not.

    Macro-F1 is the plain mean of the F1 of the classes that occur. With an oos class, calling an in-scope text out of
    scope is an error as any other; oos_recall is None where the model cannot predict "out of scope" at all.
    Raises UserError where no text is in scope.
    """
    examples = predictions.examples
    predicted = predictions.decisions
    gold = [example.label for example in examples]
    in_scope = [i for i, example in enumerate(examples) if example.in_scope]
    out_of_scope = [i for i, example in enumerate(examples) if not example.in_scope]
    if not in_scope:
        raise UserError("no text to score: the file has none with a label that is in scope")
    classes = per_class([gold[i] for i in in_scope], [predicted[i] for i in in_scope])
    index = {label: i for i, label in enumerate(predictions.labels)}
    log_p = log_softmax(predictions.logits)
    metrics = {
        "examples": len(in_scope),
        "accuracy": float(np.mean([gold[i] == predicted[i] for i in in_scope])),
        "macro_f1": float(np.mean([row["f1"] for row in classes.values()])),
        "loss": float(-np.mean([log_p[i, index[gold[i]]] for i in in_scope])),
    }
    if out_of_scope:
        able = OOS in predictions.labels or predictions.data.oos_threshold > 0
        metrics["oos_examples"] = len(out_of_scope)
        metrics["oos_recall"] = float(np.mean([predicted[i] == OOS for i in out_of_scope])) if able else None
    return metrics | {"per_class": classes}


def tally(predictions: Predictions) -> np.ndarray:
    """Whether each text counts and is right, and whether it counts: N,2"""
    counts = np.array([example.in_scope for example in predictions.examples])
    return np.stack([counts & predictions.right, counts], axis=1).astype(np.float64)


def confidence(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Of each text in scope, the probability of its best label, and whether that is right."""
    counts = np.array([example.in_scope for example in predictions.examples])
    return best_probability(predictions)[counts], predictions.right[counts]


def confused(predictions: Predictions) -> Counter:
    """How often a label was given to texts of another, or the same, that are in scope."""
    pairs = zip(predictions.examples, predictions.decisions, strict=True)
    return Counter((example.label, label) for example, label in pairs if example.in_scope)


def prediction_records(predictions: Predictions) -> dict:
    """The predicted label of each text, by id, with the probability of the best label and the gold label."""
    columns = predictions.examples, predictions.decisions, best_probability(predictions)
    return {
        example.id: {"label": label, "probability": round(float(p), 6), "gold": example.label}
        for example, label, p in zip(*columns, strict=True)
    }


# --- what a person sees ---


def details(metrics: dict) -> str:
    """A table of the classes, or of the twelve with the lowest F1 where there are more."""
    classes = sorted(metrics["per_class"].items(), key=lambda item: item[1]["f1"])
    title = "per class" if len(classes) <= 12 else f"the 12 classes with the lowest F1, of {len(classes)}"
    return table(
        (title, "precision", "recall", "F1", "texts"),
        [(shorten(name, 40), *row.values()) for name, row in classes[:12]],
    )


def mistakes(predictions: Predictions, most: int = 5) -> str:
    """The most probable of the wrong labels, each with its text."""
    wrong = []
    columns = predictions.examples, predictions.decisions, best_probability(predictions)
    for example, label, probability in zip(*columns, strict=True):
        if label != example.label and (example.in_scope or example.label in predictions.labels):
            what = f"{example.id}  {example.label} -> {label}"
            wrong.append(Mistake(round(float(probability), 6), what, example.text))
    return surest_mistakes(wrong, most)


CSV = Task(
    name="csv",
    head="sequence",
    read=read_csv,
    texts=lambda examples: [example.text for example in examples],
    label_list=label_list,
    featurize=featurize,
    decide=decide,
    score=score,
    columns=("accuracy", "macro_f1", "loss"),
    tally=tally,
    unlabelled=lambda place, text: Example(place, text, label=None),
    unlabel=lambda example: replace(example, label=None),
    reworded=lambda example, change, name: Example(name, " ".join(change(example.text.split())), None),
    confidence=confidence,
    confused=confused,
    prediction_records=prediction_records,
    details=details,
    mistakes=mistakes,
)
AGNEWS = replace(
    CSV,
    name="agnews",
    read=read_agnews,
    label_list=lambda examples: AGNEWS_LABELS,
    # the published settings that this project starts from
    train_defaults=dict(learning_rate=2e-5, epochs=3, batch_size=32, warmup_steps=500, temperature=5.0, alpha=0.5),
)
CLINC = replace(
    CSV,
    name="clinc",
    splits=("train", "val", "test"),
    read=read_clinc,
    columns=("accuracy", "macro_f1", "loss", "oos_recall"),
    # T = 2 is the published one. Its alpha was the best of three on the validation split, with one seed each (MiniLM-L6
    # into its layers 0, 2, 4; 5 epochs, learning rate 2e-4): 0.25 94.67, 0.5 94.50, 0.9 94.17; without a teacher 94.40.
    train_defaults=dict(
        learning_rate=5e-5, epochs=6, batch_size=32, warmup_steps=200, temperature=2.0, alpha=0.25, max_length=64
    ),
)
