"""The fast form of a model: the same function, whatever the shape, the head, the mask, and the PyTorch."""

import copy

import pytest
import torch
from torch import nn

from kd_scratch.checkpoints.checkpoint import fingerprint, save_model
from kd_scratch.evaluation.evaluate import load_for_inference
from kd_scratch.nn import fast
from kd_scratch.nn.fast import PackedLinear, can_pack, make_fast, stacked
from kd_scratch.nn.int8 import quantize
from kd_scratch.nn.layers import ACTIVATIONS
from tests.conftest import EVERY_KIND, KINDS, tiny_model
from tests.nn.test_int8 import IDS, MASK

ROUNDING = dict(rtol=1e-4, atol=1e-6)
INPUTS = ((IDS, None), (IDS, MASK), (IDS[:1], None), (IDS[:, :1], None), (IDS.repeat(40, 5), MASK.repeat(40, 5)))


@EVERY_KIND
@pytest.mark.parametrize("head", ["sequence", "token", "span"])
def test_the_fast_form_computes_the_same_in_float_to_rounding_and_in_int8_bit_for_bit(kind, head):
    model = tiny_model(head, **KINDS[kind])
    small = quantize(model)
    for slow, close in ((model, ROUNDING), (small, dict(rtol=0, atol=0))):
        quick = make_fast(copy.deepcopy(slow) if slow is model else quantize(model))
        assert all(block.attention.stacked is not None for block in quick.encoder.blocks)
        assert not any(type(block.feed_forward.inner) is type(slow.head.classifier) for block in quick.encoder.blocks)
        with torch.inference_mode():
            for ids, mask in INPUTS:
                torch.testing.assert_close(quick(ids, mask).logits, slow(ids, mask).logits, **close)
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


@pytest.mark.parametrize("packs", {can_pack(), False})
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_the_same_inside_and_outside_the_product(activation, packs, monkeypatch):
    monkeypatch.setattr(fast, "can_pack", lambda: packs)
    model = tiny_model("token", activation=activation)
    torch.testing.assert_close(make_fast(copy.deepcopy(model))(IDS).logits, model(IDS).logits, **ROUNDING)


def test_layers_are_stacked_in_their_order_with_and_without_packed_weights(monkeypatch):
    torch.manual_seed(0)
    layers, x = [nn.Linear(12, n) for n in (5, 7, 1)], torch.randn(2, 3, 12)
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    for packs in {can_pack(), False}:
        monkeypatch.setattr(fast, "can_pack", lambda packs=packs: packs)
        layer = stacked(layers)
        assert isinstance(layer, PackedLinear) == packs
        torch.testing.assert_close(layer(x), expected, **ROUNDING)


def test_models_are_opened_for_use_in_their_fast_form_and_elsewhere_as_they_are(model_directory):
    used, plain = load_for_inference(model_directory).model, load_for_inference(model_directory, fast=False).model
    assert isinstance(used.encoder.blocks[0].attention.stacked, fast.StackedProjection)
    assert used.num_parameters() == plain.num_parameters() == sum(p.numel() for p in plain.parameters())
    assert plain.encoder.blocks[0].attention.stacked is None
    ids = torch.tensor([[2, 7, 5, 3]])
    torch.testing.assert_close(used(ids).logits, plain(ids).logits, **ROUNDING)


def test_a_pytorch_without_packed_weights_is_noticed_beforehand(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("could not create a primitive descriptor")

    for broken in (fail, lambda weight, rows: 2 * weight):
        with monkeypatch.context() as patch:
            patch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", broken)
            assert not can_pack.__wrapped__()


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
    found = fast.StackedProjection(linears, first_only)(x, memory)
    for part, linear, source in zip(found, linears, (x, memory, memory), strict=True):
        torch.testing.assert_close(part, linear(source), **ROUNDING)


def test_a_layer_without_its_linear_layers_has_no_fast_form():
    block = tiny_model().encoder.blocks[0]
    assert fast.attention_parts(block.attention, False) and fast.feed_forward_parts(block.feed_forward)
    block.attention.key = block.feed_forward.inner = nn.Identity()
    assert fast.attention_parts(block.attention, False) is None and fast.feed_forward_parts(block.feed_forward) is None
