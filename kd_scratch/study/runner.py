"""Does distillation help here, and which loss? A study with equal budgets.

Every variant is the same `train` command with the same initial weights, seeds and number of steps; only the loss
differs, who learns from text without labels, and the learning rate, where each variant gets the best one of a grid.
What is chosen (rates, and which losses are combined) is chosen on dev data; what is reported is of the test file. Each
run is a process of its own, and a study that was stopped goes on.
"""

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kd_scratch.checkpoints.checkpoint import fingerprint, load_model
from kd_scratch.common.console import progress, say, shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import make_folder, write_json
from kd_scratch.common.signals import Interruption, Stopped
from kd_scratch.config import SIZES
from kd_scratch.evaluation.advice import ingredients
from kd_scratch.evaluation.evaluate import about_machine
from kd_scratch.evaluation.significance import describe_groups, note_of_few
from kd_scratch.pages.records import RECORD
from kd_scratch.study.chosen_layers import with_chosen_layers
from kd_scratch.study.preparation import checked, complete, start_machine
from kd_scratch.study.results import Evaluator, OtherStudy, Records, read_facts, read_other_studies, read_records
from kd_scratch.study.spec import PLAN, Flags, StudySpec, argv_of, check_study, differences, parse_flags, read_plan
from kd_scratch.study.summary import Report, write_report
from kd_scratch.study.variants import (
    COMBINED,
    SOFT,
    RateScores,
    Runs,
    Variant,
    at_all_rates,
    at_rate,
    best_rates,
    combination,
    common_run,
    first_variants,
    grid_variants,
    side_by_side,
    soft_run,
    study_flags,
)
from kd_scratch.training.checks import check_spec
from kd_scratch.training.layer_choice import read_choice
from kd_scratch.training.setup import libraries, with_precision

LATER = ("--max-length", "--amp")  # what older plans do not hold; the runs' records tell it too
#: Flags that change no result; the last one only older plans have. (The device stands in the runs' records.)
WITHOUT_EFFECT = ("--cache", "--gradient-checkpointing", "--device", "--keep-states")
#: What the runs' records know by hashes, wherever it lies; --model the plan does, unless it is a size.
BY_HASH = ("--train", "--dev", "--unlabelled", "--augment-model", "--teacher")
WAIT = 0.2  # seconds between two looks at the running processes


def run_study(spec: StudySpec) -> Report:
    """What a study has found: tables for a terminal, and a record. Both, and figures, are in its output folder then.

    Trains what is not yet trained. Raises UserError for what the user can mend (before anything is trained, where it
    can be known), and Stopped after a signal.
    """
    check_study(spec)
    spec = complete(spec)
    device = start_machine(spec)
    spec = replace(spec, run=with_precision(spec.run, device))
    for run in (spec.run, soft_run(spec)):
        check_spec(run, device)
    grid = grid_variants(spec)
    spec, hashes = checked(spec)
    facts = read_facts(spec, hashes)
    others = read_other_studies(spec, facts.known)
    # Teachers are tested, which takes minutes, behind all that may refuse the study, but before layers are tried.
    evaluator = Evaluator(spec, facts, device) if spec.run.chooses_layers else None
    spec = with_chosen_layers(spec)
    start_machine(spec)  # with the threads of the tests again
    variants = first_variants(spec)
    output, common = spec.run.output, study_flags(common_run(spec))
    plan = same_study(output, make_plan(spec, common, variants))
    possible = [each for variant in [*variants, *grid.values()] for each in at_all_rates(variant, spec)]

    def check(runs: Runs) -> None:
        to_come = facts.settings | libraries(device)
        check_records(runs, with_seeds(possible, spec.seeds), output, facts.known_here, to_come)

    def train_all(runs: Runs) -> Records:
        check(runs)
        write_json(make_folder(output) / PLAN, plan)
        run_all(runs, common, output, spec.jobs)
        return read_records(runs, output, facts.known_here)

    check(first_runs(variants, grid, spec))
    evaluator = evaluator or Evaluator(spec, facts, device)
    say(describe_study(spec, variants, grid, evaluator))
    rates: RateScores = {}
    variants = with_best_rates(variants, spec, rates, train_all)
    combined = combination(variants, dev_scores(variants, spec, train_all(with_seeds(variants, spec.seeds))))
    if combined:
        say(f"above soft targets on dev by more than chance, so combined: {combined.losses}")
        variants += with_best_rates([combined], spec, rates, train_all)
    if rates:
        rate, usual = best_rates(rates)[SOFT], spec.run.config.learning_rate
        grid = {point: at_rate(variant, rate, usual) for point, variant in grid.items()}
    records = train_all([*with_seeds(variants, spec.seeds), *with_seeds(grid.values(), spec.seeds[:1])])
    return report(spec, evaluator, variants, grid, records, others, rates)


