"""One input through a model, layer by layer: the stages that `trace` shows, with the numbers of one position.

Each is worked out here by hand, and compared with what the model's own layer gives (see `agree`): an edited layer is
followed or refused, never shown as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    ResidualConnection,
    attention,
    join_heads,
    split_heads,
)
from kd_scratch.nn.model import Model
from kd_scratch.trace.stages import (
    NUMBERS,
    Grid,
    Stage,
    agree,
    columns,
    exact,
    linear_sum,
    most,
    normed,
    number,
    product,
    softmax_grid,
    strip,
)

FORMULAS = {
    "gelu": "gelu(a) = a * P(a), with P(a) = (1 + erf(a / sqrt(2))) / 2",
    "gelu_new": "gelu(a) = a / 2 * (1 + tanh(sqrt(2 / pi) * (a + 0.044715 * a^3)))",
    "relu": "relu(a) = a where that is above 0, else 0",
}


@dataclass
class Walk:
    """A model's way over one input, that is a batch of one: nothing is padded, so there is no mask."""

    model: Model
    states: list[Tensor]  # L+1 of S,D, as ModelOutput.hidden_states
    maps: list[Tensor]  # L of H,S,S
    logits: Tensor  # as the head gives them
    difference: float  # the largest from those of Model.forward


def walk_through(model: Model, batch: Batch) -> Walk:
    """One layer after the other, by the model's own modules. UserError where Model.forward has gone another way."""
    x = model.embedding_norm(model.positions(model.embeddings(batch.input_ids, batch.token_type_ids)))  # 1,S -> 1,S,D
    states = []
    maps = []
    for block in model.encoder.blocks:
        states.append(x[0])
        x, weights = block(x, need_maps=True)
        maps.append(weights[0])
    if model.encoder.final_norm is not None:
        x = model.encoder.final_norm(x)
    states.append(x[0])
    logits = model.head(x)
    difference = agree("the way to the logits", logits, model(**batch.inputs).logits, walk_through, Model.forward)
    return Walk(model, states, maps, logits, difference)


def embedding_stage(walk: Walk, batch: Batch, position: int, piece: str) -> Stage:
    """The vectors of a position, their sum, and its norm."""
    model, embeddings = walk.model, walk.model.embeddings
    token = int(batch.input_ids[0, position])
    word = embeddings.word.weight[token]
    total = embeddings.scale * word
    rows = [strip("word", word)]
    tables = [f"row {token} of the table of words"]
    if embeddings.scale != 1:
        rows.append(strip(f"* {embeddings.scale:.5f}", total))
    positions = getattr(model.positions, "weight", None)  # None: positions that are not added here, such as rotary ones
    if positions is not None:
        vector = positions[position]
        total = total + vector
        rows.append(strip("position", vector))
        tables.append(f"row {position} of the positions")
    if embeddings.token_type is not None:
        kind = 0 if batch.token_type_ids is None else int(batch.token_type_ids[0, position])
        segment = embeddings.token_type.weight[kind]
        total = total + segment
        rows.append(strip("segment", segment))
        tables.append(f"row {kind} of the segments")
    more, text = normed(model.embedding_norm, total, "state")
    agree("the embedding", model.embedding_norm(total), walk.states[0][position], embedding_stage, Model.forward)
    intro = (
        f"Each of the {batch.tokens} pieces becomes {len(word)} numbers. Followed from here on: position {position}, "
        f"{piece!r}. Shown are the first numbers of each vector, and sums where they are needed. Looked up: "
        f"{', '.join(tables)}."
    )
    grid = Grid(columns(len(word)), [*rows, strip("sum", total, True), *more])
    code = [Model.forward, InputEmbeddings.forward, type(model.positions).forward, LayerNormalization.forward]
    return Stage("Embeddings", code, [intro, grid, text])


def norm_first_parts(residual: ResidualConnection, x: Tensor) -> list[str | Grid]:
    """The norm of x, D, before a sublayer; nothing where it comes behind it."""
    if not residual.norm_first:
        return []
    rows, text = normed(residual.norm, x, "normed")
    text = text.replace("Layer norm:", "Layer norm, before all else in this model (pre-norm):")
    return [Grid(columns(len(x)), [strip("x", x, True), *rows]), text]


def residual_parts(residual: ResidualConnection, x: Tensor, y: Tensor) -> list[str | Grid]:
    """x + y, D each, and the norm of that where it comes behind the sublayer."""
    rows = [strip("x", x), strip("y", y), strip("x + y", x + y, True)]
    text = "x + y is the state (pre-norm)."
    if not residual.norm_first:
        more, text = normed(residual.norm, x + y, "state")
        rows += more
    return [Grid(columns(len(x)), rows), text]


def block_stages(walk: Walk, position: int, pieces: list[str]) -> list[Stage]:
    """The first block at one position."""
    block, x = walk.model.encoder.blocks[0], walk.states[0]
    whole, maps = block(x[None], need_maps=True)  # 1,S,D and 1,H,S,S
    joined, state = join_stage(block, x, position)
    return [
        attention_stage(block, x, position, pieces, maps[0, 0, position]),
        joined,
        feed_forward_stage(block, state, whole[0, position]),
    ]


