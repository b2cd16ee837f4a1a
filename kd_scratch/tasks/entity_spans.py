"""Entities that a file gives by their characters, as annotation tools write them -> words, with a tag in IOB2 for each.

    {"text": "EU rejects German call", "label": [[0, 2, "ORG"], [11, 17, "MISC"]]}
    {"text": "EU rejects German call", "spans": [{"start": 0, "end": 2, "label": "ORG"}]}

Words are those of split_words, cut where an entity begins or ends within one.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

from kd_scratch.common.console import shorten
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.tasks.spans import split_words

TEXT_KEYS = (DataConfig.text_column, "data")
ENTITY_KEYS = (DataConfig.label_column, "labels", "entities", "ents", "spans")  # of the list
START_KEYS, END_KEYS = ("start", "start_offset"), ("end", "end_offset")
NAME_KEYS = ("label", "labels", "entity_group")  # of a name, or of a list of one
SEEN_KEYS = ("annotator", "annotation_id")  # somebody has looked at it: a text without a list has no entity
REJECTED = ("reject", "ignore")  # what a person's "answer" to an example, or to an entity, may be


class Entity(NamedTuple):
    """Some of a text's characters, and what they are."""

    start: int
    end: int  # behind the last
    name: str
    spelled: str = ""  # as the file says that it is spelled, or ""


def text_of(row: dict, column: str) -> str | None:
    """The text of an object; None where there is none. column: --text-column."""
    keys = TEXT_KEYS if column == DataConfig.text_column else (column,)
    return next((row[key] for key in keys if isinstance(row.get(key), str)), None)


def entity_keys(column: str) -> tuple[str, ...]:
    """Where the list of entities may stand. column: --label-column."""
    return ENTITY_KEYS if column == DataConfig.label_column else (column,)


def entity_list(row: dict, column: str, place: str) -> list | None:
    """The entities of an object as they stand there; None where there is no list of such. column: --label-column.

    UserError where there are several.
    """
    lists = {key: row[key] for key in entity_keys(column) if isinstance(row.get(key), list)}
    lists = {key: found for key, found in lists.items() if all(isinstance(entity, list | dict) for entity in found)}
    full = [key for key, found in lists.items() if found]
    if len(full) > 1:
        cure = f"leave one of them out, or choose it, as in --label-column {full[-1]}"
        raise UserError(f"{place}: has entities under {' and '.join(full)}; {cure}")
    is_empty = bool(lists) or any(key in row for key in SEEN_KEYS)
    return lists[full[0]] if full else [] if is_empty else None


class EntityReader:
    """Makes words and tags of one text after another, and counts what was odd about their entities.

    >>> EntityReader().read("EU's call", [[0, 2, "ORG"]], "x.jsonl: line 1")
    (['EU', "'s", 'call'], ['B-ORG', 'O', 'O'])
    """

    def __init__(self):
        self.counts: Counter[str] = Counter()  # what was odd -> how often
        self.first: dict[str, str] = {}  # where it was first

    def odd(self, what: str, place: str, count: int = 1) -> None:
        """Count something odd."""
        if count:
            self.first.setdefault(what, place.rpartition(": ")[2])
            self.counts[what] += count

    def notes(self, path: Path) -> list[str]:
        """What was odd, in a line each."""
        return [f"{path}: {what}: {n:,}, the first in {self.first[what]}" for what, n in self.counts.items()]

    def read(self, text: str, entities: list, place: str) -> tuple[list[str], list[str]]:
        """The words of a text and their tags. UserError for what is no entity, and where two overlap."""
        kept = [each for each in entities if not (isinstance(each, dict) and each.get("answer") in REJECTED)]
        self.odd("entities that somebody rejected, left out", place, len(entities) - len(kept))
        found = [read_entity(each, place) for each in kept]
        if not are_spelled_so(found, text):
            found = of_units(found, text)
            if not are_spelled_so(found, text):
                raise UserError(f"{place}: an entity is not where its start and end are; correct them, or leave it out")
            self.odd("texts whose entities count UTF-16 units, turned into characters", place)
        unique = sorted({entity[:3] for entity in found})
        self.odd("entities given twice", place, len(found) - len(unique))
        found = [Entity(*each) for each in unique]
        for entity in found:
            check_entity(entity, text, place)
        for first, second in pairwise(found):
            if second.start < first.end:
                both = " and ".join(repr(shorten(text[each.start : each.end], 30)) for each in (first, second))
                raise UserError(f"{place}: the entities {both} overlap, and a word has one tag; leave out one of them")
        words, tags, cut = tagged_words(text, [trimmed(entity, text, place) for entity in found])
        self.odd("words that an entity begins or ends within, cut there", place, cut)
        return words, tags


