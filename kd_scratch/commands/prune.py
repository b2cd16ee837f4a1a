"""A float model in, one of fewer words or narrower feed-forward out. `python -m kd_scratch prune`"""

import argparse
from pathlib import Path

from kd_scratch.commands.flags import add_flags, data_config, start_device
from kd_scratch.common.console import say, show, table
from kd_scratch.config import DataConfig, RunConfig
from kd_scratch.evaluation.evaluate import load_for_inference
from kd_scratch.evaluation.prune import prune
from kd_scratch.tasks import TASKS

SHOWN = {
    "parameters": "parameters",
    "megabytes": "MB in float32",
    "int8_megabytes": "MB in int8, once quantized",
    "pieces": "pieces",
    "feed_forward": "feed-forward",
    "changed_pieces": "dev pieces cut otherwise",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `prune`."""
    parser.add_argument("--model", required=True, metavar="DIR", help="a float model directory")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the pruned one goes")
    width_help = "units that each block's feed-forward keeps, chosen so that the texts notice least (default all)"
    parser.add_argument("--feed-forward", type=int, default=0, metavar="WIDTH", help=width_help)
    words_help = (
        "of the pieces of words only those stay that texts use: --data and these files, read as `train --unlabelled` "
        "reads them; single characters, which spell all other words, stay too (default: all pieces)"
    )
    parser.add_argument("--words", type=Path, nargs="*", metavar="FILE", help=words_help)
    parser.add_argument("--task", choices=list(TASKS), help="how --data and --dev are read")
    data_help = "files of the task, as for training"
    parser.add_argument("--data", type=Path, nargs="+", default=[], metavar="FILE", help=data_help)
    dev_help = "score the model before and after on this file of the task (clinc: on its split val)"
    parser.add_argument("--dev", type=Path, metavar="FILE", help=dev_help)
    add_flags(parser, DataConfig)
    add_flags(parser, RunConfig, only=("threads",))


def command(arguments: argparse.Namespace) -> dict:
    """`prune`: open, prune, save; a table of what is left."""
    start_device(arguments, device="cpu")
    task = TASKS[arguments.task] if arguments.task else None
    loaded = load_for_inference(arguments.model, task if arguments.dev else None, fast=False)
    words, texts = arguments.words is not None, arguments.words or ()
    what = (arguments.feed_forward, words, task, arguments.data, texts, data_config(arguments), arguments.dev)
    record = prune(loaded, arguments.output, *what)
    before, after = record["rows"].values()
    rows = [(SHOWN.get(name, f"dev {name}"), before[name], after[name]) for name in after]
    show(table(("", "before", "after"), rows))
    say(f"kept in {arguments.output}, not trained since: distil into it (train --model), then quantize it")
    return record
