"""One answer at a time: who asks waits for their turn, and the page's questions come before those of programs."""

import asyncio
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from kd_scratch.common.errors import UserError
from kd_scratch.demo.protocol import Reply, encode, refusal


def compute(function: Callable[[dict], dict], values: dict) -> tuple[Reply, float]:
    """A function's answer as JSON, and the seconds that it took. What goes wrong in it is an answer too."""
    start = time.perf_counter()
    try:
        reply = Reply(200, encode(function(values)))
    except UserError as error:
        reply = refusal(400, str(error))
    except Exception:
        traceback.print_exc()
        reply = refusal(500, "something went wrong here; the terminal of the server shows what")
    return reply, time.perf_counter() - start


class Worker:
    """Computes answers in one thread. Of the programs that ask, one at a time stands in line with the page.

    Where the wait would be longer than `wait` seconds, as the latest answers have shown, there is a refusal at once.
    Who goes away while waiting gets nothing computed, and nobody waits for them.
    """

    def __init__(self, wait: float):
        self.wait = wait
        self.thread = ThreadPoolExecutor(max_workers=1)  # always the same one: torch starts threads of its own for each
        self.line, self.line_of_programs = asyncio.Lock(), asyncio.Lock()  # first come, first served
        #: Of the page (True) and of programs, for each question what tells whether who asked is still there.
        self.unanswered: dict[bool, list[Callable[[], bool]]] = {True: [], False: []}
        self.seconds = 0.1  # moving average of one answer

    async def answer(
        self,
        function: Callable[[dict], dict],
        values: dict,
        page: bool,
        is_there: Callable[[], bool] = lambda: True,
    ) -> Reply:
        """The function's answer to the values, for the page or for a program.

        is_there: whether who asks is still there; ConnectionAbortedError where not when their turn comes.
        Who has closed only their own side looks gone, so who need not wait is answered in any case.
        """
        earlier = self.unanswered[True] + ([] if page else self.unanswered[False])
        before = sum(other_is_there() for other_is_there in earlier)
        if before * self.seconds > self.wait:
            raise refusal(503, "too much is waiting to be computed; try again in a second", Retry_After="1")
        self.unanswered[page].append(is_there)
        waits = self.line.locked()
        try:
            async with nullcontext() if page else self.line_of_programs, self.line:
                if waits and not is_there():
                    raise ConnectionAbortedError
                loop = asyncio.get_running_loop()
                reply, seconds = await loop.run_in_executor(self.thread, compute, function, values)
            self.seconds += 0.2 * (seconds - self.seconds)
            return reply
        finally:
            self.unanswered[page].remove(is_there)
