"""The ONNX file format by hand: a graph of operators and its tensors, as protocol buffers.

A message is a row of fields, in any order. A field is a key, and then its value:

    key = field number · 8 + wire type, a varint           wire type 0: a whole number, as a varint
                                                                     2: a length as a varint, then so many bytes:
    varint: 7 bits a byte, the lowest first; the                        a text, or another message
    highest bit is set where another byte follows                    5: four bytes, a float

A file is one ModelProto, written out by `model_chunks`. The numbers of its fields stand in the functions below, each
beside the name that https://github.com/onnx/onnx, onnx/onnx.proto, has for it (its versions are the file's ir_version).

No message may have 2 GB. Where one would, the large tensors lie in a file beside it, which has FILE_data for a name.
The bytes depend on the graph alone: not on the process, the machine or the time.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from kd_scratch.checkpoints.safetensors import row_major_bytes
from kd_scratch.common.files import remove, write_atomically

#: The oldest one with LayerNormalization (2022). What came since would not make a graph faster: ONNX Runtime fuses the
#: formula of GELU too, which has an operator of its own from 20 on.
OPSET = 17
IR_VERSION = 8  # that of the release which brought OPSET
DTYPES = {
    torch.float32: 1, torch.uint8: 2, torch.int8: 3, torch.int32: 6, torch.int64: 7, torch.float16: 10,
}  # fmt: skip
LIMIT = 2**31 - 2**24  # bytes of tensors in the file itself; what else is in it is far less than the rest of 2 GB
SMALL = 1024  # bytes: a tensor below that stays in the file, as one that tells shapes must
PAGE = 4096  # a tensor beside the file begins at a multiple of it, so that a reader can map it

Part = bytes | Tensor  # a tensor stands for its bytes, row by row


def size(part: Part) -> int:
    """How many bytes a part has."""
    return part.numel() * part.element_size() if isinstance(part, Tensor) else len(part)


# --- the wire format ---


def varint(value: int) -> bytes:
    """A whole number as a varint. A negative one is written as if 2^64 were added."""
    value %= 2**64
    found = bytearray()
    while value > 127:
        found.append(value % 128 + 128)
        value //= 128
    found.append(value)
    return bytes(found)


def number(key: int, value: int) -> list[Part]:
    """A field that holds a whole number."""
    return [varint(key * 8) + varint(value)]


def decimal(key: int, value: float) -> list[Part]:
    """A field that holds a float of 32 bits."""
    return [varint(key * 8 + 5) + struct.pack("<f", value)]


def message(key: int, *fields: list[Part]) -> list[Part]:
    """A field that holds bytes: another message, of these fields."""
    parts = [part for field in fields for part in field]
    return [varint(key * 8 + 2) + varint(sum(map(size, parts))), *parts]


def text(key: int, value: str) -> list[Part]:
    """A field that holds a text. UnicodeEncodeError where it is none (half a character)."""
    return message(key, [value.encode()])


# --- the graph ---


@dataclass
class Graph:
    """Nodes in the order in which they are computed; every value has a name.

    >>> graph = Graph()
    >>> graph.inputs["x"] = (torch.float32, ["batch", 4])
    >>> graph.node("Add", "x", graph.constant([1.0]), name="more")
    'more'
    """

    nodes: list[list[Part]] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)  # those that are in the file, by name
    inputs: dict[str, tuple[torch.dtype, list[int | str]]] = field(default_factory=dict)  # a str: any size
    outputs: dict[str, tuple[torch.dtype, list[int | str]]] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    place: str = ""  # what the names of nodes begin with

    def node(self, operator: str, *inputs: str, name: str = "", outputs: int = 1, **attributes):
        """Add a node; returns the name of its output, or a list of names where it has several.

        name: of its output; "": made of `place` and the operator. attributes: see `attribute`.
        """
        base = name or f"{self.place}/{operator}"
        name, count = base, 1
        while name in self.names:
            name, count = f"{base}_{count}", count + 1
        self.names.add(name)
        results = [name] + [f"{name}:{i}" for i in range(1, outputs)]
        fields = [text(1, value) for value in inputs] + [text(2, value) for value in results]  # input, output
        fields += [text(3, name), text(4, operator)]  # name, op_type
        fields += [message(5, attribute(key, attributes[key])) for key in sorted(attributes)]  # attribute
        self.nodes.append(message(1, *fields))
        return results if outputs > 1 else name

    def tensor(self, name: str, value: Tensor) -> str:
        """Put a tensor into the file, once under a name; returns the name."""
        self.tensors.setdefault(name, value)
        return name

    def constant(self, value: list | int | float) -> str:
        """The name of a tensor that holds these few numbers: int64 where they are whole, else float32."""
        name = f"list/{','.join(map(str, value))}" if isinstance(value, list) else f"number/{value}"
        return self.tensor(name, torch.tensor(value))


def attribute(name: str, value: int | float | str | list[int]) -> list[Part]:
    """The content of an AttributeProto: name, value (in a field by its kind) and type."""
    if isinstance(value, float):
        kind, found = 1, decimal(2, value)
    elif isinstance(value, int):
        kind, found = 2, number(3, value)
    elif isinstance(value, str):
        kind, found = 3, text(4, value)
    else:
        kind, found = 7, [part for item in value for part in number(8, item)]
    return text(1, name) + found + number(20, kind)


def tensor_proto(name: str, tensor: Tensor, place: tuple[str, int] | None) -> list[Part]:
    """The content of a TensorProto: dims, data_type, name and raw_data, or where it is: a file and an offset in it."""
    dims = [part for length in tensor.shape for part in number(1, length)]
    head = dims + number(2, DTYPES[tensor.dtype]) + text(8, name)
    if place is None:
        return head + message(9, [tensor])
    entries = {"location": place[0], "offset": str(place[1]), "length": str(size(tensor))}
    return head + [part for entry in entries.items() for part in message(13, pair(*entry))] + number(14, 1)


def pair(key: str, value: str) -> list[Part]:
    """The content of a StringStringEntryProto: key and value."""
    return text(1, key) + text(2, value)


def value_info(name: str, dtype: torch.dtype, shape: list[int | str]) -> list[Part]:
    """The content of a ValueInfoProto: name and type, a TypeProto.Tensor in a TypeProto."""
    dims = [message(1, text(2, n) if isinstance(n, str) else number(1, n)) for n in shape]  # dim_param, dim_value
    return text(1, name) + message(2, message(1, number(1, DTYPES[dtype]), message(2, *dims)))


# --- the file ---


def places(tensors: dict[str, Tensor], name: str, limit: int) -> dict[str, tuple[str, int]]:
    """Where the tensors are that a file of this name does not hold itself: a file and an offset, by name."""
    if sum(map(size, tensors.values())) <= limit:
        return {}
    found, end = {}, 0
    for key, tensor in tensors.items():
        if size(tensor) >= SMALL:
            found[key] = f"{name}_data", end
            end += -(-size(tensor) // PAGE) * PAGE
    return found


def model_parts(graph: Graph, metadata: dict[str, str], beside: dict[str, tuple[str, int]]) -> list[Part]:
    """The fields of a ModelProto."""
    body = graph.nodes + [text(2, "kd_scratch")]  # node, name
    body += [message(5, tensor_proto(name, t, beside.get(name))) for name, t in graph.tensors.items()]  # initializer
    body += [message(11, value_info(name, *kind)) for name, kind in graph.inputs.items()]  # input
    body += [message(12, value_info(name, *kind)) for name, kind in graph.outputs.items()]  # output
    fields = [number(1, IR_VERSION), text(2, "kd_scratch")]  # ir_version, producer_name
    fields += [message(7, *body), message(8, text(1, ""), number(2, OPSET))]  # graph, opset_import
    fields += [message(14, pair(*entry)) for entry in metadata.items()]  # metadata_props
    return [part for field in fields for part in field]


def as_bytes(parts: Iterable[Part]) -> Iterator[bytes | memoryview]:
    """The bytes of parts, one at a time: at no moment is more than one tensor copied."""
    for part in parts:
        yield row_major_bytes(part) if isinstance(part, Tensor) else part


def padded(tensors: Iterable[Tensor]) -> Iterator[Part]:
    """Tensors, each followed by zeros up to the next page."""
    for tensor in tensors:
        yield tensor
        yield bytes(-size(tensor) % PAGE)


def save_graph(graph: Graph, path: Path, metadata: dict[str, str], limit: int = LIMIT) -> list[Path]:
    """Write a graph atomically; returns the files: one, or two where its tensors have more than `limit` bytes.

    The file of tensors is written first. UserError where the disk cannot be written.
    """
    beside = places(graph.tensors, path.name, limit)
    data = path.with_name(f"{path.name}_data")
    if beside:
        write_atomically(data, as_bytes(padded(graph.tensors[name] for name in beside)))
    else:
        remove(data)
    write_atomically(path, as_bytes(model_parts(graph, metadata, beside)))
    return [path, data] if beside else [path]
