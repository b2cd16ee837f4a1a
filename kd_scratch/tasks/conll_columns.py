"""How a file of columns is written: what parts its columns, which one is the word, which the tag, which lines are none.

Decided once for a file, from its first line with a word, or its header:

    # sent_id = 1               a comment: in front of a sentence, and not as many columns as a word has
    1   EU        NNP   B-ORG   an index column: counts the words; the word is in the second column
    2   rejects   VBZ   O
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kd_scratch.common.console import Say
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig

#: Blanks of any kind, control characters, and characters without width, such as a byte-order mark.
INVISIBLE = "".join(
    map(chr, (*range(0x21), *range(0x7F, 0xA1), 0xAD, 0x1680, *range(0x2000, 0x2010), *range(0x2028, 0x2030)))
) + "\u205f\u2060\u2061\u2062\u2063\u2064\u3000\ufeff"
DOCSTART = re.compile(r"(\d+\s+)?\W{0,4}DOCSTART\b", re.IGNORECASE)
TAG_CELL = re.compile(r"O|[BIESLUMW][-_]\S+", re.IGNORECASE)
DELIMITERS = {",": "commas", ";": "semicolons"}
#: Names in a header.
WORD_NAMES = {"word", "words", "token", "tokens", "form", "text"}
TAG_NAMES = {"tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "ner-tag", "entity", "bio", "iob", "iob2"}
SENTENCE_NAMES = {"sentence", "sentence #", "sentence_id", "sentence_idx", "sentence id", "sent_id", "sent"}


@dataclass(frozen=True)
class Columns:
    """How the columns of a file are parted, and which is which (counted from 0)."""

    delimiter: str  # "": tabs or spaces
    tabs: bool
    count: int
    word: int = 0
    tag: int = -1
    sentence: int | None = None  # holds the sentence's number, or nothing where that goes on
    header: int = 0  # the header's line; 0: none

    def split(self, line: str) -> list[str]:
        """The cells of a line."""
        return split(line, self.delimiter)

    def is_comment(self, line: str, cells: list[str]) -> bool:
        """Whether a line in front of a sentence is none of its words: it begins with #, and does not look like one."""
        if line[:1] != "#" or not any(character in line for character in " \t"):
            return False
        alike = len(cells) == self.count and ("\t" in line) == self.tabs
        return not (alike and TAG_CELL.fullmatch(cells[self.tag]))


def split(self, line: str) -> list[str]:
        """The cells of a line."""
        return split(line, self.delimiter)


def split(line: str, delimiter: str) -> list[str]:
    """The cells of a line, which commas or semicolons part, or tabs where there are any, or spaces."""
    if delimiter:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error:  # a quote is a character
            cells = line.split(delimiter)
        return [cell.strip() for cell in cells]
    return [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line)


def tidy_lines(path: Path, text: str, counts: Counter[str]) -> list[str]:
    """The lines of a file, without blanks and invisible characters at their ends. counts: of what was removed.

    UserError where a carriage return stands inside a line.
    """
    lines = text.split("\n" if "\n" in text else "\r")
    for i, line in enumerate(lines):
        line = line.rstrip("\r").strip(" ")
        if "\r" in line:
            raise UserError(f"{path}: line {i + 1}: holds a carriage return; lines must end with LF, CRLF or CR alike")
        kept = line.rstrip(INVISIBLE)
        if kept != line.rstrip(" \t"):
            what = "behind a word's columns, left out" if kept.strip(INVISIBLE) else "alone on a line, read as a blank one"
            counts[f"invisible characters {what}"] += 1
        if kept.startswith("\ufeff") and kept.lstrip("\ufeff")[0] not in " \t":
            counts["byte-order marks in front of a word, left out"] += 1
            kept = kept.lstrip("\ufeff")
        lines[i] = kept
    return lines


