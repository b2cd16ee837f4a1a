"""From token ids to batches: ragged storage, length buckets, padding, and the order of an epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from kd_scratch.common.errors import UserError

IGNORE = -100  # the label of a token that has none: no loss, no metric
UNLABELLED = -200  # the label of a unit whose label nobody knows: it learns from the teacher's soft targets only
POOL = 64  # batches that are sorted by length together


@dataclass
class EncodedInputs:
    """N encoded inputs, stored end to end without padding (T tokens in all). Input i is tokens[starts[i]:starts[i+1]].

    labels: sequence head N (class) · token head T (class or IGNORE) · span head N,2 (start and end position) ·
    mlm head T (the token itself, or IGNORE where it is never masked)
    """

    head: str  # sequence, token, span or mlm
    ids: Sequence[str]  # N names of examples, for messages and predictions
    tokens: np.ndarray  # T int32
    starts: np.ndarray  # N+1 int64
    labels: np.ndarray
    token_types: np.ndarray | None = None  # T uint8; None where all are 0
    allowed: np.ndarray | None = None  # T bool: span head, positions an answer may start or end at
    mask_id: int | None = None  # the token that stands for a hidden one

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per input, N."""
        return np.diff(self.starts)


def require_inputs(features: EncodedInputs, flag: str) -> EncodedInputs:
    """The same features. UserError where there are none: the tokenizer has left nothing of any text."""
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
    labels: Tensor  # sequence: B · token: B,S · span: B,2
    allowed: Tensor | None  # B,S bool
    counted: Tensor | None  # int64: which of the B·S tokens (token, mlm) or B inputs (span head) are not IGNOREd
    tokens: int  # real ones, without padding
    at: Tensor | None = None  # mlm head: those that were masked, which alone get logits

    @property
    def inputs(self) -> dict[str, Tensor | None]:
        """What a model's forward takes."""
        inputs = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
        }
        return inputs if self.at is None else inputs | {"at": self.at}


def pad(flat: np.ndarray, starts: np.ndarray, indices: np.ndarray, fill) -> np.ndarray:
    """Rows `indices` of ragged storage as one rectangle: flat T,… -> B,S,… with `fill` behind each row's end."""
    lengths = starts[indices + 1] - starts[indices]  # B
    padded = np.full((len(indices), lengths.max(), *flat.shape[1:]), fill, dtype=flat.dtype)
    for row, start, length in zip(padded, starts[indices], lengths, strict=True):
        row[:length] = flat[start : start + length]
    return padded


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on a device. Nobody waits for the copy: from pinned memory it runs beside the work."""
    tensor = torch.from_numpy(array)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


@dataclass
class MaskedLMSampler:
    """Which words of an input are hidden, to be guessed (Devlin et al. 2019, section 3.1): a function of these numbers,
    of the input's number and of the data, so that it does not matter in which batch, process or order it comes."""

    seed: int
    epoch: int

    def hide(self, features: EncodedInputs, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Input i with 15% of its words hidden: its tokens S, and its labels S, IGNORE where nothing is to be guessed.

        Of the hidden ones 80% become [MASK], 10% another token of the data, 10% stay as they are.
        """
        span = slice(features.starts[i], features.starts[i + 1])
        tokens, labels = features.tokens[span].copy(), features.labels[span].copy()
        words = np.flatnonzero(labels != IGNORE)
        rng = np.random.default_rng([self.seed, self.epoch, i])
        chosen = rng.choice(words, num_masked(len(words)), replace=False)
        places = rng.integers(len(features.tokens), size=len(chosen))  # anywhere in the data
        special = features.labels[places] == IGNORE  # [SEP] or such is no word: then the hidden one stays
        others = np.where(special, tokens[chosen], features.tokens[places])
        fates = rng.random(len(chosen))
        tokens[chosen] = np.where(fates < 0.8, features.mask_id, np.where(fates < 0.9, others, tokens[chosen]))
        kept = np.full(len(labels), IGNORE, labels.dtype)
        kept[chosen] = labels[chosen]
        return tokens, kept


def num_masked(words: int) -> int:
    """How many of an input's words are hidden: 15%, but one at least where there is any."""
    return min(words, max(1, round(0.15 * words)))


def collate(
    features: EncodedInputs,
    indices: np.ndarray,
    device: torch.device,
    pad_id: int = 0,
    sampler: MaskedLMSampler | None = None,
) -> Batch:
    """The inputs `indices` as one padded batch on a device. masking: for an mlm head, how words are hidden."""

    def ragged(flat: np.ndarray | None, fill) -> Tensor | None:
        return None if flat is None else to_device(pad(flat, features.starts, indices, fill), device)

    lengths = features.lengths[indices]
    input_ids = pad(features.tokens, features.starts, indices, pad_id)
    # What counts is found here: a device that had to find it would make the program wait.
    if features.head == "mlm":
        labels = np.full(input_ids.shape, IGNORE, np.int64)
        for row, label, i, length in zip(input_ids, labels, indices, lengths, strict=True):
            row[:length], label[:length] = sampler.hide(features, i)
        counted = to_device(np.flatnonzero(labels != IGNORE), device)
    elif features.head == "token":
        labels = pad(features.labels, features.starts, indices, IGNORE)
        counted = to_device(np.flatnonzero(labels != IGNORE), device)
    else:
        labels = features.labels[indices]
        counted = to_device(np.flatnonzero(labels[:, 0] != IGNORE), device) if features.head == "span" else None
    return Batch(
        indices=indices,
        input_ids=to_device(input_ids, device).long(),
        attention_mask=to_device(np.arange(lengths.max()) < lengths[:, None], device)
        if lengths.min() < lengths.max()
        else None,
        token_type_ids=None if features.token_types is None else ragged(features.token_types, 0).long(),
        labels=to_device(labels, device).long(),
        allowed=ragged(features.allowed, False),
        counted=counted,
        tokens=int(lengths.sum()),
        at=counted if features.head == "mlm" else None,
    )


def epoch_batches(lengths: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch: every input once, in an order that depends on (seed, epoch) alone.

    Inputs are shuffled and dealt into pools of POOL batches; each pool is sorted by length and cut into batches, and
    the batches are shuffled. So batches hold inputs of like length (little padding) and yet differ in every epoch.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in generator.permutation(len(batches))]


def length_sorted_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Every input once, longest first: the least padding, and an out-of-memory error comes at once or never."""
    order = np.argsort(-lengths, kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
