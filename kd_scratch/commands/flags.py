"""Flags that several commands have, and what is made of them."""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

import torch

from kd_scratch.common.device import start
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig, KernelConfig, RunConfig, flag_name
from kd_scratch.evaluation.evaluate import device_for
from kd_scratch.nn import kernels
from kd_scratch.tasks import TASKS


def add_flags(
    parser: argparse.ArgumentParser,
    config: type,
    only: tuple[str, ...] = (),
    task_defaults: dict[str, dict] | None = None,
    details: dict[str, str] | None = None,
) -> None:
    """One flag per field of a configuration class (or for some of them only).

    A flag that is not given stays out of the parsed namespace, see `given`. task_defaults: by task, the fields in which
    it differs from the class's defaults; details: by field, what is added to its text. Both are for --help.
    """
    group = parser.add_argument_group(config.__doc__.split("\n")[0].rstrip("."))
    for f in fields(config):
        if only and f.name not in only:
            continue
        choices = f.metadata["choices"]
        help_text = f.metadata["help"] + (details or {}).get(f.name, "")
        if f.type is bool:
            group.add_argument(flag_name(f.name), action="store_true", default=argparse.SUPPRESS, help=help_text)
            continue
        if f.default != "":
            special = [
                f"; {task}: {values[f.name]}"
                for task, values in (task_defaults or {}).items()
                if values.get(f.name, f.default) != f.default
            ]
            help_text += f" (default {f.default}{''.join(special)})"
        group.add_argument(
            flag_name(f.name),
            type=f.type,
            default=argparse.SUPPRESS,
            help=help_text,
            choices=choices,
            metavar=None if choices else "X",
        )


def given(arguments: argparse.Namespace, config: type) -> dict:
    """The values of a configuration class that were given on the command line, by field."""
    return {f.name: getattr(arguments, f.name) for f in fields(config) if hasattr(arguments, f.name)}


def data_config(arguments: argparse.Namespace) -> DataConfig:
    """How data is read, by the flags of DataConfig."""
    return DataConfig(**given(arguments, DataConfig))


def start_device(arguments: argparse.Namespace, *models: str | Path, **fixed) -> torch.device:
    """The device that the flags of RunConfig ask for; seeds, threads and kernels are set.

    models: directories of those that are to run there. fixed: fields that have no flag.
    """
    kernels.use(KernelConfig(**given(arguments, KernelConfig)))
    settings = RunConfig(**fixed, **given(arguments, RunConfig))
    return start(settings.seed, settings.threads, device_for(settings.device, models))


def add_data_flags(
    parser: argparse.ArgumentParser, tasks: Iterable[str] = TASKS, split: str = "test", required: bool = True
) -> None:
    """The flags of a command that lets a model read a file. split: the one that is read where none is named.

    required: False where it may get its text in another way.
    """
    parser.add_argument("--task", required=True, choices=list(tasks))
    parser.add_argument("--data", required=required, type=Path, metavar="FILE", help="the file to read")
    parser.add_argument("--split", default="", metavar="NAME", help=f"clinc: train, val or test (default {split})")
    parser.add_argument(
        "--max-length",
        type=int,
        default=0,
        metavar="N",
        help="longest input in word pieces (default: what the model was trained with)",
    )


def named_directory(text: str) -> tuple[str, str]:
    """ "teacher=runs/teacher" -> ("teacher", "runs/teacher")"""
    name, equals, directory = text.partition("=")
    if not (name and equals and directory):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR, for example teacher=runs/teacher")
    return name, directory


def by_name(pairs: Sequence[tuple[str, str]], flag: str) -> dict[str, str]:
    """The directories of a flag by name; UserError where a name is used twice."""
    if len(dict(pairs)) != len(pairs):
        raise UserError(f"{flag}: a name is used twice; give each its own")
    return dict(pairs)


def layer_list(text: str) -> tuple[int, ...] | str:
    """ "0,2,4" -> (0, 2, 4); "auto:2" as it is."""
    if text.startswith("auto"):
        return text
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of layer numbers such as 0,2,4, nor auto:2") from None


def shape_list(text: str) -> list[tuple[int, int]]:
    """Batch sizes and lengths: "1x16,8x128" -> [(1, 16), (8, 128)]"""
    try:
        shapes = [tuple(int(number) for number in shape.split("x")) for shape in text.split(",")]
    except ValueError:
        shapes = []
    if not shapes or not all(len(shape) == 2 and min(shape) > 0 for shape in shapes):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of BATCHxTOKENS such as 1x16,8x128")
    return shapes
