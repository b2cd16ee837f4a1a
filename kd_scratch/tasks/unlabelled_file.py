"""Where the texts stand in a table or JSON lines without labels, which may name its columns otherwise than --train."""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from kd_scratch.common.console import Say, shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.text_file import TextFile
from kd_scratch.config import DataConfig
from kd_scratch.data.json_lines import parse_line, refuse_array
from kd_scratch.data.tables import SAMPLE, find_layout, table_rows
from kd_scratch.tasks.columns import is_number, like_cola, looks_like_header, meant, named

AGNEWS_TEXTS = ("title", "description")  # columns of AG News, which make one text


def settings_for_texts(
    file: TextFile, data: DataConfig, is_table: bool, say: Say, pairs: bool = False, by_flag: bool = False
) -> DataConfig:
    """The settings with the text column of this file: that of --train, one of a usual name, the only one, or the only
    one that holds texts; for pairs the two columns. UserError where there is none of these.

    by_flag: --text-column is of this file, not of --train.
    """
    count, asked = 1 + pairs, dict.fromkeys((data.text_column, DataConfig.text_column))
    names, rows = sample_of_table(file, asked) if is_table else sample_of_json(file)
    if not is_table and not names:
        refuse_array(file)
        for i, (_, text) in enumerate(file.lines(), 1):
            if text.strip():
                parse_line(text, i, str(file.path))
    if not any(str(cell).strip() for row in (names, *rows) for cell in row):
        raise UserError(f"{file.path}: holds nothing but blank lines; give one text a line")
    data = like_cola(names, data, f"{file.path}: line 1", say) if is_table else data
    is_usual = (data.text_column, data.header) == ("text", "auto")
    if is_table and not pairs and is_usual and like_agnews([names, *rows]):
        say(f"{file.path}: no header, columns as in AG News: the second and the third are the text")
        return replace(data, text_column="2,3", header="no")
    numbers = meant(names, data.text_column)
    by_number = is_table and all(map(is_number, numbers))
    header = is_table and (data.header == "yes" or (data.header == "auto" and holds_names(names, rows)))
    guess = ""
    if header and data.header == "auto" and not looks_like_header(names, names[:1], labelled=False):
        guess = "; line 1 is taken as the header; put one above it if it is a text"
    if by_number and len(numbers) == count and max(map(int, numbers)) <= len(names):
        taken = guess or f"; line 1 is taken as {'the header' if header else 'data'}"
        say(f"{file.path}: texts are those of column {data.text_column}{taken}")
        return replace(data, header="yes" if header else "no")
    for wanted in (meant(names, name) for name in asked):
        if len(wanted) == count and all(named(names, name) for name in wanted):
            say(f"{file.path}: texts are those of {' and '.join(map(repr, wanted))}")
            return replace(data, text_column=",".join(wanted), header="auto")
    by_default = data.text_column == DataConfig.text_column and data.header != "no" and not pairs
    if by_default and all(named(names, name) for name in AGNEWS_TEXTS):
        say(f"{file.path}: {' and '.join(AGNEWS_TEXTS)} are read as one text")
        return replace(data, text_column=",".join(AGNEWS_TEXTS))
    found = [i for i in range(len(names)) if holds_texts([row[i] for row in rows])] if header or not is_table else []
    is_all = len(names) == count and not (pairs and named(names, data.label_column))
    if is_all or len(found) == count:
        found = found if len(found) == count else range(count)
        what = " and ".join(repr(shorten(names[i], 30)) for i in found)
        if is_table and not header:
            what = "the only column, line 1 among them" if count == 1 else "the two columns, line 1 among them"
        say(f"{file.path}: texts are those of {what}{guess}")
        if is_table:
            numbers = ",".join(str(i + 1) for i in found)
            return replace(data, text_column=numbers, header="yes" if header else "no")
        return replace(data, text_column=",".join(names[i] for i in found))
    known = ", ".join(shorten(name, 30) for name in names[:12])
    if pairs:
        raise UserError(
            f"{file.path}: line 1: which two of these are the pairs' texts, {known}? Write sentence1 and sentence2 for "
            "their names"
        )
    name = "text" if by_number else data.text_column
    cure = f"Write {name} for its name"
    if is_table and not header:
        cure = f"Put a line of names above, one of them {name}"
    if by_flag:
        cure = "Choose with --text-column, two for a model of pairs"
    raise UserError(
        f"{file.path}: line 1: which of these are the texts, {known}? {cure}; "
        "or put each text on a line of a file called .txt"
    )


def like_agnews(rows: Sequence[Sequence[str]]) -> bool:
    """Whether these are rows as of AG News' official files: class, title, description."""
    if not all(len(row) == 3 and row[0] in ("1", "2", "3", "4") for row in rows):
        return False
    classes, titles, texts = zip(*rows, strict=True)
    return len(set(classes)) < len(classes) and holds_texts(titles) and holds_texts(texts)


def sample_of_table(file: TextFile, asked: Iterable[str]) -> tuple[list[str], list[list]]:
    """The first row of a table, and some others of its width."""

    def is_header(row: Sequence[str]) -> bool:
        return any(named(row, meant(row, name)[-1]) for name in asked)

    layout = find_layout(file, is_header, 1, lambda line: None)
    rows = [row for _, _, row in islice(table_rows(file, layout), SAMPLE)] or [[]]
    return rows[0], [row for row in rows[1:] if len(row) == len(rows[0])]


def sample_of_json(file: TextFile) -> tuple[list[str], list[list]]:
    """The fields of the first object, and what some others hold in them."""
    objects = []
    for _, line in islice(file.lines(), SAMPLE):
        with suppress(ValueError, RecursionError):
            if isinstance(value := json.loads(line), dict):
                objects.append(value)
    names = list(objects[0]) if objects else []
    return names, [[value.get(name) for name in names] for value in objects]


def holds_texts(cells: Sequence[object]) -> bool:
    """Whether most cells are strings of several words."""
    return 2 * sum(isinstance(cell, str) and len(cell.split()) > 1 for cell in cells) > len(cells)


def holds_names(first: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether the first row of a table holds names: usual ones; or of several columns one has one word over
    texts, or letters over numbers. (A word over a single column may be the first of the texts.)"""
    is_usual = looks_like_header(first, first[:1], labelled=False)
    if is_usual or len(first) == 1:
        return is_usual
    columns = zip(first, zip(*rows, strict=True), strict=True) if rows else ()
    return any(
        len(head.split()) == 1
        if holds_texts(cells)
        else not any(map(str.isdecimal, head)) and all(any(map(str.isdecimal, cell)) for cell in cells)
        for head, cells in columns
    )
