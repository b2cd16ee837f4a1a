"""Dynamic int8: weights as 8-bit numbers, activations rounded to 8 bits on the way.

A matrix W (out,in) is stored as whole numbers between -128 and 127 with one scale per row:

    W[o,i] ≈ scale[o] · w[o,i]

The tables of tokens and positions, a third of a DistilBERT and only ever looked up, are stored in 4 bits: see `Table`.

"Dynamic": the scale of a layer's input is found anew at every call, from its smallest and largest number, so nothing
need be calibrated. Whose smallest and largest, is a choice (`SCALES`): of a text, of a token, or of the whole batch.
`linear_by_hand` spells out the arithmetic (Jacob et al. 2018, section 2); `Int8Linear` does it without any library's
quantization, and kernels.py has faster ways to the same numbers.
"""

import copy
import functools
import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kd_scratch.common.errors import UserError
from kd_scratch.nn.model import Model

X86 = ("x86_64", "amd64")
TABLES = ("embeddings.word.weight", "positions.weight")
SCALE, LOW = "_scale", "_low"  # what a file adds to the name of a weight that is in whole numbers
GROUP = 32  # numbers of a table that have a scale in common
SMALLEST_STEP = 6.1e-5  # of rounded activations, as in PyTorch's own kernels

#: Which numbers of an activation have a scale in common, and over which of its dimensions that is. "text" costs a
#: single text nothing; "token" has half the error; with "batch" the answer to a text depends on its neighbours.
SCALES = {
    "text": lambda x: tuple(range(1, x.dim())),
    "token": lambda x: (-1,),
    "batch": lambda x: tuple(range(x.dim())),
}
_scales = "auto"


def use_scales(name: str) -> None:
    """Let the int8 layers that are made from now on take these scales: a name of SCALES, or "auto"."""
    global _scales
    _scales = name


def scales_of(head: str | None) -> str:
    """The scales in a model with this head. "auto": a token's where each token is decided, a text's where a text is."""
    return _scales if _scales != "auto" else "token" if head in ("token", "span") else "text"


@functools.cache
def activation_bits() -> int:
    """To how many bits activations are rounded: 8, or 7 on x86 processors without VNNI instructions.

    Those add two products of an activation and a weight in 16 bits, which overflow: 2 · 255 · 128 > 32767. The weights
    are the same in both cases, so a model directory may move from one processor to another.
    """
    safe = getattr(torch.cpu, "_is_vnni_supported", lambda: False)
    return 7 if platform.machine().lower() in X86 and not safe() else 8


def linear_by_hand(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor, bits: int = 8) -> Tensor:
    """What a dynamic int8 linear layer computes, in whole numbers.

    x …,in float; weight out,in int8; scale out; bias out; bits of the rounded activations -> …,out float

    The range of x, widened to hold 0, is cut into 2^bits − 1 steps; 0 falls on one, so that it stays exactly 0. No step
    is smaller than SMALLEST_STEP.
    """
    low = min(0.0, float(x.min()))
    high = max(0.0, float(x.max()))
    steps = 2**bits - 1
    step = (high - low) / steps or 1.0
    zero_point = min(steps, max(0, round(-low / step)))
    step = max(step, SMALLEST_STEP)
    q = torch.clamp(torch.round(x / step) + zero_point, 0, steps).to(torch.int32)  # …,in
    total = (q - zero_point).double() @ weight.double().T  # …,in · in,out -> …,out: whole numbers, all exact
    return (total * step * scale.double() + bias.double()).float()


def require_finite(x: Tensor) -> None:
    """UserError where a number of x is not finite: rounded to whole numbers it could no longer be told from others."""
    if not math.isfinite(x.detach().sum()) and not x.isfinite().all():
        raise UserError("the int8 model computes numbers that are not finite: its file is damaged")


def lows_and_steps(x: Tensor, scales: str, bits: int) -> tuple[Tensor, Tensor]:
    """The lowest number and the step of each part of x that has a scale in common: x ≈ low + step · q, 0 ≤ q < 2^bits

    They have the dimensions of x, of size 1 within a part. Where a part is more than a token, 0 falls on a step, as in
    `linear_by_hand`; for a token that is left out, since nothing in it is 0 more often than anything else.
    """
    dims, steps = SCALES[scales](x), 2**bits - 1
    low, high = x.amin(dims, keepdim=True), x.amax(dims, keepdim=True)
    if scales == "token":
        return low, high.sub_(low).div_(steps).clamp_(min=SMALLEST_STEP)
    low.clamp_(max=0)
    step = high.clamp_(min=0).sub_(low).div_(steps)
    zero_point = (low / step.clamp(min=1e-30)).round_().neg_()
    step.clamp_(min=SMALLEST_STEP)
    return -zero_point * step, step


