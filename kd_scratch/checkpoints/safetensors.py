"""The safetensors file format by hand: a memory-mapped reader that trusts nothing, and an atomic writer.

    0              8                                   8 + n                          end of file
    +--------------+-----------------------------------+--------+--------+----------------------+
    | n, a 64-bit  | header: n bytes of UTF-8 JSON,    | tensor | tensor | ...                  |
    | whole number | padded with spaces                | bytes  | bytes  |                      |
    +--------------+-----------------------------------+--------+--------+----------------------+
                                                       ^ data_offsets count from here

    {"__metadata__": {"format": "pt"},
     "bert.pooler.dense.bias": {"dtype": "F32", "shape": [768], "data_offsets": [0, 3072]}, ...}

Numbers are little-endian (so must the host be), tensors row-major. In order of their offsets, the tensors fill the
data from its first byte to its last: no gap, no overlap, no byte that belongs to two of them or to none.
`__metadata__` is optional and maps strings to strings.

A header may come from anyone, so the reader holds it to one spelling: what two readers could understand in two ways
(a repeated key, an unknown field, 1.0 for 1) is refused, and nothing is computed from a number before it is checked.
A BOOL byte other than 0 or 1 is refused too: torch would count such a value as true and yet not equal to true.
Source: https://github.com/huggingface/safetensors, "Format"; tests/parity lists where that reader is laxer.
"""

import hashlib
import json
import math
import mmap
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kd_scratch.checkpoints.mapping import bytes_as_tensor, map_file, naming, require_booleans
from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import open_file, write_atomically

