"""JSON lines: one object a line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from kd_scratch.common.errors import UserError
from kd_scratch.common.files import text_lines
from kd_scratch.data.rows import FileRows

Make = Callable[[int, dict], object]  # line number, object -> example, UserError, or None: no example


def json_rows(path: Path, make: Make) -> FileRows:
    """The example of each line, made when asked for; and once now, so that a bad line is found.

    Blank lines are none. Raises UserError with the line where it is no JSON object.
    """

    def rows() -> Iterator[tuple[int, int]]:
        for i, (place, text) in enumerate(text_lines(path), 1):
            if text.strip() and make(i, parse_line(text, f"{path}: line {i}", str(path))) is not None:
                yield i, place

    return FileRows(path, rows(), lambda i, text: make(i, parse_line(text, f"{path}: line {i}", str(path))))


def parse_line(text: str, place: str, name: str) -> dict:
    """The object in a line. UserError where there is none, a key is there twice, or text is half a character."""
    try:
        value = json.loads(text, object_pairs_hook=without_duplicates)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # fails where an escape is half a character (a surrogate)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("["):
            raise UserError(array_message(name)) from None
        raise UserError(f"{place}: not JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nested too deep; an integer of thousands of digits
        raise UserError(f"{place}: not usable JSON: {error}") from None
    if isinstance(value, list):
        raise UserError(array_message(name))
    if not isinstance(value, dict):
        raise UserError(f"{place}: is not an object; each line must be one, such as {{\"text\": …, \"label\": …}}")
    return value


def without_duplicates(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object. ValueError where a key is there twice."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:40]!r} is there twice")
    return value


def array_message(name: str) -> str:
    """What is wrong with a file that is one JSON array, and a command that mends it."""
    program = "import json, sys; [print(json.dumps(row)) for row in json.load(open(sys.argv[1], encoding='utf-8'))]"
    return (
        f"{name}: is one JSON array; JSON lines are needed, one object a line, for example by: "
        f'python -c "{program}" {name} > lines.jsonl'
    )
