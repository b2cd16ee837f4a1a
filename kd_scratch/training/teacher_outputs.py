"""What the teachers give a run before its first step: soft targets for every training input."""

import numpy as np

from kd_scratch.common.console import say
from kd_scratch.common.device import amp_dtype
from kd_scratch.common.timing import Clock
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.distillation.teacher import by_row, mean_logits, mean_probabilities, teacher_logits
from kd_scratch.nn.model import Model
from kd_scratch.tasks.token_classification import teaches_iob1
from kd_scratch.training.answers import add_answers
from kd_scratch.training.cross_fitting import unseen_by
from kd_scratch.training.examples import encode_training_data
from kd_scratch.training.setup import Run


def add_teacher_outputs(run: Run) -> None:
    """Give the run its soft targets: averaged logits of the teachers, from the cache or made now, or answers from
    files. Hidden-state losses and masked words get run.live_teacher, which runs in every step; its logits count
    for masked words alone.

    Afterwards run.teachers is empty: their memory is needed.
    """
    clock, config = Clock(run.device), run.spec.config
    has_soft_targets = config.alpha > 0
    if has_soft_targets and run.answers:
        add_answers(run)
    elif has_soft_targets and run.task.head != "mlm":  # there each epoch masks other words, and each has V logits
        run.teacher_logits = averaged_logits(run)
    if run.task.head == "token" and run.teacher_logits is not None and config.alpha < 1:
        note_iob1(run)
    needs_logits = has_soft_targets and run.teacher_logits is None
    if needs_logits or run.hidden_losses is not None:
        run.live_teacher = run.teachers[0].to(run.device)
    run.teachers.clear()  # their memory is needed
    clock.lap("teacher")
    run.seconds.update(clock.totals())


def averaged_logits(run: Run) -> np.ndarray:
    """The teachers' mean logits (or probabilities, --teacher-mean) for every training input. Where they are
    cross-fitted, the mean of those that have not seen it."""
    config, cache = run.spec.config, run.spec.cache
    counted = unseen_by(run.spec, run.data, run.train_inputs)
    if counted is not None:
        alike = int(counted.all(axis=0).sum())
        say(f"cross-fitted teachers: each speaks of what it has not seen; {alike:,} inputs were seen by none or by all")
        counted = by_row(counted, run.train_inputs)
    teachers = zip(run.spec.teachers, run.teachers, strict=True)
    each = [logits_of_teacher(run, path, teacher) for path, teacher in teachers]
    if config.teacher_mean == "logits":
        return mean_logits(each, cache, counted)
    return mean_probabilities(each, run.train_inputs, config.temperature, cache, counted)


def logits_of_teacher(run: Run, path: str, teacher: Model) -> np.ndarray:
    """One teacher's logits for every training input; a classifier of texts reads with its own tokenizer."""
    tokenizer, inputs = load_tokenizer(path), run.train_inputs
    if run.task.head != "sequence" or not tokenizer.difference(run.data.tokenizer):
        tokenizer = run.data.tokenizer
    else:
        say(f"note: --teacher {path}: reads the texts with a tokenizer of its own")
        inputs = encode_training_data(run.spec, run.data, say, tokenizer)
    return teacher_logits(
        teacher,
        labels=run.model.config.labels,
        tokenizer_hash=tokenizer.fingerprint,
        features=inputs,
        cache=run.spec.cache,
        device=run.device,
        dtype=amp_dtype(run.spec.config.amp, run.device),
    )


def note_iob1(run: Run) -> None:
    """Print a note where the teacher's soft targets and the labels begin entities in different schemes."""
    if teaches_iob1(run.teacher_logits, run.train_inputs.labels, run.model.config.labels):
        say(
            "note: the teacher begins most entities with I- where the labels have B-: it learned tags in IOB1; "
            "with --alpha 1 the student learns from its soft targets alone"
        )
