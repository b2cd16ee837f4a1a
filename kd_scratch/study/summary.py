"""What a study has found: how its figures become tables, plain sentences and pictures."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from kd_scratch.common.console import table
from kd_scratch.common.files import write_json, write_text
from kd_scratch.evaluation.advice import advice
from kd_scratch.evaluation.significance import interval_text
from kd_scratch.pages.svg import Bar, dots, grid, reliability
from kd_scratch.study.figures import Figures, class_gaps, difference, pooled_bins, references, summarize, sureness
from kd_scratch.study.results import RESULT
from kd_scratch.study.variants import BASELINE, SOFT, RateScores, best_rates
from kd_scratch.tasks import Task

GAPS = 8  # classes that are shown
ALIKE = "against its namesake here"  # the difference of another study's variant to the one of that name in this study
HEADER = ("variant", "rate", "dev", "test", "±", "to baseline", "95% interval", "p", "detectable from")
HEADER += ("of the gap", "95% interval")
SURENESS = ("variant", "loss", "95% interval", "ECE", "95% interval", "floor", "agreement")


class Report(NamedTuple):
    """What a study has found, for people and for programs."""

    text: str  # tables and sentences for a terminal
    record: dict  # what is in evidence.json


@dataclass
class Findings:
    """What stands in the tables."""

    task: Task
    about: dict  # data, seeds, commands and machine, as runner.report gives them
    teacher: Figures
    rows: dict[str, dict]  # by variant, those of other studies too: what `summarize` gives
    cells: dict[tuple[float, float], dict]  # dev and test score by temperature and alpha
    best: str  # the variant of this study that is best on dev
    sentences: list[str]
    gaps: list[tuple[str, float, float, float]]  # what `class_gaps` gives


def write_report(
    task: Task,
    about: dict,
    teacher: Figures,
    runs: dict[str, list[Figures]],
    cells: dict[tuple[float, float], dict],
    output: Path,
    others: dict[str, dict[str, list[Figures]]],
    rates: RateScores,
) -> Report:
    """Write evidence.md, evidence.json and the pictures.

    runs: by variant the figures of each seed's model. others: the same of other studies by their names; they are shown,
    but none of their variants is chosen. rates: what learning rates were chosen by.
    """
    rows = {name: summarize(models, references(name, runs), teacher) for name, models in runs.items()}
    best = max(rows, key=lambda name: rows[name]["dev"])  # on dev, never on test
    closed = max((row["gap"]["share"] for row in rows.values() if row.get("gap")), default=0.0)
    own = (rows[BASELINE][key] for key in ("test", "chance of gap"))
    advised = advice(teacher["score"], *own, about["ingredients"], closed)
    sentences = [*conclusions(rows, best, task, teacher), *about_rates(rates), f"What there is to gain: {advised}."]
    for other, other_runs in others.items():
        for name, models in other_runs.items():
            other_baseline = {} if name == BASELINE else {BASELINE: other_runs[BASELINE]}
            row = summarize(models, other_baseline, teacher)
            if name in runs:
                row[ALIKE] = difference(models, runs[name])
                text = verdict(row[ALIKE], len(models), "above", "below")
                sentences.append(f"{other}: {name} against {name} here: {text}")
            rows[f"{other}: {name}"] = row
    found = Findings(task, about, teacher, rows, cells, best, sentences, class_gaps(teacher, runs[best]))
    pictures = draw(found, runs)
    for file, picture in pictures.items():
        write_text(output / file, picture)
    write_text(output / "evidence.md", markdown_page(found, pictures))
    record = about | {
        "teacher": teacher["score"],
        "sureness of the teacher": sureness([teacher]),
        "best on dev": best,
        "rows": rows,
        "findings": sentences,
        "learning rates": rates,
        "gaps": found.gaps,
        "grid": [{"temperature": temperature, "alpha": alpha} | cell for (temperature, alpha), cell in cells.items()],
    }
    write_json(output / RESULT, record)
    return Report("\n\n".join(parts(found, markdown=False)), record)


# --- sentences ---


def conclusions(rows: dict[str, dict], best: str, task: Task, teacher: Figures) -> list[str]:
    """Plainly, which losses helped."""
    sentences = [
        f"Best on dev: {best}. On test it has {rows[best]['of teacher']:.1%} of its teacher's {task.score_name} "
        f"({_points(rows[best]['test'])} against {_points(teacher['score'])})."
    ]
    for name, row in rows.items():
        reference = BASELINE if name == SOFT else SOFT
        change = row.get(f"against {reference}")
        if change:
            sentences.append(f"{name} against {reference}: {verdict(change, len(row['by seed']))}")
    return sentences


def about_rates(rates: RateScores) -> list[str]:
    """Which variants may do better at learning rates beyond those that were tried; or that one was tried."""
    if not any(len(scores) > 1 for scores in rates.values()):
        return ["all variants had one learning rate: --learning-rates gives each its own"]
    best, sentences = best_rates(rates), []
    for end, what, others in ((max, "highest", "higher"), (min, "lowest", "lower")):
        names = [name for name, scores in rates.items() if len(scores) > 1 and best[name] == end(scores)]
        if names:
            cure = f"the best learning rate is the {what} of the grid: try {others} ones"
            sentences.append(f"{', '.join(names)}: {cure}")
    return sentences


def verdict(change: dict, seeds: int, gain: str = "helped", loss: str = "hurt") -> str:
    """Whether a difference is one: more than the chances of test file and training together may have made."""
    low, high = change["interval"]
    text = "no difference that these runs can show"
    if change["smallest"] is not None:
        text += f" (detectable from {_points(change['smallest'])} points on)"
    spread = ""
    if change["seeds"] is None:
        text = "of one seed, which does not show what chance in training does"
    else:
        spread = f", ± {_points(change['seeds'])} over seeds"
        if abs(change["mean"]) > change["margin"]:
            text = gain if change["mean"] > 0 else loss
    points = f"{100 * change['mean']:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f} over test examples{spread})"
    return f"{text}: {points}, better with {change['gained']} of {seeds} seeds"


# --- tables ---


def parts(found: Findings, markdown: bool) -> list[str]:
    """The tables and what stands between them."""
    name = found.about["which teacher"]
    sure = {name: sureness([found.teacher])} | found.rows
    result = [
        introduction(found.about),
        table(HEADER, [teacher_line(name, found.teacher), *map(line, found.rows, found.rows.values())], markdown),
        table(SURENESS, list(map(sureness_line, sure, sure.values())), markdown),
        "\n".join(f"- {sentence}" for sentence in found.sentences),
    ]
    if found.cells:
        result.append(grid_table(found, markdown))
    result.append(gap_table(found, markdown))
    return result


def introduction(about: dict) -> str:
    """What the tables are of, and how to read them."""
    seeds, steps, versions = about["seeds"], about["steps"], about["versions of the code"]
    step_range = " to ".join(f"{count:,}" for count in dict.fromkeys((steps[0], steps[-1])))
    both = "both chances" if len(seeds) > 1 else "the chance of the test file"
    best = "" if about["which teacher"] == "teacher" else ", the best of several on this file"
    text = (
        f"{about['score']} on {about['test examples']:,} examples of {about['data']}; mean of {len(seeds)} seeds "
        f"({', '.join(map(str, seeds))}) ± 95% interval of that mean over seeds. Differences have a 95% interval by "
        f"paired bootstrap over the test file's {about['drawn']}, for these very models; below, one counts "
        "only if it exceeds the chances of test file and training together. None is adjusted for how many there "
        "are. Detectable from: the minimum detectable effect, a true difference that four in five such studies "
        "would find (power 80%). Of the gap: the share of the way from baseline to teacher, with an interval of "
        f"{both}; empty where the teacher is not ahead beyond chance. ECE: expected calibration error; floor: "
        "what a perfectly calibrated model would have. Agreement: with the decisions of the teacher"
        f"{best}. Each run made {step_range} optimizer steps."
    )
    if about["layers chosen"]:
        text += " The students' layers were chosen on dev with soft targets, which favours these."
    if versions > 1:
        text += f" They were made by {versions} versions of the code."
    text += f" {about['few groups']}".rstrip() + "".join(f" {note}." for note in about["notes"])
    return text + "".join(f" {other}: another study, with a baseline of its own." for other in about["beside"])


def teacher_line(name: str, teacher: Figures) -> tuple:
    """The teacher's line of the table, with nothing to compare it with."""
    return (name, None, None, _points(teacher["score"]), *[None] * (len(HEADER) - 4))


