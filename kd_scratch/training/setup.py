"""What training starts from: the run's folder, the model to train, and its teacher. All checked before work begins."""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tokenizers
import torch

from kd_scratch.checkpoints.checkpoint import check_fit, load_model, take_layers
from kd_scratch.common.console import say
from kd_scratch.common.device import amp_dtype
from kd_scratch.common.files import UserError, is_leftover, sha256_of_file
from kd_scratch.common.source_hash import source_hash
from kd_scratch.config import SIZES, DataConfig, TrainConfig
from kd_scratch.data.batches import EncodedInputs, require_inputs
from kd_scratch.data.rows import Concat, Subset, WithoutLabels, text_rows
from kd_scratch.data.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from kd_scratch.distillation.teacher import label_order
from kd_scratch.nn.model import Model, with_dropout
from kd_scratch.tasks import TASKS, Task, limited
from kd_scratch.tasks.augment import Altered
from kd_scratch.tasks.feature_cache import cached_features
from kd_scratch.training.resume import unfinished

CACHE = Path("runs/cache")  # where tokenized texts, and what teachers say of them, are kept unless one says otherwise
ENOUGH = 200_000  # examples to learn a vocabulary from; of more, so many are drawn at random


def check_output(output: Path, resume: bool) -> bool:
    """Whether there is a run to resume. UserError where the folder already holds something else, or one not to be."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file, a folder is needed")
    if unfinished(output):
        if not resume:
            cure = "continue it with --resume, delete it, or choose another folder"
            raise UserError(f"--output {output}: already holds a run; {cure}")
        return True
    if output.is_dir() and not all(is_leftover(path.name) for path in output.iterdir()):
        what = "holds no unfinished run to resume" if resume else "already holds a run"
        raise UserError(f"--output {output}: {what}; delete it, or choose another folder")
    if resume:
        say(f"note: nothing to resume in {output}: starting from the beginning")
    return False


def choose_tokenizer(arguments: argparse.Namespace, task: Task, examples: Sequence) -> Tokenizer:
    """The tokenizer of --model where that is a folder, else --tokenizer's, else the teacher's, else one learned now."""
    if arguments.model not in SIZES:
        if not Path(arguments.model).is_dir():
            raise UserError(f"--model {arguments.model}: no such model directory, and no size: {', '.join(SIZES)}")
        if arguments.tokenizer:
            raise UserError("--tokenizer goes with a size; a model directory has its own tokenizer")
        return load_tokenizer(arguments.model)
    if arguments.tokenizer or arguments.teacher:
        return load_tokenizer(arguments.tokenizer or arguments.teacher[0])
    if not 10 <= arguments.vocab_size <= 1_000_000:
        raise UserError(f"--vocab-size {arguments.vocab_size}: must lie between 10 and 1,000,000")
    if len(examples) > ENOUGH:
        examples = limited(examples, str(ENOUGH))
    return train_tokenizer(task.texts(examples), arguments.vocab_size)


def build_model(
    arguments: argparse.Namespace, task: Task, labels: tuple[str, ...], tokenizer: Tokenizer, config: TrainConfig, say
) -> Model:
    """The model that will be trained: a checkpoint's, chosen layers of it, or random weights of a named size.

    What a checkpoint lacks or holds in vain is told through `say`.
    """
    if arguments.model in SIZES:
        if arguments.init_layers:
            raise UserError("--init-layers picks layers of a model directory; --model is a size here")
        if arguments.norm_first and SIZES[arguments.model].model_type != "kd_scratch":
            raise UserError("--norm-first goes with the scratch sizes only; BERT and DistilBERT are post-norm")
        shape = replace(
            SIZES[arguments.model],
            head=task.head,
            labels=labels,
            vocab_size=tokenizer.vocab_size,
            pad_id=tokenizer.pad_id,
            norm_first=arguments.norm_first,
        )
        model = Model(with_dropout(shape, config.dropout))
    else:
        if arguments.norm_first:
            raise UserError("--norm-first goes with a scratch size; the norms of a model directory stay where they are")
        model = load_model(arguments.model, task.head, labels, say, config.dropout)
        if arguments.init_layers:
            model = take_layers(model, arguments.init_layers)
    check_fit(model, tokenizer, config.max_length, arguments.model)
    return model


def load_teacher(directory: str, task: Task, labels: tuple[str, ...], tokenizer: Tokenizer, max_length: int) -> Model:
    """The teacher, checked: it has the task's head, the same labels and the same tokenizer as the student."""
    teacher = load_model(directory)
    if teacher.config.int8:
        raise UserError(f"--teacher {directory}: is an int8 model; distil from the float model that it was made of")
    if teacher.config.head != task.head:
        raise UserError(
            f"--teacher {directory}: has a {teacher.config.head or 'pre-training'} head, {task.name} needs a "
            f"{task.head} head; fine-tune it first (train without --teacher)"
        )
    try:
        label_order(teacher.config.labels, labels)
    except UserError as error:
        raise UserError(f"--teacher {directory}: {error}") from None
    its_tokenizer = load_tokenizer(directory)
    if its_tokenizer.fingerprint != tokenizer.fingerprint:
        raise UserError(
            f"--teacher {directory}: its tokenizer differs from the student's, so their tokens don't "
            "correspond; give the student the teacher's tokenizer"
        )
    check_fit(teacher, its_tokenizer, max_length, f"--teacher {directory}")
    return teacher


