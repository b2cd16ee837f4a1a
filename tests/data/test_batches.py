"""Batches: which inputs come together and in what order, how they are padded, and a model's logits over all of them."""

import itertools
import random

import numpy as np
import pytest
import torch

from kd_scratch.config import DataConfig
from kd_scratch.data import batches as data_batches
from kd_scratch.data.batches import IGNORE, EncodedInputs, collate, epoch_batches, length_sorted_batches, pad
from kd_scratch.data.tokenizer import train_tokenizer
from kd_scratch.evaluation.inference import compute_logits, results
from kd_scratch.tasks import TASKS
from tests.conftest import TINY, tiny_model

CPU = torch.device("cpu")
HEADS = ("sequence", "token", "span")


def random_features(head, lengths, seed=0, classes=3):
    """Features of these lengths with random tokens (never 0, the padding) and random labels of each head's kind."""
    generator = np.random.default_rng(seed)
    lengths = np.asarray(lengths)
    total, starts = int(lengths.sum()), np.cumsum([0, *lengths])
    inside = np.arange(total) - np.repeat(starts[:-1], lengths)  # position of each token in its input
    allowed = (inside > 0) & (inside < np.repeat(lengths, lengths) - 1)  # all but the first and the last token
    if head == "sequence":
        labels = generator.integers(0, classes, len(lengths))
    elif head == "token":
        labels = np.where(allowed & (generator.random(total) < 0.7), generator.integers(0, classes, total), IGNORE)
    else:
        labels = np.sort(generator.integers(1, lengths - 1, (2, len(lengths))).T, axis=1)
    return EncodedInputs(
        head=head,
        ids=[f"input {i}" for i in range(len(lengths))],
        tokens=generator.integers(1, TINY.vocab_size, total).astype(np.int32),
        starts=starts,
        labels=labels,
        token_types=(inside > 2).astype(np.uint8) if head == "span" else None,
        allowed=allowed if head == "span" else None,
    )


def padding_share(lengths, batches):
    """Padding among all computed tokens."""
    computed = sum(len(batch) * lengths[batch].max() for batch in batches)
    return 1 - lengths.sum() / computed


# --- the order of an epoch ---


@pytest.mark.parametrize("inputs", [1, 31, 32, 33, 2048, 2049, 5000])
@pytest.mark.parametrize("batch_size", [1, 8, 32])
def test_every_input_comes_exactly_once_per_epoch_in_full_batches(inputs, batch_size):
    lengths = np.random.default_rng(0).integers(3, 50, inputs)
    for epoch in range(2):
        batches = epoch_batches(lengths, batch_size, seed=1, epoch=epoch)
        assert sorted(np.concatenate(batches)) == list(range(inputs))
        sizes = sorted(len(batch) for batch in batches)
        assert set(sizes[1:]) <= {batch_size}, "at most one batch is smaller"
        assert 1 <= sizes[0] <= batch_size


def order_of(seed, epoch, lengths):
    return [batch.tolist() for batch in epoch_batches(lengths, 8, seed, epoch)]


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(3, 50, 1000)
    first = order_of(3, 5, lengths)
    order_of(3, 4, lengths)
    for seed_elsewhere in (random.seed, np.random.seed, torch.manual_seed):
        seed_elsewhere(99)
    assert order_of(3, 5, lengths) == first


def test_the_order_differs_between_epochs_and_between_seeds():
    lengths = np.random.default_rng(0).integers(3, 50, 1000)
    orders = [order_of(seed, epoch, lengths) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]]
    assert len({str(order) for order in orders}) == 5


def test_other_inputs_come_together_in_every_epoch_even_where_all_fit_into_one_pool():
    lengths = np.random.default_rng(0).integers(3, 50, 500)
    first, second = ({frozenset(batch) for batch in order_of(0, epoch, lengths)} for epoch in (0, 1))
    assert len(first & second) < 5


def test_batches_come_in_random_order_of_length():
    lengths = np.random.default_rng(0).integers(3, 50, 4000)
    means = [lengths[batch].mean() for batch in epoch_batches(lengths, 32, 0, 0)]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3


