"""A model over a whole data set: length-sorted batches, no gradient, logits back in the order of the inputs."""

import numpy as np
import torch

from kd_scratch.batches import Features, collate, length_sorted_batches
from kd_scratch.console import progress
from kd_scratch.files import UserError
from kd_scratch.model import Model
from kd_scratch.runtime import autocast


@torch.inference_mode()
def compute_logits(
    model: Model,
    features: Features,
    device: torch.device,
    batch_size: int = 64,
    dtype: torch.dtype | None = None,
    title: str = "evaluating",
) -> np.ndarray:
    """Logits of every input, float32. The model's mode (train or eval) is put back afterwards.

    UserError where some are not finite numbers.

    sequence head: N,C.  token and span heads: T,C, one row per token, where features.starts says which are whose.
    """
    training = model.training
    model.eval()
    per_token = features.head != "sequence"
    logits = np.empty((len(features.tokens) if per_token else len(features), model.config.classes), np.float32)
    batches = length_sorted_batches(features.lengths, batch_size)
    with progress(total=len(features), desc=title, unit="ex") as bar:
        for indices in batches:
            batch = collate(features, indices, device, model.config.pad_id)
            with autocast(device, dtype):
                result = model(**batch.inputs).logits.float().cpu().numpy()  # B,C or B,S,C
            if per_token:
                for i, row in zip(indices, result, strict=True):
                    start, end = features.starts[i], features.starts[i + 1]
                    logits[start:end] = row[: end - start]
            else:
                logits[indices] = result
            bar.update(len(indices))
    model.train(training)
    if not np.isfinite(logits).all():
        raise UserError("the model gives logits that are not finite numbers: training diverged, or its file is damaged")
    return logits
