"""A cascade: the student answers where it is sure, the teacher where it is not.

How sure is sure enough is chosen on dev: of all thresholds the one at which the teacher is asked least often, while the
cascade keeps a share of the teacher's score. What that gives is then told of the test set.

    cost of a text = the student's time + share that is asked · the teacher's time
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch

from kd_scratch.common.console import table
from kd_scratch.common.errors import UserError
from kd_scratch.evaluation.evaluate import EvaluationSet, LoadedModel, evaluate
from kd_scratch.evaluation.measure import latencies
from kd_scratch.evaluation.significance import drawn_scores, interval, note_of_few
from kd_scratch.pages import html, svg
from kd_scratch.tasks import Predictions

KEEP = 0.999  # the usual share of the teacher's score on dev that is to be kept
EQUAL = 1e-9  # a difference of probabilities that is rounding
ALL = float(np.nextafter(1.0, 2.0))  # a threshold that no probability reaches


class Point(NamedTuple):
    """A cascade with one threshold, on one set of examples."""

    threshold: float  # the teacher is asked where the student is less sure
    asked: float  # share of the examples that count
    score: float


@dataclass(frozen=True)
class Cascade:
    """What was chosen on dev, and what it gives on test."""

    score_name: str
    dev: Point
    test: Point
    curve: list[Point]  # on test, all thresholds, from the student alone to the teacher alone
    milliseconds: dict[str, float]  # "student", "teacher": the median of one example
    interval: tuple[float, float]  # of the cascade's score less the teacher's, on test
    names: tuple[str, str]  # what student and teacher are called
    note: str = ""  # where the interval is of few groups


def cascade(
    student: LoadedModel,
    teacher: LoadedModel,
    dev_set: EvaluationSet,
    test_set: EvaluationSet,
    keep: float,
    device: torch.device,
    on_test: Sequence[Predictions] = (),
    names: tuple[str, str] = ("student", "teacher"),
    milliseconds: dict[str, float] | None = None,
) -> Cascade:
    """The cascade that keeps at least this share of the teacher's score on dev, on the test set.

    on_test: of student and teacher, where they are known; milliseconds too. names: what a reader knows the two by.
    UserError where no threshold keeps so much, as may be with keep above 1, for models of other labels, and where the
    test set would choose its own threshold.
    """
    check_choice(dev_set, test_set, keep)
    task = dev_set.task
    models = {"student": student, "teacher": teacher}

    def predictions(one: EvaluationSet) -> list[Predictions]:
        return [evaluate(model, task, one.examples, one.data, device) for model in models.values()]

    on_dev, on_test = predictions(dev_set), on_test or predictions(test_set)
    if task.head == "sequence" and set(on_dev[0].labels) != set(on_dev[1].labels):
        raise UserError(f"{teacher.directory}: has other labels than {student.directory}; give models of the same ones")
    dev_curve, test_curve = curve(*on_dev), curve(*on_test)
    chosen = choose(dev_curve, keep)
    asked = task.sureness(on_test[0]) < chosen.threshold
    mixed = np.where(asked[:, None], task.tally(on_test[1]), task.tally(on_test[0]))  # N,k
    score, counted = float(task.tally_score(mixed.sum(axis=0))), on_test[0].counts
    differences = drawn_scores(on_test[0], mixed) - drawn_scores(on_test[1])
    if milliseconds is None:
        milliseconds = {name: median for name, (median, _) in latencies(models, test_set, device).items()}
    return Cascade(
        task.score_name,
        chosen,
        Point(chosen.threshold, float(asked[counted].mean()), score),
        test_curve,
        milliseconds,
        interval(differences),
        names,
        note_of_few(on_test[0]),
    )


def check_choice(dev_set: EvaluationSet, test_set: EvaluationSet, keep: float) -> None:
    """UserError where a threshold would be chosen on the test file, or keep is no share."""
    if not 0 < keep <= 2:  # above 1: better than the teacher, as a cascade may be
        raise UserError(f"--keep {keep:g}: is a share of the teacher's score; give 0.999 for 99.9%")
    if dev_set.sha256 == test_set.sha256 and dev_set.is_of(test_set.split):
        what = "holds the very texts of --data, on which no threshold may be chosen"
        raise UserError(f"--dev {dev_set.path}: {what}; give another file")


def curve(student: Predictions, teacher: Predictions) -> list[Point]:
    """A point for each threshold that asks for other examples, from the student alone to the teacher alone.

    Of the examples that count: what is out of scope has no part in score and share.
    """
    task, counted = student.task, np.flatnonzero(student.counts)
    sure, own, others = (
        values[counted] for values in (task.sureness(student), task.tally(student), task.tally(teacher))
    )
    order, count = np.argsort(sure, kind="stable"), len(counted)  # the least sure first
    swapped = np.cumsum((others - own)[order], axis=0)  # N,k: what changes where the first 1…N are asked
    sums = own.sum(axis=0) + np.concatenate([np.zeros_like(swapped[:1]), swapped])  # N+1,k
    scores = task.tally_score(sums)
    rising = sure[order]
    thresholds = np.concatenate([[0.0], (rising[1:] + rising[:-1]) / 2, [ALL]])  # halfway, so that rounding is harmless
    new = np.concatenate([[True], rising[1:] - rising[:-1] > EQUAL, [True]])  # those equally sure are asked together
    return [Point(float(thresholds[k]), float(k / count), float(scores[k])) for k in np.flatnonzero(new)]


def choose(points: list[Point], keep: float) -> Point:
    """The first point that loses at most 1 - keep of the last one's score. UserError where there is none."""
    wanted = points[-1].score - (1 - keep) * abs(points[-1].score)  # Matthews' correlation may be negative
    for point in points:
        if point.score >= wanted:
            return point
    best = max(point.score for point in points)
    raise UserError(f"--keep {keep:g}: no threshold reaches {wanted:.4f} on dev; the best of them {best:.4f}")


