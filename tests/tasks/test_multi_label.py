"""Several labels at once: how files write them, losses and metrics against what is counted by hand, the threshold."""

import json
import math
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import UNLABELLED, collate
from kd_scratch.distillation.losses import distillation_loss, partly_taught_loss
from kd_scratch.distillation.teacher import mean_probabilities
from kd_scratch.distillation.units import count_units, unit_labels, unit_logits
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.base import f1_score
from kd_scratch.tasks.multi_label import choose_threshold, sigmoid, tally
from kd_scratch.tasks.text_files import Example
from tests.conftest import tiny_model

TASK = TASKS["labels"]
NAMES = ("spam", "toxic", "threat")
CPU = torch.device("cpu")


def jsonl(*rows):
    """Objects, one a line."""
    return "".join(json.dumps(row) + "\n" for row in rows)


AB = [("one", ("a", "b")), ("two", ()), ("three", ("b",))]
COLUMNS = {"label_column": "a,b"}
#: variant -> name of the file, content, settings, what is read or what the refusal holds, what is told
VARIANTS = {
    "a separator": ("x.csv", "text,label\none,b;a\ntwo,\nthree, b \n", {}, AB, ""),
    "another one": ("x.tsv", "text\tlabel\none\ta|b\ntwo\t\nthree\tb\n", {"label_separator": "|"}, AB, ""),
    "several letters long": ("x.csv", "text,label\none,a / b\ntwo,\nthree,b\n", {"label_separator": " / "}, AB, ""),
    "quoted commas": ("x.csv", 'labels,text\n"a,b",one\n"",two\nb,three\n', {"label_separator": ","}, AB,
                      "'labels' is read as the label"),
    "twice in one cell, blanks": ("x.csv", "text,label\none,a;b; a\ntwo, ;; \nthree,b;\n", {}, AB,
                                  "rows that name a label twice, which counts once: 1"),
    "the wrong separator": ("x.csv", 'text,label\none,"a,b"\ntwo,c\n', {}, [("one", ("a,b",)), ("two", ("c",))],
                            "no label cell holds ';', 1 hold ','"),
    "lists": ("x.jsonl", jsonl({"text": "one", "labels": ["b", "a"]}, {"text": "two", "labels": []},
                               {"text": "three", "labels": ["b"]}), {}, AB, ""),
    "a label that holds the separator": ("x.jsonl", jsonl({"text": "one", "labels": ["a;b"]}), {},
                                         [("one", ("a;b",))], ""),
    "numbers and texts": ("x.jsonl", jsonl({"text": "one", "label": [3, True]}, {"text": "two", "label": "3;x"}), {},
                          [("one", ("3", "true")), ("two", ("3", "x"))], ""),
    "columns of 0 and 1": ("x.csv", "text,a,b\none,1,1\ntwo,0,0.0\nthree,False, 1 \n", COLUMNS, AB, ""),
    "columns by number": ("x.csv", "one,1,1\ntwo,0,0\n", {"text_column": "1", "label_column": "2,3", "header": "no"},
                          [("one", ("2", "3")), ("two", ())], ""),
    "fields of 0 and 1": ("x.jsonl", jsonl({"text": "one", "a": 1, "b": True}, {"text": "two", "a": 0, "b": False},
                                           {"text": "three", "a": 0.0, "b": 1}), COLUMNS, AB, ""),
    "one column of 0 and 1": ("x.csv", "text,b\none,1\ntwo,0.0\n", {"label_column": "b"},
                              [("one", ("b",)), ("two", ())], "column 'b' holds 0 and 1: whether a text has the label"),
    "one by its number": ("x.csv", "text,b\none,1\ntwo,0\n", {"text_column": "1", "label_column": "2"},
                          [("one", ("b",)), ("two", ())], "column 'b' holds 0 and 1"),
    "one field of 0 and 1": ("x.jsonl", jsonl({"text": "one", "b": True}, {"text": "two", "b": 0}),
                             {"label_column": "b"}, [("one", ("b",)), ("two", ())], "column 'b' holds 0 and 1"),
    "an empty one": ("x.csv", "text,b\none,1\ntwo,\n", {"label_column": "b"}, "line 3: column 'b' holds '' inst", ""),
    "a column of labels 0, 1, 2": ("x.csv", "text,b\none,1;2\ntwo,0\n", {"label_column": "b"},
                                   [("one", ("1", "2")), ("two", ("0",))], ""),
    "labels 0 and 1": ("x.csv", "text,label\none,1\ntwo,0\n", {}, [("one", ("1",)), ("two", ("0",))], ""),
    "Label Studio": ("x.csv", 'text,label\none,"{""choices"":[""b"",""a""]}"\ntwo,"{""choices"":[]}"\nthree,b\n', {},
                     AB, ""),
    "Label Studio's JSON": ("x.jsonl", jsonl({"text": "one", "label": {"choices": ["b", "a"]}}), {},
                            [("one", ("a", "b"))], ""),
    "pairs": ("x.csv", "premise,hypothesis,label\none,more,a;b\n", {}, [("one", ("a", "b"))], "read as pairs"),
    "other values": ("x.csv", "text,a,b\none,1,-1\n", COLUMNS,
                     "x.csv: line 2: column 'b' holds '-1' instead of 0 or 1", ""),
    "an empty mark": ("x.csv", "text,a,b\none,1,\n", COLUMNS, "line 2: column 'b' holds '' instead", ""),
    "no such column": ("x.csv", "text,a,b\none,1,0\n", {"label_column": "a,c"}, "0 columns are called 'c'", ""),
    "columns that no flag names": ("x.csv", "text,a,b,c d\none,1,0,1\ntwo,1,2,0\n", {},
                                   "2 of them hold 0 and 1: if each is a label, give --task labels --label-column "
                                   "'a,c d'", ""),
    "the text's column alone is missing": ("x.csv", "q,a,b\none,1,0\ntwo,1,0\n", COLUMNS,
                                           r"among q, a, b; .* a header give all as numbers\)$", ""),
    "no header": ("x.csv", "one,1,0\ntwo,0,1\n", {}, r"among one, 1, 0; .* a header give all as numbers\)$", ""),
    "no names, and a broken row": ("x.csv", 'q,r\none,1\ntwo,"0\n', {}, "'text' and 0 columns are called 'label'", ""),
    "a column twice": ("x.csv", "text,a,b\none,1,0\n", {"label_column": "a,a"}, "names a column twice", ""),
    "lists of 0 and 1": ("x.jsonl", jsonl({"text": "one", "labels": [0, 1, 0]}), {},
                         "line 1: 'labels' has 0 and 1 instead of labels", ""),
    "a list of one 1 each": ("x.jsonl", jsonl({"text": "one", "labels": [0, 1]}, {"text": "two", "labels": [1, 0]}), {},
                             "each list of labels has 2 numbers, 0 or 1, instead of labels", ""),
    "a JSON list in a cell": ("x.csv", 'text,labels\none,"[""b"", ""a""]"\n', {}, [("one", ("a", "b"))], ""),
    "a list as a text": ("x.csv", "text,labels\none,\"['a', 'b']\"\n", {},
                         "line 2: 'labels' holds a list as a text, ", ""),
    "fastText's lines": ("x.txt", "__label__b __label__a one\ntwo\n", {}, [("one", ("a", "b")), ("two", ())],
                         "words that begin with __label__ are labels"),
    "null": ("x.jsonl", jsonl({"text": "one", "labels": None}), {}, "'labels' is null; write ", ""),
    "an object": ("x.jsonl", jsonl({"text": "one", "labels": {"a": 1}}), {}, "not an object", ""),
    "a fraction in it": ("x.jsonl", jsonl({"text": "one", "labels": [0.5]}), {}, "not a fraction", ""),
    "a text of lines that end like empty cells": (
        "x.csv", 'text,label\n"roses are red,\nviolets are blue,\nand so on",a\ntwo,\n', {},
        [("roses are red,\nviolets are blue,\nand so on", ("a",)), ("two", ())], ""),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_labels_are_read_however_they_are_written(tmp_path, variant):
    name, content, settings, expected, note = VARIANTS[variant]
    (tmp_path / name).write_text(content)
    notes = []
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            TASK.read(tmp_path / name, "", DataConfig(**settings), notes.append)
        return
    examples = TASK.read(tmp_path / name, "", DataConfig(**settings), notes.append)
    assert [(example.text, example.label) for example in examples] == expected
    assert note in "\n".join(notes) and bool(note) <= bool(notes)


def test_one_column_of_marks_is_a_label_that_the_file_knows(tmp_path):
    (tmp_path / "x.csv").write_text("text,toxic\none,0\ntwo,0\n")
    examples = TASK.read(tmp_path / "x.csv", "", DataConfig(label_column="toxic"), lambda note: None)
    assert TASK.label_list(examples) == ("toxic",) and [example.label for example in examples] == [(), ()]


def test_a_list_in_a_cell_is_no_label(tmp_path):
    (tmp_path / "x.csv").write_text("text,label\none,[neg]\ntwo,[pos]\n")
    assert TASKS["csv"].read(tmp_path / "x.csv", "", DataConfig(), print)[0].label == "[neg]", "a name in brackets"
    for cell in ("['Sports']", "[27]"):
        (tmp_path / "x.csv").write_text(f"text,label\none,{cell}\n")
        with pytest.raises(UserError, match="line 2: 'label' holds a list as a text, .*; write the label alone"):
            TASKS["csv"].read(tmp_path / "x.csv", "", DataConfig(), lambda note: None)
    (tmp_path / "x.csv").write_text('text,label\none,"{""choices"":[""Sports""]}"\n')
    assert TASKS["csv"].read(tmp_path / "x.csv", "", DataConfig(), lambda note: None)[0].label == "Sports"
    (tmp_path / "x.csv").write_text('text,label\none," [""Sports""]"\n')
    assert TASKS["csv"].read(tmp_path / "x.csv", "", DataConfig(), lambda note: None)[0].label == "Sports"
    for name, content in (("x.jsonl", jsonl({"text": "one", "label": []})), ("x.csv", "text,label\none,[]\n")):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match="'label' is an empty list; write its label, or delete the line"):
            TASKS["csv"].read(tmp_path / name, "", DataConfig(), lambda note: None)
    (tmp_path / "x.csv").write_text('text,labels\none,"[""a"",""b""]"\ntwo,[]\n')
    found = TASKS["labels"].read(tmp_path / "x.csv", "", DataConfig(), lambda note: None)
    assert [example.label for example in found] == [("a", "b"), ()]


