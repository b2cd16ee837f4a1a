"""answer_file.py: every malformed answers file is one line with its place; what may be meant is read as it is meant."""

import hashlib
import json
import math
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.distillation.answer_file import AnswersFile, distribution, example_hash, read_multi_label, text_hash
from kd_scratch.distillation.units import LOWEST
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.classification import Example as Text

LABELS = ("no", "yes", "maybe")


def line(**fields) -> str:
    return json.dumps({"id": "x:1"} | fields)


def opened(tmp_path, *lines, task="csv", labels=LABELS) -> AnswersFile:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f"{text}\n" for text in lines))
    return AnswersFile(path, TASKS[task], labels)


WHOLE = {"no": 0.5, "yes": 0.25, "maybe": 0.25}
GOOD = line(probabilities=WHOLE)
#: what is wrong -> the line, what is printed of it
BAD = {
    "no JSON": ("{", "not JSON"),
    "no object": ("[1]", "is not an object"),
    "a key twice": ('{"id": "x:2", "id": "x:3"}', "the key 'id' is there twice"),
    "a label twice": ('{"id": "x:2", "probabilities": {"no": 1, "no": 0}, "rest": 0}', "the key 'no' is there twice"),
    "half a character": ('{"id": "x:2", "label": "\\ud800"}', "not usable JSON"),
    "about nothing": ('{"label": "no"}', 'is about no text; give its "id"'),
    "an empty hash": ('{"hash": "", "label": "no"}', "is about no text"),
    "a short hash": (line(hash="123", label="no"), "is about no text"),
    "a hash of other signs": (line(hash="x" * 64, label="no"), "is about no text"),
    "a text that is none": ('{"text": 3, "label": "no"}', "is about no text"),
    "no answer": (line(), 'has neither "probabilities" nor a "label"'),
    "a list": (line(probabilities=[0.5, 0.5]), 'has neither "probabilities"'),
    "scores of other names": (line(label="no", logits=[2, 1, 0]), "scores under 'logits' are not read; call them"),
    "another's prediction": (line(label="no", predicted_label="yes", confidence=0.9), "scores under 'predicted_label'"),
    "another's probability": (line(label="no", probability=0.9), "scores under 'probability' are not read"),
    "scores by label": (line(label="no", scores={"no": 0.4}), "scores under 'scores' are not read"),
    "scores of a prediction": (line(prediction="no", proba=0.6), "scores under 'proba' are not read"),
    "logarithms": (line(label="no", label_logprob=-0.5), "scores under 'label_logprob' are not read"),
    "null for a prediction": (line(label="no", prediction=None, confidence=1), 'has neither "probabilities"'),
    "an unknown label": (line(probabilities=WHOLE | {"perhaps": 0}), "'perhaps' is not one of the 3 labels of --train"),
    "an unknown single label": (line(label="perhaps", confidence=1), "'perhaps' is not one of the 3 labels"),
    "a missing label": (line(probabilities={"no": 0.5, "yes": 0.5}), "lacks the label 'maybe'"),
    "too much": (line(probabilities=WHOLE | {"no": 0.7}), "sum to 1.2 and not to 1"),
    "too little": (line(probabilities=WHOLE | {"no": 0.3}), "sum to 0.8 and not to 1"),
    "too little with the rest": (line(probabilities={"no": 0.3}, rest=0.1), "sum to 0.4 and not to 1"),
    "a rest for nobody": (line(probabilities=WHOLE | {"no": 0.3}, rest=0.2), "sum to 0.8 and not to 1"),
    "negative": (line(probabilities=WHOLE | {"no": -0.5, "yes": 1.25}), "of 'no' is -0.5; give a number from 0 to 1"),
    "above 1": (line(label="no", confidence=80), "of 'no' is 80; give a number from 0 to 1"),
    "NaN": (line(probabilities=WHOLE | {"no": math.nan}), "of 'no' is NaN"),
    "infinite": (line(probabilities=WHOLE | {"no": math.inf}), "of 'no' is Infinity"),
    "in quotes": (line(probabilities=WHOLE | {"no": "0.5"}), "of 'no' is \"0.5\""),
    "true": (line(probabilities={"no": True}, rest=0), "of 'no' is true"),
    "null in it": (line(probabilities=WHOLE | {"no": None}), "of 'no' is null"),
    "a confidence that is none": (line(label="no", confidence="sure"), 'has neither "probabilities"'),
    "a NaN confidence": (line(label="no", confidence=math.nan), "of 'no' is NaN"),
    "a negative rest": (line(probabilities={"no": 0.7, "yes": 0.7}, rest=-0.4), "of 'rest' is -0.4"),
    "a rest that is none": (line(probabilities={"no": 1}, rest="none"), "of 'rest' is \"none\""),
    "an empty rest": (line(probabilities={"no": 1}, rest=""), "of 'rest' is \"\""),
    "another answer, with its text": (line(label="no", text="a text"), "contradicts line 1, which is about"),
    "an id that is a fraction": (line(id=1.0, text="a", label="no"), '"id" must be a text or a whole number'),
    "an id that is a list": (line(id=["x"], text="a", label="no"), '"id" must be a text or a whole number'),
    "another answer": (line(label="no"), "contradicts line 1, which is about the same text; keep one of them"),
}


