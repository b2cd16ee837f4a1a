"""Before work starts: what would waste it is found in seconds. What cannot work is refused, the rest is told.

The table is printed by every `train`; `train --check` stops behind it. Shares are of a sample. Memory is an estimate:
within a fifth of what was measured (MiniLM's and DistilBERT's shapes, CPU) where a batch holds texts of full length.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kd_scratch.common import distributed
from kd_scratch.common.console import shorten
from kd_scratch.common.device import free_memory
from kd_scratch.common.files import UserError
from kd_scratch.config import DataConfig, ModelConfig, TrainConfig
from kd_scratch.data.batches import IGNORE, EncodedInputs, num_masked, require_inputs
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.distillation.losses import HiddenLosses
from kd_scratch.evaluation.inference import logits_shape
from kd_scratch.nn.model import Model
from kd_scratch.tasks import Task, limited

SAMPLE = 1000  # examples of the training file, and as many of the dev file, that are looked at
LARGE = 0.05  # a share of them that calls for a remark
LIBRARIES = 400e6  # bytes that Python and PyTorch take for themselves


def preflight(
    arguments: argparse.Namespace,
    task: Task,
    examples: Sequence,
    dev_examples: Sequence,
    labels: tuple[str, ...],
    tokenizer: Tokenizer,
    model: Model,
    teachers: list[Model],
    hidden_losses: HiddenLosses | None,
    config: TrainConfig,
    data: DataConfig,
    device: torch.device,
) -> list[tuple[str, str]]:
    """What was found, as rows of a table. UserError where the work could not be finished.

    That the teacher, its labels and its tokenizer fit is checked when they are opened (prepare.py).
    """
    parts = {}
    for name, part in (("train", examples), ("dev", dev_examples)):
        sample = _sample(task, part)
        parts[name] = sample, task.featurize(sample, tokenizer, labels, config.max_length, data)
        require_inputs(parts[name][1], f"--{name}")
    rows = [("labels", _labels(task, labels, *(inputs for _, inputs in parts.values())))]
    unknown = float(np.mean(parts["train"][1].tokens == tokenizer.unknown_id))
    size = f"{tokenizer.vocab_size:,} pieces, the model has room for {model.config.vocab_size:,}; of those in train"
    rows.append(("vocabulary", f"{size} {_share(unknown, 'are unknown', 'is this the vocabulary of that language?')}"))
    rows.append(("length", f"--max-length {config.max_length} of the model's {model.config.max_positions:,} positions"))
    rows += [(f"  {name}", _cut(task, *part, tokenizer, config, data)) for name, part in parts.items()]
    rows.append(("layers", _layers(arguments, model, teachers)))
    if teachers:
        rows.append(("loss", _loss(config, hidden_losses)))
    sample, inputs = parts["train"]
    scale = len(examples) / len(sample)
    kept = hidden_losses if config.keep_states else None
    rows.append(("disk", _disk(arguments, model, teachers, inputs, scale, kept, config.alpha > 0)))
    longest = int(max(inputs.lengths.max(), parts["dev"][1].lengths.max()))
    rows.append(("memory", _memory(model, teachers, hidden_losses, config, longest, device)))
    return rows


def _sample(task: Task, examples: Sequence) -> list:
    """Some examples, drawn at random; where those of a group are read together, what stands in the file's middle."""
    count = min(SAMPLE, len(examples))
    if task.group is None:
        return list(limited(examples, str(count)))
    start = (len(examples) - count) // 2
    return list(examples[start : start + count])


def _share(share: float, what: str, cure: str) -> str:
    """A share, and behind a large one what to do about it."""
    return f"{share:.1%} {what}" + (f" ({cure})" if share > LARGE else "")


def _labels(task: Task, labels: tuple[str, ...], train: EncodedInputs, dev: EncodedInputs) -> str:
    """How many there are, and whether dev has others (in classification featurizing refuses those)."""
    if task.head == "span":
        return "start and end of the answer"
    if task.head == "mlm":
        return f"hidden words, {num_masked(100)}% of them all"
    told = f"{len(labels):,}: {', '.join(shorten(label, 30) for label in labels[:5])}{', …' if len(labels) > 5 else ''}"
    if task.head == "token":
        unknown = float(np.mean(dev.labels[dev.word_at] == IGNORE))
        return f"{told}; {_share(unknown, 'of the words of dev have a tag that train lacks', 'are both of one kind?')}"
    known = train.labels[train.labels >= 0]
    if len(known) >= 20 and len(np.unique(known)) > 0.9 * len(known):
        told += f"; HARDLY ANY IS THERE TWICE among {len(known):,} examples: is that the column of the labels?"
    return told


def _cut(
    task: Task, sample: list, features: EncodedInputs, tokenizer: Tokenizer, config: TrainConfig, data: DataConfig
) -> str:
    """What max_length cuts off or puts out of reach."""
    if task.head == "mlm":
        return f"{len(features) / len(sample):.2f} inputs for each text, which are read to their end"
    if task.head == "sequence":
        one_more = tokenizer.encode(task.texts(sample), max_length=config.max_length + 1)
        lengths = [len(encoding.ids) for encoding in one_more]
        cut = float(np.mean(np.array(lengths) > config.max_length))
        return _share(cut, "of the texts are cut", "a larger --max-length would read more of them")
    told = f"{len(features) / len(sample):.2f} windows for each {'question' if task.head == 'span' else 'sentence'}"
    if task.head == "token":
        return told
    findable = {i for i, example in enumerate(sample) if example.start is not None}
    cut = set(features.example[features.labels[:, 0] == IGNORE].tolist()) & findable
    long = features.example[features.labels[:, 1] - features.labels[:, 0] >= data.answer_length]
    lost, beyond = (len(which) / max(1, len(findable)) for which in (cut, set(long.tolist())))
    lost = _share(lost, "of the answers are whole in no window", "try a larger --max-length or --overlap")
    beyond = _share(beyond, f"longer than --answer-length {data.answer_length}", "a larger one would reach them")
    return f"{told}; {lost}, {beyond}"