def read_data(
    arguments: argparse.Namespace, task: Task, data: DataConfig, config: TrainConfig
) -> tuple[Sequence, Sequence, tuple[str, ...], list[str]]:
    """Training and dev examples, the labels (those of the whole training file, however much of it is used), and notes.

    --limit cuts the training examples only.
    """
    examples = task.read(arguments.train, "train" if task.splits else "", data)
    labels = task.label_list(examples)
    if arguments.dev.endswith("%") and not Path(arguments.dev).exists():
        mask = drawn(task, examples, arguments.dev, "--dev")
        dev_examples, examples = (Subset(examples, part.nonzero()[0]) for part in (mask, ~mask))
    else:
        dev_examples = task.read(Path(arguments.dev), "val" if task.splits else "", data)
    examples, notes = task.trainable(limited(examples, data.limit))
    if not examples or not dev_examples:
        raise UserError(f"{arguments.train}: leaves {len(examples)} training and {len(dev_examples)} dev examples")
    if config.labelled:
        mask = drawn(task, examples, config.labelled, "--labelled")
        known, others = (Subset(examples, part.nonzero()[0]) for part in (mask, ~mask))
        notes.append(f"--labelled {config.labelled}: {len(known):,} examples have a label, {len(others):,} have none")
        # examples of one group stay side by side: windows may span them
        examples = WithoutLabels(examples, ~mask, task.unlabel) if arguments.teacher else known
    return examples, list(dev_examples), labels, notes  # dev is scored again and again: from memory, whatever happens


def drawn(task: Task, examples: Sequence, amount: str, flag: str) -> np.ndarray:
    """Which of the examples are among so many drawn at random, N booleans; those of one group (a context, a document)
    are drawn together."""
    mask = np.zeros(len(examples), bool)
    if task.group is None:
        mask[list(limited(range(len(examples)), amount, flag))] = True
        return mask
    groups = list(map(task.group, examples))
    chosen = set(limited(list(dict.fromkeys(groups)), amount, flag))
    mask[:] = [group in chosen for group in groups]
    return mask


def read_unlabelled(arguments: argparse.Namespace, task: Task) -> Sequence:
    """The lines of --unlabelled that hold more than blanks, as training examples without label."""
    flag = f"--unlabelled {arguments.unlabelled}"
    name = arguments.unlabelled.name
    examples = text_rows(arguments.unlabelled, flag, lambda i, text: task.unlabelled(f"{name}:{i}", text))
    if not examples:
        raise UserError(f"{flag}: holds nothing but blank lines; give one text a line")
    return examples


def read_all(
    arguments: argparse.Namespace, task: Task, config: TrainConfig, data: DataConfig
) -> tuple[Sequence, Sequence, tuple[str, ...], Tokenizer, list[str]]:
    """Training examples with those of --unlabelled and --augment, dev examples, labels, the tokenizer, and notes."""
    unlabelled = read_unlabelled(arguments, task) if arguments.unlabelled else ()
    examples, dev_examples, labels, notes = read_data(arguments, task, data, config)
    if unlabelled:
        examples = Concat(examples, unlabelled)
        notes.append(f"{len(unlabelled):,} texts of {arguments.unlabelled} have no label: soft targets only")
    tokenizer = choose_tokenizer(arguments, task, examples)
    if config.augment:
        examples = Concat(examples, Altered(examples, config.augment, task, tokenizer))
    return examples, dev_examples, labels, tokenizer, notes


