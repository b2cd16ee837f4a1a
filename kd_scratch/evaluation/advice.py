"""How much distillation can gain, from the scores of a teacher and of the same student without it, and what gains it.

The figures are this project's own: kd_scratch/study/RESULTS.md.
"""

import math
from collections.abc import Collection, Iterable
from pathlib import Path

from kd_scratch.common.errors import UserError
from kd_scratch.evaluation.significance import CHANCE
from kd_scratch.pages.records import read_record
from kd_scratch.tasks import Task

#: What closes a gap, by what `ingredients` calls it.
MEANS = {
    "unlabelled": "text without labels (--unlabelled FILE; on CLINC150 35 to 47% of the gap, soft targets alone 0%)",
    "teachers": "several teachers, or cross-fitted ones (make teachers)",
    "augment": "altered copies (--augment 1; on AG News 0.7 points)",
    "longer": "with these a longer schedule (--epochs)",
}


def advice(teacher: float, baseline: float, chance: float, known: Collection[str]) -> str:
    """How much there is to gain between two scores, and what usually gains it, in a sentence.

    chance: up to which difference the scores may be equal. known: what `ingredients` finds.
    """
    text = f"teacher {100 * teacher:.2f}, baseline {100 * baseline:.2f}"
    if teacher - baseline <= chance:
        text += f": not ahead by more than chance ({100 * chance:.2f} points), so there is nothing to close"
        return f"{text}; train the teacher longer or better first, or make the student smaller"
    text += f": {100 * (teacher - baseline):.2f} points to gain"
    if "same labels" in known:
        text += (
            "; the teacher had no more labels than the student: soft targets of such a one cost 7.5 points on CLINC150"
        )
    elif "labelled" in known:
        text += "; with few labels, soft targets for the other texts closed 65% of it on CLINC150"
    means = [name for key, name in MEANS.items() if key not in known]
    return f"{text}; what usually closes such a gap: {', '.join(means)}"


def ingredients(record: dict, teachers: Iterable[dict], task: Task) -> set[str]:
    """What a distillation has of MEANS already, or cannot have; "labelled" where it has labels for a part of its texts,
    "same labels" where each of its teachers had these alone.

    record: of the distillation, as in training.json; teachers: of those of its teachers that are known.
    """
    settings, teachers = record["settings"], list(teachers)
    part = settings.get("labelled")
    is_there = {
        "unlabelled": record.get("unlabelled") or task.unlabelled is None,
        "augment": settings.get("augment") or task.reworded is None,
        "teachers": " " in (record.get("teacher") or "") or task.head == "mlm",
        "labelled": part,
        "same labels": part and teachers and all(
            other["settings"].get("labelled") == part and other.get("seed") == record.get("seed") for other in teachers
        ),
    }  # fmt: skip
    return {name for name, value in is_there.items() if value}


# --- who is who ---


def quiet_record(directory: str | Path) -> dict | None:
    """The record of the run in a folder; None where there is none, or something else."""
    try:
        return read_record(directory)
    except UserError:
        return None


def same_dev(record: dict, other: dict) -> bool:
    """Whether the dev scores of two runs are of the same examples, read in the same way."""
    keys = ["task", "dev"] + ["train"] * str(record.get("dev")).endswith("%")  # then dev is a part of it
    read, other_read = record["data settings"], other["data settings"]
    shared = (read.keys() & other_read.keys()) - {"limit"}  # which is for training
    return bool(record.get("dev")) and (
        all(record.get(key) == other.get(key) for key in keys) and all(read[key] == other_read[key] for key in shared)
    )


def is_baseline(record: dict, distilled: dict) -> bool:
    """Whether a run is the same student as a distilled one, with the same data, weights and seed, but no teacher."""
    keys = ("train", "initial weights", "seed", "fold")
    return (
        record.get("teacher") is None
        and same_dev(record, distilled)
        and all(record.get(key) == distilled.get(key) for key in keys)
        and record["settings"].get("labelled") == distilled["settings"].get("labelled")
    )


def chance_of(scores: Iterable[float], examples: int) -> float:
    """The difference of two scores below which it may be chance, as if each example were right or wrong by itself, and
    the two independent of each other (which makes it rather too large)."""
    return CHANCE * math.sqrt(sum(score * (1 - score) for score in scores) / examples)
