"""A teacher's logits for every training input, computed once and kept on disk.

They are kept under a name made of the hashes of all that decides them, and found again by input, never by step.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kd_scratch.checkpoints.checkpoint import fingerprint
from kd_scratch.checkpoints.safetensors import is_usable, load_file, read_metadata, save_file
from kd_scratch.common import distributed
from kd_scratch.common.console import say
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import make_folder, sha256
from kd_scratch.common.source_hash import source_hash
from kd_scratch.data.batches import Batch, EncodedInputs, pad, to_device
from kd_scratch.data.disk_arrays import zeros_on_disk
from kd_scratch.evaluation.inference import compute_logits, logits_shape
from kd_scratch.nn.model import Model

SLICE = 2**16  # rows that are put into another order, or averaged, together
TOGETHER = 512  # inputs whose probabilities are averaged together


def label_order(teacher: tuple[str, ...], student: tuple[str, ...]) -> np.ndarray:
    """The teacher's column for each of the student's labels. UserError where they know different labels."""
    if set(teacher) != set(student):
        extra, lacking = sorted(set(teacher) - set(student)), sorted(set(student) - set(teacher))
        nameless = any(label.startswith("LABEL_") for label in extra)
        raise UserError(
            f"the teacher was trained on other labels: {len(teacher)} against {len(student)}"
            + (f"; only the teacher knows {', '.join(extra[:5])}" if extra else "")
            + (f"; it does not know {', '.join(lacking[:5])}" if lacking else "")
            + ("; if they are the same, write their names into id2label of its config.json" if nameless else "")
        )
    return np.array([teacher.index(label) for label in student], dtype=np.int64)


def teacher_logits(
    teacher: Model,
    labels: tuple[str, ...],
    tokenizer_hash: str,
    features: EncodedInputs,
    cache: Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
    say=say,
) -> np.ndarray:
    """The teacher's logits for every input, in the student's label order: N,C (sequence head) or ΣS,C.

    Computed once and kept in `cache` under a name made of the hashes of all that decides them (teacher, tokenizer,
    inputs, labels, precision, code): other seeds and epochs read the file. Raises UserError for a file that contradicts
    its name.
    """
    key = cache_key(teacher, tokenizer_hash, features, device, dtype) | {"labels": sha256(*labels)}

    def fill(logits: np.ndarray) -> None:
        compute_logits(teacher.to(device), features, device, dtype=dtype, title="teacher's logits", out=logits)
        if teacher.config.head != "span" and teacher.config.labels != labels:
            order = label_order(teacher.config.labels, labels)
            for start in range(0, len(logits), SLICE):
                logits[start : start + SLICE] = logits[start : start + SLICE, order]

    what = f"teacher's logits for {len(features):,} inputs"
    return load_or_compute(what, key, logits_shape(teacher, features), fill, cache, say)


def load_or_compute(
    what: str, key: dict[str, str], shape: tuple[int, int], fill: Callable[[np.ndarray], None], cache: Path, say=say
) -> np.ndarray:
    """Logits from the file in `cache` that has the key's hash in its name, memory-mapped; where there is none, it is
    made first, by `fill` out of zeros. what: they are, in messages."""
    path = make_folder(cache) / f"teacher-logits-{sha256(*key.values())[:24]}.safetensors"
    if distributed.all_ranks_agree(is_usable(path, say)):
        say(f"{what}: read from {path}")
        return read_cached(path, key, shape)
    logits = zeros_on_disk(path.parent, shape, np.float32)
    fill(logits)
    if distributed.writes_cache():
        save_file({"logits": torch.from_numpy(logits)}, path, metadata=key, checksum=True)
    distributed.barrier()
    say(f"{what}: computed once, kept in {path}")
    return read_cached(path, key, shape)


def cache_key(
    teacher: Model, tokenizer_hash: str, features: EncodedInputs, device: torch.device, dtype: torch.dtype | None
) -> dict[str, str]:
    """What decides a teacher's logits for some inputs: name -> hash."""
    return {
        "teacher": fingerprint(teacher),
        "tokenizer": tokenizer_hash,
        "features": features_hash(features),
        "precision": f"{dtype or torch.float32} on {device.type}",
        "code": source_hash("distillation.teacher", versions=(torch.__version__,)),
    }


