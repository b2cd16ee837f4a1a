"""Several labels at once on the command line: learned, distilled, scored, compared, answered, traced, made smaller."""

import csv
import json
import random
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_scratch import predict
from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import fingerprint, load_config, load_model, save_model
from kd_scratch.config import DataConfig, RunConfig, TrainConfig
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.demo.site import make_site, open_groups
from kd_scratch.distillation.answer_file import AnswersFile
from kd_scratch.evaluation.evaluate import evaluate, load_for_inference
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.multi_label import sigmoid
from kd_scratch.training.examples import encode_training_data
from kd_scratch.training.preflight import preflight
from kd_scratch.training.setup import set_up
from kd_scratch.training.spec import RunSpec
from kd_scratch.training.teacher_outputs import add_teacher_outputs

TASK = TASKS["labels"]
CUES = {"sport": "goal match", "trade": "shares profit", "space": "moon probe", "food": "bread soup"}
FILLERS = "the of and a new old big long last day week year".split()
USUAL = ["--device", "cpu", "--threads", "1", "--quiet"]
LEARN = (
    "--batch-size 16 --learning-rate 1e-3 --warmup-steps 20 --max-length 16 --device cpu --threads 1 --quiet".split()
)


def texts(count, seed):
    """Texts and their labels, of which each is there in one text of three: two words for each among others."""
    rng = random.Random(seed)
    for _ in range(count):
        labels = [name for name in CUES if rng.random() < 0.33]
        words = [word for name in labels for word in CUES[name].split()] + rng.choices(FILLERS, k=2)
        rng.shuffle(words)
        yield " ".join(words), labels


