"""feature_cache.py: training inputs as arrays on disk."""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

import kd_scratch.tasks.feature_cache
from kd_scratch.checkpoints.safetensors import is_usable, load_file, read_metadata, save_file
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data import disk_arrays
from kd_scratch.data.disk_arrays import DiskArray, Names, zeros_on_disk
from kd_scratch.tasks import TASKS, classification, question_answering, token_classification
from kd_scratch.tasks.feature_cache import cached_features
from tests.conftest import TEXTS

CLASSES = ("no", "yes")
TAGS = ("O", "B-LOC", "I-LOC")


def same() -> bool:
    """Whether the data files are still the same: always."""
    return True


def examples_of(name: str, count: int = 30) -> tuple[list, tuple[str, ...]]:
    """So many examples of a task, of different lengths, and the labels."""
    texts = [TEXTS[i % 4][: 5 + 2 * i] for i in range(count)]
    if name == "csv":
        return [classification.Example(f"é:{i}", text, CLASSES[i % 2]) for i, text in enumerate(texts)], CLASSES
    if name == "conll":
        sentences = [tuple(text.split()) for text in texts]
        tags = [tuple(TAGS[(i + j) % 2] for j in range(len(words))) for i, words in enumerate(sentences)]
        return [
            token_classification.Example(f"x:{i}", words, tag, f"document {i // 4}")
            for i, (words, tag) in enumerate(zip(sentences, tags, strict=True))
        ], TAGS
    return [
        question_answering.Example(f"q{i}", "what is it", TEXTS[i // 5 % 4] * 2, (TEXTS[i // 5 % 4][4:9],), 4)
        for i in range(count)
    ], ()


@pytest.mark.parametrize("name, settings", [("csv", {}), ("conll", {}), ("conll", {"documents": True}), ("squad", {})])
def test_what_is_read_from_the_cache_is_what_featurizing_gives(tmp_path, tokenizer, monkeypatch, name, settings):
    monkeypatch.setattr(kd_scratch.tasks.feature_cache, "CHUNK", 7)
    task, data = TASKS[name], DataConfig(overlap=4, **settings)
    examples, labels = examples_of(name)
    expected = task.featurize(examples, tokenizer, labels, 32, data)
    common = (task, examples, tokenizer, labels, 32, data, ["hash"], same, tmp_path)
    made = cached_features(*common)
    monkeypatch.setattr(kd_scratch.tasks.feature_cache, "_arrays", None)  # a second time nothing may be made
    for features in (made, cached_features(*common)):
        assert features.head == expected.head and list(features.ids) == list(expected.ids)
        for field in ("tokens", "starts", "labels", "token_types", "allowed"):
            found, wanted = getattr(features, field), getattr(expected, field)
            assert (found is None) == (wanted is None), field
            if found is not None:
                assert found.dtype == wanted.dtype and np.array_equal(found, wanted), field
    assert len(list(tmp_path.iterdir())) == 1


def test_whatever_decides_the_inputs_decides_the_file(tmp_path, tokenizer, monkeypatch):
    examples, labels = examples_of("csv")
    usual = dict(labels=labels, max_length=32, data=DataConfig(), source=["a", "b"], unchanged=same)
    others = [dict(labels=labels[::-1]), dict(max_length=16), dict(data=DataConfig(limit="5")), dict(source=["ab", ""])]
    for settings in ({}, {}, *others):
        cached_features(TASKS["csv"], examples, tokenizer, folder=tmp_path, **usual | settings)
    assert len(list(tmp_path.iterdir())) == 5
    monkeypatch.setattr(
        kd_scratch.tasks.feature_cache, "source_hash", lambda *modules, versions: "somebody has changed featurize"
    )
    cached_features(TASKS["csv"], examples, tokenizer, folder=tmp_path, **usual)
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("damage", ["cut", "a flipped bit", "empty", "no checksum"])
def test_a_damaged_file_is_noticed_and_made_anew(tmp_path, tokenizer, damage):
    examples, labels = examples_of("csv")
    common = (TASKS["csv"], examples, tokenizer, labels, 32, DataConfig(), ["hash"], same, tmp_path)
    cached_features(*common)
    (path,) = tmp_path.iterdir()
    raw = path.read_bytes()
    flipped = raw[:-100] + bytes([raw[-100] ^ 1]) + raw[-99:]
    path.unlink()  # it may still be mapped
    path.write_bytes({"cut": raw[:-5], "a flipped bit": flipped, "empty": b"", "no checksum": raw[:-32]}[damage])
    messages = []
    cached_features(*common, messages.append)
    assert path.read_bytes() == raw and any("made anew" in line for line in messages)


def test_a_file_that_another_process_writes_meanwhile_is_not_called_damaged(tmp_path, monkeypatch):
    found = iter([False, True])
    monkeypatch.setattr(Path, "exists", lambda path: next(found))
    messages = []
    assert not is_usable(tmp_path / "x.safetensors", messages.append) and not messages


@pytest.mark.parametrize("damage", ["other metadata", "a tensor missing"])
def test_a_file_under_the_name_of_another_is_refused(tmp_path, tokenizer, damage):
    examples, labels = examples_of("csv")
    common = (TASKS["csv"], examples, tokenizer, labels, 32, DataConfig(), ["hash"], same, tmp_path)
    cached_features(*common)
    (path,) = tmp_path.iterdir()
    tensors, metadata = {k: v.clone() for k, v in load_file(path).items()}, read_metadata(path)
    if damage == "other metadata":
        save_file(tensors, path, metadata | {"source": "another"}, checksum=True)
    else:
        save_file({k: v for k, v in tensors.items() if k != "labels"}, path, metadata, checksum=True)
    with pytest.raises(UserError, match=str(path)):
        cached_features(*common)


def test_an_interrupted_writing_leaves_nothing(tmp_path, tokenizer, monkeypatch):
    examples, labels = examples_of("csv")
    examples[20] = classification.Example("x:20", "text", "unknown")
    monkeypatch.setattr(kd_scratch.tasks.feature_cache, "CHUNK", 7)
    with pytest.raises(UserError, match="x:20"):
        cached_features(TASKS["csv"], examples, tokenizer, labels, 32, DataConfig(), ["hash"], same, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_data_file_that_is_changed_while_it_is_read_is_not_cached(tmp_path, tokenizer):
    examples, labels = examples_of("csv")
    with pytest.raises(UserError, match="changed while it was read"):
        cached_features(
            TASKS["csv"], examples, tokenizer, labels, 32, DataConfig(), ["hash"], lambda: False, tmp_path / "cache"
        )
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("make", [lambda f: DiskArray(f, np.int64), lambda f: zeros_on_disk(f, (3, 2), np.float32)])
def test_a_disk_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, make):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk_arrays.tempfile, "TemporaryFile", full)
    with pytest.raises(UserError, match="No space left on device; choose another --cache$"):
        make(tmp_path)


def test_room_on_the_disk_is_taken_at_once(tmp_path, monkeypatch):
    """A full disk that is met only when memory is written back would kill the process."""

    def full(descriptor, start, size):
        assert (start, size) == (0, 10_000 * 2 * 4)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk_arrays.os, "posix_fallocate", full)
    with pytest.raises(UserError, match="No space left on device"):
        zeros_on_disk(tmp_path, (10_000, 2), np.float32)


