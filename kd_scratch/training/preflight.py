"""Before work starts: what would waste it is found in seconds. What cannot work is refused, the rest is shown.

The command `train` prints the table; `train --check` stops behind it. Shares are of a sample. Memory is an estimate:
within a fifth of what was measured (MiniLM's and DistilBERT's shapes, CPU) where a batch holds texts of full length.
"""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kd_scratch.common import distributed
from kd_scratch.common.console import shorten
from kd_scratch.common.device import free_memory
from kd_scratch.common.errors import UserError
from kd_scratch.config import SIZES, ModelConfig, TrainConfig
from kd_scratch.data.batches import IGNORE, EncodedInputs, require_inputs
from kd_scratch.data.masking import num_masked
from kd_scratch.distillation.layer_map import explicit, usual_map
from kd_scratch.evaluation.advice import advice, chance_of, ingredients, is_baseline, same_dev
from kd_scratch.evaluation.inference import logits_shape
from kd_scratch.pages.records import RECORD, known_record
from kd_scratch.tasks import Task, limited
from kd_scratch.tasks.file_checks import near_labels, odd_labels, odd_texts
from kd_scratch.training.layer_choice import describe_choice, read_choice
from kd_scratch.training.setup import Run, made_of

SAMPLE = 1000  # examples of the training file, and as many of the dev file, that are looked at
LARGE = 0.05  # a share of them that calls for a remark
COMPARED = 20_000  # examples of the training file in which those of dev are looked for
TWICE = 0.1  # a share of dev in train that calls for a remark; in CoNLL-2003 it is 0.06, of short lines
LIBRARIES = 400e6  # bytes that Python and PyTorch take for themselves


@dataclass
class Sample:
    """Some examples of a file, and their token ids."""

    examples: list
    inputs: EncodedInputs


def preflight(run: Run) -> list[tuple[str, str]]:
    """What was found, as rows of a table. UserError where the work could not be finished.

    That the teacher, its labels and its tokenizer fit is checked when they are opened (setup.py).
    """
    train = draw_sample(run, run.data.examples, "--train")
    dev = draw_sample(run, run.data.dev_examples, "--dev")
    rows = [
        ("labels", about_labels(run.task, run.data.labels, train.inputs, dev.inputs)),
        ("examples", about_examples(run.task, train, dev)),
        ("overlap", about_overlap(run, dev)),
        ("vocabulary", about_vocabulary(run, train.inputs)),
        (
            "length",
            f"--max-length {run.spec.config.max_length} of the model's {run.model.config.max_positions:,} positions",
        ),
        ("  train", about_length(run, train)),
        ("  dev", about_length(run, dev)),
        ("layers", about_layers(run)),
    ]
    if run.teachers or run.answers:
        rows += [("loss", about_loss(run)), ("gain", about_gain(run))]
    rows.append(("disk", about_disk(run, train)))
    longest = int(max(train.inputs.lengths.max(), dev.inputs.lengths.max()))
    rows.append(("memory", about_memory(run, longest)))
    return [(name, found) for name, found in rows if found]


def draw_sample(run: Run, examples: Sequence, flag: str) -> Sample:
    """Some examples, drawn at random; of sentences, which are read with their neighbours, the file's middle."""
    count = min(SAMPLE, len(examples))
    if run.task.group is None or run.task.head == "span":
        drawn = list(limited(examples, str(count)))
    else:
        start = (len(examples) - count) // 2
        drawn = list(examples[start : start + count])
    inputs = run.task.featurize(drawn, run.data.tokenizer, run.data.labels, run.spec.config.max_length, run.spec.data)
    return Sample(drawn, require_inputs(inputs, flag))


def share(part: float, what: str, cure: str) -> str:
    """A share in per cent, and behind a large one what to do about it."""
    return f"{part:.1%} {what}" + (f" ({cure})" if part > LARGE else "")


