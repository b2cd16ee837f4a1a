"""Which columns of a table, or fields of JSON, hold text and label: by the names in its header, or by number."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from kd_scratch.common.console import Say, shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.text_file import TextFile
from kd_scratch.config import DataConfig
from kd_scratch.data.tables import SAMPLE, Layout, table_rows

#: Columns that are read where a file has none of the usual name, and no other one was asked for.
SPARE = {"text": ("sentence",), "label": ("intent",)}


@dataclass(frozen=True)
class Columns:
    """Where text and label stand in the rows of a table."""

    text: tuple[int, ...]  # several: their texts are joined
    label: int | None  # None: there is none
    width: int  # of each row
    header: list[str] | None  # the first row, where it holds names


def same(name: str) -> str:
    """ " Text " -> "text": names of columns are compared without case and blanks around them."""
    return name.strip().casefold()


def named(names: Sequence[str], wanted: str) -> list[int]:
    """Which of the names are the wanted one: to the letter, else but for case and blanks, else a spare one."""
    exact = [i for i, name in enumerate(names) if name == wanted]
    alike = [i for i, name in enumerate(names) if same(name) == same(wanted)]
    spare = [i for i, name in enumerate(names) if same(name) in SPARE.get(wanted, ())]
    return exact or alike or spare


def is_number(name: str) -> bool:
    """Whether a column is chosen by its number."""
    return re.fullmatch("[0-9]{1,9}", name) is not None


def choose(names: Sequence[str], wanted: dict[str, str], place: str, say: Say, numbers: bool = True) -> list[int]:
    """The columns of a table, or fields of JSON, that the flags name. UserError where one of them names none, or more
    than one, or two the same. numbers: a column may be chosen by its number."""
    by_number = {flag for flag, name in wanted.items() if numbers and is_number(name)}
    found = {
        flag: [numbered(len(names), flag, name, place)] if flag in by_number else named(names, name)
        for flag, name in wanted.items()
    }
    unclear = [flag for flag in wanted if len(found[flag]) != 1]
    if unclear:
        known = ", ".join(shorten(name, 30) for name in names[:12])
        what = " and ".join(f"{len(found[flag])} columns are called {wanted[flag]!r}" for flag in unclear)
        raise UserError(
            f"{place}: {what} among {known}; choose one with {' and one with '.join(unclear)}, by its name or, in a "
            "table, by its number (1: the first; without a header give all as numbers)"
        )
    columns = [column for [column] in found.values()]
    if len(set(columns)) < len(columns):
        same_one = shorten(names[columns[0]], 30)
        raise UserError(f"{place}: text and label are both {same_one!r}; choose another one with --label-column")
    for flag, column in zip(wanted, columns, strict=True):
        if flag not in by_number and names[column] != wanted[flag]:
            what = flag.removeprefix("--").removesuffix("-column")
            say(f"{place}: {names[column]!r} is read as the {what} column")
    return columns


def numbered(width: int, flag: str, wanted: str, place: str) -> int:
    """The column of that number, from 0. UserError where there is none."""
    if not 1 <= int(wanted) <= width:
        raise UserError(f"{place}: {flag} {wanted}: there are {width} columns, the first is 1")
    return int(wanted) - 1


def wanted_columns(data: DataConfig, labelled: bool) -> dict[str, str]:
    """The flags that name a column, with what they name."""
    flags = {"--text-column": data.text_column, "--label-column": data.label_column}
    return flags if labelled else {"--text-column": data.text_column}


def find_columns(file: TextFile, layout: Layout, data: DataConfig, say: Say, labelled: bool = True) -> Columns:
    """The columns of text and label, by the names in the header or by number; and whether there is a header.

    By number, a table has a header where its first row looks like one (see looks_like_header), or --header
    knows.
    """
    wanted = wanted_columns(data, labelled)
    by_number = all(map(is_number, wanted.values()))
    rows = list(islice(table_rows(file, layout), SAMPLE if by_number else 1))
    line, _, first = rows[0] if rows else (1, 0, [])
    place = f"{file.path}: line {line}"
    if data.header == "no" and not by_number:
        raise UserError("--header no: then --text-column and --label-column must be numbers, 1 is the first")
    found = choose(first, wanted, place, say)
    label = found[1] if labelled else None
    header = not by_number or data.header == "yes"
    if by_number and data.header == "auto":
        cells = [row[label if labelled else found[0]].strip() for _, _, row in rows if len(row) == len(first)]
        header = looks_like_header(first, cells, labelled)
        what = "taken as the header" if header else "taken as data, not as a header"
        say(f"{place} is {what}: {', '.join(shorten(cell, 20) for cell in first[:6])}; --header yes or no decides it")
    return Columns((found[0],), label, len(first), first if header else None)


def looks_like_header(first: Sequence[str], cells: Sequence[str], labelled: bool) -> bool:
    """Whether the first row of a table holds names. cells: the label of each row, that of the first one first.

    It does where it has a usual name; and where its label is none of the others', though those repeat, or
    are numbers.
    """
    usual = {"text", "label", *SPARE["text"], *SPARE["label"]}
    if usual & set(map(same, first)):
        return True
    head, *others = cells
    if not labelled or not others or head in others:
        return False
    numbers = all(re.fullmatch(r"-?\d+", other, re.ASCII) for other in others)
    return (numbers and not re.fullmatch(r"-?\d+", head, re.ASCII)) or 2 * len(set(others)) <= len(others)
