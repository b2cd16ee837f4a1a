"""A model directory and a data file in, predictions and metrics out."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import check_fit, load_config, load_model
from kd_scratch.checkpoints.own_head import note_of_numbers, numbered
from kd_scratch.common.console import Say, say
from kd_scratch.common.device import describe, pick_device
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256_of_file
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import EncodedInputs, require_inputs
from kd_scratch.data.json_lines import open_rows
from kd_scratch.data.tokenizer import Tokenizer, load_tokenizer
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.nn import int8, kernels
from kd_scratch.nn.fast import make_fast
from kd_scratch.nn.model import Model
from kd_scratch.pages.records import origin_record
from kd_scratch.tasks import TASKS, Predictions, Task, limited
from kd_scratch.tasks.base import are_pairs, require_kind, require_labels_of
from kd_scratch.tasks.clinc_file import holds_splits
from kd_scratch.tasks.tag_schemes import TagScheme


@dataclass
class LoadedModel:
    """A model that is ready to be used, with its tokenizer and the input length that it was trained with."""

    model: Model
    tokenizer: Tokenizer
    max_length: int
    directory: str = ""  # where it was opened

    def describe(self) -> str:
        """Where it was opened, and how large it is: "runs/student (14.4M)"."""
        return f"{self.directory} ({self.model.num_parameters() / 1e6:.1f}M)"


def device_for(name: str, directories: Iterable[str | Path]) -> str:
    """The name of the device for some models: "auto" is the CPU for all where one of them is int8."""
    if name != "auto" or pick_device(name).type == "cpu":
        return name
    small = {str(directory): load_config(directory).int8 for directory in directories}
    if any(small.values()) and not all(small.values()):
        first = next(directory for directory, is_int8 in small.items() if is_int8)
        say(f"note: {first}: is an int8 model, which runs on the CPU only, and the others beside it")
    return "cpu" if any(small.values()) else name


def load_for_inference(
    directory: str | Path,
    task: Task | None = None,
    max_length: int = 0,
    device: torch.device | None = None,
    fast: bool = True,
) -> LoadedModel:
    """A model directory's model for use, with its tokenizer: on a device (None: the CPU), there in its fast form.

    max_length 0: the model's own. UserError where it has another head than the task, or cannot run there.
    """
    model = load_model(directory)
    device = device or torch.device("cpu")
    if model.config.int8 and device.type != "cpu":
        raise UserError(f"{directory}: is an int8 model, which runs on the CPU only; add --device cpu")
    if task is not None and model.config.head != task.head:
        own = model.config.head
        fits = (own, model.config.multi_label)
        fitting = ", ".join(name for name, other in TASKS.items() if (other.head, other.multi_label) == fits)
        raise UserError(
            f"{directory}: has {f'a {own}' if own else 'no'} head, {task.name} needs a {task.head} "
            f"head; train it first{f' (as it is, it fits --task {fitting})' if fitting else ''}"
        )
    if task is not None:
        require_labels_of(task, model.config, str(directory))
    if model.config.head == "token":
        try:
            TagScheme.of(model.config.labels)
        except UserError as error:
            raise UserError(f"{directory}: {error}") from None
    tokenizer = load_tokenizer(directory)
    max_length = max_length or min(tokenizer.max_length or model.config.max_positions, model.config.max_positions)
    check_fit(model, tokenizer, max_length, str(directory))
    model = make_fast(model) if fast and device.type == "cpu" else model.to(device)
    return LoadedModel(model, tokenizer, max_length, str(directory))


@dataclass(frozen=True)
class EvaluationSet:
    """The examples that models are evaluated on, and where they come from."""

    task: Task
    path: Path
    split: str  # "" where a file is one split
    data: DataConfig
    examples: Sequence

    @cached_property
    def sha256(self) -> str:
        """Of the file."""
        return sha256_of_file(self.path)

    def describe(self) -> str:
        """Size and source in a few words: "4,500 examples of data_full.json, split test"."""
        return f"{len(self.examples):,} examples of {self.path}" + (f", split {self.split}" if self.split else "")

    def is_of(self, split: str) -> bool:
        """Whether these are the examples of a split of the file; of a file that is one split, always."""
        if self.split in ("", split):
            return True
        return not holds_splits(open_rows(self.path, self.data.encoding, say=lambda note: None))

    def record(self, max_length: int = 0) -> dict:
        """What was evaluated on, for the record beside every figure."""
        return {
            "task": self.task.name,
            "data": str(self.path),
            "data sha256": self.sha256,
            "split": self.split or None,
            "data settings": asdict(self.data),
            "max length": max_length or None,
        }


def find_split(task: Task, split: str) -> str:
    """The split, or of files that have several and none is named, "test". UserError where they have no such split."""
    if split and split not in task.splits:
        known = f"the splits {', '.join(task.splits)}" if task.splits else "no splits; leave it out"
        raise UserError(f"--split {split}: the files of {task.name} have {known}")
    return split or ("test" if task.splits else "")


def read_evaluation_set(task: Task, path: Path, split: str, data: DataConfig, say: Say = say) -> EvaluationSet:
    """The examples of a split of a file: "test" where a file has splits and none is named.

    say: what takes notes of what was decided about the file, or repaired in it.
    Raises UserError for a split that the task's files do not have, and where there are no examples.
    """
    split = find_split(task, split)
    examples = limited(task.read(path, split, data, say=lambda note: say(f"note: {note}")), data.limit)
    if not examples:
        raise UserError(f"{path}: holds no examples to evaluate on")
    return EvaluationSet(task, path, split, data, examples)


def trained_on(directory: str | Path, examples: EvaluationSet) -> bool:
    """Whether a model, or the one it was made of, was trained on the file of these examples, with labels or
    without; in a file that holds splits, on theirs. As far as the record beside it tells."""
    record = origin_record(directory, say=lambda note: None) if directory else None
    if record is None:
        return False
    with_labels = record.get("train") == examples.sha256 and examples.is_of("train")
    return with_labels or (record.get("unlabelled") == examples.sha256 and examples.is_of(""))


def notes_of_training(directories: Iterable[str | Path], *sets: EvaluationSet) -> list[str]:
    """A note for each model that was trained on the file of one of the sets; they are printed, too."""
    notes = {}
    for directory in directories:
        for examples in sets:
            if trained_on(directory, examples):
                what = f"{directory} was trained on {examples.path}: its scores here say nothing about new texts"
                notes[what] = None
    for note in notes:
        say(f"note: {note}")
    return list(notes)


def name_labels(loaded: LoadedModel, task: Task, examples: Sequence) -> None:
    """Let a model whose labels have no names (LABEL_0, …) call them by their numbers where the examples do; say so."""
    if task.head != "sequence":
        return
    gold = {task.gold(example) for example in examples} - {None}
    gold = set().union(*gold) if task.multi_label else gold
    labels = numbered(loaded.model.config.labels, gold)
    if labels != loaded.model.config.labels:
        say(f"note: {loaded.directory}: {note_of_numbers(labels)}")
        loaded.model.config = replace(loaded.model.config, labels=labels)


def require_fit(loaded: LoadedModel, pairs: bool, source: str) -> None:
    """UserError where a model of single texts gets pairs, or vice versa, or cannot tell two texts apart."""
    require_kind(loaded.directory, loaded.model.config.pairs, source, pairs)
    if pairs and loaded.model.config.pairs is None:  # else it was checked when it was opened
        check_fit(loaded.model, loaded.tokenizer, loaded.max_length, loaded.directory, pairs=True)


def evaluate(
    loaded: LoadedModel,
    task: Task,
    examples: Sequence,
    data: DataConfig,
    device: torch.device,
    compute: Callable[[Model, EncodedInputs, torch.device], np.ndarray] = compute_logits,
) -> Predictions:
    """The model's predictions on the examples. `task.score` makes metrics of them.

    compute: makes the logits.
    """
    name_labels(loaded, task, examples)
    labels = loaded.model.config.labels
    require_fit(loaded, are_pairs(examples), "--data")
    features = require_inputs(task.featurize(examples, loaded.tokenizer, labels, loaded.max_length, data), "--data")
    logits = compute(loaded.model, features, device)
    return Predictions(task, examples, features, logits, labels, data, loaded.model.config.threshold)


@dataclass(frozen=True)
class Evaluation:
    """A model on an evaluation set: its predictions, the metrics made of them, and a record that JSON can hold."""

    predictions: Predictions
    metrics: dict  # by name; per_class holds those of each class
    record: dict  # model, data, settings, machine, metrics


def evaluate_set(
    loaded: LoadedModel, test_set: EvaluationSet, device: torch.device, max_length: int = 0, alone: bool = False
) -> Evaluation:
    """A loaded model on an evaluation set.

    max_length: what was asked for, for the record. alone: count also how many decisions change without a batch, in
    the metric changed_alone.
    """
    predictions = evaluate(loaded, test_set.task, test_set.examples, test_set.data, device)
    metrics = test_set.task.score(predictions)
    if alone:
        metrics["changed_alone"] = changed_alone(loaded, predictions, device)
    record = test_set.record(max_length)
    record["notes"] = notes_of_training([loaded.directory], test_set)
    record |= {"model": loaded.directory, "machine": about_machine(device, [loaded.model]), "metrics": metrics}
    return Evaluation(predictions, metrics, record)


def changed_alone(loaded: LoadedModel, predictions: Predictions, device: torch.device) -> int:
    """How many decisions change when each input is computed by itself, without padding, instead of in a batch.

    None but for ties in a float model, and in an int8 model unless its activations have a scale for each batch.
    """
    logits = compute_logits(loaded.model, predictions.features, device, batch_size=1, title="alone")
    decisions = replace(predictions, logits=logits).decisions
    return sum(alone != batched for alone, batched in zip(decisions, predictions.decisions, strict=True))


def about_machine(device: torch.device, models: Iterable[Model]) -> dict:
    """What it was computed on, for the record beside every figure; with what computes linear layers."""
    machine = describe(device)
    if small := [model for model in models if model.config.int8]:
        machine["int8"] = int8.describe(small)
    used = {kernel for _, kernel, _ in kernels.choices()}
    if used and device.type == "cpu":
        machine["kernels"] = ", ".join(sorted(used))
    return machine
