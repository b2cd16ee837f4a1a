"""Data-parallel training: several processes (ranks), started by `torchrun`, that train one model together.

Without torchrun there is one rank, and nothing here does anything. With more, each computes its slice of every batch,
the gradients are all-reduced (DistributedDataParallel does so while the backward pass still runs), and all take the
same step. Rank 0 alone prints and writes the output; one rank on each machine fills its cache.
"""

import json
import os
import warnings
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kd_scratch.common import console
from kd_scratch.common.errors import UserError

#: One rank may tokenize a large file while the others wait. Gloo notices a dead one at once all the same; NCCL does
#: not, so what it sends, gradients and losses, has a group with a shorter patience: longer than rank 0 takes to save.
TIMEOUT, STEP_TIMEOUT = timedelta(hours=24), timedelta(minutes=30)
_step_group: dist.ProcessGroup | None = None
_joined = False
SLICE = 2**24  # numbers that are all-reduced at a time


def init_process_group(device: torch.device) -> torch.device:
    """This rank's own device; where torchrun has started several ranks, they are connected first.

    Raises UserError where there are fewer CUDA devices than ranks, or where the ranks cannot reach each other.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ or dist.is_initialized():
        return device
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.index >= torch.cuda.device_count():
            raise UserError(f"--nproc_per_node: there are only {torch.cuda.device_count()} CUDA devices here")
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
        group = dist.new_group(timeout=STEP_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"the processes do not find each other: {reason}; start them with torchrun") from None
    global _joined, _step_group
    _joined, _step_group = True, group
    if rank() > 0:
        console.silence()
    return device


def was_initialized() -> bool:
    """Whether this process has ever been one of several ranks."""
    return _joined


def destroy_process_group() -> None:
    """Disconnect from the other ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()


def is_lost_connection(error: RuntimeError) -> bool:
    """Whether this is the error of a rank that has died or cannot be reached."""
    if world_size() == 1:
        return False
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "Gloo", "NCCL"))


def rank() -> int:
    """This process's number, from 0 to world_size() - 1."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def writes_cache() -> bool:
    """Whether this rank writes the caches of its machine: one rank on each does, since disks may be apart."""
    return world_size() == 1 or os.environ.get("LOCAL_RANK", "0") == "0"


def rank_slice(items):
    """This rank's part of a sequence: every world_size()-th item. Of items in order of length all parts cost alike."""
    return items[rank() :: world_size()]


def barrier() -> None:
    """Wait until all ranks have come to this point."""
    all_reduce_max([0.0])


def data_parallel(model: nn.Module) -> nn.Module:
    """The model, wrapped so that backward leaves the *mean* of all ranks' gradients; with one rank, as it is."""
    if world_size() == 1:
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the flag's new name is unknown to older versions
        return DistributedDataParallel(model, broadcast_buffers=False, process_group=_step_group)


def sync_gradients(network: nn.Module, now: bool) -> AbstractContextManager:
    """A context for forward and backward: the gradients so far are all-reduced now, or in a later step (no-sync)."""
    return nullcontext() if now or world_size() == 1 else network.no_sync()


def all_ranks_agree(yes: bool) -> bool:
    """Whether `yes` holds on every rank."""
    return all_reduce_max([float(not yes)]) == [0.0]


def all_reduce_array(array: np.ndarray) -> None:
    """All-reduce (sum) of an array, in place and a slice at a time."""
    if world_size() > 1:
        flat = array.reshape(-1)  # a view: the arrays that come here are contiguous
        for start in range(0, len(flat), SLICE):
            dist.all_reduce(torch.from_numpy(flat[start : start + SLICE]))


def all_reduce_max(values: list[float]) -> list[float]:
    """All-reduce (maximum): for each place the largest number of all ranks."""
    found = torch.tensor(values, dtype=torch.float64)
    if world_size() > 1:
        dist.all_reduce(found, dist.ReduceOp.MAX)
    return found.tolist()


def all_reduce_sum(values: Tensor) -> list[float]:
    """All-reduce (sum) of some numbers, which may be on the device."""
    if world_size() > 1:
        dist.all_reduce(values, group=_step_group)
    return values.tolist()


def broadcast_tensors(tensors: list[Tensor]) -> None:
    """Broadcast: overwrite tensors with those of rank 0."""
    if world_size() > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def broadcast_object(value):
    """The value of rank 0, whatever `value` is on the others. It travels as JSON: numbers, strings, lists, dicts."""
    if world_size() == 1:
        return value
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    length = torch.tensor([len(text)])
    dist.broadcast(length, src=0)
    if rank() > 0:
        text = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(text, src=0)
    return json.loads(bytes(text.numpy()))