# In the order in which a file holds them: wide elements first, so that all the tensors we write lie aligned.
DTYPES = {
    "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64,
    "F32": torch.float32, "U32": torch.uint32, "I32": torch.int32,
    "BF16": torch.bfloat16, "F16": torch.float16, "U16": torch.uint16, "I16": torch.int16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip
CODES = {dtype: code for code, dtype in DTYPES.items()}
MAX_HEADER_BYTES = 100_000_000  # the reference reader's limit
MAX_DIMENSIONS = 64  # torch's own limit for arithmetic
CHECKSUM = "sha256"  # the tensor at the end of a file that was saved with a checksum


class SafetensorsError(UserError):
    """A file that is not valid safetensors, or tensors that such a file cannot hold."""


class _Entry(NamedTuple):
    """One tensor of a header; entries sort by their place in the data (offsets in bytes)."""

    start: int
    stop: int
    name: str
    dtype: torch.dtype
    shape: list[int]


def load_file(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a file by name, in the order of the file, on the CPU.

    Each is a view of a private copy-on-write mapping: its bytes are read when first used (BOOL tensors are read at
    once, to be checked), and changing it in place changes neither the file nor another tensor. A tensor at an
    unaligned offset is copied. Replace the file if you like, as save_file does; overwriting or shortening it in place
    pulls the bytes from under the tensors. Raises SafetensorsError.
    """
    with naming(path, SafetensorsError, "not a valid safetensors file"):
        mapped, data_start, entries, _ = _open(path)
        return {entry.name: _tensor(mapped, data_start, entry) for entry in entries}


def read_metadata(path: str | Path) -> dict[str, str]:
    """The strings in a file's `__metadata__`, or {}; SafetensorsError where load_file would refuse its header."""
    with naming(path, SafetensorsError, "not a valid safetensors file"):
        return _open(path)[3]


def save_file(
    tensors: Mapping[str, Tensor],
    path: str | Path,
    metadata: Mapping[str, str] | None = None,
    checksum: bool = False,
    keep: Path | None = None,
    outdated: Path | None = None,
) -> None:
    """Write tensors atomically, one at a time: at no moment is more than one of them copied.

    The bytes depend on names, values and metadata only, not on the order of the mappings, the device, the strides or
    what shares memory (shared values are written once per name). Saving over the file that the tensors were loaded
    from is safe. Raises SafetensorsError for what the format cannot hold, UserError where the disk cannot be written.

    checksum: add a last tensor CHECKSUM, the SHA-256 of all bytes before it, for `is_intact`.
    keep: the name that the old file gets. outdated: a file that belongs to the old one alone (see write_atomically).
    """
    if checksum:
        tensors = {**tensors, CHECKSUM: torch.empty(32, dtype=torch.uint8)}
    with naming(path, SafetensorsError, "cannot be saved as safetensors"):
        header, names = _layout(tensors, metadata, last=CHECKSUM if checksum else None)
    if checksum:
        names.remove(CHECKSUM)
    prefix = [len(header).to_bytes(8, "little"), header]
    chunks = chain(prefix, (row_major_bytes(tensors[name]) for name in names))
    write_atomically(path, _and_checksum(chunks) if checksum else chunks, keep, outdated)


def _and_checksum(chunks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """The chunks, and then the SHA-256 of them all."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
        yield chunk
    yield digest.digest()


def is_intact(path: str | Path) -> bool:
    """Whether a file that was saved with a checksum can be read, and still has the bytes that were written."""
    try:
        with open_file(path) as file:
            digest = hashlib.sha256()
            left = file.seek(0, 2) - 32
            file.seek(0)
            while left > 0 and (part := file.read(min(left, 2**20))):
                digest.update(part)
                left -= len(part)
            return file.read() == digest.digest()
    except (OSError, UserError):
        return False


def is_usable(path: Path, say=say) -> bool:
    """Whether a cache file is there and has the bytes that were written; otherwise a note that it is made anew."""
    is_there = path.exists()  # asked once: another process may be about to write it
    usable = is_there and is_intact(path)
    if is_there and not usable:
        say(f"{path} is damaged, or of another version of this program, and made anew")
    return usable


def _open(path: str | Path) -> tuple[mmap.mmap, int, list[_Entry], dict[str, str]]:
    """A file's mapping, where its data starts, its checked entries in file order, and its metadata."""
    mapped = map_file(path)
    if len(mapped) < 8:
        raise ValueError(f"{len(mapped)} bytes long, shorter than its length field")
    data_start = 8 + int.from_bytes(mapped[:8], "little")
    if data_start > len(mapped):
        raise ValueError(f"its header should end at byte {data_start}, the file ends at {len(mapped)}; fetch it again")
    entries, metadata = _parse_header(memoryview(mapped)[8:data_start], data_bytes=len(mapped) - data_start)
    return mapped, data_start, entries, metadata


def _tensor(mapped: mmap.mmap, data_start: int, entry: _Entry) -> Tensor:
    """One entry's tensor; it keeps the mapping alive."""
    flat = bytes_as_tensor(mapped, data_start + entry.start, data_start + entry.stop, entry.dtype.itemsize)
    if entry.dtype == torch.bool:
        require_booleans(flat, entry.name)
    return flat.view(entry.dtype).reshape(entry.shape)


def _parse_header(header: bytes | memoryview, data_bytes: int) -> tuple[list[_Entry], dict[str, str]]:
    """A header's entries in file order, and its metadata; ValueError unless they fill `data_bytes` exactly."""
    if len(header) > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {len(header)} bytes, at most {MAX_HEADER_BYTES} are allowed")
    if header[:1] != b"{":
        raise ValueError("its header does not begin with '{'")
    numbers = dict.fromkeys(("parse_int", "parse_float", "parse_constant"), _whole_number)
    fields = json.loads(str(header, "utf-8"), object_pairs_hook=_object, **numbers)
    metadata = fields.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("__metadata__ must map strings to strings")
    entries = sorted(_entry(name, info) for name, info in fields.items())
    end = 0
    for entry in entries:
        if entry.start != end:
            fault = "a gap before it" if entry.start > end else "an overlap with the tensor before it"
            raise ValueError(f"tensor {entry.name!r:.200}: begins at {entry.start}, expected {end}: {fault}")
        end = entry.stop
    if end != data_bytes:
        raise ValueError(f"its tensors need {end} bytes of data, the file has {data_bytes}; fetch it again")
    return entries, metadata


def _object(pairs: list[tuple[str, object]]) -> dict:
    """A JSON object as a dict, no key repeated, every string real text (JSON can spell half of a surrogate pair)."""
    result = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!r:.200} is repeated")
        key.encode()
        if isinstance(value, str):
            value.encode()
        result[key] = value
    return result


def _whole_number(text: str) -> int:
    """The only numbers of the format: 0 to 2**64 - 1, digits only (a fraction, -0 and NaN arrive here too)."""
    if not text.isdecimal() or len(text) > 20 or int(text) >= 2**64:
        raise ValueError(f"{text:.24} is not a whole number below 2**64")
    return int(text)


def _entry(name: str, info: object) -> _Entry:
    """One checked tensor of the header: known fields of the right types, as many bytes as its shape needs."""
    where = f"tensor {name!r:.200}"
    if not isinstance(info, dict) or set(info) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where}: needs the fields dtype, shape, data_offsets and no other")
    code, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise ValueError(f"{where}: dtype {code!r:.40} is not supported; convert it to one of {', '.join(DTYPES)}")
    for key, value in ("shape", shape), ("data_offsets", offsets):
        if not isinstance(value, list) or not all(type(item) is int for item in value):  # True is an int, no number
            raise ValueError(f"{where}: {key} must be a list of whole numbers")
    if len(offsets) != 2:
        raise ValueError(f"{where}: data_offsets must be two numbers, not {len(offsets)}")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{where}: its shape has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are allowed")
    itemsize = DTYPES[code].itemsize
    if math.prod(max(size, 1) for size in shape) * itemsize >= 2**63:  # torch computes strides of empty tensors too
        raise ValueError(f"{where}: its shape is too large for torch")
    start, stop = offsets
    if math.prod(shape) * itemsize != stop - start:
        raise ValueError(f"{where}: its shape needs {math.prod(shape) * itemsize} bytes, not {stop - start}")
    return _Entry(start, stop, name, DTYPES[code], shape)


def _layout(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None, last: str | None
) -> tuple[bytes, list[str]]:
    """The padded header for some tensors, and their names in file order; ValueError for what a file cannot hold.

    last: the name that comes behind all others, whatever its type.
    """
    for name, tensor in tensors.items():
        if not isinstance(name, str) or name == "__metadata__":
            raise ValueError(f"{name!r:.200} cannot name a tensor; use another string")
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_meta:
            raise ValueError(f"{name!r:.200} is not a dense tensor with values; convert it to one")
        if tensor.dtype not in CODES:
            raise ValueError(f"tensor {name!r:.200}: {tensor.dtype} is not supported; convert it to another dtype")
    fields = {}
    if metadata is not None:
        if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
            raise ValueError("metadata must map strings to strings")
        fields["__metadata__"] = dict(sorted(metadata.items()))
    rank = {dtype: position for position, dtype in enumerate(CODES)}
    names = sorted(tensors, key=lambda name: (name == last, rank[tensors[name].dtype], name))
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.dtype.itemsize
        fields[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    header = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    _parse_header(header, end)  # what we write, we can read
    return header, names


def row_major_bytes(tensor: Tensor) -> memoryview:
    """A tensor's bytes as the file wants them; where they are not, a copy settles device, strides, and lazy signs."""
    row_major = tensor.detach()
    plain = tensor.device.type == "cpu" and tensor.is_contiguous() and not (tensor.is_conj() or tensor.is_neg())
    if not plain or tensor.numel() < 2:  # so few may have any strides and still be contiguous
        row_major = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu").copy_(row_major)
    return memoryview(row_major.reshape(-1).view(torch.uint8).numpy())
