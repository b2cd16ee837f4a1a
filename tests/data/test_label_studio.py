"""data/label_studio.py: its long export is read as its short one, tasks that nobody has finished as what they are."""

import json

import pytest

from kd_scratch.config import DataConfig
from kd_scratch.data.label_studio import without_wrapping
from kd_scratch.tasks import TASKS

TEXT = "Ada Berg flew to Torvia \U0001f600"


def place(start, end, *names):
    value = {"start": start, "end": end, "text": TEXT[start:end], "labels": [*names]}
    return {"id": "x", "from_name": "label", "to_name": "text", "type": "labels", "value": value}


def choice(*names):
    return {"from_name": "topic", "to_name": "text", "type": "choices", "value": {"choices": [*names]}}


def task(*annotations, **data):
    each = [{"id": i, "was_cancelled": not result, "result": [*result]} for i, result in enumerate(annotations)]
    return {"id": 7, "data": {"text": TEXT} | data, "annotations": each, "predictions": [], "meta": {}}


def read(tmp_path, task_name, *tasks, **settings):
    path, said = tmp_path / "export.json", []
    path.write_text(json.dumps(tasks, indent=settings.pop("indent", None)))
    examples = TASKS[task_name].read(path, "train", DataConfig(**settings), said.append)
    return [*examples], "\n".join(said)


@pytest.mark.parametrize("indent", [None, 2])
def test_marked_places_are_entities(tmp_path, indent):
    tasks = [task([place(17, 23, "LOC"), place(0, 8, "PER")]), task([], [place(0, 3, "PER")]), task([])]
    tasks.append(task(label="something of the data"))
    tasks[-1]["annotations"] = [{"id": 4, "result": []}]  # seen, and there is nothing
    examples, said = read(tmp_path, "conll", *tasks, indent=indent)
    assert [example.tags for example in examples] == [
        ("B-PER", "I-PER", "O", "O", "B-LOC", "O"), ("B-PER", *["O"] * 5), ("O",) * 6]  # fmt: skip
    assert "answer is reject or ignore, left out: 1" in said, "the one that was cancelled"


def test_choices_are_labels(tmp_path):
    one = [task([]), task([choice("b")]), task([choice("a")])]
    examples, said = read(tmp_path, "csv", *one, label_column="topic")
    assert [example.label for example in examples] == ["b", "a"] and "reject or ignore" in said
    examples, _ = read(tmp_path, "labels", task([choice("b", "a")]), task([choice("c")]), label_column="topic")
    assert [example.label for example in examples] == [("a", "b"), ("c",)]
    examples, _ = read(tmp_path, "csv", task([choice("b"), place(0, 3, "PER")]), label_column="topic")
    assert [example.label for example in examples] == ["b"]


@pytest.mark.parametrize(
    "row",
    [
        {"data": "a text", "annotations": [{"result": []}]},
        {"data": {"text": "a"}, "annotations": [{"result": [{"type": "labels"}]}]},
        {"data": {"text": "a"}, "annotations": [5]},
        {"data": {"text": "a"}, "annotations": {"a": 1}},
        {"text": "annotations and data"},
    ],
)
def test_what_is_no_such_task_stays_as_it_is(row):
    assert without_wrapping(json.dumps(row)) == json.dumps(row)
    assert without_wrapping(f'{"{"}"annotations": [], "data"') == f'{"{"}"annotations": [], "data"'
