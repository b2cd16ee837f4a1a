"""Does distillation help here, and which loss? A study with equal budgets. `python -m kd_scratch evidence`

Every variant is the same `train` command with the same initial weights, seeds and number of steps; only the loss
differs, and who learns from text without labels. What is chosen (which losses are combined) is chosen on dev data; what
is reported is of the test file. Each run is a process of its own, and the same command again goes on where a study was
stopped.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from kd_scratch.checkpoints.checkpoint import fingerprint, load_model
from kd_scratch.common.console import progress, say, shorten, show
from kd_scratch.common.device import start
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import make_folder, read_json, write_json
from kd_scratch.common.signals import Interruption, Stopped
from kd_scratch.config import (
    SIZES,
    DataConfig,
    RunConfig,
    TrainConfig,
    add_flags,
    flag_name,
    given,
    layer_list,
)
from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES
from kd_scratch.evaluation.evaluate import about_machine
from kd_scratch.pages.records import RECORD
from kd_scratch.pages.report import named_directory
from kd_scratch.study.results import Laboratory, measured, other_studies, read_records
from kd_scratch.study.summary import report
from kd_scratch.study.variants import (
    COMBINED,
    Variant,
    combination,
    grid_variants,
    hidden_loss_flags,
    teacher_flags,
    variants,
)
from kd_scratch.tasks import TASKS, deciding_tasks, train_defaults
from kd_scratch.training.setup import libraries
from kd_scratch.training.spec import check_spec

#: Flags of `train` that are handed on as they are, beside those of TrainConfig and DataConfig.
PASSED = ("task", "train", "dev", "model", "init_layers", "tokenizer", "cache")
PLAN = "study.json"  # the flags that the runs of a folder have in common, and those of each variant
WAIT = 0.2  # seconds between two looks at the running processes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evidence`."""
    parser.add_argument("--task", required=True, choices=deciding_tasks())
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
    parser.add_argument(
        "--beside",
        nargs="+",
        action="extend",
        type=named_directory,
        metavar="NAME=DIR",
        help="also show finished studies with the same data and teacher, of students with fewer layers or another "
        "start, say; DIR is their --output",
    )
    add_flags(parser, TrainConfig, task_defaults=train_defaults())
    add_flags(parser, DataConfig)
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


# --- the runs ---


def train_flags(arguments: argparse.Namespace, config: TrainConfig, threads: int) -> list[str]:
    """The flags that all runs have in common."""
    settings = given(arguments, TrainConfig) | given(arguments, DataConfig)
    for name in ("losses", "layer_map", "keep_states", "labelled", "augment"):  # of some variants only
        settings.pop(name, None)
    settings |= {name: getattr(arguments, name) for name in PASSED if getattr(arguments, name) is not None}
    if arguments.init_layers:
        settings["init_layers"] = ",".join(map(str, arguments.init_layers))
    settings |= given(arguments, RunConfig) | {"threads": threads}
    flags = []
    for name, value in settings.items():
        flags += [flag_name(name)] if value is True else [flag_name(name), str(value)]
    return flags


def run_all(runs: Sequence[tuple[Variant, int]], common: list[str], output: Path, jobs: int) -> None:
    """Train what is not yet trained, `jobs` at a time. UserError where one fails; Stopped where a signal comes."""
    todo = [(variant, seed) for variant, seed in runs if not (variant.folder(output, seed) / RECORD).is_file()]
    running: dict[subprocess.Popen, Path] = {}
    told: set[subprocess.Popen] = set()

    def end_runs() -> None:
        """Each ends its step and saves it; told a second time it would end at once."""
        for process in running.keys() - told:
            told.add(process)
            process.terminate()

    logs = make_folder(output / "logs")
    title = f"{len(runs) - len(todo)} of {len(runs)} runs are there, training"
    try:
        with progress(total=len(todo), desc=title, unit="run", delay=0) as bar, Interruption(end_runs) as interruption:
            while todo or running:
                while todo and len(running) < jobs and not interruption.signal:
                    variant, seed = todo.pop(0)
                    folder = variant.folder(output, seed)
                    log = logs / f"{folder.name}.txt"
                    argv = [*common, *variant.argv(), "--seed", str(seed), "--output", str(folder), "--resume"]
                    running[_start(argv, log)] = log
                if interruption.signal:
                    raise Stopped(interruption.signal)
                time.sleep(WAIT)
                for process in [process for process in running if process.poll() is not None]:
                    log = running.pop(process)
                    if process.returncode:
                        anew = f"delete {output / 'runs' / log.stem} to train it anew"
                        why = last_line(log).replace("--force goes on anyway", anew)
                        raise UserError(f"a run has failed (exit status {process.returncode}): {log}: {why}")
                    bar.update()
    finally:
        end_runs()
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
    text = log.read_bytes().decode(errors="replace").replace("\r", "\n")
    lines = [line for line in text.split("\n") if line.strip()]
    return shorten(lines[-1] if lines else "it said nothing", 500)


