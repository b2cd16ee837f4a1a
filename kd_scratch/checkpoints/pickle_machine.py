"""The machine that a pickle is a program for, with nothing in it that could run, import or open anything.

A pickle builds one value on a stack. OPCODES has all that a state dict needs: what each takes from the stack, and what
it pushes instead. CALLS has the functions that such a program may call, and SYMBOLS the names that it may import; here
both are rows of a table, and whatever is not there is refused by its name.

    opcode                                               stack afterwards
    GLOBAL 'torch._utils _rebuild_tensor_v2'             symbol
    MARK, MARK, BINUNICODE 'storage', GLOBAL …, TUPLE    symbol | ("storage", FloatStorage, "0", "cpu", 6)
    BINPERSID                                            symbol | storage
    BININT1 0, …, TUPLE                                  symbol | (storage, 0, (2, 3), (3, 1), False, {})
    REDUCE                                               tensor

Values are never compared, hashed, copied or walked through: they can be shared and nested so that any of that takes for
ever. Sources: Lib/pickletools.py of Python, which only takes a pickle apart; torch/_utils.py of PyTorch.
"""

import math
import pickletools
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import NamedTuple

import torch

from kd_scratch.checkpoints.safetensors import MAX_DIMENSIONS

MAX_OPCODES = 500_000  # a tensor needs 30 to 50; each can make an object of a hundred bytes
CURE = "take a model.safetensors, or have the program that made it save only model.state_dict()"
REFUSED = f"refused, a plain state dict needs no such thing; {CURE}"

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64, "ComplexDoubleStorage": torch.complex128,
}  # fmt: skip
NEWER = (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)  # have no storage class


# --- values that a pickle makes, beside None, bool, int, float, str, tuple and list ---


class Symbol(NamedTuple):
    """A name that a pickle imports: "torch._utils _rebuild_tensor_v2"."""

    name: str


class PickledDict:
    """A dict as the pairs that were put into it: its keys may be anything, and are not hashed."""

    def __init__(self, pairs: list):
        self.pairs = pairs

    def items(self) -> Iterator[tuple[str, object]]:
        """The pairs; ValueError for a key that is no text or is there twice."""
        seen = set()
        for pair in self.pairs:
            if type(pair) not in (tuple, list) or len(pair) != 2 or type(pair[0]) is not str:
                raise ValueError("a dict of it has keys that are not text")
            pair[0].encode()  # fails where it is half a character (a surrogate)
            if pair[0] in seen:
                raise ValueError(f"key {pair[0]!r:.200} is repeated")
            seen.add(pair[0])
            yield pair[0], pair[1]

    def has_tensors(self) -> bool:
        """Whether one of the values is a tensor."""
        return any(type(pair) in (tuple, list) and type(pair[-1]) is PickledTensor for pair in self.pairs if pair)


class StoragePart(NamedTuple):
    """A storage, or a part of one."""

    key: str
    dtype: torch.dtype
    start: int  # in bytes
    size: int  # in bytes


class PickledTensor(NamedTuple):
    """A tensor as it is to be made: a view of a storage; offset and strides in elements."""

    storage: StoragePart
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def size(self) -> int:
        """Bytes that its elements take."""
        return math.prod(self.shape) * self.dtype.itemsize


DTYPES = {str(dtype).replace(".", " "): dtype for dtype in (*STORAGES.values(), *NEWER)}  # "torch float32"
STORAGE_TYPES = {f"torch {name}": dtype for name, dtype in STORAGES.items()}
STORAGE_TYPES |= dict.fromkeys(("torch.storage UntypedStorage", "torch.storage _UntypedStorage"), torch.uint8)


# --- what a pickle may call: each function checks its arguments and returns a value ---


def _ordered_dict(pairs=None) -> PickledDict:
    """OrderedDict(), or of a list of pairs, as Python 2 wrote it; the list is taken as it is, not copied."""
    if pairs is not None and type(pairs) is not list:
        raise ValueError("an OrderedDict is made of something else than a list")
    return PickledDict([] if pairs is None else pairs)