@pytest.mark.parametrize("cell", ["[" + " " * 3000 + "," * 3000 + "x", "[" + "1," * 100_000 + "x"])
def test_a_long_label_takes_moments(tmp_path, cell):
    (tmp_path / "x.csv").write_text(f'text,label\none,"{cell}"\n')
    start = time.process_time()
    with suppress(UserError):
        TASKS["csv"].read(tmp_path / "x.csv", "", DataConfig(), lambda note: None)
    assert time.process_time() - start < 1


@pytest.mark.parametrize("content, flag", [("a,b\n", "a,b"), (None, "label")])
def test_a_task_of_one_label_says_that_there_is_another(tmp_path, content, flag):
    path = tmp_path / ("x.csv" if content else "x.jsonl")
    path.write_text("text,a,b\none,1,0\n" if content else jsonl({"text": "one", "label": ["a", "b"]}))
    with pytest.raises(UserError, match="choose --task labels"):
        TASKS["csv"].read(path, "", DataConfig(label_column=flag), lambda note: None)


def test_columns_are_labels_also_where_no_training_text_has_them(tmp_path):
    (tmp_path / "x.csv").write_text("text,b,a\none,1,0\n")
    examples = TASK.read(tmp_path / "x.csv", "", DataConfig(label_column="b,a"), lambda note: None)
    assert TASK.label_list(examples) == ("a", "b")
    with pytest.raises(UserError, match="no text has a label"):
        TASK.label_list([Example("1", "t", ()), Example("2", "t", ())])


