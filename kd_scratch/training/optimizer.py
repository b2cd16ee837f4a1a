"""The optimizer: AdamW in one fused kernel, its learning rate, clipping. Only on MPS a step waits for the device."""

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from kd_scratch.config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter 2019), fused. Weight decay pulls on matrices and tables, never on biases and norms."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() >= 2]
    vectors = [p for p in trained if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def schedule(step: int, steps: int, warmup: int) -> float:
    """The share of the highest learning rate at a step (from 0): up over the warm-up, then straight down to 0."""
    rising = (step + 1) / max(1, warmup)
    falling = (steps - step) / max(1, steps - warmup)
    return min(1.0, rising, falling)


class Stepper:
    """Takes optimizer steps: scheduled, clipped, and none any more after a loss or gradient that is not a number.

    Whoever reads the losses finds that out later: until then the steps are skipped on the device, so the weights
    stay as they were before the bad one. (With fp16 the scaler skips a step whose gradients overflow, and goes on.)
    """

    def __init__(self, optimizer: torch.optim.AdamW, scaler: torch.amp.GradScaler, config: TrainConfig, steps: int):
        self.optimizer, self.scaler, self.config, self.steps = optimizer, scaler, config, steps
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.bad = torch.zeros((), device=self.parameters[0].device)  # 1 from the first bad step on

    def step(self, number: int, loss: Tensor) -> Tensor:
        """Step `number` (from 0), with the gradients that are in the parameters' .grad; they are gone afterwards.

        Returns the loss, or NaN where the step was not taken because loss or gradient are not finite
        (but with fp16, whose scaler skips such a step, the loss as it is).
        """
        rate = self.config.learning_rate * schedule(number, self.steps, self.config.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Clipping (Pascanu et al. 2013) divides all gradients by max(1, norm / max_norm). The fused kernel does that:
        # it divides them by its optimizer's grad_scale, and takes no step where found_inf is 1.
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = get_total_norm(gradients)
        if self.config.max_grad_norm:
            most = self.scaler.scale(torch.full_like(norm, self.config.max_grad_norm))
            self.optimizer.grad_scale = (norm / most).clamp(min=1)
        if not self.scaler.is_enabled():
            self.bad = torch.maximum(self.bad, 1 - (loss + norm).isfinite().float())
            self.optimizer.found_inf = self.bad
        if norm.device.type == "mps":  # whose kernel pays no heed to either of them
            torch._foreach_div_(gradients, getattr(self.optimizer, "grad_scale", 1.0))
        if norm.device.type != "mps" or not self.bad:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        return loss.masked_fill(self.bad > 0, float("nan"))
