"""What a study compares: ways to train the same student, for as many steps, that differ in what is learned from."""

import argparse
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kd_scratch.checkpoints.checkpoint import load_config
from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.config import SIZES, DataConfig, ModelConfig, TrainConfig, given
from kd_scratch.distillation.hidden_losses import HiddenLosses, parse_layer_map, parse_losses
from kd_scratch.nn.model import Model
from kd_scratch.tasks import TASKS
from kd_scratch.training.examples import data_hashes

BASELINE, SOFT, COMBINED = "baseline", "soft targets", "combined"
RESULT = "evidence.json"  # what a study has found, in its --output


@dataclass(frozen=True)
class Variant:
    """A way to train the student: its name, the flags of `train` that only it has, and the losses among them."""

    name: str
    flags: tuple[str, ...]
    losses: str = ""  # as --losses takes them

    def folder(self, output: Path, seed: int) -> Path:
        """Where its run with a seed lies. What is combined is told: with more seeds it may be something else."""
        told = f"{self.name} {re.sub('[^a-z]+', ' ', self.losses)}" if self.name == COMBINED else self.name
        return output / "runs" / f"{'-'.join(told.split())}-{seed}"

    def argv(self) -> list[str]:
        """Its flags, with the losses."""
        return [*self.flags, *(("--losses", self.losses) if self.losses else ())]


def variants(arguments: argparse.Namespace, config: TrainConfig) -> list[Variant]:
    """The baseline, soft targets alone, and soft targets with each hidden-state loss.

    The losses are those of --losses, else all that are possible between these two models.
    """
    soft = (*teacher_flags(arguments, config), *hidden_loss_flags(config))
    student, teacher = shapes(arguments)
    HiddenLosses(
        {"hidden": 1.0}, parse_layer_map(config.layer_map), student, teacher
    )  # an error of --layer-map is not left out
    found = [baseline(arguments, config), Variant(SOFT, teacher_flags(arguments, config))]
    for name, weight in parse_losses(config.losses).items():
        try:
            HiddenLosses({name: weight}, parse_layer_map(config.layer_map), student, teacher)
        except UserError as error:
            if hasattr(arguments, "losses"):
                raise
            say(f"note: left out: {error}")
            continue
        found.append(Variant(name, soft, f"{name}={weight:.12g}"))
    return found


def baseline(arguments: argparse.Namespace, config: TrainConfig) -> Variant:
    """The same student without a teacher. Where the teacher brings more text, the baseline makes as many optimizer
    steps without it: its epochs are shorter, and more."""
    flags = ("--labelled", config.labelled) if config.labelled else ()
    if not (arguments.unlabelled or config.labelled or config.augment):
        return Variant(BASELINE, ())
    if config.patience:
        raise UserError(
            f"--patience {config.patience}: the baseline's epochs are shorter, it would be stopped after fewer steps; "
            "leave it out"
        )
    task, data, source = TASKS[arguments.task], DataConfig(**given(arguments, DataConfig)), data_hashes(arguments)
    examples, _, labels, tokenizer, _ = read_all(arguments, task, config, data)
    if config.steps:  # then all have these
        return Variant(BASELINE, flags)
    inputs = training_inputs(arguments, task, config, data, examples, labels, tokenizer, source)
    return Variant(BASELINE, (*flags, "--steps", str(config.epochs * math.ceil(len(inputs) / config.batch_size))))


def teacher_flags(arguments: argparse.Namespace, config: TrainConfig) -> tuple[str, ...]:
    """The teacher, and the text of which only it can speak."""
    flags = ["--teacher", *arguments.teacher]
    flags += ["--unlabelled", str(arguments.unlabelled)] if arguments.unlabelled else []
    flags += ["--labelled", config.labelled] if config.labelled else []
    flags += ["--augment", str(config.augment)] if config.augment else []
    return tuple(flags)


def hidden_loss_flags(config: TrainConfig) -> tuple[str, ...]:
    """What goes with --losses, where it was given."""
    flags = ("--layer-map", config.layer_map) if config.layer_map else ()
    return (*flags, "--keep-states") if config.keep_states else flags


def shapes(arguments: argparse.Namespace) -> tuple[ModelConfig, Model]:
    """The student's shape, and the (first) teacher without its weights."""
    student = SIZES.get(arguments.model) or load_config(arguments.model)
    depth = len(arguments.init_layers or ()) or student.depth
    with torch.device("meta"):
        return replace(student, depth=depth), Model(load_config(arguments.teacher[0]))


def combination(tried: Sequence[Variant], dev: dict[str, float]) -> Variant | None:
    """All hidden-state losses that alone raised the mean dev score above that of soft targets; None for less than 2."""
    good = [variant for variant in tried if variant.losses and dev[variant.name] > dev[SOFT]]
    if len(good) < 2:
        return None
    return Variant(COMBINED, good[0].flags, ",".join(variant.losses for variant in good))


def grid_variants(arguments: argparse.Namespace, config: TrainConfig) -> dict[tuple[float, float], Variant]:
    """Soft targets alone at each temperature and alpha of --grid; the point of the study itself is among its runs."""
    temperatures, alphas = arguments.grid or ((), ())
    points = {}
    for temperature, alpha in itertools.product(temperatures, alphas):
        TASKS[arguments.task].train_config(temperature=temperature, alpha=alpha)  # UserError where it is not possible
        if alpha == 0 and (arguments.unlabelled or config.labelled or config.augment):
            raise UserError("--grid: with an alpha of 0 nobody says what texts without labels mean; leave it out")
        name, flags = SOFT, teacher_flags(arguments, config)
        if (temperature, alpha) != (config.temperature, config.alpha):
            name = f"T={temperature:.12g} alpha={alpha:.12g}"
            flags += ("--temperature", str(temperature), "--alpha", str(alpha))
        points[temperature, alpha] = Variant(name, flags)
    return points
