"""Speed and memory of several models, measured in turns, so that a slow minute of the machine hits all alike."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from kd_scratch.common.console import progress
from kd_scratch.common.errors import UserError
from kd_scratch.config import KernelConfig
from kd_scratch.data.batches import EncodedInputs, collate
from kd_scratch.evaluation.evaluate import EvaluationSet, LoadedModel, load_for_inference
from kd_scratch.evaluation.inference import compute_logits
from kd_scratch.nn import kernels

TIMED, WARM_UP = 50, 5  # single examples that are timed, and those before them that are not
BATCH, BATCHES = 32, 4  # for the throughput


@torch.inference_mode()
def in_turns(models: dict, inputs: Sequence, work: Callable, warm_up: int, title: str) -> dict[str, np.ndarray]:
    """Milliseconds that work(model, input) takes, by model (of any kind), for all inputs but the first `warm_up`."""
    times = {name: [] for name in models}
    for item in progress(inputs, desc=title):
        for name, model in models.items():
            started = time.perf_counter()
            work(model, item)
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: np.array(values[warm_up:]) for name, values in times.items()}


def latencies(
    models: dict[str, LoadedModel], test_set: EvaluationSet, device: torch.device
) -> dict[str, tuple[float, float]]:
    """Milliseconds from text to logits of one example, by model: the median, and what 95% of them stay below."""

    def compute(loaded: LoadedModel, example) -> None:
        features = featurize(loaded, test_set, [example])
        batch = collate(features, np.arange(len(features)), device, loaded.model.config.pad_id)
        loaded.model(**batch.inputs).logits.cpu()

    examples = [test_set.examples[0]] * WARM_UP + list(test_set.examples[:TIMED])
    times = in_turns(models, examples, compute, WARM_UP, "latency")
    return {name: tuple(np.percentile(values, [50, 95]).tolist()) for name, values in times.items()}


def throughputs(models: dict[str, LoadedModel], test_set: EvaluationSet, device: torch.device) -> dict[str, float]:
    """Examples a second from text to logits, in batches of 32."""

    def compute(loaded: LoadedModel, chunk: list) -> None:
        compute_logits(loaded.model, featurize(loaded, test_set, chunk), device, BATCH)

    examples = list(test_set.examples[: BATCH * BATCHES])
    chunks = [examples[i : i + BATCH] for i in range(0, len(examples), BATCH)]
    times = in_turns(models, [chunks[0], *chunks], compute, 1, "throughput")
    return {name: 1000 * len(examples) / values.sum() for name, values in times.items()}


def featurize(loaded: LoadedModel, test_set: EvaluationSet, examples: Sequence) -> EncodedInputs:
    """Some examples of an evaluation set as a model's inputs."""
    labels = loaded.model.config.labels
    return test_set.task.featurize(examples, loaded.tokenizer, labels, loaded.max_length, test_set.data)


def peak_memory(directory: str | Path, tokens: int, device: torch.device) -> float | None:
    """Megabytes that a process of its own takes at most to open a model and compute 32 inputs of so many tokens.

    Python and PyTorch are in it. On the CPU only, and where the system tells (Linux): else None.
    """
    if device.type != "cpu" or not Path("/proc/self/status").exists():
        return None
    code = "import sys; from kd_scratch.evaluation.measure import print_peak; print_peak(*sys.argv[1:])"
    package = str(Path(__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")])}
    settings = [torch.get_num_threads(), *asdict(kernels.config()).values()]
    argv = [sys.executable, "-c", code, str(directory), str(tokens), *map(str, settings)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        why = done.stderr.strip().split("\n")[-1] or f"exit status {done.returncode}"
        raise UserError(f"{directory}: the process that measures its memory failed: {why}")
    return float(done.stdout.split()[-1])


@torch.inference_mode()
def print_peak(directory: str, tokens: str, threads: str, *settings: str) -> None:
    """What the process of `peak_memory` does: print the most megabytes that it has taken."""
    torch.set_num_threads(int(threads))
    kernels.use(KernelConfig(*settings))
    load_for_inference(directory).model(torch.ones(BATCH, int(tokens), dtype=torch.int64))
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6)  # the kernel's kB are 1024 bytes
