"""What looks wrong though it can be read: each remark, and that good files get none."""

import pytest

from kd_scratch.tasks.file_checks import bare, near_labels, odd_labels, odd_texts


def test_good_texts_and_labels_get_no_remark():
    assert odd_texts(["a", "b", "c", "a"]) == [] and odd_texts([]) == []
    assert odd_labels(["x", "y"] * 20, ["x", "y"]) == [] and odd_labels([], []) == []
    assert near_labels(["B-LOC", "I-LOC", "+", "-", "1", "-1", "is", "i", "C", "C++", "C#", "yes", "no"]) == []


def test_empty_and_repeated_texts_are_counted():
    assert odd_texts(["a", " ", "\n", "b"]) == ["2 of 4 texts are EMPTY: is that the column of the texts?"]
    assert odd_texts(["gj04"] * 6 + ["b"] * 2)[0].startswith("6 of 8 texts are THE SAME, 'gj04'")


def test_one_class_is_remarked_but_not_in_a_handful():
    assert "ONE CLASS ONLY, 'x'" in odd_labels(["x"] * 3, ["x"])[0]
    assert "ONE CLASS ONLY among 20 examples, 'x'" in odd_labels(["x"] * 20, ["x", "y"])[0]
    assert odd_labels(["x"] * 19 + [None], ["x", "y"]) != [] and odd_labels(["x"] * 5, ["x", "y"]) == []


@pytest.mark.parametrize("pair", [("Sport", "sports"), ("a b", "a_b"), ("1", "01"), ("1", "1.0"), ("x ", "x"), ("É", "é")])
def test_labels_that_are_nearly_another_are_named(pair):
    assert bare(pair[0]) == bare(pair[1])
    assert near_labels(["other", *pair]) == [
        f"NEARLY THE SAME LABEL: {pair[0].strip()!r} and {pair[1].strip()!r}; are they one?"
    ]
