"""Where cures are tried: small files and models, commands that use them, and ways to do what a message says."""

import errno
import importlib
import os
import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pytest

from data_scripts import make_sample
from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.common.errors import UserError
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.study import runner
from kd_scratch.tasks import TASKS
from kd_scratch.training.bookkeeping import Bookkeeping
from tests.conftest import tiny_model

KINDS = {"sport": "goal match team coach", "trade": "shares profit market bank"}
FAST = "--batch-size 4 --steps 1 --max-length 20 --device cpu --threads 1".split()
Command = list[str] | Callable[[], object]  # words of a command line, or a call from Python


class Cure(NamedTuple):
    """A row: what is printed, how to get there, and how to do what it says.

    message: a part of the text as it stands in the sources, with {} for what varies, and with the advice.
    start: makes the files, and gives the command that fails. follow: does what the printed line says, and gives the
    command that must then succeed (None: the same one again).
    note: the command does not fail, it prints the advice; afterwards it must not.
    """

    message: str
    start: Callable[["World"], Command]
    follow: Callable[["World", Command, str], Command | None]
    note: bool = False


@dataclass
class Base:
    """Files and models that no test changes, made when they are first asked for."""

    folder: Path

    def file(self, name: str, text: str) -> Path:
        """A file with a text."""
        path = self.folder / name
        if not path.exists():
            path.write_text(text)
        return path

    def csv(self, name: str, rows: int = 8) -> Path:
        """Texts of two kinds."""
        words = [(kind, *text.split()) for kind, text in KINDS.items()]
        lines = [
            f"{kind},the {a if i % 4 < 2 else b} of {c} and {d} {name}"
            for i in range(rows)
            for kind, a, b, c, d in [words[i % 2]]
        ]
        return self.file(f"{name}.csv", "label,text\n" + "\n".join(lines) + "\n")

    @cached_property
    def tokenizer(self):
        """Learned from the texts."""
        return train_tokenizer(self.csv("train").read_text().split("\n"), vocab_size=120)

    def model(self, head: str | None = "sequence", name: str = "", **shape) -> Path:
        """A random model of three layers with some head, and its tokenizer."""
        labels = {"token": ("O", "B-PER", "I-PER")}.get(head, tuple(KINDS))
        path = self.folder / (name or f"{head or 'headless'}-model")
        if not path.exists():
            save_model(tiny_model(head, labels, vocab_size=self.tokenizer.vocab_size, **shape), path)
            self.tokenizer.save(path, max_length=20)
        return path

    @cached_property
    def int8(self) -> Path:
        """The int8 form of the classifier."""
        path = self.folder / "int8-model"
        assert main(["quantize", "--model", str(self.model()), "--output", str(path), "--threads", "1"]) == 0
        return path

    @cached_property
    def sample(self) -> Path:
        """Sentences with entities, and questions with answers: a folder."""
        make_sample.make_conll(self.folder, rows=40)
        make_sample.make_squad(self.folder, rows=40)
        return self.folder


@dataclass
class World:
    """What a row gets: the files that all share, a folder of its own, and ways to make the machine refuse."""

    base: Base
    folder: Path
    patch: pytest.MonkeyPatch
    until_the_end: ExitStack  # what is closed then

    def copy(self, source: Path, name: str = "") -> Path:
        """A file or folder of its own."""
        target = self.folder / (name or source.name)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return target

    def write(self, name: str, text: str) -> Path:
        """A file of its own."""
        (self.folder / name).write_text(text)
        return self.folder / name

    def csv_of_other_labels(self) -> Path:
        """The training file, with other names for its labels."""
        return self.write("renamed.csv", self.base.csv("train").read_text().replace("sport,", "sports,"))

    def train(self, *more, **flags) -> list[str]:
        """A `train` that succeeds, but for what `more` and `flags` change in it."""
        base = self.base
        usual = {"task": "csv", "train": base.csv("train"), "dev": base.csv("dev", 4), "model": base.model(),
                 "output": self.folder / "trained", "cache": self.folder / "cache"}  # fmt: skip
        return ["train", *words(usual | flags), *FAST, *map(str, more)]

    def evaluate(self, *more, **flags) -> list[str]:
        """An `evaluate` that succeeds."""
        usual = {"task": "csv", "data": self.base.csv("test", 4), "model": self.base.model(), "device": "cpu"}
        return ["evaluate", *words(usual | flags), *map(str, more)]

    def prune(self, *more, **flags) -> list[str]:
        """A `prune` that succeeds once it is told what is to go."""
        usual = {"task": "csv", "data": self.base.csv("train"), "model": self.base.model()}
        return ["prune", *words(usual | {"output": self.folder / "pruned"} | flags), *map(str, more)]

    def conll(self, command: str, *more, **flags) -> list[str]:
        """The same of a tagger."""
        files = self.base.sample / "conll2003"
        usual = {"task": "conll", "model": self.base.model("token")}
        if command == "train":
            return self.train(*more, **usual | {"train": files / "train.txt", "dev": files / "valid.txt"} | flags)
        return self.evaluate(*more, **usual | {"data": files / "test.txt"} | flags)

    def squad(self, command: str, *more, **flags) -> list[str]:
        """The same of a model that answers questions."""
        files = self.base.sample / "squad"
        usual = {"task": "squad", "model": self.base.model("span")}
        if command == "train":
            usual |= {"train": files / "train.json", "dev": files / "dev.json"}
            return put(self.train(*more, **usual | flags), "--max-length", "40")
        return self.evaluate(*more, **usual | {"data": files / "test.json"} | flags)

    def mlm(self, *more, **flags) -> list[str]:
        """A `train` with masked words."""
        texts = self.base.file("texts.txt", "the goal of the team\nshares of the bank\n" * 4)
        return self.train(
            *more, **{"task": "mlm", "train": texts, "dev": texts, "model": self.base.model("mlm")} | flags
        )

    def study(self, *more, **flags) -> list[str]:
        """An `evidence` that succeeds. Its runs are in this process."""
        self.patch.setattr(runner, "start_train", Here)
        self.patch.setattr(runner, "WAIT", 0)
        usual = {"teacher": self.base.model(), "data": self.base.csv("test", 4), "seeds": 0, "losses": "hidden"}
        return ["evidence", *self.train(*more, **usual | flags)[1:]]

    def interrupted(self, *more, **flags) -> list[str]:
        """The command of a run of three steps that was stopped after two, the first epoch."""
        argv = put(self.train(*more, **flags), "--steps", 3)
        with pytest.MonkeyPatch.context() as patch:
            end_epoch = Bookkeeping.end_epoch
            patch.setattr(Bookkeeping, "end_epoch", lambda books: (end_epoch(books), stop()))
            assert main(argv) == 130
        return argv

    def new_task(self, **changes) -> None:
        """As if csv were a task without something."""
        self.patch.setitem(TASKS, "csv", replace(TASKS["csv"], **changes))

    def full(self, number: int, name: str, *functions: str) -> None:
        """From here on these functions fail with an error of the system for what has a path of this name, or below."""
        for function in functions:
            module, _, attribute = function.rpartition(".")
            real = getattr(importlib.import_module(module), attribute)
            self.patch.setattr(function, refusing(real, number, self.folder / name))


