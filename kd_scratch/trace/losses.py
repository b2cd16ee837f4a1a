"""What becomes of the logits in training: the response-based losses and the total, as the stages that `trace` shows."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kd_scratch.common.console import shorten
from kd_scratch.config import TrainConfig
from kd_scratch.data.batches import UNLABELLED
from kd_scratch.distillation.losses import cross_entropy, distillation_loss, soft_target_loss
from kd_scratch.distillation.teacher import label_order
from kd_scratch.distillation.units import unit_labels, unit_logits
from kd_scratch.trace.stages import Grid, Stage, agree, exact, kl_grid, most, near, number, softmax_grid
from kd_scratch.trace.trail import Trail


@dataclass
class Units:
    """The distributions of one input, over K outcomes each, in the student's order of labels."""

    student: Tensor  # logits U,K
    teacher: Tensor  # logits U,K
    labels: Tensor  # U; UNLABELLED where there is none
    order: str  # how the teacher's labels were put into the student's order, as a sentence


@dataclass
class Unit:
    """The one that is followed, over its K possible outcomes."""

    title: str
    names: list[str]
    student: Tensor  # logits K
    teacher: Tensor  # logits K
    label: int | None  # None: there is none

    @property
    def shown(self) -> list[int]:
        """The label and the best three of each model; the student's best first."""
        which = {*most(self.student, 3), *most(self.teacher, 3)} | ({self.label} - {None})
        return sorted(which, key=lambda k: (-float(self.student[k]), k))


def all_units(trail: Trail) -> Units:
    """The units of the input, cut as in training."""
    head, batch = trail.task.head, trail.batch
    teacher_labels = trail.teacher.walk.model.config.labels
    teacher_logits = trail.teacher.walk.logits
    text = "The labels of student and teacher are in the same order."
    if head == "span":
        text = "A start and an end: two units. Outcomes are the positions of the context and [CLS] (no answer)."
    elif trail.labels != teacher_labels:
        order = label_order(teacher_labels, trail.labels)
        teacher_logits = teacher_logits[..., order]
        text = (
            "The teacher has the labels in another order: its columns "
            f"{', '.join(map(str, order[:4]))}{', ...' if len(order) > 4 else ''} (from 0) are the student's 0, 1, ..."
        )
    if trail.task.multi_label:
        text += (
            " Each label is there or not by itself, so it is a unit: a choice of two, with logits 0 and z, whose "
            "softmax is sigmoid(z) = 1 / (1 + e^-z) and 1 less that. Its cross-entropy is the binary one."
        )
    return Units(
        student=unit_logits(head, trail.student.walk.logits, batch),
        teacher=unit_logits(head, teacher_logits, batch),
        labels=unit_labels(head, batch),
        order=text,
    )


def followed_unit(trail: Trail, units: Units) -> Unit:
    """The unit that is followed, without the outcomes that are not allowed."""
    student = units.student[trail.unit]
    label = int(units.labels[trail.unit])
    allowed = (student > -1e29).nonzero().flatten()  # span head: the allowed positions
    piece = f"{trail.position} {trail.pieces[trail.position]!r}"
    titles = {"sequence": "the whole text", "token": f"the word at position {piece}", "span": "the answer's start"}
    title, names = titles[trail.task.head], [shorten(name, 20) for name in trail.labels]
    if trail.task.head == "span":
        names = [f"{i} {trail.pieces[i]}" for i in allowed.tolist()]
    elif trail.task.multi_label:
        name = names[trail.unit]
        title, names = f"the label {name!r}", [f"not {name}", name]
    return Unit(
        title=title,
        names=names,
        student=student[allowed],
        teacher=units.teacher[trail.unit, allowed],
        label=None if label == UNLABELLED else allowed.tolist().index(label),
    )


def logits_stage(unit: Unit, units: Units) -> Stage:
    """The logits of both models for the unit, side by side."""
    shown, names = unit.shown, unit.names
    rows = [(names[k], number(unit.student[k]), number(unit.teacher[k])) for k in shown]
    if len(names) > len(shown):
        rows.append((f"other {len(names) - len(shown)}", "", ""))
    gold = "it has no label" if unit.label is None else f"the label is {names[unit.label]!r}"
    text = (
        f"{units.order} Followed: {unit.title}, with {len(names)} outcomes; {gold}. Shown: the label, and the best "
        "three of each model."
    )
    code = [unit_logits, label_order]
    return Stage("Logits of both", code, [text, Grid(("outcome", "student z", "teacher t"), rows)])


