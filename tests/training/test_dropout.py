"""--dropout and --attention-dropout: from the flag to the layers that are trained, and to config.json."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kd_scratch.checkpoints.checkpoint import load_model, save_model
from kd_scratch.config import SIZES
from kd_scratch.nn.model import Model
from kd_scratch.training.run import train
from kd_scratch.training.setup import set_up
from kd_scratch.training.spec import RunSpec
from tests.commands.test_commands import write_csv

KEYS = {
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "distilbert": ("dropout", "attention_dropout"),
    "kd_scratch": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
}


def spec_of(folder, model, **dropout):
    settings = dict(
        train=Path(write_csv(folder / "train.csv", 12)), dev="25%", output=folder / "out", cache=folder / "cache"
    )
    settings |= dict(epochs=1, batch_size=8, max_length=16)
    return RunSpec.of("csv", model=str(model), **settings | dropout)


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize(
    "own, expected", [({}, 0.0), ({"attention_dropout": -1.0}, 0.1), ({"attention_dropout": 0.3}, 0.3)]
)
def test_attention_has_a_dropout_of_its_own_which_the_output_keeps(tmp_path, tokenizer, kind, own, expected):
    shape = replace(SIZES["tiny-student"], model_type=kind, vocab_size=tokenizer.vocab_size)
    if kind != "bert":
        shape = replace(shape, token_types=0)
    save_model(Model(shape), tmp_path / "model")  # whose own dropouts are 0.1
    tokenizer.save(tmp_path / "model", 32)
    run = set_up(spec_of(tmp_path, tmp_path / "model", dropout=0.1, **own))
    for block in run.model.encoder.blocks:
        assert block.attention.dropout == expected
        assert block.attention_residual.dropout == block.feed_forward_residual.dropout == 0.1
    assert train(run)["settings"]["attention_dropout"] == own.get("attention_dropout", 0)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert [written[key] for key in KEYS[kind]] == [0.1, expected]
    assert load_model(tmp_path / "out").config == run.model.config


def test_a_size_gets_both_dropouts_too(tmp_path):
    config = set_up(spec_of(tmp_path, "tiny-student", vocab_size=60, dropout=0.2, attention_dropout=0.0)).model.config
    assert (config.dropout, config.attention_dropout, config.head_dropout) == (0.2, 0.0, 0.1)
