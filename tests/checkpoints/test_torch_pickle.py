"""PyTorch's file format, newer and older: what is read, what is refused, and what a hostile file can never do."""

import builtins
import collections
import copyreg
import io
import os
import pickle
import pickletools
import random
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile

import pytest
import torch
from torch import nn

from kd_scratch.checkpoints import pickle_machine, stored_zip
from kd_scratch.checkpoints.torch_pickle import TorchPickleError, load_file
from kd_scratch.common.errors import UserError
from tests.conftest import ROOT, TORTURE

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip
ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2)
HOST = pickle.dumps({"protocol_version": 1001, "little_endian": True}, 2)


def bits(tensor):
    """A tensor's bytes, so that NaN equals NaN."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def random_values(dtype, shape):
    """A tensor of any dtype with arbitrary bits (0 and 1 only for bool)."""
    count = torch.Size(shape).numel() * dtype.itemsize
    high = 2 if dtype == torch.bool else 256
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, high, (count,), dtype=torch.uint8, generator=generator).view(dtype).reshape(shape)


def saved(tmp_path, value, zipped=True, protocol=2, name="pytorch_model.bin"):
    path = tmp_path / name
    path.unlink(missing_ok=True)  # not overwritten: tensors may still map it
    torch.save(value, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    return path


def written(tmp_path, raw, name="made.bin"):
    path = tmp_path / name
    path.unlink(missing_ok=True)
    path.write_bytes(raw)
    return path


def archive(program, storages=None, top="archive", **more):
    """The bytes of a ZIP archive of this data.pkl and these storages (bytes by key), as torch.save lays them out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in {"data.pkl": program, "byteorder": b"little", "version": b"3\n", **more}.items():
            file.writestr(f"{top}/{name}", content)
        for key, content in (storages or {}).items():
            file.writestr(f"{top}/data/{key}", content)
    return buffer.getvalue()


def legacy(program, storages=None, keys=None):
    """The bytes of a file of the older format; storages: key -> (number of elements, bytes)."""
    storages = storages or {}
    raw = MAGIC + HOST + program + pickle.dumps(list(storages) if keys is None else keys, 2)
    return raw + b"".join(struct.pack("<q", count) + content for count, content in storages.values())


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def short(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def number(value):
    return (
        b"J" + struct.pack("<i", value)
        if -(2**31) <= value < 2**31
        else b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)
    )


def symbol(name):
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def numbers(values):
    return b"(" + b"".join(map(number, values)) + b"t"


def storage(count=6, kind="torch FloatStorage", key="0", view=b"", location="cpu"):
    return b"(" + text("storage") + symbol(kind) + text(key) + text(location) + number(count) + view + b"tQ"


def tensor(shape=(2, 3), strides=(3, 1), offset=0, source=None, call="_rebuild_tensor_v2", more=b"\x89)"):
    """The program that makes a tensor; more: requires_grad and hooks."""
    source = storage() if source is None else source
    arguments = source + number(offset) + numbers(shape) + numbers(strides) + more
    return symbol(f"torch._utils {call}") + b"(" + arguments + b"tR"


def program(value, name="w"):
    """A pickle of {name: value}, by the program that makes the value."""
    return b"\x80\x02}(" + text(name) + value + b"u."


SIX = struct.pack("<6f", *range(6))


def read(tmp_path, raw):
    return load_file(written(tmp_path, raw))


def refusal(tmp_path, raw) -> str:
    """The one line with which a file is refused, without its path."""
    path = written(tmp_path, raw)
    with pytest.raises(TorchPickleError) as caught:
        load_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message and len(message) < len(str(path)) + 700
    return message.removeprefix(f"{path}: ")


def assert_same(found, wanted):
    """Names in order, types, shapes, strides and bits of what the reference reads."""
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert found[name].stride() == tensor.stride() or not tensor.numel(), name
        assert bits(found[name]) == bits(tensor.detach()), name
        assert type(found[name]) is torch.Tensor and not found[name].requires_grad, name
        assert found[name].data_ptr() % tensor.dtype.itemsize == 0, name


# --- what is read ---


@ZIPPED
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_and_shape_is_read_as_torch_reads_it(tmp_path, dtype, zipped):
    shapes = ([], [1], [0], [5], [2, 0, 3], [2, 3, 4], [1] * 64)
    wanted = {str(shape): random_values(dtype, shape) for shape in shapes}
    path = saved(tmp_path, wanted, zipped)
    assert_same(load_file(path), wanted)
    if zipped or dtype not in pickle_machine.NEWER:  # which it writes in the older format, but cannot read
        assert_same(load_file(path), torch.load(path, weights_only=True))


@ZIPPED
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read(tmp_path, zipped, protocol):
    content = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.LayerNorm(4)).state_dict()
    content["a parameter"] = nn.Parameter(torch.ones(2))
    content["a name that is no ASCII: é, 木"] = torch.arange(3)
    path = saved(tmp_path, content, zipped, protocol)
    assert_same(load_file(path), {name: value.detach() for name, value in content.items()})


def odd_tensors():
    """Views, tied weights, parameters and other tensors that state dicts hold."""
    base = torch.arange(24.0).reshape(4, 6)
    parameter = nn.Parameter(torch.ones(3), requires_grad=False)
    parameter.note = "with state"
    return collections.OrderedDict(
        {
            "base": base, "tied": base, "transposed": base.T, "offset": base[1:, 2:], "steps": base[::2, ::3],
            "expanded": torch.tensor([7.0]).expand(5), "positions": torch.arange(8).expand(1, -1),
            "scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "gradient": torch.ones(2, requires_grad=True),
            "parameter": nn.Parameter(torch.ones(3)), "with state": parameter, "bool": torch.tensor([True, False]),
        }
    )  # fmt: skip


