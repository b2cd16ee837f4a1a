"""Training: one loop for fine-tuning and for distillation. `python -m kd_scratch train`

The same command, budget and initial weights make the teacher and the baseline student (no --teacher) and the distilled
student (--teacher DIR): the only difference is one line of the loop, where the loss is computed.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kd_scratch import parallel
from kd_scratch.batches import IGNORE, Features, collate, epoch_batches
from kd_scratch.cache import cached_features
from kd_scratch.checkpoint import fingerprint, save_model
from kd_scratch.clock import Clock, forward_operations, matmul_rate
from kd_scratch.config import DataConfig, RunConfig, TrainConfig, as_dict, given, train_config
from kd_scratch.console import duration, progress, table
from kd_scratch.distill import count_units, cross_entropy, distillation_loss, gather, teacher_logits, units
from kd_scratch.files import UserError, make_folder, sha256_of_file, write_json
from kd_scratch.inference import compute_logits
from kd_scratch.model import Model
from kd_scratch.optimizer import Stepper, make_optimizer
from kd_scratch.prepare import (
    add_arguments,  # noqa: F401 (the flags of this command)
    build_model,
    check_output,
    choose_tokenizer,
    load_teacher,
    read_data,
    read_unlabelled,
)
from kd_scratch.runtime import amp_dtype, autocast, describe, seed_everything, seed_step, start
from kd_scratch.state import STATE, Progress, load_state, save_state
from kd_scratch.tasks import TASKS, Outcome, Task
from kd_scratch.tasks.rows import Joined
from kd_scratch.tokenization import Tokenizer
from kd_scratch.vocabulary import Vocabulary

RECORD = "training.json"
READ_EVERY = 50  # steps between two looks at the losses, for which the program waits until the device has them


@dataclass
class Job:
    """All that a training run is made of; `command` puts it together."""

    task: Task
    model: Model
    tokenizer: Tokenizer
    train_set: Features
    dev_examples: Sequence
    dev_set: Features
    config: TrainConfig
    data: DataConfig
    seed: int
    device: torch.device
    output: Path
    identity: dict  # what a resumed run must have in common with the interrupted one
    teacher: np.ndarray | None = None  # its logits for every training input; None: plain fine-tuning
    matmul_rate: float = 0.0  # floating-point operations per second of a large product; 0: not measured
    seconds: Counter = field(default_factory=Counter)  # where the time went: phase -> seconds


# --- the loop ---


def train(job: Job, resume: bool = False) -> Progress:
    """Train, score on the dev set after every epoch, keep the best weights in job.output; returns what happened."""
    task, model, config = job.task, job.model.to(job.device), job.config
    dtype = amp_dtype(config.amp, job.device)
    model.encoder.recompute = config.gradient_checkpointing
    for part in (model.embeddings, model.positions):
        part.requires_grad_(not config.freeze_embeddings)
    vocabulary = Vocabulary(model, job.train_set.tokens)
    if not config.freeze_embeddings:
        vocabulary.narrow()  # before the optimizer and the other processes ask which parameters there are
    network = parallel.wrap(model)
    optimizer = make_optimizer(model, config)
    scaler = torch.amp.GradScaler(job.device.type, enabled=dtype == torch.float16)
    steps = config.epochs * -(-len(job.train_set) // config.batch_size)  # rounded up: the last batch may be smaller
    stepper = Stepper(optimizer, scaler, config, steps)
    done = load_state(job.output, model, optimizer, scaler, job.identity) if resume else Progress()
    inputs = len(job.train_set)
    operations = 3 * forward_operations(model.config, job.train_set.lengths)  # of an epoch: back is twice forward
    with progress(total=config.epochs * inputs, initial=done.epoch * inputs, desc="training", unit="ex") as bar:
        while done.epoch < config.epochs and not out_of_patience(done, config.patience):
            clock = Clock(job.device)
            losses = run_epoch(job, network, stepper, dtype, done, clock, bar)
            seconds = sum(clock.totals().values())
            vocabulary.widen()
            logits = compute_logits(model, job.dev_set, job.device, dtype=dtype, title="scoring dev")
            scores = task.score(Outcome(task, job.dev_examples, job.dev_set, logits, model.config.labels, job.data))
            clock.lap("scoring dev")
            done.epoch += 1
            done.history.append(
                {
                    "epoch": done.epoch,
                    "loss": float(np.mean(losses)),
                    "seconds": seconds,
                    "tokens_per_second": len(job.train_set.tokens) / seconds,
                    "matmul_share": operations / seconds / job.matmul_rate if job.matmul_rate else None,
                    "dev": {name: scores[name] for name in task.columns if name in scores},
                }
            )
            better = scores[task.score_name] > done.best_score
            if better:
                done.best_score, done.best_epoch = scores[task.score_name], done.epoch
            if better and parallel.rank() == 0:
                save_model(model, job.output)
                job.tokenizer.save(job.output, config.max_length, token_types=model.config.token_types > 0)
            if not config.freeze_embeddings:
                vocabulary.narrow()
            if parallel.rank() == 0:
                save_state(job.output, model, optimizer, scaler, done, job.identity)
            clock.lap("saving")
            job.seconds.update(clock.totals())
            print(epoch_line(job, done, sum(clock.totals().values())), flush=True)
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
) -> list[float]:
    """Every training input once; returns the loss of each step. `done` counts the steps."""
    losses, unread = [], []
    network.train()
    batches = epoch_batches(job.train_set.lengths, job.config.batch_size, job.seed, done.epoch)
    for i, indices in enumerate(batches, 1):
        seed_step(job.seed, done.step, parallel.rank())
        loss = backward(job, network, indices, stepper.scaler, dtype, clock)
        unread.append((indices, stepper.step(done.step, loss)))
        clock.lap("optimizer")
        done.step += 1
        bar.update(len(indices))
        if i % READ_EVERY == 0 or i == len(batches):
            losses += read_losses(job, unread, done.step)
            bar.set_postfix(loss=f"{np.mean(losses[-READ_EVERY:]):.4f}", refresh=False)
            unread.clear()
    return losses


def backward(
    job: Job,
    network: torch.nn.Module,
    indices: np.ndarray,
    scaler: torch.amp.GradScaler,
    dtype: torch.dtype | None,
    clock: Clock,
) -> Tensor:
    """Add one batch's gradients to the parameters' .grad; returns this process's share of the loss, on the device.

    The batch's loss is the mean over its units (or 0). Each of its parts, on however many processes, is divided by the
    units of the *whole* batch, so cutting it changes nothing.
    """
    config, total = job.config, torch.zeros((), device=job.device)
    step_units = max(1, count_units(job.train_set, indices))  # a batch may hold none
    mine = parallel.share(indices)
    weight = 1.0 if len(mine) else 0.0
    mine = mine if len(mine) else indices[:1]  # fewer inputs than processes: this one computes something for nothing
    parts = np.array_split(mine, min(config.accumulation, len(mine)))
    for i, part in enumerate(parts, 1):
        batch = collate(job.train_set, part, job.device, job.model.config.pad_id)
        teacher = None if job.teacher is None else gather(job.teacher, job.train_set, batch)
        clock.lap("data")
        with parallel.gradients_meet(network, i == len(parts)):
            with autocast(job.device, dtype):
                logits = network(**batch.inputs).logits
            student, labels = units(job.task.head, logits, batch)
            if teacher is None:
                loss = cross_entropy(student, labels)
            else:
                taught, _ = units(job.task.head, teacher, batch)
                loss = distillation_loss(student, taught, labels, config.temperature, config.alpha)
            loss = loss * (weight / step_units)
            clock.lap("forward")
            scaler.scale(loss * parallel.size()).backward()  # times N: what comes out is the mean over N processes
            clock.lap("backward")
        total += loss.detach()
    return total


def read_losses(job: Job, unread: list[tuple[np.ndarray, Tensor]], step: int) -> list[float]:
    """The losses of the last steps, up to `step`, as numbers: here the program waits for the device.

    UserError where one is not finite.
    """
    losses = parallel.total(torch.stack([loss for _, loss in unread]))
    for number, (loss, (indices, _)) in enumerate(zip(losses, unread, strict=True), step - len(unread) + 1):
        if not np.isfinite(loss):
            raise UserError(
                f"the loss or its gradient is not a finite number at step {number}, which was not taken; try a lower "
                f"--learning-rate, or look at {', '.join(job.train_set.ids[i] for i in indices[:4])}"
            )
    return losses


def epoch_line(job: Job, done: Progress, seconds: float) -> str:
    """An epoch that took so many seconds in all: its loss, score and speed, and the time that is left."""
    last, name = done.history[-1], job.task.score_name
    share = f" ({last['matmul_share']:.0%} of the matrix-product rate)" if job.matmul_rate else ""
    left = job.config.epochs - done.epoch
    return (
        f"epoch {done.epoch}/{job.config.epochs}: loss {last['loss']:.4f}, dev {name} {last['dev'][name]:.4f}, "
        f"{last['tokens_per_second']:,.0f} tokens/s{share}"
        + (f", about {duration(left * seconds)} left" if left else "")
    )


def out_of_patience(done: Progress, patience: int) -> bool:
    """Whether the dev score has not risen for `patience` epochs (0: any number is fine)."""
    return 0 < patience <= done.epoch - done.best_epoch


# --- the command ---


def command(arguments: argparse.Namespace) -> None:
    """`train`: read, check, build, say what will happen, train, report."""
    task = TASKS[arguments.task]
    config = train_config(task.name, **given(arguments, TrainConfig))
    data, run = DataConfig(**given(arguments, DataConfig)), RunConfig(**given(arguments, RunConfig))
    device = parallel.join(start(run))
    if parallel.rank() == 0:
        check_output(arguments.output, arguments.resume)
    unlabelled = read_unlabelled(arguments, task, config) if arguments.unlabelled else ()
    examples, dev_examples, labels, notes = read_data(arguments, task, data)
    if unlabelled:
        examples = Joined(examples, unlabelled)
        notes.append(f"{len(unlabelled):,} texts of {arguments.unlabelled} have no label: soft targets only")
    tokenizer = choose_tokenizer(arguments, task, examples)
    seed_everything(run.seed)  # anew: whatever came before, baseline and distilled student get the same initial weights
    model = build_model(arguments, task, labels, tokenizer, config, say=notes.append)
    dev_set = task.featurize(dev_examples, tokenizer, labels, config.max_length, data)
    teacher = None
    if arguments.teacher:
        teacher = load_teacher(arguments.teacher, task, labels, tokenizer, config.max_length)
    dev_file = Path(arguments.dev)
    source = {
        "train": sha256_of_file(arguments.train),
        "unlabelled": sha256_of_file(arguments.unlabelled) if arguments.unlabelled else None,
        "dev": sha256_of_file(dev_file) if dev_file.is_file() else arguments.dev,
    }
    held_out = arguments.dev if not dev_file.is_file() else ""
    origin = (source["train"], str(source["unlabelled"]), held_out)
    train_set = cached_features(
        task, examples, tokenizer, labels, config.max_length, data, origin, arguments.cache, notes.append
    )
    identity = {
        "task": task.name,
        "settings": as_dict(config),
        "data settings": as_dict(data),
        "seed": run.seed,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "torch": torch.__version__,
        **source,
        "tokenizer": tokenizer.fingerprint,
        "initial weights": fingerprint(model),
        "teacher": fingerprint(teacher) if teacher else None,
    }
    job = Job(
        task=task,
        model=model,
        tokenizer=tokenizer,
        train_set=train_set,
        dev_examples=dev_examples,
        dev_set=dev_set,
        config=config,
        data=data,
        seed=run.seed,
        device=device,
        output=arguments.output,
        identity=identity,
    )
    announce(job, arguments, teacher, notes)
    parallel.wait()  # until every process has seen that the folder is free
    make_folder(job.output)
    clock, dtype = Clock(device), amp_dtype(config.amp, device)
    if teacher:
        job.teacher = teacher_logits(teacher, tokenizer.fingerprint, train_set, labels, arguments.cache, device, dtype)
        del teacher
        clock.lap("teacher")
    job.seconds.update(clock.totals())
    job.matmul_rate = parallel.total(torch.tensor([matmul_rate(device, dtype)], device=device))[0]
    done = train(job, arguments.resume)
    if parallel.rank() == 0:
        report(job, done)


def announce(job: Job, arguments: argparse.Namespace, teacher: Model | None, notes: list[str]) -> None:
    """The first line says what is about to happen and how big it is; notes follow."""
    config, train_set = job.config, job.train_set
    steps = -(-len(train_set) // config.batch_size)
    doing = f"distilling {arguments.teacher} ({teacher.num_parameters() / 1e6:.1f}M) into" if teacher else "fine-tuning"
    size = f"{job.model.config.depth} layers, {job.model.num_parameters() / 1e6:.1f}M"
    print(
        f"{doing} {arguments.model} ({size}) on {job.device.type}, {torch.get_num_threads()} threads: "
        f"{len(train_set):,} inputs ({len(train_set.tokens):,} tokens), {len(job.dev_set):,} dev, "
        f"{config.epochs} epochs of {steps} steps",
        flush=True,
    )
    cut = float((train_set.lengths >= config.max_length).mean())
    if cut > 0.01 and job.task.head == "sequence":  # the others read on in another window
        notes.append(f"{cut:.1%} of the training examples reach --max-length {config.max_length} and may be cut")
    if job.task.head == "span" and (lost := int((train_set.labels[:, 0] == IGNORE).sum())):
        notes.append(f"windows left out of training: {lost:,}, no window of their context holds the whole answer")
    if 2 * config.warmup_steps > steps * config.epochs:
        notes.append(f"most of the {steps * config.epochs} steps are warm-up; consider fewer --warmup-steps")
    for note in notes:
        print(f"note: {note}")


def report(job: Job, done: Progress) -> None:
    """Print the epochs and where the time went, write both to training.json, and drop what only a resume needs."""
    seconds = sum(job.seconds.values())
    names = list(done.history[0]["dev"])
    rows = [(str(h["epoch"]), h["loss"], *h["dev"].values(), round(h["tokens_per_second"])) for h in done.history]
    print(table(("epoch", "train loss", *(f"dev {name}" for name in names), "tokens/s"), rows))
    rows = [(phase, round(took, 1), f"{took / seconds:.0%}") for phase, took in job.seconds.items()]
    print("\n" + table(("where the time went", "seconds", "share"), rows))
    print(f"kept epoch {done.best_epoch} in {job.output} ({duration(seconds)})")
    record = job.identity | {"machine": describe(job.device), "parameters": job.model.num_parameters()}
    spent = {"seconds": seconds, "seconds by phase": dict(job.seconds), "matmul rate": job.matmul_rate}
    write_json(job.output / RECORD, record | vars(done) | spent)
    (job.output / STATE).unlink()
