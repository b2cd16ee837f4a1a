"""Where the time of a run goes, and the rate of large matrix products on this machine, to compare it with."""

import time
from collections import defaultdict

import numpy as np
import torch

SQUARE = {"cpu": 1024, "cuda": 8192, "mps": 2048}  # side of the matrices that are multiplied


#: Marks in the queue of a device that works while Python goes on, by its kind.
EVENTS = {"cuda": lambda: torch.cuda.Event(enable_timing=True), "mps": lambda: torch.mps.Event(enable_timing=True)}


class Mark:
    """The point that a device's work has come to; on a CPU, which works when it is asked to, the time."""

    def __init__(self, device: torch.device):
        self.event, self.time = None, time.perf_counter()
        if device.type in EVENTS:
            self.event = EVENTS[device.type]()
            self.event.record()

    def wait(self) -> None:
        """Wait until the device has come here."""
        if self.event is not None:
            self.event.synchronize()

    def seconds_until(self, later: "Mark") -> float:
        """The time from here to a later mark, both of which the device has passed."""
        return later.time - self.time if self.event is None else self.event.elapsed_time(later.event) / 1000


class Clock:
    """Splits the time between calls of `lap` among named phases.

    A GPU works while Python goes on: the laps are marks in its own queue, which are read in `totals`, and no step waits
    for them.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.laps: list[tuple[str, Mark, Mark]] = []  # phase, its start, its end
        self.last = Mark(device)

    def lap(self, phase: str) -> None:
        """The time since the last lap was spent in this phase."""
        now = Mark(self.device)
        self.laps.append((phase, self.last, now))
        self.last = now

    def totals(self) -> dict[str, float]:
        """Seconds of each phase so far. On a GPU this waits until all its work is done."""
        if self.laps:
            self.last.wait()
        for phase, start, end in self.laps:
            self.seconds[phase] += start.seconds_until(end)
        self.laps.clear()
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
