"""Where the time of a run goes, and the rate of large matrix products on this machine, to compare it with."""

import time
from collections import defaultdict

import numpy as np
import torch

SQUARE = {"cpu": 1024, "cuda": 8192, "mps": 2048}  # side of the matrices that are multiplied


class Clock:
    """Splits the time between calls of `lap` among named phases.

    A CUDA device works while Python has gone on, so there the laps are events in the device's own queue: they are read
    in `totals`, and no step waits for them.
    """

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self.mps = device.type == "mps"
        self.seconds: dict[str, float] = defaultdict(float)
        self.events = []  # (phase, its start, its end), CUDA only
        self.last = self._now()

    def _now(self):
        if self.mps:
            torch.mps.synchronize()
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def lap(self, phase: str) -> None:
        """The time since the last lap was spent in this phase."""
        now = self._now()
        if self.cuda:
            self.events.append((phase, self.last, now))
        else:
            self.seconds[phase] += now - self.last
        self.last = now

    def totals(self) -> dict[str, float]:
        """Seconds of each phase so far. On a CUDA device this waits until all its work is done."""
        if self.events:
            torch.cuda.synchronize()
            for phase, start, end in self.events:
                self.seconds[phase] += start.elapsed_time(end) / 1000
            self.events.clear()
        return dict(self.seconds)


def matmul_rate(device: torch.device, dtype: torch.dtype | None = None) -> float:
    """Floating-point operations per second of a large matrix product, in the number type that training uses."""
    side = SQUARE[device.type]
    a, b = (torch.randn(side, side, device=device, dtype=dtype or torch.float32) for _ in range(2))
    clock = Clock(device)
    for i in range(10):
        a @ b
        clock.lap("warm-up" if i < 3 else f"product {i}")
    seconds = clock.totals()
    seconds.pop("warm-up")
    return 2 * side**3 / float(np.median(list(seconds.values())))