def write(path, count, seed, form="cells"):
    """A file of such texts, in one of the forms that labels may have."""
    rows = list(texts(count, seed))
    if form == "lists":
        lines = [json.dumps({"text": text, "labels": labels}) for text, labels in rows]
    elif form == "columns":
        lines = ["text," + ",".join(CUES)]
        lines += [",".join([text, *(str(int(name in labels)) for name in CUES)]) for text, labels in rows]
    elif form == "texts":
        lines = [text for text, _ in rows]
    else:
        lines = ["text,label", *(f"{text},{';'.join(labels)}" for text, labels in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def run(*argv):
    """A command that succeeds."""
    assert main([str(word) for word in argv]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with data in all forms, a teacher, and a student of its first layer distilled on few labels."""
    folder = tmp_path_factory.mktemp("several")
    write(folder / "train.csv", 400, 0)
    write(folder / "dev.jsonl", 60, 1, "lists")
    write(folder / "test.csv", 60, 2, "columns")
    write(folder / "more.txt", 200, 3, "texts")
    data = ["--task", "labels", "--train", folder / "train.csv", "--dev", folder / "dev.jsonl"]
    data += ["--cache", folder / "cache", *LEARN]
    run("train", *data, "--model", "tiny-student", "--vocab-size", 300, "--epochs", 6, "--output", folder / "teacher")
    student = ["--model", "tiny-student", "--teacher", folder / "teacher", "--labelled", 20, "--alpha", 0.9]
    more = ["--unlabelled", folder / "more.txt", "--augment", 1, "--epochs", 4, "--output", folder / "student"]
    run("train", *data, *student, *more)
    return folder


def metrics(runs, capsys, model, *more):
    """Of a model on the test file."""
    capsys.readouterr()
    flags = ["--data", runs / "test.csv", "--label-column", ",".join(CUES), "--json"]
    run("evaluate", "--task", "labels", "--model", runs / model, *flags, *USUAL, *more)
    return json.loads(capsys.readouterr().out)["metrics"]


def test_it_is_learned_and_distilled_and_each_label_by_itself(runs, capsys):
    teacher, student = (metrics(runs, capsys, name) for name in ("teacher", "student"))
    assert teacher["micro_f1"] > 0.95 and teacher["macro_f1"] > 0.95 and teacher["subset_accuracy"] > 0.85
    assert student["micro_f1"] > 0.9, "20 labels, and the teacher's answers for 600 texts and their copies"
    assert set(teacher["per_class"]) == set(CUES)


def test_the_folder_says_what_it_is_and_keeps_the_threshold_of_the_best_epoch(runs, capsys):
    raw = json.loads((runs / "teacher/config.json").read_text())
    config = load_config(runs / "teacher")
    assert raw["problem_type"] == "multi_label_classification" and raw["label_threshold"] == config.threshold
    record = json.loads((runs / "teacher/training.json").read_text())
    best = record["history"][record["best_epoch"] - 1]["dev"]
    capsys.readouterr()
    evaluation = ["evaluate", "--task", "labels", "--model", runs / "teacher", "--data", runs / "dev.jsonl", "--json"]
    run(*evaluation, *USUAL)
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert found["micro_f1"] == best["micro_f1"] and found["threshold"] == config.threshold
    lower = metrics(runs, capsys, "teacher", "--label-threshold", "0.01")
    assert sum(row["recall"] for row in lower["per_class"].values()) >= 3.99 and lower["threshold"] == 0.01


def test_the_loss_of_a_run_does_not_depend_on_how_its_batches_are_cut(runs, tmp_path):
    losses = []
    for parts in (1, 4):
        data = ["--task", "labels", "--train", runs / "train.csv", "--dev", runs / "dev.jsonl", *LEARN]
        flags = ["--model", runs / "student", "--teacher", runs / "teacher", "--dropout", 0, "--steps", 2]
        run(
            "train",
            *data,
            *flags,
            "--accumulation",
            parts,
            "--cache",
            runs / "cache",
            "--output",
            tmp_path / str(parts),
        )
        losses.append(json.loads((tmp_path / str(parts) / "training.json").read_text())["history"][0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def soft_targets_of(runs, tmp_path, **sources):
    """The logits that teach in a run."""
    config = TrainConfig(max_length=16, alpha=1.0, teacher_mean=sources.pop("teacher_mean", "logits"))
    paths = dict(train=runs / "train.csv", dev=str(runs / "dev.jsonl"), model=str(runs / "student"))
    more = dict(output=tmp_path / "run", cache=tmp_path / "cache", unlabelled=runs / "more.txt")
    spec = RunSpec("labels", **paths, **more, **sources, config=config, run=RunConfig(device="cpu", threads=1))
    one = set_up(spec)
    one.train_inputs = encode_training_data(one.spec, one.data, lambda note: None)
    add_teacher_outputs(one)
    return one


def test_a_file_of_answers_teaches_as_the_teacher_does(runs, tmp_path):
    for data, more in (("train.csv", []), ("more.txt", ["--unlabelled"])):
        flags = ["--model", runs / "teacher", "--output", tmp_path / f"{data}.jsonl", *more]
        run("answers", "--task", "labels", "--data", runs / data, *flags, *USUAL)
    both = tmp_path / "both.jsonl"
    both.write_text("".join((tmp_path / f"{name}.jsonl").read_text() for name in ("train.csv", "more.txt")))
    live = soft_targets_of(runs, tmp_path, teachers=(str(runs / "teacher"),)).teacher_logits
    read = soft_targets_of(runs, tmp_path, answers=(str(both),)).teacher_logits
    np.testing.assert_allclose(read, live, atol=1e-5)
    twice = soft_targets_of(runs, tmp_path, teachers=(str(runs / "teacher"),) * 2, teacher_mean="probabilities")
    np.testing.assert_allclose(twice.teacher_logits, live, atol=1e-5)


#: a line of an answers file -> the probabilities of food, space, sport, trade; or what is refused
LINES = {
    '"probabilities": {"food": 0.9, "space": 0.8, "sport": 0, "trade": 1}': (0.9, 0.8, 0.0, 1.0),
    '"probabilities": {"food": 0.9}, "rest": 0.3': (0.9, 0.1, 0.1, 0.1),
    '"probabilities": {}, "rest": 2': (0.5, 0.5, 0.5, 0.5),
    '"labels": ["sport", "food"]': (1.0, 0.0, 1.0, 0.0),
    '"labels": ["sport"], "confidence": 0.8': (0.2, 0.2, 0.8, 0.2),
    '"labels": ["trade", "space", "food", "sport"], "scores": [0.9, 0.7, 0.1, 0.2]': (0.1, 0.7, 0.2, 0.9),
    '"labels": ["trade", "space"], "scores": [0.9, 0.7]': "lacks the label 'food'",
    '"labels": []': (0.0, 0.0, 0.0, 0.0),
    '"prediction": ["trade"], "labels": "food;sport"': (0.0, 0.0, 0.0, 1.0),
    '"probabilities": {"food": 0.9}': "lacks the label 'space'; add it",
    '"probabilities": {"food": 0.9}, "rest": 3.1': "is 3.1; give a number from 0 to 3",
    '"probabilities": {"food": 1.2}, "rest": 0': "'food' is 1.2; give a number from 0 to 1",
    '"probabilities": {"food": NaN}, "rest": 0': "NaN",
    '"labels": ["golf"]': "'golf' is not one of the 4 labels",
    '"label": "food"': "has neither",
}


@pytest.mark.parametrize("line", LINES)
def test_what_a_line_of_answers_means(tmp_path, line):
    path, expected = tmp_path / "answers.jsonl", LINES[line]
    path.write_text('{"text": "a", ' + line + "}\n")
    if isinstance(expected, str):
        with pytest.raises(Exception, match=re.escape(expected)):
            AnswersFile(path, TASK, sorted(CUES))
        return
    np.testing.assert_allclose(sigmoid(AnswersFile(path, TASK, sorted(CUES)).rows[0].value), expected, atol=1e-7)


def test_answers_name_the_most_probable_labels_and_the_rest_is_what_the_others_sum_to(runs, tmp_path):
    for top in (0, 1):
        flags = ["--model", runs / "teacher", "--output", tmp_path / f"{top}.jsonl", "--top", top]
        run("answers", "--task", "labels", "--data", runs / "train.csv", *flags, *USUAL)
    whole, best = (
        [json.loads(line) for line in (tmp_path / f"{top}.jsonl").read_text().splitlines()] for top in (0, 1)
    )
    for row, short in zip(whole, best, strict=True):
        named = short["probabilities"]
        assert max(row["probabilities"].values()) == next(iter(named.values())) and len(named) == 1
        assert short["rest"] == pytest.approx(sum(row["probabilities"].values()) - sum(named.values()), abs=1e-8)


def test_predict_prints_the_labels_over_the_threshold(runs, capsys):
    capsys.readouterr()
    text = "the goal match of shares and profit"
    run("predict", "--model", runs / "teacher", "--text", text, "the of and", *USUAL)
    out = capsys.readouterr().out
    assert re.search(r"sport +0\.\d+\n", out) and re.search(r"trade +0\.\d+\n", out) and "food" not in out
    assert "no label has 0." in out
    found = predict(runs / "teacher", [text], device="cpu")[text]
    assert found["labels"] == ["sport", "trade"] or found["labels"] == ["trade", "sport"]
    assert found["threshold"] == load_config(runs / "teacher").threshold
    p = found["probabilities"]
    assert set(p) == set(CUES) and sum(p.values()) > 1.5 and list(p)[:2] == found["labels"]


def test_predict_file_joins_them_in_tables_and_lists_them_in_json(runs, tmp_path, capsys):
    for name in ("out.csv", "out.jsonl"):
        flags = ["--file", runs / "more.txt", "--output", tmp_path / name, "--probabilities", *USUAL]
        run("predict", "--model", runs / "teacher", *flags)
    table = list(csv.DictReader(open(tmp_path / "out.csv")))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    right = 0
    for row, line, (_, labels) in zip(table, lines, texts(200, 3), strict=True):
        assert row["prediction"] == ";".join(line["prediction"])
        assert float(row["probability_food"]) == line["probabilities"]["food"]
        p = np.array(list(line["probabilities"].values()))
        gets = np.array([name in line["prediction"] for name in line["probabilities"]])
        assert line["confidence"] == pytest.approx(np.where(gets, p, 1 - p).min(), abs=2e-6)
        right += sorted(labels) == line["prediction"]
    assert right > 170
    (tmp_path / "again.csv").write_text(
        "text,label\n" + "".join(f"{row['text']},{row['prediction']}\n" for row in table)
    )
    assert [e.label for e in TASK.read(tmp_path / "again.csv", "", DataConfig(), lambda note: None)] == [
        tuple(line["prediction"]) for line in lines
    ]


def test_a_label_that_holds_the_separator_goes_into_json_alone(runs, tmp_path, capsys):
    model = load_model(runs / "teacher")
    model.config = replace(model.config, labels=("a;b", "c", "d", "e"))
    save_model(model, tmp_path / "model")
    load_tokenizer(runs / "teacher").save(tmp_path / "model", max_length=16)
    argv = ["predict", "--model", tmp_path / "model", "--file", runs / "more.txt", *USUAL, "--output"]
    assert main([*map(str, argv), str(tmp_path / "out.csv")]) == 2
    assert "the label 'a;b' holds ';'" in capsys.readouterr().err
    run(*argv, tmp_path / "out.jsonl")
    run(*argv, tmp_path / "out.csv", "--label-separator", "|")


def test_int8_compare_and_cascade(runs, tmp_path, capsys, no_memory_processes):
    run("quantize", "--model", runs / "teacher", "--output", tmp_path / "int8", "--threads", 1, "--quiet")
    assert load_config(tmp_path / "int8").threshold == load_config(runs / "teacher").threshold
    assert metrics(tmp_path, capsys, tmp_path / "int8", "--data", runs / "test.csv")["micro_f1"] > 0.95
    models = [
        f"{name}={folder}"
        for name, folder in (("t", runs / "teacher"), ("i", tmp_path / "int8"), ("s", runs / "student"))
    ]
    dev = write(tmp_path / "dev.jsonl", 60, 4, "lists")
    flags = ["--data", runs / "dev.jsonl", "--dev", dev, "--output", tmp_path / "page", "--json"]
    capsys.readouterr()
    run("compare", "--task", "labels", "--models", *models, *flags, *USUAL)
    record = json.loads(capsys.readouterr().out)
    assert [set(row) >= {"micro_f1", "macro_f1", "subset_accuracy", "loss", "p"} for row in record["rows"]] == [
        True
    ] * 3
    low, high = record["rows"][0]["interval"]
    assert low <= record["rows"][0]["micro_f1"] <= high
    table = (tmp_path / "page/comparison.txt").read_text()
    assert "paired bootstrap" in table and "micro_f1" in table and "t is asked where s is less sure" in table
    assert (
        "(none)" in (tmp_path / "page/comparison.html").read_text()
        or "Calibration" in (tmp_path / "page/comparison.html").read_text()
    )
    below = record["cascade"]["threshold"]
    flags = ["--file", runs / "more.txt", "--output", tmp_path / "out.jsonl", "--ask", runs / "teacher"]
    run("predict", "--model", runs / "student", *flags, "--below", min(1.0, below), *USUAL)


def test_calibrated_probabilities_decide_as_before(runs, tmp_path, capsys):
    before = metrics(runs, capsys, "student")
    run("calibrate", "--task", "labels", "--model", runs / "student", "--dev", runs / "dev.jsonl", "--output",
        tmp_path / "calibrated", "--threads", 1, "--quiet")  # fmt: skip
    record = json.loads((tmp_path / "calibrated/calibration.json").read_text())
    after = metrics(tmp_path, capsys, "calibrated", "--data", runs / "test.csv")
    assert abs(record["temperature"] - 1) > 0.02 and after["threshold"] != before["threshold"]
    assert {k: after[k] for k in ("micro_f1", "per_class")} == {k: before[k] for k in ("micro_f1", "per_class")}
    assert record["rows"]["after"]["loss"] < record["rows"]["before"]["loss"]


def test_trace_shows_the_sigmoid_and_the_losses_of_each_label(runs, tmp_path, capsys):
    capsys.readouterr()
    flags = ["--model", runs / "student", "--teacher", runs / "teacher", "--threads", 1]
    run("trace", "--task", "labels", "--data", runs / "train.csv", "--example", 2, *flags)
    out = " ".join(capsys.readouterr().out.split())
    assert "sigmoid(z) = 1 / (1 + e^-z)" in out and "sum of 4" in out and "p = sigmoid(z)" in out
    run("trace", "--task", "labels", "--text", "the goal", *flags)
    assert "There is no label" in capsys.readouterr().out


def test_the_demo_shows_what_a_text_gets(runs):
    groups = open_groups([("a", str(runs / "teacher")), ("b", str(runs / "student"))], torch.device("cpu"))
    assert len(groups) == 1
    _, answer = make_site(groups, DataConfig()).functions["/api/classify"]
    first, _ = answer({"group": "classify", "text": "the goal match of shares and profit"})["models"]
    assert first["threshold"] == load_config(runs / "teacher").threshold
    assert {row["label"] for row in first["labels"] if row["probability"] >= first["threshold"]} == {"sport", "trade"}


def test_model_and_task_must_agree_on_how_many_labels_a_text_has(runs, tmp_path, capsys):
    wrong = ["evaluate", "--task", "csv", "--data", runs / "train.csv", "--model", runs / "teacher", *USUAL]
    assert main(list(map(str, wrong))) == 2
    message = capsys.readouterr().err
    assert (
        "gives several labels at once (problem_type in config.json), csv one label a text; choose --task labels"
        in message
    )
    one = load_model(runs / "teacher")
    one.config = replace(one.config, multi_label=False)
    save_model(one, tmp_path / "one")
    load_tokenizer(runs / "teacher").save(tmp_path / "one", max_length=16)
    data = ["--train", runs / "train.csv", "--dev", runs / "dev.jsonl", "--model", "tiny-student", *LEARN]
    student = ["train", "--task", "labels", *data, "--teacher", tmp_path / "one", "--output", tmp_path / "x"]
    assert main(list(map(str, student))) == 2
    assert "gives one label a text, labels several labels at once" in capsys.readouterr().err
    assert fingerprint(one) != fingerprint(load_model(runs / "teacher"))


def test_the_head_of_another_kind_is_not_taken_over(runs, tmp_path):
    notes = []
    same = load_model(runs / "teacher", "sequence", tuple(sorted(CUES)), notes.append, multi_label=True)
    assert torch.equal(same.head.classifier.weight, load_model(runs / "teacher").head.classifier.weight) and not notes
    load_model(runs / "teacher", "sequence", tuple(sorted(CUES)), notes.append)
    assert "new random weights for" in notes[0] and "classifier" in notes[0]


def test_a_student_gets_the_labels_that_only_its_teacher_knows(runs, tmp_path, capsys):
    path = tmp_path / "some.csv"
    lines = [line for line in (runs / "train.csv").read_text().splitlines() if "food" not in line]
    path.write_text("\n".join(lines) + "\n")
    data = ["--task", "labels", "--train", path, "--dev", "10%", "--model", "tiny-student", *LEARN]
    run("train", *data, "--teacher", runs / "teacher", "--steps", 1, "--output", tmp_path / "x")
    assert set(load_config(tmp_path / "x").labels) == set(CUES)


def test_training_ends_with_the_threshold_that_it_kept(runs, tmp_path, capsys):
    data = ["--task", "labels", "--train", runs / "train.csv", "--dev", runs / "dev.jsonl", "--model", "tiny-student"]
    run("train", *data, *LEARN, "--steps", 3, "--output", tmp_path / "x")
    threshold = load_config(tmp_path / "x").threshold
    assert capsys.readouterr().out.strip().endswith(f", which gives labels from {threshold:.4f} on")


def test_a_teacher_without_names_gives_its_numbers(runs, tmp_path):
    teacher = load_model(runs / "teacher")
    teacher.config = replace(teacher.config, labels=tuple(f"LABEL_{i}" for i in range(4)))
    save_model(teacher, tmp_path / "nameless")
    load_tokenizer(runs / "teacher").save(tmp_path / "nameless", max_length=16)
    path = tmp_path / "numbers.csv"
    path.write_text("text,label\n" + "the goal,0;2\nthe moon,2\nthe day,\n" * 4)
    data = ["--task", "labels", "--train", path, "--dev", path, "--model", "tiny-student", *LEARN]
    run("train", *data, "--teacher", tmp_path / "nameless", "--steps", 1, "--output", tmp_path / "x")
    assert load_config(tmp_path / "x").labels == ("0", "1", "2", "3")


def test_prune_keeps_the_threshold(runs, tmp_path):
    flags = ["--task", "labels", "--data", runs / "train.csv", "--model", runs / "teacher", "--feed-forward", 400]
    run("prune", *flags, "--output", tmp_path / "narrow", "--threads", 1, "--quiet")
    narrow = load_config(tmp_path / "narrow")
    assert narrow.multi_label and narrow.threshold == load_config(runs / "teacher").threshold


def test_what_is_told_before_training(runs, tmp_path):
    config = RunConfig(device="cpu", threads=1)
    paths = dict(train=runs / "test.csv", dev=str(runs / "test.csv"), model=str(runs / "student"), cache=tmp_path)
    data = DataConfig(label_column=",".join(CUES), limit="50")
    one = set_up(
        RunSpec("labels", **paths, output=tmp_path / "x", config=TrainConfig(max_length=16), data=data, run=config)
    )
    one.train_inputs = encode_training_data(one.spec, one.data, lambda note: None)
    labels = dict(preflight(one))["labels"]
    assert re.match(r"4: food, space, sport, trade; 1\.\d a text, \d+% of the texts have none", labels)


def test_predictions_are_the_same_in_any_order_of_labels(runs):
    loaded = load_for_inference(runs / "teacher", TASK)
    examples = TASK.read(runs / "dev.jsonl", "", DataConfig(), lambda note: None)
    first = evaluate(loaded, TASK, examples, DataConfig(), torch.device("cpu"))
    order = [2, 0, 3, 1]
    other = replace(first, logits=first.logits[:, order], labels=tuple(first.labels[i] for i in order))
    assert other.decisions == first.decisions
    found = TASK.score(other)
    assert {name: found[name] for name in found if name != "per_class"} == pytest.approx(
        {name: value for name, value in TASK.score(first).items() if name != "per_class"}
    )
