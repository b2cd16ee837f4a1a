"""ONNX folders: what is in the files, by a reader of its own, computes what the model computes. Parity has the rest."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from kd_scratch.__main__ import main
from kd_scratch.checkpoints import onnx_graph
from kd_scratch.checkpoints.checkpoint import save_model
from kd_scratch.checkpoints.onnx_folder import FILES, export_onnx
from kd_scratch.checkpoints.onnx_format import LIMIT, model_parts, size
from kd_scratch.common import files
from kd_scratch.common.errors import DiskError, UserError
from kd_scratch.data.tokenizer import load_tokenizer
from kd_scratch.nn import int8
from tests.checkpoints.onnx_reader import File
from tests.conftest import EVERY_KIND, KINDS, ROOT, tiny_model

HEADS = ["sequence", "token", "span", "mlm", None]
#: Of the largest number. Where an activation lies halfway between two steps, int8 may take either.
TOLERANCE = {"float32": 1e-5, "float16": 5e-3, "int8": 0.05}
BESIDE = {"config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "onnx"}


@pytest.fixture(autouse=True)
def one_scale_a_batch(as_a_new_process):
    """ONNX's own operator knows one scale for all of an input, and no others."""
    int8.use_scales("batch")


def usual_scales(head):
    """One a batch, or one a token where each token is decided."""
    int8.use_scales("auto" if head in ("token", "span") else "batch")


def batch(model, length=9):
    """The inputs of three texts, padded, the last of them to the longest by far."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (3, length), generator=generator)
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    mask[1, 6:], mask[2, 2:], types[:, 4:] = 0, 0, 1
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    return inputs if model.config.token_types else {name: inputs[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def expected(model, inputs) -> dict[str, torch.Tensor]:
    """The outputs of a model as a file calls them."""
    found = model(**inputs)
    if model.config.head is None:
        return {"last_hidden_state": found.hidden_states[-1]}
    if model.config.head == "span":
        return dict(zip(("start_logits", "end_logits"), found.logits.unbind(-1), strict=True))
    return {
        "logits": found.logits.unflatten(0, inputs["input_ids"].shape) if model.config.head == "mlm" else found.logits
    }


def of_text(outputs, inputs, head):
    """Outputs without those at padding, which are nobody's."""
    return outputs if head == "sequence" else {name: t[inputs["attention_mask"] > 0] for name, t in outputs.items()}


def assert_near(found, wanted, tolerance):
    """Equal names and shapes, and numbers that differ by a part of the largest."""
    assert list(found) == list(wanted)
    for name, tensor in wanted.items():
        assert found[name].shape == tensor.shape
        assert (found[name] - tensor).abs().max() <= tolerance * tensor.abs().max(), name


def exported(model, tokenizer, output, *precisions, **options):
    """The files of a model's folder by precision."""
    record = export_onnx(model, tokenizer, 32, output, precisions, **options)
    return {name: File(output / row["files"][0]) for name, row in record["files"].items()}


@pytest.mark.parametrize("head", HEADS)
@EVERY_KIND
def test_the_graph_computes_what_the_model_computes(kind, head, tokenizer, tmp_path, as_many_bits_as_a_graph):
    usual_scales(head)
    model = tiny_model(head, vocab_size=tokenizer.vocab_size, **KINDS[kind])
    precisions = [name for name in FILES if not (name == "int8" and head == "mlm")]
    found = exported(model, tokenizer, tmp_path / "out", *precisions)
    for name, file in found.items():
        inputs = batch(model)
        wanted = expected(int8.quantize(model) if name == "int8" else model, inputs)
        assert_near(of_text(file.compute(**inputs), inputs, head), of_text(wanted, inputs, head), TOLERANCE[name])
        assert dict.fromkeys(inputs, (7, "batch", "tokens")) == file.inputs
        assert [kind[0] for kind in file.outputs.values()] == [1] * len(wanted)
        for key, (_, *dims) in file.outputs.items():
            assert [{"batch": 3, "tokens": 9}.get(n, n) for n in dims] == list(wanted[key].shape)


@pytest.mark.parametrize(
    "shape", [dict(activation="gelu_new"), dict(width=33, heads=3), dict(width=64), dict(width=7, heads=1)]
)
def test_other_activations_and_tables_of_any_width(shape, tokenizer, tmp_path, as_many_bits_as_a_graph):
    model = tiny_model("token", vocab_size=tokenizer.vocab_size, **shape)
    for name, file in exported(model, tokenizer, tmp_path, "float32", "int8").items():
        inputs = batch(model)
        wanted = expected(int8.quantize(model) if name == "int8" else model, inputs)
        assert_near(of_text(file.compute(**inputs), inputs, "token"), of_text(wanted, inputs, "token"), TOLERANCE[name])


