"""Folders as published repositories look (hub_folders.py): each is used, or refused in one line that says what to do.

tests/parity/test_hub_folders_parity.py holds the same folders to the reference.
"""

import json
import re

import pytest

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_config, load_model
from kd_scratch.config import SIZES
from kd_scratch.data.tokenizer import load_tokenizer
from tests.checkpoints.hub_folders import INTENTS, SHAPES, vocabulary, write_shape

TEXTS = ["Ada Berg flew to New York in May.", "Möchten Sie über die Straße?", "我在东京大学学习中文。"]
CONTEXT = "In May Ada Berg flew from Zürich to New York; 王小明 stayed in 東京 with Zoë."
#: Those whose weights are a .bin alone, as far as predict answers. (A blob of the cache has another name.)
BINS = ["bert-base-uncased-finetuned-clinc", "bert-base-uncased-ag-news", "num-labels-alone", "relation-markers-2020",
        "added-words-2020", "sharded-bin", "data-parallel", "hub-cache", "half-precision", "ner-of-bare-types",
        "bert-large-cased-finetuned-conll03-english", "distilbert-base-cased-distilled-squad"]  # fmt: skip
FAST = ["--epochs", "1", "--batch-size", "32", "--learning-rate", "1e-3", "--max-length", "24", "--device", "cpu",
        "--threads", "1"]  # fmt: skip


def run(capsys, *argv) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    status = main([str(a) for a in argv])
    return status, *capsys.readouterr()


@pytest.mark.parametrize("name", SHAPES)
def test_predict_works_or_says_in_one_line_what_to_do(name, tmp_path, capsys):
    shape = SHAPES[name]
    folder = write_shape(name, tmp_path)
    flags = ["--question", *TEXTS[:2], "--context", CONTEXT] if shape.head == "span" else ["--text", *TEXTS]
    status, out, err = run(capsys, "predict", "--model", folder, *flags, "--device", "cpu", "--json")
    if shape.refused:
        assert status == 2 and re.search(shape.refused, err) and str(folder) in err and err.count("\n") == 1, err
        return
    assert status == 0, err
    found = json.loads(out)
    raw = json.loads((folder / "config.json").read_text())
    for text, prediction in found.items():
        if shape.head == "sequence":
            labels = raw.get("id2label", {str(i): f"LABEL_{i}" for i in range(raw.get("num_labels", 2))})
            assert load_config(folder).multi_label == (name == "toxic-bert")
            prediction = prediction["probabilities"] if name == "toxic-bert" else prediction
            assert prediction.keys() == {str(label) for label in labels.values()}
            assert (sum(prediction.values()) == pytest.approx(1)) == (name != "toxic-bert")
        elif shape.head == "token":
            types = {label.split("-")[-1] for label in raw["id2label"].values()}
            assert all(text[e["start"] : e["end"]] == e["entity"] and e["type"] in types for e in prediction)
        else:
            assert all(CONTEXT[answer["start"] : answer["end"]] == answer["answer"] for answer in prediction)


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.is_body])
def test_a_body_gets_any_head_also_where_its_own_is_refused(name, tmp_path):
    folder = write_shape(name, tmp_path)
    notes = []
    for head, labels in (("sequence", ("a", "b", "c")), ("token", ("O", "B-X", "I-X")), ("span", ())):
        model = load_model(folder, head, labels, say=notes.append)
        assert model.config.labels == labels and model.config.head == head
        assert load_tokenizer(folder).vocab_size <= model.config.vocab_size
    assert any("new random weights for head.classifier" in note for note in notes)


@pytest.mark.parametrize("name", BINS)
def test_a_converted_folder_predicts_the_same(name, tmp_path, capsys):
    folder, new = write_shape(name, tmp_path), tmp_path / "converted"
    status, _, err = run(capsys, "convert", "--model", folder, "--output", new)
    assert status == 0 and (new / "model.safetensors").is_file() and not list(new.glob("*.bin")), err
    head = SHAPES[name].head
    flags = ["--question", *TEXTS[:2], "--context", CONTEXT] if head == "span" else ["--text", *TEXTS]
    first, second = (run(capsys, "predict", "--model", d, *flags, "--device", "cpu", "--json") for d in (folder, new))
    assert first[:2] == second[:2]


