"""A float model directory in, its int8 form out. `python -m kd_scratch quantize`"""

import argparse
from pathlib import Path

import torch

from kd_scratch.commands.flags import add_flags, start_device
from kd_scratch.common.console import say, show, table
from kd_scratch.config import RunConfig
from kd_scratch.evaluation.evaluate import load_for_inference
from kd_scratch.evaluation.quantize import quantize


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `quantize`."""
    parser.add_argument("--model", required=True, metavar="DIR", help="a float model directory")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where its int8 form goes")
    add_flags(parser, RunConfig, only=("threads",))


def command(arguments: argparse.Namespace) -> dict:
    """`quantize`: open, quantize, save; a table of what was gained."""
    start_device(arguments, device="cpu")
    loaded = load_for_inference(arguments.model, fast=False)
    say(f"quantizing {loaded.describe()} to int8")
    record = quantize(loaded, arguments.output)
    show_gain(record["rows"])
    say("note: only this program opens int8 folders; transformers refuses them")
    say(f"kept in {arguments.output} ({record['int8']}, {torch.get_num_threads()} threads); evaluate it next")
    return record


def show_gain(rows: dict[str, dict[str, float]]) -> None:
    """Print megabytes and milliseconds before and after, and how many times less they are."""
    gain = {name: rows["float"][name] / value for name, value in rows["int8"].items()}
    lengths = [name.split("_")[1] for name in gain if name != "megabytes"]  # ms_16_tokens
    header = ("", "MB", *(f"ms, {length} tokens" for length in lengths))
    lines = {**rows, "times smaller, faster": gain}
    show(table(header, [(name, *line.values()) for name, line in lines.items()]))
