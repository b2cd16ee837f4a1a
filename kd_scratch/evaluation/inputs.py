"""The inputs of a file, one after another, whatever it holds. An odd one has an error instead of an example.

The readers of tasks/ refuse a file for one bad row, since a score without it would be another score. Answers to the
other rows are of use, so here each is read by itself. Rows stay in the file until they are asked for.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from kd_scratch.common.console import Say, progress
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import LONGEST, check_length
from kd_scratch.common.text_file import TextFile, open_text
from kd_scratch.config import DataConfig
from kd_scratch.data.json_lines import find_object, open_rows, parse_line, refuse_array
from kd_scratch.data.tables import TSV, Layout, find_layout, rows_or_errors, table_rows
from kd_scratch.tasks import (
    Task,
    agnews_file,
    clinc_file,
    conll_columns,
    conll_file,
    squad_file,
    text_files,
    untagged_file,
)
from kd_scratch.tasks.columns import find_columns, is_number, meant, named, repeats
from kd_scratch.tasks.squad_answers import Node
from kd_scratch.tasks.unlabelled_file import settings_for_texts

NO_TEXT = re.compile("[\0\udc80-\udcff]")  # NUL, and what a lenient TextFile makes of bytes that are not UTF-8
EMPTY = "there is no text"
FIRST = 100  # inputs of which one must be readable
#: Task -> what finds the columns of its tables, where that is not as usual.
OWN = {"agnews": agnews_file.agnews_columns}


class Row(NamedTuple):
    """One input: what the file has of it, by column; and the example made of that, or what is odd about it."""

    columns: dict[str, object]
    example: object | None
    error: str = ""


class Record(NamedTuple):
    """What begins in a line of the file: its text, what is made of that (or what is wrong with it), and its columns."""

    line: int
    text: str
    value: object | UserError
    columns: dict[str, object]


Records = Callable[[], Iterator[Record]]  # reads the file anew
Make = Callable[..., object]  # line, value of a record -> example, UserError, or None: there is no text


def open_inputs(
    task: Task,
    path: Path,
    split: str,
    data: DataConfig,
    abstain: bool,
    taken: Collection[str],
    say: Say,
    pairs: bool = False,
) -> tuple[Callable[[], Iterator[Row]], int, list[str]]:
    """What reads the inputs of a file anew, how many there are, and the names of all their columns.

    abstain: questions may be unanswerable. taken: names that no column may have; it gets "input_" in front of them.
    pairs: texts are pairs, which stand in two columns.
    Raises UserError where the file as a whole cannot be read, and where none of its first inputs can.
    """
    is_span = task.head == "span"
    file = (open_text if is_span else open_rows)(path, data.encoding, say, lenient=True)
    opened = open_questions(file, data, abstain, say) if is_span else open_texts(task, file, split, data, say, pairs)
    read = partial(rows, path, *opened, taken)
    count, readable, error = 0, False, ""
    names: dict[str, None] = {}
    for count, row in enumerate(progress(read(), desc="counting", unit="row"), 1):
        names.update(dict.fromkeys(row.columns))
        error = error or row.error
        readable = readable or not row.error or row.error.endswith(EMPTY)
        if count == FIRST and not readable:
            break
    if not readable:
        raise UserError(f"{path}: none of its first {count} inputs can be read: {error or EMPTY}")
    return read, count, list(names)


def open_stream(
    task: Task, source: Iterable[str], data: DataConfig, abstain: bool, taken: Collection[str], pairs: bool = False
) -> Iterator[Row]:
    """The input in each line when it comes: a text, or a JSON object with one. Only objects where an input has two
    parts (a pair, a question), and where a --text-column is asked for."""
    path = Path("standard input")
    lines = (line.removeprefix("\ufeff") if i == 0 else line for i, line in enumerate(source))
    if task.head == "span":
        return rows(path, lambda: json_records(lines, path), question_maker(path, data, abstain)[1], taken)

    def of_object(line: int, value: dict) -> object | None:  # each by itself, whatever the lines before it were
        make = object_maker(path, data, lambda note: None, text_maker(task, path), pairs)
        return untagged_file.of_object(path, data, make, line, value) if task.head == "token" else make(line, value)

    if pairs or data.text_column != DataConfig.text_column:
        return rows(path, lambda: json_records(lines, path), of_object, taken)

    def records() -> Iterator[Record]:
        for i, line in enumerate(lines, 1):
            yield from line_records([line], i) if find_object(line) is None else json_records([line], path, i)

    def of_line(line: int, value: str | dict) -> object | None:
        if isinstance(value, dict):
            return of_object(line, value)
        is_labelled = value.startswith(text_files.FASTTEXT)
        return text_maker(task, path)(line, text_files.fasttext_parts(value)[0] if is_labelled else value)

    return rows(path, records, of_line, taken)


def rows(path: Path, records: Records, make: Make, taken: Collection[str]) -> Iterator[Row]:
    """The input that each record of a file is."""
    for line, text, value, columns in records():
        columns = renamed(columns, taken)
        if len(text) > LONGEST:  # other programs would stumble over it in the output
            columns = {name: shortened(value) for name, value in columns.items()}
        try:
            if isinstance(value, UserError):
                raise value
            if bad := NO_TEXT.search(text):
                what = "NUL character" if bad[0] == "\0" else f"byte {ord(bad[0]) - 0xDC00:#04x} is not UTF-8"
                raise UserError(f"line {line}: {what}")
            example = make(line, value)
            row = Row(columns, example, "" if example else f"line {line}: {EMPTY}")
        except UserError as error:
            row = Row(columns, None, str(error).removeprefix(f"{path}: "))
        yield row


def shortened(value: object) -> object:
    """A value of a column; of one of more than LONGEST characters the first hundred, or null where it is no text."""
    if isinstance(value, str):
        return value[:100] if len(value) > LONGEST else value
    return None if len(json.dumps(value)) > LONGEST else value


def renamed(columns: dict[str, object], taken: Collection[str]) -> dict[str, object]:
    """The columns, with as many "input_" before a name that is taken as make it a new one."""
    found = {}
    for name, value in columns.items():
        if name in taken:
            while name in taken or name in columns:
                name = f"input_{name}"
        found[name] = value
    return found


# --- formats -> records ---


def line_records(lines: Iterable[str], first: int = 1) -> Iterator[Record]:
    """Each line, blank ones too. first: the number of the first one."""
    for i, text in enumerate(lines, first):
        text = text.rstrip("\r\n")
        yield Record(i, text, text, {"text": text})


def json_records(lines: Iterable[str], path: Path, first: int = 1) -> Iterator[Record]:
    """The object in each line that is not blank. first: the number of the first line."""
    for i, text in enumerate(lines, first):
        if text.strip():
            try:
                value = parse_line(text, i, str(path))
                yield Record(i, text, value, value)
            except UserError as error:
                yield Record(i, text, error, {})


def table_records(file: TextFile, layout: Layout, header: Sequence[str] | None, width: int) -> Iterator[Record]:
    """The cells of each row. Columns that have no name, or that of an earlier one, get one."""
    names: dict[str, None] = {}
    for i, name in enumerate(header or [""] * width, 1):
        names[f"column_{i}" if not name or name in names else name] = None
    for line, _, row in islice(rows_or_errors(file, layout), int(header is not None), None):
        cells = [] if isinstance(row, UserError) else row
        if cells and (len(cells) < width or any(map(str.strip, cells[width:]))):
            row = UserError(f"line {line}: {len(cells)} columns instead of {width}")
        elif header and cells and repeats(cells, header):
            row = UserError(f"line {line}: repeats the header")
        yield Record(line, " ".join(cells), row, dict(zip(names, cells, strict=False)))


def sentence_records(file: TextFile, columns: conll_columns.Columns) -> Iterator[Record]:
    """The sentences of a file of CoNLL's kind, as examples without tags. One with an odd line is odd."""
    block: list[str] = []
    last = ("", "")  # document and number of a sentence
    for i, (_, line) in enumerate(chain(file.lines(), [(0, "")]), 1):
        line = line.rstrip("\r\n")
        place = columns.sentence_of(line, last)
        begins, last = place != last, place
        if line.strip() and not begins:
            block.append(line)
            continue
        first = i - len(block)
        lines = conll_columns.tidy_lines(file.path, "\n".join(block), Counter())
        try:
            for found in conll_file.read_sentences(file.path, lines, columns, conll_file.Tags(), Counter(), first):
                example = conll_file.untagged(found.id, found.words)
                yield Record(first, " ".join(found.words), example, {"id": found.id})
        except UserError as error:
            yield Record(first, "", error, {"id": f"{file.path.name}:{first}"})
        block = [line] * bool(line.strip())


