"""AG News (Zhang et al. 2015): a table of class, title and description, or of text and label; or JSON lines."""

import re
from collections.abc import Sequence
from pathlib import Path

from kd_scratch.common.console import Say, say, shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.text_file import TextFile, open_text
from kd_scratch.config import DataConfig
from kd_scratch.data.tables import Layout, table_rows
from kd_scratch.tasks.columns import Columns, find_columns, is_number, named, wanted_columns
from kd_scratch.tasks.file_checks import bare
from kd_scratch.tasks.text_files import Example, example_of_row, is_json_lines, read_rows

AGNEWS_LABELS = ("World", "Sports", "Business", "Sci/Tech")  # classes 1 to 4
NAMES = {bare(name): name for name in AGNEWS_LABELS}


def read_agnews(path: Path, split: str, data: DataConfig, say: Say = say) -> Sequence[Example]:
    """AG News: class 1-4, title, description, without a header or with one; or a table or JSON lines of text and label.

    Classes may be numbers from 1, numbers from 0 (where one is 0), or names; UserError where JSON leaves that open. A
    bare backslash stands for a line break in the source; it becomes a space. (Replacing the two characters backslash
    and n instead would eat the first letter of the words that happen to follow one: "\\network", "\\not".)
    """
    first_line: dict[str, int] = {}  # by class
    lowest = 1

    def make(line: int, text: str, label: str, pair: str | None) -> Example:
        first_line.setdefault(label, line)
        name = NAMES.get(bare(label))
        if label in ("0", "1", "2", "3", "4"):
            name = AGNEWS_LABELS[(int(label) - lowest) % 4]
        if name is None:
            raise UserError(f"{path}: line {line}: class {label[:40]!r} is not one of 1, 2, 3, 4, nor a name")
        return example_of_row(path, line, without_backslashes(text), name, pair)

    file = open_text(path, data.encoding, say)
    rows = read_rows(file, data, say, make, columns=agnews_columns)
    if is_json_lines(file) and first_line and first_line.keys() <= {"1", "2", "3"}:
        raise UserError(f"{path}: classes 1 to 3 alone may be of 1 to 4 or of 0 to 3; write names, as in World")
    if "0" in first_line:
        if "4" in first_line:
            raise UserError(
                f"{path}: line {first_line['4']}: class 4, though line {first_line['0']} has class 0; they are 1 to 4, "
                "or 0 to 3"
            )
        lowest = 0
        say(f"{path}: classes are 0 to 3, read as {', '.join(AGNEWS_LABELS)}")
    return rows


def without_backslashes(text: str) -> str:
    """A text of AG News with blanks for the backslashes that stand for line breaks."""
    return text.replace("\\", " ").strip()


def agnews_columns(file: TextFile, layout: Layout, data: DataConfig, say: Say, labelled: bool = True) -> Columns:
    """The three of the official file; or those that are chosen, or named in the header."""
    line, _, first = next(table_rows(file, layout), (1, 0, []))
    wanted = [name for _, name in wanted_columns(first, data, labelled)]
    if all(named(first, name) or is_number(name) for name in wanted):
        return find_columns(file, layout, data, say, labelled)
    if len(first) != 3:
        raise UserError(
            f"{file.path}: line {line}: {len(first)} columns instead of 3 (class, title, description), and none called "
            f"{' and '.join(wanted)}; choose them with --text-column and --label-column"
        )
    header = data.header == "yes" or (
        data.header == "auto" and bare(first[0]) not in NAMES and re.search("[A-Za-z]", first[0]) is not None
    )
    if header:
        say(f"{file.path}: line {line} is the header: {', '.join(shorten(cell, 20) for cell in first)}")
    return Columns((1, 2), (0,), 3, first if header else None)
