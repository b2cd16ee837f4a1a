"""Our safetensors reader and writer against the reference package: the same bytes, the same bits, the same verdicts."""

import random
import re
import struct

import pytest
import torch

from kd_scratch.checkpoints.safetensors import DTYPES, SafetensorsError, load_file, read_metadata, save_file

reference = pytest.importorskip("safetensors.torch")
safe_open = pytest.importorskip("safetensors").safe_open


def header(dtype='"U8"', shape="[1]", offsets="[0,1]", more=""):
    """The JSON text of a header with one tensor, by default a single byte; `more` follows its three fields."""
    return f'{{"a":{{"dtype":{dtype},"shape":{shape},"data_offsets":{offsets}{more}}}}}'


# Where we are stricter on purpose; nowhere are we laxer.
# What our message says, why we refuse, a header that the reference reads and we do not, its data.
DEVIATIONS = [
    ("does not begin with '{'", "a rule of the format that the reference does not enforce", " {}", b""),
    ("is repeated", "the reference takes the last, another reader the first: one file, two models",
     header(more='},"a":{"dtype":"I8","shape":[1],"data_offsets":[0,1]'), b"\1"),
    ("needs the fields", "what readers skip, nobody checks", header(more=',"strides":[7]'), b"\1"),
    ("needs the fields", "its JSON library reads a list as an object without names", '{"a":["U8",[1],[0,1]]}', b"\1"),
    ("is not a whole number", "no other number has a place; it skips them in fields it skips",
     header(more=',"x":-1.5'), b"\1"),
    ("dtype {'", "its JSON library reads an object as an enum", header('{"U8":null}'), b"\1"),
    ("__metadata__ must map strings to strings", "null is not a map", '{"__metadata__":null}', b""),
    ("dtype 'F8_E8M0' is not supported", "no model here has it", header('"F8_E8M0"'), b"\1"),
    ("dtype 'F8_E4M3FNUZ' is not supported", "no model here has it", header('"F8_E4M3FNUZ"'), b"\1"),
    ("dtype 'F8_E5M2FNUZ' is not supported", "no model here has it", header('"F8_E5M2FNUZ"'), b"\1"),
    ("dtype 'F4' is not supported", "its shape counts what torch cannot address", header('"F4"', "[2]"), b"\1"),
    ("at most 64 are allowed", "torch cannot compute with more dimensions", header(shape=[1] * 65), b"\1"),
    ("too large for torch", "strides of an empty tensor overflow", header('"F32"', f"[0,{2**61}]", "[0,0]"), b""),
    ("a BOOL byte is neither 0 nor 1", "torch counts it as true, yet not equal to true", header('"BOOL"'), b"\2"),
]  # fmt: skip


def random_values(dtype, shape, generator):
    """A tensor of any dtype with arbitrary bits (0 and 1 only for bool)."""
    count = torch.Size(shape).numel() * dtype.itemsize
    high = 2 if dtype == torch.bool else 256
    return torch.randint(0, high, (count,), dtype=torch.uint8, generator=generator).view(dtype).reshape(shape)


