"""JSON lines: one object a line."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from kd_scratch.common.console import Say, say, shorten
from kd_scratch.common.errors import UserError
from kd_scratch.common.text_file import AUTO, MARK, TextFile, open_text, temporary_copy
from kd_scratch.data.label_studio import without_wrapping
from kd_scratch.data.rows import FileRows

Make = Callable[[int, dict], object]  # line number, object -> example, UserError, or None: no example


def json_rows(file: Path | TextFile, make: Make) -> FileRows:
    """The example of each line, made when asked for; and once now, so that a bad line is found.

    file: open, or its path. Blank lines are none. Raises UserError with the line where it is no JSON object.
    """
    file = file if isinstance(file, TextFile) else open_rows(file)
    name = str(file.path)
    refuse_array(file)

    def rows() -> Iterator[tuple[int, int]]:
        for i, (place, text) in enumerate(file.lines(), 1):
            if text.strip() and make(i, parse_line(text, i, name)) is not None:
                yield i, place

    def parse(i: int, text: str) -> object:  # behind the line there may be others, that are no examples
        return make(i, parse_line(re.split("[\r\n]", text, maxsplit=1)[0], i, name))

    return FileRows(file, rows(), parse)


def find_object(line: str) -> dict | None:
    """The JSON object that a line is, or None: for a look at a file of which it is not known what it holds."""
    try:
        value = json.loads(line) if line.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def parse_line(text: str, line: int, name: str) -> dict:
    """The object in a line of the file of that name.

    Raises UserError where there is none, where it has a key twice, and where a text holds half a character.
    """
    place = f"{name}: line {line}"
    try:
        value = DECODER.decode(text.lstrip(MARK))  # where files were joined
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # fails where an escape is half a character (a surrogate)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: not JSON: {error.msg}; each line must hold one whole object") from None
    except (RecursionError, ValueError) as error:  # nested too deep; an integer of thousands of digits
        raise UserError(f"{place}: not usable JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f'{place}: is not an object; each line must be one, such as {{"text": …, "label": …}}')
    return value


def without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object. ValueError where a key is there twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=without_duplicates)


def refuse_array(file: TextFile) -> None:
    """UserError where a file begins with an array. (One of objects has become lines where `open_rows` opened it.)"""
    if file.first_line().lstrip(MARK).startswith("["):
        cure = 'give objects, as in {"text": …, "label": …}, one a line or in an array'
        raise UserError(f"{file.path}: is a JSON array of no objects; {cure}")


# --- one array of objects ---


def open_rows(path: Path, encoding: str = AUTO, say: Say = say, lenient: bool = False) -> TextFile:
    """A file of lines, a table or JSON, as open_text opens it; where it is one JSON array of objects, an unnamed copy
    in which each of them is a line: that in which it begins, where no other one begins in it."""
    file = open_text(path, encoding, say, lenient)
    beginning = "".join(text[:1000] for _, text in islice(file.lines(), 20))
    if not re.match(r'[\s\ufeff]*\[\s*\{\s*["}]', beginning):
        return file
    count, number = 0, 1  # the number of the next line of the copy
    with temporary_copy(path) as copy:
        for line, text in array_objects(file):
            count, blank = count + 1, max(0, line - number)
            copy.write(("\n" * blank + without_wrapping(text) + "\n").encode(errors=file.errors))
            number += blank + 1
        copy.flush()
    say(f"{path}: is one JSON array of {count:,} objects, read one by one")
    return TextFile(path, copy, lenient=lenient)


def array_objects(file: TextFile) -> Iterator[tuple[int, str]]:
    """(number of the line in which it begins, text on one line) of each object in an array that is all of a file.

    It is not parsed here, only where it ends is found. Raises UserError where that cannot be, or anything else is
    in the array or behind it.
    """
    depth, is_text, line, first, parts, between = 0, False, 0, 0, [], ""
    for line, (_, text) in enumerate(file.lines(), 1):
        begin = 0  # of what belongs to an object, or stands between two
        for match in re.finditer(r'\\.|["{}\[\]]', text):
            mark = match[0]
            is_text = is_text != (mark == '"')
            if is_text or mark[0] in '"\\':
                continue
            if mark in "{[":
                depth += 1
                if depth == 2:
                    between += text[begin : match.start()].strip()
                    if mark == "[" or between != ("," if first else "["):
                        what = f"is to hold objects with commas between, not {shorten(between + mark, 30)!r}"
                        raise UserError(f"{file.path}: line {line}: the array {what}")
                    first, begin, parts, between = line, match.start(), [], ""
                continue
            depth -= 1
            if depth == 1:
                yield first, "".join([*parts, text[begin : match.end()]])
                begin = match.end()
            elif depth == 0:
                between += text[begin : match.start()].strip() + mark.replace("]", "")
                begin = match.end()
        if is_text:
            cure = "write a line end in it as \\n, or was the file cut?"
            raise UserError(f"{file.path}: line {line}: a text does not end on its line; {cure}")
        rest = text[begin:].rstrip("\r\n")
        if depth > 1:
            parts.append(f"{rest} ")  # a line end within an object is a blank
        else:
            between += rest.strip()
    if depth or between:
        why = "does not end; was the file cut?" if depth else f"is not all; there is {shorten(between, 30)!r} beside it"
        raise UserError(f"{file.path}: line {line}: the array {why}")
