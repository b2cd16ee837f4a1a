"""Several models on one test file, side by side: size, speed, quality. `python -m kd_scratch compare`"""

import argparse
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from kd_scratch.batches import collate
from kd_scratch.checkpoint import weight_files
from kd_scratch.config import DataConfig, RunConfig, add_flags, given
from kd_scratch.console import progress, table
from kd_scratch.evaluate import Opened, about_data, add_data_arguments, described, evaluate, open_model, read_test
from kd_scratch.files import UserError, make_folder, write_json, write_text
from kd_scratch.runtime import describe, start
from kd_scratch.tasks import TASKS, Task

TIMED, WARM_UP = 50, 5  # single examples per model, whose latency is measured, after so many that are not


def named_directory(text: str) -> tuple[str, str]:
    """ "teacher=runs/teacher" -> ("teacher", "runs/teacher")"""
    name, equals, directory = text.partition("=")
    if not (name and equals and directory):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR, for example teacher=runs/teacher")
    return name, directory


@torch.no_grad()
def latencies(
    models: dict[str, Opened], task: Task, examples: list, data: DataConfig, device: torch.device
) -> dict[str, float]:
    """Median milliseconds from text to logits, one example at a time.

    The models take turns on each example, so that a machine whose speed drifts is equally unfair to all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for i, example in enumerate(progress(examples[: TIMED + WARM_UP], desc="latency", unit="ex")):
        for name, opened in models.items():
            config = opened.model.config
            started = time.perf_counter()
            features = task.featurize([example], opened.tokenizer, config.labels, opened.max_length, data)
            batch = collate(features, np.arange(len(features)), device, config.pad_id)
            opened.model(**batch.inputs).logits.cpu()
            if i >= WARM_UP or len(examples) <= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: median(values) for name, values in times.items()}


def compare(
    models: dict[str, tuple[str, Opened]], task: Task, examples: list, data: DataConfig, device: torch.device
) -> list[dict]:
    """One row of figures per model. Agreement is with the first one: the share of decisions that are the same."""
    rows, reference = [], None
    speed = latencies({name: opened for name, (_, opened) in models.items()}, task, examples, data, device)
    for name, (directory, opened) in models.items():
        outcome = evaluate(opened, task, examples, data, device)
        metrics, decisions = task.score(outcome), outcome.decisions
        reference = reference or decisions
        rows.append({
            "name": name,
            "parameters": opened.model.num_parameters(),
            "megabytes": sum(path.stat().st_size for path in weight_files(Path(directory))) / 1e6,
            "latency_ms": speed[name],
            **{column: metrics[column] for column in task.columns if column in metrics},
            "agreement": float(np.mean([a == b for a, b in zip(decisions, reference, strict=True)])),
        })  # fmt: skip
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `compare`."""
    add_data_arguments(parser)
    parser.add_argument(
        "--models",
        required=True,
        nargs="+",
        type=named_directory,
        metavar="NAME=DIR",
        help="the models; the first is the one that the others are compared with",
    )
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="comparison.json, comparison.md and comparison.txt are written there",
    )
    for config in (DataConfig, RunConfig):
        add_flags(parser, config)


def command(arguments: argparse.Namespace) -> None:
    """`compare`: the table, as text, Markdown and JSON."""
    task, data = TASKS[arguments.task], DataConfig(**given(arguments, DataConfig))
    device = start(RunConfig(**given(arguments, RunConfig)))
    if len(dict(arguments.models)) != len(arguments.models):
        raise UserError("--models: a name is used twice")
    examples = read_test(arguments, task, data)
    models = {
        name: (directory, open_model(directory, task, arguments.max_length, device))
        for name, directory in arguments.models
    }
    folder = make_folder(arguments.output)
    where = described(arguments, examples)
    print(
        f"comparing {len(models)} models on {where}, {device.type}, {torch.get_num_threads()} threads",
        flush=True,
    )
    rows = compare(models, task, examples, data, device)
    header = ("model", "parameters", "MB", "ms/example", *list(rows[0])[4:])
    cells = [list(row.values()) for row in rows]
    machine = describe(device)
    note = (
        f"{where}; agreement: same decision as {rows[0]['name']}; ms/example: median of single examples; "
        f"MB: weights on disk; "
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}"
    )
    print(table(header, cells) + "\n" + note)
    write_text(folder / "comparison.txt", table(header, cells) + "\n" + note + "\n")
    write_text(folder / "comparison.md", table(header, cells, markdown=True) + "\n\n" + note + "\n")
    about = about_data(arguments, data) | {"machine": machine, "models": dict(arguments.models)}
    write_json(folder / "comparison.json", about | {"rows": rows})
