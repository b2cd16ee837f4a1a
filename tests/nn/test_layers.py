"""The layers, bottom-up: each against its formula written out long-hand in float64, and against torch's own module."""

import functools
import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._pytree import tree_leaves

from kd_scratch.nn import layers
from kd_scratch.nn.layers import (
    Encoder,
    EncoderBlock,
    FeedForwardBlock,
    InputEmbeddings,
    LayerNormalization,
    MultiHeadAttention,
    PositionalEncoding,
    ResidualConnection,
    attention,
    dropout,
    sinusoidal_table,
)

B, S, D, H, F, L = 2, 5, 8, 2, 12, 3
W = D // H
IDS, TYPES = torch.tensor([[3, 0, 10], [7, 7, 1]]), torch.tensor([[0, 1, 1], [1, 0, 0]])
MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])  # B,S: the second text has two positions of padding
KEYS = MASK[:, None, None, :]
BLIND = torch.tensor([True, False])[:, None, None, None].expand(B, 1, 1, S)  # the second text may look at nothing
BOTH_PATHS = pytest.mark.parametrize("need_maps", [False, True], ids=["fused", "explicit"])
BOTH_NORMS = pytest.mark.parametrize("norm_first", [False, True], ids=["post-norm", "pre-norm"])
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-3}
EVERY_DTYPE = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


