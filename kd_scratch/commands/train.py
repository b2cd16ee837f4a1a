"""Fine-tune a model, or distil a teacher into it, and report. `python -m kd_scratch train`

The same command, budget and initial weights make the teacher and the baseline student (no --teacher) and the distilled
student (--teacher DIR). The loop itself is in train.py.
"""

import argparse
import json
from contextlib import nullcontext
from pathlib import Path

import torch

from kd_scratch.checkpoints.checkpoint import WEIGHTS, fingerprint, load_config
from kd_scratch.common import distributed
from kd_scratch.common.console import duration, say, shorten, show, table
from kd_scratch.common.device import amp_dtype, describe, seed_everything, start
from kd_scratch.common.files import UserError, locked, make_folder, sha256, sha256_of_file, write_json, write_text
from kd_scratch.common.source_hash import source_hash
from kd_scratch.common.timing import Clock, matmul_rate
from kd_scratch.config import (
    SIZES,
    DataConfig,
    RunConfig,
    TrainConfig,
    add_flags,
    as_dict,
    flag_name,
    given,
    layer_list,
    train_config,
)
from kd_scratch.data.batches import IGNORE, require_inputs
from kd_scratch.data.tokenizer import Tokenizer, load_tokenizer
from kd_scratch.distillation.losses import HiddenLosses
from kd_scratch.distillation.teacher import mean_logits, teacher_logits, teacher_states
from kd_scratch.nn.model import Model
from kd_scratch.pages.report import PAGE, RECORD, known_record, runs_page
from kd_scratch.tasks import TASKS, Task
from kd_scratch.training.loop import Job, steps_per_epoch, train
from kd_scratch.training.preflight import preflight
from kd_scratch.training.resume import Progress, drop_state
from kd_scratch.training.setup import (
    CACHE,
    build_model,
    check_flags,
    check_output,
    data_hashes,
    libraries,
    load_teacher,
    read_all,
    training_inputs,
)


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
    parser.add_argument(
        "--teacher",
        nargs="+",
        metavar="DIR",
        help="distil from this model; without it the model is fine-tuned. Of several, the soft targets are made of the "
        "mean of their logits, and --losses looks into the first",
    )
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
        default=CACHE,
        help="where tokenized texts and teachers' logits are kept (default runs/cache); may be deleted at any time",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue the interrupted run in --output; where there is none yet, begin it",
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="with --resume: go on although settings, data or versions are not those that the run began with",
    )
    parser.add_argument(
        "--check", action="store_true", help="look at data, models and machine, say what was found, and stop there"
    )
    for config in (TrainConfig, DataConfig, RunConfig):
        add_flags(parser, config)


