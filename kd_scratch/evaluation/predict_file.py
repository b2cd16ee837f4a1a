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

from kd_scratch.common.console import progress, say
from kd_scratch.common.errors import DiskError, UserError, remedy
from kd_scratch.common.files import (
    OF_A_MODEL,
    check_target,
    locked,
    read_json,
    remove,
    replace_file,
    sha256,
    sha256_of_file,
    write_json,
)
from kd_scratch.config import DataConfig
from kd_scratch.evaluation.evaluate import LoadedModel
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.evaluation.inputs import Inputs, Row, open_inputs, open_stream
from kd_scratch.tasks import Predictions, Task, question_answering, token_classification
from kd_scratch.tasks.base import log_softmax

ROWS = 2048  # of a part: sorting more of them by length saves hardly any padding
CHARACTERS = 500_000  # of a part: two minutes of BERT-base
TOKENS = 2048  # of a batch, padding and all: as fast as 512 or 4096 on a CPU, faster than 8192
DELIMITERS = {".csv": ",", ".tsv": "\t", ".jsonl": "", ".ndjson": ""}  # by the ending of OUT; "": no table
BEST = 5  # answers to a question, with --probabilities


# --- predictions -> answers ---


def of_texts(predictions: Predictions, probabilities: bool) -> Iterator[dict]:
    """The label of each text, the probability of the best one, and on request that of each."""
    chances = np.exp(log_softmax(predictions.logits)).round(6).tolist()  # N,C
    for label, row in zip(predictions.decisions, chances, strict=True):
        answer = {"prediction": label, "confidence": max(row)}
        yield answer | {"probabilities": dict(zip(predictions.labels, row, strict=True))} if probabilities else answer


def of_sentences(predictions: Predictions, probabilities: bool) -> Iterator[dict]:
    """The words of each sentence, their tags, the probability of the least certain, and on request that of each tag."""
    chances = np.exp(log_softmax(token_classification.word_logits(predictions))).round(6)  # W,C
    bounds = predictions.features.word_starts
    for i, (example, tags) in enumerate(zip(predictions.examples, predictions.decisions, strict=True)):
        rows = chances[bounds[i] : bounds[i + 1]]
        answer = {"words": example.words, "prediction": tags, "confidence": float(rows.max(axis=1).min())}
        every = [dict(zip(predictions.labels, row, strict=True)) for row in rows.tolist()] if probabilities else ()
        yield answer | {"probabilities": every} if probabilities else answer


def of_questions(predictions: Predictions, probabilities: bool) -> Iterator[dict]:
    """The answer to each question, its probability and place, how probable it is that there is none, and on request the
    best answers with their probabilities."""
    data = predictions.data.answer_length, BEST
    parts = predictions.examples, predictions.features, predictions.logits
    every = question_answering.candidates(*parts, *data) if probabilities else [None] * len(predictions.examples)
    for answer, found in zip(predictions.decisions, every, strict=True):
        numbers = {"confidence": round(answer.probability, 6), "start": answer.start, "end": answer.end}
        record = {"prediction": answer.text, **numbers, "no_answer": round(answer.no_answer, 6)}
        if found:
            record["probabilities"] = [[best.text, round(best.probability, 6)] for best in (*found[0], found[1])]
        yield record


#: Head -> what makes an answer of each prediction, and the fields of one.
ANSWERS = {
    "sequence": (of_texts, ("prediction", "confidence")),
    "token": (of_sentences, ("words", "prediction", "confidence")),
    "span": (of_questions, ("prediction", "confidence", "start", "end", "no_answer")),
}


