"""The benchmark command: its counting of operations against torch's own, its floor, its table, and bad input."""

import json
import shutil

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import WEIGHTS, load_model, megabytes, save_model
from kd_scratch.checkpoints.safetensors import load_file, save_file
from kd_scratch.commands.flags import shape_list
from kd_scratch.config import KernelConfig
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.evaluation.benchmark import MachineRates, bytes_in_memory, floor, machine_rates
from kd_scratch.evaluation.evaluate import load_for_inference
from kd_scratch.nn import kernels
from kd_scratch.nn.int8 import quantize, to_tensors
from kd_scratch.nn.model import forward_operations
from tests.conftest import tiny_model


@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("shape", [(1, 8), (3, 24)])
def test_operations_are_those_that_torch_counts_but_for_the_head(head, shape):
    model = tiny_model(head, labels=("x",), width=64, feed_forward=96, heads=2)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(torch.ones(shape, dtype=torch.int64))
    heads = sum(counter.get_flop_counts().get("Model.head", {}).values())
    assert forward_operations(model.config, np.full(*shape)) == counter.get_total_flops() - heads


def test_the_floor_is_the_slower_of_computing_and_reading_and_for_int8_reading_alone():
    model = tiny_model("token", vocab_size=100)  # 16 wide
    work = forward_operations(model.config, np.full(2, 10))
    assert floor(model, 6400 + 5000, (2, 10), MachineRates(work, 1e12)) == pytest.approx(1000)
    assert floor(model, 6400 + 5000, (2, 10), MachineRates(1e18, 5000)) == pytest.approx(
        1000
    )  # the table of tokens is not read
    small = quantize(model)
    table = sum(t.nbytes for name, t in to_tensors(small).items() if name.startswith("embeddings.word."))
    assert table == 100 * (8 + 2 * 2)  # 16 numbers of 4 bits, a scale and a lowest number in float16
    assert floor(small, table + 5000, (2, 10), MachineRates(1, 5000)) == pytest.approx(1000)


def test_a_model_that_is_stored_in_half_precision_is_read_in_float32(model_directory, tmp_path):
    shutil.copytree(model_directory, tmp_path / "half")
    path = tmp_path / "half" / WEIGHTS
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    whole, half = (bytes_in_memory(load_for_inference(each)) for each in (model_directory, tmp_path / "half"))
    assert half == whole > 1e6 * megabytes(tmp_path / "half")


@pytest.mark.parametrize("kernel", ["FBGEMM half", "oneDNN bf16"])
def test_weights_in_half_precision_take_half_the_bytes_and_bf16_has_a_floor_of_reading_alone(
    kernel, model_directory, monkeypatch
):
    build = kernels.FLOAT_KERNELS[kernel].build
    if not dict(kernels.forms({kernel: kernels.FLOAT_KERNELS[kernel]}, torch.nn.Linear(16, 16), None)):
        pytest.skip("this processor has no such kernel")
    plain = load_for_inference(model_directory, fast=False)
    matrices = sum(part.weight.numel() for part in plain.model.encoder.modules() if isinstance(part, torch.nn.Linear))
    kernels.use(KernelConfig(kernels="bf16"))
    monkeypatch.setattr(kernels, "FLOAT_KERNELS", {kernel: kernels.Kernel(build, kernels.ALL, None)})
    half = load_for_inference(model_directory)
    assert 2 * matrices <= bytes_in_memory(plain) - bytes_in_memory(half) < 4 * matrices
    slow = MachineRates(1, 1e30)  # at computing
    assert (floor(half.model, bytes_in_memory(half), (1, 8), slow) < 1) == (kernel == "oneDNN bf16")


def test_this_machine_computes_and_reads():
    products, reading = machine_rates()
    assert 1e8 < products < 1e14 and 1e8 < reading < 1e13