def test_a_label_that_the_model_does_not_have_is_refused_with_its_place(tokenizer):
    with pytest.raises(UserError, match="x.csv:2: label 'new' is not one of the 3 that the model has: spam"):
        TASK.featurize([Example("x.csv:2", "the fox", ("spam", "new"))], tokenizer, NAMES, 20, DataConfig())


# --- losses, long-hand in float64 ---


def batch_of(tokenizer, *labels):
    """A batch of texts with these labels, and its inputs."""
    examples = [Example(str(i), "the fox " * (i + 1), label) for i, label in enumerate(labels)]
    inputs = TASK.featurize(examples, tokenizer, NAMES, 20, DataConfig())
    return collate(inputs, np.arange(len(examples)), CPU), inputs


def test_each_label_of_each_text_is_a_unit_and_unlabelled_texts_have_no_labels(tokenizer):
    batch, inputs = batch_of(tokenizer, ("toxic", "spam"), (), None)
    assert inputs.multi_label and inputs.labels.tolist() == [[1, 1, 0], [0, 0, 0], [UNLABELLED] * 3]
    assert count_units(inputs, np.array([0, 2])) == 6 and len(unit_labels("sequence", batch)) == 9
    z = torch.randn(3, 3)
    probability = unit_logits("sequence", z, batch).softmax(dim=1)
    torch.testing.assert_close(probability[:, 1], z.sigmoid().flatten())


