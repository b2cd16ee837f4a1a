"""A model and a file in, a file of predictions out: one row for each input, in their order, odd ones with an error.

    rows ──> parts of at most ROWS ──> features ──> batches of like length ──> answers ──> OUT.part ──> OUT

A part is computed and appended as a whole, then OUT.part.json counts its rows and bytes. What was killed in between
cuts OUT.part back to those and goes on with the next part. So its batches, and all numbers, are those of one run.
"""

import csv
import io
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from kd_scratch.common import files
from kd_scratch.common.console import progress, say
from kd_scratch.common.device import device_and_threads
from kd_scratch.common.errors import DiskError, UserError, remedy
from kd_scratch.config import DataConfig
from kd_scratch.evaluation.evaluate import LoadedModel, require_fit
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.evaluation.inputs import Row, open_inputs, open_stream
from kd_scratch.nn import int8, kernels
from kd_scratch.tasks import Predictions, Task, question_answering, token_classification
from kd_scratch.tasks.base import are_pairs, log_softmax
from kd_scratch.tasks.multi_label import sigmoid

ROWS = 2048  # of a part: sorting more of them by length saves hardly any padding
CHARACTERS = 500_000  # of a part: two minutes of BERT-base
DELIMITERS = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": ""}  # by the ending of OUT; "": no table
BEST = 5  # answers to a question that have a probability


# --- predictions -> answers ---


def surely(probability: float) -> dict[str, float]:
    """How sure a model is: as it is written, and as --below compares it."""
    return {"confidence": round(probability, 6), "sure": probability}


def of_texts(predictions: Predictions) -> Iterator[dict]:
    """The label of each text, or several, how sure that is, and the probability of each label."""
    task, logits = predictions.task, predictions.logits
    chances = sigmoid(logits) if task.multi_label else np.exp(log_softmax(logits))  # N,C
    columns = predictions.decisions, task.sureness(predictions).tolist(), chances.round(6).tolist()
    for label, sure, row in zip(*columns, strict=True):
        every = dict(zip(predictions.labels, row, strict=True))
        yield {"prediction": label, **surely(sure), "probabilities": every}


def of_sentences(predictions: Predictions) -> Iterator[dict]:
    """The words of each sentence, their tags, the probability of the least certain one, and that of all of each."""
    chances = np.exp(log_softmax(token_classification.word_logits(predictions)))  # W,C
    chances = np.split(chances, predictions.features.word_starts[1:-1])
    for example, tags, rows in zip(predictions.examples, predictions.decisions, chances, strict=True):
        every = [dict(zip(predictions.labels, row, strict=True)) for row in rows.round(6).tolist()]
        least = surely(float(rows.max(axis=1).min()))
        yield {"words": example.words, "prediction": tags, **least, "probabilities": every}


def of_questions(predictions: Predictions) -> Iterator[dict]:
    """The answer to each question, its place, its probability, that of no answer against it, and those of the best."""
    for answer, best in question_answering.decide_among(predictions, BEST):
        numbers = surely(answer.probability) | {"no_answer": round(answer.no_answer, 6)}
        every = [[other.text, round(other.probability, 6)] for other in best]
        place = {"start": answer.start, "end": answer.end}
        yield {"prediction": answer.text, **numbers, **place, "probabilities": every}


#: Head -> what makes an answer of each prediction, and its fields.
ANSWERS = {
    "sequence": (of_texts, ("prediction", "confidence")),
    "token": (of_sentences, ("words", "prediction", "confidence")),
    "span": (of_questions, ("prediction", "confidence", "no_answer", "start", "end")),
}


