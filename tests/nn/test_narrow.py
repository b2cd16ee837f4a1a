"""Fewer units whose output is as near to that of all as least squares can make it."""

import itertools

import pytest
import torch

from kd_scratch.nn import narrow as module
from kd_scratch.nn.narrow import narrow


def activations(units, tokens=400, parts=None, seed=0):
    """What units give on some tokens, N,F in float64: mixtures of parts that vary (None: as many), not centred."""
    draw = torch.Generator().manual_seed(seed)
    parts = parts or units
    mixture = torch.randn(parts, units, generator=draw, dtype=torch.float64)
    return torch.randn(tokens, parts, generator=draw, dtype=torch.float64) @ mixture + torch.arange(units)


def matrices(units, outputs=5, seed=1):
    """An outer weight D,F and bias D."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(outputs, units, generator=draw), torch.randn(outputs, generator=draw)


def moments(a):
    return a.mean(dim=0), a.T.cov(correction=0)


def error(a, weight, bias, units, new, made_up):
    """The mean square by which the output on the activations changes."""
    before, after = a @ weight.double().T + bias, a[:, units] @ new.double().T + made_up
    return float((before - after).square().sum(dim=1).mean())


def test_the_new_weight_and_bias_are_those_of_least_squares(monkeypatch):
    monkeypatch.setattr(module, "DAMPING", 0.0)
    a, (weight, bias) = activations(12), matrices(12)
    units, new, made_up = narrow(weight, bias, *moments(a), 7)
    assert len(units) == 7 and units.tolist() == sorted(set(units.tolist()))
    with_one = torch.cat([a[:, units], torch.ones(len(a), 1)], dim=1)
    expected = torch.linalg.lstsq(with_one, a @ weight.double().T + bias).solution  # width + 1, D
    torch.testing.assert_close(new, expected[:-1].T.float(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(made_up, expected[-1].float(), rtol=1e-4, atol=1e-4)


def test_what_others_can_say_too_goes_and_nothing_changes():
    """Large units that copy others: by weight or activation they would be kept."""
    a, (weight, bias) = activations(12), matrices(12)
    a = torch.cat([a, 3 * a[:, :4], a[:, 4:6] - a[:, 6:8] + 1], dim=1)  # N,18
    weight = torch.cat([weight, 2 + weight[:, :6]], dim=1)
    found = narrow(weight, bias, *moments(a), 12)
    before = (a @ weight.double().T).var(dim=0, correction=0).sum()
    assert error(a, weight, bias, *found) < 1e-3 * before


def test_a_single_unit_that_goes_is_the_one_whose_loss_costs_least():
    for seed in range(20):
        a, (weight, bias) = activations(6, seed=seed), matrices(6, seed=seed)
        found = narrow(weight, bias, *moments(a), 5)
        costs = []
        for kept in itertools.combinations(range(6), 5):
            kept = list(kept)
            with_one = torch.cat([a[:, kept], torch.ones(len(a), 1)], dim=1)
            wanted = a @ weight.double().T + bias
            costs.append(float((with_one @ torch.linalg.lstsq(with_one, wanted).solution - wanted).square().sum()))
        least = list(itertools.combinations(range(6), 5))[costs.index(min(costs))]
        assert tuple(found[0].tolist()) == least


@pytest.mark.parametrize("width", [1, 5, 31])
def test_hardly_any_tokens_or_units_that_never_vary_are_no_trouble(width):
    weight, bias = matrices(32)
    for a in (activations(32, tokens=3), torch.zeros(4, 32).double(), torch.full((4, 32), 7.0).double()):
        units, new, made_up = narrow(weight, bias, *moments(a), width)
        assert new.shape == (5, width) and new.isfinite().all() and made_up.isfinite().all()
        if a.std() == 0:
            assert error(a, weight, bias, units, new, made_up) < 1e-6
