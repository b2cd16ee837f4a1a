"""Layers that somebody changes or adds: a change takes effect in the fast form too, or a note names the layer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kd_scratch.nn.fast import make_fast
from kd_scratch.nn.int8 import quantize
from kd_scratch.nn.kernels import PackedLinear
from kd_scratch.nn.layers import (
    FeedForwardBlock,
    MultiHeadAttention,
    attention,
    join_heads,
    split_heads,
)
from tests.conftest import tiny_model
from tests.nn.test_int8 import IDS, MASK

ROUNDING = dict(rtol=1e-4, atol=1e-6)
STEPS = dict(rtol=0, atol=0.02)  # int8: a number between two steps may go either way


class RotaryAttention(MultiHeadAttention):
    """As in kd_scratch/nn/README.md: queries and keys turned by an angle that grows with the position."""

    def project(self, x, memory):
        query, key, value = super().project(x, memory)
        return self.turned(query), self.turned(key), value

    def turned(self, x):
        width = x.size(2) // self.heads  # W
        speeds = 10000 ** (-torch.arange(0, width, 2) / width).repeat(self.heads)  # D/2
        angles = torch.arange(x.size(1))[:, None] * speeds  # S,D/2
        even, odd = x[..., 0::2], x[..., 1::2]  # B,S,D/2 each
        turned = even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()
        return torch.stack(turned, dim=-1).flatten(2)  # B,S,D/2,2 -> B,S,D


def rotary_model(head="sequence"):
    """A model without positions of its own, but for those in its attention."""
    model = tiny_model(head, token_types=0)
    for block in model.encoder.blocks:
        block.attention = RotaryAttention(model.config.width, model.config.heads)
    model.initialize()
    model.positions = nn.Identity()
    return model.eval()


@pytest.mark.parametrize("head", ["sequence", "token"])
def test_rotary_positions_are_trained_and_evaluated_in_every_form(head, capsys):
    model = rotary_model(head)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        model(IDS, MASK).logits.square().mean().backward()
        assert model.encoder.blocks[0].attention.query.weight.grad.abs().max() > 0
        optimizer.step()
    model.eval()
    small = quantize(model)
    for slow, close in ((model, ROUNDING), (small, STEPS)):
        quick = make_fast(copy.deepcopy(model) if slow is model else quantize(model))
        assert all(block.attention.stacked is not None for block in quick.encoder.blocks)
        for mask in (None, MASK):
            ask = dict(attention_mask=mask, output_attentions=True)
            torch.testing.assert_close(quick(IDS, mask).logits, slow(IDS, mask).logits, **close)
            torch.testing.assert_close(quick(IDS, **ask).attentions, slow(IDS, **ask).attentions, **close)
    assert "note" not in capsys.readouterr().out


def test_turned_scores_depend_on_distances_alone_and_the_losses_see_them():
    model = rotary_model("token")
    layer = model.encoder.blocks[0].attention
    same = torch.randn(1, 1, model.config.width).expand(1, 9, -1)  # the same piece at nine positions
    query, key, _ = (split_heads(part, layer.heads) for part in layer.project(same, same))
    scores = query @ key.transpose(-2, -1)  # 1,H,S,S
    torch.testing.assert_close(scores[..., 1:, 1:], scores[..., :-1, :-1])
    assert (scores[..., 0, 1] - scores[..., 0, 4]).abs().min() > 1e-6
    torch.testing.assert_close(layer.project(same, same), model.encoder.blocks[0].project(same))


def test_without_its_positions_a_rotary_model_would_not_see_the_order():
    model, turned_around = rotary_model(), IDS[:1].flip(1)
    turned_around = torch.cat([IDS[:1, :1], IDS[:1, 1:].flip(1)], dim=1)
    assert (model(IDS[:1]).logits - model(turned_around).logits).abs().max() > 1e-3
    for block in model.encoder.blocks:
        block.attention.turned = lambda x: x
    torch.testing.assert_close(model(IDS[:1]).logits, model(turned_around).logits, **ROUNDING)


# --- edits in place, as somebody makes them who changes layers.py ---


def sharper(self, x, memory, mask=None, need_maps=False):
    """MultiHeadAttention.forward with the queries tripled."""
    query, key, value = (split_heads(part, self.heads) for part in self.project(x, memory))
    y, maps = attention(3 * query, key, value, mask, 0.0, need_maps)
    return self.output(join_heads(y)), maps


def product_by_product(self, x, memory, mask=None, need_maps=False):
    """The same, past `project`."""
    query = split_heads(3 * self.query(x), self.heads)
    key, value = split_heads(self.key(memory), self.heads), split_heads(self.value(memory), self.heads)
    y, maps = attention(query, key, value, mask, 0.0, need_maps)
    return self.output(join_heads(y)), maps


def only_while_training(self, x, memory):
    """`project` with a change in one of its two ways only."""
    if self.stacked is not None:
        return self.stacked(x, memory)
    return 3 * self.query(x), self.key(memory), self.value(memory)


def two_activations(self, x):
    """FeedForwardBlock.forward with a second activation, on the way out."""
    return self.activation(self.outer(self.activation(self.inner(x))))


def scaled(self, x):
    return 2 * self.outer(self.activation(self.inner(x)))


def pruned(self, x):
    """A feed-forward that reads its weight, which the packed form cannot give: it raises a RuntimeError there."""
    weight = self.inner.weight * (self.inner.weight.abs() > 0.2)
    return self.outer(self.activation(F.linear(x, weight, self.inner.bias)))


EDITS = {
    "attention, around project": (MultiHeadAttention, "forward", sharper, True),
    "attention, past project": (MultiHeadAttention, "forward", product_by_product, False),
    "projection, one way only": (MultiHeadAttention, "project", only_while_training, False),
    "feed-forward, around its products": (FeedForwardBlock, "forward", scaled, True),
    "feed-forward, the activation twice": (FeedForwardBlock, "forward", two_activations, False),
    "feed-forward, its weight read": (FeedForwardBlock, "forward", pruned, False),
}


def edited(edit, monkeypatch, int8=False):
    """A model whose layers have been edited, and its fast form."""
    layer, method, function, _ = EDITS[edit]
    untouched = tiny_model("token")(IDS, MASK).logits
    monkeypatch.setattr(layer, method, function)
    model = tiny_model("token")
    assert (model(IDS, MASK).logits - untouched).abs().max() > 0.01
    if int8:
        return quantize(model), make_fast(quantize(model))
    return model, make_fast(copy.deepcopy(model))


@pytest.mark.parametrize("int8", [False, True], ids=["float", "int8"])
@pytest.mark.parametrize("edit", [name for name, (*_, follows) in EDITS.items() if follows])
def test_an_edit_in_place_takes_effect_in_the_fast_form(edit, int8, monkeypatch, capsys):
    slow, quick = edited(edit, monkeypatch, int8)
    torch.testing.assert_close(quick(IDS, MASK).logits, slow(IDS, MASK).logits, **(STEPS if int8 else ROUNDING))
    assert quick.encoder.blocks[0].attention.stacked is not None
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize("edit", [name for name, (*_, follows) in EDITS.items() if not follows])
def test_a_layer_that_the_fast_form_cannot_follow_is_kept_with_a_note(edit, monkeypatch, capsys):
    slow, quick = edited(edit, monkeypatch)
    torch.testing.assert_close(quick(IDS, MASK).logits, slow(IDS, MASK).logits, **ROUNDING)
    name = "attention" if EDITS[edit][0] is MultiHeadAttention else "feed_forward"
    output = capsys.readouterr().out
    assert output.startswith("note: used as they are, and not in the fast form")
    assert f"encoder.blocks.0.{name}, encoder.blocks.1.{name}, encoder.blocks.2.{name}" in output
    other = quick.encoder.blocks[0]
    assert isinstance(other.feed_forward.outer if name == "attention" else other.attention.output, PackedLinear)
    assert quick.num_parameters() == slow.num_parameters()


def test_linear_layers_of_another_kind_are_kept_with_a_note(capsys):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model = tiny_model("token")
    model.encoder.blocks[0].attention.key.__class__ = Doubled
    model.encoder.blocks[1].attention.query.bias = None
    model.encoder.blocks[2].feed_forward.activation = torch.sin  # which is no part of a product, but may stand outside
    quick = make_fast(copy.deepcopy(model))
    torch.testing.assert_close(quick(IDS, MASK).logits, model(IDS, MASK).logits, **ROUNDING)
    names = "encoder.blocks.0.attention, encoder.blocks.1.attention"
    assert capsys.readouterr().out.strip().endswith(f"something else: {names}")
    assert isinstance(quick.encoder.blocks[2].feed_forward.inner, PackedLinear)
