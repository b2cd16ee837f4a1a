"""What commands share: flags made of settings, and lists and names read from flags."""

import argparse
import ast
import re
from dataclasses import fields

import pytest

import kd_scratch
from kd_scratch import load_model, load_tokenizer, save_model
from kd_scratch.__main__ import main
from kd_scratch.commands.flags import add_flags, by_name, given, layer_list, named_directory
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig, KernelConfig, RunConfig, TrainConfig, flag_name
from kd_scratch.evaluation.evaluate import device_for
from kd_scratch.nn.int8 import quantize
from tests.conftest import ROOT


def test_only_commands_know_of_argparse():
    package = ROOT / "kd_scratch"
    for path in package.rglob("*.py"):
        if path.parent.name == "commands" or path.name == "__main__.py":
            continue
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        assert "argparse" not in names, f"{path.relative_to(package)}: flags belong to commands"


def test_flags_are_the_fields_and_only_given_ones_come_back():
    parser = argparse.ArgumentParser()
    add_flags(parser, RunConfig, only=("seed", "device"))
    assert given(parser.parse_args([]), RunConfig) == {}
    assert given(parser.parse_args(["--seed", "3"]), RunConfig) == {"seed": 3}
    with pytest.raises(SystemExit):
        parser.parse_args(["--threads", "1"])


@pytest.mark.parametrize("config", [TrainConfig, DataConfig, RunConfig, KernelConfig])
def test_from_python_too_a_setting_is_one_of_its_choices(config):
    chosen = {f.name: f.metadata["choices"] for f in fields(config) if f.metadata["choices"]}
    assert chosen
    for name, choices in chosen.items():
        for choice in choices:
            assert getattr(config(**{name: choice}), name) == choice
        message = f"{flag_name(name)} must be {', '.join(choices[:-1])} or {choices[-1]}, not none of them"
        with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
            config(**{name: "none of them"})


def test_the_help_names_the_tasks_that_differ():
    parser = argparse.ArgumentParser()
    add_flags(parser, TrainConfig, only=("epochs",), task_defaults={"clinc": {"epochs": 6}, "csv": {"epochs": 3}})
    assert "(default 3; clinc: 6)" in " ".join(parser.format_help().split())


@pytest.mark.parametrize("device", ["cuda", "mps"])
def test_an_int8_model_runs_on_the_cpu_where_nobody_chose_a_device(
    device, model_directory, tmp_path, monkeypatch, capsys
):
    save_model(quantize(load_model(model_directory)), tmp_path / "int8", load_tokenizer(model_directory))
    monkeypatch.setattr(f"torch.{'backends.' * (device == 'mps')}{device}.is_available", lambda: True)
    predict = ["predict", "--model", str(tmp_path / "int8"), "--text", "fox"]
    assert main(predict) == 0 and kd_scratch.predict(tmp_path / "int8", ["fox"])
    assert main([*predict, "--device", device]) == 2
    assert "is an int8 model, which runs on the CPU only; add --device cpu" in capsys.readouterr().err
    assert device_for("auto", [model_directory]) == "auto" and device_for(device, [tmp_path / "int8"]) == device
    assert device_for("auto", [model_directory, tmp_path / "int8"]) == "cpu"
    assert (
        capsys.readouterr().out
        == f"note: {tmp_path}/int8: is an int8 model, which runs on the CPU only, and the others beside it\n"
    )


def test_lists_and_names():
    assert layer_list("0,2,4") == (0, 2, 4) and [layer_list(text) for text in ("auto", "auto:12")] == [
        "auto",
        "auto:12",
    ]
    assert named_directory("teacher=runs/a=b") == ("teacher", "runs/a=b")
    assert by_name([("a", "x"), ("b", "y")], "--models") == {"a": "x", "b": "y"}
    for function, text in ((layer_list, "0,two"), (named_directory, "runs/teacher"), (named_directory, "=x")):
        with pytest.raises(argparse.ArgumentTypeError):
            function(text)
    with pytest.raises(UserError, match="--models: a name is used twice"):
        by_name([("a", "x"), ("a", "y")], "--models")
