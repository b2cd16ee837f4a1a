"""A calibrated model: the temperature of least loss, and the folder whose logits are divided by it."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_model, save_folder, save_model
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256_of_file
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import EncodedInputs
from kd_scratch.evaluation.calibrate import fit_temperature, loss, moved
from kd_scratch.evaluation.evaluate import load_for_inference
from kd_scratch.evaluation.predict import predict, tag_words
from kd_scratch.nn import int8
from kd_scratch.tasks import TASKS, Predictions
from kd_scratch.tasks.classification import Example
from tests.conftest import TEXTS, tiny_model

LABELS = ("no", "yes", "maybe")


def predictions_of(logits, gold) -> Predictions:
    """Predictions of the csv task with these logits, N,3, and the numbers of the right labels."""
    examples = [Example(f"x:{i}", "text", LABELS[label]) for i, label in enumerate(gold)]
    starts = np.arange(len(gold) + 1)
    features = EncodedInputs("sequence", range(len(gold)), np.zeros(len(gold), np.int32), starts, np.array(gold))
    return Predictions(TASKS["csv"], examples, features, np.float32(logits), LABELS, DataConfig())


def drawn(temperature: float, count: int = 400) -> Predictions:
    """A model that is right as often as it says, but for its logits, which are so many times too large."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(count, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return predictions_of(logits * temperature, [rng.choice(3, p=row) for row in p])


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_the_temperature_of_least_loss_is_found(temperature):
    predictions = drawn(temperature)
    fitted = fit_temperature(predictions)
    logits, labels = predictions.logits.astype(np.float64), predictions.features.labels

    def by_hand(t):
        rows = logits / t
        return np.mean(np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(rows)), labels])

    tried = np.geomspace(0.05, 20, 4001)
    assert fitted == pytest.approx(tried[np.argmin([by_hand(t) for t in tried])], rel=0.003)
    assert fitted == pytest.approx(temperature, rel=0.2), "400 texts tell it so far"
    assert loss(predictions) == pytest.approx(by_hand(1), rel=1e-6)


def test_where_the_loss_is_not_known_it_is_that_of_being_right():
    """As with questions: how probable it was that the answers of some probability are right."""
    predictions = drawn(2.0)
    task = predictions.task
    hidden = replace(task, confidence=lambda p: task.confidence(p)._replace(loss=np.full(len(p.examples), np.nan)))
    sure = task.confidence(predictions)
    by_hand = -np.mean([math.log(p if right else 1 - p) for p, right in zip(sure.probability, sure.right, strict=True)])
    blind = replace(predictions, task=hidden)
    assert loss(blind) == pytest.approx(by_hand, rel=1e-9)
    assert fit_temperature(blind) == pytest.approx(2.0, rel=0.25)


@pytest.mark.parametrize(
    ("decided", "gold", "why"),
    [
        ([0, 1, 2], [0, 1, 2], "all of these examples are decided right"),
        ([0, 1, 2], [1, 2, 0], "the probabilities do not tell which of these examples are decided right"),
        ([0, 1, 2] * 3, [0, 0, 0, 1, 1, 1, 2, 2, 2], "the probabilities do not tell which of these examples"),
    ],
    ids=["all right", "all wrong", "right as often as a guess"],
)
def test_no_temperature_fits_where_all_are_right_or_nothing_tells_what_is(decided, gold, why):
    with pytest.raises(UserError, match=f"no temperature fits: {why}.*; give more of them"):
        fit_temperature(predictions_of(np.eye(3)[decided], gold))
    more, their_gold = [0, 1, 2, 0, 1, 2, 0, 1, 2], [0, 1, 2, 0, 1, 2, 0, 1, 0]
    decided, gold = np.array(decided + more), np.array(gold + their_gold)
    share = np.mean(decided == gold)  # so probable the highest of three logits 1, 0, 0 is to be
    found = fit_temperature(predictions_of(np.eye(3)[decided], gold))
    assert found == pytest.approx(1 / math.log(2 * share / (1 - share)), rel=1e-3), "more cure it"


def make_folder(path, tokenizer, head: str, is_int8: bool):
    labels = LABELS if head == "sequence" else ("O", "B-PER")
    model = tiny_model(head, labels=labels, vocab_size=tokenizer.vocab_size, max_positions=64, seed=3)
    save_model(int8.quantize(model) if is_int8 else model, path)
    tokenizer.save(path, max_length=32)


