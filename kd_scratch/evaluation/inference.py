"""A model over a whole data set: length-sorted batches, no gradient, logits back in the order of the inputs."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_scratch.common import distributed
from kd_scratch.common.console import progress
from kd_scratch.common.device import autocast
from kd_scratch.common.errors import UserError
from kd_scratch.common.timing import Mark
from kd_scratch.data.batches import TOKENS, Batch, EncodedInputs, collate, length_sorted_batches
from kd_scratch.data.masking import MaskedLMSampler
from kd_scratch.nn.model import Model

NOT_FINITE = (
    "the model gives logits that are not finite numbers: train it again with a lower --learning-rate, or fetch it "
    "again if it was not trained here"
)


@torch.inference_mode()
def compute_logits(
    model: Model,
    features: EncodedInputs,
    device: torch.device,
    batch_size: int = 0,
    dtype: torch.dtype | None = None,
    title: str = "evaluating",
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Logits of every input, float32, in `out` where that is given (zeros). The model's mode is put back afterwards.

    batch_size: inputs computed together; 0: as many as have TOKENS tokens.
    Ranks (common/distributed.py) share the work; all get all logits. UserError where some are not finite numbers.

    sequence head: N,C.  token and span heads: ΣS,C, one row per token; those of input i begin at features.starts[i].
    mlm head: what `guesses` makes of them, N,3; the same words are masked every time.
    """
    training = model.training
    model.eval()
    per_token = features.head in ("token", "span")
    sampler = MaskedLMSampler(0, 0) if features.head == "mlm" else None
    logits = np.zeros(logits_shape(model, features), np.float32) if out is None else out

    def compute(batch: Batch) -> Tensor:
        with autocast(device, dtype):
            result = model(**batch.inputs).logits.float()  # B,C or B,S,C or U,V
        return guesses(result, batch) if sampler else result

    finite = True
    pad_id = model.config.pad_id
    for indices, result in results(compute, features, device, title, batch_size, pad_id=pad_id, sampler=sampler):
        finite = finite and bool(np.isfinite(result).all())
        if per_token:
            put_tokens(logits, features, indices, result)
        else:
            logits[indices] = result
    model.train(training)
    if not distributed.all_ranks_agree(finite):
        raise UserError(NOT_FINITE)
    distributed.all_reduce_array(logits)  # the rows of the other ranks are still 0
    return logits


def results(
    compute: Callable[[Batch], Tensor],
    features: EncodedInputs,
    device: torch.device,
    title: str,
    batch_size: int = 0,
    **collating,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The inputs of each of this rank's batches, and what `compute` makes of them.

    Each result is handed out when the next one has begun: so a CUDA device works while it is put into its place.
    """
    sizes = {"batch_size": batch_size} if batch_size else {"tokens": TOKENS[device.type]}
    begun = None
    with progress(total=len(features), desc=title, unit="ex") as bar:
        for indices in [*distributed.rank_slice(length_sorted_batches(features.lengths, **sizes)), None]:
            ended, begun = begun, None
            if indices is not None:
                tensor = compute(collate(features, indices, device, **collating))
                begun = indices, tensor.to("cpu", non_blocking=device.type == "cuda"), Mark(device)
            if ended is not None:
                indices, tensor, copied = ended
                copied.wait()
                yield indices, tensor.numpy()
                bar.update(len(indices) * distributed.world_size())


def guesses(logits: Tensor, batch: Batch) -> Tensor:
    """How well masked words are predicted: for each input Σ −log p(word), how many are right, how many there are.

    logits U,V of the U masked words -> B,3: the vocabulary is too large for the logits to be kept.
    """
    labels = batch.labels.flatten()[batch.counted]  # B,S -> B·S -> U
    losses = F.cross_entropy(logits, labels, reduction="none")  # U
    right = logits.argmax(dim=-1) == labels
    rows = torch.stack([losses, right.float(), torch.ones_like(losses)], dim=1)  # U,3
    inputs = batch.counted // batch.input_ids.size(1)  # U: which of the B inputs
    return torch.zeros(len(batch.indices), 3, device=logits.device).index_add_(0, inputs, rows)


def put_tokens(target: np.ndarray, features: EncodedInputs, indices: np.ndarray, batch: np.ndarray) -> None:
    """Put the rows of a padded batch B,S,… to where the tokens of its inputs stand in ragged storage ΣS,…"""
    for i, rows in zip(indices, batch, strict=True):
        start = features.starts[i]
        end = features.starts[i + 1]
        target[start:end] = rows[: end - start]


def logits_shape(model: Model, features: EncodedInputs) -> tuple[int, int]:
    """The shape of what compute_logits returns: inputs or tokens, and classes."""
    if features.head == "mlm":
        return len(features), 3
    rows = len(features) if features.head == "sequence" else len(features.tokens)
    return rows, model.config.classes
