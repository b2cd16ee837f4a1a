"""Cross-fitted teachers: each is trained without one part of the training file, and teaches that part.

A teacher knows the texts that it was trained on by heart: what it says of them is hardly more than their labels. Of k
teachers, each trained with another `--fold`, one has not seen a given example; its soft targets are those that count
(Dao et al. 2021, section 3). Text that none has seen gets the mean of all.

    examples        a b c d e f        --fold 1/3 leaves out a and d, 2/3 b and e, 3/3 c and f
    taught by       1 2 3 1 2 3        text of --unlabelled: by 1, 2 and 3
"""

import re
from dataclasses import asdict

import numpy as np

from kd_scratch.common.errors import UserError
from kd_scratch.config import SIZES, flag_name
from kd_scratch.data.batches import EncodedInputs
from kd_scratch.evaluation.advice import differently_read, same_labels
from kd_scratch.pages.records import origin_record
from kd_scratch.tasks.augment import COPY
from kd_scratch.tasks.base import Task, drawn_by_text, text_of
from kd_scratch.tasks.folds import Fold, fold_numbers, parse_fold
from kd_scratch.training.examples import TrainingData
from kd_scratch.training.spec import RunSpec


def check_fold(spec: RunSpec, data: TrainingData) -> None:
    """UserError where --model has learned the texts that --fold leaves out; where a teacher has, a note."""
    if not spec.fold:
        return
    wanted = parse_fold(spec.fold), drawn_by_text(data.task, data.own)
    for flag, path in [("--model", spec.model), *(("--teacher", path) for path in spec.teachers)]:
        record = {} if path in SIZES else origin_record(path) or {}
        if record.get("train") != data.hashes["train"] or record["task"] == "mlm":
            continue  # masked words have no labels
        if (parse_fold(record.get("fold") or ""), record.get("drawn by text")) != wanted:
            what = f"{flag} {path}: has learned the texts that --fold {spec.fold} leaves out"
            if flag == "--model":
                raise UserError(f"{what}; give the model from before that training")
            data.notes.append(f"{what}; its soft targets may tell something of them")


def teacher_folds(spec: RunSpec) -> tuple[list[Fold], list[dict]] | None:
    """The folds of cross-fitted teachers, and the records of their training; None where they were not trained on folds.

    UserError where some were and others not, and where there is a fold without a teacher.
    """
    records = [origin_record(path) or {} for path in spec.teachers]
    folds = [parse_fold(record.get("fold") or "") for record in records]
    if not any(folds):
        return None
    counts = {fold and fold.count for fold in folds}
    lacking = [] if None in counts else sorted(set(range(max(counts))) - {fold.number for fold in folds})
    if len(counts) > 1:
        raise UserError("--teacher: they were not trained with the same number of folds; give all of one kind")
    if lacking:
        names = ", ".join(f"{number + 1}/{max(counts)}" for number in lacking)
        raise UserError(f"--teacher: no teacher was trained with --fold {names}; train it, and give it too")
    return folds, records


def unseen_by(spec: RunSpec, data: TrainingData, inputs: EncodedInputs) -> np.ndarray | None:
    """Whose soft targets count for which input: K,N booleans for K cross-fitted teachers; None: everybody's.

    UserError where the teachers' folds are of another training file.
    """
    found = teacher_folds(spec)
    if found is None:
        return None
    folds, records = found
    for path, record in zip(spec.teachers, records, strict=True):
        require_these_folds(spec, data, path, record)
    if spec.unlabelled and spec.unlabelled.name == spec.train.name:  # which ids begin with
        raise UserError(
            f"--unlabelled {spec.unlabelled}: has the name of --train, by which texts are told apart; rename it"
        )
    numbers = fold_numbers(data.task, data.own, folds[0].count)
    # A text of --unlabelled, or a question about a context, that stands in --train belongs to its fold. What stands
    # in documents of several folds every teacher knows: all count.
    of_text: dict[str, int] = {}
    for example, number in zip(data.own, numbers.tolist(), strict=True):
        text = found_by(data.task, example)
        of_text[text] = number if of_text.get(text, number) == number else -1
    if had_no_other_labels(spec, data, records):
        numbers[~data.has_label] = -1  # no teacher has seen them
    by_id = dict(zip((example.id for example in data.own), numbers.tolist(), strict=True))
    for example in data.examples:
        if example.id not in by_id:
            by_id[example.id] = of_text.get(found_by(data.task, example), -1)
    of_input = np.array([by_id.get(name, by_id.get(re.sub(rf"{COPY}\d+$", "", name), -1)) for name in inputs.ids])
    return np.stack([(of_input == fold.number) | (of_input < 0) for fold in folds])


def require_these_folds(spec: RunSpec, data: TrainingData, path: str, record: dict) -> None:
    """UserError where a teacher's fold is of another file, or of this one read in another way."""
    made_of = record.get("train"), record.get("drawn by text")  # earlier versions had other folds
    if made_of != (data.hashes["train"], drawn_by_text(data.task, data.own)):
        raise UserError(f"--teacher {path}: was trained on a fold of another file than {spec.train}; give that")
    for name, value in differently_read(as_record(spec), record).items():
        raise UserError(f"--teacher {path}: read {spec.train} with {flag_name(name)} {value!r}; give the same")
    name = record.get("sources", {}).get("train", spec.train.name)
    if data.task.head == "token" and name != spec.train.name:  # which names the documents
        raise UserError(f"--teacher {path}: knew {spec.train} as {name}; rename it so")


def as_record(spec: RunSpec) -> dict:
    """How a run reads its files, as its record will say."""
    return {"task": spec.task, "data settings": asdict(spec.data)}


def found_by(task: Task, example) -> str:
    """What an example has in every file: a question its context, another one its text."""
    return task.group(example) if task.head == "span" else text_of(task, example)


def taught_by_folds(spec: RunSpec, data: TrainingData) -> str | None:
    """What of the teachers' records decides whose soft targets count, in a few words; None: nothing."""
    has_cached_logits = spec.config.alpha > 0 and data.task.head != "mlm"
    found = teacher_folds(spec) if has_cached_logits else None
    if found is None:
        return None
    folds, records = found
    names = " ".join(f"{fold.number + 1}/{fold.count}" for fold in folds)
    return names + " of these labels" * had_no_other_labels(spec, data, records)


def had_no_other_labels(spec: RunSpec, data: TrainingData, records: list[dict]) -> bool:
    """Whether only a part of the examples has labels, and all teachers were trained on those of this part."""
    return bool(spec.config.labelled) and all(had_these_labels(spec, data, record) for record in records)


def had_these_labels(spec: RunSpec, data: TrainingData, record: dict) -> bool:
    """Whether a teacher was trained on the labels of the same part of the examples as this student."""
    dev = spec.dev if spec.holds_out_dev else ""  # what is labelled is drawn from what --dev 10% and --limit leave
    held_out = record["dev"] if record["dev"].endswith("%") else ""
    same_rest = held_out == dev and record["data settings"].get("limit") == spec.data.limit
    same_rest = same_rest and record.get("dev drawn by") == data.hashes.get("dev drawn by")
    this = as_record(spec) | {"settings": {"labelled": spec.config.labelled}, "seed": spec.run.seed}
    this["drawn by text"] = drawn_by_text(data.task, data.own)
    return same_rest and not differently_read(this, record) and same_labels(this, record)
