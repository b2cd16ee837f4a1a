"""The fast form of a model: the same function, whatever the shape, the head, the mask, and the PyTorch."""

import copy

import pytest
import torch
from torch import nn

from kd_scratch.checkpoints.checkpoint import fingerprint, save_model
from kd_scratch.config import KernelConfig
from kd_scratch.evaluation.evaluate import load_for_inference
from kd_scratch.nn import fast, kernels
from kd_scratch.nn.fast import make_fast
from kd_scratch.nn.int8 import quantize
from kd_scratch.nn.layers import ACTIVATIONS
from tests.conftest import EVERY_KIND, KINDS, tiny_model
from tests.nn.test_int8 import IDS, MASK

ROUNDING = dict(rtol=1e-4, atol=1e-6)
INPUTS = ((IDS, None), (IDS, MASK), (IDS[:1], None), (IDS[:, :1], None), (IDS.repeat(40, 5), MASK.repeat(40, 5)))


@EVERY_KIND
@pytest.mark.parametrize("head", ["sequence", "token", "span"])
def test_the_fast_form_computes_the_same_in_float_to_rounding_and_in_int8_to_a_step(kind, head):
    model = tiny_model(head, **KINDS[kind])
    small = quantize(model)
    for slow in (model, small):
        quick = make_fast(copy.deepcopy(slow) if slow is model else quantize(model))
        assert all(block.attention.stacked is not None for block in quick.encoder.blocks)
        assert not any(type(block.feed_forward.inner) is type(slow.head.classifier) for block in quick.encoder.blocks)
        with torch.inference_mode():
            for ids, mask in INPUTS:
                found, expected = quick(ids, mask).logits, slow(ids, mask).logits
                if slow is model:
                    torch.testing.assert_close(found, expected, **ROUNDING)
                assert (found - expected).norm() <= 0.02 * expected.norm()
        assert quick.num_parameters() == slow.num_parameters()


@EVERY_KIND
def test_hidden_states_and_attention_maps_can_still_be_had(kind):
    model = tiny_model("sequence", **KINDS[kind])
    ask = dict(attention_mask=MASK, output_hidden_states=True, output_attentions=True)
    expected, found = model(IDS, **ask), make_fast(copy.deepcopy(model))(IDS, **ask)
    for name in ("hidden_states", "attentions"):
        assert len(getattr(found, name)) == len(getattr(expected, name)) > 0
        for a, b in zip(getattr(found, name), getattr(expected, name), strict=True):
            torch.testing.assert_close(a, b, **ROUNDING)


@pytest.mark.parametrize("kernel", ["oneDNN", "plain"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_the_same_inside_and_outside_the_product(activation, kernel, monkeypatch):
    monkeypatch.setattr(kernels, "FLOAT_KERNELS", {kernel: kernels.FLOAT_KERNELS[kernel]})
    model = tiny_model("token", activation=activation)
    torch.testing.assert_close(make_fast(copy.deepcopy(model))(IDS).logits, model(IDS).logits, **ROUNDING)


def test_models_can_be_used_as_they_are_written():
    kernels.use(KernelConfig(kernels="plain"))
    for model in (tiny_model(), quantize(tiny_model())):
        before = list(model.modules())
        assert list(make_fast(model).modules()) == before and not model.fast


def test_models_are_opened_for_use_in_their_fast_form_and_elsewhere_as_they_are(model_directory):
    used, plain = load_for_inference(model_directory).model, load_for_inference(model_directory, fast=False).model
    assert isinstance(used.encoder.blocks[0].attention.stacked, fast.StackedProjection)
    assert used.num_parameters() == plain.num_parameters() == sum(p.numel() for p in plain.parameters())
    assert plain.encoder.blocks[0].attention.stacked is None
    ids = torch.tensor([[2, 7, 5, 3]])
    torch.testing.assert_close(used(ids).logits, plain(ids).logits, **ROUNDING)


def test_the_fast_form_can_be_neither_saved_nor_trained_nor_quantized(tmp_path):
    model = make_fast(tiny_model())
    for use in (lambda: save_model(model, tmp_path / "x"), lambda: fingerprint(model), lambda: quantize(model)):
        with pytest.raises(ValueError, match="fast form"):
            use()
    assert not (tmp_path / "x" / "model.safetensors").exists()
    with pytest.raises(RuntimeError, match="does not require grad"):
        model(IDS).logits.sum().backward()


def test_no_input_at_all_gives_no_logits():
    nothing = torch.zeros(0, 5, dtype=torch.int64)
    for model in (tiny_model("token"), make_fast(tiny_model("token"))):
        assert model(nothing).logits.shape == (0, 5, 3)


@pytest.mark.parametrize("first_only", [False, True])
def test_one_product_for_query_key_and_value_also_where_queries_come_from_elsewhere(first_only):
    torch.manual_seed(0)
    linears = [nn.Linear(6, 6) for _ in range(3)]
    x, memory = torch.randn(2, 1, 6), torch.randn(2, 5, 6)
    found = fast.StackedProjection(linears, first_only, 0)(x, memory)
    for part, linear, source in zip(found, linears, (x, memory, memory), strict=True):
        torch.testing.assert_close(part, linear(source), **ROUNDING)


def test_a_layer_without_its_linear_layers_has_no_fast_form():
    block = tiny_model().encoder.blocks[0]
    assert fast.attention_parts(block.attention, False, 0) and fast.feed_forward_parts(block.feed_forward, False, 0)
    block.attention.key = block.feed_forward.inner = nn.Identity()
    assert (
        fast.attention_parts(block.attention, False, 0) is None
        and fast.feed_forward_parts(block.feed_forward, False, 0) is None
    )
