"""Training: one loop for fine-tuning and for distillation. `python -m kd_scratch train`

The same command, budget and initial weights make the teacher and the baseline student (no --teacher) and the distilled
student (--teacher DIR): the only difference is one line of the loop, where the loss is computed.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kd_scratch.batches import IGNORE, Features, collate, epoch_batches
from kd_scratch.checkpoint import fingerprint, save_model
from kd_scratch.config import SIZES, DataConfig, RunConfig, TrainConfig, add_flags, as_dict, given, train_config
from kd_scratch.console import progress, table
from kd_scratch.distill import count_units, cross_entropy, distillation_loss, gather, teacher_logits, units
from kd_scratch.files import UserError, make_folder, read_text, sha256_of_file, write_json
from kd_scratch.inference import compute_logits
from kd_scratch.model import Model
from kd_scratch.prepare import build_model, check_output, choose_tokenizer, load_teacher
from kd_scratch.runtime import amp_dtype, autocast, describe, seed_everything, start
from kd_scratch.state import STATE, Progress, load_state, save_state
from kd_scratch.tasks import TASKS, Outcome, Task, limited
from kd_scratch.tokenization import Tokenizer

RECORD = "training.json"


@dataclass
class Job:
    """All that a training run is made of; `command` puts it together."""

    task: Task
    model: Model
    tokenizer: Tokenizer
    train_set: Features
    dev_examples: list
    dev_set: Features
    config: TrainConfig
    data: DataConfig
    seed: int
    device: torch.device
    output: Path
    identity: dict  # what a resumed run must have in common with the interrupted one
    teacher: np.ndarray | None = None  # its logits for every training input; None: plain fine-tuning


# --- the loop ---


def train(job: Job, resume: bool = False) -> Progress:
    """Train, score on the dev set after every epoch, keep the best weights in job.output; returns what happened."""
    task, model, config = job.task, job.model.to(job.device), job.config
    dtype = amp_dtype(config.amp, job.device)
    optimizer = make_optimizer(model, config)
    scaler = torch.amp.GradScaler(job.device.type, enabled=dtype == torch.float16)
    steps = config.epochs * -(-len(job.train_set) // config.batch_size)  # rounded up: the last batch may be smaller
    done = load_state(job.output, model, optimizer, scaler, job.identity) if resume else Progress()
    while done.epoch < config.epochs and not out_of_patience(done, config.patience):
        model.train()
        started, losses = time.perf_counter(), []
        with progress(total=len(job.train_set), desc=f"epoch {done.epoch + 1}/{config.epochs}", unit="ex") as bar:
            for indices in epoch_batches(job.train_set.lengths, config.batch_size, job.seed, done.epoch):
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * schedule(done.step, steps, config.warmup_steps)
                losses.append(backward(job, indices, scaler, dtype))
                if not np.isfinite(losses[-1]):
                    raise UserError(
                        f"the loss is {losses[-1]} at step {done.step + 1}, which was not taken; try a lower "
                        f"--learning-rate, or look at {', '.join(job.train_set.ids[i] for i in indices[:4])}"
                    )
                scaler.unscale_(optimizer)
                clip_gradients(model, config.max_grad_norm)
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                done.step += 1
                bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
                bar.update(len(indices))
        seconds = time.perf_counter() - started
        logits = compute_logits(model, job.dev_set, job.device, dtype=dtype, title="scoring dev")
        scores = task.score(Outcome(task, job.dev_examples, job.dev_set, logits, model.config.labels, job.data))
        done.epoch += 1
        done.history.append(
            {
                "epoch": done.epoch,
                "loss": float(np.mean(losses)),
                "seconds": seconds,
                "tokens_per_second": len(job.train_set.tokens) / seconds,
                "dev": {name: scores[name] for name in task.columns if name in scores},
            }
        )
        if scores[task.score_name] > done.best_score:
            done.best_score, done.best_epoch = scores[task.score_name], done.epoch
            save_model(model, job.output)
            job.tokenizer.save(job.output, config.max_length, token_types=model.config.token_types > 0)
        save_state(job.output, model, optimizer, scaler, done, job.identity)
        print(
            f"epoch {done.epoch}/{config.epochs}: loss {done.history[-1]['loss']:.4f}, dev {task.score_name} "
            f"{scores[task.score_name]:.4f}, {done.history[-1]['tokens_per_second']:,.0f} tokens/s",
            flush=True,
        )
    return done


def backward(job: Job, indices: np.ndarray, scaler: torch.amp.GradScaler, dtype: torch.dtype | None) -> float:
    """Add one batch's gradients to the parameters' .grad; returns its loss, the mean over the batch's units (or 0).

    Each of the `accumulation` parts is divided by the units of the *whole* batch, so cutting it changes nothing.
    """
    config, total = job.config, 0.0
    step_units = max(1, count_units(job.train_set, indices))  # a batch may hold none
    for part in np.array_split(indices, min(config.accumulation, len(indices))):
        batch = collate(job.train_set, part, job.device, job.model.config.pad_id)
        with autocast(job.device, dtype):
            logits = job.model(**batch.inputs).logits
        student, labels = units(job.task.head, logits, batch)
        if job.teacher is None:
            loss = cross_entropy(student, labels)
        else:
            teacher, _ = units(job.task.head, gather(job.teacher, job.train_set, batch), batch)
            loss = distillation_loss(student, teacher, labels, config.temperature, config.alpha)
        loss = loss / step_units
        scaler.scale(loss).backward()
        total += loss.item()
    return total


def make_optimizer(model: Model, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused. Weight decay pulls on matrices and tables, never on biases and norms."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def schedule(step: int, steps: int, warmup: int) -> float:
    """The share of the highest learning rate at a step (from 0): up over the warm-up, then straight down to 0."""
    rising = (step + 1) / max(1, warmup)
    falling = (steps - step) / max(1, steps - warmup)
    return min(1.0, rising, falling)


def clip_gradients(model: Model, max_norm: float) -> None:
    """Scale all gradients by max_norm / norm where their joint norm is more (Pascanu et al. 2013); 0: leave them."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if max_norm and (norm := torch.nn.utils.get_total_norm(gradients)) > max_norm:
        torch._foreach_mul_(gradients, max_norm / norm)