@pytest.mark.parametrize("what", BAD)
def test_every_malformed_line_is_refused_with_its_place(tmp_path, what):
    wrong, message = BAD[what]
    with pytest.raises(UserError) as refused:
        opened(tmp_path, GOOD, wrong)
    assert str(refused.value).startswith(f"{tmp_path}/a.jsonl: line 2: ") and message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_lines_without_an_answer_are_left_out_and_counted(tmp_path, capsys):
    nothing = [
        line(label="no", confidence=None),
        line(label="no", probabilities=None),
        json.dumps({"text": "a", "label": "no", "error": "line 3: there is no text"}),  # as `predict` writes it
        json.dumps({"error": "line 4: not JSON"}),
        line(label=None, score=None),
        line(labels=None, scores=None),
        line(words=None),
        line(spans=None, label="gold"),
    ]
    answers = [line(id="y", label="no", score=0.9, confidence=None), line(id="z", label="no", error="")]
    answers.append(line(id="e", label="no", error=0.02, prediction_time=3, prob_model="x"))
    file = opened(tmp_path, *nothing, GOOD, *answers)
    assert [row.id for row in file.rows] == ["x:1", "y", "z", "e"] and np.exp(file.rows[1].value).max() < 0.91
    assert file.find(["z"], [text_hash("")])[0].tolist() == [2]
    assert "lines without an answer (it is null, or an error), left out: 8" in capsys.readouterr().out


WORDS = {
    "no list": ({"words": {"no": 1}}, '"words" is no list of objects'),
    "none": ({}, '"words" is no list of objects'),
    "empty": ({"words": []}, '"words" is no list of objects'),
    "names": ({"words": ["O"]}, '"words" is no list of objects'),
    "one of them": ({"words": [{"label": "no"}, {"label": "B-X"}]}, "line 2: word 2: 'B-X' is not one of the 3 labels"),
}
SPANS = {
    "none": ({}, '"spans" is no list of objects'),
    "texts": ({"spans": ["a"]}, '"spans" is no list of objects'),
    "no text": ({"spans": [{"probability": 1}]}, 'a span has no "text"'),
    "a start that is none": ({"spans": [{"text": "a", "start": 1.5, "probability": 1}]}, '"start" is no whole number'),
    "a start before the text": (
        {"spans": [{"text": "a", "start": -3, "probability": 1}]},
        '"start" is no whole number',
    ),
    "no probability": ({"spans": [{"text": "a"}]}, "the probability of 'span 1' is null"),
    "too little": ({"spans": [{"text": "a", "probability": 0.4}]}, "sum to 0.4 and not to 1"),
}