def numbers(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(module):
    """The module in float64 and eval mode, every parameter random: zero biases and unit norms would hide mistakes."""
    for i, parameter in enumerate(module.parameters()):
        parameter.data = numbers(*parameter.shape, seed=100 + i) * 0.5 + (parameter.dim() == 1) * 0.3
    return module.double().eval()


def block(norm_first=False, **options):
    return EncoderBlock(**{"width": D, "heads": H, "inner_width": F, "norm_first": norm_first} | options)


def encoder(norm_first=False, **options):
    return Encoder(L, D, norm_first, **{"heads": H, "inner_width": F} | options)


def queries_keys_values(dtype=torch.float64):
    return [(2 * numbers(B, H, S, W, seed=seed)).to(dtype).requires_grad_() for seed in (1, 2, 3)]


def gradients(output, wanted):
    """Of a sum that gives every number of the output another weight."""
    return torch.autograd.grad((output * numbers(*output.shape, seed=9).to(output.dtype)).sum(), wanted)


def close(actual, expected):
    tolerance = TOLERANCE[actual[0].dtype]
    assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# --- the formulas, by hand, one position at a time ---


def each(formula, x):
    """A formula for one position, D -> D', at every position of every text, B,S,D -> B,S,D'"""
    return torch.stack([torch.stack([formula(row) for row in text]) for text in x])


def by_hand_norm(norm, x, epsilon=1e-12):
    """D -> D"""
    mean = sum(x) / len(x)
    variance = sum((v - mean) ** 2 for v in x) / len(x)
    return (x - mean) / (variance + epsilon) ** 0.5 * norm.weight + norm.bias


def by_hand_attention(query, keys, values, may_look):
    """One query W on keys and values S,W; the masked ones are left out of the sums -> W, and the weights S"""
    scores = [(query @ key / math.sqrt(len(query))).exp() for key in keys]
    total = sum(score for score, look in zip(scores, may_look, strict=True) if look)
    weights = [score * look / total for score, look in zip(scores, may_look, strict=True)]
    return sum(w * value for w, value in zip(weights, values, strict=True)), torch.stack(weights)


def by_hand_heads(layer, x, memory, may_look):
    """One query D on one text's memory S,D -> D, and the maps H,S: head h owns the h-th W of the D numbers"""
    means, maps = [], []
    for h in range(layer.heads):
        rows = slice(h * D // layer.heads, (h + 1) * D // layer.heads)
        query, *others = (
            [p.weight[rows] @ vector + p.bias[rows] for vector in vectors]
            for p, vectors in ((layer.query, [x]), (layer.key, memory), (layer.value, memory))
        )
        mean, weights = by_hand_attention(query[0], *others, may_look)
        means.append(mean)
        maps.append(weights)
    return layer.output.weight @ torch.cat(means) + layer.output.bias, torch.stack(maps)


BY_HAND_ACTIVATIONS = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "gelu_new": lambda x: x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
}


def by_hand_feed_forward(layer, x, activation="gelu"):
    """D -> D"""
    inner = [BY_HAND_ACTIVATIONS[activation](v) for v in (layer.inner.weight @ x + layer.inner.bias).tolist()]
    return layer.outer.weight @ x.new_tensor(inner) + layer.outer.bias


def by_hand_block(layer, text, may_look):
    """One text S,D -> S,D"""
    first, second = layer.attention_residual.norm, layer.feed_forward_residual.norm
    if layer.attention_residual.norm_first:
        normed = [by_hand_norm(first, x) for x in text]
        middle = [x + by_hand_heads(layer.attention, y, normed, may_look)[0] for x, y in zip(text, normed, strict=True)]
        return torch.stack([x + by_hand_feed_forward(layer.feed_forward, by_hand_norm(second, x)) for x in middle])
    middle = [by_hand_norm(first, x + by_hand_heads(layer.attention, x, text, may_look)[0]) for x in text]
    return torch.stack([by_hand_norm(second, x + by_hand_feed_forward(layer.feed_forward, x)) for x in middle])


# --- facts about all layers ---

X = numbers(B, S, D)
MASKED = [
    pytest.param(lambda: MultiHeadAttention(D, H), KEYS, id="multi-head attention"),
    *(pytest.param(lambda norm=norm: block(norm), KEYS, id=f"block, {norm=}") for norm in (False, True)),
    *(pytest.param(lambda norm=norm: encoder(norm), MASK, id=f"encoder, {norm=}") for norm in (False, True)),
]


def apply(layer, x, mask=None, need_maps=False):
    """Self-attention layers called alike -> the output B,S,D and the maps."""
    given = (x, x) if isinstance(layer, MultiHeadAttention) else (x,)
    result = layer(*given, mask, need_maps=need_maps)
    return result[0], result[-1]


@pytest.mark.parametrize(
    ("layer", "inputs"),
    [
        (InputEmbeddings(11, D, token_types=2), (IDS, TYPES)),
        (InputEmbeddings(11, D, token_types=2), (IDS,)),
        (PositionalEncoding(S, D), (X,)),
        (PositionalEncoding(S, D, "sinusoidal"), (X,)),
        (LayerNormalization(D), (X,)),
        *((MultiHeadAttention(D, H), (X[:, :2], X, KEYS, maps)) for maps in (False, True)),
        *((FeedForwardBlock(D, F, activation), (X,)) for activation in BY_HAND_ACTIVATIONS),
        *((block(norm), (X, KEYS, maps, first)) for norm, maps, first in [(False, False, True), (True, True, False)]),
        (encoder(norm_first=True), (X, MASK, True, True)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_gradients_match_finite_differences(layer, inputs):
    layer, names = filled(layer), [name for name, _ in layer.named_parameters()]
    inputs = [x.clone().requires_grad_() if x is X else x for x in inputs]

    def call(*values):
        parameters = dict(zip(names, values, strict=False))
        output = torch.func.functional_call(layer, parameters, values[len(names) :])
        return tuple(x for x in tree_leaves(output) if x is not None)

    values = [*layer.parameters(), *inputs]
    assert all(output.requires_grad for output in call(*values))  # gradcheck skips those that do not
    assert torch.autograd.gradcheck(call, values, fast_mode=True)


@pytest.mark.parametrize(("make", "mask"), MASKED)
@EVERY_DTYPE
def test_the_explicit_and_the_fused_path_agree(make, mask, dtype):
    layer = filled(make()).to(dtype)
    outputs = [apply(layer, X.to(dtype), mask, need_maps)[0] for need_maps in (False, True)]
    assert outputs[0].dtype == dtype
    close(*outputs)
    if dtype == torch.float64:
        close(*(gradients(y, list(layer.parameters())) for y in outputs))


@BOTH_PATHS
@pytest.mark.parametrize(("make", "mask"), MASKED)
def test_what_stands_at_masked_positions_changes_nothing_elsewhere(make, mask, need_maps):
    layer, wild = filled(make()), torch.where(MASK[..., None], X, 1e6 * X + 1e5)
    assert torch.equal(apply(layer, X, mask, need_maps)[0][MASK], apply(layer, wild, mask, need_maps)[0][MASK])


@BOTH_PATHS
@pytest.mark.parametrize(("make", "mask"), MASKED)
def test_padding_changes_nothing_and_a_mask_of_ones_is_no_mask(make, mask, need_maps):
    layer, text = filled(make()), X[1:, :3]
    alone = apply(layer, text, None, need_maps)[0]
    close(apply(layer, X, mask, need_maps)[0][1:, :3], alone)
    close(apply(layer, text, torch.ones_like(mask[1:, ..., :3]), need_maps)[0], alone)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: MultiHeadAttention(D, H, dropout=p),
        lambda p: block(attention_dropout=p),
        lambda p: block(dropout=p),
        lambda p: encoder(dropout=p),
        lambda p: encoder(attention_dropout=p),
    ],
    ids=["multi-head attention", "block's attention", "block", "encoder", "encoder's attention"],
)
@BOTH_PATHS
def test_dropout_acts_in_training_only_and_dropout_0_never(make, need_maps):
    layer, without = filled(make(0.5)), filled(make(0.0))
    expected = apply(layer, X, None, need_maps)[0]
    assert torch.equal(apply(without.train(), X, None, need_maps)[0], expected)
    assert not torch.allclose(apply(layer.train(), X, None, need_maps)[0], expected)


# --- embeddings and positions ---


def test_an_embedding_is_the_sum_of_the_words_row_and_the_segments_row():
    layer = filled(InputEmbeddings(11, D, token_types=2))
    words, segments = layer.word.weight, layer.token_type.weight
    expected = [[words[i] + segments[j] for i, j in zip(*rows, strict=True)] for rows in zip(IDS, TYPES, strict=True)]
    assert torch.equal(layer(IDS, TYPES), torch.stack([torch.stack(text) for text in expected]))
    assert torch.equal(layer(IDS), layer(IDS, torch.zeros_like(IDS)))


def test_without_token_types_there_is_no_segment_table():
    layer = filled(InputEmbeddings(11, D))
    assert [name for name, _ in layer.named_parameters()] == ["word.weight"]
    assert torch.equal(layer(IDS, TYPES), layer.word.weight[IDS])


@pytest.mark.parametrize("width", [6, 7])
def test_sinusoids_follow_the_papers_formula(width):
    table = sinusoidal_table(512, width)
    assert table.shape == (512, width) and table.dtype == torch.float32
    for p in (0, 1, 2, 100, 511):
        for i in range(width):
            angle = p / 10000 ** (i // 2 * 2 / width)
            # Half a step of float32, since the table is computed in float64: in float32 the angle alone is off by more.
            assert float(table[p, i]) == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=2**-25)


def test_sinusoids_are_numbers_on_the_cpu_whatever_the_default_device():
    with torch.device("meta"):  # where every other tensor is without numbers
        table, layer = sinusoidal_table(S, D), PositionalEncoding(S, D, "sinusoidal")
    assert table.device.type == layer.weight.device.type == "cpu"
    assert torch.equal(table, sinusoidal_table(S, D)) and torch.equal(table, layer.weight)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal"])
def test_token_s_of_every_text_gets_vector_s_and_a_text_too_long_is_refused(kind):
    layer = filled(PositionalEncoding(S, D, kind))
    for length in (3, S):
        expected = torch.stack([torch.stack([text[s] + layer.weight[s] for s in range(length)]) for text in X])
        assert torch.equal(layer(X[:, :length]), expected)
    with pytest.raises(ValueError, match="6 tokens.* only 5 positions"):
        layer(numbers(B, S + 1, D))


def test_learned_positions_are_parameters_and_sinusoids_are_neither_learned_nor_saved():
    learned = PositionalEncoding(S, D)
    assert list(learned.state_dict()) == [name for name, _ in learned.named_parameters()] == ["weight"]
    sinusoidal = PositionalEncoding(S, D, "sinusoidal")
    assert not sinusoidal.state_dict() and not list(sinusoidal.parameters())
    assert torch.equal(sinusoidal.weight, sinusoidal_table(S, D))
    with pytest.raises(ValueError, match="'spiral'"):
        PositionalEncoding(S, D, "spiral")


# --- normalization ---


@pytest.mark.parametrize("epsilon", [1e-12, 0.5])
def test_layer_norm_is_its_formula_and_torchs(epsilon):
    layer, reference = filled(LayerNormalization(D, epsilon)), nn.LayerNorm(D, epsilon).double()
    reference.load_state_dict(layer.state_dict())
    close(layer(X), each(lambda x: by_hand_norm(layer, x, epsilon), X))
    close(layer(X), reference(X))


def test_a_new_layer_norm_has_weight_1_bias_0_and_berts_epsilon():
    layer = LayerNormalization(D).double()
    assert torch.equal(layer.weight, torch.ones(D)) and torch.equal(layer.bias, torch.zeros(D))
    x = numbers(D) * 1e-6  # a variance of 1e-12: torch's default of 1e-5 would flatten it
    assert_close(layer(x), by_hand_norm(layer, x, 1e-12))


# --- attention ---


@BOTH_PATHS
@pytest.mark.parametrize("mask", [None, KEYS, torch.ones(S, S).tril().bool()], ids=["no mask", "padding", "causal"])
def test_attention_is_its_formula(mask, need_maps):
    query, key, value = queries_keys_values()
    y, maps = attention(query, key, value, mask, need_maps=need_maps)
    may_look = torch.ones(B, H, S, S, dtype=torch.bool) if mask is None else mask.expand(B, H, S, S)
    assert y.shape == query.shape and (maps.shape == (B, H, S, S) if need_maps else maps is None)
    for b, h, q in torch.cartesian_prod(*map(torch.arange, (B, H, S))):
        mean, weights = by_hand_attention(query[b, h, q], key[b, h], value[b, h], may_look[b, h, q])
        close(y[b, h, q], mean)
        if need_maps:
            close(maps[b, h, q], weights)


@BOTH_PATHS
@EVERY_DTYPE
def test_masked_keys_have_no_influence_and_get_no_gradient(dtype, need_maps):
    query, key, value = queries_keys_values(dtype)
    masked = ~MASK[:, None, :, None]
    wild = [torch.where(masked, 1e6 * x.detach() + 1e5, x.detach()) for x in (key, value)]
    y, _ = attention(query, key, value, KEYS, need_maps=need_maps)
    assert torch.equal(y, attention(query, *wild, KEYS, need_maps=need_maps)[0])
    for gradient in gradients(y, (key, value)):
        assert not gradient.masked_select(masked).any() and gradient.masked_select(~masked).any()


@pytest.mark.parametrize("need_maps", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_query_that_may_look_at_nothing_looks_at_everything_with_finite_gradients(dtype, need_maps):
    inputs = queries_keys_values(dtype)
    y, _ = attention(*inputs, BLIND, need_maps=need_maps)
    close(y[1], attention(*(x[1:] for x in inputs), need_maps=need_maps)[0][0])
    assert all(gradient.isfinite().all() for gradient in gradients(y, inputs))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_query_that_may_look_at_nothing_has_the_same_gradients_on_both_paths(dtype):
    inputs = queries_keys_values(dtype)
    close(*(gradients(attention(*inputs, BLIND, need_maps=path)[0], inputs) for path in (False, True)))


def fused_calls(monkeypatch):
    """A list that grows with every call of PyTorch's fused kernel."""
    calls, fused = [], layers.F.scaled_dot_product_attention
    monkeypatch.setattr(layers.F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or fused(*a, **k))
    return calls


@pytest.mark.parametrize(("dropout", "mask"), [(0.0, KEYS), (0.0, None), (0.1, KEYS)])
def test_training_without_attention_dropout_is_fused_with_the_gradients_of_the_explicit_path(
    monkeypatch, dropout, mask
):
    calls = fused_calls(monkeypatch)
    layer = filled(MultiHeadAttention(D, H, dropout)).train()
    x, found = X.clone().requires_grad_(), []
    for need_maps in (False, True):
        y, _ = layer(x, x, mask, need_maps)
        found.append(torch.autograd.grad((y * numbers(*y.shape, seed=9)).sum(), [x, *layer.parameters()]))
    assert bool(calls) == (dropout == 0)
    if dropout == 0:
        close(*found)


def test_training_in_bf16_is_explicit_on_a_cpu_and_evaluating_is_fused(monkeypatch):
    calls, inputs = fused_calls(monkeypatch), queries_keys_values(torch.bfloat16)
    learning, _ = attention(*inputs, KEYS)
    assert not calls
    with torch.no_grad():
        evaluating, _ = attention(*(x.detach() for x in inputs), KEYS)
    assert calls and torch.allclose(learning.float(), evaluating.float(), atol=0.05)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1000, 41), (39999,)], ids=str)
