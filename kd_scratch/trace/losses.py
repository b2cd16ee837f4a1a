"""What becomes of the logits: each term of the loss, and the decision, as the stages that `trace` shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kd_scratch.common.console import shorten
from kd_scratch.config import TrainConfig
from kd_scratch.data.batches import UNLABELLED
from kd_scratch.distillation.hidden_losses import (
    HiddenLosses,
    attention_mse,
    hidden_cosine,
    hidden_mse,
    patient_mse,
    relation_kl,
    scaled_products,
)
from kd_scratch.distillation.losses import cross_entropy, distillation_loss, soft_targets
from kd_scratch.distillation.teacher import label_order
from kd_scratch.distillation.units import unit_labels, unit_logits
from kd_scratch.trace.steps import Grid, Stage, columns, exact, most, number, softmax_grid, strip
from kd_scratch.trace.trail import Trail, near

#: What compares, by the name that --losses gives it.
LOSSES = {
    "hidden": hidden_mse,
    "attention": attention_mse,
    "cosine": hidden_cosine,
    "patient": patient_mse,
    "relations": relation_kl,
}


@dataclass
class Unit:
    """One distribution: K outcomes, the logits of student and teacher, and the label (None: nobody knows it)."""

    title: str
    names: list[str]
    student: Tensor
    teacher: Tensor
    label: int | None

    @property
    def shown(self) -> list[int]:
        """The label and the best three of each model; the student's best first."""
        which = {*most(self.student, 3), *most(self.teacher, 3)} | ({self.label} - {None})
        return sorted(which, key=lambda k: (-float(self.student[k]), k))


def all_units(trail: Trail) -> tuple[Tensor, Tensor, Tensor, str]:
    """The input's units: logits of student and teacher, U,K each, in the student's order; labels U; how that came."""
    labels, its_labels = (side.model.config.labels for side in (trail.student, trail.teacher))
    theirs, said = trail.teacher.walk.logits, "The labels of student and teacher are in the same order."
    if trail.task.head == "span":
        said = "A start and an end: two units. Outcomes are the positions of the context and [CLS] (no answer)."
    elif labels != its_labels:
        order = label_order(its_labels, labels)
        theirs = theirs[..., order]
        said = (
            "The teacher has the labels in another order: its columns "
            f"{', '.join(map(str, order[:4]))}{', ...' if len(order) > 4 else ''} (from 0) are the student's 0, 1, ..."
        )
    head, batch = trail.task.head, trail.batch
    student_units = unit_logits(head, trail.student.walk.logits, batch)
    return student_units, unit_logits(head, theirs, batch), unit_labels(head, batch), said


def followed_unit(trail: Trail, mine: Tensor, its: Tensor, labels: Tensor) -> Unit:
    """The unit that is followed, without the outcomes that are not allowed."""
    label = int(labels[trail.unit])
    live = (mine[trail.unit] > -1e29).nonzero().flatten()  # span head: the allowed positions
    piece = f"{trail.at} {trail.pieces[trail.at]!r}"
    titles = {"sequence": "the whole text", "token": f"the word at position {piece}", "span": "the answer's start"}
    if trail.task.head == "span":
        names = [f"{i} {trail.pieces[i]}" for i in live.tolist()]
    else:
        names = [shorten(name, 20) for name in trail.student.model.config.labels]
    return Unit(
        titles[trail.task.head],
        names,
        mine[trail.unit, live],
        its[trail.unit, live],
        None if label == UNLABELLED else live.tolist().index(label),
    )


def logits_stage(unit: Unit, how: str) -> Stage:
    """The logits of both for the unit, side by side."""
    shown, names = unit.shown, unit.names
    rows = [(names[k], number(unit.student[k]), number(unit.teacher[k])) for k in shown]
    if len(names) > len(shown):
        rows.append((f"other {len(names) - len(shown)}", "", ""))
    gold = "nobody knows the label" if unit.label is None else f"the label is {names[unit.label]!r}"
    said = (
        f"{how} Followed: {unit.title}, with {len(names)} outcomes; {gold}. Shown: the label, and the best three of "
        "each model."
    )
    return Stage(
        "Logits of both", [unit_logits, label_order], [said, Grid(("outcome", "student z", "teacher t"), rows)]
    )