def line(name: str, row: dict) -> tuple:
    """A variant's line of the table."""
    change = row.get(f"against {BASELINE}")
    to_baseline = (None, None, None, None)
    if change:
        p = change["p"] if change["p"] is None else "<0.001" if change["p"] < 0.001 else f"{change['p']:.3f}"
        low, high = change["interval"]
        bounds = f"{100 * low:+.2f} to {100 * high:+.2f}"
        smallest = "one seed" if change["seeds"] is None else change["smallest"] and _points(change["smallest"])
        to_baseline = f"{100 * change['mean']:+.2f}", bounds, p, smallest
    closed = (None, None)
    if gap := row.get("gap"):
        low, high = gap["interval"]
        closed = f"{gap['share']:.0%}", f"{low:.0%} to {high:.0%}"
    spread = None if row["margin"] is None else _points(row["margin"])
    rate = None if row["learning rate"] is None else f"{row['learning rate']:g}"
    return (name, rate, _points(row["dev"]), _points(row["test"]), spread, *to_baseline, *closed)


def sureness_line(name: str, row: dict) -> tuple:
    """A line of the second table: loss and calibration error, each with its interval, and agreement."""
    loss, ece = (interval_text(row[f"{figure} interval"]) for figure in ("loss", "ece"))
    return name, row["loss"], loss, row["ece"], ece, row["ece floor"], row["agreement"]


