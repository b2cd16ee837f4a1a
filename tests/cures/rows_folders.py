"""Cures for model folders as other programs leave them: PyTorch's pickles, heads and labels of other kinds."""

import argparse
import json
import zipfile
from pathlib import Path

import torch

from kd_scratch.checkpoints.safetensors import load_file
from kd_scratch.checkpoints.torch_pickle import load_file as load_pickle
from tests.cures.world import Cure, find, main, put, value

BIN = "pytorch_model.bin"


def pickled(world, **more):
    """A model folder whose weights are a pickle, in which more than they may be."""
    if not (world.folder / "pickled").exists():
        (world.copy(world.base.model(), "pickled") / "model.safetensors").unlink()
    torch.save(dict(load_file(world.base.model() / "model.safetensors")) | more, world.folder / "pickled" / BIN)
    return world.evaluate(model=world.folder / "pickled")


def packed(world, method):
    """The pickle's archive, each entry packed by a method of ZIP."""
    argv = pickled(world)
    path = world.folder / "pickled" / BIN
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, raw in entries.items():
            archive.writestr(name, raw)
    return argv


def pointer(world):
    """What a clone without Git LFS leaves."""
    argv = pickled(world)
    (world.folder / "pickled" / BIN).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    return argv


def turned(world, cloned):
    """A pickle with a tensor that is conjugated when it is used."""
    tensor = torch.ones(2, dtype=torch.complex64).conj()
    torch.save({"a": tensor.clone() if cloned else tensor}, world.folder / BIN)
    return lambda: load_pickle(world.folder / BIN)


def configured(world, source, **changes):
    """A model folder with something else in its config.json."""
    model = world.folder / "configured"
    if not model.exists():
        world.copy(source, model.name)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))
    return model


def trained(world, argv, line):
    """Trains the model in the line, as it says, and gives the command with the result."""
    model = Path(find("error: (.*?)/config.json: .*can be trained for a task with labels .train --model.", line))
    assert main(world.train(model=model)) == 0
    return put(argv, "--model", world.folder / "trained")


def without_types(world):
    """A model that answers questions, whose tokenizer gives it no token types."""
    model = world.copy(world.base.model("span"), "without")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"model_input_names": ["input_ids"]}))
    return model


def with_types(world, argv, line):
    """Writes the names in the line into the settings of the tokenizer, or of both."""
    names = json.loads(find(r'write "model_input_names": (\[.*?\]) into tokenizer_config.json', line))
    for path in world.folder.glob("*/tokenizer_config.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"model_input_names": names}))


def filled(world):
    """A model folder with another one in it."""
    model = world.folder / "filled"
    if not model.exists():
        world.copy(world.base.model(), model.name)
        (model / "onnx").mkdir()
        (model / "onnx" / "model.onnx").write_text("")
    return model


def elsewhere(world, argv, line):
    """Chooses another folder; the one in the line is as it was."""
    assert (find("--output (.*?): .*; choose another folder", line)) == value(argv, "--output")
    return put(argv, "--output", world.folder / "elsewhere")


NAMELESS = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
TAGS = {"0": "O", "1": "B-PER", "2": "I-PER"}

ROWS = [
    Cure(
        "take a model.safetensors, or have the program that made it save only model.state_dict()",
        lambda w: pickled(w, arguments=argparse.Namespace(a=1)),
        lambda w, argv, line: (
            w.copy(w.base.model() / find("take a (model.safetensors)", line), "pickled/model.safetensors") and None
        ),
    ),
    Cure(
        "take a model.safetensors, or have the program that made it save only model.state_dict()",
        lambda w: pickled(w, arguments=argparse.Namespace(a=1)),
        lambda w, argv, line: find(r"(save only model.state_dict\(\))", line) and pickled(w),
    ),
    Cure(
        "a tensor is lazily conjugated or negated; save a clone of it",
        lambda w: turned(w, cloned=False),
        lambda w, argv, line: turned(w, cloned=find("save a (clone) of it", line)),
    ),
    Cure(
        "unpack the archive, and pack it without compression or folders (zip -0 -r -D)",
        lambda w: packed(w, zipfile.ZIP_DEFLATED),
        lambda w, argv, line: find("(pack it without compression or folders)", line) and packed(w, zipfile.ZIP_STORED),
    ),
    Cure(
        "is a Git LFS pointer, not the file itself; fetch that with: git lfs pull",
        pointer,
        lambda w, argv, line: find("(git lfs pull)", line) and pickled(w),
    ),
    Cure(
        "its body can be trained for a task with labels (train --model)",
        lambda w: w.evaluate(model=configured(w, w.base.model(), problem_type="regression")),
        trained,
    ),
    Cure(
        'write "model_input_names": {} into tokenizer_config.json if it was trained with them',
        lambda w: w.squad("evaluate", "--question-length", 8, model=without_types(w)),
        with_types,
        note=True,
    ),
    Cure(
        'write "model_input_names": {} into tokenizer_config.json of both',
        lambda w: w.squad("train", model=without_types(w), teacher=w.copy(w.base.model("span"), "teacher")),
        with_types,
    ),
    Cure(
        "; write their names into id2label of its config.json, in the order of its training",
        lambda w: w.evaluate(model=configured(w, w.base.model(), id2label={"0": "LABEL_0", "1": "LABEL_1"})),
        lambda w, argv, line: (
            find("(id2label) of its config.json", line)
            and configured(w, w.base.model(), id2label={"0": "sport", "1": "trade"})
            and None
        ),
    ),
    *(
        Cure("is the model {} itself, or a part of it; choose another folder", start, elsewhere)
        for start in (
            lambda w: w.train(model=filled(w), output=filled(w)),
            lambda w: w.train(teacher=filled(w), output=filled(w) / "onnx"),
            lambda w: ["quantize", "--model", str(filled(w)), "--output", str(filled(w)), "--threads", "1"],
            lambda w: ["convert", "--model", str(filled(w)), "--output", str(filled(w) / "onnx")],
        )
    ),
    *(
        Cure(
            "{}: is a file; give its folder {}",
            lambda w, start=start: start(w, filled(w) / "model.safetensors"),
            lambda w, argv, line: put(argv, "--model", find("give its folder (.*)", line)),
        )
        for start in (lambda w, path: w.evaluate(model=path), lambda w, path: w.train(model=path))
    ),
    Cure(
        "{}: has {} positions, {} are needed; give --max-length {} or less",
        lambda w: w.evaluate("--max-length", 4000),
        lambda w, argv, line: put(argv, "--max-length", find("give --max-length (.*) or less", line)),
    ),
    Cure(
        "write there what each number means, in the order of its training",
        lambda w: w.conll("evaluate", model=configured(w, w.base.model("token"), id2label=NAMELESS)),
        lambda w, argv, line: (
            find("(id2label) in config.json", line) and configured(w, w.base.model("token"), id2label=TAGS) and None
        ),
    ),
]
