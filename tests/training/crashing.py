"""Runs of the command line that are killed, or to which the disk says no, at a chosen moment.

Each run is a fork of the test process: a process of its own, without the seconds that importing PyTorch takes.
"""

import errno
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch._dynamo  # which every optimizer imports: two seconds, ten times what these runs take otherwise

from kd_scratch.__main__ import main
from kd_scratch.common import files
from kd_scratch.training import bookkeeping
from kd_scratch.training import run as training_run

#: What happens to an operation: its number, its name, its file's name; may kill, or raise what the disk would.
Hook = Callable[[int, str, str], None]


@dataclass
class Finished:
    """How a process ended."""

    status: int  # exit status, or minus the signal's number
    said: str  # stdout and stderr


class WatchedFile:
    """A file whose every write is told first. A hook that returns True gets half of the bytes written, then a kill."""

    def __init__(self, file, before: Callable[[str, str], bool | None]):
        self.file, self.before = file, before

    def write(self, chunk) -> int:
        if self.before("write", os.path.basename(self.file.name)):
            self.file.write(memoryview(chunk).cast("B")[: len(chunk) // 2])
            self.file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.file.write(chunk)

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.file.close()


def watch(hook: Hook) -> None:
    """From here on this process tells the hook before each write, fsync, rename and deletion."""
    count = -1

    def before(name: str, file: str) -> bool | None:
        nonlocal count
        count += 1
        return hook(count, name, file)

    def watched(name: str, real: Callable) -> Callable:
        def call(target, *more, **options):
            before(name, "" if isinstance(target, int) else os.path.basename(target))
            return real(target, *more, **options)

        return call

    for name in ("fsync", "replace", "unlink"):
        setattr(os, name, watched(name, getattr(os, name)))
    files.open = lambda path, mode="r": WatchedFile(open(path, mode), before) if "w" in mode else open(path, mode)


def begin(argv: list[str], hook: Hook | None = None) -> tuple[int, int]:
    """Start a run in a fork; returns its process number and the pipe that it speaks into."""
    receive, send = os.pipe()
    sys.stdout.flush(), sys.stderr.flush()
    process = os.fork()
    if process:
        os.close(send)
        return process, receive
    try:
        os.dup2(send, 1), os.dup2(send, 2)
        sys.stdout = os.fdopen(1, "w", closefd=False, buffering=1)
        sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
        torch.manual_seed(random.SystemRandom().getrandbits(60))  # a new process knows nothing of the old one's numbers
        np.random.seed()
        bookkeeping.SAVE_EVERY = -1  # after each step
        training_run.matmul_rate = lambda *_: 0.0  # nobody looks at it here, and it takes longer than the training
        if hook:
            watch(hook)
        status = main(argv)
        sys.stdout.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    os._exit(status)


def end(process: int, receive: int) -> Finished:
    """Wait for a run."""
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read().decode()
    return Finished(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said)


def run(argv: list[str], hook: Hook | None = None) -> Finished:
    """Run the command line in a fork, to its end."""
    return end(*begin(argv, hook))


def run_and_kill(argv: list[str], seconds: float) -> Finished:
    """Run the command line in a fork, and kill it after so many seconds."""
    process, receive = begin(argv)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    return end(process, receive)


def kill_at(number: int, half: bool = False) -> Hook:
    """Kill the process before this operation; half: in the middle of it (a write)."""

    def hook(count: int, name: str, file: str) -> bool | None:
        if count == number:
            return half or os.kill(os.getpid(), signal.SIGKILL)

    return hook


def refuse_at(number: int, code: int, for_good: bool = False) -> Hook:
    """The disk refuses this operation with an error code; for_good: and all that follow."""

    def hook(count: int, name: str, file: str) -> None:
        if count == number or (for_good and count > number):
            raise OSError(code, os.strerror(code))

    return hook


def limit_at(number: int, size: int) -> Hook:
    """From this operation on no file may grow beyond so many bytes (which the kernel says, not we)."""

    def hook(count: int, name: str, file: str) -> None:
        if count == number:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    return hook


def operations(argv: list[str], log: Path) -> list[tuple[str, str]]:
    """(name, file's name) of all operations of a whole run, in their order."""

    def hook(count: int, name: str, file: str) -> None:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{name}\t{file}\n".encode())
        os.close(descriptor)

    finished = run(argv, hook)
    assert finished.status == 0, finished.said
    return [tuple(line.split("\t")) for line in log.read_text().splitlines()]


REFUSALS = (errno.ENOSPC, errno.EROFS, errno.EIO)