@ZIPPED
def test_views_tied_weights_and_parameters_are_read_and_what_shares_memory_still_does(tmp_path, zipped):
    wanted = odd_tensors()
    path = saved(tmp_path, wanted, zipped)
    assert_same(load_file(path), {name: value.detach() for name, value in torch.load(path, weights_only=True).items()})
    found = load_file(path)
    assert found["tied"] is found["base"]
    found["transposed"][0, 0] = 99
    assert found["base"][0, 0] == found["tied"][0, 0] == 99 and found["scalar"] == 2.5


def test_loaded_tensors_are_views_of_the_file_and_writing_to_them_stays_private(tmp_path):
    path = saved(tmp_path, {"a": torch.zeros(1000), "b": torch.ones(1000)})
    before = path.read_bytes()
    found = load_file(path)
    apart = found["b"].data_ptr() - found["a"].data_ptr()
    assert before[before.index(bits(torch.ones(1000))) - apart :].startswith(bytes(4000))  # as far as in the file
    found["a"].fill_(7)
    assert path.read_bytes() == before and load_file(path)["a"].sum() == 0
    survivor = found.pop("b")
    del found
    assert survivor.sum() == 1000


@pytest.mark.parametrize("location", ["cuda:0", "mps", "xla:1", ""])
def test_tensors_of_another_device_come_to_the_cpu(tmp_path, location):
    made = program(tensor(source=storage(location=location)))
    for raw in (
        archive(made, {"0": SIX}),
        legacy(made.replace(number(6) + b"tQ", number(6) + b"NtQ"), {"0": (6, SIX)}),
    ):
        [found] = read(tmp_path, raw).values()
        assert found.device.type == "cpu" and found.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_old_versions_wrote_is_read(tmp_path):
    view = lambda *part: b"(" + text("view") + numbers(part)[1:]  # noqa: E731
    part = lambda *numbers: tensor((2,), (1,), source=storage(view=view(*numbers)), more=b"", call="_rebuild_tensor")  # noqa: E731
    python_2 = b"\x80\x02" + symbol("collections OrderedDict") + b"(](](U\x01w" + tensor() + b"eetR."
    for made, wanted in {
        program(tensor(more=b"", call="_rebuild_tensor")): [[0, 1, 2], [3, 4, 5]],
        program(part(0, 2)): [0, 1],
        program(part(4, 2)): [4, 5],
        program(tensor().replace(text("storage"), b"U\x07storage")): [[0, 1, 2], [3, 4, 5]],
        python_2: [[0, 1, 2], [3, 4, 5]],
        program(symbol("torch._utils _rebuild_parameter") + tensor() + b"\x88)\x87R"): [[0, 1, 2], [3, 4, 5]],
        program(tensor().replace(numbers((2, 3)), symbol("torch Size") + numbers((2, 3)) + b"\x85R")): [
            [0, 1, 2],
            [3, 4, 5],
        ],
    }.items():
        for raw in (archive(made, {"0": SIX}), legacy(made, {"0": (6, SIX)})):
            assert read(tmp_path, raw)["w"].tolist() == wanted
    assert "larger than that" in refusal(tmp_path, archive(program(part(5, 2)), {"0": SIX}))
    assert "has no size" in refusal(tmp_path, archive(program(part(-1, 2)), {"0": SIX}))
    assert "has no size" in refusal(tmp_path, archive(program(part(1)), {"0": SIX}))


WRAPPED = {
    "Lightning": ({"state_dict": 1, "epoch": 3, "optimizer_states": [{"state": {0: {"step": 1.5}}}]}, "epoch, opt"),
    "a training loop": ({"epoch": 3, "model_state_dict": 1, "loss": torch.tensor(0.5), "best": None}, "best, epoch, l"),
    "under model": ({"model": 1, "args": {"lr": 1e-5, "layers": (1, 2)}, "model_ema": {}}, "args, model_ema"),
    "alone": ({"state_dict": 1}, None),
    "bare, with numbers beside": ({"w": torch.ones(2, 3), "epoch": 3, "_extra_state": None}, "_extra_state, epoch"),
    "empty": ({}, None),
}


@ZIPPED
@pytest.mark.parametrize("case", WRAPPED)
def test_a_state_dict_is_found_where_trainers_put_it_and_the_rest_is_told(tmp_path, case, zipped):
    content, note = WRAPPED[case]
    inner = nn.Linear(3, 2).state_dict()
    path = saved(tmp_path, {name: inner if value == 1 and name != "step" else value for name, value in content.items()}
                 if case != "bare, with numbers beside" else content, zipped)  # fmt: skip
    notes = []
    found = load_file(path, notes.append)
    expected = {"w": torch.ones(2, 3)} if case.startswith("bare") else {} if case == "empty" else inner
    assert_same(found, expected)
    assert [note in line and str(path) in line for line in notes] == [True] * (note is not None)


