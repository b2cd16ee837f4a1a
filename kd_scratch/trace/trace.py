"""One example followed through every stage, number by number: a tour of the code. `python -m kd_scratch trace`"""

import argparse
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kd_scratch.common.console import COLUMNS, say, shorten, show, table
from kd_scratch.common.device import start
from kd_scratch.common.errors import UserError, printable
from kd_scratch.common.files import check_target, write_text
from kd_scratch.config import DataConfig, RunConfig, TrainConfig, add_flags, given
from kd_scratch.data.batches import IGNORE, UNLABELLED, collate
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.distillation.hidden_losses import HiddenLosses, make_hidden_losses, parse_layer_map, parse_losses
from kd_scratch.evaluation.evaluate import LoadedModel, evaluate, load_for_inference, read_evaluation_set
from kd_scratch.nn.model import Model
from kd_scratch.pages import html, svg
from kd_scratch.pages.records import RECORD, known_record
from kd_scratch.tasks import TASKS, Predictions, Task, deciding_tasks, question_answering, train_defaults
from kd_scratch.trace.steps import (
    Grid,
    Stage,
    attention_stage,
    blocks_stage,
    embedding_stage,
    feed_forward_stage,
    head_stage,
    join_stage,
    most,
    walk,
    where,
)
from kd_scratch.trace.terms import all_units, followed_unit, hidden_losses_stage, logits_stage, loss_stages, total_stage
from kd_scratch.trace.trail import Side, Trail, decision_stage, features_stage, file_stage, pieces_stage
from kd_scratch.training.setup import open_teacher

LOSS = ("temperature", "alpha", "losses", "layer_map")  # what of TrainConfig decides the loss
CPU = torch.device("cpu")
LARGEST = 32  # most pieces in a picture of attention


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `trace`."""
    parser.add_argument("--task", required=True, choices=deciding_tasks())
    parser.add_argument("--model", required=True, metavar="DIR", help="the student")
    parser.add_argument("--teacher", required=True, metavar="DIR")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the file that holds the example")
    parser.add_argument("--split", default="", metavar="NAME", help="clinc: train, val or test (default test)")
    parser.add_argument("--example", metavar="ID", help="its id, or its number from 1 (default 1)")
    parser.add_argument("--text", metavar="TEXT", help="instead of a file: your own text")
    parser.add_argument(
        "--question", metavar="TEXT", help="squad, instead of a file: your own question about --context"
    )
    parser.add_argument("--context", metavar="TEXT", help="squad: the text that holds the answer")
    parser.add_argument("--output", type=Path, metavar="FILE.html", help="write it there as a page, with pictures")
    parser.add_argument(
        "--max-length",
        type=int,
        default=0,
        metavar="N",
        help="longest input in word pieces (default: what the student was trained with)",
    )
    add_flags(parser, TrainConfig, only=LOSS, task_defaults=train_defaults())
    add_flags(parser, DataConfig)
    add_flags(parser, RunConfig, only=("seed", "threads"))


# --- which example, which input, which position ---


def own_example(arguments: argparse.Namespace, task: Task):
    """The example that the flags themselves hold, None where it is in a file. UserError for flags that don't fit."""
    own = ("question", "context") if task.head == "span" else ("text",)
    there = [name for name in ("data", "text", "question", "context") if getattr(arguments, name) is not None]
    if there == ["data"]:
        return None
    if there != list(own):
        flags = " and ".join(f"--{name}" for name in own)
        raise UserError(f"--task {task.name} needs --data, or {flags}; given: {', '.join(there) or 'nothing'}")
    if arguments.example is not None:
        raise UserError("--example: is for a file; leave it out beside your own text")
    if task.head == "span":
        return question_answering.Example("your own question", arguments.question, arguments.context, labelled=False)
    if task.unlabelled is None:
        raise UserError(f"--text: plain text is no input for {task.name}; give --data")
    example = task.unlabelled("your own text", arguments.text)
    if task.head == "token" and not example.words:
        raise UserError("--text: holds no word")
    return example


def find_example(arguments: argparse.Namespace, task: Task, data: DataConfig) -> tuple[list, int, str]:
    """The examples that are read in one go with the one that was asked for, its place among them, and what it is."""
    own = own_example(arguments, task)
    if own is not None:
        return [own], 0, "This is your own text, not from a file; nobody knows what is right."
    test, wanted = read_evaluation_set(task, arguments.data, arguments.split, data), arguments.example or "1"
    examples = test.examples
    place = next((i for i, example in enumerate(examples) if example.id == wanted), None)
    if place is None and wanted.isdecimal() and len(wanted) < 10 and 0 < int(wanted) <= len(examples):
        place = int(wanted) - 1
    if place is None:
        raise UserError(
            f"--example {wanted}: {arguments.data} has {len(examples):,} examples, by number from 1 or by id, such as "
            f"{examples[0].id}"
        )
    split = f", split {test.split}" if test.split else ""
    said = printable(f"This is example {place + 1:,} of {len(examples):,} in {arguments.data}{split}.")
    if not (task.head == "token" and data.documents):
        return [examples[place]], 0, said
    first, after = place, place + 1  # windows go over whole documents
    while first > 0 and examples[first - 1].document == examples[place].document:
        first -= 1
    while after < len(examples) and examples[after].document == examples[place].document:
        after += 1
    said += f" It is read with its document of {after - first} sentences (--documents)."
    return list(examples[first:after]), place - first, said