@pytest.mark.parametrize("temperature, alpha", [(1.0, 0.0), (1.0, 1.0), (2.0, 1.0), (5.0, 0.3)])
def test_losses_are_binary_cross_entropy_and_t_squared_times_binary_kl(tokenizer, temperature, alpha):
    batch, inputs = batch_of(tokenizer, ("toxic", "spam"), (), ("threat",))
    z, t = 3 * torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    units = (unit_logits("sequence", logits, batch) for logits in (z, t))
    found = distillation_loss(*units, unit_labels("sequence", batch), temperature, alpha)
    y = torch.tensor(inputs.labels, dtype=torch.float64)
    hard = soft = 0.0
    for a, b, label in zip(z.flatten().tolist(), t.flatten().tolist(), y.flatten().tolist(), strict=True):
        p, q, s = (1 / (1 + math.exp(-x)) for x in (b / temperature, a / temperature, a))
        soft += temperature**2 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
        hard -= label * math.log(s) + (1 - label) * math.log(1 - s)
    assert float(found) == pytest.approx((1 - alpha) * hard + alpha * soft, rel=1e-6)
    if alpha == 0:
        mean = F.binary_cross_entropy_with_logits(z, y)
        assert float(found) / count_units(inputs, np.arange(3)) == pytest.approx(float(mean), rel=1e-6)


def test_a_text_without_label_has_soft_targets_alone_and_one_without_answer_its_labels_alone(tokenizer):
    batch, _ = batch_of(tokenizer, ("toxic",), None)
    z, t = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(1))
    t[0] = torch.nan
    student, teacher = (unit_logits("sequence", logits, batch) for logits in (z, t))
    found = partly_taught_loss(student, teacher, unit_labels("sequence", batch), 2.0, 0.4)
    hard = F.binary_cross_entropy_with_logits(z[0], torch.tensor([0.0, 1.0, 0.0]), reduction="sum")
    p, q = (t[1] / 2).sigmoid(), (z[1] / 2).sigmoid()
    soft = 4 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum()
    torch.testing.assert_close(found, hard + 0.4 * soft)


def test_extreme_logits_give_no_nan():
    logits = torch.tensor([[0.0, 1e30], [0.0, -1e30], [0.0, 80.0]], requires_grad=True)
    teacher = torch.tensor([[0.0, -1e30], [0.0, 1e30], [0.0, 1e30]])
    loss = distillation_loss(logits, teacher.flip(0), torch.tensor([1, 0, 1]), 2.0, 0.5)
    loss.backward()
    assert logits.grad.isfinite().all()


def test_the_mean_of_teachers_probabilities_is_that_of_each_label(tokenizer, tmp_path):
    _, inputs = batch_of(tokenizer, ("toxic",), ())
    each = [np.random.default_rng(i).normal(size=(2, 3)).astype(np.float32) * 4 for i in range(3)]
    each[0][0, 0], each[1][0, 0], each[2][0, 0] = 60, 60, 60
    found = mean_probabilities(each, inputs, 2.0, tmp_path)
    assert found[0, 0] == 60, "1 − p is not lost where p is nearly 1"
    np.testing.assert_allclose(sigmoid(found / 2), np.mean([sigmoid(t / 2) for t in each], axis=0), rtol=1e-6)


# --- metrics ---


def predictions_of(gold, logits, threshold=0.5, **settings):
    """As of texts with these labels."""
    examples = [Example(str(i), f"text {i}", tuple(sorted(labels))) for i, labels in enumerate(gold)]
    logits = np.array(logits, np.float32)
    return Predictions(TASK, examples, None, logits, NAMES[: logits.shape[1]], DataConfig(**settings), threshold)


