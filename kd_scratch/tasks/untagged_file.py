"""Sentences without tags: files as of conll_file.py, whose tags are not looked at; lists of words; texts."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

from kd_scratch.common.console import Say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_length
from kd_scratch.common.text_file import TextFile
from kd_scratch.config import DataConfig
from kd_scratch.data.json_lines import find_object, json_rows, open_rows
from kd_scratch.data.tables import SAMPLE, TSV
from kd_scratch.tasks import conll_columns
from kd_scratch.tasks.conll_columns import Columns, find_columns, tidy_lines
from kd_scratch.tasks.conll_file import (
    WORD_KEYS,
    Example,
    Tags,
    is_json_lines,
    listed,
    read_sentences,
    untagged,
    word_list,
)
from kd_scratch.tasks.entity_spans import text_of
from kd_scratch.tasks.spans import split_words
from kd_scratch.tasks.text_files import read_texts


def read_without_tags(path: Path, data: DataConfig, say: Say, name: str) -> Sequence[Example]:
    """The sentences of a file as of read_conll, whose tags are not looked at; or of texts the words of each, a
    document of its own. name: of the file, in messages. UserError as of read_conll and read_texts."""
    file = open_rows(path, data.encoding, say)
    first = file.first_line()
    if word_list(find_object(first) or {}, data) is not None:

        def without_list(line: int, value: dict) -> Example | None:
            text = text_of(value, data.text_column)
            if text is None:
                listed(value, (data.text_column, *WORD_KEYS), f"{path}: line {line}: words", "--text-column")
            return from_text(f"{path.name}:{line}", text) if text.strip() else None

        return json_rows(file, partial(of_object, path, data, without_list))
    columns = None
    if not is_json_lines(first):  # the columns that are chosen may be those of --train
        columns = word_columns(file, data, say) or word_columns(file, DataConfig(), say)
    if columns is None:
        return read_texts(path, data, say, from_text, name)
    lines = tidy_lines(path, file.text(), Counter())
    sentences = read_sentences(path, lines, columns, Tags(), Counter())
    return [replace(untagged(each.id, each.words), document=each.document) for each in sentences]


def from_text(place: str, text: str) -> Example:
    """The words of a plain text as an example without tags, which is a document of its own."""
    return untagged(place, [text[start:end] for start, end in split_words(text)])


def of_object(path: Path, data: DataConfig, of_text: Callable, line: int, value: dict) -> Example | None:
    """The sentence of an object that has a list of its words, or else a text."""
    words = word_list(value, data)
    if words is None:
        return of_text(line, value)
    if not all(isinstance(word, str) for word in words):
        raise UserError(f"{path}: line {line}: each of the words must be a text")
    check_length(" ".join(words), f"{path}: line {line}")
    return untagged(f"{path.name}:{line}", words) if words else None


def word_columns(file: TextFile, data: DataConfig, say: Say) -> Columns | None:
    """How a file of words and tags is written; None for another one.

    Most lines of such a file end with a tag, or all with what stands for none; or all have as many cells, or are
    single words, and there are blank lines between them. (Two cells between tabs are texts where one holds a
    blank.)
    """
    notes: list[str] = []
    sample = "\n".join(text.rstrip("\r\n") for _, text in islice(file.lines(), SAMPLE))
    try:
        lines = tidy_lines(file.path, sample, Counter())
        columns = find_columns(file.path, lines, data, notes.append)
    except UserError:
        return None
    found = [*conll_columns.sentence_cells(lines, columns)]
    cells = [cells for _, cells in found]
    rows = [row for row in cells if len(row) == columns.count > 1]
    last = [row[columns.tag] for row in rows]
    tagged = 2 * sum(conll_columns.TAG_CELL.fullmatch(cell) is not None for cell in last) > len(cells)
    alike = len(rows) == len(cells) > 1
    untagged = alike and all(map(conll_columns.NO_TAG.fullmatch, last))
    starts = sum(not in_sentence for in_sentence, _ in found)
    is_table = file.path.suffix.lower() in (".csv", *TSV)
    if columns.tabs:
        many = columns.count > 2 and 2 * sum(" " not in row[columns.word] for row in rows) > len(rows)
        are_words = many or not any(" " in cell for row in rows for cell in row)
        in_blocks = are_words and "\n\n" in sample.strip("\n")
    else:
        in_blocks = 1 < starts < len(found) and not columns.delimiter and not is_table
    in_blocks = alike and in_blocks
    one_word = 2 * sum(len(row) == len(split_words(row[0])) == 1 for row in cells) > len(cells)
    alone = 1 < starts < len(found) and one_word and all(len(row) == 1 for row in cells) and not is_table
    if not (tagged or untagged or in_blocks or alone):
        return None
    if not columns.delimiter and file.holds('"'):  # of all lines, as training decides
        columns = replace(columns, quotes=conll_columns.has_quotes(text.strip() for _, text in file.lines()))
    if alone:
        columns = replace(columns, words_alone=True)
        notes.append(f"{file.path}: each line is a word, a blank line ends a sentence")
    elif not (tagged or untagged):
        what = f"no tags; each line is a word, that of its column {columns.word + 1}"
        notes.append(f"{file.path}: {what}; leave out the blank lines if each line is a text")
    for note in notes:
        say(note)
    return columns
