"""Which files of a directory hold its weights, in what order they are taken, and what is said where there are none."""

import json

import pytest
import torch

from kd_scratch.checkpoints.checkpoint import load_model, megabytes, save_model
from kd_scratch.checkpoints.safetensors import load_file, save_file
from kd_scratch.checkpoints.weight_files import load_weights, weight_files
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import check_target
from tests.conftest import tiny_model

SHARDS = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]


def pickled(folder, name="pytorch_model.bin", zipped=True, **beside):
    """A model directory with its weights as torch.save writes them, alone or in two shards; returns the model."""
    model = tiny_model()
    save_model(model, folder)
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    (folder / "model.safetensors").unlink()
    if name.endswith(".index.json"):
        weight_map = {key: SHARDS[i % 2] for i, key in enumerate(tensors)}
        for shard in SHARDS:
            torch.save({key: tensors[key] for key in tensors if weight_map[key] == shard}, folder / shard)
        (folder / name).write_text(json.dumps({"weight_map": weight_map} | beside))
    else:
        content = {"state_dict": tensors} | beside if beside else tensors
        torch.save(content, folder / name, _use_new_zipfile_serialization=zipped)
    return model


def same_weights(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_directory_with_a_pickle_opens(tmp_path, zipped):
    model = pickled(tmp_path, zipped=zipped)
    assert same_weights(load_model(tmp_path), model)
    assert weight_files(tmp_path) == [tmp_path / "pytorch_model.bin"] and megabytes(tmp_path) > 0.01


def test_a_directory_with_pickles_in_shards_opens_and_each_holds_what_the_index_lists(tmp_path):
    model = pickled(tmp_path, "pytorch_model.bin.index.json")
    assert same_weights(load_model(tmp_path), model)
    assert [path.name for path in weight_files(tmp_path)] == SHARDS
    torch.save({"other": torch.ones(1)}, tmp_path / SHARDS[0])
    with pytest.raises(UserError, match=f"{SHARDS[0]}: holds other parameters than the index lists"):
        load_weights(tmp_path)
    for shard in ("../evil.bin", ""):
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
        with pytest.raises(UserError, match=f"'{shard}' is not a plain file name in this directory"):
            load_weights(tmp_path)


def test_a_name_of_a_page_is_refused(tmp_path):
    save_model(tiny_model(), tmp_path)
    for length, message in ((1000, "missing: bert"), (1001, "has 1,001 characters, at most 1000")):
        save_file({"a" * length: torch.zeros(1)}, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match=message):
            load_model(tmp_path)


def test_what_stands_beside_a_state_dict_is_told_where_the_model_is_opened(tmp_path):
    model = pickled(tmp_path, epoch=3)
    notes = []
    assert same_weights(load_model(tmp_path, say=notes.append), model)
    assert notes == [f"{tmp_path}/pytorch_model.bin: ignored, no tensors of the state dict: epoch"]


def test_the_hubs_own_cache_opens_whose_files_are_links_to_blobs(tmp_path):
    snapshot, blobs = tmp_path / "snapshots" / "c0ffee", tmp_path / "blobs"
    blobs.mkdir()
    model = pickled(snapshot, "pytorch_model.bin.index.json")
    for path in list(snapshot.iterdir()):
        path.rename(blobs / path.name)
        path.symlink_to(f"../../blobs/{path.name}")
    assert same_weights(load_model(snapshot), model)


def test_the_forms_of_weights_are_searched_in_order(tmp_path):
    """model.safetensors, its index, pytorch_model.bin, its index: each found only where those before it are not."""
    names = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]
    files = ["model.safetensors", "a.safetensors", "pytorch_model.bin", "b.bin"]
    for i, file in enumerate(files):
        tensors = {"w": torch.full((1,), float(i))}
        (save_file if file.endswith("safetensors") else torch.save)(tensors, tmp_path / file)
    for name, file in zip(names[1::2], files[1::2], strict=True):
        (tmp_path / name).write_text(json.dumps({"weight_map": {"w": file}}))
    for i, name in enumerate(names):
        assert load_weights(tmp_path)["w"] == i and weight_files(tmp_path) == [tmp_path / files[i]]
        (tmp_path / name).unlink()


@pytest.mark.parametrize("name", ["model.pt", "checkpoint.pth", "epoch=3.ckpt", "adapter.safetensors", "weights.bin"])
def test_weights_under_another_name_open_after_the_cure_that_is_printed(tmp_path, name):
    model = pickled(tmp_path) if not name.endswith("safetensors") else tiny_model()
    if name.endswith("safetensors"):
        save_model(model, tmp_path)
    wanted = "model.safetensors" if name.endswith("safetensors") else "pytorch_model.bin"
    (tmp_path / wanted).rename(tmp_path / name)
    with pytest.raises(UserError, match=f"no pytorch_model.bin; if {name} .* rename it to {wanted}$"):
        load_model(tmp_path)
    (tmp_path / name).rename(tmp_path / wanted)
    assert same_weights(load_model(tmp_path), model)


def test_shards_whose_index_is_missing_open_once_it_is_there(tmp_path):
    """Renaming one of them, as of a single file, would not help."""
    pickled(tmp_path, "pytorch_model.bin.index.json")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=f"{SHARDS[0]} is one of several; fetch pytorch_model.bin.index.json, too$"):
        load_model(tmp_path)
    (tmp_path / "moved").rename(index)
    load_model(tmp_path)


def test_weights_of_other_frameworks_are_named_with_what_makes_ours_of_them(tmp_path):
    save_model(tiny_model(), tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "flax_model.msgpack")
    for name in ("training_args.bin", "rng_state.pth", "scaler.pt"):  # no weights, whatever their names
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=r"flax_model.msgpack is not read, .*from_flax=True\)"):
        load_model(tmp_path)
    (tmp_path / "tf_model.h5").write_bytes(b"x")
    with pytest.raises(UserError, match=r"tf_model.h5 is not read, .*from_tf=True\)"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", SHARDS[1], "pytorch_model.bin.index.json", "added_tokens.json"])
def test_no_output_may_replace_a_file_of_such_a_model(tmp_path, name):
    pickled(tmp_path)
    with pytest.raises(UserError, match="would overwrite"):
        check_target(tmp_path / name, tmp_path)
