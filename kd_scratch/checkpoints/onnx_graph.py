"""A model as a graph of ONNX operators, bottom-up: each function is a layer of nn/layers.py or nn/model.py, as nodes.

Read it beside them. Where they hold tensors, here are names of values; a function adds nodes to the graph and returns
the name of what they compute. Shapes are the alphabet of nn/layers.py.

Standard operators only, of opset 17 (see OPSET), in the forms that ONNX Runtime's optimizer knows: it makes one
operator of GELU and the bias before it, one of a product of heads and its scale, and one of an int8 product with all
that surrounds it.

Three precisions:

- float32: the weights as they are.
- float16: tables and matrices are stored in 16 bits, and cast to float32 when the file is opened. Half the size, and no
  slower: on a CPU, which has few operations on 16 bits, ONNX Runtime would cast before and after each of them.
- int8: an int8 model's own whole numbers (nn/int8.py), the input of each product rounded to 8 bits on the way: with a
  scale for each token where each is decided, as here; else with one for all inputs, for which ONNX has an operator.
"""

import math

import torch
from torch import Tensor

from kd_scratch.checkpoints.onnx_format import Graph
from kd_scratch.config import ModelConfig
from kd_scratch.nn import int8
from kd_scratch.nn.layers import sinusoidal_table

FAR = -10000.0  # is added to the score of a key that may not be looked at: exp makes an exact 0 of that
FLOAT, UINT8, BOOL = 1, 2, 9  # the numbers of types, see DTYPES


class ModelGraph(Graph):
    """A graph that is made of a model's tensors, of which `weight` puts those into the file that nodes ask for."""

    def __init__(self, config: ModelConfig, weights: dict[str, Tensor], half: bool = False):
        super().__init__()
        self.config = config
        self.weights = weights  # under our names, as int8.to_tensors gives them
        self.half = half
        self.rounded: dict[str, list[str]] = {}  # a value -> the names of its whole numbers, and of two more

    def weight(self, name: str, transposed: bool = False) -> str:
        """The name of a float weight, transposed where asked for; in float16 its half form, cast."""
        value = self.weights[name].T if transposed else self.weights[name]
        if not self.half or value.dim() < 2:
            return self.tensor(name, value)
        if f"{name}.half" not in self.tensors:
            self.node("Cast", self.tensor(f"{name}.half", value.half()), to=FLOAT, name=name)
        return name


# --- layers ---


def linear(graph: ModelGraph, x: str, layer: str) -> str:
    """x …,in -> …,out: x · Wᵀ + bias, W out,in being stored as in,out"""
    graph.place = layer
    if f"{layer}.weight{int8.SCALE}" in graph.weights:
        y = int8_product(graph, x, layer)
    else:
        y = graph.node("MatMul", x, graph.weight(f"{layer}.weight", transposed=True))
    return graph.node("Add", y, graph.weight(f"{layer}.bias"))


def int8_product(graph: ModelGraph, x: str, layer: str) -> str:
    """x …,in -> …,out: what int8.linear_by_hand computes, or with a scale for each token, before the bias

    The range of the whole x, or of each token's, is cut into 255 steps; the product is one of whole numbers, and then
    multiplied by both scales. What becomes of x is shared by the products that have it as their input.
    """
    by_token = int8.scales_of(graph.config.head) == "token"
    if x not in graph.rounded:
        graph.rounded[x] = rounded_by_token(graph, x) if by_token else graph.node("DynamicQuantizeLinear", x, outputs=3)
    whole, step, low = graph.rounded[x]  # low: the whole number of 0, or by token the lowest number
    weight, scale = graph.weights[f"{layer}.weight"], graph.weights[f"{layer}.weight{int8.SCALE}"]  # out,in int8; out
    columns = graph.tensor(f"{layer}.weight", weight.T)
    total = graph.node("MatMulInteger", whole, columns, *([] if by_token else [low]))  # …,out int32
    scales = graph.node("Mul", step, graph.tensor(f"{layer}.scale", scale))
    y = graph.node("Mul", graph.node("Cast", total, to=FLOAT), scales)
    if not by_token:
        return y
    sums = graph.tensor(f"{layer}.sums", weight.sum(dim=1).float() * scale)  # out: what an input of ones gives
    return graph.node("Add", y, graph.node("Mul", low, sums))


