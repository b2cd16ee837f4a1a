"""Readers that keep their rows in the file: a bad row is found when the file is opened, not when the row is asked for.

A new format of such a reader is one entry in FORMATS.
"""

import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.rows import FileRows, text_rows
from kd_scratch.tasks import TASKS

#: format -> task, a good file, a bad row behind it, what is wrong with that
FORMATS = {
    "AG News": ("agnews", '"1","a","b"\n"2","c","d"\n', '"5","e","f"\n', "line 3: class '5' is not one of"),
    "CSV": ("csv", "text,label\na,good\n", "b,\n", "line 3: the label is empty"),
    "TSV": ("csv", "text\tlabel\na\tgood\n", "b\tbad\tc\n", "line 3: 3 columns instead of the header's 2"),
    "several labels": ("labels", "text,label\na,good;new\nb,\n", "c,x,y\n", "line 4: 3 columns instead"),
    "plain text": ("mlm", "one text\nanother\n", "x" * 1_000_001, "line 3: a text of 1,000,001 characters"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_bad_row_is_found_on_opening(tmp_path, name):
    task, good, bad, message = FORMATS[name]
    path = tmp_path / "rows.txt"
    path.write_text(good)
    assert isinstance(TASKS[task].read(path, "", DataConfig()), FileRows)
    path.write_text(good + bad)
    with pytest.raises(UserError, match=rf"rows\.txt: {message}"):
        TASKS[task].read(path, "", DataConfig())  # no row is asked for


def test_lines_are_checked_on_opening_but_where_any_line_will_do(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("a\n \t\nb\nbad\n")

    def make(line: int, text: str) -> tuple[int, str]:
        if text == "bad":
            raise UserError(f"{path}: line {line}: is bad")
        return line, text

    with pytest.raises(UserError, match=r"lines\.txt: line 4: is bad"):
        text_rows(path, str(path), make)
    rows = text_rows(path, str(path), make, check=False)
    assert list(rows[:2]) == [(1, "a"), (3, "b")]