@pytest.mark.parametrize("batch_size", [16, 32, 64])
def test_little_is_padded_on_lengths_like_those_of_news(batch_size):
    lengths = np.clip(np.random.default_rng(0).lognormal(3.8, 0.35, 20_000), 10, 128).astype(int)
    assert padding_share(lengths, epoch_batches(lengths, batch_size, 0, 0)) < 0.05
    in_file_order = np.split(np.arange(20_000), range(batch_size, 20_000, batch_size))
    assert padding_share(lengths, in_file_order) > 0.3, "the figure means something"


@pytest.mark.parametrize(
    "task, file, split", [("agnews", "ag_news_csv/train.csv", ""), ("clinc", "clinc150/data_full.json", "train")]
)
def test_little_is_padded_on_real_data(real_data, task, file, split):
    task = TASKS[task]
    examples = task.read(real_data(file), split, DataConfig())[::3]
    tokenizer = train_tokenizer(task.texts(examples[::5]), vocab_size=1000)
    lengths = task.featurize(examples, tokenizer, task.label_list(examples), 128, DataConfig()).lengths
    assert padding_share(lengths, epoch_batches(lengths, 32, 0, 0)) < 0.05


def test_length_sorted_batches_hold_every_input_once_longest_first_and_equals_in_file_order():
    lengths = np.array([5, 9, 5, 7, 9, 3, 5])
    batches = length_sorted_batches(lengths, 3)
    assert [batch.tolist() for batch in batches] == [[1, 4, 3], [0, 2, 6], [5]]


# --- padding ---


def test_rows_are_padded_behind_their_end_to_the_longest_of_the_batch():
    flat, starts = np.arange(10, 19), np.array([0, 2, 2, 5, 9])
    assert pad(flat, starts, np.array([2, 0, 1]), -1).tolist() == [[12, 13, 14], [10, 11, -1], [-1, -1, -1]]
    wide = np.stack([flat, -flat], axis=1)
    assert pad(wide, starts, np.array([0, 2]), 7).tolist() == [
        [[10, -10], [11, -11], [7, 7]],
        [[12, -12], [13, -13], [14, -14]],
    ]


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_holds_its_inputs_with_each_field_padded_by_its_own_value(head):
    features = random_features(head, [6, 4, 9, 3])
    indices = np.array([2, 0, 3])
    batch = collate(features, indices, CPU, pad_id=77)
    assert batch.indices is indices
    assert batch.tokens == 6 + 9 + 3
    assert batch.input_ids.shape == (3, 9)
    assert batch.input_ids.dtype == batch.labels.dtype == torch.int64
    for row, i in enumerate(indices):
        here, length = slice(features.starts[i], features.starts[i + 1]), features.lengths[i]
        fields = [(batch.input_ids, features.tokens, 77), (batch.attention_mask, np.ones(18 + 4, bool), False)]
        if head == "token":
            fields.append((batch.labels, features.labels, IGNORE))
        else:
            assert batch.labels[row].tolist() == features.labels[i].tolist()
        if head == "span":
            fields += [(batch.token_type_ids, features.token_types, 0), (batch.allowed, features.allowed, False)]
        else:
            assert batch.token_type_ids is batch.allowed is None
        for padded, flat, fill in fields:
            assert padded[row, :length].tolist() == flat[here].tolist()
            assert padded[row, length:].tolist() == [fill] * (9 - length)


@pytest.mark.parametrize("lengths, padded", [([4, 4, 4], False), ([4, 4, 3], True), ([9], False), ([3, 4], True)])
def test_the_attention_mask_is_none_exactly_where_nothing_is_padded(lengths, padded):
    batch = collate(random_features("span", lengths), np.arange(len(lengths)), CPU)
    assert (batch.attention_mask is not None) == padded
    assert batch.inputs == {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.token_type_ids,
    }


# --- a model over all inputs ---


def logits_alone(model, features):
    """Every input through the model by itself, unpadded; rows as compute_logits orders them."""
    rows = []
    for i in range(len(features)):
        with torch.no_grad():
            logits = model(**collate(features, np.array([i]), CPU).inputs).logits
        rows.append(logits if features.head == "sequence" else logits[0])
    return torch.cat(rows).numpy()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_logits_come_in_the_order_of_the_inputs_and_do_not_depend_on_the_batch(head, batch_size):
    features = random_features(head, [5, 12, 3, 30, 12, 7, 4])
    model = tiny_model(head).double()  # so that what differs by more than rounding differs for a reason
    logits = compute_logits(model, features, CPU, batch_size)
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, logits_alone(model, features), atol=1e-6)
    assert np.ptp(logits, axis=0).min() > 0.01, "inputs whose logits hardly differ would hide a wrong order"