def out_of_patience(done: Progress, patience: int) -> bool:
    """Whether the dev score has not risen for `patience` epochs (0: any number is fine)."""
    return 0 < patience <= done.epoch - done.best_epoch


# --- the command ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `train`."""
    parser.add_argument("--task", required=True, choices=list(TASKS))
    parser.add_argument("--train", required=True, type=Path, metavar="FILE", help="training data")
    parser.add_argument(
        "--dev",
        required=True,
        metavar="FILE",
        help="data that the best epoch is chosen on; "
        "a percentage such as 10%% holds out that part of --train instead (squad: of its contexts, conll: of its "
        "documents), drawn at random",
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR_OR_SIZE",
        help=f"what to train: a model directory, or a size with random weights: {', '.join(SIZES)}",
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="where the trained model goes")
    parser.add_argument("--teacher", metavar="DIR", help="distil from this model; without it the model is fine-tuned")
    parser.add_argument(
        "--unlabelled",
        type=Path,
        metavar="FILE",
        help="distillation: text to learn from beside --train, one a line; it has no labels, the teacher says what it "
        "means (not for squad)",
    )
    parser.add_argument("--init-layers", type=layer_list, metavar="0,2,4", help="keep only these layers of --model")
    parser.add_argument("--tokenizer", metavar="DIR", help="with a size: take the tokenizer from this model directory")
    parser.add_argument(
        "--vocab-size",
        type=int,
        default=4000,
        metavar="N",
        help="with a size and no tokenizer: learn this many word pieces from the training data (default 4000)",
    )
    parser.add_argument(
        "--norm-first", action="store_true", help="with a scratch size: norm before each sublayer instead of after it"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        default=Path("runs/cache"),
        help="where teachers' logits are kept (default runs/cache)",
    )
    parser.add_argument("--resume", action="store_true", help="continue the interrupted run in --output")
    for config in (TrainConfig, DataConfig, RunConfig):
        add_flags(parser, config)


def layer_list(text: str) -> list[int]:
    """ "0,2,4" -> [0, 2, 4]"""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of layer numbers such as 0,2,4") from None


