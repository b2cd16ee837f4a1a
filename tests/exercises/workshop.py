"""What a reader does with an exercise: begin it, check it, look at the solution. Everything is in the folder FOLDER."""

import ast
import difflib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kd_scratch.common.console import shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import make_folder, read_text, write_text
from tests.exercises.cut import changed_outside, cut, find, is_written
from tests.exercises.table import BY_NAME, EXERCISES, Exercise

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "exercises"  # git ignores it
LONGEST = 300  # seconds for all tests of an exercise; standin.py gives each test 30


def find_exercise(name: str) -> Exercise:
    """The exercise of this name. UserError where there is none."""
    if name in BY_NAME:
        return BY_NAME[name]
    near = difflib.get_close_matches(name, BY_NAME, 1)
    meant = f"; choose {near[0]}, if you mean that" if near else ""
    raise UserError(f"NAME={name}: there is no such exercise{meant}; make exercise lists them")


def original(exercise: Exercise) -> str:
    """The text of the file that an exercise is about."""
    return (ROOT / "kd_scratch" / exercise.file).read_text(encoding="utf-8")


def copy_of(exercise: Exercise, folder: Path) -> Path:
    """The reader's copy of that file."""
    return folder / exercise.name / exercise.file_name


def shown(path: Path) -> str:
    """A path as a reader writes it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def listing(folder: Path = FOLDER) -> str:
    """All exercises, in the order of the book, and which of them were begun."""
    lines = ["   exercise              what to write"]
    for number, exercise in enumerate(EXERCISES, 1):
        begun = " (begun)" if copy_of(exercise, folder).exists() else ""
        lines.append(f"{number:2} {exercise.name:22}{shorten(exercise.topic, 54 - len(begun))}{begun}")
    return "\n".join(lines)


# --- begin ---


def begin(exercise: Exercise, folder: Path = FOLDER, again: bool = False) -> str:
    """Write the file without the bodies, and what there is to do in five lines, which are returned.

    A copy that has been changed is left as it is, and UserError says so; with `again` it is kept under another name.
    """
    path, text = copy_of(exercise, folder), cut(original(exercise), exercise.functions)
    if path.exists() and path.read_bytes() != text.encode():
        if not again:
            raise UserError(
                f"{shown(path)}: holds your work, or was begun from an older kd_scratch/{exercise.file}; "
                f"make check NAME={exercise.name} looks at it, with AGAIN=1 you begin anew"
            )
        names = (path.with_name(f"before-{i}-{path.name}") for i in itertools.count(1))
        path.replace(next(name for name in names if not name.exists()))
    lines = five_lines(exercise, path, text)
    make_folder(path.parent)
    write_text(path, text)
    write_text(path.parent / "README.md", lines + "\n")
    return lines


def five_lines(exercise: Exercise, path: Path, text: str) -> str:
    """What there is to do."""
    tree = ast.parse(text)
    places = " and ".join(f"{name} (line {find(tree, name).lineno})" for name in exercise.functions)
    number = EXERCISES.index(exercise) + 1
    return "\n".join(
        [
            f"Exercise {number} of {len(EXERCISES)}, {exercise.name}: {exercise.topic}.",
            f"Read:  {exercise.paper}.",
            f"Write: the body of {places} in {shown(path)}. The docstring says what goes in and comes out.",
            f"Know:  {exercise.hint}",
            f"Check: make check NAME={exercise.name}. Compare: make solution NAME={exercise.name}.",
        ]
    )


# --- check ---


def read_copy(exercise: Exercise, folder: Path) -> str:
    """The text of a reader's copy, of which something can be checked. UserError, one line, where that is not so."""
    path = copy_of(exercise, folder)
    name = exercise.name
    if not path.is_file():
        raise UserError(f"{shown(path)}: is not there; begin with make exercise NAME={name}")
    text = read_text(path)
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"{shown(path)}:{error.lineno}: {error.msg}; mend that line, or one before it") from None
    nodes = {function: find(tree, function) for function in exercise.functions}
    for function, node in nodes.items():
        if node is None:
            raise UserError(f"{shown(path)}: has no {function} any more; make solution NAME={name} shows where it was")
    unwritten = [node for node in nodes.values() if not is_written(node)]
    if len(unwritten) == len(nodes):
        what = f"{unwritten[0].name} has no body yet"
        raise UserError(f"{shown(path)}:{unwritten[0].end_lineno}: {what}; write it in place of that line")
    return text