def attention_stage(block: EncoderBlock, x: Tensor, position: int, pieces: list[str], computed: Tensor) -> Stage:
    """What a position of a block's input S,D takes from the others: its first head in numbers.

    computed S: the attention weights that the block itself gives for this position in this head.
    """
    layer, residual = block.attention, block.attention_residual
    seen = residual.norm(x) if residual.norm_first else x  # S,D: what the three matrices get
    query, key, value = block.project(x[None])  # 1,S,D each
    scores = scaled_products(query, key, layer.heads)[0, 0, position]  # S: head 1
    weights = scores.softmax(dim=0).double()
    agree("attention", weights, computed, attention_stage, MultiHeadAttention.forward)
    q, k, v = (split_heads(projected, layer.heads)[0, 0] for projected in (query, key, value))  # S,W each: head 1
    shown = most(weights, 5)
    other = next(i for i in shown if i != position)
    width, head = x.size(1), q.size(1)
    grid, text = softmax_grid([f"{i} {piece}" for i, piece in enumerate(pieces)], scores, shown, "piece", "score")
    dot = q[position].double() @ k[other].double()
    parts = [
        *norm_first_parts(residual, x[position]),
        f"Three matrices make a query, a key and a value of {width} numbers from each state x; {layer.heads} heads "
        f"have {head} of these numbers each. Followed: head 1. The first number of the query of position {position}, "
        f"and of key and value of position {other}, {pieces[other]!r}, which gets most of this head's attention "
        f"(position {position} itself aside):",
        *projection_parts(block, seen, position, other, {"query": q[position], "key": k[other], "value": v[other]}),
        Grid(columns(head), product(f"query {position}", q[position], f"key {other}", k[other])),
        f"The score of piece {other} is {exact(dot)} / sqrt({head}) = {exact(dot / head**0.5)}. So for every piece:",
        grid,
        text,
        "The head gives the mean of the values v, weighted by p:",
        mean_grid(weights, v, shown, pieces),
    ]
    project = type(block.attention).project
    code = [EncoderBlock.forward, MultiHeadAttention.forward, project, split_heads, attention]
    return Stage("Block 1: attention", code, parts)


def projection_parts(
    block: EncoderBlock, seen: Tensor, position: int, other: int, projected: dict[str, Tensor]
) -> list[str | Grid]:
    """How the first number of a query, a key and a value comes about. seen S,D: what the three matrices get.

    projected: what MultiHeadAttention.project makes of them, W each; where that is not the sum alone, it is shown too.
    """
    places = {"query": position, "key": other, "value": other}
    rows = []
    sums = []
    changed = []
    for name, i in places.items():
        linear = getattr(block.attention, name)
        rows += product(f"x {i}", seen[i], name, linear.weight[0])
        sums.append(f"{name} {linear_sum(linear, seen[i])}")
        if not torch.allclose(linear(seen[i])[: len(projected[name])], projected[name], rtol=1e-4, atol=1e-4):
            changed.append(f"{name} {exact(projected[name][0])}")
    text = f"The sum of all products + bias: {'; '.join(sums)}. All others come from the matrices' other rows."
    if changed:
        text += f" {type(block.attention).__name__}.project changes them before they are used: {'; '.join(changed)}."
    return [Grid(columns(seen.size(1)), rows), text]


def mean_grid(weights: Tensor, v: Tensor, shown: Sequence[int], pieces: list[str]) -> Grid:
    """How a head's result is the mean of the values v, S,W, weighted by S weights."""
    rows = [(f"{i} {pieces[i]}", number(weights[i]), *map(number, v[i, :NUMBERS])) for i in shown]
    others = [i for i in range(len(v)) if i not in shown]
    for name, which in ((f"other {len(others)}, p * v", others), ("sum of p * v", list(range(len(v))))):
        if which:
            sums = (weights[which] @ v[which].double())[:NUMBERS]
            rows.append((name, number(weights[which].sum()), *map(number, sums)))
    return Grid(("piece", "p", *(f"value {i + 1}" for i in range(min(NUMBERS, v.size(1))))), rows)


def join_stage(block: EncoderBlock, x: Tensor, position: int) -> tuple[Stage, Tensor]:
    """What the attention at a position of a block's input S,D adds to its state; and the state D behind it."""
    layer, residual = block.attention, block.attention_residual
    heads, _ = attention(*(split_heads(projected, layer.heads) for projected in block.project(x[None])))  # 1,H,S,W
    joined = join_heads(heads)[0, position]  # 1,H,S,W -> 1,S,D -> D
    y = layer.output(joined)
    width = len(y)
    parts = [
        f"The {layer.heads} heads side by side are {width} numbers again, those of head 1 come first. A matrix mixes "
        "them. The first number of its result y:",
        Grid(columns(width), product("heads", joined, "output", layer.output.weight[0])),
        f"y: {linear_sum(layer.output, joined)}. Around all that goes the residual connection, x + y:",
        *residual_parts(residual, x[position], y),
    ]
    code = [MultiHeadAttention.forward, ResidualConnection.forward, LayerNormalization.forward]
    state = x[position] + y if residual.norm_first else residual.norm(x[position] + y)
    return Stage("Block 1: heads joined, residual, norm", code, parts), state