def test_metrics_by_hand():
    logits = [[9, 9, -9], [-9, -9, -9], [-9, -9, 9], [9, -9, -9]]
    found = TASK.score(predictions_of([("spam",), (), ("spam", "threat"), ("spam",)], logits))
    assert found["micro_f1"] == 2 * 3 / (4 + 4) and found["subset_accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx((2 * 2 / 5 + 0 + 1) / 3), "a label that nobody has counts as 0"
    assert found["per_class"]["spam"] == {"precision": 1.0, "recall": 2 / 3, "f1": 0.8, "support": 3}
    assert found["loss"] == pytest.approx((2 * 9 + 12 * np.log1p(np.exp(-9))) / 12)


def test_texts_none_of_whose_columns_the_model_knows_are_refused():
    example = Example("1", "text", (), known=("other",))
    predictions = replace(predictions_of([()], [[9, 9, -9]]), examples=[example])
    with pytest.raises(UserError, match="none of the columns of these texts is a label of the model; rename them"):
        TASK.score(predictions)


def test_what_a_file_has_no_column_for_is_neither_right_nor_wrong(tokenizer):
    examples = [Example(str(n), "a text", label, known=("spam", "toxic")) for n, label in enumerate([("spam",), ()])]
    logits = np.array([[2, -1, 9], [-3, -4, 8]], np.float32)  # threat is the third
    one = Predictions(TASK, examples, None, logits, NAMES, DataConfig(), 0.5)
    found, alone = TASK.score(one), TASK.score(predictions_of([("spam",), ()], logits[:, :2]))
    assert (
        found == alone and found["micro_f1"] == found["subset_accuracy"] == 1.0 and "threat" not in found["per_class"]
    )
    assert choose_threshold(one) == choose_threshold(predictions_of([("spam",), ()], logits[:, :2]))
    np.testing.assert_allclose(TASK.sureness(one), [sigmoid(np.array(1.0)), sigmoid(np.array(3.0))])
    unsure = replace(one, logits=np.array([[2, -1, 0.1], [-3, -4, -0.2]], np.float32))
    sure = TASK.sureness(unsure)  # a user's text gets a decision on each label, so a teacher is asked for this one too
    np.testing.assert_allclose(sure, [sigmoid(np.array(0.1)), sigmoid(np.array(0.2))], rtol=1e-6)
    assert TASK.confidence(one).example.tolist() == [0, 0, 1, 1]
    marks = TASK.featurize(examples, tokenizer, NAMES, 16, DataConfig()).labels
    assert marks.tolist() == [[1, 0, UNLABELLED], [0, 0, UNLABELLED]]


def test_the_threshold_is_the_best_one_on_dev_of_all_that_there_are():
    rng = np.random.default_rng(0)
    for _ in range(50):
        logits = np.round(rng.normal(size=(rng.integers(1, 8), 3)), 1)  # some are equal
        gold = [[name for name in NAMES if rng.random() < 0.3] for _ in logits]
        one = predictions_of(gold, logits)
        tried = [f1_score(tally(replace(one, threshold=t)).sum(axis=0)) for t in (*sigmoid(one.logits).ravel(), 2)]
        chosen = choose_threshold(one)
        assert f1_score(tally(replace(one, threshold=chosen)).sum(axis=0)) >= max(tried) - 1e-12
        if not any(gold):
            assert chosen == 0.5
    sure = predictions_of([("spam",), ()], [[5, -5, -5], [-5, -5, -5]])
    assert choose_threshold(sure) == pytest.approx(0.5), "where many are as good, the middle"


def test_the_models_threshold_decides_unless_another_is_asked_for():
    one = predictions_of([("spam",), ()], [[-1, -2, -3], [-3, -3, -3]], threshold=0.2)
    assert one.decisions == [("spam",), ()] and one.right.all()
    assert predictions_of([()], [[-1, -2, -3]], 0.2, label_threshold=0.3).decisions == [()]
    assert TASK.score(one)["threshold"] == 0.2


def test_how_sure_and_how_calibrated():
    one = predictions_of([("spam",), ()], [[2, -1, -9], [-9, -9, -9]], threshold=0.2)
    assert one.decisions[0] == ("spam", "toxic"), "0.27 is over the threshold"
    np.testing.assert_allclose(TASK.sureness(one), [sigmoid(np.array(-1.0)), sigmoid(np.array(9.0))])
    sure = TASK.confidence(one)
    np.testing.assert_allclose(sure.probability, sigmoid(one.logits).ravel())
    assert sure.right.tolist() == [True, *[False] * 5] and sure.example.tolist() == [0, 0, 0, 1, 1, 1]


def test_what_pages_and_tables_show():
    one = predictions_of([("spam",), ()], [[2, 3, -9], [-9, -9, -9]])
    first, second = TASK.summaries(one)
    assert (first.gold, first.predicted, first.points) == ("spam", "spam, toxic", pytest.approx(2 / 3))
    assert (second.gold, second.points) == ("(none)", 1.0)
    assert "toxic is not there" in TASK.mistakes(one, 5)
    record = TASK.prediction_records(one)["0"]
    assert (
        record["labels"] == ("spam", "toxic") and record["gold"] == ("spam",) and record["probabilities"]["toxic"] > 0.9
    )


def test_one_label_only(tokenizer):
    inputs = TASK.featurize([Example("1", "the fox", ("a",))], tokenizer, ("a",), 20, DataConfig())
    model = tiny_model("sequence", ("a",), multi_label=True)
    batch = collate(inputs, np.array([0]), CPU)
    z = model(**batch.inputs).logits
    loss = distillation_loss(unit_logits("sequence", z, batch), None, unit_labels("sequence", batch), 1.0, 0.0)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(z, torch.ones(1, 1)))
