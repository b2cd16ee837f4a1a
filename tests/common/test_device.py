"""common/device.py: devices, seeds, precision, and how much memory PyTorch keeps for itself."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from kd_scratch.common import device
from kd_scratch.common.device import amp_dtype, autocast, describe, pick_device, seed_everything, start
from kd_scratch.common.errors import UserError
from kd_scratch.config import RunConfig
from tests.conftest import HAS_BF16, ROOT

CPU = torch.device("cpu")


def test_a_seed_fixes_all_three_generators():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    seed_everything(3)
    first = draw()
    seed_everything(3)
    assert draw() == first
    seed_everything(4)
    assert all(a != b for a, b in zip(draw(), first, strict=True))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux alone reports memory there")
def test_bfloat16_products_of_many_shapes_do_not_fill_the_memory():
    """oneDNN and PyTorch keep what they compile for a shape; by default 200 more took 130 MB here."""
    code = """
import re
import kd_scratch
import torch
def megabytes():
    return int(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
weight = torch.randn(64, 64, dtype=torch.bfloat16)
def many(first, last):
    for rows in range(first, last):
        torch.nn.functional.linear(torch.zeros(rows, 64, dtype=torch.bfloat16), weight)
    return megabytes()
before = many(1, 101)
print(many(101, 301) - before)
"""
    plain = {name: value for name, value in os.environ.items() if not name.endswith("CACHE_CAPACITY")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=plain, capture_output=True, text=True, timeout=120
    )
    assert float(done.stdout) < 50, done.stderr


def test_auto_takes_the_best_device_there_is(monkeypatch):
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda cuda=cuda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda mps=mps: mps)
        assert pick_device("auto").type == expected
        assert pick_device("cpu").type == "cpu"


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device cuda: PyTorch finds no such device"):
        pick_device("cuda")


def test_start_sets_the_thread_count():
    before = torch.get_num_threads()
    try:
        assert start(**vars(RunConfig(device="cpu", threads=2))) == CPU
        assert torch.get_num_threads() == 2 == describe(CPU)["threads"]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("field", ["seed", "threads"])
def test_negative_seeds_and_threads_are_refused(field):
    with pytest.raises(UserError, match="must be 0 or more"):
        start(**vars(RunConfig(**{field: -1})))


@pytest.mark.parametrize(
    ("kind", "dtype", "expected"),
    [("cuda", torch.bfloat16, "high"), ("cuda", None, "highest"), ("cpu", torch.bfloat16, "highest")],
)
def test_losses_get_tf32_where_a_gpu_trains_in_mixed_precision_and_nothing_else_does(kind, dtype, expected):
    assert torch.get_float32_matmul_precision() == "highest"
    with pytest.raises(KeyError), device.tensor_cores(torch.device(kind), dtype):
        assert torch.get_float32_matmul_precision() == expected
        raise KeyError
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("instructions", [("_is_avx512_bf16_supported",), ("_is_amx_tile_supported",), ()])
def test_auto_is_bf16_only_where_the_processor_has_instructions_for_it(monkeypatch, instructions):
    assert all(hasattr(torch.cpu, name) for name in HAS_BF16)  # else PyTorch calls them otherwise by now
    for name in HAS_BF16:
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in instructions)
    monkeypatch.setattr(device, "HAS_BF16", HAS_BF16)
    expected = torch.bfloat16 if instructions else None
    assert amp_dtype("auto", CPU) == expected and amp_dtype("auto", torch.device("mps")) is None
    monkeypatch.setattr(device, "HAS_BF16", ("_a_name_of_another_version",))
    assert amp_dtype("auto", CPU) is None


@pytest.mark.parametrize(
    ("has", "expected"),
    [((), "AVX2"), (("VNNI",), "AVX2 VNNI"), (("VNNI", "bf16", "AMX"), "AVX2 VNNI bf16 AMX")],
)
def test_the_record_of_a_machine_names_its_instructions(monkeypatch, has, expected):
    """Makers sell processors with and without them under one name, and most figures depend on them."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    for name, ask in device.INSTRUCTIONS.items():
        assert hasattr(torch.cpu, ask)  # else PyTorch calls it otherwise by now
        monkeypatch.setattr(torch.cpu, ask, lambda name=name: name in has)
    assert device.describe(CPU)["instructions"] == expected


def test_precision_follows_the_choice_and_the_device():
    assert amp_dtype("auto", CPU) is None
    assert amp_dtype("off", CPU) is None
    assert amp_dtype("bf16", CPU) == torch.bfloat16
    with pytest.raises(UserError, match="needs a CUDA device"):
        amp_dtype("fp16", CPU)
    x = torch.ones(2, 2)
    for dtype, expected in ((None, torch.float32), (torch.bfloat16, torch.bfloat16)):
        with autocast(CPU, dtype):
            assert (x @ x).dtype == expected