def test_dropout_zeroes_with_probability_p_and_scales_up_the_rest(p, shape):
    x = torch.ones(shape, dtype=torch.float64)
    y = dropout(x, p)
    dropped = (y == 0).double().mean().item()
    assert abs(dropped - p) < 5 * math.sqrt(p * (1 - p) / x.numel())
    assert y[y != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)
    if len(shape) == 2:  # nor is there a pattern in rows and columns
        for means in ((y == 0).double().mean(0), (y == 0).double().mean(1)):
            assert means.std().item() == pytest.approx(math.sqrt(p * (1 - p) * len(means) / x.numel()), rel=0.5)


def test_dropout_drops_the_gradient_of_what_it_drops():
    x = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    y = dropout(x, 0.4)
    y.sum().backward()
    close(x.grad, torch.where(y == 0, 0.0, y / x).detach())


@pytest.mark.parametrize(
    "x",
    [torch.randn(5, 3), torch.randn(0, 3), torch.randn(3, 5, dtype=torch.bfloat16)],
    ids=["matrix", "empty", "bfloat16"],
)
def test_dropout_keeps_shape_and_type_and_does_nothing_at_0_or_when_evaluating(x):
    assert dropout(x, 0.0) is x and dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.5).shape == x.shape and dropout(x, 0.5).dtype == x.dtype