NO_STATE_DICTS = {
    "a tensor": (torch.ones(2), "holds no state dict but one value"),
    "a list": ([torch.ones(2)], "holds no state dict but one value"),
    "two of them": (
        {"model": {"a": torch.ones(1)}, "state_dict": {"a": torch.ones(1)}},
        "several state dicts (state_d",
    ),
    "none": ({"epoch": 3, "args": {"a": 1}}, "holds no tensors, but args, epoch"),
    "numbers for names": ({1: torch.ones(2)}, "keys that are not text"),
    "half a character": ({"\ud800": torch.ones(2)}, "surrogates not allowed"),
    "conjugate": ({"a": torch.tensor([1j]).conj()}, "lazily conjugated"),
    "sparse": ({"a": torch.eye(2).to_sparse()}, "torch._utils._rebuild_sparse_tensor"),
    "meta": ({"a": torch.ones(2, device="meta")}, "torch._utils._rebuild_meta_tensor_no_storage"),
    "a whole model": (nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "a set": ({"a": {1, 2}}, "'builtins.set'"),
    "a huge whole number": ({"a": 1 << 5000}, "LONG4"),
}


@ZIPPED
@pytest.mark.parametrize("case", NO_STATE_DICTS)
def test_what_is_no_plain_state_dict_is_refused_by_name(tmp_path, case, zipped):
    value, fragment = NO_STATE_DICTS[case]
    raw = saved(tmp_path, value, zipped).read_bytes()
    if case == "a set":
        fragment = "__builtin__.set"  # protocol 2 has Python 2's name
    assert fragment in refusal(tmp_path, raw)


# --- tensors that lie ---

LIES = {
    "beyond the storage": (dict(shape=(2, 4), strides=(3, 1)), "reaches to element 6 of storage '0', which has 6"),
    "offset beyond": (dict(offset=1), "reaches to element 6"),
    "offset far beyond": (dict(offset=2**62), "reaches to element"),
    "stride far beyond": (dict(strides=(2**62, 1)), "reaches to element"),
    "negative offset": (dict(offset=-1), "no whole number"),
    "negative stride": (dict(strides=(-3, 1), offset=3), "no whole number"),
    "negative size": (dict(shape=(-2, -3)), "no whole number"),
    "2**64": (dict(offset=2**64), "no whole number"),
    "overflow to zero": (dict(shape=(2**32, 2**32), strides=(0, 0)), "too large for torch"),
    "empty, but too wide": (dict(shape=(0, 2**62, 4), strides=(1, 1, 1)), "too large for torch"),
    "expanded": (dict(shape=(10**9,), strides=(0,)), "more than 32 times"),
    "65 dimensions": (dict(shape=(1,) * 65, strides=(1,) * 65), "65 dimensions"),
    "fewer strides": (dict(strides=(1,)), "2 dimensions and 1 strides"),
    "storage too small": (dict(source=storage(7)), "storage '0' has 24 bytes instead of 28"),
    "storage too large": (dict(source=storage(5)), "reaches to element 5"),
    "storage of another type": (dict(source=storage(6, "torch LongStorage")), "has 24 bytes instead of 48"),
    "storage without an entry": (dict(source=storage(key="1")), "storage '1' has 0 bytes instead of 24"),
    "storage of 2**70": (dict(source=storage(2**70)), "has no size"),
    "storage of -6": (dict(source=storage(-6)), "has no size"),
    "no storage": (dict(source=b"N"), "something else than a storage"),
    "module as persistent id": (dict(source=b"(" + text("module") + b"NNNNtQ"), "no storage"),
    "text as persistent id": (dict(source=text("storage") + b"Q"), "no storage"),
    "a type that is none": (dict(source=storage(6, "torch float32")), "no type or key"),
    "a parameter of None": (dict(source=symbol("torch._utils _rebuild_parameter") + b"N\x88)\x87R"), "a parameter"),
    "a size of nothing": (dict(source=symbol("torch Size") + b"N\x85R"), "a shape is made of something else"),
    "unaligned in a part": (
        dict(
            source=storage(24, "torch.storage UntypedStorage", view=b"(" + text("view") + numbers((1, 8))[1:]),
            shape=(1,), strides=(1,), call="_rebuild_tensor_v3", more=b"\x89)" + symbol("torch uint32"),
        ),
        "lies unaligned in storage",
    ),
    "six more arguments": (dict(more=b"NNNNNNNN"), "with other arguments than PyTorch does"),
    "no arguments": (dict(call="_rebuild_tensor"), "with other arguments"),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES)
def test_a_tensor_that_does_not_lie_within_its_storage_is_refused(tmp_path, case):
    changes, fragment = LIES[case]
    message = refusal(tmp_path, archive(program(tensor(**changes)), {"0": SIX}))
    assert fragment in message


def test_a_storage_is_one_thing_and_booleans_are_two(tmp_path):
    two = b"\x80\x02}(" + text("a") + tensor() + text("b") + tensor((5,), (1,), source=storage(5)) + b"u."
    assert "in two sizes or types" in refusal(tmp_path, archive(two, {"0": SIX}))
    boolean = program(tensor((3,), (1,), source=storage(3, "torch BoolStorage")))
    assert read(tmp_path, archive(boolean, {"0": b"\0\1\1"}))["w"].tolist() == [False, True, True]
    assert "BOOL byte is neither" in refusal(tmp_path, archive(boolean, {"0": b"\0\1\2"}))
    byte = storage(24, "torch.storage UntypedStorage")
    newer = tensor((5,), (1,), 0, byte, "_rebuild_tensor_v3", b"\x89)" + symbol("torch uint32"))
    assert read(tmp_path, archive(program(newer), {"0": SIX}))["w"].dtype == torch.uint32
    for wrong in (b"N", symbol("torch Size"), text("uint32")):
        newer = tensor((5,), (1,), 0, byte, "_rebuild_tensor_v3", b"\x89)" + wrong)
        assert "type is none" in refusal(tmp_path, archive(program(newer), {"0": SIX}))
    repeated = b"\x80\x02}(" + text("a") + tensor() + text("a") + tensor() + b"u."
    assert "key 'a' is repeated" in refusal(tmp_path, archive(repeated, {"0": SIX}))
    big = archive(program(tensor()), {"0": SIX}).replace(b"little", b"big   ")
    assert "big-endian" in refusal(tmp_path, big)


# --- programs that want more ---


class Reduces:
    """An object whose pickle calls a function."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


class Once:
    """An iterator of one item, once for every pickle."""

    def __init__(self):
        self.left = 1

    def __iter__(self):
        return self

    def __next__(self):
        self.left = 1 - self.left
        if self.left:
            raise StopIteration
        return "a", Reduces(os.getcwd, ())


class Plain:
    """An object that a pickle makes with NEWOBJ and sets the state of."""

    def __init__(self):
        self.x = 1


def exploits() -> dict[str, tuple[bytes, str]]:
    """Pickles of files that others would run, and the name that the refusal has."""
    made = {}
    calls = {
        "system": (os.system, ("touch owned",)),
        "eval": (builtins.eval, ("__import__('os').system('touch owned')",)),
        "exec": (builtins.exec, ("open('owned', 'w')",)),
        "open": (open, ("owned", "w")),
        "getattr": (getattr, (Reduces(builtins.__import__, ("os",)), "system")),
        "import": (builtins.__import__, ("this",)),
        "popen": (subprocess.Popen, (["touch", "owned"],)),
        "torch.load": (torch.load, ("owned.bin",)),
        "loads": (pickle.loads, (pickle.dumps(1),)),
        "apply": (map, (print, [1])),
        "bytearray": (bytearray, (10**12,)),
        "reconstructor": (copyreg._reconstructor, (Plain, object, None)),
        "list iterator": (list, (), None, Once()),
        "state": (collections.OrderedDict, (), {"__class__": Reduces(os.getcwd, ())}),
        "items": (collections.OrderedDict, (), None, None, Once()),
        "counter": (collections.Counter, ()),
        "defaultdict": (collections.defaultdict, (list,)),
        "numpy": (torch.ones(2).numpy().dtype.type, (1.5,)),
    }
    named = {"import": "__import__", "popen": "Popen", "torch.load": "load", "apply": "map", "state": "getcwd",
             "items": "getcwd", "reconstructor": "_reconstructor", "list iterator": "list", "counter": "Counter",
             "numpy": "float32"}  # fmt: skip
    for name, reduced in calls.items():
        for protocol in (2, 3, 4, 5):
            made[f"{name}, protocol {protocol}"] = (
                pickle.dumps(Reduces(*reduced), protocol),
                f"{named.get(name, name)}'",
            )
    for protocol in (2, 3, 4, 5):
        made[f"object, protocol {protocol}"] = pickle.dumps(Plain(), protocol), "Plain'"
        made[f"numbers, protocol {protocol}"] = pickle.dumps(torch.ones(2).numpy(), protocol), "numpy"
    ordered, call = symbol("collections OrderedDict"), b"(U\x0btouch owned"
    by_hand = {
        "INST": (b"(U\x0btouch ownedios\nsystem\n.", "os.system"),
        "OBJ": (b"(" + symbol("os system") + b"U\x0btouch ownedo.", "os.system"),
        "OBJ of a known symbol": (b"(" + ordered + b"o.", "OBJ"),
        "NEWOBJ": (ordered + b")\x81.", "NEWOBJ"),
        "NEWOBJ_EX": (ordered + b")}\x92.", "NEWOBJ_EX"),
        "EXT1": (b"\x82\x01.", "EXT1"),
        "EXT2": (b"\x83\x01\x00.", "EXT2"),
        "EXT4": (b"\x84\x01\x00\x00\x00.", "EXT4"),
        "STACK_GLOBAL": (short("os") + short("system") + b"\x93" + call + b"tR.", "os.system"),
        "STACK_GLOBAL of parts": (short("torch._util") + short("s _rebuild_tensor_v2.x") + b"\x93.", "torch._util"),
        "STACK_GLOBAL of numbers": (b"K\x01K\x02\x93.", "without a name"),
        "a dotted name": (short("torch") + short("serialization.load") + b"\x93.", "torch.serialization.load"),
        "a name with a tail": (b"ctorch\nSize.__class__\n.", "torch.Size.__class__"),
        "a name with a new line": (short("os") + short("\nsystem") + b"\x93.", "os."),
        "BUILD of a symbol": (ordered + b"}b.", "set the state"),
        "BUILD with __setstate__": (tensor() + b"}" + text("__setstate__") + ordered + b"sb.", "set the state"),
        "PERSID": (b"Pstorage\n.", "PERSID"),
        "calling a type": (symbol("torch FloatStorage") + b")R.", "no function"),
        "calling a dtype": (symbol("torch float32") + b")R.", "no function"),
        "calling a text": (text("os.system") + b")R.", "no function"),
        "calling a tensor": (tensor() + b")R.", "no function"),
        "calling with a list": (ordered + b"]R.", "with other arguments"),
        "OrderedDict of a text": (ordered + text("ab") + b"\x85R.", "something else than a list"),
        "BYTEARRAY8": (b"\x96\x01\0\0\0\0\0\0\0a.", "BYTEARRAY8"),
        "NEXT_BUFFER": (b"\x97.", "NEXT_BUFFER"),
        "bytes": (b"C\x01a.", "SHORT_BINBYTES"),
        "FROZENSET": (b"(\x91.", "FROZENSET"),
        "items of a list": (b"](K\x01K\x02u.", "sets items of something else"),
        "items of a tensor": (tensor() + b"(K\x01K\x02u.", "sets items of something else"),
        "an odd number of items": (b"}(K\x01u.", "sets items of something else"),
        "appended to a dict": (b"}K\x01a.", "appends to something else"),
    }
    return made | by_hand


EXPLOITS = exploits()


@pytest.mark.parametrize("case", EXPLOITS)
def test_a_program_that_wants_to_call_anything_is_refused_by_name(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    raw, name = EXPLOITS[case]
    for file in (
        archive(raw),
        legacy(raw),
        raw,  # no file of torch.save at all
        MAGIC + raw,  # in place of what describes the host
        archive(program(raw.removeprefix(b"\x80\x02")[:-1])) if raw[1] < 4 else archive(raw),  # deeper
    ):
        message = refusal(tmp_path, file)
        known = ("magic", "PyTorch", "neither a ZIP", "that torch.save did not make")
        assert name in message or any(word in message for word in known), message
    assert name in refusal(tmp_path, archive(raw)) and name in refusal(tmp_path, legacy(raw))
    assert os.listdir(tmp_path) == ["made.bin"]


def test_nothing_runs_is_imported_or_opened_but_the_file(tmp_path):
    """In a process that notes everything of which Python tells its auditors: no exploit causes any of it."""
    paths = []
    for i, (raw, _) in enumerate(EXPLOITS.values()):
        paths += [written(tmp_path, archive(raw), f"{i}.zip"), written(tmp_path, legacy(raw), f"{i}.legacy")]
    program = """if True:
        import sys
        from kd_scratch.checkpoints.torch_pickle import load_file
        from kd_scratch.common.errors import UserError
        def read(path):
            try:
                load_file(path)
            except UserError:
                return 1
            return 0
        paths = sys.argv[1:]
        read(paths[0])  # once, for whatever is imported when first used
        seen = set()
        sys.addaudithook(lambda event, args: seen.add((event, str(args[0]) if args else "")))
        refused = sum(map(read, paths))
        own = {("open", path) for path in paths}
        assert refused == len(paths), refused
        print(sorted({event for event, _ in seen - own}))
    """
    done = subprocess.run([sys.executable, "-c", program, *map(str, paths)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "['mmap.__new__']\n"
    assert not (ROOT / "owned").exists()


# --- stack, memo and size ---


LEVELS = 100_000 if TORTURE else 10_000


def deep(levels=LEVELS):
    return b"\x80\x02" + b"]" * levels + b"a" * (levels - 1) + b"."


def laughs(levels=LEVELS):
    """A pair of the pair before it, again and again: 2 to the power of `levels` values for whoever walks through it."""
    return b"\x80\x02)" + b"q\x00h\x00\x86" * levels + b"."


ABUSES = {
    "empty": (b"", "pickle exhausted"),
    "no STOP": (b"\x80\x02}", "pickle exhausted"),
    "nothing": (b".", "ends with 0 values"),
    "two values": (b"}}.", "ends with 2 values"),
    "a mark left": (b"(}.", "ends with 1 values"),
    "underflow": (b"\x86.", "takes more than there is"),
    "underflow below a mark": (b"}((\x85.", "takes more than there is"),
    "underflow into another tuple": (b"K\x01K\x02(R.", "takes more than there is"),
    "no mark": (b"}K\x01K\x02u.", "needs a mark"),
    "put of nothing": (b"q\x00.", "takes more than there is"),
    "memo far away": (b"}r\xff\xff\xff\xff.", "its memo has a place 4294967295"),
    "memo of nothing": (b"h\x07.", "its memo has nothing at 7"),
    "memo of another pickle": (b"h\x00.", "its memo has nothing at 0"),
    "POP": (b"}}0.", "POP"),
    "DUP": (b"}2.", "DUP"),
    "an opcode that is none": (b"\xff.", "unknown"),
    "a text beyond the end": (b"X\xff\xff\xff\xffa.", "expected 4294967295 bytes"),
    "a longer text": (b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.", "expected 9223372036854775807 bytes"),
    "a text too long for any": (b"\x8d" + b"\xff" * 8 + b"a.", "byte count > sys.maxsize"),
    "a text that is no UTF-8": (b"X\x01\0\0\0\xff.", "can't decode byte 0xff"),
    "a long number": (b"\x8b\xff\xff\xff\x7f.", "not enough data"),
    "a long number of negative length": (b"\x8b\xff\xff\xff\xff.", "byte count < 0"),
    "a number of a million digits": (b"I" + b"9" * 1_000_000 + b"\n.", "Exceeds the limit"),
    "no number": (b"Ix\n.", "invalid literal"),
    "a name without end": (b"cos" + b"y" * 100_000, "no newline"),
    "a frame beyond the end": (b"\x95\xff\xff\xff\xff\xff\xff\xff\xff}K\x01.", "ends with 2 values"),
    "deep": (deep(), "holds no state dict"),
    "laughs": (laughs(), "holds no state dict"),
    "laughs as a key": (b"\x80\x02}" + laughs()[2:-1] + b"K\x01s.", "keys that are not text"),
    "laughs as a shape": (program(tensor().replace(numbers((2, 3)), laughs()[2:-1])), "no whole number"),
    "a list in itself": (b"]q\x00h\x00a.", "holds no state dict"),
    "a dict in itself": (b"}q\x00" + text("model") + b"h\x00s.", "holds no tensors, but model"),
    "a dict as its key": (b"}q\x00h\x00h\x00s.", "keys that are not text"),
    "an OrderedDict of itself": (symbol("collections OrderedDict") + b"]q\x00h\x00a\x85R.", "keys that are not text"),
    "too many opcodes": (b"N" * 600_000 + b".", "more than 500000 opcodes"),
    "too many bytes": (b"B" + bytes(17 << 20) + b".", "at most 16777216"),
}


@pytest.mark.parametrize("case", ABUSES)
def test_abuse_of_stack_memo_and_numbers_ends_in_one_line_soon_and_in_little_memory(tmp_path, monkeypatch, case):
    made, fragment = ABUSES[case]
    if not TORTURE:
        monkeypatch.setattr(pickle_machine, "MAX_OPCODES", 50_000)
        fragment = fragment.replace("500000", "50000")
    path = written(tmp_path, archive(made))
    start = time.process_time()
    assert fragment in refusal(tmp_path, path.read_bytes())
    assert time.process_time() - start < 5
    with pytest.raises(TorchPickleError):  # there a text may run on into the next pickle
        load_file(written(tmp_path, legacy(made)))
    if TORTURE:  # counting every object takes its time
        tracemalloc.start()
        refusal(tmp_path, archive(made))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10 * len(made) + 2**27, peak


# --- archives ---


def edited(raw, place, content):
    return raw[:place] + content + raw[place + len(content) :]


def central(raw, name):
    """Where the directory's header of an entry begins."""
    return raw.rindex(b"PK\1\2", 0, raw.rindex(name))


def archives() -> dict[str, tuple[bytes, str]]:
    """Broken and hostile archives, and what is said of them."""
    made, data = program(tensor()), {"0": SIX}
    good = archive(made, data)
    entry, end, local = central(good, b"data/0"), len(good) - 22, good.index(b"archive/data/0") - 30
    directory = struct.unpack("<I", good[end + 16 : end + 20])[0]

    def zipped(*entries, mode=zipfile.ZIP_STORED, attributes=0):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", mode) as file:
            for name, content in entries:
                info = zipfile.ZipInfo(name)
                info.compress_type, info.external_attr = mode, attributes
                file.writestr(info, content)
        return buffer.getvalue()

    pkl = ("archive/data.pkl", made)
    bomb = zipped(pkl, ("archive/data/0", bytes(10_000_000)), mode=zipfile.ZIP_DEFLATED)
    # Two entries of the directory that share one place in the file, as bombs without compression have it.
    twin = (
        good[:end]
        + good[entry:end]
        + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 5, 5, end - directory + end - entry, directory, 0)
    )
    other = edited(twin, twin.rindex(b"data/0"), b"data/1")
    return {
        "compressed": (bomb, "is compressed; unpack the archive"),
        "a bomb of nothing": (zipped(pkl, ("archive/data/0", bytes(10**7)), mode=zipfile.ZIP_BZIP2), "is compressed"),
        "encrypted": (edited(good, entry + 8, b"\1\0"), "is encrypted"),
        "patched": (edited(good, entry + 8, b"\x20\0"), "is encrypted, or of a later version"),
        "a size beyond the file": (edited(good, entry + 20, b"\xfe\xff\xff\xff" * 2), "two headers that contradict"),
        "two sizes": (edited(good, entry + 20, b"\1\0\0\0"), "has two sizes, 24 and 1"),
        "64 bits without any": (edited(good, entry + 20, b"\xff" * 8), "lacks its 64-bit numbers"),
        "another local size": (edited(good, local + 18, b"\1"), "two headers that contradict"),
        "another local name": (edited(good, local + 30, b"b"), "two headers that contradict"),
        "another local method": (edited(good, local + 8, b"\x08"), "two headers that contradict"),
        "another local checksum": (edited(good, local + 14, b"\1\1\1\1"), "two headers that contradict"),
        "local extra beyond the data": (edited(good, local + 28, b"\xff\xff"), "beyond the data"),
        "local header beyond the data": (edited(good, entry + 42, b"\xf0\xff\xff\0"), "beyond the data"),
        "no local header": (edited(good, entry + 42, struct.pack("<I", local + 1)), "two headers that contradict"),
        "there twice": (twin, "is there twice"),
        "there twice, as others": (zipped(pkl, pkl), "is there twice"),
        "overlapping": (other, "two headers that contradict"),
        "overlapping, headers agree": (overlapping(), "lies in another"),
        "something before it": (b"#!/bin/sh\n" + good, "is neither a ZIP archive nor a pickle"),
        "an archive before it": (good + good, "is not the one before its end"),
        "something behind it": (good + b"\0", "no end of a ZIP archive"),
        "a comment": (edited(good, end + 20, b"\1\0") + b"c", "no end of a ZIP archive"),
        "a comment that is not there": (edited(good, end + 20, b"\1\0"), "has a comment"),
        "two disks": (edited(good, end + 4, b"\1\0"), "is one of several disks"),
        "more entries than there are": (edited(good, end + 8, b"\5\0\5\0"), "directory"),
        "fewer entries than there are": (edited(good, end + 8, b"\2\0\2\0"), "other entries than it counts"),
        "65535 entries": (edited(good, end + 8, b"\xff\xff\xff\xff"), "is not the one before its end"),
        "directory beyond the end": (edited(good, end + 16, b"\xff\xff\xff\x7f"), "is not the one before its end"),
        "directory damaged": (edited(good, directory, b"PX"), "its directory is damaged"),
        "a name beyond the directory": (edited(good, entry + 28, b"\xff\xff"), "its directory is damaged"),
        "an absolute name": (zipped(pkl, ("/etc/passwd", b"x")), "'/etc/passwd' is not a plain name"),
        "a name that climbs": (zipped(pkl, ("archive/../../x", b"x")), "is not a plain name"),
        "a name of Windows": (zipped(pkl, ("archive/..\\x", b"x")), "is not a plain name"),
        "a folder": (zipped(("archive/", b""), pkl), "is not a plain name"),
        "no folder": (zipped(("data.pkl", made)), "is not a plain name"),
        "two folders": (zipped(pkl, ("other/data/0", SIX)), "in several folders: archive, other"),
        "a name that is no UTF-8": (good.replace(b"data/0", b"data/\xff"), "can't decode byte 0xff"),
        "a symbolic link": (
            zipped(pkl, ("archive/data/0", b"/etc/passwd"), attributes=0o120777 << 16),
            "symbolic link",
        ),
        "a folder that has no / in its name": (edited(good, entry + 38, b"\x10"), "symbolic link or a folder"),
        "no data.pkl": (zipped(("archive/data/0", SIX)), "without data.pkl"),
        "a TorchScript program": (archive(made, data, **{"constants.pkl": b"."}), "is a TorchScript program"),
        "no entries": (zipped(), "is neither a ZIP"),
        "only its beginning": (good[:100], "was it cut off?"),
        "four bytes": (b"PK\3\4", "was it cut off?"),
        "an empty file": (b"", "empty file"),
        "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        "safetensors": (b"\x08\0\0\0\0\0\0\0{}      ", "neither a ZIP archive nor a pickle"),
        "a page of errors": (b"<!DOCTYPE html>", "fetch it again: is neither a ZIP archive nor a pickle"),
    }