def command(arguments: argparse.Namespace) -> None:
    """`train`: read, check, build, say what will happen, train, report."""
    task = TASKS[arguments.task]
    config = train_config(task.name, **given(arguments, TrainConfig))
    data, run = DataConfig(**given(arguments, DataConfig)), RunConfig(**given(arguments, RunConfig))
    device = start(run)
    check_output(arguments.output, arguments.resume)
    unlabelled = read_unlabelled(arguments, task, config) if arguments.unlabelled else []
    examples, dev_examples, labels, notes = read_data(arguments, task, data)
    if unlabelled:
        examples += unlabelled
        notes.append(f"{len(unlabelled):,} texts of {arguments.unlabelled} have no label: soft targets only")
    tokenizer = choose_tokenizer(arguments, task.texts(examples))
    seed_everything(run.seed)  # anew: whatever came before, baseline and distilled student get the same initial weights
    model = build_model(arguments, task, labels, tokenizer, config, say=notes.append)
    train_set = task.featurize(examples, tokenizer, labels, config.max_length, data)
    dev_set = task.featurize(dev_examples, tokenizer, labels, config.max_length, data)
    teacher = None
    if arguments.teacher:
        teacher = load_teacher(arguments.teacher, task, labels, tokenizer, config.max_length)
    dev_file = Path(arguments.dev)
    identity = {
        "task": task.name,
        "settings": as_dict(config),
        "data settings": as_dict(data),
        "seed": run.seed,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "torch": torch.__version__,
        "train": sha256_of_file(arguments.train),
        "unlabelled": sha256_of_file(arguments.unlabelled) if arguments.unlabelled else None,
        "dev": sha256_of_file(dev_file) if dev_file.is_file() else arguments.dev,
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
    make_folder(job.output)
    started = time.perf_counter()
    if teacher:
        dtype = amp_dtype(config.amp, device)
        job.teacher = teacher_logits(teacher, tokenizer.fingerprint, train_set, labels, arguments.cache, device, dtype)
        del teacher
    done = train(job, arguments.resume)
    report(job, done, time.perf_counter() - started)


def read_data(
    arguments: argparse.Namespace, task: Task, data: DataConfig
) -> tuple[list, list, tuple[str, ...], list[str]]:
    """Training and dev examples, the labels (those of the whole training file, however much of it is used), and notes.

    --limit cuts the training examples only.
    """
    examples = task.read(arguments.train, "train" if task.splits else "", data)
    labels = task.label_list(examples)
    if arguments.dev.endswith("%") and not Path(arguments.dev).exists():
        held_out = set(limited(list(dict.fromkeys(map(task.group, examples))), arguments.dev, "--dev"))
        dev_examples = [example for example in examples if task.group(example) in held_out]
        examples = [example for example in examples if task.group(example) not in held_out]
    else:
        dev_examples = task.read(Path(arguments.dev), "val" if task.splits else "", data)
    examples, notes = task.trainable(limited(examples, data.limit))
    if not examples or not dev_examples:
        raise UserError(f"{arguments.train}: leaves {len(examples)} training and {len(dev_examples)} dev examples")
    return examples, dev_examples, labels, notes


def read_unlabelled(arguments: argparse.Namespace, task: Task, config: TrainConfig) -> list:
    """The lines of --unlabelled that hold more than blanks, as training examples without label."""
    flag = f"--unlabelled {arguments.unlabelled}"
    if task.unlabelled is None:
        raise UserError(f"{flag}: plain text is no input for {task.name}; leave it out")
    if not arguments.teacher or config.alpha == 0:
        raise UserError(f"{flag}: only a teacher can say what such text means; give --teacher, and an --alpha above 0")
    lines = enumerate(read_text(arguments.unlabelled).split("\n"), 1)
    examples = [task.unlabelled(f"{arguments.unlabelled.name}:{i}", line.strip()) for i, line in lines if line.strip()]
    if not examples:
        raise UserError(f"{flag}: holds nothing but blank lines; give one text a line")
    return examples


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


def report(job: Job, done: Progress, seconds: float) -> None:
    """Print the epochs as a table, write them to training.json, and drop the state that only a resume needs."""
    names = list(done.history[0]["dev"])
    rows = [(str(h["epoch"]), h["loss"], *h["dev"].values(), round(h["tokens_per_second"])) for h in done.history]
    print(table(("epoch", "train loss", *(f"dev {name}" for name in names), "tokens/s"), rows))
    print(f"kept epoch {done.best_epoch} in {job.output} ({seconds:.0f} s)")
    record = job.identity | {"machine": describe(job.device), "parameters": job.model.num_parameters()}
    write_json(job.output / RECORD, record | vars(done) | {"seconds": seconds})
    (job.output / STATE).unlink()
