"""--amp auto: chosen once, by the processor on which a run begins."""

import json
import re
from pathlib import Path

import pytest
import torch

from kd_scratch.checkpoints.safetensors import read_metadata
from kd_scratch.common import device
from kd_scratch.training import layer_choice, setup
from kd_scratch.training.bookkeeping import Bookkeeping
from kd_scratch.training.resume import CHOICE, PREVIOUS, STATE, saved_precision
from kd_scratch.training.run import train
from kd_scratch.training.setup import set_up, with_precision
from kd_scratch.training.spec import RunSpec
from tests.commands.test_commands import write_csv

PROCESSORS = {"bf16": ("is_available",), "off": ()}  # what PyTorch may be asked for; torch.cpu.is_available() is True


class Killed(Exception):
    """Stands for a signal that cannot be caught."""


@pytest.fixture(autouse=True)
def nothing_is_narrow(monkeypatch):
    """The models here are; one test says what follows."""
    monkeypatch.setattr(setup, "BF16_MIN_WIDTH", 0)


def spec_of(folder, **settings):
    settings = dict(output=folder / "out") | settings
    settings = dict(epochs=2, batch_size=4, max_length=16, model="tiny-student", threads=1) | settings
    if "/" not in settings["model"]:
        settings["vocab_size"] = 60
    paths = dict(train=Path(write_csv(folder / "train.csv", 12)), cache=folder / "cache")
    return RunSpec.of("csv", dev="25%", **paths, **settings)


def dies(monkeypatch, where, name, after):
    """A function that is called so often, and then kills."""
    real, calls = getattr(where, name), []

    def call(*arguments, **named):
        calls.append(1)
        if len(calls) > after:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(where, name, call)


@pytest.mark.parametrize("began, here", [("bf16", "off"), ("off", "bf16")])
def test_a_resumed_run_keeps_its_precision_on_another_processor(tmp_path, monkeypatch, capsys, began, here):
    spec = spec_of(tmp_path)
    monkeypatch.setattr(device, "HAS_BF16", PROCESSORS[began])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies(patch, Bookkeeping, "begin_epoch", 1)
        train(set_up(spec))
    assert saved_precision(spec.output) == began
    identity = json.loads(read_metadata(spec.output / STATE)["identity"])
    assert identity["settings"]["amp"] == began
    capsys.readouterr()

    monkeypatch.setattr(device, "HAS_BF16", PROCESSORS[here])
    with monkeypatch.context() as patch:  # as on a GPU
        patch.setattr(setup, "saved_precision", lambda folder: "fp16")
        assert with_precision(spec, torch.device("cuda")).config.amp == "fp16"
        assert with_precision(spec, torch.device("cpu")).config.amp == here, "no CPU computes with it"
    capsys.readouterr()
    run = set_up(spec, resume=True)
    assert run.spec.config.amp == began
    note = f"note: --amp auto: {began}, as the run began; for a new one it would be {here} here"
    assert note in capsys.readouterr().out
    record = train(run)
    assert re.search(f"on cpu, \\d+ threads{', bf16' * (began == 'bf16')}: ", capsys.readouterr().out)
    assert record["settings"]["amp"] == began and not record["forced"]
    assert saved_precision(spec.output) is None  # a finished run is not resumed


def test_a_choice_of_layers_goes_on_in_its_precision_too(tmp_path, monkeypatch):
    teacher = spec_of(tmp_path, model="tiny-teacher", epochs=1)
    train(set_up(teacher))
    spec = spec_of(
        tmp_path, model=str(teacher.output), init_layers="auto:1", output=tmp_path / "student", layer_steps=1
    )
    monkeypatch.setattr(device, "HAS_BF16", PROCESSORS["bf16"])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies(patch, layer_choice, "try_layers", 1)
        train(set_up(spec))
    assert (spec.output / CHOICE).is_file() and not (spec.output / STATE).is_file()
    monkeypatch.setattr(device, "HAS_BF16", PROCESSORS["off"])
    assert train(set_up(spec, resume=True))["settings"]["amp"] == "bf16"


def test_what_was_asked_for_holds_and_a_damaged_state_says_nothing(tmp_path, monkeypatch):
    for name in PROCESSORS:
        monkeypatch.setattr(device, "HAS_BF16", PROCESSORS[name])
        assert set_up(spec_of(tmp_path)).spec.config.amp == name
        assert set_up(spec_of(tmp_path, amp="off")).spec.config.amp == "off"
    out = tmp_path / "out"
    out.mkdir()
    for name in (STATE, PREVIOUS, CHOICE):
        (out / name).write_text("[]")
        assert saved_precision(out) is None


def test_narrow_sizes_stay_in_float32_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "HAS_BF16", PROCESSORS["bf16"])
    spec, cpu = spec_of(tmp_path), torch.device("cpu")
    assert setup.with_precision(spec, cpu).config.amp == "bf16"
    monkeypatch.setattr(setup, "BF16_MIN_WIDTH", 256)
    assert setup.with_precision(spec, cpu).config.amp == "off"
    assert setup.with_precision(spec_of(tmp_path, model="scratch-small"), cpu).config.amp == "bf16"
