"""An ONNX file read and computed without its library: fields by their numbers, and each operator's formula in float64.

Written from the specification (onnx.proto, Operators.md), not from what writes the files.
"""

import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2"}


def varint(raw: bytes, at: int) -> tuple[int, int]:
    """The number at a place, and where it ends."""
    value = shift = 0
    while True:
        value |= (raw[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if raw[at - 1] < 128:
            return value - 2**64 if value >= 2**63 else value, at


def fields(raw: bytes) -> dict[int, list]:
    """The values of a message by the numbers of its fields: whole numbers, floats, or bytes."""
    found, at = {}, 0
    while at < len(raw):
        key, at = varint(raw, at)
        if key & 7 == 0:
            value, at = varint(raw, at)
        elif key & 7 == 5:
            [value], at = struct.unpack("<f", raw[at : at + 4]), at + 4
        else:
            assert key & 7 == 2, key
            length, at = varint(raw, at)
            value, at = raw[at : at + length], at + length
            assert len(value) == length
        found.setdefault(key >> 3, []).append(value)
    return found


class Node(NamedTuple):
    """One operator."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict


class File:
    """A file, and the one with its tensors beside it."""

    def __init__(self, path: Path):
        model = fields(path.read_bytes())
        [graph] = map(fields, model[7])
        self.ir_version, [self.opset] = model[1][0], [fields(part)[2][0] for part in model[8]]
        self.metadata = dict(self.pair(part) for part in model.get(14, []))
        self.nodes = [self.node(fields(part)) for part in graph[1]]
        self.tensors = dict(self.tensor(fields(part), path) for part in graph[5])
        self.inputs = dict(self.value(fields(part)) for part in graph[11])
        self.outputs = dict(self.value(fields(part)) for part in graph[12])

    @staticmethod
    def pair(raw: bytes) -> tuple[str, str]:
        """Key and value."""
        return tuple(fields(raw)[i][0].decode() for i in (1, 2))

    @staticmethod
    def node(found: dict) -> Node:
        """Operator, inputs, outputs, attributes."""
        attributes = {}
        for raw in found.get(5, []):
            attribute = fields(raw)
            values = attribute[{1: 2, 2: 3, 3: 4, 7: 8}[attribute[20][0]]]
            attributes[attribute[1][0].decode()] = values if attribute[20] == [7] else values[0]
        names = ([name.decode() for name in found[i]] for i in (1, 2))
        return Node(found[4][0].decode(), *names, attributes)

    def tensor(self, found: dict, path: Path) -> tuple[str, np.ndarray]:
        """Name and numbers."""
        place = dict(map(self.pair, found.get(13, [])))
        assert bool(place) == (found.get(14, [0]) == [1])
        if place:
            start, length = int(place["offset"]), int(place["length"])
            raw = (path.parent / place["location"]).read_bytes()[start : start + length]
        else:
            [raw] = found[9]
        return found[8][0].decode(), np.frombuffer(raw, DTYPES[found[2][0]]).reshape(found.get(1, []))

    @staticmethod
    def value(found: dict) -> tuple[str, tuple]:
        """Name and shape of an input or output, behind the number of its type."""
        kind = fields(fields(found[2][0])[1][0])
        dims = [fields(part) for part in fields(kind[2][0]).get(1, [])]
        return found[1][0].decode(), (kind[1][0], *(dim[1][0] if 1 in dim else dim[2][0].decode() for dim in dims))

    def compute(self, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """The outputs by name. A value that a node asks for before it is there fails."""
        values = {name: torch.from_numpy(array.copy()) for name, array in self.tensors.items()} | inputs
        values = {name: t.double() if t.dtype == torch.float32 else t for name, t in values.items()}
        for node in self.nodes:
            results = OPERATORS[node.kind](*(values[name] for name in node.inputs), **node.attributes)
            results = results if isinstance(results, tuple) else (results,)
            assert not values.keys() & set(node.outputs)
            values |= zip(node.outputs, results, strict=True)
        return {name: values[name] for name in self.outputs}


def quantized(x):
    """DynamicQuantizeLinear: whole numbers, scale, zero point."""
    low, high = min(0.0, x.min().item()), max(0.0, x.max().item())
    scale = (high - low) / 255
    zero = min(255, max(0, round(-low / scale)))
    whole = (x / scale).round().add(zero).clamp(0, 255).to(torch.uint8)
    return whole, torch.tensor(scale, dtype=torch.float64), torch.tensor(zero, dtype=torch.uint8)


def sliced(x, starts, ends, axes):
    """Slice, of one axis."""
    [start], [end], [axis] = starts.tolist(), ends.tolist(), axes.tolist()
    return x.transpose(0, axis)[start:end].transpose(0, axis)


def unsqueezed(x, axes):
    """Unsqueeze, of axes in rising order."""
    for axis in axes.tolist():
        x = x.unsqueeze(axis)
    return x


def shape_of(x, start=0, end=None):
    """Shape: the sizes of some axes."""
    return torch.tensor(x.shape[start:end])


def gathered(x, ids, axis=0):
    """Gather: rows of an axis."""
    return (
        torch.stack([x.select(axis, i) for i in ids.flatten().tolist()], axis)
        .unflatten(axis, ids.shape or (1,))
        .squeeze(() if ids.dim() else axis)
    )


def normed(x, weight, bias, axis, epsilon):
    """LayerNormalization."""
    assert axis == -1
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + epsilon).sqrt() * weight + bias


def cast(x, to):
    """Cast: what would be float32 is float64 here."""
    return x.double() if to == 1 else x.to({2: torch.uint8, 7: torch.int64, 9: torch.bool}[to])


OPERATORS = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Where": torch.where,
    "Mul": torch.mul,
    "Div": torch.div,
    "Pow": torch.pow,
    "MatMul": torch.matmul,
    "MatMulInteger": lambda a, b, zero=0: (a.int() - int(zero)).double() @ b.double(),
    "DynamicQuantizeLinear": quantized,
    "ReduceMin": lambda x, axes: x.amin(axes, keepdim=True),
    "ReduceMax": lambda x, axes: x.amax(axes, keepdim=True),
    "Max": torch.maximum,
    "Round": torch.round,
    "Erf": torch.erf,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
    "Softmax": lambda x, axis: x.softmax(axis),
    "LayerNormalization": normed,
    "Gather": gathered,
    "Slice": sliced,
    "Shape": shape_of,
    "Unsqueeze": unsqueezed,
    "Concat": lambda *parts, axis: torch.cat(parts, axis),
    "Reshape": lambda x, shape: x.reshape([n or x.shape[i] for i, n in enumerate(shape.tolist())]),
    "Transpose": lambda x, perm: x.permute(perm),
    "Cast": cast,
    "BitShift": lambda x, n, direction: torch.from_numpy(
        {b"LEFT": np.left_shift, b"RIGHT": np.right_shift}[direction](x.numpy(), n.numpy())
    ),
    "Identity": lambda x: x,
}