class Here:
    """A run of a study, in this process: what subprocess.Popen would be."""

    def __init__(self, argv: list[str], log: Path):
        with open(log, "w") as file, redirect_stdout(file), pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stderr", file)
            self.returncode = main(["train", *argv])

    def poll(self) -> int:
        """It has ended."""
        return self.returncode

    wait = terminate = poll


def stop():
    """A Ctrl-C."""
    raise KeyboardInterrupt


def refusing(real: Callable, number: int, below: Path) -> Callable:
    """A function that fails where one of its arguments is a path below a folder."""

    def function(*arguments, **options):
        if any(str(argument).startswith(str(below)) for argument in (*arguments, *options.values())):
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    return function


def words(flags: dict) -> list[str]:
    """{"max_length": 5} -> ["--max-length", "5"]"""
    return [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def put(argv: list[str], flag: str, *values) -> list[str]:
    """A command with a flag, instead of the one that it has."""
    return [*drop(argv, flag), flag, *map(str, values)]


def drop(argv: list[str], flag: str) -> list[str]:
    """A command without a flag and what belongs to it."""
    if flag not in argv:
        return argv
    at = argv.index(flag)
    end = next((i for i in range(at + 1, len(argv)) if argv[i].startswith("--")), len(argv))
    return argv[:at] + argv[end:]


def value(argv: list[str], flag: str) -> str:
    """What stands behind a flag."""
    return argv[argv.index(flag) + 1]


# --- what messages say, done; each takes what it does from the printed line ---


def find(pattern: str, line: str) -> str:
    """The group of a pattern in a line; a failure of the test where the line says something else."""
    found = re.search(pattern, line)
    assert found, f"{pattern!r} is not in {line!r}"
    return found[1]


def leave_out(pattern: str = r"(--[\w-]+)\b.*; leave it out"):
    """Follows "--FLAG …; leave it out"."""
    return lambda world, argv, line: drop(argv, find(pattern, line))


def use(pattern: str):
    """Follows "… add --FLAG VALUE": the words of the pattern's group become part of the command."""

    def follow(world, argv, line):
        return put(argv, *shlex.split(find(pattern, line)))

    return follow


def give(pattern: str, choose: Callable[[World], object]):
    """Follows "give --FLAG", where only the user knows its value."""
    return lambda world, argv, line: put(argv, find(pattern, line), *_listed(choose(world)))


def _listed(chosen) -> list:
    return chosen if isinstance(chosen, list) else [chosen]


def another(pattern: str, name: str = "another"):
    """Follows "PATH …; choose another one": wherever the command names it, or a folder above it."""

    def follow(world, argv, line):
        path = find(pattern, line)
        assert any(path == word or path.startswith(f"{word}/") or word.startswith(f"{path}/") for word in argv)
        return [
            str(world.folder / "elsewhere" / name) if path in word or (word in path and "/" in word) else word
            for word in argv
        ]

    return follow


def delete(pattern: str):
    """Follows "FILE: …; delete it"; a folder too."""

    def follow(world, argv, line):
        path = Path(find(pattern, line))
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return follow


def undo(pattern: str):
    """Follows what is done outside: room is made, another process has ended."""

    def follow(world, argv, line):
        find(f"({pattern})", line)
        world.patch.undo()

    return follow


def call(command: Command) -> tuple[int, str]:
    """The exit status of a command, or of a call from Python (2: UserError), and the error's line."""
    if not callable(command):
        scripts = {"make_sample": make_sample.main}
        try:
            return (scripts[command[0]](command[1:]) if command[0] in scripts else main(command)), ""
        except SystemExit as error:  # argparse
            return error.code, ""
    try:
        command()
        return 0, ""
    except (UserError, ValueError) as error:
        return 2, f"error: {error}\n"


ENOSPC, EDQUOT, EFBIG, EROFS, EACCES = errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES
