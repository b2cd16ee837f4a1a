"""What a study has found: how its numbers become tables, plain sentences and figures."""

import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kd_scratch.common.console import table
from kd_scratch.common.files import write_json, write_text
from kd_scratch.evaluation.significance import interval, margin, resampled_sums, two_sided_p
from kd_scratch.pages.svg import Bar, dots, grid, reliability
from kd_scratch.study.variants import BASELINE, RESULT, SOFT
from kd_scratch.tasks import Task

GAPS = 8  # classes that are shown


def report(
    task: Task,
    about: dict,
    teacher: dict,
    records: dict[str, list[dict]],
    cells: dict[tuple[float, float], dict],
    output: Path,
    others: dict[str, dict[str, list[dict]]],
) -> tuple[str, dict]:
    """Write evidence.md, evidence.json and the figures; returns what a terminal shows, and what is in the JSON.

    teacher: what laboratory.measured says of it. records: by variant the same of each seed's model, with its dev score.
    cells: dev and test score by (temperature, alpha). others: as records, of other studies by their names; they are
    shown, but none of theirs is chosen.
    """
    rows = {name: summary(task, runs, references(name, records), teacher) for name, runs in records.items()}
    best = max(rows, key=lambda name: rows[name]["dev"])  # on dev, never on test
    sentences = said(rows, best, task, teacher)
    for other, theirs in others.items():
        for name, runs in theirs.items():
            its_baseline = {} if name == BASELINE else {BASELINE: theirs[BASELINE]}
            rows[f"{other}: {name}"] = row = summary(task, runs, its_baseline, teacher)
            if name in records:
                row["against its namesake here"] = change = difference(task, runs, records[name])
                told = _verdict(change, len(runs), "above", "below")
                sentences.append(f"{other}: {name} against {name} here: {told}")
    gaps = class_gaps(teacher, records[best])
    text, markdown = (
        "\n\n".join(_parts(about, teacher, rows, sentences, gaps, best, cells, md)) for md in (False, True)
    )
    figures = {
        "scores.svg": dots(
            f"{task.name}: test {task.score_name} by variant ({len(about['seeds'])} seeds)",
            task.score_name,
            [
                Bar(name, row["by seed"], row["test"], row["margin"], grey=name.rpartition(": ")[2] == BASELINE)
                for name, row in rows.items()
            ],
            ("teacher", teacher["score"]),
        ),
        "calibration.svg": reliability(
            f"{task.name}: how often a model is right, by how sure it is",
            {"teacher": teacher["calibration"]}
            | {name: _pooled(records[name]) for name in dict.fromkeys((BASELINE, SOFT, best))},
        ),
    }
    if cells:
        name = f"{task.name}: dev {task.score_name} by temperature and alpha (soft targets, one seed)"
        figures["grid.svg"] = grid(
            name, "alpha", "temperature", {(a, t): cell["dev"] for (t, a), cell in cells.items()}
        )
    for file, picture in figures.items():
        write_text(output / file, picture)
    pictures = "\n".join(f"![{file.removesuffix('.svg')}]({file})" for file in figures)
    commands = [f"# {name}\n{_shell(argv)}" for name, argv in about["beside"].items()] + [_shell(about["command"])]
    told = "```sh\n" + "\n".join(commands) + "\n```"
    write_text(output / "evidence.md", f"# {task.name}\n\n{markdown}\n\n{pictures}\n\n{told}\n")
    result = about | {
        "teacher": teacher["score"],
        "best on dev": best,
        "rows": rows,
        "findings": sentences,
        "gaps": gaps,
    }
    result["grid"] = [{"temperature": t, "alpha": a} | cell for (t, a), cell in cells.items()]
    write_json(output / RESULT, result)
    return text, result


def _shell(argv: Sequence[str]) -> str:
    """A command as one types it."""
    return "python -m kd_scratch " + shlex.join(argv)


