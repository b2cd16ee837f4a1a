"""The numbers that stand beside the lines of the book: what each line makes of one traced example.

A tiny teacher and a tiny student are trained on generated text, and `trace` follows one example through both. While it
does, every line of kd_scratch that runs for the first time leaves what it has assigned or returned: first those that
walk through the student, layer by layer. What tracing does not reach (training, other tasks, files, int8) is run after
it, in the smallest form.
"""

import ast
import contextlib
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType

import numpy as np
import torch

from data_scripts.make_sample import make_agnews, make_conll, make_squad
from kd_scratch.__main__ import main
from kd_scratch.trace.steps import walk_through
from kd_scratch.trace.trace import Trace, loss_settings, trace
from kd_scratch.trace.trail import TraceSpec

CALLS = 24  # of each function that are looked at: a later one may go another way
SHOWN = 3  # numbers of a tensor
LONGEST = 70  # characters of a text
SMALL = "--epochs 1 --warmup-steps 5 --batch-size 16 --threads 1 --device cpu --seed 0 --quiet".split()


def describe(value: object) -> str | None:
    """A value in short: "2,5,8: 0.12 −0.3 1.5 …" for a tensor; None for what has no number or text of its own."""
    if isinstance(value, torch.Tensor | np.ndarray):
        if getattr(value, "is_meta", False) or getattr(value, "is_quantized", False):
            return f"{','.join(map(str, value.shape))} {value.dtype}"
        flat = (
            value.detach().flatten()[:SHOWN].tolist()
            if isinstance(value, torch.Tensor)
            else value.ravel()[:SHOWN].tolist()
        )
        numbers = " ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in flat)
        more = " …" if np.prod(value.shape) > SHOWN else ""
        return f"{','.join(map(str, value.shape)) + ': ' if value.ndim else ''}{numbers}{more}".replace("-", "−")
    if isinstance(value, bool | int | str) or value is None:
        text = repr(value)
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif type(value) in (tuple, list) and len(value) <= 4 and value:
        parts = [describe(part) for part in value]
        text = None if None in parts else f"({'; '.join(parts)})"
    elif isinstance(value, tuple | list | dict | set) and not value:
        text = repr(value)
    elif type(value) in (list, dict) or isinstance(value, set):
        text = f"{len(value)} of them" if len(value) > 1 else None
    else:
        return None
    return text if text is None or len(text) <= LONGEST else text[: LONGEST - 2] + " …"


def assignments(text: str) -> dict[int, tuple[int, tuple[str, ...], bool]]:
    """For each line of a source the statement it belongs to: last line, names that it assigns, whether it returns."""
    found = {}
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.stmt):
            continue
        last = node.body[0].lineno - 1 if hasattr(node, "body") else node.end_lineno
        targets = [*getattr(node, "targets", []), *filter(None, [getattr(node, "target", None)])]
        targets += [item.optional_vars for item in getattr(node, "items", []) if item.optional_vars]
        names = tuple(n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
        for line in range(node.lineno, max(node.lineno, last) + 1):
            found[line] = max(node.lineno, last), names, isinstance(node, ast.Return)
    return found


class Recorder:
    """A context in which the functions below a folder leave the numbers of their first calls.

    numbers: (file, line) -> what the statement that ends there made when it ran first, one text for each name. within:
    a function; as long as it is set, nothing outside its call is looked at.
    """

    def __init__(self, folder: Path):
        self.folder = str(folder) + os.sep
        self.numbers: dict[tuple[str, int], list[str]] = {}
        self.calls: Counter[CodeType] = Counter()
        self.within: Callable | None = None
        self.is_within = False
        self.statements: dict[str, dict] = {}

    def __enter__(self) -> "Recorder":
        self.before = sys.gettrace()
        sys.settrace(self.enter)
        return self

    def __exit__(self, *error) -> None:
        sys.settrace(self.before)

    def enter(self, frame: FrameType, event: str, argument):
        """A function is called: its lines are followed the first times."""
        code, file = frame.f_code, frame.f_code.co_filename
        is_gate = self.within is not None and code is self.within.__code__
        self.is_within = self.is_within or is_gate
        if code.co_name.startswith("<") or not file.startswith(self.folder) or self.calls[code] == CALLS:
            return None
        if self.within is not None and not self.is_within:
            return None
        self.calls[code] += 1
        if file not in self.statements:
            self.statements[file] = assignments(Path(file).read_text(encoding="utf-8"))
        statements, last = self.statements[file], None

        def follow(frame: FrameType, event: str, argument):
            nonlocal last
            current = statements.get(frame.f_lineno)
            if last is not None and (event == "return" or current is not last):
                self.leave(file, last, frame, argument if event == "return" else None, event == "return")
            if event == "line":
                last = current
            elif event == "return" and is_gate:
                self.is_within = False
            return follow

        return follow

    def leave(self, file: str, statement: tuple, frame: FrameType, result, ended: bool) -> None:
        """A statement is over."""
        line, names, returns = statement
        if (file, line) in self.numbers:
            return
        texts = [(f"{name} = ", frame.f_locals[name]) for name in names if name in frame.f_locals]
        if returns and ended and result is not None:
            texts.append(("→ ", result))
        texts = [before + text for before, value in texts if (text := describe(value)) is not None]
        if texts:
            self.numbers[file, line] = texts


def run(*words: object) -> None:
    """A command of kd_scratch."""
    if main([str(word) for word in words]):
        raise RuntimeError(f"the example of the book has failed: {' '.join(map(str, words))}")


def run_example(folder: Path, package: Path) -> tuple[dict, set, Trace]:
    """All numbers, the places of those of the traced example, and its trace. folder: empty, for models."""
    recorder, example, first = Recorder(package), set(), None
    with contextlib.chdir(folder), open(os.devnull, "w") as nowhere:
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            make_agnews("data", rows=240)
            make_squad("data", rows=60)
            make_conll("data", rows=60)
            files = {
                "agnews": ("data/ag_news_csv/train.csv", "data/ag_news_csv/dev.csv", 64),
                "squad": ("data/squad/train.json", "data/squad/dev.json", 128),
                "conll": ("data/conll2003/train.txt", "data/conll2003/valid.txt", 64),
            }
            for task, (train, dev, length) in files.items():
                often = ["--task", task, "--train", train, "--dev", dev, "--max-length", length, *SMALL, "--looks", 1]
                teacher, student = f"{task}/teacher", f"{task}/student"
                run("train", *often, "--model", "mini-teacher", "--output", teacher)
                often += [
                    "--tokenizer",
                    teacher,
                    "--teacher",
                    teacher,
                    "--cache",
                    f"{task}/cache",
                    "--model",
                    "mini-student",
                ]
                run("train", *often, "--losses", "hidden,attention,cosine,relations", "--output", student)
                spec = TraceSpec(task, student, teacher, Path(dev), config=loss_settings(student, task))
                with recorder:
                    recorder.within = walk_through
                    trace(spec)
                    recorder.within = None
                    traced = trace(spec)
                    example = example or set(recorder.numbers)
                    run("train", *often, "--losses", "hidden,relations", "--steps", 4, "--output", f"{task}/again")
                    run("quantize", "--model", student, "--output", f"{task}/int8", "--quiet")
                    run("evaluate", "--task", task, "--data", dev, "--model", f"{task}/int8", "--threads", 1, "--quiet")
                first = first or traced
            with recorder:
                models = ["--models", f"teacher={teacher}", f"int8={task}/int8"]
                run(
                    "compare", "--task", task, "--data", dev, *models, "--output", "compared", "--threads", 1, "--quiet"
                )
    return recorder.numbers, example, first
