"""Does distillation help here, and which loss? A study with equal budgets. `python -m kd_scratch evidence`

Every variant is the same `train` command with the same initial weights, seeds, batches and epochs; only the loss
differs. What is chosen (which losses are combined) is chosen on dev data; what is reported is of the test file. Each
run is a process of its own, and the same command again goes on where a study was stopped.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoint import WEIGHTS, load_config
from kd_scratch.config import (
    FEATURE_LOSSES,
    SIZES,
    DataConfig,
    ModelConfig,
    RunConfig,
    TrainConfig,
    add_flags,
    as_dict,
    flag_name,
    given,
    train_config,
)
from kd_scratch.console import progress, shorten
from kd_scratch.distill import FeatureLosses
from kd_scratch.evaluate import about_machine, evaluate, open_model, read_test
from kd_scratch.files import UserError, make_folder, read_json, read_text, sha256_of_file, write_json
from kd_scratch.findings import BASELINE, COMBINED, SOFT, report
from kd_scratch.launch import RECORD, layer_list
from kd_scratch.model import Model
from kd_scratch.runtime import Interruption, Stopped, start
from kd_scratch.significance import calibration
from kd_scratch.tasks import TASKS, Outcome, Task

#: Flags of `train` that are handed on as they are, beside those of TrainConfig and DataConfig.
PASSED = ("task", "train", "dev", "model", "init_layers", "tokenizer", "unlabelled", "cache")
WAIT = 0.2  # seconds between two looks at the running processes


@dataclass(frozen=True)
class Variant:
    """A way to train the student: its name, and the flags of `train` that only it has."""

    name: str
    flags: tuple[str, ...]

    def folder(self, output: Path, seed: int) -> Path:
        """Where its run with a seed lies."""
        return output / "runs" / f"{self.name.replace(' ', '-')}-{seed}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evidence`."""
    parser.add_argument("--task", required=True, choices=[name for name in TASKS if name != "mlm"])
    parser.add_argument("--train", required=True, type=Path, metavar="FILE", help="training data")
    parser.add_argument("--dev", required=True, metavar="FILE", help="what epochs and losses are chosen on (see train)")
    parser.add_argument("--data", required=True, type=Path, metavar="FILE", help="the test file")
    parser.add_argument("--split", default="", metavar="NAME", help="clinc: the split to test on (default test)")
    parser.add_argument("--teacher", required=True, nargs="+", metavar="DIR", help="the fine-tuned teacher, or several")
    parser.add_argument("--model", required=True, metavar="DIR_OR_SIZE", help="what every student starts from")
    parser.add_argument("--init-layers", type=layer_list, metavar="0,2,4", help="keep only these layers of --model")
    parser.add_argument("--tokenizer", metavar="DIR", help="with a size: take the tokenizer from this model directory")
    parser.add_argument("--unlabelled", type=Path, metavar="FILE", help="text for all variants with a teacher")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="as of train")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="runs, tables and figures go there")
    parser.add_argument(
        "--seeds", type=seed_list, default=[0, 1, 2], metavar="0,1,2", help="seeds of every variant (default 0,1,2)"
    )
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many runs side by side (default 1)")
    parser.add_argument(
        "--grid",
        type=parse_grid,
        metavar="1,2,4x0.5,0.9",
        help="also try soft targets with these temperatures x these alphas, with the first seed",
    )
    for config in (TrainConfig, DataConfig):
        add_flags(parser, config)
    add_flags(parser, RunConfig, only=("device", "threads"))


def seed_list(text: str) -> list[int]:
    """ "0,1,2" -> [0, 1, 2]"""
    try:
        seeds = [int(number) for number in text.split(",")]
    except ValueError:
        seeds = []
    if not seeds or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different seeds such as 0,1,2")
    return seeds


