"""Which example, which input of it and which position `trace` follows, and both models' ways over that input."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from kd_scratch.common.console import shorten
from kd_scratch.common.errors import UserError, printable
from kd_scratch.config import DataConfig, TrainConfig, flag_name
from kd_scratch.data.batches import IGNORE, UNLABELLED, Batch, EncodedInputs, collate
from kd_scratch.evaluation.evaluate import LoadedModel, evaluate, read_evaluation_set
from kd_scratch.nn.model import Model
from kd_scratch.tasks import TASKS, Predictions, Task, question_answering
from kd_scratch.trace.stages import near
from kd_scratch.trace.steps import Walk, walk_through

CPU = torch.device("cpu")


@dataclass(frozen=True)
class TraceSpec:
    """What is traced: two models, the loss between them (config), and one example.

    The example is one of a file, or your own text: `text`, or for squad `question` and `context`.
    Example: TraceSpec("csv", "runs/student", "runs/teacher", text="a new moon")
    """

    task: str
    model: str  # the student's directory
    teacher: str
    file: Path | None = None
    split: str = ""  # "" where a file is one split; of those that hold several, test
    example: str | None = None  # its id, or its number from 1; None: the first
    text: str | None = None
    text_pair: str | None = None  # the second text of a pair
    question: str | None = None
    context: str | None = None
    max_length: int = 0  # 0: what the student was trained with
    config: TrainConfig = field(default_factory=TrainConfig)
    data: DataConfig = field(default_factory=DataConfig)


@dataclass
class Found:
    """The example to follow, place in the examples that are read together with it."""

    examples: list
    place: int
    source: str  # where it comes from, as a sentence


@dataclass
class Side:
    """One model's way over the input that is followed, and what comes out of all inputs of the example."""

    walk: Walk
    predictions: Predictions


@dataclass
class Trail:
    """One input of an example, the position in it that is followed, and both models' ways over it."""

    task: Task
    data: DataConfig
    max_length: int
    gold: object  # the example as it was read
    place: int  # the example's, among those that were featurized with it
    features: EncodedInputs
    window: int  # the input of these features that is followed
    batch: Batch  # that input alone
    position: int
    why: str  # why this input and this position
    unknown: str  # why there is no label; empty: there is one
    pieces: list[str]
    student: Side
    teacher: Side

    @property
    def sides(self) -> dict[str, Side]:
        """Both models by name."""
        return {"student": self.student, "teacher": self.teacher}

    @property
    def labels(self) -> tuple[str, ...]:
        """The student's labels, in the order of the logits."""
        return self.student.walk.model.config.labels

    @property
    def unit(self) -> int:
        """Which of the input's units is followed: the position's; of several labels the first that the text has,
        else the student's most probable one."""
        if self.task.multi_label:
            there = (self.batch.labels[0] == 1).nonzero().flatten().tolist()
            return there[0] if there else int(self.student.walk.logits[0].argmax())
        return self.batch.counted.tolist().index(self.position) if self.task.head == "token" else 0

    @property
    def shown(self) -> list[int | None]:
        """The positions that tables of the pieces show, None for a gap."""
        ends = self.batch.labels[0].tolist() if self.task.head == "span" else []
        return near(len(self.pieces), self.position, *ends)


# --- which example ---


def own_example(spec: TraceSpec, task: Task):
    """The example of your own text, None where it is in a file. UserError for fields that do not go together."""
    needed = ["question", "context"] if task.head == "span" else ["text"]
    if spec.text_pair is not None and task.head == "sequence":
        needed.append("text_pair")
    names = ("text", "text_pair", "question", "context")
    fields = {"data": spec.file} | {name: getattr(spec, name) for name in names}
    given = [name for name, value in fields.items() if value is not None]
    if given == ["data"]:
        return None
    if given != needed:
        flags = " and ".join(map(flag_name, needed))
        raise UserError(f"--task {task.name} needs --data, or {flags}; given: {', '.join(given) or 'nothing'}")
    if spec.example is not None:
        raise UserError("--example: is for a file; leave it out beside your own text")
    if task.head == "span":
        return question_answering.Example("your own question", spec.question, spec.context, labelled=False)
    if task.unlabelled is None:
        raise UserError(f"--text: plain text is no input for {task.name}; give --data")
    example = task.unlabelled("your own text", *(text for text in (spec.text, spec.text_pair) if text is not None))
    if task.head == "token" and not example.words:
        raise UserError("--text: holds no word")
    return example


def find_example(spec: TraceSpec) -> Found:
    """The example that was asked for. Raises UserError where there is none such."""
    task = TASKS[spec.task]
    own = own_example(spec, task)
    if own is not None:
        return Found([own], 0, "This is your own text, not from a file; it has no label.")
    source = read_evaluation_set(task, spec.file, spec.split, spec.data)
    examples = source.examples
    place = 0 if spec.example is None else place_of(spec.example, examples, spec.file)
    split = f", split {source.split}" if source.split else ""
    text = printable(f"This is example {place + 1:,} of {len(examples):,} in {spec.file}{split}.")
    if not (task.head == "token" and spec.data.documents):
        return Found([examples[place]], 0, text)
    first = place  # windows go over whole documents
    while first > 0 and examples[first - 1].document == examples[place].document:
        first -= 1
    after = place + 1
    while after < len(examples) and examples[after].document == examples[place].document:
        after += 1
    text += f" It is read with its document of {after - first} sentences (--documents)."
    return Found(list(examples[first:after]), place - first, text)