def tagged_words(text: str, entities: Sequence[Entity]) -> tuple[list[str], list[str], int]:
    """The words of a text, their tags, and how many words were cut. entities: in their order, none over another."""
    starts = [entity.start for entity in entities]
    borders = sorted({*starts, *(entity.end for entity in entities)})
    words, tags, last, cut = [], [], -1, 0
    for start, end in split_words(text):
        inner = borders[bisect_right(borders, start) : bisect_left(borders, end)]
        cut += bool(inner)
        for a, b in pairwise([start, *inner, end]):
            number = bisect_right(starts, a) - 1  # of the last entity that begins before
            is_inside = number >= 0 and a < entities[number].end
            words.append(text[a:b])
            tags.append(f"{'I' if number == last else 'B'}-{entities[number].name}" if is_inside else "O")
            last = number if is_inside else last
    return words, tags, cut


def read_entity(value: object, place: str) -> Entity:
    """An entity of a list. UserError where it is none."""
    parts, spelled = value, ""
    if isinstance(value, dict):
        parts = [next((value[key] for key in keys if key in value), None) for keys in (START_KEYS, END_KEYS, NAME_KEYS)]
        spelled = value["text"] if isinstance(value.get("text"), str) else ""
    start, end, name = parts[:3] if isinstance(parts, list) and len(parts) >= 3 else (None, None, None)
    name = name[0] if isinstance(name, list) and len(name) == 1 else name
    if type(start) is not int or type(end) is not int or not isinstance(name, str) or not name.strip():
        shown = shorten(str(value), 40)
        raise UserError(f"{place}: entity {shown} must be [start, end, NAME] or an object of start, end and label")
    return Entity(start, end, " ".join(name.split()), spelled)


def are_spelled_so(entities: Sequence[Entity], text: str) -> bool:
    """Whether each entity is where the text has what it is spelled like, if the file says that. Blanks do not count,
    nor does \\n for a line's end."""
    for entity in entities:
        spelled = entity.spelled.replace("\\n", " ").split()
        if spelled and text[entity.start : entity.end].replace("\\n", " ").split() != spelled:
            return False
    return True


def of_units(entities: Sequence[Entity], text: str) -> list[Entity]:
    """By characters the entities that count UTF-16 units, as JavaScript does: characters beyond U+FFFF have two."""
    ends = [0, *accumulate(1 + (character > "\uffff") for character in text)]
    return [each._replace(start=bisect_left(ends, each.start), end=bisect_left(ends, each.end)) for each in entities]


def check_entity(entity: Entity, text: str, place: str) -> None:
    """UserError where an entity is not within its text."""
    start, end, name = entity[:3]
    if not 0 <= start < end <= len(text):
        what = f"must lie within the text's {len(text):,} characters"
        raise UserError(f"{place}: entity [{start}, {end}, {name[:40]}] {what}; correct it, or leave it out")


def trimmed(entity: Entity, text: str, place: str) -> Entity:
    """An entity without the blanks at its ends. UserError where it has nothing else."""
    inner = text[entity.start : entity.end]
    start = entity.start + len(inner) - len(inner.lstrip())
    if not inner.strip():
        what = f"entity [{entity.start}, {entity.end}, {entity.name[:40]}] has no character but blanks"
        raise UserError(f"{place}: {what}; correct it, or leave it out")
    return entity._replace(start=start, end=start + len(inner.strip()))