def command(arguments: argparse.Namespace) -> dict:
    """`evidence`: the runs, then the tables and figures."""
    task = TASKS[arguments.task]
    config = task.train_config(**({"losses": ",".join(HIDDEN_LOSSES)} | given(arguments, TrainConfig)))
    data, run = DataConfig(**given(arguments, DataConfig)), RunConfig(**given(arguments, RunConfig))
    if not 1 <= arguments.jobs <= 64:
        raise UserError(f"--jobs {arguments.jobs}: must lie between 1 and 64")
    if arguments.model in SIZES and not arguments.tokenizer:
        arguments.tokenizer = arguments.teacher[0]  # also for the baseline
    cores = os.cpu_count() or 1
    threads = run.threads or max(1, cores // arguments.jobs)
    # tests have the cores of all runs
    device = start(**vars(replace(run, threads=max(threads, min(threads * arguments.jobs, cores)))))
    check_spec(arguments, device)
    first, grid = variants(arguments, config), grid_variants(arguments, config)
    output, seeds = make_folder(arguments.output), arguments.seeds
    common = train_flags(arguments, config, threads)
    plan = {"flags": common, "variants": {variant.name: variant.argv() for variant in first}}
    plan = same_study(output, plan | {"start": starting_weights(arguments.model)})
    laboratory = Laboratory(arguments, task, data, device)
    budget = f"{config.steps:,} steps" if config.steps else f"{config.epochs} epochs"
    budget += " (the baseline: as many steps)" if "--steps" in first[0].flags else ""
    say(
        f"a study of {task.name}: {len(first)} variants with {len(seeds)} seeds"
        + (f" and a grid of {len(grid)}" if grid else "")
        + f": {len(first) * len(seeds) + len(grid)} runs of {budget}, {arguments.jobs} at a time, "
        f"{threads} threads each; tested on {laboratory.teacher.counts.sum():,} examples of {arguments.data}"
    )
    runs, later = [(variant, seed) for variant in first for seed in seeds], [(v, seeds[0]) for v in grid.values()]
    check_records([*runs, *later], output, laboratory.mine, device)
    others = other_studies(arguments.beside or [], seeds, laboratory.known)
    write_json(output / PLAN, plan)
    run_all(runs, common, output, arguments.jobs)
    records = read_records(runs, output, laboratory.mine)
    dev = {v.name: float(np.mean([records[v.folder(output, s)]["best_score"] for s in seeds])) for v in first}
    if combined := combination(first, dev):
        say(f"above soft targets on dev, so combined: {combined.losses}")
        first.append(combined)
        runs += [(combined, seed) for seed in seeds]
    runs += later
    check_records(runs, output, laboratory.mine, device)
    run_all(runs, common, output, arguments.jobs)
    records = read_records(runs, output, laboratory.mine)
    found = laboratory.look(records)
    by_variant = {variant.name: [found[variant.folder(output, seed)] for seed in seeds] for variant in first}
    points = {point: found[variant.folder(output, seeds[0])] for point, variant in grid.items()}
    cells = {point: {"dev": run["dev"], "test": run["score"]} for point, run in points.items()}
    about = {
        "task": task.name,
        "score": task.score_name,
        "data": str(arguments.data),
        "test examples": int(laboratory.teacher.counts.sum()),
        "which teacher": f", which is the first of {len(arguments.teacher)}" if len(arguments.teacher) > 1 else "",
        "command": study_command(arguments, common, first, config),
        "variants": {variant.name: variant.argv() for variant in first},
        "seeds": seeds,
        "versions of the code": len({record.get("code") for record in records.values()}),
        "steps": sorted({record.get("step", 0) for record in records.values()}),
        "beside": {name: study.command for name, study in others.items()},
        "machine": about_machine(device, []),
    }
    shown = {
        name: {variant: list(laboratory.look(records).values()) for variant, records in study.runs.items()}
        for name, study in others.items()
    }
    text, result = report(task, about, measured(laboratory.teacher, None), by_variant, cells, output, shown)
    show(text)
    return result


def check_records(runs: Sequence[tuple[Variant, int]], output: Path, known: dict, device: torch.device) -> None:
    """Before hours are spent: UserError where runs that are there do not belong together, or with those to come."""
    finished = all((variant.folder(output, seed) / RECORD).is_file() for variant, seed in runs)
    read_records(runs, output, known if finished else known | libraries(device))


def study_command(
    arguments: argparse.Namespace, common: list[str], tried: Sequence[Variant], config: TrainConfig
) -> list[str]:
    """The command that makes this study."""
    flags = ["evidence", *common, *teacher_flags(arguments, config), "--data", str(arguments.data)]
    flags += ["--split", arguments.split] if arguments.split else []
    flags += [
        "--losses",
        ",".join(v.losses for v in tried if v.losses and v.name != COMBINED),
        *hidden_loss_flags(config),
    ]
    if arguments.grid:
        flags += ["--grid", "x".join(",".join(f"{number:.12g}" for number in part) for part in arguments.grid)]
    flags += ["--beside", *map("=".join, arguments.beside)] if arguments.beside else []
    seeds = ",".join(map(str, arguments.seeds))
    return [*flags, "--seeds", seeds, "--jobs", str(arguments.jobs), "--output", str(arguments.output)]


def starting_weights(model: str) -> str | None:
    """A hash of the weights that every student starts from; None where they are random."""
    return None if model in SIZES else fingerprint(load_model(model, say=lambda line: None))


def same_study(output: Path, plan: dict) -> dict:
    """What the folder's PLAN should say: flags, variants, and the hash of what the students start from.

    UserError where there are runs of a study with other settings, which cannot be compared with these. (Other losses
    may be added to it.)
    """
    path = output / PLAN
    if not path.is_file() or not any((output / "runs").glob("*")):
        return plan
    before = read_json(path)
    try:
        known, start = before["variants"], before.get("start", plan["start"])
        pairs = [("", before["flags"], plan["flags"])]
        pairs += [(f" ({name})", known[name], argv) for name, argv in plan["variants"].items() if name in known]
        differing: dict[str, str] = {}  # each with the first variant that has it
        for name, was, now in pairs:
            differing = dict.fromkeys(differences(was, now), name) | differing
        plan = plan | {"variants": known | plan["variants"]}
    except (TypeError, KeyError, AttributeError):
        raise UserError(f"{path}: is not what a study writes; choose another --output") from None
    told = [f"{line}{name}" for line, name in differing.items()]
    told += ["the weights in --model were others"] if start != plan["start"] else []
    if told:
        raise UserError(f"{path}: this folder holds another study: {', '.join(told)}; choose another --output")
    return plan


def differences(was: Sequence[str], now: Sequence[str]) -> list[str]:
    """How two lists of flags differ: ["--epochs", "2"] and ["--epochs", "3"] -> ["--epochs was 2, is 3"]"""

    def values(argv: Sequence[str]) -> dict[str, str]:
        flag, parts = "", {}
        for word in argv:
            flag = word if word.startswith("--") else flag
            parts.setdefault(flag, []).append(word)
        return {flag: " ".join(words[1:]) or "given" for flag, words in parts.items()}

    before, after = values(was), values(now)
    return [
        f"{flag} was {before.get(flag, 'not given')}, is {after.get(flag, 'not given')}"
        for flag in before | after
        if before.get(flag) != after.get(flag)
    ]