def place_of(wanted: str, examples: Sequence, file: Path) -> int:
    """The place, from 0, of the example with this id, or else this number from 1. UserError where there is none."""
    place = next((i for i, example in enumerate(examples) if example.id == wanted), None)
    if place is not None:
        return place
    if wanted.isdecimal() and len(wanted) < 10 and 0 < int(wanted) <= len(examples):
        return int(wanted) - 1
    known = f"{len(examples):,} examples, by number from 1 or by id, such as {examples[0].id}"
    raise UserError(f"--example {wanted}: {file} has {known}")


# --- which input, which position ---


def follow(spec: TraceSpec, student: LoadedModel, teacher: Model, found: Found) -> Trail:
    """Both models' ways over one input of the example that was found."""
    task = TASKS[spec.task]
    examples = found.examples
    gold = examples[found.place]
    unknown = ""
    predictions = evaluate(student, task, examples, spec.data, CPU)
    labels = predictions.features.labels
    if task.head == "token":
        labels = labels[word_places(predictions, found.place)]
    if (labels == IGNORE).all():
        unknown = "The label in the file is none that the models have, so it is followed as if there were none."
        if task.head == "span":
            unknown = "No window holds the whole answer, so there is nothing to learn: it is followed without."
        examples = [*examples]
        examples[found.place] = task.unlabel(gold)
        predictions = evaluate(student, task, examples, spec.data, CPU)
    elif (labels == UNLABELLED).any():
        unknown = "There is no label."
    window, position, why = place_to_follow(task, predictions, found.place)
    features = predictions.features
    batch = collate(features, np.array([window]), CPU, student.model.config.pad_id)
    pieces = [shorten(piece, 14) for piece in student.tokenizer.pieces(batch.input_ids[0].tolist())]
    taught_by = replace(student, model=teacher, directory=spec.teacher)
    teacher_predictions = evaluate(taught_by, task, examples, spec.data, CPU)
    if len(features) > 1:
        size = f"{len(features)} inputs (windows) of at most {student.max_length} pieces"
        why = f"What is read makes {size}. Followed: number {window + 1}, {why}"
    else:
        why = f"Followed: {why}"
    return Trail(
        task=task,
        data=spec.data,
        max_length=student.max_length,
        gold=gold,
        place=found.place,
        features=features,
        window=window,
        batch=batch,
        position=position,
        why=f"{why}. The position followed is {position}, {pieces[position]!r}.",
        unknown=unknown,
        pieces=pieces,
        student=Side(walk_through(student.model, batch), predictions),
        teacher=Side(walk_through(teacher, batch), teacher_predictions),
    )


def word_places(predictions: Predictions, place: int) -> np.ndarray:
    """Where the first pieces of an example's words are among all tokens (token head)."""
    first, after = predictions.features.word_starts[place : place + 2]
    return predictions.features.word_at[first:after]


def place_to_follow(task: Task, predictions: Predictions, place: int) -> tuple[int, int, str]:
    """Which input of an example, which position in it, and why: one where the decision depends on it."""
    if task.head == "sequence":
        return 0, 0, "[CLS], from which the label is read"
    return word_to_follow(predictions, place) if task.head == "token" else start_to_follow(predictions)


def word_to_follow(predictions: Predictions, place: int) -> tuple[int, int, str]:
    """The first word with a label that begins an entity, else the first one with a label: its first piece."""
    features = predictions.features
    places = word_places(predictions, place)
    labels = features.labels[places].tolist()
    decisions = predictions.decisions[place]
    tags = [predictions.labels[k] if k >= 0 else tag for k, tag in zip(labels, decisions, strict=True)]
    words = [w for w, label in enumerate(labels) if label != IGNORE]
    word = next((w for w in words if tags[w] != "O"), words[0])
    window = int(np.searchsorted(features.starts, places[word], side="right")) - 1
    why = "the first word of an entity" if tags[word] != "O" else "the first word (there is no entity)"
    return window, int(places[word] - features.starts[window]), why


def start_to_follow(predictions: Predictions) -> tuple[int, int, str]:
    """The start of the answer; without a label, the most probable start in the first window."""
    features = predictions.features
    starts = features.labels[:, 0]
    if (starts >= 0).any():
        window = int(starts.argmax())  # 0 where none holds the answer
        return window, int(starts[window]), "the start of the answer" if starts[window] else "[CLS]: no answer"
    logits = np.where(features.allowed, predictions.logits[:, 0], -np.inf)[: features.starts[1]]
    return 0, int(logits.argmax()), "the student's most probable start of an answer in the first window"