# --- a task's files -> records, and what makes examples of them ---


def text_maker(task: Task, path: Path) -> Make:
    """A function: line, text, or both texts of a pair -> example without label; None where one is blank."""

    def make(line: int, *texts: str) -> object | None:
        check_length(" ".join(texts), f"{path}: line {line}")
        return task.unlabelled(f"{path.name}:{line}", *texts) if all(map(str.strip, texts)) else None

    return make


def object_maker(path: Path, data: DataConfig, say: Say, make: Make, pairs: bool = False, join: bool = False) -> Make:
    """The same of objects that have the texts. pairs: UserError where one is alone. join: two are one text."""

    def of_parts(line: int, label_name: str, text: str, label: str, pair: str | None) -> object | None:
        if pairs and pair is None:
            raise UserError(f"line {line}: has one text, the model reads pairs; call them sentence1 and sentence2")
        if join and pair is not None:
            return make(line, f"{text} {pair}")
        return make(line, *(part for part in (text, pair) if part is not None))

    return text_files.json_maker(path, data, say, of_parts, labelled=False)


def open_texts(task: Task, file: TextFile, split: str, data: DataConfig, say: Say, pairs: bool) -> tuple[Records, Make]:
    """Texts: lines, a table, JSON lines, or CLINC150's JSON; of words also CoNLL's columns, and lists in JSON lines."""
    path = file.path
    make, asked = text_maker(task, path), data.text_column
    find = OWN.get(task.name, find_columns)
    if task.splits and clinc_file.holds_splits(file):
        found = clinc_file.clinc_examples(file, split, data, say)
        columns = [{"id": example.id, "text": example.text, "label": example.label} for example in found]
        return lambda: (Record(i, row["text"], row["text"], row) for i, row in enumerate(columns, 1)), make
    is_json = text_files.is_json_lines(file)
    if is_json:
        refuse_array(file)

    def objects() -> Iterator[Record]:
        return json_records((text for _, text in file.lines()), path)

    if task.head == "token" and not is_json and (layout := untagged_file.word_columns(file, data, say)):
        return partial(sentence_records, file, layout), lambda line, example: example
    usual = data.text_column, DataConfig.text_column
    is_table = not is_json and text_files.is_table_of_texts(file, usual, data.label_column)
    is_usual = is_json or find is find_columns
    if data.text_column == DataConfig.text_column and is_usual and task.head == "sequence":
        readable = is_table or (is_json and any(isinstance(record.value, dict) for record in islice(objects(), FIRST)))
        data = settings_for_texts(file, data, is_table, say, pairs, by_flag=True) if readable else data
    if is_json:
        of_object = object_maker(path, data, say, make, pairs, join=not pairs and data.text_column != asked)
        if task.head == "token":
            of_object = partial(untagged_file.of_object, path, data, of_object)
        return objects, of_object
    if not is_table:
        of_text = make
        if text_files.is_fasttext(file):
            say(text_files.fasttext_note(path))

            def of_text(line: int, text: str) -> object | None:
                return make(line, text_files.fasttext_parts(text)[0])

        return lambda: line_records(text for _, text in file.lines()), of_text
    number = max((int(name) for name in meant((), data.text_column) if is_number(name)), default=1)
    layout = find_layout(file, lambda row: all(named(row, name) for name in meant(row, data.text_column)), number, say)
    columns = find(file, layout, data, say, labelled=False)
    records = partial(table_records, file, layout, columns.header, columns.width)
    apart = columns.is_pair and (pairs or asked == data.text_column)  # else a title and what it stands above
    join = (lambda texts: texts) if apart else lambda texts: [" ".join(texts)]
    return records, lambda line, cells: make(line, *join([cells[i] for i in columns.text]))


