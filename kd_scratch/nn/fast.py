"""A model's form for use on the CPU: the same layers, with their weights laid out once for the processor.

Two changes, neither of which training could use, since both give up the parameters:

- A float weight is kept in the order in which oneDNN's kernels read it. A short input spends most of its time on
  bringing weights into that order, at every call anew. The same kernels apply the activation on the way out.
- Query, key and value are one product: the input is read, and for an int8 model rounded to whole numbers, once and not
  three times. What an int8 model computes stays the same bit for bit, what a float model computes to rounding.

Only linear layers are exchanged, inside the attention and the feed-forward of layers.py, whose own code goes on around
them: a change to it takes effect here too. Each layer is run before and after; one that would compute something else is
left as it was, with a note.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_scratch.common.console import say
from kd_scratch.nn import int8
from kd_scratch.nn.layers import ACTIVATIONS, FeedForwardBlock, MultiHeadAttention
from kd_scratch.nn.model import Model

#: How many rows the kernels are told to expect when they choose the order of a weight; other numbers work as well.
ROWS = 64
#: Our activations as oneDNN calls them. Another one stays outside the product.
POINTWISE = {
    None: ("none", ""),
    ACTIVATIONS["gelu"]: ("gelu", "none"),
    ACTIVATIONS["gelu_new"]: ("gelu", "tanh"),
    ACTIVATIONS["relu"]: ("relu", ""),
}
TOLERANCE = 1e-4  # by which a layer's numbers may differ, in parts of the largest


class PackedLinear(nn.Module):
    """A float linear layer, and an activation behind it, whose weight (out,in) lies in oneDNN's own order.

    The two operations are not part of PyTorch's public API; they are what torch.compile uses for inputs of any length.
    """

    def __init__(self, weight: Tensor, bias: Tensor, activation=None):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        self.bias = bias
        self.pointwise, self.kind = POINTWISE[activation]

    def forward(self, x: Tensor) -> Tensor:
        """…,in -> …,out"""
        return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, self.pointwise, [], self.kind)


@functools.cache
def can_pack() -> bool:
    """Whether this PyTorch, on this processor, computes with packed weights; else they stay as they are."""
    x, weight, bias = torch.ones(3, 32), torch.ones(16, 32), torch.ones(16)
    try:
        return torch.equal(PackedLinear(weight, bias)(x), torch.full((3, 16), 33.0))
    except (AttributeError, RuntimeError, TypeError):
        return False


class StackedProjection(nn.Module):
    """Query, key and value of an attention as one product, side by side.

    first_only: for a block that computes its first position only; it has the query's matrix apart from the others'.
    """

    def __init__(self, linears: Sequence[nn.Module], first_only: bool):
        super().__init__()
        self.sizes = [linear.out_features for linear in linears]
        groups = [linears[:1], linears[1:]] if first_only else [linears]
        self.products = nn.ModuleList(stacked(group) for group in groups)

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x B,Q,D and memory B,S,D -> as MultiHeadAttention.project"""
        if len(self.products) == 2:
            key, value = self.products[1](memory).split(self.sizes[1:], dim=-1)  # B,S,2·D -> twice B,S,D
            return self.products[0](x), key, value
        query, key, value = self.products[0](memory).split(self.sizes, dim=-1)  # B,S,3·D -> thrice B,S,D
        if x is not memory:
            query = self.products[0](x)[..., : self.sizes[0]]
        return query, key, value


def stacked(layers: Sequence[nn.Module]) -> nn.Module:
    """One linear layer that gives the outputs of several, side by side, in the form that is fastest here."""
    if int8.is_int8(layers[0]):
        return int8.stacked_int8(layers)
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    if can_pack():
        return PackedLinear(weight, bias)
    linear = nn.Linear(weight.size(1), weight.size(0), device="meta")
    linear.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return linear


def is_linear(layer: object) -> bool:
    """Whether this is a linear layer that can be stacked: float32 with a bias, or int8; nothing derived from one."""
    return int8.is_int8(layer) or (
        type(layer) is nn.Linear and layer.bias is not None and layer.weight.dtype == torch.float32
    )


def has_linears(layer: nn.Module, *names: str) -> bool:
    """Whether all these attributes of a layer can be stacked."""
    return all(is_linear(getattr(layer, name, None)) for name in names)