def described(tensors):
    """Names, dtypes, shapes and bits, comparable with ==; NaN equals NaN."""
    return {
        name: (tensor.dtype, tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


@pytest.fixture
def tensors():
    """Every dtype in five shapes, named so that order by name, by dtype and by insertion all differ."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(), (0,), (7,), (2, 0, 3), (3, 5)]
    return {
        f"é{place}.{code}": random_values(dtype, shape, generator)
        for code, dtype in sorted(DTYPES.items())
        for place, shape in enumerate(shapes)
    }


def test_our_files_are_read_by_the_reference_bit_for_bit(tmp_path, tensors):
    metadata = {"format": "pt", "ü": 'quote " newline \n NUL \0'}
    save_file(tensors, tmp_path / "ours", metadata)
    assert described(reference.load_file(tmp_path / "ours")) == described(tensors)
    with safe_open(tmp_path / "ours", framework="pt") as file:
        assert file.metadata() == metadata


def test_files_of_the_reference_are_read_by_us_bit_for_bit(tmp_path, tensors):
    metadata = {"format": "pt", "ü": 'quote " newline \n NUL \0'}
    reference.save_file(tensors, tmp_path / "theirs", metadata)
    assert described(load_file(tmp_path / "theirs")) == described(tensors)
    assert read_metadata(tmp_path / "theirs") == metadata


@pytest.mark.parametrize("metadata", [None, {}, {"quote \"": "\\ \b\f\n\r\t\0\x1f\x7f é \U0001f600"}])  # fmt: skip
def test_both_write_the_same_file(tmp_path, tensors, metadata):
    save_file(tensors, tmp_path / "ours", metadata)
    reference.save_file(tensors, tmp_path / "theirs", metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def write(path, text, data):
    """A file with this header text, put in place of the last one, which its tensors may still map."""
    raw = text.encode()
    path.unlink(missing_ok=True)
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)


@pytest.mark.parametrize("fragment, reason, text, data", DEVIATIONS)
def test_every_deviation_is_real(tmp_path, fragment, reason, text, data):
    write(tmp_path / "x", text, data)
    reference.load_file(tmp_path / "x")
    with pytest.raises(SafetensorsError, match=re.escape(fragment)):
        load_file(tmp_path / "x")


VALID = (
    '{"__metadata__":{"format":"pt","k":""},"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
    '"b":{"dtype":"BF16","shape":[4],"data_offsets":[16,24]},"n":{"dtype":"I64","shape":[0,2],"data_offsets":[24,24]},'
    '"s":{"dtype":"BOOL","shape":[],"data_offsets":[24,25]},"x":{"dtype":"U8","shape":[7],"data_offsets":[25,32]}}'
)
DATA = bytes(range(24)) + b"\1" + bytes(range(7))
TOKEN = re.compile(r'"[^"]*"|\d+|[\[\]{},:]')
EMPTY = '"shape":[0],"data_offsets":[16,16]}'
REPLACEMENTS = {
    r"\d+": [*"0 1 2 4 8 16 24 25 32 -1 -0 00 1.0 1e0 true null NaN [] [1] 1,1 1,0 0,1 4294967296".split(),
             "9223372036854775808", "18446744073709551615", "18446744073709551616", '"1"', "1, 1"],
    r'"(F32|BF16|I64|BOOL|U8)"': [f'"{code}"' for code in [*DTYPES, "F4", "F6_E2M3", "F8_E8M0", "f32"]],
    r'".*"': [r'"\u0077"', r'"\ud800"', r'"\ud83d\ude00"', r'"\x41"', '"\t"', '"\0"', '"\x7f"', '"é"', '""', "null",
              "{}", '"w"', '"b"', '"dtype"', '"shape"', '"data_offsets"', '"__metadata__"', '"y":"y","format"'],
    r"\{": ['{"y":"y",', '{"y":1,', '{"y":[{}],', '{"dtype":"U8",', f'{{"y":{{"dtype":"I8",{EMPTY},',
            f'{{"w":{{"dtype":"I8",{EMPTY},', f'{{"z":{{"dtype":"F4",{EMPTY},', '{"__metadata__":null,', "[", "{{", ""],
}  # fmt: skip
PLUGS = ["", " ", "\n", "\t\r", "\0", "\u00a0", "\ufeff", ",", "]", "}", "[", "{", "0", '"', '"z":{},']


def mutation(rng):
    """VALID with a few tokens replaced, removed, doubled, exchanged, or with something plugged between them."""
    tokens = TOKEN.findall(VALID)
    for _ in range(rng.choice([1, 1, 2, 3])):
        place, other = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        edit = rng.choice(["replace"] * 6 + ["cut", "repeat", "exchange", "plug"])
        if edit == "replace":
            pattern, choices = rng.choice(list(REPLACEMENTS.items()))
            matching = [i for i, token in enumerate(tokens) if re.fullmatch(pattern, token)]
            tokens[rng.choice(matching or [place])] = rng.choice(choices)
        elif edit == "cut":
            del tokens[place : place + rng.choice([1, 2, 4])]
        elif edit == "repeat":
            tokens[place:place] = tokens[place : place + rng.choice([1, 2, 4, 20])]
        elif edit == "exchange":
            tokens[place], tokens[other] = tokens[other], tokens[place]
        else:
            tokens.insert(rng.choice([place, 0, len(tokens)]), rng.choice(PLUGS))
    return "".join(tokens)


def test_ten_thousand_mutated_headers_get_the_same_verdict_and_the_same_bits(tmp_path):
    rng = random.Random(0)
    counts = {"both read": 0, "both refuse": 0, "deviation": 0}
    for _ in range(10_000):
        text, data = mutation(rng), rng.choice([DATA] * 18 + [DATA[:-1], DATA + b"\0"])
        write(tmp_path / "x", text, data)
        try:
            theirs = described(reference.load_file(tmp_path / "x"))
        except Exception:  # its refusals have many types: its own, KeyError, TypeError, RuntimeError from torch
            theirs = None
        try:
            ours = described(load_file(tmp_path / "x"))
        except SafetensorsError as error:
            refusal = str(error)
            if theirs is None:
                counts["both refuse"] += 1
            else:
                assert any(fragment in refusal for fragment, *_ in DEVIATIONS), (text, refusal)
                counts["deviation"] += 1
        else:
            assert ours == theirs, text
            counts["both read"] += 1
    assert min(counts.values()) >= 50, counts  # all three are really exercised
