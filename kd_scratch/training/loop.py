"""Training: one loop for fine-tuning and for distillation.

Teacher, baseline student and distilled student go through the same loop; a teacher adds its logits and hidden states to
what `batch_loss` compares. From the same --model, --seed and tokenizer both students get the same initial weights;
equal steps are up to --steps (`evidence` sees to both). What goes on around the steps (the bar, signals, saving) is in
bookkeeping.py.

One step, file by file: see README.md beside this file.
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kd_scratch.checkpoints.checkpoint import save_folder
from kd_scratch.common import distributed
from kd_scratch.common.device import autocast, seed_step, tensor_cores
from kd_scratch.common.timing import Clock
from kd_scratch.data.batches import Batch, collate
from kd_scratch.data.masking import MaskedLMSampler
from kd_scratch.distillation.losses import distillation_loss, partly_taught_loss
from kd_scratch.distillation.teacher import gather
from kd_scratch.distillation.units import count_units, unit_labels, unit_logits
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.evaluation.significance import score_interval
from kd_scratch.nn.model import forward_operations
from kd_scratch.tasks import Predictions
from kd_scratch.training.bookkeeping import Bookkeeping
from kd_scratch.training.resume import PREVIOUS_WEIGHTS, Progress
from kd_scratch.training.setup import Run
from kd_scratch.training.trainer import Trainer

CURVE_POINTS = 50  # of an epoch's loss curve at most, each the mean of as many successive steps


def train_model(run: Run, force: bool = False) -> Progress:
    """Train run.model, and keep the best weights on dev in the output folder; returns what happened.

    The state of the run is saved before its first step, after every epoch, from time to time, and when a signal asks it
    to stop (Stopped). With run.resume it goes on from there; force: even though settings, data or versions are others.
    """
    trainer = Trainer(run, force)
    progress = trainer.progress
    with tensor_cores(run.device, trainer.dtype), Bookkeeping(trainer) as books:
        while progress.step < trainer.stepper.steps and not out_of_patience(progress, run.spec.config.patience):
            books.begin_epoch()
            indices = train_epoch(trainer, books)
            with trainer.words.whole_table():
                finish_epoch(trainer, run.train_inputs.lengths[indices])
            books.end_epoch()
    trainer.words.restore_table()
    return progress


def train_epoch(trainer: Trainer, books: Bookkeeping) -> np.ndarray:
    """Train once on every input of an epoch; returns their numbers.

    An interrupted epoch goes on where it was; --steps may end one early. With --looks, what is called an epoch here
    goes from one look at dev to the next.
    """
    run, progress = trainer.run, trainer.progress
    batches = batches_to_next_look(trainer)
    trainer.network.train()
    for indices in batches[progress.batch :]:
        seed_step(run.spec.run.seed, progress.step, distributed.rank())
        loss = add_gradients(trainer, indices, books.clock)
        loss = trainer.stepper.step(progress.step, loss)  # NaN where it could not be taken
        progress.step += 1
        progress.batch += 1
        books.after_step(indices, loss, is_last=progress.batch == len(batches))
    return np.concatenate(batches)


def batches_to_next_look(trainer: Trainer) -> list[np.ndarray]:
    """The batches between two looks at dev, each the numbers of its inputs: those of an epoch, or with --looks so many
    that all looks have as many, or one more, from the end of one epoch into the next."""
    progress, total, plan = trainer.progress, trainer.stepper.steps, trainer.run.plan
    looks = trainer.run.spec.config.looks
    if not looks:
        return plan.batches(progress.epoch)[: progress.batch + total - progress.step]
    first = progress.step - progress.batch
    looks_left = max(1, looks - progress.epoch)  # more --steps by force may leave steps behind the last
    end = first + max(1, (total - first) // looks_left)
    batches = []
    for epoch in range(plan.epoch_of(first), plan.epoch_of(end - 1) + 1):
        start = plan.steps_before(epoch)
        batches += plan.batches(epoch)[max(0, first - start) : end - start]
    return batches


def add_gradients(trainer: Trainer, indices: np.ndarray, clock: Clock) -> Tensor:
    """Add the gradients of a batch's loss to those of the parameters; returns this rank's share of the loss.

    A batch may be cut into parts (--accumulation) and over ranks. Each part's loss is divided by what the *whole* batch
    has, so cutting it changes nothing.
    """
    run = trainer.run
    per_unit = 1 / max(1, count_units(run.train_inputs, indices))  # a batch may have none
    per_input = 1 / len(indices)
    rank_indices = distributed.rank_slice(indices)
    if len(rank_indices) == 0:  # fewer inputs than ranks: this one computes something that does not count
        per_unit, per_input, rank_indices = 0.0, 0.0, indices[:1]
    is_mlm, step = run.task.head == "mlm", trainer.progress.step
    sampler = MaskedLMSampler(run.spec.run.seed, run.plan.epoch_of(step)) if is_mlm else None
    parts = np.array_split(rank_indices, min(run.spec.config.accumulation, len(rank_indices)))
    total = torch.zeros((), device=run.device)
    for i, part in enumerate(parts, 1):
        batch = collate(run.train_inputs, part, run.device, run.model.config.pad_id, sampler)
        cached_logits = None
        if run.teacher_logits is not None:
            cached_logits = gather(run.teacher_logits, run.train_inputs, batch)
        clock.lap("data")
        with distributed.sync_gradients(trainer.network, i == len(parts)):
            loss = batch_loss(trainer, batch, cached_logits, per_unit, per_input)
            clock.lap("forward")
            # times the number of ranks: what comes out is the mean over them
            trainer.stepper.scaler.scale(loss * distributed.world_size()).backward()
            clock.lap("backward")
        total += loss.detach()
    return total


def batch_loss(
    trainer: Trainer, batch: Batch, cached_logits: Tensor | None, per_unit: float, per_input: float
) -> Tensor:
    """The loss of one part of a batch, a scalar: labels and soft targets by unit, hidden-state losses by input."""
    run, config, head = trainer.run, trainer.run.spec.config, trainer.run.task.head
    with autocast(run.device, trainer.dtype):
        student_logits, teacher_logits, hidden_loss = trainer.network(batch.inputs)
    if cached_logits is not None:  # they count, also where a teacher runs for its hidden states
        teacher_logits = cached_logits
    student_units = unit_logits(head, student_logits, batch)
    teacher_units = None if teacher_logits is None else unit_logits(head, teacher_logits, batch)
    labels = unit_labels(head, batch)
    loss_of_units = partly_taught_loss if run.partly_taught else distillation_loss
    loss = loss_of_units(student_units, teacher_units, labels, config.temperature, config.alpha) * per_unit
    if hidden_loss is not None:
        loss = loss + hidden_loss * per_input
    return loss


def predict_dev(trainer: Trainer) -> Predictions:
    """Predict on the dev set. If the model needs a threshold, it gets the one that is best there."""
    run, model = trainer.run, trainer.run.model
    dtype = None if run.task.choose_threshold else trainer.dtype  # it is used in float32, so it is chosen there
    logits = compute_logits(model, run.dev_inputs, run.device, dtype=dtype, title="scoring dev")
    found = Predictions(run.task, run.data.dev_examples, run.dev_inputs, logits, model.config.labels, run.spec.data)
    if run.task.choose_threshold:
        found.threshold = run.spec.data.label_threshold or run.task.choose_threshold(found)
        model.config = replace(model.config, threshold=found.threshold)
    return found


def score_dev(trainer: Trainer) -> dict:
    """The model's scores on the dev set, by name."""
    return trainer.run.task.score(predict_dev(trainer))


