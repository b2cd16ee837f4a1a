"""Named entities through the command line: train, distil, evaluate, compare, predict, and bad input."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch

import kd_scratch.evaluation.predict
from data_scripts import make_sample
from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_model
from kd_scratch.config import SIZES, DataConfig
from kd_scratch.evaluation.evaluate import evaluate, load_for_inference
from kd_scratch.evaluation.predict import find_entities
from kd_scratch.tasks.conll_metric import entities, entity_metrics
from tests.commands.test_squad_commands import run
from tests.pages.test_report import check_page

FAST = ["--epochs", "2", "--batch-size", "16", "--learning-rate", "1e-3", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a sample, a teacher, a student from its layer and one of our own shape, made from nothing."""
    folder = tmp_path_factory.mktemp("conll")
    make_sample.make_conll(folder, rows=200)
    files = [str(folder / "conll2003" / f"{split}.txt") for split in ("train", "valid")]
    data = ["--task", "conll", "--train", files[0], "--dev", files[1], *FAST, "--cache", str(folder / "cache")]
    teacher = ["--model", "tiny-student", "--vocab-size", "400", "--output", str(folder / "teacher")]
    student = ["--model", str(folder / "teacher"), "--init-layers", "0", "--output", str(folder / "student")]
    scratch = ["--model", "scratch-small", "--norm-first", "--max-length", "24", "--overlap", "8", "--documents",
               "--output", str(folder / "scratch")]  # fmt: skip
    distil = ["--teacher", str(folder / "teacher")]
    for extra in (teacher, student + distil, scratch + distil):
        assert main(["train", *data, *extra]) == 0
    return folder


def test_the_labels_are_the_nine_tags_and_the_scratch_student_says_what_it_is(runs):
    tags = ["O", *(f"{position}-{kind}" for kind in ("LOC", "MISC", "ORG", "PER") for position in "BI")]
    for name in ("teacher", "student", "scratch"):
        config = json.loads((runs / name / "config.json").read_text())
        assert list(config["id2label"].values()) == tags
    assert config["model_type"] == "kd_scratch" and config["norm_first"] is True
    assert config["positions"] == "sinusoidal" and load_model(runs / "scratch").encoder.final_norm is not None


def test_evaluate_writes_a_tag_for_each_word_and_the_score_of_them(runs, tmp_path, capsys):
    data = runs / "conll2003" / "test.txt"
    for name, flags in (("student", ()), ("scratch", ("--documents", "--overlap", 8))):
        status, out, _ = run(capsys, "evaluate", "--task", "conll", "--data", data, "--model", runs / name, *flags,
                             "--output", tmp_path / "m.json", "--predictions", tmp_path / "p.json")  # fmt: skip
        assert status == 0 and "tag_scheme" in out and "per type" in out and "surest mistakes" in out
        said = json.loads((tmp_path / "p.json").read_text())
        lines = [line.split(" ") for line in data.read_text().split("\n") if line and "-DOCSTART-" not in line]
        assert [word for row in said.values() for word in row["words"]] == [cells[0] for cells in lines]
        assert [tag for row in said.values() for tag in row["gold"]] == [cells[3] for cells in lines]
        metrics = json.loads((tmp_path / "m.json").read_text())["metrics"]
        expected = entity_metrics([row["gold"] for row in said.values()], [row["tags"] for row in said.values()])
        assert metrics["f1"] == expected["f1"] and metrics["per_class"] == expected["per_class"]
        assert metrics["words"] == len(lines) and metrics["loss"] > 0


def test_a_test_file_in_another_scheme_and_with_another_type_is_understood_and_told(runs, tmp_path, capsys):
    (tmp_path / "odd.txt").write_text("Ada I-PER\nBerg I-PER\nflew O\n\nNova I-EVT\n")
    status, out, _ = run(capsys, "evaluate", "--task", "conll", "--data", tmp_path / "odd.txt", "--model",
                         runs / "student", "--output", tmp_path / "m.json")  # fmt: skip
    assert status == 0 and "IOB1" in out and "counted as wrong: B-EVT (1)" in out
    assert json.loads((tmp_path / "m.json").read_text())["metrics"]["unreachable_tags"] == {"B-EVT": 1}


@pytest.mark.usefixtures("no_memory_processes")
def test_compare_shows_f1_and_loss(runs, tmp_path, capsys):
    models = [f"{name}={runs / name}" for name in ("teacher", "student", "scratch")]
    status, out, _ = run(capsys, "compare", "--task", "conll", "--data", runs / "conll2003" / "test.txt", "--limit", 20,
                         "--models", *models, "--output", tmp_path / "c")  # fmt: skip
    assert status == 0
    rows = json.loads((tmp_path / "c" / "comparison.json").read_text())["rows"]
    assert all({"precision", "recall", "f1", "accuracy", "loss"} <= set(row) for row in rows)
    assert rows[0]["agreement"] == 1.0
    said = check_page((tmp_path / "c" / "comparison.html").read_text())
    assert "Confusions" in said and "prediction" in said and "PER" in said and "scratch against teacher" in said