def rounded_by_token(graph: ModelGraph, x: str) -> list[str]:
    """x …,in -> whole numbers …,in (uint8), step …,1 and lowest number …,1: x ≈ low + step · whole"""
    low, high = (graph.node(name, x, axes=[-1]) for name in ("ReduceMin", "ReduceMax"))
    step = graph.node("Div", graph.node("Sub", high, low), graph.constant(255.0))
    step = graph.node("Max", step, graph.constant(int8.SMALLEST_STEP))
    whole = graph.node("Round", graph.node("Div", graph.node("Sub", x, low), step))
    return [graph.node("Cast", whole, to=UINT8), step, low]


def layer_norm(graph: ModelGraph, x: str, layer: str) -> str:
    """…,D -> …,D"""
    graph.place = layer
    weight, bias = graph.weight(f"{layer}.weight"), graph.weight(f"{layer}.bias")
    return graph.node("LayerNormalization", x, weight, bias, axis=-1, epsilon=graph.config.norm_epsilon)


def activation(graph: ModelGraph, x: str) -> str:
    """x -> the same shape"""
    if graph.config.activation == "relu":
        return graph.node("Relu", x)
    if graph.config.activation == "gelu":  # x · (erf(x / √2) + 1) · 0.5
        bent = graph.node("Erf", graph.node("Div", x, graph.constant(math.sqrt(2))))
    elif graph.config.activation == "gelu_new":  # x · (tanh(√(2/π) · (x + 0.044715 · x³)) + 1) · 0.5
        cube = graph.node("Mul", graph.node("Pow", x, graph.constant(3.0)), graph.constant(0.044715))
        inner = graph.node("Mul", graph.node("Add", x, cube), graph.constant(math.sqrt(2 / math.pi)))
        bent = graph.node("Tanh", inner)
    else:
        raise ValueError(f"activation {graph.config.activation} has no nodes here")
    doubled = graph.node("Mul", x, graph.node("Add", bent, graph.constant(1.0)))
    return graph.node("Mul", doubled, graph.constant(0.5))


def table(graph: ModelGraph, name: str, ids: str = "") -> str:
    """Rows of a table: ids … -> …,D, or all of them as they are: V,D. Of floats, or of 4-bit numbers (int8.Table)."""
    graph.place = name.removesuffix(".weight")

    def rows(part: str) -> str:
        return graph.node("Gather", part, ids) if ids else part

    if name + int8.SCALE not in graph.weights:
        return rows(graph.weight(name))
    packed, scale, low = (
        rows(graph.tensor(name + part, graph.weights[name + part])) for part in ("", int8.SCALE, int8.LOW)
    )
    return unpacked(graph, packed, scale, low)


