"""Tables of text: what separates their columns, what their quotes mean, and their rows, which stay in the file.

CSV and TSV are two formats: in CSV a quote begins a field that may hold commas and line ends, in most TSV
files it is a character as any other. Read the wrong way, either gives rows without complaint. So the whole
file is looked at.
"""

import csv
import io
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from kd_scratch.common.console import Say, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import LONGEST
from kd_scratch.common.text_file import MARK, TextFile
from kd_scratch.data.rows import FileRows

DELIMITERS = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
TSV = (".tsv", ".tab")
SAMPLE = 1000  # rows, and a thousand times as many characters of each, that tell the layout
MOST_COLUMNS = 100_000  # of a row: names are looked for in all of them
QUOTED = re.compile(r'"(?:[^"]|"")*"')  # a whole field
SEPARATOR = re.compile(r'"?sep=([^\r\n"])"?\s*', re.I)  # the line with which a spreadsheet is told the delimiter

Make = Callable[[int, list[str]], object]  # line number, fields -> example, UserError, or None: no example


@dataclass(frozen=True)
class Layout:
    """How the rows of a table are written."""

    delimiter: str = ","
    quotes: bool = True  # a quote may begin a field; False: quotes are characters
    blanks: bool = False  # those behind a delimiter do not count
    skip: int = 0  # lines before the table

    def reader(self, lines: Iterator[str], strict: bool = True):
        """The fields of each row of some lines."""
        # The default refuses fields of 131,072 characters. The limit is one for the whole process.
        csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
        quoting = csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE
        return csv.reader(lines, delimiter=self.delimiter, quoting=quoting, skipinitialspace=self.blanks, strict=strict)


def unquoted(cell: str) -> str:
    """What a whole field in quotes means; any other cell as it is."""
    return cell[1:-1].replace('""', '"') if QUOTED.fullmatch(cell) else cell


# --- rows ---


def table_rows(file: TextFile, layout: Layout) -> Iterator[tuple[int, int, list[str]]]:
    """(line number, place of its first byte, fields) of each row that is not blank; UserError for a malformed one, or
    where the file is lenient, none."""
    for line, start, row in rows_or_errors(file, layout):
        if not isinstance(row, UserError):
            yield line, start, row
        elif not file.lenient:
            raise row


def rows_or_errors(file: TextFile, layout: Layout) -> Iterator[tuple[int, int, list[str] | UserError]]:
    """The same; what is wrong with a malformed row stands in its place, and rows go on with the next line.

    (A quote that was left open has swallowed many of those: they are read again.)
    """
    source = islice(enumerate(file.lines(), 1), layout.skip, None)
    again: deque = deque()  # lines that are read once more
    used = []  # the lines of a row

    def lines() -> Iterator[str]:
        while item := again.popleft() if again else next(source, None):
            used.append(item)
            yield item[1][1].lstrip(MARK)

    reader = layout.reader(lines())
    while True:
        used.clear()
        try:
            row = next(reader, None)
        except csv.Error as error:
            long = f"a field of more than {LONGEST:,} characters; is a quote left open?"
            why = long if "limit" in str(error) else error
            if any('\\"' in text for _, (_, text) in used):
                why = f'{why}; write each \\" within a text as ""'
            row = UserError(f"{file.path}: line {used[0][0]}: malformed CSV: {why}")
            again.extendleft(reversed(used[1:]))
            reader = layout.reader(lines())
        if row is None:
            return
        if row != []:
            line, (start, _) = used[0]
            if not isinstance(row, UserError) and len(row) > MOST_COLUMNS:
                what = f"{len(row):,} columns, more than {MOST_COLUMNS:,}"
                row = UserError(f"{file.path}: line {line}: {what}; is it a table, with each row on a line?")
            yield line, start, row


def table_examples(file: TextFile, layout: Layout, make: Make, header: bool = False) -> FileRows:
    """The example of each row behind the header, made when asked for; and once now, so that a bad row is found.

    (For a format of lines without quotes: rows.text_rows.)
    """

    def checked() -> Iterator[tuple[int, int]]:
        for line, start, row in islice(table_rows(file, layout), int(header), None):
            if make(line, row) is not None:
                yield line, start

    def parse(line: int, text: str):
        return make(line, next(layout.reader(io.StringIO(text.lstrip(MARK), newline=""))))

    return FileRows(file, checked(), parse)


# --- what a file is written like ---


def find_layout(file: TextFile, is_header: Callable[[Sequence[str]], bool], least: int, say: Say = say) -> Layout:
    """How a table is written, by its content. say: what takes a line about each thing that is not usual.

    is_header: whether a row has the names of the wanted columns. least: columns that it must have.
    """
    lines = [text[: SAMPLE * 1000] for _, text in islice(file.lines(), SAMPLE)]
    skip = 0
    if separator := SEPARATOR.fullmatch(lines[0]):
        skip, delimiter = 1, separator[1]
        say(f"{file.path}: its first line names the delimiter: {delimiter!r}")
    else:
        delimiter = find_delimiter(lines, file.path.suffix.lower() in TSV, is_header, least)
        if delimiter in ";|":
            say(f"{file.path}: columns are apart by {DELIMITERS[delimiter]}")
    quotes = delimiter != "\t" or tabs_with_quotes(file, skip, say)
    blanks = delimiter != "\t" and quotes_behind_blanks(lines[skip:], delimiter)
    if blanks:
        say(f"{file.path}: blanks between a delimiter and a quote do not count")
    return Layout(delimiter, quotes, blanks, skip)