class Int8Linear(nn.Module):
    """A dynamic int8 linear layer of whole numbers out,in, a scale for each row, and a bias: the form that is saved.

    The ways of kernels.py differ in two methods: `product`, and `at_once` where x has one scale.
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor, activation: Callable | None = None, scales=""):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight, self.scale, self.bias = weight, scale, bias
        self.activation = activation
        self.bits, self.scales = activation_bits(), scales or scales_of(None)
        self.sums = weight.sum(dim=1).float() * scale  # out: what an input of ones gives

    def forward(self, x: Tensor) -> Tensor:
        """…,in -> …,out; UserError where x is not finite"""
        require_finite(x)
        if self.scales == "batch" or (self.scales == "text" and x.size(0) == 1):
            return self.at_once(x)
        return activated(self.in_parts(x, self.scales), self.activation)

    def at_once(self, x: Tensor) -> Tensor:
        """…,in -> …,out, with one scale for all of x, behind the activation"""
        return activated(self.in_parts(x, "batch"), self.activation)

    def in_parts(self, x: Tensor, scales: str) -> Tensor:
        """…,in -> …,out: Σ (low + step · q) · W = step · Σ q·W + low · Σ W, the first sum in whole numbers"""
        low, step = lows_and_steps(x, scales, self.bits)
        y = self.product((x - low).div_(step).flatten(0, -2)).view(*x.shape[:-1], self.out_features)
        return torch.addcmul(self.bias, y, step).addcmul_(low, self.sums)

    def product(self, q: Tensor) -> Tensor:
        """R,in of numbers 0 … 2^bits − 1, still to be rounded, times the weights -> R,out float"""
        middle = 2 ** (self.bits - 1)
        q = q.round_().sub_(middle).clamp_(-middle, middle - 1)
        return whole_product(q.to(torch.int8), self.weight).float().mul_(self.scale).add_(middle * self.sums)


def activated(x: Tensor, activation: Callable | None) -> Tensor:
    """x behind an activation, or as it is."""
    return x if activation is None else activation(x)


def is_int8(layer: object) -> bool:
    """Whether this is an int8 linear layer in the form that can be saved."""
    return type(layer) is Int8Linear


def whole_product(q: Tensor, weight: Tensor) -> Tensor:
    """R,in int8 times out,in int8 -> R,out: int32; or where PyTorch has no such product here, float32"""
    if q.size(1) > 1 and has_whole_product():  # of one column _int_mm reads memory that nobody has written (torch 2.13)
        return torch._int_mm(q, weight.T)
    # 1,024 products of whole numbers up to 2^14 fit into the 24 bits of a float32.
    parts = zip(q.split(1024, dim=1), weight.split(1024, dim=1), strict=True)
    return sum(left.float() @ right.float().T for left, right in parts)


@functools.cache
def has_whole_product() -> bool:
    """Whether this PyTorch multiplies int8 matrices exactly on this processor: without VNNI instructions it does not.

    There sums of two products overflow, in 7 bits too, since it makes the inputs positive by adding 128.
    """
    middle = 2 ** (activation_bits() - 1)
    q = torch.tensor([-middle, middle - 1], dtype=torch.int8).repeat_interleave(4)[:, None].expand(8, 64).contiguous()
    weight = torch.tensor([-128, 127], dtype=torch.int8).repeat(4)[:, None].expand(8, 64).contiguous()
    try:
        return torch.equal(torch._int_mm(q, weight.T).long(), q.long() @ weight.long().T)
    except (AttributeError, RuntimeError):
        return False


def rounded_linear(layer: nn.Linear, scales: str = "") -> Int8Linear:
    """The int8 form of a float layer: each row of weights in steps of its largest / 127.5."""
    weight = layer.weight.detach()
    scale = (weight.abs().amax(dim=1) / 127.5).clamp(min=torch.finfo(torch.float32).eps)  # out
    whole = (weight / scale.unsqueeze(1)).round_().clamp_(-128, 127).to(torch.int8)
    bias = torch.zeros(len(scale)) if layer.bias is None else layer.bias.detach().clone()
    return Int8Linear(whole, scale, bias, scales=scales)


class Table(nn.Module):
    """V vectors of D numbers in 4 bits each, in G groups of 32 that have a scale and a lowest number of their own:

        table[v,d] ≈ low[v,g] + scale[v,g] · t[v,d]        t = 0 … 15, g = d // 32

    Takes the place of an embedding (or of P positions). Where D is no multiple of 32, groups are as large as its
    largest divisor below (and all of D where that is less than 8). t of a vector's first half are the low bits of its
    bytes, t of its second half the high bits.
    """

    def __init__(self, packed: Tensor, scale: Tensor, low: Tensor, width: int):
        super().__init__()
        self.packed = packed  # V,D/2 uint8
        self.scale = scale  # V,G float16
        self.low = low  # V,G float16
        self.width = width

    @staticmethod
    def groups(width: int) -> int:
        """G, the number of groups of a vector."""
        size = max(size for size in range(1, GROUP + 1) if width % size == 0)
        return width // size if size >= 8 else 1

    @classmethod
    def of(cls, weight: Tensor) -> "Table":
        """The 4-bit form of V,D floats. UserError where they are beyond float16."""
        width = weight.size(1)
        groups = weight.detach().unflatten(1, (cls.groups(width), -1))  # V,D -> V,G,32
        low = groups.amin(dim=2).half()  # V,G
        high = groups.amax(dim=2)  # V,G
        scale = ((high - low.float()) / 15).half()
        if not (low.isfinite().all() and scale.isfinite().all()):
            raise UserError("a table holds numbers above 65504, the largest of float16; the model cannot be quantized")
        steps = (groups - low.float().unsqueeze(2)) / scale.float().unsqueeze(2).clamp(min=1e-12)
        t = steps.round().clamp(0, 15).to(torch.uint8).flatten(1)  # V,G,32 -> V,D
        first, second = t.tensor_split([(width + 1) // 2], dim=1)
        packed = first.clone()
        packed[:, : second.size(1)] += second << 4
        return cls(packed, scale, low, width)

    def forward(self, ids: Tensor) -> Tensor:
        """… -> …,D"""
        packed = self.packed[ids]  # …,D/2
        t = torch.cat([packed & 15, packed >> 4], dim=-1)[..., : self.width]  # …,D
        scale = self.scale[ids].float().unsqueeze(-1)  # …,G,1
        low = self.low[ids].float().unsqueeze(-1)  # …,G,1
        t = t.unflatten(-1, (scale.size(-2), -1)).float()  # …,D -> …,G,32
        return torch.addcmul(low, scale, t).flatten(-2)  # …,G,32 -> …,D


class TablePositions(nn.Module):
    """Learned position vectors in a Table: takes the place of PositionalEncoding.

    In memory they are floats too: they are few, and every input needs the same ones.
    """

    def __init__(self, table: Table):
        super().__init__()
        self.table = table
        self.floats = table(torch.arange(len(table.packed)))  # P,D

    def forward(self, x: Tensor) -> Tensor:
        """B,S,D -> B,S,D; ValueError where S is more than the table holds"""
        if x.size(1) > len(self.floats):
            raise ValueError(f"{x.size(1)} tokens, but there are only {len(self.floats)} positions")
        return x + self.floats[: x.size(1)]  # B,S,D + S,D


def describe(models: Iterable[Model]) -> str:
    """On what int8 models' results depend beside their weights, for the record."""
    scales = {layer.scales for model in models for layer in model.modules() if isinstance(layer, Int8Linear)}
    return f"activations in {activation_bits()} bits, a scale for each {' or '.join(sorted(scales))}"