def read_cached(path: Path, key: dict[str, str], shape: tuple[int, int]) -> np.ndarray:
    """Cached logits, memory-mapped; UserError where the file is not what its name says."""
    found = load_file(path).get("logits")
    if read_metadata(path) != key or found is None or found.shape != shape or found.dtype != torch.float32:
        raise UserError(f"{path}: these are not this teacher's logits for this data; delete the file")
    return found.numpy()


def mean_logits(each: list[np.ndarray], folder: Path, counted: np.ndarray | None = None) -> np.ndarray:
    """The mean of K teachers' logits, memory-mapped; of one teacher its own.

    Its softmax is the geometric mean of theirs (at every temperature, but for a factor): the ensemble of Hinton et al.
    2015, section 1.
    counted: K booleans for each row of logits, whose mean it is; None: that of all.
    """
    if len(each) == 1:
        return each[0]
    mean = zeros_on_disk(folder, each[0].shape, np.float32)
    for start in range(0, len(mean), SLICE):
        rows = slice(start, start + SLICE)
        where = True if counted is None else counted[:, rows, None]
        mean[rows] = np.mean([logits[rows] for logits in each], axis=0, where=where)
    return mean


def mean_probabilities(
    each: list[np.ndarray], features: EncodedInputs, temperature: float, folder: Path, counted: np.ndarray | None = None
) -> np.ndarray:
    """Logits whose softmax(·/T) is the mean of K teachers' softmax(t/T): T·log of it, memory-mapped; of one teacher its
    own. counted: as of mean_logits. Of several labels: whose sigmoid(·/T) is the mean of their sigmoid(t/T).

    What one teacher alone finds likely keeps a K-th of that; in the geometric mean the others can rule it out.
    """
    if len(each) == 1:
        return each[0]
    mean = zeros_on_disk(folder, each[0].shape, np.float32)
    edges = np.arange(len(features) + 1) if features.head == "sequence" else features.starts
    for inputs in np.array_split(np.arange(len(features)), -(-len(features) // TOGETHER)):
        rows = slice(edges[inputs[0]], edges[inputs[-1] + 1])
        scaled = np.stack([logits[rows].astype(np.float64) / temperature for logits in each])
        where = True if counted is None else counted[:, rows, None]
        signs = (1, -1) if features.multi_label else (1,)  # sigmoid(−z) = 1 − sigmoid(z), to its last digit
        p = [np.mean(probabilities(sign * scaled, features, inputs), axis=0, where=where) for sign in signs]
        logs = [np.log(np.maximum(mean_p, 1e-300)) for mean_p in p]  # finite, and as good as 0
        mean[rows] = temperature * (logs[0] - logs[1] if features.multi_label else logs[0])
    return mean


def probabilities(logits: np.ndarray, features: EncodedInputs, inputs: np.ndarray) -> np.ndarray:
    """softmax of the R rows of successive inputs, K,R,C -> K,R,C; span head: over the allowed positions of each window,
    for starts and for ends, and 1 elsewhere, which no loss sees. Of several labels the sigmoid."""
    if features.multi_label:
        return torch.from_numpy(logits).sigmoid().numpy()
    if features.head != "span":
        return torch.from_numpy(logits).softmax(dim=-1).numpy()
    p = np.ones_like(logits)
    offset = features.starts[inputs[0]]
    for start, end in zip(features.starts[inputs], features.starts[inputs + 1], strict=True):
        at = np.flatnonzero(features.allowed[start:end]) + start - offset
        p[:, at] = torch.from_numpy(logits[:, at]).softmax(dim=1).numpy()
    return p


def by_row(of_input: np.ndarray, features: EncodedInputs) -> np.ndarray:
    """K values for each input as K values for each row of its logits.  K,N -> K,N (sequence head) or K,ΣS"""
    return of_input if features.head == "sequence" else np.repeat(of_input, features.lengths, axis=1)


def gather(logits: np.ndarray, features: EncodedInputs, batch: Batch) -> Tensor:
    """The rows of precomputed logits that belong to a batch: B,C, or padded B,S,C. Keyed by input, never by step."""
    rows = logits[batch.indices] if features.head == "sequence" else pad(logits, features.starts, batch.indices, 0)
    return to_device(rows, batch.input_ids.device)


def features_hash(features: EncodedInputs) -> str:
    """SHA-256 of the arrays that a model gets of the inputs."""
    parts = [features.tokens, features.starts, features.token_types, features.allowed]
    return sha256(*(b"" if part is None else np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in parts))