# --- what a person sees ---


def rows_of(found: Cascade) -> tuple[tuple[str, ...], list[tuple]]:
    """The header and the three lines of the table, on test."""
    cost, share, (student, teacher) = found.milliseconds, found.test.asked, found.names
    lines = [
        (f"{student} alone", found.curve[0].score, 0.0, cost["student"]),
        ("cascade", found.test.score, share, cost["student"] + share * cost["teacher"]),
        (f"{teacher} alone", found.curve[-1].score, 1.0, cost["teacher"]),
    ]
    header = ("", found.score_name, "asked", "ms", "times as fast")
    return header, [(*line, f"{cost['teacher'] / line[-1]:.1f}") for line in lines]


def conclusion(found: Cascade) -> str:
    """The threshold, and how far from the teacher it leads."""
    low, high = found.interval
    student, teacher = found.names
    points = found.test.score - found.curve[-1].score
    return (
        f"{teacher} is asked where {student} is less sure than {found.test.threshold!r}, as chosen on dev "
        f"({found.dev.asked:.1%} asked there). "
        f"Cascade to {teacher}: {points:+.4f} (95% interval {low:+.4f} to {high:+.4f})." + f" {found.note}".rstrip()
    )


def text_of(found: Cascade, markdown: bool = False) -> str:
    """Table and conclusion, as a terminal or a Markdown file shows them."""
    return f"{table(*rows_of(found), markdown)}\n\n{conclusion(found)}"


def section_of(found: Cascade) -> str:
    """For a page: the table, and the score for each share that is asked, as a curve of milliseconds."""
    cost = found.milliseconds
    thinned = [*found.curve[: -1 : 1 + len(found.curve) // 200], found.curve[-1]]
    lines = {
        "cascade, by threshold": [(cost["student"] + p.asked * cost["teacher"], p.score) for p in thinned],
        f"{found.names[0]}, chosen, {found.names[1]}": [(row[3], row[1]) for row in rows_of(found)[1]],
    }
    picture = svg.curves("Score and cost of a cascade", "milliseconds of one example", found.score_name, lines)
    return html.html_table(*rows_of(found)) + html.paragraph(conclusion(found)) + html.figure(picture)


def shown(found: Cascade) -> tuple[str, str, str]:
    """As text, as Markdown and as a section, for a comparison."""
    return text_of(found), text_of(found, markdown=True), section_of(found)


def page_of(found: Cascade, about: Sequence[str]) -> str:
    """The page that `cascade` writes. about: what its reader should know first."""
    sections = [("What it costs and keeps, on test", section_of(found))]
    return html.page("A student before its teacher", ". ".join(about), sections)


def record_of(found: Cascade, dev_set: EvaluationSet) -> dict:
    """What JSON can hold of it. dev_set: what the threshold was chosen on."""
    header, lines = rows_of(replace(found, names=("student", "teacher")))  # keys that no name changes
    rows = [dict(zip(("name", *header[1:-1]), line[:-1], strict=True)) for line in lines]
    for row in rows:
        row["times as fast"] = found.milliseconds["teacher"] / row["ms"]
    return {
        "threshold": found.test.threshold,
        "dev": found.dev._asdict(),
        "rows": rows,
        "interval to teacher": found.interval,
        "few groups": found.note,
        "dev file": {"data": str(dev_set.path), "data sha256": dev_set.sha256, "split": dev_set.split or None},
        "curve": found.curve,
    }