@pytest.mark.parametrize("task, what", [*(("conll", what) for what in WORDS), *(("squad", what) for what in SPANS)])
def test_every_malformed_line_of_words_and_of_spans_too(tmp_path, task, what):
    fields, message = {"conll": WORDS, "squad": SPANS}[task][what]
    good = {"conll": {"words": [{"label": "no"}]}, "squad": {"spans": [{"text": "", "probability": 1}]}}[task]
    with pytest.raises(UserError) as refused:
        opened(tmp_path, line(id="y", **good), line(**fields), task=task)
    assert f"{tmp_path}/a.jsonl: line 2: " in str(refused.value) and message in str(refused.value)


def test_files_that_hold_nothing_are_refused(tmp_path):
    wrong = {"\n": "holds no answers", "[1]": "is a JSON array of no objects", "": "the file is empty"}
    for text, message in wrong.items():
        (tmp_path / "a.jsonl").write_text(text)
        with pytest.raises(UserError, match=message):
            AnswersFile(tmp_path / "a.jsonl", TASKS["csv"], LABELS)


@pytest.mark.parametrize("fields, expected", [
    (dict(probabilities=WHOLE), (0.5, 0.25, 0.25)),
    (dict(probabilities={"maybe": 0.25, "yes": 0.25, "no": 0.5}, rest=0), (0.5, 0.25, 0.25)),
    (dict(probabilities={"yes": 0.9}, rest=0.1), (0.05, 0.9, 0.05)),
    (dict(probabilities={}, rest=1), (1 / 3, 1 / 3, 1 / 3)),
    (dict(label="yes", confidence=0.8), (0.1, 0.8, 0.1)),
    (dict(label="yes", confidence=0.8, logits=[1, 2, 1]), (0.1, 0.8, 0.1)),
    (dict(label="no", prediction="yes", predicted_label="yes", confidence=0.8), (0.1, 0.8, 0.1)),
    (dict(label="yes", score=0.8), (0.1, 0.8, 0.1)),  # as transformers' pipelines write it
    (dict(labels=["maybe", "no", "yes"], scores=[0.5, 0.3, 0.2]), (0.3, 0.2, 0.5)),
    (dict(label="yes", score=None), (0, 1, 0)),
    (dict(label="yes"), (0, 1, 0)),
    (dict(label="the gold one, say", probabilities={"no": 1}, rest=-1e-17), (1, 0, 0)),
    (dict(probabilities={"no": 0.333, "yes": 0.333, "maybe": 0.333}), (1 / 3, 1 / 3, 1 / 3)),  # rounded
    (dict(probabilities={"no": 1.0000001, "yes": 0, "maybe": 0}), (1, 0, 0)),
])  # fmt: skip
def test_what_a_line_means(tmp_path, fields, expected):
    value = opened(tmp_path, line(**fields)).rows[0].value
    assert value.dtype == np.float32
    np.testing.assert_allclose(np.exp(value.astype(np.float64)), expected, rtol=1e-6)
    assert np.isfinite(value).all() and (value[np.array(expected) == 0] == np.float32(LOWEST)).all()


def test_labels_that_are_numbers_may_be_written_as_numbers(tmp_path):
    for label in (1, 1.0):
        value = opened(tmp_path, line(label=label, confidence=0.9), labels=("0", "1")).rows[0].value
        np.testing.assert_allclose(np.exp(value), (0.1, 0.9), rtol=1e-5)


def test_the_hash_is_anybodys_and_of_what_the_readme_says():
    assert text_hash("Größe") == hashlib.sha256("Größe".encode()).hexdigest()[:16]
    assert example_hash(TASKS["csv"], Text("x:1", "a text", None)) == text_hash("a text")
    assert example_hash(TASKS["csv"], Text("x:1", "a", None, pair="b")) == text_hash("a\nb")
    assert example_hash(TASKS["conll"], SimpleNamespace(words=("Ada", "flew"))) == text_hash("Ada flew")
    assert example_hash(TASKS["squad"], SimpleNamespace(context="c", question="q")) == text_hash("c\nq")


