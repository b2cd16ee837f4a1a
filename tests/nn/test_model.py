"""The whole model: published sizes, heads, padding, dropout, initial weights, and which shapes are refused."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from kd_scratch.common.errors import UserError
from kd_scratch.config import SIZES, ModelConfig
from kd_scratch.nn.layers import Encoder, sinusoidal_table
from kd_scratch.nn.model import Model, make_head, with_dropout
from tests.conftest import EVERY_KIND, KINDS, TINY, tiny_model

B, S, C, L = 2, 7, 3, TINY.depth
SHAPES = {"sequence": (B, C), "token": (B, S, C), "span": (B, S, 2)}
EVERY_HEAD = pytest.mark.parametrize("head", SHAPES)

IDS = torch.randint(1, TINY.vocab_size, (B, S), generator=torch.Generator().manual_seed(1))
TYPES = torch.tensor([[0, 0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0, 0]])
LENGTHS = (S, 4)  # the second text has three positions of padding
MASK = torch.tensor([[1] * length + [0] * (S - length) for length in LENGTHS])


def make(kind="bert", head="sequence", dtype=torch.float64, **shape):
    return tiny_model(head, **KINDS[kind] | shape).to(dtype)


def close(actual, expected):
    assert_close(actual, expected, rtol=1e-10, atol=1e-10)


def real(logits):
    """The logits of real positions: one row per text from a sequence head, one per token from the others."""
    return logits if logits.dim() == 2 else logits[MASK.bool()]


# --- sizes ---


@pytest.mark.parametrize(
    ("size", "head", "classes", "count"),
    [
        ("bert-base", "sequence", 4, 109_485_316),
        ("bert-base", "token", 9, 108_898_569),
        ("bert-large", "span", 0, 334_094_338),
        ("distilbert-base", "sequence", 4, 66_956_548),
        ("distilbert-base", "token", 9, 66_369_801),
        ("distilbert-base", "span", 0, 66_364_418),
    ],
)
def test_published_shapes_have_the_published_number_of_parameters(size, head, classes, count):
    with torch.device("meta"):
        model = Model(replace(SIZES[size], head=head, labels=tuple(map(str, range(classes)))))
    assert model.num_parameters() == count


@EVERY_KIND
@EVERY_HEAD
def test_every_parameter_gets_a_gradient_from_the_logits(kind, head):
    model = make(kind, head)
    model(IDS, MASK, TYPES).logits.sum().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


# --- what a forward pass gives ---


@EVERY_KIND
@EVERY_HEAD
def test_logits_have_the_heads_shape_and_asking_for_more_changes_no_logits(kind, head):
    model = make(kind, head)
    plain = model(IDS, MASK, TYPES)
    assert plain.logits.shape == SHAPES[head] and plain.hidden_states == plain.attentions == []
    states = model(IDS, MASK, TYPES, output_hidden_states=True)
    maps = model(IDS, MASK, TYPES, output_attentions=True)
    close(states.logits, plain.logits)
    close(maps.logits, plain.logits)
    assert [h.shape for h in states.hidden_states] == [(B, S, TINY.width)] * (L + 1) and states.attentions == []
    assert [a.shape for a in maps.attentions] == [(B, TINY.heads, S, S)] * L and maps.hidden_states == []
    sums = torch.stack(maps.attentions).sum(-1)
    close(sums, torch.ones_like(sums))


@EVERY_KIND
@EVERY_HEAD
def test_logits_are_the_heads_formula_on_the_last_hidden_state(kind, head):
    model = make(kind, head)
    last = model(IDS, MASK, TYPES, output_hidden_states=True).hidden_states[-1]
    if head == "sequence":
        last = last[:, 0] @ model.head.pooler.weight.T + model.head.pooler.bias
        last = last.clamp(min=0) if kind == "distilbert" else last.tanh()
    close(model(IDS, MASK, TYPES).logits, last @ model.head.classifier.weight.T + model.head.classifier.bias)


@EVERY_KIND
def test_hidden_state_0_is_the_normalized_sum_of_word_segment_and_position(kind):
    model = make(kind, norm_epsilon=0.1)
    sinusoidal = model.config.positions == "sinusoidal"
    positions = sinusoidal_table(S, TINY.width) if sinusoidal else model.positions.weight[:S]
    x = model.embeddings.word.weight[IDS] * (TINY.width**0.5 if sinusoidal else 1) + positions
    if model.config.token_types:
        x = x + model.embeddings.token_type.weight[TYPES]
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 0.1).sqrt()
    expected = x * model.embedding_norm.weight + model.embedding_norm.bias
    close(model(IDS, MASK, TYPES, output_hidden_states=True).hidden_states[0], expected)


@pytest.mark.parametrize(("norm_first", "activation"), [(False, "gelu_new"), (True, "relu")])
def test_the_last_hidden_state_is_that_of_an_encoder_of_the_given_shape(norm_first, activation):
    shape = dict(heads=4, activation=activation, norm_first=norm_first)
    model = make(norm_epsilon=0.1, feed_forward=24, **shape)
    encoder = Encoder(L, TINY.width, epsilon=0.1, inner_width=24, **shape).double()
    encoder.load_state_dict(model.encoder.state_dict())
    states = model(IDS, MASK, TYPES, output_hidden_states=True).hidden_states
    close(states[-1], encoder(states[0], MASK.bool())[0])


def test_a_model_without_a_head_gives_its_hidden_states_and_no_logits():
    assert make_head(TINY) is None
    output = make(head=None)(IDS, MASK)
    assert output.logits is None
    assert [h.shape for h in output.hidden_states] == [(B, S, TINY.width)] * (L + 1)  # the last block in full


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_model_computes_in_the_dtype_of_its_parameters(dtype):
    output = make(dtype=dtype)(IDS, MASK, output_hidden_states=True, output_attentions=True)
    assert {x.dtype for x in (output.logits, *output.hidden_states, *output.attentions)} == {dtype}


# --- padding and segments ---


@EVERY_KIND
@EVERY_HEAD
def test_padding_a_batch_changes_no_logits_of_real_positions(kind, head):
    model = make(kind, head)
    batch = real(model(IDS, MASK, TYPES).logits)
    alone = [model(IDS[i : i + 1, :n], None, TYPES[i : i + 1, :n]).logits[0] for i, n in enumerate(LENGTHS)]
    close(batch, torch.stack(alone) if head == "sequence" else torch.cat(alone))


@EVERY_HEAD
@pytest.mark.parametrize("output_attentions", [False, True], ids=["fused", "explicit"])
def test_which_ids_stand_at_padding_makes_no_difference_at_all(head, output_attentions):
    model, other = make(head=head, dtype=torch.float32), torch.where(MASK.bool(), IDS, (IDS + 50) % TINY.vocab_size)
    first, second = (model(ids, MASK, output_attentions=output_attentions).logits for ids in (IDS, other))
    assert torch.equal(real(first), real(second))
    assert not torch.allclose(real(first), real(model(other).logits))  # without a mask they would


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32], ids=str)
def test_a_mask_may_be_of_any_dtype_and_none_means_all_ones(dtype):
    model = make()
    assert torch.equal(model(IDS, MASK.to(dtype)).logits, model(IDS, MASK).logits)
    close(model(IDS, torch.ones_like(MASK).to(dtype)).logits, model(IDS).logits)


@pytest.mark.parametrize(("mask", "given"), [(torch.ones_like(MASK), False), (MASK, True)], ids=["full", "padded"])
def test_no_block_masks_anything_where_nothing_is_padded(mask, given):
    """Each would make a mask of floats of it for its fused kernel: as long as two norms, of a short text."""
    model, seen = make(), []
    model.encoder.register_forward_pre_hook(lambda encoder, arguments: seen.append(arguments[1]))
    model(IDS, mask)
    assert [each is not None for each in seen] == [given]


def test_segments_matter_for_bert_and_absent_ones_are_segment_0():
    model = make("bert")
    assert not torch.allclose(model(IDS, MASK, TYPES).logits, model(IDS, MASK).logits)
    assert torch.equal(model(IDS, MASK, torch.zeros_like(TYPES)).logits, model(IDS, MASK).logits)


def test_distilbert_has_no_segments():
    model = make("distilbert")
    assert not [name for name, _ in model.named_parameters() if "token_type" in name]
    assert torch.equal(model(IDS, MASK, TYPES).logits, model(IDS, MASK).logits)


def test_a_text_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match="41 tokens.* only 40 positions"):
        make()(torch.ones(1, TINY.max_positions + 1, dtype=torch.long))


# --- dropout ---


OFF = dict(dropout=0.0, attention_dropout=0.0, head_dropout=0.0)


@pytest.mark.parametrize("where", OFF)
@EVERY_HEAD
@EVERY_KIND
def test_each_dropout_acts_in_training_only_and_none_where_all_are_0(kind, head, where):
    model, expected = make(kind, head, **OFF | {where: 0.5}), make(kind, head, **OFF)(IDS, MASK).logits
    close(model(IDS, MASK).logits, expected)
    acts = not torch.allclose(model.train()(IDS, MASK).logits, expected)
    # BERT's published span head is the only head without dropout.
    assert acts == (not (where == "head_dropout" and head == "span" and kind != "distilbert"))
    close(make(kind, head, **OFF).train()(IDS, MASK).logits, expected)


def test_hidden_states_have_one_dropout_and_attention_weights_another():
    model = make(head=None, dropout=0.5, attention_dropout=0.25).train()
    assert 0.3 < (model(IDS).hidden_states[0] == 0).double().mean() < 0.7
    for block in model.encoder.blocks:
        assert block.attention_residual.dropout == block.feed_forward_residual.dropout == 0.5
        assert block.attention.dropout == 0.25


def test_with_dropout_changes_the_encoders_dropout_and_the_heads_only_when_all_is_off():
    config = SIZES["distilbert-base"]
    assert with_dropout(config, 0.3) == replace(config, dropout=0.3, attention_dropout=0.3)
    assert with_dropout(config, 0.0) == replace(config, **OFF)
    assert with_dropout(config, 0.3, 0.0) == replace(config, dropout=0.3, attention_dropout=0.0)
    assert with_dropout(config, 0.0, 0.2) == replace(config, **OFF | {"attention_dropout": 0.2})


# --- initial weights ---


@EVERY_KIND
@pytest.mark.parametrize("std", [0.02, 0.3])
def test_initial_weights_are_normal_with_the_given_deviation_biases_zero_and_norms_unit(kind, std):
    torch.manual_seed(0)
    model = Model(replace(TINY, **KINDS[kind], width=64, head="sequence", labels=("no", "yes"), init_std=std))
    matrices = [parameter.flatten() for parameter in model.parameters() if parameter.dim() > 1]
    assert torch.cat(matrices).abs().max() > 3 * std  # a normal's tails, neither uniform nor cut
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert set(parameter.tolist()) == {float("norm" in name and name.endswith("weight"))}, name
            continue
        scaled = model.config.positions == "sinusoidal" and name == "embeddings.word.weight"
        expected = 1 / 64**0.5 if scaled else std  # times sqrt(64) that is as large as the sinusoids
        standard_error = expected / parameter.numel() ** 0.5
        assert abs(parameter.mean()) < 4 * standard_error, name
        assert abs(parameter.std() - expected) < 4 * standard_error / 2**0.5, name


def test_the_default_deviation_is_berts():
    assert ModelConfig().init_std == 0.02


def seeded(seed):
    torch.manual_seed(seed)
    return TINY


def test_equal_seeds_give_equal_models_and_other_seeds_others():
    first, again, other = (Model(seeded(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    matrices = [name for name in first if first[name].dim() == 2]
    assert matrices and not any(torch.equal(first[name], other[name]) for name in matrices)


# --- shapes that are refused ---


@pytest.mark.parametrize(
    ("field", "shape"),
    [
        *((name, {name: 0}) for name in ("vocab_size", "width", "depth", "heads", "feed_forward", "max_positions")),
        ("width 10 is not a multiple of 4 heads", dict(width=10, heads=4)),
        ("head is regression", dict(head="regression")),
        ("labels are missing, a sequence head", dict(head="sequence")),
        ("labels are missing, a token head", dict(head="token")),
        ("labels hold the same label twice", dict(head="token", labels=("O", "B", "O"))),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_by_the_name_of_its_field(field, shape):
    with pytest.raises(UserError, match=field):
        ModelConfig(**shape)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "gpt"),
        ("activation", "swish"),
        ("positions", "spiral"),
        ("token_types", -1),
        ("dropout", 1.5),
        ("attention_dropout", -0.1),
        ("head_dropout", 1.5),
        ("init_std", -0.02),
        ("norm_epsilon", -1.0),
    ],
)
def test_a_value_without_meaning_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(UserError, match=field):
        ModelConfig(**{field: value})


def test_a_span_head_has_two_classes_and_the_others_as_many_as_labels():
    assert ModelConfig(head="span").classes == 2
    assert ModelConfig(head="token", labels=("O", "B-PER", "I-PER")).classes == 3
