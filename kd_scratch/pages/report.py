"""Training runs and comparisons as HTML pages: what stands on them, from records and figures to sections."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

from kd_scratch.common.console import duration, shorten
from kd_scratch.pages.html import figure, html_table, page, paragraph
from kd_scratch.pages.svg import confusion, curves, heat_map, reliability, trade_off
from kd_scratch.tasks import TASKS, Task
from kd_scratch.tasks.base import Summary

PAGE = "report.html"  # the page that `train` writes beside its record
CLASSES = 12  # that are shown in a figure; of more, the pairs that are confused most
FRONT = "Bars: 95% interval of the score. Dashed: through the models that no other one beats in both."
ROWS = 20  # of a table of mistakes, or of classes
LOSSES = "Losses are comparable only between runs of the same kind: a distilled student's has another formula."


# --- training runs ---


def runs_page(title: str, records: dict[str, dict]) -> str:
    """A page about training runs of one task, from their records by name."""
    first = next(iter(records.values()))
    lead = f"{first['task']}, {len(records)} run{'s' if len(records) > 1 else ''}, made with kd_scratch"
    phases = [
        (name, phase, float(seconds))
        for name, record in records.items()
        for phase, seconds in record["seconds by phase"].items()
    ]
    sections = [
        ("Training", training(records)),
        ("Where the time went", html_table(("run", "phase", "seconds"), phases)),
        ("Settings and environment", settings(records)),
    ]
    return page(title, lead, sections)


def training(records: dict[str, dict]) -> str:
    """Curves of loss and dev score, and a line for each run."""
    score_name = TASKS[next(iter(records.values()))["task"]].score_name
    losses = {name: loss_curve(record) for name, record in records.items()}
    scores = {name: score_curve(record) for name, record in records.items()}
    pictures = (
        curves("Loss on the training data", "steps", "loss", losses),
        curves(f"{score_name} on the dev data", "steps", f"{score_name}, per cent", scores),
    )
    header = ("run", "parameters", "steps", "kept at step", f"dev {score_name}", "tokens/s", "time")
    rows = []
    for name, record in records.items():
        history, ends = record["history"], steps_of_looks(record)
        kept = dict(zip((look["epoch"] for look in history), ends, strict=True)).get(record["best_epoch"])
        best = float(max(look["dev"][score_name] for look in history))
        rate = round(history[-1]["tokens_per_second"])
        rows.append((name, record["parameters"], ends[-1], kept, best, rate, duration(record["seconds"])))
    return html_table(header, rows) + side_by_side(pictures) + paragraph(LOSSES, "soft")


def steps_of_looks(record: dict) -> list[int]:
    """How many steps a run had made at each look at dev: after an epoch, or with --looks at equal distances."""
    return list(accumulate(look["steps"] for look in record["history"]))


def loss_curve(record: dict) -> list[tuple[float, float]]:
    """The training loss of a run: (steps since the start, loss)."""
    points = []
    for look, end in zip(record["history"], steps_of_looks(record), strict=True):
        losses, steps = look["losses"], look["steps"]
        points += [(end - steps + steps * i / len(losses), loss) for i, loss in enumerate(losses, 1)]
    return points


def score_curve(record: dict) -> list[tuple[float, float]]:
    """The dev score of a run, in per cent: (steps since the start, score)."""
    score_name = TASKS[record["task"]].score_name
    looks = zip(record["history"], steps_of_looks(record), strict=True)
    return [(end, 100 * look["dev"][score_name]) for look, end in looks]


def settings(records: dict[str, dict]) -> str:
    """What the runs were made with: what differs between them first."""
    flat = {name: flatten(record) for name, record in records.items()}
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    differing, same = [], []
    for key in keys:
        values = [values.get(key, "") for values in flat.values()]
        if len(set(values)) > 1:
            differing.append((key, *values))
        else:
            same.append((key, values[0]))
    parts = ["<h3>What differs</h3>" + html_table(("", *records), differing, left=True)] if differing else []
    return "\n".join([*parts, "<h3>The same in all</h3>" + html_table(("", "all runs"), same, left=True)])


#: What came out of a run, and is no setting.
RESULTS = ("epoch", "batch", "step", "seconds", "best_epoch", "best_score", "best_sha256", "matmul rate")


def flatten(record: dict) -> dict[str, str]:
    """Settings, seeds, hashes and machine of a run in one level, as text; and whether it was resumed by force."""
    flat = {}
    for key, value in record.items():
        if isinstance(value, dict) and key in ("settings", "data settings", "layer choice", "machine"):
            flat |= {f"{key}: {name}": one_line(setting) for name, setting in value.items()}
        elif (isinstance(value, str | int | float) or value is None) and key not in RESULTS:
            flat[key] = one_line(value)
    if record.get("forced"):
        flat["resumed by force"] = one_line(record["forced"])
    return flat


def one_line(value) -> str:
    """A setting as text on one line; a dash for what is not set."""
    return shorten("-" if value in (None, "") else str(value), 120)


def side_by_side(pictures: Iterable[str]) -> str:
    """Pictures side by side where there is room."""
    return '<div class="side">' + "".join(figure(picture) for picture in pictures) + "</div>"


# --- comparisons ---


@dataclass(frozen=True)
class Cost:
    """What a model costs. The fields are the columns of the first table, in its order."""

    parameters: int
    megabytes: float  # of weights on disk
    peak_megabytes: float | None  # of a process that uses it; None: the system does not measure it
    latency_p50_ms: float  # one example from text to logits: the median, and what 95% of them stay below
    latency_p95_ms: float
    examples_per_second: float  # in batches


@dataclass
class Quality:
    """How good a model is, with intervals over test files. The differences are to the first model; it has none."""

    columns: dict[str, float]  # the metrics that the table shows
    interval: tuple[float, float]  # 95% interval of the score
    agreement: float  # the share of equal decisions
    difference: float | None = None
    difference_interval: tuple[float, float] | None = None
    p: float | None = None
    smallest: float | None = None  # true difference that four in five such test files would show; None: no spread


@dataclass
class Comparison:
    """All that the page about several models on one test file is made of; the dicts are by model's name."""

    task: Task
    note: str  # how the figures of the tables were measured
    costs: dict[str, Cost]
    quality: dict[str, Quality]
    metrics: dict[str, dict]
    calibration_errors: dict[str, tuple[float, str | None, float]]  # with interval, and a perfect model's
    calibration_bins: dict[str, list[tuple[float, float, int]]]  # mean confidence, share right, how many
    confusions: dict[str, Counter]  # counts of (gold class, predicted class); empty where a task has no classes
    student: str  # whose mistakes are shown
    mistakes: list[tuple[Summary, Summary]]  # of the first model and of the student, which does worse
    maps: list[tuple[list[str], dict[str, list[list[float]]]]]  # pieces of an input, and by model attention S,S
    records: dict[str, dict]  # of the training runs, where there are any
    advice: str  # how much there is to gain, and what gains it; "" where the records do not tell
    cascade: tuple[str, str, str] | None  # of the last model before the first: text, Markdown, a section of the page
    about: dict  # data, settings, machine, directories

    @property
    def first(self) -> str:
        """The model that the others are compared with."""
        return next(iter(self.costs))


