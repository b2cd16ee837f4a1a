"""A checkpoint and a data file in, metrics out. `python -m kd_scratch evaluate`"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kd_scratch.checkpoints.checkpoint import check_fit, load_model
from kd_scratch.common.console import say, show, table
from kd_scratch.common.device import describe, start
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_target, sha256_of_file, write_json
from kd_scratch.config import DataConfig, RunConfig, add_flags, as_dict, given
from kd_scratch.data.batches import require_inputs
from kd_scratch.data.tokenizer import Tokenizer, load_tokenizer
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.nn import int8
from kd_scratch.nn.fast import make_fast
from kd_scratch.nn.model import Model
from kd_scratch.tasks import TASKS, Predictions, Task, limited


@dataclass
class LoadedModel:
    """A model that is ready to be used, with its tokenizer and the input length it was made for."""

    model: Model
    tokenizer: Tokenizer
    max_length: int


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
        raise UserError(
            f"{directory}: has a {model.config.head or 'pre-training'} head, {task.name} needs a {task.head} "
            "head; train it first"
        )
    tokenizer = load_tokenizer(directory)
    max_length = max_length or min(tokenizer.max_length or model.config.max_positions, model.config.max_positions)
    check_fit(model, tokenizer, max_length, str(directory))
    model = make_fast(model) if fast and device.type == "cpu" else model.to(device)
    return LoadedModel(model, tokenizer, max_length)


@dataclass(frozen=True)
class EvaluationSet:
    """The examples that models are evaluated on, and where they come from."""

    task: Task
    path: Path
    split: str  # "" where a file is one split
    data: DataConfig
    examples: Sequence

    def describe(self) -> str:
        """Size and source in a few words: "4,500 examples of data_full.json, split test"."""
        return f"{len(self.examples):,} examples of {self.path}" + (f", split {self.split}" if self.split else "")

    def record(self, max_length: int = 0) -> dict:
        """What was evaluated on, for the record beside every figure."""
        return {
            "task": self.task.name,
            "data": str(self.path),
            "data sha256": sha256_of_file(self.path),
            "split": self.split or None,
            "data settings": as_dict(self.data),
            "max length": max_length or None,
        }


def read_evaluation_set(task: Task, path: Path, split: str, data: DataConfig) -> EvaluationSet:
    """The examples of a split of a file: "test" where a file has splits and none is named.

    Raises UserError for a split that the task's files do not have, and where there are no examples.
    """
    if split and split not in task.splits:
        known = f"the splits {', '.join(task.splits)}" if task.splits else "no splits"
        raise UserError(f"--split {split}: the files of {task.name} have {known}")
    if not split and task.splits:
        split = "test"
    examples = limited(task.read(path, split, data), data.limit)
    if not examples:
        raise UserError(f"{path}: holds no examples to evaluate on")
    return EvaluationSet(task, path, split, data, examples)


def about_machine(device: torch.device, models: Iterable[Model]) -> dict:
    """What it was computed on, for the same record; with the int8 kernels where a model uses them."""
    return describe(device) | ({"int8": int8.describe()} if any(model.config.int8 for model in models) else {})


def evaluate(
    loaded: LoadedModel, task: Task, examples: Sequence, data: DataConfig, device: torch.device
) -> Predictions:
    """What the model makes of the examples."""
    labels = loaded.model.config.labels
    features = require_inputs(task.featurize(examples, loaded.tokenizer, labels, loaded.max_length, data), "--data")
    logits = compute_logits(loaded.model, features, device)
    return Predictions(task, examples, features, logits, labels, data)


def changed_alone(loaded: LoadedModel, predictions: Predictions, device: torch.device) -> int:
    """How many decisions change when each input is computed by itself, without padding, instead of in a batch.

    None in a float model, but for ties. In an int8 model the scale of an activation is that of its whole batch.
    """
    alone = compute_logits(loaded.model, predictions.features, device, batch_size=1, title="alone")
    return sum(a != b for a, b in zip(replace(predictions, logits=alone).decisions, predictions.decisions, strict=True))


def add_data_arguments(parser: argparse.ArgumentParser, tasks: Iterable[str] = TASKS) -> None:
    """The flags that evaluate and compare share."""
    parser.add_argument("--task", required=True, choices=list(tasks))
    parser.add_argument("--data", required=True, type=Path, metavar="FILE", help="the file to evaluate on")
    parser.add_argument("--split", default="", metavar="NAME", help="clinc: train, val or test (default test)")
    parser.add_argument(
        "--max-length",
        type=int,
        default=0,
        metavar="N",
        help="longest input in word pieces (default: what the model was trained with)",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate`."""
    add_data_arguments(parser)
    parser.add_argument("--model", required=True, metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write the metrics there")
    parser.add_argument(
        "--alone",
        action="store_true",
        help="compute everything once more, each input by itself, and tell how many decisions change; an int8 model's "
        "may, since its activations are rounded by the range of their batch",
    )
    parser.add_argument(
        "--predictions", type=Path, metavar="FILE.json", help="write what the model says of each example"
    )
    for config in (DataConfig, RunConfig):
        add_flags(parser, config)


def command(arguments: argparse.Namespace) -> dict:
    """`evaluate`: metrics, a table per class and the surest mistakes."""
    task, data = TASKS[arguments.task], DataConfig(**given(arguments, DataConfig))
    device = start(**vars(RunConfig(**given(arguments, RunConfig))))
    loaded = load_for_inference(arguments.model, task, arguments.max_length, device)
    test = read_evaluation_set(task, arguments.data, arguments.split, data)
    written = [path for path in (arguments.output, arguments.predictions) if path is not None]
    for path in written:  # now, not after minutes of work
        check_target(path, arguments.data, arguments.model)
    if len(written) == 2 and written[0].resolve() == written[1].resolve():
        raise UserError(f"--output and --predictions are both {written[0]}; give each its own file")
    size = f"{loaded.model.num_parameters() / 1e6:.1f}M"
    where = f"{test.describe()}, {device.type}, {torch.get_num_threads()} threads"
    say(f"evaluating {arguments.model} ({size}) on {where}")
    predictions = evaluate(loaded, task, test.examples, data, device)
    metrics = task.score(predictions)
    if arguments.alone:
        metrics["changed_alone"] = changed_alone(loaded, predictions, device)
    figures = {name: value for name, value in metrics.items() if not isinstance(value, dict)}
    # A threshold is given back to the program, so none of its digits may be lost.
    rows = [(name, repr(value) if name.endswith("threshold") else value) for name, value in figures.items()]
    show(table(("metric", "value"), rows))
    show("\n" + task.details(metrics))
    show("\n" + task.mistakes(predictions, 5))
    machine = about_machine(device, [loaded.model])
    about = test.record(arguments.max_length) | {"model": arguments.model, "machine": machine}
    if arguments.output:
        write_json(arguments.output, about | {"metrics": metrics})
    if arguments.predictions:
        write_json(arguments.predictions, task.prediction_records(predictions))
    return about | {"metrics": metrics}
