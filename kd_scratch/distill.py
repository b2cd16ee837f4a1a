"""Knowledge distillation: the losses, each a short function with its paper, and the teacher's logits, computed once.

All losses are *sums over units*, for the caller to divide by the number of units of the whole optimizer step: so
cutting a batch into parts changes nothing. A unit is whatever has one distribution of its own:
one text (sequence head), one word, at its first token (token head), one start and one end (span head).
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kd_scratch import parallel
from kd_scratch.batches import IGNORE, UNLABELLED, Batch, Features, pad, to_device
from kd_scratch.cache import is_usable, zeros_on_disk
from kd_scratch.checkpoint import fingerprint
from kd_scratch.files import UserError, make_folder, sha256
from kd_scratch.inference import compute_logits, logits_shape
from kd_scratch.model import Model
from kd_scratch.safetensors import load_file, read_metadata, save_file

SLICE = 2**16  # rows that are put into another order together


def units(head: str, logits: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """A batch's logits and labels, cut into units: (U,K) logits over K outcomes, and (U,) labels.

    Student and teacher go through the same cut, so what is left out (padding, tokens that are no unit, positions
    outside the context) is left out of both distributions. A label may be UNLABELLED.
    """
    logits = logits.float()  # the loss is computed in full precision whatever the model ran in
    if head == "sequence":
        return logits, batch.labels  # B,C and B
    if head == "token":
        tokens, labels = logits.flatten(0, 1), batch.labels.flatten()  # B,S,C -> B·S,C and B,S -> B·S
        return tokens.index_select(0, batch.counted), labels.index_select(0, batch.counted)  # U,C and U
    # A finite stand-in for −∞: outside the allowed positions both probabilities are exactly 0 and nothing is NaN,
    # not even after a division by a small temperature.
    lowest = -1e30
    allowed = batch.allowed.unsqueeze(-1)  # B,S,1
    start_end = logits.masked_fill(~allowed, lowest)  # B,S,2
    start_end, labels = (x.index_select(0, batch.counted) for x in (start_end, batch.labels))
    return start_end.transpose(1, 2).flatten(0, 1), labels.flatten()  # B,S,2 -> B,2,S -> 2B,S and B,2 -> 2B


def count_units(features: Features, indices: np.ndarray) -> int:
    """How many units a batch of these inputs has, without building it."""
    if features.head == "token":
        return sum(int((features.labels[features.starts[i] : features.starts[i + 1]] != IGNORE).sum()) for i in indices)
    return 2 * int((features.labels[indices, 0] != IGNORE).sum()) if features.head == "span" else len(indices)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_units −log softmax(z)[label].  logits U,K; labels U -> a scalar; an UNLABELLED unit adds nothing"""
    return F.cross_entropy(logits, labels, reduction="sum", ignore_index=UNLABELLED)


def soft_targets(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · Σ_units KL(softmax(t/T) ‖ softmax(z/T))  (Hinton et al. 2015, section 2).

    student, teacher: logits z and t, U,K -> a scalar, 0 where they agree.

    T² keeps the gradient's size when T changes: for large T it tends to the gradient of ½ Σ (z−t)² / K on centred
    logits. An outcome that the teacher gives probability 0 adds nothing.
    """
    log_p = F.log_softmax(teacher / temperature, dim=-1)  # U,K
    log_q = F.log_softmax(student / temperature, dim=-1)  # U,K
    return temperature**2 * F.kl_div(log_q, log_p, reduction="sum", log_target=True)


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float, alpha: float) -> Tensor:
    """(1−α) · cross-entropy with the labels + α · soft targets; a sum over units.  U,K; U,K; U -> a scalar"""
    hard = cross_entropy(student, labels) if alpha < 1 else 0.0
    soft = soft_targets(student, teacher, temperature) if alpha > 0 else 0.0
    return (1 - alpha) * hard + alpha * soft


def label_order(teacher: tuple[str, ...], student: tuple[str, ...]) -> np.ndarray:
    """The teacher's column for each of the student's labels. UserError where they know different labels."""
    if set(teacher) != set(student):
        extra, lacking = sorted(set(teacher) - set(student)), sorted(set(student) - set(teacher))
        raise UserError(
            f"the teacher was trained on other labels: {len(teacher)} against {len(student)}"
            + (f"; only the teacher knows {', '.join(extra[:5])}" if extra else "")
            + (f"; it does not know {', '.join(lacking[:5])}" if lacking else "")
        )
    return np.array([teacher.index(label) for label in student], dtype=np.int64)


def teacher_logits(
    teacher: Model,
    tokenizer_hash: str,
    features: Features,
    labels: tuple[str, ...],
    cache: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    say=print,
) -> np.ndarray:
    """The teacher's logits for every input, in the student's label order: N,C (sequence head) or T,C.

    Computed once and kept in `cache` under a name made of the hashes of all that decides them (teacher, tokenizer,
    inputs, labels, precision): other seeds and epochs read the file. One whose content contradicts its name is refused.
    """
    key = {
        "teacher": fingerprint(teacher),
        "tokenizer": tokenizer_hash,
        "features": features_hash(features),
        "labels": sha256(*labels),
        "precision": f"{dtype or torch.float32} on {device.type}",
    }
    path = make_folder(cache) / f"teacher-logits-{sha256(*key.values())[:24]}.safetensors"
    shape = logits_shape(teacher, features)
    if parallel.all_agree(is_usable(path, say)):
        say(f"teacher's logits for {len(features):,} inputs: read from {path}")
        return read_logits(path, key, shape)
    logits = zeros_on_disk(path.parent, shape, np.float32)
    compute_logits(teacher.to(device), features, device, dtype=dtype, title="teacher's logits", out=logits)
    if teacher.config.head != "span" and teacher.config.labels != labels:
        order = label_order(teacher.config.labels, labels)
        for start in range(0, len(logits), SLICE):
            logits[start : start + SLICE] = logits[start : start + SLICE, order]
    if parallel.writes():
        save_file({"logits": torch.from_numpy(logits)}, path, metadata=key, checksum=True)
    parallel.wait()
    say(f"teacher's logits for {len(features):,} inputs: computed once, kept in {path}")
    return read_logits(path, key, shape)


def read_logits(path: Path, key: dict[str, str], shape: tuple[int, int]) -> np.ndarray:
    """Cached logits, memory-mapped; UserError where the file is not what its name says."""
    logits = load_file(path).get("logits")
    if read_metadata(path) != key or logits is None or logits.shape != shape or logits.dtype != torch.float32:
        raise UserError(f"{path}: these are not this teacher's logits for this data; delete the file")
    return logits.numpy()


def gather(logits: np.ndarray, features: Features, batch: Batch) -> Tensor:
    """The rows of precomputed logits that belong to a batch: B,C, or padded B,S,C. Keyed by input, never by step."""
    rows = logits[batch.indices] if features.head == "sequence" else pad(logits, features.starts, batch.indices, 0)
    return to_device(rows, batch.input_ids.device)


def features_hash(features: Features) -> str:
    """SHA-256 of what a model sees of the inputs."""
    parts = [features.tokens, features.starts, features.token_types, features.allowed]
    return sha256(*(b"" if part is None else np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts))