def command(arguments: argparse.Namespace) -> dict | None:
    """`train`: read, check, build, say what will happen, train, report. None in all processes but the first."""
    task = TASKS[arguments.task]
    config = train_config(task.name, **given(arguments, TrainConfig))
    data, run = DataConfig(**given(arguments, DataConfig)), RunConfig(**given(arguments, RunConfig))
    device = distributed.init_process_group(start(**vars(run)))
    check_flags(arguments, config, device)
    if arguments.force and not arguments.resume:
        raise UserError("--force goes with --resume")
    resume = distributed.rank() == 0 and check_output(arguments.output, arguments.resume)
    resume = distributed.broadcast_object(resume)
    source = data_hashes(arguments)  # before anything is read
    examples, dev_examples, labels, tokenizer, notes = read_all(arguments, task, config, data)
    seed_everything(run.seed)  # anew: whatever came before, baseline and distilled student get the same initial weights
    model = build_model(arguments, task, labels, tokenizer, config, say=notes.append)
    teachers = load_teachers(arguments, task, tokenizer, model, config)
    hidden_losses = None
    if config.losses:
        hidden_losses = HiddenLosses(
            config.hidden_loss_weights(), config.layer_pairs(), model.config, teachers[0].to(device)
        )
    say(f"{task.name}: {len(examples):,} training examples, {len(dev_examples):,} to choose the best epoch on")
    parts = examples, dev_examples, labels, tokenizer, model, teachers, hidden_losses, config, data, device
    found = preflight(arguments, task, *parts)
    (show if arguments.check else say)(table(("before work starts", "found"), found, left=True))
    dev_set = require_inputs(task.featurize(dev_examples, tokenizer, labels, config.max_length, data), "--dev")
    beside = teacher_records(arguments)
    identity = source | identify(task, config, data, run, device, tokenizer, model, teachers)
    require_same_everywhere(identity)
    if arguments.check:
        return dict(found)
    train_set = training_inputs(arguments, task, config, data, examples, labels, tokenizer, source, notes.append)
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
        hidden_losses=hidden_losses,
    )
    announce(job, arguments, teachers if config.alpha or config.losses else [], notes)
    make_folder(job.output)
    with locked(job.output) if distributed.rank() == 0 else nullcontext():
        if distributed.rank() == 0:
            check_output(job.output, resume)  # another process may have been here since
        clock, dtype = Clock(device), amp_dtype(config.amp, device)
        if teachers:
            ask(job, teachers, arguments.cache)
            teachers.clear()
            clock.lap("teacher")
        job.seconds.update(clock.totals())
        job.matmul_rate = distributed.all_reduce_sum(torch.tensor([matmul_rate(device, dtype)], device=device))[0]
        done = train(job, resume, arguments.force)
        if distributed.rank() == 0:
            return report(job, done, beside)


def load_teachers(
    arguments: argparse.Namespace, task: Task, tokenizer: Tokenizer, model: Model, config: TrainConfig
) -> list[Model]:
    """The models of --teacher, checked against the student."""
    teachers = []
    for path in arguments.teacher or ():
        teacher = load_teacher(path, task, model.config.labels, tokenizer, config.max_length)
        if task.head == "mlm" and teacher.config.vocab_size != model.config.vocab_size:
            sizes = f"{teacher.config.vocab_size:,} words, the student {model.config.vocab_size:,}"
            raise UserError(f"--teacher {path}: knows {sizes}; to guess them alike both need as many")
        teachers.append(teacher)
    return teachers


def teacher_records(arguments: argparse.Namespace) -> dict[str, dict]:
    """What is known of the teachers' own training for the same task, for the page about this run."""
    records = {f"teacher {i}": known_record(path) for i, path in enumerate(arguments.teacher or (), 1)}
    return {name: record for name, record in records.items() if record and record["task"] == arguments.task}


def ask(job: Job, teachers: list[Model], cache: Path) -> None:
    """Have what the teachers say computed, or found in the cache; or keep the first one to ask it in every step."""
    config, task, soft = job.config, job.task, job.config.alpha > 0
    common = job.tokenizer.fingerprint, job.train_set, cache, job.device, amp_dtype(config.amp, job.device)
    if soft and task.head != "mlm":  # whose logits would fill disks: one for each word of the vocabulary
        each = [teacher_logits(teacher, job.model.config.labels, *common) for teacher in teachers]
        job.teacher = mean_logits(each, cache)
    if config.keep_states:
        job.states = teacher_states(teachers[0], job.hidden_losses.needed(), *common)
    if (soft and job.teacher is None) or (job.hidden_losses and not config.keep_states):
        job.live_teacher = teachers[0].to(job.device)


def identify(
    task: Task,
    config: TrainConfig,
    data: DataConfig,
    run: RunConfig,
    device: torch.device,
    tokenizer: Tokenizer,
    model: Model,
    teachers: list[Model],
) -> dict:
    """All but the data that decides what comes out of a run: it can be resumed only where this is the same."""
    return {
        "task": task.name,
        "settings": as_dict(config),
        "data settings": as_dict(data),
        "seed": run.seed,
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        **libraries(device),
        "code": source_hash("training.loop", "training.setup"),
        "tokenizer": tokenizer.fingerprint,
        "labels": sha256(*model.config.labels),
        "initial weights": fingerprint(model),
        "teacher": " ".join(fingerprint(teacher) for teacher in teachers) or None,
    }


