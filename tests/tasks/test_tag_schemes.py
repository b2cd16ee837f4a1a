"""Labels of models in other schemes than IOB2: what they mean, and how gold tags are written with them."""

import itertools

import numpy as np
import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.distillation.teacher import label_order
from kd_scratch.tasks import Predictions
from kd_scratch.tasks.conll_file import Example
from kd_scratch.tasks.conll_metric import entities, to_iob2
from kd_scratch.tasks.tag_schemes import HELPERS, TagScheme
from kd_scratch.tasks.token_classification import TASK, featurize, probabilities, student_labels, teaches_iob1

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
        ("O b-per i-per b-loc i-loc", "IOB2", "B-per I-per I-loc"),
        ("O e-mail person", "IO", "I-e-mail I-person"),
        ("O PER-B PER-I", "IOB2", "B-PER I-PER"),
        ("O B-PER", "IOB2", "B-PER"),
        ("O B-PER I-PER E-PER S-PER", "IOBES", "E-PER S-PER"),
        ("O B-PER I-PER L-PER U-PER", "BILOU", "L-PER U-PER"),
        ("O B-PER M-PER E-PER S-PER", "BMES", "M-PER E-PER"),
        ("O B-PER M-PER E-PER W-PER", "BMEW", "W-PER"),
        ("[PAD] O B-PER I-PER X [CLS] [SEP]", "IOB2", "B-PER I-PER"),
        ("O B-org-club I-org-club", "IOB2", "B-org-club"),
        ("B I O", "IOB2", "B-ENTITY I-ENTITY"),
        ("O I X", "IO", "I-ENTITY"),
        ("O B I E S", "IOBES", "E-ENTITY"),
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


# --- a model whose labels are of such a scheme ---

TAGS = "O B-PER I-PER O B-LOC B-ORG I-ORG".split()
LABEL_SETS = {
    "IOB1": CONLL_IOB1,
    "IOB2 with helpers": "[PAD] O B-PER I-PER B-LOC I-LOC B-ORG I-ORG X [CLS] [SEP]",
    "names": "PER LOC ORG O",
    "IOBES": " ".join(label_set("BIES", ("PER", "LOC", "ORG"))),
    "BILOU with underscores": " ".join(label_set("BILU", ("PER", "LOC", "ORG"), "{letter}_{type}")),
}


def predictions_of(labels, tokenizer, right):
    """Logits of 2 for the label of each word of one sentence and 3 for helpers, on which none is."""
    words = tuple("the quick brown fox jumps over dog".split())
    example = Example("x:1", words, tuple(TAGS), "x")
    features = featurize([example], tokenizer, labels, 40, DataConfig())
    logits = np.zeros((len(features.tokens), len(labels)), np.float32)
    logits[features.word_at, [labels.index(label) for label in right]] = 2
    logits[:, [label.upper() in HELPERS for label in labels]] = 3
    return Predictions(TASK, [example], features, logits, labels, DataConfig())


@pytest.mark.parametrize("labels", LABEL_SETS.values(), ids=LABEL_SETS)
def test_gold_tags_become_labels_and_decisions_iob2_whatever_the_scheme(tokenizer, labels):
    labels = tuple(labels.split())
    predictions = predictions_of(labels, tokenizer, TagScheme.of(labels).encode(TAGS))
    assert predictions.decisions == [tuple(TAGS)]
    metrics = TASK.score(predictions)
    assert (metrics["f1"], metrics["accuracy"], metrics["unreachable_words"]) == (1, 1, 0)
    real = sum(label.upper() not in HELPERS for label in labels)
    probability = np.exp(2) / (np.exp(2) + real - 1)  # among the labels that a word can have
    assert probabilities(predictions) == pytest.approx([probability] * len(TAGS))
    assert metrics["loss"] == pytest.approx(-np.log(probability))


def test_nine_labels_that_were_learned_as_iob1_are_noticed_and_score_the_same(tokenizer):
    labels = tuple(label_set("BI", ("PER", "LOC", "ORG")))
    for right, begun in (("O I-PER I-PER O I-LOC I-ORG I-ORG", 3), (" ".join(TAGS), 0)):
        metrics = TASK.score(predictions_of(labels, tokenizer, right.split()))
        assert (metrics["f1"], metrics["accuracy"], metrics["begun_with_i"]) == (1, 1, begun)
        assert ("3 of 3 predicted entities begin with I-" in TASK.details(metrics)) is bool(begun)


def test_a_teacher_that_learned_iob1_is_noticed_by_what_it_has_answered():
    names, labels = ("O", "B-PER", "I-PER"), np.array([0, 1, 2, 1, 1, 1, 0])
    logits = np.full((7, 3), np.nan)
    logits[[1, 3]] = (0, 1, 2)
    assert teaches_iob1(logits, labels, names), "of two that are answered both begin with I"
    logits[[4, 5]] = (0, 2, 1)
    assert not teaches_iob1(logits, labels, names)


def test_a_student_writes_tags_as_its_teacher_does_where_that_says_the_same():
    data = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")
    same = ("B-PER", "I-PER", "O", "I-LOC", "B-LOC")
    assert TASK.student_labels(data, same) == data  # re-indexed by name
    assert TASK.student_labels(data, ("O", "PER", "LOC")) == ("O", "PER", "LOC")
    for other in (("O", "PER"), ("LABEL_0", "LABEL_1"), ("O", "PER", "LOC", "ORG")):  # refused when it is opened
        assert TASK.student_labels(data, other) == data


@pytest.mark.parametrize(
    ("labels", "adopted"),
    [
        ("O I-PER E-PER", False),
        ("O B-PER I-PER E-PER", False),
        ("O B-PER I-PER E-PER S-PER", True),
        ("O B-PER", False),
        ("O I-PER", True),
        ("O b-PER i-PER", True),
        ("O I-PER B-LOC", False),
    ],
)
def test_a_teachers_labels_are_those_of_its_student_only_where_they_can_write_every_tag(labels, adopted):
    """Else it is refused: it was trained on other labels."""
    own = ("O", "B-PER", "I-PER") if "LOC" not in labels else ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    found = student_labels(own, tuple(labels.split()))
    assert found == (tuple(labels.split()) if adopted else own)
    if not adopted:
        with pytest.raises(UserError, match="the teacher was trained on other labels"):
            label_order(tuple(labels.split()), found)
