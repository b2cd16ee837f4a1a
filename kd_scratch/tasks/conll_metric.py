"""Entities in sequences of tags: the three ways of writing them, and F1 by the rules of the CoNLL scorer, conlleval.

A tag is O (outside), or B, I, E, S (begin, inside, end, single) with a type, as in B-LOC:

             New    York   Paris  is
    IOB2     B-LOC  I-LOC  B-LOC  O     every entity begins with B
    IOB1     I-LOC  I-LOC  B-LOC  O     B only where an entity follows another of its type
    IOBES    B-LOC  E-LOC  S-LOC  O
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

TAG = re.compile(r"O|[BIES]-.+")


def continues(previous: str, tag: str) -> bool:
    """Whether a word goes on with the entity of the word before it; every other tag but O begins a new one.

    conlleval's rule, which makes sense of anything a model may say: an I or E that follows no B or I of its own type
    begins an entity.
    """
    return tag[0] in "IE" and previous[0] in "BI" and previous[1:] == tag[1:]


def to_iob2(tags: Sequence[str]) -> tuple[str, ...]:
    """The same entities in IOB2.  ("I-LOC", "I-LOC", "B-LOC", "O") -> ("B-LOC", "I-LOC", "B-LOC", "O")"""
    pairs = pairwise(["O", *tags])
    return tuple("O" if tag == "O" else "BI"[continues(before, tag)] + tag[1:] for before, tag in pairs)


def scheme(sentences: Iterable[Sequence[str]]) -> str:
    """Which way of writing entities these tags follow: IOBES (it has E or S), IOB2, IOB1, or "mixed" (neither)."""
    stray = spare = 0  # I that begins an entity: not in IOB2; B that need not be one: not in IOB1
    for tags in sentences:
        for before, tag in pairwise(["O", *tags]):
            if tag[0] in "ES":
                return "IOBES"
            stray += tag[0] == "I" and not continues(before, tag)
            spare += tag[0] == "B" and before[1:] != tag[1:]
    return "IOB2" if not stray else "mixed" if spare else "IOB1"


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """(type, first word, end) of each entity, in order; the end is exclusive.

    ("B-PER", "I-PER", "O", "B-LOC") -> [("PER", 0, 2), ("LOC", 3, 4)]
    """
    found = []
    for i, (before, tag) in enumerate(pairwise(["O", *tags])):
        if tag == "O":
            continue
        first = found.pop()[1] if continues(before, tag) else i
        found.append((tag[2:], first, i + 1))
    return found


def entity_metrics(gold: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]]) -> dict:
    """Counts, precision, recall and F1 over all entities, and the same for each type, all as fractions of 1.

    An entity is correct where type, first and last word agree. Whatever has nothing to divide by is 0.
    """
    in_gold, in_predicted, hits = Counter(), Counter(), Counter()
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        right, said = entities(gold_tags), entities(predicted_tags)
        in_gold.update(kind for kind, _, _ in right)
        in_predicted.update(kind for kind, _, _ in said)
        hits.update(kind for kind, _, _ in set(right) & set(said))
    per_type = {kind: _scores(hits[kind], in_gold[kind], in_predicted[kind]) for kind in sorted(in_gold | in_predicted)}
    return _scores(hits.total(), in_gold.total(), in_predicted.total()) | {"per_class": per_type}


def _scores(hits: int, gold: int, predicted: int) -> dict:
    return {
        "precision": hits / predicted if predicted else 0.0,
        "recall": hits / gold if gold else 0.0,
        "f1": 2 * hits / (gold + predicted) if gold + predicted else 0.0,
        "gold_entities": gold,
        "predicted_entities": predicted,
        "correct_entities": hits,
    }
