"""What trained models do on a study's test file, and which of them may be compared with each other."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import tokenizers
import torch

from kd_scratch.checkpoints.checkpoint import WEIGHTS, fingerprint, load_model
from kd_scratch.common.console import progress
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import read_json, sha256_of_file, write_json
from kd_scratch.common.source_hash import source_hash
from kd_scratch.config import SIZES, DataConfig, TrainConfig, flag_name
from kd_scratch.data.batches import EncodedInputs
from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES
from kd_scratch.distillation.teacher import features_hash, load_or_compute
from kd_scratch.evaluation.evaluate import (
    EvaluationSet,
    evaluate,
    load_for_inference,
    notes_of_training,
    read_evaluation_set,
)
from kd_scratch.evaluation.inference import compute_logits, logits_shape
from kd_scratch.evaluation.significance import calibration, drawn_scores, group_sums, resampled_sums, widened
from kd_scratch.nn import kernels
from kd_scratch.nn.model import Model
from kd_scratch.pages.records import RECORD, read_record
from kd_scratch.study.spec import StudySpec, is_command, parse_flags
from kd_scratch.study.variants import BASELINE, COMBINED, SOFT, Runs, Variant
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.base import mean_score

RESULT = "evidence.json"  # what a study has found, in its output folder
MEASURED = "test.json"  # what `measure` has found of a run, beside its weights
#: What the runs of one study have in common, those of MAY_LACK where they have it at all.
SHARED = ("task", "train", "dev", "unlabelled", "tokenizer", "teacher", "initial weights", "device")
SHARED += ("processes", "torch", "numpy", "tokenizers", "augment model", "token types", "dev drawn by")
MAY_LACK = ("unlabelled", "teacher", "augment model", "token types")  # those of a baseline, the last of older runs
#: Settings in which they may differ, beside those that are among a variant's flags.
OWN = ("losses", "layer_map", "augment", "cloze", "steps", "teacher_mean")
OWN += ("layer_steps", "gradient_checkpointing", "keep_states")  # change no result; the last is of older runs
WITHOUT_TEACHER = ("--temperature", "--alpha")  # say nothing of a run that has none
FIGURES = ("score", "loss", "ece", "ece_floor", "calibration", "agreement", "per_class", "groups", "drawn")

DIGITS = 9  # of what is drawn: two models that are right alike stay equal

Records = dict[Path, dict]  # training.json by the folder of a run


def measure(predictions: Predictions, teacher: Predictions) -> dict:
    """All that the tables are made of: scores, loss, calibration, agreement with the teacher; and under "drawn" score,
    loss and calibration error on each test file that is drawn anew from this one's groups, `widened`.
    """
    task = predictions.task
    sure = task.confidence(predictions)
    metrics = task.score(predictions)
    tally = task.tally(predictions)
    calibrated = calibration(predictions)
    sayable = ~np.isnan(sure.loss)
    losses = np.stack([sure.loss[sayable], np.ones(sayable.sum())], axis=1)
    drawn = {"score": drawn_scores(predictions, tally), "ece": calibrated.drawn}
    if sayable.any():
        groups, count = predictions.groups[sure.example[sayable]], predictions.num_groups
        drawn["loss"] = widened(mean_score(resampled_sums(group_sums(losses, groups, count))), count)
    return {
        "score": float(task.tally_score(tally.sum(axis=0))),
        "loss": metrics.get("loss"),
        "ece": calibrated.error,
        "ece_floor": calibrated.floor,
        "calibration": calibrated.bins,
        "agreement": predictions.agreement(teacher),
        "per_class": {name: row["f1"] for name, row in metrics["per_class"].items()},
        "groups": predictions.num_groups,
        "drawn": {name: [round(value, DIGITS) for value in values.tolist()] for name, values in drawn.items()},
    }


@dataclass(frozen=True)
class Facts:
    """What is known of a study's models before one of them has run: what its runs must have in common, the test file,
    and the fingerprints of its teachers."""

    test: EvaluationSet
    fingerprints: list[str]
    known: dict  # of every run that is shown, those of other studies too, if it has it at all
    known_here: dict  # and of this study's own runs
    settings: dict  # flag -> value
    notes: list[str]  # models that were trained on the test file


def read_facts(spec: StudySpec, hashes: dict) -> Facts:
    """What a study's runs have in common, and its test file; notes are printed. UserError where that file is what is
    trained or chosen on.

    hashes: of its data files, and how dev was drawn.
    """
    run, task = spec.run, TASKS[spec.run.task]
    test = read_evaluation_set(task, spec.test, spec.split, replace(run.data, limit=""))  # all of it
    chosen_on = {"train": "train", "dev": "val", "unlabelled": ""}
    if any(hashes[key] == test.sha256 and test.is_of(split) for key, split in chosen_on.items()):
        split = f" --split {test.split}" if test.split else ""
        raise UserError(f"--data {spec.test}{split}: is what is trained or chosen on; give a test file")
    fingerprints = [fingerprint(load_model(directory, say=lambda line: None)) for directory in run.teachers]
    known = {
        "task": task.name,
        "train": hashes["train"],
        "dev": hashes["dev"],
        "dev drawn by": hashes.get("dev drawn by"),
        "teacher": " ".join(fingerprints),
    }
    known |= {flag_name(name): value for name, value in asdict(run.data).items()}
    settings = {flag_name(name): value for name, value in asdict(run.config).items() if name not in OWN}
    chosen = {flag: settings[flag] for flag in ("--learning-rate", "--max-length")}
    notes = notes_of_training([*run.teachers, *[run.model] * (run.model not in SIZES)], test)
    return Facts(test, fingerprints, known, known | hashes | chosen, settings, notes)


class Evaluator:
    """Evaluates models on a study's test file, its teachers at once, and keeps what it finds in a file beside each.

    UserError where the best teacher has no score there.
    """

    def __init__(self, spec: StudySpec, facts: Facts, device: torch.device):
        run = spec.run
        self.task = TASKS[run.task]
        self.data = run.data
        self.device = device
        self.facts = facts
        # What the others are compared with: the teacher that is best on test, whatever their order.
        each = zip(run.teachers, facts.fingerprints, strict=True)
        teachers = [self.predict_teacher(Path(directory), teacher, run.cache) for directory, teacher in each]
        scores = [float(self.task.tally_score(self.task.tally(each).sum(axis=0))) for each in teachers]
        best = int(np.argmax(scores))
        self.teacher = teachers[best]
        self.teacher_name = f"teacher {best + 1} of {len(teachers)}" if len(teachers) > 1 else "teacher"
        self.teacher_figures = measure(self.teacher, self.teacher)
        if not self.teacher_figures["score"] > 0:
            raise UserError(f"--teacher {run.teachers[best]}: has no {self.task.score_name} at all on {spec.test}")
        self.about = {
            "data": facts.test.sha256,
            "split": facts.test.split,
            "settings": asdict(run.data),
            "code": source_hash("study.results", versions=(torch.__version__, tokenizers.__version__)),
            "teacher": facts.fingerprints[best],
        }

    @property
    def examples(self) -> int:
        """How many test examples the score counts."""
        return int(self.teacher.counts.sum())

    def predict(self, directory: Path, compute=compute_logits) -> Predictions:
        """A model's predictions on the test file, of the logits that `compute` makes."""
        loaded = load_for_inference(directory, self.task, 0, self.device)
        return evaluate(loaded, self.task, self.facts.test.examples, self.data, self.device, compute)

    def predict_teacher(self, directory: Path, teacher: str, cache: Path) -> Predictions:
        """A teacher's predictions on the test file; its logits are kept, for a study that goes on.

        teacher: its fingerprint.
        """

        def compute(model: Model, features: EncodedInputs, device: torch.device) -> np.ndarray:
            key = {
                "teacher": teacher,
                "features": features_hash(features),
                "precision": f"{kernels.config().kernels} on {device.type}",
                "code": source_hash("evaluation.evaluate", versions=(torch.__version__,)),
            }
            what = f"teacher's logits for {len(features):,} test inputs"

            def fill(logits: np.ndarray) -> None:
                compute_logits(model, features, device, out=logits)

            return load_or_compute(what, key, logits_shape(model, features), fill, cache)

        return self.predict(directory, compute)

    def measure_all(self, records: Records) -> Records:
        """What `measure` finds of each run, with its dev score and learning rate, by folder."""
        figures = {}
        for folder, record in progress(records.items(), desc="testing", unit="model"):
            of_record = {"dev": record["best_score"], "learning rate": record["settings"].get("learning_rate")}
            figures[folder] = self.measure_run(folder) | of_record
        return figures

    def measure_run(self, directory: Path) -> dict:
        """What `measure` finds of a run, from its file where the model, the test and the code are the same."""
        path = directory / MEASURED
        about = self.about | {"model": sha256_of_file(directory / WEIGHTS)}
        kept = read_json(path) if path.is_file() else None
        if isinstance(kept, dict) and kept.get("about") == about:
            figures = kept.get("found")
            if isinstance(figures, dict) and set(figures) == set(FIGURES):
                return figures
        figures = measure(self.predict(directory), self.teacher)
        write_json(path, {"about": about, "found": figures})
        return figures


