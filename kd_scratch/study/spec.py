"""A study, described; and a run's description as the flags of `train`, with which a study starts it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import NamedTuple

from kd_scratch.common.device import is_seed
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_apart, check_no_file, read_json
from kd_scratch.config import flag_name
from kd_scratch.tasks import TASKS
from kd_scratch.training.spec import RunSpec

PLAN = "study.json"  # in a study's folder: the flags that its runs have in common, and those of each variant
Flags = dict[str, list[str]]  # a flag -> its values: {"--epochs": ["3"], "--documents": []}


class Grid(NamedTuple):
    """Temperatures and alphas, each of which is tried with each."""

    temperatures: tuple[float, ...] = ()
    alphas: tuple[float, ...] = ()


@dataclass(frozen=True)
class StudySpec:
    """What is compared, and on what.

    Example: StudySpec(run=RunSpec(…, teachers=("runs/teacher",), config=TrainConfig(losses="hidden,cosine")),
    test=Path("test.csv")) trains a baseline, soft targets, and soft targets with each of the two losses, with five
    seeds each.
    """

    run: RunSpec  # of all runs: with a teacher, the losses to try one at a time, and the study's own output folder
    test: Path  # the file that results are of
    split: str = ""  # of that file; "": test, where it has splits
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    learning_rates: tuple[float, ...] = ()  # each variant has the best of them on dev, by runs of the first seed
    jobs: int = 1  # runs side by side
    grid: Grid = Grid()  # soft targets are also tried with these, with the first seed
    beside: dict[str, str] = field(default_factory=dict)  # finished studies to show: name -> folder
    skip_impossible: bool = False  # leave out a loss that is not possible between the two models, with a note

    @property
    def has_unlabelled_text(self) -> bool:
        """Whether there is text that only a teacher can use, so that an epoch of the baseline is shorter."""
        config = self.run.config
        return bool(self.run.unlabelled or config.labelled or config.augment or config.cloze)


def check_study(spec: StudySpec) -> None:
    """UserError for a study that cannot be made. (Whether the settings of a run fit: training.spec.check_spec.)"""
    check_no_file(spec.run.output)
    check_apart(spec.run.output, spec.run.model, *spec.run.teachers)
    if not 1 <= spec.jobs <= 64:
        raise UserError(f"--jobs {spec.jobs}: must lie between 1 and 64")
    if not (spec.seeds and all(map(is_seed, spec.seeds))) or len(set(spec.seeds)) < len(spec.seeds):
        raise UserError(f"--seeds {','.join(map(str, spec.seeds))}: is not a list of different seeds such as 0,1,2")
    rates = ",".join(f"{rate:.12g}" for rate in spec.learning_rates)
    own, usual = spec.run.config.learning_rate, TASKS[spec.run.task].train_config().learning_rate
    for rate in spec.learning_rates:
        replace(spec.run.config, learning_rate=rate)  # UserError where it is not possible
    if len(set(spec.learning_rates)) < len(spec.learning_rates):
        raise UserError(f"--learning-rates {rates}: is not a list of different rates such as 1e-4,2e-4")
    if spec.learning_rates and own not in (usual, *spec.learning_rates):
        raise UserError(f"--learning-rate {own}: is not among --learning-rates {rates}; leave it out")
    if spec.run.config.patience:
        raise UserError("--patience: runs would end after different numbers of steps; leave it out")
    if not spec.run.teachers:
        raise UserError("--teacher: a study needs a teacher; give one")


def read_plan(output: Path) -> dict | None:
    """The plan of the runs in a study's folder; None where there are none. UserError where it is something else."""
    path = output / PLAN
    if not path.is_file() or not any((output / "runs").glob("*")):
        return None
    plan = read_json(path)
    variants = plan.get("variants") if isinstance(plan, dict) else None
    if not isinstance(variants, dict) or not all(map(is_command, [plan.get("flags"), *variants.values()])):
        raise UserError(f"{path}: is not what a study writes; choose another --output")
    return plan


def is_command(argv) -> bool:
    """Whether a JSON value is a list of words."""
    return isinstance(argv, list) and all(isinstance(word, str) for word in argv)


# --- flags ---


def train_flags(run: RunSpec) -> Flags:
    """The flags with which `train` makes an equal RunSpec: those without a default, and those that differ from it.

    --max-length among them: what `train` takes without it depends on the models, a baseline has no teacher.
    """
    usual = RunSpec(run.task, run.train, run.dev, run.model, run.output, config=TASKS[run.task].train_config())
    flags = {
        "--task": [run.task],
        "--train": [str(run.train)],
        "--dev": [run.dev],
        "--model": [run.model],
        "--output": [str(run.output)],
        "--max-length": [str(run.config.max_length)],
    }
    return flags | changed_flags(usual, run)


def changed_flags(before: RunSpec, after: RunSpec) -> Flags:
    """The flags that make one run of another one, in which nothing is given that is not given in this one."""
    changed = {}
    pairs = ((before, after), (before.config, after.config), (before.data, after.data), (before.run, after.run))
    for old, new in pairs:
        for f in fields(new):
            value = getattr(new, f.name)
            if not is_dataclass(value) and value != getattr(old, f.name):
                flag = "--teacher" if f.name == "teachers" else flag_name(f.name)
                changed[flag] = flag_values(f.name, value)
    return changed


def flag_values(name: str, value) -> list[str]:
    """The value of a field as it stands behind its flag. True -> [], 0.5 -> ["0.5"], layers (0, 2) -> ["0,2"]"""
    if value is True:
        return []
    if name in ("teachers", "answers"):
        return list(value)
    if name == "init_layers" and not isinstance(value, str):
        return [",".join(map(str, value))]
    return [str(value)]


def argv_of(flags: Flags) -> list[str]:
    """{"--epochs": ["3"], "--documents": []} -> ["--epochs", "3", "--documents"]"""
    words = []
    for flag, values in flags.items():
        words += [flag, *values]
    return words


def parse_flags(argv: Sequence[str]) -> Flags:
    """The opposite of argv_of."""
    flags: Flags = {}
    flag = ""
    for word in argv:
        if word.startswith("--"):
            flag = word
            flags[flag] = []
        else:
            flags.setdefault(flag, []).append(word)
    return flags


def differences(before: Flags, now: Flags) -> list[str]:
    """How flags differ: {"--epochs": ["2"]} and {"--epochs": ["3"]} -> ["--epochs was 2, is 3"]"""

    def text(flags: Flags, flag: str) -> str:
        if flag not in flags:
            return "not given"
        return " ".join(flags[flag]) or "given"

    return [
        f"{flag} was {text(before, flag)}, is {text(now, flag)}"
        for flag in before | now
        if text(before, flag) != text(now, flag)
    ]
