"""Files of texts, with a label each or without: anybody's table, JSON lines, or lines -> examples.

What was decided about a file, or repaired in it, is given to `say`, one line for each kind of thing with its
count.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from kd_scratch.common.console import Say, say, shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import LONGEST, check_length
from kd_scratch.common.text_file import TextFile
from kd_scratch.config import DataConfig
from kd_scratch.data.json_lines import find_object, json_rows, open_rows
from kd_scratch.data.rows import FileRows, Subset, text_rows
from kd_scratch.data.tables import DELIMITERS, SAMPLE, TSV, find_layout, table_examples
from kd_scratch.tasks.base import Task
from kd_scratch.tasks.broken_rows import MOST_LABELS, BrokenRows
from kd_scratch.tasks.columns import (
    Columns,
    choose,
    find_columns,
    is_number,
    meant,
    named,
    repeats,
    same,
    wanted_columns,
)
from kd_scratch.tasks.entity_spans import REJECTED
from kd_scratch.tasks.label_cells import (
    PRINTED,
    Marks,
    MultiLabels,
    Value,
    choices,
    json_kind,
    one_label,
    refuse_list,
)
from kd_scratch.tasks.unlabelled_file import settings_for_texts

FASTTEXT = "__label__"  # before each label in a line


@dataclass(frozen=True)
class Example:
    """One text, or a pair, with its label. The id is its place: file name and line, or split and number."""

    id: str
    text: str
    label: str | tuple[str, ...] | None  # tuple: several labels; None: unlabelled, for soft targets
    in_scope: bool = True  # False: CLINC150's texts that belong to no intent
    pair: str | None = None  # the second text
    known: tuple[str, ...] = ()  # several labels: those that its file has columns for

    @property
    def texts(self) -> list[str]:
        """The text, or both."""
        return [self.text] if self.pair is None else [self.text, self.pair]


#: line, text, label ("": none), second text of a pair (None: none) -> example, UserError, or None: no example
Make = Callable[[int, str, str, str | None], object]


def example_of_row(path: Path, line: int, text: str, label: str | tuple[str, ...], pair: str | None = None) -> Example:
    """The example that begins in a line of a file. UserError where it has no label, or its text is too long."""
    if label == "":
        raise UserError(f"{path}: line {line}: the label is empty; give it one, or delete the row")
    for part in (text, pair or ""):
        if len(part) > LONGEST:
            check_length(part, f"{path}: line {line}")
    return Example(f"{path.name}:{line}", text, label, pair=pair)


# --- rows of a table, or lines of JSON ---


def read_rows(
    file: TextFile, data: DataConfig, say: Say, make: Make, labelled: bool = True, columns=find_columns, cells=None
) -> FileRows:
    """The examples of a table or of JSON lines, whichever the file is. columns: finds those of a table. cells:
    what reads the labels of a text where there may be several; make then gets what it finds."""
    counts: Counter = Counter()

    def cleaned(line: int, label_name: str, text: str, value: Value, pair: str | None) -> object:
        value = choices(value)
        if cells:
            return make(line, text, cells.read(value, label_name, f"{file.path}: line {line}"), pair)
        refuse_list(value, label_name, f"{file.path}: line {line}", "write the label alone", PRINTED)
        is_alone = isinstance(value, list) and len(value) == 1  # as of tools for several labels
        label = one_label(value[0] if is_alone else value, label_name, f"{file.path}: line {line}")
        label_alone = label.strip()
        if label_alone != label:
            counts["blanks around labels do not count"] += 1
        if label_alone == "-" and same(label_name) == "gold_label":
            counts["rows on whose label people did not agree (gold_label -), left out"] += 1
            return None
        return make(line, text, label_alone, pair)

    if is_json_lines(file):
        rows = json_rows(file, json_maker(file.path, data, say, cleaned, labelled, counts))
    elif is_fasttext(file):
        say(f"{file.path}: lines as fastText has them: words that begin with {FASTTEXT} are labels")
        rows = text_rows(file, str(file.path), lambda line, text: cleaned(line, FASTTEXT, *fasttext_parts(text), None))
    else:

        def is_header(row: Sequence[str]) -> bool:
            wanted = [name for _, name in wanted_columns(row, data, labelled) if not is_number(name)]
            return bool(wanted) and all(named(row, name) for name in wanted)

        numbers = [int(name) for _, name in wanted_columns((), data, labelled) if is_number(name)]
        layout = find_layout(file, is_header, max(numbers, default=1), say)
        found = columns(file, layout, data, say, labelled)
        broken = BrokenRows(file.path, layout, found)
        rows = table_examples(
            file, layout, table_maker(file.path, found, counts, broken, cleaned), found.header is not None
        )
        broken.check(len(rows), say)
    notes = [f"{what}: {count:,}" for what, count in counts.items() if count]
    for note in notes + (cells.notes(file.path) if cells else []):
        say(f"{file.path}: {note}")
    return rows


def table_maker(path: Path, columns: Columns, counts: Counter, broken: BrokenRows, make: Make):
    """A function: line number and fields of a row -> example."""
    text_at, label_at, width = columns.text[0], columns.label, columns.width
    names = columns.header
    label_name = names[label_at] if names and label_at is not None else ""
    marks = {names[i] if names else str(i + 1): i for i in columns.labels} if len(columns.labels) > 1 else {}
    pair_at = columns.text[1] if columns.is_pair else None
    others = columns.text if len(columns.text) > 1 and not columns.is_pair else ()

    def make_row(line: int, row: list[str]) -> object:
        if len(row) != width or not row[0]:
            if not any(cell.strip() for cell in row):
                counts["rows of empty cells left out"] += 1
                return None
            if len(row) < width or any(cell.strip() for cell in row[width:]):
                of_what = "header's" if columns.header else "first row's"
                cure = f"; put quotes around a text that holds {broken.delimiter}" if len(row) > width else ""
                error = UserError(f"{path}: line {line}: {len(row)} columns instead of the {of_what} {width}{cure}")
                if len(row) > width or broken.layout.quotes or len(broken.short) == SAMPLE:
                    raise error
                broken.short.append(error)
                return None
            if len(row) > width:
                counts["rows with empty cells behind the last column"] += 1
        if names and repeats(row, names):
            counts["rows that repeat the header, left out"] += 1
            return None
        text = " ".join(row[i] for i in others) if others else row[text_at]
        label = row[label_at] if label_at is not None else ""
        if label and len(broken.labels) < MOST_LABELS:
            broken.labels.add(label)
        pair = row[pair_at] if columns.is_pair else None
        for i in columns.text if "\n" in text or "\n" in (pair or "") else ():
            broken.look_at(line, row[i], i)
        value = Marks((name, row[i]) for name, i in marks.items()) if marks else label
        return make(line, label_name, text, value, pair)

    return make_row


def is_json_lines(file: TextFile) -> bool:
    """Whether a file holds JSON, which should then be one object a line: its name or its first line shows it."""
    first = file.first_line()
    if file.path.suffix.lower() in (".json", ".jsonl", ".ndjson") or re.match(r'\[\s*(\{"|$)', first):
        return True
    return isinstance(find_object(first), dict)


def json_maker(path: Path, data: DataConfig, say: Say, make: Make, labelled: bool, counts: Counter | None = None):
    """A function: line number and object of a line of JSON -> example. counts: objects that are left out."""
    keys: dict = {}  # the fields of the texts and of the label, as the first object has them
    is_judged = labelled and "answer" not in f"{data.text_column},{data.label_column}".split(",")

    def value_of(row: dict, key: str, place: str) -> object:
        if key not in row:
            raise UserError(f"{place}: has no field {key!r} among {', '.join(shorten(k, 30) for k in list(row)[:12])}")
        return row[key]

    def make_object(line: int, row: dict) -> object:
        place = f"{path}: line {line}"
        if is_judged and row.get("answer") in REJECTED:
            counts["objects whose answer is reject or ignore, as Prodigy marks them, left out"] += 1
            return None
        if not keys:
            names = list(row)
            columns = zip(("texts", "labels"), choose(names, data, labelled, place, say, numbers=False), strict=True)
            keys.update({what: [names[i] for i in places] for what, places in columns})
        texts = [value_of(row, key, place) for key in keys["texts"]]
        for key, text in zip(keys["texts"], texts, strict=True):
            if not isinstance(text, str):
                raise UserError(f"{place}: {key!r} must be a text in quotes, not {json_kind(text)}")
        found = Marks((key, value_of(row, key, place)) for key in keys["labels"])
        first = next(iter(found), "")
        label = found if len(found) > 1 else found.get(first, "")
        return make(line, first, texts[0], label, texts[1] if len(texts) > 1 else None)

    return make_object


def is_fasttext(file: TextFile) -> bool:
    """Whether the lines of a file begin with labels as fastText writes them: "__label__sports a text"."""
    return file.path.suffix.lower() not in (".csv", *TSV) and file.first_line().startswith(FASTTEXT)


def fasttext_parts(line: str) -> tuple[str, list[str]]:
    """The text of such a line and its labels, which may stand anywhere in it.

    >>> fasttext_parts("__label__sports __label__world two  goals")
    ('two  goals', ['sports', 'world'])
    """
    labels = [word.removeprefix(FASTTEXT) for word in line.split() if word.startswith(FASTTEXT)]
    return re.sub(rf"(?<!\S){FASTTEXT}\S*\s*", "", line).strip(), labels


def fasttext_note(path: Path) -> str:
    """What is said where only the texts of such lines are wanted."""
    return f"{path}: lines as fastText has them: words that begin with {FASTTEXT} are no part of the texts"


# --- formats ---


def read_csv(path: Path, split: str, data: DataConfig, say: Say = say) -> Sequence[Example]:
    """Anybody's texts, or pairs of them, and labels: a table, JSON lines, or fastText's; GLUE's files as they are.

    --text-column and --label-column choose among its columns.
    """

    return read_rows(open_rows(path, data.encoding, say), data, say, partial(example_of_row, path))


def read_multi_label(path: Path, split: str, data: DataConfig, say: Say = say) -> Sequence[Example]:
    """Anybody's texts, or pairs of them, each with any number of labels, also none: a table, JSON lines, or fastText's.

    The labels are one column's, with --label-separator between them; a list in JSON; or columns of 0 and 1, one
    a label, whose names --label-column gives with commas between them, or the name of a single one.
    """

    def make(line: int, text: str, found: tuple, pair: str | None) -> Example:
        labels, known = found
        return replace(example_of_row(path, line, text, labels, pair), known=known)

    is_usual = "," in data.label_column or same(data.label_column) in ("label", "labels")
    labels = MultiLabels(data.label_separator, "" if is_usual else data.label_column)
    return read_rows(open_rows(path, data.encoding, say), data, say, make, cells=labels)


def is_table_of_texts(file: TextFile, usual: Sequence[str], label: str = "") -> bool:
    """Whether a file is called .csv or .tsv; or has tabs, and a column of one of the usual names or in all lines those
    that are chosen by number; or a header with such a name and the label's."""
    if file.path.suffix.lower() in (".csv", *TSV):
        return True
    lines = [line.rstrip("\r\n") for _, line in islice(file.lines(), SAMPLE)]
    for delimiter in DELIMITERS:
        header, width = lines[0].split(delimiter), lines[0].count(delimiter)
        if width and any(named(header, meant(header, column)[-1]) for column in usual):
            wide = all(line.count(delimiter) >= width for line in lines if line)
            if delimiter == "\t" or (label and named(header, label) and wide):
                return True
    numbers = [int(name) for column in usual for name in meant((), column) if is_number(name)]
    tabs = {line.count("\t") for line in lines if line}
    return bool(numbers) and len(tabs) == 1 and max(numbers) - 1 <= max(tabs) > 0