def references(name: str, records: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """What a variant is compared with: the baseline, and soft targets alone."""
    return {key: records[key] for key in (BASELINE, SOFT) if key in records and name not in (BASELINE, key)}


def summary(task: Task, runs: list[dict], compared: dict[str, list[dict]], teacher: dict) -> dict:
    """A variant's figures: means over its seeds, and its difference to each of those that it is compared with."""
    scores = [run["score"] for run in runs]
    row = {
        "dev": float(np.mean([run["dev"] for run in runs])),
        "test": float(np.mean(scores)),
        "margin": margin(scores),
        "by seed": scores,
        "of teacher": float(np.mean(scores)) / teacher["score"],
        "loss": _mean(run["loss"] for run in runs),
        "ece": _mean(run["ece"] for run in runs),
        "agreement": _mean(run["agreement"] for run in runs),
    }
    for name, its_runs in compared.items():
        row[f"against {name}"] = difference(task, runs, its_runs)
    return row


def difference(task: Task, runs: Sequence[dict], reference: Sequence[dict]) -> dict:
    """The mean over seeds of the difference of scores, with its 95% interval and p by a paired bootstrap over the test
    examples, which are drawn alike for all seeds and both variants; and how many seeds gained."""
    observed = [run["score"] - other["score"] for run, other in zip(runs, reference, strict=True)]
    drawn = np.mean(
        [_drawn(task, run) - _drawn(task, other) for run, other in zip(runs, reference, strict=True)], axis=0
    )
    return {
        "mean": float(np.mean(observed)),
        "interval": interval(drawn),
        "p": two_sided_p(drawn),
        "seeds": margin(observed),  # how far chance in training alone may carry it
        "gained": sum(value > 0 for value in observed),
    }


def _drawn(task: Task, run: dict) -> np.ndarray:
    """A model's score on each test file that is drawn."""
    if "drawn" not in run:
        run["drawn"] = task.tally_score(resampled_sums(np.array(run["tally"])))
    return run["drawn"]


def _mean(values) -> float | None:
    """The mean, or None where one is missing."""
    values = list(values)
    return None if None in values else float(np.mean(values))


def _pooled(runs: Sequence[dict]) -> list[tuple[float, float, int]]:
    """The calibration bins of several models put together: confidence, share right, how many."""
    bins = np.array([run["calibration"] for run in runs], np.float64)  # runs,15,3
    counts = bins[:, :, 2].sum(axis=0)
    means = (bins[:, :, :2] * bins[:, :, 2:]).sum(axis=0) / np.maximum(counts, 1)[:, None]
    return [(float(c), float(r), int(n)) for (c, r), n in zip(means, counts, strict=True)]


def class_gaps(teacher: dict, runs: Sequence[dict]) -> list[tuple[str, float, float, float]]:
    """Class (entity type, answer length), the teacher's F1, the students' mean, their difference; widest first."""
    rows = []
    for name, score in teacher["per_class"].items():
        mean = float(np.mean([run["per_class"].get(name, 0.0) for run in runs]))
        rows.append((name, score, mean, mean - score))
    return sorted(rows, key=lambda row: row[3])


def said(rows: dict[str, dict], best: str, task: Task, teacher: dict) -> list[str]:
    """Plainly, which losses helped."""
    found = [
        f"Best on dev: {best}. On test it has {rows[best]['of teacher']:.1%} of its teacher's {task.score_name} "
        f"({100 * rows[best]['test']:.2f} against {100 * teacher['score']:.2f})."
    ]
    for name, row in rows.items():
        reference = BASELINE if name == SOFT else SOFT
        if f"against {reference}" in row:
            found.append(f"{name} against {reference}: {_verdict(row[f'against {reference}'], len(row['by seed']))}")
    return found


def _verdict(found: dict, seeds: int, gain: str = "helped", loss: str = "hurt") -> str:
    """Whether a difference is one: more than the test file's chance, and more than that of training, may have made."""
    low, high = found["interval"]
    told = "no difference that these runs can show"
    if found["seeds"] is None:
        told = "of one seed, so nobody knows what chance in training does"
    elif abs(found["mean"]) > found["seeds"] and not low <= 0 <= high:
        told = gain if low > 0 else loss
    points = f"{100 * found['mean']:+.2f} points ({100 * low:+.2f} to {100 * high:+.2f} over test examples"
    points += ")" if found["seeds"] is None else f", ± {100 * found['seeds']:.2f} over seeds)"
    return f"{told}: {points}, better with {found['gained']} of {seeds} seeds"


def _parts(about: dict, teacher: dict, rows: dict, sentences: list, gaps: list, best: str, cells: dict, markdown: bool):
    """The tables and what stands between them."""
    seeds, steps, versions = about["seeds"], about["steps"], about["versions of the code"]
    yield (
        f"{about['score']} on {about['test examples']:,} examples of {about['data']}; mean of {len(seeds)} seeds "
        f"({', '.join(map(str, seeds))}) ± 95% interval of that mean over seeds. Differences have a 95% interval by "
        "paired bootstrap over the test examples, for these very models; below, one counts only if it also exceeds its "
        "95% interval over seeds. None is adjusted for how many there are. ECE: expected calibration "
        f"error; agreement: with the decisions of the teacher{about['which teacher']}. "
        + f"Each run made {' to '.join(f'{n:,}' for n in dict.fromkeys((steps[0], steps[-1])))} optimizer steps."
        + (f" They were made by {versions} versions of the code." if versions > 1 else "")
        + "".join(f" {other}: another study, with a baseline of its own." for other in about["beside"])
    )
    header = (
        "variant",
        "dev",
        "test",
        "±",
        "of teacher",
        "to baseline",
        "95% interval",
        "p",
        "loss",
        "ECE",
        "agreement",
    )
    teachers = ("teacher", None, _points(teacher["score"]), None, "100.0%", *[None] * 3)
    lines = [(*teachers, teacher["loss"], teacher["ece"], 1.0)]
    for name, row in rows.items():
        change = row.get(f"against {BASELINE}")
        shown = (None, None, None)
        if change:
            low, high = change["interval"]
            p = "<0.001" if change["p"] < 0.001 else f"{change['p']:.3f}"
            shown = f"{100 * change['mean']:+.2f}", f"{100 * low:+.2f} to {100 * high:+.2f}", p
        spread = None if row["margin"] is None else f"{100 * row['margin']:.2f}"
        scores = _points(row["dev"]), _points(row["test"]), spread, f"{row['of teacher']:.1%}"
        lines.append((name, *scores, *shown, row["loss"], row["ece"], row["agreement"]))
    yield table(header, lines, markdown)
    yield "\n".join(f"- {sentence}" for sentence in sentences)
    if cells:
        alphas = sorted({alpha for _, alpha in cells})
        lines = [
            (f"{t:g}", *(" / ".join(_points(cells[t, a][part]) for part in ("dev", "test")) for a in alphas))
            for t in sorted({t for t, _ in cells})
        ]
        header = ("temperature", *(f"alpha {a:g}" for a in alphas))
        yield f"Soft targets alone, seed {seeds[0]}: dev / test\n\n" + table(header, lines, markdown)
    lines = [(name, *map(_points, (teachers, students)), f"{100 * gap:+.2f}") for name, teachers, students, gap in gaps]
    title = "class" if len(gaps) <= GAPS else f"class, the {GAPS} widest gaps of {len(gaps)}"
    yield f"F1 by class: teacher and {best}\n\n" + table((title, "teacher", best, "gap"), lines[:GAPS], markdown)


def _points(score: float) -> str:
    """0.9478 -> "94.78" """
    return f"{100 * score:.2f}"
