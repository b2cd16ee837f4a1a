"""Training runs and comparisons as HTML pages. `python -m kd_scratch report`"""

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kd_scratch.common.console import duration, say, shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_target, read_json, write_text
from kd_scratch.pages.html import figure, html_table, page, paragraph
from kd_scratch.pages.svg import confusion, curves, heat_map, reliability, trade_off
from kd_scratch.tasks import TASKS, Task

RECORD, PAGE = "training.json", "report.html"  # what `train` tells of a run, for programs and for people
CLASSES = 12  # that are shown in a figure; of more, the pairs that are confused most
FRONT = "Bars: 95% interval of the score. Dashed: through the models that no other one beats in both."
ROWS = 20  # of a table of mistakes, or of classes


def named_directory(text: str) -> tuple[str, str]:
    """ "teacher=runs/teacher" -> ("teacher", "runs/teacher")"""
    name, equals, directory = text.partition("=")
    if not (name and equals and directory):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR, for example teacher=runs/teacher")
    return name, directory


def by_name(pairs: Sequence[tuple[str, str]], flag: str) -> dict[str, str]:
    """The directories of a flag by name; UserError where a name is used twice."""
    if len(dict(pairs)) != len(pairs):
        raise UserError(f"{flag}: a name is used twice")
    return dict(pairs)


# --- training runs ---


def read_record(directory: str | Path) -> dict | None:
    """What `train` has written of a run; None where there is none. UserError where it is something else."""
    path = Path(directory) / RECORD
    if not path.is_file():
        return None
    record = read_json(path)
    try:
        name = TASKS[record["task"]].score_name
        for epoch in record["history"]:
            numbers = (epoch["loss"], epoch["tokens_per_second"], epoch["dev"][name], *losses_of(epoch))
            require(type(epoch["epoch"]) is int and all(map(is_number, (epoch["epoch"], *numbers))))
            require(is_number(epoch.get("steps", 1)) and epoch.get("steps", 1) > 0)
        require(record["history"] and all(map(is_number, phases_of(record).values())))
        require(all(isinstance(record[key], dict) for key in ("settings", "data settings", "machine")))
        require(is_number(record["seconds"]) and is_number(record["best_score"]))
        require({type(record[key]) for key in ("parameters", "best_epoch")} == {type(record.get("step", 0))} == {int})
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: is not what `train` writes of a run; delete it, or train again") from None
    return record


def known_record(directory: str | Path) -> dict | None:
    """The same for those who can do without: None also where it is something else, which is said."""
    try:
        return read_record(directory)
    except UserError as error:
        say(f"note: {error}; it is left out")
        return None


def losses_of(epoch: dict) -> list[float]:
    """The points of an epoch's loss curve; older runs kept its mean alone."""
    return epoch.get("losses") or [epoch["loss"]]


def phases_of(record: dict) -> dict[str, float]:
    """Where a run's time went; older ones do not tell."""
    return record.get("seconds by phase", {})


def require(fine) -> None:
    """TypeError where something in a file is not what it should be."""
    if not fine:
        raise TypeError


def is_number(value) -> bool:
    """Whether what a JSON file holds is a number that can be drawn."""
    return type(value) in (int, float) and abs(value) < 1e15


def training(records: dict[str, dict]) -> str:
    """Curves of loss and dev score, and a line for each run."""
    losses, scores = {}, {}
    for name, record in records.items():
        task, history = TASKS[record["task"]], record["history"]
        losses[name], scores[name], whole = [], [], max(epoch.get("steps", 1) for epoch in history)
        for epoch in history:
            parts, start = losses_of(epoch), epoch["epoch"] - 1
            share = epoch.get("steps", 1) / whole  # the last may be cut short
            losses[name] += [(start + share * (i + 1) / len(parts), loss) for i, loss in enumerate(parts)]
            scores[name].append((start + share, 100 * epoch["dev"][task.score_name]))
    pictures = (
        curves("Loss on the training data", "epochs", "loss", losses),
        curves(f"{task.score_name} on the dev data", "epochs", f"{task.score_name}, per cent", scores),
    )
    header = ("run", "parameters", "epochs", "kept", f"dev {task.score_name}", "tokens/s", "time")
    rows = [
        (
            name,
            record["parameters"],
            len(record["history"]),
            record["best_epoch"],
            float(max(epoch["dev"][task.score_name] for epoch in record["history"])),
            round(record["history"][-1]["tokens_per_second"]),
            duration(record["seconds"]),
        )
        for name, record in records.items()
    ]
    note = "Losses are comparable only between runs of the same kind: a distilled student's has another formula."
    return html_table(header, rows) + _side(pictures) + paragraph(note, "soft")