def require_same_everywhere(identity: dict) -> None:
    """UserError where this process works on something else than the first one."""
    first = distributed.broadcast_object(identity)
    differing = [key for key, value in json.loads(json.dumps(identity)).items() if value != first[key]]
    if set(differing) - {"threads"}:
        raise UserError(
            f"process {distributed.rank()} and process 0 differ in: {', '.join(differing)}; give all the same"
        )


def announce(job: Job, arguments: argparse.Namespace, teachers: list[Model], notes: list[str]) -> None:
    """The first line says what is about to happen and how big it is; notes follow."""
    config, train_set = job.config, job.train_set
    steps = steps_per_epoch(job)
    named = zip(arguments.teacher or (), teachers, strict=False)  # none where they are not asked
    sources = " and ".join(f"{path} ({teacher.num_parameters() / 1e6:.1f}M)" for path, teacher in named)
    doing = f"distilling {sources} into" if teachers else "fine-tuning"
    size = f"{job.model.config.depth} layers, {job.model.num_parameters() / 1e6:.1f}M"
    say(
        f"{doing} {arguments.model} ({size}) on {job.device.type}, {torch.get_num_threads()} threads: "
        f"{len(train_set):,} inputs ({len(train_set.tokens):,} tokens), {len(job.dev_set):,} dev, "
        + (f"{config.steps} steps, {steps} in an epoch" if config.steps else f"{config.epochs} epochs of {steps} steps")
    )
    if job.task.head == "span" and (lost := int((train_set.labels[:, 0] == IGNORE).sum())):
        notes.append(f"windows left out of training: {lost:,}, no window of their context holds the whole answer")
    idle = [flag_name(name) for name in given(arguments, TrainConfig) if name in ("temperature", "alpha")]
    if idle and not arguments.teacher:
        notes.append(f"{' and '.join(idle)}: there is no --teacher, so nothing is distilled")
    if arguments.teacher and not teachers:
        notes.append("--alpha 0: the teacher is not asked; only the labels teach")
    total = config.steps or steps * config.epochs
    if 2 * config.warmup_steps > total:
        notes.append(f"most of the {total} steps are warm-up; consider fewer --warmup-steps")
    for note in notes:
        say(f"note: {shorten(note, 2000)}")


def report(job: Job, done: Progress, beside: dict[str, dict]) -> dict:
    """Write what happened to training.json and to a page, there beside the records of other runs; drop what only a
    resume needs; print the epochs and where the time went. Returns the record."""
    if sha256_of_file(job.output / WEIGHTS) != done.best_sha256:
        raise UserError(
            f"{job.output / WEIGHTS}: is not what was kept of epoch {done.best_epoch}, something has changed it since; "
            "delete the folder and start again"
        )
    load_config(job.output)  # the other files are still there too
    load_tokenizer(job.output)
    seconds = sum(job.seconds.values())
    record = job.identity | {"machine": describe(job.device), "parameters": job.model.num_parameters()}
    spent = {"seconds": seconds, "seconds by phase": dict(job.seconds), "matmul rate": job.matmul_rate}
    record = json.loads(json.dumps(record | vars(done) | spent))
    write_text(job.output / PAGE, runs_page(f"{job.output.name}: a training run", {"this run": record} | beside))
    write_json(job.output / RECORD, record)  # last: it tells that the run has come to its end
    drop_state(job.output)
    names = list(done.history[0]["dev"])
    rows = [(str(h["epoch"]), h["loss"], *h["dev"].values(), round(h["tokens_per_second"])) for h in done.history]
    show(table(("epoch", "train loss", *(f"dev {name}" for name in names), "tokens/s"), rows))
    rows = [(phase, f"{took:,.1f}", f"{took / seconds:.0%}") for phase, took in job.seconds.items()]
    show("\n" + table(("where the time went", "seconds", "share"), rows))
    show(f"kept epoch {done.best_epoch} in {job.output} ({duration(seconds)})")
    return record
