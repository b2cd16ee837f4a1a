"""JSON lines: one object a line."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from kd_scratch.common.errors import UserError
from kd_scratch.common.text_file import MARK, TextFile, open_text
from kd_scratch.data.rows import FileRows

Make = Callable[[int, dict], object]  # line number, object -> example, UserError, or None: no example


def json_rows(file: Path | TextFile, make: Make) -> FileRows:
    """The example of each line, made when asked for; and once now, so that a bad line is found.

    file: open, or its path. Blank lines are none. Raises UserError with the line where it is no JSON object.
    """
    file = file if isinstance(file, TextFile) else open_text(file)
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
    """UserError where a file is one JSON array, with a command that mends it where that is of objects."""
    beginning = "".join(text[:1000] for _, text in islice(file.lines(), 20)).lstrip(MARK).lstrip()
    if not beginning.startswith("["):
        return
    example = 'JSON lines are needed, each an object, such as {"text": …, "label": …}'
    if re.search(r"\]\s*\n\s*\[", beginning):
        raise UserError(f"{file.path}: holds arrays; {example}")
    if beginning[1:].lstrip()[:1] not in ("{", ""):
        raise UserError(f"{file.path}: is one JSON array, and not of objects; {example}")
    program = "import json, sys; [print(json.dumps(row)) for row in json.load(open(sys.argv[1], 'rb'))]"
    target = file.path.with_name(f"{file.path.stem}-lines.jsonl")  # not itself, `>` would empty it
    raise UserError(
        f"{file.path}: is one JSON array; JSON lines are needed, one object a line, for example by: "
        f'python -c "{program}" {shlex.quote(str(file.path))} > {shlex.quote(str(target))}'
    )