def with_seeds(variants: Iterable[Variant], seeds: Sequence[int]) -> list[tuple[Variant, int]]:
    """Every variant with every seed."""
    return [(variant, seed) for variant in variants for seed in seeds]


def first_runs(variants: Sequence[Variant], grid: dict[tuple[float, float], Variant], spec: StudySpec) -> Runs:
    """The runs that are needed whatever others find."""
    if spec.learning_rates:
        return with_seeds([each for variant in variants for each in at_all_rates(variant, spec)], spec.seeds[:1])
    return [*with_seeds(variants, spec.seeds), *with_seeds(grid.values(), spec.seeds[:1])]


def with_best_rates(
    variants: Sequence[Variant], spec: StudySpec, rates: RateScores, train_all: Callable[[Runs], Records]
) -> list[Variant]:
    """Each variant at the best of --learning-rates (if any) on dev, by runs of the first seed, which rates gets too."""
    if not spec.learning_rates:
        return list(variants)
    tried = {variant.name: at_all_rates(variant, spec) for variant in variants}
    records = train_all(with_seeds(itertools.chain(*tried.values()), spec.seeds[:1]))
    for name, each in tried.items():
        scores = [records[variant.folder(spec.run.output, spec.seeds[0])]["best_score"] for variant in each]
        rates[name] = dict(zip(spec.learning_rates, scores, strict=True))
    best = best_rates({name: rates[name] for name in tried})
    texts = ", ".join(f"{name} {rate:g}" for name, rate in best.items())
    say(f"learning rates, chosen on dev with seed {spec.seeds[0]}: {texts}")
    return [at_rate(variant, best[variant.name], spec.run.config.learning_rate) for variant in variants]


def dev_scores(variants: Sequence[Variant], spec: StudySpec, records: Records) -> dict[str, list[float]]:
    """The dev score of each variant with each seed, by name."""
    scores = {}
    for variant in variants:
        folders = [variant.folder(spec.run.output, seed) for seed in spec.seeds]
        scores[variant.name] = [records[folder]["best_score"] for folder in folders]
    return scores


def describe_study(
    spec: StudySpec, variants: Sequence[Variant], grid: dict[tuple[float, float], Variant], evaluator: Evaluator
) -> str:
    """What is about to happen, in a line."""
    config = spec.run.config
    budget = f"{config.steps:,} steps" if config.steps else f"{config.epochs} epochs"
    if "--steps" in variants[0].flags:
        budget += " (the baseline: as many steps)"
    size = f"{len(variants)} variants with {len(spec.seeds)} seeds"
    rates = len(spec.learning_rates)
    if rates:
        size += f", the first at {rates} learning rates" + "," * bool(grid)
    if grid:
        size += f" and a grid of {len(grid)}"
    in_grid = sum(variant.name != SOFT for variant in grid.values())  # which is among the others already
    count = len(variants) * (len(spec.seeds) - 1 + max(1, rates)) + in_grid
    return (
        f"a study of {spec.run.task}: {size}: {count} runs of {budget}, {spec.jobs} at a time, "
        f"{spec.run.run.threads} threads each; tested on {evaluator.examples:,} examples of {spec.test}"
    )


