"""PyTorch's own file format, as in pytorch_model.bin, by hand: a reader of pickles that can call nothing.

Since PyTorch 1.6 (2020), a ZIP archive whose entries are stored as they are (stored_zip.py):

    NAME/data.pkl      a pickle: a program for a machine with a stack, which builds {"bert.pooler.dense.bias": …}
    NAME/data/0        the numbers of one storage, little-endian
    NAME/data/1        …
    NAME/byteorder     "little"              NAME/version, NAME/.data/… and others are not needed

Before 1.6, five pickles and then the storages, each behind the number of its elements:

    +--------------+---------+--------------+------------+-------------------+-------+-----+-------+-----+---+
    | magic number | version | sizes of the | the object | keys of storages, | count | raw | count | raw | … |
    |              | 1001    | host's types |            | in file order     | i64   |     | i64   |     |   |
    +--------------+---------+--------------+------------+-------------------+-------+-----+-------+-----+---+

A pickle names functions and calls them: whoever wrote the file decides what runs where it is unpickled. Here nothing
is imported and nothing runs: pickle_machine.py knows the few calls that a state dict needs, as rows of a table, and
what they make is the description of a tensor. Tensors are made at the end, when everything has been checked.

Sources: torch/serialization.py of PyTorch (_save, _legacy_save); tests/parity compares with torch.load.
"""

import io
import math
import mmap
from pathlib import Path

import torch
from torch import Tensor

from kd_scratch.checkpoints.mapping import bytes_as_tensor, map_file, naming, require_booleans
from kd_scratch.checkpoints.pickle_machine import CURE, Machine, PickledDict, PickledTensor
from kd_scratch.checkpoints.stored_zip import stored_entries
from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError, printable

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001
MAX_PICKLE_BYTES = 16 << 20  # a tensor needs 100 to 300
MAX_EXPANSION = 32  # bytes of all tensors to bytes of the file: storages can be shared, and dimensions expanded
WRAPPERS = ("state_dict", "model_state_dict", "model")  # where trainers put a state dict that has company


class TorchPickleError(UserError):
    """A file that is not what torch.save writes of a state dict, or one that wants to call something."""


def load_file(path: str | Path, say=say) -> dict[str, Tensor]:
    """The tensors of a state dict by name, in the order of the file, on the CPU, without gradients.

    Each is a view of a private copy-on-write mapping, as in safetensors.load_file; of a storage that lies unaligned (as
    most in files from before 1.6) one copy is made. Tensors that shared a storage share it. A state dict that a
    trainer put under one of WRAPPERS is found there; `say` gets a note of what else the file holds, which is ignored.
    Raises TorchPickleError.
    """
    with naming(path, TorchPickleError, "cannot be read as a PyTorch state dict, if it should be one fetch it again"):
        mapped = map_file(path)
        machine = Machine()
        read = _read_zip if mapped[:4] == b"PK\3\4" else _read_legacy
        value, places = read(mapped, machine)
        tensors, ignored = _state_dict(value)
        for key, (size, _) in machine.storages.items():
            start, stop = places.get(key, (0, -1))
            if stop - start != size:
                raise ValueError(f"storage {key!r:.40} has {max(stop - start, 0)} bytes instead of {size}")
        if sum(tensor.size() for tensor in tensors.values()) > MAX_EXPANSION * len(mapped):
            raise ValueError(f"its tensors would take more than {MAX_EXPANSION} times the bytes of the file")
        made = _make(tensors, mapped, places)
    if ignored:
        names = ", ".join(ignored[:12]) + " …" * (len(ignored) > 12)
        say(printable(f"{path}: ignored, no tensors of the state dict: {names:.400}"))
    return made


