"""The exercises: each is solved by the original's bodies and by no wrong ones; what a reader does gets a clear line."""

import ast
import gc
import json
import os
import re
import subprocess
import sys
import time

import pytest
import torch
import torch._dynamo  # noqa: F401  every optimizer imports it: two seconds in each fork otherwise

from kd_scratch.common.errors import UserError
from kd_scratch.nn.layers import InputEmbeddings
from kd_scratch.nn.model import SequenceHead
from tests.conftest import ROOT
from tests.exercises import __main__ as command
from tests.exercises import workshop
from tests.exercises.cut import body_lines, cut, find, is_written
from tests.exercises.standin import difference, with_settings
from tests.exercises.table import BY_NAME, EXERCISES
from tests.exercises.workshop import arguments, begin, check, copy_of, environment, original, read_copy, solution
from tests.exercises.wrong import WRONG
from tests.mutants import FAULTS

EACH = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.name)


# --- all of them ---


def wrong_texts(exercise):
    """The original's text with each of its wrong bodies, by what is replaced."""
    text = original(exercise)
    tree, lines = ast.parse(text), text.split("\n")
    faults = [(old, new) for _, file, old, new, _ in FAULTS if file == exercise.file]
    for old, new in [*WRONG[exercise.name], *faults]:
        changed = [*lines]
        for name in exercise.functions:
            first, last = body_lines(find(tree, name))
            body = "\n".join(lines[first - 1 : last])
            if old in body:
                changed[first - 1 : last] = body.replace(old, new).split("\n")
                yield old, "\n".join(changed)
                break
        else:
            assert (old, new) in faults, f"{exercise.name}: no body holds {old!r} any more"


def run_in_fork(exercise, text, folder):
    """What standin.py reports of the tests of an exercise with this text for the copy, and pytest's exit status.

    In a fork that has PyTorch already, and imports everything of this project anew: a tenth of the time of a process.
    """
    folder.mkdir(parents=True)
    path, report = folder / exercise.file_name, folder / "report.json"
    path.write_text(text)
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            sys.stdout = sys.stderr = open(folder / "out", "w", buffering=1)
            os.environ.update(environment(exercise, path, report))
            for name in [name for name in sys.modules if name.split(".")[0] in ("kd_scratch", "tests")]:
                del sys.modules[name]
            os.chdir(ROOT)
            gc.freeze()  # pytest collects garbage twice, also PyTorch's
            os._exit(pytest.main([*arguments(exercise), "--basetemp", str(folder / "tmp"), "--assert=plain"]))
        finally:
            os._exit(99)
    end = time.monotonic() + 120
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        assert time.monotonic() < end, f"{exercise.name} hangs: {folder}"
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(ended[1]), json.loads(report.read_text())


@pytest.mark.slow
@EACH
def test_the_originals_body_solves_it_and_wrong_ones_do_not(exercise, tmp_path):
    """The bodies are put into the cut file by hand, as a reader does."""
    status, report = run_in_fork(exercise, original(exercise), tmp_path / "right")
    assert status == 0 and report["passed"], report
    wrong = list(wrong_texts(exercise))[:3]  # the others are caught by `make mutants`
    assert len(wrong) == 3, f"{exercise.name} has only {len(wrong)} wrong bodies"
    for i, (what, text) in enumerate(wrong):
        status, report = run_in_fork(exercise, text, tmp_path / str(i))
        assert status in (1, 2) and not report["failed"]["import"], (what, status, report)


@EACH
def test_a_cut_file_keeps_docstring_and_shapes_and_all_else(exercise):
    text = original(exercise)
    before, after = ast.parse(text), ast.parse(cut(text, exercise.functions))
    for name in exercise.functions:
        whole, left = find(before, name), find(after, name)
        assert is_written(whole) and not is_written(left)
        assert ast.get_docstring(left) == ast.get_docstring(whole) is not None
        assert ast.unparse(left.args) == ast.unparse(whole.args)
        left.body = whole.body
    assert ast.dump(after) == ast.dump(before)