@dataclass(frozen=True)
class Answerer:
    """A model that answers inputs of a task. probabilities: with those of all labels."""

    loaded: LoadedModel
    task: Task
    data: DataConfig
    device: torch.device
    probabilities: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """What a record has beside the columns of its input."""
        return (*ANSWERS[self.task.head][1], *["probabilities"] * self.probabilities, "error")

    def records(self, rows: Sequence[Row], done: Callable[[int], None] = lambda count: None) -> list[dict]:
        """The columns of each row, with an answer or an error. done: takes how many more rows have one.

        UserError where logits are not finite numbers.
        """
        answers = iter(self.answers([row.example for row in rows if row.example], done))
        return [self.renamed(row.columns) | (next(answers) if row.example else {"error": row.error}) for row in rows]

    def renamed(self, columns: dict) -> dict:
        """The columns of an input, with other names for those that an answer has too."""
        return {f"input_{name}" if name in self.fields else name: value for name, value in columns.items()}

    def answers(self, examples: Sequence, done: Callable[[int], None]) -> list[dict]:
        """The answer to each example, or the error where the task refuses it."""
        if not examples:
            return []
        loaded = self.loaded
        labels = loaded.model.config.labels
        try:
            features = self.task.featurize(examples, loaded.tokenizer, labels, loaded.max_length, self.data)
        except UserError as error:
            if len(examples) > 1:
                return [answer for example in examples for answer in self.answers([example], done)]
            return [{"error": str(error)}]
        inputs = 0

        def count(more: int) -> None:  # a question may have several inputs
            nonlocal inputs
            before, inputs = inputs, inputs + more
            done(len(examples) * inputs // len(features) - len(examples) * before // len(features))

        logits = compute_logits(loaded.model, features, self.device, ROWS, tokens=TOKENS, done=count)
        predictions = Predictions(self.task, examples, features, logits, labels, self.data)
        return list(ANSWERS[self.task.head][0](predictions, self.probabilities))


# --- records -> a file ---


def as_text(line: str) -> str:
    """A line with U+FFFD for what is no text: NUL, and bytes that are not UTF-8."""
    return line.replace("\0", "\ufffd").encode(errors="surrogateescape").decode(errors="replace")


def json_line(record: dict) -> str:
    """A record as a line of JSON."""
    return as_text(json.dumps(record, ensure_ascii=False)) + "\n"


def table_line(values: Iterable, delimiter: str) -> str:
    """A row of a table. What is neither text nor None is written as JSON."""
    cells = ["" if v is None else v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter).writerow(cells)  # a line end of \r\n makes it put quotes around either
    return as_text(buffer.getvalue()[:-2]) + "\n"


def writer(answerer: Answerer, columns: Sequence[str], delimiter: str) -> tuple[str, Callable[[dict], str]]:
    """The header of a file of records (JSON lines have none), and what makes a line of each.

    In a table the probabilities of a text's labels have a column each.
    """
    if not delimiter:
        return "", json_line
    names = [*answerer.renamed(dict.fromkeys(columns)), *answerer.fields]
    if answerer.probabilities and answerer.task.head == "sequence":
        i = names.index("probabilities")
        names[i : i + 1] = [f"probability_{label}" for label in answerer.loaded.model.config.labels]

    def line(record: dict) -> str:
        every = record.get("probabilities")
        each = {f"probability_{label}": p for label, p in every.items()} if isinstance(every, dict) else {}
        return table_line([each.get(name, record.get(name)) for name in names], delimiter)

    return table_line(names, delimiter), line


@dataclass
class Written:
    """How far OUT.part has come, as OUT.part.json has it."""

    run: str  # hash of all that decides what is written
    rows: int = 0
    odd: int = 0
    bytes: int = 0


def answer_stream(answerer: Answerer, source: Iterable[bytes], abstain: bool, write: Callable[[str], None]) -> dict:
    """Write the answer to each line of a stream, as JSON, when it comes; how many there were, and how many odd."""
    counts = {"inputs": 0, "odd": 0}
    for row in open_stream(answerer.task, source, answerer.data, abstain):
        [record] = answerer.records([row])
        write(json_line(record))
        counts["inputs"] += 1
        counts["odd"] += "error" in record
    return counts


def predict_file(
    answerer: Answerer, path: Path, output: Path, split: str = "", abstain: bool = False, force: bool = False
) -> dict:
    """Write the answers to all inputs of a file; the record of how many there are, and how many of them odd.

    output: .csv, .tsv or .jsonl. It goes on where the same call was killed. abstain: questions may be unanswerable.
    force: replace the output, and what another call has left unfinished. UserError where that is needed, and where
    nothing can be read or written.
    """
    model = Path(answerer.loaded.directory)
    part, state = (output.with_name(output.name + end) for end in (".part", ".part.json"))
    for target in (output, part, state):
        check_target(target, path, model)
    if output.suffix.lower() not in DELIMITERS:
        raise UserError(f"--output {output}: give it a name that ends with .csv, .tsv or .jsonl")
    if output.exists() and not force:
        raise UserError(f"--output {output}: is there already; choose another name, or replace it with --force")
    notes: list[str] = []
    inputs = open_inputs(answerer.task, path, split, answerer.data, abstain, notes.append)
    settings = (answerer.task.name, split, abstain, asdict(answerer.data), answerer.probabilities, output.suffix)
    files = sorted(
        file for file in model.iterdir() if file.name in OF_A_MODEL or file.suffix in (".safetensors", ".bin")
    )
    run = sha256(repr(settings), *map(sha256_of_file, (path, *files)))
    with locked(output.parent, part.name):
        written = resumable(part, state, run, force)
        say(
            f"answering {inputs.count:,} inputs of {path} ({path.stat().st_size / 1e6:.1f} MB) with {model} "
            f"({answerer.loaded.model.num_parameters() / 1e6:.1f}M), {answerer.device.type}, "
            f"{torch.get_num_threads()} threads, into {output}"
            + (f"; {written.rows:,} of them are answered already" if written.rows else "")
        )
        for note in notes:
            say(f"note: {note}")
        before, start = written.rows, time.monotonic()
        write_parts(answerer, inputs, part, state, written)
        replace_file(part, output)
        remove(state)
    return {
        "model": str(model),
        "data": str(path),
        "output": str(output),
        "inputs": written.rows,
        "odd": written.odd,
        "resumed at": before,
        "seconds": round(time.monotonic() - start, 2),
    }


def resumable(part: Path, state: Path, run: str, force: bool) -> Written:
    """How far this run has come before. UserError where another one stands there, but for force."""
    with suppress(UserError, TypeError):
        written = Written(**read_json(state))
        if written.run == run and part.stat().st_size >= written.bytes:
            return written
    if not force and (state.exists() or part.stat().st_size):
        raise UserError(
            f"{part}: is what another run has left, of another input, model or setting; choose another --output, or "
            "begin anew with --force"
        )
    return Written(run)


def write_parts(answerer: Answerer, inputs: Inputs, part: Path, state: Path, written: Written) -> None:
    """Append the records of all rows that are not yet written, part by part."""
    header, line = writer(answerer, inputs.columns, DELIMITERS[part.with_suffix("").suffix.lower()])
    rows = islice(inputs.read(), written.rows, None)
    try:
        with (
            open(part, "r+b") as file,
            progress(total=inputs.count, initial=written.rows, desc="answering", unit="row") as bar,
        ):
            file.truncate(written.bytes)
            file.seek(written.bytes)
            file.write(b"" if written.bytes else header.encode())
            while chunk := next_part(rows):
                records = answerer.records(chunk, bar.update)
                file.write("".join(map(line, records)).encode())
                file.flush()
                os.fsync(file.fileno())
                written.rows += len(records)
                written.odd += sum("error" in record for record in records)
                written.bytes = file.tell()
                write_json(state, asdict(written))
    except OSError as error:
        raise DiskError(f"{part}: cannot be written: {error.strerror}{remedy(error)}") from None


def next_part(rows: Iterator[Row]) -> list[Row]:
    """The rows that are answered and written together, from where an iterator stands; [] at the end."""
    chunk, size = [], 0
    while len(chunk) < ROWS and size < CHARACTERS and (row := next(rows, None)):
        chunk.append(row)
        size += sum(len(value) for value in row.columns.values() if isinstance(value, str))
    return chunk