def read_texts(
    path: Path, data: DataConfig, say: Say, make: Callable[..., object], name: str = "", pairs: bool = False
) -> FileRows:
    """Texts without labels: the text column of a table (is_table_of_texts), the text field of JSON lines, or each line
    that holds more than blanks. Two columns are read as one text.

    make: id, text -> example. name: of the file, in messages, where it stands beside --train.
    pairs: two columns are needed, and make gets both texts.
    """
    file = open_rows(path, data.encoding, say)
    usual = (data.text_column, DataConfig.text_column) if name else (data.text_column,)

    def make_row(line: int, text: str, label: str, pair: str | None) -> object:
        both = f"{text} {pair}" if pair else text
        check_length(both, f"{name or path}: line {line}")
        return make(f"{path.name}:{line}", *((text, pair) if pairs else (both,))) if both.strip() else None

    is_table = is_table_of_texts(file, usual, data.label_column)
    if is_table or is_json_lines(file):
        if name:
            data = settings_for_texts(file, data, is_table and not is_json_lines(file), say, pairs)
        else:
            say(f"{path}: texts are those of the {'column' if is_table else 'field'} {data.text_column!r}")
        return read_rows(file, data, say, make_row, labelled=False)
    if pairs:
        raise UserError(f"{path}: holds single texts, --train pairs; give a table with two columns of texts")
    if is_fasttext(file):
        say(fasttext_note(path))
        return text_rows(file, name or str(path), lambda line, text: make_row(line, fasttext_parts(text)[0], "", None))
    return text_rows(file, name or str(path), lambda line, text: make(f"{path.name}:{line}", text), check=False)


def read_unlabelled(
    task: Task,
    path: Path,
    data: DataConfig,
    flag: str,
    say: Say = say,
    questions: str = "give a file that has some",
    pairs: bool = False,
) -> Sequence:
    """The texts, or pairs, of --unlabelled that hold more than blanks, as examples without label.

    flag: with its value. questions: what to do where no context has one (some without are left out); "" where
    they will be made.
    """
    if task.read_unlabelled:
        examples = task.read_unlabelled(path, data, say, flag)
    else:
        examples = read_texts(path, data, say, task.unlabelled, flag, pairs)
    if task.head == "span":
        asked = [i for i, example in enumerate(examples) if example.question.strip() or not questions]
        if len(asked) < len(examples):
            if not asked:
                raise UserError(f"{flag}: holds contexts without questions; {questions}")
            say(f"{path}: contexts without a question, left out: {len(examples) - len(asked):,}")
            examples = Subset(examples, asked)
        if not examples:
            cure = "give a file that has some" if questions else "give a .txt with each context on a line"
            raise UserError(f"{flag}: holds no question; {cure}")
    if not examples:
        raise UserError(f"{flag}: holds nothing but blank lines; give one text a line")
    return examples
