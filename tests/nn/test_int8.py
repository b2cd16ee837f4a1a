"""Dynamic int8: the arithmetic by hand, every kind of model saved and opened again, hostile files, and the command."""

import copy
import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import kd_scratch.evaluation.evaluate
from kd_scratch.__main__ import main
from kd_scratch.checkpoints.checkpoint import WEIGHTS, fingerprint, load_model, save_model
from kd_scratch.checkpoints.safetensors import load_file, save_file
from kd_scratch.common.errors import UserError
from kd_scratch.config import SIZES, DataConfig
from kd_scratch.evaluation.evaluate import LoadedModel, changed_alone, load_for_inference
from kd_scratch.nn import int8
from kd_scratch.nn.int8 import Int8Linear, Table, linear_by_hand, quantize, rounded_linear, to_tensors
from kd_scratch.nn.model import Model
from kd_scratch.pages.records import known_quantization
from kd_scratch.tasks import TASKS, Predictions
from tests.conftest import EVERY_KIND, KINDS, ROOT, TEXTS, TINY, tiny_model

IDS = torch.tensor([[5, 9, 17, 3, 80, 44, 2], [7, 7, 30, 1, 0, 0, 0]])
MASK = IDS > 0


def random_linear(inputs=40, outputs=24, seed=0) -> nn.Linear:
    torch.manual_seed(seed)
    layer = nn.Linear(inputs, outputs)
    layer.weight.data *= torch.rand(outputs, 1) * 5  # rows of very different size
    return layer


def torchs_own(layer: Int8Linear) -> nn.Module:
    """PyTorch's packed form of a layer's weights."""
    choose = torch.backends.quantized
    choose.engine = next(e for e in ("x86", "fbgemm", "qnnpack") if e in choose.supported_engines)
    zeros = torch.zeros(layer.out_features, dtype=torch.int64)
    weight = torch._make_per_channel_quantized_tensor(layer.weight, layer.scale.double(), zeros, 0)
    return torch.ops.quantized.linear_prepack(weight, layer.bias)


# --- the arithmetic ---


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("shift", [-5.0, -0.5, 0.0, 0.5, 5.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 50.0])
def test_the_linear_layer_by_hand_is_torchs(bits, shift, size, monkeypatch):
    """Ranges around 0, and ranges that lie on one side of it."""
    if bits > int8.activation_bits():
        pytest.skip("8 bits overflow on this processor")
    monkeypatch.setattr(int8, "activation_bits", lambda: bits)
    layer = rounded_linear(random_linear())
    x = size * (torch.randn(6, 40, generator=torch.Generator().manual_seed(1)) + shift)
    by_hand = linear_by_hand(x, layer.weight, layer.scale, layer.bias, bits)
    torchs = torch.ops.quantized.linear_dynamic(x, torchs_own(layer), bits == 7)
    # One rounding of an input that falls exactly between two steps may go the other way.
    step = (max(0, x.max()) - min(0, x.min())) / (2**bits - 1)
    largest = (layer.weight * layer.scale[:, None]).abs().max()
    layer.scales = "batch"
    for found in (by_hand, layer(x)):
        assert (found - torchs).abs().max() <= 1.01 * step * largest
        assert (found - torchs).abs().median() <= 1e-5 * torchs.abs().max()


def test_the_linear_layer_by_hand_on_numbers_worked_out_by_hand():
    x = torch.tensor([[0.0, 100.0, 50.4], [-27.0, 1.0, 2.0]])  # a range of 127: 127 steps of 1, and 0 is step 27
    weight, scale = torch.tensor([[1, 2, 3], [-128, 0, 127]], dtype=torch.int8), torch.tensor([0.5, 0.1])
    expected = torch.tensor([[0, 100, 50], [-27, 1, 2]]) @ weight.long().T * scale + torch.tensor([1.0, -1.0])
    assert torch.allclose(linear_by_hand(x, weight, scale, torch.tensor([1.0, -1.0]), bits=7), expected, rtol=1e-6)


