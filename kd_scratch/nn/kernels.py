"""The ways in which this PyTorch can compute a linear layer on the CPU, and which of them is the fastest here.

No way is the fastest on every processor: oneDNN's int8 product, for one, takes three quarters of FBGEMM's time on one
processor, a thousand times as long with signed instead of unsigned numbers on the same, and is absent on a third. So
each is timed for a moment when a model is first opened, on few rows and on many, its result is compared with the
plain layer's, and the choice is kept in a file under processor, library and shape. `KernelConfig` sets what is allowed.
"""

import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kd_scratch.common.device import describe
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import make_folder, read_json, write_json
from kd_scratch.config import KernelConfig
from kd_scratch.nn import int8
from kd_scratch.nn.int8 import Int8Linear, activated, stacked_int8
from kd_scratch.nn.layers import ACTIVATIONS

ROWS = 64  # how many rows oneDNN is told to expect when it chooses the order of a weight; others work as well
#: Our activations as oneDNN calls them. Another one stays outside the product.
POINTWISE = {
    None: ("none", ""),
    ACTIVATIONS["gelu"]: ("gelu", "none"),
    ACTIVATIONS["gelu_new"]: ("gelu", "tanh"),
    ACTIVATIONS["relu"]: ("relu", ""),
}
TIMED = {"few rows": (1, 16), "many rows": (8, 16)}  # texts and tokens of the inputs that are timed
FIRST = {"few rows": (1, 1), "many rows": (8, 1)}  # of a layer that computes the first position of a text only
ROUNDS, SECONDS = 15, 0.1  # how often each is timed at most; and for how long all of a layer's, but for four rounds
STEP, MOST = 2**24, 2**26  # bytes of weights that take turns, as a model's do: in what steps, and how many at most
COPIES = 64  # of a layer, at most
CLEARLY = 1.05  # times slower must a way be to lose its place to a later one of the list
SMALL = 2**16  # weights: below it nothing is timed, the first way of the list is taken


# --- float ---


class PlainLinear(nn.Linear):
    """PyTorch's linear layer, of a weight that is there already, and an activation behind it."""

    def __init__(self, layer: nn.Linear, activation=None):
        super().__init__(layer.in_features, layer.out_features, device="meta")
        self.load_state_dict({"weight": layer.weight, "bias": layer.bias}, assign=True)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """…,in -> …,out"""
        return activated(super().forward(x), self.activation)


class PackedLinear(nn.Module):
    """A float linear layer, and an activation behind it, whose weight (out,in) lies in oneDNN's own order.

    The two operations are not part of PyTorch's public API; they are what torch.compile uses for inputs of any length.
    """

    def __init__(self, layer: nn.Linear, activation=None, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.to(dtype), ROWS)
        self.bias = layer.bias.to(dtype)
        self.pointwise, self.kind = POINTWISE[activation]

    def forward(self, x: Tensor) -> Tensor:
        """…,in -> …,out"""
        return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, self.bias, self.pointwise, [], self.kind)


class BfloatLinear(PackedLinear):
    """The same in bf16: 8 bits of precision in weights, inputs and outputs. Its outputs are float32 again."""

    def __init__(self, layer: nn.Linear, activation=None):
        super().__init__(layer, activation, torch.bfloat16)
        self.halved = layer.weight.numel()

    def forward(self, x: Tensor) -> Tensor:
        """…,in -> …,out"""
        return super().forward(x.bfloat16()).float()


class HalfLinear(nn.Module):
    """FBGEMM's float linear layer, whose weights take half the memory: 11 bits of precision, the rest is float32."""

    def __init__(self, layer: nn.Linear, activation=None):
        super().__init__()
        use_fbgemm()
        self.halved = layer.weight.numel()  # numbers that take two bytes
        self.packed = torch.ops.quantized.linear_prepack_fp16(layer.weight, layer.bias)
        self.activation, self.multiply = activation, direct(torch.ops.quantized.linear_dynamic_fp16.default)

    def forward(self, x: Tensor) -> Tensor:
        """…,in -> …,out"""
        return activated(self.multiply(x, self.packed), self.activation)