def feed_forward_stage(block: EncoderBlock, x: Tensor, computed: Tensor) -> Stage:
    """A block's feed-forward at one position, D. computed D: what the whole block gives there."""
    layer, residual = block.feed_forward, block.feed_forward_residual
    name = next(name for name, function in ACTIVATIONS.items() if function is layer.activation)
    seen, label = (residual.norm(x), "normed") if residual.norm_first else (x, "x")
    inner = layer.inner(seen)
    active = layer.activation(inner)
    y = layer.outer(active)
    state = x + y if residual.norm_first else residual.norm(x + y)
    agree("the block", state, computed, feed_forward_stage, EncoderBlock.forward)
    rows = [strip("a", inner)]
    if name == "gelu":
        rows.append(strip("P(a)", torch.special.ndtr(inner.double())))
    parts = [
        *norm_first_parts(residual, x),
        f"Each position for itself: {len(x)} numbers become {len(inner)}, go through {name}, and become {len(x)}. The "
        "first of the inner numbers a:",
        Grid(columns(len(x)), product(label, seen, "inner", layer.inner.weight[0])),
        f"a: {linear_sum(layer.inner, seen)}. {FORMULAS.get(name, name)}. The first number of the result y:",
        Grid(columns(len(inner)), [*rows, *product(f"{name}(a)", active, "outer", layer.outer.weight[0])]),
        f"y: {linear_sum(layer.outer, active)}. The residual connection again, x + y:",
        *residual_parts(residual, x, y),
    ]
    code = [FeedForwardBlock.forward, ResidualConnection.forward, LayerNormalization.forward]
    return Stage("Block 1: feed-forward", code, parts)


def blocks_stage(walks: dict[str, Walk], position: int, pieces: list[str]) -> Stage:
    """All blocks of each model in a line each: the length of the states, and the pieces with most attention."""
    parts = []
    maps = []
    for name, walk in walks.items():
        rows = []
        for layer, state in enumerate(walk.states):
            lengths = state.norm(dim=-1)
            attended = ""
            if layer:
                mean = walk.maps[layer - 1][:, position].mean(dim=0)  # H,S,S -> H,S -> S
                attended = ", ".join(f"{j} {shorten(pieces[j], 7)} {mean[j]:.2f}" for j in most(mean, 3))
            rows.append((str(layer), number(lengths.mean()), number(lengths[position]), attended))
        config = walk.model.config
        shape = ",".join(map(str, (1, *walk.states[0].shape)))
        last = "" if walk.model.encoder.final_norm is None else " (after the last one a last norm)"
        parts += [
            f"The {name} has {config.depth} blocks of {config.heads} heads; behind each of them the states are of "
            f"shape {shape}{last}; layer 0 are the embeddings. The mean length (L2 norm) of the states, the length at "
            f"position {position}, and the three pieces that it attends to most (mean of the heads):",
            Grid(("layer", "mean", f"at {position}", "attends to"), rows, left=True),
        ]
        maps.append((f"{name}, block {config.depth}", pieces, walk.maps[-1].mean(dim=0)))
    return Stage("All blocks", [Encoder.forward, EncoderBlock.forward], parts, maps)


def head_stage(walks: dict[str, Walk], position: int, outcome: int, name: str) -> Stage:
    """How the head of the first model makes one logit (number `outcome`) of the last state of a position."""
    walk = next(iter(walks.values()))
    head = walk.model.head
    width = walk.model.config.width
    state = walk.states[-1][position]
    if walk.model.config.head == "sequence":
        logit = walk.logits[0, outcome]
        x = head.activation(head.pooler(state))
        label = "pooled"
        parts = [
            "The head uses position 0, [CLS], alone. A first matrix; the first number of its result:",
            Grid(columns(width), product("state", state, "pooler", head.pooler.weight[0])),
            f"{linear_sum(head.pooler, state)}; {head.activation.__name__} of it = {exact(x[0])}. A second matrix "
            f"has a row for each label. That of {name}:",
        ]
    else:
        logit = walk.logits[0, position, outcome]
        x = state
        label = "state"
        parts = [f"A matrix has a row for each outcome. That of {name}, at position {position}:"]
    by_hand = x @ head.classifier.weight[outcome] + head.classifier.bias[outcome]
    agree("the logit", by_hand, logit, head_stage, type(head).forward)
    shape = ",".join(map(str, walk.logits.shape))
    largest = " and ".join(f"{walk.difference:.1e} ({name})" for name, walk in walks.items())
    parts += [
        Grid(columns(width), product(label, x, "classifier", head.classifier.weight[outcome])),
        f"Its logit: {linear_sum(head.classifier, x, outcome)}. All logits are of shape {shape}.",
        "The teacher goes the same way through its own layers. Checked: Model.forward gives the same logits as these "
        f"walks, layer by layer; the largest difference is {largest}, from summing in another order.",
    ]
    return Stage("The head: logits", [type(head).forward, Model.forward], parts)
