"""A hidden-state loss is added from outside, by one function and one entry; everything else follows from the entry."""

import json

import pytest

from kd_scratch.__main__ import main
from kd_scratch.distillation.hidden_losses import HIDDEN_LOSSES, HiddenLoss, scaled_products
from kd_scratch.distillation.layer_map import blocks, last_block
from tests.conftest import TEXTS

LABELS = ("money", "sport")


def cls_length(student, teacher, real):
    """Σ_inputs (‖s‖ − ‖t‖)² of the states of [CLS]."""
    return (student[:, 0].norm(dim=-1) - teacher[:, 0].norm(dim=-1)).square().sum()


def map_distance(student, teacher, real, heads):
    """Σ_inputs mean over heads and queries of the distance of the attention maps."""
    maps = []
    for query, key, _ in (student, teacher):
        scores = scaled_products(query, key, heads).masked_fill(~real[:, None, None, :], -1e30)
        maps.append(scores.softmax(dim=-1))
    distances = (maps[0] - maps[1]).square().sum(dim=-1).mean(dim=1)  # B,H,S,S -> B,S
    return (distances.masked_fill(~real, 0.0).sum(dim=1) / real.sum(dim=1)).sum()


@pytest.fixture
def added(monkeypatch):
    """Two losses of one's own: of hidden states, with a name of several parts, and of queries and keys."""
    states = HiddenLoss(cls_length, layers=blocks, weight=0.1, paper="ours", summary="length of the states of [CLS]")
    maps = HiddenLoss(
        map_distance,
        layers=last_block,
        weight=2.0,
        paper="ours",
        summary="distance of attention maps",
        compares_qkv=True,
        own_heads=True,
        score_maps=2,
    )
    monkeypatch.setitem(HIDDEN_LOSSES, "cls_length", states)
    monkeypatch.setitem(HIDDEN_LOSSES, "map_distance", maps)


@pytest.fixture
def argv(tmp_path):
    """A teacher, and the flags of a distillation from it."""
    rows = [f"{LABELS[i % 2]},{TEXTS[1 + i % 2].replace(',', '')} {'again ' * (i % 5)}" for i in range(24)]
    (tmp_path / "data.csv").write_text("label,text\n" + "\n".join(rows) + "\n")
    data = ["--task", "csv", "--train", tmp_path / "data.csv", "--dev", tmp_path / "data.csv", "--max-length", "24"]
    common = ["train", *data, "--epochs", "1", "--batch-size", "8", "--device", "cpu", "--cache", tmp_path / "cache"]
    common = [str(word) for word in [*common, "--model", "tiny-student"]]
    assert main([*common, "--vocab-size", "80", "--output", str(tmp_path / "teacher")]) == 0
    return [*common, "--teacher", str(tmp_path / "teacher"), "--output", str(tmp_path / "student")]


def test_a_student_is_trained_with_losses_from_outside(added, argv, tmp_path, capsys):
    capsys.readouterr()
    assert main([*argv, "--losses", "cls_length=0.5,map_distance"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "0.5 · cls_length (1→1) + 2 · map_distance (1→1)" in out, "what is compared is in the first table"
    record = json.loads((tmp_path / "student" / "training.json").read_text())
    assert record["settings"]["losses"] == "cls_length=0.5,map_distance"
    plain = [*argv[:-1], str(tmp_path / "plain")]
    assert main(plain) == 0
    other = json.loads((tmp_path / "plain" / "training.json").read_text())
    assert record["history"][0]["loss"] != other["history"][0]["loss"], "they are in the loss"


def test_the_help_lists_every_loss_with_its_weight(added, capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for name, loss in HIDDEN_LOSSES.items():
        assert f"{name} ({loss.weight:g}: {loss.summary}" in out, name


def test_an_unknown_loss_is_refused_with_the_names_that_there_are(argv, capsys):
    assert main([*argv, "--losses", "map_distance"]) == 2
    assert "'map_distance' is not one of hidden, attention, cosine, patient, relations" in capsys.readouterr().err
