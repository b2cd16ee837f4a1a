"""Several models on one test file, side by side: size, speed, quality. `python -m kd_scratch compare`"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import megabytes
from kd_scratch.common.console import progress, say, show, table
from kd_scratch.common.device import start
from kd_scratch.common.files import make_folder, write_json, write_text
from kd_scratch.config import DataConfig, RunConfig, add_flags, given
from kd_scratch.data.batches import collate
from kd_scratch.evaluation.evaluate import (
    LoadedModel,
    about_machine,
    add_data_arguments,
    evaluate,
    load_for_inference,
    read_evaluation_set,
)
from kd_scratch.evaluation.measure import latencies, peak_memory, throughputs
from kd_scratch.evaluation.significance import calibration, interval, mcnemar, resampled_sums, two_sided_p
from kd_scratch.pages.report import (
    ROWS,
    Comparison,
    by_name,
    comparison_page,
    known_record,
    named_directory,
    trade_offs,
)
from kd_scratch.tasks import TASKS, Predictions, Task, deciding_tasks

PAGE = "comparison.html"
MAPS, LONGEST_MAP = 3, 20  # so many attention maps are shown, of inputs of at most so many pieces


def size_and_speed(
    models: dict[str, tuple[str, LoadedModel]],
    task: Task,
    examples: Sequence,
    data: DataConfig,
    device: torch.device,
    tokens: int,
) -> dict[str, dict]:
    """By model: parameters, megabytes on disk and in memory, milliseconds per example, examples per second.

    tokens: how long the inputs are while memory is watched.
    """
    loaded = {name: model for name, (_, model) in models.items()}
    single = latencies(loaded, task, examples, data, device)
    batched = throughputs(loaded, task, examples, data, device)
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


def quality(task: Task, all_predictions: dict[str, Predictions], measured: dict[str, dict]) -> dict[str, dict]:
    """By model: its metrics (those that were measured) with the 95% interval of its score; the difference to the first
    model, with a paired test on the same draws of the same examples; and the share of examples that both decide alike.
    """
    rows, first = {}, None
    for name, predictions in all_predictions.items():
        metrics, tally = measured[name], task.tally(predictions)
        score, drawn = float(task.tally_score(tally.sum(axis=0))), task.tally_score(resampled_sums(tally))
        rows[name] = {column: metrics[column] for column in task.columns if column in metrics}
        rows[name] |= {"interval": interval(drawn), "difference": None, "difference_interval": None, "p": None}
        if first is None:
            first = predictions, tally, score, drawn
        else:
            right = tally[:, 0] > 0, first[1][:, 0] > 0
            rows[name] |= {
                "difference": score - first[2],
                "difference_interval": interval(drawn - first[3]),
                "p": mcnemar(*right) if task.score_name == "accuracy" else two_sided_p(drawn - first[3]),
            }
        rows[name]["agreement"] = predictions.agreement(first[0])
    return rows


def tables(rows: dict[str, dict], quality_rows: dict[str, dict]) -> list[tuple[tuple, list[tuple]]]:
    """The two tables, each a header and rows: size and speed, and quality."""
    header = ("model", "parameters", "MB", "peak MB", "ms p50", "ms p95", "examples/s")
    first = header, [(name, *row.values()) for name, row in rows.items()]
    columns = [name for name in next(iter(quality_rows.values())) if name not in WORDING]
    header = ("model", *columns, *WORDING.values())
    cells = [
        (name, *(row.get(column) for column in columns), *(_shown(column, row[column]) for column in WORDING))
        for name, row in quality_rows.items()
    ]
    return [first, (header, cells)]


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
    add_data_arguments(parser, deciding_tasks())
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
        help="tables (comparison.txt, .md, .json) and a page with pictures (comparison.html) are written there",
    )
    for config in (DataConfig, RunConfig):
        add_flags(parser, config)


def command(arguments: argparse.Namespace) -> dict:
    """`compare`: the tables, as text, Markdown and JSON, and the page."""
    task, data = TASKS[arguments.task], DataConfig(**given(arguments, DataConfig))
    device = start(**vars(RunConfig(**given(arguments, RunConfig))))
    by_name(arguments.models, "--models")
    test_set = read_evaluation_set(task, arguments.data, arguments.split, data)
    examples = test_set.examples
    models = {
        name: (directory, load_for_inference(directory, task, arguments.max_length, device))
        for name, directory in arguments.models
    }
    records = {name: known_record(directory) for name, directory in arguments.models}
    folder = make_folder(arguments.output)
    where = test_set.describe()
    say(f"comparing {len(models)} models on {where}, {device.type}, {torch.get_num_threads()} threads")
    tokens = min(128, *(loaded.model.config.max_positions for _, loaded in models.values()))
    rows = size_and_speed(models, task, examples, data, device, tokens)
    all_predictions = {name: evaluate(loaded, task, examples, data, device) for name, (_, loaded) in models.items()}
    measured = {name: task.score(predictions) for name, predictions in all_predictions.items()}
    quality_rows = quality(task, all_predictions, measured)
    machine, first = about_machine(device, [loaded.model for _, loaded in models.values()]), next(iter(models))
    test = "McNemar's exact test" if task.score_name == "accuracy" else "paired bootstrap"
    versions = f"torch {machine['torch']}" + (f", int8: {machine['int8']}" if "int8" in machine else "")
    note = (
        f"{where}. Difference, p ({test}) and agreement (same decision, of what the score counts) are with {first}; "
        f"intervals are of {task.score_name}, by bootstrap. MB: weights on disk; peak MB: of a process that computes "
        f"32 x {tokens} tokens; ms: single examples, examples/s: batches of 32, both from text to logits. "
        f"{machine['processor']}, {machine['threads']} threads, {versions}."
    )
    both = tables(rows, quality_rows)
    texts = ["\n\n".join([*(table(*each, markdown) for each in both), note]) for markdown in (False, True)]
    write_text(folder / "comparison.txt", texts[0] + "\n")
    write_text(folder / "comparison.md", texts[1] + "\n")
    about = test_set.record(arguments.max_length) | {"machine": machine, "models": dict(arguments.models)}
    merged = [{"name": name} | row | quality_rows[name] for name, row in rows.items()]
    write_json(folder / "comparison.json", about | {"rows": merged})
    trained = {name: record for name, record in records.items() if record and record["task"] == task.name}
    found = look_closer(task, models, all_predictions, device) | {"note": note, "rows": rows, "about": about}
    found = Comparison(task=task, quality=quality_rows, metrics=measured, records=trained, **found)
    for name, picture in trade_offs(found).items():
        write_text(folder / name, picture)
    write_text(folder / PAGE, comparison_page(found, both))
    show(texts[0])
    say(f"\nwith pictures: {folder / PAGE}")
    return about | {"rows": merged}


def look_closer(
    task: Task,
    models: dict[str, tuple[str, LoadedModel]],
    all_predictions: dict[str, Predictions],
    device: torch.device,
) -> dict:
    """What report.Comparison tells beside the tables: calibration, confusions, mistakes, attention."""
    first = next(iter(models))
    students = [name for name in models if name != first and not models[name][1].model.config.int8]
    student = students[-1] if students else list(models)[-1]
    its, others = (task.summaries(all_predictions[name]) for name in (student, first))
    return {
        "calibrations": {
            name: calibration(*task.confidence(predictions)) for name, predictions in all_predictions.items()
        },
        "confusions": {name: task.confused(predictions) for name, predictions in all_predictions.items()}
        if task.confused
        else {},
        "student": student,
        "mistakes": lost_by(its, others)[:ROWS],
        "maps": attention_maps(
            {name: models[name][1] for name in dict.fromkeys((first, student))}, all_predictions, device
        ),
    }


def lost_by(its: Sequence[tuple], others: Sequence[tuple]) -> list[tuple[str, str, str, str]]:
    """Examples for which a model gets fewer points than another, the most lost first: text, gold, what the other says,
    what it says. its, others: what Task.told gives of each."""
    worse = [(b[3] - a[3], (a[0], a[1], b[2], a[2])) for a, b in zip(its, others, strict=True) if a[3] < b[3]]
    return [row for _, row in sorted(worse, key=lambda row: -row[0])]


@torch.inference_mode()
def attention_maps(
    models: dict[str, LoadedModel], all_predictions: dict[str, Predictions], device: torch.device
) -> list[tuple[list[str], dict[str, list]]]:
    """The last layer's attention, mean over heads, of the first few inputs that are short enough to be looked at: the
    pieces, and by model S,S weights. Only where all models cut texts into the same pieces."""
    features = [all_predictions[name].features for name in models]
    if len({loaded.tokenizer.fingerprint for loaded in models.values()}) > 1:
        return []
    maps = []
    for i in np.flatnonzero((features[0].lengths >= 6) & (features[0].lengths <= LONGEST_MAP))[:MAPS]:
        batch, weights = collate(features[0], np.array([i]), device), {}
        for name, loaded in models.items():
            attention = loaded.model(**batch.inputs, output_attentions=True).attentions[-1]  # 1,H,S,S
            weights[name] = attention[0].mean(dim=0).tolist()
        maps.append((loaded.tokenizer.pieces(batch.input_ids[0].tolist()), weights))
    return maps