def _tensor(
    storage, offset, shape, strides, requires_grad=False, hooks=None, metadata=None, dtype=None
) -> PickledTensor:
    """A tensor that lies within its storage; ValueError for any other."""
    if metadata is not None and not (type(metadata) is PickledDict and not metadata.pairs):
        raise ValueError("a tensor is lazily conjugated or negated; save a clone of it")
    if (
        type(requires_grad) is not bool
        or type(storage) is not StoragePart
        or type(shape) is not tuple
        or type(strides) is not tuple
    ):
        raise ValueError("a tensor is made of something else than a storage and its shape")
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(
            f"a tensor has {len(shape)} dimensions and {len(strides)} strides, of at most {MAX_DIMENSIONS}"
        )
    if not all(type(number) is int and 0 <= number < 2**63 for number in (offset, *shape, *strides)):
        raise ValueError("a tensor has an offset, shape or stride that is no whole number below 2**63")
    dtype = dtype or storage.dtype
    if storage.start % dtype.itemsize:
        raise ValueError(f"a tensor of {dtype} lies unaligned in storage {storage.key!r:.40}")
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= 2**63:  # torch computes strides of empty ones too
        raise ValueError("a tensor's shape is too large for torch")
    last = offset + sum(stride * (size - 1) for size, stride in zip(shape, strides, strict=True))
    if math.prod(shape) and (last + 1) * dtype.itemsize > storage.size:
        raise ValueError(
            f"a tensor of shape {list(shape)} reaches to element {last} of storage {storage.key!r:.40}, "
            f"which has {storage.size // dtype.itemsize}"
        )
    return PickledTensor(storage, dtype, offset, shape, strides)


def _newer_tensor(storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None) -> PickledTensor:
    """A tensor whose type is not that of its storage, which is one of bytes."""
    if type(dtype) is not Symbol or dtype.name not in DTYPES:
        raise ValueError("a tensor's type is none")
    return _tensor(storage, offset, shape, strides, metadata=metadata, dtype=DTYPES[dtype.name])


def _parameter(tensor, requires_grad=True, hooks=None, state=None) -> PickledTensor:
    """A parameter's tensor."""
    if type(tensor) is not PickledTensor:
        raise ValueError("a parameter is made of something else than a tensor")
    return tensor


def _shape(numbers=()) -> tuple:
    """A torch.Size, which is a tuple."""
    if type(numbers) is not tuple:
        raise ValueError("a shape is made of something else than a tuple")
    return numbers


CALLS: dict[str, tuple[Callable, int, int]] = {  # symbol -> function, least and most arguments
    "collections OrderedDict": (_ordered_dict, 0, 1),
    "torch._utils _rebuild_tensor": (_tensor, 4, 4),
    "torch._utils _rebuild_tensor_v2": (_tensor, 6, 7),
    "torch._utils _rebuild_tensor_v3": (_newer_tensor, 7, 8),
    "torch._utils _rebuild_parameter": (_parameter, 3, 3),
    "torch._utils _rebuild_parameter_with_state": (_parameter, 4, 4),
    "torch Size": (_shape, 0, 1),
}
SYMBOLS = CALLS.keys() | STORAGE_TYPES.keys() | DTYPES.keys()


# --- the opcodes ---


def _global(machine, argument: str, *names: str) -> Symbol:
    """A known symbol; ValueError, with its name, for every other."""
    if not all(type(name) is str for name in names):
        raise ValueError("it imports something without a name")
    name = argument or " ".join(names)
    if name not in SYMBOLS:
        raise ValueError(f"it wants to call {name.replace(' ', '.')!r:.200}: {REFUSED}")
    return Symbol(name)


def _call(machine, _, function, arguments):
    """What a function of CALLS makes of its arguments."""
    if type(function) is not Symbol or function.name not in CALLS:
        raise ValueError(f"it wants to call what is no function: {REFUSED}")
    result_of, least, most = CALLS[function.name]
    if type(arguments) is not tuple or not least <= len(arguments) <= most:
        raise ValueError(f"it calls {function.name.replace(' ', '.')} with other arguments than PyTorch does")
    return result_of(*arguments)


def _set_state(machine, _, value, state):
    """An OrderedDict as it is: its attributes (`_metadata`) are of no use here."""
    if type(value) is not PickledDict:
        raise ValueError(f"it wants to set the state of an object: {REFUSED}")
    return value


def _append(machine, _, target, *items) -> list:
    if type(target) is not list:
        raise ValueError("it appends to something else than a list")
    target.extend(items)
    return target


def _set_items(machine, _, target, *items) -> PickledDict:
    if type(target) is not PickledDict or len(items) % 2:
        raise ValueError("it sets items of something else than a dict")
    target.pairs.extend(zip(items[::2], items[1::2], strict=True))
    return target