def training_inputs(
    arguments: argparse.Namespace,
    task: Task,
    config: TrainConfig,
    data: DataConfig,
    examples: Sequence,
    labels: tuple[str, ...],
    tokenizer: Tokenizer,
    source: dict[str, str | None],
    say=say,
) -> EncodedInputs:
    """The training examples as token ids, from the cache or made now. source: the data files' hashes before they were
    read; UserError where they have others now."""
    held_out = "" if Path(arguments.dev).exists() else arguments.dev
    origin = [str(source["train"]), str(source["unlabelled"]), held_out, config.labelled, str(config.augment)]
    origin.append(str(bool(arguments.teacher)))  # without one, text that has no label is left out
    origin.append(source_hash("training.setup"))  # what examples are made
    common = task, examples, tokenizer, labels, config.max_length, data, origin
    made = cached_features(*common, lambda: data_hashes(arguments) == source, arguments.cache or CACHE, say)
    return require_inputs(made, "--train")


def data_hashes(arguments: argparse.Namespace) -> dict[str, str | None]:
    """SHA-256 of each data file's content; of --dev the flag itself, where it is a percentage."""
    dev = Path(arguments.dev)
    return {
        "train": sha256_of_file(arguments.train),
        "unlabelled": sha256_of_file(arguments.unlabelled) if arguments.unlabelled else None,
        "dev": arguments.dev if arguments.dev.endswith("%") and not dev.exists() else sha256_of_file(dev),
    }


def check_flags(arguments: argparse.Namespace, config: TrainConfig, device: torch.device) -> None:
    """UserError where flags do not go together, or with the device."""
    amp_dtype(config.amp, device)  # refuses what the device cannot
    if config.gradient_checkpointing and config.dropout and device.type == "mps":
        raise UserError("--gradient-checkpointing on mps needs --dropout 0: computed again, it drops other numbers")
    for flag in ("teacher", "tokenizer", "init_layers"):
        value = getattr(arguments, flag)
        if value == "" or (isinstance(value, list) and "" in value):  # a variable of the shell that was never set
            raise UserError(f"--{flag.replace('_', '-')} is empty; give a name, or leave it out")
    if arguments.task == "mlm" and len(arguments.teacher or ()) > 1:
        raise UserError("--teacher: of masked words one teacher can speak, since it runs in every step; give one")
    if arguments.task == "mlm" and config.keep_states:
        raise UserError(
            "--keep-states: other words are hidden in every epoch, so there is nothing to keep; leave it out"
        )
    if arguments.task == "mlm" and arguments.unlabelled:
        raise UserError("--unlabelled: the lines of --train are such text already; leave it out")
    if arguments.task == "mlm" and config.labelled:
        raise UserError("--labelled: masked words need no labels; leave it out")
    if arguments.unlabelled and TASKS[arguments.task].unlabelled is None:
        raise UserError(f"--unlabelled: plain text is no input for {arguments.task}; leave it out")
    if arguments.unlabelled and (not arguments.teacher or config.alpha == 0):
        raise UserError(
            "--unlabelled: only a teacher can say what such text means; give --teacher, and an --alpha above 0"
        )
    if config.losses and not arguments.teacher:
        raise UserError("--losses compares student and teacher; give --teacher")
    if config.augment and (not arguments.teacher or config.alpha == 0):
        raise UserError(
            "--augment: only a teacher can say what such text means; give --teacher, and an --alpha above 0"
        )
    if config.labelled and arguments.teacher and config.alpha == 0:
        raise UserError("--labelled: with an --alpha of 0 nobody says what the other texts mean; leave --teacher out")


def libraries(device: torch.device) -> dict[str, str]:
    """The kind of device, and the versions of what computes."""
    return {
        "device": device.type,
        "torch": torch.__version__,
        "numpy": np.__version__,  # which draws the order of the batches
        "tokenizers": tokenizers.__version__,
    }