def about_labels(task: Task, labels: tuple[str, ...], train: EncodedInputs, dev: EncodedInputs) -> str:
    """How many labels there are, and whether dev has others (in classification featurizing refuses those)."""
    if task.head == "span":
        return "start and end of the answer"
    if task.head == "mlm":
        return f"masked words, {num_masked(100)}% of them all"
    more = ", …" if len(labels) > 5 else ""
    text = f"{len(labels):,}: {', '.join(shorten(label, 30) for label in labels[:5])}{more}"
    if task.head == "token":
        unknown = float(np.mean(dev.labels[dev.word_at] == IGNORE))
        text += f"; {share(unknown, 'of the words of dev have a tag that train lacks', 'are both of one kind?')}"
        types = dict.fromkeys(label[2:] for label in labels if label[1:2] == "-")
        return "; ".join([text, *near_labels(list(types))])
    if task.multi_label:
        marks = train.labels[(train.labels >= 0).any(axis=1)] > 0  # those of n texts, n,C
        absent = [labels[i] for i in np.flatnonzero(~marks.any(axis=0))]
        if len(marks):
            text += f"; {marks.sum(axis=1).mean():.1f} a text"
            text += f", {np.mean(~marks.any(axis=1)):.0%} of the texts have none"
        if absent:
            text += f"; NO TEXT of {len(marks):,} has {', '.join(shorten(label, 30) for label in absent[:5])}"
        return "; ".join([text, *near_labels(labels)])
    labelled = train.labels[train.labels >= 0]
    return "; ".join([text, *odd_labels([labels[i] for i in labelled], labels)])


def about_examples(task: Task, train: Sample, dev: Sample) -> str:
    """What looks wrong about the examples; "" where all is well."""
    odd = task.odd or (lambda examples: odd_texts(task.texts(examples)))
    samples = {"train": train, "dev": dev}
    return "; ".join(f"{name}: {remark}" for name, sample in samples.items() for remark in odd(sample.examples))


