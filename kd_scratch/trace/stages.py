"""What the stages of `trace` are made of: paragraphs and tables, numbers as texts, and the check that they are true."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from kd_scratch.common.errors import UserError
from kd_scratch.nn.layers import LayerNormalization

NUMBERS = 4  # those of a vector that are shown; the others are there as their sum
ROUNDING = 1e-4  # float32 sums in another order differ by less, as a part of the largest number


@dataclass
class Grid:
    """A table: its header, and rows of texts; numbers are flush right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: bool = False  # all flush left


@dataclass
class Stage:
    """One stage of the way: the functions behind it, and what there is to see. It is shown as text and as HTML."""

    title: str
    code: Sequence[Callable]
    parts: Sequence[str | Grid]  # a text is a paragraph
    maps: Sequence[tuple[str, list[str], Tensor]] = ()  # pictures, in HTML only: title, S pieces, attention weights S,S


def where(function: Callable) -> str:
    """The place of a function or class: "kd_scratch/nn/layers.py:34 InputEmbeddings"; its name where no file has it."""
    function = inspect.unwrap(function)
    name = getattr(function, "__qualname__", type(function).__qualname__)
    try:
        lines, first = inspect.getsourcelines(function)
    except (OSError, TypeError):  # typed into an interpreter, or written in C
        return name
    decorators = next((i for i, line in enumerate(lines) if line.lstrip().startswith(("def ", "class "))), 0)
    path = Path(inspect.getsourcefile(function))
    root = Path(__file__).parents[2]
    shown = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name
    return f"{shown}:{first + decorators} {name}"


def agree(what: str, shown: float | Tensor, computed: float | Tensor, by_hand: Callable, code: Callable) -> float:
    """The largest difference between what is shown, worked out by hand, and what the code computes.

    Raises UserError where that is more than rounding: nothing that was edited may be shown as it was before.
    """
    expected = torch.as_tensor(computed, dtype=torch.float64)
    difference = float((torch.as_tensor(shown, dtype=torch.float64) - expected).abs().max())
    if not difference <= ROUNDING * (1 + float(expected.abs().max())):  # NaN is no agreement
        raise UserError(
            f"{where(by_hand)}: {what} by hand differs by {difference:.3g} from what {where(code)} computes; "
            "change the first as the second was changed"
        )
    return difference


# --- numbers as texts ---


def number(x: float | Tensor) -> str:
    """For tables, at most nine characters for any size that a sound model gives: -0.012346, 1.23457, 39711.23"""
    x = float(x)
    digits = next((6 - i for i in range(7) if abs(x) < 10**i), None)
    return f"{x:.3g}" if digits is None else f"{x:.{digits}f}".replace("-0.000000", "0.000000")


def exact(x: float | Tensor) -> str:
    """For sentences: six digits, however small the number is."""
    return f"{float(x):.6g}"


def most(weights: Tensor, count: int) -> list[int]:
    """The places of the largest of S numbers, the largest first."""
    return weights.sort(descending=True, stable=True).indices[:count].tolist()


def near(length: int, *places: int, most: int = 24) -> list[int | None]:
    """Which of so many rows are shown: all, or the first ones, those around some places, and the last; None: a gap."""
    if length <= most:
        return list(range(length))
    kept = [
        i for i in range(length) if i < most // 2 or i == length - 1 or any(abs(i - j) <= most // 8 for j in places)
    ]
    gaps = {b: [None, b] for a, b in pairwise(kept) if b > a + 1}
    return [i for b in kept for i in gaps.get(b, [b])]


# --- vectors ---


def columns(width: int) -> tuple[str, ...]:
    """The header of a table of vectors (see strip) that are so wide."""
    shown = min(NUMBERS, width)
    return "", *map(str, range(1, shown + 1)), f"other {width - shown}", f"all {width}"


def strip(name: str, x: Tensor, sums: bool = False) -> tuple[str, ...]:
    """A vector D as a row: its first numbers and, where they matter, the sum of the others and of all."""
    x = x.double()
    totals = (number(x[NUMBERS:].sum()), number(x.sum())) if sums else ("", "")
    return name, *map(number, x[:NUMBERS]), *totals


