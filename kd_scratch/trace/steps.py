"""One input through a model, layer by layer: the stages that `trace` shows, with the numbers of one position."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kd_scratch.common.console import shorten
from kd_scratch.data.batches import Batch
from kd_scratch.distillation.hidden_losses import scaled_products
from kd_scratch.nn.layers import (
    ACTIVATIONS,
    Encoder,
    EncoderBlock,
    FeedForwardBlock,
    InputEmbeddings,
    LayerNormalization,
    MultiHeadAttention,
    PositionalEncoding,
    ResidualConnection,
    attention,
    split_heads,
)
from kd_scratch.nn.model import Model

NUMBERS = 4  # those of a vector that are shown; the others are there as their sum
FORMULAS = {
    "gelu": "gelu(a) = a * P(a), with P(a) = (1 + erf(a / sqrt(2))) / 2",
    "gelu_new": "gelu(a) = a / 2 * (1 + tanh(sqrt(2 / pi) * (a + 0.044715 * a^3)))",
    "relu": "relu(a) = a where that is above 0, else 0",
}


@dataclass
class Grid:
    """A table: its header, and rows of texts; numbers are flush right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: bool = False  # all flush left


@dataclass
class Stage:
    """One stage of the way: which functions do it, and what is to be seen there. It is shown as text and as HTML."""

    title: str
    code: Sequence[Callable]
    parts: Sequence[str | Grid]  # a text is a paragraph
    maps: Sequence[tuple[str, list[str], Tensor]] = ()  # pictures, in HTML only: title, S pieces, attention weights S,S


def where(function: Callable) -> str:
    """The place of a function or class, as it says itself: "kd_scratch/layers.py:34 InputEmbeddings"."""
    function = inspect.unwrap(function)
    lines, first = inspect.getsourcelines(function)
    decorators = next(i for i, line in enumerate(lines) if line.lstrip().startswith(("def ", "class ")))
    path = Path(inspect.getsourcefile(function)).relative_to(Path(__file__).parents[2])
    return f"{path.as_posix()}:{first + decorators} {function.__qualname__}"


# --- numbers as texts ---


def number(x: float | Tensor) -> str:
    """For tables, at most nine characters for any size that a sound model gives: -0.012346, 1.23457, 39711.23"""
    x = float(x)
    digits = next((6 - i for i in range(7) if abs(x) < 10**i), None)
    return f"{x:.3g}" if digits is None else f"{x:.{digits}f}".replace("-0.000000", "0.000000")


def exact(x: float | Tensor) -> str:
    """For sentences: six digits, however small the number is."""
    return f"{float(x):.6g}"


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
    total, bias = x.double() @ linear.weight[row].double(), linear.bias[row].double()
    return f"{exact(total)} + bias {exact(bias)} = {exact(total + bias)}"


def normed(norm: LayerNormalization, x: Tensor, result: str) -> tuple[list[tuple[str, ...]], str]:
    """The rows of a layer norm of x, D, and what is to be said of them."""
    y, x, width = norm(x).double(), x.double(), len(x)
    away, variance = x - x.mean(), x.var(correction=0)
    spread = (variance + norm.epsilon).sqrt()
    rows = [
        strip("less mean", away),
        strip("squared", away.square(), True),
        strip("/ spread", away / spread),
        strip("weight", norm.weight),
        strip("bias", norm.bias),
        strip(result, y),
        strip("squared", y.square(), True),
    ]
    said = (
        f"Layer norm: the mean is {exact(x.sum())} / {width} = {exact(x.mean())}. Less that, and squared, the sum is "
        f"{exact(away.square().sum())}, and sqrt({exact(away.square().sum())} / {width} + {norm.epsilon:g}) = "
        f"{exact(spread)} is the spread. (x - mean) / spread * weight + bias gives {result}, whose length (L2 norm) is "
        f"sqrt({exact(y.square().sum())}) = {exact(y.norm())}."
    )
    return rows, said