@EACH
def test_its_tests_are_there_and_five_lines_say_what_to_do(exercise, tmp_path):
    for test in exercise.tests:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0]}(" in (ROOT / "tests" / file).read_text(), test
    lines = begin(exercise, tmp_path).split("\n")
    assert [line.split(":")[0] for line in lines[1:]] == ["Read", "Write", "Know", "Check"] and len(lines) == 5
    assert (tmp_path / exercise.name / "README.md").read_text() == "\n".join(lines) + "\n"
    assert all(exercise.functions) and set(WRONG) == set(BY_NAME)


def test_the_trail_of_shapes_stays():
    text = cut(original(BY_NAME["heads"]), ("split_heads",))
    assert '"""B,H,S,W"""' not in text and "    # B,S,D -> B,S,H,W\n    # B,S,H,W -> B,H,S,W\n    raise" in text


# --- one reader ---


@pytest.fixture
def write(tmp_path):
    """A function: puts the body that a reader gives sinusoidal_table into their copy. Returns its path."""

    def call(body):
        exercise = BY_NAME["sinusoids"]
        path = copy_of(exercise, tmp_path)
        begin(exercise, tmp_path, again=path.exists())
        text, old = path.read_text(), 'raise NotImplementedError("sinusoidal_table: its body is yours to write")'
        assert old in text
        path.write_text(text.replace(old, body))
        return path

    return call


@pytest.fixture
def attempt(write, tmp_path):
    """A function: such a body -> what check finds."""

    def call(body, **options):
        write(body)
        return check(BY_NAME["sinusoids"], tmp_path, **options)

    return call


RIGHT = """position, i = torch.arange(positions).double()[:, None], torch.arange(width).double()
    angle = position / 10000 ** (i // 2 * 2 / width)
    return torch.where(i % 2 == 0, angle.sin(), angle.cos()).float()"""


@pytest.mark.slow
def test_a_right_body_passes_and_a_wrong_one_shows_its_first_wrong_number(attempt):
    on_the_cpu = RIGHT.replace("(positions)", '(positions, device="cpu")').replace("(width)", '(width, device="cpu")')
    passed, text = attempt(on_the_cpu)
    assert passed and text.endswith("Next: make exercise NAME=layer-norm"), text
    passed, text = attempt(on_the_cpu.replace("10000", "1000"))
    assert not passed
    call, first, expected, got = text.split("\n")[-4:]
    assert call == "  sinusoidal_table(positions 512, width 6)"
    assert first.startswith("  first wrong: result[1, 2]; ") and first.endswith(" of 3072 numbers are wrong")
    assert expected == "    expected  512,6 float32: 0.0463992245" and got.startswith(
        "    got       512,6 float32: 0.0998"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (
            "return torch.zeros(positions, width, 1)",
            ["expected  512,6 float32", "got       512,6,1"],
        ),
        ("return numpy.zeros(width)", ["layers.py:7", ": NameError: name 'numpy' is not defined"]),
        ("while True:\n        pass", ["layers.py:7", "TimeoutError: it has not ended after 6 seconds"]),
        ("return 1\n\n\nnothing_of_that_name", ["the file cannot be imported: NameError: name 'nothing_of_that_name'"]),
    ],
    ids=["another shape", "an error", "a loop without end", "no import"],
)
def test_every_other_failure_is_a_line_too(body, lines, attempt, monkeypatch):
    monkeypatch.setenv("KD_SECONDS", "6")
    passed, text = attempt(body)
    assert not passed and all(line in text for line in lines), text
    assert "Traceback" not in text and len(text.split("\n")) <= 7


@pytest.mark.slow
def test_a_loop_that_swallows_every_error_is_ended_too(attempt, monkeypatch):
    body = "while True:\n        try:\n            while True: sum(range(9))\n        except BaseException: pass"
    monkeypatch.setenv("KD_SECONDS", "8")  # PyTorch is imported in this time too, which takes five on a busy machine
    with pytest.raises(UserError, match="has not ended after 12 seconds; end the loop"):
        attempt(body, longest=12)


@pytest.mark.slow
def test_an_edit_elsewhere_is_noted_where_a_test_fails(write, tmp_path):
    path = write("return torch.zeros(1)")
    path.write_text("import math as m\n" + path.read_text().replace('"relu": F.relu', '"relu": F.gelu'))
    _, text = check(BY_NAME["sinusoids"], tmp_path)
    assert "note: the copy differs from kd_scratch/nn/layers.py elsewhere too, at 'ACTIVATIONS = {'" in text


def test_what_cannot_be_checked_is_refused_in_one_line_and_the_cure_works(tmp_path):
    exercise = BY_NAME["heads"]
    path = copy_of(exercise, tmp_path)

    def refused(cure):
        with pytest.raises(UserError, match=cure) as error:
            read_copy(exercise, tmp_path)
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)

    refused("is not there; begin with make exercise NAME=heads$")
    begin(exercise, tmp_path)
    refused(r"layers.py:\d+: split_heads has no body yet; write it in place of that line$")
    text = path.read_text()
    path.write_text(text.replace("def join_heads(x: Tensor) -> Tensor:", "def join_heads(x: Tensor -> Tensor:"))
    refused(r"layers.py:\d+: .*; mend that line, or one before it$")
    path.write_text(text.replace("def join_heads", "def joined"))
    refused("has no join_heads any more; make solution NAME=heads shows where it was$")
    path.write_bytes(text.encode() + b"\0")
    refused("NUL character; this is not a text file$")
    path.write_bytes(text.encode("utf-16"))
    refused("UTF-8")
    path.write_text(original(exercise))
    assert read_copy(exercise, tmp_path) == original(exercise)


