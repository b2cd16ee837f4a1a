"""Ctrl-C and its kin: work that is asked to stop does so where it can be resumed."""

import signal
import threading
from collections.abc import Callable


class Stopped(Exception):
    """Work that was asked to stop by a signal (its number), has been saved, and can go on later."""

    def __init__(self, number: int):
        super().__init__(number)
        self.signal = number


class Interruption:
    """A context in which Ctrl-C (SIGINT), SIGTERM and SIGHUP (a closed terminal) are only noted, so that work can stop
    where it can be resumed.

    `signal` is the number of the first one, 0 before. A second one acts at once, as it would have without this; before
    that can happen, the first one calls `then`.
    """

    def __init__(self, then: Callable[[], None] = lambda: None):
        self.signal = 0
        self.then = then
        self.before = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread do this
            for number in filter(None, (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None))):
                if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell does for what runs in the background
                    self.before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame) -> None:
        self.signal = number
        self.then()
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def __exit__(self, *exception) -> None:
        self._put_back()
