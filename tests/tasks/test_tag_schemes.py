"""Labels of models in other schemes than IOB2: what they mean, and how gold tags are written with them."""

import itertools

import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.tasks.conll_metric import entities, to_iob2
from kd_scratch.tasks.tag_schemes import TagScheme

CONLL_IOB1 = "B-LOC B-MISC B-ORG I-LOC I-MISC I-ORG I-PER O"  # of an often downloaded model: no B-PER
LETTERS = {"IOB2": "BI", "IOB1": "BI", "IO": "I", "IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES", "BMEW": "BMEW"}


def label_set(letters, types=("PER", "LOC"), form="{letter}-{type}"):
    return ["O", *(form.format(letter=letter, type=kind) for kind in types for letter in letters)]


@pytest.mark.parametrize(
    ("labels", "style", "tags"),
    [
        ("O B-PER I-PER B-LOC I-LOC", "IOB2", "B-PER I-PER I-LOC"),
        (CONLL_IOB1, "IOB1", "B-LOC I-PER"),
        ("O I-PER I-LOC", "IO", "I-PER I-LOC"),
        ("O PER LOC", "IO", "I-PER I-LOC"),
        ("O B_PER I_PER", "IOB2", "B-PER I-PER"),
        ("O PER-B PER-I", "IOB2", "B-PER I-PER"),
        ("O B-PER", "IOB2", "B-PER"),
        ("O B-PER I-PER E-PER S-PER", "IOBES", "E-PER S-PER"),
        ("O B-PER I-PER L-PER U-PER", "BILOU", "L-PER U-PER"),
        ("O B-PER M-PER E-PER S-PER", "BMES", "M-PER E-PER"),
        ("O B-PER M-PER E-PER W-PER", "BMEW", "W-PER"),
        ("[PAD] O B-PER I-PER X [CLS] [SEP]", "IOB2", "B-PER I-PER"),
        ("O B-org-club I-org-club", "IOB2", "B-org-club"),
    ],
)
def test_labels_tell_their_scheme(labels, style, tags):
    scheme = TagScheme.of(labels.split())
    assert scheme.style == style
    assert set(tags.split()) <= set(scheme.tags)
    helpers = [label for label, tag in zip(labels.split(), scheme.tags, strict=True) if tag is None]
    assert set(helpers) <= {"[PAD]", "X", "[CLS]", "[SEP]"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("LABEL_0 LABEL_1 LABEL_2", "id2label.*holds no names"),
        ("O LABEL_1 LABEL_2", "id2label.*holds no names"),
        ("yes no", "not tags of entities.*'yes'"),
        ("O B-PER MISC", "not tags of entities.*'MISC'"),
        ("O B-PER U-PER E-PER", "mix schemes.*B, E, U"),
    ],
)
def test_labels_that_are_no_tags_are_refused(labels, message):
    with pytest.raises(UserError, match=message):
        TagScheme.of(labels.split())


@pytest.mark.parametrize(("style", "letters"), LETTERS.items())
@pytest.mark.parametrize("form", ["{letter}-{type}", "{letter}_{type}", "{type}-{letter}"])
def test_every_sequence_of_tags_is_written_and_read_again_but_for_what_a_scheme_cannot_say(style, letters, form):
    labels = label_set(letters, form=form)
    if style == "IOB1":
        labels.remove(form.format(letter="B", type="PER"))
    scheme = TagScheme.of(labels)
    assert scheme.style == style
    for tags in itertools.product(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], repeat=4):
        if tags != to_iob2(tags):
            continue
        written = scheme.encode(tags)
        lost = [label for label in written if label not in labels]
        if not lost:
            assert scheme.decode([labels.index(label) for label in written]) == tags
        else:  # a neighbour of its own type
            assert style in ("IOB1", "IO") and set(lost) <= {"B-PER", "B-LOC"}
            kinds = [(kind, first) for kind, first, _ in entities(tags)]
            ends = {(kind, end) for kind, _, end in entities(tags)}
            assert any(entity in ends for entity in kinds)


@pytest.mark.parametrize(
    ("labels", "written"),
    [
        ("O B-A I-A B-C I-C", "B-A I-A O B-A B-A B-C"),
        ("O I-A I-C B-A", "I-A I-A O I-A B-A I-C"),
        ("O A C", "A A O A B-A C"),  # IO has no B-A
        ("O B-A I-A E-A S-A S-C", "B-A E-A O S-A S-A S-C"),
        ("O B-A I-A L-A U-A U-C", "B-A L-A O U-A U-A U-C"),
        ("O B_A M_A E_A W_A W_C", "B_A E_A O W_A W_A W_C"),
    ],
)
def test_gold_tags_are_written_in_the_scheme_of_the_labels(labels, written):
    assert TagScheme.of(labels.split()).encode("B-A I-A O B-A B-A B-C".split()) == written.split()


def test_words_without_tags_stay_without():
    assert TagScheme.of(CONLL_IOB1.split()).encode([None, None]) == [None, None]
