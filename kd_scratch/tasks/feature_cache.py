"""Training inputs as arrays on disk, memory-mapped: made once for the same content, and never whole in memory.

A cache file's name is made of the hashes of all that decides its content: the data file, what is chosen of it, the
tokenizer, the settings, and the code that turns text into token ids. It may be deleted at any time.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tokenizers
import torch

from kd_scratch.checkpoints.safetensors import CHECKSUM, is_usable, load_file, read_metadata, save_file
from kd_scratch.common import distributed
from kd_scratch.common.console import progress, say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import make_folder, sha256
from kd_scratch.common.source_hash import source_hash
from kd_scratch.config import DataConfig
from kd_scratch.data.batches import EncodedInputs
from kd_scratch.data.disk_arrays import DiskArray, Names
from kd_scratch.data.tokenizer import Tokenizer
from kd_scratch.tasks.base import Task

CHUNK = 10_000  # examples that are tokenized together, or a few more where they belong together
ARRAYS = {"tokens": np.int32, "starts": np.int64, "labels": np.int64, "token_types": np.uint8, "allowed": np.bool_}


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
) -> EncodedInputs:
    """The examples as token ids and labels, from the cache or made now; without what only decoding needs.

    source: hashes and flags that decide what the examples are. unchanged: whether the files still have those hashes;
    asked after they have been read for the last time. say: what takes the messages.
    Raises UserError where the files have changed, or the cache's file holds something else.
    """
    key = {
        "source": sha256(*source),
        "settings": sha256(repr(asdict(data)), f"{max_length} {tokenizer.has_token_types}", task.name, *labels),
        "tokenizer": tokenizer.fingerprint,
        "code": source_hash("tasks", "tasks.feature_cache", versions=(tokenizers.__version__,)),
    }
    path = make_folder(folder) / f"features-{sha256(*key.values())[:24]}.safetensors"
    if distributed.writes_cache() and not is_usable(path, say):
        arrays = _arrays(path.parent, task, examples, tokenizer, labels, max_length, data)
        if not unchanged():
            raise UserError("a data file has been changed while it was read; start again")
        tensors = {name: torch.from_numpy(array.array()) for name, array in arrays.items()}
        save_file(tensors, path, metadata=key, checksum=True)
    distributed.barrier()
    arrays = {name: tensor.numpy() for name, tensor in load_file(path).items()}
    if read_metadata(path) != key or not {"tokens", "starts", "labels", "ids", "id_starts"} <= arrays.keys():
        raise UserError(f"{path}: these are not the features of this data; delete the file")
    del arrays[CHECKSUM]
    ids = Names(arrays.pop("ids"), arrays.pop("id_starts"))
    say(f"{len(ids):,} training inputs, memory-mapped: {path}")
    return EncodedInputs(head=task.head, ids=ids, mask_id=tokenizer.mask_id, **arrays)


def _arrays(folder: Path, task: Task, examples: Sequence, tokenizer, labels, max_length, data) -> dict[str, DiskArray]:
    """The fields of EncodedInputs by name, as arrays on disk, made chunk by chunk."""
    arrays: dict[str, DiskArray] = {}
    tokens = 0
    bytes_of_ids = 0

    def add(name: str, values: np.ndarray, dtype) -> None:
        if name not in arrays:
            arrays[name] = DiskArray(folder, dtype, values.shape[1:])
        arrays[name].append(values)

    add("starts", np.zeros(1), np.int64)
    add("id_starts", np.zeros(1), np.int64)
    with progress(examples, desc="making inputs", unit="ex") as bar:
        for chunk in chunks(bar, task):
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
    return arrays


def chunks(examples: Iterable, task: Task) -> Iterator[list]:
    """The examples in lists of CHUNK or a few more: those of a group stay together, since a window may span them."""
    chunk = []
    for example in examples:
        if len(chunk) >= CHUNK and (task.group is None or task.group(example) != task.group(chunk[-1])):
            yield chunk
            chunk = []
        chunk.append(example)
    if chunk:
        yield chunk
