"""Several models on one test file, side by side: size, speed, quality. `python -m kd_scratch compare`"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoint import megabytes
from kd_scratch.config import DataConfig, RunConfig, add_flags, given
from kd_scratch.console import progress, table
from kd_scratch.evaluate import (
    Opened,
    about_data,
    about_machine,
    add_data_arguments,
    described,
    evaluate,
    open_model,
    read_test,
)
from kd_scratch.files import UserError, make_folder, write_json, write_text
from kd_scratch.measure import latencies, peak_memory, throughputs
from kd_scratch.runtime import start
from kd_scratch.significance import interval, mcnemar, resampled_sums, two_sided_p
from kd_scratch.tasks import DECIDING, TASKS, Outcome, Task


def named_directory(text: str) -> tuple[str, str]:
    """ "teacher=runs/teacher" -> ("teacher", "runs/teacher")"""
    name, equals, directory = text.partition("=")
    if not (name and equals and directory):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR, for example teacher=runs/teacher")
    return name, directory


def size_and_speed(
    models: dict[str, tuple[str, Opened]],
    task: Task,
    examples: Sequence,
    data: DataConfig,
    device: torch.device,
    tokens: int,
) -> dict[str, dict]:
    """By model: parameters, megabytes on disk and in memory, milliseconds per example, examples per second.

    tokens: how long the inputs are while memory is watched.
    """
    opened = {name: model for name, (_, model) in models.items()}
    single = latencies(opened, task, examples, data, device)
    batched = throughputs(opened, task, examples, data, device)
    rows = {}
    for name, (directory, model) in progress(models.items(), desc="memory", unit="model"):
        rows[name] = {
            "parameters": model.model.num_parameters(),
            "megabytes": megabytes(directory),
            "peak_megabytes": peak_memory(directory, tokens, device),
            "latency_p50_ms": single[name][0],
            "latency_p95_ms": single[name][1],
            "examples_per_second": batched[name],
        }
    return rows


def quality(task: Task, outcomes: dict[str, Outcome]) -> dict[str, dict]:
    """By model: the task's metrics with the 95% interval of its score; the difference to the first model, with a paired
    test on the same draws of the same examples; and the share of decisions that both make alike."""
    rows, first = {}, None
    for name, outcome in outcomes.items():
        metrics, tally = task.score(outcome), task.tally(outcome)
        score, drawn = float(task.tally_score(tally.sum(axis=0))), task.tally_score(resampled_sums(tally))
        rows[name] = {column: metrics[column] for column in task.columns if column in metrics}
        rows[name] |= {"interval": interval(drawn), "difference": None, "difference_interval": None, "p": None}
        if first is None:
            first = outcome, tally, score, drawn
        else:
            right = tally[:, 0] > 0, first[1][:, 0] > 0
            rows[name] |= {
                "difference": score - first[2],
                "difference_interval": interval(drawn - first[3]),
                "p": mcnemar(*right) if task.score_name == "accuracy" else two_sided_p(drawn - first[3]),
            }
        alike = [a == b for a, b in zip(outcome.decisions, first[0].decisions, strict=True)]
        rows[name]["agreement"] = float(np.mean(alike))
    return rows


def tables(rows: dict[str, dict], quality_rows: dict[str, dict], markdown: bool) -> str:
    """The two tables: size and speed, and quality."""
    header = ("model", "parameters", "MB", "peak MB", "ms p50", "ms p95", "examples/s")
    first = table(header, [(name, *row.values()) for name, row in rows.items()], markdown)
    columns = [name for name in next(iter(quality_rows.values())) if name not in WORDING]
    header = ("model", *columns, *WORDING.values())
    cells = [
        (name, *(row.get(column) for column in columns), *(_shown(column, row[column]) for column in WORDING))
        for name, row in quality_rows.items()
    ]
    return first + "\n\n" + table(header, cells, markdown)


#: The columns behind the metrics: their names in comparison.json, and in the table.
WORDING = {
    "interval": "95% interval",
    "difference": "difference",
    "difference_interval": "its 95% interval",
    "p": "p",
    "agreement": "agreement",
}


def _shown(name: str, value):
    """A pair of bounds and a small p as text; anything else as it is."""
    if name == "p" and value is not None and value < 0.001:
        return "<0.001"
    return f"{value[0]:.4f} to {value[1]:.4f}" if isinstance(value, tuple) else value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `compare`."""
    add_data_arguments(parser, DECIDING)
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
    """`compare`: the tables, as text, Markdown and JSON."""
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
    print(f"comparing {len(models)} models on {where}, {device.type}, {torch.get_num_threads()} threads", flush=True)
    tokens = min(128, *(opened.model.config.max_positions for _, opened in models.values()))
    rows = size_and_speed(models, task, examples, data, device, tokens)
    outcomes = {name: evaluate(opened, task, examples, data, device) for name, (_, opened) in models.items()}
    quality_rows = quality(task, outcomes)
    machine, first = about_machine(device, [opened.model for _, opened in models.values()]), next(iter(models))
    test = "McNemar's exact test" if task.score_name == "accuracy" else "paired bootstrap"
    versions = f"torch {machine['torch']}" + (f", int8: {machine['int8']}" if "int8" in machine else "")
    note = (
        f"{where}. Difference, p ({test}) and agreement (same decision) are with {first}; intervals are of "
        f"{task.score_name}, by bootstrap. MB: weights on disk; peak MB: of a process that computes 32 x {tokens} "
        "tokens; ms: single examples, examples/s: batches of 32, both from text to logits. "
        f"{machine['processor']}, {machine['threads']} threads, {versions}."
    )
    print(tables(rows, quality_rows, markdown=False) + "\n\n" + note)
    write_text(folder / "comparison.txt", tables(rows, quality_rows, markdown=False) + "\n\n" + note + "\n")
    write_text(folder / "comparison.md", tables(rows, quality_rows, markdown=True) + "\n\n" + note + "\n")
    about = about_data(arguments, data) | {"machine": machine, "models": dict(arguments.models)}
    merged = [{"name": name} | row | quality_rows[name] for name, row in rows.items()]
    write_json(folder / "comparison.json", about | {"rows": merged})