@pytest.mark.parametrize(("head", "replaced"), [("sequence", 1), ("token", 0), ("span", 0)])
def test_padding_is_replaced_only_where_it_would_have_a_part_in_a_scale(head, replaced, tokenizer, tmp_path):
    usual_scales(head)
    model = tiny_model(head, vocab_size=tokenizer.vocab_size)
    [file] = exported(model, tokenizer, tmp_path, "int8").values()
    assert [node.kind for node in file.nodes].count("Where") == replaced


def test_a_text_of_padding_alone_looks_at_everything(tokenizer, tmp_path):
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    inputs = batch(model)
    inputs["attention_mask"][1] = 0
    [file] = exported(model, tokenizer, tmp_path).values()
    assert_near(file.compute(**inputs), expected(model, inputs), 1e-5)


def test_an_activation_without_nodes_is_no_other_one():
    graph = SimpleNamespace(config=SimpleNamespace(activation="silu"))
    with pytest.raises(ValueError, match="activation silu has no nodes here"):
        onnx_graph.activation(graph, "x")


def test_an_int8_model_keeps_its_whole_numbers(tokenizer, tmp_path):
    model = int8.quantize(tiny_model(vocab_size=tokenizer.vocab_size))
    tensors = int8.to_tensors(model)
    [file] = exported(model, tokenizer, tmp_path).values()
    for name, tensor in tensors.items():
        found = torch.from_numpy(
            file.tensors[name.replace(".weight_scale", ".scale") if tensor.dtype == torch.float32 else name].copy()
        )
        assert found.dtype == tensor.dtype and torch.equal(found, tensor.T if tensor.dtype == torch.int8 else tensor), (
            name
        )


def test_what_the_last_block_need_not_compute_it_does_not(tokenizer, tmp_path):
    """A sequence head looks at the first position alone: the last block has one query, the others have all."""
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    [file] = exported(model, tokenizer, tmp_path).values()
    file.outputs = {node.outputs[0]: () for node in file.nodes if node.kind == "Softmax"}
    assert [maps.shape for maps in file.compute(**batch(model)).values()] == [(3, 2, 9, 9), (3, 2, 9, 9), (3, 2, 1, 9)]


