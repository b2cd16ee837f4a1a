"""Latency of models by batch size and length, beside the floor of this machine. `python -m kd_scratch benchmark`"""

import argparse
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import megabytes
from kd_scratch.common.console import say, show, table
from kd_scratch.common.device import start
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_target, write_json
from kd_scratch.config import RunConfig, add_flags, given
from kd_scratch.evaluation.evaluate import about_machine, load_for_inference
from kd_scratch.evaluation.measure import in_turns
from kd_scratch.nn.model import Model, forward_operations
from kd_scratch.pages.report import by_name, named_directory

SHAPES = "1x16,1x64,1x128,1x384,8x128"  # batch size x tokens
ROUNDS, WARM_UP = 15, 3
SQUARE = 1024  # side of the matrices that the sgemm rate is measured with
STREAM = 2**26  # float32 numbers that are read for the memory bandwidth: 268 MB, more than any cache


def parse_shapes(text: str) -> list[tuple[int, int]]:
    """ "1x16,8x128" -> [(1, 16), (8, 128)]"""
    try:
        shapes = [tuple(int(number) for number in shape.split("x")) for shape in text.split(",")]
        if all(len(shape) == 2 and min(shape) > 0 for shape in shapes):
            return shapes
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a list of BATCHxTOKENS such as {SHAPES}")


def machine_rates() -> tuple[float, float]:
    """(operations per second of a large float32 matrix product, bytes per second of reading memory), on the CPU."""
    a, b, stream = torch.rand(SQUARE, SQUARE), torch.rand(SQUARE, SQUARE), torch.ones(STREAM)
    jobs = {"product": lambda: a @ b, "reading": lambda: stream.sum()}
    times = in_turns(jobs, range(WARM_UP + ROUNDS), lambda job, _: job(), WARM_UP, "machine")
    return 2 * SQUARE**3 / times["product"].min() * 1e3, 4 * STREAM / times["reading"].min() * 1e3


def floor(model: Model, weight_bytes: float, shape: tuple[int, int], rates: tuple[float, float]) -> float:
    """The least milliseconds in which this machine can do it: all products at the sgemm rate, or all weights but the
    table of tokens read once from memory, whichever takes longer. For int8 the second alone: sgemm is for floats.
    """
    table = model.embeddings.word
    parts = (table.packed, table.scale, table.low) if model.config.int8 else (table.weight,)
    reading = 1000 * (weight_bytes - sum(part.nbytes for part in parts)) / rates[1]
    return (
        reading
        if model.config.int8
        else max(reading, 1000 * forward_operations(model.config, np.full(*shape)) / rates[0])
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `benchmark`."""
    parser.add_argument("--models", required=True, nargs="+", type=named_directory, metavar="NAME=DIR")
    parser.add_argument(
        "--shapes", type=parse_shapes, default=SHAPES, metavar="BxS,…", help=f"batch size x tokens (default {SHAPES})"
    )
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures there")
    add_flags(parser, RunConfig, only=("threads",))


def command(arguments: argparse.Namespace) -> dict:
    """`benchmark`: one row per shape and model: milliseconds, times faster than the first model, share of the floor."""
    device = start(**vars(RunConfig(device="cpu", **given(arguments, RunConfig))))
    by_name(arguments.models, "--models")
    models = {name: load_for_inference(directory).model for name, directory in arguments.models}
    longest = max(tokens for _, tokens in arguments.shapes)
    for name, model in models.items():
        if longest > model.config.max_positions:
            raise UserError(
                f"{name}: has {model.config.max_positions} positions; leave {longest} tokens out of --shapes"
            )
    if arguments.output:
        check_target(arguments.output, *(directory for _, directory in arguments.models))
    say(
        f"timing {len(models)} models, {len(arguments.shapes)} shapes, {ROUNDS} rounds in turns, "
        f"{torch.get_num_threads()} threads"
    )
    rates, rows = machine_rates(), []
    smallest = min(model.config.vocab_size for model in models.values())
    for batch, tokens in arguments.shapes:
        ids = torch.randint(smallest, (batch, tokens), generator=torch.Generator().manual_seed(0))
        times = in_turns(models, [ids] * (WARM_UP + ROUNDS), lambda model, x: model(x), WARM_UP, f"{batch}x{tokens}")
        first = float(np.median(times[next(iter(models))]))
        for name, directory in arguments.models:
            middle = float(np.median(times[name]))
            least = floor(models[name], 1e6 * megabytes(directory), (batch, tokens), rates)
            rows.append({
                "shape": f"{batch} x {tokens}",
                "model": name,
                "median_ms": middle,
                "p95_ms": float(np.percentile(times[name], 95)),
                "times_faster": first / middle,
                "floor_ms": least,
                "share_of_floor": least / middle,
            })  # fmt: skip
    header = ("shape", "model", "ms", "p95", f"times {arguments.models[0][0]}", "floor ms", "floor / ms")
    show(table(header, [tuple(row.values()) for row in rows]))
    machine = about_machine(device, models.values())
    machine |= {"sgemm_gflops": rates[0] / 1e9, "memory_gigabytes_per_second": rates[1] / 1e9}
    say(
        f"sgemm {rates[0] / 1e9:,.0f} GFLOP/s, memory {rates[1] / 1e9:.1f} GB/s; "
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}"
        + (f", int8: {machine['int8']}" if "int8" in machine else "")
    )
    result = {"machine": machine, "models": dict(arguments.models), "rows": rows}
    if arguments.output:
        write_json(arguments.output, result)
    return result
