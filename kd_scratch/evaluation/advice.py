"""What distillation can gain, by the scores of a teacher and of its student without it; and what may gain it."""

import math
from collections.abc import Collection, Iterable

from kd_scratch.evaluation.significance import CHANCE
from kd_scratch.pages.records import origin_record
from kd_scratch.tasks import TASKS, Task

#: What may close a gap, by what `ingredients` calls it, with what was measured of it (study/RESULTS.md).
MEANS = {
    "unlabelled": "text without labels (--unlabelled FILE; with altered copies 58% of the gap on CLINC150; 66% "
    "on AG News, 32% without it; 40% on CoNLL-2003, with copies)",
    "augment": "altered copies (--augment 1; alone within chance on CLINC150 and AG News)",
    "still": "a table of tokens that stays (--freeze-embeddings; not measured alone)",
    "teachers": "several teachers, or cross-fitted ones (--fold 1/5 to 5/5); neither is shown to beat one on AG News",
    "longer": "a longer schedule (--epochs; nothing on CLINC150, AG News and PolicyQA, in one run each; with text "
    "and copies 40% on CoNLL-2003)",
}
RANDOM = "random weights"  # so begins what a record says of the start of a student that has nothing to keep
ENOUGH = 0.8  # where so much of a gap is closed, nothing is advised


def advice(teacher: float, baseline: float, chance: float, known: Collection[str], closed: float = 0.0) -> str:
    """How much there is to gain between two scores, and what is left to try, in a sentence.

    chance: up to which difference the scores may be equal. known: what `ingredients` finds. closed: the share of the
    gap that a student has closed already.
    """
    text = f"teacher {100 * teacher:.2f}, baseline {100 * baseline:.2f}"
    if teacher - baseline <= chance:
        text += f": not ahead by more than chance ({100 * chance:.2f} points), so no gap is shown"
        return f"{text}; score both on more examples, train the teacher longer or better, or make the student smaller"
    text += f": {100 * (teacher - baseline):.2f} points to gain"
    if closed >= ENOUGH:
        return text
    if "same labels" in known:
        if "unlabelled" not in known:
            text += "; its teacher had no more labels than it, but text without labels closed all of it on CLINC150"
    elif "labelled" in known:
        text += "; with few labels, soft targets of a teacher of all labels closed 65% of it on CLINC150"
    means = [name for key, name in MEANS.items() if key not in known]
    return f"{text}; what is left to try: {', '.join(means)}"


def ingredients(record: dict, teachers: Iterable[str], task: Task) -> set[str]:
    """What a distillation (its training.json) with teachers in these folders has of MEANS already, or cannot have;
    "labelled" where it has labels for a part of its texts, "same labels" where its teachers had these alone."""
    settings, part = record["settings"], record["settings"].get("labelled")
    start = record.get("sources", {}).get("model", "")
    known = [other for path in teachers if (other := origin_record(path))]
    is_there = {
        "unlabelled": record.get("unlabelled") or not (task.unlabelled or task.read_unlabelled),
        "augment": settings.get("augment") or task.reworded is None,
        "still": settings.get("freeze_embeddings") or start.startswith(RANDOM),
        "teachers": " " in (record.get("teacher") or "") or task.head == "mlm",
        "labelled": part,
        "same labels": part and known and all(same_labels(record, other) for other in known),
    }
    return {name for name, value in is_there.items() if value}


def same_labels(record: dict, other: dict) -> bool:
    """Whether two runs were trained on the labels of the same part of the examples (--labelled)."""
    drawn = ["drawn by text"] * bool(record["settings"].get("labelled"))
    return _alike(record["settings"], other["settings"], ["labelled"]) and _alike(record, other, ["seed", *drawn])


def differently_read(record: dict, other: dict) -> dict[str, object]:
    """The other run's settings by which it may have other examples of the same file, as far as both records hold
    them and the task reads with them: {"text_column": "body"}. What is "auto" for one of the two may be as for
    the other."""
    read, other_read = ({"task": each["task"], **each["data settings"]} for each in (record, other))
    shared = sorted(read.keys() & other_read.keys() & {"task", *TASKS[record["task"]].reading.split()})
    return {key: other_read[key] for key in shared if len({read[key], other_read[key], "auto"}) == 3}


def same_dev(record: dict, other: dict) -> bool:
    """Whether the dev scores of two runs are of the same examples, read in the same way."""
    keys = ["task", "dev"]
    if str(record.get("dev")).endswith("%"):  # then dev is a part of the training file
        keys += ["train", "drawn by text", "dev drawn by"]
    read, other_read = record["data settings"], other["data settings"]
    shared = (read.keys() & other_read.keys()) - {"limit"}  # which is for training
    return bool(record.get("dev")) and _alike(record, other, keys) and _alike(read, other_read, shared)


def is_baseline(record: dict, distilled: dict) -> bool:
    """Whether a run is the same student as a distilled one, with the same data, weights and seed, but no teacher."""
    same_data = same_dev(record, distilled) and _alike(record["data settings"], distilled["data settings"], ["limit"])
    same_run = _alike(record, distilled, ["train", "initial weights", "fold"]) and same_labels(record, distilled)
    return record.get("teacher") is None and same_data and same_run


def _alike(record: dict, other: dict, keys: Iterable[str]) -> bool:
    return all(record.get(key) == other.get(key) for key in keys)


def chance_of(scores: Iterable[float], examples: int) -> float:
    """By how much two scores may differ by chance, as if examples and models were independent of each other.

    As shares of right ones; a score of 0 or less is a correlation, whose variance is at most 1/n.
    """
    spread = (score * (1 - score) if score > 0 else 1.0 for score in scores)
    return CHANCE * math.sqrt(sum(spread) / examples)