def product(name: str, x: Tensor, other: str, weight: Tensor) -> list[tuple[str, ...]]:
    """Rows that show how the product of two vectors, D and D, comes about."""
    return [strip(name, x), strip(other, weight), strip("product", x.double() * weight.double(), True)]


def linear_sum(linear: nn.Linear, x: Tensor, row: int = 0) -> str:
    """One number that a linear layer makes of x, D, as a sum: "1.5 + bias 0.5 = 2"."""
    total = x.double() @ linear.weight[row].double()
    bias = linear.bias[row].double()
    return f"{exact(total)} + bias {exact(bias)} = {exact(total + bias)}"


def normed(norm: LayerNormalization, x: Tensor, result: str) -> tuple[list[tuple[str, ...]], str]:
    """The rows of a layer norm of x, D, and the text below them."""
    y = norm(x).double()
    x = x.double()
    width = len(x)
    away = x - x.mean()
    spread = (x.var(correction=0) + norm.epsilon).sqrt()
    by_hand = away / spread * norm.weight.double() + norm.bias.double()
    agree("the layer norm", by_hand, y, normed, type(norm).forward)
    rows = [
        strip("less mean", away),
        strip("squared", away.square(), True),
        strip("/ spread", away / spread),
        strip("weight", norm.weight),
        strip("bias", norm.bias),
        strip(result, y),
        strip("squared", y.square(), True),
    ]
    text = (
        f"Layer norm: the mean is {exact(x.sum())} / {width} = {exact(x.mean())}. Less that, and squared, the sum is "
        f"{exact(away.square().sum())}, and sqrt({exact(away.square().sum())} / {width} + {norm.epsilon:g}) = "
        f"{exact(spread)} is the spread. (x - mean) / spread * weight + bias gives {result}, whose length (L2 norm) is "
        f"sqrt({exact(y.square().sum())}) = {exact(y.norm())}."
    )
    return rows, text


# --- distributions ---


def softmax_grid(
    names: Sequence[str], scores: Tensor, shown: Sequence[int], first: str, score: str, logs: bool = False
) -> tuple[Grid, str]:
    """How scores, K, become probabilities: a table of the outcomes shown, the others, and all; the text below it."""
    z = scores.double()
    away = z - z.max()
    powers = away.exp()
    log_p = z.log_softmax(dim=0)
    p = log_p.exp()
    vectors = [z, away, powers, p, *([log_p] if logs else [])]
    rows = [(names[i], *(number(x[i]) for x in vectors)) for i in shown]
    others = [i for i in range(len(z)) if i not in shown]
    for name, which in ((f"other {len(others)}", others), (f"all {len(z)}", list(range(len(z))))):
        if which:
            rows.append((name, "", "", number(powers[which].sum()), number(p[which].sum()), *([""] if logs else [])))
    total = powers.sum()
    text = (
        f"Softmax: {score} less the highest of all, {exact(z.max())} (that cancels, and keeps e^... small); e to the "
        f"power of it; divided by the sum of these, {exact(total)}."
    )
    if logs:
        text += f" ln p = {score} - max - ln({exact(total)}) = {score} - max - {exact(total.log())}."
    return Grid((first, score, f"{score} - max", "e^...", "p", *(["ln p"] if logs else [])), rows), text


def kl_grid(names: Sequence[str], log_p: Tensor, log_q: Tensor, shown: Sequence[int]) -> tuple[Grid, Tensor]:
    """How KL(p || q) of two distributions, K each, comes about: a table, and the KL."""
    terms = log_p.exp() * (log_p - log_q)
    rows = [(names[k], *(number(x[k]) for x in (log_p.exp(), log_p, log_q, terms))) for k in shown]
    if len(names) > len(shown):
        others = terms.sum() - terms[list(shown)].sum()
        rows.append((f"other {len(names) - len(shown)}", "", "", "", number(others)))
    rows.append((f"all {len(names)}", "", "", "", number(terms.sum())))
    return Grid(("outcome", "p", "ln p", "ln q", "p * (ln p - ln q)"), rows), terms.sum()