def _storage(machine, _, key) -> StoragePart:
    """A storage by its persistent id, ("storage", type, key, location, elements[, part]); noted in the machine."""
    if type(key) is not tuple or not 5 <= len(key) <= 6 or type(key[0]) is not str or key[0] != "storage":
        raise ValueError(f"it wants something from outside that is no storage: {REFUSED}")
    (_, kind, name, device, count), part = key[:5], key[5] if len(key) == 6 else None
    if type(kind) is not Symbol or kind.name not in STORAGE_TYPES or not type(name) is type(device) is str:
        raise ValueError("a storage has no type or key")
    dtype = STORAGE_TYPES[kind.name]
    if type(part) is tuple and len(part) == 3:  # as PyTorch wrote them before 0.4
        _, start, length = part
    else:
        start, length = 0, count if part is None else None
    if not all(type(number) is int and 0 <= number < 2**59 for number in (count, start, length)):
        raise ValueError(f"storage {name!r:.40} has no size")
    if start + length > count:
        raise ValueError(f"a part of storage {name!r:.40} is larger than that")
    size = count * dtype.itemsize
    if machine.storages.setdefault(name, (size, dtype.itemsize)) != (size, dtype.itemsize):
        raise ValueError(f"storage {name!r:.40} is there in two sizes or types")
    return StoragePart(name, dtype, start * dtype.itemsize, length * dtype.itemsize)


def _remember(machine, index: int | None, value):
    """The value as it is, from now on also in the memo."""
    index = len(machine.memo) if index is None else index
    if index > MAX_OPCODES:
        raise ValueError(f"its memo has a place {index}, more than it has opcodes")
    machine.memo[index] = value
    return value


def _recall(machine, index: int):
    """A value of the memo."""
    if index not in machine.memo:
        raise ValueError(f"its memo has nothing at {index}")
    return machine.memo[index]


def _literal(machine, argument):
    """The number or text that stands behind the opcode."""
    return argument


MARKED = -1  # all down to the last MARK, and below that one more where there is a target to add to
# name -> number of values taken, function(machine, argument, *taken) -> value pushed
OPCODES: dict[str, tuple[int, Callable]] = {
    "NONE": (0, lambda machine, _: None),
    "NEWTRUE": (0, lambda machine, _: True),
    "NEWFALSE": (0, lambda machine, _: False),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"), (0, _literal)),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINSTRING", "SHORT_BINSTRING"), (0, _literal)),
    "EMPTY_TUPLE": (0, lambda machine, _: ()),
    "TUPLE1": (1, lambda machine, _, *items: items),
    "TUPLE2": (2, lambda machine, _, *items: items),
    "TUPLE3": (3, lambda machine, _, *items: items),
    "TUPLE": (MARKED, lambda machine, _, *items: items),
    "EMPTY_LIST": (0, lambda machine, _: []),
    "APPEND": (2, _append),
    "APPENDS": (MARKED - 1, _append),
    "EMPTY_DICT": (0, lambda machine, _: PickledDict([])),
    "SETITEM": (3, _set_items),
    "SETITEMS": (MARKED - 1, _set_items),
    "BINPUT": (1, _remember),
    "LONG_BINPUT": (1, _remember),
    "MEMOIZE": (1, _remember),
    "BINGET": (0, _recall),
    "LONG_BINGET": (0, _recall),
    "GLOBAL": (0, _global),
    "STACK_GLOBAL": (2, _global),
    "REDUCE": (2, _call),
    "BUILD": (2, _set_state),
    "BINPERSID": (1, _storage),
}  # fmt: skip


class Machine:
    """Runs the pickles of one file. storages: by key the bytes of a storage, and of one of its elements."""

    def __init__(self):
        self.storages: dict[str, tuple[int, int]] = {}
        self.memo: dict[int, object] = {}
        self.count = 0  # opcodes so far, of all pickles

    def run(self, stream: BytesIO):
        """The value of the pickle that begins where the stream stands; ValueError for what no state dict needs."""
        stack, marks, self.memo = [], [], {}
        for opcode, argument, place in pickletools.genops(stream):
            self.count += 1
            if self.count > MAX_OPCODES:
                raise ValueError(f"its pickle has more than {MAX_OPCODES} opcodes")
            if opcode.name in ("PROTO", "FRAME"):  # hints to who reads
                continue
            if opcode.name == "MARK":
                marks.append(len(stack))
                continue
            if opcode.name == "STOP":
                break
            if opcode.name not in OPCODES:
                name = f" {argument.replace(' ', '.')!r:.200}" if type(argument) is str else ""
                raise ValueError(f"it wants {opcode.name}{name}: {REFUSED}")
            taken, function = OPCODES[opcode.name]
            if taken < 0 and not marks:
                raise ValueError(f"byte {place} of its pickle needs a mark")
            bottom = marks.pop() + taken - MARKED if taken < 0 else len(stack) - taken
            if bottom < (marks[-1] if marks else 0):
                raise ValueError(f"byte {place} of its pickle takes more than there is")
            values = stack[bottom:]
            del stack[bottom:]
            stack.append(function(self, argument, *values))
        if len(stack) != 1 or marks:
            raise ValueError(f"its pickle ends with {len(stack)} values, not one")
        return stack[0]