def loss_stages(unit: Unit, config: TrainConfig) -> list[Stage]:
    """Cross-entropy and soft targets of one unit."""
    grid, said = softmax_grid(unit.names, unit.student, unit.shown, "outcome", "z", logs=True)
    if unit.label is None:
        result = "Nobody knows the label, so there is no cross-entropy: this part of the loss is 0."
    else:
        loss = -unit.student.double().log_softmax(dim=0)[unit.label]
        result = f"Cross-entropy: -ln p of the label {unit.names[unit.label]!r} = {exact(loss)}."
    hard = Stage("Loss: cross-entropy with the label", [cross_entropy], [grid, said, result])
    temperature = config.temperature
    parts = [f"Both are divided by T = {temperature:g} (--temperature) first, which makes them softer."]
    for name, letter, logits in (("student", "z", unit.student), ("teacher", "t", unit.teacher)):
        grid, said = softmax_grid(unit.names, logits / temperature, unit.shown, name, f"{letter} / T", logs=True)
        parts += [grid, said]
    log_q, log_p = ((x.double() / temperature).log_softmax(dim=0) for x in (unit.student, unit.teacher))
    grid, total = kl_grid(unit.names, log_p, log_q, unit.shown)
    parts += [
        "How far the student's distribution q is from the teacher's p:",
        grid,
        f"The soft targets' loss is T^2 * KL: {exact(temperature**2)} * {exact(total)} = "
        f"{exact(temperature**2 * total)}.",
    ]
    return [hard, Stage("Loss: soft targets of the teacher", [soft_targets], parts)]


def kl_grid(names: Sequence[str], log_p: Tensor, log_q: Tensor, shown: Sequence[int]) -> tuple[Grid, Tensor]:
    """How KL(p || q) of two distributions, K each, comes about; and it."""
    terms = log_p.exp() * (log_p - log_q)
    rows = [(names[k], *(number(x[k]) for x in (log_p.exp(), log_p, log_q, terms))) for k in shown]
    if len(names) > len(shown):
        others = terms.sum() - terms[list(shown)].sum()
        rows.append((f"other {len(names) - len(shown)}", "", "", "", number(others)))
    rows.append((f"all {len(names)}", "", "", "", number(terms.sum())))
    return Grid(("outcome", "p", "ln p", "ln q", "p * (ln p - ln q)"), rows), terms.sum()


def total_stage(
    trail: Trail, mine: Tensor, its: Tensor, labels: Tensor, config: TrainConfig, hidden_losses: float | None
) -> Stage:
    """The losses of all units of the input, mixed; with what is compared inside (None: nothing is)."""
    alpha, count = config.alpha, len(mine)
    z, t = mine.double(), its.double()
    hard = torch.stack([cross_entropy(z[u : u + 1], labels[u : u + 1]) for u in range(count)])
    soft = torch.stack([soft_targets(z[u : u + 1], t[u : u + 1], config.temperature) for u in range(count)])
    mixed = (1 - alpha) * hard + alpha * soft
    if trail.task.head == "token":
        names = [f"{at} {trail.pieces[at]}" for at in trail.batch.counted.tolist()]
    else:
        names = ["start", "end"] if trail.task.head == "span" else [shorten(trail.gold.id, 30)]
    which = near(count, trail.unit, most=12)
    rows = [("...", "", "", "") if u is None else (names[u], *map(number, (hard[u], soft[u], mixed[u]))) for u in which]
    rest = sorted(set(range(count)) - set(which))
    if rest:
        rows.append((f"other {len(rest)}", *(number(x[rest].sum()) for x in (hard, soft, mixed))))
    rows.append((f"sum of {count}", *(number(x.sum()) for x in (hard, soft, mixed))))
    computed = float(distillation_loss(mine, its, labels, config.temperature, alpha)) / count
    said = (
        f"distillation_loss, which training calls, gives the same in float32: {exact(computed)} (difference "
        f"{abs(computed - float(mixed.mean())):.1e})."
    )
    if (labels == UNLABELLED).any():
        said += " Without a label only the soft targets are left in it."
    parts = [
        f"alpha = {alpha:g} (--alpha): each unit's loss is {1 - alpha:g} * cross-entropy + {alpha:g} * soft targets.",
        Grid(("unit", "cross-entropy", "soft targets", "mixed"), rows),
        f"Training takes the mean over the units of a batch: {exact(mixed.sum())} / {count} = {exact(mixed.mean())}. "
        + said,
    ]
    if hidden_losses is not None:
        total = float(mixed.mean()) + hidden_losses
        parts.append(f"With what is compared inside: {exact(mixed.mean())} + {exact(hidden_losses)} = {exact(total)}.")
    return Stage("Loss: the total", [distillation_loss], parts)


