"""Several models on one test file, side by side: size, speed, quality, and where they differ."""

from collections.abc import Sequence
from dataclasses import asdict, astuple
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import fingerprint, load_model, megabytes
from kd_scratch.common.console import progress, say, table
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import write_json, write_text
from kd_scratch.data.batches import collate
from kd_scratch.evaluation import cascade as cascades
from kd_scratch.evaluation.advice import advice, ingredients, is_baseline
from kd_scratch.evaluation.evaluate import (
    EvaluationSet,
    LoadedModel,
    about_machine,
    evaluate,
    name_labels,
    notes_of_training,
)
from kd_scratch.evaluation.measure import BATCH, latencies, peak_memory, throughputs
from kd_scratch.evaluation.significance import (
    Calibration,
    calibration,
    drawn_scores,
    interval,
    interval_around,
    interval_text,
    mcnemar,
    note_of_few,
    score_interval,
    smallest_effect,
    two_sided_p,
)
from kd_scratch.pages.records import known_record
from kd_scratch.pages.report import ROWS, Comparison, Cost, Quality, comparison_page, trade_offs
from kd_scratch.tasks import Predictions, Task
from kd_scratch.tasks.base import Summary

NAME = "comparison"  # of the files, with .txt, .md, .json and .html
LONGEST_INPUT = 128  # pieces of the inputs while memory is measured, where the models have so many positions
MAPS, LONGEST_MAP = 3, 20  # so many attention maps are shown, of inputs of at most so many pieces


def compare(
    models: dict[str, LoadedModel],
    test_set: EvaluationSet,
    device: torch.device,
    max_length: int = 0,
    dev_set: EvaluationSet | None = None,
) -> Comparison:
    """All that is to be known of several models on one test set; the first is the one that others are compared with.

    max_length: what was asked for when they were loaded, for the record. dev_set: where the threshold of the last
    model is chosen, as a cascade before the first. The task must be one of `deciding_tasks`.
    """
    task = test_set.task
    records = {name: known_record(loaded.directory) for name, loaded in models.items()}
    records = {name: record for name, record in records.items() if record and record["task"] == task.name}
    tokens = min(LONGEST_INPUT, *(loaded.model.config.max_positions for loaded in models.values()))
    for loaded in models.values():
        name_labels(loaded, task, test_set.examples)
    predictions = {
        name: evaluate(loaded, task, test_set.examples, test_set.data, device) for name, loaded in models.items()
    }
    metrics = {name: task.score(each) for name, each in predictions.items()}
    calibrations = {name: calibration(each) for name, each in predictions.items()}
    confusions = {name: task.confused(each) for name, each in predictions.items()} if task.confused else {}
    first, *others = models
    float_models = [name for name in others if not models[name].model.config.int8]
    student = (float_models or others or [first])[-1]  # the last float model behind the first, where there is one
    rows = quality(task, predictions, metrics)
    about = test_set.record(max_length)
    about["machine"] = about_machine(device, [loaded.model for loaded in models.values()])
    about["models"] = {name: loaded.directory for name, loaded in models.items()}
    about["notes"] = notes_of_training(about["models"].values(), *filter(None, [test_set, dev_set]))
    warnings = [*(f"{note}." for note in about["notes"]), note_of_few(predictions[first])]
    shown = {name: models[name] for name in dict.fromkeys((first, student))}
    costs, before = measure_costs(models, test_set, device, tokens), None
    if dev_set:
        pair = [others[-1], first]
        on_test = [predictions[name] for name in pair]
        two = [models[name] for name in pair]
        times = {"student": costs[pair[0]].latency_p50_ms, "teacher": costs[first].latency_p50_ms}
        try:
            before = cascades.cascade(*two, dev_set, test_set, cascades.KEEP, device, on_test, tuple(pair), times)
            about["cascade"] = {"student": pair[0], "teacher": pair[1]} | cascades.record_of(before, dev_set)
        except UserError as error:
            about["notes"].append(f"no cascade of {' and '.join(pair)}: {error}")
            say(f"note: {about['notes'][-1]}")
    return Comparison(
        task=task,
        note=" ".join(filter(None, [*warnings, method_note(test_set, first, tokens, about["machine"])])),
        costs=costs,
        quality=rows,
        metrics=metrics,
        calibration_errors={name: with_interval(each) for name, each in calibrations.items()},
        calibration_bins={name: each.bins for name, each in calibrations.items()},
        confusions=confusions,
        student=student,
        mistakes=lost_examples(task.summaries(predictions[student]), task.summaries(predictions[first]))[:ROWS],
        maps=attention_maps(shown, predictions, device),
        records=records,
        advice=gap_advice(task, models[first].directory, records, rows),
        cascade=cascades.shown(before) if before else None,
        about=about,
    )


