"""How a file of columns is written: what parts them, which is the word, which the tag, which lines are none.

Decided once for a file, from its first line with a word, or its header:

    # sent_id = 1               a comment: not as many columns as a word has
    1   EU        NNP   B-ORG   an index column: numbers the words; the word is in the second column
    2   rejects   VBZ   O
"""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from kd_scratch.common.console import Say
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.tables import SAMPLE, EnclosingQuotes, unquoted

#: Blanks of any kind, control characters, and characters without width, such as a byte-order mark.
INVISIBLE = "".join(map(chr, (*range(33), *range(127, 161), *range(0x2000, 0x2010), *range(0x2028, 0x2030))))
INVISIBLE += "\u00ad\u1680\u205f\u2060\u2061\u2062\u2063\u2064\u3000\ufeff"
DOCSTART = re.compile(r"((\d+\s+)?\W{0,4}DOCSTART\W{0,4}|###MEDLINE:\d+)([\s,;]|$)", re.IGNORECASE)  # and JNLPBA's
#: Types of chunks, which CoNLL-2003 has in its third column (Tjong Kim Sang & Buchholz 2000): no entities.
CHUNKS = frozenset("ADJP ADVP CONJP INTJ LST NP PP PRT SBAR UCP VP".split())
TAG_CELL = re.compile(r"(?i:O|[BIESLUMW]([-_]\S+)?)|[^\W\d][^\s,;]*[-_][BIESLUMW]")  # B-PER, b_per, PER-B
NO_TAG = re.compile("[-_*]+")  # what stands where a tag would be
NAME_CELL = re.compile(r"[A-Z]*[a-z][\w #.]*")  # a column's; PER may be a tag that is wrong
JOINED_CELL = re.compile(r"\d+[-.]\d+")  # of CoNLL-U: 2-3, a token of several words; 2.1, of none
ID_CELL = re.compile(r"([^\W\d_]{0,12}[-._:/#]?\d{1,9})([-._:/#]+[^\W\d_]{0,12}\d{1,9})*")  # 12, 1-2, 1.2, s1-t2, 0-4
DELIMITERS = {",": "commas", ";": "semicolons"}
#: Names in a header.
WORD_NAMES = {"word", "words", "token", "tokens", "form", "text"}
TAG_NAMES = {"tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "entity", "bio", "iob"}
SENTENCE_NAMES = {"sentence", "sentence #", "sentence_id", "sentence_idx", "sentence id", "sent_id", "sent"}
DOCUMENT_NAMES = {"doc", "doc_id", "doc id", "document", "document #", "document_id", "document id"}


class Choice(NamedTuple):
    """A column, as a flag chooses it: by its name in a header, or by its number."""

    flag: str
    value: str
    default: str
    usual: set[str]  # names that are understood where none is chosen

    @property
    def number(self) -> int:
        """Counted from 1; 0: the flag has none."""
        return int(self.value[:9]) if self.value.isascii() and self.value.isdecimal() else 0

    def named(self, names: Sequence[str]) -> list[int]:
        """The columns of the chosen name, or of a usual one where none is chosen."""
        exact = [i for i, name in enumerate(names) if name == self.value.casefold()]
        usual = [i for i, name in enumerate(names) if name in self.usual]
        return exact or (usual if self.number or self.value == self.default else [])

    def column(self, found: int, count: int, place: str) -> int:
        """The column of the chosen number, else the one that was found. UserError where there is none."""
        if self.number > count:
            raise UserError(
                f"{place}: has {count} columns; {self.flag} {self.value[:20]}: choose one from 1 to {count}"
            )
        return self.number - 1 if self.number else found


@dataclass(frozen=True)
class Columns:
    """How the columns of a file are parted, and which is which (counted from 0)."""

    delimiter: str  # "": tabs or spaces
    quotes: bool  # of tabs or spaces: they enclose cells, as in CSV
    tabs: bool  # in the first line
    count: int
    tag: int
    word: int = 0
    sentence: int | None = None  # holds the sentence's number, or nothing where that goes on
    document: int | None = None  # the same of the document, in each of which sentences may be numbered anew
    header: int = 0  # the header's line; 0: none
    tags: frozenset[str] = frozenset()  # of the lines that do not begin with #, where others do
    signs: bool = False  # a word begins with #
    words_alone: bool = False  # there are no tags
    joined: bool = False  # column 1 numbers the words, and there are JOINED_CELLs among the numbers

    def split(self, line: str) -> list[str]:
        """The cells of a line."""
        return split(line, self.delimiter, self.quotes)

    def sentence_of(self, line: str, last: tuple[str, str]) -> tuple[str, str]:
        """Document and number of a line's sentence; where it has none, those of the line before."""
        cells = self.split(line)
        if self.sentence is None or self.is_comment(line, cells):
            return last
        found = ("" if i is None or i >= len(cells) else cells[i] for i in (self.document, self.sentence))
        document, number = (new or old for new, old in zip(found, last, strict=True))
        return document, number

    def is_comment(self, line: str, cells: list[str], in_sentence: bool = False) -> bool:
        """Whether a line is no word: it begins with #, and does not look like one.

        in_sentence: it stands within a sentence. There it is one only where no word begins with #, and none was cut.
        """
        if line[:1] != "#" or not (self.word or any(character in line for character in " \t")):
            return False
        if in_sentence and (self.signs or (("\t" in line) == self.tabs and TAG_CELL.fullmatch(cells[-1]))):
            return False
        return not self.is_word(line, cells)

    def is_word(self, line: str, cells: list[str]) -> bool:
        """Whether a line that begins with # looks like those of words."""
        alike = len(cells) == self.count and ("\t" in line) == self.tabs
        return alike and bool(TAG_CELL.fullmatch(cells[self.tag]) or cells[self.tag] in self.tags)


def split(line: str, delimiter: str, quotes: bool = False) -> list[str]:
    """The cells of a line, which commas or semicolons part, or tabs where there are any, or spaces."""
    if delimiter:
        try:
            cells = next(csv.reader([line], delimiter=delimiter, strict=True), [])
        except csv.Error:  # a quote is a character
            cells = line.split(delimiter)
        return [cell.strip() for cell in cells]
    cells = [cell.strip(" ") for cell in line.split("\t")] if "\t" in line else re.split(" +", line)
    return [*map(unquoted, cells)] if quotes else cells


def has_quotes(lines: Iterable[str]) -> bool:
    """Whether a writer of tables has put quotes around cells between tabs or spaces: around all, those with a quote, or
    between tabs, as spreadsheets do, those with a comma too."""
    quotes, around_all, tabs = EnclosingQuotes(), True, False
    for line in (line for _, line in word_lines(lines) if line[0] != "#"):
        cells = split(line, "") if '"' in line or "," in line else [line]
        tabs = tabs or "\t" in line
        around_all = len(quotes.look_at(cells)) == len(cells) and around_all
        if not quotes.whole:
            return False
    return quotes.found > 0 and (around_all or quotes.all_hold_quotes or (tabs and quotes.needed))


def tidy_lines(path: Path, text: str, counts: Counter[str]) -> list[str]:
    """The lines of a file, without blanks and invisible characters at their ends; `counts` has what was removed.

    UserError where a carriage return stands within a line.
    """
    lines = text.split("\n" if "\n" in text else "\r")
    for i, line in enumerate(lines):
        line = line.rstrip("\r").strip(" ")
        if "\r" in line:
            raise UserError(f"{path}: line {i + 1}: holds a carriage return; use LF, CRLF or CR alone")
        kept = line.rstrip(INVISIBLE)
        if kept != line.rstrip(" \t"):
            where = "behind a tag, left out" if kept else "alone on a line, taken for a blank one"
            counts[f"invisible characters {where}"] += 1
        if kept.startswith("\ufeff") and kept.lstrip("\ufeff")[0] not in " \t":
            counts["byte-order marks in front of a word, left out"] += 1
            kept = kept.lstrip("\ufeff")
        lines[i] = kept
    return lines


def word_lines(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(number, text) of each line that may hold a word."""
    return ((i, line) for i, line in enumerate(lines, 1) if line and not DOCSTART.match(line))


def find_columns(path: Path, lines: Sequence[str], data: DataConfig, say: Say) -> Columns:
    """How this file is written. UserError where it has no column that was chosen."""
    word = Choice("--text-column", data.text_column, DataConfig.text_column, WORD_NAMES)
    tag = Choice("--label-column", data.label_column, DataConfig.label_column, TAG_NAMES)
    number, first = next(((i, line) for i, line in word_lines(lines) if line[0] != "#"), (0, ""))
    if not number:  # a file of sentences that all begin with a #
        number, first = next(word_lines(lines), (0, ""))
    second = next((line for i, line in word_lines(lines) if i > number and line[0] != "#"), "")
    delimiter = find_delimiter(first, (word.value.casefold(), tag.value.casefold()))
    if not delimiter and len(split(first, below := find_delimiter(second))) == len(split(second, below)):
        delimiter = below  # the first line is a header of unusual names
    quotes = not delimiter and has_quotes(lines)
    cells = split(first, delimiter, quotes)
    names = [cell.casefold() for cell in cells]
    columns = Columns(delimiter, quotes, "\t" in first, len(cells), len(cells) - 1)
    words, tags = word.named(names), tag.named(names)
    by_name = [choice for choice in (word, tag) if not choice.number and choice.value != choice.default]
    for choice in by_name:
        if not choice.named(names):
            problem = f"{choice.flag} {choice.value[:40]!r}: no header has that name"
            raise UserError(f"{path}: line {number}: {problem}; choose a column by its number, as in {choice.flag} 2")
    known = words and tags and words[0] != tags[-1]
    if known or by_name or data.header == "yes" or (data.header == "auto" and has_header(lines, columns, tag)):
        sentence = next((i for i, name in enumerate(names) if name in SENTENCE_NAMES), None)
        document = next((i for i, name in enumerate(names) if name in DOCUMENT_NAMES), None)
        document = None if sentence is None else document
        columns = replace(columns, sentence=sentence, document=document, header=number)
        columns = replace(columns, word=words[0] if words else 0, tag=tags[-1] if tags else columns.tag)
    elif len(cells) > 2 and not word.number:
        columns = replace(columns, word=behind_ids(lines, columns))
    place = f"{path}: line {number}"
    columns = replace(
        columns,
        word=word.column(columns.word, len(cells), place),
        tag=tag.column(columns.tag, len(cells), place),
    )
    if columns.word == columns.tag and len(cells) > 1:
        raise UserError(f"{place}: word and tag are both column {columns.tag + 1}; choose another one with {word.flag}")
    columns = look_at_signs(lines, columns)
    if 0 not in (columns.word, columns.tag):
        ids = {cells[0] for _, cells in sentence_cells(lines, columns)}
        joined = any(map(str.isdecimal, ids)) and any(map(JOINED_CELL.fullmatch, ids))
        columns = replace(columns, joined=joined)
    note = describe(columns, cells, chosen=bool(word.number))
    if note:
        say(f"{path}: {note}")
    if not tag.number and (others := other_tags(lines, columns)):
        say(f"{path}: tags are those of column {columns.tag + 1}; column {others[0] + 1} has some too")
    return columns


def other_tags(lines: Sequence[str], columns: Columns) -> list[int]:
    """The columns that hold nothing but tags of entities beside those that are read, as files of nested ones have."""
    left = [column for column in range(columns.count) if column not in (columns.word, columns.tag)]
    with_entity = set()
    for _, cells in sentence_cells(lines, columns):
        tags = {column: TAG_CELL.fullmatch(cells[column]) and cells[column] for column in left if column < len(cells)}
        left = [column for column, tag in tags.items() if tag and tag[2:] not in CHUNKS]
        with_entity.update(column for column in left if tags[column] != "O")
        if not left:
            break
    return [column for column in left if column in with_entity]


def describe(columns: Columns, cells: Sequence[str], chosen: bool) -> str:
    """What is not as usual about the columns. cells: of the first line. chosen: that of the words is, by its number."""
    notes = []
    if columns.delimiter:
        notes.append(f"columns are parted by {DELIMITERS[columns.delimiter]}")
    if columns.quotes:
        notes.append("quotes enclose cells, as in CSV")
    if columns.header:
        notes.append(f"line {columns.header} is a header")
        notes.append(f"words are in {cells[columns.word]!r}, tags in {cells[columns.tag]!r}")
    elif columns.word and not chosen:
        ids = "column 1 counts" if columns.word == 1 else f"columns 1 to {columns.word} count"
        notes.append(f"{ids} the words, column {columns.word + 1} has them, column {columns.tag + 1} the tags")
    if columns.sentence is not None:
        parts = [repr(cells[i]) for i in (columns.document, columns.sentence) if i is not None]
        notes.append(f"a new {' or '.join(parts)} begins a sentence")
    return "; ".join(notes)


def has_header(lines: Sequence[str], columns: Columns, tag: Choice) -> bool:
    """Whether the first line has a name where all others of words have a tag, as a header of unusual names."""
    if any(map(DOCSTART.match, lines[:1])):
        return False
    at = min(tag.number or columns.count, columns.count) - 1
    rows = islice((columns.split(line) for _, line in word_lines(lines) if line[0] != "#"), SAMPLE)
    first, *others = ["O" if len(cells) <= at else cells[at] for cells in rows] or ["O"]
    is_name = NAME_CELL.fullmatch(first) and not TAG_CELL.fullmatch(first)
    return bool(is_name) and {*others} > {"O"} and all(map(TAG_CELL.fullmatch, others))


def find_delimiter(first: str, chosen: Sequence[str] = ()) -> str:
    """What parts the columns: a comma or semicolon; "" for tabs or spaces. chosen: names for word and tag."""
    if "\t" in first or TAG_CELL.fullmatch(first.split(" ")[-1]):
        return ""
    for delimiter in DELIMITERS:
        cells = split(first, delimiter)
        names = [cell.casefold() for cell in cells]
        usual = WORD_NAMES.union(chosen[:1]), TAG_NAMES.union(chosen[1:])
        header = all(known.intersection(names) for known in usual)
        if header or any(map(TAG_CELL.fullmatch, cells[1:])):
            return delimiter
    return ""


def look_at_signs(lines: Sequence[str], columns: Columns) -> Columns:
    """The columns, with what tells comments from words that begin with #."""
    signs = [line for line in lines if line[:1] == "#"]
    if not signs:
        return columns
    others = (columns.split(line) for _, line in word_lines(lines) if line[0] != "#")
    columns = replace(columns, tags=frozenset(cells[columns.tag] for cells in others if len(cells) == columns.count))
    return replace(columns, signs=any(columns.is_word(line, columns.split(line)) for line in signs))


def sentence_cells(lines: Sequence[str], columns: Columns) -> Iterator[tuple[bool, list[str]]]:
    """Of each line of a word, whether it stands behind another of its sentence, and its cells."""
    in_sentence = False
    for line in lines:
        cells = columns.split(line)
        if not line or DOCSTART.match(line):
            in_sentence = False
        elif not columns.is_comment(line, cells, in_sentence):
            yield in_sentence, cells
            in_sentence = True


def behind_ids(lines: Sequence[str], columns: Columns) -> int:
    """The first column that is none of numbers, ids and offsets in front of the words; 0 where there are no such."""
    counted = False
    columns = replace(columns, word=columns.tag)  # no word begins a line, should there be ids
    for column in range(columns.tag):
        ids = []
        for in_sentence, cells in sentence_cells(lines, columns):
            if len(cells) <= column or not ID_CELL.fullmatch(cells[column]):
                return column if counted else 0
            ids.append((in_sentence, cells[column]))
        if not ascend(ids):
            return column if counted else 0
        counted = counted or counts_words(ids)
    return 0  # there would be no words


def ascend(ids: Sequence[tuple[bool, str]]) -> bool:
    """Whether the first number in the ids never falls within a sentence."""
    last = 0
    for in_sentence, cell in ids:
        number = int(re.search(r"\d+", cell)[0])
        if in_sentence and number < last:
            return False
        last = number
    return True


def counts_words(ids: Sequence[tuple[bool, str]]) -> bool:
    """Whether a column counts the words of each sentence, or of the file: 1, 2, 3, … without a gap. Ids of several
    parts, or with letters, need only differ within each sentence."""
    if not all(cell.isdecimal() for _, cell in ids):
        seen: set[str] = set()
        for in_sentence, cell in ids:
            seen = seen if in_sentence else set()
            if cell in seen:
                return False
            seen.add(cell)
        return len(ids) > 1
    last = None
    for in_sentence, cell in ids:
        number = int(cell)
        if last is not None and number != last + 1 and (in_sentence or number > 1):
            return False
        last = number
    return len(ids) > 1
