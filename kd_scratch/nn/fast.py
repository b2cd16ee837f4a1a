"""A model's form for use on the CPU: the same layers, with their weights laid out once for the processor.

Two changes, neither of which training could use, since both give up the parameters:

- A linear layer, with the activation behind it, takes the form that was measured to be the fastest: see kernels.py. A
  short input spends most of its time on bringing weights into the order in which the processor reads them, at every
  call anew, unless they lie in it.
- Query, key and value are one product: the input is read, and for an int8 model rounded to whole numbers, once and not
  three times.

What a model computes stays the same to rounding. In an int8 model that is to a step of a number here and there, where
it lies between two.

Only linear layers are exchanged, inside the attention and the feed-forward of layers.py, whose own code goes on around
them: a change to it takes effect here too. Each layer is run before and after; one that would compute something else is
left as it was, with a note.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kd_scratch.common.console import say
from kd_scratch.nn import int8, kernels
from kd_scratch.nn.kernels import POINTWISE, fastest
from kd_scratch.nn.layers import FeedForwardBlock, MultiHeadAttention
from kd_scratch.nn.model import Model

#: By how much a layer's numbers may differ, in parts of the largest: by what is rounded in it.
TOLERANCE = {"int8": 0.02, "exact": 1e-4, "half": 2e-3, "bf16": 0.03}


class StackedProjection(nn.Module):
    """Query, key and value of an attention as one product, side by side.

    first_only: for a block that computes its first position only; it has the query's matrix apart from the others'.
    weights: the bytes of the whole model's.
    """

    def __init__(self, linears: Sequence[nn.Module], first_only: bool, weights: int):
        super().__init__()
        self.sizes = [linear.out_features for linear in linears]
        groups = [linears[:1], linears[1:]] if first_only else [linears]
        self.products = nn.ModuleList(
            fastest(group, None, weights, first_only and group is groups[0]) for group in groups
        )

    def forward(self, x: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x B,Q,D and memory B,S,D -> as MultiHeadAttention.project"""
        if len(self.products) == 2:
            key, value = self.products[1](memory).split(self.sizes[1:], dim=-1)  # B,S,2·D -> twice B,S,D
            return self.products[0](x), key, value
        query, key, value = self.products[0](memory).split(self.sizes, dim=-1)  # B,S,3·D -> thrice B,S,D
        if x is not memory:
            query = self.products[0](x)[..., : self.sizes[0]]
        return query, key, value


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


def attention_parts(layer: MultiHeadAttention, first_only: bool, weights: int) -> dict[str, object] | None:
    """The attributes of an attention in its fast form, by name; None where it has no such form."""
    if not has_linears(layer, "query", "key", "value", "output"):
        return None
    projection = StackedProjection([layer.query, layer.key, layer.value], first_only, weights)
    output = fastest([layer.output], None, weights, first_only)
    return {"stacked": projection, "query": None, "key": None, "value": None, "output": output}


def feed_forward_parts(layer: FeedForwardBlock, first_only: bool, weights: int) -> dict[str, object] | None:
    """The attributes of a feed-forward in its fast form, by name; None where it has no such form."""
    if not has_linears(layer, "inner", "outer"):
        return None
    outer = fastest([layer.outer], None, weights, first_only)
    activation = getattr(layer, "activation", "none")
    if activation in POINTWISE:
        inner = fastest([layer.inner], activation, weights, first_only)
        return {"inner": inner, "activation": unchanged, "outer": outer}
    return {"inner": fastest([layer.inner], None, weights, first_only), "outer": outer}


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


def is_same(found: Tensor | tuple, expected: Tensor | tuple, tolerance: float) -> bool:
    """Whether two outputs of a layer, tensors or tuples of tensors and None, are equal but for rounding."""
    if isinstance(expected, tuple):
        pairs = zip(found, expected, strict=True)
        return all(f is e if e is None else is_same(f, e, tolerance) for f, e in pairs)
    return torch.allclose(found, expected, rtol=0, atol=tolerance * float(expected.abs().max()))


def exchange(layer: nn.Module, parts: dict[str, object], call: Call, tolerance: float) -> bool:
    """Put parts into a layer; where it computes something else with them, all is as before, and the result False."""
    before = {name: getattr(layer, name) for name in parts}
    for name, part in parts.items():
        setattr(layer, name, part)
    try:
        if is_same(layer(*call.arguments, **call.options), call.output, tolerance):
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
    and a note names them. With `--kernels plain` all do.
    """
    if kernels.config().kernels == "plain":
        return model
    tolerance = TOLERANCE["int8" if model.config.int8 else kernels.config().kernels]
    count = model.num_parameters()
    weights = sum(layer.weight.nbytes for layer in model.modules() if is_linear(layer))
    calls = record_calls(model)
    last = list(calls)[-2:] if model.config.head == "sequence" else []  # attention and feed-forward of the last block
    kept = []
    for layer, call in calls.items():
        make_parts = attention_parts if isinstance(layer, MultiHeadAttention) else feed_forward_parts
        parts = make_parts(layer, layer in last, weights)
        if parts is None or not exchange(layer, parts, call, tolerance):
            kept.append(layer)
    if model.config.int8 and model.head is not None:  # whose own ways are for any kind of input, and slower
        for name, layer in list(model.head.named_children()):
            if int8.is_int8(layer):
                setattr(model.head, name, fastest([layer]))
    if kept:
        names = ", ".join(name for name, layer in model.named_modules() if layer in kept)
        say(f"note: used as they are, and not in the fast form, which would compute something else: {names}")
    model.requires_grad_(False).fast = True
    model.count_as(count)
    return model