def measure_costs(
    models: dict[str, LoadedModel], test_set: EvaluationSet, device: torch.device, tokens: int
) -> dict[str, Cost]:
    """Size, memory and speed by model. tokens: how long the inputs are while memory is measured."""
    single = latencies(models, test_set, device)
    batched = throughputs(models, test_set, device)
    costs = {}
    for name, loaded in progress(models.items(), desc="memory", unit="model"):
        p50, p95 = single[name]
        costs[name] = Cost(
            parameters=loaded.model.num_parameters(),
            megabytes=megabytes(loaded.directory),
            peak_megabytes=peak_memory(loaded.directory, tokens, device),
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            examples_per_second=batched[name],
        )
    return costs


def quality(task: Task, predictions: dict[str, Predictions], metrics: dict[str, dict]) -> dict[str, Quality]:
    """By model: its metrics with the 95% interval of its score; the difference to the first model, with a paired test
    on the same draws of the same groups of examples; and the share of examples that both decide alike.
    """
    first = next(iter(predictions))
    tallies = {name: task.tally(each) for name, each in predictions.items()}
    scores = {name: float(task.tally_score(tally.sum(axis=0))) for name, tally in tallies.items()}
    drawn = {name: drawn_scores(each, tallies[name]) for name, each in predictions.items()}
    rows = {}
    for name, each in predictions.items():
        rows[name] = Quality(
            columns={column: metrics[name][column] for column in task.columns if column in metrics[name]},
            interval=score_interval(each, drawn[name]),
            agreement=each.agreement(predictions[first]),
        )
        if name != first:
            differences = drawn[name] - drawn[first]
            rows[name].difference = scores[name] - scores[first]
            rows[name].difference_interval = interval(differences)
            rows[name].p = two_sided_p(differences, each.num_groups)
            rows[name].smallest = smallest_effect(differences) or None  # none: nothing varies
            if tests_with_mcnemar(task):
                rows[name].p = mcnemar(tallies[name][:, 0] > 0, tallies[first][:, 0] > 0)
    return rows


def gap_advice(task: Task, first: str, records: dict[str, dict], rows: dict[str, Quality]) -> str:
    """How much the first model (first: its folder) can teach, how much the others have learned of it, and what
    is left to try; "" where the records do not tell that it is a teacher, or who is its students' baseline.
    """
    name, *others = rows
    taught = {other: records[other] for other in others if other in records and records[other].get("teacher")}
    mark = fingerprint(load_model(first, say=lambda line: None)) if taught else ""
    taught = {other: record for other, record in taught.items() if mark in record["teacher"].split()}
    for baseline in [other for other in others if other in records]:
        students = [other for other, record in taught.items() if is_baseline(records[baseline], record)]
        if students:
            score = {other: row.columns[task.score_name] for other, row in rows.items()}
            gap = score[name] - score[baseline]
            chance = gap + rows[baseline].difference_interval[1]  # which is of baseline − teacher
            known = ingredients(taught[students[-1]], [first], task)
            if gap <= chance:
                return advice(score[name], score[baseline], chance, known)
            closed = {other: (score[other] - score[baseline]) / gap for other in students}
            shares, own = [], records[baseline]["step"]
            for other, share in closed.items():
                steps = taught[other]["step"]
                unequal = "" if steps == own else f" ({steps:,} steps against {own:,})"
                shares.append(f"{other} closes {share:.0%} of the gap{unequal}")
            text = advice(score[name], score[baseline], chance, known, max(closed.values()))
            return "; ".join([", ".join(shares), text])
    return ""


def with_interval(found: Calibration) -> tuple[float, str | None, float]:
    """The calibration error with its 95% interval, and what a perfectly calibrated model would have."""
    return found.error, interval_text(interval_around(found.error, found.drawn)), found.floor


def tests_with_mcnemar(task: Task) -> bool:
    """Whether each example is right or wrong, and by itself, so that McNemar's exact test applies."""
    return task.score_name == "accuracy" and task.group is None


def lost_examples(student: Sequence[Summary], first: Sequence[Summary]) -> list[tuple[Summary, Summary]]:
    """The first model's summaries and a student's where that gets fewer points, the most lost first."""
    pairs = [(other, own) for own, other in zip(student, first, strict=True) if own.points < other.points]
    return sorted(pairs, key=lambda pair: pair[1].points - pair[0].points)