def quantize(model: Model) -> Model:
    """The int8 form of a model, on the CPU, in eval mode; the model itself stays as it is.

    All linear layers become int8, the tables of tokens and positions 4-bit. What is left in float is small: norms,
    biases, and the vectors of token types.
    """
    _refuse_fast(model)
    if model.config.int8:
        raise UserError("the model is int8 already")
    if model.config.head == "mlm":
        raise UserError("a head for masked words needs the table of tokens in float; train the model for a task first")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(f"{name}: holds numbers that are not finite; the model cannot be quantized")
    model = copy.deepcopy(model).cpu().eval()
    count = model.num_parameters()
    model.embeddings.word = Table.of(model.embeddings.word.weight)
    if isinstance(getattr(model.positions, "weight", None), nn.Parameter):  # learned ones
        model.positions = TablePositions(Table.of(model.positions.weight))
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, rounded_linear(module, scales_of(model.config.head)))
    model.config = replace(model.config, int8=True)
    model.count_as(count)
    return model


def _refuse_fast(model: Model) -> None:
    """ValueError for a model in the form of fast.py."""
    if model.fast:
        raise ValueError("a model in its fast form has no weights to save, compare or quantize any more; load it anew")


# --- an int8 model as plain tensors, and back ---


def to_tensors(model: Model) -> dict[str, Tensor]:
    """Every number of a model under our names; of a float model, its state_dict. ValueError for a fast form.

    Of an int8 model: its float parameters; for an int8 matrix its whole numbers and NAME_scale; for a table its bytes,
    NAME_scale and NAME_low.
    """
    _refuse_fast(model)
    if not model.config.int8:
        return model.state_dict()
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    for name, module in model.named_modules():
        if isinstance(module, Table):
            name = name.removesuffix(".table") + ".weight"
            tensors |= {name: module.packed, name + SCALE: module.scale, name + LOW: module.low}
        elif isinstance(module, Int8Linear):
            tensors |= {f"{name}.{part}": getattr(module, part) for part in ("weight", "bias")}
            tensors[f"{name}.weight{SCALE}"] = module.scale
    return tensors


