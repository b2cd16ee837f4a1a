"""What trained models do on a study's test file, and which of them may be compared with each other."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tokenizers
import torch

from kd_scratch.checkpoints.checkpoint import WEIGHTS, fingerprint, load_model
from kd_scratch.common.console import progress
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import read_json, sha256_of_file, write_json
from kd_scratch.common.source_hash import source_hash
from kd_scratch.config import DataConfig, as_dict, flag_name
from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES
from kd_scratch.evaluation.evaluate import evaluate, load_for_inference, read_evaluation_set
from kd_scratch.evaluation.significance import calibration
from kd_scratch.pages.records import RECORD, read_record
from kd_scratch.pages.report import by_name
from kd_scratch.study.variants import BASELINE, COMBINED, RESULT, SOFT, Variant
from kd_scratch.tasks import Predictions, Task
from kd_scratch.training.examples import data_hashes

#: What the runs of one study have in common (but for `unlabelled` and `teacher`, which a baseline does not have).
SHARED = ("task", "train", "dev", "data settings", "unlabelled", "tokenizer", "teacher", "initial weights", "device")
SHARED += ("processes", "torch", "numpy", "tokenizers")
#: Settings in which they may differ, beside those that are among a variant's flags.
OWN = ("losses", "layer_map", "keep_states", "augment", "steps")
FOUND = ("score", "loss", "ece", "calibration", "agreement", "per_class", "tally")  # what `measured` tells


def measured(predictions: Predictions, teacher: Predictions | None) -> dict:
    """All that the tables are made of: scores, loss, calibration, agreement with the teacher, the tally."""
    task = predictions.task
    metrics, tally = task.score(predictions), task.tally(predictions)
    confidence, right = task.confidence(predictions)
    error, bins = calibration(confidence, right)
    return {
        "score": float(task.tally_score(tally.sum(axis=0))),
        "loss": metrics.get("loss"),
        "ece": error,
        "calibration": bins,
        "agreement": predictions.agreement(teacher or predictions),
        "per_class": {name: row["f1"] for name, row in metrics["per_class"].items()},
        "tally": tally.tolist(),
    }


class Laboratory:
    """Evaluates models on the test file, and remembers what it has found in a file beside each."""

    def __init__(self, arguments: argparse.Namespace, task: Task, data: DataConfig, device: torch.device):
        self.task, self.data, self.device = task, data, device
        whole = replace(data, limit="")  # which is for the training examples
        self.test = read_evaluation_set(task, arguments.data, arguments.split, whole)
        self.examples = self.test.examples
        self.about = {"data": sha256_of_file(arguments.data), "split": self.test.split, "settings": as_dict(data)}
        self.about |= {"code": source_hash("study.results", versions=(torch.__version__, tokenizers.__version__))}
        hashes = data_hashes(arguments)
        if self.about["data"] in hashes.values() and self.test.split in ("", "train", "val"):
            split = f" --split {self.test.split}" if self.test.split else ""
            raise UserError(f"--data {arguments.data}{split}: is what is trained or chosen on; give a test file")
        teachers = [fingerprint(load_model(directory, say=lambda line: None)) for directory in arguments.teacher]
        #: What every run that is shown must have, those of other studies too, if it has it at all.
        self.known = {"task": task.name, "train": hashes["train"], "dev": hashes["dev"], "data settings": as_dict(data)}
        self.known |= {"teacher": " ".join(teachers)}
        self.mine = self.known | {"unlabelled": hashes["unlabelled"]}  # and this study's own runs
        self.teacher_hash = teachers[0]
        self.teacher = self.run(Path(arguments.teacher[0]))  # what the others are compared with
        if not measured(self.teacher, None)["score"] > 0:
            raise UserError(f"--teacher {arguments.teacher[0]}: has no {task.score_name} at all on {arguments.data}")

    def run(self, directory: Path) -> Predictions:
        """A model on the test file."""
        loaded = load_for_inference(directory, self.task, 0, self.device)
        return evaluate(loaded, self.task, self.examples, self.data, self.device)

    def look(self, records: dict[Path, dict]) -> dict[Path, dict]:
        """What `measured` says of each run, with its dev score."""
        folders = progress(records.items(), desc="testing", unit="model")
        return {folder: self.look_at(folder) | {"dev": record["best_score"]} for folder, record in folders}

    def look_at(self, directory: Path) -> dict:
        """What `measured` says of a run, from its file where the model and the test are the same."""
        path = directory / "test.json"
        about = self.about | {"model": sha256_of_file(directory / WEIGHTS), "teacher": self.teacher_hash}
        known = read_json(path) if path.is_file() else None
        if isinstance(known, dict) and known.get("about") == about:
            found = known.get("found")
            if isinstance(found, dict) and set(found) == set(FOUND):
                return found
        found = measured(self.run(directory), self.teacher)
        write_json(path, {"about": about, "found": found})
        return found


def read_records(runs: Sequence[tuple[Variant, int]], output: Path, known: dict) -> dict[Path, dict]:
    """training.json of every run that is there, by folder.

    UserError where they do not belong together: files, teacher, first weights, settings, device or libraries have been
    changed between two of them, or since (known: what this command has, key -> value).
    """
    records = {}
    seen: dict[tuple, tuple] = {(key, ""): (value, "this command") for key, value in known.items()}
    for variant, seed in runs:
        folder = variant.folder(output, seed)
        record = read_record(folder)
        if record is None:
            continue
        records[folder] = record
        if record.get("seed") != seed:
            raise UserError(f"{folder}: its run is of --seed {record.get('seed')}, not {seed}; delete the folder")
        here = {key: record.get(key) for key in SHARED}
        here |= {flag_name(key): value for key, value in record["settings"].items() if key not in OWN}
        for key, value in here.items():
            if (value is None and key in ("unlabelled", "teacher")) or key in variant.flags:
                continue
            before, first = seen.setdefault((key, seed if key == "initial weights" else ""), (value, folder))
            if before != value:
                raise UserError(
                    f"{folder} and {first} do not belong together: they had another {key}; delete one, or choose "
                    "another --output"
                )
    return records


@dataclass(frozen=True)
class OtherStudy:
    """A study that is shown beside this one: its command, and its training.json by folder by variant, a seed each."""

    command: list[str]
    runs: dict[str, dict[Path, dict]]


def other_studies(pairs: Sequence[tuple[str, str]], seeds: Sequence[int], known: dict) -> dict[str, OtherStudy]:
    """--beside: finished studies by name. UserError where one has no runs with these seeds, or such of another task,
    teacher or data file (known: as of read_records)."""
    studies = {}
    for name, directory in by_name(pairs, "--beside").items():
        here, output = f"--beside {name}={directory}", Path(directory)
        if not (output / RESULT).is_file():
            raise UserError(f"{here}: there is no {output / RESULT}; give the --output of a study that is finished")
        told = read_json(output / RESULT)
        command, variants = (told.get("command"), told.get("variants")) if isinstance(told, dict) else (None, None)
        names = {BASELINE, SOFT, COMBINED, *HIDDEN_LOSSES}
        known_names = isinstance(variants, dict) and {BASELINE} <= set(variants) <= names
        if not known_names or not all(map(_is_command, [command, *variants.values()])):
            raise UserError(f"{here}: {output / RESULT} is not what a study writes")
        runs = {
            variant: [(Variant(variant, tuple(argv), _losses(argv)), seed) for seed in seeds]
            for variant, argv in variants.items()
        }
        records = read_records([run for each in runs.values() for run in each], output, known)
        its = {}
        for variant, each in runs.items():
            folders = [which.folder(output, seed) for which, seed in each]
            if missing := [folder for folder in folders if folder not in records]:
                raise UserError(f"{here}: there is no {missing[0] / RECORD}; it needs the same --seeds as this study")
            its[variant] = {folder: records[folder] for folder in folders}
        studies[name] = OtherStudy(command, its)
    return studies


def _losses(argv: list[str]) -> str:
    """The --losses among a variant's flags."""
    return argv[argv.index("--losses") + 1] if "--losses" in argv[:-1] else ""


def _is_command(argv) -> bool:
    """Whether a JSON value is a list of words."""
    return isinstance(argv, list) and all(isinstance(word, str) for word in argv)
