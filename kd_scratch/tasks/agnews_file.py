"""AG News (Zhang et al. 2015): a table of class, title and description, or of text and label; or JSON lines."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from kd_scratch.common.console import Say, say, shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.text_file import TextFile
from kd_scratch.config import DataConfig
from kd_scratch.data.json_lines import find_object, open_rows
from kd_scratch.data.tables import SAMPLE, Layout, table_rows
from kd_scratch.tasks.columns import Columns, find_columns, is_number, named, numbered, same, wanted_columns
from kd_scratch.tasks.file_checks import bare
from kd_scratch.tasks.text_files import Example, example_of_row, read_rows
from kd_scratch.tasks.unlabelled_file import AGNEWS_TEXTS

AGNEWS_LABELS = ("World", "Sports", "Business", "Sci/Tech")  # classes 1 to 4
NAMES = {bare(name): name for name in AGNEWS_LABELS}
CLASS = "class index"  # the name of their column


def read_agnews(path: Path, split: str, data: DataConfig, say: Say = say) -> Sequence[Example]:
    """AG News: class 1-4, title, description, without a header or with one; or a table or JSON lines of text and label.

    Classes may be numbers from 1, numbers from 0 (where one is 0), or names; UserError where a file that is not of the
    official form leaves that open. A bare backslash stands for a line break in the source; it becomes a space.
    (Replacing the two characters backslash and n instead would eat the first letter of the words that happen to follow
    one: "\\network", "\\not".)
    """
    file = open_rows(path, data.encoding, say)
    first_line: dict[str, int] = {}  # by class
    lowest, official = 1, False
    asked, data = data, of_json(file, data, say)

    def find(*arguments) -> Columns:
        nonlocal official
        found = agnews_columns(*arguments)
        official = is_official(found)
        return found

    def make(line: int, text: str, label: str, pair: str | None) -> Example:
        number = label.removesuffix(".0")  # pandas writes whole numbers so where one of the column is missing
        first_line.setdefault(number, line)
        name = NAMES.get(bare(label))
        if number in ("0", "1", "2", "3", "4"):
            name = AGNEWS_LABELS[(int(number) - lowest) % 4]
        if name is None:
            raise UserError(f"{path}: line {line}: class {label[:40]!r} is not one of 1, 2, 3, 4, nor a name")
        if pair is not None and data is not asked:
            text, pair = f"{text} {pair}".strip(), None
        return example_of_row(path, line, without_backslashes(text), name, pair)

    rows = read_rows(file, data, say, make, columns=find)
    if not official and first_line and first_line.keys() <= {"1", "2", "3"}:
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


def of_json(file: TextFile, data: DataConfig, say: Say) -> DataConfig:
    """The settings; where JSON lines have title and description, those that read both, as of tables."""
    names = list(find_object(file.first_line()) or {})
    is_usual = data.text_column == DataConfig.text_column and not named(names, data.text_column)
    if not is_usual or not all(named(names, name) for name in AGNEWS_TEXTS):
        return data
    say(f"{file.path}: {' and '.join(AGNEWS_TEXTS)} are read as one text")
    label = data.label_column if named(names, data.label_column) else CLASS
    return replace(data, text_column=",".join(AGNEWS_TEXTS), label_column=label)


def without_backslashes(text: str) -> str:
    """A text of AG News with blanks for the backslashes that stand for line breaks."""
    return text.replace("\\", " ").strip()


def is_official(columns: Columns) -> bool:
    """Whether a table is the official one, whose classes are 1 to 4: it has no header, or begins with Class Index."""
    joined = len(columns.text) == 2 and not columns.is_pair
    return joined and (columns.header is None or same(columns.header[columns.labels[0]]) == CLASS)


def agnews_columns(file: TextFile, layout: Layout, data: DataConfig, say: Say, labelled: bool = True) -> Columns:
    """Those that are chosen, or named in the header, title and description as one text; or the official file's three.

    UserError where there are none of these: also where no label is wanted, and the first of three holds no classes.
    """
    line, _, first = next(table_rows(file, layout), (1, 0, []))
    wanted = wanted_columns(first, data, labelled)
    if all(named(first, name) or is_number(name) for _, name in wanted):
        return find_columns(file, layout, data, say, labelled)
    texts = [i for name in AGNEWS_TEXTS for i in named(first, name)]
    labels = named(first, data.label_column) or named(first, CLASS)
    if is_number(data.label_column):
        labels = [numbered(len(first), "--label-column", data.label_column, f"{file.path}: line {line}")]
    if data.text_column == DataConfig.text_column and len(texts) == 2 and (len(labels) == 1 or not labelled):
        say(f"{file.path}: line {line} is the header: title and description are read as one text")
        return Columns(tuple(texts), tuple(labels) if labelled else (), len(first), first)
    cells = [bare(row[0]) for _, _, row in islice(table_rows(file, layout), SAMPLE)]
    classes = [cell for cell in cells if cell in ("1", "2", "3", "4") or cell in NAMES]
    if len(first) != 3 or (not labelled and 2 * len(classes) < len(cells)):
        what = "the first of three columns holds no classes of AG News"
        if len(first) != 3:
            what = f"{len(first)} columns instead of 3 (class, title, description)"
        flags = " and ".join(dict.fromkeys(flag for flag, _ in wanted))
        raise UserError(
            f"{file.path}: line {line}: {what}, and none called "
            f"{' and '.join(name for _, name in wanted)}; choose with {flags}"
        )
    header = data.header == "yes" or (
        data.header == "auto" and bare(first[0]) not in NAMES and re.search("[A-Za-z]", first[0]) is not None
    )
    if header:
        say(f"{file.path}: line {line} is the header: {', '.join(shorten(cell, 20) for cell in first)}")
    return Columns((1, 2), (0,), 3, first if header else None)
