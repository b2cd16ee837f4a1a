"""Write what a model answers to the texts of a file, for `train --answers`. `python -m kd_scratch answers`"""

import argparse
from pathlib import Path

from kd_scratch.commands.flags import add_data_flags, add_flags, data_config, start_device
from kd_scratch.common.console import say, show
from kd_scratch.common.device import device_and_threads
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_target, sha256_of_file
from kd_scratch.config import DataConfig, KernelConfig, RunConfig
from kd_scratch.distillation.answer_file import write_answers
from kd_scratch.evaluation.evaluate import load_for_inference, read_evaluation_set, require_fit
from kd_scratch.tasks import TASKS, deciding_tasks, limited
from kd_scratch.tasks.base import are_pairs
from kd_scratch.tasks.text_files import read_unlabelled


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `answers`."""
    add_data_flags(parser, deciding_tasks(), "train")
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.jsonl", help="to write")
    parser.add_argument(
        "--unlabelled", action="store_true", help="--data holds text without labels, as of train's --unlabelled"
    )
    parser.add_argument(
        "--top",
        type=int,
        default=0,
        metavar="K",
        help="name only the K most probable labels (or spans), and the rest's mass (default all; squad: 20)",
    )
    add_flags(parser, DataConfig)
    add_flags(parser, RunConfig, only=("device", "threads"))
    add_flags(parser, KernelConfig)


def command(arguments: argparse.Namespace) -> dict:
    """`answers`: one line for each example."""
    task, data, path = TASKS[arguments.task], data_config(arguments), arguments.data
    if arguments.top < 0:
        raise UserError(f"--top {arguments.top}: must be 0 or more; 0 names all labels")
    device = start_device(arguments, arguments.model)
    loaded = load_for_inference(arguments.model, task, arguments.max_length, device)
    if arguments.unlabelled:
        if arguments.split:
            raise UserError("--split: a file of texts without labels has no splits; leave it out")
        flag, pairs = f"--data {path}", bool(loaded.model.config.pairs)
        examples = limited(read_unlabelled(task, path, data, flag, pairs=pairs), data.limit)
    else:
        split = arguments.split or ("train" if task.splits else "")
        examples = read_evaluation_set(task, path, split, data).examples
    require_fit(loaded, are_pairs(examples), f"--data {path}")
    check_target(arguments.output, path, arguments.model)
    say(f"answers of {loaded.describe()} to {len(examples):,} examples of {path}, {device_and_threads(device)}")
    write_answers(loaded, task, examples, data, device, arguments.top, arguments.output)
    size = arguments.output.stat().st_size
    show(f"{len(examples):,} answers, {size / 1e6:,.1f} MB: {arguments.output}")
    return {
        "model": arguments.model,
        "data": str(path),
        "examples": len(examples),
        "output": str(arguments.output),
        "bytes": size,
        "sha256": sha256_of_file(arguments.output),
    }
