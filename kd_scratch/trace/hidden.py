"""The hidden-state losses as a stage of `trace`. Everything in it comes from the registry, HIDDEN_LOSSES."""

import inspect

import torch

from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES, HiddenLosses
from kd_scratch.trace.stages import Grid, Stage, number, where
from kd_scratch.trace.trail import Trail


def hidden_losses_stage(trail: Trail, hidden_losses: HiddenLosses) -> tuple[Stage, float]:
    """Every term of the hidden-state losses, the formula of each kind, and their sum."""
    model = trail.student.walk.model
    states = [state[None] for state in trail.student.walk.states]  # L+1 of 1,S,D
    teacher_states = [state[None] for state in trail.teacher.walk.states]
    real = torch.ones(1, len(trail.pieces), dtype=torch.bool)
    rows = []
    total = 0.0
    for term in hidden_losses.terms():
        weight = hidden_losses.weights[term.name]
        loss = hidden_losses.term(term, model, states, teacher_states, real, qkv={}, projected={})
        value = weight * float(loss)
        total += value
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
    parts += [formula(name) for name in hidden_losses.weights]
    code = [HiddenLosses.forward, *(HIDDEN_LOSSES[name].compare for name in hidden_losses.weights)]
    return Stage("Loss: hidden-state losses", code, parts), total


def formula(name: str) -> str:
    """What a loss compares, its paper, and the first lines of its function's docstring."""
    loss = HIDDEN_LOSSES[name]
    text = (inspect.getdoc(loss.compare) or "").split("\n\n")[0].replace("\n", " ")
    return f"{name} ({loss.paper}): {loss.summary}. {where(loss.compare)}: {text}"
