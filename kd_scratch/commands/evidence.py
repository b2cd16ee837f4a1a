"""Does distillation help here, and which loss? A study with equal budgets. `python -m kd_scratch evidence`"""

import argparse
from pathlib import Path

from kd_scratch.commands.flags import add_flags, by_name, given, layer_list, named_directory
from kd_scratch.common.console import show
from kd_scratch.config import DataConfig, RunConfig, TrainConfig
from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES, list_losses
from kd_scratch.study.runner import run_study
from kd_scratch.study.spec import Grid, StudySpec
from kd_scratch.tasks import deciding_tasks, train_defaults
from kd_scratch.training.spec import CACHE, RunSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evidence`."""
    parser.add_argument("--task", required=True, choices=deciding_tasks())
    parser.add_argument("--train", required=True, type=Path, metavar="FILE", help="training data")
    parser.add_argument("--dev", required=True, metavar="FILE", help="what epochs and losses are chosen on (see train)")
    parser.add_argument("--data", required=True, type=Path, metavar="FILE", help="the test file")
    parser.add_argument("--split", default="", metavar="NAME", help="clinc: the split to test on (default test)")
    parser.add_argument("--teacher", required=True, nargs="+", metavar="DIR", help="the fine-tuned teacher, or several")
    parser.add_argument("--model", required=True, metavar="DIR_OR_SIZE", help="what every student starts from")
    parser.add_argument("--init-layers", type=layer_list, default=(), metavar="0,2,4", help="as of train")
    parser.add_argument("--tokenizer", metavar="DIR", help="with a size: take the tokenizer from this model directory")
    parser.add_argument("--norm-first", action="store_true", help="as of train")
    parser.add_argument("--unlabelled", type=Path, metavar="FILE", help="text for all variants with a teacher")
    parser.add_argument("--augment-model", metavar="DIR", help="as of train")
    parser.add_argument("--cache", type=Path, metavar="DIR", default=CACHE, help="as of train")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="runs, tables and figures go there")
    parser.add_argument(
        "--seeds", type=seed_list, default=StudySpec.seeds, metavar="0,1,2", help="of every variant (default 0,1,2,3,4)"
    )
    parser.add_argument(
        "--learning-rates",
        type=rate_list,
        default=[],
        metavar="1e-4,2e-4",
        help="try every variant at each of these with the first seed, and take the best on dev for all seeds",
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many runs side by side (default 1)")
    parser.add_argument(
        "--grid",
        type=parse_grid,
        default=Grid(),
        metavar="1,2,4x0.5,0.9",
        help="also try soft targets with these temperatures x these alphas, with the first seed",
    )
    parser.add_argument(
        "--beside",
        nargs="+",
        action="extend",
        type=named_directory,
        metavar="NAME=DIR",
        help="also show finished studies with the same data and teacher, of students with fewer layers or another "
        "start, say; DIR is their --output",
    )
    details = {"losses": f'{list_losses()}; not given: all that are possible here are tried; "": none'}
    add_flags(parser, TrainConfig, task_defaults=train_defaults(), details=details)
    add_flags(parser, DataConfig)
    add_flags(parser, RunConfig, only=("device", "threads"))


def seed_list(text: str) -> list[int]:
    """ "0,1,2" -> [0, 1, 2]"""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of seeds such as 0,1,2") from None


def rate_list(text: str) -> list[float]:
    """ "1e-4,2e-4" -> [0.0001, 0.0002]"""
    try:
        return [float(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of learning rates such as 1e-4,2e-4") from None


def parse_grid(text: str) -> Grid:
    """ "1,2,4x0.5,0.9" -> Grid((1.0, 2.0, 4.0), (0.5, 0.9))"""
    try:
        temperatures, alphas = text.split("x")
        return Grid(tuple(map(float, temperatures.split(","))), tuple(map(float, alphas.split(","))))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not TEMPERATURESxALPHAS such as 1,2,4x0.5,0.9") from None


def make_spec(arguments: argparse.Namespace) -> StudySpec:
    """The study that the flags describe. Without --losses, all that are possible between the two models are tried."""
    names = ("train", "dev", "model", "output", "unlabelled", "augment_model", "init_layers", "tokenizer")
    names += ("norm_first", "cache")
    settings = {name: getattr(arguments, name) for name in names}
    settings |= {"teachers": tuple(arguments.teacher), "losses": ",".join(HIDDEN_LOSSES)}
    for config in (TrainConfig, DataConfig, RunConfig):
        settings |= given(arguments, config)
    return StudySpec(
        run=RunSpec.of(arguments.task, **settings),
        test=arguments.data,
        split=arguments.split,
        seeds=tuple(arguments.seeds),
        learning_rates=tuple(arguments.learning_rates),
        jobs=arguments.jobs,
        grid=arguments.grid,
        beside=by_name(arguments.beside or [], "--beside"),
        skip_impossible=not hasattr(arguments, "losses"),
    )


def command(arguments: argparse.Namespace) -> dict:
    """`evidence`: the runs, then the tables and figures."""
    report = run_study(make_spec(arguments))
    show(report.text)
    return report.record