def softmax_grid(
    names: Sequence[str], scores: Tensor, shown: Sequence[int], first: str, score: str, logs: bool = False
) -> tuple[Grid, str]:
    """How scores, K, become probabilities: the outcomes shown, the others, all; and what is to be said of it."""
    z = scores.double()
    away, log_p = z - z.max(), z.log_softmax(dim=0)
    powers, p = away.exp(), log_p.exp()
    rows = [(names[i], *(number(x[i]) for x in (z, away, powers, p, log_p)[: 4 + logs])) for i in shown]
    others = [i for i in range(len(z)) if i not in shown]
    for name, which in ((f"other {len(others)}", others), (f"all {len(z)}", range(len(z)))):
        if which:
            sums = (number(x[list(which)].sum()) for x in (powers, p))
            rows.append((name, "", "", *sums, *([""] if logs else [])))
    total = powers.sum()
    said = (
        f"Softmax: {score} less the highest of all, {exact(z.max())} (that cancels, and keeps e^... small); e to the "
        f"power of it; divided by the sum of these, {exact(total)}."
    )
    if logs:
        said += f" ln p = {score} - max - ln({exact(total)}) = {score} - max - {exact(total.log())}."
    return Grid((first, score, f"{score} - max", "e^...", "p", *(["ln p"] if logs else [])), rows), said


def most(weights: Tensor, count: int) -> list[int]:
    """The places of the largest of S numbers, the largest first."""
    return weights.sort(descending=True, stable=True).indices[:count].tolist()


# --- the walk ---


@dataclass
class Walk:
    """A model's way over one input, that is a batch of one: nothing is padded, so there is no mask."""

    states: list[Tensor]  # N+1 of S,D, as ModelOutput.hidden_states
    maps: list[Tensor]  # N of H,S,S
    logits: Tensor  # as the head gives them
    difference: float  # the largest from those of Model.forward


def walk(model: Model, batch: Batch) -> Walk:
    """One layer after the other, by the model's own modules."""
    x = model.embedding_norm(model.positions(model.embeddings(batch.input_ids, batch.token_type_ids)))  # 1,S -> 1,S,D
    states, maps = [], []
    for block in model.encoder.blocks:
        states.append(x[0])
        x, weights = block(x, need_maps=True)
        maps.append(weights[0])
    x = x if model.encoder.final_norm is None else model.encoder.final_norm(x)
    logits, whole = model.head(x), model(**batch.inputs).logits
    difference = float((logits - whole).abs().max())
    if difference > 1e-4 * (1 + float(whole.abs().max())):  # float32, in another order of summing
        raise AssertionError(f"layer by layer the logits differ by {difference} from the model's")
    return Walk([*states, x[0]], maps, logits, difference)


def embedding_stage(model: Model, batch: Batch, at: int, piece: str) -> Stage:
    """The three vectors of a position, their sum, and its norm."""
    embeddings, token = model.embeddings, int(batch.input_ids[0, at])
    word, position = embeddings.word.weight[token], model.positions.weight[at]
    rows, total = [strip("word", word)], embeddings.scale * word + position
    intro = (
        f"Each of the {batch.tokens} pieces becomes {len(word)} numbers. Followed from here on: position {at}, "
        f"{piece!r}. Shown are the first numbers of each vector, and sums where they are needed. Looked up: row "
        f"{token} of the table of words, row {at} of the positions"
    )
    if embeddings.scale != 1:
        rows.append(strip(f"* {embeddings.scale:.5f}", embeddings.scale * word))
    rows.append(strip("position", position))
    if embeddings.token_type is not None:
        kind = 0 if batch.token_type_ids is None else int(batch.token_type_ids[0, at])
        segment = embeddings.token_type.weight[kind]
        rows.append(strip("segment", segment))
        intro, total = f"{intro}, row {kind} of the segments", total + segment
    more, said = normed(model.embedding_norm, total, "state")
    grid = Grid(columns(len(word)), [*rows, strip("sum", total, True), *more])
    code = [Model.forward, InputEmbeddings.forward, PositionalEncoding.forward, LayerNormalization.forward]
    return Stage("Embeddings", code, [intro + ".", grid, said])


def norm_first_parts(residual: ResidualConnection, x: Tensor) -> list[str | Grid]:
    """The norm of x, D, before a sublayer; nothing where it comes behind it."""
    if not residual.norm_first:
        return []
    rows, said = normed(residual.norm, x, "normed")
    said = said.replace("Layer norm:", "Layer norm, before all else in this model (pre-norm):")
    return [Grid(columns(len(x)), [strip("x", x, True), *rows]), said]


