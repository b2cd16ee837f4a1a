"""Examples that stay in their file until they are asked for, so that there may be more than fit into memory."""

import csv
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_length
from kd_scratch.common.text_file import TextFile, open_text


class Subset(Sequence):
    """Some items of a sequence, by their numbers in it, taken from there when asked for."""

    def __init__(self, items: Sequence, numbers: Sequence[int]):
        self.items = items
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i):
        if isinstance(i, slice):
            return Subset(self.items, self.numbers[i])
        return self.items[self.numbers[i]]


class MadeWhenAsked(Sequence):
    """A sequence whose items are made when they are asked for, by `item`."""

    @abstractmethod
    def item(self, i: int):
        """Item number i, from 0 on."""

    def __getitem__(self, i):
        if isinstance(i, slice):
            return Subset(self, range(len(self))[i])
        return self.item(range(len(self))[i])  # IndexError behind the end; negative numbers count from there


class WithoutLabels(MadeWhenAsked):
    """The items of a sequence, some of them (which: N booleans) without their labels (unlabel: item -> item)."""

    def __init__(self, items: Sequence, which: np.ndarray, unlabel: Callable[[object], object]):
        self.items = items
        self.which = which
        self.unlabel = unlabel

    def __len__(self) -> int:
        return len(self.items)

    def item(self, i: int):
        item = self.items[i]
        return self.unlabel(item) if self.which[i] else item


class Concat(MadeWhenAsked):
    """The items of one sequence, then those of another."""

    def __init__(self, first: Sequence, second: Sequence):
        self.first = first
        self.second = second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def item(self, i: int):
        return self.first[i] if i < len(self.first) else self.second[i - len(self.first)]


class FileRows(MadeWhenAsked):
    """The examples of a text file, parsed when asked for. Memory holds where each row begins, 16 bytes a row.

    rows: (number of its first line, place of its first byte) of each, in their order. parse: line number,
    text of a row and of blank lines behind it -> example.
    """

    def __init__(self, text: TextFile, rows: Iterable[tuple[int, int]], parse: Callable[[int, str], object]):
        self.text = text
        lines = array("q")
        starts = array("q")
        for line, start in rows:
            lines.append(line)
            starts.append(start)
        self.parse = parse
        starts.append(text.end())
        self.lines = np.frombuffer(lines, np.int64)
        self.starts = np.frombuffer(starts, np.int64)

    def __len__(self) -> int:
        return len(self.lines)

    def item(self, i: int):
        line, example = int(self.lines[i]), None
        with suppress(StopIteration, UnicodeDecodeError, csv.Error):
            example = self.parse(line, self.text.part(self.starts[i], self.starts[i + 1]))
        if example is None:
            raise UserError(f"{self.text.path}: line {line}: is no longer what it was: the file was changed")
        return example


def text_rows(file: Path | TextFile, name: str, make: Callable[[int, str], object], check: bool = True) -> FileRows:
    """The example of each line that holds more than blanks, made when asked for.

    file: open, or its path. name: of the file, in messages. make: line number, text without blanks at its
    ends -> example, UserError, or None: no example. check: make each once now, so that a bad line is found; to be
    left out where `make` takes any line.
    """

    file = file if isinstance(file, TextFile) else open_text(file)

    def rows() -> Iterator[tuple[int, int]]:
        for i, (place, text) in enumerate(file.lines(), 1):
            check_length(text.rstrip("\r\n"), f"{name}: line {i}")
            if text.strip() and (not check or make(i, text.strip()) is not None):
                yield i, place

    return FileRows(file, rows(), lambda i, text: make(i, text.strip()))
