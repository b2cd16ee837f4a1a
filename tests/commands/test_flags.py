"""What commands share: flags made of settings, and lists and names read from flags."""

import argparse
import ast

import pytest

from kd_scratch.commands.flags import add_flags, by_name, given, layer_list, named_directory
from kd_scratch.common.errors import UserError
from kd_scratch.config import RunConfig, TrainConfig
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


def test_the_help_names_the_tasks_that_differ():
    parser = argparse.ArgumentParser()
    add_flags(parser, TrainConfig, only=("epochs",), task_defaults={"clinc": {"epochs": 6}, "csv": {"epochs": 3}})
    assert "(default 3; clinc: 6)" in " ".join(parser.format_help().split())


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