def tensors_of_int8_form(model: Model) -> dict[str, Tensor]:
    """What `to_tensors` would give for the int8 form of a float model, without memory: names, types and shapes."""
    wanted = {}
    for name, parameter in model.named_parameters():
        if name in TABLES:
            length, width = parameter.shape
            wanted[name] = torch.empty(length, (width + 1) // 2, dtype=torch.uint8, device="meta")
            for part in (SCALE, LOW):
                wanted[name + part] = torch.empty(length, Table.groups(width), dtype=torch.float16, device="meta")
        elif isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear) and name.endswith(".weight"):
            wanted[name] = torch.empty(parameter.shape, dtype=torch.int8, device="meta")
            wanted[name + SCALE] = torch.empty(len(parameter), device="meta")
            # Of zeros where the float layer has none.
            wanted[name.removesuffix("weight") + "bias"] = torch.empty(len(parameter), device="meta")
        else:
            wanted[name] = torch.empty(parameter.shape, device="meta")
    return wanted


def from_tensors(model: Model, tensors: dict[str, Tensor], names: dict[str, str]) -> Model:
    """The int8 model of these tensors, made from a float model without memory (on the meta device), which is changed.

    tensors: of the types and shapes that `tensors_of_int8_form` gives (any float type will do). names: ours -> those of
    messages. Raises UserError for numbers that no quantization gives.
    """
    # Copies, not views of the file, as in a float model; the kernels want float32.
    floats = {name: t.to(torch.float32, copy=True) for name, t in tensors.items() if t.is_floating_point()}
    for name, tensor in floats.items():
        of_table = name.removesuffix(SCALE).removesuffix(LOW) in TABLES
        if not (tensor.half() if of_table else tensor).isfinite().all():
            raise UserError(f"{names[name]}: holds numbers that are not finite{' in float16' if of_table else ''}")
        if name.endswith(SCALE) and of_table and not (tensor >= 0).all():  # 0: all numbers of a group are equal
            raise UserError(f"{names[name]}: a table's scale must be 0 or more")
        if name.endswith(SCALE) and not of_table and not (tensor > 0).all():
            raise UserError(f"{names[name]}: a scale must be more than 0")

    def replacement(name: str) -> nn.Module | None:
        weight, scale = tensors.get(f"{name}.weight"), floats.get(f"{name}.weight{SCALE}")
        if scale is None:
            return None
        if f"{name}.weight" in TABLES:
            low = floats[f"{name}.weight{LOW}"]
            table = Table(weight.clone(), scale.half(), low.half(), model.config.width)
            return TablePositions(table) if name == "positions" else table
        return Int8Linear(weight.clone(), scale, floats[f"{name}.bias"], scales=scales_of(model.config.head))

    count = model.num_parameters()
    model.load_state_dict(floats, strict=False, assign=True)  # what is int8 stays without memory, and is replaced now
    for name, _ in list(model.named_modules()):
        new = replacement(name)
        if new is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)
    model.count_as(count)
    return model.eval()


def stacked_int8(layers: Sequence[Int8Linear]) -> Int8Linear:
    """One int8 linear layer that gives the outputs of several, side by side."""
    parts = (torch.cat([getattr(layer, part) for layer in layers]) for part in ("weight", "scale", "bias"))
    return Int8Linear(*parts, scales=layers[0].scales)
