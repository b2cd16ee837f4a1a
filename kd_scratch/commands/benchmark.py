"""Latency of models by batch size and length, beside the floor of this machine. `python -m kd_scratch benchmark`"""

import argparse
from dataclasses import asdict, astuple
from pathlib import Path
from typing import NamedTuple

import torch

from kd_scratch.commands.flags import add_flags, by_name, named_directory, shape_list, start_device
from kd_scratch.common.console import say, show, table
from kd_scratch.common.files import check_target, write_json
from kd_scratch.config import KernelConfig, RunConfig
from kd_scratch.evaluation.benchmark import (
    ROUNDS,
    SHAPES,
    Timing,
    benchmark,
    check_lengths,
    machine_rates,
    usual_shapes,
)
from kd_scratch.evaluation.evaluate import about_machine, load_for_inference
from kd_scratch.nn import kernels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `benchmark`."""
    parser.add_argument("--models", required=True, nargs="+", type=named_directory, metavar="NAME=DIR")
    usual = ",".join(f"{batch}x{tokens}" for batch, tokens in SHAPES)
    parser.add_argument("--shapes", type=shape_list, metavar="BxS,…", help=f"batch size x tokens (default {usual})")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures there")
    add_flags(parser, RunConfig, only=("threads",))
    add_flags(parser, KernelConfig)


def command(arguments: argparse.Namespace) -> dict:
    """`benchmark`: one row per shape and model: milliseconds, times faster than the first model, share of the floor."""
    device = start_device(arguments, device="cpu")
    directories = by_name(arguments.models, "--models")
    models = {name: load_for_inference(directory) for name, directory in directories.items()}
    shapes = arguments.shapes or usual_shapes(models)
    check_lengths(models, shapes)
    if arguments.output:
        check_target(arguments.output, *directories.values())
    say(
        f"timing {len(models)} models, {len(shapes)} shapes, {ROUNDS} rounds in turns, "
        f"{torch.get_num_threads()} threads"
    )
    rates = machine_rates()
    rows = benchmark(models, shapes, rates)
    machine = about_machine(device, [loaded.model for loaded in models.values()])
    machine["sgemm_gflops"] = rates.operations_per_second / 1e9
    machine["memory_gigabytes_per_second"] = rates.bytes_per_second / 1e9
    ways = [Way(*choice) for choice in kernels.choices()]
    result = {"machine": machine, "models": directories, "rows": [asdict(row) for row in rows]}
    result["kernels"] = [way._asdict() for way in ways]
    if arguments.output:
        write_json(arguments.output, result)
    show_ways(ways)
    show_timings(rows, machine)  # after the file: nothing is lost where nobody reads on
    return result


class Way(NamedTuple):
    """What a kind of linear layer is computed by."""

    layer: str
    kernel: str
    microseconds: dict[str, list[float]]  # by kernel, of few rows and of many


def show_ways(ways: list[Way]) -> None:
    """Print by what linear layers are computed, and what each kernel took when that was chosen."""
    header = ("linear layer (inputs x outputs)", "computed by", f"µs of {' and '.join(kernels.TIMED)}, by kernel")
    times = [
        ", ".join(f"{name} {few:.0f} {many:.0f}" for name, (few, many) in way.microseconds.items()) for way in ways
    ]
    if ways:
        show(table(header, [(way.layer, way.kernel, text) for way, text in zip(ways, times, strict=True)]))


def show_timings(rows: list[Timing], machine: dict) -> None:
    """Print the table, and what the machine can do."""
    header = ("shape", "model", "ms", "p95", f"times {rows[0].model}", "floor ms", "floor / ms")
    show(table(header, [astuple(row) for row in rows]))
    kernels = f", int8: {machine['int8']}" if "int8" in machine else ""
    say(
        f"sgemm {machine['sgemm_gflops']:,.0f} GFLOP/s, memory {machine['memory_gigabytes_per_second']:.1f} GB/s; "
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}{kernels}"
    )
