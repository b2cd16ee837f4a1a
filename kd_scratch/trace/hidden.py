"""The hidden-state losses as a stage of `trace`. All of them come from the registry, HIDDEN_LOSSES.

BY_HAND only adds to some how their value comes about; a loss that is not in it is shown with its formula's docstring.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES, HiddenLosses, Projections, Term, scaled_products
from kd_scratch.trace.stages import Grid, Stage, agree, columns, exact, kl_grid, most, number, strip, where
from kd_scratch.trace.trail import Trail


@dataclass
class Compared:
    """What a loss compares in one pair of layers, of one input without padding; float64."""

    student: Tensor | Projections  # S,D, in the teacher's width; or queries, keys and values of a block, 1,S,D each
    teacher: Tensor | Projections
    heads: int  # into which queries, keys and values are cut
    position: int
    pieces: list[str]


class Explained(NamedTuple):
    """How a loss comes about from the numbers of one position: tables and texts, and its value."""

    parts: list[str | Grid]
    value: Tensor


def hidden_losses_stage(trail: Trail, hidden_losses: HiddenLosses) -> tuple[Stage, float]:
    """Every term of the hidden-state losses, the last one of each kind by hand; and their sum."""
    model = trail.student.walk.model
    states = [state[None] for state in trail.student.walk.states]  # L+1 of 1,S,D
    teacher_states = {layer: state[None] for layer, state in enumerate(trail.teacher.walk.states)}
    real = torch.ones(1, len(trail.pieces), dtype=torch.bool)
    last = {}
    rows = []
    total = 0.0
    for term in hidden_losses.terms():
        weight = hidden_losses.weights[term.name]
        value = float(hidden_losses.term(term, model, states, teacher_states, real))
        total += value
        last[term.name] = (term, value / weight)
        layers = (str(term.student_layer), str(term.teacher_layer))
        rows.append((term.name, *layers, number(value / weight), f"{weight:g}", number(value)))
    rows.append(("sum", "", "", "", "", number(total)))
    parts = [
        f"Compared: {hidden_losses.describe()}. Layer 0 are the embeddings.",
        Grid(("loss", "student", "teacher", "value", "weight", "term"), rows),
    ]
    if hidden_losses.projections:
        parts.append(
            "The student's states are taken to the teacher's width by a matrix that training learns beside it and "
            "does not keep: here it is random, as at the start."
        )
    for term, computed in last.values():
        if HIDDEN_LOSSES[term.name].projections:
            sides = hidden_losses.block_projections(term, model, states, teacher_states)
            student, teacher = (tuple(part.double() for part in side) for side in sides)
        else:
            student = hidden_losses.project(states[term.student_layer], term.student_layer)[0].double()
            teacher = teacher_states[term.teacher_layer][0].double()
        what = Compared(student, teacher, hidden_losses.heads_of(term.name), trail.position, trail.pieces)
        parts += explain(term, what, computed)
    code = [HiddenLosses.forward, *(HIDDEN_LOSSES[name].compare for name in last)]
    return Stage("Loss: hidden-state losses", code, parts), total


def explain(term: Term, what: Compared, computed: float) -> list[str | Grid]:
    """One term by hand, or where nobody has written how, by its formula's docstring. UserError where both differ."""
    loss = HIDDEN_LOSSES[term.name]
    layers = f"layer {term.student_layer} of the student and {term.teacher_layer} of the teacher"
    intro = f"{term.name} ({loss.paper}): {loss.summary}."
    if term.name in BY_HAND:
        by_hand = BY_HAND[term.name]
        explained = by_hand(what)
        agree(f"the loss {term.name!r}", explained.value, computed, by_hand, loss.compare)
        return [f"{intro} By hand: {term.name}, {layers}.", *explained.parts]
    formula = (inspect.getdoc(loss.compare) or "").split("\n\n")[0].replace("\n", " ")
    return [f"{intro} {where(loss.compare)}: {formula} Its value for {layers} is {exact(computed)}."]


# --- by hand ---


def hidden_by_hand(what: Compared) -> Explained:
    """The mean square of the difference of two states, S,D each."""
    s, t = what.student, what.teacher
    position = what.position
    each = (s - t).square().mean(dim=-1)  # S
    squares = (s[position] - t[position]).square()
    rows = [strip("s", s[position]), strip("t", t[position]), strip("(s - t)^2", squares, True)]
    text = f"The mean, {exact(squares.sum())} / {len(squares)} = {exact(each[position])}, is the value of position"
    parts = [Grid(columns(len(squares)), rows), mean_text(f"{text} {position}.", each, position)]
    return Explained(parts, each.mean())


def cosine_by_hand(what: Compared) -> Explained:
    """1 − cosine of two states, S,D each."""
    position = what.position
    grid, text, cosine = cosine_parts(what, position)
    each = 1 - cosine
    text = f"{text} The value of position {position} is 1 - cos = {exact(each[position])}."
    return Explained([grid, mean_text(text, each, position)], each.mean())