def test_an_input_of_zeros_gives_the_bias():
    layer = rounded_linear(random_linear())
    by_hand = linear_by_hand(torch.zeros(2, 40), layer.weight, layer.scale, layer.bias)
    assert torch.equal(by_hand, layer.bias.expand(2, -1)) and torch.equal(layer(torch.zeros(2, 40)), by_hand)


@pytest.mark.parametrize("inputs", [1, 40, 3000])
@pytest.mark.parametrize("has", {int8.has_whole_product(), False})
def test_a_product_of_whole_numbers_is_exact_for_the_largest_too(has, inputs, monkeypatch):
    monkeypatch.setattr(int8, "has_whole_product", lambda: has)
    for low, high in ((-128, 128), (126, 128), (-128, -126)):
        q, weight = (torch.randint(low, high, (n, inputs), dtype=torch.int8) for n in (5, 16))
        assert torch.allclose(int8.whole_product(q, weight).double(), q.double() @ weight.double().T, rtol=1e-7, atol=0)


def test_a_product_that_overflows_is_noticed(monkeypatch):
    def overflowing(q, weight):  # as oneDNN computes it on processors without VNNI
        pairs = ((q.long() + 128)[:, :, None] * weight.long()).unflatten(1, (-1, 2)).sum(2).clamp(-(2**15), 2**15 - 1)
        return pairs.sum(1) - 128 * weight.long().sum(0)

    monkeypatch.setattr(torch, "_int_mm", overflowing)
    for bits in (7, 8):
        monkeypatch.setattr(int8, "activation_bits", lambda bits=bits: bits)
        assert not int8.has_whole_product.__wrapped__()
    monkeypatch.delattr(torch, "_int_mm")  # it is not part of PyTorch's public API
    assert not int8.has_whole_product.__wrapped__()


def test_weights_are_rounded_to_the_nearest_step_of_their_row():
    model = tiny_model("token")
    tensors, floats = to_tensors(quantize(model)), model.state_dict()
    name = "encoder.blocks.0.feed_forward.inner.weight"
    scale = tensors[name + "_scale"][:, None]
    assert ((tensors[name] * scale - floats[name]).abs() <= scale * 0.501).all()
    assert torch.allclose(scale[:, 0], floats[name].abs().amax(dim=1) / 127.5, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 5, 16, 32, 78, 96, 97])