def hard_stage(unit: Unit) -> Stage:
    """Cross-entropy of one unit."""
    grid, text = softmax_grid(unit.names, unit.student, unit.shown, "outcome", "z", logs=True)
    if unit.label is None:
        result = "There is no label, so there is no cross-entropy: this part of the loss is 0."
    else:
        loss = -unit.student.double().log_softmax(dim=0)[unit.label]
        computed = cross_entropy(unit.student[None], torch.tensor([unit.label]))
        agree("the cross-entropy", loss, computed, hard_stage, cross_entropy)
        result = f"Cross-entropy: -ln p of the label {unit.names[unit.label]!r} = {exact(loss)}."
    return Stage("Loss: cross-entropy with the label", [cross_entropy], [grid, text, result])


def soft_stage(unit: Unit, temperature: float) -> Stage:
    """Soft targets of one unit."""
    parts = [f"Both are divided by T = {temperature:g} (--temperature) first, which makes them softer."]
    for name, letter, logits in (("student", "z", unit.student), ("teacher", "t", unit.teacher)):
        parts += softmax_grid(unit.names, logits / temperature, unit.shown, name, f"{letter} / T", logs=True)
    log_q = (unit.student.double() / temperature).log_softmax(dim=0)
    log_p = (unit.teacher.double() / temperature).log_softmax(dim=0)
    grid, total = kl_grid(unit.names, log_p, log_q, unit.shown)
    loss = temperature**2 * total
    computed = soft_target_loss(unit.student[None], unit.teacher[None], temperature)
    agree("the soft targets' loss", loss, computed, soft_stage, soft_target_loss)
    parts += [
        "How far the student's distribution q is from the teacher's p:",
        grid,
        f"The soft targets' loss is T^2 * KL: {exact(temperature**2)} * {exact(total)} = {exact(loss)}.",
    ]
    return Stage("Loss: soft targets of the teacher", [soft_target_loss], parts)


def total_stage(trail: Trail, units: Units, config: TrainConfig, hidden_loss: float | None) -> Stage:
    """The losses of all units of the input, mixed; with the sum of the hidden-state losses (None: there are none)."""
    alpha = config.alpha
    labels = units.labels
    count = len(labels)
    z, t = units.student.double(), units.teacher.double()
    hard = torch.stack([cross_entropy(z[u : u + 1], labels[u : u + 1]) for u in range(count)])
    soft = torch.stack([soft_target_loss(z[u : u + 1], t[u : u + 1], config.temperature) for u in range(count)])
    mixed = (1 - alpha) * hard + alpha * soft
    losses = torch.stack([hard, soft, mixed])  # 3,U
    names = unit_names(trail)
    shown = near(count, trail.unit, most=12)
    rows = [("...", "", "", "") if u is None else (names[u], *map(number, losses[:, u])) for u in shown]
    rest = sorted(set(range(count)) - set(shown))
    if rest:
        rows.append((f"other {len(rest)}", *map(number, losses[:, rest].sum(dim=1))))
    rows.append((f"sum of {count}", *map(number, losses.sum(dim=1))))
    mean = float(mixed.mean())
    computed = float(distillation_loss(units.student, units.teacher, labels, config.temperature, alpha)) / count
    difference = agree("the mixed loss", mean, computed, total_stage, distillation_loss)
    text = (
        f"Training takes the mean over the units of a batch: {exact(mixed.sum())} / {count} = {exact(mean)}. "
        f"distillation_loss, which training calls, gives the same in float32: {exact(computed)} (difference "
        f"{difference:.1e})."
    )
    if (labels == UNLABELLED).any():
        text += " Without a label only the soft targets are left in it."
    parts = [
        f"alpha = {alpha:g} (--alpha): each unit's loss is {1 - alpha:g} * cross-entropy + {alpha:g} * soft targets.",
        Grid(("unit", "cross-entropy", "soft targets", "mixed"), rows),
        text,
    ]
    if hidden_loss is not None:
        total = exact(mean + hidden_loss)
        parts.append(f"With the hidden-state losses: {exact(mean)} + {exact(hidden_loss)} = {total}.")
    return Stage("Loss: the total", [distillation_loss], parts)


def unit_names(trail: Trail) -> list[str]:
    """A name for each unit of the input."""
    if trail.task.head == "token":
        return [f"{position} {trail.pieces[position]}" for position in trail.batch.counted.tolist()]
    if trail.task.multi_label:
        return [shorten(name, 20) for name in trail.labels]
    return ["start", "end"] if trail.task.head == "span" else [shorten(trail.gold.id, 30)]