def residual_parts(residual: ResidualConnection, x: Tensor, y: Tensor) -> list[str | Grid]:
    """x + y, D each, and the norm of that where it comes behind the sublayer."""
    rows, said = [strip("x", x), strip("y", y), strip("x + y", x + y, True)], "x + y is the state (pre-norm)."
    if not residual.norm_first:
        more, said = normed(residual.norm, x + y, "state")
        rows += more
    return [Grid(columns(len(x)), rows), said]


def attention_stage(block: EncoderBlock, x: Tensor, at: int, pieces: list[str]) -> Stage:
    """What a position of a block's input S,D looks at: its first head in numbers."""
    layer, names = block.attention, [f"{i} {piece}" for i, piece in enumerate(pieces)]
    seen = block.attention_residual.norm(x) if block.attention_residual.norm_first else x  # as in project
    made = block.project(x[None])  # 1,S,D each
    q, k, v = (split_heads(y, layer.heads)[0, 0] for y in made)  # S,W each: head 1
    scores = scaled_products(*made[:2], layer.heads)[0, 0, at]  # S
    weights, width, head = scores.softmax(dim=0).double(), x.size(1), q.size(1)
    shown = most(weights, 5)
    j = next(i for i in shown if i != at)
    linears = {"query": (layer.query, at), "key": (layer.key, j), "value": (layer.value, j)}
    first = [row for name, (linear, i) in linears.items() for row in product(f"x {i}", seen[i], name, linear.weight[0])]
    sums = "; ".join(f"{name} {linear_sum(linear, seen[i])}" for name, (linear, i) in linears.items())
    grid, said = softmax_grid(names, scores, shown, "piece", "score")
    others = [i for i in range(len(x)) if i not in shown]
    rows = [(names[i], number(weights[i]), *map(number, v[i, :NUMBERS])) for i in shown]
    for name, which in ((f"other {len(others)}, p * v", others), ("sum of p * v", range(len(x)))):
        if which:
            sum_of = (weights[list(which)] @ v[list(which)].double())[:NUMBERS]
            rows.append((name, number(weights[list(which)].sum()), *map(number, sum_of)))
    dot = q[at].double() @ k[j].double()
    parts = [
        *norm_first_parts(block.attention_residual, x[at]),
        f"Three matrices make a query, a key and a value of {width} numbers from each state x; {layer.heads} heads "
        f"have {head} of these numbers each. Followed: head 1. The first number of the query of position {at}, and of "
        f"key and value of position {j}, {pieces[j]!r}, to which this head pays most attention beside itself:",
        Grid(columns(width), first),
        f"The sum of all products + bias: {sums}. All others come from the matrices' other rows.",
        Grid(columns(head), product(f"query {at}", q[at], f"key {j}", k[j])),
        f"The score of piece {j} is {exact(dot)} / sqrt({head}) = {exact(dot / head**0.5)}. So for every piece:",
        grid,
        said,
        "The head gives the mean of the values v, weighted by p:",
        Grid(("piece", "p", *(f"value {i + 1}" for i in range(min(NUMBERS, head)))), rows),
    ]
    code = [EncoderBlock.forward, EncoderBlock.project, MultiHeadAttention.forward, split_heads, attention]
    return Stage("Block 1: what a position looks at", code, parts)


def join_stage(block: EncoderBlock, x: Tensor, at: int) -> tuple[Stage, Tensor]:
    """What the attention at a position of a block's input S,D adds to its state; and the state D behind it."""
    layer, residual, width = block.attention, block.attention_residual, x.size(1)
    heads, _ = attention(*(split_heads(y, layer.heads) for y in block.project(x[None])))  # 1,H,S,W
    joined = heads.transpose(1, 2).flatten(2)[0, at]  # 1,S,H,W -> 1,S,D -> D
    y = layer.output(joined)
    parts = [
        f"The {layer.heads} heads side by side are {width} numbers again, those of head 1 come first. A matrix mixes "
        "them. The first number of its result y:",
        Grid(columns(width), product("heads", joined, "output", layer.output.weight[0])),
        f"y: {linear_sum(layer.output, joined)}. Around all that goes the residual connection, x + y:",
        *residual_parts(residual, x[at], y),
    ]
    code = [MultiHeadAttention.forward, ResidualConnection.forward, LayerNormalization.forward]
    stage = Stage("Block 1: heads joined, residual, norm", code, parts)
    return stage, x[at] + y if residual.norm_first else residual.norm(x[at] + y)


