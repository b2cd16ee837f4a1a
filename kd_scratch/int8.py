"""Dynamic int8: weights as 8-bit numbers, activations rounded to 8 bits on the way. The only file that uses torch.ao.

A matrix W (out,in) is stored as whole numbers between -128 and 127 with one scale per row; a table of vectors (tokens,
positions) as whole numbers between 0 and 255 with one scale and one zero point per vector:

    W[o,i] ≈ scale[o] · w[o,i]            table[v,d] ≈ scale[v] · (t[v,d] − zero_point[v])

"Dynamic": the scale of a layer's input is found anew at every call, from its smallest and largest number, so nothing
need be calibrated. They are those of the whole batch, padding and all: so a text's logits depend, a little, on what it
is computed together with, as a float model's do not. `linear_by_hand` spells out the arithmetic; torch.ao's kernels do
it (Jacob et al. 2018, section 2).
"""

import copy
import functools
import platform
import warnings
from dataclasses import replace

import torch
from torch import Tensor, nn

from kd_scratch.files import UserError
from kd_scratch.model import Model

try:
    import torch.ao.nn.quantized as int8_modules
    import torch.ao.nn.quantized.dynamic as dynamic_modules
    from torch.ao.quantization import float_qparams_weight_only_qconfig, per_channel_dynamic_qconfig, quantize_dynamic
    from torch.ao.quantization.quantization_mappings import get_default_dynamic_quant_module_mappings
except ImportError:  # torch.ao is deprecated; a release without it can still do everything else here
    quantize_dynamic = None
else:

    class DynamicLinear(dynamic_modules.Linear):
        """torch.ao's dynamic int8 linear layer, which would always round activations to 7 bits; see activation_bits."""

        def forward(self, x: Tensor) -> Tensor:
            """…,in -> …,out"""
            packed, few = self._packed_params._packed_params, activation_bits() == 7
            try:
                return torch.ops.quantized.linear_dynamic(x, packed, reduce_range=few)
            except RuntimeError:
                if x.isfinite().all():
                    raise
                raise UserError("the int8 model computes numbers that are not finite: its file is damaged") from None


X86 = ("x86_64", "amd64")
TABLES = ("embeddings.word.weight", "positions.weight")
SCALE, ZERO_POINT = "_scale", "_zero_point"  # what a file adds to the name of an int8 weight


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
    low, high, steps = min(0.0, float(x.min())), max(0.0, float(x.max())), 2**bits - 1
    step = (high - low) / steps or 1.0
    zero_point = min(steps, max(0, round(-low / step)))
    step = max(step, 6.1e-5)
    q = torch.clamp(torch.round(x / step) + zero_point, 0, steps).to(torch.int32)  # …,in
    total = (q - zero_point).double() @ weight.double().T  # …,in · in,out -> …,out: whole numbers, all exact
    return (total * step * scale.double() + bias.double()).float()


class Int8Positions(nn.Module):
    """A learned table of position vectors whose numbers are int8: takes the place of PositionalEncoding."""

    def __init__(self, table: nn.Module):
        super().__init__()
        self.table = table  # an embedding, P positions

    def forward(self, x: Tensor) -> Tensor:
        """B,S,D -> B,S,D; ValueError where S is more than the table holds"""
        if x.size(1) > self.table.num_embeddings:
            raise ValueError(f"{x.size(1)} tokens, but there are only {self.table.num_embeddings} positions")
        return x + self.table(torch.arange(x.size(1)))  # B,S,D + S,D


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
    """What an int8 model's results depend on beside its weights, for the record."""
    return f"{choose_engine()} kernels, activations in {activation_bits()} bits"


