"""The hidden-state losses as a stage of `trace`. Everything in it comes from the registry, HIDDEN_LOSSES."""

import inspect

import torch

from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES, BothQKV, HiddenLosses, all_qkv
from kd_scratch.trace.stages import Grid, Stage, number, where
from kd_scratch.trace.trail import Trail


def hidden_losses_stage(trail: Trail, hidden_losses: HiddenLosses) -> tuple[Stage, float]:
    """Every term of the hidden-state losses, the formula of each kind, and their sum."""
    walks = trail.student.walk, trail.teacher.walk
    states = [[state[None] for state in walk.states] for walk in walks]  # of both models L+1 of 1,S,D
    qkv = BothQKV(*(all_qkv(walk.model, of_model) for walk, of_model in zip(walks, states, strict=True)))
    real = torch.ones(1, len(trail.pieces), dtype=torch.bool)
    rows = []
    total = 0.0
    for term, loss in zip(hidden_losses.terms(), hidden_losses.values(*states, real, qkv), strict=True):
        weight = hidden_losses.weights[term.name]
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
    code = [HiddenLosses.values, *(HIDDEN_LOSSES[name].compare for name in hidden_losses.weights)]
    return Stage("Loss: hidden-state losses", code, parts), total


def formula(name: str) -> str:
    """What a loss compares, its paper, and the first lines of its function's docstring."""
    loss = HIDDEN_LOSSES[name]
    text = (inspect.getdoc(loss.compare) or "").split("\n\n")[0].replace("\n", " ")
    return f"{name} ({loss.paper}): {loss.summary}. {where(loss.compare)}: {text}"
