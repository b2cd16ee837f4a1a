"""gpu.py on the CPU: every check in its smallest form, and faults that it must find."""

from dataclasses import replace

import pytest
import torch

from kd_scratch.config import SIZES
from kd_scratch.distillation import hidden_losses
from kd_scratch.training import bookkeeping, loop, trainer
from tests import gpu
from tests.gpu import CPU, Size, checks, main, run_checks

SHAPE = dict(vocab_size=200, max_positions=64)
SMALL = Size(replace(SIZES["mini-student"], depth=2, **SHAPE), replace(SIZES["mini-student"], **SHAPE), 32, 8)
NAMES = list(checks(CPU, "", SMALL))


@pytest.mark.parametrize("name", NAMES)
def test_each_check_holds_on_the_cpu(tmp_path, name):
    found = checks(CPU, tmp_path, SMALL)[name]()
    if name.startswith("speed"):
        assert len(found) == len(gpu.COLUMNS) and found[2] > 0
    else:
        assert isinstance(found, str)


def other_place(monkeypatch, fault):
    """A device beside the CPU, on which a model computes something else."""
    device = torch.device("cpu", 0)  # not equal to CPU, and just as good
    real = gpu.tiny_model

    def make(*arguments, **shape):
        model = real(*arguments, **shape)
        to = model.to

        def moved(place):
            if place is device:
                fault(model)
            return to(place)

        model.to = moved
        return model

    monkeypatch.setattr(gpu, "tiny_model", make)
    return device


def one_weight(model):
    with torch.no_grad():
        model.encoder.blocks[0].attention.key.weight[0] *= 1.5


@pytest.mark.parametrize("name", ["heads in float32", "heads in bf16", "hidden-state losses", "evaluation"])
def test_a_device_that_computes_something_else_is_found(tmp_path, monkeypatch, name):
    device = other_place(monkeypatch, one_weight)
    with pytest.raises(AssertionError, match="differs by"):
        checks(device, tmp_path, SMALL)[name]()


def test_waiting_is_forbidden_in_every_step_but_the_first_and_allowed_where_losses_are_read(tmp_path):
    modes = []
    gpu.check_no_wait(CPU, tmp_path, "off", modes.append)
    steps = 9  # three epochs of three
    assert modes.count("error") == steps - 1 and modes[0] == modes[-1] == "default"
    assert modes[3] == "default" and modes[4] == "error", "read at the end of an epoch"
    assert loop.seed_step.__module__ == "kd_scratch.common.device" and bookkeeping.READ_EVERY["cpu"] == 1


def test_a_run_that_is_resumed_from_elsewhere_is_found(tmp_path, monkeypatch):
    real = trainer.load_state

    def damaged(folder, model, *rest):
        progress = real(folder, model, *rest)
        with torch.no_grad():
            model.model.encoder.blocks[0].feed_forward.inner.weight[0] *= 1.01
        return progress

    monkeypatch.setattr(trainer, "load_state", damaged)
    with pytest.raises(AssertionError, match="weights: differs by"):
        gpu.check_resume(CPU, tmp_path)


def test_one_failure_is_told_and_the_others_go_on(monkeypatch, capsys):
    def broken(*arguments):
        raise ValueError("no such layer")

    monkeypatch.setattr(gpu, "check_evaluation", broken)
    for slow in ("check_heads", "check_hidden_losses", "check_no_wait", "check_resume"):
        monkeypatch.setattr(gpu, slow, lambda *_: "fine")
    monkeypatch.setattr(gpu, "measure", lambda *_, beside: ("row", "bfloat16", 10, "1%", "1", str(beside)))
    assert run_checks(CPU, SMALL) == 1
    said = capsys.readouterr().out
    assert "evaluation: FAILED: no such layer" in said and "failed: evaluation" in said
    assert said.count("fine") == 6 and said.count("measured") == 2 and "tokens/s" in said


def test_without_a_device_one_line_says_that_nothing_was_checked(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main() == gpu.NOTHING_CHECKED == 3
    assert capsys.readouterr().out.count("\n") == 1


def test_every_hidden_loss_is_among_the_checks():
    assert set(hidden_losses.HIDDEN_LOSSES) <= set(gpu.check_hidden_losses(CPU).split(":")[0].split(", "))