def make_file(folder, head: str):
    """Where the model is right in two of three cases."""
    loaded = load_for_inference(folder / "model", fast=False)
    if head == "sequence":
        rows = []
        for i in range(24):
            text = f"{TEXTS[i % 4]} {i}"
            best, second, _ = predict(loaded, [text])[text]
            rows.append(f'{second if i % 3 == 0 else best},"{text}"')
        (folder / "dev.csv").write_text("label,text\n" + "\n".join(rows) + "\n")
        return "csv", folder / "dev.csv"
    words = [word for text in TEXTS for word in re.findall(r"\w+", text)][:24]
    tags = [tag_words(loaded, word, DataConfig(), torch.device("cpu"))[1][0] for word in words]
    rows = [f"{word} NN I-NP {tag if i % 3 else 'O'}" for i, (word, tag) in enumerate(zip(words, tags, strict=True))]
    (folder / "dev.txt").write_text("\n\n".join(rows) + "\n")
    return "conll", folder / "dev.txt"


@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("is_int8", [False, True], ids=["float", "int8"])
def test_the_folder_gives_divided_logits(tmp_path, tokenizer, capsys, head, is_int8):
    make_folder(tmp_path / "model", tokenizer, head, is_int8)
    task, dev = make_file(tmp_path, head)
    argv = ["calibrate", "--task", task, "--model", str(tmp_path / "model"), "--dev", str(dev)]
    assert main([*argv, "--output", str(tmp_path / "new"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads((tmp_path / "new" / "calibration.json").read_text())
    before, after = record["rows"].values()
    name = TASKS[task].score_name
    assert after["loss"] < before["loss"] and after[name] == before[name]
    ids = torch.tensor([[2, 17, 45, 99, 3]])
    old, new = (load_model(tmp_path / folder)(ids).logits for folder in ("model", "new"))
    torch.testing.assert_close(new * record["temperature"], old, rtol=1e-4, atol=1e-5)
    assert abs(math.log(record["temperature"])) > 0.1, "else the test would show nothing"
    assert main([*argv, "--output", str(tmp_path / "new")]) == 2, "what is there stays"
    capsys.readouterr()
    assert (
        main(["calibrate", *argv[1:4], str(tmp_path / "new"), *argv[5:], "--output", str(tmp_path / "twice"), "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["temperature"] == pytest.approx(1, abs=1e-3)


def test_a_file_that_the_model_was_trained_on_is_refused(tmp_path, tokenizer, monkeypatch, capsys):
    make_folder(tmp_path / "model", tokenizer, "sequence", False)
    task, dev = make_file(tmp_path, "sequence")
    record = {"train": sha256_of_file(dev)}
    monkeypatch.setattr("kd_scratch.evaluation.evaluate.origin_record", lambda path, say: record)
    argv = ["calibrate", "--task", task, "--model", str(tmp_path / "model"), "--output", str(tmp_path / "new"), "--dev"]
    assert main([*argv, str(dev)]) == 2 and not (tmp_path / "new").exists()
    assert "model was trained on this file, and is surer of it than of new texts; give a" in capsys.readouterr().err
    unseen = tmp_path / "unseen.csv"
    unseen.write_text(dev.read_text() + dev.read_text().split("\n")[1] + "\n")
    assert main([*argv, str(unseen)]) == 0


def test_a_model_that_is_there_has_its_record(tmp_path, tokenizer, monkeypatch):
    make_folder(tmp_path / "model", tokenizer, "sequence", False)
    task, dev = make_file(tmp_path, "sequence")
    there = []
    path = tmp_path / "new" / "calibration.json"

    def save(*arguments):
        there.append(path.read_text())
        save_folder(*arguments)

    monkeypatch.setattr("kd_scratch.evaluation.calibrate.save_folder", save)
    argv = ["calibrate", "--task", task, "--model", str(tmp_path / "model"), "--dev", str(dev)]
    assert main([*argv, "--output", str(path.parent)]) == 0 and json.loads(there[0])["temperature"] > 0


def test_a_threshold_moves_with_its_probability_however_small_it_is():
    assert moved(0.2, 2.0) == pytest.approx(1 / (1 + math.exp(math.log(4) / 2)), rel=1e-12)
    assert moved(1e-16, 0.05) < 1e-300 and moved(0.0, 0.05) == 0.0 and moved(1.0, 0.05) == 1.0
