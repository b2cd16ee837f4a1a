"""Entities in sequences of tags: the ways of writing them, and F1 by the rules of the CoNLL scorer, conlleval.

A tag is O (outside), or a letter with a type, as in B-LOC:

             New    York   Paris  is
    IOB2     B-LOC  I-LOC  B-LOC  O     every entity begins with B
    IOB1     I-LOC  I-LOC  B-LOC  O     B only where an entity follows another of its type
    IOBES    B-LOC  E-LOC  S-LOC  O     the last word, and an entity of a single one, have letters of their own
    BILOU    B-LOC  L-LOC  U-LOC  O     the same in other letters; so are BMES and BMEW, with M in the middle
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

#: The letters of an entity's first word, of one in the middle, of the last, and of an entity of a single word.
SCHEMES = {"IOB2": "BIIB", "IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEW": "BMEW"}
ONLY_TYPE = "ENTITY"  # where tags have none: B, I and O


def continues(previous: str, tag: str) -> bool:
    """Whether a word goes on with the entity of the word before it; every other tag but O begins a new one.

    conlleval's rule, which gives any sequence of tags a meaning: a tag for the inside or the end of an entity that
    follows no first or inner word of its own type begins one.
    """
    return tag[0] in "IEML" and previous[0] in "BIM" and previous[1:] == tag[1:]


def to_iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """The same entities in IOB2.  ("I-LOC", "I-LOC", "B-LOC", "O") -> ("B-LOC", "I-LOC", "B-LOC", "O")"""
    converted = []
    for previous, tag in pairwise(["O", *tags]):
        if tag == "O":
            converted.append(tag)
        else:
            converted.append(("I" if continues(previous, tag) else "B") + tag[1:])
    return tuple(converted)


def scheme(sentences: Iterable[Sequence[str]]) -> str:
    """Which way of writing entities these tags follow: one of SCHEMES by its letters, IOB1, or "mixed" (none)."""
    letters = set()
    not_iob2 = 0  # I that begins an entity
    not_iob1 = 0  # B that need not be one
    for tags in sentences:
        for previous, tag in pairwise(["O", *tags]):
            letters.add(tag[0])
            not_iob2 += tag[0] == "I" and not continues(previous, tag)
            not_iob1 += tag[0] == "B" and previous[1:] != tag[1:]
    found = scheme_of_letters(letters - {"O"})
    if found != "IOB2" or not not_iob2:
        return found
    return "mixed" if not_iob1 else "IOB1"


def scheme_of_letters(letters: set[str]) -> str:
    """The first of SCHEMES that writes tags with these letters; "mixed" where none does."""
    return next((name for name, known in SCHEMES.items() if letters <= set(known)), "mixed")


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, end) of each entity, in order; the end is exclusive.

    ("B-PER", "I-PER", "O", "B-LOC") -> [("PER", 0, 2), ("LOC", 3, 4)]
    """
    found: list[tuple[str, int, int]] = []
    for i, (previous, tag) in enumerate(pairwise(["O", *tags])):
        if tag == "O":
            continue
        start = i
        if continues(previous, tag):
            _, start, _ = found.pop()
        found.append((tag[2:], start, i + 1))
    return found


def entity_metrics(gold: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]) -> dict:
    """Counts, precision, recall and F1 over all entities, and the same for each type, all as fractions of 1.

    An entity is correct where type, first and last word agree. Whatever has nothing to divide by is 0.
    """
    in_gold, in_predicted, correct = Counter(), Counter(), Counter()
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        gold_entities = entities(gold_tags)
        predicted_entities = entities(predicted_tags)
        in_gold.update(kind for kind, _, _ in gold_entities)
        in_predicted.update(kind for kind, _, _ in predicted_entities)
        correct.update(kind for kind, _, _ in set(gold_entities) & set(predicted_entities))
    per_type = {}
    for kind in sorted(in_gold | in_predicted):
        per_type[kind] = _scores(correct[kind], in_gold[kind], in_predicted[kind])
    return _scores(correct.total(), in_gold.total(), in_predicted.total()) | {"per_class": per_type}


def _scores(correct: int, gold: int, predicted: int) -> dict:
    """Precision, recall and F1 from counts of entities, and the counts."""
    return {
        "precision": correct / predicted if predicted else 0.0,
        "recall": correct / gold if gold else 0.0,
        "f1": 2 * correct / (gold + predicted) if gold + predicted else 0.0,
        "gold_entities": gold,
        "predicted_entities": predicted,
        "correct_entities": correct,
    }
