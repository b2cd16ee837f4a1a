"""The fast form of a model: the same function, whatever the shape, the head, the mask, and the PyTorch."""

import copy

import pytest
import torch
from torch import nn

from kd_scratch import fast
from kd_scratch.checkpoint import load_model
from kd_scratch.evaluate import open_model
from kd_scratch.fast import PackedLinear, make_fast, stacked
from kd_scratch.int8 import quantize
from tests.conftest import tiny_model
from tests.test_int8 import EVERY_KIND, IDS, KINDS, MASK

ROUNDING = dict(rtol=1e-4, atol=1e-6)
INPUTS = ((IDS, None), (IDS, MASK), (IDS[:1], None), (IDS[:, :1], None), (IDS.repeat(40, 5), MASK.repeat(40, 5)))


@EVERY_KIND
@pytest.mark.parametrize("head", ["sequence", "token", "span"])
def test_the_fast_form_computes_the_same_in_float_to_rounding_and_in_int8_bit_for_bit(kind, head):
    model = tiny_model(head, **KINDS[kind])
    small = quantize(model)
    for slow, close in ((model, ROUNDING), (small, dict(rtol=0, atol=0))):
        quick = make_fast(copy.deepcopy(slow) if slow is model else quantize(model))
        with torch.inference_mode():
            for ids, mask in INPUTS:
                torch.testing.assert_close(quick(ids, mask).logits, slow(ids, mask).logits, **close)
        assert quick.num_parameters() == slow.num_parameters()


@EVERY_KIND
def test_hidden_states_and_attention_maps_can_still_be_had(kind):
    model = tiny_model("sequence", **KINDS[kind])
    ask = dict(attention_mask=MASK, output_hidden_states=True, output_attentions=True)
    expected, found = model(IDS, **ask), make_fast(copy.deepcopy(model))(IDS, **ask)
    for ours, theirs in ((found.hidden_states, expected.hidden_states), (found.attentions, expected.attentions)):
        assert len(ours) == len(theirs) > 0
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, **ROUNDING)


def test_layers_are_stacked_in_their_order_with_and_without_packed_weights(monkeypatch):
    torch.manual_seed(0)
    layers, x = [nn.Linear(12, n) for n in (5, 7, 1)], torch.randn(2, 3, 12)
    expected = torch.cat([layer(x) for layer in layers], dim=-1)
    for packs in (True, False):
        monkeypatch.setattr(fast, "can_pack", lambda packs=packs: packs)
        layer = stacked(layers)
        assert isinstance(layer, PackedLinear) == packs
        torch.testing.assert_close(layer(x), expected, **ROUNDING)


def test_models_are_opened_for_use_in_their_fast_form_and_elsewhere_as_they_are(model_directory):
    used, plain = open_model(model_directory).model, open_model(model_directory, fast=False).model
    assert isinstance(used.encoder.blocks[0].attention, fast.FusedAttention)
    assert used.num_parameters() == plain.num_parameters() == sum(p.numel() for p in plain.parameters())
    assert type(plain.encoder.blocks[0].attention) is type(load_model(model_directory).encoder.blocks[0].attention)
    ids = torch.tensor([[2, 7, 5, 3]])
    torch.testing.assert_close(used(ids).logits, plain(ids).logits, **ROUNDING)
