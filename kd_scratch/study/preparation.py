"""Before a study begins: what follows from what was asked for, and what must not be."""

import os
from dataclasses import replace

import torch

from kd_scratch.common.console import say
from kd_scratch.common.device import start
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256_of_file
from kd_scratch.config import SIZES
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.pages.records import origin_record
from kd_scratch.study.spec import StudySpec, parse_flags, read_plan
from kd_scratch.study.variants import possible_losses, soft_run
from kd_scratch.tasks import TASKS
from kd_scratch.training.examples import read_labelled
from kd_scratch.training.layer_choice import read_choice
from kd_scratch.training.setup import labels_like_the_teacher, require_same_pieces, set_up, with_first_layers


def checked(spec: StudySpec) -> tuple[StudySpec, dict]:
    """The study without losses that are not possible, and the hashes of its data files with how dev was drawn.

    UserError where its runs could not begin, or be compared.
    """
    check_labels(spec)
    check_seeds(spec)
    spec = with_possible_losses(spec)
    possible_losses(replace(spec, run=with_first_layers(spec.run)), say=lambda note: None)
    run = set_up(replace(soft_run(spec), output=spec.run.output / "runs" / "none"))  # nothing is written
    start_machine(spec)  # with the threads of the tests again
    return spec, run.data.hashes


def check_labels(spec: StudySpec) -> None:
    """UserError where distilled students would get their teacher's labels, and so another head than the baseline."""
    run, task = spec.run, TASKS[spec.run.task]
    labels = read_labelled(run, task, say=lambda note: None)[1]
    if labels_like_the_teacher(run, task, labels, say=lambda note: None) != labels:
        raise UserError(
            f"--teacher {run.teachers[0]}: has labels that the data have not, or writes its tags in another way; a "
            "student takes them over and a baseline cannot; fine-tune it on these data first (train --model)"
        )


def check_seeds(spec: StudySpec) -> None:
    """UserError where a teacher learned from the labels that one seed draws (--labelled), and there are others: their
    students would have other labels than their teacher."""
    for path in spec.run.teachers if spec.run.config.labelled else ():
        record = origin_record(path) or {}
        seed, is_of_these = record.get("seed"), record.get("train") == sha256_of_file(spec.run.train)
        if is_of_these and record["settings"].get("labelled") and set(spec.seeds) != {seed}:
            raise UserError(
                f"--teacher {path}: knows the labels that --seed {seed} draws (--labelled), other seeds draw others; "
                f"give --seeds {seed}, or leave --labelled out and give a file of the labelled texts to --train and "
                "the others to --unlabelled"
            )


def complete(spec: StudySpec) -> StudySpec:
    """The study with what follows from the rest: threads and precision, those of the runs that are there already; the
    tokenizer of a size; and looks at dev at the same steps for all variants, where a baseline with shorter epochs would
    have more of them."""
    run, plan = spec.run, read_plan(spec.run.output) or {"flags": []}
    begun = {flag: " ".join(values) for flag, values in parse_flags(plan["flags"]).items()}
    choice = read_choice(run.output) or {"identity": {}}  # of layers, by short runs before the others
    threads = usual = run.run.threads or max(1, (os.cpu_count() or 1) // spec.jobs)
    before = begun.get("--threads") or str(choice["identity"].get("threads"))
    if not run.run.threads and before.isdecimal():
        threads = int(before)
    if threads != usual:
        say(f"note: --threads is {threads}, as of the runs that are there; for new ones it would be {usual} here")
    if run.config.amp == "auto" and begun.get("--amp") in ("off", "bf16", "fp16"):
        run = replace(run, config=replace(run.config, amp=begun["--amp"]))
    if run.model in SIZES and not run.tokenizer:
        run = replace(run, tokenizer=run.teachers[0])  # also for the baseline
    if spec.has_unlabelled_text and not run.config.looks:
        run = replace(run, config=replace(run.config, looks=run.config.epochs))
    return replace(spec, run=replace(run, run=replace(run.run, threads=threads)))


def with_possible_losses(spec: StudySpec) -> StudySpec:
    """The study without hidden-state losses where a teacher cuts texts otherwise than the students: there is a note.

    UserError where --losses asks for them, and for tags and spans, whose soft targets need the same pieces too.
    """
    run, task = spec.run, TASKS[spec.run.task]
    tokenizer = load_tokenizer(run.model if run.model not in SIZES else run.tokenizer)
    try:
        for path in run.teachers:
            require_same_pieces(path, load_tokenizer(path), tokenizer, task)
    except UserError as error:
        if task.head != "sequence" or (run.config.losses and not spec.skip_impossible):
            raise
        if run.config.losses:
            say(f"note: without hidden-state losses: {error}")
        return replace(spec, run=soft_run(spec))
    return spec


def start_machine(spec: StudySpec) -> torch.device:
    """The device of the tests, which have the threads of all runs."""
    run = spec.run.run
    threads = max(run.threads, min(run.threads * spec.jobs, os.cpu_count() or 1))
    return start(**vars(replace(run, threads=threads)))
