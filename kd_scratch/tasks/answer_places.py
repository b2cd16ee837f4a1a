"""Where an answer stands in its context, however the file spells it and whatever its answer_start counts."""

import html
import re
import unicodedata
from collections.abc import Callable
from functools import partial

from kd_scratch.tasks.spans import SOLID

#: How a file may write an answer that its context writes otherwise.
SPELLINGS: dict[str, Callable[[str], str]] = {
    "": str,
    "with blanks around them": str.strip,
    "in decomposed Unicode": partial(unicodedata.normalize, "NFC"),
    "in composed Unicode": partial(unicodedata.normalize, "NFD"),
    "with HTML's escapes": html.unescape,
}
#: What answer_start may count instead of characters: an encoding, and the bytes of one unit in it.
UNITS = {"UTF-16 units": ("utf-16-le", 2), "bytes": ("utf-8", 1)}
MOVED = "moved"  # an answer is where the file does not have it
NEAR = 3  # characters by which answer_start may be wrong where an answer occurs several times


def locate(context: str, answer: str, start: int | None) -> tuple[str, int | None, str | None]:
    """An answer as the context spells it, where it begins, and what had to be repaired for that.

    None for the place: neither where the file has it, nor near there, nor at exactly one other place.
    """
    repairs = {}  # by spelling
    for how, spelling in SPELLINGS.items():
        repair = f"answers {how}, taken as the context writes them" if how else None
        repairs.setdefault(spelling(answer), repair)
    repairs.pop("", None)
    for text, repair in repairs.items() if start is not None else ():
        if context.startswith(text, start):
            return text, start, repair
        for unit, (encoding, size) in UNITS.items() if not context.isascii() else ():
            before = len(context.encode(encoding)[: start * size].decode(encoding, "ignore"))
            if context.startswith(text, before):
                return text, before, repair or f"answer_starts that count {unit}, turned into characters"
    for text, repair in repairs.items():
        places = places_of(text, context)
        near = [place for place in places if start is not None and abs(place - start) <= NEAR]
        if len(places) == 1 or len(near) == 1:
            return text, (near or places)[0], repair or MOVED
    return answer, None, None


def places_of(text: str, context: str) -> list[int]:
    """Where a text begins in its context: as whole words; where it never does, at the beginnings of longer ones, since
    many languages put endings behind theirs. "12" is not in "2012"."""
    places = [context.find(text)]
    while places[-1] >= 0:
        places.append(context.find(text, places[-1] + 1))
    beginnings = [i for i in places[:-1] if not in_word(context[max(0, i - 1) : i] + text[0])]
    whole = [i for i in beginnings if not in_word(text[-1] + context[i + len(text) : i + len(text) + 1])]
    return whole or beginnings


def in_word(pair: str) -> bool:
    """Whether two neighbours are characters of one word, of a script with blanks between words."""
    return re.fullmatch(rf"[^\W{SOLID}]{{2}}", pair) is not None