# --- int8: see Int8Linear for what they compute ---


class OneDnnInt8(Int8Linear):
    """oneDNN's product. Where an input has one scale, bias and activation are inside."""

    def __init__(self, layer: Int8Linear, activation=None):
        super().__init__(layer.weight, layer.scale, layer.bias, activation, layer.scales)
        self.packed = torch.ops.onednn.qlinear_prepack(self.weight, None)
        self.weight = None
        self.zeros = torch.zeros(self.out_features, dtype=torch.int64)

    def at_once(self, x: Tensor) -> Tensor:
        """…,in -> …,out, with one scale for all of x, behind the activation"""
        low, step = int8.lows_and_steps(x, "batch", self.bits)
        q = (x - low).div_(step).flatten(0, -2)
        zero_point = round(float(-low / step))
        y = self.pointwise(q, float(step), zero_point, self.bias, *POINTWISE[self.activation])
        return y.view(*x.shape[:-1], self.out_features)

    def product(self, q: Tensor) -> Tensor:
        """R,in -> R,out, as Int8Linear.product"""
        return self.pointwise(q, 1.0, 0, None, "none", "")

    def pointwise(self, q: Tensor, step: float, zero_point: int, bias: Tensor | None, name: str, kind: str) -> Tensor:
        """R,in of numbers 0 … 2^bits − 1, still to be rounded -> R,out: activation(step · (q − zero) · W + bias)"""
        # Numbers are converted many at a time to int8, one by one to uint8; but with int8 the product is slow.
        q = q.round_().clamp_(0, 2**self.bits - 1).sub_(128).to(torch.int8).view(torch.uint8).add_(128)
        weight = (self.packed, self.scale, self.zeros)
        return torch.ops.onednn.qlinear_pointwise.default(
            q, step, zero_point, *weight, bias, 1.0, 0, torch.float32, name, [], kind
        )