def comparison_page(found: Comparison, tables: Sequence[tuple[Sequence[str], Sequence[Sequence]]]) -> str:
    """The whole page. tables: those of the terminal, header and rows of each."""
    first, student = found.first, found.student
    result = [paragraph(sentence) for sentence in (*sentences(found), found.advice) if sentence]
    result += [html_table(header, rows) for header, rows in tables]
    result.append(paragraph(found.note, "soft"))
    sections = [
        ("Result", "".join(result)),
        ("Quality against speed and size", side_by_side(trade_offs(found).values()) + paragraph(FRONT, "soft")),
    ]
    if found.cascade:
        sections.append((f"{list(found.costs)[-1]} where it is sure, else {first}", found.cascade[2]))
    if found.records:
        sections.append(("Training", training(found.records)))
    sections.append(("Calibration", calibration_section(found)))
    sections.append(("Class by class", classes_section(found)))
    if found.confusions:
        sections.append(("Confusions", confusions_section(found)))
    if student != first:
        sections.append((f"Where {first} does better than {student}", mistakes_section(found)))
    if found.maps:
        sections.append(("Attention", maps_section(found)))
    sections.append(("Settings and environment", environment_section(found)))
    title = f"{found.task.name}: {', '.join(found.costs)}"
    return page(title, "A comparison on one test file, made with kd_scratch", sections)


def sentences(found: Comparison) -> list[str]:
    """In words, what each model costs and gains against the first."""
    cost = found.costs[found.first]
    result = []
    for name, other in found.costs.items():
        if name == found.first:
            continue
        quality = found.quality[name]
        low, high = quality.difference_interval
        change = f"{100 * quality.difference:+.2f} points of {found.task.score_name}"
        doubt = "; both score alike throughout this test file"
        if quality.smallest is not None:
            least = f"{100 * quality.smallest:.2f}"
            doubt = f", which this test file cannot tell from none; detectable from {least} on"
        doubt = "" if low > 0 or high < 0 else doubt
        result.append(
            f"{name} against {found.first}: {change} (95%: {100 * low:+.2f} to {100 * high:+.2f}{doubt}), "
            f"{cost.megabytes / other.megabytes:.1f} times as small, "
            f"{cost.latency_p50_ms / other.latency_p50_ms:.1f} times as fast, "
            f"{quality.agreement:.1%} of the decisions alike"
        )
    return result


