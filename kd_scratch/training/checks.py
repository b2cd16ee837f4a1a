"""Which settings of a run go together, and with the device."""

import re
from pathlib import Path

import torch

from kd_scratch.common.device import amp_dtype
from kd_scratch.common.errors import UserError
from kd_scratch.distillation.hidden_losses import parse_losses
from kd_scratch.distillation.layer_map import parse_layer_map
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.folds import parse_fold
from kd_scratch.training.spec import RunSpec

ONLY_TAUGHT = "only a teacher can teach from such text; give --teacher, and an --alpha above 0 or --losses"


def check_spec(spec: RunSpec, device: torch.device) -> None:
    """UserError where settings do not go together, or with the device."""
    config = spec.config
    teaches = spec.is_taught and (config.alpha > 0 or bool(config.losses))
    amp_dtype(config.amp, device)  # refuses what the device cannot
    parse_losses(config.losses)
    parse_layer_map(config.layer_map)
    parse_fold(spec.fold)
    if config.gradient_checkpointing and (config.dropout or config.attention_dropout > 0) and device.type == "mps":
        flags = "--dropout 0 --attention-dropout 0"
        raise UserError(f"--gradient-checkpointing on mps needs {flags}: computed again, it drops other numbers")
    empty = {"--teacher": "" in spec.teachers, "--answers": "" in spec.answers, "--tokenizer": spec.tokenizer == ""}
    empty["--augment-model"] = spec.augment_model == ""
    for flag, is_empty in empty.items():
        if is_empty:  # a variable of the shell that was never set
            raise UserError(f"{flag} is empty; give a name, or leave it out")
    if config.layer_steps and not spec.chooses_layers:
        raise UserError("--layer-steps is about --init-layers auto; leave it out")
    if re.fullmatch(r"[\d.]+", spec.dev) and not Path(spec.dev).exists():
        raise UserError(f"--dev {spec.dev}: no such file; give one, or a share of --train, as in --dev 10%")
    if spec.task == "mlm":
        check_mlm(spec)
    if spec.answers:
        check_answers(spec)
    task = TASKS[spec.task]
    if spec.unlabelled and not (task.unlabelled or task.read_unlabelled):
        raise UserError(f"--unlabelled: plain text is no input for {spec.task}; leave it out")
    if config.cloze and task.add_questions is None:
        raise UserError(f"--cloze: {spec.task} has no questions; leave it out")
    only_taught = {"unlabelled": spec.unlabelled, "cloze": config.cloze, "augment": config.augment}
    for flag, value in only_taught.items():
        if value and not teaches:
            raise UserError(f"--{flag}: {ONLY_TAUGHT}")
    if spec.augment_model and not config.augment:
        raise UserError("--augment-model is about --augment; give --augment 1 (say), or leave it out")
    if config.losses and not spec.teachers:
        raise UserError("--losses compares student and teacher; give --teacher")
    if config.labelled and spec.is_taught and not teaches:
        raise UserError("--labelled: with an --alpha of 0 nothing is learned from the other texts; leave --teacher out")


def check_answers(spec: RunSpec) -> None:
    """UserError for what a teacher is needed for that can be asked."""
    if spec.teachers:
        raise UserError("--answers takes the place of --teacher; leave one of them out")
    if len(set(spec.answers)) < len(spec.answers):
        raise UserError("--answers: a file is given twice; leave one out")
    asking = {name: getattr(spec.config, name) for name in ("losses", "augment", "cloze")} | {"fold": spec.fold}
    for flag in (flag for flag, value in asking.items() if value):
        raise UserError(f"--{flag} needs a teacher that can be asked, no file of --answers; leave one of the two out")


def check_mlm(spec: RunSpec) -> None:
    """UserError for settings that make no sense with masked words."""
    if len(spec.teachers) > 1:
        raise UserError("--teacher: with masked words there can be one only, since it runs in every step; give one")
    if spec.answers:
        raise UserError("--answers: other words are masked in every epoch, which no file can answer; leave it out")
    if spec.unlabelled:
        raise UserError("--unlabelled: the lines of --train are such text already; leave it out")
    if spec.config.labelled:
        raise UserError("--labelled: masked words need no labels; leave it out")