def check_records(runs: Runs, later: Runs, output: Path, known: dict, to_come: dict) -> None:
    """Before hours are spent: UserError where runs that are there, these or later ones, do not belong together, or with
    those to come (to_come: what these will have, key -> value)."""
    finished = all((variant.folder(output, seed) / RECORD).is_file() for variant, seed in runs)
    read_records([*runs, *later], output, known if finished else known | to_come)


# --- the runs ---


@dataclass
class Training:
    """A `train` in a process of its own, and the file with what it prints."""

    process: subprocess.Popen
    log: Path
    terminated: bool = False

    def terminate(self) -> None:
        """Let it end its step and save. Only once: at a second signal it would end at once."""
        if not self.terminated:
            self.terminated = True
            self.process.terminate()


def run_all(runs: Runs, common: Flags, output: Path, jobs: int) -> None:
    """Train what is not yet trained, `jobs` at a time. UserError where one fails; Stopped where a signal comes."""
    todo = side_by_side([run for run in runs if not (run[0].folder(output, run[1]) / RECORD).is_file()])
    running: list[Training] = []

    def end_runs() -> None:
        for training in running:
            training.terminate()

    logs = make_folder(output / "logs")
    title = f"{len(runs) - len(todo)} of {len(runs)} runs are there, training"
    try:
        with progress(total=len(todo), desc=title, unit="run", delay=0) as bar, Interruption(end_runs) as interruption:
            while todo or running:
                while todo and len(running) < jobs and not interruption.signal:
                    variant, seed = todo.pop(0)
                    folder = variant.folder(output, seed)
                    argv = [*argv_of(common | variant.flags), "--seed", str(seed), "--output", str(folder), "--resume"]
                    log = logs / f"{folder.name}.txt"
                    running.append(Training(start_train(argv, log), log))
                if interruption.signal:
                    raise Stopped(interruption.signal)
                time.sleep(WAIT)
                for training in list(running):
                    if training.process.poll() is not None:
                        running.remove(training)
                        check_finished(training, output)
                        bar.update()
    finally:
        end_runs()
        for training in running:
            training.process.wait()


def start_train(argv: list[str], log: Path) -> subprocess.Popen:
    """A `train` in a process of its own; a Ctrl-C in the terminal does not reach it, but run_all."""
    with open(log, "w") as file:
        command = [sys.executable, "-m", "kd_scratch", "train", *argv]
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )


def check_finished(training: Training, output: Path) -> None:
    """UserError where a run has failed."""
    status, log = training.process.returncode, training.log
    if status:
        cure = f"delete {output / 'runs' / log.stem} to train it anew"
        reason = last_line(log).replace("--force goes on anyway", cure)  # which a study does not have
        raise UserError(f"a run has failed (exit status {status}): {log}: {reason}")


def last_line(log: Path) -> str:
    """The last line that a run has printed."""
    text = log.read_bytes().decode(errors="replace").replace("\r", "\n")
    lines = [line for line in text.split("\n") if line.strip()]
    return shorten(lines[-1] if lines else "it printed nothing", 500)


# --- the same study again ---


def make_plan(spec: StudySpec, common: Flags, variants: Sequence[Variant]) -> dict:
    """What a folder's PLAN holds: flags, variants, and a hash of the weights that all students start from, if any."""
    start = None
    if spec.run.model not in SIZES:
        start = fingerprint(load_model(spec.run.model, say=lambda line: None))
    return {
        "flags": argv_of(common),
        "variants": {variant.name: argv_of(variant.flags) for variant in variants},
        "start": start,
    }


def same_study(output: Path, plan: dict) -> dict:
    """What the folder's PLAN should hold: this plan, and the variants that are there already.

    UserError where there are runs of a study with other settings, which cannot be compared with these. (Other losses
    may be added to it.)
    """
    before = read_plan(output)
    if before is None:
        return plan
    changes = plan_changes(before, plan)
    if before.get("start", plan["start"]) != plan["start"]:
        changes.append("the weights in --model were others")
    if changes:
        path = output / PLAN
        raise UserError(f"{path}: this folder holds another study: {', '.join(changes)}; choose another --output")
    return plan | {"variants": before["variants"] | plan["variants"]}


