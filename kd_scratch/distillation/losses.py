"""Response-based losses: the student's logits against the labels and against the teacher's logits (Hinton et al. 2015).

Each is a *sum* over units (units.py). The caller divides by the units of the whole optimizer step, so that cutting a
batch into parts, or over ranks, changes nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kd_scratch.data.batches import UNLABELLED


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_units −log softmax(z)[label].  logits U,K; labels U -> a scalar; an UNLABELLED unit adds nothing"""
    return F.cross_entropy(logits, labels, reduction="sum", ignore_index=UNLABELLED)


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · Σ_units KL(softmax(t/T) ‖ softmax(z/T))  (Hinton et al. 2015, section 2).

    student, teacher: logits z and t, U,K -> a scalar, 0 where they agree.

    T² keeps the gradient's size when T changes: for large T it tends to the gradient of ½ Σ (z−t)² / K on centred
    logits. All logits are finite; an outcome whose softmax(t/T) is so small that it becomes 0 adds nothing.
    """
    log_p = F.log_softmax(teacher / temperature, dim=-1)  # U,K
    log_q = F.log_softmax(student / temperature, dim=-1)  # U,K
    return temperature**2 * F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def distillation_loss(
    student: Tensor, teacher: Tensor | None, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    """(1−α) · cross-entropy with the labels + α · soft targets; a sum over units.  U,K; U,K; U -> a scalar

    Without a teacher (None) the labels alone count.
    """
    if teacher is None:
        return cross_entropy(student, labels)
    hard_loss = cross_entropy(student, labels) if alpha < 1 else 0.0
    soft_loss = soft_target_loss(student, teacher, temperature) if alpha > 0 else 0.0
    return (1 - alpha) * hard_loss + alpha * soft_loss


def partly_taught_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float) -> Tensor:
    """The same where a teacher has no logits for some units (NaN), which learn from their labels alone."""
    untaught = teacher.isnan().any(dim=-1)  # U
    teacher = torch.where(untaught.unsqueeze(-1), student.detach(), teacher)  # where they agree, there is no loss
    alone = labels.masked_fill(~untaught, UNLABELLED)
    return distillation_loss(student, teacher, labels, temperature, alpha) + alpha * cross_entropy(student, alone)
