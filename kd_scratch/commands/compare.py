"""Several models on one test file, side by side: size, speed, quality. `python -m kd_scratch compare`"""

import argparse
from pathlib import Path

from kd_scratch.commands.flags import (
    add_data_flags,
    add_flags,
    by_name,
    data_config,
    named_directory,
    start_device,
)
from kd_scratch.common.console import say, show
from kd_scratch.common.device import device_and_threads
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import make_folder
from kd_scratch.config import DataConfig, KernelConfig, RunConfig
from kd_scratch.evaluation.compare import NAME, compare, record_of, text_of, write_comparison
from kd_scratch.evaluation.evaluate import load_for_inference, read_evaluation_set
from kd_scratch.tasks import TASKS, deciding_tasks


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `compare`."""
    add_data_flags(parser, deciding_tasks())
    parser.add_argument(
        "--models",
        required=True,
        nargs="+",
        type=named_directory,
        metavar="NAME=DIR",
        help="the models; the first is the one that the others are compared with",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="tables (comparison.txt, .md, .json) and a page with pictures (comparison.html) are written there",
    )
    dev_help = (
        "also the cascade of the last model before the first, with the threshold chosen here (clinc: its split val)"
    )
    parser.add_argument("--dev", type=Path, metavar="FILE", help=dev_help)
    add_flags(parser, DataConfig)
    add_flags(parser, RunConfig, only=("device", "threads"))
    add_flags(parser, KernelConfig)


def command(arguments: argparse.Namespace) -> dict:
    """`compare`: the tables, as text, Markdown and JSON, and the page."""
    task = TASKS[arguments.task]
    directories = by_name(arguments.models, "--models")
    device = start_device(arguments, *directories.values())
    data, dev_set = data_config(arguments), None
    test_set = read_evaluation_set(task, arguments.data, arguments.split, data)
    if arguments.dev:
        if len(directories) == 1:
            raise UserError("--dev: a cascade needs two models; give --models teacher=DIR student=DIR")
        dev_set = read_evaluation_set(task, arguments.dev, task.dev_split, data)
    models = {
        name: load_for_inference(directory, task, arguments.max_length, device)
        for name, directory in directories.items()
    }
    folder = make_folder(arguments.output)
    say(f"comparing {len(models)} models on {test_set.describe()}, {device_and_threads(device)}")
    found = compare(models, test_set, device, arguments.max_length, dev_set)
    write_comparison(found, folder)
    show(text_of(found))
    say(f"\nwith pictures: {folder / NAME}.html")
    return record_of(found)
