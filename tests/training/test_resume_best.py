"""A resumed run goes on from what was kept of its best epoch: the weights, and the threshold chosen with them."""

import json
from dataclasses import replace

import pytest

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import load_config, load_model, save_model
from kd_scratch.training.resume import PREVIOUS_WEIGHTS, Progress, restore_best
from tests.conftest import tiny_model


def test_weights_and_threshold_of_the_best_epoch_are_put_back_together(tmp_path):
    kept, newer = (tiny_model(multi_label=True, threshold=threshold) for threshold in (0.25, 0.75))
    newer.head.classifier.bias.data += 1
    sha256 = save_model(kept, tmp_path)
    save_model(newer, tmp_path, keep=tmp_path / PREVIOUS_WEIGHTS)  # and then it is killed
    history = [{"epoch": 1, "threshold": 0.1}, {"epoch": 2, "threshold": 0.25}]
    restore_best(tmp_path, Progress(epoch=2, best_epoch=2, best_sha256=sha256, history=history), newer.config)
    assert load_config(tmp_path) == replace(load_config(tmp_path), threshold=0.25)
    assert load_model(tmp_path).head.classifier.bias.equal(kept.head.classifier.bias)


@pytest.mark.parametrize("multi_label", [False, True])
def test_a_run_that_was_killed_between_weights_and_config_goes_on(tmp_path, multi_label):
    kept = tiny_model(multi_label=multi_label, threshold=0.25 if multi_label else 0.5)
    sha256 = save_model(kept, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    (tmp_path / "config.json").unlink()
    history = [{"epoch": 1, "threshold": 0.25} if multi_label else {"epoch": 1}]
    restore_best(tmp_path, Progress(epoch=1, best_epoch=1, best_sha256=sha256, history=history), kept.config)
    assert (tmp_path / "config.json").read_bytes() == before


def test_the_first_score_is_kept_however_low(tmp_path):
    """Matthews' correlation of a dev file with its labels exchanged is -1."""
    rows = [f"{'good good' if i % 2 else 'bad bad'} {i % 7},{i % 2}" for i in range(60)]
    (tmp_path / "train.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    (tmp_path / "dev.csv").write_text("text,label\ngood good 1,0\nbad bad 2,1\n")
    files = ["--train", tmp_path / "train.csv", "--dev", tmp_path / "dev.csv", "--output", tmp_path / "run"]
    size = ["--model", "tiny-student", "--vocab-size", 60, "--max-length", 16, "--cache", tmp_path / "cache"]
    steps = ["--steps", 40, "--looks", 1, "--batch-size", 8, "--learning-rate", 1e-3, "--warmup-steps", 0]
    assert main([*map(str, ["train", "--task", "cola", *files, *size, *steps])]) == 0
    assert json.loads((tmp_path / "run" / "training.json").read_text())["best_score"] == -1.0
    assert load_model(tmp_path / "run").config.depth == 1
