"""What looks wrong though it can be read: each remark, and that good files get none."""

import time
from dataclasses import replace

import pytest

from kd_scratch.tasks.conll_file import Example as Sentence
from kd_scratch.tasks.file_checks import bare, near_labels, odd_labels, odd_questions, odd_sentences, odd_texts
from kd_scratch.tasks.squad_file import Example as Question


def test_good_texts_and_labels_get_no_remark():
    assert odd_texts(["a", "b", "c", "a"]) == [] and odd_texts([]) == []
    assert odd_labels(["x", "y"] * 20, ["x", "y"]) == [] and odd_labels([], []) == []
    assert near_labels(["B-LOC", "I-LOC", "+", "-", "1", "-1", "is", "i", "C", "C++", "C#", "yes", "no"]) == []
    assert near_labels(["1.1", "11", "1-1", "A1.0", "A10", "10-20", "1020", "1.1.1"]) == []


def test_empty_and_repeated_texts_are_counted():
    assert odd_texts(["a", " ", "\n", "b"]) == ["2 of 4 texts are EMPTY: is that the column of the texts?"]
    assert odd_texts(["gj04"] * 6 + ["b"] * 2)[0].startswith("6 of 8 texts are THE SAME, 'gj04'")


def test_classes_that_are_scores_are_named():
    assert odd_labels(["5.0", "3.8"] * 9, ["5", "3.8", "-1.25"]) == [
        "SCORES, such as '3.8'? Each is a class of its own here: numbers are not predicted"
    ]
    assert not odd_labels(["1.0", "2"] * 9, ["1.0", "2"]) and not odd_labels(["v", "1.5"] * 9, ["v", "1.5"])


def test_a_long_text_or_label_of_numbers_takes_moments():
    start, text = time.process_time(), "1" * 200_000 + "a"
    assert odd_texts([text]) == odd_labels([text, "b"], [text, "b"]) == []
    assert time.process_time() - start < 1


def test_texts_that_are_numbers_are_counted():
    assert odd_texts(["1", "2.5", "2024-01-01", "12 %", "five"]) == [
        "4 of 5 texts are NUMBERS: is that the column of the texts?"
    ]
    assert odd_texts(["12", "call 12", "!", "?"]) == []


def test_labels_that_are_as_many_as_texts_are_remarked():
    swapped = [f"my card number {i % 73}" for i in range(192)]
    assert odd_labels(swapped, ["a", "b"])[0].startswith("73 DIFFERENT ONES among 192 examples: is that the column of")
    assert odd_labels([f"l{i}" for i in range(20)], ["a", "b"])[0].startswith("20 DIFFERENT ONES among 20 examples")
    assert odd_labels([f"card_arrival_{'x' * (i % 77)}" for i in range(192)], ["a", "b"]) == [], "few of many classes"


def test_one_class_is_remarked_but_not_in_a_handful():
    assert "ONE CLASS ONLY, 'x'" in odd_labels(["x"] * 3, ["x"])[0]
    assert "ONE CLASS ONLY among 20 examples, 'x'" in odd_labels(["x"] * 20, ["x", "y"])[0]
    joined = "SEVERAL LABELS IN ONE: 1 of 3, such as 'x;y'; for several labels a text choose --task labels"
    assert odd_labels(["x", "y", "x;y"], ["x", "x;y", "y"]) == [joined]
    assert odd_labels([], ["x", "x, y", "y"])[0].endswith("--task labels --label-separator ','")
    assert odd_labels([], ["x", "x, z", "y", "or;and"]) == [], "z is no label by itself"
    assert odd_labels(["x"] * 19 + [None], ["x", "y"]) != [] and odd_labels(["x"] * 5, ["x", "y"]) == []


@pytest.mark.parametrize(
    ("names", "odd"),
    [
        (["nan", "a"], 1),
        (["None", "a"], 1),
        (["none", "a"], 0),
        (["-1", "0", "1", "2"], 1),
        (["-1", "0", "1"], 0),
        (["a", "b"], 0),
    ],
)
def test_classes_that_may_mean_no_label_are_named(names, odd):
    assert sum("A CLASS CALLED" in remark for remark in odd_labels(names * 10, names)) == odd


@pytest.mark.parametrize(
    "pair",
    [("Sport", "sports"), ("a b", "a_b"), ("1", "01"), ("1", "1.0"), ("x ", "x"), ("É", "é"), ("o\u0308", "ö")],
)
def test_labels_that_are_nearly_another_are_named(pair):
    assert bare(pair[0]) == bare(pair[1])
    assert near_labels(["other", *pair]) == [
        f"NEARLY THE SAME LABEL: {pair[0].strip()!r} and {pair[1].strip()!r}; are they one?"
    ]


def questions(count: int = 10, **change) -> list[Question]:
    return [replace(Question(f"{i}", "where?", "a fox", ("fox",), 2), **change) for i in range(count)]


@pytest.mark.parametrize(
    "examples, remark",
    [
        (
            questions(3, context=" ") + questions(7),
            "3 of 10 contexts are EMPTY: is that the context's place, --context-column?",
        ),
        (questions(3, question="") + questions(7), "3 of 10 questions are EMPTY"),
        (questions(6, start=None) + questions(4), "HARDLY ANY ANSWER IS FOUND, 6 of 10 are not"),
        (questions(answers=(), start=None), "NO QUESTION HAS AN ANSWER"),
    ],
)
def test_odd_questions_are_noticed(examples, remark):
    [found] = odd_questions(examples)
    assert found.startswith(remark)


def test_usual_questions_are_not_odd():
    assert odd_questions(questions()) == odd_questions([]) == []
    assert odd_questions(questions(answers=(), start=None) + questions(1)) == []
    assert odd_questions(questions(answers=(), start=None, labelled=False)) == [], "nobody knows whether they have one"


def sentences(words: str, tags: str, count: int = 10) -> list[Sentence]:
    return [Sentence(f"x:{i}", tuple(words.split()), tuple(tags.split()), "d") for i in range(count)]


@pytest.mark.parametrize(
    "examples, remark",
    [
        (sentences("fox", "O", 6) + sentences("a fox", "O B-X", 4), "MOST SENTENCES ARE ONE WORD, 6 of 10"),
        (sentences("fox " * 201, "O B-X " + "O " * 199, 1), "SENTENCES OF 201 WORDS"),
        (sentences("1 2 x", "O O B-X"), "MOST WORDS HOLD DIGITS, the first are '1', '2', 'x'"),
        (sentences("1-1 s2 x", "O O B-X"), "MOST WORDS HOLD DIGITS, the first are '1-1', 's2', 'x'"),
        (sentences("a fox", "O O"), "NO ENTITY among 20 words"),
        (sentences("a fox ran", "B-NP I-NP B-VP", 9), "HARDLY ANY WORD IS O, 0 of 27"),
    ],
)
def test_odd_sentences_are_noticed(examples, remark):
    [found] = odd_sentences(examples)
    assert found.startswith(remark)


def test_usual_sentences_are_not_odd():
    assert odd_sentences(sentences("a fox ran", "O B-X O")) == odd_sentences([]) == []
    assert odd_sentences([replace(e, tags=(None, None)) for e in sentences("a fox", "O O", 20)]) == [], "no labels"
