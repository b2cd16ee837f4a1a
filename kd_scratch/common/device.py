"""The machine a command runs on: device, threads, seeds, mixed precision, and a description for the record."""

import os
import platform
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from kd_scratch.common.errors import UserError

#: Where Linux reports memory.
MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")
#: What PyTorch has to ask a processor of Intel's or AMD's for such instructions; unknown to some of its versions.
HAS_BF16 = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
INSTRUCTIONS = {"VNNI": "_is_vnni_supported", "bf16": HAS_BF16[0], "AMX": HAS_BF16[1]}


def is_seed(seed: int) -> bool:
    """Whether all generators take this number for a seed."""
    return 0 <= seed < 2**63


def start(seed: int, threads: int, device: str) -> torch.device:
    """Seed every generator, set the thread count, pick the device. Raises UserError where the device is not there."""
    if not is_seed(seed) or not 0 <= threads <= 4096:
        raise UserError("--threads and --seed must be 0 or more, and no larger than 4096 and 2^63")
    if threads:
        torch.set_num_threads(threads)
    seed_everything(seed)
    return pick_device(device)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make PyTorch's random numbers in a training step depend on (seed, step, rank) alone.

    So a resumed run goes on as if nothing had happened, without any generator's state, and every rank has its own.
    """
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))


def pick_device(name: str) -> torch.device:
    """The device of that name, or the best one for "auto". Raises UserError where it is not there."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device in available if available[device])
    if not available.get(name):
        raise UserError(f"--device {name}: PyTorch finds no such device here; use --device auto")
    return torch.device(name)


def has_bf16(device: torch.device) -> bool:
    """Whether a device has instructions for products of bf16 numbers: without them these take longer than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(False)
    return device.type == "cpu" and any(getattr(torch.cpu, name, bool)() for name in HAS_BF16)


def amp_dtype(choice: str, device: torch.device) -> torch.dtype | None:
    """The number type of mixed precision, or None for plain float32. UserError where the device cannot."""
    if choice == "auto":
        return torch.bfloat16 if has_bf16(device) else None
    if choice == "fp16" and device.type != "cuda":
        raise UserError("--amp fp16 needs a CUDA device; use bf16 or off")
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[choice]


def autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """The context in which a forward pass runs: lower precision where it is safe, float32 elsewhere."""
    return torch.autocast(device.type, dtype=dtype or torch.float32, enabled=dtype is not None)


@contextmanager
def tensor_cores(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """A context in which a CUDA device that trains in mixed precision takes TF32 for what stays in float32 (the losses
    on hidden states): products on its tensor cores, with numbers of 10 bits, bf16 has 7. Without it they would take
    most of such a step; who trains in float32 gets float32."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda" and dtype is not None:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process can still get on a device, with what the system would give up for it; None: nobody knows."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        lines = dict(line.split(":") for line in MEMINFO.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:  # in a container there may be less
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(stat["inactive_file"]))
    except (OSError, KeyError, ValueError):  # "max": no limit
        return free


def describe(device: torch.device) -> dict:
    """Processor, threads and versions, for the record beside every measured figure."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": _processor_name(),
        "instructions": instructions(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def device_and_threads(device: torch.device) -> str:
    """The same in a few words, for the line that is printed when work begins: "cpu, 2 threads"."""
    return f"{device.type}, {torch.get_num_threads()} threads"


def instructions() -> str:
    """The widest instructions that PyTorch uses on this CPU, and which special ones it has: "AVX512 VNNI bf16"."""
    special = [name for name, ask in INSTRUCTIONS.items() if getattr(torch.cpu, ask, bool)()]
    return " ".join([torch.backends.cpu.get_cpu_capability(), *special])


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
