"""The safetensors format: what is refused, what is read, what is written, and what a broken file can never do."""

import hashlib
import json
import os
import random
import struct

import pytest
import torch

from kd_scratch.checkpoints import safetensors
from kd_scratch.checkpoints.safetensors import (
    CHECKSUM,
    DTYPES,
    SafetensorsError,
    is_intact,
    load_file,
    read_metadata,
    save_file,
)
from kd_scratch.common import files
from kd_scratch.common.errors import UserError
from tests.conftest import TORTURE

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
EIGHT = bytes(range(8))


def file_bytes(header, data=b"", length=None):
    """A file from a header (a dict, JSON text or raw bytes) and its data; `length` overrides the length field."""
    header = json.dumps(header) if isinstance(header, dict) else header
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def with_fields(**fields):
    """A file of one eight-byte F32 tensor "a" with some of its fields replaced."""
    return file_bytes({"a": F32 | fields}, EIGHT)


def two_tensors(first, second):
    """A file with 16 bytes of data and two F32 tensors at these offsets, each shaped to its own length."""
    offsets = {"a": first, "b": second}
    entry = {name: F32 | {"shape": [(o[1] - o[0]) // 4], "data_offsets": o} for name, o in offsets.items()}
    return file_bytes(entry, bytes(16))


def random_values(dtype, shape, seed=0):
    """A tensor of any dtype with arbitrary bits (0 and 1 only for bool)."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * dtype.itemsize
    high = 2 if dtype == torch.bool else 256
    return torch.randint(0, high, (count,), dtype=torch.uint8, generator=generator).view(dtype).reshape(shape)


def bits(tensor):
    """A tensor's bytes, so that NaN equals NaN."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def saved(tmp_path, tensors, metadata=None, name="saved.safetensors"):
    save_file(tensors, tmp_path / name, metadata)
    return tmp_path / name


NOT_WHOLE = ["2.0", "2e0", "-2", "-0", "NaN", "Infinity", "-Infinity", "18446744073709551616", "9" * 100_000]
NOT_DTYPES = [None, 4, ["F32"], {"F32": None}, "f32", "", "F4", "F6_E2M3", "F8_E8M0", "F" * 100_000]
NOT_LISTS_OF_NUMBERS = [2, None, {}, "2", [True], ["2"], [[2]], [None]]
BOOL_2 = file_bytes({"a": {"dtype": "BOOL", "shape": [3], "data_offsets": [0, 3]}}, b"\0\1\2")

MALFORMED = {
    "empty file": (b"", "empty file"),
    "under 8 bytes": (b"\2\0\0\0\0\0\0", "7 bytes long"),
    "no header": (file_bytes(b""), "does not begin with '{'"),
    "header beyond the file": (file_bytes("{}", length=3), "should end at byte 11, the file ends at 10"),
    "header length of 2**64 - 1": (file_bytes("{}", length=2**64 - 1), "the file ends at 10"),
    "not UTF-8": (file_bytes(b'{"\xff": 1}'), "can't decode byte 0xff"),
    "UTF-8 surrogate": (file_bytes(b'{"\xed\xa0\x80": 1}'), "can't decode byte 0xed"),
    "half a surrogate pair in a name": (file_bytes(r'{"\ud800": {}}'), "surrogates not allowed"),
    "half a surrogate pair in metadata": (file_bytes(r'{"__metadata__": {"a": "\udc00"}}'), "surrogates not allowed"),
    "byte-order mark": (file_bytes("\ufeff{}"), "does not begin with '{'"),
    "space first": (file_bytes(" {}"), "does not begin with '{'"),
    "bad JSON": (file_bytes("{'a': 1}"), "Expecting property name"),
    "unfinished JSON": (file_bytes('{"a": '), "Expecting value"),
    "control character": (file_bytes('{"a\n": 1}'), "Invalid control character"),
    "leading zero": (file_bytes('{"a": 02}'), "Expecting ',' delimiter"),
    "trailing text": (file_bytes("{} {}"), "Extra data"),
    "nested lists": (file_bytes('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"), "recursion"),
    "nested objects": (file_bytes('{"a":' * 100_000 + "1" + "}" * 100_000), "recursion"),
    "nested below the parser's limit": (file_bytes('{"a": ' + "[" * 200 + "]" * 200 + "}"), "needs the fields"),
    "name repeated": (file_bytes(f'{{"a": {json.dumps(F32)}, "a": {json.dumps(F32)}}}', EIGHT), "key 'a' is repeated"),
    "name repeated in other letters": (file_bytes(r'{"a": {}, "\u0061": {}}'), "key 'a' is repeated"),
    "field repeated": (file_bytes('{"a": {"dtype": "F32", "dtype": "F32"}}'), "key 'dtype' is repeated"),
    "metadata key repeated": (file_bytes('{"__metadata__": {"a": "", "a": ""}}'), "key 'a' is repeated"),
    "metadata repeated": (file_bytes('{"__metadata__": {}, "__metadata__": {}}'), "key '__metadata__' is repeated"),
    "unknown field": (with_fields(strides=[1]), "and no other"),
    "three offsets": (with_fields(data_offsets=[0, 4, 8]), "data_offsets must be two numbers, not 3"),
    "one offset": (with_fields(data_offsets=[8]), "data_offsets must be two numbers, not 1"),
    "65 dimensions": (with_fields(shape=[2] + [1] * 64), "65 dimensions, at most 64"),
    "product overflows to the size": (with_fields(shape=[2**62 + 1, 8]), "too large for torch"),
    "product overflows to zero": (with_fields(shape=[2**32, 2**32], data_offsets=[0, 0]), "too large for torch"),
    "empty, strides overflow": (with_fields(shape=[0, 2**62, 4], data_offsets=[0, 0]), "too large for torch"),
    "size not the shape's": (with_fields(shape=[3]), "its shape needs 12 bytes, not 8"),
    "reversed range": (with_fields(data_offsets=[8, 0]), "its shape needs 8 bytes, not -8"),
    "reversed empty range": (with_fields(shape=[0], data_offsets=[8, 0]), "its shape needs 0 bytes, not -8"),
    "gap between": (two_tensors([0, 4], [8, 16]), "'b': begins at 8, expected 4: a gap"),
    "empty tensor beyond a gap": (two_tensors([0, 16], [20, 20]), "'b': begins at 20, expected 16: a gap"),
    "overlap": (two_tensors([0, 12], [8, 16]), "'b': begins at 8, expected 12: an overlap"),
    "aliases": (two_tensors([0, 16], [0, 16]), "'b': begins at 0, expected 16: an overlap"),
    "empty tensor inside another": (two_tensors([0, 16], [8, 8]), "'b': begins at 8, expected 16: an overlap"),
    "bytes after the last": (file_bytes({"a": F32}, bytes(9)), "need 8 bytes of data, the file has 9"),
    "bytes without tensors": (file_bytes("{}", b"\0"), "need 0 bytes of data, the file has 1"),
    "truncated data": (file_bytes({"a": F32}, bytes(7)), "need 8 bytes of data, the file has 7"),
    "offsets far beyond": (with_fields(shape=[2**60], data_offsets=[0, 2**62]), "bytes of data, the file has 8"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "with: git lfs pull"),
    "BOOL byte 2": (BOOL_2, "tensor 'a': a BOOL byte is neither 0 nor 1"),
    **{f"number {n:.20}": (file_bytes(f'{{"a": [{n}]}}'), f": {n:.24} is not a whole number") for n in NOT_WHOLE},
    **{f"dtype {v!r:.20}": (with_fields(dtype=v), f"dtype {v!r:.40} is not supported; convert") for v in NOT_DTYPES},
    **{f"shape {v}": (with_fields(shape=v), "shape must be a list of whole numbers") for v in NOT_LISTS_OF_NUMBERS},
    **{f"offsets {v}": (with_fields(data_offsets=v), "data_offsets must be a list") for v in NOT_LISTS_OF_NUMBERS},
    **{f"{k} missing": (file_bytes({"a": {f: F32[f] for f in F32 if f != k}}, EIGHT), "needs the fields") for k in F32},
    **{f"entry {v}": (file_bytes({"a": v}), "needs the fields") for v in (None, 1, "F32", ["F32", [2], [0, 8]])},
    **{
        f"metadata {v}": (file_bytes({"__metadata__": v}), "__metadata__ must map strings to strings")
        for v in (None, [], "", {"a": 1}, {"a": None}, {"a": {}})
    },
}


@pytest.mark.parametrize("raw, fragment", MALFORMED.values(), ids=MALFORMED)
def test_malformed_file_is_refused_in_one_short_line_that_names_it(tmp_path, raw, fragment):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(raw)
    with pytest.raises(SafetensorsError) as caught:
        load_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and fragment in message
    assert "\n" not in message and len(message) < len(str(path)) + 500
    if raw != BOOL_2:  # metadata needs no look at the data
        with pytest.raises(SafetensorsError):
            read_metadata(path)


@pytest.mark.parametrize("length, fragment", [(100_000_001, "at most 100000000"), (100_000_000, "does not begin with")])
def test_header_beyond_the_cap_is_refused_unread(tmp_path, length, fragment):
    path = tmp_path / "long.safetensors"
    path.write_bytes(struct.pack("<Q", length))
    os.truncate(path, 8 + length)  # a hole, not 100 MB on the disk
    with pytest.raises(SafetensorsError, match=fragment):
        load_file(path)


def test_paths_that_are_no_readable_file_are_refused_and_a_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").write_bytes(file_bytes("{}"))
    for name, fragment in {
        "missing": "No such file",
        ".": "not a regular file",
        "pipe": "not a regular file",
        "loop": "cannot be read",
        "file/inside": "cannot be read",
        "n" * 1000: "cannot be read",
        "nul\0": "null byte",
    }.items():
        for read in load_file, read_metadata:
            with pytest.raises(SafetensorsError, match=fragment) as caught:
                read(tmp_path / name)
            assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert issubclass(SafetensorsError, UserError)


def test_valid_oddities_are_read(tmp_path):
    empty, nothing = {"dtype": "F32", "shape": [0, 3], "data_offsets": [0, 0]}, torch.zeros(0, 3)
    one = {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}
    byte, unaligned = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}, {"dtype": "F64", "shape": [2]}
    two_doubles = torch.tensor([0.5, -2], dtype=torch.float64)
    cases = {
        "no tensors": ("{}", b"", {}),
        "padded with all that JSON calls space": ("{} \t\n\r", b"", {}),
        "metadata only": ({"__metadata__": {}}, b"", {}),
        "empty tensors share a place": ({"b": empty, "a": empty}, b"", {"a": nothing, "b": nothing}),
        "empty but wide": ({"a": empty | {"shape": [2**60, 0]}}, b"", {"a": torch.zeros(2**60, 0)}),
        "empty tensor last": ({"b": empty | {"data_offsets": [8, 8]}, "a": F32}, bytes(8),
                              {"a": torch.zeros(2), "b": nothing}),
        "scalar": ({"a": one}, struct.pack("<f", 7), {"a": torch.tensor(7.0)}),
        "64 dimensions": ({"a": one | {"shape": [1] * 64}}, bytes(4), {"a": torch.zeros([1] * 64)}),
        "any order of keys and fields": (
            {"b": {"shape": [1], "data_offsets": [4, 8], "dtype": "F32"}, "__metadata__": {"x": "y"}, "a": one},
            struct.pack("<2f", 1, 2), {"a": torch.tensor(1.0), "b": torch.tensor([2.0])},
        ),
        "odd names": ({"": one, "ü\0\U0001f600": empty}, bytes(4), {"": torch.tensor(0.0), "ü\0\U0001f600": nothing}),
        "unaligned": ({"a": byte, "b": unaligned | {"data_offsets": [1, 17]}}, b"\1" + struct.pack("<2d", 0.5, -2),
                      {"a": torch.tensor([1], dtype=torch.uint8), "b": two_doubles}),
    }  # fmt: skip
    for name, (header, data, expected) in cases.items():
        header = header if isinstance(header, str) else json.dumps(header)
        for padding in range(8):  # every alignment of the data
            path = tmp_path / f"{name} {padding}"
            path.write_bytes(file_bytes(header + " " * padding, data))
            found = load_file(path)
            assert found.keys() == expected.keys(), name
            for key in expected:
                torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0, msg=f"{name}: {key}")
                assert found[key].data_ptr() % found[key].dtype.itemsize == 0, name


def test_tensors_come_in_file_order_and_aligned(tmp_path):
    tensors = {"b": torch.zeros(1), "a": torch.zeros(1), "é": torch.zeros(3, dtype=torch.bool),
               "z": torch.zeros(1, dtype=torch.int64), "h": torch.zeros(1, dtype=torch.float16)}  # fmt: skip
    found = load_file(saved(tmp_path, tensors))
    assert list(found) == ["z", "a", "b", "h", "é"]
    assert all(tensor.data_ptr() % tensor.dtype.itemsize == 0 for tensor in found.values())


@pytest.mark.parametrize("code", DTYPES)
@pytest.mark.parametrize("shape", [[], [0], [5], [2, 0, 3], [2, 3, 4]], ids=str)
def test_every_dtype_survives_a_round_trip_bit_for_bit(tmp_path, code, shape):
    tensor = random_values(DTYPES[code], shape, seed=len(shape))
    found = load_file(saved(tmp_path, {"x": tensor}))["x"]
    assert found.dtype == tensor.dtype and list(found.shape) == shape and bits(found) == bits(tensor)


def test_file_holds_exactly_these_bytes(tmp_path):
    tensors = {"b": torch.tensor([1, 2], dtype=torch.uint8), "a": torch.tensor(1, dtype=torch.int16)}
    header = (
        b'{"__metadata__":{"k":"v"},"a":{"dtype":"I16","shape":[],"data_offsets":[0,2]},'
        b'"b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}}'
    )
    header += b" " * (-len(header) % 8)
    raw = saved(tmp_path, tensors, {"k": "v"}).read_bytes()
    assert raw == struct.pack("<Q", len(header)) + header + b"\1\0\1\2"


def test_bytes_depend_on_names_values_and_metadata_only(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    plain = {"b": base.clone(), "a": base.T.clone(), "c": torch.tensor([2.0]).expand(3).clone()}
    other = {"c": torch.tensor([2.0]).expand(3), "a": base.T, "b": torch.nn.Parameter(base)}  # views, shared, expanded
    first = saved(tmp_path, plain, {"x": "1", "y": "ü"}, "first").read_bytes()
    second = saved(tmp_path, other, {"y": "ü", "x": "1"}, "second").read_bytes()
    assert first == second
    assert saved(tmp_path, plain, {"x": "2", "y": "ü"}, "third").read_bytes() != first


def test_views_are_written_as_the_values_they_show(tmp_path):
    complex_numbers = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    tensors = {
        "strided": torch.arange(10)[1::3],
        "transposed": torch.arange(6).reshape(2, 3).T,
        "one element of a strided view": torch.arange(4.0)[::4],
        "conjugate": complex_numbers.conj(),
        "negative": complex_numbers.conj().imag,
        "gradient": torch.ones(2, requires_grad=True) * 2,
    }
    found = load_file(saved(tmp_path, tensors))
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name


def test_metadata_survives_and_is_empty_where_there_is_none(tmp_path):
    metadata = {"format": "pt", "": "", "ü": 'quote " back \\ line\nNUL \0 \U0001f600'}
    assert read_metadata(saved(tmp_path, {"a": torch.zeros(1)}, metadata)) == metadata
    assert read_metadata(saved(tmp_path, {"a": torch.zeros(1)})) == {}


def test_what_the_format_cannot_hold_is_refused_and_nothing_written(tmp_path):
    one = torch.zeros(1)
    for tensors, metadata, fragment in [
        ({"__metadata__": one}, None, "'__metadata__' cannot name a tensor"),
        ({1: one}, None, "1 cannot name a tensor"),
        ({"a": [1.0]}, None, "'a' is not a dense tensor"),
        ({"a": torch.eye(2).to_sparse()}, None, "'a' is not a dense tensor"),
        ({"a": torch.zeros(1, device="meta")}, None, "'a' is not a dense tensor"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, None, "tensor 'a': torch.complex128 is not supported"),
        ({"a": torch.zeros([1] * 65)}, None, "65 dimensions"),
        ({"\ud800": one}, None, "surrogates not allowed"),
        ({"a": one}, {"a": 1}, "metadata must map strings to strings"),
        ({"a": one}, {1: "a"}, "metadata must map strings to strings"),
        ({"a": one}, {"a": None}, "metadata must map strings to strings"),
        ({"a": one}, {"a": "\ud800"}, "surrogates not allowed"),
    ]:
        with pytest.raises(SafetensorsError) as caught:
            save_file(tensors, tmp_path / "x.safetensors", metadata)
        assert str(caught.value).startswith(f"{tmp_path / 'x.safetensors'}: ") and fragment in str(caught.value)
        assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_failing_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = saved(tmp_path, {"a": torch.ones(2)})
    before = path.read_bytes()

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full_disk)
        with pytest.raises(UserError, match="No space left"):
            save_file({"a": torch.zeros(2)}, path)
    monkeypatch.setattr(safetensors, "row_major_bytes", lambda tensor: 1 / 0)  # fails when the header is written
    with pytest.raises(ZeroDivisionError):
        save_file({"a": torch.zeros(2)}, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(UserError, match="cannot be written"):
        save_file({}, tmp_path / "no such folder" / "x")


def test_tensors_are_written_one_at_a_time(tmp_path, monkeypatch):
    made = []
    row_major_bytes = safetensors.row_major_bytes
    monkeypatch.setattr(safetensors, "row_major_bytes", lambda tensor: made.append(tensor) or row_major_bytes(tensor))
    made_when_chunk_arrived = []
    monkeypatch.setattr(
        safetensors,
        "write_atomically",
        lambda path, chunks, keep, outdated: made_when_chunk_arrived.extend(len(made) for _ in chunks),
    )
    save_file({name: torch.zeros(4) for name in "abc"}, tmp_path / "x")
    assert made_when_chunk_arrived == [0, 0, 1, 2, 3]  # length, header, then each tensor as the file asks for it


def test_loaded_tensors_are_views_of_one_mapping_and_writing_to_them_stays_private(tmp_path):
    path = saved(tmp_path, {"a": torch.zeros(1000), "b": torch.ones(1000)})
    before = path.read_bytes()
    found = load_file(path)
    assert found["b"].data_ptr() - found["a"].data_ptr() == 4000
    found["a"].fill_(7)
    assert path.read_bytes() == before
    assert load_file(path)["a"].sum() == 0 and found["b"].sum() == 1000
    survivor = found.pop("b")
    del found
    assert survivor.sum() == 1000  # the mapping lives as long as its last tensor


def test_saving_over_the_file_that_the_tensors_come_from_is_safe(tmp_path):
    path = saved(tmp_path, {"a": torch.arange(5000), "b": torch.arange(3)})
    found = load_file(path)
    save_file({"b": found["a"], "a": found["b"]}, path)
    assert torch.equal(found["a"], torch.arange(5000))
    again = load_file(path)
    assert torch.equal(again["b"], torch.arange(5000)) and torch.equal(again["a"], torch.arange(3))


def mutation(rng, raw):
    """`raw` with a few random edits; mostly the length field is repaired, so that the fault lies deeper."""
    header_bytes = struct.unpack("<Q", raw[:8])[0]
    header, data = bytearray(raw[8 : 8 + header_bytes]), bytearray(raw[8 + header_bytes :])
    for _ in range(rng.randint(1, 3)):
        part = header if rng.random() < 0.8 else data
        place = rng.randrange(len(part) + 1)
        edit = rng.choice(["change", "cut", "insert", "repeat", "digit"])
        if edit == "change":
            part[place : place + 1] = bytes([rng.randrange(256)])
        elif edit == "cut":
            del part[place : place + rng.choice([1, 2, 8, 50])]
        elif edit == "insert":
            part[place:place] = rng.choice([b"0", b"-", b"[", b"}", b",", b'"', b"9" * 30, b"1e5", b"true", b"\xff"])
        elif edit == "repeat":
            part[place:place] = part[place : place + rng.randint(1, 80)]
        elif digits := [i for i, byte in enumerate(part) if chr(byte).isdecimal()]:  # still JSON, but its numbers lie
            part[rng.choice(digits)] = ord(rng.choice("0123456789"))
    length = len(header) if rng.random() < 0.9 else rng.choice([0, 1, len(header) + 1, 2**63, rng.getrandbits(64)])
    whole = struct.pack("<Q", length) + header + data
    return whole if rng.random() < 0.95 else whole[: rng.randrange(len(whole))]


def test_thousands_of_mutations_are_refused_cleanly_or_read_within_the_file(tmp_path, hardly_any_memory):
    """Nothing but SafetensorsError is raised, and what is read are the file's own bytes."""
    tensors = {"w": random_values(torch.float32, [3, 4]), "n": random_values(torch.int64, [2]),
               "flag": random_values(torch.bool, [5]), "none": torch.zeros(0, 2), "half": torch.zeros(())}  # fmt: skip
    raw = saved(tmp_path, tensors, {"format": "pt"}).read_bytes()
    rng = random.Random(0)
    path = tmp_path / "mutant"
    verdicts = {"read": 0, "refused": 0}
    for number in range(100_000 if TORTURE else 3000):
        mutant = mutation(rng, raw)
        path.unlink(missing_ok=True)  # not overwritten: the tensors of the last mutant still map it
        path.write_bytes(mutant)
        try:
            found = load_file(path)
        except SafetensorsError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error), number
            verdicts["refused"] += 1
            continue
        data = mutant[8 + struct.unpack("<Q", mutant[:8])[0] :]
        assert b"".join(bits(tensor) for tensor in found.values()) == data, number
        verdicts["read"] += 1
    assert min(verdicts.values()) > 100, verdicts  # both outcomes are really exercised


def test_a_checksum_covers_every_byte_and_is_the_last_tensor(tmp_path):
    path = tmp_path / "x"
    tensors = {"a": torch.arange(6.0), "flag": torch.tensor([True, False]), "z": torch.zeros(3, dtype=torch.uint8)}
    save_file(tensors, path, {"k": "v"}, checksum=True)
    raw = path.read_bytes()
    assert raw[-32:] == hashlib.sha256(raw[:-32]).digest() and is_intact(path)
    found = load_file(path)
    assert list(found)[-1] == CHECKSUM and bits(found.pop(CHECKSUM)) == raw[-32:]
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :])
        assert not is_intact(path), place
    for content in (b"", raw[:-1], raw[1:], raw[:31], raw + b"\0", bytes(64)):
        path.write_bytes(content)
        assert not is_intact(path)


def test_a_file_without_checksum_is_not_intact_and_an_empty_one_with_it_is(tmp_path):
    assert not is_intact(saved(tmp_path, {"a": torch.zeros(40)}))
    save_file({}, tmp_path / "none", checksum=True)
    assert is_intact(tmp_path / "none") and list(load_file(tmp_path / "none")) == [CHECKSUM]


def test_the_old_file_is_kept_under_another_name_if_asked_for(tmp_path):
    path, old = tmp_path / "x", tmp_path / "old"
    for number in range(3):
        save_file({"a": torch.tensor(number)}, path, keep=old)
        assert load_file(path)["a"] == number and old.exists() == (number > 0)
    assert load_file(old)["a"] == 1 and len(os.listdir(tmp_path)) == 2
