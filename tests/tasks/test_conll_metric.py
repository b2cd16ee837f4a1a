"""Tag schemes and entity scores, with every count worked out by hand."""

import pytest

from kd_scratch.tasks.conll_metric import entities, entity_metrics, scheme, to_iob2


def tags(text: str) -> list[str]:
    return text.split()


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("", []),
        ("O O", []),
        ("B-PER", [("PER", 0, 1)]),
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-LOC B-LOC", [("LOC", 0, 1), ("LOC", 1, 2)]),
        ("I-LOC I-LOC B-LOC", [("LOC", 0, 2), ("LOC", 2, 3)]),  # IOB1
        ("O I-LOC O", [("LOC", 1, 2)]),  # a stray I begins an entity
        ("B-PER I-LOC", [("PER", 0, 1), ("LOC", 1, 2)]),  # so does one of another type
        ("B-PER I-LOC I-PER", [("PER", 0, 1), ("LOC", 1, 2), ("PER", 2, 3)]),
        ("B-PER I-PER E-PER S-LOC", [("PER", 0, 3), ("LOC", 3, 4)]),  # IOBES
        ("S-PER S-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-PER I-PER L-PER U-LOC U-LOC", [("PER", 0, 3), ("LOC", 3, 4), ("LOC", 4, 5)]),  # BILOU
        ("B-PER M-PER E-PER S-LOC", [("PER", 0, 3), ("LOC", 3, 4)]),  # BMES
        ("B-PER E-PER W-LOC M-LOC", [("PER", 0, 2), ("LOC", 2, 3), ("LOC", 3, 4)]),  # a stray M begins one too
        ("E-PER I-PER", [("PER", 0, 1), ("PER", 1, 2)]),  # nothing goes on after an end
        ("S-PER E-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("B-org-club I-org-club", [("org-club", 0, 2)]),  # the type is all that follows the first hyphen
    ],
)
def test_entities_of_a_sequence(written, found):
    assert entities(tags(written)) == found
    assert entities(to_iob2(tags(written))) == found  # another way of writing the same entities


@pytest.mark.parametrize(
    ("written", "iob2"),
    [
        ("I-LOC I-LOC B-LOC O I-PER", "B-LOC I-LOC B-LOC O B-PER"),
        ("B-LOC E-LOC S-LOC O", "B-LOC I-LOC B-LOC O"),
        ("B-LOC L-LOC U-LOC O", "B-LOC I-LOC B-LOC O"),
        ("B-LOC M-LOC E-LOC W-LOC O", "B-LOC I-LOC I-LOC B-LOC O"),
        ("B-PER I-LOC", "B-PER B-LOC"),
        ("B-PER I-PER O B-PER", "B-PER I-PER O B-PER"),
    ],
)
def test_conversion_to_iob2(written, iob2):
    assert to_iob2(tags(written)) == tuple(tags(iob2))


@pytest.mark.parametrize(
    ("sentences", "style"),
    [
        (["O O"], "IOB2"),
        (["B-PER I-PER O B-LOC"], "IOB2"),
        (["I-PER I-PER", "O"], "IOB1"),
        (["I-PER B-PER", "O I-LOC B-LOC I-LOC"], "IOB1"),
        (["B-PER E-PER"], "IOBES"),
        (["O O", "S-PER"], "IOBES"),
        (["B-PER L-PER", "U-PER"], "BILOU"),
        (["B-PER M-PER E-PER"], "BMES"),
        (["B-PER M-PER E-PER W-LOC"], "BMEW"),
        (["B-PER E-PER U-PER"], "mixed"),
        (["B-PER", "I-PER"], "mixed"),  # each sentence begins anew
        (["I-PER O B-PER"], "mixed"),
        (["I-PER B-LOC"], "mixed"),  # IOB1 needs no B there
    ],
)
def test_the_scheme_of_a_file(sentences, style):
    assert scheme(map(tags, sentences)) == style


def test_scores_by_hand():
    gold = ["B-PER I-PER O B-LOC", "B-ORG I-ORG I-ORG", "O B-LOC", "O O"]
    predicted = ["B-PER I-PER O B-ORG", "B-ORG I-ORG O", "O I-LOC", "O B-LOC"]
    # correct: PER, and the LOC of the third sentence. Wrong: a type, an end, one where there is none.
    metrics = entity_metrics(map(tags, gold), map(tags, predicted))
    per_class = metrics.pop("per_class")
    assert metrics == {
        "precision": 2 / 5, "recall": 2 / 4, "f1": 4 / 9,
        "gold_entities": 4, "predicted_entities": 5, "correct_entities": 2,
    }  # fmt: skip
    rows = {kind: (row["correct_entities"], row["gold_entities"], row["predicted_entities"], row["f1"])
            for kind, row in per_class.items()}  # fmt: skip
    assert rows == {"LOC": (1, 2, 2, 0.5), "ORG": (0, 1, 2, 0.0), "PER": (1, 1, 1, 1.0)}
    assert list(rows) == ["LOC", "ORG", "PER"]


def test_nothing_to_divide_by_is_0():
    assert entity_metrics([["O"]], [["O"]])["f1"] == 0.0
    assert entity_metrics([["B-X"]], [["O"]])["precision"] == 0.0
    assert entity_metrics([["O"]], [["B-X"]])["recall"] == 0.0


def test_each_sentence_must_have_its_tags():
    with pytest.raises(ValueError):
        entity_metrics([["O"], ["O"]], [["O"]])
