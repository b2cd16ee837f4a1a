"""One example through every stage of student and teacher: `trace` makes the stages, the others show them."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from kd_scratch.common.console import COLUMNS, shorten, table
from kd_scratch.common.errors import UserError, printable
from kd_scratch.config import ModelConfig, TrainConfig
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.distillation.hidden_losses import HiddenLosses, make_hidden_losses, parse_losses
from kd_scratch.distillation.layer_map import parse_layer_map
from kd_scratch.evaluation.evaluate import load_for_inference, read_evaluation_set
from kd_scratch.pages import html, svg
from kd_scratch.pages.records import RECORD, known_record
from kd_scratch.tasks import TASKS
from kd_scratch.trace.decision import decision_stage
from kd_scratch.trace.hidden import hidden_losses_stage
from kd_scratch.trace.inputs import features_stage, file_stage, pieces_stage
from kd_scratch.trace.losses import all_units, followed_unit, hard_stage, logits_stage, soft_stage, total_stage
from kd_scratch.trace.stages import Grid, Stage, most, where
from kd_scratch.trace.steps import block_stages, blocks_stage, embedding_stage, head_stage
from kd_scratch.trace.trail import TraceSpec, Trail, find_example, follow, own_example
from kd_scratch.training.setup import open_teacher

LOSS = ("temperature", "alpha", "losses", "layer_map")  # what of TrainConfig decides the loss
LARGEST = 32  # most pieces in a picture of attention


@dataclass
class Trace:
    """An example's way through two models."""

    example: str  # its id
    title: str
    lead: str  # which models, and how they were computed
    stages: list[Stage]


def trace(spec: TraceSpec) -> Trace:
    """The way of one example through both models: every stage with its numbers, and the functions that made them.

    Computed on the CPU in float32, without dropout. Matrices that training would learn beside the student are random,
    as PyTorch's generator is seeded. Raises UserError for what the user can mend, and where a layer or a loss was
    edited and the explanation of it was not.
    """
    task = TASKS[spec.task]
    student = load_for_inference(spec.model, task, spec.max_length, fast=False)
    if student.model.config.int8:
        raise UserError(
            f"--model {spec.model}: is an int8 model, which has no float layers to walk through; give the float model "
            "that it was made of"
        )
    teacher = open_teacher(
        spec.teacher,
        task,
        student.model.config.labels,
        student.tokenizer,
        student.max_length,
        keep_token_types=student.model.config.token_types > 1,
    )
    hidden_losses = losses_between(student.model.config, teacher.config, spec.config)
    found = find_example(spec)
    example = found.examples[found.place].id
    lead = printable(
        f"through the student {student.describe()} and the teacher {spec.teacher} "
        f"({teacher.num_parameters() / 1e6:.1f}M), layer by layer, in float32 on the CPU, without "
        "dropout. Numbers are rounded: where you compute one from others, its last digits may differ."
    )
    with torch.inference_mode():
        trail = follow(spec, student, teacher, found)
        code = [read_evaluation_set, task.read] if spec.file else [own_example]
        stages = [file_stage(found, code), *model_stages(trail, student.tokenizer)]
        stages += loss_stages(trail, spec.config, hidden_losses)
    return Trace(example, f"tracing {shorten(example, 60)}", lead, [*stages, decision_stage(trail)])


def model_stages(trail: Trail, tokenizer: Tokenizer) -> list[Stage]:
    """From the text to the logits."""
    walk, position, pieces = trail.student.walk, trail.position, trail.pieces
    walks = {name: side.walk for name, side in trail.sides.items()}
    unit = followed_unit(trail, all_units(trail))
    outcome = unit.label if unit.label is not None else most(unit.student, 1)[0]
    name = repr(unit.names[outcome])
    if trail.task.multi_label:
        outcome, name = trail.unit, repr(trail.labels[trail.unit])
    if trail.task.head == "span":  # whose outcomes are positions: each has a logit for start and one for end
        outcome = 0
        name = "'start'"
    return [
        pieces_stage(trail, tokenizer),
        features_stage(trail),
        embedding_stage(walk, trail.batch, position, pieces[position]),
        *block_stages(walk, position, pieces),
        blocks_stage(walks, position, pieces),
        head_stage(walks, position, outcome, name),
    ]


