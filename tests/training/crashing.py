"""Runs of the command line that are killed, or refused by the disk, at a chosen moment: forks (tests/forking.py)."""

import errno
import os
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

from kd_scratch.common import files
from kd_scratch.training import bookkeeping
from tests.forking import Finished, Fork

#: What happens to an operation: its number, its name, its file's name; may kill, or raise what the disk would.
Hook = Callable[[int, str, str], None]


class WatchedFile:
    """A file that calls `before` at every write. Where it returns True, half of the bytes are written, then a kill."""

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
    """From here on this process calls the hook before each write, fsync, rename and deletion."""
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


def begin(argv: list[str], hook: Hook | None = None) -> Fork:
    """Start a run in a fork, which saves its state after each step."""

    def prepare() -> None:
        bookkeeping.SAVE_EVERY = -1
        if hook:
            watch(hook)

    return Fork(argv, prepare)


def run(argv: list[str], hook: Hook | None = None) -> Finished:
    """Run the command line in a fork, to its end."""
    return begin(argv, hook).finish()


def run_and_kill(argv: list[str], seconds: float) -> Finished:
    """Run the command line in a fork, and kill it after so many seconds."""
    fork = begin(argv)
    time.sleep(seconds)
    fork.send_signal(signal.SIGKILL)
    return fork.finish()


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
    assert finished.status == 0, finished.text
    return [tuple(line.split("\t")) for line in log.read_text().splitlines()]


REFUSALS = (errno.ENOSPC, errno.EROFS, errno.EIO)