def overlapping() -> bytes:
    """An archive in which an entry lies whole, header and all, in the data of another."""
    inner = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 24, 24, 14, 0) + b"archive/data/1" + SIX
    raw = archive(program(tensor()), {"0": inner})
    end = len(raw) - 22
    directory = struct.unpack("<I", raw[end + 16 : end + 20])[0]
    header = struct.pack(
        "<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 24, 24, 14, 0, 0, 0, 0, 0, raw.index(inner)
    ) + b"archive/data/1"  # fmt: skip
    return (
        raw[:end] + header + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 5, 5, end - directory + len(header), directory, 0)
    )


with warnings.catch_warnings(action="ignore"):  # zipfile about names that are there twice
    ARCHIVES = archives()


@pytest.mark.parametrize("case", ARCHIVES)
def test_a_broken_or_hostile_archive_is_refused(tmp_path, case, hardly_any_memory):
    raw, fragment = ARCHIVES[case]
    assert fragment in refusal(tmp_path, raw)


def test_more_entries_than_any_model_has_are_refused_unread(tmp_path, monkeypatch):
    raw = archive(program(tensor()), {"0": SIX})
    monkeypatch.setattr(stored_zip, "MAX_ENTRIES", 3)
    assert "has 4 entries, at most 3" in refusal(tmp_path, raw)


