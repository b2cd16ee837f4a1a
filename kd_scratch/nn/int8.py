"""Dynamic int8: weights as 8-bit numbers, activations rounded to 8 bits on the way. The only file that uses torch.ao.

A matrix W (out,in) is stored as whole numbers between -128 and 127 with one scale per row:

    W[o,i] ≈ scale[o] · w[o,i]

The tables of tokens and positions, a third of a DistilBERT and only ever looked up, are stored in 4 bits: see `Table`.

"Dynamic": the scale of a layer's input is found anew at every call, from its smallest and largest number, so nothing
need be calibrated. These are the numbers of the whole batch, padding and all: so a text's logits depend a little on the
other texts of its batch, which a float model's do not. `linear_by_hand` spells out the arithmetic; torch.ao's kernels
do it (Jacob et al. 2018, section 2).
"""

import copy
import functools
import platform
import warnings
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from kd_scratch.common.errors import UserError
from kd_scratch.nn.model import Model

try:
    import torch.ao.nn.quantized.dynamic as dynamic_modules
    from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
except ImportError:  # torch.ao is deprecated; a release without it can still do everything else here
    quantize_dynamic = None
else:

    class DynamicLinear(dynamic_modules.Linear):
        """torch.ao's dynamic int8 linear layer, which would always round activations to 7 bits; see activation_bits."""

        def forward(self, x: Tensor) -> Tensor:
            """…,in -> …,out"""
            return product(x, self._packed_params._packed_params, activation_bits())


class FastInt8Linear(nn.Module):
    """A dynamic int8 linear layer that does nothing but the product: for short inputs, see fast.py."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.weight_and_bias = layer._packed_params._packed_params
        self.bits = activation_bits()

    def forward(self, x: Tensor) -> Tensor:
        """…,in -> …,out"""
        return product(x, self.weight_and_bias, self.bits)


def is_int8(layer: object) -> bool:
    """Whether this is one of this file's int8 linear layers, in the form that can be saved."""
    return quantize_dynamic is not None and type(layer) is DynamicLinear


def product(x: Tensor, weight_and_bias, bits: int) -> Tensor:
    """…,in -> …,out: torch.ao's dynamic int8 product, with weights as it packs them and activations in 7 or 8 bits."""
    try:
        return torch.ops.quantized.linear_dynamic.default(x, weight_and_bias, bits == 7)
    except RuntimeError:
        if x.isfinite().all():
            raise
        raise UserError("the int8 model computes numbers that are not finite: its file is damaged") from None


X86 = ("x86_64", "amd64")
TABLES = ("embeddings.word.weight", "positions.weight")
SCALE, LOW = "_scale", "_low"  # what a file adds to the name of a weight that is in whole numbers
GROUP = 32  # numbers of a table that have a scale in common


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
    is smaller than 6.1e-5, as in the kernels.
    """
    low = min(0.0, float(x.min()))
    high = max(0.0, float(x.max()))
    steps = 2**bits - 1
    step = (high - low) / steps or 1.0
    zero_point = min(steps, max(0, round(-low / step)))
    step = max(step, 6.1e-5)
    q = torch.clamp(torch.round(x / step) + zero_point, 0, steps).to(torch.int32)  # …,in
    total = (q - zero_point).double() @ weight.double().T  # …,in · in,out -> …,out: whole numbers, all exact
    return (total * step * scale.double() + bias.double()).float()


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


def require() -> None:
    """UserError where this PyTorch has no torch.ao quantization."""
    if quantize_dynamic is None:
        raise UserError(f"torch {torch.__version__} has no torch.ao.quantization any more; int8 needs an older one")


def choose_engine() -> str:
    """The name of torch.ao's fastest set of kernels for this processor; it is also made the current one."""
    wanted = ("x86", "fbgemm") if platform.machine().lower() in X86 else ("qnnpack", "onednn")
    for engine in (*wanted, *torch.backends.quantized.supported_engines):
        if engine in torch.backends.quantized.supported_engines and engine != "none":
            torch.backends.quantized.engine = engine
            return engine
    raise UserError(f"torch {torch.__version__} has no int8 kernels for this processor ({platform.machine()})")


