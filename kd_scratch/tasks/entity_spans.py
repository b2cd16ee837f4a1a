"""Entities that a file gives by their characters, as annotation tools write them -> words, with a tag in IOB2 for each.

    {"text": "EU rejects German call", "label": [[0, 2, "ORG"], [11, 17, "MISC"]]}
    {"text": "EU rejects German call", "spans": [{"start": 0, "end": 2, "label": "ORG"}]}

Words are those of split_words, cut where an entity begins or ends within one.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from kd_scratch.common.console import shorten
from kd_scratch.common.errors import UserError
from kd_scratch.tasks.spans import split_words

ENTITY_KEYS = ("label", "labels", "entities", "spans")  # of the list
START_KEYS, END_KEYS = ("start", "start_offset"), ("end", "end_offset")
NAME_KEYS = ("label", "labels")  # of a name, or of a list of one
NOT_ACCEPTED = ("reject", "ignore")  # what a person's "answer" to an example may be


class Entity(NamedTuple):
    """Some of a text's characters, and what they are."""

    start: int
    end: int  # behind the last
    name: str


def text_of(row: dict, key: str) -> str | None:
    """The text of an object, under `key` or "text"; None where there is none."""
    return next((row[name] for name in (key, "text") if isinstance(row.get(name), str)), None)


def entity_list(row: dict, key: str) -> list | None:
    """The list of entities of an object, as it stands there, under `key` or a usual one; None where there is none."""
    lists = (row[name] for name in (key, *ENTITY_KEYS) if isinstance(row.get(name), list))
    return next((found for found in lists if all(isinstance(entity, list | dict) for entity in found)), None)


def tagged_words(text: str, entities: list, place: str) -> tuple[list[str], list[str]]:
    """The words of a text and their tags. UserError, with the place, where an entity is none or two overlap.

    >>> tagged_words("EU's call", [[0, 2, "ORG"]], "x.jsonl: line 1")
    (['EU', "'s", 'call'], ['B-ORG', 'O', 'O'])
    """
    found = sorted(read_entity(entity, text, place) for entity in entities)
    for first, second in pairwise(found):
        if second.start < first.end:
            both = " and ".join(repr(shorten(text[each.start : each.end], 30)) for each in (first, second))
            raise UserError(f"{place}: the entities {both} overlap, and a word has one tag; leave out one of them")
    starts = [entity.start for entity in found]
    borders = sorted({*starts, *(entity.end for entity in found)})
    words, tags, last = [], [], -1
    for start, end in split_words(text):
        inner = borders[bisect_right(borders, start) : bisect_left(borders, end)]
        for a, b in pairwise([start, *inner, end]):
            number = bisect_right(starts, a) - 1  # of the last entity that begins before
            is_inside = number >= 0 and a < found[number].end
            words.append(text[a:b])
            tags.append(f"{'I' if number == last else 'B'}-{found[number].name}" if is_inside else "O")
            last = number if is_inside else last
    return words, tags


def read_entity(value: object, text: str, place: str) -> Entity:
    """An entity of a list, without the blanks at its ends. UserError where it is none."""
    shown = f"{place}: entity {shorten(str(value), 40)}"
    if isinstance(value, dict):
        value = [first(value, keys) for keys in (START_KEYS, END_KEYS, NAME_KEYS)]
    start, end, name = value if isinstance(value, list) and len(value) == 3 else (None, None, None)
    name = name[0] if isinstance(name, list) and len(name) == 1 else name
    if type(start) is not int or type(end) is not int or not isinstance(name, str) or not name.strip():
        raise UserError(f"{shown} must be [start, end, NAME] or an object of start, end and label; correct it so")
    if not 0 <= start < end <= len(text):
        raise UserError(f"{shown} must lie within the text's {len(text):,} characters; correct it, or leave it out")
    inner = text[start:end]
    if not inner.strip():
        raise UserError(f"{shown} has no character but blanks; correct it, or leave it out")
    start += len(inner) - len(inner.lstrip())
    return Entity(start, start + len(inner.strip()), name.strip())


def first(row: dict, keys: Sequence[str]) -> object:
    """What stands under the first of the keys that is there, or None."""
    return next((row[key] for key in keys if key in row), None)
