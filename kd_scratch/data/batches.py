"""From token ids to batches: ragged storage, length buckets, padding, and the order of an epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kd_scratch.common.errors import UserError

if TYPE_CHECKING:
    from kd_scratch.data.masking import MaskedLMSampler

IGNORE = -100  # where no unit is: no loss, no metric
UNLABELLED = -200  # of a unit whose label is unknown: it is learned from the teacher alone
POOL = 64  # batches that are sorted by length together
#: Tokens, padding and all, of a batch that nothing is learned from. On a CPU 512 to 2048 are as fast, and twice as fast
#: as 64 inputs of mixed lengths: what one layer writes is still near when the next one reads it.
TOKENS = {"cpu": 1024, "mps": 8192, "cuda": 32768}


@dataclass
class EncodedInputs:
    """N encoded inputs, end to end without padding: ΣS tokens in all. Input i is tokens[starts[i]:starts[i+1]].

    labels: sequence head N (class), or of several labels N,C (1: has it, 0: not) · token head ΣS (class or
    IGNORE) · span head N,2 (start and end position) · mlm head ΣS (the token itself, or IGNORE where it is never
    masked)
    """

    head: str  # sequence, token, span or mlm
    ids: Sequence[str]  # N names of examples, for messages and predictions
    tokens: np.ndarray  # ΣS int32
    starts: np.ndarray  # N+1 int64
    labels: np.ndarray
    token_types: np.ndarray | None = None  # ΣS uint8; None where all are 0
    allowed: np.ndarray | None = None  # ΣS bool: span head, positions an answer may start or end at
    mask_id: int | None = None  # the token that stands for a masked one

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def multi_label(self) -> bool:
        """Whether each label is there or not by itself, and not one of them."""
        return self.head == "sequence" and self.labels.ndim == 2

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per input, N."""
        return np.diff(self.starts)


def require_inputs(features: EncodedInputs, flag: str) -> EncodedInputs:
    """The same inputs. UserError where there are none: the tokenizer leaves nothing of any text."""
    if not len(features):
        raise UserError(f"{flag}: holds no text of which the tokenizer leaves anything")
    return features


@dataclass
class Batch:
    """B inputs, padded to the longest (S tokens). attention_mask is None where nothing is padded."""

    indices: np.ndarray  # B: which inputs of the EncodedInputs these are
    input_ids: Tensor  # B,S int64
    attention_mask: Tensor | None  # B,S bool, True at real tokens
    token_type_ids: Tensor | None  # B,S int64
    labels: Tensor  # sequence: B, several labels: B,C · token: B,S · span: B,2 · mlm: B,S, IGNORE where none is masked
    allowed: Tensor | None  # B,S bool
    counted: Tensor | None  # int64: which of the B·S tokens (token, mlm) or B inputs (span head) are not IGNOREd
    tokens: int  # real ones, without padding
    masked_positions: Tensor | None = None  # mlm head: `counted` again, for the model: they alone get logits

    @property
    def inputs(self) -> dict[str, Tensor | None]:
        """The arguments of a model's forward."""
        inputs = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
        }
        if self.masked_positions is not None:
            inputs["masked_positions"] = self.masked_positions
        return inputs


def pad(flat: np.ndarray, starts: np.ndarray, indices: np.ndarray, fill) -> np.ndarray:
    """Rows `indices` of ragged storage as one rectangle: flat ΣS,… -> B,S,… with `fill` behind each row's end."""
    lengths = starts[indices + 1] - starts[indices]  # B
    padded = np.full((len(indices), lengths.max(), *flat.shape[1:]), fill, dtype=flat.dtype)
    for row, start, length in zip(padded, starts[indices], lengths, strict=True):
        row[:length] = flat[start : start + length]
    return padded


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on a device. From pinned memory the copy runs beside the work, and nothing waits for it."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def collate(
    features: EncodedInputs,
    indices: np.ndarray,
    device: torch.device,
    pad_id: int = 0,
    sampler: "MaskedLMSampler | None" = None,
) -> Batch:
    """The inputs `indices` as one padded batch on a device. sampler: for an mlm head, which tokens are masked.

    What counts for the loss is found here, on the CPU: a device that had to find it would make the program wait.
    """

    def rectangle(flat: np.ndarray | None, fill) -> Tensor | None:
        return None if flat is None else to_device(pad(flat, features.starts, indices, fill), device)

    lengths = features.lengths[indices]  # B
    input_ids = pad(features.tokens, features.starts, indices, pad_id)  # B,S
    if features.head == "mlm":
        labels = sampler.mask_rows(features, indices, input_ids)
    elif features.head == "token":
        labels = pad(features.labels, features.starts, indices, IGNORE)
    else:
        labels = features.labels[indices]
    counted = None
    if features.head == "span":
        counted = to_device(np.flatnonzero(labels[:, 0] != IGNORE), device)
    elif features.head != "sequence":
        counted = to_device(np.flatnonzero(labels != IGNORE), device)
    mask = None
    if lengths.min() < lengths.max():
        mask = to_device(np.arange(lengths.max()) < lengths[:, None], device)  # S < B,1 -> B,S
    token_types = rectangle(features.token_types, 0)
    return Batch(
        indices=indices,
        input_ids=to_device(input_ids, device).long(),
        attention_mask=mask,
        token_type_ids=None if token_types is None else token_types.long(),
        labels=to_device(labels, device).long(),
        allowed=rectangle(features.allowed, False),
        counted=counted,
        tokens=int(lengths.sum()),
        masked_positions=counted if features.head == "mlm" else None,
    )


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch, as numbers of inputs: each once, in an order that depends on (seed, epoch) alone.

    Inputs are shuffled and dealt into pools of POOL batches; each pool is sorted by length and cut into batches, and
    those of all pools are shuffled together. So batches hold inputs of like length (little padding) and yet differ in
    every epoch.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def length_sorted_batches(lengths: np.ndarray, batch_size: int = 0, tokens: int = 0) -> list[np.ndarray]:
    """Batches of every input once, longest first: the least padding, and too little memory is noticed at once.

    Of `batch_size` inputs each, or of as many as have at most so many `tokens`, padding and all; a longer input is a
    batch by itself.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        most = batch_size or tokens // lengths[order[start]]
        batches.append(order[start : start + max(1, most)])
        start += len(batches[-1])
    return batches