# --- which runs belong together ---


def read_records(runs: Runs, output: Path, known: dict) -> Records:
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
        values = {key: record.get(key) for key in SHARED}
        # Settings that an older run lacks had their defaults.
        settings = asdict(DataConfig()) | record["data settings"] | asdict(TrainConfig()) | record["settings"]
        values |= {flag_name(key): value for key, value in settings.items() if key not in OWN}
        idle = () if record.get("teacher") else WITHOUT_TEACHER
        for key, value in values.items():
            if (value is None and key in MAY_LACK) or key in variant.flags or key in idle:
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
    """A finished study that is shown beside this one: its command, and by variant its runs, one for each seed."""

    command: list[str]
    records: dict[str, Records]


def read_other_studies(spec: StudySpec, known: dict) -> dict[str, OtherStudy]:
    """--beside: finished studies by name.

    UserError where one has no runs with the study's seeds, or such of another task, teacher or data file (known: as of
    read_records).
    """
    return {
        name: read_other_study(f"--beside {name}={directory}", Path(directory), spec.seeds, known)
        for name, directory in spec.beside.items()
    }


def read_other_study(flag: str, output: Path, seeds: Sequence[int], known: dict) -> OtherStudy:
    """The finished study in a folder. UserError as of read_other_studies; flag: how the folder was given."""
    path = output / RESULT
    if not path.is_file():
        raise UserError(f"{flag}: there is no {path}; give the --output of a study that is finished")
    result = read_json(path)
    if not is_result(result):
        raise UserError(f"{flag}: {path} is not what a study writes; give the --output of a study that is finished")
    variants = [Variant(name, parse_flags(argv)) for name, argv in result["variants"].items()]
    found = read_records([(variant, seed) for variant in variants for seed in seeds], output, known)
    records = {}
    for variant in variants:
        folders = [variant.folder(output, seed) for seed in seeds]
        missing = [folder for folder in folders if folder not in found]
        if missing:
            raise UserError(f"{flag}: there is no {missing[0] / RECORD}; give --seeds that both have")
        records[variant.name] = {folder: found[folder] for folder in folders}
    return OtherStudy(result["command"], records)


def is_result(result) -> bool:
    """Whether a JSON value is what a study writes, as far as read_other_study needs it."""
    if not isinstance(result, dict) or not isinstance(result.get("variants"), dict):
        return False
    variants, names = result["variants"], {BASELINE, SOFT, COMBINED, *HIDDEN_LOSSES}
    has_names = BASELINE in variants and set(variants) <= names
    return has_names and all(map(is_command, [result.get("command"), *variants.values()]))