def _read_zip(mapped: mmap.mmap, machine: Machine) -> tuple[object, dict[str, tuple[int, int]]]:
    """The value of the newer format, and where each storage lies."""
    entries = stored_entries(mapped)
    if "data.pkl" not in entries:
        raise ValueError("is a ZIP archive without data.pkl, none that torch.save made")
    if "constants.pkl" in entries:
        raise ValueError(f"is a TorchScript program, not a state dict; {CURE}")
    start, stop = entries.get("byteorder", (0, 0))
    if mapped[start:stop] not in (b"", b"little"):
        raise ValueError("its numbers are big-endian; save it on a little-endian machine")
    start, stop = entries["data.pkl"]
    if stop - start > MAX_PICKLE_BYTES:
        raise ValueError(f"its data.pkl has {stop - start} bytes, at most {MAX_PICKLE_BYTES} are allowed")
    value = machine.run(io.BytesIO(mapped[start:stop]))
    return value, {name[5:]: place for name, place in entries.items() if name.startswith("data/")}


def _read_legacy(mapped: mmap.mmap, machine: Machine) -> tuple[object, dict[str, tuple[int, int]]]:
    """The value of the older format, and where each storage lies."""
    if mapped[:1] != b"\x80":
        raise ValueError("is neither a ZIP archive nor a pickle")
    stream = io.BytesIO(mapped[:MAX_PICKLE_BYTES])
    magic, version = machine.run(stream), machine.run(stream)
    if type(magic) is not int or magic != MAGIC or type(version) is not int or version != VERSION:
        raise ValueError("is a pickle that torch.save did not make")
    host = machine.run(stream)
    if type(host) is not PickledDict or dict(host.items()).get("little_endian") is not True:
        raise ValueError("its numbers are big-endian; save it on a little-endian machine")
    value, keys = machine.run(stream), machine.run(stream)
    places, place = {}, stream.tell()
    for key in keys if type(keys) is list else [None]:
        if type(key) is not str or key in places or key not in machine.storages:
            raise ValueError("its list of storages is not that of its tensors")
        count = int.from_bytes(mapped[place : place + 8], "little", signed=True)
        size, itemsize = machine.storages[key]
        places[key] = place + 8, place + 8 + size
        place += 8 + size
        if place > len(mapped) or count * itemsize != size:
            raise ValueError(f"storage {key!r:.40} is cut off, or has another size")
    if place != len(mapped):
        raise ValueError(f"has {len(mapped) - place} bytes too many")
    return value, places


def _state_dict(value: object) -> tuple[dict[str, PickledTensor], list[str]]:
    """The tensors of a value by name, and the names of what else it holds."""
    if type(value) is not PickledDict:
        raise ValueError(f"holds no state dict but one value; {CURE}")
    content = dict(value.items())
    wrapped = [name for name in WRAPPERS if type(content.get(name)) is PickledDict and content[name].has_tensors()]
    if len(wrapped) > 1:
        raise ValueError(f"holds several state dicts ({', '.join(wrapped)}); {CURE}")
    beside = []
    if wrapped:
        beside = [name for name in content if name != wrapped[0]]
        content = dict(content[wrapped[0]].items())
    elif content and not value.has_tensors():
        raise ValueError(f"holds no tensors, but {', '.join(sorted(content)):.200}; {CURE}")
    tensors = {name: tensor for name, tensor in content.items() if type(tensor) is PickledTensor}
    return tensors, sorted(beside) + sorted(content.keys() - tensors.keys())


def _make(
    tensors: dict[str, PickledTensor], mapped: mmap.mmap, places: dict[str, tuple[int, int]]
) -> dict[str, Tensor]:
    """The tensors of checked descriptions; one description is one tensor, whatever number of names it has."""
    storages: dict[str, Tensor] = {}
    made: dict[int, Tensor] = {}
    for name, wanted in tensors.items():
        if id(wanted) in made:
            continue
        (key, _, start, size), dtype = wanted.storage, wanted.dtype
        if not math.prod(wanted.shape):
            made[id(wanted)] = torch.empty(wanted.shape, dtype=dtype, device="cpu")
            continue
        if key not in storages:
            storages[key] = bytes_as_tensor(mapped, *places[key], alignment=torch.complex128.itemsize)
        flat = storages[key][start : start + size // dtype.itemsize * dtype.itemsize]
        if dtype == torch.bool:
            require_booleans(flat, name)
        made[id(wanted)] = flat.view(dtype).as_strided(
            wanted.shape, wanted.strides, start // dtype.itemsize + wanted.offset
        )
    return {name: made[id(wanted)] for name, wanted in tensors.items()}