def unchanged(x: Tensor) -> Tensor:
    """x: the activation of a layer that has it in its product. (A function, since nn.Module would not give it back.)"""
    return x


def attention_parts(layer: MultiHeadAttention, first_only: bool) -> dict[str, object] | None:
    """The attributes of an attention in its fast form, by name; None where it has no such form."""
    if not has_linears(layer, "query", "key", "value", "output"):
        return None
    projection = StackedProjection([layer.query, layer.key, layer.value], first_only)
    return {"stacked": projection, "query": None, "key": None, "value": None, "output": stacked([layer.output])}


def feed_forward_parts(layer: FeedForwardBlock) -> dict[str, object] | None:
    """The attributes of a feed-forward in its fast form, by name; None where it has no such form."""
    if not has_linears(layer, "inner", "outer"):
        return None
    outer = stacked([layer.outer])
    activation = getattr(layer, "activation", "none")
    if isinstance(outer, PackedLinear) and activation in POINTWISE:
        inner = PackedLinear(layer.inner.weight, layer.inner.bias, activation)
        return {"inner": inner, "activation": unchanged, "outer": outer}
    return {"inner": stacked([layer.inner]), "outer": outer}


@dataclass
class Call:
    """What a layer was given, and what it gave."""

    arguments: tuple
    options: dict
    output: Tensor | tuple


def record_calls(model: Model) -> dict[nn.Module, Call]:
    """The call of each attention and feed-forward layer for two short texts, one of them padded, in their order."""
    calls: dict[nn.Module, Call] = {}

    def record(layer: nn.Module, arguments: tuple, options: dict, output: Tensor | tuple) -> None:
        calls[layer] = Call(arguments, options, output)

    layers = [layer for layer in model.modules() if isinstance(layer, MultiHeadAttention | FeedForwardBlock)]
    handles = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    length = min(4, model.config.max_positions)
    ids = torch.arange(2 * length).view(2, length) % model.config.vocab_size
    mask = torch.ones_like(ids)
    mask[1, length // 2 + 1 :] = 0
    model(ids, mask)
    for handle in handles:
        handle.remove()
    return calls


def is_same(found: Tensor | tuple, expected: Tensor | tuple) -> bool:
    """Whether two outputs of a layer, tensors or tuples of tensors and None, are equal but for rounding."""
    if isinstance(expected, tuple):
        pairs = zip(found, expected, strict=True)
        return all(f is e if e is None else is_same(f, e) for f, e in pairs)
    tolerance = TOLERANCE * float(expected.abs().max())
    return torch.allclose(found, expected, rtol=0, atol=tolerance)


def exchange(layer: nn.Module, parts: dict[str, object], call: Call) -> bool:
    """Put parts into a layer; where it computes something else with them, all is as before, and the result False."""
    before = {name: getattr(layer, name) for name in parts}
    for name, part in parts.items():
        setattr(layer, name, part)
    try:
        if is_same(layer(*call.arguments, **call.options), call.output):
            return True
    except Exception:  # its code uses something that the fast form has not, such as a weight that can be read
        pass
    for name, part in before.items():
        setattr(layer, name, part)
    return False


@torch.no_grad()
def make_fast(model: Model) -> Model:
    """The same model, changed into its fast form: on the CPU, in eval mode, as it must be before.

    It cannot be saved or trained any more. Layers that have no fast form, or another function in it, stay as they are,
    and a note names them.
    """
    count = model.num_parameters()
    calls = record_calls(model)
    attentions = [layer for layer in calls if isinstance(layer, MultiHeadAttention)]
    kept = []
    for layer, call in calls.items():
        if isinstance(layer, MultiHeadAttention):
            first_only = model.config.head == "sequence" and layer is attentions[-1]
            parts = attention_parts(layer, first_only)
        else:
            parts = feed_forward_parts(layer)
        if parts is None or not exchange(layer, parts, call):
            kept.append(layer)
    if kept:
        names = ", ".join(name for name, layer in model.named_modules() if layer in kept)
        say(f"note: used as they are, and not in the fast form, which would compute something else: {names}")
    model.requires_grad_(False).fast = True
    model.count_as(count)
    return model
