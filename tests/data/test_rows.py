"""data/rows.py: examples that stay in their file; and the CSV reader that finds their places."""

import csv
import io
import random

import numpy as np
import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.common.text_file import open_text
from kd_scratch.config import DataConfig
from kd_scratch.data.rows import Concat, FileRows, Subset
from kd_scratch.data.tables import Layout, table_rows
from kd_scratch.tasks import TASKS

LETTERS = 'ab"",;\né🙂 \t'


def random_table(seed: int) -> tuple[list[list[str]], str]:
    """Rows of two fields that need every kind of quoting, and their CSV with line ends and blank lines of all kinds."""
    generator = random.Random(seed)
    rows, text = [], "\ufeff" if seed % 3 == 0 else ""
    for _ in range(generator.randint(1, 12)):
        row = ["".join(generator.choices(LETTERS, k=generator.randint(0, 8))) for _ in range(2)]
        end = generator.choice(["\n", "\r\n", "\n\n", "\r\n\r\n\n"])
        line = io.StringIO()
        csv.writer(line, lineterminator="", quoting=csv.QUOTE_ALL).writerow(["text", *row])
        rows.append(["text", *row])
        text += line.getvalue() + end
    return rows, text.rstrip("\r\n") if seed % 2 else text


@pytest.mark.parametrize("seed", range(60))
def test_rows_taken_from_the_file_one_by_one_are_those_of_a_whole_reading(tmp_path, seed):
    rows, text = random_table(seed)
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode())
    file = open_text(path)
    found = list(table_rows(file, Layout()))
    assert [row for _, _, row in found] == rows
    examples = FileRows(file, [(line, start) for line, start, _ in found], lambda line, text: (line, text))
    assert len(examples) == len(rows)
    for i in random.Random(seed).sample(range(len(rows)), len(rows)):  # in any order
        line, taken = examples[i]
        assert next(csv.reader(io.StringIO(taken, newline=""))) == rows[i]
        before = text.removeprefix("\ufeff").encode()[: found[i][1] - (3 if seed % 3 == 0 else 0)]
        assert line == before.count(b"\n") + 1


def test_a_csv_task_keeps_no_row_in_memory_and_parses_what_is_asked_for(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text("".join(f'"{i % 4 + 1}","title {i}","a ""text""\nof two lines {i}"\n' for i in range(500)))
    examples = TASKS["agnews"].read(path, "", DataConfig())
    assert isinstance(examples, FileRows) and len(examples) == 500
    assert examples[123].text == 'title 123 a "text"\nof two lines 123' and examples[123].id == "train.csv:247"
    assert examples[-1] == examples[499] == list(examples)[499]
    assert [e.text for e in examples[3:9:2]] == [examples[i].text for i in (3, 5, 7)]
    with pytest.raises(IndexError):
        examples[500]
    path.unlink()
    assert examples[0].text.endswith("lines 0"), "the open file outlives its name"


@pytest.mark.parametrize("change", ["cut", "shifted", "binary", "a quote left open"])
def test_a_table_that_is_changed_in_place_is_refused_and_does_not_end_early(tmp_path, change):
    path = tmp_path / "x.csv"
    text = "text,label\n" + "".join(f"é {i},l{i % 3}\n" for i in range(3000))
    path.write_text(text)
    rows = TASKS["csv"].read(path, "", DataConfig())
    changed = {"cut": text[: text.index("é 300,")], "shifted": f"x{text}", "binary": "\x80" * 90_000}
    changed["a quote left open"] = text.replace("é 3", '"é 3', 1)
    path.write_text(changed[change], "latin1" if change == "binary" else "utf-8")
    with pytest.raises(UserError, match=r"x\.csv: line \d+: is no longer what it was"):
        list(rows)


def test_chosen_and_joined_are_sequences_of_what_they_name():
    items = [10, 11, 12, 13, 14]
    some = Subset(items, np.array([4, 0, 2]))
    assert list(some) == [14, 10, 12] and some[-1] == 12 and list(some[1:]) == [10, 12] and len(some) == 3
    both = Concat(some, [7, 8])
    assert list(both) == [14, 10, 12, 7, 8] and both[-1] == 8 and list(both[2:4]) == [12, 7] and len(both) == 5
    for sequence, behind in ((some, 3), (both, 5)):
        with pytest.raises(IndexError):
            sequence[behind]


@pytest.mark.parametrize("text", ["a\nb", "a\r\nb\r\n", "é\rb\n\n", "\ufeffa\nb\n", "\ufeff", "a"])
def test_text_lines_are_the_lines_with_the_places_of_their_first_bytes(tmp_path, text):
    path = tmp_path / "x.txt"
    path.write_bytes(text.encode())
    lines = list(open_text(path).lines())
    assert "".join(line for _, line in lines) == text.removeprefix("\ufeff")
    for place, line in lines:
        assert text.encode()[place:].startswith(line.encode())