def feed_forward_stage(block: EncoderBlock, x: Tensor) -> Stage:
    """A block's feed-forward at one position, D."""
    layer, residual, width = block.feed_forward, block.feed_forward_residual, len(x)
    name = next(name for name, function in ACTIVATIONS.items() if function is layer.activation)
    seen, label = (residual.norm(x), "normed") if residual.norm_first else (x, "x")
    inner = layer.inner(seen)
    active = layer.activation(inner)
    rows = [strip("a", inner)]
    if name == "gelu":
        rows.append(strip("P(a)", torch.special.ndtr(inner.double())))
    parts = [
        *norm_first_parts(residual, x),
        f"Each position for itself: {width} numbers become {len(inner)}, go through {name}, and become {width}. The "
        "first of the inner numbers a:",
        Grid(columns(width), product(label, seen, "inner", layer.inner.weight[0])),
        f"a: {linear_sum(layer.inner, seen)}. {FORMULAS[name]}. The first number of the result y:",
        Grid(columns(len(inner)), [*rows, *product(f"{name}(a)", active, "outer", layer.outer.weight[0])]),
        f"y: {linear_sum(layer.outer, active)}. The residual connection again, x + y:",
        *residual_parts(residual, x, layer.outer(active)),
    ]
    code = [FeedForwardBlock.forward, ResidualConnection.forward, LayerNormalization.forward]
    return Stage("Block 1: feed-forward", code, parts)


def blocks_stage(models: dict[str, tuple[Model, Walk]], at: int, pieces: list[str]) -> Stage:
    """All blocks of each model in a line each: the length of the states, and what is looked at most."""
    parts, maps = [], []
    for name, (model, way) in models.items():
        rows = []
        for i, state in enumerate(way.states):
            lengths, looks = state.norm(dim=-1), ""
            if i:
                mean = way.maps[i - 1][:, at].mean(dim=0)  # H,S,S -> H,S -> S
                looks = ", ".join(f"{j} {shorten(pieces[j], 7)} {mean[j]:.2f}" for j in most(mean, 3))
            rows.append((str(i), number(lengths.mean()), number(lengths[at]), looks))
        shape = ",".join(map(str, (1, *way.states[0].shape)))
        last = "" if model.encoder.final_norm is None else " (after the last one a last norm)"
        parts += [
            f"The {name} has {model.config.depth} blocks of {model.config.heads} heads; behind each of them the states "
            f"are of shape {shape}{last}; layer 0 are the embeddings. The mean length (L2 norm) of the states, the "
            f"length at position {at}, and the three pieces at which it looks most (mean of the heads):",
            Grid(("layer", "mean", f"at {at}", "looks at"), rows, left=True),
        ]
        maps.append((f"{name}, block {model.config.depth}", pieces, way.maps[-1].mean(dim=0)))
    return Stage("All blocks", [Encoder.forward, EncoderBlock.forward], parts, maps)


def head_stage(models: dict[str, tuple[Model, Walk]], at: int, outcome: int, name: str) -> Stage:
    """How the head of the first model makes one logit (number `outcome`) of the last state of a position."""
    model, way = next(iter(models.values()))
    head, x, label, width = model.head, way.states[-1][at], "state", model.config.width
    parts = [f"A matrix has a row for each outcome. That of {name}, at position {at}:"]
    if model.config.head == "sequence":
        pooled, squash = head.squash(head.pooler(x)), head.squash.__name__
        parts = [
            "The head looks at position 0, [CLS], alone. A first matrix; the first number of its result:",
            Grid(columns(width), product("state", x, "pooler", head.pooler.weight[0])),
            f"{linear_sum(head.pooler, x)}; {squash} of it = {exact(pooled[0])}. A second matrix has a row for each "
            f"label. That of {name}:",
        ]
        x, label = pooled, "pooled"
    shape = ",".join(map(str, way.logits.shape))
    largest = " and ".join(f"{way.difference:.1e} ({name})" for name, (_, way) in models.items())
    parts += [
        Grid(columns(width), product(label, x, "classifier", head.classifier.weight[outcome])),
        f"Its logit: {linear_sum(head.classifier, x, outcome)}. All logits are of shape {shape}.",
        "The teacher goes the same way through its own layers. Checked: Model.forward gives the same logits as these "
        f"walks, layer by layer; the largest difference is {largest}, from summing in another order.",
    ]
    return Stage("The head: logits", [type(head).forward, Model.forward], parts)