def test_dropout_depends_on_pytorchs_generator_alone_and_takes_extreme_probabilities():
    x, results = torch.ones(1000), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        results.append(dropout(x, 0.3))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])
    for p in (1e-9, 1 - 1e-9):
        assert dropout(x, p).isfinite().all()


@BOTH_PATHS
def test_attention_dropout_zeroes_weights_and_scales_up_the_rest(need_maps):
    query, key, _ = queries_keys_values()
    value = torch.eye(S, dtype=torch.float64).repeat(B, H, 1, 2)  # so that the output is the weights, twice
    whole, _ = attention(query, key, value, KEYS)
    y, maps = attention(query, key, value, KEYS, dropout_p=0.25, need_maps=need_maps)
    kept = y != 0
    assert 0 < kept.sum() < (whole != 0).sum()
    close(y[kept], whole[kept] / 0.75)
    assert torch.equal(y[..., :S], y[..., S:])  # weights are dropped, not parts of the output
    if need_maps:
        close(maps, whole[..., :S])  # the maps that are returned are those before dropout


def copied(layer, reference):
    """Fills torch's own attention module with the parameters of a layer of this package."""
    parts = (layer.query, layer.key, layer.value)
    reference.load_state_dict(
        {
            "in_proj_weight": torch.cat([part.weight for part in parts]),
            "in_proj_bias": torch.cat([part.bias for part in parts]),
            "out_proj.weight": layer.output.weight,
            "out_proj.bias": layer.output.bias,
        }
    )
    return reference


