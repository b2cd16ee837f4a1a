"""Rows of a table that are not what they seem: swallowed by a text of another row, or cut."""

from pathlib import Path

from kd_scratch.common.console import Say
from kd_scratch.common.errors import UserError
from kd_scratch.data.tables import DELIMITERS, SAMPLE, Layout
from kd_scratch.tasks.columns import Columns

MOST_LABELS = 100_000  # that are kept; where there are more, they are no labels


class BrokenRows:
    """Finds texts that hold rows of the table: a quote was left open in one row and closed by that of a later one.
    And keeps what is to be known of rows that are cut.

    A line within a text is one where it has as many columns as a row, and the label of another row.
    """

    def __init__(self, path: Path, layout: Layout, columns: Columns):
        self.path = path
        self.layout = layout
        self.columns = columns
        self.labels: set[str] = set()  # of all rows
        self.suspects: list[tuple[int, list[str]]] = []  # line, what would be the labels of the rows within
        self.short: list[UserError] = []  # of rows with too few columns, where no quote can be the reason

    @property
    def delimiter(self) -> str:
        """What parts the columns, in words."""
        return DELIMITERS.get(self.layout.delimiter, repr(self.layout.delimiter))

    def look_at(self, line: int, text: str, column: int) -> None:
        """Keep what is needed of a text of several lines."""
        if self.columns.label is not None and self.layout.quotes and len(self.suspects) < SAMPLE:
            lines = text.splitlines()
            inner = self.inner_labels(lines[:-1], column)
            if not inner and self.columns.label < column == self.columns.width - 1:  # the text ends its row
                inner = self.inner_labels(lines, column)[-1:]
            if inner:
                self.suspects.append((line, inner))

    def inner_labels(self, lines: list[str], column: int) -> list[str]:
        """The cells in the label's place of a text's lines; [] where one has none."""
        found = []
        for i, line in enumerate(lines):
            cells = line.split(self.layout.delimiter)
            before = column if i == 0 else 0  # columns that stand before the text
            at = self.columns.label - before
            if i == 0 and at < 0:
                continue  # the label of this row stands before the quote
            if len(cells) != self.columns.width - before:
                return []
            found.append(cells[at].strip(' "'))
        return found

    def check(self, count: int, say: Say) -> None:
        """UserError where a text holds two rows or more, or more than one row in a thousand is too short (count: of
        good rows; QQP has 24 such in 363,870); a line where a text holds what may be a row, and for fewer short ones.
        """
        if 1000 * len(self.short) > count:
            raise self.short[0]
        if self.short:
            say(f"{self.short[0]}; so many rows are cut like it, and left out: {len(self.short)}")
        labels = {label.strip() for label in self.labels}
        for line, inner in self.suspects:
            if labels.issuperset(inner):
                message = f"{self.path}: line {line}: the text that begins there holds"
                if len(inner) > 1:
                    cure = "a quote is left open: close it, or write it twice to mean a character"
                    raise UserError(f"{message} {len(inner)} lines that look like rows; {cure}")
                say(f"{message} a line that looks like a row: was a quote left open?")
