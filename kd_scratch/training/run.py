"""A training run from start to end: announced, trained, and written down. `set_up` comes before it."""

import json
import os
from contextlib import nullcontext
from pathlib import Path

import torch

from kd_scratch.checkpoints.checkpoint import WEIGHTS, load_config
from kd_scratch.common import distributed
from kd_scratch.common.console import say, shorten
from kd_scratch.common.device import amp_dtype, describe, device_and_threads
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import locked, make_folder, sha256_of_file, write_json, write_text
from kd_scratch.common.timing import matmul_rate
from kd_scratch.config import SIZES
from kd_scratch.data.batches import IGNORE
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.evaluation.advice import RANDOM
from kd_scratch.pages.card import write_card
from kd_scratch.pages.records import RECORD, known_record
from kd_scratch.pages.report import PAGE, runs_page
from kd_scratch.training.epochs import as_range
from kd_scratch.training.examples import encode_training_data
from kd_scratch.training.layer_choice import choose_layers
from kd_scratch.training.loop import train_model
from kd_scratch.training.resume import Progress, drop_state, has_state
from kd_scratch.training.setup import Run, check_output
from kd_scratch.training.teacher_outputs import add_teacher_outputs


def train(run: Run, force: bool = False) -> dict | None:
    """The record of a run that was set up, once it is trained; None in all ranks but the first.

    The trained model, the record (training.json) and a page about it (report.html) are in the output folder then.
    force: resume although settings, data or versions are not those that the run began with.
    """
    teacher_records = read_teacher_records(run)
    run.train_inputs = encode_training_data(run.spec, run.data, run.data.notes.append)
    announce(run)
    make_folder(run.spec.output)
    is_first = distributed.rank() == 0
    with locked(run.spec.output) if is_first else nullcontext():
        if is_first:
            check_output(run.spec, run.resume)  # another process may have been here since
        run.resume = distributed.broadcast_object(has_state(run.spec.output))
        if run.spec.chooses_layers:
            run = choose_layers(run)
        if run.spec.is_taught:
            add_teacher_outputs(run)
        run.data.copies = ()  # the model that proposed their words may go
        dtype = amp_dtype(run.spec.config.amp, run.device)
        rates = torch.tensor([matmul_rate(run.device, dtype)], device=run.device)
        run.matmul_rate = distributed.all_reduce_sum(rates)[0]
        progress = train_model(run, force)
        if is_first:
            return write_record(run, progress, teacher_records)
    return None


def announce(run: Run) -> None:
    """Print what is about to happen and how big it is, and the notes."""
    spec, config, inputs = run.spec, run.spec.config, run.train_inputs
    teachers = run.teachers if config.alpha or config.losses else []  # else they are not needed
    named = zip(spec.teachers, teachers, strict=False)
    sources = [f"{path} ({teacher.num_parameters() / 1e6:.1f}M)" for path, teacher in named]
    sources += [f"{file.path} ({len(file.ids):,} answers)" for file in run.answers if config.alpha]
    doing = f"distilling {' and '.join(sources)} into" if sources else "fine-tuning"
    size = f"{run.model.config.depth} layers, {run.model.num_parameters() / 1e6:.1f}M"
    steps, total = as_range(run.plan.steps), config.steps or run.plan.steps_before(config.epochs)
    length = f"{config.epochs} epochs of {steps} steps"
    if config.steps:
        length = f"{config.steps} steps, {steps} in an epoch"
    precision = "" if config.amp == "off" else f", {config.amp}"
    of_epoch = f"of which an epoch has {as_range(run.plan.inputs)}, " if config.augment else ""
    say(
        f"{doing} {spec.model} ({size}) on {device_and_threads(run.device)}{precision}: "
        f"{len(inputs):,} inputs ({len(inputs.tokens):,} tokens), {of_epoch}{len(run.dev_inputs):,} dev, {length}"
    )
    for note in [*run.data.notes, *more_notes(run, bool(sources), total)]:
        say(f"note: {shorten(note, 2000)}")