@BOTH_PATHS
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_multi_head_attention_is_its_formula_and_torchs(heads, need_maps):
    layer = filled(MultiHeadAttention(D, heads))
    reference = copied(layer, nn.MultiheadAttention(D, heads, batch_first=True).double())
    x = numbers(B, 3, D, seed=2)
    y, maps = layer(x, X, KEYS, need_maps)
    expected, expected_maps = reference(x, X, X, key_padding_mask=~MASK, average_attn_weights=False)
    assert y.shape == (B, 3, D) and (maps.shape == (B, heads, 3, S) if need_maps else maps is None)
    close(y, expected)
    for b, q in torch.cartesian_prod(torch.arange(B), torch.arange(3)):
        by_hand, by_hand_maps = by_hand_heads(layer, x[b, q], X[b], MASK[b])
        close(y[b, q], by_hand)
        if need_maps:
            close(maps[b, :, q], by_hand_maps)
            close(maps[b, :, q], expected_maps[b, :, q])


def test_a_width_that_heads_do_not_divide_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="width 8 .* 3 heads"):
        MultiHeadAttention(8, 3)


# --- feed-forward, residual, block ---


@pytest.mark.parametrize(
    ("activation", "reference"), [("gelu", nn.GELU()), ("gelu_new", nn.GELU("tanh")), ("relu", nn.ReLU())]
)
def test_feed_forward_is_its_formula_and_torchs(activation, reference):
    layer = filled(FeedForwardBlock(D, F, activation))
    close(layer(X), each(lambda x: by_hand_feed_forward(layer, x, activation), X))
    close(layer(X), nn.Sequential(layer.inner, reference, layer.outer)(X))


@BOTH_NORMS
def test_the_residual_adds_the_input_and_norms_where_it_should(norm_first):
    layer = filled(ResidualConnection(D, norm_first=norm_first, epsilon=0.5))
    norm = functools.partial(by_hand_norm, layer.norm, epsilon=0.5)
    formula = (lambda x: x + norm(x).sin()) if norm_first else (lambda x: norm(x + x.sin()))
    y = layer.before(X).sin()
    close(layer(X, y), each(formula, X))
    close(layer(X, y[:, :2]), layer(X, y)[:, :2])  # a sublayer that computes the first positions alone