def trade_offs(found: Comparison) -> dict[str, str]:
    """Figures by file name: the score against milliseconds, and against megabytes."""
    milliseconds = {name: cost.latency_p50_ms for name, cost in found.costs.items()}
    megabytes = {name: cost.megabytes for name, cost in found.costs.items()}
    return {
        "speed.svg": score_against("speed", "milliseconds for one example (median)", milliseconds, found),
        "size.svg": score_against("size", "megabytes on disk", megabytes, found),
    }


def score_against(what: str, axis: str, costs: dict[str, float], found: Comparison) -> str:
    """A figure of the score against one kind of cost."""
    score = found.task.score_name
    points = {name: (cost, found.metrics[name][score], found.quality[name].interval) for name, cost in costs.items()}
    return trade_off(f"{found.task.name}: {score} against {what}", axis, f"test {score}", points)


def calibration_section(found: Comparison) -> str:
    """How often each model's decisions are right, by their probability."""
    picture = reliability("Share of right decisions by confidence", found.calibration_bins)
    caption = (
        "On the dashed line the share of right decisions equals the mean confidence. The calibration error is the mean "
        "distance from it; its floor is what chance leaves of it for a perfectly calibrated model. Bins of fewer than "
        "ten decisions are not drawn."
    )
    header = ("model", "calibration error", "95% interval", "floor")
    errors = html_table(header, [(name, *each) for name, each in found.calibration_errors.items()])
    return f'<div class="side">{figure(picture, caption)}{errors}</div>'


def classes_section(found: Comparison) -> str:
    """F1 by class (entity type, length of the answer) and model; of many, those in which the student loses most."""
    first, student = found.first, found.student
    by_model = {name: metrics["per_class"] for name, metrics in found.metrics.items()}
    names = list(dict.fromkeys(name for rows in by_model.values() for name in rows))
    scores = {name: {model: rows.get(name, {}).get("f1") for model, rows in by_model.items()} for name in names}

    def gap(name: str) -> float:
        return (scores[name][student] or 0.0) - (scores[name][first] or 0.0)

    lead = ""
    if len(names) > ROWS:
        lead = paragraph(f"The {ROWS} of {len(names)} in which {student} loses most.")
        names = sorted(names, key=gap)[:ROWS]
    header = ("F1", *by_model)
    rows = [(name, *scores[name].values()) for name in names]
    if student != first:
        header = (*header, f"{student} − {first}")
        rows = [(*row, gap(name)) for row, name in zip(rows, names, strict=True)]
    return lead + html_table(header, rows)


def confusions_section(found: Comparison) -> str:
    """For few classes a figure of first model and student; for many the pairs that are confused most."""
    classes = sorted({name for counts in found.confusions.values() for pair in counts for name in pair})
    if len(classes) <= CLASSES:
        shown = dict.fromkeys((found.first, found.student))
        return side_by_side(confusion(name, classes, found.confusions[name]) for name in shown)
    wrong = Counter()
    for (gold, predicted), count in found.confusions[found.student].items():
        if gold != predicted:
            wrong[gold, predicted] = count
    rows = [(*pair, *(counts[pair] for counts in found.confusions.values())) for pair, _ in wrong.most_common(ROWS)]
    return html_table(("gold", "prediction", *found.confusions), rows)


def mistakes_section(found: Comparison) -> str:
    """A table of the examples on which the student loses most."""
    if not found.mistakes:
        return paragraph("There are none.")
    header = ("example", "gold", f"prediction of {found.first}", f"prediction of {found.student}")
    rows = []
    for first, student in found.mistakes:
        cells = (first.text, first.gold, first.predicted, student.predicted)
        rows.append([shorten(cell, 300) for cell in cells])
    lead = f"The {len(rows)} examples with the largest difference."
    return paragraph(lead) + html_table(header, rows, left=True)


def maps_section(found: Comparison) -> str:
    """For a few inputs, the last layer's attention of each model, mean over heads."""
    lead = "Each row is a piece of the input: its attention to all pieces, in the last layer (mean over heads)."
    parts = [paragraph(lead)]
    for pieces, weights in found.maps:
        parts.append(side_by_side(heat_map(name, pieces, rows) for name, rows in weights.items()))
    return "\n".join(parts)


def environment_section(found: Comparison) -> str:
    """Data, settings and machine of the comparison, and what the models were trained with."""
    rows = [(key, one_line(value)) for key, value in found.about.items() if not isinstance(value, dict)]
    for key, values in found.about.items():
        if isinstance(values, dict) and key != "cascade":  # which has a section
            rows += [(f"{key}: {name}", one_line(value)) for name, value in values.items()]
    return html_table(("", "this comparison"), rows, left=True) + (settings(found.records) if found.records else "")