def write_clinc(path) -> None:
    """CLINC150's file with a text or two of each of its 151 intents, of the vocabulary's words."""
    words = [piece for piece in vocabulary("english", cased=False) if piece.isalpha() and len(piece) > 2]
    rows = [[f"{words[i % len(words)]} {words[i * 7 % len(words)]}", intent] for i, intent in enumerate(INTENTS)]
    scope = {key: [row for row in rows if (row[1] == "oos") == (key == "oos")] for key in ("in", "oos")}
    splits = dict.fromkeys(("train", "val", "test"), scope["in"])
    path.write_text(json.dumps(splits | {f"oos_{name}": scope["oos"] for name in splits}))


def write_conll(path) -> None:
    """Sentences with entities of the four types, in IOB1."""
    sentence = (
        "Ada I-PER\nBerg I-PER\nflew O\nto O\nNew I-LOC\nYork I-LOC\nParis B-LOC\n\nMay I-MISC\nEve I-ORG\nmet O\n\n"
    )
    path.write_text("-DOCSTART- O\n\n" + sentence * 6)


#: Teacher, task, more flags. The teacher's body is the student's, but for one block.
DISTILLATIONS = {
    "bert-base-uncased-finetuned-clinc": ("clinc", write_clinc, ["--oos"]),
    "bert-large-cased-finetuned-conll03-english": ("conll", write_conll, []),
    "bert-base-NER": ("conll", write_conll, []),
    "ner-with-helper-labels": ("conll", write_conll, []),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTILLATIONS)
def test_a_published_teacher_is_evaluated_distilled_from_and_its_student_quantized(name, tmp_path, capsys):
    task, write_data, flags = DISTILLATIONS[name]
    folder, data = write_shape(name, tmp_path), tmp_path / "data"
    write_data(data)
    evaluation = ["evaluate", "--task", task, "--data", data, "--device", "cpu", *flags, "--output"]
    status, _, err = run(capsys, *evaluation, tmp_path / "teacher.json", "--model", folder)
    assert status == 0, err
    student = ["--model", folder, "--init-layers", "0", "--teacher", folder, "--output", tmp_path / "student"]
    status, _, err = run(capsys, "train", "--task", task, "--train", data, "--dev", data, *flags, *student, *FAST,
                         "--cache", tmp_path / "cache")  # fmt: skip
    assert status == 0, err
    status, _, err = run(capsys, "quantize", "--model", tmp_path / "student", "--output", tmp_path / "int8")
    assert status == 0, err
    for made in ("student", "int8"):
        status, _, err = run(capsys, *evaluation, tmp_path / f"{made}.json", "--model", tmp_path / made)
        assert status == 0, err
    metrics = {made: json.loads((tmp_path / f"{made}.json").read_text())["metrics"] for made in ("teacher", "student")}
    assert metrics["teacher"]["loss"] > 0 and metrics["student"]["loss"] > 0
    assert set(load_config(tmp_path / "student").labels) == set(load_config(folder).labels)
    assert task == "clinc" or not metrics["teacher"]["unreachable_tags"]


@pytest.mark.slow
def test_another_student_takes_the_teachers_tokenizer(tmp_path, capsys):
    folder, data = write_shape("bert-base-uncased-finetuned-clinc", tmp_path), tmp_path / "data"
    write_clinc(data)
    assert "tiny-student" in SIZES
    status, _, err = run(capsys, "train", "--task", "clinc", "--train", data, "--dev", data, "--oos", "--model",
                         "tiny-student", "--teacher", folder, "--output", tmp_path / "student", *FAST,
                         "--cache", tmp_path / "cache")  # fmt: skip
    assert status == 0, err
    assert load_tokenizer(tmp_path / "student").encode(TEXTS)[0].ids == load_tokenizer(folder).encode(TEXTS)[0].ids