def random_lengths(count):
    """Of texts: most short, some long, one beyond what a batch may hold."""
    lengths = np.random.default_rng(count).geometric(0.05, count).clip(1, 300)
    lengths[count // 2] = 2000
    return lengths


def test_a_batch_has_a_bounded_number_of_tokens_and_what_is_longer_is_one_by_itself():
    lengths, most = random_lengths(500), 1024
    batches = length_sorted_batches(lengths, tokens=most)
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(500))
    assert batches[0].tolist() == [250], "longer than a batch may be"
    padded = [len(batch) * lengths[batch].max() for batch in batches[1:]]
    assert max(padded) <= most
    for batch, following in itertools.pairwise(batches[1:]):  # and none is smaller than it need be
        assert (len(batch) + 1) * lengths[batch].max() > most, following
    assert lengths.sum() > 0.9 * sum(padded), "little of it is padding"


@pytest.mark.parametrize("head", HEADS)
def test_logits_do_not_depend_on_how_many_tokens_a_batch_has(monkeypatch, head):
    lengths = [5, 12, 3, 30, 12, 7, 4, 30, 3]
    features, seen, found = random_features(head, lengths), [], []
    model = tiny_model(head).double()
    model.register_forward_pre_hook(lambda model, _, inputs: seen.append(inputs["input_ids"].numel()), with_kwargs=True)
    for tokens in (10**6, 40, 25, 1):
        monkeypatch.setitem(data_batches.TOKENS, "cpu", tokens)
        found.append(compute_logits(model, features, CPU))
        assert all(number <= max(tokens, 30) for number in seen) and len(seen) == {10**6: 1, 1: 9}.get(
            tokens, len(seen)
        )
        seen.clear()
    for logits in found:
        np.testing.assert_allclose(logits, found[0], atol=1e-6)
        assert np.array_equal(logits.argmax(axis=-1), found[0].argmax(axis=-1))


def test_a_result_is_put_into_its_place_once_the_next_batch_has_begun():
    features, events = random_features("sequence", [3, 9, 5]), []

    def compute(batch):
        events.append(f"begun {batch.indices.tolist()}")
        return batch.input_ids.sum(dim=1)

    for indices, sums in results(compute, features, CPU, "", batch_size=1, pad_id=0):
        events.append(f"placed {indices.tolist()}")
        (i,) = indices
        assert sums.tolist() == [features.tokens[features.starts[i] : features.starts[i + 1]].sum()]
    assert events == ["begun [1]", "begun [2]", "placed [1]", "begun [0]", "placed [2]", "placed [0]"]


@pytest.mark.parametrize("training", [True, False])
def test_logits_are_computed_without_dropout_and_the_mode_is_put_back(training):
    features = random_features("token", [5, 12, 3])
    expected = compute_logits(tiny_model("token"), features, CPU)
    model = tiny_model("token", dropout=0.5, attention_dropout=0.5, head_dropout=0.5).train(training)
    assert np.array_equal(compute_logits(model, features, CPU), expected)
    assert model.training == model.encoder.blocks[0].training == training


def test_inputs_are_padded_with_the_models_own_pad_id_which_changes_no_logit():
    features, seen = random_features("sequence", [5, 12, 3]), []
    expected = compute_logits(tiny_model(), features, CPU)
    model = tiny_model(pad_id=119)
    model.register_forward_pre_hook(lambda model, _, inputs: seen.append(inputs["input_ids"]), with_kwargs=True)
    np.testing.assert_allclose(compute_logits(model, features, CPU), expected, atol=1e-6)
    assert seen[0][:, -1].tolist() == [features.tokens[16], 119, 119], "longest first"


def test_logits_keep_no_gradient_and_a_lower_precision_still_gives_float32():
    features = random_features("sequence", [5, 12, 3])
    model = tiny_model()
    low, full = (compute_logits(model, features, CPU, dtype=dtype) for dtype in (torch.bfloat16, None))
    assert low.dtype == np.float32
    assert 0 < np.abs(low - full).max() < 0.5
    assert all(parameter.grad is None for parameter in model.parameters())
