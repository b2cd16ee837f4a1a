"""A model in, the same with honest probabilities out. `python -m kd_scratch calibrate`"""

import argparse
from dataclasses import fields
from pathlib import Path

from kd_scratch.commands.flags import add_flags, data_config, start_device
from kd_scratch.common.console import say, show, table
from kd_scratch.config import DataConfig, RunConfig
from kd_scratch.evaluation.calibrate import calibrate
from kd_scratch.evaluation.evaluate import load_for_inference, read_evaluation_set
from kd_scratch.tasks import TASKS, deciding_tasks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `calibrate`."""
    parser.add_argument("--task", required=True, choices=deciding_tasks())
    parser.add_argument("--model", required=True, metavar="DIR", help="a float or int8 model directory")
    dev_help = "the file that the temperature is fitted on, not seen in training (clinc: its split val)"
    parser.add_argument("--dev", required=True, type=Path, metavar="FILE", help=dev_help)
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the calibrated model goes")
    others = tuple(field.name for field in fields(DataConfig) if field.name != "label_threshold")  # it moves along
    add_flags(parser, DataConfig, only=others)
    add_flags(parser, RunConfig, only=("threads",))


def command(arguments: argparse.Namespace) -> dict:
    """`calibrate`: fit, divide, save; a table of what changed on dev."""
    start_device(arguments, device="cpu")
    task = TASKS[arguments.task]
    loaded = load_for_inference(arguments.model, task, fast=False)
    dev_set = read_evaluation_set(task, arguments.dev, task.dev_split, data_config(arguments))
    say(f"calibrating {loaded.describe()} on {dev_set.describe()}")
    record = calibrate(loaded, dev_set, arguments.output)
    header = ("on dev", *(name.replace("_", " ") for name in record["rows"]["before"]))
    show(table(header, [(name, *row.values()) for name, row in record["rows"].items()]))
    show(f"\ntemperature {record['temperature']:.3f}; floor: the calibration error of a perfectly calibrated model")
    say(f"kept in {arguments.output}")
    return record
