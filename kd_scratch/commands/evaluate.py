"""A model directory and a data file in, metrics out. `python -m kd_scratch evaluate`"""

import argparse
from pathlib import Path

from kd_scratch.commands.flags import add_data_flags, add_flags, data_config, start_device
from kd_scratch.common.console import say, show, table
from kd_scratch.common.device import device_and_threads
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_target, write_json
from kd_scratch.config import DataConfig, KernelConfig, RunConfig
from kd_scratch.evaluation.evaluate import evaluate_set, load_for_inference, read_evaluation_set
from kd_scratch.tasks import TASKS

MISTAKES = 5  # that are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate`."""
    add_data_flags(parser)
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the metrics there")
    parser.add_argument(
        "--alone",
        action="store_true",
        help="compute everything once more, each input by itself, and print how many decisions change; of an "
        "int8 model many do with --int8-scale batch, hardly any else",
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE.json", help="write the prediction for each example there"
    )
    add_flags(parser, DataConfig)
    add_flags(parser, RunConfig, only=("device", "threads"))
    add_flags(parser, KernelConfig)


def command(arguments: argparse.Namespace) -> dict:
    """`evaluate`: metrics, a table per class and the surest mistakes."""
    task = TASKS[arguments.task]
    device = start_device(arguments, arguments.model)
    loaded = load_for_inference(arguments.model, task, arguments.max_length, device)
    test_set = read_evaluation_set(task, arguments.data, arguments.split, data_config(arguments))
    check_targets(arguments)
    say(f"evaluating {loaded.describe()} on {test_set.describe()}, {device_and_threads(device)}")
    found = evaluate_set(loaded, test_set, device, arguments.max_length, arguments.alone)
    if arguments.output:
        write_json(arguments.output, found.record)
    if arguments.predictions:
        write_json(arguments.predictions, task.prediction_records(found.predictions))
    show_metrics(found.metrics)  # after the files: a reader such as `head` may close the pipe
    show("\n" + task.details(found.metrics))
    show("\n" + task.mistakes(found.predictions, MISTAKES))
    return found.record


def check_targets(arguments: argparse.Namespace) -> None:
    """UserError, before minutes of work, where one of the files cannot be written or would replace another."""
    targets = [path for path in (arguments.output, arguments.predictions) if path is not None]
    for path in targets:
        check_target(path, arguments.data, arguments.model)
    if len(targets) == 2 and arguments.output.resolve() == arguments.predictions.resolve():
        raise UserError(f"--output and --predictions are both {arguments.output}; give each its own file")


def show_metrics(metrics: dict) -> None:
    """Print the metrics that are single numbers."""
    rows = []
    for name, value in metrics.items():
        if name.endswith("threshold"):
            value = repr(value)  # it is given back to the program, so none of its digits may be lost
        if not isinstance(value, dict):
            rows.append((name, value))
    show(table(("metric", "value"), rows))