def question_maker(path: Path, data: DataConfig, abstain: bool) -> tuple[squad_file.Reader, Make]:
    """What reads questions, and a function: line, object (or node, and the one with its context) -> example."""
    reader = squad_file.Reader(path, data, labelled=False)
    reader.seen = None  # ids need not differ

    def make(line: int, value: dict | tuple) -> squad_file.Example | None:
        node, above = value if isinstance(value, tuple) else (Node(value, path, f"line {line}"), None)
        example = reader.example(node, above)
        example = replace(example, may_be_unanswerable=abstain or "is_impossible" in node.value)
        return example if example.question.strip() and example.context.strip() else None

    return reader, make


def open_questions(file: TextFile, data: DataConfig, abstain: bool, say: Say) -> tuple[Records, Make]:
    """Questions with their contexts: SQuAD's JSON and its relatives, JSON lines, or a table with a header."""
    path, ending = file.path, file.path.suffix.lower()
    reader, make = question_maker(path, data, abstain)
    if ending in (".csv", *TSV):
        names = (data.question_column, data.context_column)
        layout = find_layout(file, lambda row: all(named(row, name) for name in names), 2, say)
        header = next(table_rows(file, layout), (0, 0, []))[2]
        found = {named(header, name)[0]: name for name in names if named(header, name)}  # Question for question
        keys = [found.get(i, name) for i, name in enumerate(header)]
        records = partial(table_records, file, layout, header, len(header))
        return records, lambda line, cells: make(line, dict(zip(keys, cells, strict=False)))
    is_jsonl, question = ending in (".jsonl", ".ndjson"), data.question_column
    if squad_file.is_json_lines(file, question) or (is_jsonl and not squad_file.has_lists(file, question)):
        return lambda: json_records((text for _, text in file.lines()), path), make
    root = squad_file.root_of(file)

    def records() -> Iterator[Record]:
        for i, (node, above) in enumerate(reader.questions(root, squad_file.LEVELS, None), 1):
            context = (above or node).value.get(data.context_column)
            text = f"{node.value.get(data.question_column)} {context}"
            yield Record(i, text, (node, above), {**node.value, data.context_column: context})

    return records, make
