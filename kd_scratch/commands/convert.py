"""Pickled or sharded weights of a model directory, saved again as model.safetensors. `python -m kd_scratch convert`"""

import argparse
from pathlib import Path

from kd_scratch.checkpoints.convert import convert
from kd_scratch.checkpoints.weight_files import listed
from kd_scratch.common.console import show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `convert`."""
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help="a model directory")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the converted one goes")


def command(arguments: argparse.Namespace) -> dict:
    """`convert`: read, write, a line about it."""
    record = convert(arguments.model, arguments.output)
    show(f"{arguments.output}: {record['tensors']} tensors of {listed(record['from'])} are in model.safetensors")
    show(f"copied beside it: {listed(record['copied'])}")
    if record["left_out"]:
        show(f"left out: {listed(record['left_out'])}")
    return record