def finish_epoch(trainer: Trainer, lengths: np.ndarray) -> None:
    """Score the model on the dev set, keep it where it is the best so far, and write the epoch into the progress.

    lengths: of the inputs that the epoch has seen, which may be cut short by --steps.
    """
    run, progress, predictions = trainer.run, trainer.progress, predict_dev(trainer)
    scores = run.task.score(predictions)
    whole = run.hidden_losses is not None  # they look at all positions of the last block
    operations = 3 * forward_operations(run.model.config, lengths, plain=whole)  # the backward pass takes twice as many
    losses = np.array_split(progress.losses, min(len(progress.losses), CURVE_POINTS))
    progress.epoch += 1
    progress.history.append(
        {
            "epoch": progress.epoch,
            "steps": progress.batch,
            "loss": float(np.mean(progress.losses)),
            "losses": [float(part.mean()) for part in losses],
            "seconds": progress.seconds,
            "tokens_per_second": int(lengths.sum()) / progress.seconds,
            "matmul_share": operations / progress.seconds / run.matmul_rate if run.matmul_rate else None,
            "dev": {name: scores[name] for name in run.task.columns if name in scores},
        }
    )
    progress.batch = 0
    progress.losses = []
    progress.seconds = 0.0
    if not progress.best_epoch or scores[run.task.score_name] > progress.best_score:
        progress.best_score = scores[run.task.score_name]
        progress.best_epoch = progress.epoch
        if run.task.head != "mlm":  # which decides nothing
            progress.history[-1]["interval"] = score_interval(predictions)
        if run.task.choose_threshold:
            progress.history[-1]["threshold"] = run.model.config.threshold
        if distributed.rank() == 0:
            output, max_length = run.spec.output, run.spec.config.max_length
            keep = output / PREVIOUS_WEIGHTS
            progress.best_sha256 = save_folder(run.model, run.data.tokenizer, max_length, output, keep)


def out_of_patience(progress: Progress, patience: int) -> bool:
    """Whether the dev score has not risen for `patience` epochs (0: any number is fine)."""
    return 0 < patience <= progress.epoch - progress.best_epoch