def arguments(exercise: Exercise) -> list[str]:
    """How pytest runs the tests of an exercise."""
    tests = (f"tests/{test}" for test in exercise.tests)
    return [
        "-q",
        "-x",
        "-p",
        "tests.exercises.standin",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:xdist",
        "--tb=line",
        *tests,
    ]


def environment(exercise: Exercise, path: Path, report: Path) -> dict[str, str]:
    """What standin.py is to know."""
    return {
        "KD_STANDIN": f"{exercise.module}:{path.resolve()}",
        "KD_FUNCTIONS": ",".join(exercise.functions),
        "KD_REPORT": str(report),
        "OMP_NUM_THREADS": "1",
    }


def check(exercise: Exercise, folder: Path = FOLDER, longest: int = LONGEST) -> tuple[bool, str]:
    """Whether the reader's copy passes the tests of its functions, and what there is to say about it."""
    text = read_copy(exercise, folder)
    path = copy_of(exercise, folder)
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        command = [sys.executable, "-m", "pytest", *arguments(exercise)]
        variables = os.environ | environment(exercise, path, report) | {"PYTHONPATH": str(ROOT)}
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=variables,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=longest,
            )
        except subprocess.TimeoutExpired:
            done = None
        found = json.loads(report.read_text()) if report.exists() else {"running": "", "failed": None}
    if done is not None and done.returncode == 0:
        count = f"all {found['passed']} tests pass"
        return True, f"{exercise.name}: {count}. Compare: make solution NAME={exercise.name}{next_one(exercise)}"
    if found["failed"] is None:
        if done is None:
            raise UserError(f"{found['running'] or shown(path)}: has not ended after {longest} seconds; end the loop")
        printed = (done.stdout + done.stderr).strip().split("\n")
        why = next((line[1:].strip() for line in reversed(printed) if line.startswith("E ")), printed[-1])
        missing = f"make solution NAME={exercise.name} shows what is missing"
        raise UserError(f"{shown(path)}: the tests cannot be read with it: {shorten(why, 300)}; {missing}")
    lines = list(failure(exercise, path, found))
    other = changed_outside(text, original(exercise), exercise.functions)
    if other:
        lines.append(
            f"  note: the copy differs from kd_scratch/{exercise.file} elsewhere too, at {shorten(other, 60)!r}"
        )
    return False, "\n".join(lines)


def next_one(exercise: Exercise) -> str:
    """Where to go on."""
    number = EXERCISES.index(exercise) + 1
    return f". Next: make exercise NAME={EXERCISES[number].name}" if number < len(EXERCISES) else ". That was the last"


def failure(exercise: Exercise, path: Path, found: dict) -> Iterator[str]:
    """What went wrong, in a few lines: the error or the first wrong number, with shapes."""
    failed, number = found["failed"], found["failed"].get("number")
    at = f"{shown(path)}:{failed['line']}" if failed["line"] else shown(path)
    if failed["import"]:
        yield f"{exercise.name}: {at}: the file cannot be imported: {failed['type']}: {failed['text']}"
        return
    if failed["type"] == "NotImplementedError" and failed["line"]:
        yield f"{exercise.name}: {at}: {failed['text']} ({found['passed']} passed without it)"
        return
    yield f"{exercise.name}: {found['passed']} passed, then {failed['test']} fails"
    if number is None or failed["line"]:
        where = f"{at}: " if failed["line"] else ""
        yield f"  {where}{failed['type']}: {failed['text']}"
    if number is not None:
        yield f"  {number['call']}"
        if number.get("size", 0) > 1:
            place = f"{number['place']}{number['at']}"
            yield f"  first wrong: {place}; {number['count']} of {number['size']} numbers are wrong"
        yield f"    expected  {number['expected']}"
        yield f"    got       {number['got']}"


# --- solution ---


def solution(exercise: Exercise, folder: Path = FOLDER) -> str:
    """The difference from the reader's copy to the original; from the file without bodies where there is none."""
    path = copy_of(exercise, folder)
    text = read_text(path) if path.is_file() else cut(original(exercise), exercise.functions)
    names = shown(path), f"kd_scratch/{exercise.file}"
    lines = difflib.unified_diff(text.splitlines(), original(exercise).splitlines(), *names, lineterm="", n=1)
    return "\n".join(lines) or f"{shown(path)} is kd_scratch/{exercise.file}, letter for letter"