def _quietly(function, *arguments, **options):
    """Call one of torch.ao's functions without its warning that it is deprecated (see `require`)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*are deprecated and will be removed", category=UserWarning)
        return function(*arguments, **options)


def quantize(model: Model) -> Model:
    """The int8 form of a model, on the CPU, in eval mode; the model itself stays as it is.

    All linear layers and the tables of tokens and positions become int8. What is left in float is small: norms, biases,
    and the vectors of token types.
    """
    require()
    if model.config.int8:
        raise UserError("the model is int8 already")
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(f"{name}: holds numbers that are not finite; the model cannot be quantized")
    choose_engine()
    model = copy.deepcopy(model).cpu().eval()
    count = model.num_parameters()
    spec = {nn.Linear: per_channel_dynamic_qconfig, "embeddings.word": float_qparams_weight_only_qconfig}
    if isinstance(model.positions.weight, nn.Parameter):
        model.positions = Int8Positions(nn.Embedding.from_pretrained(model.positions.weight))
        spec["positions.table"] = float_qparams_weight_only_qconfig
    mapping = get_default_dynamic_quant_module_mappings() | {nn.Linear: DynamicLinear}
    model = _quietly(quantize_dynamic, model, spec, mapping=mapping, inplace=True)
    model.config = replace(model.config, int8=True)
    _count_int8(model, count)
    return model


# --- an int8 model as plain tensors, and back ---


def to_tensors(model: Model) -> dict[str, Tensor]:
    """Every number of a model under our names: float parameters, and for an int8 weight its whole numbers (int8; a
    table's are uint8), NAME_scale, and for a table NAME_zero_point. Of a float model, its state_dict."""
    if not model.config.int8:
        return model.state_dict()
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    for name, module in model.named_modules():
        name = name.removesuffix(".table")
        table = isinstance(module, int8_modules.Embedding)
        if not table and not isinstance(module, DynamicLinear):
            continue
        weight = module.weight()
        tensors[f"{name}.weight"] = weight.int_repr()
        # Copies: the scales of a table lie in memory that goes when `weight` goes. Those of a matrix are float32
        # numbers that torch keeps as float64.
        tensors[f"{name}.weight{SCALE}"] = weight.q_per_channel_scales().clone().float()
        if table:
            tensors[f"{name}.weight{ZERO_POINT}"] = weight.q_per_channel_zero_points().clone()
        else:
            tensors[f"{name}.bias"] = module.bias().detach()
    return tensors


def tensors_of_int8_form(model: Model) -> dict[str, Tensor]:
    """What `to_tensors` would give for the int8 form of a float model, without memory: names, types and shapes."""
    wanted = {}
    for name, parameter in model.named_parameters():
        matrix = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Linear) and name.endswith(".weight")
        number = torch.uint8 if name in TABLES else torch.int8 if matrix else torch.float32
        wanted[name] = torch.empty(parameter.shape, dtype=number, device="meta")
        if number != torch.float32:
            wanted[name + SCALE] = torch.empty(len(parameter), device="meta")
        if number == torch.uint8:
            wanted[name + ZERO_POINT] = torch.empty(len(parameter), device="meta")
    return wanted


def from_tensors(model: Model, tensors: dict[str, Tensor], names: dict[str, str]) -> Model:
    """Make a float model without memory (on the meta device) into the int8 one of these tensors, which have the types
    and shapes that `tensors_of_int8_form` tells (any float type will do).

    UserError for numbers that no quantization gives; `names`: ours -> what the message calls them.
    """
    require()
    choose_engine()
    # Copies, not views of the file, as in a float model; the kernels want float32.
    floats = {name: t.to(torch.float32, copy=True) for name, t in tensors.items() if t.is_floating_point()}
    for name, tensor in floats.items():
        if not tensor.isfinite().all():
            raise UserError(f"{names[name]}: holds numbers that are not finite")
        if name.endswith(SCALE) and not (tensor > 0).all():
            raise UserError(f"{names[name]}: a scale must be more than 0")

    def replacement(name: str) -> nn.Module | None:
        weight, scale = tensors.get(f"{name}.weight"), floats.get(f"{name}.weight{SCALE}")
        if scale is None:
            return None
        if weight.dtype == torch.uint8:
            zero_point = floats[f"{name}.weight{ZERO_POINT}"]
            weight = _quietly(torch._make_per_channel_quantized_tensor, weight, scale, zero_point, 0)
            table = int8_modules.Embedding(*weight.shape, _weight=weight)
            return Int8Positions(table) if name == "positions" else table
        zero_points = torch.zeros(len(scale), dtype=torch.int64)
        linear = DynamicLinear(weight.size(1), weight.size(0), dtype=torch.qint8)
        weight = _quietly(torch._make_per_channel_quantized_tensor, weight, scale.double(), zero_points, 0)
        linear.set_weight_bias(weight, floats[f"{name}.bias"])
        return linear

    count = model.num_parameters()
    model.load_state_dict(floats, strict=False, assign=True)  # what is int8 stays without memory, and is replaced now
    for name, _ in list(model.named_modules()):
        new = replacement(name)
        if new is not None:
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)
    _count_int8(model, count)
    return model.eval()


def _count_int8(model: Model, parameters: int) -> None:
    """Let an int8 model have as many parameters as it had before."""
    model.int8_parameters = parameters - sum(p.numel() for p in model.parameters())
