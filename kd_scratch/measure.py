"""How fast models are and how much memory they take, side by side: they take turns, so a slow minute hits all alike."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from kd_scratch.batches import collate
from kd_scratch.config import DataConfig
from kd_scratch.console import progress
from kd_scratch.evaluate import Opened, open_model
from kd_scratch.inference import compute_logits
from kd_scratch.tasks import Task

TIMED, WARM_UP = 50, 5  # single examples that are timed, and those before them that are not
BATCH, BATCHES = 32, 4  # for the throughput
MEMORY_INPUT = (BATCH, 128)  # inputs and tokens that a model computes while its memory is watched


@torch.no_grad()
def latencies(
    models: dict[str, Opened], task: Task, examples: list, data: DataConfig, device: torch.device
) -> dict[str, tuple[float, float]]:
    """Milliseconds from text to logits, one example at a time: the median, and what 95% of them stay below."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for i, example in enumerate(progress(examples[: TIMED + WARM_UP], desc="latency", unit="ex")):
        for name, opened in models.items():
            config = opened.model.config
            started = time.perf_counter()
            features = task.featurize([example], opened.tokenizer, config.labels, opened.max_length, data)
            batch = collate(features, np.arange(len(features)), device, config.pad_id)
            opened.model(**batch.inputs).logits.cpu()
            if i >= WARM_UP or len(examples) <= WARM_UP:
                times[name].append(1000 * (time.perf_counter() - started))
    return {name: tuple(np.percentile(values, [50, 95]).tolist()) for name, values in times.items()}


def throughputs(
    models: dict[str, Opened], task: Task, examples: list, data: DataConfig, device: torch.device
) -> dict[str, float]:
    """Examples a second from text to logits, in batches of 32."""
    seconds = dict.fromkeys(models, 0.0)
    chunks = [examples[i : i + BATCH] for i in range(0, min(len(examples), BATCH * (BATCHES + 1)), BATCH)]
    timed = chunks[1:] or chunks  # the first one warms up
    for chunk in progress(chunks, desc="throughput", unit="batch"):
        for name, opened in models.items():
            started = time.perf_counter()
            features = task.featurize(chunk, opened.tokenizer, opened.model.config.labels, opened.max_length, data)
            compute_logits(opened.model, features, device, BATCH)
            if any(chunk is one for one in timed):
                seconds[name] += time.perf_counter() - started
    return {name: sum(map(len, timed)) / total for name, total in seconds.items()}


def peak_memory(directory: str | Path, device: torch.device) -> float | None:
    """Megabytes that a process of its own takes at most to open a model and compute 32 inputs of 128 tokens on the CPU.

    Python and PyTorch are in it. None where the system does not tell (it is Linux that does), or on another device.
    """
    if device.type != "cpu" or not Path("/proc/self/status").exists():
        return None
    code = "import sys; from kd_scratch.measure import print_peak; print_peak(sys.argv[1], int(sys.argv[2]))"
    package = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    argv = [sys.executable, "-c", code, str(directory), str(torch.get_num_threads())]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None


@torch.no_grad()
def print_peak(directory: str, threads: int) -> None:
    """What peak_memory's process does."""
    torch.set_num_threads(threads)
    opened = open_model(directory)
    inputs, tokens = MEMORY_INPUT
    opened.model(torch.ones(inputs, min(tokens, opened.max_length), dtype=torch.int64))
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)  # the kernel's kB are 1024 bytes