def describe() -> str:
    """The kernels and bits on which an int8 model's results depend beside its weights, for the record."""
    return f"{choose_engine()} kernels, activations in {activation_bits()} bits"


def _quietly(function, *arguments, **options):
    """Call one of torch.ao's functions without its warning that it is deprecated (see `require`)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*are deprecated and will be removed", category=UserWarning)
        return function(*arguments, **options)


def quantize(model: Model) -> Model:
    """The int8 form of a model, on the CPU, in eval mode; the model itself stays as it is.

    All linear layers become int8, the tables of tokens and positions 4-bit. What is left in float is small: norms,
    biases, and the vectors of token types.
    """
    require()
    _refuse_fast(model)
    if model.config.int8:
        raise UserError("the model is int8 already")
    if model.config.head == "mlm":
        raise UserError("a head for masked words needs the table of tokens in float; train the model for a task first")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(f"{name}: holds numbers that are not finite; the model cannot be quantized")
    choose_engine()
    model = copy.deepcopy(model).cpu().eval()
    count = model.num_parameters()
    model.embeddings.word = Table.of(model.embeddings.word.weight)
    if isinstance(getattr(model.positions, "weight", None), nn.Parameter):  # learned ones
        model.positions = TablePositions(Table.of(model.positions.weight))
    spec = {nn.Linear: per_channel_dynamic_qconfig}
    mapping = {nn.Linear: DynamicLinear}
    model = _quietly(quantize_dynamic, model, spec, mapping=mapping, inplace=True)
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
        elif isinstance(module, DynamicLinear):
            weight = module.weight()
            tensors[f"{name}.weight"] = weight.int_repr()
            # float32 numbers that torch keeps as float64
            tensors[f"{name}.weight{SCALE}"] = weight.q_per_channel_scales().float()
            tensors[f"{name}.bias"] = module.bias().detach()
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
        else:
            wanted[name] = torch.empty(parameter.shape, device="meta")
    return wanted


def from_tensors(model: Model, tensors: dict[str, Tensor], names: dict[str, str]) -> Model:
    """The int8 model of these tensors, made from a float model without memory (on the meta device), which is changed.

    tensors: of the types and shapes that `tensors_of_int8_form` gives (any float type will do). names: ours -> those of
    messages. Raises UserError for numbers that no quantization gives.
    """
    require()
    choose_engine()
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
        return _make_linear(weight, scale, floats[f"{name}.bias"])

    count = model.num_parameters()
    model.load_state_dict(floats, strict=False, assign=True)  # what is int8 stays without memory, and is replaced now
    for name, _ in list(model.named_modules()):
        new = replacement(name)
        if new is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)
    model.count_as(count)
    return model.eval()


def _make_linear(weight: Tensor, scale: Tensor, bias: Tensor) -> nn.Module:
    """A dynamic int8 linear layer of whole numbers out,in, a scale for each row, and a bias."""
    linear = _quietly(DynamicLinear, weight.size(1), weight.size(0), dtype=torch.qint8)
    zero_points = torch.zeros(len(scale), dtype=torch.int64)
    weight = _quietly(torch._make_per_channel_quantized_tensor, weight, scale.double(), zero_points, 0)
    linear.set_weight_bias(weight, bias)
    return linear


def divided(layer: nn.Module, divisor: float) -> nn.Module:
    """An int8 linear layer whose outputs are those of another one, divided: the whole numbers stay as they are."""
    weight = layer.weight()
    return _make_linear(weight.int_repr(), weight.q_per_channel_scales() / divisor, layer.bias().detach() / divisor)


def stacked_int8(layers: Sequence[nn.Module]) -> FastInt8Linear:
    """One int8 linear layer that gives the outputs of several, side by side, bit for bit."""
    if len(layers) == 1:
        return FastInt8Linear(layers[0])
    weights = [layer.weight() for layer in layers]
    scale = torch.cat([weight.q_per_channel_scales() for weight in weights])
    bias = torch.cat([layer.bias().detach() for layer in layers])
    return FastInt8Linear(_make_linear(torch.cat([weight.int_repr() for weight in weights]), scale, bias))
