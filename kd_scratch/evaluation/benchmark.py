"""Latency of models by batch size and length, beside the floor of this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import megabytes
from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.evaluation.evaluate import LoadedModel
from kd_scratch.evaluation.measure import in_turns
from kd_scratch.nn.kernels import BfloatLinear
from kd_scratch.nn.model import Model, forward_operations

Shape = tuple[int, int]  # batch size, tokens

SHAPES: tuple[Shape, ...] = ((1, 16), (1, 64), (1, 128), (1, 384), (8, 128))
ROUNDS, WARM_UP = 15, 3  # how often each shape is timed, and how often it is computed before that
SQUARE = 1024  # side of the matrices that the sgemm rate is measured with
STREAM = 2**26  # float32 numbers that are read for the memory bandwidth: 268 MB, more than any cache


class MachineRates(NamedTuple):
    """What a machine's processor can do at most."""

    operations_per_second: float  # of a large float32 matrix product
    bytes_per_second: float  # of reading memory


@dataclass(frozen=True)
class Timing:
    """One model on inputs of one shape. The fields are the columns of the table, in its order."""

    shape: str
    model: str
    median_ms: float
    p95_ms: float
    times_faster: float  # than the first model
    floor_ms: float
    share_of_floor: float


def benchmark(models: dict[str, LoadedModel], shapes: Sequence[Shape], rates: MachineRates) -> list[Timing]:
    """A timing for each shape and model, all in turns. The models can read inputs of all shapes, see check_lengths."""
    smallest = min(loaded.model.config.vocab_size for loaded in models.values())
    timed = {name: loaded.model for name, loaded in models.items()}
    weight_bytes = {name: bytes_in_memory(loaded) for name, loaded in models.items()}
    rows = []
    for batch, tokens in shapes:
        ids = torch.randint(smallest, (batch, tokens), generator=torch.Generator().manual_seed(0))
        inputs = [ids] * (WARM_UP + ROUNDS)
        times = in_turns(timed, inputs, lambda model, ids: model(ids), WARM_UP, f"{batch}x{tokens}")
        medians = {name: float(np.median(milliseconds)) for name, milliseconds in times.items()}
        first = next(iter(medians.values()))
        for name, median in medians.items():
            least = floor(timed[name], weight_bytes[name], (batch, tokens), rates)
            p95 = float(np.percentile(times[name], 95))
            rows.append(Timing(f"{batch} x {tokens}", name, median, p95, first / median, least, least / median))
    return rows


def usual_shapes(models: dict[str, LoadedModel]) -> Sequence[Shape]:
    """Those of SHAPES that all models can read; a note names the others."""
    longest = min(loaded.model.config.max_positions for loaded in models.values())
    fitting = [(batch, tokens) for batch, tokens in SHAPES if tokens <= longest]
    if others := [f"{batch}x{tokens}" for batch, tokens in SHAPES if tokens > longest]:
        say(f"note: without {', '.join(others)}: a model has {longest} positions")
    return fitting or SHAPES[:1]


def check_lengths(models: dict[str, LoadedModel], shapes: Sequence[Shape]) -> None:
    """UserError where an input of these shapes is longer than a model can read."""
    longest = max(tokens for _, tokens in shapes)
    for name, loaded in models.items():
        positions = loaded.model.config.max_positions
        if longest > positions:
            raise UserError(f"{name}: has {positions} positions; leave longer inputs out of --shapes")


def machine_rates() -> MachineRates:
    """What this machine's CPU can do at most, measured with the threads that are set."""
    left = torch.rand(SQUARE, SQUARE)
    right = torch.rand(SQUARE, SQUARE)
    stream = torch.ones(STREAM)
    jobs = {"product": lambda: left @ right, "reading": lambda: stream.sum()}
    times = in_turns(jobs, range(WARM_UP + ROUNDS), lambda job, _: job(), WARM_UP, "machine")
    return MachineRates(
        operations_per_second=2 * SQUARE**3 / times["product"].min() * 1e3,
        bytes_per_second=4 * STREAM / times["reading"].min() * 1e3,
    )


def bytes_in_memory(loaded: LoadedModel) -> float:
    """What a model's parameters take: float32, in whatever precision they were stored, but for what kernels
    keep in half precision; an int8 model's as on disk."""
    if loaded.model.config.int8:
        return 1e6 * megabytes(loaded.directory)
    halved = sum(getattr(part, "halved", 0) for part in loaded.model.modules())
    return 4 * loaded.model.num_parameters() - 2 * halved


def floor(model: Model, weight_bytes: float, shape: Shape, rates: MachineRates) -> float:
    """The least milliseconds in which this machine can do it: all products at the sgemm rate, or all weights but the
    table of tokens read once from memory, whichever takes longer. For int8 and bf16 the second alone: sgemm is for
    float32.
    """
    table = model.embeddings.word
    parts = (table.packed, table.scale, table.low) if model.config.int8 else (table.weight,)
    reading = 1000 * (weight_bytes - sum(part.nbytes for part in parts)) / rates.bytes_per_second
    if model.config.int8 or any(isinstance(part, BfloatLinear) for part in model.modules()):
        return reading
    batch, tokens = shape
    computing = 1000 * forward_operations(model.config, np.full(batch, tokens)) / rates.operations_per_second
    return max(reading, computing)
