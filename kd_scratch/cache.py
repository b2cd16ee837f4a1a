"""Training inputs as arrays on disk, memory-mapped: made once for the same content, and never whole in memory.

A cache file's name is made of the hashes of all that decides its content: the data file, what is chosen of it, the
tokenizer, the settings, and the code that turns text into token ids. It may be deleted at any time.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from kd_scratch import parallel, tasks
from kd_scratch.batches import Features
from kd_scratch.config import DataConfig, as_dict
from kd_scratch.console import progress
from kd_scratch.files import UserError, make_folder, sha256
from kd_scratch.safetensors import load_file, read_metadata, save_file
from kd_scratch.tasks import Task
from kd_scratch.tokenization import Tokenizer

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
        self.file, self.dtype, self.row = tempfile.TemporaryFile(dir=folder), np.dtype(dtype), row

    def append(self, values: np.ndarray) -> None:
        """Add rows."""
        self.file.write(np.ascontiguousarray(values, self.dtype).data)

    def array(self) -> np.ndarray:
        """All rows, memory-mapped."""
        self.file.flush()
        size = self.file.tell() // self.dtype.itemsize
        if size == 0:  # which cannot be mapped
            return np.empty((0, *self.row), self.dtype)
        # "c": torch wants to be able to write, though nobody does
        return np.memmap(self.file, self.dtype, "c", shape=(size,)).reshape(-1, *self.row)


def zeros_on_disk(folder: Path, shape: tuple[int, ...], dtype) -> np.ndarray:
    """Zeros, memory-mapped onto a file without a name that vanishes with them."""
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, dtype, "w+", shape=shape) if np.prod(shape) else np.zeros(shape, dtype)


def cached_features(
    task: Task,
    examples: Sequence,
    tokenizer: Tokenizer,
    labels: tuple[str, ...],
    max_length: int,
    data: DataConfig,
    source: Sequence[str],
    folder: Path,
    say=print,
) -> Features:
    """The examples as token ids and labels, from the cache or made now. `source`: hashes and flags that decide them.

    The fields that only decoding needs are left out: this is for training.
    """
    key = {
        "source": sha256(*source),
        "settings": sha256(repr(as_dict(data)), str(max_length), task.name, *labels),
        "tokenizer": tokenizer.fingerprint,
        "code": code_hash(),
    }
    path = make_folder(folder) / f"features-{sha256(*key.values())[:24]}.safetensors"
    if parallel.rank() == 0 and not path.exists():
        _write(path, key, task, examples, tokenizer, labels, max_length, data)
    parallel.wait()
    if not path.exists():  # on a second machine that does not see the first one's folder
        _write(path, key, task, examples, tokenizer, labels, max_length, data)
    arrays = {name: tensor.numpy() for name, tensor in load_file(path).items()}
    if read_metadata(path) != key or not {"tokens", "starts", "labels", "ids", "id_starts"} <= arrays.keys():
        raise UserError(f"{path}: these are not the features of this data; delete the file")
    ids = Names(arrays.pop("ids"), arrays.pop("id_starts"))
    say(f"{len(ids):,} training inputs, memory-mapped: {path}")
    return Features(head=task.head, ids=ids, **arrays)


def _write(path: Path, key: dict, task: Task, examples: Sequence, tokenizer, labels, max_length, data) -> None:
    """Tokenize chunk by chunk into arrays on disk, and join them in one file."""
    arrays: dict[str, DiskArray] = {}
    tokens = bytes_of_ids = 0

    def add(name: str, values: np.ndarray, dtype) -> None:
        if name not in arrays:
            arrays[name] = DiskArray(path.parent, dtype, values.shape[1:])
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
    save_file({name: torch.from_numpy(array.array()) for name, array in arrays.items()}, path, metadata=key)


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


def code_hash() -> str:
    """SHA-256 of the code that makes token ids of text: whoever changes it gets other files."""
    package = Path(tasks.__file__).parents[1]
    files = [*sorted((package / "tasks").glob("*.py")), package / "tokenization.py", package / "batches.py"]
    return sha256(*(file.read_bytes() for file in files))