def sample_rows(lines: Sequence[str], layout: Layout) -> list[list[str]]:
    """The rows of a sample of lines that are not blank, as far as they can be parsed."""
    rows = []
    try:
        rows.extend(row for row in layout.reader(iter(lines), strict=False) if row)
    except csv.Error:
        pass
    return rows[:-1] if len(rows) > 1 and len(lines) == SAMPLE else rows  # the last may be cut


def find_delimiter(lines: Sequence[str], tsv: bool, is_header: Callable[[Sequence[str]], bool], least: int) -> str:
    """What is between the columns: that with which the first row is the header, else that which gives most rows the
    same number of columns; of two that do, one without blanks behind it, as commas of texts have them. tsv: the
    name of the file says it is one."""
    if tsv and "\t" in lines[0]:
        return "\t"
    best, regular = ",", (0.0, False)
    text = "\n".join(lines)
    for delimiter in DELIMITERS:
        rows = sample_rows(lines, Layout(delimiter, quotes=delimiter != "\t"))
        if not rows:
            continue
        if 1 < len(rows[0]) <= MOST_COLUMNS and is_header(rows[0]):
            return delimiter
        alike = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        found = alike, 2 * text.count(f"{delimiter} ") <= text.count(delimiter)
        if len(rows[0]) >= max(2, least) and found > regular:
            best, regular = delimiter, found
    return best


def quotes_behind_blanks(lines: Sequence[str], delimiter: str) -> bool:
    """Whether a table is written as in `"a", "b"`: most cells that begin with a quote behind blanks end with one (as
    those of `a, "b" c` do not), and where blanks do not count, all rows are of one length."""
    text, mark = "".join(lines), re.escape(delimiter)
    whole = re.findall(rf'{mark} +"(?:[^"]|"")*" *(?={mark}|[\r\n]|\Z)', text)
    if 2 * len(whole) <= len(re.findall(f'{mark} +"', text)):
        return False
    trimmed = sample_rows(lines, Layout(delimiter, blanks=True))
    return len({len(row) for row in trimmed}) == 1


def tabs_with_quotes(file: TextFile, skip: int, say: Say) -> bool:
    """Whether the quotes of a file with tabs enclose fields, as in CSV. Else they are characters.

    Where each line has the same number of tabs, they do if a column has them in every row, or if all of them
    belong to whole fields, each of which needs them (EnclosingQuotes). Where lines differ, they do if only then all
    rows are of one length.
    """
    if not file.holds('"'):
        return False
    width = rows = with_quotes = 0
    even, quotes = True, EnclosingQuotes()
    quoted: Counter = Counter()  # by column
    for _, line in islice(file.lines(), skip, None):
        cells = line.rstrip("\r\n").split("\t")
        if cells == [""]:
            continue
        width = width or len(cells)
        rows += 1
        even = even and len(cells) == width
        with_quotes += '"' in line
        quoted.update(quotes.look_at(cells))
    if even:
        always = max(quoted.values(), default=0)  # but for a header
        enclose = always >= max(1, rows - 1) or quotes.needed
    else:
        enclose = is_quoted_table(file, Layout("\t", skip=skip))
    meaning = "enclose fields, as in CSV" if enclose else "are characters, as usual in TSV"
    say(f"{file.path}: quotes {meaning} ({with_quotes:,} of {rows:,} lines hold some)")
    return enclose


class EnclosingQuotes:
    """Whether quotes stand around whole cells, and only around those that need them.

    For Python's csv these are cells that hold a quote; for spreadsheets, which write commas elsewhere, those with a
    comma too: then no other cell holds one.
    """

    def __init__(self):
        self.found = 0  # cells with quotes around them
        self.whole = True  # no quote stands elsewhere
        self.all_hold_quotes = self.all_hold_marks = True  # within: a quote; a quote or a comma
        self.bare_commas = False  # in other cells

    def look_at(self, cells: Sequence[str]) -> list[int]:
        """Take the cells of a line into account; the numbers of those that have quotes around them."""
        numbers = [i for i, cell in enumerate(cells) if '"' in cell and QUOTED.fullmatch(cell)]
        inner = [cells[i][1:-1] for i in numbers]
        self.found += len(inner)
        self.whole = self.whole and len(inner) == sum('"' in cell for cell in cells)
        self.all_hold_quotes = self.all_hold_quotes and all('""' in text for text in inner)
        self.all_hold_marks = self.all_hold_marks and all('""' in text or "," in text for text in inner)
        self.bare_commas = self.bare_commas or any("," in cell and '"' not in cell for cell in cells)
        return numbers

    @property
    def needed(self) -> bool:
        """Whether all quotes stand around cells that need them."""
        return self.whole and (self.all_hold_quotes or (self.all_hold_marks and not self.bare_commas))


def is_quoted_table(file: TextFile, layout: Layout) -> bool:
    """Whether all rows of a table are of one length where its quotes enclose fields, and none stands within a field."""
    raw: list[str] = []

    def lines() -> Iterator[str]:
        for _, line in islice(file.lines(), layout.skip, None):
            raw.append(line)
            yield line

    width = 0
    try:
        for row in layout.reader(lines()):
            marks = sum(line.count('"') for line in raw)
            inner = [cell.count('"') for cell in row]
            if row and (len(row) != (width or len(row)) or marks < 2 * sum(inner) + 2 * sum(map(bool, inner))):
                return False
            width = width or len(row)
            raw.clear()
    except csv.Error:
        return False
    return width > 1