def _layers(arguments: argparse.Namespace, model: Model, teachers: list[Model]) -> str:
    """Where the model's layers come from."""
    chosen = arguments.init_layers
    if chosen:
        told = f"{', '.join(map(str, chosen))} of {arguments.model} become {', '.join(map(str, range(len(chosen))))}"
    else:
        told = f"{model.config.depth}, " + (
            f"all of {arguments.model}" if Path(arguments.model).is_dir() else "with random weights"
        )
    return told + "".join(f"; the teacher has {teacher.config.depth}" for teacher in teachers)


def _loss(config: TrainConfig, hidden_losses: HiddenLosses | None) -> str:
    """The terms of the loss, and which layers are compared."""
    told = f"{1 - config.alpha:g} · labels + {config.alpha:g} · soft targets (T = {config.temperature:g})"
    return told + (f" + {hidden_losses.describe()}, student→teacher; 0: embeddings" if hidden_losses else "")


def _disk(
    arguments: argparse.Namespace,
    model: Model,
    teachers: list[Model],
    features: EncodedInputs,
    scale: float,
    kept: HiddenLosses | None = None,
    soft: bool = True,
) -> str:
    """What the run will write at most, and what is free there; UserError where it is not enough."""
    # A state is weights and two moments. Of states and of kept weights: the last, the one before, and a new one.
    output = 3 * (3 + 1) * 4 * model.num_parameters()
    arrays = (features.tokens, features.labels, features.token_types, features.allowed, features.starts)
    cache = sum(array.nbytes for array in arrays if array is not None)
    for teacher in teachers if soft and features.head != "mlm" else ():
        cache += 2 * 4 * int(np.prod(logits_shape(teacher, features)))  # computed in one file, kept in another
    if kept:  # hidden states
        cache += 2 * 4 * len(features.tokens) * teachers[0].config.width * len(kept.needed())
    cache = int(scale * cache)
    needs: dict[int, tuple[int, list[str]]] = {}  # by disk: bytes, folders
    free_on: dict[int, int] = {}
    for folder, size in ((arguments.output, output), (arguments.cache, cache)):
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(f"{folder}: {there} cannot be written to; choose another folder")
        before, names = needs.get(there.stat().st_dev, (0, []))
        needs[there.stat().st_dev] = before + size, [*names, str(folder)]
        free_on[there.stat().st_dev] = shutil.disk_usage(there).free
    told = []
    for disk, (size, names) in needs.items():
        free, where = free_on[disk], " and ".join(names)
        if size > free and not arguments.resume:  # or part of it is there already
            raise UserError(
                f"{where}: needs about {in_megabytes(size)}, {in_megabytes(free)} are free; make room first"
            )
        told.append(f"about {in_megabytes(size)} for {where}, {in_megabytes(free)} are free")
    return "; ".join(told)


def _memory(
    model: Model,
    teachers: list[Model],
    hidden_losses: HiddenLosses | None,
    config: TrainConfig,
    longest: int,
    device: torch.device,
) -> str:
    """What the run will take at most, and what is free."""
    need = training_bytes(model.config, model.num_parameters(), config, longest, distributed.world_size())
    theirs = [4 * teacher.num_parameters() for teacher in teachers]
    if hidden_losses:  # then the first one stays, with its hidden states, and products of all tokens with all others
        shape, pairs = teachers[0].config, hidden_losses.pairs
        tokens = -(-config.batch_size // (config.accumulation * distributed.world_size())) * longest
        products = 8 * len(pairs.get("relations", ())) + 2 * len(pairs.get("attention", ()))
        need += theirs[0] + 4 * tokens * ((shape.depth + 10) * shape.width + products * shape.heads * longest)
    if model.config.head == "mlm":  # logits of all words, their softmax and gradients; a teacher runs in every step
        words = num_masked(-(-config.batch_size // (config.accumulation * distributed.world_size())) * longest)
        need += 4 * words * model.config.vocab_size * (8 if teachers else 4)
        need += sum(theirs) if not hidden_losses else 0
    need = max(need, int(LIBRARIES) + 4 * model.num_parameters() + sum(theirs))
    if device.type == "cpu":
        need *= int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if distributed.world_size() > 1 else 1
    free = free_memory(device)
    told = f"up to about {in_megabytes(need)}" + (f", {in_megabytes(free)} are free" if free else "")
    if free and need > free:
        told += "; TOO LITTLE: try --accumulation, --gradient-checkpointing, or a smaller --batch-size"
    return told


def training_bytes(shape: ModelConfig, parameters: int, config: TrainConfig, longest: int, processes: int = 1) -> int:
    """About what training takes at its peak, in float32: weights, gradients and two moments; one part's activations.

    For each token, a layer keeps for the backward pass some 10 vectors of the model's width, 3 of the feed-forward's
    and 2 rows of each head's attention map.
    """
    layer = 10 * shape.width + 3 * shape.feed_forward + 2 * shape.heads * longest
    numbers = 2 * layer + shape.depth * shape.width if config.gradient_checkpointing else shape.depth * layer
    tokens = -(-config.batch_size // (config.accumulation * processes)) * longest
    return int(LIBRARIES) + 16 * parameters + 4 * tokens * numbers


def in_megabytes(size: float) -> str:
    """1234567890 -> "1,235 MB" """
    return f"{size / 1e6:,.0f} MB"
