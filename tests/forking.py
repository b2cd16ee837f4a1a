"""The command line in forks of the test process: processes of their own, without the seconds of importing PyTorch.

A fork may not compute with several OpenMP threads, since those of the parent are not there any more: such a product
would hang. So a fork begins with one thread, and tests that fork give `--threads 1`.
"""

import os
import random
import resource
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch._dynamo  # noqa: F401  every optimizer imports it: two seconds, ten times what these runs take otherwise

from kd_scratch.__main__ import main
from kd_scratch.common.source_hash import source_hash
from kd_scratch.training import run as training_run

LONGEST = 120  # seconds that a fork may be silent


@dataclass
class Finished:
    """How a process ended."""

    status: int  # exit status, or minus the signal's number
    out: str
    err: str

    @property
    def text(self) -> str:
        """All that it printed."""
        return self.out + self.err


class Fork:
    """A run of the command line in a fork. It has those parts of subprocess.Popen's interface that are used.

    argv: what stands behind `python -m kd_scratch`. prepare: called in the fork before it begins. stdout and stderr:
    open files, or None for pipes that `finish` reads.
    """

    def __init__(
        self,
        argv: list[str],
        prepare: Callable[[], None] = lambda: None,
        environment: dict[str, str] | None = None,
        stdout=None,
        stderr=None,
    ):
        source_hash("training.run")  # parses all that training imports, here and not in each fork anew
        self.returncode: int | None = None
        self.files = [stdout, stderr]
        self.pipes = []
        for i, file in enumerate(self.files):
            if file is None:
                receive, send = os.pipe()
                self.pipes.append(os.fdopen(receive, "rb"))
                self.files[i] = os.fdopen(send, "wb")
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self.become([str(word) for word in argv], prepare, environment or {})
        for file, given in zip(self.files, (stdout, stderr), strict=True):
            if given is None:
                file.close()

    def become(self, argv: list[str], prepare: Callable[[], None], environment: dict[str, str]) -> None:
        """Run the command in this process, and end it."""
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.environ.update(environment)
            for number, file in enumerate(self.files, 1):
                os.dup2(file.fileno(), number)
            sys.stdout = os.fdopen(1, "w", closefd=False, buffering=1)
            sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
            torch.set_num_threads(1)
            # a new process knows nothing of the old one's numbers
            torch.manual_seed(random.SystemRandom().getrandbits(60))
            np.random.seed()
            training_run.matmul_rate = lambda *_: 0.0  # nobody looks at it here, and it takes longer than the training
            os.fsync = lambda descriptor: None  # nobody pulls the plug, and disks are slow
            prepare()
            status = main(argv)
            sys.stdout.flush()
        except SystemExit as end:
            status = end.code
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # what coverage has counted is written now
            os._exit(status)

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = LONGEST) -> int:
        """The exit status, once it has ended. A fork that does not end is killed, and TimeoutExpired raised."""
        end = time.monotonic() + timeout
        pause = 0.001
        while self.poll() is None:
            if time.monotonic() > end:
                self.send_signal(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def finish(self) -> Finished:
        """How it ended, once it has."""
        chunks: dict = {pipe: [] for pipe in self.pipes}
        with selectors.DefaultSelector() as selector:
            for pipe in self.pipes:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map():
                ready = selector.select(timeout=LONGEST)
                if not ready:  # it hangs
                    break
                for key, _ in ready:
                    chunks[key.fileobj].append(os.read(key.fd, 65536))
                    if not chunks[key.fileobj][-1]:
                        selector.unregister(key.fileobj)
        status = self.wait()
        for pipe in self.pipes:
            pipe.close()
        return Finished(status, *(b"".join(parts).decode() for parts in chunks.values()))


def run(argv: list[str], prepare: Callable[[], None] = lambda: None) -> Finished:
    """Run the command line in a fork, to its end."""
    return Fork(argv, prepare).finish()
