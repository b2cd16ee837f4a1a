"""common/console.py: tables, progress bars, colours, and what --quiet leaves out."""

import io
import re
import subprocess
import sys

import pytest

from kd_scratch.common import console
from kd_scratch.common.console import coloured, duration, progress, say, shorten, show, table
from tests.conftest import ROOT


def test_a_table_is_aligned_and_says_what_is_missing():
    rows = [("teacher", 22770966, 0.95844), ("a", 7, None), ("b", 1, 1234.56)]
    assert table(("model", "size", "score"), rows).split("\n") == [
        "model          size    score",
        "-------  ----------  -------",
        "teacher  22,770,966   0.9584",
        "a                 7        -",
        "b                 1  1,234.6",
    ]
    assert table(("a|b",), [("c|d",)], markdown=True).split("\n")[::2] == [r"| a\|b |", r"| c\|d |"]
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


@pytest.mark.slow
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