def parse_grid(text: str) -> tuple[list[float], list[float]]:
    """ "1,2,4x0.5,0.9" -> ([1.0, 2.0, 4.0], [0.5, 0.9])"""
    try:
        temperatures, alphas = ([float(number) for number in part.split(",")] for part in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not TEMPERATURESxALPHAS such as 1,2,4x0.5,0.9") from None
    return temperatures, alphas


# --- what is compared ---


def variants(arguments: argparse.Namespace, config: TrainConfig) -> list[Variant]:
    """The baseline, soft targets alone, and soft targets with each feature loss (those of --losses, else all that are
    possible between these two models)."""
    teacher = ("--teacher", *arguments.teacher)
    found = [Variant(BASELINE, ()), Variant(SOFT, teacher)]
    for name, weight in config.feature_losses().items():
        try:
            FeatureLosses({name: weight}, config.layer_pairs(), *shapes(arguments))
        except UserError as error:
            if hasattr(arguments, "losses"):
                raise
            print(f"note: left out: {error}")
            continue
        found.append(Variant(name, (*teacher, "--losses", f"{name}={weight:g}", *inside_flags(config))))
    return found


def inside_flags(config: TrainConfig) -> tuple[str, ...]:
    """What goes with --losses, where it was given."""
    flags = ("--layer-map", config.layer_map) if config.layer_map else ()
    return (*flags, "--keep-states") if config.keep_states else flags


def shapes(arguments: argparse.Namespace) -> tuple[ModelConfig, Model]:
    """The student's shape, and the (first) teacher without its weights."""
    student = SIZES.get(arguments.model) or load_config(arguments.model)
    depth = len(arguments.init_layers or ()) or student.depth
    with torch.device("meta"):
        return ModelConfig(**as_dict(student) | {"depth": depth}), Model(load_config(arguments.teacher[0]))


def combination(tried: Sequence[Variant], dev: dict[str, float], config: TrainConfig) -> Variant | None:
    """All feature losses that alone raised the mean dev score above that of soft targets; None where fewer than two."""
    good = [variant for variant in tried if "--losses" in variant.flags and dev[variant.name] > dev[SOFT]]
    if len(good) < 2:
        return None
    losses = ",".join(variant.flags[variant.flags.index("--losses") + 1] for variant in good)
    soft = next(variant for variant in tried if variant.name == SOFT)
    return Variant(COMBINED, (*soft.flags, "--losses", losses, *inside_flags(config)))


# --- the runs ---


def train_flags(arguments: argparse.Namespace, config: TrainConfig, threads: int) -> list[str]:
    """The flags that all runs have in common."""
    settings = given(arguments, TrainConfig) | given(arguments, DataConfig)
    for name in ("losses", "layer_map", "keep_states"):
        settings.pop(name, None)
    settings |= {name: getattr(arguments, name) for name in PASSED if getattr(arguments, name) is not None}
    if arguments.init_layers:
        settings["init_layers"] = ",".join(map(str, arguments.init_layers))
    settings |= {"threads": threads} | given(arguments, RunConfig)
    flags = []
    for name, value in settings.items():
        flags += [flag_name(name)] if value is True else [flag_name(name), str(value)]
    return flags


def run_all(runs: Sequence[tuple[Variant, int]], common: list[str], output: Path, jobs: int) -> None:
    """Train what is not yet trained, `jobs` at a time. UserError where one fails; Stopped where a signal comes."""
    todo = [(variant, seed) for variant, seed in runs if not (variant.folder(output, seed) / RECORD).is_file()]
    running: dict[subprocess.Popen, Path] = {}
    logs = make_folder(output / "logs")
    title = f"{len(runs) - len(todo)} of {len(runs)} runs are there, training"
    try:
        with progress(total=len(todo), desc=title, unit="run", delay=0) as bar, Interruption() as interruption:
            while todo or running:
                while todo and len(running) < jobs:
                    variant, seed = todo.pop(0)
                    folder = variant.folder(output, seed)
                    log = logs / f"{folder.name}.txt"
                    argv = [*common, *variant.flags, "--seed", str(seed), "--output", str(folder), "--resume"]
                    running[_start(argv, log)] = log
                time.sleep(WAIT)
                if interruption.signal:
                    raise Stopped(interruption.signal)
                for process in [process for process in running if process.poll() is not None]:
                    log = running.pop(process)
                    if process.returncode:
                        raise UserError(f"a run has failed (exit status {process.returncode}): {log}: {last_line(log)}")
                    bar.update()
    finally:
        for process in running:
            process.terminate()  # it ends its step and saves it
        for process in running:
            process.wait()


def _start(argv: list[str], log: Path) -> subprocess.Popen:
    """A `train` in a process of its own; a Ctrl-C in the terminal is for us to hand on."""
    with open(log, "w") as file:
        command = [sys.executable, "-m", "kd_scratch", "train", *argv]
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )


def last_line(log: Path) -> str:
    """What a failed run said last."""
    lines = [line for line in read_text(log).replace("\r", "\n").split("\n") if line.strip()]
    return shorten(lines[-1] if lines else "it said nothing", 500)


def dev_score(folder: Path) -> float:
    """The dev score of the epoch that a finished run has kept."""
    return float(read_json(folder / RECORD)["best_score"])


# --- what came out ---


def measured(outcome: Outcome, teacher: Outcome | None) -> dict:
    """All that the tables are made of: scores, loss, calibration, agreement with the teacher, the tally."""
    task = outcome.task
    metrics, tally = task.score(outcome), task.tally(outcome)
    confidence, right = task.confidence(outcome)
    error, bins = calibration(confidence, right)
    decisions = zip(outcome.decisions, (teacher or outcome).decisions, strict=True)
    return {
        "score": float(task.tally_score(tally.sum(axis=0))),
        "loss": metrics.get("loss"),
        "ece": error,
        "calibration": bins,
        "agreement": float(np.mean([a == b for a, b in decisions])),
        "per_class": {name: row["f1"] for name, row in metrics["per_class"].items()},
        "tally": tally.tolist(),
    }


class Laboratory:
    """Evaluates models on the test file, and remembers what it has found in a file beside each."""

    def __init__(self, arguments: argparse.Namespace, task: Task, data: DataConfig, device: torch.device):
        self.task, self.data, self.device = task, data, device
        self.examples = read_test(arguments, task, data)
        self.about = {"data": sha256_of_file(arguments.data), "split": arguments.split, "settings": as_dict(data)}
        self.teacher: Outcome | None = None  # what the others are compared with
        self.teacher_hash = ""

    def run(self, directory: Path) -> Outcome:
        """A model on the test file."""
        opened = open_model(directory, self.task, 0, self.device)
        return evaluate(opened, self.task, self.examples, self.data, self.device)

    def look(self, directory: Path) -> dict:
        """What `measured` says of a run, from its file where the model and the test are the same."""
        path = directory / "test.json"
        about = self.about | {"model": sha256_of_file(directory / WEIGHTS), "teacher": self.teacher_hash}
        if path.is_file() and (known := read_json(path)).get("about") == about:
            return known["found"]
        found = measured(self.run(directory), self.teacher)
        write_json(path, {"about": about, "found": found})
        return found


