"""Fewer units in a feed-forward, so that its output changes least. Linear algebra; nothing is trained."""

import torch
from torch import Tensor

ROUNDS = 4  # units go in so many parts, each chosen after what the last one did has been given to those that are left
DAMPING = 1e-3  # of the mean variance, added to each: what few tokens show of many units is not believed to the last bit


def narrow(
    weight: Tensor, bias: Tensor, mean: Tensor, covariance: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The units to keep of a feed-forward, ascending, and its outer weight D,width and bias D that make up for the rest.

    weight D,F and bias D: its outer matrix. mean F and covariance F,F: of what goes into that. The output's change

        ‖W·a − (V·a_kept + c)‖²  averaged over activations a,  is least with  V = W·C[:,kept]·C[kept,kept]⁻¹

    and c = bias + W·mean − V·mean[kept]: what a unit did, others do as far as they vary with it. Leaving out one unit u
    more costs ‖V[:,u]‖² / (C[kept,kept]⁻¹)[u,u] (Hassibi & Stork 1993; of whole units: Kurtic et al. 2023, section 3).
    Example: of two units that always agree one goes, the other's column is doubled, and nothing changes.
    """
    whole, mean, covariance = weight.double(), mean.double(), covariance.double().clone()
    variance = covariance.diagonal()
    variance += DAMPING * variance.mean() + 1e-12  # where none varies, too
    units = torch.arange(len(mean))
    for part in range(ROUNDS + 1):
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance[units][:, units]))
        fitted = whole @ covariance[:, units] @ inverse  # D,F · F,kept · kept,kept -> D,kept
        if part == ROUNDS:
            break
        left = len(mean) - (len(mean) - width) * (part + 1) // ROUNDS
        cost = fitted.square().sum(dim=0) / inverse.diagonal()
        units = units[cost.topk(left).indices.sort().values]
    made_up = bias.double() + whole @ mean - fitted @ mean[units]
    return units, fitted.to(weight.dtype), made_up.to(bias.dtype)