def test_64_bit_numbers_may_stand_behind_other_extra_fields(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        info = zipfile.ZipInfo("archive/data.pkl")
        info.extra = struct.pack("<2H", 0xCAFE, 3) + b"abc"
        file.writestr(info, program(tensor((0,), (1,), source=storage(0))))
        file.writestr("archive/data/0", b"")
    assert read(tmp_path, buffer.getvalue())["w"].shape == (0,)
    raw = bytearray(buffer.getvalue())
    header = raw.index(b"PK\1\2")
    size = raw[header + 24 : header + 28]
    raw[header + 20 : header + 28] = b"\xff" * 8
    extra = struct.pack("<2H2Q", 1, 16, *[int.from_bytes(size, "little")] * 2)
    place = header + 46 + len("archive/data.pkl") + 7
    raw[place:place] = extra
    raw[header + 30 : header + 32] = struct.pack("<H", 7 + len(extra))
    raw[-10:-6] = struct.pack("<I", int.from_bytes(raw[-10:-6], "little") + len(extra))
    assert read(tmp_path, bytes(raw))["w"].shape == (0,)


def test_the_64_bit_end_must_agree_with_the_other(tmp_path):
    raw = saved(tmp_path, {"a": torch.ones(2)}).read_bytes()
    locator, end = raw.rindex(b"PK\6\7"), raw.rindex(b"PK\6\6")
    assert end + 56 == locator == len(raw) - 42
    for place, content, fragment in (
        (end, b"PX", "64-bit end is not where"),
        (end + 4, b"\x2d", "64-bit end is not where"),
        (locator + 8, b"\0", "64-bit end is not where"),
        (end + 24, b"\1\0\0\0\0\0\0\0", "contradict each other"),
        (end + 32, b"\1\0\0\0\0\0\0\0", "contradict each other"),
        (end + 48, b"\1\0\0\0\0\0\0\0", "contradict each other"),
        (len(raw) - 14, b"\xff\xff\xff\xff" * 2, None),  # numbers that stand in the 64-bit end alone
        (len(raw) - 10, b"\1\0\0\0", "contradict each other"),
    ):
        changed = edited(raw, place, content)
        if fragment:
            assert fragment in refusal(tmp_path, changed)
        else:
            assert read(tmp_path, changed)["a"].tolist() == [1, 1]


def test_files_that_zipfile_made_with_64_bits_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    raw = archive(program(tensor()), {"0": SIX})
    assert b"PK\6\6" in raw and b"\1\0\x10\0" in raw
    assert read(tmp_path, raw)["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_large_archive_has_64_bit_entries(tmp_path):
    """As PyTorch writes it beyond 4 GB; nobody touches the numbers, and in the file they are a hole."""
    path = tmp_path / "large.bin"
    with torch.serialization.skip_data():
        torch.save({"a": torch.empty(2**30 + 16), "b": torch.empty(3)}, path)
    found = load_file(path)
    assert found["a"].shape == (2**30 + 16,) and found["b"].tolist() == [0, 0, 0]


@ZIPPED
def test_a_file_that_is_cut_off_anywhere_or_has_more_is_refused(tmp_path, zipped):
    raw = saved(tmp_path, {"a": torch.arange(6.0), "b": torch.ones(3)}, zipped).read_bytes()
    for length in range(0, len(raw), 1 if TORTURE else 5):
        refusal(tmp_path, raw[:length])
    refusal(tmp_path, raw + b"\0")


@pytest.mark.parametrize("keys", [[], ["1"], ["0", "0"], [0], ["0", "1"], "0", {}])
def test_the_older_format_lists_the_storages_of_its_tensors(tmp_path, keys):
    wanted = legacy(program(tensor()), {"0": (6, SIX)})
    assert list(read(tmp_path, wanted)) == ["w"]
    message = refusal(tmp_path, legacy(program(tensor()), {"0": (6, SIX)}, keys))
    assert "its list of storages" in message or "bytes too many" in message
    for count in (5, 7, -6, 2**62):
        assert "cut off, or has another size" in refusal(tmp_path, legacy(program(tensor()), {"0": (count, SIX)}))
    other = wanted.replace(b"little_endian" + b"q\x02\x88", b"little_endian" + b"q\x02\x89")
    assert other != wanted and "big-endian" in refusal(tmp_path, other)


def test_paths_that_are_no_readable_file_are_refused_and_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, fragment in {"missing": "No such file", ".": "not a regular file", "pipe": "not a regular file"}.items():
        with pytest.raises(TorchPickleError, match=fragment):
            load_file(tmp_path / name)
    assert issubclass(TorchPickleError, UserError)


# --- mutations ---

POOL = [
    b"(", b".", b"0", b"1", b"2", b")", b"]", b"}", b"N", b"R", b"b", b"Q", b"t", b"u", b"e", b"a", b"s",
    b"\x81", b"\x85", b"\x86", b"\x87", b"\x93", b"\x94", b"h\x00", b"h\x05", b"q\x00", b"q\x05", b"j\x01\0\0\0",
    b"K\xff", b"\x88", b"\x89",
    b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"\x8a\x09" + b"\0" * 8 + b"\1",
    b"G\x7f\xf0\0\0\0\0\0\0", b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nLongStorage\n", b"ctorch\nfloat64\n",
    b"ctorch\nSize\n", b"ctorch._utils\n_rebuild_tensor\n", b"ctorch._utils\n_rebuild_parameter\n",
    b"ccollections\nOrderedDict\n", b"ios\nsystem\n", b"o", b"\x82\x01", b"\x8f", b"\x97", b"X\x01\0\0\0a", b"U\x01a",
]  # fmt: skip


def changed_program(rng, made):
    """A pickle with a few of its opcodes changed: left out, doubled, exchanged, replaced."""
    places = [place for _, _, place in pickletools.genops(made)] + [len(made)]
    parts = [made[a:b] for a, b in zip(places, places[1:], strict=False)]
    for _ in range(rng.randint(1, 3)):
        i, j = rng.randrange(len(parts)), rng.randrange(len(parts))
        match rng.randrange(5):
            case 0:
                parts[i : i + 1] = []
            case 1:
                parts.insert(i, parts[j])
            case 2:
                parts[i], parts[j] = parts[j], parts[i]
            case 3:
                parts.insert(i, rng.choice(POOL))
            case 4:
                parts[i] = rng.choice(POOL)
        parts = parts or [b"."]
    return b"".join(parts)


def changed_bytes(rng, raw):
    """Bytes with a few of them changed, cut out, or there once more."""
    raw = bytearray(raw)
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(raw) + 1)
        match rng.randrange(5):
            case 0 | 1:
                raw[place : place + 1] = bytes([rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])])
            case 2:
                del raw[place : place + rng.choice([1, 2, 8, 50])]
            case 3:
                raw[place:place] = raw[place : place + rng.randint(1, 80)]
            case 4:
                raw[place:place] = rng.choice(POOL)
    return bytes(raw)


