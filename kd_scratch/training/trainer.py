"""What all steps of a run share: the student, its optimizer, and how far it has come."""

import torch

from kd_scratch.common import distributed
from kd_scratch.common.console import say
from kd_scratch.common.device import amp_dtype
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256
from kd_scratch.common.timing import Clock
from kd_scratch.data.batches import EncodedInputs
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.distillation.student import Student
from kd_scratch.distillation.teacher import by_row, mean_logits, mean_probabilities, teacher_logits
from kd_scratch.tasks.token_classification import teaches_iob1
from kd_scratch.training.answers import add_answers
from kd_scratch.training.cross_fitting import unseen_by
from kd_scratch.training.examples import encode_training_data
from kd_scratch.training.optimizer import Stepper, make_optimizer
from kd_scratch.training.resume import Progress, load_state, restore_best
from kd_scratch.training.setup import Run
from kd_scratch.training.vocabulary import UsedWords


class Trainer:
    """A run that is being trained. With run.resume it is put into the state that was saved last."""

    def __init__(self, run: Run, force: bool = False):
        spec, model = run.spec, run.model.to(run.device)
        model.encoder.recompute = spec.config.gradient_checkpointing
        for part in (model.embeddings, model.positions):
            part.requires_grad_(not spec.config.freeze_embeddings)
        self.run = run
        self.dtype = amp_dtype(spec.config.amp, run.device)
        self.words = UsedWords(model, run.train_inputs.tokens)
        self.words.narrow()  # before the optimizer and the other ranks ask which parameters there are
        self.student = Student(model, run.hidden_losses, run.live_teacher).to(run.device)
        self.network = distributed.data_parallel(self.student)
        self.identity = run.identity | {"words": sha256(self.words.used.cpu().numpy().tobytes())}
        optimizer = make_optimizer(self.student, spec.config)
        scaler = torch.amp.GradScaler(run.device.type, enabled=self.dtype == torch.float16)
        self.progress = Progress()
        if run.resume:
            self.progress = load_state(spec.output, self.student, optimizer, scaler, self.identity, force)
        if self.progress.best_epoch and distributed.rank() == 0:
            restore_best(spec.output, self.progress, run.model.config)
        run.seconds.update(self.progress.spent)
        self.stepper = Stepper(optimizer, scaler, spec.config, total_steps(run, self.progress))
        if force and self.stepper.steps <= self.progress.step:
            raise UserError(
                f"{spec.output}: its run has made {self.progress.step} steps already; give more --epochs or --steps"
            )


def total_steps(run: Run, progress: Progress) -> int:
    """Optimizer steps of the whole run, those that are done among them."""
    config = run.spec.config
    whole = run.plan.steps_before(config.epochs)
    left = whole - run.plan.steps_before(progress.epoch) - progress.batch
    if config.looks:
        left = whole - progress.step
    return config.steps or progress.step + left


def note_iob1(run: Run) -> None:
    """Print a note where the teacher's soft targets and the labels begin entities in different schemes."""
    if teaches_iob1(run.teacher_logits, run.train_inputs.labels, run.model.config.labels):
        say(
            "note: the teacher begins most entities with I- where the labels have B-: it learned tags in IOB1; "
            "with --alpha 1 the student learns from its soft targets alone"
        )


def inputs_for(run: Run, path: str) -> tuple[str, EncodedInputs]:
    """The fingerprint of the tokenizer with which a teacher reads, and the training texts so read: with its own, where
    that is another than the student's and it classifies texts."""
    tokenizer = load_tokenizer(path)
    if run.task.head != "sequence" or not tokenizer.difference(run.data.tokenizer):
        return run.data.tokenizer.fingerprint, run.train_inputs
    say(f"note: --teacher {path}: reads the texts with a tokenizer of its own")
    return tokenizer.fingerprint, encode_training_data(run.spec, run.data, say, tokenizer)


def add_teacher_outputs(run: Run) -> None:
    """Give the run its soft targets: averaged logits of the teachers, computed or found in the cache, or answers from
    files. Hidden-state losses, and masked words, have run.live_teacher in every step.

    Afterwards run.teachers is empty: their memory is needed.
    """
    clock, config = Clock(run.device), run.spec.config
    has_soft_targets = config.alpha > 0
    dtype = amp_dtype(config.amp, run.device)
    where = run.spec.cache, run.device, dtype
    if has_soft_targets and run.answers:
        add_answers(run)
    elif has_soft_targets and run.task.head != "mlm":  # whose logits would fill disks: one for each word
        counted = unseen_by(run.spec, run.data, run.train_inputs)
        if counted is not None:
            unseen = int(counted.all(axis=0).sum())
            say(f"cross-fitted teachers: each speaks of what it has not seen; {unseen:,} inputs were seen by none")
            counted = by_row(counted, run.train_inputs)
        teachers, labels = zip(run.spec.teachers, run.teachers, strict=True), run.model.config.labels
        each = [teacher_logits(teacher, labels, *inputs_for(run, path), *where) for path, teacher in teachers]
        if config.teacher_mean == "logits":
            run.teacher_logits = mean_logits(each, run.spec.cache, counted)
        else:
            temperature = config.temperature
            run.teacher_logits = mean_probabilities(each, run.train_inputs, temperature, run.spec.cache, counted)
    if run.task.head == "token" and run.teacher_logits is not None and config.alpha < 1:
        note_iob1(run)
    needs_logits = has_soft_targets and run.teacher_logits is None
    if needs_logits or run.hidden_losses is not None:
        run.live_teacher = run.teachers[0].to(run.device)
    run.teachers.clear()  # their memory is needed
    clock.lap("teacher")
    run.seconds.update(clock.totals())