def test_a_table_rounds_to_the_nearest_of_16_steps_of_its_group(width):
    weight = torch.randn(7, width, generator=torch.Generator().manual_seed(0)) * torch.logspace(-3, 2, 7)[:, None]
    weight[3] = 0.25
    table, size = Table.of(weight), {96: 32, 78: 26}.get(width, width)
    assert table.packed.shape == (7, (width + 1) // 2) and table.scale.shape == table.low.shape == (7, width // size)
    ids = torch.tensor([[3, 0, 6], [5, 5, 1]])
    found, expected = table(ids), weight[ids]
    assert found.shape == (2, 3, width)
    for start in range(0, width, size):
        group = expected[..., start : start + size]
        step = (group.amax(-1) - group.amin(-1)) / 15
        allowed = 0.5 * step + 0.002 * group.abs().amax(-1)  # scale and lowest number are float16
        assert ((found[..., start : start + size] - group).abs().amax(-1) <= allowed).all()


def test_a_tables_bytes_by_hand():
    """0 … 15 in steps of 0.5 above −1: the first half of a vector in the low bits, the second in the high bits."""
    table = Table.of(torch.tensor([[-1.0, 6.5, 0.0, -0.5, 2.0], [0.0, 15.0, 1.0, 14.0, 7.0]]))
    assert table.packed.tolist() == [[0 + 1 * 16, 15 + 6 * 16, 2], [0 + 14 * 16, 15 + 7 * 16, 1]]
    assert table.scale.tolist() == [[0.5], [1.0]] and table.low.tolist() == [[-1.0], [0.0]]
    assert table(torch.tensor(0)).tolist() == [-1.0, 6.5, 0.0, -0.5, 2.0]
    with pytest.raises(UserError, match="above 65504"):
        Table.of(torch.tensor([[0.0, 1e6]]))


# --- whole models ---


@EVERY_KIND
@pytest.mark.parametrize("head", ["sequence", "token", "span"])
def test_an_int8_model_saved_and_opened_again_gives_the_same_bits(kind, head, tmp_path):
    model = tiny_model(head, **KINDS[kind])
    before = fingerprint(model)
    small = quantize(model)
    expected, floats = small(IDS, MASK).logits, model(IDS, MASK).logits
    assert not torch.equal(expected, floats)
    rounded = copy.deepcopy(
        model
    )  # a float model with the tables of the small one: what is left is the matrices' doing
    with torch.no_grad():
        for name in [name for name, _ in model.named_parameters() if name in int8.TABLES]:
            table = rounded.get_parameter(name)
            table.copy_(Table.of(table)(torch.arange(len(table))))
    floats = rounded(IDS, MASK).logits
    real = MASK if head != "sequence" else slice(None)  # where it is padded, an int8 model computes something else
    assert (expected - floats)[real].norm() < 0.1 * floats[real].norm()
    save_model(small, tmp_path / "int8")
    loaded = load_model(tmp_path / "int8")
    assert torch.equal(loaded(IDS, MASK).logits, expected)
    assert fingerprint(loaded) == fingerprint(small) != before == fingerprint(model)
    assert loaded.config == small.config and loaded.config.int8
    assert loaded.num_parameters() == small.num_parameters() == model.num_parameters()
    assert not loaded.training


@pytest.mark.slow
@pytest.mark.parametrize(
    "use", ["load_model(sys.argv[2])", "make_fast(load_model(sys.argv[2]))", "quantize(load_model(sys.argv[1]))"]
)
def test_the_librarys_warnings_do_not_reach_the_user(use, model_directory, tmp_path):
    """In a process of its own: PyTorch warns once."""
    save_model(quantize(load_model(model_directory)), tmp_path)
    imports = "import sys; from kd_scratch.checkpoints.checkpoint import load_model; "
    code = imports + f"from kd_scratch.nn.int8 import quantize; from kd_scratch.nn.fast import make_fast; {use}"
    argv = [sys.executable, "-c", code, str(model_directory), str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@EVERY_KIND
def test_all_linear_layers_and_tables_are_int8_in_the_file_and_nothing_is_pickled(kind, tmp_path):
    model = tiny_model("sequence", **KINDS[kind])
    save_model(quantize(model), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    whole = {name: t for name, t in load_file(tmp_path / WEIGHTS).items() if not t.is_floating_point()}
    tables = [p for name, p in model.named_parameters() if name in int8.TABLES]
    matrices = [m.weight for m in model.modules() if isinstance(m, nn.Linear)]
    shapes = [(len(p), p.size(1) // 2) for p in tables] + [tuple(p.shape) for p in matrices]
    assert sorted(tuple(t.shape) for t in whole.values()) == sorted(shapes)
    assert all(name.endswith("weight") for name in whole)
    tables = [name for name, t in whole.items() if t.dtype == torch.uint8]
    assert len(tables) == 1 + isinstance(getattr(model.positions, "weight", None), nn.Parameter)
    assert all("embeddings" in name or "positions" in name for name in tables)


def test_the_file_has_the_types_and_shapes_that_are_told_beforehand():
    for kind, shape in KINDS.items():
        model = tiny_model("token", **shape)
        declared = {name: (t.dtype, t.shape) for name, t in int8.tensors_of_int8_form(model).items()}
        assert declared == {name: (t.dtype, t.shape) for name, t in to_tensors(quantize(model)).items()}, kind


@pytest.mark.parametrize("head", ["sequence", "token", "span"])
def test_a_distilbert_is_85_percent_smaller_than_bert_base_and_below_67_megabytes(head):
    labels = tuple(map(str, range(150))) if head != "span" else ()

    def shaped(size: str) -> Model:
        with torch.device("meta"):
            return Model(replace(SIZES[size], head=head, labels=labels))

    small = sum(t.numel() * t.element_size() for t in int8.tensors_of_int8_form(shaped("distilbert-base")).values())
    assert small < 67e6 and small < 0.15 * 4 * shaped("bert-base").num_parameters()


def test_the_number_of_parameters_follows_the_model_while_it_is_float():
    model = tiny_model()
    before = model.num_parameters()
    model.head.pooler = nn.Linear(TINY.width, TINY.width, bias=False)
    assert model.num_parameters() == before - TINY.width


def test_the_same_model_gives_the_same_int8_form_every_time():
    assert fingerprint(quantize(tiny_model())) == fingerprint(quantize(tiny_model()))


def test_what_cannot_be_quantized_or_run_is_refused(model_directory, tmp_path, capsys):
    small = quantize(load_model(model_directory))
    with pytest.raises(UserError, match="int8 already"):
        quantize(small)
    save_model(small, tmp_path / "int8")
    for flags in (dict(head="sequence", labels=("no", "yes", "maybe")), dict(dropout=0.1)):
        with pytest.raises(UserError, match="cannot be trained"):
            load_model(tmp_path / "int8", **flags)
    load_for_inference(model_directory).tokenizer.save(tmp_path / "int8", 32)
    with pytest.raises(UserError, match="CPU only; add --device cpu"):
        load_for_inference(tmp_path / "int8", device=torch.device("cuda"))
    with pytest.raises(ValueError, match="41 tokens, but there are only 40 positions"):
        small(torch.ones(1, 41, dtype=torch.int64))


def test_activations_have_7_bits_only_where_8_would_overflow(monkeypatch):
    for machine, vnni, bits in (("x86_64", True, 8), ("AMD64", False, 7), ("aarch64", False, 8)):
        monkeypatch.setattr(int8.platform, "machine", lambda machine=machine: machine)
        monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda vnni=vnni: vnni, raising=False)
        assert int8.activation_bits.__wrapped__() == bits
    monkeypatch.setattr(int8.platform, "machine", lambda: "x86_64")
    monkeypatch.delattr(torch.cpu, "_is_vnni_supported")
    assert int8.activation_bits.__wrapped__() == 7  # a PyTorch that cannot tell


def test_evaluate_counts_the_decisions_that_change_alone(model_directory, tmp_path, capsys):
    model = load_model(model_directory)
    predictions = Predictions(TASKS["csv"], [], None, np.array([[1.0, 0.0], [0.0, 1.0]]), ("no", "yes"), DataConfig())
    for alone, changes in (([[2.0, 0.0], [0.0, 3.0]], 0), ([[0.0, 2.0], [0.0, 3.0]], 1)):
        found = []

        def compute(model, features, device, batch_size, title, alone=alone, found=found):
            found.append(batch_size)
            return np.array(alone)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kd_scratch.evaluation.evaluate, "compute_logits", compute)
            assert changed_alone(
                LoadedModel(model, None, 16), predictions, torch.device("cpu")
            ) == changes and found == [1]
    data = tmp_path / "x.csv"
    rows = [f'{label},"{text}"' for label, text in zip(("no", "yes", "maybe", "no"), TEXTS, strict=True)]
    data.write_text("\n".join(["label,text", *rows]))
    argv = ["evaluate", "--task", "csv", "--data", str(data), "--model", str(model_directory), "--device", "cpu"]
    assert main([*argv, "--alone"]) == 0
    assert re.search(r"changed_alone +0\n", capsys.readouterr().out)
    assert main(argv) == 0 and "changed_alone" not in capsys.readouterr().out


# --- hostile files ---


@pytest.fixture
def saved(tmp_path):
    """A function that saves a tiny int8 classifier after changing its tensors or config."""
    save_model(quantize(tiny_model("token")), tmp_path)

    def change(tensors=lambda t: None, config=lambda c: None):
        content = {name: t.clone() for name, t in load_file(tmp_path / WEIGHTS).items()}
        tensors(content)
        save_file(content, tmp_path / WEIGHTS)
        raw = json.loads((tmp_path / "config.json").read_text())
        config(raw)
        (tmp_path / "config.json").write_text(json.dumps(raw))
        return tmp_path

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda t: t["classifier.weight_scale"].fill_(float("nan")),
            ": classifier.weight_scale: holds numbers that are not finite",
        ),
        (lambda t: t["classifier.weight_scale"].fill_(-1.0), "a scale must be more than 0"),
        (lambda t: t["classifier.weight_scale"].zero_(), "a scale must be more than 0"),
        (lambda t: t.pop("classifier.weight_scale"), "missing: classifier.weight_scale"),
        (lambda t: t.pop("classifier.bias"), "missing: classifier.bias"),
        (
            lambda t: t.update({"classifier.weight": t["classifier.weight"].float()}),
            "torch.float32 instead of torch.int8",
        ),
        (lambda t: t.update({"classifier.weight": t["classifier.weight"].byte()}), "torch.uint8 instead of torch.int8"),
        (lambda t: t.update({"classifier.weight": t["classifier.weight"][:2]}), r"\[2, 16\] instead of \[3, 16\]"),
        (
            lambda t: t["bert.embeddings.word_embeddings.weight_low"].fill_(float("inf")),
            "weight_low: holds numbers that are not",
        ),
        (lambda t: t["bert.embeddings.word_embeddings.weight_scale"].neg_(), "a table's scale must be 0 or more"),
        (
            lambda t: t["bert.embeddings.LayerNorm.bias"].fill_(float("nan")),
            "LayerNorm.bias: holds numbers that are not",
        ),
        (lambda t: t["classifier.bias"].fill_(float("inf")), "classifier.bias: holds numbers that are not finite"),
        (lambda t: t.update({"extra": torch.zeros(2)}), "unexpected: extra"),
    ],
)
def test_tensors_that_no_quantization_gives_are_refused_by_name(saved, change, complaint):
    with pytest.raises(UserError, match=complaint):
        load_model(saved(tensors=change))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c.pop("quantization_config"), "unexpected.*instead of torch.float32"),
        (lambda c: c.update(quantization_config={"quant_method": "gptq"}), "of another program"),
        (lambda c: c.update(quantization_config="int8"), "of another program"),
        (lambda c: c["quantization_config"].update(method=3), "of another program"),
        (lambda c: c["quantization_config"].pop("tables"), "another version.*quantize the float model again"),
    ],
)
def test_a_config_that_does_not_say_int8_as_we_do_is_refused(saved, change, complaint):
    with pytest.raises(UserError, match=complaint):
        load_model(saved(config=change))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2])