def more_notes(run: Run, has_teacher: bool, total_steps: int) -> list[str]:
    """What a user should know about the settings before work starts."""
    spec, config, notes = run.spec, run.spec.config, []
    if run.task.head == "span" and (lost := int((run.train_inputs.labels[:, 0] == IGNORE).sum())):
        notes.append(f"windows left out of training: {lost:,}, no window of their context holds the whole answer")
    usual = run.task.train_config()
    idle = [f"--{name}" for name in ("temperature", "alpha") if getattr(config, name) != getattr(usual, name)]
    if idle and not spec.is_taught:
        notes.append(f"{' and '.join(idle)}: there is no --teacher, so nothing is distilled")
    if config.teacher_mean != usual.teacher_mean and len(spec.teachers or spec.answers) < 2:
        notes.append(f"--teacher-mean {config.teacher_mean}: there are not several teachers, so there is no mean")
    if spec.is_taught and not has_teacher:
        notes.append("--alpha 0: the teacher is not used; only the labels teach")
    if 2 * config.warmup_steps > total_steps:
        notes.append(f"most of the {total_steps} steps are warm-up; consider fewer --warmup-steps")
    return notes


def read_teacher_records(run: Run) -> dict[str, dict]:
    """The records of the teachers' own training for the same task, for the page about this run."""
    records = {f"teacher {i}": known_record(path) for i, path in enumerate(run.spec.teachers, 1)}
    return {name: record for name, record in records.items() if record and record["task"] == run.spec.task}


def write_record(run: Run, progress: Progress, teacher_records: dict[str, dict]) -> dict:
    """The record of a finished run, once it is in training.json and on a page beside its teachers'.

    What only a resume needs is removed. Raises UserError where the weights are no longer those that were kept.
    """
    output: Path = run.spec.output
    if sha256_of_file(output / WEIGHTS) != progress.best_sha256:
        raise UserError(
            f"{output / WEIGHTS}: is not what was kept in training, something has changed it since; "
            "delete the folder and start again"
        )
    load_config(output)  # the other files are still there too
    load_tokenizer(output)
    record = {
        **run.identity,
        **about_sources(run),
        "machine": describe(run.device),
        "parameters": run.model.num_parameters(),
        **vars(progress),
        "seconds": sum(run.seconds.values()),
        "seconds by phase": dict(run.seconds),
        "matmul rate": run.matmul_rate,
    }
    if run.layer_choice:
        record["layer choice"] = run.layer_choice
    record = json.loads(json.dumps(record))
    page = runs_page(f"{output.name}: a training run", {"this run": record} | teacher_records)
    write_text(output / PAGE, page)
    models = [*run.spec.teachers, *[run.spec.model] * (run.spec.model not in SIZES)]
    write_card(output, models, record)
    write_json(output / RECORD, record)  # last: it tells that the run has come to its end
    drop_state(output)
    return record


def about_sources(run: Run) -> dict[str, dict]:
    """What a run was made of, for its card: names without the paths to them, and how many examples."""
    spec, data = run.spec, run.data
    sources = {
        "train": base_name(spec.train),
        "dev": f"{spec.dev} of train" if spec.holds_out_dev else base_name(spec.dev),
        "unlabelled": base_name(spec.unlabelled) if spec.unlabelled else None,
        "model": f"{RANDOM} ({spec.model})" if spec.model in SIZES else base_name(spec.model),
        "layers": ", ".join(map(str, spec.init_layers)),
        "teachers": [base_name(path) for path in (*spec.teachers, *spec.answers)],
    }
    examples = {"train": len(data.own), "dev": len(data.dev_examples)}
    examples["unlabelled"] = len(data.examples) - len(data.own)  # questions that --cloze made among them
    return {"sources": sources, "examples": examples}


def base_name(path: str | Path) -> str:
    """The last component of a path: what comes before it is nobody else's business."""
    return os.path.basename(os.path.abspath(path))