def test_the_folder_is_what_other_programs_look_for(tokenizer, tmp_path, capsys):
    labels = ("a b", 'it\'s "so"', "日本語", "\u2028", "", "x" * 500, "</script>")
    save_model(tiny_model(labels=labels, vocab_size=tokenizer.vocab_size), tmp_path / "model")
    tokenizer.save(tmp_path / "model", max_length=32)
    argv = ["export", "--format", "onnx", "--model", str(tmp_path / "model"), "--output", str(tmp_path / "out")]
    assert main([*argv, "--precision", *FILES, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert {path.name for path in (tmp_path / "out").iterdir()} == BESIDE | {"README.md"}
    assert {path.name for path in (tmp_path / "out" / "onnx").iterdir()} == set(FILES.values())
    sizes = {name: (tmp_path / "out" / "onnx" / file).stat().st_size for name, file in FILES.items()}
    assert sizes == {name: row["bytes"] for name, row in record["files"].items()}
    assert record["inputs"] == ["input_ids", "attention_mask", "token_type_ids"] and record["outputs"] == ["logits"]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config == json.loads((tmp_path / "model" / "config.json").read_text())
    assert load_tokenizer(tmp_path / "out").fingerprint == tokenizer.fingerprint
    named = json.loads((tmp_path / "out" / "special_tokens_map.json").read_text())
    assert named["mask_token"] == "[MASK]" and len(named) == 5
    for name, file in FILES.items():
        file = File(tmp_path / "out" / "onnx" / file)
        assert json.loads(file.metadata["labels"]) == list(labels) and file.metadata["precision"] == name
        assert json.loads(file.metadata["config"]) == config and file.metadata["max_length"] == "32"
        assert (file.ir_version, file.opset) == (8, 17)


def test_the_command_names_what_it_will_do_first_and_then_what_it_did(model_directory, tmp_path, capsys):
    argv = [
        "export",
        "--model",
        str(model_directory),
        "--output",
        str(tmp_path / "out"),
        "--precision",
        "int8",
        "float32",
    ]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"writing {model_directory} (0.0M) to {tmp_path}/out as ONNX, in int8 and float32\n")
    assert "onnx/model_quantized.onnx" in out and "onnx/model.onnx" in out
    assert out.endswith("inputs input_ids, attention_mask, token_type_ids; outputs logits; opset 17\n")
    note = 'unless its session option session.x64quantprecision is "1"'
    assert note in out
    argv[argv.index("--output") + 1], argv[argv.index("--precision") :] = str(tmp_path / "float"), []
    assert main(argv) == 0 and note not in capsys.readouterr().out


def test_a_shape_of_our_own_goes_by_the_name_of_bert(tokenizer, tmp_path):
    model = tiny_model(vocab_size=tokenizer.vocab_size, **KINDS["scratch"])
    exported(model, tokenizer, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == "bert" and config["architectures"] == ["BertForSequenceClassification"]


def test_large_tensors_lie_beside_the_file_where_it_would_be_too_large(tokenizer, tmp_path):
    model = tiny_model(vocab_size=tokenizer.vocab_size, feed_forward=96)
    [whole] = exported(model, tokenizer, tmp_path / "whole").values()
    [apart] = exported(model, tokenizer, tmp_path / "apart", limit=20_000).values()
    data = tmp_path / "apart" / "onnx" / "model.onnx_data"
    assert data.exists() and not (tmp_path / "whole" / "onnx" / "model.onnx_data").exists()
    assert (tmp_path / "apart" / "onnx" / "model.onnx").stat().st_size < 30_000 < data.stat().st_size
    assert data.stat().st_size % 4096 == 0
    assert apart.tensors.keys() == whole.tensors.keys()
    assert all((apart.tensors[name] == tensor).all() for name, tensor in whole.tensors.items())
    assert_near(apart.compute(**batch(model)), expected(model, batch(model)), 1e-5)


def test_no_sum_of_tensors_below_the_limit_makes_a_file_of_two_gigabytes():
    """In a model of 1000 blocks, the most that there can be, everything else takes less than what the limit leaves."""
    model = int8.quantize(tiny_model("token", depth=10))
    graph = onnx_graph.graph_of(model.config, int8.to_tensors(model))
    graph.tensors = {name: torch.empty(0) for name in graph.tensors}
    assert 100 * sum(map(size, model_parts(graph, {}, {}))) < 2**31 - LIMIT


@pytest.mark.slow
def test_the_same_model_makes_the_same_bytes_in_every_process(model_directory, tmp_path):
    argv = ["export", "--model", str(model_directory), "--precision", *FILES, "--quiet", "--output"]
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    argv_there = [sys.executable, "-m", "kd_scratch", *argv, str(tmp_path / "there" / "onnx")]
    subprocess.run(argv_there, cwd=ROOT, env=environment, check=True)
    assert main([*argv, str(tmp_path / "here" / "onnx")]) == 0
    found = {}
    for name in ("here", "there"):
        paths = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        found[name] = {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in paths}
    assert found["here"] == found["there"] and len(found["here"]) == 9


def broken(model, value):
    """The model with a number of some size in a matrix."""
    with torch.no_grad():
        model.encoder.blocks[0].feed_forward.inner.weight[3, 4] = value
    return model


def test_what_cannot_be_exported_is_refused_before_anything_is_written(tokenizer, tmp_path):
    def model(head="sequence"):
        return tiny_model(head, vocab_size=tokenizer.vocab_size)

    whole = int8.quantize(model())
    for subject, precisions, message in (
        (broken(model(), float("nan")), ("float32",), "inner.weight: holds numbers that are not finite"),
        (broken(model(), float("inf")), ("float32", "int8"), "inner.weight: holds numbers that are not finite"),
        (
            broken(model(), 1e5),
            ("float32", "float16"),
            "inner.weight: holds numbers above 65504, the largest of float16",
        ),
        (whole, ("float32",), "m: is an int8 model; give --precision int8, or the float model"),
        (model("mlm"), ("float32", "int8"), "m: a head for masked words needs the table of tokens in float"),
        (model(), ("float64",), "m: --precision float64: there is none such; there are float32, float16, int8"),
    ):
        with pytest.raises(UserError, match=message):
            export_onnx(subject, tokenizer, 32, tmp_path / "out", precisions, source="m")
        assert not (tmp_path / "out").exists()
    export_onnx(broken(model(), 1e5), tokenizer, 32, tmp_path / "out", ("float32",))
    with pytest.raises(UserError, match="already holds something"):
        export_onnx(model(), tokenizer, 32, tmp_path / "out")


def test_a_full_disk_leaves_no_model_behind(tokenizer, tmp_path, monkeypatch):
    """config.json is the last, and no file is there by half."""

    real = os.replace

    def replaced(source, target):
        if str(target).endswith(".onnx"):
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replaced)
    with pytest.raises(DiskError, match="model.onnx: cannot be written"):
        export_onnx(tiny_model(vocab_size=tokenizer.vocab_size), tokenizer, 32, tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists() and not any((tmp_path / "out" / "onnx").iterdir())