def test_predict_marks_the_entities_in_the_text_as_it_was(runs, tmp_path, capsys):
    text = "Ada Berg beat Emil Torsson  3 - 1 in Torvia."
    status, out, _ = run(capsys, "predict", "--model", runs / "teacher", "--text", text, "--output",
                         tmp_path / "p.json")  # fmt: skip
    assert status == 0
    said = json.loads((tmp_path / "p.json").read_text())
    assert said[text]
    for entity in said[text]:
        assert entity["entity"] == text[entity["start"] : entity["end"]] and 0 < entity["probability"] <= 1
        assert entity["type"] in make_sample.ENTITY_TYPES
    shown = out.split("\n")[0]
    for entity in said[text]:
        assert f"[{entity['entity']} {entity['type']}]" in shown
        shown = shown.replace(f"[{entity['entity']} {entity['type']}]", entity["entity"], 1)
    assert shown == text


def test_predict_finds_what_evaluate_finds_in_long_texts_too(runs, tmp_path, capsys):
    """The words of a whole document as one text: far more than the 24 pieces of the model's windows."""
    words = "Torvia beat Belgate 3 - 1 . Tilda Kasmora joins Ada Berg at Union of Quinwick on Monday .".split() * 4
    (tmp_path / "long.txt").write_text("".join(f"{word} O\n" for word in words))
    flags = ["--model", runs / "scratch", "--overlap", 8]
    run(
        capsys,
        "evaluate",
        "--task",
        "conll",
        "--data",
        tmp_path / "long.txt",
        *flags,
        "--predictions",
        tmp_path / "e.json",
    )
    [tags] = [row["tags"] for row in json.loads((tmp_path / "e.json").read_text()).values()]
    text = " ".join(words)
    status, _, _ = run(capsys, "predict", *flags, "--text", text, "--output", tmp_path / "p.json")
    said = json.loads((tmp_path / "p.json").read_text())[text]
    expected = [(kind, " ".join(words[start:end])) for kind, start, end in entities(tags)]
    assert status == 0 and len(expected) > 2 and [(e["type"], e["entity"]) for e in said] == expected
    starts = [len(" ".join(words[:start])) + (start > 0) for _, start, _ in entities(tags)]
    assert [e["start"] for e in said] == starts


def test_the_probability_of_an_entity_is_that_of_its_least_certain_tag(runs, monkeypatch):
    loaded = load_for_inference(runs / "teacher")
    labels = loaded.model.config.labels
    wanted = {"B-PER": 3.0, "I-PER": 1.0, "O": 2.0}

    def logits(model, features, device):
        z = np.zeros((len(features.tokens), len(labels)), np.float32)
        for at, tag in zip(features.word_at, ("B-PER", "I-PER", "O"), strict=True):
            z[at, labels.index(tag)] = wanted[tag]
        return z

    monkeypatch.setattr(kd_scratch.evaluation.predict, "evaluate", partial(evaluate, compute=logits))
    [entity] = find_entities(loaded, "Ada Berg flew", DataConfig(), torch.device("cpu"))
    assert (entity["entity"], entity["type"], entity["start"], entity["end"]) == ("Ada Berg", "PER", 0, 8)
    assert entity["probability"] == pytest.approx(math.e / (math.e + 8))


def test_norm_first_goes_with_scratch_sizes_only(runs, tmp_path, capsys):
    train = ["train", "--task", "conll", "--train", runs / "conll2003" / "train.txt", "--dev", "10%", "--norm-first",
             "--output", tmp_path / "new", *FAST]  # fmt: skip
    for model in ("tiny-student", runs / "teacher"):
        status, _, error = run(capsys, *train, "--model", model)
        assert status == 2 and "--norm-first" in error and not (tmp_path / "new").exists()
    assert SIZES["scratch-small"].norm_first is False


def test_bad_files_are_one_line_and_exit_2_and_leave_nothing(runs, tmp_path, capsys):
    (tmp_path / "cut.txt").write_text("Ada x x B-PER\nBerg x\n")
    (tmp_path / "empty.txt").write_text("\n\n-DOCSTART- O\n\n")
    train = ["train", "--task", "conll", "--dev", runs / "conll2003" / "valid.txt", "--model", "tiny-student", *FAST]
    for file, message in ((tmp_path / "cut.txt", "line 2: has 2 columns"),
                          (tmp_path / "empty.txt", "leaves 0 training"),
                          (tmp_path / "none.txt", "no such file"),
                          (runs / "teacher" / "model.safetensors", "UTF-8"),
                          (runs / "teacher" / "config.json", "line 1: has no tag")):  # fmt: skip
        status, _, error = run(capsys, *train, "--train", file, "--output", tmp_path / "new")
        assert status == 2 and message in error and str(file) in error
    assert not (tmp_path / "new").exists()