def settings(records: dict[str, dict]) -> str:
    """What the runs were made with: what differs between them first."""
    flat = {name: _flat(record) for name, record in records.items()}
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    lines = [(key, *(values.get(key, "") for values in flat.values())) for key in keys]
    differing = [row for row in lines if len(set(row[1:])) > 1]
    same = [row[:2] for row in lines if len(set(row[1:])) == 1]
    parts = ["<h3>What differs</h3>" + html_table(("", *records), differing, left=True)] if differing else []
    return "\n".join([*parts, "<h3>The same in all</h3>" + html_table(("", "all runs"), same, left=True)])


#: What came out of a run, and is no setting.
RESULTS = ("epoch", "batch", "step", "seconds", "best_epoch", "best_score", "best_sha256", "matmul rate")


def _flat(record: dict) -> dict[str, str]:
    """Settings, seeds, hashes and machine in one level, as text; and whether it was resumed with other ones."""
    flat = {}
    for key, value in record.items():
        if isinstance(value, dict) and key in ("settings", "data settings", "machine"):
            flat |= {f"{key}: {name}": _said(setting) for name, setting in value.items()}
        elif (isinstance(value, str | int | float) or value is None) and key not in RESULTS:
            flat[key] = _said(value)
    return flat | ({"resumed by force": _said(record["forced"])} if record.get("forced") else {})


def _said(value) -> str:
    """A setting on one line."""
    return shorten("-" if value in (None, "") else str(value), 120)


def runs_page(title: str, records: dict[str, dict]) -> str:
    """A page about training runs of one task, by name."""
    first = next(iter(records.values()))
    lead = f"{first['task']}, {len(records)} run{'s' if len(records) > 1 else ''}, made with kd_scratch"
    parts = [("Training", training(records))]
    if phases := [
        (name, phase, float(took)) for name, record in records.items() for phase, took in phases_of(record).items()
    ]:
        parts.append(("Where the time went", html_table(("run", "phase", "seconds"), phases)))
    return page(title, lead, [*parts, ("Settings and environment", settings(records))])


# --- comparisons ---


@dataclass
class Comparison:
    """All that the page about several models on one test file is made of; the dicts are by model's name."""

    task: Task
    note: str
    rows: dict[str, dict]  # size and speed
    quality: dict[str, dict]
    metrics: dict[str, dict]
    calibrations: dict[str, tuple[float, list[tuple[float, float, int]]]]
    confusions: dict[str, Counter]  # empty where a task has no classes
    student: str  # whose mistakes are shown
    mistakes: list[tuple[str, str, str, str]]  # text, gold, what the first model says, what the student says
    maps: list[tuple[list[str], dict[str, list]]]  # pieces of an input, and by model S,S attention weights
    records: dict[str, dict]  # of the training runs, where there are any
    about: dict


def comparison_page(found: Comparison, tables: Sequence[tuple[Sequence[str], Sequence[Sequence]]]) -> str:
    """The whole page. tables: those of the terminal, each a header and rows."""
    first = next(iter(found.rows))
    shown = "".join(html_table(*table) for table in tables) + paragraph(found.note, "soft")
    sections = [
        ("Result", "".join(map(paragraph, sentences(found))) + shown),
        ("Quality against speed and size", _side(trade_offs(found).values()) + paragraph(FRONT, "soft")),
    ]
    if found.records:
        sections.append(("Training", training(found.records)))
    sections.append(("Calibration", calibration_section(found)))
    sections.append(("Class by class", classes_section(found)))
    if found.confusions:
        sections.append(("What is taken for what", confusions_section(found)))
    if found.student != first:
        header = ("example", "it is", f"{first} says", f"{found.student} says")
        rows = [tuple(shorten(text, 300) for text in row) for row in found.mistakes]
        said = f"The {len(rows)} examples with the largest difference." if rows else "There are none."
        more = html_table(header, rows, left=True) if rows else ""
        sections.append((f"Where {first} does better than {found.student}", paragraph(said) + more))
    if found.maps:
        sections.append(("What they look at", maps_section(found)))
    about = [(key, _said(value)) for key, value in found.about.items() if not isinstance(value, dict)]
    about += [(f"{key}: {name}", _said(v)) for key, value in found.about.items() if isinstance(value, dict)
              for name, v in value.items()]  # fmt: skip
    environment = html_table(("", "this comparison"), about, left=True)
    sections.append(("Settings and environment", environment + (settings(found.records) if found.records else "")))
    names = ", ".join(found.rows)
    return page(f"{found.task.name}: {names}", "A comparison on one test file, made with kd_scratch", sections)


def sentences(found: Comparison) -> list[str]:
    """In words, what each model costs and gains against the first."""
    (first, row), *others = found.rows.items()
    said = []
    for name, other in others:
        quality = found.quality[name]
        low, high = quality["difference_interval"]
        change = f"{100 * quality['difference']:+.2f} points of {found.task.score_name}"
        sure = "" if low > 0 or high < 0 else ", which this test file cannot tell from none"
        said.append(
            f"{name} against {first}: {change} (95%: {100 * low:+.2f} to {100 * high:+.2f}{sure}), "
            f"{row['megabytes'] / other['megabytes']:.1f} times as small, "
            f"{row['latency_p50_ms'] / other['latency_p50_ms']:.1f} times as fast, "
            f"{quality['agreement']:.1%} of the decisions alike"
        )
    return said