def about_overlap(run: Run, dev: Sample) -> str:
    """Which share of dev's texts stands among those of train, of which some are looked at; "" where it is small."""
    hashes, examples, texts = run.data.hashes, run.data.examples, run.task.texts
    if "dev" in hashes and hashes["dev"] == hashes["train"] and not run.task.splits:
        return "--dev IS THE SAME FILE as --train: scores will be too good; give another, or a share as in --dev 10%"
    drawn = range(0, len(examples), -(-len(examples) // COMPARED))
    known = Counter(tuple(texts([examples[i]])) for i in drawn)
    # A text that was drawn once stands for others that were not; one that was drawn twice is a usual one.
    weight = (0, len(examples) / len(drawn), 1)
    part = min(1.0, float(np.mean([weight[min(2, known[tuple(texts([example]))])] for example in dev.examples])))
    text = f"{part:.0%} OF DEV STANDS IN TRAIN TOO: scores will be too good; take other examples"
    return text if part > TWICE else ""


def about_vocabulary(run: Run, train: EncodedInputs) -> str:
    """The sizes of vocabulary and table, and how many tokens are unknown."""
    tokenizer = run.data.tokenizer
    unknown = float(np.mean(train.tokens == tokenizer.unknown_id))
    size = f"{tokenizer.vocab_size:,} pieces, the model has room for {run.model.config.vocab_size:,}; of those in train"
    return f"{size} {share(unknown, 'are unknown', 'is this the vocabulary of that language?')}"


def about_length(run: Run, sample: Sample) -> str:
    """What max_length cuts off or puts out of reach."""
    head = run.task.head
    per_example = f"{len(sample.inputs) / len(sample.examples):.2f}"
    if head == "sequence":
        return about_cut_texts(run, sample)
    if head == "mlm":
        return f"{per_example} inputs for each text, which are read to their end"
    if head == "token":
        return f"{per_example} windows for each sentence"
    return f"{per_example} windows for each question; {about_answers(run, sample)}"


def about_cut_texts(run: Run, sample: Sample) -> str:
    """How many texts are longer than max_length."""
    longest = run.spec.config.max_length
    data = run.data
    lengths = run.task.featurize(sample.examples, data.tokenizer, data.labels, longest + 1, run.spec.data).lengths
    cut = float(np.mean(lengths > longest))
    return share(cut, "of the texts are cut", "a larger --max-length would read more of them")


def about_answers(run: Run, sample: Sample) -> str:
    """How many answers no window holds whole, and how many are longer than is looked for."""
    inputs, limit = sample.inputs, run.spec.data.answer_length
    findable = {i for i, example in enumerate(sample.examples) if example.start is not None}
    in_no_window = set(inputs.example[inputs.labels[:, 0] == IGNORE].tolist()) & findable
    too_long = set(inputs.example[inputs.labels[:, 1] - inputs.labels[:, 0] >= limit].tolist())
    count = max(1, len(findable))
    first = share(
        len(in_no_window) / count, "of the answers are whole in no window", "try a larger --max-length or --overlap"
    )
    second = share(len(too_long) / count, f"longer than --answer-length {limit}", "a larger one would reach them")
    return f"{first}, {second}"


def about_layers(run: Run) -> str:
    """Where the model's layers come from."""
    model, layers = run.spec.model, run.spec.init_layers
    if run.spec.chooses_layers:
        text = describe_choice(run.spec, read_choice(run.spec.output))
    elif layers:
        text = f"{', '.join(map(str, layers))} of {model} become {', '.join(map(str, range(len(layers))))}"
    else:
        origin = f"all of {model}" if Path(model).is_dir() else "with random weights"
        text = f"{run.model.config.depth}, {origin}"
    return text + "".join(f"; the teacher has {teacher.config.depth}" for teacher in run.teachers)


def about_loss(run: Run) -> str:
    """The terms of the loss, and which layers are compared."""
    config = run.spec.config
    mean = f", mean of {len(run.teachers)} teachers' {config.teacher_mean}" if len(run.teachers) > 1 else ""
    mean = f", mean of {len(run.answers)} files' probabilities" if len(run.answers) > 1 else mean
    text = f"{1 - config.alpha:g} · labels + {config.alpha:g} · soft targets (T = {config.temperature:g}{mean})"
    if run.hidden_losses:
        text += f" + {run.hidden_losses.describe()}, student→teacher; 0: embeddings{about_map(run)}"
    return text


def about_map(run: Run) -> str:
    """Why these layers are compared, where nobody has asked for others."""
    if run.spec.chooses_layers:
        return "; those of the first choice of layers"
    depths = run.model.config.depth, run.teachers[0].config.depth
    layers = made_of(run.spec, depths[1])
    name, why = usual_map(layers)
    return f"; {why}" if explicit(name, *depths, layers) == run.spec.config.layer_map else ""


def about_gain(run: Run) -> str:
    """The dev scores of the (best) teacher and of a baseline beside the output, by their records, where dev was the
    same, and what follows from them; "" where no teacher's is known."""
    teachers = map(known_record, run.spec.teachers)
    scores = [record["best_score"] for record in teachers if record and same_dev(record, run.identity)]
    if not scores:
        return ""
    folders = (path.parent for path in run.spec.output.parent.glob(f"*/{RECORD}"))
    beside = (known_record(folder, say=lambda note: None) for folder in folders)  # whatever else lies there
    baselines = [record["best_score"] for record in beside if record and is_baseline(record, run.identity)]
    if not baselines or run.spec.chooses_layers:  # whose first weights are not known yet
        return f"the teacher has {100 * max(scores):.2f} on this dev; no baseline beside the output to compare it with"
    both, known = (max(scores), max(baselines)), ingredients(run.identity, run.spec.teachers, run.task)
    known |= {"still"} if run.spec.model in SIZES else set()  # random tables are to be learned
    return advice(*both, chance_of(both, len(run.data.dev_examples)), known)


# --- disk ---


def about_disk(run: Run, sample: Sample) -> str:
    """What the run will write at most, and what is free there; UserError where it is not enough."""
    needed: dict[int, int] = {}  # by disk: bytes
    least: dict[int, int] = {}  # the same, if all that the cache holds is this run's
    folders: dict[int, list[Path]] = {}
    cache = run.spec.cache
    for folder, size, there in (
        (run.spec.output, output_bytes(run), 0),
        (cache, cache_bytes(run, sample), cached_bytes(cache)),
    ):
        existing = nearest_existing(folder)
        if not existing.is_dir() or not os.access(existing, os.W_OK):
            raise UserError(f"{folder}: {existing} cannot be written to; choose another folder")
        disk = existing.stat().st_dev
        needed[disk] = needed.get(disk, 0) + size
        least[disk] = least.get(disk, 0) + max(0, size - there)
        folders.setdefault(disk, []).append(folder)
    texts = []
    for disk, size in needed.items():
        names = " and ".join(map(str, folders[disk]))
        free = shutil.disk_usage(nearest_existing(folders[disk][0])).free
        if least[disk] > free and not run.resume:  # or part of it is there already
            raise UserError(
                f"{names}: needs about {in_megabytes(size)}, {in_megabytes(free)} are free; make room first"
            )
        little = "" if size <= free else "; TOO LITTLE, unless the cache has this run's files already"
        texts.append(f"about {in_megabytes(size)} for {names}, {in_megabytes(free)} are free{little}")
    return "; ".join(texts)


def cached_bytes(cache: Path) -> int:
    """What a cache holds already, which may be deleted at any time."""
    total = 0
    for path in cache.glob("*.safetensors"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size
    return total


def nearest_existing(folder: Path) -> Path:
    """The folder itself, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def output_bytes(run: Run) -> int:
    """What the output folder takes at most: of states and of kept weights the last, the one before, and a new one.

    A state is weights and two moments.
    """
    return 3 * (3 + 1) * 4 * run.model.num_parameters()


def cache_bytes(run: Run, sample: Sample) -> int:
    """What the cache takes: token ids, and the teachers' logits, computed in one file and kept in another."""
    inputs = sample.inputs
    arrays = (inputs.tokens, inputs.labels, inputs.token_types, inputs.allowed, inputs.starts)
    size = sum(array.nbytes for array in arrays if array is not None)
    if run.spec.config.alpha > 0 and inputs.head != "mlm":
        makers = run.teachers + len(run.answers) * [run.model]
        size += sum(2 * 4 * int(np.prod(logits_shape(maker, inputs))) for maker in makers)
    return int((len(run.data.examples) + len(run.data.copies)) / len(sample.examples) * size)


# --- memory ---


def about_memory(run: Run, longest: int) -> str:
    """What the run will take at most, and what is free."""
    need = memory_bytes(run, longest)
    free = free_memory(run.device)
    text = f"up to about {in_megabytes(need)}"
    if free:
        text += f", {in_megabytes(free)} are free"
    if free and need > free:
        text += "; TOO LITTLE: try --accumulation, --gradient-checkpointing, or a smaller --batch-size"
    return text


def memory_bytes(run: Run, longest: int) -> float:
    """About what all processes of this machine take at most, with inputs of up to `longest` tokens."""
    shape, config = run.model.config, run.spec.config
    processes, kind = distributed.world_size(), run.device.type
    need = training_bytes(shape, run.model.num_parameters(), config, longest, processes, kind)
    tokens = part_size(config, distributed.world_size()) * longest
    teacher_weights = [4 * teacher.num_parameters() for teacher in run.teachers]
    if run.hidden_losses:  # then the first teacher stays, with its hidden states and the score maps of both
        teacher = run.teachers[0].config
        maps = run.hidden_losses.score_maps() * teacher.heads * longest
        need += teacher_weights[0] + 4 * tokens * ((teacher.depth + 10) * teacher.width + maps)
    if shape.head == "mlm":  # logits of all words, their softmax and gradients; a teacher runs in every step
        need += 4 * num_masked(tokens) * shape.vocab_size * (8 if run.teachers else 4)
        need += sum(teacher_weights) if not run.hidden_losses else 0
    need = max(need, int(LIBRARIES) + 4 * run.model.num_parameters() + sum(teacher_weights))
    if run.device.type == "cpu" and distributed.world_size() > 1:
        need *= int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return need


def training_bytes(
    shape: ModelConfig, parameters: int, config: TrainConfig, longest: int, processes: int = 1, device: str = "cpu"
) -> int:
    """About what training takes at its peak, in float32: weights, gradients and two moments; one part's activations.

    For each token, a layer keeps for the backward pass some 10 vectors of the model's width, 3 of the feed-forward's
    and 2 rows of each head's attention map (but where the fused kernel trains, see layers.attention).
    """
    has_maps = device == "cpu" and (shape.attention_dropout or config.amp == "bf16")
    maps = 2 * shape.heads * longest if has_maps else 0
    layer = 10 * shape.width + 3 * shape.feed_forward + maps
    numbers = 2 * layer + shape.depth * shape.width if config.gradient_checkpointing else shape.depth * layer
    tokens = part_size(config, processes) * longest
    return int(LIBRARIES) + 16 * parameters + 4 * tokens * numbers


def part_size(config: TrainConfig, processes: int) -> int:
    """Inputs that one process computes at once."""
    return -(-config.batch_size // (config.accumulation * processes))


def in_megabytes(size: float) -> str:
    """1234567890 -> "1,235 MB" """
    return f"{size / 1e6:,.0f} MB"