def test_the_command_times_float_and_int8_side_by_side(model_directory, tmp_path, capsys, monkeypatch):
    save_model(quantize(load_model(model_directory)), tmp_path / "int8")
    load_tokenizer(model_directory).save(tmp_path / "int8", 32)
    models = [f"float={model_directory}", f"int8={tmp_path / 'int8'}"]
    argv = ["benchmark", "--models", *models, "--shapes", "1x8,2x16", "--threads", "1", "--output", str(tmp_path / "b")]
    monkeypatch.setattr(kernels, "SMALL", 0)  # weights of a layer that is timed
    monkeypatch.setattr(kernels, "_found", {})
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "times float" in out and "sgemm" in out and "int8: " in out and "computed by" in out
    result = json.loads((tmp_path / "b").read_text())
    for way in result["kernels"]:
        assert way["kernel"] in way["microseconds"] and way["layer"] in out
    assert len(result["kernels"]) > 6 and "by hand int8" in result["kernels"][-1]["microseconds"]
    assert {way["kernel"] for way in result["kernels"]} == set(result["machine"]["kernels"].split(", "))
    assert [(row["shape"], row["model"]) for row in result["rows"]] == [
        ("1 x 8", "float"), ("1 x 8", "int8"), ("2 x 16", "float"), ("2 x 16", "int8"),
    ]  # fmt: skip
    for row in result["rows"]:
        assert 0 < row["median_ms"] <= row["p95_ms"] and row["floor_ms"] > 0
        assert row["share_of_floor"] == row["floor_ms"] / row["median_ms"]
        assert row["model"] == "int8" or row["times_faster"] == 1.0


def test_bad_input_is_one_line_and_exit_2(model_directory, tmp_path, capsys):
    models = ["--models", f"a={model_directory}"]
    for argv, message in (
        ([*models, "--shapes", "1x41"], "a: has 40 positions; leave longer inputs out of --shapes"),
        ([*models, f"a={model_directory}", "--shapes", "1x8"], "a name is used twice"),
        (["--models", f"a={tmp_path / 'none'}", "--shapes", "1x8"], "no such model directory"),
        ([*models, "--shapes", "1x8", "--output", f"{model_directory}/config.json"], "would overwrite"),
    ):
        assert main(["benchmark", *argv]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    for shapes in ("1", "0x8", "1x8x2", "axb", "", "1x-3"):
        with pytest.raises(SystemExit) as stop:
            main(["benchmark", *models, "--shapes", shapes])
        assert stop.value.code == 2


def test_of_the_usual_shapes_those_are_timed_that_all_models_can_read(tmp_path, tokenizer, capsys, monkeypatch):
    for name, positions in (("mini", 128), ("tiny", 64), ("none", 8)):
        save_model(tiny_model(vocab_size=tokenizer.vocab_size, max_positions=positions), tmp_path / name)
        tokenizer.save(tmp_path / name, positions)
    monkeypatch.setattr("kd_scratch.commands.benchmark.machine_rates", lambda: MachineRates(1e9, 1e9))
    argv = ["benchmark", "--threads", "1", "--json", "--models", f"a={tmp_path / 'mini'}"]
    for more, expected in (([], ["1 x 16", "1 x 64", "1 x 128", "8 x 128"]), (["b"], ["1 x 16", "1 x 64"])):
        assert main([*argv, *(f"{name}={tmp_path / 'tiny'}" for name in more)]) == 0
        rows = json.loads(capsys.readouterr().out)["rows"]
        assert list(dict.fromkeys(row["shape"] for row in rows)) == expected
    assert main(["benchmark", "--models", f"a={tmp_path / 'tiny'}"]) == 0
    assert "note: without 1x128, 1x384, 8x128: a model has 64 positions" in capsys.readouterr().out
    assert main(["benchmark", "--models", f"a={tmp_path / 'none'}"]) == 2
    assert "a: has 8 positions; leave longer inputs out of --shapes" in capsys.readouterr().err


def test_shapes():
    assert shape_list("1x16,8x128") == [(1, 16), (8, 128)]