def word_lines(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that may hold a word."""
    return ((i, line) for i, line in enumerate(lines, 1) if line and not DOCSTART.match(line))


def find_columns(path: Path, lines: Sequence[str], data: DataConfig, say: Say) -> Columns:
    """How this file is written. UserError where it has no column that was chosen."""
    number, first = next(((i, line) for i, line in word_lines(lines) if line[0] != "#"), (0, ""))
    if not number:
        number, first = next(word_lines(lines), (0, ""))
    delimiter = find_delimiter(first)
    cells = split(first, delimiter)
    names = [cell.casefold() for cell in cells]
    word = named(names, data.text_column, WORD_NAMES)
    tag = named(names[::-1], data.label_column, TAG_NAMES)
    columns = Columns(delimiter, "\t" in first, len(cells))
    if word is not None and tag is not None and len(cells) > 1:
        columns = replace(columns, word=word, tag=len(cells) - 1 - tag, header=number)
        columns = replace(columns, sentence=named(names, None, SENTENCE_NAMES))
    elif len(cells) > 2 and data.text_column == DataConfig.text_column and counts_words(lines, columns):
        columns = replace(columns, word=1)
    columns = replace(
        columns,
        word=chosen(columns.word, columns, "--text-column", data.text_column, DataConfig.text_column, f"{path}: line {number}"),
        tag=chosen(columns.tag, columns, "--label-column", data.label_column, DataConfig.label_column, f"{path}: line {number}"),
    )
    tell(path, columns, cells, say)
    return columns


def named(names: Sequence[str], wanted: str | None, usual: set[str]) -> int | None:
    """The first column with the wanted name, else with one of the usual ones; None: there is none."""
    lower = (wanted or "").casefold()
    if lower in names:
        return names.index(lower)
    return next((i for i, name in enumerate(names) if name in usual), None)


def chosen(found: int, columns: Columns, flag: str, value: str, default: str, place: str) -> int:
    """The column that a flag names by its number; the one that was found where the flag names none."""
    if value.isdecimal() and value.isascii() and not columns.header:
        if not 1 <= int(value[:9]) <= columns.count:
            raise UserError(f"{place}: has {columns.count} columns; {flag} {value[:20]}: choose one of them by its number")
        return int(value) - 1
    if value != default and not columns.header:
        raise UserError(f"{place}: no column is called {value[:40]!r}; choose one by its number, as in {flag} 2")
    return found


def tell(path: Path, columns: Columns, cells: Sequence[str], say: Say) -> None:
    """Say what is not as usual about the columns."""
    told = []
    if columns.delimiter:
        told.append(f"columns are parted by {DELIMITERS[columns.delimiter]}")
    if columns.header:
        told.append(f"line {columns.header} is a header; words are in column {cells[columns.word]!r}")
        told.append(f"tags in {cells[columns.tag]!r}")
    elif columns.word == 1:
        told.append(f"column 1 counts the words, column 2 holds them, column {columns.tag % columns.count + 1} the tags")
    if columns.sentence is not None:
        told.append(f"a new {cells[columns.sentence]!r} begins a sentence")
    if told:
        say(f"{path}: {', '.join(told)}")


def find_delimiter(first: str) -> str:
    """What parts the columns: a comma or semicolon; "" for tabs or spaces."""
    if "\t" in first or TAG_CELL.fullmatch(first.split(" ")[-1]):
        return ""
    for delimiter in DELIMITERS:
        cells = split(first, delimiter)
        names = [cell.casefold() for cell in cells]
        if any(map(TAG_CELL.fullmatch, cells[1:])) or (WORD_NAMES.intersection(names) and TAG_NAMES.intersection(names)):
            return delimiter
    return ""


def counts_words(lines: Sequence[str], columns: Columns) -> bool:
    """Whether the first column counts the words, of each sentence or of the file: 1, 2, 3, … without a gap."""
    words, last, inside = 0, None, False
    for line in lines:
        cells = columns.split(line)
        if not line or DOCSTART.match(line) or (not inside and columns.is_comment(line, cells)):
            inside = False
            continue
        if not (cells[0].isdecimal() and len(cells[0]) < 10):
            return False
        number = int(cells[0])
        if last is not None and number != last + 1 and (inside or number > 1):
            return False
        words, last, inside = words + 1, number, True
    return words > 1