def trade_offs(found: Comparison) -> dict[str, str]:
    """Figures by file name: the score against milliseconds, and against megabytes."""
    score, pictures = found.task.score_name, {}
    for file, key, axis in (
        ("speed.svg", "latency_p50_ms", "milliseconds for one example (median)"),
        ("size.svg", "megabytes", "megabytes on disk"),
    ):
        points = {
            name: (row[key], found.metrics[name][score], found.quality[name]["interval"])
            for name, row in found.rows.items()
        }
        title = f"{found.task.name}: {score} against {'speed' if key != 'megabytes' else 'size'}"
        pictures[file] = trade_off(title, axis, f"test {score}", points)
    return pictures


def calibration_section(found: Comparison) -> str:
    """How often each model is right, by how sure it is."""
    picture = reliability(
        "How often it is right, by how sure it is", {n: b for n, (_, b) in found.calibrations.items()}
    )
    rows = [(name, error) for name, (error, _) in found.calibrations.items()]
    said = (
        "On the dashed line a model is as sure as it is right. The calibration error is the mean distance from it. "
        "Bins of fewer than ten decisions are not drawn."
    )
    return f'<div class="side">{figure(picture, said)}{html_table(("model", "calibration error"), rows)}</div>'


def classes_section(found: Comparison) -> str:
    """F1 by class (entity type, length of the answer) and model; of many, those in which the student loses most."""
    first = next(iter(found.rows))
    by_model = {name: metrics["per_class"] for name, metrics in found.metrics.items()}
    names = list(dict.fromkeys(name for rows in by_model.values() for name in rows))
    scores = {name: {model: rows.get(name, {}).get("f1") for model, rows in by_model.items()} for name in names}

    def gap(name: str) -> float:
        return (scores[name][found.student] or 0.0) - (scores[name][first] or 0.0)

    chosen = sorted(names, key=gap)[:ROWS] if len(names) > ROWS else names
    lost = f"The {ROWS} of {len(names)} in which {found.student} loses most."
    header, rows = ("F1", *by_model), [(name, *scores[name].values()) for name in chosen]
    if found.student != first:
        header, rows = (*header, f"{found.student} − {first}"), [(*row, gap(row[0])) for row in rows]
    return (paragraph(lost) if len(names) > ROWS else "") + html_table(header, rows)


def confusions_section(found: Comparison) -> str:
    """For few classes a figure of first model and student; for many the pairs that are confused most."""
    pair = (next(iter(found.rows)), found.student)
    classes = sorted({name for counts in found.confusions.values() for both in counts for name in both})
    if len(classes) <= CLASSES:
        return _side([confusion(name, classes, found.confusions[name]) for name in dict.fromkeys(pair)])
    wrong = Counter({both: n for both, n in found.confusions[found.student].items() if both[0] != both[1]})
    rows = [(*both, *(counts[both] for counts in found.confusions.values())) for both, _ in wrong.most_common(ROWS)]
    return html_table(("it is", "taken for", *found.confusions), rows)


def maps_section(found: Comparison) -> str:
    """For a few inputs, the last layer's attention of each model, mean over heads."""
    said = "Each row is a piece of the input, and shows which pieces it looks at in the last layer (mean over heads)."
    parts = [paragraph(said)]
    for pieces, weights in found.maps:
        parts.append(_side([heat_map(name, pieces, rows) for name, rows in weights.items()]))
    return "\n".join(parts)


def _side(pictures) -> str:
    """Pictures side by side where there is room."""
    return '<div class="side">' + "".join(figure(picture) for picture in pictures) + "</div>"


# --- the command ---


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `report`."""
    parser.add_argument(
        "--runs", required=True, nargs="+", type=named_directory, metavar="NAME=DIR", help="training runs of one task"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="FILE.html", help="write the page there")


def command(arguments: argparse.Namespace) -> dict:
    """`report`: one page about several training runs. (`train` makes one about its own, `compare` about a test.)"""
    runs, records = by_name(arguments.runs, "--runs"), {}
    for name, directory in runs.items():
        records[name] = read_record(directory)
        if records[name] is None:
            raise UserError(f"{directory}: holds no {RECORD}; give the --output of a `train` that has come to its end")
    tasks = {record["task"] for record in records.values()}
    if len(tasks) > 1:
        raise UserError(
            f"--runs: these are of different tasks ({', '.join(sorted(tasks))}); one page is about one task"
        )
    folders = [Path(directory) for directory in runs.values()]
    check_target(arguments.output, *folders, *(folder / RECORD for folder in folders))
    write_text(arguments.output, runs_page(", ".join(records), records))
    say(f"{len(records)} runs of {tasks.pop()}: {arguments.output}")
    return {"output": str(arguments.output), "runs": records}
