"""Units: what has one distribution of its own. The response-based losses are sums over units.

A unit is one text (sequence head), one label of one text (the same, where it may have several), one word, at its first
token (token head), one start or one end of an answer (span head), or one masked word (mlm head).
"""

import numpy as np
import torch
from torch import Tensor

from kd_scratch.data.batches import IGNORE, Batch, EncodedInputs
from kd_scratch.data.masking import num_masked

#: A finite stand-in for −∞. Its probability is exactly 0, and nothing becomes NaN, divided by a temperature of 1e-8
#: either.
LOWEST = -1e30


def unit_logits(head: str, logits: Tensor, batch: Batch) -> Tensor:
    """The logits of a batch's units, U,K over K outcomes, in full precision whatever the model ran in.

    Logits of student and teacher are cut alike: padding, tokens that are no unit, and positions outside the context
    (but [CLS], which is "no answer") are left out of both distributions. A label that is there or not is a choice
    of two, with logits 0 and z. So the cross-entropy is the binary one, and the soft targets compare sigmoid(t/T)
    with sigmoid(z/T).
    Raises ValueError for an unknown head.
    """
    logits = logits.float()
    if head == "sequence" and batch.labels.dim() == 2:  # several labels: each is there or not
        z = logits.flatten()  # B,C -> B·C
        return torch.stack([torch.zeros_like(z), z], dim=1)  # B·C,2: softmax is 1 − sigmoid(z), sigmoid(z)
    if head in ("sequence", "mlm"):
        return logits  # B,C or U,V: one row per unit already
    if head == "token":
        return logits.flatten(0, 1).index_select(0, batch.counted)  # B,S,C -> B·S,C -> U,C
    if head == "span":
        allowed = batch.allowed.unsqueeze(-1)  # B,S,1
        start_end = logits.masked_fill(~allowed, LOWEST).index_select(0, batch.counted)  # B,S,2 -> U/2,S,2
        return start_end.transpose(1, 2).flatten(0, 1)  # U/2,S,2 -> U/2,2,S -> U,S
    raise ValueError(f"there is no head {head!r}")


def unit_labels(head: str, batch: Batch) -> Tensor:
    """The label of each unit of a batch, U; UNLABELLED where it has none. Raises ValueError for an unknown head."""
    if head == "sequence":
        return batch.labels.flatten()  # B, or B,C -> B·C
    if head in ("token", "mlm"):
        return batch.labels.flatten().index_select(0, batch.counted)  # B,S -> B·S -> U
    if head == "span":
        return batch.labels.index_select(0, batch.counted).flatten()  # B,2 -> U/2,2 -> U
    raise ValueError(f"there is no head {head!r}")


def count_units(features: EncodedInputs, indices: np.ndarray) -> int:
    """How many units a batch of these inputs has, without building it. Raises ValueError for an unknown head."""
    if features.head == "sequence":
        return features.labels[indices].size
    if features.head == "span":
        return 2 * int((features.labels[indices, 0] != IGNORE).sum())
    counted = [int((features.labels[features.starts[i] : features.starts[i + 1]] != IGNORE).sum()) for i in indices]
    if features.head == "token":
        return sum(counted)
    if features.head == "mlm":
        return sum(map(num_masked, counted))
    raise ValueError(f"there is no head {features.head!r}")
