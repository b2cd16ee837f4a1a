"""runtime.py and console.py: devices, seeds, precision; tables and progress bars."""

import io
import os
import random
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from kd_scratch.common import console
from kd_scratch.common.console import coloured, duration, progress, say, shorten, show, table
from kd_scratch.common.device import amp_dtype, autocast, describe, pick_device, seed_everything, start
from kd_scratch.common.errors import UserError
from kd_scratch.config import RunConfig
from tests.conftest import ROOT

CPU = torch.device("cpu")


def test_a_seed_fixes_all_three_generators():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux alone reports memory there")
def test_bfloat16_products_of_many_shapes_do_not_fill_the_memory():
    """oneDNN and PyTorch keep what they compile for a shape; by default 500 more took 330 MB here."""
    code = """
import re
import kd_scratch
import torch
def megabytes():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
weight = torch.randn(384, 384, dtype=torch.bfloat16)
def many(first, last):
    for rows in range(first, last):
        torch.nn.functional.linear(torch.zeros(rows, 384, dtype=torch.bfloat16), weight)
    return megabytes()
before = many(1, 101)
print(many(101, 601) - before)
"""
    plain = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True, timeout=120
    )
    assert float(done.stdout) < 50, done.stderr


def test_auto_takes_the_best_device_there_is(monkeypatch):
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert pick_device("auto").type == expected
        assert pick_device("cpu").type == "cpu"


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: PyTorch finds no such device"):
        pick_device("cuda")


def test_start_sets_the_thread_count():
    before = torch.get_num_threads()
    try:
        assert start(**vars(RunConfig(device="cpu", threads=2))) == CPU
        assert torch.get_num_threads() == 2 == describe(CPU)["threads"]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("field", ["seed", "threads"])
def test_negative_seeds_and_threads_are_refused(field):
    with pytest.raises(UserError, match="must be 0 or more"):
        start(**vars(RunConfig(**{field: -1})))


def test_precision_follows_the_choice_and_the_device():
    assert amp_dtype("auto", CPU) is None
    assert amp_dtype("off", CPU) is None
    assert amp_dtype("bf16", CPU) == torch.bfloat16
    with pytest.raises(UserError, match="needs a CUDA device"):
        amp_dtype("fp16", CPU)
    x = torch.ones(2, 2)
    for dtype, expected in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        with autocast(CPU, dtype):
            assert (x @ x).dtype == expected


def test_a_table_is_aligned_and_says_what_is_missing():
    rows = [("teacher", 22770966, 0.95844), ("a", 7, None), ("b", 1, 1234.56)]
    assert table(("model", "size", "score"), rows).split("\n") == [
        "model          size    score",
        "-------  ----------  -------",
        "teacher  22,770,966   0.9584",
        "a                 7        -",
        "b                 1  1,234.6",
    ]
    assert table(("model", "size"), rows[:0], markdown=True).split("\n") == ["| model | size |", "| ----- | ---: |"]


def test_short_work_shows_no_progress_bar(capsys):
    assert list(progress([1, 2, 3], desc="counting")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")


def test_progress_bars_go_to_stderr_and_leave_stdout_alone(capsys):
    assert list(progress([1, 2, 3], desc="counting", delay=0)) == [1, 2, 3]
    out, err = capsys.readouterr()
    assert out == "" and "counting" in err


def test_durations_are_as_exact_as_an_estimate_is():
    assert [duration(s) for s in (0.4, 42, 99.4, 100, 3600, 5990, 11_100)] == [
        "0 s", "42 s", "99 s", "2 min", "60 min", "1 h 40 min", "3 h 05 min",
    ]  # fmt: skip


def test_what_a_table_shows_cannot_command_the_terminal():
    assert "\x1b" not in table(("label",), [("a\x1b[2Jb\n",)]) and shorten("a\x1b[2J  b\n", 40) == r"a\x1b[2J b"


def test_a_process_killed_while_it_draws_a_bar_stops_no_other():
    """tqdm's own lock is shared with forked processes, so that it would stay locked for the others."""
    code = (
        "import os, signal, sys\n"
        "from tqdm import tqdm\n"
        "from kd_scratch.common.console import progress\n"
        "lock = tqdm.get_lock()\n"
        "if (child := os.fork()) == 0:\n"
        "    lock.acquire()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "os.waitpid(child, 0)\n"
        "print(sum(progress(range(3), delay=0)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "3\n", done.stderr


def test_a_wide_table_goes_on_below_under_its_first_column():
    header = ("model", *(f"measure {i}" for i in range(12)))
    rows = [(name, *(float(i) for i in range(12))) for name in ("teacher", "student")]
    blocks = table(header, rows).split("\n\n")
    assert len(blocks) == 2 and all(len(line) <= 80 for block in blocks for line in block.split("\n"))
    assert [block.split("\n")[2].split()[0] for block in blocks] == ["teacher", "teacher"]
    columns = [name for block in blocks for name in re.findall(r"measure \d+", block.split("\n")[0])]
    assert columns == list(header[1:]), "each column once, in their order"
    assert len(table(header, rows, markdown=True).split("\n")) == 4


def test_one_column_that_is_too_wide_stays_whole():
    assert table(("a", "b"), [("x" * 90, 1), ("y", 2)]).split("\n")[2] == "x" * 90 + "  1"


def test_the_last_of_columns_that_are_flush_left_is_wrapped():
    lines = table(("what", "found"), [("labels", "word " * 40), ("rows", "3")], left=True).split("\n")
    assert all(len(line) <= 80 for line in lines) and lines[2].startswith("labels  word")
    assert lines[3].startswith(" " * 8 + "word") and lines[-1] == "rows    3"
    assert sum(line.count("word") for line in lines) == 40


class Terminal(io.StringIO):
    """A text stream whose isatty() is true."""

    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_that_want_them(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured("error:", console.RED, io.StringIO()) == "error:"
    assert coloured("error:", console.RED, Terminal()) == "\x1b[31merror:\x1b[0m"
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as context:
            context.setenv(name, value)
            assert coloured("error:", console.RED, Terminal()) == "error:"


def test_headers_are_bold_on_a_terminal_and_notes_are_marked(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", terminal := Terminal())
    show("before\n" + table(("a", "b"), [("x", 1)]))
    say("note: something")
    assert terminal.getvalue() == "before\n\x1b[1ma  b\x1b[0m\n-  -\nx  1\n\x1b[33mnote:\x1b[0m something\n"


def test_hush_leaves_results_alone(capsys):
    console.hush()
    try:
        say("on the way")
        show("the result")
        list(progress([1], desc="counting", delay=0))
    finally:
        console.hush(False)
    say("heard")
    out, err = capsys.readouterr()
    assert out == "the result\nheard\n" and err == ""
