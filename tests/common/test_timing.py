"""common/timing.py: where time goes, and the operations that speed is measured against."""

import time

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from kd_scratch.common import timing
from kd_scratch.common.timing import Clock, matmul_rate
from kd_scratch.nn.model import forward_operations
from tests.conftest import tiny_model

CPU = torch.device("cpu")


def test_laps_are_the_time_between_them_and_add_up():
    started = time.perf_counter()
    clock = Clock(CPU)
    for phase, seconds in (("a", 0.02), ("b", 0.04), ("a", 0.02)):
        time.sleep(seconds)
        clock.lap(phase)
    totals = clock.totals()
    assert sum(totals.values()) <= time.perf_counter() - started
    assert totals["a"] >= 0.04 and totals["b"] >= 0.04 and list(totals) == ["a", "b"]
    assert clock.totals() == totals


class Queue:
    """A GPU as far as clocks see it: marks get their time when the device comes to them, which Python may wait for."""

    def __init__(self):
        self.now, self.waited = 0.0, 0

    def event(self):
        return QueueEvent(self)


class QueueEvent:
    def __init__(self, queue):
        self.queue, self.time = queue, None

    def record(self):
        self.time = self.queue.now

    def synchronize(self):
        self.queue.waited += 1

    def elapsed_time(self, later):
        assert self.queue.waited, "read before the device had come there"
        return later.time - self.time  # milliseconds


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_laps_on_a_gpu_are_its_own_time_and_nothing_waits_before_the_totals(monkeypatch, kind):
    queue = Queue()
    monkeypatch.setitem(timing.EVENTS, kind, queue.event)
    clock = Clock(torch.device(kind))
    for phase, milliseconds in (("a", 3), ("b", 40), ("a", 5)):
        queue.now += milliseconds
        clock.lap(phase)
    assert queue.waited == 0
    assert clock.totals() == pytest.approx({"a": 0.008, "b": 0.04}) == clock.totals()
    assert queue.waited == 1


@pytest.mark.parametrize("head, plain", [("token", False), ("token", True), ("sequence", False), ("sequence", True)])
def test_operations_are_those_that_pytorch_counts(head, plain):
    """In a forward pass without padding; the head is small, and not counted. A plain one computes all positions."""
    model = tiny_model(head, width=64, heads=4, feed_forward=96)
    first_only = head == "sequence" and not plain
    lengths, counted = np.array([7, 30]), 0
    for length in lengths:
        with (
            FlopCounterMode(display=False) as counter,
            torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        ):
            model.encoder(torch.randn(1, int(length), 64), first_only=first_only)
        counted += counter.get_total_flops()
    assert forward_operations(model.config, lengths, plain) == counted


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_the_matrix_product_rate_is_that_of_a_product(dtype):
    assert 1e8 < matmul_rate(CPU, dtype) < 1e15
