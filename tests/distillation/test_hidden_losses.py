"""hidden_losses.py: formulas by hand, masks, gradients, layers, projections."""

import copy
import math
from dataclasses import replace

import pytest
import torch

from kd_scratch.checkpoints.checkpoint import take_layers
from kd_scratch.common.errors import UserError
from kd_scratch.config import TrainConfig
from kd_scratch.distillation.hidden_losses import (
    HIDDEN_LOSSES,
    BothQKV,
    HiddenLosses,
    all_qkv,
    attention_mse,
    hidden_cosine,
    hidden_mse,
    make_hidden_losses,
    parse_losses,
    patient_mse,
    relation_kl,
    scaled_products,
)
from kd_scratch.distillation.layer_map import LAYER_MAPS, blocks, evenly_spread, explicit, parse_layer_map
from kd_scratch.distillation.student import Student
from kd_scratch.nn.layers import MultiHeadAttention
from tests.conftest import tiny_model

B, S, D, H = 3, 5, 8, 2
LENGTHS = (5, 2, 4)  # real tokens of each input
REAL = torch.arange(S) < torch.tensor(LENGTHS).unsqueeze(1)  # B,S


def states(seed: int, *shape) -> torch.Tensor:
    return torch.randn(*(shape or (B, S, D)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the formulas, one number after another ---


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def hidden_by_hand(s, t):
    total = 0.0
    for b, length in enumerate(LENGTHS):
        squares = [(s[b][i][d] - t[b][i][d]) ** 2 for i in range(length) for d in range(D)]
        total += sum(squares) / len(squares)
    return total


def cosine_by_hand(s, t):
    total = 0.0
    for b, length in enumerate(LENGTHS):
        pairs = [(s[b][i], t[b][i]) for i in range(length)]
        total += sum(1 - dot(x, y) / math.sqrt(dot(x, x) * dot(y, y)) for x, y in pairs) / length
    return total


def patient_by_hand(s, t):
    total = 0.0
    for b in range(B):
        x, y = s[b][0], t[b][0]
        long_x, long_y = math.sqrt(dot(x, x)), math.sqrt(dot(y, y))
        total += sum((x[d] / long_x - y[d] / long_y) ** 2 for d in range(D))
    return total


def scores_by_hand(q, k, h, heads):
    """The scores of head h of one input: S,S"""
    width = D // heads
    part = slice(h * width, (h + 1) * width)
    return [[dot(q[i][part], k[j][part]) / math.sqrt(width) for j in range(S)] for i in range(S)]


def attention_by_hand(s, t):
    total = 0.0
    for b, length in enumerate(LENGTHS):
        squares = []
        for h in range(H):
            x, y = scores_by_hand(*(part[b] for part in s), h, H), scores_by_hand(*(part[b] for part in t), h, H)
            squares += [(x[i][j] - y[i][j]) ** 2 for i in range(length) for j in range(length)]
        total += sum(squares) / len(squares)
    return total


def relations_by_hand(s, t, heads):
    total = 0.0
    for b, length in enumerate(LENGTHS):
        divergences = []
        for h in range(heads):
            x, y = scores_by_hand(s[b], s[b], h, heads), scores_by_hand(t[b], t[b], h, heads)
            for i in range(length):
                q, p = ([math.exp(row[i][j]) for j in range(length)] for row in (x, y))
                q, p = [a / sum(q) for a in q], [a / sum(p) for a in p]
                divergences.append(sum(a * math.log(a / c) for a, c in zip(p, q, strict=True)))
        total += sum(divergences) / len(divergences)
    return total


def attention_of(s, t, real):
    """Queries and keys are halves of what is given, so that one tensor each makes the loss."""
    return attention_mse(*(scaled_products(*x.chunk(2, dim=-1), H) for x in (s, t)), real)


#: name -> the loss of two tensors B,S,… and a mask; the same by hand
LOSSES = {
    "hidden": (hidden_mse, hidden_by_hand),
    "cosine": (hidden_cosine, cosine_by_hand),
    "patient": (patient_mse, patient_by_hand),
    "attention": (attention_of, lambda s, t: attention_by_hand(*([x[..., :D], x[..., D:]] for x in (s, t)))),
    "relations, 2 heads": (lambda s, t, real: relation_kl(s, t, real, 2), lambda s, t: relations_by_hand(s, t, 2)),
    "relations, 4 heads": (lambda s, t, real: relation_kl(s, t, real, 4), lambda s, t: relations_by_hand(s, t, 4)),
}
NAMES = list(LOSSES)


def pair(name):
    width = 2 * D if name == "attention" else D
    return states(1, B, S, width), states(2, B, S, width)


def test_every_loss_is_tested_here():
    assert {name.split(",")[0] for name in NAMES} == set(HIDDEN_LOSSES)


@pytest.mark.parametrize("name", NAMES)
def test_a_loss_is_its_formula_by_hand(name):
    loss, by_hand = LOSSES[name]
    s, t = pair(name)
    assert loss(s, t, REAL).item() == pytest.approx(float(by_hand(s, t)), rel=1e-10)
    assert loss(s, t, REAL) > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_that_of_finite_differences(name):
    s, t = pair(name)
    assert torch.autograd.gradcheck(lambda x: LOSSES[name][0](x, t, REAL), s.requires_grad_())


@pytest.mark.parametrize("name", NAMES)
def test_where_student_and_teacher_are_alike_the_loss_and_its_gradient_are_zero(name):
    s, _ = pair(name)
    s.requires_grad_()
    loss = LOSSES[name][0](s, s.detach(), REAL)
    loss.backward()
    assert abs(loss.item()) < 1e-12 and s.grad.abs().max() < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing_whatever_stands_there_and_has_no_gradient(name):
    loss = LOSSES[name][0]
    s, t = pair(name)
    expected = loss(s, t, REAL)
    torch.testing.assert_close(sum(loss(s[b : b + 1, :n], t[b : b + 1, :n], REAL[b : b + 1, :n])
                                   for b, n in enumerate(LENGTHS)), expected)  # fmt: skip
    for x in (s, t):
        x[~REAL] = 100 * torch.randn_like(x[~REAL])
    s.requires_grad_()
    found = loss(s, t, REAL)
    found.backward()
    torch.testing.assert_close(found, expected)
    assert s.grad[~REAL].abs().max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_sums_over_inputs_and_no_means(name):
    loss = LOSSES[name][0]
    s, t = pair(name)
    torch.testing.assert_close(loss(s.repeat(3, 1, 1), t.repeat(3, 1, 1), REAL.repeat(3, 1)), 3 * loss(s, t, REAL))


def test_cosine_and_patient_see_directions_and_no_lengths():
    s, t = pair("cosine")
    for name in ("cosine", "patient"):
        loss = LOSSES[name][0]
        torch.testing.assert_close(loss(3 * s, t, REAL), loss(s, t, REAL))


def test_patient_is_twice_one_minus_the_cosine_of_cls():
    s, t = pair("patient")
    cosines = torch.nn.functional.cosine_similarity(s[:, 0], t[:, 0], dim=-1)
    torch.testing.assert_close(patient_mse(s, t, REAL), (2 - 2 * cosines).sum())


# --- put together: layers, projections, the models ---

SHAPE = dict(depth=2, width=16, heads=2)
INPUTS = {
    "input_ids": torch.randint(5, 120, (B, S), generator=torch.Generator().manual_seed(0)),
    "attention_mask": REAL,
    "token_type_ids": None,
}


def two_models(**student):
    teacher = tiny_model(seed=1, depth=4, width=24, heads=3, feed_forward=48)
    return tiny_model(seed=2, **{**SHAPE, "width": 24, "heads": 3, **student}), teacher


def losses_of(weights, student, teacher, layers=()):
    """Between these layers, or evenly spread ones."""
    layers = layers or evenly_spread(student.config.depth, teacher.config.depth)
    return HiddenLosses(weights, layers, student.config, teacher.config)


def value(features, student, teacher, inputs=INPUTS):
    """The sum of the losses, with the teacher beside the student."""
    return Student(student, features, teacher)(inputs)[2]


def test_layers_are_spread_evenly_and_the_embeddings_go_with_the_embeddings():
    assert evenly_spread(3, 6) == [(0, 0), (1, 2), (2, 4), (3, 6)]
    assert evenly_spread(2, 12) == [(0, 0), (1, 6), (2, 12)]
    assert evenly_spread(4, 4) == [(i, i) for i in range(5)]
    assert evenly_spread(4, 2) == [(0, 0), (1, 1), (2, 1), (3, 2), (4, 2)], "a student deeper than its teacher"
    for depth in range(1, 8):
        for teacher_depth in range(depth, 13):
            pairs = evenly_spread(depth, teacher_depth)
            assert pairs[-1] == (depth, teacher_depth)
            assert len({its for _, its in pairs}) == depth + 1, "no layer of the teacher twice"


@pytest.mark.parametrize(
    ("name", "made_of", "pairs"),
    [
        ("spread", (0, 2, 4), "0:0,1:2,2:4,3:6"),
        ("own", (0, 2, 4), "0:0,1:1,2:3,3:5"),
        ("own", (5, 1, 3), "0:0,1:6,2:2,3:4"),
        ("last", (0, 2, 4), "3:6"),
        ("1:2", (0, 2, 4), "1:2"),
    ],
)
def test_a_map_has_a_name_or_pairs(name, made_of, pairs):
    assert explicit(name, 3, 6, made_of) == pairs
    assert parse_layer_map(name) == ([] if name in LAYER_MAPS else parse_layer_map(pairs))


@pytest.mark.parametrize(("made_of", "name"), [((0, 2, 4), "own"), (range(3), "own"), ((), "spread")])
def test_the_usual_map_is_of_own_layers_where_they_are_known(made_of, name):
    assert explicit("", 3, 6, made_of) == explicit(name, 3, 6, made_of)


def test_a_student_that_was_not_made_of_the_teachers_layers_has_no_own_ones():
    with pytest.raises(UserError, match="--layer-map own: the student is not made of a model of the teacher's depth"):
        explicit("own", 3, 6, ())


def test_from_python_too_a_map_may_be_a_name():
    student, teacher = two_models()

    def told(name, **more):
        return make_hidden_losses(
            TrainConfig(losses="hidden", layer_map=name), student.config, teacher.config, **more
        ).describe()

    assert told("last") == "1 · hidden (2→4)"
    assert told("") == told("spread") == "1 · hidden (0→0, 1→2, 2→4)"
    assert told("own", made_of=(0, 2)) == told("", made_of=(0, 2)) == "1 · hidden (0→0, 1→1, 2→3)"
    with pytest.raises(UserError, match="--layer-map own: the student is not made of a model of the teacher's depth"):
        told("own")


def test_own_layers_are_alike_at_the_start():
    """The first block of a student of layers 0, 2 and 4 is the first of its teacher, and not the second."""
    teacher = tiny_model(depth=6)
    student = take_layers(teacher, [0, 2, 4])
    inputs = torch.arange(12).reshape(2, 6)
    states = [model(inputs, output_hidden_states=True).hidden_states for model in (student, teacher)]
    real = torch.ones_like(inputs, dtype=torch.bool)
    distance = {}
    for name in ("own", "spread"):
        layer_map = parse_layer_map(explicit(name, 3, 6, (0, 2, 4)))[:2]
        losses = HiddenLosses({"hidden": 1.0, "attention": 1.0}, layer_map, student.config, teacher.config)
        qkv = BothQKV(all_qkv(student, states[0]), all_qkv(teacher, states[1]))
        distance[name] = losses(*states, real, qkv).item()
    assert distance["own"] == 0 < distance["spread"]


@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize("name", HIDDEN_LOSSES)
def test_each_loss_compares_the_layers_of_its_map(name, norm_first):
    """Against the hidden states and attention maps that the models themselves give."""
    student, teacher = two_models(norm_first=norm_first)
    layers = [(0, 0), (1, 3), (2, 4)]
    features = HiddenLosses({name: 2.0}, layers, student.config, teacher.config)
    s, t = (model(**INPUTS, output_hidden_states=True, output_attentions=True) for model in (student, teacher))
    if name == "hidden":
        expected = sum(hidden_mse(s.hidden_states[a], t.hidden_states[b], REAL) for a, b in layers)
    elif name == "cosine":
        expected = hidden_cosine(s.hidden_states[2], t.hidden_states[4], REAL)
    elif name == "patient":
        expected = patient_mse(s.hidden_states[1], t.hidden_states[3], REAL)
    elif name == "attention":  # block l of hidden state l is number l − 1
        seen = []
        for model, output, blocks in ((student, s, (0, 1)), (teacher, t, (2, 3))):
            maps = [scaled_products(*model.encoder.blocks[i].project(output.hidden_states[i])[:2], 3) for i in blocks]
            for i, scores in zip(blocks, maps, strict=True):
                masked = scores.masked_fill(~REAL[:, None, None], float("-inf"))
                torch.testing.assert_close(masked.softmax(-1), output.attentions[i])
            seen.append(maps)
        expected = sum(attention_mse(a, b, REAL) for a, b in zip(*seen, strict=True))
    else:
        sides = (
            student.encoder.blocks[1].project(s.hidden_states[1]),
            teacher.encoder.blocks[3].project(t.hidden_states[3]),
        )
        expected = sum(relation_kl(a, b, REAL, 3) for a, b in zip(*sides, strict=True)) / 3
    torch.testing.assert_close(value(features, student, teacher), 2.0 * expected)


@pytest.mark.parametrize("name", HIDDEN_LOSSES)
def test_a_student_that_is_the_teacher_has_no_loss(name):
    _, teacher = two_models()
    student = copy.deepcopy(teacher)
    features = losses_of({name: 1.0}, student, teacher)
    assert abs(value(features, student, teacher).item()) < 1e-5


@pytest.mark.parametrize("name", HIDDEN_LOSSES)
def test_the_gradient_reaches_the_student_and_never_the_teacher(name):
    student, teacher = two_models()
    features = losses_of({name: 1.0}, student, teacher)
    value(features, student, teacher).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert student.embeddings.word.weight.grad.abs().sum() > 0


def test_the_sum_is_weighted_and_does_not_depend_on_padding():
    student, teacher = two_models()
    alone = {name: value(losses_of({name: 1.0}, student, teacher), student, teacher) for name in HIDDEN_LOSSES}
    weights = {name: 0.5 + i for i, name in enumerate(HIDDEN_LOSSES)}
    together = losses_of(weights, student, teacher)
    expected = sum(weights[name] * alone[name] for name in weights)
    torch.testing.assert_close(value(together, student, teacher), expected)
    one_by_one = []
    for b, length in enumerate(LENGTHS):
        ids = INPUTS["input_ids"][b : b + 1, :length]
        one_by_one.append(value(together, student, teacher, dict.fromkeys(INPUTS) | {"input_ids": ids}))
    torch.testing.assert_close(sum(one_by_one), value(together, student, teacher), rtol=1e-4, atol=1e-5)


def test_other_widths_meet_through_projections_that_are_trained_and_only_where_they_are_needed():
    student, teacher = two_models(width=16, heads=2)

    def shapes(*names, layers=()):
        features = losses_of(dict.fromkeys(names, 1.0), student, teacher, layers)
        return {name: list(p.shape) for name, p in features.named_parameters()}, features

    both = {"projections.blocks.weight": [24, 16], "projections.embeddings.weight": [24, 16]}
    found, features = shapes("hidden")
    assert found == both
    value(features, student, teacher).backward()
    assert all(p.grad.abs().sum() > 0 for p in features.parameters()), "they learn"
    assert shapes("hidden", layers=[(1, 2)])[0] == {"projections.blocks.weight": [24, 16]}
    assert shapes("cosine", "patient")[0] == {"projections.blocks.weight": [24, 16]}
    found, features = shapes("relations")
    assert found == {} and value(features, student, teacher) > 0, "relations need none"
    same, _ = two_models()
    assert not list(losses_of(dict.fromkeys(HIDDEN_LOSSES, 1.0), same, teacher).parameters())


@pytest.mark.parametrize(
    ("student", "losses", "layers", "message"),
    [
        (dict(heads=4), "attention", "", "the student has 4 heads, the teacher 3; relations works with any"),
        (dict(depth=1), "patient", "", "no pair of layers"),
        ({}, "relations", "0:0", "no pair of layers"),
        ({}, "hidden", "3:3", "3:3 is not possible: the student has layers 1 to 2, the teacher 1 to 4"),
        ({}, "hidden", "1:5", "1:5 is not possible"),
        ({}, "hidden", "0:1", "0:1 is not possible"),
    ],
)
def test_what_is_not_possible_between_two_models_is_refused(student, losses, layers, message):
    student, teacher = two_models(**student)
    config = TrainConfig(losses=losses, layer_map=layers)
    with pytest.raises(UserError, match=message):
        make_hidden_losses(config, student.config, teacher.config)


def test_a_loss_that_nobody_asked_for_costs_nothing(monkeypatch):
    student, teacher = two_models()
    asked = []
    forward = type(student).forward
    monkeypatch.setattr(
        type(student), "forward", lambda self, *a, **k: (asked.append((self, k)), forward(self, *a, **k))[1]
    )
    logits, taught, loss = Student(student)(INPUTS)
    assert loss is None and taught is None and [model for model, _ in asked] == [student]
    assert not asked[0][1]["output_hidden_states"]
    assert all(name.startswith("model.") for name, _ in Student(student).named_parameters())
    loss = value(losses_of({"hidden": 1.0}, student, teacher), student, teacher)
    assert loss > 0 and [model for model, _ in asked] == [student, student, teacher]


def test_the_teacher_is_never_trained_nor_put_into_train_mode():
    student, teacher = two_models(width=16, heads=2)
    whole = Student(student, losses_of({"hidden": 1.0}, student, teacher), teacher).train()
    assert student.training and not teacher.training
    names = [name for name, _ in whole.named_parameters()]
    assert [name for name in names if not name.startswith("model.")] == [
        "hidden_losses.projections.blocks.weight",
        "hidden_losses.projections.embeddings.weight",
    ]  # fmt: skip


def test_the_logits_are_those_of_the_model_alone():
    student, teacher = two_models()
    features = losses_of(dict.fromkeys(HIDDEN_LOSSES, 1.0), student, teacher)
    logits, taught, _ = Student(student, features, teacher)(INPUTS)
    torch.testing.assert_close(logits, student(**INPUTS).logits)
    torch.testing.assert_close(taught, teacher(**INPUTS).logits)
    assert logits.requires_grad and not taught.requires_grad


def test_in_mixed_precision_the_losses_are_computed_in_full_precision():
    student, teacher = two_models(width=16, heads=2)
    weights = {name: 1.0 for name, loss in HIDDEN_LOSSES.items() if not loss.own_heads}
    features = losses_of(weights, student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        output = student(**INPUTS, output_hidden_states=True)
        its = teacher(**INPUTS, output_hidden_states=True).hidden_states
        qkv = BothQKV(all_qkv(student, output.hidden_states), all_qkv(teacher, its))
        given = output.hidden_states, its, REAL, qkv
        hidden_losses = features(*given)
        terms = features.values(*given)
    parts = [part for of_model in qkv for parts in of_model.values() for part in parts]
    assert hidden_losses.dtype == torch.float32 and {part.dtype for part in parts} == {torch.bfloat16}
    assert hidden_losses == torch.stack(terms).sum()
    assert hidden_losses == features(*given), (
        "outside of autocast, though states and projections are of mixed precision"
    )


def every_loss(student, teacher):
    return losses_of(dict.fromkeys(HIDDEN_LOSSES, 1.0), student, teacher)


def test_qkv_and_projected_states_are_made_once_however_many_losses_look_at_them(monkeypatch):
    made, project = [], MultiHeadAttention.project
    monkeypatch.setattr(MultiHeadAttention, "project", lambda self, *a: made.append(self) or project(self, *a))
    student, teacher = two_models(width=24, heads=3)
    Student(student, every_loss(student, teacher), teacher).train()(INPUTS)
    everyone = [block.attention for model in (student, teacher) for block in model.encoder.blocks]
    assert len(made) == len(everyone) and set(made) == set(everyone), "in the forward passes, and never again"
    assert all(attention.keep is None for attention in everyone)

    narrow, teacher = two_models(width=16, heads=2)
    names = [name for name, loss in HIDDEN_LOSSES.items() if not loss.compares_qkv]
    losses = losses_of(dict.fromkeys(names, 1.0), narrow, teacher)
    seen = []
    for linear in losses.projections.values():
        linear.register_forward_hook(lambda *_: seen.append(1))
    Student(narrow, losses, teacher).train()(INPUTS)
    assert len(seen) == len({term.student_layer for term in losses.terms()}) < len(losses.terms())


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("norm_first", [False, True])
def test_recorded_qkv_have_the_loss_and_the_gradients_of_those_made_again(norm_first, recompute):
    still = dict(dropout=0.0, attention_dropout=0.0, head_dropout=0.0)
    student, teacher = (model.double() for model in two_models(norm_first=norm_first, **still))
    student.train()
    student.encoder.recompute = recompute
    losses, found = every_loss(student, teacher), []
    for kept in (True, False):
        if kept:
            *_, loss = Student(student, losses, teacher)(INPUTS)
        else:
            states = [model(**INPUTS, output_hidden_states=True).hidden_states for model in (student, teacher)]
            states[1] = [state.detach() for state in states[1]]
            with torch.no_grad():
                of_teacher = all_qkv(teacher, states[1])
            loss = losses(*states, REAL, BothQKV(all_qkv(student, states[0]), of_teacher))
        student.zero_grad()
        loss.backward()
        assert all(p.grad is None for p in teacher.parameters())
        found.append([loss.detach(), *(p.grad for p in student.parameters() if p.grad is not None)])
    torch.testing.assert_close(*found)


def test_a_pass_that_fails_leaves_nothing_behind(monkeypatch):
    student, teacher = two_models()
    monkeypatch.setattr(teacher, "forward", None)
    with pytest.raises(TypeError):
        Student(student, every_loss(student, teacher), teacher)(INPUTS)
    assert all(block.attention.keep is None for block in student.encoder.blocks)


# --- the flags ---


def test_the_flags_become_weights_and_pairs():
    config = TrainConfig(losses="hidden,relations=0.5", layer_map="2:4,0:0")
    assert parse_losses(config.losses) == {"hidden": HIDDEN_LOSSES["hidden"].weight, "relations": 0.5}
    assert parse_layer_map(config.layer_map) == [(0, 0), (2, 4)]
    assert parse_losses("") == {} and parse_layer_map("") == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (dict(losses="hiden"), "--losses hiden: 'hiden' is not one of hidden, attention, cosine, patient, relations"),
        (dict(losses="hidden,hidden=2"), "'hidden' is named twice"),
        (dict(losses=","), "'' is not one of"),
        (dict(losses="hidden,,cosine"), "'' is not one of"),
        (dict(losses="hidden", layer_map="x"), "no list"),
        (dict(losses="hidden=0"), "the weight of hidden is '0', a number above 0 is needed"),
        (dict(losses="hidden="), "the weight of hidden is ''"),
        (dict(losses="hidden=nan"), "the weight of hidden is 'nan'"),
        (dict(losses="hidden=inf"), "the weight of hidden is 'inf'"),
        (dict(losses="hidden=-1"), "the weight of hidden is '-1'"),
        (
            dict(losses="hidden", layer_map="1-2"),
            "--layer-map 1-2: is none of spread, own, last, and no list of STUDENT:TEACHER",
        ),
        (dict(losses="hidden", layer_map="1:2,"), "no list"),
        (dict(losses="hidden", layer_map="1:2,1:3"), "a layer of the student is there twice"),
        (dict(layer_map="1:2"), "--layer-map is about --losses"),
    ],
)
def test_flags_that_mean_nothing_are_refused(flags, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        config = TrainConfig(**flags)
        parse_losses(config.losses)
        parse_layer_map(config.layer_map)


def test_the_sum_is_told_with_its_layers():
    student, teacher = two_models()
    features = losses_of({"hidden": 1.0, "relations": 0.5}, student, teacher)
    assert features.describe() == "1 · hidden (0→0, 1→2, 2→4) + 0.5 · relations (2→4)"


def test_a_loss_of_qkv_without_a_number_of_maps_is_not_counted_as_nothing(monkeypatch):
    """For the estimate of memory before work starts."""
    student, teacher = two_models()
    entry = replace(HIDDEN_LOSSES["relations"], layers=blocks, score_maps=0)
    monkeypatch.setitem(HIDDEN_LOSSES, "bare", entry)
    losses = losses_of({"bare": 1.0, "hidden": 1.0}, student, teacher)
    assert losses.score_maps() == 2 * 2, "two blocks; hidden states make no maps"
