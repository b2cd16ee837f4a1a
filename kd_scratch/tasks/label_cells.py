"""What a cell of a table, or a field of JSON, means: the label of a text, or its several labels."""

import json
import re
from collections import Counter
from contextlib import suppress
from pathlib import Path

from kd_scratch.common.console import shorten
from kd_scratch.common.errors import UserError
from kd_scratch.data.json_lines import find_object

MARKS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
SEPARATORS = ";,|#"  # usual ones, in one of which a file may differ from the settings


class Marks(dict):
    """What the columns of --label-column a,b,c hold in one row, by name."""


Value = object  # a cell, a field's JSON value, or Marks


def one_label(value: Value, name: str, place: str) -> str:
    """The label as a text, 1.0 as "1". UserError where it is none. name: of its column, place: file and line."""
    if isinstance(value, Marks):
        cure = "give one, or choose --task labels for several labels a text"
        raise UserError(f"{place}: --label-column names {len(value)} columns; {cure}")
    if isinstance(value, float) and value.is_integer():  # as pandas writes a column that lacks some
        value = int(value)
    if value == []:
        raise UserError(f"{place}: {name!r} is an empty list; write its label, or delete the line")
    if not isinstance(value, str | int):
        cure = "; for several labels a text choose --task labels" if isinstance(value, list) else ""
        raise UserError(f"{place}: {name!r} must be a text or a whole number, not {json_kind(value)}{cure}")
    return str(value).lower() if isinstance(value, bool) else str(value)


def choices(value: Value) -> Value:
    """The list in {"choices": […]}, as Label Studio writes several labels, or in a cell that is a JSON list of texts;
    or the value as it is."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            found = json.loads(value)
            return found if all(isinstance(part, str) for part in found) else value
    found = find_object(value) if isinstance(value, str) else value
    alone = type(found) is dict and [*found] == ["choices"] and isinstance(found["choices"], list)
    return found["choices"] if alone else value


PRINTED = r"""\[\s*['"\d].*\]|\[[^,]*,.*\]"""  # a list of texts, of numbers, or of several; [pos] may be a label's name


def refuse_list(value: Value, name: str, place: str, cure: str, pattern: str = r"\[.*\]") -> None:
    """UserError where a label is a list as a program prints it, as far as a pattern tells."""
    if isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL):
        raise UserError(f"{place}: {name!r} holds a list as a text, {shorten(value, 30)}; {cure}")


def json_kind(value: object) -> str:
    """What a JSON value is, in words."""
    kinds = {list: "a list", dict: "an object", float: "a fraction", bool: "true or false", int: "a number"}
    return kinds.get(type(value), "null")


class MultiLabels:
    """Reads the labels of one text after another, and counts what was odd about them.

    >>> labels = MultiLabels(";")
    >>> labels.read("b; a", "label", "x.csv: line 2"), labels.read("", "label", "x.csv: line 3")
    ((('a', 'b'), ()), ((), ()))
    >>> labels.read(Marks(a="0", b="1"), "", "x.csv: line 4")
    (('b',), ('a', 'b'))
    """

    def __init__(self, separator: str, column: str = ""):
        self.separator = separator
        self.column = column  # the one that is chosen; "": none is, or several are
        self.is_mark = False  # it holds 0 and 1: whether its name is a label of the text
        self.marks: Counter = Counter()  # its cells: is it a mark? None: it is empty
        self.empty = ""  # the place of the first that is empty
        self.counts: Counter = Counter()  # what was odd -> how often
        self.parted = 0  # cells that hold the separator
        self.others: Counter = Counter()  # cells that do not, but another one: which
        self.sizes: set[int | None] = set()  # of lists of 0 and 1; None: there are other ones

    def read(self, value: Value, name: str, place: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The labels that a text has, each once and sorted; and those that the file has columns for. An empty cell
        or list is no label. UserError for what is neither."""
        if self.is_mark:
            value = Marks({self.column: value})
        if isinstance(value, Marks):
            marked = {label: self.is_marked(mark, label, place) for label, mark in value.items()}
            return tuple(sorted(label for label in marked if marked[label])), tuple(marked)
        if value is None:
            cure = "write [] where a text has no label, and give texts whose labels nobody knows to --unlabelled"
            raise UserError(f"{place}: {name!r} is null; {cure}")
        refuse_list(value, name, place, f"write its labels with {self.separator!r} between them")
        if self.column:
            self.look_for_mark(value, name or self.column, place)
        if isinstance(value, list):
            self.sizes.add(len(value) if {*map(str, value)} <= {*MARKS} else None)
            twice = len(value) > len(set(map(str, value)))
            if twice and {*map(type, value)} <= {int, bool, float} and set(value) <= {0, 1}:
                cure = 'give their names, as in ["a", "b"], or write each into a field of its own'
                raise UserError(f"{place}: {name!r} has 0 and 1 instead of labels; {cure}")
            parts = [one_label(part, name, place) for part in value]
        else:
            parts = one_label(value, name, place).split(self.separator)
            self.parted += len(parts) > 1
            self.others.update(c for c in SEPARATORS if len(parts) == 1 and c in parts[0])
        labels = [part.strip() for part in parts if part.strip()]
        self.counts["rows that name a label twice, which counts once"] += len(set(labels)) < len(labels)
        return tuple(sorted(set(labels))), ()

    def look_for_mark(self, value: Value, name: str, place: str) -> None:
        """Count a cell of the chosen column, which has this name."""
        self.column = name
        mark = str(value).strip().lower()
        self.marks[mark in MARKS if mark else None] += 1
        self.empty = self.empty or place * (not mark)

    def is_marked(self, mark: Value, label: str, place: str) -> bool:
        """Whether a cell says that its label is there."""
        found = MARKS.get(str(mark).strip().lower())
        if found is None:
            what = f"column {label!r} holds {shorten(str(mark), 20)!r} instead of 0 or 1"
            raise UserError(f"{place}: {what}; correct it, or delete the row")
        return found

    def notes(self, path: Path) -> list[str]:
        """What was odd, in a line each with its count. UserError where each list has a 0 or 1 for each label.

        Where the one column that is chosen holds 0 and 1, it is a column of marks from here on."""
        if len(self.sizes) == 1 and (self.sizes | {0, 1}) - {0, 1, None}:
            cure = 'give the names of those that a text has, as in ["a", "b"]'
            what = f"each list of labels has {min(self.sizes)} numbers, 0 or 1, instead of labels"
            raise UserError(f"{path}: {what}; {cure}")
        if self.marks[True] and not self.marks[False]:
            self.is_mark = True
            if self.empty:
                self.is_marked("", self.column, self.empty)
            return [f"column {self.column!r} holds 0 and 1: whether a text has the label {self.column!r}"]
        notes = [f"{what}: {count:,}" for what, count in self.counts.items() if count]
        if self.others and not self.parted:
            [(other, count)] = self.others.most_common(1)
            notes.append(
                f"no label cell holds {self.separator!r}, {count:,} hold {other!r}, which is read as a part of "
                f"their label; --label-separator '{other}' would make several of it"
            )
        return notes