def patient_by_hand(what: Compared) -> Explained:
    """The square distance of the states of [CLS], each of length 1."""
    grid, text, cosine = cosine_parts(what, 0)
    value = 2 - 2 * cosine[0]
    text += f" Both of length 1, s and t are sqrt(2 - 2 cos) apart at [CLS]; squared, {exact(value)}."
    return Explained([grid, text], value)


def cosine_parts(what: Compared, position: int) -> tuple[Grid, str, Tensor]:
    """How the cosine of two states, S,D each, comes about at one position: a table, a text; and all cosines, S."""
    s, t = what.student, what.teacher
    dot = (s * t).sum(dim=-1)  # S
    ss = s.square().sum(dim=-1)
    tt = t.square().sum(dim=-1)
    cosine = dot / (ss * tt).sqrt()
    rows = [strip("s", s[position]), strip("t", t[position]), strip("s * t", s[position] * t[position], True)]
    rows += [strip("s * s", s[position].square(), True), strip("t * t", t[position].square(), True)]
    lengths = f"(sqrt({exact(ss[position])}) * sqrt({exact(tt[position])}))"
    text = f"cos = {exact(dot[position])} / {lengths} = {exact(cosine[position])}."
    return Grid(columns(s.size(1)), rows), text, cosine


def mean_text(text: str, each: Tensor, position: int) -> str:
    """A text, and behind it how the mean over S positions comes about from the value of one of them."""
    rest = each.sum() - each[position]
    return (
        f"{text} The other {len(each) - 1} positions have {exact(rest)} together: ({exact(each[position])} + "
        f"{exact(rest)}) / {len(each)} = {exact(each.mean())}."
    )


def attention_by_hand(what: Compared) -> Explained:
    """The mean square of the difference of attention scores, from those of one query in head 1."""
    (student_query, student_key, _), (teacher_query, teacher_key, _) = what.student, what.teacher
    s = scaled_products(student_query, student_key, what.heads)[0]  # H,S,S
    t = scaled_products(teacher_query, teacher_key, what.heads)[0]
    squares = (s - t).square()
    position = what.position
    shown = most(squares[0, position], 4)
    here = squares[0, position].sum()
    rows = [(f"{j} {what.pieces[j]}", *(number(x[0, position, j]) for x in (s, t, squares))) for j in shown]
    others = squares.size(2) - len(shown)
    if others:
        rows.append((f"other {others}", "", "", number(here - squares[0, position, shown].sum())))
    rows.append((f"all {squares.size(2)}", "", "", number(here)))
    text = (
        f"Head 1, query {position}: q * k / sqrt(W) of every piece, before the softmax. With those of all heads and "
        f"queries: {share(here, squares.sum(), squares)}"
    )
    return Explained([Grid(("piece", "student s", "teacher t", "(s - t)^2"), rows), text], squares.mean())


def relations_by_hand(what: Compared) -> Explained:
    """The mean KL of the relations of queries, of keys and of values, from those of one query in relation head 1."""
    position = what.position
    log_p = relations(what.teacher, what.heads)
    log_q = relations(what.student, what.heads)
    each = (log_p.exp() * (log_p - log_q)).sum(dim=-1)  # 3,H,S
    names = [f"{j} {piece}" for j, piece in enumerate(what.pieces)]
    of_query = log_p[0, 0, position]
    grid, here = kl_grid(names, of_query, log_q[0, 0, position], most(of_query, 4))
    text = (
        f"Queries with queries, in {what.heads} relation heads; head 1, query {position}: p of the teacher and q of "
        f"the student are softmax(query {position} * query j / sqrt(W)) over all j. With those of all positions and "
        f"heads, and of keys and values: {share(here, each.sum(), each)}"
    )
    return Explained([grid, text], each.mean())


def relations(parts: Projections, heads: int) -> Tensor:
    """The logarithms of softmax(A·Aᵀ / sqrt(W)) for queries, keys and values  3 of 1,S,D -> 3,H,S,S"""
    return torch.stack([scaled_products(part, part, heads)[0].log_softmax(dim=-1) for part in parts])


def share(here: Tensor, total: Tensor, values: Tensor) -> str:
    """How the mean of all values comes about from the sum of some of them."""
    size = " * ".join(map(str, values.shape))
    return f"({exact(here)} + {exact(total - here)}) / ({size}) = {exact(total / values.numel())}."


#: Name of a loss -> how its value comes about. Not needed: see the top of this file.
BY_HAND: dict[str, Callable[[Compared], Explained]] = {
    "hidden": hidden_by_hand,
    "attention": attention_by_hand,
    "cosine": cosine_by_hand,
    "patient": patient_by_hand,
    "relations": relations_by_hand,
}