def test_the_residual_drops_parts_of_the_sublayers_output_and_nothing_of_the_input():
    layer = ResidualConnection(D, dropout=0.25, norm_first=True).double().train()
    added = layer(X, torch.ones_like(X)) - X
    assert {round(v, 9) for v in added.flatten().tolist()} == {0, round(1 / 0.75, 9)}
    assert torch.equal(layer.eval()(X, torch.ones_like(X)), X + 1)


def reference_block(layer, norm_first, activation="gelu"):
    """torch's own encoder layer with our parameters; in training mode, since its inference fast path zeroes padding."""
    reference = nn.TransformerEncoderLayer(D, H, F, 0.0, activation, 1e-12, batch_first=True, norm_first=norm_first)
    copied(layer.attention, reference.double().self_attn)
    for name, part in (
        ("linear1", layer.feed_forward.inner),
        ("linear2", layer.feed_forward.outer),
        ("norm1", layer.attention_residual.norm),
        ("norm2", layer.feed_forward_residual.norm),
    ):
        getattr(reference, name).load_state_dict(part.state_dict())
    return reference


@BOTH_NORMS
@BOTH_PATHS
def test_a_block_is_its_formula(norm_first, need_maps):
    layer = filled(block(norm_first))
    expected = torch.stack([by_hand_block(layer, text, may_look) for text, may_look in zip(X, MASK, strict=True)])
    close(layer(X, KEYS, need_maps)[0], expected)


@pytest.mark.parametrize("silent", ["attention.output", "feed_forward.outer"])
def test_a_block_drops_parts_of_either_sublayers_output(silent):
    layer = filled(block(norm_first=True, dropout=0.5))
    for parameter in layer.get_submodule(silent).parameters():
        parameter.data.zero_()
    assert not torch.allclose(layer.train()(X)[0], layer.eval()(X)[0])


@BOTH_NORMS
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_a_block_is_torchs(norm_first, activation):
    layer = filled(block(norm_first, activation=activation))
    close(layer(X, KEYS)[0], reference_block(layer, norm_first, activation)(X, src_key_padding_mask=~MASK))


# --- Encoder ---


@BOTH_NORMS
def test_an_encoder_is_a_stack_of_torchs_blocks_and_pre_norm_ends_with_a_norm(norm_first):
    layer, expected = filled(encoder(norm_first)), X
    for part in layer.blocks:
        expected = reference_block(part, norm_first)(expected, src_key_padding_mask=~MASK)
    if norm_first:
        expected = each(lambda x: by_hand_norm(layer.final_norm, x), expected)
    close(layer(X, MASK)[0], expected)
    assert (layer.final_norm is not None) == norm_first


@BOTH_NORMS
def test_block_i_leads_from_hidden_state_i_to_i_plus_1_and_has_attention_map_i(norm_first):
    layer = filled(encoder(norm_first))
    output, hidden_states, maps = layer(X, MASK, need_states=True, need_maps=True)
    assert [x.shape for x in hidden_states] == [X.shape] * (L + 1) and [m.shape for m in maps] == [(B, H, S, S)] * L
    assert hidden_states[0] is X
    for i, part in enumerate(layer.blocks):
        y, own_map = part(hidden_states[i], KEYS, need_maps=True)
        last = norm_first and i == L - 1
        assert torch.equal(hidden_states[i + 1], layer.final_norm(y) if last else y)
        assert torch.equal(maps[i], own_map)
    assert hidden_states[-1] is output
    alone, *nothing = layer(X, MASK)
    assert torch.allclose(alone, output) and nothing == [[], []]


@BOTH_NORMS
@BOTH_PATHS
@pytest.mark.parametrize("mask", [None, MASK], ids=["no mask", "mask"])
def test_first_only_is_the_full_computations_first_position_in_values_and_gradients(norm_first, need_maps, mask):
    layer, x = filled(encoder(norm_first)), X.clone().requires_grad_()
    full, first = (layer(x, mask, True, need_maps, first_only)[1] for first_only in (False, True))
    assert [h.shape[1] for h in first] == [S] * L + [1]
    wanted = [x, *layer.parameters()]
    close(first[-1], full[-1][:, :1])
    close(gradients(first[-1], wanted), gradients(full[-1][:, :1], wanted))
