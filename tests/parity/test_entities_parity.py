"""Entity counts against seqeval's default mode and against conlleval's algorithm, on generated tag sequences."""

import random

import pytest

from kd_scratch.tasks.conll_metric import entities, entity_metrics, scheme, to_iob2

seqeval = pytest.importorskip("seqeval.metrics")
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support  # noqa: E402

TYPES = ("PER", "LOC", "ORG", "MISC")


def random_tags(rng: random.Random, prefixes: str) -> list[str]:
    """Tags with no rule at all: stray I-, types that change in the middle, and long runs of one type."""
    tags, kind = [], rng.choice(TYPES)
    for _ in range(rng.randrange(1, 16)):
        if rng.random() < 0.3:
            kind = rng.choice(TYPES)
        tags.append("O" if rng.random() < 0.35 else f"{rng.choice(prefixes)}-{kind}")
    return tags


def as_iob1(tags: list[str]) -> list[str]:
    """The same entities with B- only between two of one type."""
    chunks = entities(tags)
    ends = {(kind, end) for kind, _, end in chunks}
    written = ["O"] * len(tags)
    for kind, start, end in chunks:
        written[start:end] = [("B-" if (kind, start) in ends else "I-") + kind] + [f"I-{kind}"] * (end - start - 1)
    return written


def noisy(rng: random.Random, tags: list[str], prefixes: str) -> list[str]:
    """What a model might say: mostly the same."""
    return [rng.choice(random_tags(rng, prefixes)) if rng.random() < 0.15 else tag for tag in tags]


def generated(seed: int, count: int, prefixes: str, written=list) -> tuple[list, list]:
    rng = random.Random(seed)
    gold = [written(random_tags(rng, prefixes)) for _ in range(count)]
    return gold, [noisy(rng, tags, prefixes) for tags in gold]


CASES = [
    pytest.param("BI", lambda tags: list(to_iob2(tags)), "IOB2", id="IOB2"),
    pytest.param("BI", as_iob1, "IOB1", id="IOB1"),
    pytest.param("BI", list, "mixed", id="no rules"),
    pytest.param("BIES", list, "IOBES", id="IOBES"),
]


@pytest.mark.parametrize(("prefixes", "written", "style"), CASES)
def test_entities_and_scores_are_seqevals_on_5000_sequences_of_each_scheme(prefixes, written, style):
    gold, said = generated(0, 5000, prefixes, written)
    assert scheme(gold) == style
    for tags in gold + said:
        assert [(kind, start, end - 1) for kind, start, end in entities(tags)] == get_entities(tags)
    ours = entity_metrics(gold, said)
    assert ours["precision"] == pytest.approx(seqeval.precision_score(gold, said), abs=1e-15)
    assert ours["recall"] == pytest.approx(seqeval.recall_score(gold, said), abs=1e-15)
    assert ours["f1"] == pytest.approx(seqeval.f1_score(gold, said), abs=1e-15)
    *scores, support = precision_recall_fscore_support(gold, said)
    assert list(ours["per_class"]) == sorted(TYPES)
    for i, row in enumerate(ours["per_class"].values()):
        assert [row[key] for key in ("precision", "recall", "f1")] == pytest.approx([s[i] for s in scores], abs=1e-15)
        assert row["gold_entities"] == support[i]


def conlleval_counts(gold: list, said: list) -> dict[str, tuple[int, int, int]]:
    """(correct, in gold, predicted) by type, as conlleval counts: one pass over the words with two open chunks.

    Written from the rules of the CoNLL-2000 scorer: a chunk ends and begins by looking at two neighbouring tags; it is
    correct when gold and prediction began it at the same word, and end it at the same word, with the same type.
    """

    def parts(tag):
        return ("O", "") if tag == "O" else tuple(tag.split("-", 1))

    def ends(before, kind_before, now, kind):
        if before == "O":
            return False
        return now in ("B", "S", "O") or before in ("E", "S") or kind_before != kind

    def begins(before, kind_before, now, kind):
        if now == "O":
            return False
        return now in ("B", "S") or before in ("E", "S", "O") or kind_before != kind

    counts = {}

    def add(kind, which):
        counts.setdefault(kind, [0, 0, 0])[which] += 1

    for gold_tags, said_tags in zip(gold, said, strict=True):
        before, together = (("O", ""), ("O", "")), False
        for pair in [*zip(gold_tags, said_tags, strict=True), ("O", "O")]:
            now = parts(pair[0]), parts(pair[1])
            ended = [ends(*old, *new) for old, new in zip(before, now, strict=True)]
            begun = [begins(*old, *new) for old, new in zip(before, now, strict=True)]
            if together and any(ended):
                if all(ended):
                    add(before[0][1], 0)
                together = False
            for side in (0, 1):
                if begun[side]:
                    add(now[side][1], 1 + side)
            if all(begun) and now[0][1] == now[1][1]:
                together = True
            before = now
    return {kind: tuple(numbers) for kind, numbers in counts.items()}


@pytest.mark.parametrize(("prefixes", "written", "style"), CASES)
def test_counts_are_conllevals_on_5000_sequences_of_each_scheme(prefixes, written, style):
    gold, said = generated(1, 5000, prefixes, written)
    names = ("correct_entities", "gold_entities", "predicted_entities")
    ours = entity_metrics(gold, said)
    theirs = conlleval_counts(gold, said)
    assert {kind: tuple(row[name] for name in names) for kind, row in ours["per_class"].items()} == theirs
    assert tuple(ours[name] for name in names) == tuple(map(sum, zip(*theirs.values(), strict=True)))
