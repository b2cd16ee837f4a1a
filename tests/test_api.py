"""The Python interface: the examples in its docstrings run, and importing it does not import PyTorch."""

import doctest
import inspect
import subprocess
import sys

import pytest

import kd_scratch
from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.common import console
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from tests.conftest import ROOT, tiny_model

ROWS = "text,label\nthe fox,yes\na dog,no\nthe moon,maybe\na probe,no\n"
FUNCTIONS = [name for name, value in vars(kd_scratch).items() if inspect.isfunction(value)]


@pytest.fixture
def folder(tmp_path, tokenizer, monkeypatch):
    """The working directory of the examples: a classifier, a model for question answering, and a data file."""
    monkeypatch.chdir(tmp_path)
    for name, head in (("student", "sequence"), ("reader", "span")):
        save_model(tiny_model(head, vocab_size=tokenizer.vocab_size), name)
        tokenizer.save(name, max_length=32)
    for name in ("train.csv", "test.csv"):
        (tmp_path / name).write_text(ROWS)
    return tmp_path


def test_the_interface_is_what_the_commands_do():
    wanted = {
        "load_model",
        "save_model",
        "load_tokenizer",
        "train",
        "evaluate",
        "predict",
        "prune",
        "quantize",
        "export_onnx",
    }
    assert wanted <= set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_examples_in_the_docstrings_run(name, folder, capsys):
    function = getattr(kd_scratch, name)
    [test] = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert test.examples, f"{name} has no example"
    console.hush(True)  # no progress among the results
    try:
        outcome = doctest.DocTestRunner().run(test)
    finally:
        console.hush(False)
    assert outcome.failed == 0, capsys.readouterr().out


def test_importing_the_package_does_not_import_pytorch():
    code = "import sys, kd_scratch; print(sorted({'torch', 'numpy', 'tokenizers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_string_is_one_text_or_file_not_one_of_letters(folder):
    assert list(kd_scratch.predict("student", "the fox")) == ["the fox"]
    assert list(kd_scratch.predict("reader", questions="who?", context="the fox")) == ["who?"]
    assert kd_scratch.prune("student", "one-file", "train.csv", feed_forward=20)["rows"]
    assert [*kd_scratch.export_onnx("student", "one-precision", "int8")["files"]] == ["int8"]


def test_settings_and_mistakes_reach_the_libraries(folder):
    found = kd_scratch.evaluate("student", "csv", "test.csv", settings=DataConfig(limit="2"), device="cpu")
    assert found.record["metrics"]["examples"] == 2 and found.record["data settings"]["limit"] == "2"
    for call, message in (
        (lambda: kd_scratch.train("cooking", "train.csv", "50%", "student", "out"), "cooking: no such task"),
        (
            lambda: kd_scratch.train("csv", "train.csv", "50%", "student", "out", data=DataConfig()),
            "data: give the single settings",
        ),
        (
            lambda: kd_scratch.train("csv", "train.csv", "50%", "student", "out", unlabelled=None, epoch=1),
            "epoch: there is no such setting",
        ),
        (lambda: kd_scratch.evaluate("student", "cooking", "test.csv"), "cooking: no such task; there are agnews,"),
        (lambda: kd_scratch.evaluate("student", "csv", "test.csv", split="val"), "have no splits"),
        (lambda: kd_scratch.evaluate("student", "csv", "test.csv", device="gpu"), "--device gpu: PyTorch finds no"),
        (lambda: kd_scratch.predict("reader", ["a text"]), "reader: has a span head; predict needs --question"),
        (lambda: kd_scratch.quantize("student", "reader"), "reader: already holds something"),
    ):
        with pytest.raises(UserError, match=message):
            call()


def test_a_saved_model_without_a_tokenizer_is_opened_again(folder):
    kd_scratch.save_model(kd_scratch.load_model("student"), "bare")
    assert kd_scratch.load_model("bare").config.labels == ("no", "yes", "maybe")
    with pytest.raises(UserError, match="tokenizer.json"):
        kd_scratch.load_tokenizer("bare")