def grid_table(found: Findings, markdown: bool) -> str:
    """Dev and test score by temperature (down) and alpha (across)."""
    alphas = sorted({alpha for _, alpha in found.cells})
    lines = []
    for temperature in sorted({temperature for temperature, _ in found.cells}):
        cells = [found.cells[temperature, alpha] for alpha in alphas]
        lines.append((f"{temperature:g}", *(f"{_points(cell['dev'])} / {_points(cell['test'])}" for cell in cells)))
    header = ("temperature", *(f"alpha {alpha:g}" for alpha in alphas))
    title = f"Soft targets alone, seed {found.about['seeds'][0]}: dev / test"
    return f"{title}\n\n{table(header, lines, markdown)}"


def gap_table(found: Findings, markdown: bool) -> str:
    """F1 by class of the teacher and the best variant, the widest gaps first."""
    count = len(found.gaps)
    lines = [
        (name, _points(teacher), _points(students), f"{100 * difference:+.2f}")
        for name, teacher, students, difference in found.gaps[:GAPS]
    ]
    title = "class" if count <= GAPS else f"class, the {GAPS} widest gaps of {count}"
    gaps = table((title, "teacher", found.best, "gap"), lines, markdown)
    return f"F1 by class: teacher and {found.best}\n\n{gaps}"


def _points(score: float) -> str:
    """0.9478 -> "94.78" """
    return f"{100 * score:.2f}"


# --- the page and its pictures ---


def markdown_page(found: Findings, pictures: Iterable[str]) -> str:
    """evidence.md: the tables, the pictures, and the commands that make them."""
    tables = "\n\n".join(parts(found, markdown=True))
    links = "\n".join(f"![{file.removesuffix('.svg')}]({file})" for file in pictures)
    commands = [f"# {name}\n{_shell(argv)}" for name, argv in found.about["beside"].items()]
    commands.append(_shell(found.about["command"]))
    block = "```sh\n" + "\n".join(commands) + "\n```"
    return f"# {found.task.name}\n\n{tables}\n\n{links}\n\n{block}\n"


def _shell(argv: Sequence[str]) -> str:
    """A command as one types it."""
    return "python -m kd_scratch " + shlex.join(argv)


def draw(found: Findings, runs: dict[str, list[Figures]]) -> dict[str, str]:
    """The pictures, by the name of their file."""
    name, score_name = found.task.name, found.task.score_name
    bars = []
    for variant, row in found.rows.items():
        is_baseline = variant.rpartition(": ")[2] == BASELINE
        bars.append(Bar(variant, row["by seed"], row["test"], row["margin"], grey=is_baseline))
    title = f"{name}: test {score_name} by variant ({len(found.about['seeds'])} seeds)"
    bins = {"teacher": found.teacher["calibration"]}
    for variant in dict.fromkeys((BASELINE, SOFT, found.best)):
        bins[variant] = pooled_bins(runs[variant])
    pictures = {
        "scores.svg": dots(title, score_name, bars, ("teacher", found.teacher["score"])),
        "calibration.svg": reliability(f"{name}: how often a model is right, by how sure it is", bins),
    }
    if found.cells:
        title = f"{name}: dev {score_name} by temperature and alpha (soft targets, one seed)"
        cells = {(alpha, temperature): cell["dev"] for (temperature, alpha), cell in found.cells.items()}
        pictures["grid.svg"] = grid(title, "alpha", "temperature", cells)
    return pictures