def mutants(tmp_path, seed):
    """Endless mutations of real files in both formats: of their bytes, and of the programs in files that are whole."""
    rng = random.Random(seed)
    content = {"w": torch.arange(12.0).reshape(3, 4), "n": torch.arange(3), "p": nn.Parameter(torch.ones(2))}
    content |= {"flag": torch.tensor([True]), "none": torch.zeros(0, 2), "h": torch.ones((), dtype=torch.half)}
    content |= {"tied": content["w"], "t": content["w"].T, "u": torch.arange(4).to(torch.uint16), "epoch": 3}
    content = collections.OrderedDict(content)
    content._metadata = {"": {"version": 1}}
    path = saved(tmp_path, content)
    zipped = path.read_bytes()
    del content["u"]  # the reference cannot read it in the older format
    older = saved(tmp_path, content, zipped=False).read_bytes()
    with zipfile.ZipFile(io.BytesIO(zipped)) as file:
        made = file.read("pytorch_model/data.pkl")
        storages = {name.split("/")[-1]: file.read(name) for name in file.namelist() if "/data/" in name}
    stream = io.BytesIO(older)
    places = []
    for _ in range(5):
        collections.deque(pickletools.genops(stream), maxlen=0)
        places.append(stream.tell())
    while True:
        kind = rng.randrange(4)
        if kind == 0:
            yield "zip bytes", changed_bytes(rng, zipped)
        elif kind == 1:
            yield "zip program", archive(changed_program(rng, made), storages)
        elif kind == 2:
            yield "legacy bytes", changed_bytes(rng, older)
        else:
            yield (
                "legacy program",
                older[: places[2]] + changed_program(rng, older[places[2] : places[3]]) + older[places[3] :],
            )


def test_thousands_of_mutations_are_refused_cleanly_or_read_within_the_file(tmp_path, hardly_any_memory):
    """Nothing but TorchPickleError is raised, and every number that is read stands in the file."""
    verdicts = collections.Counter()
    for number, (kind, mutant) in enumerate(mutants(tmp_path, seed=0)):
        if number == (100_000 if TORTURE else 2000):
            break
        path = written(tmp_path, mutant, "mutant")
        try:
            found = load_file(path, say=lambda note: None)
        except TorchPickleError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error), number
            verdicts[kind, "refused"] += 1
            continue
        for tensor in found.values():
            whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            assert not tensor.numel() or whole.numpy().tobytes() in mutant, number
        verdicts[kind, "read"] += 1
    assert len(verdicts) == 8 and min(verdicts.values()) > 5, verdicts  # both outcomes are really exercised
