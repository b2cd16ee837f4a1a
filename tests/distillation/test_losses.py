"""Distillation: losses against their formulas by hand, what counts as a unit, and the teacher's cached logits."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kd_scratch.checkpoints.safetensors import load_file, read_metadata, save_file
from kd_scratch.common.errors import UserError
from kd_scratch.config import TrainConfig
from kd_scratch.data.batches import IGNORE, UNLABELLED, EncodedInputs, collate, epoch_batches, length_sorted_batches
from kd_scratch.distillation import teacher as teacher_module
from kd_scratch.distillation.losses import cross_entropy, distillation_loss, partly_taught_loss, soft_target_loss
from kd_scratch.distillation.teacher import by_row, gather, label_order, mean_logits, mean_probabilities, teacher_logits
from kd_scratch.distillation.units import count_units, unit_labels, unit_logits
from tests.conftest import tiny_model, units
from tests.data.test_batches import CPU, HEADS, random_features

LENGTHS = [6, 4, 9, 3, 9, 5]
LABELS = ("no", "yes", "maybe")


def random_logits(*shape, seed, dtype=torch.float64):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_rows(features, seed):
    """Logits as compute_logits gives them: a row per input (sequence head) or per token."""
    rows = len(features) if features.head == "sequence" else len(features.tokens)
    return random_logits(rows, 2 if features.head == "span" else 3, seed=seed, dtype=torch.float32).numpy()


def softmax_by_hand(row, temperature=1.0):
    powers = [math.exp(x / temperature) for x in row]
    return [power / sum(powers) for power in powers]


def soft_targets_by_hand(student, teacher, temperature):
    """T² Σ_units Σ_k p_k (ln p_k − ln q_k), one number after another."""
    total = 0.0
    for z, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = softmax_by_hand(t, temperature), softmax_by_hand(z, temperature)
        total += sum(p_k * (math.log(p_k) - math.log(q_k)) for p_k, q_k in zip(p, q, strict=True))
    return temperature**2 * total


def gradient(loss, student, *arguments):
    student = student.clone().requires_grad_()
    loss(student, *arguments).backward()
    return student.grad


# --- the losses ---


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_soft_targets_are_t_squared_times_the_sum_over_units_of_kl_teacher_student(temperature):
    z, t = random_logits(6, 5, seed=1), random_logits(6, 5, seed=2)
    by_hand = soft_targets_by_hand(z, t, temperature)
    assert soft_target_loss(z, t, temperature).item() == pytest.approx(by_hand, rel=1e-12)
    assert soft_targets_by_hand(t, z, temperature) != pytest.approx(by_hand, rel=1e-4), "the sides are not alike"


def test_soft_targets_have_the_gradient_t_times_q_minus_p():
    z, t = random_logits(4, 5, seed=1).requires_grad_(), random_logits(4, 5, seed=2)
    assert torch.autograd.gradcheck(lambda z: soft_target_loss(z, t, 3.0), z)
    expected = 3.0 * ((z / 3).softmax(-1) - (t / 3).softmax(-1))
    torch.testing.assert_close(gradient(soft_target_loss, z.detach(), t, 3.0), expected.detach())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_are_zero_with_zero_gradient_where_student_and_teacher_agree_and_positive_elsewhere(temperature):
    z = random_logits(4, 5, seed=1)
    shifted = z + torch.arange(4.0).unsqueeze(1)  # adding a number to all logits of a unit changes no probability
    for teacher in (z, shifted):
        assert soft_target_loss(z, teacher, temperature).item() == pytest.approx(0, abs=1e-12)
        assert gradient(soft_target_loss, z, teacher, temperature).abs().max() < 1e-12
    assert soft_target_loss(z, z.flip(0), temperature) > 1


def test_t_squared_keeps_the_size_of_the_gradient_for_large_t():
    z, t = random_logits(4, 5, seed=1), random_logits(4, 5, seed=2)
    sizes = [gradient(soft_target_loss, z, t, temperature).norm().item() for temperature in (30.0, 300.0)]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.1)
    centred = (z - z.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    torch.testing.assert_close(gradient(soft_target_loss, z, t, 1e4), centred / 5, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("loss", ["soft", "hard"])
def test_losses_are_sums_over_units_and_no_means_over_units_or_classes(loss):
    z, t = random_logits(4, 5, seed=1), random_logits(4, 5, seed=2)
    labels = torch.tensor([0, 4, 2, 2])

    def total(copies, more_outcomes):
        wider = [torch.nn.functional.pad(x, (0, more_outcomes), value=-1e30).repeat(copies, 1) for x in (z, t)]
        return soft_target_loss(*wider, 2.0) if loss == "soft" else cross_entropy(wider[0], labels.repeat(copies))

    once = total(1, 0).item()
    assert total(3, 0).item() == pytest.approx(3 * once)
    assert total(1, 7).item() == pytest.approx(once), "outcomes without mass change nothing"


def test_an_outcome_that_the_teacher_rules_out_adds_nothing_however_likely_the_student_thinks_it():
    z, t = torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([[0.5, -0.5, -1e30]])
    p, q = softmax_by_hand([0.5, -0.5]), softmax_by_hand([1.0, 2.0, 5.0])
    by_hand = sum(p_k * math.log(p_k / q_k) for p_k, q_k in zip(p, q[:2], strict=True))
    assert soft_target_loss(z, t, 1.0).item() == pytest.approx(by_hand, rel=1e-5)


def test_cross_entropy_is_the_sum_of_minus_log_probability_of_the_labels():
    z, labels = random_logits(4, 5, seed=1), [0, 4, 2, 2]
    by_hand = -sum(math.log(softmax_by_hand(row)[label]) for row, label in zip(z.tolist(), labels, strict=True))
    assert cross_entropy(z, torch.tensor(labels)).item() == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_a_unit_without_a_teacher_has_its_label_alone_and_the_others_are_as_ever(alpha):
    student, teacher = random_logits(6, 4, seed=1).requires_grad_(), random_logits(6, 4, seed=2)
    labels = torch.tensor([0, 1, 2, 3, UNLABELLED, 1])
    teacher[[1, 5]] = math.nan
    taught = [0, 2, 3, 4]
    loss = partly_taught_loss(student, teacher, labels, 2.0, alpha)
    expected = distillation_loss(student[taught], teacher[taught], labels[taught], 2.0, alpha)
    expected = expected + cross_entropy(student[[1, 5]], labels[[1, 5]])
    torch.testing.assert_close(loss, expected)
    (found,), (wanted,) = torch.autograd.grad(loss, student), torch.autograd.grad(expected, student)
    torch.testing.assert_close(found, wanted)


def test_a_unit_without_label_has_soft_targets_and_no_cross_entropy():
    z, t, labels = (
        random_logits(4, 5, seed=1),
        random_logits(4, 5, seed=2),
        torch.tensor([0, UNLABELLED, 2, UNLABELLED]),
    )
    expected = 0.7 * cross_entropy(z[[0, 2]], labels[[0, 2]]) + 0.3 * soft_target_loss(z, t, 2.0)
    torch.testing.assert_close(distillation_loss(z, t, labels, 2.0, 0.3), expected)
    nobody = torch.full((4,), UNLABELLED)
    torch.testing.assert_close(distillation_loss(z, t, nobody, 2.0, 0.3), 0.3 * soft_target_loss(z, t, 2.0))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_alpha_weighs_soft_targets_against_the_labels(alpha):
    z, t, labels = random_logits(4, 5, seed=1), random_logits(4, 5, seed=2), torch.tensor([0, 4, 2, 2])
    expected = (1 - alpha) * cross_entropy(z, labels) + alpha * soft_target_loss(z, t, 2.0)
    torch.testing.assert_close(distillation_loss(z, t, labels, 2.0, alpha), expected)


def test_alpha_0_never_looks_at_the_teacher_and_alpha_1_never_at_the_labels():
    z, t, labels = random_logits(4, 5, seed=1), random_logits(4, 5, seed=2), torch.tensor([0, 4, 2, 2])
    nothing, no_labels = torch.full_like(t, math.nan), torch.full_like(labels, 10**6)
    assert distillation_loss(z, nothing, labels, 2.0, 0.0) == cross_entropy(z, labels)
    assert distillation_loss(z, t, no_labels, 2.0, 1.0) == soft_target_loss(z, t, 2.0)


# --- units ---


def test_a_head_that_is_not_there_has_no_units():
    features = random_features("sequence", LENGTHS)
    batch = collate(features, np.array([0, 1]), CPU)
    for call in (
        lambda: unit_logits("pixel", torch.zeros(2, 3), batch),
        lambda: unit_labels("pixel", batch),
        lambda: count_units(replace(features, head="pixel"), np.array([0])),
    ):
        with pytest.raises(ValueError, match="there is no head 'pixel'"):
            call()


@pytest.mark.parametrize("head", ["sequence", "token", "span"])
def test_units_are_in_full_precision_whatever_the_model_ran_in(head):
    batch = collate(random_features(head, LENGTHS), np.array([0, 1]), CPU)
    shape = (2, 3) if head == "sequence" else (*batch.input_ids.shape, 2 if head == "span" else 3)
    assert unit_logits(head, torch.zeros(shape, dtype=torch.bfloat16), batch).dtype == torch.float32


def test_a_unit_is_one_text_one_labelled_token_or_one_start_and_one_end():
    logits = torch.arange(2 * 3 * 2).reshape(2, 3, 2).float()
    features = EncodedInputs(
        "token", ["a", "b"], np.arange(5), np.array([0, 3, 5]), np.array([IGNORE, 1, 0, IGNORE, 1])
    )
    batch = collate(features, np.array([0, 1]), CPU)
    rows, labels = units("token", logits, batch)
    assert rows.tolist() == [[2, 3], [4, 5], [8, 9]], "neither the ignored tokens nor the padding (last row)"
    assert labels.tolist() == [1, 0, 1]

    features = replace(features, head="span", labels=np.array([[1, 2], [1, 1]]), allowed=np.array([0, 1, 1, 0, 1]) > 0)
    rows, labels = units("span", logits, collate(features, np.array([0, 1]), CPU))
    kept = [[x if x > -1e20 else None for x in row] for row in rows.tolist()]
    assert kept == [[None, 2, 4], [None, 3, 5], [None, 8, None], [None, 9, None]], "start and end of each text"
    assert labels.tolist() == [1, 2, 1, 1]

    features = replace(features, head="sequence", labels=np.array([2, 0]), allowed=None)
    rows, labels = units("sequence", logits[:, 0], collate(features, np.array([1, 0]), CPU))
    assert (rows.tolist(), labels.tolist()) == ([[0, 1], [6, 7]], [0, 2])


@pytest.mark.parametrize("head", HEADS)
def test_units_are_counted_without_building_them(head):
    features = random_features(head, LENGTHS)
    for indices in ([0], [3, 1], [5, 4, 3, 2, 1, 0]):
        batch = collate(features, np.array(indices), CPU)
        rows, labels = units(head, gather(random_rows(features, 0), features, batch), batch)
        assert count_units(features, np.array(indices)) == len(rows) == len(labels)


TEMPERATURES = [1.0, 5.0, 0.25, 0.1]


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_spans_have_no_mass_outside_the_allowed_positions_and_no_nan_even_with_one_allowed(temperature):
    features = random_features("span", [3, 9, 4])  # of 3 tokens one is allowed
    batch = collate(features, np.arange(3), CPU)
    student = torch.from_numpy(random_rows(features, 1)).requires_grad_()
    padded = torch.nn.utils.rnn.pad_sequence(student.split([3, 9, 4]), batch_first=True)
    z, labels = units("span", padded, batch)
    t, _ = units("span", gather(random_rows(features, 2), features, batch), batch)
    outside = ~batch.allowed.repeat_interleave(2, 0)  # 2B,S: start and end of each text
    for logits in (z, t):
        assert (logits / temperature).softmax(-1)[outside].eq(0).all()
    loss = distillation_loss(z, t, labels, temperature, 0.5)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()
    assert student.grad[~torch.from_numpy(features.allowed)].eq(0).all()
    assert student.grad[:3].eq(0).all(), "where one position is allowed there is nothing to learn"
    assert student.grad[3:].ne(0).any()


def loss_of(features, student, teacher, indices, garbage=0.0):
    """The loss of a batch of these inputs, with `garbage` for logits at padded positions."""
    batch = collate(features, np.asarray(indices), CPU)
    z, t = gather(student, features, batch), gather(teacher, features, batch)
    if batch.attention_mask is not None and features.head != "sequence":
        z[~batch.attention_mask], t[~batch.attention_mask] = garbage, -garbage
    (z, labels), (t, _) = units(features.head, z, batch), units(features.head, t, batch)
    return distillation_loss(z, t, labels, 2.0, 0.5).item()


@pytest.mark.parametrize("head", HEADS)
def test_the_loss_does_not_depend_on_padding_or_on_what_else_is_in_the_batch(head):
    features = random_features(head, LENGTHS)
    student, teacher = random_rows(features, 1), random_rows(features, 2)
    alone = [loss_of(features, student, teacher, [i]) for i in range(len(features))]
    for indices in ([0, 1, 2, 3, 4, 5], [3, 2], [1, 5, 0]):
        for garbage in (0.0, 1e4, math.nan):
            loss = loss_of(features, student, teacher, indices, garbage)
            assert loss == pytest.approx(sum(alone[i] for i in indices), rel=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_a_batch_in_parts_gives_the_loss_and_gradient_of_the_whole_and_none_to_the_teacher(head, tmp_path):
    features = random_features(head, LENGTHS)  # the parts have different numbers of labelled tokens
    teacher, indices = tiny_model(head, seed=1), np.array([4, 0, 3, 5, 2, 1])
    cached = teacher_logits(teacher, teacher.config.labels, "", features, tmp_path, CPU, say=lambda line: None)
    results = []
    for parts in (1, 2, 4):
        student, total = tiny_model(head, seed=2), 0.0
        for part in np.array_split(indices, parts):
            batch = collate(features, part, CPU)
            z, labels = units(head, student(**batch.inputs).logits, batch)
            t, _ = units(head, gather(cached, features, batch), batch)
            loss = distillation_loss(z, t, labels, 2.0, 0.5) / count_units(features, indices)
            loss.backward()
            total += loss.item()
        results.append((total, student.embeddings.word.weight.grad))
    for total, grad in results[1:]:
        assert total == pytest.approx(results[0][0], rel=1e-5)
        torch.testing.assert_close(grad, results[0][1], rtol=1e-4, atol=1e-6)
    assert results[0][1].abs().max() > 1e-3
    assert all(parameter.grad is None for parameter in teacher.parameters())


# --- the order of the labels ---


def test_the_teachers_columns_are_found_by_the_names_of_the_labels():
    assert label_order(("maybe", "no", "yes"), LABELS).tolist() == [1, 2, 0]
    assert label_order(LABELS, LABELS).tolist() == [0, 1, 2]


def test_a_teacher_with_other_labels_is_refused_with_those_that_differ():
    with pytest.raises(UserError) as error:
        label_order(("no", "yes", "perhaps"), ("no", "yes", "maybe", "never"))
    for words in ("3 against 4", "only the teacher knows perhaps", "it does not know maybe, never"):
        assert words in str(error.value)


def test_a_teacher_whose_labels_have_no_names_is_refused_with_where_to_write_them():
    with pytest.raises(UserError, match="write their names into id2label of its config.json$"):
        label_order(("LABEL_0", "LABEL_1", "LABEL_2"), LABELS)


def with_labels(model, labels):
    """The same model with its classes in another order."""
    moved = tiny_model(model.config.head, labels=labels)
    order = [model.config.labels.index(label) for label in labels]
    state = model.state_dict()
    for part in ("weight", "bias"):
        state[f"head.classifier.{part}"] = state[f"head.classifier.{part}"][order]
    moved.load_state_dict(state)
    return moved


# --- the teacher's logits ---


@pytest.fixture
def cached(tmp_path):
    """teacher_logits into a fresh folder; what is not given is a teacher for LABELS and six inputs."""

    def call(teacher=None, tokenizer_hash="hash", features=None, labels=LABELS, dtype=None):
        teacher, features = teacher or tiny_model(), features or random_features("sequence", LENGTHS)
        return teacher_logits(teacher, labels, tokenizer_hash, features, cache, CPU, dtype, said.append)

    said, cache = [], tmp_path / "cache"
    call.files = lambda: sorted(cache.iterdir())
    call.said = said
    return call


@pytest.mark.parametrize("head", HEADS)
def test_cached_logits_go_with_the_example_and_not_with_the_step(head, cached):
    features, teacher = random_features(head, LENGTHS * 6), tiny_model(head)
    logits = cached(teacher, features=features, labels=teacher.config.labels)
    for epoch in (0, 1):
        for indices in epoch_batches(features.lengths, 5, seed=0, epoch=epoch):
            batch = collate(features, indices, CPU)
            live, _ = units(head, teacher(**batch.inputs).logits, batch)
            torch.testing.assert_close(units(head, gather(logits, features, batch), batch)[0], live, atol=1e-5, rtol=0)


@pytest.mark.parametrize("head", HEADS)
def test_cached_and_live_losses_are_bit_equal_on_the_same_batches(head, cached):
    features, teacher, student = random_features(head, LENGTHS), tiny_model(head), tiny_model(head, seed=1)
    cached(teacher, features=features, labels=teacher.config.labels)
    from_file = cached(teacher, features=features, labels=teacher.config.labels)
    batch = collate(features, length_sorted_batches(features.lengths, 64)[0], CPU)
    z, labels = units(head, student(**batch.inputs).logits, batch)
    t_live, _ = units(head, teacher(**batch.inputs).logits, batch)
    t_file, _ = units(head, gather(from_file, features, batch), batch)
    assert torch.equal(t_live, t_file)
    assert distillation_loss(z, t_live, labels, 2.0, 0.5) == distillation_loss(z, t_file, labels, 2.0, 0.5)
    assert not t_file.requires_grad


def test_the_second_call_reads_the_file_and_does_not_run_the_teacher(cached, monkeypatch):
    first = cached()
    monkeypatch.setattr(teacher_module, "compute_logits", None)
    assert np.array_equal(cached(), first)
    assert ["computed once" in line for line in cached.said] == [True, False]
    assert f"read from {cached.files()[0]}" in cached.said[1]


def test_another_teacher_tokenizer_input_label_order_precision_or_code_has_another_file(cached, monkeypatch):
    features, tokens = random_features("sequence", LENGTHS), sum(LENGTHS)
    calls = [
        {},
        {"teacher": tiny_model(seed=1)},
        {"tokenizer_hash": "other"},
        {"features": random_features("sequence", LENGTHS, seed=1)},
        {"features": random_features("sequence", [4, 6, *LENGTHS[2:]])},
        {"features": replace(features, token_types=np.ones(tokens, np.uint8))},
        {"features": replace(features, allowed=np.ones(tokens, bool))},
        {"labels": ("yes", "no", "maybe")},
        {"dtype": torch.bfloat16},
    ]
    for count, call in enumerate(calls, 1):
        cached(**call)
        assert len(cached.files()) == count
    for call in calls:
        cached(**call)
    assert len(cached.files()) == len(calls)
    monkeypatch.setattr(teacher_module, "source_hash", lambda *modules, versions: "somebody has changed a layer")
    cached()
    assert len(cached.files()) == len(calls) + 1


def test_other_gold_labels_of_the_inputs_change_nothing_for_the_teacher(cached):
    features = random_features("sequence", LENGTHS)
    cached(features=features)
    cached(features=replace(features, labels=features.labels[::-1].copy()))
    assert len(cached.files()) == 1


@pytest.mark.parametrize("lie", ["another's metadata", "no metadata", "too few rows", "too few columns", "other name"])
def test_a_file_whose_content_contradicts_its_name_is_refused(cached, lie):
    cached()
    path = cached.files()[0]
    key, logits = read_metadata(path), load_file(path)["logits"].clone()
    content = {
        "another's metadata": ({"logits": logits}, key | {"teacher": "0" * 64}),
        "no metadata": ({"logits": logits}, None),
        "too few rows": ({"logits": logits[1:]}, key),
        "too few columns": ({"logits": logits[:, 1:]}, key),
        "other name": ({"scores": logits}, key),
    }
    save_file(content[lie][0], path, content[lie][1], checksum=True)
    with pytest.raises(UserError, match=f"{path.name}: these are not this teacher's logits.*delete the file"):
        cached()


def test_a_damaged_file_is_noticed_and_the_teacher_asked_again(cached):
    expected = cached().copy()
    path = cached.files()[0]
    raw = path.read_bytes()
    path.unlink()
    path.write_bytes(raw[:-60] + bytes([raw[-60] ^ 1]) + raw[-59:])
    assert np.array_equal(cached(), expected) and path.read_bytes() == raw
    assert any("made anew" in line for line in cached.said)


def test_a_teacher_that_knows_the_labels_in_another_order_is_reindexed_by_name(cached):
    teacher = tiny_model()
    expected = cached(teacher)
    moved = cached(with_labels(teacher, ("maybe", "no", "yes")))
    np.testing.assert_allclose(moved, expected, atol=1e-6)
    assert np.array_equal(cached(teacher, labels=("maybe", "no", "yes")), expected[:, [2, 0, 1]])


@pytest.mark.parametrize("labels", [("no", "yes", "perhaps"), ("no", "yes"), ("no", "yes", "maybe", "never")], ids=len)
def test_a_teacher_with_other_labels_leaves_no_file(labels, cached):
    with pytest.raises(UserError, match="trained on other labels"):
        cached(labels=labels)
    assert not cached.files()


def test_a_teacher_left_in_train_mode_teaches_without_dropout(cached):
    teacher = tiny_model(dropout=0.5, attention_dropout=0.5, head_dropout=0.5)
    expected = cached(teacher)
    cached.files()[0].unlink()
    assert np.array_equal(cached(teacher.train()), expected)


def test_a_teacher_whose_logits_are_no_finite_numbers_is_refused_and_nothing_is_kept(cached):
    teacher = tiny_model()
    teacher.head.classifier.bias.data[1] = math.nan
    with pytest.raises(UserError, match="not finite"):
        cached(teacher)
    assert not cached.files()


def test_of_several_teachers_the_mean_of_the_logits_is_taken_whose_softmax_is_the_geometric_mean(tmp_path):
    each = [random_logits(5, 3, seed=i, dtype=torch.float32).numpy() for i in range(3)]
    assert mean_logits(each[:1], tmp_path) is each[0]
    mean = torch.from_numpy(mean_logits(each, tmp_path))
    torch.testing.assert_close(mean, torch.from_numpy(sum(each) / 3))
    for temperature in (1.0, 4.0):
        product = torch.stack([(torch.from_numpy(z) / temperature).softmax(-1) for z in each]).prod(0) ** (1 / 3)
        torch.testing.assert_close((mean / temperature).softmax(-1), product / product.sum(-1, keepdim=True))
    assert not list(tmp_path.iterdir()), "a file without a name"


@pytest.mark.parametrize("temperature", [1.0, 4.0, 0.25])
@pytest.mark.parametrize("cross_fitted", [False, True])
@pytest.mark.parametrize("head", HEADS)
def test_the_mean_of_probabilities_is_that_of_the_formula_by_hand(
    head, cross_fitted, temperature, tmp_path, monkeypatch
):
    """1/K Σ_k softmax(t_k/T), unit by unit; with cross-fitted teachers over those that have not seen the input."""
    monkeypatch.setattr(teacher_module, "TOGETHER", 4)  # of 6 inputs: the last part is smaller
    features = random_features(head, LENGTHS)
    each = [random_rows(features, seed) for seed in (1, 2, 3)]
    of_input = np.ones((3, 6), bool)
    if cross_fitted:
        of_input = np.array([[i % 3 == k or i == 5 for i in range(6)] for k in range(3)])  # the last is new to all
    counted = by_row(of_input, features) if cross_fitted else None
    mean = mean_probabilities(each, features, temperature, tmp_path, counted)
    assert mean.shape == each[0].shape and mean.dtype == np.float32 and np.isfinite(mean).all()
    for i in range(6):
        batch = collate(features, np.array([i]), CPU)
        q, _ = units(head, gather(mean, features, batch), batch)
        teachers = [units(head, gather(t, features, batch), batch)[0].double().tolist() for t in each]
        assert len(q) == len(teachers[0])
        for unit, row in enumerate(q.double().tolist()):
            known = [softmax_by_hand(t[unit], temperature) for t, counts in zip(teachers, of_input[:, i], strict=True)
                     if counts]  # fmt: skip
            expected = [sum(p) / len(known) for p in zip(*known, strict=True)]
            assert softmax_by_hand(row, temperature) == pytest.approx(expected, rel=3e-6, abs=1e-12)
            allowed = [t_k for t_k in row if t_k > -1e29]
            total = sum(math.exp(t_k / temperature) for t_k in allowed)
            assert total == pytest.approx(1, rel=3e-6), "they are T·log q, and nothing lies at masked positions"


def test_what_one_teacher_alone_finds_likely_keeps_its_share_and_one_teacher_is_itself(tmp_path):
    features = random_features("sequence", [4])
    each = [np.array([row], np.float32) for row in ([50, 0, -90], [0, 50, -90], [0, 50, -90])]
    mean = mean_probabilities(each, features, 1.0, tmp_path)
    assert np.exp(mean[0, :2]) == pytest.approx([1 / 3, 2 / 3], rel=1e-6) and mean[0, 2] == pytest.approx(-140)
    assert torch.from_numpy(mean_logits(each, tmp_path)).softmax(-1)[0, 0] < 1e-7, "which the geometric mean rules out"
    assert mean_probabilities(each[:1], features, 1.0, tmp_path) is each[0]
    with pytest.raises(UserError, match="--teacher-mean must be logits or probabilities, not median"):
        TrainConfig(teacher_mean="median")
    assert not list(tmp_path.iterdir()), "a file without a name"
