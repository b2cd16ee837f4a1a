"""What a person sees in the terminal: plain tables and progress bars."""

import os
import sys
import threading
from collections.abc import Iterable, Sequence

from tqdm import tqdm

from kd_scratch.files import printable

_silent = False
# tqdm's own lock is one for all processes that come of this one: killed while it holds that, one would stop them all.
tqdm.set_lock(threading.RLock())


def progress(iterable: Iterable | None = None, **options) -> tqdm:
    """A progress bar on stderr, for work of more than a second.

    In a log file (no terminal) it reports every half minute instead of constantly.
    """
    terminal = sys.stderr.isatty()
    usual = {"leave": False, "delay": 1, "file": sys.stderr, "dynamic_ncols": terminal}
    usual |= {"disable": True} if _silent else {}
    patient = {} if terminal else {"mininterval": 30, "ncols": 80}
    return tqdm(iterable, **(usual | patient | options))


def silence() -> None:
    """From here on this process prints nothing but errors: one of several that work on the same thing."""
    sys.stdout = open(os.devnull, "w")  # closed when the process ends
    global _silent
    _silent = True


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
    """One table cell: floats with four digits, thousands separated, a dash for what there is not."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else printable(str(value))


def table(header: Sequence[str], rows: Iterable[Sequence], markdown: bool = False, left: bool = False) -> str:
    """Rows as aligned text, or as a Markdown table. The first column is flush left, the others right (or left too)."""
    lines = [list(header)] + [[cell(value) for value in row] for row in rows]
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
    rule = ["-" * width for width in widths]
    return "\n".join("  ".join(line).rstrip() for line in [aligned[0], rule, *aligned[1:]])