def follow(
    task: Task, data: DataConfig, student: LoadedModel, teacher: Model, passage: list, i: int
) -> tuple[Trail, str]:
    """Both models' ways over one input of example i of those read in one go, and why it is this input and position."""
    gold, unknown = passage[i], ""
    predictions = evaluate(student, task, passage, data, CPU)
    labels = predictions.features.labels
    if task.head == "token":
        labels = labels[predictions.features.word_at[slice(*predictions.features.word_starts[i : i + 2])]]
    if (labels == IGNORE).all():
        unknown = "The file's label is none that the model knows, so it is followed as if there were none."
        if task.head == "span":
            unknown = "No window holds the whole answer, so there is nothing to learn: it is followed without."
        passage = [*passage[:i], task.unlabel(gold), *passage[i + 1 :]]
        predictions = evaluate(student, task, passage, data, CPU)
    elif (labels == UNLABELLED).any():
        unknown = "Nobody knows the label."
    window, at, why = place_to_follow(task, predictions, i)
    features = predictions.features
    batch = collate(features, np.array([window]), CPU, student.model.config.pad_id)
    pieces = [shorten(piece, 14) for piece in student.tokenizer.pieces(batch.input_ids[0].tolist())]
    taught = evaluate(replace(student, model=teacher), task, passage, data, CPU)
    mine, its = (Side(model, walk(model, batch), o) for model, o in ((student.model, predictions), (teacher, taught)))
    trail = Trail(task, data, gold, student.max_length, i, features, window, batch, at, pieces, unknown, mine, its)
    if len(features) > 1:
        size = f"{len(features)} inputs (windows) of at most {student.max_length} pieces"
        why = f"What is read makes {size}. Followed: number {window + 1}, {why}."
    else:
        why = f"Followed: {why}."
    return trail, f"{why} The position followed is {at}, {pieces[at]!r}."


def place_to_follow(task: Task, predictions: Predictions, i: int) -> tuple[int, int, str]:
    """Which input of example i, which position in it, and why: that which is decided there matters."""
    features = predictions.features
    if task.head == "sequence":
        return 0, 0, "[CLS], from which the label is read"
    if task.head == "token":
        places = features.word_at[slice(*features.word_starts[i : i + 2])]
        known = predictions.labels
        labels = features.labels[places].tolist()
        tags = [known[k] if k >= 0 else tag for k, tag in zip(labels, predictions.decisions[i], strict=True)]
        words = [w for w, label in enumerate(labels) if label != IGNORE]
        w = next((w for w in words if tags[w] != "O"), words[0])
        window = int(np.searchsorted(features.starts, places[w], side="right")) - 1
        what = "the first word of an entity" if tags[w] != "O" else "the first word (there is no entity)"
        return window, int(places[w] - features.starts[window]), what
    starts = features.labels[:, 0]
    if (starts >= 0).any():
        window = int(starts.argmax())  # 0 where none holds the answer
        return window, int(starts[window]), "the start of the answer" if starts[window] else "[CLS]: no answer"
    logits = np.where(features.allowed, predictions.logits[:, 0], -np.inf)[: features.starts[1]]
    return 0, int(logits.argmax()), "where the student would rather start the answer in the first window"


# --- the stages, as text and as a page ---


def all_stages(
    trail: Trail, tokenizer: Tokenizer, config: TrainConfig, hidden_losses: HiddenLosses | None, file: Stage, why: str
) -> list[Stage]:
    """The whole way. file: the first stage; why: what is to be said of the choice of input and position."""
    model, way, at, pieces = trail.student.model, trail.student.walk, trail.at, trail.pieces
    mine, its, labels, how = all_units(trail)
    unit = followed_unit(trail, mine, its, labels)
    outcome = unit.label if unit.label is not None else most(unit.student, 1)[0]
    name = "'start'" if trail.task.head == "span" else repr(unit.names[outcome])
    sides, first = {name: (side.model, side.walk) for name, side in trail.sides.items()}, model.encoder.blocks[0]
    joined, state = join_stage(first, way.states[0], at)
    stages = [
        file,
        pieces_stage(trail, tokenizer),
        features_stage(trail, why),
        embedding_stage(model, trail.batch, at, pieces[at]),
        attention_stage(first, way.states[0], at, pieces),
        joined,
        feed_forward_stage(first, state),
        blocks_stage(sides, at, pieces),
        head_stage(sides, at, 0 if trail.task.head == "span" else outcome, name),
        logits_stage(unit, how),
        *loss_stages(unit, config),
    ]
    total = None
    if hidden_losses is not None:
        stage, total = hidden_losses_stage(trail, hidden_losses)
        stages.append(stage)
    return [*stages, total_stage(trail, mine, its, labels, config, total), decision_stage(trail)]