def unpacked(graph: ModelGraph, packed: str, scale: str, low: str) -> str:
    """packed …,D/2 (uint8), scale and low …,G (float16) -> …,D: what int8.Table.forward computes"""
    width, groups = graph.config.width, int8.Table.groups(graph.config.width)
    four = graph.tensor("number/four", torch.tensor(4, dtype=torch.uint8))
    high_bits = graph.node("BitShift", packed, four, direction="RIGHT")
    low_bits = graph.node("BitShift", graph.node("BitShift", packed, four, direction="LEFT"), four, direction="RIGHT")
    t = graph.node("Cast", graph.node("Concat", low_bits, high_bits, axis=-1), to=FLOAT)  # …,D, or one more
    if width % 2:
        t = graph.node("Slice", t, *(graph.constant([n]) for n in (0, width, -1)))
    shape = graph.node("Shape", t)
    column = graph.constant([-1])
    outer = graph.node("Shape", scale)  # …,G
    t = graph.node("Reshape", t, graph.node("Concat", outer, graph.constant([width // groups]), axis=0))  # …,G,32
    scale, low = (graph.node("Unsqueeze", graph.node("Cast", part, to=FLOAT), column) for part in (scale, low))  # …,G,1
    return graph.node("Reshape", graph.node("Add", low, graph.node("Mul", scale, t)), shape)  # …,G,32 -> …,D


def embeddings(graph: ModelGraph) -> str:
    """The inputs B,S -> B,S,D: tokens, token types and positions"""
    config = graph.config
    x = table(graph, "embeddings.word.weight", "input_ids")
    if config.positions == "sinusoidal":
        x = graph.node("Mul", x, graph.constant(math.sqrt(config.width)))
    if config.token_types:
        x = graph.node("Add", x, table(graph, "embeddings.token_type.weight", "token_type_ids"))
    positions = table(graph, "positions.weight")  # P,D; of 4-bit numbers, they become floats when the file is opened
    length = graph.node("Shape", "input_ids", start=1, end=2)  # S; where that is more than P, the sum is refused
    positions = graph.node("Slice", positions, graph.constant([0]), length, graph.constant([0]))
    graph.place = "embeddings"
    x = layer_norm(graph, graph.node("Add", x, positions), "embedding_norm")
    if not config.int8 or int8.scales_of(config.head) == "token":  # which padding has no part in
        return x
    graph.place = "padding"  # becomes its text's first token, as in Model.forward: it widens no range of numbers
    real = graph.node("Unsqueeze", graph.node("Cast", "attention_mask", to=BOOL), graph.constant([2]))  # B,S,1
    first = graph.node("Slice", x, *(graph.constant([n]) for n in (0, 1, 1)))  # B,1,D
    return graph.node("Where", real, x, first)


def mask_of(graph: ModelGraph) -> str:
    """attention_mask B,S, 1 at real tokens -> B,1,1,S: what is added to the scores of keys, 0 or FAR"""
    graph.place = "mask"
    mask = graph.node("Cast", graph.node("Unsqueeze", "attention_mask", graph.constant([1, 2])), to=FLOAT)
    return graph.node("Mul", graph.node("Sub", graph.constant(1.0), mask), graph.constant(FAR))


def heads_of(graph: ModelGraph, x: str, order: list[int]) -> str:
    """B,S,D -> B,H,S,W, or in another order of B,S,H,W"""
    heads, width = graph.config.heads, graph.config.width
    x = graph.node("Reshape", x, graph.constant([0, 0, heads, width // heads]))  # a 0 keeps what is there
    return graph.node("Transpose", x, perm=order)


def attention(graph: ModelGraph, x: str, memory: str, mask: str, layer: str) -> str:
    """x B,Q,D looks at memory B,S,D; mask B,1,1,S -> B,Q,D"""
    width, heads = graph.config.width, graph.config.heads
    query = heads_of(graph, linear(graph, x, f"{layer}.query"), [0, 2, 1, 3])  # B,H,Q,W
    key = heads_of(graph, linear(graph, memory, f"{layer}.key"), [0, 2, 3, 1])  # B,H,W,S
    value = heads_of(graph, linear(graph, memory, f"{layer}.value"), [0, 2, 1, 3])  # B,H,S,W
    graph.place = layer
    scores = graph.node("Div", graph.node("MatMul", query, key), graph.constant(math.sqrt(width // heads)))
    maps = graph.node("Softmax", graph.node("Add", scores, mask), axis=-1)  # B,H,Q,S
    y = graph.node("Transpose", graph.node("MatMul", maps, value), perm=[0, 2, 1, 3])  # B,H,Q,W -> B,Q,H,W
    return linear(graph, graph.node("Reshape", y, graph.constant([0, 0, width])), f"{layer}.output")


def feed_forward(graph: ModelGraph, x: str, layer: str) -> str:
    """B,S,D -> B,S,D"""
    return linear(graph, activation(graph, linear(graph, x, f"{layer}.inner")), f"{layer}.outer")


def block(graph: ModelGraph, x: str, mask: str, layer: str, first_only: bool) -> str:
    """x B,S,D -> B,Q,D; Q is 1 with first_only, else S"""
    before = graph.config.norm_first
    memory = layer_norm(graph, x, f"{layer}.attention_residual.norm") if before else x
    query = memory
    if first_only:
        graph.place = f"{layer}.first"
        ends = [graph.constant([n]) for n in (0, 1, 1)]  # from, to, axis
        query = graph.node("Slice", memory, *ends)
        x = graph.node("Slice", x, *ends) if before else query
    y = attention(graph, query, memory, mask, f"{layer}.attention")
    x = graph.node("Add", y, x)
    if not before:
        x = layer_norm(graph, x, f"{layer}.attention_residual.norm")
    y = layer_norm(graph, x, f"{layer}.feed_forward_residual.norm") if before else x
    x = graph.node("Add", feed_forward(graph, y, f"{layer}.feed_forward"), x)
    return x if before else layer_norm(graph, x, f"{layer}.feed_forward_residual.norm")


# --- heads: each names the outputs of the graph ---


def sequence_head(graph: ModelGraph, x: str) -> None:
    """B,Q,D -> logits B,C, from the first position"""
    graph.place = "head"
    x = linear(graph, graph.node("Gather", x, graph.constant(0), axis=1), "head.pooler")  # B,D
    x = graph.node("Relu" if graph.config.model_type == "distilbert" else "Tanh", x)
    output(graph, linear(graph, x, "head.classifier"), "logits", ["batch", graph.config.classes])


def token_head(graph: ModelGraph, x: str) -> None:
    """B,S,D -> logits B,S,C"""
    output(graph, linear(graph, x, "head.classifier"), "logits", ["batch", "tokens", graph.config.classes])


def span_head(graph: ModelGraph, x: str) -> None:
    """B,S,D -> start_logits B,S and end_logits B,S"""
    x = linear(graph, x, "head.classifier")  # B,S,2
    for i, name in enumerate(("start_logits", "end_logits")):
        output(graph, graph.node("Gather", x, graph.constant(i), axis=2), name, ["batch", "tokens"])


def word_head(graph: ModelGraph, x: str) -> None:
    """B,S,D -> logits B,S,V"""
    x = layer_norm(graph, activation(graph, linear(graph, x, "head.transform")), "head.norm")
    graph.place = "head"
    words = graph.node("Transpose", graph.weight("embeddings.word.weight"), perm=[1, 0])  # the table of tokens: D,V
    x = graph.node("Add", graph.node("MatMul", x, words), graph.weight("head.bias"))
    output(graph, x, "logits", ["batch", "tokens", graph.config.vocab_size])


def no_head(graph: ModelGraph, x: str) -> None:
    """B,S,D -> last_hidden_state B,S,D"""
    output(graph, x, "last_hidden_state", ["batch", "tokens", graph.config.width])


def output(graph: ModelGraph, value: str, name: str, shape: list[int | str]) -> None:
    """Call a value by the name that other programs look for."""
    graph.outputs[graph.node("Identity", value, name=name)] = torch.float32, shape


HEADS = {"sequence": sequence_head, "token": token_head, "span": span_head, "mlm": word_head, None: no_head}


def graph_of(config: ModelConfig, weights: dict[str, Tensor], half: bool = False) -> ModelGraph:
    """The graph of a model with these weights (int8.to_tensors of it). half: store matrices and tables in float16."""
    if config.positions == "sinusoidal":
        weights = weights | {"positions.weight": sinusoidal_table(config.max_positions, config.width)}
    graph = ModelGraph(config, weights, half)
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * (config.token_types > 0)
    graph.inputs = {name: (torch.int64, ["batch", "tokens"]) for name in names}
    x, mask = embeddings(graph), mask_of(graph)
    for i in range(config.depth):
        # A sequence head looks at the first position only, so the last block need not compute the others.
        x = block(graph, x, mask, f"encoder.blocks.{i}", config.head == "sequence" and i == config.depth - 1)
    if config.norm_first:
        x = layer_norm(graph, x, "encoder.final_norm")
    HEADS[config.head](graph, x)
    return graph