def test_any_floating_point_type_will_do_as_in_a_float_model(saved, dtype):
    names = ("classifier.bias", "classifier.weight_scale", "bert.embeddings.word_embeddings.weight_low")
    directory = saved(tensors=lambda tensors: tensors.update({name: tensors[name].to(dtype) for name in names}))
    assert load_model(directory)(IDS, MASK).logits.isfinite().all()


def test_numbers_that_overflow_on_the_way_are_one_line(saved):
    model = load_model(saved(tensors=lambda t: t["bert.embeddings.LayerNorm.weight"].fill_(3e38)))
    with pytest.raises(UserError, match="not finite: its file is damaged"):
        model(IDS, MASK)


def test_a_float_model_that_says_it_is_int8_and_a_cut_file_are_refused(saved, tmp_path):
    path = saved() / WEIGHTS
    config = (tmp_path / "config.json").read_bytes()
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="model.safetensors"):
        load_model(tmp_path)
    save_model(tiny_model("token"), tmp_path)
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(UserError, match="float32 instead of torch.int8"):
        load_model(tmp_path)


def test_a_loaded_model_does_not_hang_on_its_file(saved, tmp_path):
    model = load_model(saved())
    expected = model(IDS, MASK).logits
    path = tmp_path / WEIGHTS
    with open(path, "r+b") as file:  # in place, as no writer of ours does
        file.seek(path.stat().st_size // 3)
        file.write(b"\0" * (path.stat().st_size * 2 // 3))
    assert torch.equal(model(IDS, MASK).logits, expected)


@pytest.mark.parametrize("name", ["head.classifier.weight", "encoder.blocks.0.attention.query.bias"])
def test_a_model_with_numbers_that_are_not_finite_is_not_quantized(name, model_directory, tmp_path, capsys):
    model = load_model(model_directory)
    model.get_parameter(name).data.view(-1)[0] = float("nan")
    save_model(model, model_directory)
    assert main(["quantize", "--model", str(model_directory), "--output", str(tmp_path / "int8")]) == 2
    assert f"{name}: holds numbers that are not finite" in capsys.readouterr().err
    assert not (tmp_path / "int8").exists()


# --- the command ---


def test_a_model_that_is_there_has_its_record(model_directory, tmp_path, monkeypatch):
    """Stopped while it is timed, it still tells what it has learned."""
    monkeypatch.setattr("kd_scratch.evaluation.quantize.save_folder", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["quantize", "--model", str(model_directory), "--output", str(tmp_path / "int8"), "--threads", "1"])
    record = known_quantization(tmp_path / "int8")
    assert "training" in record and record["rows"]["float"]["megabytes"] > 0


@pytest.mark.usefixtures("no_memory_processes")
def test_the_command_says_what_it_gained_and_the_result_is_used_like_any_model(model_directory, tmp_path, capsys):
    output = tmp_path / "int8"
    assert main(["quantize", "--model", str(model_directory), "--output", str(output), "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert "quantizing" in out and "times smaller, faster" in out and "activations in" in out
    record = json.loads((output / "quantization.json").read_text())
    sizes = [record["rows"][name]["megabytes"] * 1e6 for name in ("float", "int8")]
    assert sizes == pytest.approx([(f / WEIGHTS).stat().st_size for f in (model_directory, output)])
    assert record["rows"]["int8"]["ms_16_tokens"] > 0 and "ms_128_tokens" not in record["rows"]["int8"]  # 40 positions
    assert load_for_inference(output).tokenizer.fingerprint == load_for_inference(model_directory).tokenizer.fingerprint
    assert main(["predict", "--model", str(output), "--text", "the quick fox"]) == 0
    assert "probability" in capsys.readouterr().out
    (tmp_path / "x.csv").write_text("text,label\nthe fox,yes\na dog,no\nthe moon,maybe\na probe,no\n")
    data = ["--task", "csv", "--data", str(tmp_path / "x.csv")]
    assert main(["evaluate", *data, "--model", str(output), "--output", str(tmp_path / "m.json")]) == 0
    models = [f"float={model_directory}", f"int8={output}"]
    assert main(["compare", *data, "--models", *models, "--output", str(tmp_path / "c")]) == 0
    assert "int8: " in capsys.readouterr().out.split("\n")[-4]
    evaluated = json.loads((tmp_path / "m.json").read_text())
    compared = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert evaluated["machine"]["int8"] == compared["machine"]["int8"] == record["int8"]
    assert record["int8"].endswith(" bits, a scale for each text")
    rows = compared["rows"]
    assert rows[1]["accuracy"] == evaluated["metrics"]["accuracy"] and rows[1]["megabytes"] < rows[0]["megabytes"]
    assert rows[0]["parameters"] == rows[1]["parameters"]


def test_the_commands_mistakes_are_one_line_and_exit_2(model_directory, tmp_path, capsys):
    output = str(tmp_path / "int8")
    quantizing = ["quantize", "--model", str(model_directory), "--output", output]
    assert main(quantizing) == 0
    train = [
        "train",
        "--task",
        "csv",
        "--train",
        str(tmp_path / "x.csv"),
        "--dev",
        "50%",
        "--output",
        str(tmp_path / "n"),
    ]
    (tmp_path / "x.csv").write_text("text,label\nthe fox,yes\na dog,no\nthe moon,maybe\na probe,no\n")
    for argv, message in (
        (quantizing, "already holds"),
        ([*quantizing[:-1], str(tmp_path / "x.csv")], "x.csv: is a file; give the name of a folder"),
        (["quantize", "--model", output, "--output", str(tmp_path / "twice")], "is int8 already"),
        (["quantize", "--model", str(tmp_path / "none"), "--output", str(tmp_path / "o")], "no such model directory"),
        ([*train, "--model", output], "cannot be trained"),
        ([*train, "--model", str(model_directory), "--teacher", output, "--max-length", "20"], "distil from the float"),
    ):
        capsys.readouterr()
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not (tmp_path / "n").exists() and not (tmp_path / "twice").exists()