def test_lines_are_found_by_id_where_the_text_fits_and_else_by_text(tmp_path):
    one, two = text_hash("one"), text_hash("two")
    file = opened(
        tmp_path,
        line(id="a", label="no"),  # without text: the id decides
        line(id="b", hash=one.upper() + "0" * 48, label="no"),
        line(id="b", hash=two, label="yes"),  # the same id in another file
        json.dumps({"text": "three", "label": "no"}),
        json.dumps({"text": "three", "label": "no"}),  # the same again
        line(id="old name", text="four", label="no"),
        line(id="gone", text="five", label="no"),
    )
    ids = ["a", "b", "b", "c", "new name", "b", "x"]
    hashes = [text_hash("whatever"), one, two, *map(text_hash, ("three", "four", "six", "seven"))]
    found, unfit = file.find(ids, hashes)
    assert found.tolist() == [0, 1, 2, 3, 5, -1, -1]
    assert unfit.tolist() == [1], "an id that is there, of another text"


@pytest.mark.parametrize(
    ("labels", "row", "best"),
    [
        (("false", "true"), {"id": 5, "label": True, "confidence": 0.9}, "true"),
        (("no", "yes"), {"text": "a", "label": "no", "prediction": "yes", "confidence": 0.9}, "yes"),
        (("no", "yes"), {"id": "5", "hash": None, "label": "yes"}, "yes"),
    ],
    ids=["a number for an id, and a boolean", "of a file that had labels", "no hash"],
)
def test_lines_as_other_programs_write_them(tmp_path, labels, row, best):
    file = opened(tmp_path, json.dumps(row), labels=labels)
    assert labels[file.rows[0].value.argmax()] == best
    assert file.find(["5"], [text_hash("a")])[0].tolist() == [0]


def test_a_distribution_is_written_whole_or_with_its_best_labels():
    p = np.array([0.2, 0.7, 0.1])
    assert distribution(p, LABELS, 0) == {"probabilities": {"no": 0.2, "yes": 0.7, "maybe": 0.1}}
    assert distribution(p, LABELS, 3) == distribution(p, LABELS, 0)
    assert distribution(p, LABELS, 1) == {"probabilities": {"yes": 0.7}, "rest": 0.3}


def test_memory_holds_some_bytes_a_line_however_long_the_lines_are(tmp_path):
    lines = 4000
    text = (line(id=f"train.csv:{i}", probabilities=WHOLE, reason="because " * 40) for i in range(lines))
    (tmp_path / "a.jsonl").write_text("\n".join(text))
    tracemalloc.start()
    file = AnswersFile(tmp_path / "a.jsonl", TASKS["csv"], LABELS)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(file.ids) == lines and held < 100 * lines and peak < 400 * lines + 1e6, (held, peak)


@pytest.mark.parametrize("task, value", [
    ("csv", {"probabilities": {str(i): 1 / 2000 for i in range(2000)}}),
    ("conll", {"words": [{"probabilities": {"0": 1}, "rest": 0}] * 2}),
    ("squad", {"spans": [{"text": "a", "probability": 1}]}),
])  # fmt: skip
def test_the_same_line_twice_is_one_answer_and_a_small_difference_makes_two(tmp_path, task, value):
    labels = [str(i) for i in range(2000)]
    other = json.loads(
        json.dumps(value).replace("0.0005", "0.0004", 1).replace('"a"', '"b"').replace('{"0": 1}', '{"1": 1}', 1)
    )
    assert other != value and len(opened(tmp_path, line(**value), line(**value), task=task, labels=labels).ids) == 2
    with pytest.raises(UserError, match="line 2: contradicts line 1"):
        opened(tmp_path, line(**value), line(**other), task=task, labels=labels)
    if task == "conll":
        with pytest.raises(UserError, match="line 2: contradicts line 1"):
            opened(tmp_path, line(**value), line(words=value["words"][:1]), task=task, labels=labels)


def test_a_probability_of_several_labels_that_was_rounded_to_0_or_1_does_not_overrule_other_teachers():
    z = read_multi_label(
        {"probabilities": {"a": 0.0, "b": 1.0, "c": 0.25}}, {"a": 0, "b": 1, "c": 2}, "x.jsonl: line 1"
    )
    assert z.tolist() == pytest.approx([-math.log(1e9), math.log(1e9), -math.log(3)], rel=1e-7)