@dataclass(frozen=True)
class Answerer:
    """A model that answers inputs of a task. abstain: questions may be unanswerable. probabilities: of all labels.

    other: a model of the same labels that answers instead where this one is less sure than `below` (see cascade.py).
    """

    loaded: LoadedModel
    task: Task
    data: DataConfig
    device: torch.device
    abstain: bool = False
    probabilities: bool = False
    other: "Answerer | None" = None
    below: float = 0.0

    @property
    def fields(self) -> tuple[str, ...]:
        """What a record has beside the columns of its input."""
        asked = ["asked"] * (self.other is not None)
        return (*ANSWERS[self.task.head][1], *asked, *["probabilities"] * self.probabilities, "error")

    @property
    def pairs(self) -> bool:
        """Whether the model reads pairs of texts."""
        return bool(self.loaded.model.config.pairs)

    @property
    def by_label(self) -> list[str]:
        """The columns of a table that have the probabilities of labels."""
        of_texts = self.probabilities and self.task.head == "sequence"
        return [f"probability_{label}" for label in self.loaded.model.config.labels] if of_texts else []

    def records(self, rows: Sequence[Row], title: str = "") -> list[dict]:
        """The columns of each row, with an answer or an error. UserError where logits are not finite numbers."""
        answers = iter(self.answers([row.example for row in rows if row.example], title))
        return [row.columns | (next(answers) if row.example else {"error": row.error}) for row in rows]

    def answers(self, examples: Sequence, title: str) -> list[dict]:
        """The answer to each example, of the other model where this one is not sure, or the error."""
        found, asked = self.own_answers(examples, title), {}
        if self.other is not None:
            unsure = [i for i, answer in enumerate(found) if answer.get("sure", 1.0) < self.below]
            others = self.other.own_answers([examples[i] for i in unsure], title)
            asked = dict(zip(unsure, others, strict=True))
        answers = (asked.get(i, answer) | {"asked": i in asked} for i, answer in enumerate(found))
        return [{name: answer[name] for name in self.fields if name in answer} for answer in answers]

    def own_answers(self, examples: Sequence, title: str) -> list[dict]:
        """This model's answer to each example, or the error where the task refuses it."""
        if not examples:
            return []
        loaded = self.loaded
        labels = loaded.model.config.labels
        try:
            features = self.task.featurize(examples, loaded.tokenizer, labels, loaded.max_length, self.data)
        except UserError as error:
            if len(examples) > 1:
                return [answer for example in examples for answer in self.own_answers([example], title)]
            return [{"error": str(error)}]
        logits = compute_logits(loaded.model, features, self.device, title=title)
        threshold = loaded.model.config.threshold
        found = Predictions(self.task, examples, features, logits, labels, self.data, threshold)
        return list(ANSWERS[self.task.head][0](found))


def answer_stream(answerer: Answerer, source: Iterable[str], write: Callable[[str], None]) -> dict:
    """Write the answer to each line of a stream, as JSON, when it comes; how many there were, and how many odd."""
    counts = {"inputs": 0, "odd": 0}
    for row in open_stream(answerer.task, source, answerer.data, answerer.abstain, answerer.fields, answerer.pairs):
        [record] = answerer.records([row])
        write(json_line(record))
        counts["inputs"] += 1
        counts["odd"] += "error" in record
    return counts


# --- records -> a file ---


def as_text(line: str) -> str:
    """A line with U+FFFD for what is no text: NUL, and bytes that are not UTF-8."""
    return line.replace("\0", "\ufffd").encode(errors="surrogateescape").decode(errors="replace")


def json_line(record: dict) -> str:
    """A record as a line of JSON. NaN and Infinity, which an input's own fields may hold, are null: JSON has none."""
    try:
        return as_text(json.dumps(record, ensure_ascii=False, allow_nan=False)) + "\n"
    except ValueError:
        return json_line(json.loads(json.dumps(record), parse_constant=lambda name: None))


