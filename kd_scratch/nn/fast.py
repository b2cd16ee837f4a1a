"""A model's form for use on the CPU: the same function, with its weights laid out once for the processor.

Two changes, neither of which training could use, since both give up the parameters:

- A float weight is kept in the order in which oneDNN's kernels read it. A short input spends most of its time on
  bringing weights into that order, at every call anew. The same kernels apply the activation on the way out.
- Query, key and value are one product: the input is read, and for an int8 model rounded to whole numbers, once and not
  three times. What an int8 model computes stays the same bit for bit, what a float model computes to rounding.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd_scratch.nn import int8
from kd_scratch.nn.layers import FeedForwardBlock, MultiHeadAttention, attention
from kd_scratch.nn.model import Model

#: How many rows the kernels are told to expect when they choose the order of a weight; other numbers work as well.
ROWS = 64
#: Our activations as oneDNN calls them.
POINTWISE = {None: ("none", ""), "gelu": ("gelu", "none"), "gelu_new": ("gelu", "tanh"), "relu": ("relu", "")}


class PackedLinear(nn.Module):
    """A float linear layer, and an activation behind it, whose weight (out,in) lies in oneDNN's own order.

    The two operations are not part of PyTorch's public API; they are what torch.compile uses for inputs of any length.
    """

    def __init__(self, weight: Tensor, bias: Tensor, activation: str | None = None):
        super().__init__()
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), bias
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


class FusedAttention(nn.Module):
    """MultiHeadAttention with one product for query, key and value.

    first_only: for a block that computes its first position only; it has the query's matrix apart from the others'.
    """

    def __init__(self, layer: MultiHeadAttention, first_only: bool):
        super().__init__()
        self.heads = layer.heads
        groups = [[layer.query], [layer.key, layer.value]] if first_only else [[layer.query, layer.key, layer.value]]
        self.products = nn.ModuleList(stacked(group) for group in groups)
        self.output = stacked([layer.output])

    def split(self, x: Tensor, parts: int) -> Sequence[Tensor]:
        """B,S,parts·D -> so many of B,H,S,W"""
        x = x.view(x.size(0), x.size(1), parts, self.heads, x.size(2) // (parts * self.heads))  # -> B,S,parts,H,W
        return x.permute(2, 0, 3, 1, 4).unbind()  # B,S,parts,H,W -> parts,B,H,S,W

    def forward(
        self, x: Tensor, memory: Tensor, mask: Tensor | None = None, need_maps: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """As MultiHeadAttention's; where the query has no matrix of its own, x is memory."""
        if len(self.products) == 1:
            query, key, value = self.split(self.products[0](memory), 3)
        else:
            (query,), (key, value) = self.split(self.products[0](x), 1), self.split(self.products[1](memory), 2)
        y, maps = attention(query, key, value, mask, need_maps=need_maps)
        return self.output(y.transpose(1, 2).flatten(2)), maps  # B,H,Q,W -> B,Q,H,W -> B,Q,D


class PackedFeedForward(nn.Module):
    """FeedForwardBlock with the activation inside its first product."""

    def __init__(self, layer: FeedForwardBlock, activation: str):
        super().__init__()
        self.inner = PackedLinear(layer.inner.weight, layer.inner.bias, activation)
        self.outer = PackedLinear(layer.outer.weight, layer.outer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """B,S,D -> B,S,D"""
        return self.outer(self.inner(x))  # B,S,D -> B,S,F -> B,S,D


def stacked(layers: Sequence[nn.Module]) -> nn.Module:
    """One linear layer that gives the outputs of several, side by side, in the form that is fastest here."""
    if not isinstance(layers[0], nn.Linear):
        return int8.stacked_int8(layers)
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    if can_pack():
        return PackedLinear(weight, bias)
    linear = nn.Linear(weight.size(1), weight.size(0), device="meta")
    linear.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return linear


@torch.no_grad()
def make_fast(model: Model) -> Model:
    """Put a model on the CPU, in eval mode, into this form. It is changed, and cannot be saved or trained any more.

    Only the layers of layers.py have one: a block whose attention or feed-forward is of another class keeps it.
    """
    count = model.num_parameters()
    for i, block in enumerate(model.encoder.blocks):
        if type(block.attention) is MultiHeadAttention:
            first_only = model.config.head == "sequence" and i == model.config.depth - 1
            block.attention = FusedAttention(block.attention, first_only)
        if type(block.feed_forward) is FeedForwardBlock and model.config.int8:
            block.feed_forward.inner = stacked([block.feed_forward.inner])
            block.feed_forward.outer = stacked([block.feed_forward.outer])
        elif type(block.feed_forward) is FeedForwardBlock and can_pack():
            block.feed_forward = PackedFeedForward(block.feed_forward, model.config.activation)
    model.requires_grad_(False).fast = True
    model.count_as(count)
    return model
