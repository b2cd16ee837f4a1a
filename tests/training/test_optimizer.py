"""optimizer.py: AdamW's groups, the schedule, clipping, and steps that must not be taken."""

import numpy as np
import pytest
import torch

from kd_scratch.config import TrainConfig
from kd_scratch.training.optimizer import Stepper, make_optimizer, schedule
from tests.conftest import tiny_model

NO_SCALER = torch.amp.GradScaler("cpu", enabled=False)
LOSS = torch.tensor(1.0)


def stepper(model, scaler=NO_SCALER, **settings) -> Stepper:
    """One that takes ten steps with a model."""
    config = TrainConfig(**settings)
    return Stepper(make_optimizer(model, config), scaler, config, steps=10)


def set_gradients(model, seed=0, scale=1.0):
    """Random gradients of about this size."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = scale * torch.randn(p.shape, generator=generator)


def everything(step: Stepper) -> torch.Tensor:
    """All weights, moments and step counts, as one vector."""
    state = step.optimizer.state
    parts = [t for p in step.parameters for t in (p.detach(), *state[p].values())]
    return torch.cat([t.flatten() for t in parts]).clone()


def test_no_weight_decay_on_biases_and_norms():
    model = tiny_model()
    decayed, exempt = make_optimizer(model, TrainConfig()).param_groups
    assert decayed["weight_decay"] == 0.01 and exempt["weight_decay"] == 0
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)].endswith(".bias") or "norm" in names[id(p)] for p in exempt["params"])
    assert not any(names[id(p)].endswith(".bias") or "norm" in names[id(p)] for p in decayed["params"])
    assert len(decayed["params"]) + len(exempt["params"]) == len(names)


def test_learning_rate_rises_over_the_warm_up_then_falls_to_zero():
    factors = [schedule(step, 10, 4) for step in range(11)]
    np.testing.assert_allclose(factors, [0.25, 0.5, 0.75, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])
    np.testing.assert_allclose([schedule(step, 4, 0) for step in range(5)], [1, 0.75, 0.5, 0.25, 0])


def test_a_step_is_adamws_formula_by_hand_with_the_clipped_gradient():
    """Loshchilov & Hutter 2019, algorithm 2, in float64."""
    model = tiny_model()
    settings = dict(learning_rate=1e-2, weight_decay=0.1, max_grad_norm=0.7, warmup_steps=2)
    step = stepper(model, **settings)
    expected = {name: p.detach().double() for name, p in model.named_parameters()}
    first, second = (dict.fromkeys(expected, 0.0) for _ in range(2))
    for t in range(1, 4):
        set_gradients(model, seed=t)
        gradients = {name: p.grad.double() for name, p in model.named_parameters()}
        norm = torch.cat([g.flatten() for g in gradients.values()]).norm()
        rate = 1e-2 * schedule(t - 1, 10, 2)
        for name, p in model.named_parameters():
            g = gradients[name] * min(1, 0.7 / norm)
            first[name] = 0.9 * first[name] + 0.1 * g
            second[name] = 0.999 * second[name] + 0.001 * g**2
            expected[name] = expected[name] * (1 - rate * (0.1 if p.dim() > 1 else 0))
            m, v = first[name] / (1 - 0.9**t), second[name] / (1 - 0.999**t)
            expected[name] = expected[name] - rate * m / (v.sqrt() + 1e-8)
        step.step(t - 1, LOSS)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach().double(), expected[name], rtol=1e-4, atol=1e-6)
        assert p.grad is None


@pytest.mark.parametrize("scale, limit, clipped_to", [(1.0, 0.5, 0.5), (0.001, 0.5, None), (1.0, 0.0, None)])
def test_large_gradients_are_scaled_to_the_norm_and_small_ones_left(scale, limit, clipped_to):
    """The first moment after the first step is (1 - 0.9) times the gradient that the optimizer saw."""
    model = tiny_model()
    step = stepper(model, max_grad_norm=limit)
    for p in model.parameters():
        p.grad = torch.full_like(p, scale)
    before = torch.cat([p.grad.flatten() for p in model.parameters()]).norm()
    step.step(0, LOSS)
    seen = torch.cat([10 * step.optimizer.state[p]["exp_avg"].flatten() for p in model.parameters()])
    assert seen.norm().item() == pytest.approx(clipped_to or before.item(), rel=1e-4)
    assert torch.allclose(seen, seen[0])  # the direction stays


@pytest.mark.parametrize("max_grad_norm", [0.5, 0.0])
def test_a_scaled_loss_gives_the_same_step(max_grad_norm):
    """With fp16 loss and gradients are 65,536 times as large; clipping must know."""
    results = []
    for enabled in (False, True):
        model = tiny_model()
        scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=65536.0)
        scaler.scale(LOSS)  # as in training: this is when the scaler makes its scale
        step = stepper(model, scaler, max_grad_norm=max_grad_norm)
        set_gradients(model, scale=65536.0 if enabled else 1.0)
        step.step(0, LOSS)
        results.append(everything(step))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("bad", ["loss is NaN", "loss is infinite", "gradient is NaN", "gradient is infinite"])
@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_after_a_bad_loss_or_gradient_no_step_is_taken_any_more(bad, max_grad_norm):
    model = tiny_model()
    step = stepper(model, max_grad_norm=max_grad_norm)
    set_gradients(model, seed=1)
    assert step.step(0, LOSS) == 1
    before = everything(step)
    set_gradients(model, seed=2)
    value = float("nan") if "NaN" in bad else float("inf")
    if "gradient" in bad:
        next(iter(model.parameters())).grad[0, 0] = value
    returned = step.step(1, LOSS * value if "loss" in bad else LOSS)
    assert returned.isnan(), "whoever reads the losses must see it"
    assert torch.equal(everything(step), before)
    set_gradients(model, seed=3)
    assert step.step(2, LOSS).isnan()
    assert torch.equal(everything(step), before), "not even with a good gradient: the run is to be stopped"