def table_line(values: Iterable, delimiter: str) -> str:
    """A row of a table. What is neither text nor None is written as JSON."""
    cells = ["" if v is None else v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerow(cells)  # a line end of \r\n makes it put quotes around either
    return as_text(buffer.getvalue()[:-2]) + "\n"


def table_writer(answerer: Answerer, columns: Sequence[str], delimiter: str) -> tuple[str, Callable[[dict], str]]:
    """The header of a table of records, and what makes a row of each. The probabilities of labels have columns;
    several labels of a text share one, with --label-separator between them."""
    names, by_label = [*columns, *answerer.fields], answerer.by_label
    separator = answerer.data.label_separator if answerer.task.multi_label else ""
    if by_label:
        names[-2:-1] = by_label
    if unfit := [label for label in answerer.loaded.model.config.labels if separator and separator in label]:
        cure = "choose another --label-separator, or an --output that ends with .jsonl"
        raise UserError(f"the label {unfit[0][:40]!r} holds {separator!r}, which is to part labels; {cure}")

    def line(record: dict) -> str:
        if separator and "prediction" in record:
            record = record | {"prediction": separator.join(record["prediction"])}
        each = {f"probability_{label}": p for label, p in record.get("probabilities", {}).items()} if by_label else {}
        return table_line(map((record | each).get, names), delimiter)

    return table_line(names, delimiter), line


@dataclass
class Written:
    """How far OUT.part has come, as OUT.part.json has it."""

    run: str  # hash of all that decides what is written
    rows: int = 0
    odd: int = 0
    bytes: int = 0


def predict_file(answerer: Answerer, path: Path, output: Path, split: str = "", force: bool = False) -> dict:
    """Write the answers to all inputs of a file; the record of how many there are, and how many of them odd.

    output: .csv, .tsv or .jsonl. It goes on where the same call was killed. force: replace the output, and what another
    call has left unfinished. Raises UserError where that is needed, and where nothing can be read or written.
    """
    start, loaded, task = time.monotonic(), answerer.loaded, answerer.task
    answerers = [one for one in (answerer, answerer.other) if one]
    models = [Path(one.loaded.directory) for one in answerers]
    model, ending = models[0], output.suffix.lower()
    part, state = (output.with_name(output.name + end) for end in (".part", ".part.json"))
    for target in (output, part, state):
        files.check_target(target, path, *models)
    if ending not in DELIMITERS:
        raise UserError(f"--output {output}: give it a name that ends with .csv, .tsv or .jsonl")
    if output.exists() and not force:
        raise UserError(f"--output {output}: is there already; choose another name, or replace it with --force")
    notes: list[str] = []
    taken = {*answerer.fields, *answerer.by_label}
    read, count, columns = open_inputs(
        task, path, split, answerer.data, answerer.abstain, taken, notes.append, answerer.pairs
    )
    first = next((row.example for row in read() if row.example), None)
    for one in answerers:
        require_fit(one.loaded, are_pairs([first]), str(path))
    delimiter = DELIMITERS[ending]
    header, line = table_writer(answerer, columns, delimiter) if delimiter else ("", json_line)
    rounded = int8.describe(one.loaded.model for one in answerers)
    ways = task.name, split, answerer.data, answerer.abstain, answerer.fields, answerer.below, delimiter, rounded
    computed_by = answerer.device.type, kernels.config().kernels, torch.get_num_threads()  # last digits depend on them
    settings = repr((*ways, *computed_by, path.suffix.lower()))
    of_models = [
        file
        for folder in models
        for file in sorted(folder.iterdir())
        if file.name in files.OF_A_MODEL or file.suffix in (".safetensors", ".bin")
    ]
    run = files.sha256(settings, *map(files.sha256_of_file, (path, *of_models)))
    with files.locked(output.parent, part.name):
        written = resumable(part, state, run, force)
        before = written.rows
        say(
            f"answering {count:,} inputs of {path} ({path.stat().st_size / 1e6:.1f} MB) with {loaded.describe()}, "
            f"{device_and_threads(answerer.device)}, into {output}"
            f"{f'; {before:,} of them are answered already' if before else ''}"
        )
        for note in notes:
            say(f"note: {note}")
        rows = islice(read(), before, None)
        with progress(total=count, initial=before, desc="answering", unit="row") as bar:
            while chunk := next_part(rows):
                records = answerer.records(chunk, title=f"the next {len(chunk):,}")
                written.rows += len(records)
                written.odd += sum("error" in record for record in records)
                append(part, state, written, "" if written.bytes else header, map(line, records))
                bar.update(len(records))
        files.replace_file(part, output)
        files.remove(state)
    counts = {"inputs": written.rows, "odd": written.odd, "resumed at": before}
    seconds = round(time.monotonic() - start, 2)
    return {"model": str(model), "data": str(path), "output": str(output), **counts, "seconds": seconds}


def resumable(part: Path, state: Path, run: str, force: bool) -> Written:
    """How far this run has come before. UserError where what another one has left is in the way, but for force."""
    part.touch()
    with suppress(UserError, TypeError):
        written = Written(**files.read_json(state))
        if written.run == run and part.stat().st_size >= written.bytes:
            return written
    if not force and part.stat().st_size:
        why = "is what another run has left, of another input, model or setting (--threads too)"
        raise UserError(f"{part}: {why}; choose another --output, or begin anew with --force")
    files.write_json(state, asdict(Written(run)))  # from here on what stands in the part is this run's
    return Written(run)


def append(part: Path, state: Path, written: Written, header: str, lines: Iterable[str]) -> None:
    """Add lines where the last part that is counted ends, then count them."""
    try:
        with open(part, "r+b") as file:
            file.truncate(written.bytes)
            file.seek(written.bytes)
            file.write(f"{header}{''.join(lines)}".encode())
            file.flush()
            os.fsync(file.fileno())
            written.bytes = file.tell()
    except OSError as error:
        raise DiskError(f"{part}: cannot be written: {error.strerror}{remedy(error)}") from None
    files.write_json(state, asdict(written))


def next_part(rows: Iterator[Row]) -> list[Row]:
    """The rows that are answered and written together, from where an iterator stands; [] at the end."""
    chunk, size = [], 0
    while len(chunk) < ROWS and size < CHARACTERS and (row := next(rows, None)):
        chunk.append(row)
        size += sum(len(value) for value in row.columns.values() if isinstance(value, str))
    return chunk