def test_a_readers_work_is_kept_until_they_say_otherwise_and_then_under_another_name(tmp_path):
    exercise = BY_NAME["schedule"]
    begin(exercise, tmp_path)
    assert begin(exercise, tmp_path), "untouched: the lines once more"
    path = copy_of(exercise, tmp_path)
    path.write_text("my work")
    with pytest.raises(UserError, match="make check NAME=schedule looks at it, with AGAIN=1 you begin anew"):
        begin(exercise, tmp_path)
    assert path.read_text() == "my work"
    begin(exercise, tmp_path, again=True)
    assert "raise NotImplementedError" in path.read_text()
    path.write_text("my second work")
    begin(exercise, tmp_path, again=True)
    for number, work in ((1, "my work"), (2, "my second work")):
        assert (path.parent / f"before-{number}-optimizer.py").read_text() == work


@pytest.mark.slow
def test_a_copy_that_lacks_what_others_import_is_one_line(write, tmp_path):
    path = write("return torch.zeros(1)")
    path.write_text(path.read_text().replace("def dropout(", "def dropped("))
    with pytest.raises(
        UserError, match="cannot import name 'dropout' .*; make solution NAME=sinusoids shows what is miss"
    ):
        check(BY_NAME["sinusoids"], tmp_path)


def test_the_solution_is_a_difference_to_the_original(tmp_path):
    exercise = BY_NAME["schedule"]
    assert "+    rising = (step + 1) / max(1, warmup)" in solution(exercise, tmp_path)
    begin(exercise, tmp_path)
    assert "-    raise NotImplementedError" in solution(exercise, tmp_path)
    copy_of(exercise, tmp_path).write_text(original(exercise))
    assert solution(exercise, tmp_path).endswith("is kd_scratch/training/optimizer.py, letter for letter")


def test_the_command_lists_begins_and_complains_in_one_line(tmp_path, monkeypatch, capsys):
    for function in (workshop.listing, workshop.begin, workshop.check, workshop.solution):
        defaults = tuple(tmp_path if value == workshop.FOLDER else value for value in function.__defaults__)
        monkeypatch.setattr(function, "__defaults__", defaults)
    assert command.main(["exercise", "schedule"]) == 0 and command.main(["exercise"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("begun") == 1 and all(exercise.name in printed for exercise in EXERCISES)
    assert command.main(["solution", "schedule"]) == 0 and capsys.readouterr().out
    for argv, line in {
        ("check",): "NAME: is missing; make exercise lists the exercises, choose one of them",
        (
            "check",
            "atention",
        ): "NAME=atention: there is no such exercise; choose attention, if you mean that; make exercise lists them",
        ("exercise", "x"): "NAME=x: there is no such exercise; make exercise lists them",
    }.items():
        assert command.main(argv) == 2 and capsys.readouterr().err == f"error: {line}\n"


def test_make_calls_it_and_git_ignores_what_it_writes():
    for target in ("exercise", "check", "solution"):
        done = subprocess.run(["make", "-n", target, "NAME=heads"], cwd=ROOT, capture_output=True, text=True)
        assert f"-m tests.exercises {target} heads" in done.stdout
    assert "/exercises/" in (ROOT / ".gitignore").read_text().split("\n")
    done = subprocess.run(["make", "-n", "exercise", "NAME=heads", "AGAIN=1"], cwd=ROOT, capture_output=True, text=True)
    assert "tests.exercises exercise heads --again" in done.stdout
    machine = {**os.environ, "NAME": "my-machine"}  # WSL has it in every shell
    done = subprocess.run(["make", "-n", "exercise"], cwd=ROOT, env=machine, capture_output=True, text=True)
    assert "-m tests.exercises exercise" in done.stdout and "my-machine" not in done.stdout


def test_the_tests_that_the_readme_wants_are_there():
    page = (ROOT / "tests" / "exercises" / "README.md").read_text()
    changes = page.split("## Exercises of change")[1]
    assert changes.count("`tests/") >= 8 and len(re.findall(r"^\| (?:another|rotary|a |one)", changes, re.M)) == 6
    assert all((ROOT / path).exists() for path in re.findall(r"`(tests/[\w/.]+)`", changes))


def test_a_method_is_shown_with_what_decides_its_result():
    assert with_settings("split_heads", None) == "split_heads"
    head = SequenceHead(4, 2, 0.25, torch.tanh).eval()
    assert with_settings("SequenceHead.forward", head) == "SequenceHead(training=False, dropout=0.25).forward"
    embeddings = InputEmbeddings(8, 4, scale=2.0)
    shown = "InputEmbeddings(training=True, scale=2.0, token_type=None).forward"
    assert with_settings("InputEmbeddings.forward", embeddings) == shown


def test_numbers_of_another_precision_are_compared_by_their_values():
    expected = torch.tensor([1.0, 2.0])
    assert difference(expected, expected.double(), "result") is None
    wrong = difference(expected, torch.tensor([1.0, 3.0], dtype=torch.float64), "result")
    assert wrong["at"] == [1] and wrong["got"] == "2 float64: 3"
    assert difference(expected, expected.int(), "result")["got"] == "2 int32"
