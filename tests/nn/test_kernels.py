"""The ways to compute a linear layer: each computes it, the fastest right one is taken, and no text hangs on others."""

import json
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from kd_scratch.checkpoints.checkpoint import load_model, save_model
from kd_scratch.common.errors import UserError
from kd_scratch.config import KernelConfig
from kd_scratch.nn import int8, kernels
from kd_scratch.nn.fast import make_fast
from kd_scratch.nn.int8 import linear_by_hand, quantize, rounded_linear
from kd_scratch.nn.kernels import FLOAT_KERNELS, INT8_KERNELS, Kernel, PlainLinear, fastest, forms
from kd_scratch.nn.layers import ACTIVATIONS
from tests.conftest import ROOT, tiny_model
from tests.nn.test_int8 import IDS, MASK, random_linear

EVERY_ACTIVATION = pytest.mark.parametrize("activation", [None, *ACTIVATIONS])


@pytest.fixture(autouse=True)
def nothing_found_yet(monkeypatch, tmp_path):
    """No choice of an earlier test, and every layer large enough to be timed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "_found", {})
    monkeypatch.setattr(kernels, "SMALL", 0)


def float64(layer: nn.Linear, x: torch.Tensor, activation) -> torch.Tensor:
    """A float layer in float64, with the activation behind it."""
    y = x.double() @ layer.weight.double().T + layer.bias.double()
    return ACTIVATIONS[activation](y) if activation else y


@EVERY_ACTIVATION
@pytest.mark.parametrize("rows", [(1, 1), (3, 7), (70, 2)])
@pytest.mark.parametrize("name", FLOAT_KERNELS)
def test_every_float_way_is_as_near_to_float64_as_it_promises(name, rows, activation):
    layer, kernel, x = random_linear(), FLOAT_KERNELS[name], torch.randn(*rows, 40)
    form = dict(forms({name: kernel}, layer, ACTIVATIONS.get(activation))).get(name)
    if form is None:
        pytest.skip("not on this processor, or not in this PyTorch")
    expected = float64(layer, x, activation)
    assert (form(x) - expected).abs().max() <= (kernel.tolerance or 1e-5) * expected.abs().max()


def by_parts(layer, x, scales):
    """linear_by_hand for each part of x that has a scale in common."""
    arguments = (layer.weight, layer.scale, layer.bias, layer.bits)
    parts = {"batch": [x], "text": x, "token": x.flatten(0, -2)}[scales]
    return torch.cat([linear_by_hand(part, *arguments).flatten() for part in parts]).view(*x.shape[:-1], -1)


@EVERY_ACTIVATION
@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("scales", int8.SCALES)
@pytest.mark.parametrize("name", INT8_KERNELS)
def test_every_int8_way_computes_what_is_spelled_out_by_hand(name, scales, bits, activation, monkeypatch):
    if bits > int8.activation_bits():
        pytest.skip("8 bits overflow on this processor")
    monkeypatch.setattr(int8, "activation_bits", lambda: bits)
    int8.use_scales(scales)
    layer = rounded_linear(random_linear())
    form = dict(forms({name: INT8_KERNELS[name]}, layer, ACTIVATIONS.get(activation))).get(name)
    if form is None:
        pytest.skip("not on this processor, or not in this PyTorch")
    for texts in (1, 3):
        x = (torch.randn(texts, 5, 40) + 0.3) * torch.logspace(-1, 1, texts)[:, None, None]
        expected = by_parts(layer, x, scales)
        # A token's range need not hold 0 in the form, so its steps are smaller than by hand.
        tolerance = 0.02 if scales == "token" else 0.01
        expected = ACTIVATIONS[activation](expected) if activation else expected
        assert (form(x) - expected).abs().max() <= tolerance * expected.abs().max()


def test_a_scale_for_each_token_is_nearer_to_float_than_one_for_all():
    layer = random_linear(400, 100)
    x = torch.randn(4, 8, 400) * torch.logspace(-1, 1, 8)[:, None]
    exact, errors = layer(x).detach(), {}
    for scales in int8.SCALES:
        int8.use_scales(scales)
        errors[scales] = float((rounded_linear(layer)(x) - exact).square().mean().sqrt())
    assert errors["token"] < 0.5 * errors["text"] <= 0.5 * errors["batch"] * 1.1


# --- the choice ---


class Zeros(PlainLinear):
    """Fast, and wrong."""

    def forward(self, x):
        return torch.zeros(*x.shape[:-1], self.out_features)


class NotANumber(Zeros):
    """Fast, and wrong in one number only."""

    def forward(self, x):
        y = nn.Linear.forward(self, x)
        y[..., -1, -1] = float("nan")
        return y


class Failing(Zeros):
    """Fails where it is used for the first time."""

    def forward(self, x):
        raise RuntimeError("could not create a primitive")


def unavailable(layer, activation):
    raise AttributeError("'_OpNamespace' object has no attribute 'linear_prepack'")


@pytest.mark.parametrize("build", [Zeros, NotANumber, Failing, unavailable])
@pytest.mark.parametrize("in_cache", [False, True])
def test_a_wrong_way_is_never_chosen(build, in_cache, monkeypatch):
    wrong = Kernel(build, kernels.ALL, 0.01)
    monkeypatch.setattr(kernels, "FLOAT_KERNELS", {"wrong": wrong, "plain": FLOAT_KERNELS["plain"]})
    layer = random_linear()
    if in_cache:
        kernels.keep(kernels.cache_key(layer, None, 0), {"kernel": "wrong", "microseconds": {"wrong": [1.0, 1.0]}})
    assert type(fastest([layer])) is PlainLinear
    assert [(kernel, list(times)) for _, kernel, times in kernels.choices()] == [("plain", ["plain"])]


def test_the_faster_of_two_is_taken_and_kept_for_other_processes(monkeypatch):
    times = {"oneDNN": [5.0, 11.0], "plain": [6.0, 6.0]}  # means of 6.5 and 6
    monkeypatch.setattr(kernels, "timed", lambda rings, width, shapes: {name: times[name] for name in rings})
    exact = {name: Kernel(PlainLinear, kernels.ALL, None) for name in times}
    monkeypatch.setattr(kernels, "FLOAT_KERNELS", exact)
    fastest([random_linear()])
    content = json.loads(kernels.cache_file().read_text())
    assert list(content.values()) == [{"kernel": "plain", "microseconds": times}]
    assert all(word in next(iter(content)) for word in (f"torch {torch.__version__}", "1 threads", "40 x 24", "float"))
    monkeypatch.setattr(kernels, "_found", {})  # another process
    monkeypatch.setattr(kernels, "timed", lambda *arguments: pytest.fail("timed once more"))
    fastest([random_linear()])


def test_what_was_the_fastest_with_other_instructions_is_measured_anew(monkeypatch):
    layer = random_linear()
    fastest([layer])
    monkeypatch.setattr("kd_scratch.common.device.instructions", lambda: "AVX1024")
    fastest([layer])
    assert len(json.loads(kernels.cache_file().read_text())) == 2


def test_a_layer_of_a_large_model_is_timed_as_often_as_fills_the_cache(monkeypatch):
    """Half the bytes are worth nothing where all of them are in the cache already."""
    counts, layer = [], random_linear()
    monkeypatch.setattr(kernels, "timed", lambda rings, width, shapes: counts.append(rings) or {"plain": [1, 1]})
    monkeypatch.setattr(kernels, "FLOAT_KERNELS", {"plain": FLOAT_KERNELS["plain"]})
    monkeypatch.setattr(kernels, "STEP", 10 * layer.weight.nbytes)
    monkeypatch.setattr(kernels, "MOST", 20 * layer.weight.nbytes)
    monkeypatch.setattr(kernels, "COPIES", 15)
    for times in (0, 9, 10, 19, 25, 10**9):
        monkeypatch.setattr(kernels, "_found", {})
        kernels.cache_file().unlink(missing_ok=True)
        fastest([layer], weights=times * layer.weight.nbytes)
    assert [len(rings["plain"]) for rings in counts] == [1, 1, 10, 10, 15, 15]
    copies = [form.weight for form in counts[-1]["plain"]]
    assert len({weight.data_ptr() for weight in copies}) == 15 and all(
        (weight == layer.weight).all() for weight in copies
    )


def test_what_computes_first_positions_only_is_timed_with_as_few_rows(monkeypatch):
    """The last block of a model of texts, all but its keys and values."""
    shapes: dict[tuple, list] = {}

    def note(rings, width, shape_of_rows):
        form = next(iter(rings.values()))[0]
        shapes.setdefault((width, form.out_features), []).append(list(shape_of_rows.values()))
        return {name: [1, 1] for name in rings}

    monkeypatch.setattr(kernels, "timed", note)
    monkeypatch.setattr(kernels, "FLOAT_KERNELS", {"plain": FLOAT_KERNELS["plain"]})
    every, first = list(kernels.TIMED.values()), list(kernels.FIRST.values())
    assert first == [(1, 1), (8, 1)]
    make_fast(tiny_model("sequence", labels=("a", "b"), width=16, feed_forward=40, depth=2).eval())
    assert shapes == {(16, 48): [every], (16, 16): [every, first], (16, 40): [every, first], (40, 16): [every, first],
                      (16, 32): [every]}  # fmt: skip
    shapes.clear()
    make_fast(tiny_model("token", labels=("a", "b"), width=16, feed_forward=24, depth=1).eval())
    assert shapes == {(16, 24): [every], (24, 16): [every]}


@pytest.mark.parametrize(("seconds", "rounds"), [(0, 4), (1000, kernels.ROUNDS)])
def test_no_layer_is_timed_for_long(seconds, rounds, monkeypatch):
    calls = []
    monkeypatch.setattr(kernels, "SECONDS", seconds)
    kernels.timed({"one": [calls.append] * 3, "other": [calls.append]}, 24)
    assert len(calls) == rounds * (4 + 2), "of copies one is enough for many rows"


@pytest.mark.parametrize(
    ("half", "chosen"),
    [([9.4, 9.4], "FBGEMM half"), ([9.6, 9.6], "oneDNN"), ([8.5, 11], "FBGEMM half"), ([11, 8.5], "oneDNN")],
)
def test_another_way_must_be_clearly_faster_and_few_rows_count_twice(half, chosen, monkeypatch):
    monkeypatch.setattr(kernels, "timed", lambda rings, width, shapes: {"oneDNN": [10, 10], "FBGEMM half": half})
    every = {name: Kernel(PlainLinear, kernels.ALL, None) for name in FLOAT_KERNELS}
    monkeypatch.setattr(kernels, "FLOAT_KERNELS", every)
    fastest([random_linear()])
    assert kernels.choices()[0][1] == chosen


def test_where_two_are_about_as_fast_the_choice_is_the_same_every_time(monkeypatch):
    for times in ({"oneDNN": [10, 10], "plain": [10, 9.5]}, {"oneDNN": [9.5, 10], "plain": [10, 10]}):
        monkeypatch.setattr(kernels, "timed", lambda rings, width, shapes, times=times: times)
        monkeypatch.setattr(kernels, "_found", {})
        kernels.cache_file().unlink(missing_ok=True)
        fastest([random_linear()])
        assert [kernel for _, kernel, _ in kernels.choices()] == ["oneDNN"]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"KEY": 3}', '{"KEY": {"kernel": "plain"}}', '{"KEY": {"kernel": [], "microseconds": {}}}',
     '{"KEY": {"kernel": "plain", "microseconds": {"plain": [1]}}}', "\0", "[" * 100_000],
)  # fmt: skip
def test_a_broken_cache_is_measured_anew(content):
    layer = random_linear()
    kernels.cache_file().parent.mkdir(parents=True)
    kernels.cache_file().write_text(content.replace("KEY", kernels.cache_key(layer, None, 0)))
    fastest([layer])
    assert len(json.loads(kernels.cache_file().read_text())) == 1


def test_what_another_process_has_written_over_is_written_again():
    first, second = random_linear(), nn.Linear(24, 24)
    fastest([first])
    kernels.cache_file().write_text("{}")
    fastest([second])
    assert len(json.loads(kernels.cache_file().read_text())) == 2


def test_a_cache_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    fastest([random_linear()])
    assert len(kernels.choices()) == 1


def test_only_what_is_allowed_may_be_chosen(monkeypatch):
    offered = []
    monkeypatch.setattr(kernels, "timed", lambda rings, width, shapes: offered.append(set(rings)) or {"plain": [1, 1]})
    for allowed in ("exact", "half", "bf16"):
        kernels.use(KernelConfig(kernels=allowed))
        fastest([random_linear()])
    exact, half, bf16 = offered
    assert exact <= {"oneDNN", "plain"} and half <= exact | {"FBGEMM half"} and bf16 <= half | {"oneDNN bf16"}


def test_layers_are_stacked_in_their_order(monkeypatch):
    layers, x = [random_linear(12, n, seed=n) for n in (5, 7, 1)], torch.randn(2, 3, 12)
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    torch.testing.assert_close(fastest(layers)(x), expected, rtol=1e-4, atol=1e-5)
    whole = [rounded_linear(layer) for layer in layers]
    expected = torch.cat([layer(x) for layer in whole], dim=-1)
    torch.testing.assert_close(fastest(whole)(x), expected, rtol=0, atol=0.01 * float(expected.abs().max()))


# --- texts and their neighbours ---


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("head", ["sequence", "token"])
@pytest.mark.parametrize("scales", int8.SCALES)
def test_a_text_gets_the_same_answer_alone_and_in_a_batch(scales, head, fast):
    int8.use_scales(scales)
    model = quantize(tiny_model(head))
    model = make_fast(model) if fast else model
    ids, mask = IDS.repeat(8, 1), MASK.repeat(8, 1)
    ids[2:] = torch.randint(5, 120, ids[2:].shape, generator=torch.Generator().manual_seed(0))
    far = 0.0
    with torch.inference_mode():
        together = model(ids, mask).logits
        for i, length in enumerate(mask.sum(dim=1)):
            alone = model(ids[i : i + 1, :length]).logits[0]
            one = together[i] if head == "sequence" else together[i, :length]
            far = max(far, float((alone - one).abs().max() / together.abs().max()))
    # To rounding; or where a number lies between two steps, to one of its steps.
    assert far > 0.02 if scales == "batch" else far < 0.004


@pytest.mark.parametrize("scales", int8.SCALES)
def test_every_form_has_the_scales_of_its_layer(scales):
    found = dict(forms(INT8_KERNELS, rounded_linear(random_linear(), scales), None))
    assert found and all(form.scales == scales for form in found.values()), found


@pytest.mark.parametrize("asked", ["auto", "batch"])
@pytest.mark.parametrize(
    ("head", "usual"), [("sequence", "text"), ("token", "token"), ("span", "token"), (None, "text")]
)
def test_each_token_has_a_scale_where_each_token_is_decided(asked, head, usual, tmp_path):
    int8.use_scales(asked)
    wanted = usual if asked == "auto" else asked
    model = quantize(tiny_model(head))
    save_model(model, tmp_path / "int8")
    for each in (model, load_model(tmp_path / "int8"), make_fast(load_model(tmp_path / "int8"))):
        layers = [layer for layer in each.modules() if isinstance(layer, int8.Int8Linear)]
        assert layers and {layer.scales for layer in layers} == {wanted}
        assert int8.describe([each]) == f"activations in {int8.activation_bits()} bits, a scale for each {wanted}"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("scales", int8.SCALES)
@pytest.mark.parametrize("name", INT8_KERNELS)
def test_one_number_of_one_row_that_is_not_finite_is_noticed(name, scales, bad):
    int8.use_scales(scales)
    layer = rounded_linear(random_linear())
    form = dict(forms({name: INT8_KERNELS[name]}, layer, None)).get(name, layer)
    for texts in (1, 3):
        x = torch.randn(texts, 4, 40)
        x[-1, 2, 7] = bad
        with pytest.raises(UserError, match="not finite: its file is damaged"):
            form(x)


@pytest.mark.parametrize("gone", ["torch.ao", "torch.ao and all quantized tensors"])
def test_int8_folders_open_and_compute_without_torch_ao(gone, tmp_path):
    """In a process of its own, in which nobody can import it, nor use PyTorch's quantized tensors and their engines."""
    model = quantize(tiny_model())
    save_model(model, tmp_path)
    code = """
import sys, torch
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[:2] in (["torch", "ao"], ["torch", "quantization"]):
            raise ImportError(f"no module named {name}")
for name in [name for name in sys.modules if name.startswith(("torch.ao", "torch.quantization"))]:
    del sys.modules[name]
sys.meta_path.insert(0, Gone())
torch.__dict__.pop("ao", None), torch.__dict__.pop("quantization", None)
if "quantized tensors" in sys.argv[2]:
    class NoOperations:
        pass
    torch.ops.quantized = NoOperations()
    del torch._make_per_channel_quantized_tensor, torch.quantize_per_tensor, torch.quantize_per_channel
    type(torch.backends.quantized).supported_engines = property(lambda self: [])
from kd_scratch.checkpoints.checkpoint import load_model
from kd_scratch.nn import kernels
from kd_scratch.nn.fast import make_fast
from kd_scratch.nn.int8 import quantize
from tests.conftest import tiny_model
kernels.SMALL = 0
ids = torch.tensor([[5, 9, 17, 3], [7, 7, 30, 1]])
quantize(tiny_model())
model = make_fast(load_model(sys.argv[1]))
print(*(number for row in model(ids).logits.tolist() for number in row))
print(*{kernel for _, kernel, _ in kernels.choices()}, sep=",")
assert not any(name.startswith("torch.ao") for name in sys.modules)
"""
    argv = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path), gone]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    logits, used = done.stdout.splitlines()
    expected = load_model(tmp_path)(torch.tensor([[5, 9, 17, 3], [7, 7, 30, 1]])).logits
    found = torch.tensor([float(number) for number in logits.split()]).view_as(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    if "quantized tensors" in gone:
        assert "FBGEMM" not in used and set(used.split(",")) <= {"oneDNN int8", "by hand int8"}


def test_entries_of_the_cache_that_are_broken_are_left_out_and_not_kept():
    good = {"kernel": "plain", "microseconds": {"plain": [1.0, 2.0]}}
    bad = [{"kernel": "plain", "microseconds": {"plain": [n, 1]}} for n in (10**400, math.nan, math.inf, -1, "x")]
    kernels.cache_file().parent.mkdir(parents=True)
    kernels.cache_file().write_text(json.dumps({"good": good} | {str(i): entry for i, entry in enumerate(bad)}))
    assert kernels.read_cache() == {"good": good}
    kernels.keep("new", good)
    assert json.loads(kernels.cache_file().read_text()) == {"good": good, "new": good}


def test_a_user_without_a_home_has_no_file(monkeypatch):
    def nobody():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(kernels.Path, "home", nobody)
    assert kernels.found("any") == {} and kernels.read_cache() == {}
    kernels.keep("any", {"kernel": "plain", "microseconds": {}})
    assert kernels.found("any")["kernel"] == "plain"
