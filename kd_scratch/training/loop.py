"""Training: one loop for fine-tuning and for distillation.

The same command, budget and initial weights make the teacher and the baseline student (no --teacher) and the distilled
student (--teacher DIR): the only difference is one line of the loop, where the loss is computed.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.common import distributed
from kd_scratch.common.console import duration, progress, say
from kd_scratch.common.device import Interruption, Stopped, amp_dtype, autocast, seed_step
from kd_scratch.common.files import UserError, sha256
from kd_scratch.common.timing import Clock
from kd_scratch.config import DataConfig, TrainConfig
from kd_scratch.data.batches import EncodedInputs, MaskedLMSampler, collate, epoch_batches
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.distillation.losses import HiddenLosses, Student, count_units, cross_entropy, distillation_loss, units
from kd_scratch.distillation.teacher import gather, gather_states
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.nn.model import Model, forward_operations
from kd_scratch.tasks import Predictions, Task
from kd_scratch.training.optimizer import Stepper, make_optimizer
from kd_scratch.training.resume import PREVIOUS_WEIGHTS, Progress, load_state, restore_weights, save_state
from kd_scratch.training.vocabulary import Vocabulary

SAVE_EVERY = 600  # seconds between two savings of an unfinished epoch
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"  # fits 80 columns
POINTS = 50  # of an epoch's loss curve, each the mean of so many steps
#: Steps between two looks at the losses, for which the program waits until the device has them.
READ_EVERY = {"cpu": 1, "cuda": 50, "mps": 50}


@dataclass
class Job:
    """All that a training run is made of; launch.py puts it together."""

    task: Task
    model: Model
    tokenizer: Tokenizer
    train_set: EncodedInputs
    dev_examples: Sequence
    dev_set: EncodedInputs
    config: TrainConfig
    data: DataConfig
    seed: int
    device: torch.device
    output: Path
    identity: dict  # what a resumed run must have in common with the interrupted one
    teacher: np.ndarray | None = None  # its logits for every training input; None: plain fine-tuning
    hidden_losses: HiddenLosses | None = None  # what else is compared with the teacher
    states: dict[int, np.ndarray] | None = None  # its hidden states, where they are kept: by layer one row per token
    live_teacher: Model | None = None  # runs in every step, where its logits or hidden states are not kept
    matmul_rate: float = 0.0  # floating-point operations per second of a large product; 0: not measured
    seconds: Counter = field(default_factory=Counter)  # where the time went: phase -> seconds


# --- the loop ---


def train(job: Job, resume: bool = False, force: bool = False) -> Progress:
    """Train, score on the dev set after every epoch, keep the best weights in job.output; returns what happened.

    The state of the run is saved before its first step, after every epoch, every SAVE_EVERY seconds, and when it is
    asked to stop (Stopped). resume: go on from there. force: even though settings, data or versions are others.
    """
    model, config = job.model.to(job.device), job.config
    dtype = amp_dtype(config.amp, job.device)
    model.encoder.recompute = config.gradient_checkpointing
    for part in (model.embeddings, model.positions):
        part.requires_grad_(not config.freeze_embeddings)
    vocabulary = Vocabulary(model, job.train_set.tokens)
    vocabulary.narrow()  # before the optimizer and the other processes ask which parameters there are
    student = Student(model, job.hidden_losses, job.live_teacher).to(job.device)
    network = distributed.data_parallel(student)
    optimizer = make_optimizer(student, config)
    scaler = torch.amp.GradScaler(job.device.type, enabled=dtype == torch.float16)
    identity = job.identity | {"words": sha256(vocabulary.used.cpu().numpy().tobytes())}
    done = load_state(job.output, student, optimizer, scaler, identity, force) if resume else Progress()
    if done.best_epoch and distributed.rank() == 0:
        restore_weights(job.output, done.best_sha256)
    job.seconds.update(done.spent)
    left = (config.epochs - done.epoch) * steps_per_epoch(job) - done.batch
    stepper = Stepper(optimizer, scaler, config, config.steps or done.step + left)
    if force and stepper.steps <= done.step:
        raise UserError(f"{job.output}: its run has made {done.step} steps already; give more --epochs or --steps")
    clock = Clock(job.device)

    def save() -> None:
        if distributed.rank() == 0:
            done.spent = dict(job.seconds + Counter(clock.totals()))
            save_state(job.output, student, optimizer, scaler, done, identity)

    if not resume:
        save()  # so that whatever happens from here on, there is something to resume

    with (
        progress(total=stepper.steps, initial=done.step, desc="training", bar_format=BAR) as bar,
        Interruption() as interruption,
    ):
        while done.step < stepper.steps and not out_of_patience(done, config.patience):
            (stop,) = distributed.all_reduce_max([interruption.signal])
            if stop:  # it came in an epoch's last batch, or while dev was scored; the epoch's end has been saved
                raise Stopped(int(stop))
            clock = Clock(job.device)
            lengths = run_epoch(job, network, stepper, dtype, done, clock, bar, interruption, save)
            vocabulary.widen()
            finish_epoch(job, done, lengths, dtype)
            vocabulary.narrow()
            clock.lap("scoring dev")
            save()
            clock.lap("saving")
            job.seconds.update(clock.totals())
            say(epoch_line(job, done, stepper.steps, sum(clock.totals().values())))
    vocabulary.widen()
    return done


def run_epoch(
    job: Job,
    network: torch.nn.Module,
    stepper: Stepper,
    dtype: torch.dtype | None,
    done: Progress,
    clock: Clock,
    bar: tqdm,
    interruption: Interruption,
    save: Callable[[], None],
) -> np.ndarray:
    """Every training input once, or what is left of them or of the steps: `done` counts steps and batches, and holds
    the losses. Returns the lengths of all inputs that the epoch has seen."""
    batches = epoch_batches(job.train_set.lengths, job.config.batch_size, job.seed, done.epoch)
    batches = batches[: done.batch + stepper.steps - done.step]
    unread, saved, before, tokens = [], time.monotonic(), done.seconds, 0
    network.train()
    for indices in batches[done.batch :]:
        seed_step(job.seed, done.step, distributed.rank())
        loss = backward(job, network, indices, stepper.scaler, dtype, clock, done.epoch)
        unread.append((indices, stepper.step(done.step, loss)))
        clock.lap("optimizer")
        done.step += 1
        done.batch += 1
        bar.update()
        tokens += int(job.train_set.lengths[indices].sum())
        if len(unread) == READ_EVERY[job.device.type] or done.batch == len(batches):
            done.losses += read_losses(job, unread, done.step)
            unread.clear()
            spent = sum(clock.totals().values())
            speed = f"loss {np.mean(done.losses[-50:]):.4f}, {tokens / spent:,.0f} tokens/s"
            bar.set_postfix_str(speed, refresh=False)
            done.seconds = before + spent
            stop, late = distributed.all_reduce_max([interruption.signal, time.monotonic() - saved > SAVE_EVERY])
            if (stop or late) and done.batch < len(batches):  # the last batch is saved with the end of the epoch
                save()
                saved = time.monotonic()
                clock.lap("saving")
                if stop:
                    raise Stopped(int(stop))
    return job.train_set.lengths[np.concatenate(batches)]


def finish_epoch(job: Job, done: Progress, lengths: np.ndarray, dtype: torch.dtype | None) -> None:
    """Score the model on the dev set, keep it where it is the best so far, and write the epoch into `done`.

    lengths: of the inputs that the epoch has seen, which may be cut short by --steps.
    """
    task, model = job.task, job.model
    logits = compute_logits(model, job.dev_set, job.device, dtype=dtype, title="scoring dev")
    scores = task.score(Predictions(task, job.dev_examples, job.dev_set, logits, model.config.labels, job.data))
    operations = 3 * forward_operations(model.config, lengths)  # back takes twice as many as forward
    done.epoch += 1
    done.history.append(
        {
            "epoch": done.epoch,
            "steps": done.batch,
            "loss": float(np.mean(done.losses)),
            "losses": [float(part.mean()) for part in np.array_split(done.losses, min(len(done.losses), POINTS))],
            "seconds": done.seconds,
            "tokens_per_second": int(lengths.sum()) / done.seconds,
            "matmul_share": operations / done.seconds / job.matmul_rate if job.matmul_rate else None,
            "dev": {name: scores[name] for name in task.columns if name in scores},
        }
    )
    done.batch, done.losses, done.seconds = 0, [], 0.0
    if scores[task.score_name] > done.best_score:
        done.best_score, done.best_epoch = scores[task.score_name], done.epoch
        if distributed.rank() == 0:
            done.best_sha256 = save_model(model, job.output, keep=job.output / PREVIOUS_WEIGHTS)
            job.tokenizer.save(job.output, job.config.max_length, token_types=model.config.token_types > 0)


def steps_per_epoch(job: Job) -> int:
    """Optimizer steps in an epoch: the last batch may be smaller."""
    return -(-len(job.train_set) // job.config.batch_size)


def backward(
    job: Job,
    network: torch.nn.Module,
    indices: np.ndarray,
    scaler: torch.amp.GradScaler,
    dtype: torch.dtype | None,
    clock: Clock,
    epoch: int = 0,
) -> Tensor:
    """Add one batch's gradients to the parameters' .grad; returns this process's share of the loss, on the device.

    The batch's loss is the mean over its units (or 0), and that of the hidden-state losses over its inputs. Each of its
    parts, on however many processes, is divided by what the *whole* batch has, so cutting it changes nothing.
    """
    config, total = job.config, torch.zeros((), device=job.device)
    step_units = max(1, count_units(job.train_set, indices))  # a batch may hold none
    mine = distributed.rank_slice(indices)
    weight = 1.0 if len(mine) else 0.0
    mine = mine if len(mine) else indices[:1]  # fewer inputs than processes: this one computes something for nothing
    sampler = MaskedLMSampler(job.seed, epoch) if job.task.head == "mlm" else None
    parts = np.array_split(mine, min(config.accumulation, len(mine)))
    for i, part in enumerate(parts, 1):
        batch = collate(job.train_set, part, job.device, job.model.config.pad_id, sampler)
        teacher = None if job.teacher is None else gather(job.teacher, job.train_set, batch)
        states = None if job.states is None else gather_states(job.states, job.train_set, batch)
        clock.lap("data")
        with distributed.sync_gradients(network, i == len(parts)):
            with autocast(job.device, dtype):
                logits, live, hidden_losses = network(batch.inputs, states)
            student, labels = units(job.task.head, logits, batch)
            teacher = live if teacher is None else teacher
            if teacher is None:
                loss = cross_entropy(student, labels)
            else:
                taught, _ = units(job.task.head, teacher, batch)
                loss = distillation_loss(student, taught, labels, config.temperature, config.alpha)
            loss = loss * (weight / step_units)
            if hidden_losses is not None:
                loss = loss + hidden_losses * (weight / len(indices))
            clock.lap("forward")
            scaler.scale(
                loss * distributed.world_size()
            ).backward()  # times N: what comes out is the mean over N processes
            clock.lap("backward")
        total += loss.detach()
    return total


def read_losses(job: Job, unread: list[tuple[np.ndarray, Tensor]], step: int) -> list[float]:
    """The losses of the last steps, up to `step`, as numbers: here the program waits for the device.

    UserError where one is not finite.
    """
    losses = distributed.all_reduce_sum(torch.stack([loss for _, loss in unread]))
    for number, (loss, (indices, _)) in enumerate(zip(losses, unread, strict=True), step - len(unread) + 1):
        if not np.isfinite(loss):
            raise UserError(
                f"the loss or its gradient is not a finite number at step {number}, which was not taken; try a lower "
                f"--learning-rate, or look at its examples: {', '.join(job.train_set.ids[i] for i in indices)}"
            )
    return losses


def epoch_line(job: Job, done: Progress, steps: int, seconds: float) -> str:
    """An epoch that took so many seconds in all: its loss, score and speed, and the time that is left until step
    `steps`."""
    last, name = done.history[-1], job.task.score_name
    share = f" ({last['matmul_share']:.0%} of the matrix-product rate)" if job.matmul_rate else ""
    left = (steps - done.step) / steps_per_epoch(job)  # epochs
    epochs = done.epoch + math.ceil(left)
    return (
        f"epoch {done.epoch}/{epochs}: loss {last['loss']:.4f}, dev {name} {last['dev'][name]:.4f}, "
        f"{last['tokens_per_second']:,.0f} tokens/s{share}"
        + (f", about {duration(left * seconds)} left" if left else "")
    )


def out_of_patience(done: Progress, patience: int) -> bool:
    """Whether the dev score has not risen for `patience` epochs (0: any number is fine)."""
    return 0 < patience <= done.epoch - done.best_epoch