def fill(said: str) -> str:
    """A paragraph for the terminal."""
    return textwrap.fill(said, COLUMNS, break_on_hyphens=False)


def as_text(stages: Sequence[Stage]) -> str:
    """For the terminal: at most 80 columns."""
    lines = []
    for i, stage in enumerate(stages, 1):
        title = f"{i}. {stage.title}"
        lines += ["", title, "-" * len(title)]
        lines += [f"{'code:' if j == 0 else '':6}{where(function)}" for j, function in enumerate(stage.code)]
        for part in stage.parts:
            shown = table(part.header, part.rows, left=part.left) if isinstance(part, Grid) else fill(part)
            lines += ["", shown]
    return "\n".join(lines)


def as_html(title: str, lead: str, stages: Sequence[Stage]) -> str:
    """The same as a page, with the pictures."""
    sections = []
    for i, stage in enumerate(stages, 1):
        body = [html.paragraph("code: " + " · ".join(map(where, stage.code)), "soft")]
        body += [
            html.html_table(part.header, part.rows, part.left) if isinstance(part, Grid) else html.paragraph(part)
            for part in stage.parts
        ]
        if stage.maps:
            body.append(heat_maps(stage.maps))
        sections.append((f"{i}. {stage.title}", "\n".join(body)))
    return html.page(title, lead, sections)


def heat_maps(maps: Sequence[tuple[str, list[str], Tensor]]) -> str:
    """Attention weights as pictures side by side. Of more than 32 pieces, those that are looked at most in all of them,
    in their order."""
    pieces, drawn = maps[0][1], []
    kept = sorted(most(sum(weights.sum(dim=0) for _, _, weights in maps), LARGEST))
    said = "each row's piece looks at the columns' pieces: mean of all heads"
    if len(kept) < len(pieces):
        said += f"; the {len(kept)} pieces of {len(pieces)} that are looked at most"
    for title, _, weights in maps:
        picture = svg.heat_map(title, [f"{i} {pieces[i]}" for i in kept], weights[kept][:, kept].tolist())
        drawn.append(html.figure(picture, said))
    return f'<div class="side">{"".join(drawn)}</div>'


def loss_of(arguments: argparse.Namespace) -> TrainConfig:
    """The loss: what the flags say, else what the student was distilled with, else the task's own."""
    task, record = TASKS[arguments.task], known_record(arguments.model) or {}
    usual = task.train_config()
    known = record["settings"] if record.get("teacher") and record["task"] == arguments.task else {}
    chosen = {name: known[name] for name in LOSS if type(known.get(name)) is type(getattr(usual, name))}
    try:
        known = task.train_config(**chosen)
        parse_losses(known.losses)
        parse_layer_map(known.layer_map)
    except UserError as error:
        raise UserError(f"{Path(arguments.model) / RECORD}: {error}") from None
    chosen |= {name: value for name, value in given(arguments, TrainConfig).items() if name in LOSS}
    return task.train_config(**chosen)


def command(arguments: argparse.Namespace) -> dict:
    """`trace`: the stages of one example, printed and as a page."""
    task, data = TASKS[arguments.task], DataConfig(**given(arguments, DataConfig))
    config = loss_of(arguments)
    start(**vars(RunConfig(device="cpu", **given(arguments, RunConfig))))
    student = load_for_inference(arguments.model, task, arguments.max_length, fast=False)
    if student.model.config.int8:
        raise UserError(
            f"--model {arguments.model}: is an int8 model, which has no float layers to walk through; give the float "
            "model that it was made of"
        )
    teacher = open_teacher(arguments.teacher, task, student.model.config.labels, student.tokenizer, student.max_length)
    hidden_losses = make_hidden_losses(config, student.model.config, teacher)
    passage, i, said = find_example(arguments, task, data)
    if arguments.output:
        check_target(arguments.output, *filter(None, (arguments.data, arguments.model, arguments.teacher)))
    title = f"tracing {shorten(passage[i].id, 60)}"
    lead = printable(
        f"through {arguments.model} ({student.model.num_parameters() / 1e6:.1f}M), taught by {arguments.teacher} "
        f"({teacher.num_parameters() / 1e6:.1f}M), layer by layer, in float32 on the CPU, without dropout. Numbers are "
        "rounded: where you compute one from others, its last digits may differ."
    )
    say(fill(f"{title} {lead}"))
    with torch.inference_mode():
        trail, why = follow(task, data, student, teacher, passage, i)
        file = file_stage(passage[i], said, [read_evaluation_set, task.read] if arguments.data else [own_example])
        stages = all_stages(trail, student.tokenizer, config, hidden_losses, file, why)
        show(as_text(stages))
        if arguments.output:
            write_text(arguments.output, as_html(title, lead, stages))
            say(f"\nas a page, with pictures of the attention: {printable(str(arguments.output))}")
    parts = [[vars(part) if isinstance(part, Grid) else part for part in stage.parts] for stage in stages]
    told = zip(stages, parts, strict=True)
    return {
        "example": passage[i].id,
        "stages": [{"title": s.title, "code": list(map(where, s.code)), "parts": shown} for s, shown in told],
    }
