"""What a person sees in the terminal: plain tables and progress bars."""

import os
import re
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TextIO

from tqdm import tqdm

from kd_scratch.common.errors import printable

COLUMNS = 80  # that tables fit into
Say = Callable[[str], None]  # what takes a note: `say`, or the append of a list
_silent = False
# tqdm's own lock is one for all processes that come of this one: killed while it holds that, one would stop them all.
tqdm.set_lock(threading.RLock())


def progress(iterable: Iterable | None = None, **options) -> tqdm:
    """A progress bar on stderr, for work of more than a second.

    In a log file (no terminal) it reports every half minute instead of constantly.
    """
    terminal = sys.stderr.isatty()
    settings = {"leave": False, "delay": 1, "file": sys.stderr, "dynamic_ncols": terminal}
    if _silent:
        settings["disable"] = True
    if not terminal:
        settings |= {"mininterval": 30, "ncols": COLUMNS}
    return tqdm(iterable, **(settings | options))


def silence() -> None:
    """From here on this process prints nothing but errors: it is one of several ranks."""
    sys.stdout = open(os.devnull, "w")  # closed when the process ends
    hush()


def hush(silent: bool = True) -> None:
    """From here on no progress bars and no notes: --quiet."""
    global _silent
    _silent = silent


def say(text: str) -> None:
    """Print a note or progress, not a result: silent with --quiet."""
    if not _silent:
        print(re.sub("^note:", coloured("note:", YELLOW, sys.stdout), text), flush=True)


def show(text: str) -> None:
    """Print a result. On a terminal the headers of tables are bold."""
    header = re.compile(r"^(.+)(?=\n *-[- ]*$)", re.M)  # the line above a rule
    print(header.sub(lambda found: coloured(found[1], BOLD, sys.stdout), text))


BOLD = 1
RED = 31
YELLOW = 33


def coloured(text: str, code: int, stream: TextIO) -> str:
    """The text in a colour (or bold) where the stream is a terminal that has some, and nobody has set NO_COLOR."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def duration(seconds: float) -> str:
    """42 s, 7 min, 3 h 05 min: as exact as an estimate is."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def shorten(text: str, length: int) -> str:
    """A text on one line, at most so many characters of it."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= length else text[: length - 1] + "…"


def cell(value) -> str:
    """One table cell: floats with four digits, thousands separated, a dash for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def table(header: Sequence[str], rows: Iterable[Sequence], markdown: bool = False, left: bool = False) -> str:
    """Rows as aligned text, or as a Markdown table. The first column is flush left, the others right (or left too).

    Text fits into 80 columns: what does not is continued below, under its first column; where all columns are flush
    left, the last one is wrapped.
    """
    lines = [list(header)]
    lines += [[cell(value) for value in row] for row in rows]
    if markdown:  # texts may hold what parts its columns
        lines = [[text.replace("|", r"\|") for text in line] for line in lines]
    if left and not markdown:
        lines = [part for line in lines for part in _wrapped(line, lines)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    aligned = [
        [
            text.ljust(width) if i == 0 or left else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    if markdown:
        rule = ["-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
        return "\n".join("| " + " | ".join(line) + " |" for line in [aligned[0], rule, *aligned[1:]])
    aligned.insert(1, ["-" * width for width in widths])
    return "\n\n".join(_blocks(aligned, widths))


def _blocks(aligned: list[list[str]], widths: list[int]) -> list[str]:
    """The table's lines cut into blocks of columns that fit into COLUMNS, each with the first column."""
    blocks = []
    start = 1
    while start < len(widths) or not blocks:
        end = start + 1
        while end < len(widths) and sum(widths[start : end + 1]) + widths[0] + 2 * (end + 1 - start) <= COLUMNS:
            end += 1
        blocks.append("\n".join("  ".join([line[0], *line[start:end]]).rstrip() for line in aligned))
        start = end
    return blocks


def _wrapped(line: list[str], lines: list[list[str]]) -> list[list[str]]:
    """A row whose last cell is cut into so many lines that the table fits."""
    before = sum(max(len(other[i]) for other in lines) + 2 for i in range(len(line) - 1))
    first, *others = textwrap.wrap(line[-1], max(20, COLUMNS - before)) or [""]
    return [[*line[:-1], first], *([""] * (len(line) - 1) + [other] for other in others)]