class FbgemmInt8(Int8Linear):
    """FBGEMM's product, which rounds on the way in. It needs PyTorch's quantized tensors, which are deprecated."""

    def __init__(self, layer: Int8Linear, activation=None):
        super().__init__(layer.weight, layer.scale, layer.bias, activation, layer.scales)
        use_fbgemm()
        zeros = torch.zeros(self.out_features, dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*are deprecated and will be removed", category=UserWarning)
            weight = torch._make_per_channel_quantized_tensor(self.weight, self.scale.double(), zeros, 0)
        self.packed = torch.ops.quantized.linear_prepack(weight, self.bias)
        self.weight, self.multiply = None, direct(torch.ops.quantized.linear_dynamic.default)

    def at_once(self, x: Tensor) -> Tensor:
        """…,in -> …,out, with one scale for all of x, behind the activation"""
        return activated(self.multiply(x, self.packed, self.bits == 7), self.activation)

    def product(self, q: Tensor) -> Tensor:
        """R,in -> R,out, as Int8Linear.product"""
        product = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        return product.default(q, 1.0, 0, self.packed).sub_(self.bias)


def by_hand(layer: Int8Linear, activation=None) -> Int8Linear:
    """The product of int8.py itself, which needs nothing of PyTorch's quantization."""
    return Int8Linear(layer.weight, layer.scale, layer.bias, activation, layer.scales)


def direct(operation: Callable) -> Callable:
    """An operation on packed weights without what `torch.ops` looks for at each call: a fifth of a short one."""
    return getattr(operation, "_op", operation)


def use_fbgemm() -> None:
    """Let PyTorch pack weights for FBGEMM, or what it has in its place on this processor."""
    for engine in ("fbgemm", "qnnpack"):
        if engine in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = engine
            return


# --- the choice ---


@dataclass(frozen=True)
class Kernel:
    """A way to compute a linear layer."""

    build: Callable[..., nn.Module]  # (layer, activation): the layer in this form; raises where it cannot be
    allowed_by: tuple[str, ...]  # values of KernelConfig.kernels
    tolerance: (
        float | None
    )  # by which its numbers may differ from the plain layer's, in parts of the largest; None: it is it


ALL, HALF, BF16 = ("exact", "half", "bf16"), ("half", "bf16"), ("bf16",)
FLOAT_KERNELS = {
    "oneDNN": Kernel(PackedLinear, ALL, 1e-5),
    "plain": Kernel(PlainLinear, ALL, None),
    "FBGEMM half": Kernel(HalfLinear, HALF, 1e-3),
    "oneDNN bf16": Kernel(BfloatLinear, BF16, 0.02),
}
INT8_KERNELS = {  # a number between two steps of an input may go either way
    "FBGEMM int8": Kernel(FbgemmInt8, ALL, 0.01),
    "oneDNN int8": Kernel(OneDnnInt8, ALL, 0.01),
    "by hand int8": Kernel(by_hand, ALL, None),
}
_config = KernelConfig()
#: What was found on this machine, by what decides it: {"kernel": …, "microseconds": {kernel: [few rows, many rows]}}
_found: dict[str, dict] = {}


def use(config: KernelConfig) -> None:
    """Let this process open models for the CPU so from now on."""
    global _config
    _config = config
    int8.use_scales(config.int8_scale)


def config() -> KernelConfig:
    """How this process opens models for the CPU."""
    return _config


def fastest(
    layers: Sequence[nn.Module], activation: Callable | None = None, weights: int = 0, first_only: bool = False
) -> nn.Module:
    """One linear layer that gives the outputs of several, side by side, behind an activation of POINTWISE.

    layers: all float32 with a bias, or all Int8Linear, of the same input. The way is the fastest of this machine in a
    model of so many bytes of weights: those of a large one (up to MOST) are read from memory at each call. first_only:
    for the first position of each text.
    """
    is_int8 = int8.is_int8(layers[0])
    kernels = INT8_KERNELS if is_int8 else FLOAT_KERNELS
    plain = stacked_int8(layers) if is_int8 else stacked_float(layers)
    kernels = {name: kernel for name, kernel in kernels.items() if _config.kernels in kernel.allowed_by}
    if plain.in_features * plain.out_features < SMALL:
        return next(forms(kernels, plain, activation))[1]
    weights = min(weights // STEP * STEP, MOST)
    key, shapes = cache_key(plain, activation, weights) + " first only" * first_only, FIRST if first_only else TIMED
    name = found(key).get("kernel")
    for _, form in forms({name: kernels[name]} if name in kernels else {}, plain, activation):
        return form
    every = dict(forms(kernels, plain, activation))
    copies = range(1, min(weights // plain.weight.nbytes, COPIES))
    build = {name: kernels[name].build for name in every}
    rings = {name: [form, *(build[name](deepcopy(plain), activation) for _ in copies)] for name, form in every.items()}
    times = timed(rings, plain.in_features, shapes)
    # The geometric mean of both, few rows counted twice: a single short text is what one waits for.
    means = {name: (few * few * many) ** (1 / 3) for name, (few, many) in times.items()}
    name = next(name for name, mean in means.items() if mean <= CLEARLY * min(means.values()))
    keep(key, {"kernel": name, "microseconds": times})
    return every[name]


def stacked_float(layers: Sequence[nn.Linear]) -> nn.Linear:
    """One float linear layer that gives the outputs of several, side by side."""
    if len(layers) == 1:
        return layers[0]
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    linear = nn.Linear(weight.size(1), weight.size(0), device="meta")
    linear.load_state_dict({"weight": weight, "bias": bias}, assign=True)
    return linear


def forms(kernels: dict[str, Kernel], plain: nn.Module, activation: Callable | None) -> Iterator[tuple[str, nn.Module]]:
    """A layer in each form that there is here, with its name, of those that compute what the plain layer does."""
    for name, kernel in kernels.items():
        try:
            form = kernel.build(plain, activation)
            if all(is_right(form, plain, activation, shape, kernel.tolerance) for shape in TIMED.values()):
                yield name, form
        except (AttributeError, RuntimeError, TypeError):  # this PyTorch, or this processor, has no such operation
            pass


def is_right(form: nn.Module, plain: nn.Module, activation: Callable | None, shape: tuple, tolerance) -> bool:
    """Whether a form gives a plain layer's numbers for a random input of this shape (texts, tokens)."""
    if tolerance is None:
        return True
    x = torch.randn(*shape, plain.in_features, generator=torch.Generator().manual_seed(0))
    expected = activated(plain(x), activation)
    far = (form(x) - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    return bool(far <= tolerance)  # False for not-a-number too


def timed(candidates: dict[str, list[nn.Module]], width: int, shapes: dict = TIMED) -> dict[str, list[float]]:
    """Microseconds that each form of a layer takes at least, for few rows and for many; all take turns.

    candidates: each form once, or as several copies which are called one after the other for few rows. Of these most of
    the time is that of the weights' way from memory, where a model has more of them than the cache holds.
    """
    # With one thread its own time counts, in which nothing is that others have used the processor for.
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    times = {name: [] for name in candidates}
    for rows, shape in shapes.items():
        x = torch.randn(*shape, width, generator=torch.Generator().manual_seed(0))
        best, started = dict.fromkeys(candidates, math.inf), clock()
        for turn in range(ROUNDS):
            for name, ring in candidates.items():
                ring = ring if rows == "few rows" else ring[:1]
                before = clock()
                for form in ring:
                    form(x)
                best[name] = min(best[name], 1e6 * (clock() - before) / len(ring))
            if turn >= 3 and clock() - started > SECONDS:
                break
        for name, value in best.items():
            times[name].append(round(value, 1))
    return times


def cache_key(layer: nn.Module, activation: Callable | None, weights: int) -> str:
    """All that decides which form of a layer is the fastest: processor, threads, library, kind, shape and the model's
    size."""
    machine = describe(torch.device("cpu"))
    kind = f"int8, {layer.scales}" if int8.is_int8(layer) else f"float, {_config.kernels}"
    behind = [name for name in POINTWISE[activation] if name not in ("", "none")]  # the activation
    shape = " ".join([f"{layer.in_features} x {layer.out_features}", *behind, f"in {weights // 2**20}+ MB"])
    processor = f"{machine['processor']}, {machine['instructions']}"  # makers give one name to many
    return f"{processor}, {machine['threads']} threads, torch {machine['torch']}: {kind}, {shape}"


def cache_file() -> Path:
    """Where choices are kept: kernels.json in the user's cache folder. UserError for a user without a home."""
    try:
        folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise UserError(str(error)) from None
    return Path(folder) / "kd_scratch" / "kernels.json"


def found(key: str) -> dict:
    """What was found before, in this process or another; {} where nothing was, or its file is broken."""
    if key not in _found and key in (known := read_cache()):
        _found[key] = known[key]
    return _found.get(key, {})


def keep(key: str, value: dict) -> None:
    """Keep a choice for this process, and where the file can be written for others."""
    _found[key] = value
    with suppress(UserError):  # a home that cannot be written: it is measured anew by the next process
        make_folder(cache_file().parent)
        write_json(cache_file(), read_cache() | _found)  # with those that another process has written over


def read_cache() -> dict[str, dict]:
    """What the cache's file holds, but for entries that are broken; {} where it is not there, or all of it is."""
    known = {}
    with suppress(UserError, AttributeError):
        for key, value in read_json(cache_file()).items():
            with suppress(AttributeError, KeyError, OverflowError, TypeError, ValueError):
                times = {str(name): [float(few), float(many)] for name, (few, many) in value["microseconds"].items()}
                if all(0 <= each < math.inf for pair in times.values() for each in pair):
                    known[key] = {"kernel": str(value["kernel"]), "microseconds": times}
    return known


def choices() -> list[tuple[str, str, dict[str, list[float]]]]:
    """What models were opened with in this process: kind and shape, the kernel, and what each took (see `timed`)."""
    return [(key.partition(": ")[2], value["kernel"], value["microseconds"]) for key, value in _found.items()]
