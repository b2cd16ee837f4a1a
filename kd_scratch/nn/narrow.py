"""Fewer units in a feed-forward, so that its output changes least. Linear algebra; nothing is trained."""

import torch
from torch import Tensor

ROUNDS = 4  # units go in so many parts; after each, the others take over what those did
DAMPING = 1e-3  # of the mean variance, added to each: few tokens do not tell all about many units


def narrow(weight: Tensor, bias: Tensor, mean: Tensor, covariance: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The units K to keep of a feed-forward, ascending, and its new outer weight V D,width and bias c D.

    weight W D,F and bias D: its outer ones. mean F and covariance C F,F: of the activations a of its units.

        the mean of ‖(W·a + bias) − (V·a[K] + c)‖² is least with  V = W·C[:,K]·C[K,K]⁻¹,  c = bias + W·mean − V·mean[K]

    So other units do what a unit did, as far as they vary with it. What it costs to leave out unit k as well is
    ‖V[:,k]‖² / (C[K,K]⁻¹)[k,k] (Hassibi & Stork 1993; for whole units: Kurtic et al. 2023, section 3).
    Example: of two units that always agree one goes, the column of the other grows, and nothing changes.
    """
    whole, mean, covariance = weight.double(), mean.double(), covariance.double().clone()
    variance = covariance.diagonal()
    variance += DAMPING * variance.mean() + 1e-12  # more than 0, also where no unit varies
    units = torch.arange(len(mean))
    for part in range(ROUNDS + 1):
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(covariance[units][:, units]))
        fitted = whole @ covariance[:, units] @ inverse  # D,F · F,K · K,K -> D,K
        if part == ROUNDS:
            break
        left = len(mean) - (len(mean) - width) * (part + 1) // ROUNDS
        cost = fitted.square().sum(dim=0) / inverse.diagonal()  # K
        units = units[cost.topk(left).indices.sort().values]
    made_up = bias.double() + whole @ mean - fitted @ mean[units]
    return units, fitted.to(weight.dtype), made_up.to(bias.dtype)