def loss_stages(trail: Trail, config: TrainConfig, hidden_losses: HiddenLosses | None) -> list[Stage]:
    """From the logits to the loss."""
    units = all_units(trail)
    unit = followed_unit(trail, units)
    stages = [logits_stage(unit, units), hard_stage(unit), soft_stage(unit, config.temperature)]
    hidden_loss = None
    if hidden_losses is not None:
        stage, hidden_loss = hidden_losses_stage(trail, hidden_losses)
        stages.append(stage)
    return [*stages, total_stage(trail, units, config, hidden_loss)]


def losses_between(student: ModelConfig, teacher: ModelConfig, config: TrainConfig) -> HiddenLosses | None:
    """The hidden-state losses; a student that is not as deep as its teacher is made of layers that nobody knows here.

    What `train` has written of a student has pairs of layers, not the name of a map.
    """
    made_of = range(student.depth) if student.depth == teacher.depth else ()
    return make_hidden_losses(config, student, teacher, made_of)


def loss_settings(model: str, task: str, **chosen) -> TrainConfig:
    """The loss: what was chosen, else what the student was distilled with, else the task's own.

    Raises UserError where the record of the student's training holds what is no such setting.
    """
    record = known_record(model) or {}
    known = record["settings"] if record.get("teacher") and record["task"] == task else {}
    usual = TASKS[task].train_config()
    kept = {name: known[name] for name in LOSS if type(known.get(name)) is type(getattr(usual, name))}
    try:
        config = TASKS[task].train_config(**kept)
        parse_losses(config.losses)
        parse_layer_map(config.layer_map)
    except UserError as error:
        raise UserError(f"{Path(model) / RECORD}: {error}") from None
    return replace(config, **chosen)


# --- as text, as a page, as JSON ---


def fill(text: str) -> str:
    """A paragraph for the terminal."""
    return textwrap.fill(text, COLUMNS, break_on_hyphens=False)


def as_text(stages: Sequence[Stage]) -> str:
    """For the terminal: at most 80 columns."""
    lines = []
    for i, stage in enumerate(stages, 1):
        title = f"{i}. {stage.title}"
        lines += ["", title, "-" * len(title)]
        lines += [f"{'code:' if j == 0 else '':6}{where(function)}" for j, function in enumerate(stage.code)]
        for part in stage.parts:
            lines += ["", table(part.header, part.rows, left=part.left) if isinstance(part, Grid) else fill(part)]
    return "\n".join(lines)


def as_html(traced: Trace) -> str:
    """The same as a page, with the pictures."""
    sections = []
    for i, stage in enumerate(traced.stages, 1):
        body = [html.paragraph("code: " + " · ".join(map(where, stage.code)), "soft")]
        for part in stage.parts:
            is_grid = isinstance(part, Grid)
            body.append(html.html_table(part.header, part.rows, part.left) if is_grid else html.paragraph(part))
        if stage.maps:
            body.append(heat_maps(stage.maps))
        sections.append((f"{i}. {stage.title}", "\n".join(body)))
    return html.page(traced.title, traced.lead, sections)


def heat_maps(maps: Sequence[tuple[str, list[str], Tensor]]) -> str:
    """Attention weights as pictures side by side. Of more than 32 pieces, those with the most attention in all of them,
    in their order."""
    _, pieces, _ = maps[0]
    kept = sorted(most(sum(weights.sum(dim=0) for _, _, weights in maps), LARGEST))
    caption = "how much each row's piece attends to the columns' pieces: mean of all heads"
    if len(kept) < len(pieces):
        caption += f"; the {len(kept)} pieces of {len(pieces)} with the most attention"
    names = [f"{i} {pieces[i]}" for i in kept]
    pictures = [svg.heat_map(title, names, weights[kept][:, kept].tolist()) for title, _, weights in maps]
    return f'<div class="side">{"".join(html.figure(picture, caption) for picture in pictures)}</div>'


def as_record(traced: Trace) -> dict:
    """The same for JSON, without the pictures."""
    stages = []
    for stage in traced.stages:
        parts = [vars(part) if isinstance(part, Grid) else part for part in stage.parts]
        stages.append({"title": stage.title, "code": list(map(where, stage.code)), "parts": parts})
    return {"example": traced.example, "stages": stages}
