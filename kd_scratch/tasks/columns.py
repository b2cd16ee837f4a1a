"""Which columns of a table, or fields of JSON, hold text and label: by the names in its header, or by number."""

import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from kd_scratch.common.console import Say, shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.text_file import TextFile
from kd_scratch.config import DataConfig
from kd_scratch.data.tables import SAMPLE, Layout, table_rows

#: Columns that are read where a file has none of the usual name, and no other one was asked for.
SPARE = {"text": ("sentence",), "label": ("intent", "gold_label", "is_duplicate", "quality", "labels")}
#: The same for the two texts of a pair, as they are called in GLUE, SNLI and the like.
PAIRS = (
    ("sentence1", "sentence2"),
    ("#1 string", "#2 string"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("premise", "hypothesis"),
)


@dataclass(frozen=True)
class Columns:
    """Where text and label stand in the rows of a table."""

    text: tuple[int, ...]  # several: their texts are joined, or make a pair
    labels: tuple[int, ...]  # several: columns of 0 and 1; none: there is no label
    width: int  # of each row
    header: list[str] | None  # the first row, where it holds names
    is_pair: bool = False

    @property
    def label(self) -> int | None:
        """The column of the label, or the first one of several; None: there is none."""
        return self.labels[0] if self.labels else None


def same(name: str) -> str:
    """ " Text " -> "text": names of columns are compared without case and blanks around them."""
    return name.strip().casefold()


def named(names: Sequence[str], wanted: str) -> list[int]:
    """Which of the names are the wanted one: to the letter, else but for case and blanks, else a spare one."""
    exact = [i for i, name in enumerate(names) if name == wanted]
    alike = [i for i, name in enumerate(names) if same(name) == same(wanted)]
    spare = ([i for i, name in enumerate(names) if same(name) == other] for other in SPARE.get(wanted, ()))
    return exact or alike or next(filter(None, spare), [])


def repeats(row: Sequence[str], header: Sequence[str]) -> bool:
    """Whether a row is the header once more; a single name, which may be a text, to the letter."""
    alike = len(row) == len(header) > 1 and all(map(lambda cell, name: same(cell) == same(name), row, header))
    return alike or row == header


def is_number(name: str) -> bool:
    """Whether a column is chosen by its number."""
    return re.fullmatch("[0-9]{1,9}", name) is not None


def meant(names: Sequence[str], asked: str) -> list[str]:
    """The columns that --text-column asks for: one, or two that make pairs, as in "premise,hypothesis".

    "text" is also a pair of usual names, where there is no such column. One column's name may hold a comma.
    """
    known = set(map(same, names))
    if same(asked) in known:
        return [asked]
    if asked == DataConfig.text_column:
        return next(([*pair] for pair in PAIRS if known.issuperset(pair)), [asked])
    return [part.strip() for part in asked.split(",")]


def choose(
    names: Sequence[str], data: DataConfig, labelled: bool, place: str, say: Say, numbers: bool = True
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The columns of a table, or fields of JSON, that the flags name: of one text or two, and of the labels.

    UserError where a flag names none, or too many, or two the same. numbers: one may be chosen by its number.
    """
    wanted = wanted_columns(names, data, labelled)
    by_number = {name for _, name in wanted if numbers and is_number(name)}
    found = [
        [numbered(len(names), flag, name, place)] if name in by_number else named(names, name) for flag, name in wanted
    ]
    unclear = [(*one, len(which)) for one, which in zip(wanted, found, strict=True) if len(which) != 1]
    if unclear:
        known = ", ".join(shorten(name, 30) for name in names[:12])
        what = " and ".join(f"{count} columns are called {name!r}" for _, name, count in unclear)
        flags = dict.fromkeys(flag for flag, _, _ in unclear)
        raise UserError(
            f"{place}: {what} among {known}; choose one with {' and one with '.join(flags)}, by its name or, in a "
            "table, by its number (1: the first; without a header give all as numbers)"
        )
    columns = [column for [column] in found]
    count = sum(flag == "--text-column" for flag, _ in wanted)
    texts, labels = tuple(columns[:count]), tuple(columns[count:])
    if len(texts) > 2:
        raise UserError(f"{place}: --text-column names {len(texts)} columns; give one, or two that make pairs")
    if len(set(texts)) < len(texts):
        raise UserError(f"{place}: both texts are {shorten(names[texts[0]], 30)!r}; choose two with --text-column")
    if shared := set(labels) & set(texts):
        same_one = shorten(names[shared.pop()], 30)
        raise UserError(f"{place}: text and label are both {same_one!r}; choose another one with --label-column")
    if len(set(labels)) < len(labels):
        raise UserError(f"{place}: --label-column names a column twice; name each once")
    usual = [names[i] for i in texts] if len(texts) > 1 and data.text_column == DataConfig.text_column else []
    if usual:
        say(f"{place}: {usual[0]!r} and {usual[1]!r} are read as pairs of texts")
    for (flag, name), column in zip(wanted, columns, strict=True):
        if name not in by_number and names[column] not in (name, *usual):
            what = flag.removeprefix("--").removesuffix("-column")
            say(f"{place}: {names[column]!r} is read as the {what} column")
    return texts, labels


def numbered(width: int, flag: str, wanted: str, place: str) -> int:
    """The column of that number, from 0. UserError where there is none."""
    if not 1 <= int(wanted) <= width:
        raise UserError(f"{place}: {flag} {wanted}: there are {width} columns, the first is 1")
    return int(wanted) - 1


def wanted_columns(names: Sequence[str], data: DataConfig, labelled: bool) -> list[tuple[str, str]]:
    """The columns that are to be found among these names: a flag and a name, for each."""
    texts = [("--text-column", name) for name in meant(names, data.text_column)]
    asked = data.label_column
    several = "," in asked and same(asked) not in map(same, names)
    labels = [part.strip() for part in asked.split(",")] if several else [asked]
    return [*texts, *(("--label-column", name) for name in labels if labelled)]


def like_cola(first: Sequence[str], data: DataConfig, place: str, say: Say) -> DataConfig:
    """The settings; where the first row looks like CoLA's (source, label, mark, sentence), those for its files."""
    is_usual = (data.text_column, data.label_column, data.header) == ("text", "label", "auto")
    if not is_usual or len(first) != 4 or first[1] not in ("0", "1") or first[2] not in ("", "*"):
        return data
    say(f"{place}: no header, columns as in CoLA: the second is the label, the fourth the text")
    return replace(data, text_column="4", label_column="2", header="no")


def find_columns(file: TextFile, layout: Layout, data: DataConfig, say: Say, labelled: bool = True) -> Columns:
    """The columns of text and label, by the names in the header or by number; and whether there is a header.

    By number, a table has a header where its first row looks like one (see looks_like_header), or --header
    knows.
    """
    line, _, first = next(table_rows(file, layout), (1, 0, []))
    place = f"{file.path}: line {line}"
    data = like_cola(first, data, place, say)
    by_number = all(is_number(name) for _, name in wanted_columns(first, data, labelled))
    if data.header == "no" and not by_number:
        raise UserError("--header no: then --text-column and --label-column must be numbers, 1 is the first")
    try:
        texts, labels = choose(first, data, labelled, place, say)
    except UserError as error:
        raise UserError(f"{error}{marks_advice(file, layout, first, data) if labelled else ''}") from None
    header = not by_number or data.header == "yes"
    if by_number and data.header == "auto":
        rows = [row for _, _, row in islice(table_rows(file, layout), SAMPLE) if len(row) == len(first)]
        cells = [row[(labels or texts)[0]].strip() for row in rows]
        header = looks_like_header(first, cells, labelled, first[texts[0]])
        what = "taken as the header" if header else "taken as data, not as a header"
        say(f"{place} is {what}: {', '.join(shorten(cell, 20) for cell in first[:6])}; --header yes or no decides it")
    return Columns(texts, labels, len(first), first if header else None, len(texts) > 1)


def marks_advice(file: TextFile, layout: Layout, names: list[str], data: DataConfig) -> str:
    """What to write where no column was chosen and several of a table hold 0 and 1 only, one a label; "" elsewhere."""
    is_header = len(set(names)) == len(names) and not any(map(is_number, names))
    if data.label_column != DataConfig.label_column or named(names, data.label_column) or not is_header:
        return ""
    rows = []
    with suppress(UserError):  # of a row further down; what is said is about the first
        rows = [row for _, _, row in islice(table_rows(file, layout), 1, SAMPLE) if len(row) == len(names)]
    cells = {name: {row[i].strip() for row in rows} for i, name in enumerate(names) if "," not in name}
    marked = [name for name, found in cells.items() if found and found <= {"0", "1"}]
    flags = f"--task labels --label-column {shlex.quote(','.join(marked))}"
    return f"; {len(marked)} of them hold 0 and 1: if each is a label, give {flags}" if len(marked) > 1 else ""


WORDS = 4  # of a column's name, at most


def looks_like_header(first: Sequence[str], cells: Sequence[str], labelled: bool, text: str = "") -> bool:
    """Whether the first row of a table holds names. cells: the label of each row, that of the first one first. text:
    that of the first row.

    It does where it has a usual name; where its label is none of the others', which are numbers; and where they repeat,
    and its text is no sentence.
    """
    usual, known = {"text", "label", *SPARE["text"], *SPARE["label"]}, set(map(same, first))
    if usual & known or any(known.issuperset(pair) for pair in PAIRS):
        return True
    head, *others = cells
    if not labelled or not others or head in others:
        return False
    numbers = all(re.fullmatch(r"-?\d+", other, re.ASCII) for other in others)
    if numbers and not re.fullmatch(r"-?\d+", head, re.ASCII):
        return True
    return len(text.split()) <= WORDS and 2 * len(set(others)) <= len(others)