# --- what is compared inside ---


def hidden_losses_stage(trail: Trail, hidden_losses: HiddenLosses) -> tuple[Stage, float]:
    """Every term of the hidden-state losses, one of each kind by hand; and their sum."""
    student, states = trail.student.model, [state[None] for state in trail.student.walk.states]
    teacher_states = {i: state[None] for i, state in enumerate(trail.teacher.walk.states)}
    real = torch.ones(1, len(trail.pieces), dtype=torch.bool)
    values = {
        which: float(hidden_losses.term(which, student, states, teacher_states, real))
        for which in hidden_losses.terms()
    }
    rows = [
        (
            name,
            str(mine),
            str(its),
            number(value / hidden_losses.weights[name]),
            f"{hidden_losses.weights[name]:g}",
            number(value),
        )
        for (name, mine, its), value in values.items()
    ]
    rows.append(("sum", "", "", "", "", number(sum(values.values()))))
    parts = [
        f"Compared: {hidden_losses.describe()}. Layer 0 are the embeddings.",
        Grid(("loss", "student", "teacher", "value", "weight", "term"), rows),
    ]
    if hidden_losses.projections:
        parts.append(
            "The student's states are taken to the teacher's width by a matrix that training learns beside it and "
            "does not keep: here it is random, as at the start."
        )
    last = {name: (mine, its) for name, mine, its in hidden_losses.terms()}
    for name, (mine, its) in last.items():
        parts.append(f"By hand: {name}, layer {mine} of the student and {its} of the teacher.")
        if name in ("attention", "relations"):
            blocks = student.encoder.blocks[mine - 1], trail.teacher.model.encoder.blocks[its - 1]
            before = states[mine - 1], teacher_states[its - 1]
            made = [block.project(state) for block, state in zip(blocks, before, strict=True)]
            parts += (attention_parts if name == "attention" else relation_parts)(trail, hidden_losses, *made)
        else:
            s, t = hidden_losses.project(states[mine], mine)[0], teacher_states[its][0]
            parts += state_parts(name, s.double(), t.double(), trail.at)
    code = [HiddenLosses.forward, *(LOSSES[name] for name in last)]
    return Stage("Loss: what happens inside", code, parts), sum(values.values())


