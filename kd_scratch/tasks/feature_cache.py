"""Training inputs as arrays on disk, memory-mapped: made once for the same content, and never whole in memory.

A cache file's name is made of the hashes of all that decides its content: the data file, what is chosen of it, the
tokenizer, the settings, and the code that turns text into token ids. It may be deleted at any time.
"""

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tokenizers
import torch

from kd_scratch.checkpoints.safetensors import CHECKSUM, is_intact, load_file, read_metadata, save_file
from kd_scratch.common import distributed
from kd_scratch.common.console import progress, say
from kd_scratch.common.files import DiskError, UserError, make_folder, sha256
from kd_scratch.config import DataConfig, as_dict
from kd_scratch.data.batches import Features
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks import Task

MAKES_FEATURES = (
    "tasks/feature_cache",
    "common/files",
    "data/tokenizer",
    "data/batches",
    "training/setup",
    "tasks/augment",
    "tasks/*",
)  # token ids of files
CHUNK = 10_000  # examples that are tokenized together, or a few more where they belong together
ARRAYS = {"tokens": np.int32, "starts": np.int64, "labels": np.int64, "token_types": np.uint8, "allowed": np.bool_}


class Names(Sequence):
    """N strings in two arrays: their UTF-8 bytes, end to end, and where each begins (N+1)."""

    def __init__(self, text: np.ndarray, starts: np.ndarray):
        self.text, self.starts = text, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> str:
        i = range(len(self))[i]
        return self.text[self.starts[i] : self.starts[i + 1]].tobytes().decode()


class DiskArray:
    """An array that grows at its end, in a file without a name that vanishes with it."""

    def __init__(self, folder: Path, dtype, row: tuple[int, ...] = ()):
        self.folder, self.dtype, self.row = folder, np.dtype(dtype), row
        with _writing(folder):
            self.file = tempfile.TemporaryFile(dir=folder)

    def append(self, values: np.ndarray) -> None:
        """Add rows."""
        with _writing(self.folder):
            self.file.write(np.ascontiguousarray(values, self.dtype).data)

    def array(self) -> np.ndarray:
        """All rows, memory-mapped."""
        with _writing(self.folder):
            self.file.flush()
        size = self.file.tell() // self.dtype.itemsize
        if size == 0:  # which cannot be mapped
            return np.empty((0, *self.row), self.dtype)
        # "c": torch wants to be able to write, though nobody does
        return np.memmap(self.file, self.dtype, "c", shape=(size,)).reshape(-1, *self.row)


def zeros_on_disk(folder: Path, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Zeros, memory-mapped onto a file without a name that vanishes with them. UserError where the disk is full."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size == 0:  # which cannot be mapped
        return np.zeros(shape, dtype)
    with _writing(folder), tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # now, with an error: a full disk that is met through memory is a crash
            os.posix_fallocate(file.fileno(), 0, size)
        return np.memmap(file, dtype, "w+", shape=shape)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into one line."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"{folder}: cannot be written to: {error.strerror}; choose another --cache") from None


def cached_features(
    task: Task,
    examples: Sequence,
    tokenizer: Tokenizer,
    labels: tuple[str, ...],
    max_length: int,
    data: DataConfig,
    source: Sequence[str],
    unchanged: Callable[[], bool],
    folder: Path,
    say=say,
) -> Features:
    """The examples as token ids and labels, from the cache or made now; without what only decoding needs.

    source: hashes and flags that decide what the examples are. unchanged: whether the files still have those hashes;
    asked after they have been read for the last time.
    """
    key = {
        "source": sha256(*source),
        "settings": sha256(repr(as_dict(data)), str(max_length), task.name, *labels),
        "tokenizer": tokenizer.fingerprint,
        "code": code_hash(MAKES_FEATURES, tokenizers.__version__),
    }
    path = make_folder(folder) / f"features-{sha256(*key.values())[:24]}.safetensors"
    if distributed.writes() and not is_usable(path, say):
        arrays = _arrays(path.parent, task, examples, tokenizer, labels, max_length, data)
        if not unchanged():
            raise UserError("a data file has been changed while it was read; start again")
        tensors = {name: torch.from_numpy(array.array()) for name, array in arrays.items()}
        save_file(tensors, path, metadata=key, checksum=True)
    distributed.wait()
    arrays = {name: tensor.numpy() for name, tensor in load_file(path).items()}
    if read_metadata(path) != key or not {"tokens", "starts", "labels", "ids", "id_starts"} <= arrays.keys():
        raise UserError(f"{path}: these are not the features of this data; delete the file")
    del arrays[CHECKSUM]
    ids = Names(arrays.pop("ids"), arrays.pop("id_starts"))
    say(f"{len(ids):,} training inputs, memory-mapped: {path}")
    return Features(head=task.head, ids=ids, mask_id=tokenizer.mask_id, **arrays)


def is_usable(path: Path, say=say) -> bool:
    """Whether a cache file is there and has the bytes that were written; one that has not will be made anew."""
    usable = path.exists() and is_intact(path)
    if path.exists() and not usable:
        say(f"{path} is damaged, or of another version of this program, and made anew")
    return usable


def _arrays(folder: Path, task: Task, examples: Sequence, tokenizer, labels, max_length, data) -> dict[str, DiskArray]:
    """Tokenize chunk by chunk into arrays on disk."""
    arrays: dict[str, DiskArray] = {}
    tokens = bytes_of_ids = 0

    def add(name: str, values: np.ndarray, dtype) -> None:
        if name not in arrays:
            arrays[name] = DiskArray(folder, dtype, values.shape[1:])
        arrays[name].append(values)

    add("starts", np.zeros(1), np.int64)
    add("id_starts", np.zeros(1), np.int64)
    with progress(total=len(examples), desc="tokenizing", unit="ex") as bar:
        for chunk in chunks(examples, task):
            part = task.featurize(chunk, tokenizer, labels, max_length, data)
            for name, dtype in ARRAYS.items():
                values = getattr(part, name)
                if values is not None:
                    add(name, values[1:] + tokens if name == "starts" else values, dtype)
            tokens += len(part.tokens)
            encoded = [name.encode() for name in part.ids]
            add("ids", np.frombuffer(b"".join(encoded), np.uint8), np.uint8)
            add("id_starts", np.cumsum([len(name) for name in encoded]) + bytes_of_ids, np.int64)
            bytes_of_ids += sum(map(len, encoded))
            bar.update(len(chunk))
    return arrays


def chunks(examples: Sequence, task: Task) -> Iterator[list]:
    """The examples in lists of CHUNK or a few more: those of a group stay together, since windows may span them."""
    chunk = []
    for example in examples:
        if len(chunk) >= CHUNK and (task.group is None or task.group(example) != task.group(chunk[-1])):
            yield chunk
            chunk = []
        chunk.append(example)
    if chunk:
        yield chunk


def code_hash(modules: Sequence[str], *versions: str) -> str:
    """SHA-256 of modules of ours, and of versions of others': what they make is made anew after a change."""
    package = Path(__file__).parents[1]
    files = sorted({file for name in modules for file in package.glob(f"{name}.py")})
    return sha256(*versions, *(file.read_bytes() for file in files))
