"""What the tests of the command line share."""

import pytest

import kd_scratch.evaluation.compare


@pytest.fixture
def no_memory_processes(monkeypatch):
    """`compare` without the processes in which it measures memory, three seconds for each model."""
    monkeypatch.setattr(kd_scratch.evaluation.compare, "peak_memory", lambda *arguments: 123.0)


@pytest.fixture
def one_memory_process(monkeypatch):
    """`compare` measures the memory of its first model only, and shows that of all."""
    real, found = kd_scratch.evaluation.compare.peak_memory, []

    def peak_memory(*arguments):
        if not found:
            found.append(real(*arguments))
        return found[0]

    monkeypatch.setattr(kd_scratch.evaluation.compare, "peak_memory", peak_memory)