def plan_changes(before: dict, plan: dict) -> list[str]:
    """How the flags of two plans differ, as far as results depend on them and no hash tells; each difference
    with the first variant that has it."""
    by_hash = (*BY_HASH, "--model") if before.get("start") else BY_HASH

    def decisive(flags: Flags, other: Flags) -> Flags:
        same = {flag for flag in by_hash if flag in flags and flag in other}
        return {flag: values for flag, values in flags.items() if flag not in (*WITHOUT_EFFECT, *same)}

    def changed(flags: Flags, other: Flags) -> list[str]:
        return differences(decisive(flags, other), decisive(other, flags))

    now = parse_flags(plan["flags"])
    begun = {flag: now[flag] for flag in LATER if flag in now} | parse_flags(before["flags"])
    changes = dict.fromkeys(changed(begun, now), "")  # the difference -> " (variant)", or "" for all
    for name, argv in plan["variants"].items():
        if name in before["variants"]:
            for difference in changed(parse_flags(before["variants"][name]), parse_flags(argv)):
                changes.setdefault(difference, f" ({name})")
    return [difference + where for difference, where in changes.items()]


# --- the report ---


def report(
    spec: StudySpec,
    evaluator: Evaluator,
    variants: Sequence[Variant],
    grid: dict[tuple[float, float], Variant],
    records: Records,
    others: dict[str, OtherStudy],
    rates: RateScores,
) -> Report:
    """Measure every model on the test file, and write what was found."""
    output, seeds = spec.run.output, spec.seeds
    figures = evaluator.measure_all(records)
    by_variant = {v.name: [figures[v.folder(output, seed)] for seed in seeds] for v in variants}
    cells = {}
    for point, variant in grid.items():
        run = figures[variant.folder(output, seeds[0])]
        cells[point] = {"dev": run["dev"], "test": run["score"]}
    distilled = next(record for record in records.values() if record.get("teacher"))
    other_figures = {}
    for name, study in others.items():
        other_figures[name] = {
            variant: list(evaluator.measure_all(runs).values()) for variant, runs in study.records.items()
        }
    about = {
        "task": evaluator.task.name,
        "score": evaluator.task.score_name,
        "data": str(spec.test),
        "test examples": evaluator.examples,
        "drawn": describe_groups(evaluator.teacher),
        "few groups": note_of_few(evaluator.teacher),
        "notes": evaluator.facts.notes,
        "ingredients": sorted(ingredients(distilled, spec.run.teachers, evaluator.task)),
        "which teacher": evaluator.teacher_name,
        "command": study_argv(spec, variants),
        "variants": {variant.name: argv_of(variant.flags) for variant in variants},
        "seeds": list(seeds),
        "versions of the code": len({record.get("code") for record in records.values()}),
        "steps": sorted({record["step"] for record in records.values()}),
        "layers chosen": read_choice(output) is not None,
        "beside": {name: study.command for name, study in others.items()},
        "machine": about_machine(evaluator.device, []),
    }
    teacher = evaluator.teacher_figures
    return write_report(evaluator.task, about, teacher, by_variant, cells, output, other_figures, rates)


def study_argv(spec: StudySpec, variants: Sequence[Variant]) -> list[str]:
    """The command `evidence` that makes this study."""
    flags = study_flags(spec.run)
    flags["--data"] = [str(spec.test)]
    if spec.split:
        flags["--split"] = [spec.split]
    flags["--losses"] = [",".join(v.losses for v in variants if v.losses and v.name != COMBINED)]
    if spec.grid != ((), ()):
        flags["--grid"] = ["x".join(",".join(f"{number:.12g}" for number in part) for part in spec.grid)]
    if spec.beside:
        flags["--beside"] = [f"{name}={directory}" for name, directory in spec.beside.items()]
    if spec.learning_rates:
        flags["--learning-rates"] = [",".join(map(str, spec.learning_rates))]
    flags["--seeds"] = [",".join(map(str, spec.seeds))]
    flags["--jobs"] = [str(spec.jobs)]
    flags["--output"] = [str(spec.run.output)]
    return ["evidence", *argv_of(flags)]