def test_examples_of_a_group_are_tokenized_together(monkeypatch):
    monkeypatch.setattr(kd_scratch.tasks.feature_cache, "CHUNK", 6)
    examples, _ = examples_of("conll")  # four sentences a document
    chunks = list(kd_scratch.tasks.feature_cache.chunks(examples, TASKS["conll"]))
    assert [len(chunk) for chunk in chunks] == [8, 8, 8, 6]
    assert [example for chunk in chunks for example in chunk] == examples


def test_names_are_strings_in_arrays():
    names = ["", "a:1", "é🙂", "x"]
    raw = "".join(names).encode()
    starts = np.cumsum([0, *(len(name.encode()) for name in names)])
    assert list(Names(np.frombuffer(raw, np.uint8), starts)) == names
    assert Names(np.frombuffer(raw, np.uint8), starts)[-2] == "é🙂"


def test_arrays_on_disk_leave_no_file_behind(tmp_path):
    grown = DiskArray(tmp_path, np.int64, (2,))
    assert grown.array().shape == (0, 2)
    grown.append(np.array([[1, 2], [3, 4]]))
    grown.append(np.array([[5, 6]], np.int8))
    assert grown.array().tolist() == [[1, 2], [3, 4], [5, 6]]
    zeros = zeros_on_disk(tmp_path, (3, 2), np.float32)
    zeros[1] += 1
    assert torch.from_numpy(zeros).sum() == 2 and zeros.dtype == np.float32
    assert zeros_on_disk(tmp_path, (0, 2), np.float32).shape == (0, 2)
    assert not list(tmp_path.iterdir())