@torch.inference_mode()
def attention_maps(
    models: dict[str, LoadedModel], predictions: dict[str, Predictions], device: torch.device
) -> list[tuple[list[str], dict[str, list[list[float]]]]]:
    """The pieces of the first few inputs that are short enough to be looked at, and by model the last layer's attention
    S,S, mean over heads. Nothing where the models cut texts into different pieces.
    """
    first = next(iter(models))
    tokenizer = models[first].tokenizer
    if any(tokenizer.difference(loaded.tokenizer) for loaded in models.values()):
        return []
    features = predictions[first].features
    longest = min(LONGEST_MAP, *(loaded.max_length for loaded in models.values()))
    short = np.flatnonzero((features.lengths >= 6) & (features.lengths <= longest))
    maps = []
    for i in short[:MAPS]:
        batch = collate(features, np.array([i]), device)
        weights = {}
        for name, loaded in models.items():
            attention = loaded.model(**batch.inputs, output_attentions=True).attentions[-1]  # 1,H,S,S
            weights[name] = attention[0].mean(dim=0).tolist()
        maps.append((tokenizer.pieces(batch.input_ids[0].tolist()), weights))
    return maps


# --- tables and files ---


#: The columns behind the metrics: fields of Quality (and keys of comparison.json), and their names in the table.
WORDING = {
    "interval": "95% interval",
    "difference": "difference",
    "difference_interval": "its 95% interval",
    "p": "p",
    "smallest": "detectable from",
    "agreement": "agreement",
}


def tables(found: Comparison) -> list[tuple[Sequence[str], list[tuple]]]:
    """Header and rows of two tables: size and speed, and quality."""
    header = ("model", "parameters", "MB", "peak MB", "ms p50", "ms p95", "examples/s")
    costs = [(name, *astuple(cost)) for name, cost in found.costs.items()]
    columns = found.quality[found.first].columns
    rows = []
    for name, row in found.quality.items():
        metrics = [row.columns.get(column) for column in columns]
        p = "<0.001" if row.p is not None and row.p < 0.001 else row.p
        difference = row.difference, interval_text(row.difference_interval), p, row.smallest
        rows.append((name, *metrics, interval_text(row.interval), *difference, row.agreement))
    return [(header, costs), (("model", *columns, *WORDING.values()), rows)]


def text_of(found: Comparison, markdown: bool = False) -> str:
    """Tables and note, as a terminal or a Markdown file shows them."""
    parts = [table(header, rows, markdown) for header, rows in tables(found)]
    if found.cascade:
        parts.append(found.cascade[markdown])
    return "\n\n".join([*parts, *filter(None, [found.advice]), found.note])


def method_note(test_set: EvaluationSet, first: str, tokens: int, machine: dict) -> str:
    """How the figures were measured, in a few sentences."""
    task = test_set.task
    test = "McNemar's exact test" if tests_with_mcnemar(task) else "paired bootstrap"
    kernels = f", int8: {machine['int8']}" if "int8" in machine else ""
    return (
        f"{test_set.describe()}. Difference, p ({test}) and agreement (same decision, of what the score counts) are "
        f"with {first}; intervals are of {task.score_name}, by bootstrap. Detectable from: the minimum detectable "
        f"effect, a true difference that four in five such test files would show (power 80%). MB: weights on disk; "
        f"peak MB: of a process that computes {BATCH} x {tokens} tokens; ms: single examples, examples/s: batches of "
        f"{BATCH}, both from text to logits. {machine['processor']}, {machine['threads']} threads, torch "
        f"{machine['torch']}{kernels}."
    )


def record_of(found: Comparison) -> dict:
    """The comparison as comparison.json holds it: what was compared on what, and one row per model."""
    rows = []
    for name, cost in found.costs.items():
        row = found.quality[name]
        rows.append({"name": name} | asdict(cost) | row.columns | {field: getattr(row, field) for field in WORDING})
    return found.about | {"rows": rows, "advice": found.advice}


def write_comparison(found: Comparison, folder: Path) -> None:
    """Write comparison.txt, .md, .json and .html, and the pictures speed.svg and size.svg."""
    write_text(folder / f"{NAME}.txt", text_of(found) + "\n")
    write_text(folder / f"{NAME}.md", text_of(found, markdown=True) + "\n")
    write_json(folder / f"{NAME}.json", record_of(found))
    for name, picture in trade_offs(found).items():
        write_text(folder / name, picture)
    write_text(folder / f"{NAME}.html", comparison_page(found, tables(found)))