def state_parts(name: str, s: Tensor, t: Tensor, at: int) -> list[str | Grid]:
    """How a loss that compares hidden states, S,D and S,D, comes about from those of one position."""
    if name == "hidden":
        each = (s - t).square().mean(dim=-1)  # S
        rows = [strip("s", s[at]), strip("t", t[at]), strip("(s - t)^2", (s[at] - t[at]).square(), True)]
        said = f"The mean, {exact((s[at] - t[at]).square().sum())} / {s.size(1)} = {exact(each[at])}"
        return [Grid(columns(s.size(1)), rows), closing(f"{said}, is the value of position {at}.", each, at)]
    at = 0 if name == "patient" else at
    dot, ss, tt = (s * t).sum(dim=-1), s.square().sum(dim=-1), t.square().sum(dim=-1)  # S each
    cosine = dot / (ss * tt).sqrt()
    rows = [strip("s", s[at]), strip("t", t[at]), strip("s * t", s[at] * t[at], True)]
    rows += [strip("s * s", s[at].square(), True), strip("t * t", t[at].square(), True)]
    said = f"cos = {exact(dot[at])} / (sqrt({exact(ss[at])}) * sqrt({exact(tt[at])})) = {exact(cosine[at])}."
    if name == "patient":
        said += f" Both of length 1, s and t are sqrt(2 - 2 cos) apart at [CLS]; squared, {exact(2 - 2 * cosine[0])}."
        return [Grid(columns(s.size(1)), rows), said]
    said = closing(f"{said} The value of position {at} is 1 - cos = {exact(1 - cosine[at])}.", 1 - cosine, at)
    return [Grid(columns(s.size(1)), rows), said]


def closing(said: str, each: Tensor, at: int) -> str:
    """How the mean over positions comes about from one of them."""
    total = each.sum()
    return (
        f"{said} The other {len(each) - 1} positions have {exact(total - each[at])} together: ({exact(each[at])} + "
        f"{exact(total - each[at])}) / {len(each)} = {exact(total / len(each))}."
    )


def attention_parts(trail: Trail, hidden_losses: HiddenLosses, mine: Sequence, its: Sequence) -> list[str | Grid]:
    """How the loss on attention scores comes about from one query in head 1. Queries, keys and values 1,S,D."""
    s, t = (scaled_products(query, key, hidden_losses.heads)[0].double() for query, key, _ in (mine, its))  # H,S,S
    squares, at = (s - t).square(), trail.at
    shown = most(squares[0, at], 4)
    here, total = squares[0, at].sum(), squares.sum()
    rows = [(f"{j} {trail.pieces[j]}", *(number(x[0, at, j]) for x in (s, t, squares))) for j in shown]
    others = squares.size(2) - len(shown)
    if others:
        rows.append((f"other {others}", "", "", number(here - squares[0, at, shown].sum())))
    rows.append((f"all {squares.size(2)}", "", "", number(here)))
    said = (
        f"Head 1, query {at}: q * k / sqrt(W) of every piece, before the softmax. With those of all heads and queries: "
        f"({exact(here)} + {exact(total - here)}) / ({' * '.join(map(str, squares.shape))}) = {exact(squares.mean())}."
    )
    return [Grid(("piece", "student s", "teacher t", "(s - t)^2"), rows), said]


def relation_parts(trail: Trail, hidden_losses: HiddenLosses, mine: Sequence, its: Sequence) -> list[str | Grid]:
    """How the loss on relations comes about from those of one query. Queries, keys and values 1,S,D each."""
    heads, at = hidden_losses.relation_heads, trail.at
    logs = [
        [scaled_products(x, x, heads)[0].double().log_softmax(dim=-1) for x in side]  # H,S,S each
        for side in (its, mine)
    ]
    each = torch.stack([(p.exp() * (p - q)).sum(dim=-1) for p, q in zip(*logs, strict=True)])  # 3,H,S
    log_p, log_q = logs[0][0][0, at], logs[1][0][0, at]
    names = [f"{j} {piece}" for j, piece in enumerate(trail.pieces)]
    grid, here = kl_grid(names, log_p, log_q, most(log_p, 4))
    said = (
        f"Queries with queries, in {heads} relation heads; head 1, query {at}: p of the teacher and q of the student "
        f"are softmax(query {at} * query j / sqrt(W)) over all j. With those of all positions and heads, and of keys "
        f"and values: ({exact(here)} + {exact(each.sum() - here)}) / ({' * '.join(map(str, each.shape))}) = "
        f"{exact(each.mean())}."
    )
    return [grid, said]