def command(arguments: argparse.Namespace) -> None:
    """`evidence`: the runs, then the tables and figures."""
    task = TASKS[arguments.task]
    config = train_config(task.name, **({"losses": ",".join(FEATURE_LOSSES)} | given(arguments, TrainConfig)))
    data = DataConfig(**given(arguments, DataConfig))
    run = RunConfig(**given(arguments, RunConfig))
    if not 1 <= arguments.jobs <= 64:
        raise UserError(f"--jobs {arguments.jobs}: must lie between 1 and 64")
    threads = run.threads or max(1, (os.cpu_count() or 1) // arguments.jobs)
    device, output = start(run), make_folder(arguments.output)
    laboratory = Laboratory(arguments, task, data, device)
    first = variants(arguments, config)
    common = train_flags(arguments, config, threads)
    grid = grid_variants(arguments, config)
    check_same_study(output, {"flags": common, "teacher": arguments.teacher, "losses": config.losses})
    seeds = arguments.seeds
    count = len(first) * len(seeds) + len(grid)
    print(
        f"a study of {task.name}: {len(first)} variants with {len(seeds)} seeds"
        + (f" and a grid of {len(grid)}" if grid else "")
        + f": {count} runs of {config.epochs} epochs, {arguments.jobs} at a time, {threads} threads each; "
        f"tested on {len(laboratory.examples):,} examples of {arguments.data}",
        flush=True,
    )
    run_all([(variant, seed) for variant in first for seed in seeds], common, output, arguments.jobs)
    dev = {v.name: float(np.mean([dev_score(v.folder(output, seed)) for seed in seeds])) for v in first}
    combined = combination(first, dev, config)
    if combined:
        print(f"above soft targets on dev, so combined: {combined.flags[combined.flags.index('--losses') + 1]}")
        first.append(combined)
        run_all([(combined, seed) for seed in seeds], common, output, arguments.jobs)
    run_all([(variant, seeds[0]) for variant in grid.values()], common, output, arguments.jobs)
    laboratory.teacher = laboratory.run(Path(arguments.teacher[0]))
    laboratory.teacher_hash = sha256_of_file(Path(arguments.teacher[0]) / WEIGHTS)
    folders = [v.folder(output, seed) for v in first for seed in seeds] + [
        v.folder(output, seeds[0]) for v in grid.values()
    ]
    found = {folder: laboratory.look(folder) for folder in progress(folders, desc="testing", unit="model")}
    records = {
        variant.name: [found[variant.folder(output, s)] | {"dev": dev_score(variant.folder(output, s))} for s in seeds]
        for variant in first
    }
    cells = {
        point: {"dev": dev_score(v.folder(output, seeds[0])), "test": found[v.folder(output, seeds[0])]["score"]}
        for point, v in grid.items()
    }
    about = {
        "task": task.name,
        "score": task.score_name,
        "data": str(arguments.data),
        "test examples": len(laboratory.examples),
        "command": study_command(arguments, common, config),
        "variants": {variant.name: list(variant.flags) for variant in first},
        "seeds": seeds,
        "machine": about_machine(device, []),
    }
    print(report(task, about, measured(laboratory.teacher, None), records, cells, output))


def grid_variants(arguments: argparse.Namespace, config: TrainConfig) -> dict[tuple[float, float], Variant]:
    """Soft targets alone at each temperature and alpha of --grid; the point of the study itself is among its runs."""
    temperatures, alphas = arguments.grid or ((), ())
    points = {}
    for temperature in temperatures:
        for alpha in alphas:
            train_config(arguments.task, temperature=temperature, alpha=alpha)  # UserError where it is no possible one
            name, flags = SOFT, ["--teacher", *arguments.teacher]
            if (temperature, alpha) != (config.temperature, config.alpha):
                name = f"T={temperature:g} alpha={alpha:g}"
                flags += ["--temperature", f"{temperature:g}", "--alpha", f"{alpha:g}"]
            points[temperature, alpha] = Variant(name, tuple(flags))
    return points


def study_command(arguments: argparse.Namespace, common: list[str], config: TrainConfig) -> list[str]:
    """The command that makes this study."""
    flags = ["evidence", *common, "--data", str(arguments.data), "--teacher", *arguments.teacher]
    flags += ["--split", arguments.split] if arguments.split else []
    flags += ["--losses", config.losses]
    flags += [*inside_flags(config), "--seeds", ",".join(map(str, arguments.seeds)), "--output", str(arguments.output)]
    return flags


def check_same_study(output: Path, study: dict) -> None:
    """UserError where the folder holds a study with other settings, whose runs cannot be compared with these."""
    path = output / "study.json"
    study = json.loads(json.dumps(study))
    if path.is_file() and (before := read_json(path)) != study:
        differing = [key for key in study if not isinstance(before, dict) or before.get(key) != study[key]]
        raise UserError(f"{path}: this folder holds a study with other {', '.join(differing)}; choose another --output")
    write_json(path, study)
