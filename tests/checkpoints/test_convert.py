"""A directory saved again as safetensors: nothing is lost, nothing is changed."""

import json

import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints import convert as convert_module
from kd_scratch.checkpoints import safetensors
from kd_scratch.checkpoints.checkpoint import load_config, load_model
from kd_scratch.checkpoints.convert import convert
from kd_scratch.checkpoints.safetensors import load_file, read_metadata
from kd_scratch.common import files
from kd_scratch.common.errors import UserError
from tests.checkpoints.folders import FOLDERS
from tests.checkpoints.test_weight_files import SHARDS, pickled, same_weights


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json"])
def test_a_converted_directory_holds_the_same_model_and_every_file_beside_it(tmp_path, name, capsys):
    model = pickled(tmp_path / "old", name)
    beside = {"vocab.txt": b"[PAD]\na\n", "tokenizer_config.json": b'{"do_lower_case": true}\n', "README.md": b"",
              "added_tokens.json": b"{}", "spiece.model": bytes(range(256))}  # fmt: skip
    for file, content in beside.items():
        (tmp_path / "old" / file).write_bytes(content)
    (tmp_path / "old" / "tf_model.h5").write_bytes(b"other weights")
    (tmp_path / "old" / "1_Pooling").mkdir()
    assert main(["convert", "--model", str(tmp_path / "old"), "--output", str(tmp_path / "new"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["from"] == ([name] if name.endswith(".bin") else SHARDS)
    assert record["left_out"] == ["1_Pooling", "tf_model.h5"]
    assert same_weights(load_model(tmp_path / "new"), model)
    assert load_config(tmp_path / "new") == load_config(tmp_path / "old")
    found = {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()}
    assert found.keys() == {*beside, "config.json", "model.safetensors"} and found.items() >= beside.items()
    assert found["config.json"] == (tmp_path / "old" / "config.json").read_bytes()


def test_names_in_a_folder_do_not_command_the_terminal(tmp_path, capsys):
    model = pickled(tmp_path / "old")
    tensors = {"cls.\x1b[2J": torch.ones(1), **torch.load(tmp_path / "old" / "pytorch_model.bin")}
    torch.save(tensors, tmp_path / "old" / "pytorch_model.bin")
    for name in ("\x1b[2J.h5", "\x1b[2J.txt"):
        (tmp_path / "old" / name).touch()
    assert main(["convert", "--model", str(tmp_path / "old"), "--output", str(tmp_path / "new")]) == 0
    assert same_weights(load_model(tmp_path / "new"), model)
    shown = capsys.readouterr().out
    assert r"copied beside it: \x1b[2J.txt" in shown and r"left out: \x1b[2J.h5" in shown and r"cls.\x1b[2J" in shown
    assert "\x1b[2J" not in shown


def test_a_link_to_a_file_elsewhere_is_not_copied_into_what_may_be_published(tmp_path):
    private = tmp_path / "private.json"
    private.write_text('{"token": "secret"}')
    notes = []
    pickled(tmp_path / "old")
    (tmp_path / "old" / "notes.txt").symlink_to(private)
    record = convert(tmp_path / "old", tmp_path / "new", notes.append)
    assert record["left_out"] == ["notes.txt"] and not (tmp_path / "new" / "notes.txt").exists()
    assert sum("is a link to a file elsewhere, and not copied" in note for note in notes) == 1
    (tmp_path / "old" / "vocab.txt").unlink(missing_ok=True)
    (tmp_path / "old" / "vocab.txt").symlink_to(private)
    with pytest.raises(UserError, match="vocab.txt: is a link to a file elsewhere; put the file in its place"):
        convert(tmp_path / "old", tmp_path / "newer", notes.append)
    assert not (tmp_path / "newer").exists()
    (tmp_path / "old" / "vocab.txt").unlink()
    (tmp_path / "old" / "vocab.txt").write_text("[PAD]\n")
    assert "vocab.txt" in convert(tmp_path / "old", tmp_path / "newer", notes.append)["copied"]


def test_every_tensor_keeps_its_name_type_and_values_also_one_that_has_two_names(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    table = torch.randn(5, 3)
    tensors = {
        "embeddings": table,
        "decoder": table,
        "turned": table.T,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "position_ids": torch.arange(4).expand(1, -1),
        "none": torch.zeros(0),
        "parameter": torch.nn.Parameter(torch.ones(())),
    }
    torch.save(tensors | {"epoch": 3}, tmp_path / "pytorch_model.bin")
    notes = []
    record = convert(tmp_path, tmp_path / "new", notes.append)
    assert len(notes) == 1 and record["tensors"] == 7 and record["copied"] == ["config.json"]
    found = load_file(tmp_path / "new" / "model.safetensors")
    assert found.keys() == tensors.keys() and read_metadata(tmp_path / "new" / "model.safetensors") == {"format": "pt"}
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def test_nothing_is_converted_onto_something_or_from_nothing(tmp_path, capsys):
    pickled(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="is the model .* itself"):
        convert(tmp_path, tmp_path)
    assert main(["convert", "--model", str(tmp_path / "none"), "--output", str(tmp_path / "new")]) == 2
    assert "no such model directory" in capsys.readouterr().err and sorted(tmp_path.iterdir()) == before
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK\3\4")
    assert main(["convert", "--model", str(tmp_path), "--output", str(tmp_path / "new")]) == 2
    assert "was it cut off" in capsys.readouterr().err and not (tmp_path / "new").exists()


def test_what_was_cut_off_is_no_model_yet(tmp_path, monkeypatch):
    """Without its last files it would open with another tokenizer: weights come last."""
    pickled(tmp_path / "old")
    (tmp_path / "old" / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    write = files.write_atomically

    def write_until(path, chunks, *others):
        if path.name == "tokenizer_config.json":
            raise KeyboardInterrupt
        write(path, chunks, *others)

    for module in (convert_module, safetensors):
        monkeypatch.setattr(module, "write_atomically", write_until)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "old", tmp_path / "new")
    with pytest.raises(UserError, match="has no model.safetensors"):
        load_model(tmp_path / "new")


def test_the_hubs_cache_is_refused_with_the_folder_in_it_that_is_the_model(tmp_path):
    pickled(tmp_path / "snapshots" / "c0ffee")
    with pytest.raises(UserError, match="a model is in .*c0ffee"):
        convert(tmp_path, tmp_path / "new")


@pytest.mark.parametrize("folder", [f for f in FOLDERS if not f.refused], ids=lambda folder: folder.name)
def test_a_converted_folder_needs_no_notes_and_no_more_keys(tmp_path, folder):
    """Without a wrapper's prefix and with the keys that were missing it is what `transformers` opens, too."""
    notes, before = [], folder.write(tmp_path / "old")
    convert(before, tmp_path / "new", notes.append)
    config = json.loads((tmp_path / "new/config.json").read_text())
    assert config["model_type"] == folder.kind and config["architectures"]
    assert config.items() >= {k: v for k, v in json.loads((before / "config.json").read_text()).items() if v}.items()
    again = []
    model = load_model(tmp_path / "new", say=again.append)
    assert same_weights(model, load_model(before)) and not any("begin with" in note for note in again)
    assert any("begin with" in note for note in notes) == folder.name.startswith("prefix")
    assert len(load_file(tmp_path / "new/model.safetensors")) == len(load_file(before / "model.safetensors"))


def test_what_the_parameters_do_not_tell_stays_as_it_is(tmp_path):
    """What kind of head, and another model than ours."""
    undecided = next(folder for folder in FOLDERS if folder.name == "no architectures, nameless labels")
    undecided.write(tmp_path / "a")
    convert(tmp_path / "a", tmp_path / "new a", [].append)
    assert (tmp_path / "new a/config.json").read_bytes() == (tmp_path / "a/config.json").read_bytes()
