"""One answer at a time: the queue between the server's connections and the models."""

import asyncio
import itertools
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256
from kd_scratch.demo.protocol import Limits, Reply, encode, refusal


def compute(function: Callable[[dict], dict], values: dict) -> tuple[float, int, bytes]:
    """Seconds, status and JSON of a function's answer. What goes wrong in it is an answer too."""
    start = time.perf_counter()
    try:
        body = encode(function(values))
        status = 200
    except UserError as error:
        body = encode({"error": str(error)})
        status = 400
    except Exception:
        traceback.print_exc()
        body = encode({"error": "something went wrong here; the terminal of the server shows what"})
        status = 500
    return time.perf_counter() - start, status, body


class Job(NamedTuple):
    """A question in the queue. Jobs are in order of rank, then of number, of which no two are equal."""

    rank: int  # 0: the page's, 1: a program's
    number: int
    key: str
    function: Callable[[dict], dict]
    values: dict


class Pending(NamedTuple):
    """An answer that has not come yet, for all who wait for it."""

    rank: int
    future: asyncio.Future


class Worker:
    """Computes answers in one thread: the page's first, and else in the order in which they were asked for.

    Who asks what is being computed waits for the same answer, who asks what was answered lately gets that. Where the
    wait would be too long, as the latest answers have shown, there is a refusal at once.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.queue: asyncio.PriorityQueue[Job] = asyncio.PriorityQueue()
        self.count = itertools.count()
        self.pending: dict[str, Pending] = {}
        self.answers: OrderedDict[str, bytes] = OrderedDict()  # the latest ones last
        self.seconds = 0.1  # moving average of one answer

    async def answer(self, path: str, function: Callable[[dict], dict], values: dict, page: bool) -> Reply:
        """The function's answer to the values, for the page or for a program."""
        key = sha256(path, encode(sorted(values.items())))
        rank = 0 if page else 1
        if key in self.answers:
            self.answers.move_to_end(key)
            return Reply(200, self.answers[key])
        if key not in self.pending:
            before = sum(other.rank <= rank for other in self.pending.values())
            if before * self.seconds > self.limits.wait:
                raise refusal(503, "too much is waiting to be computed; try again in a second", Retry_After="1")
            self.pending[key] = Pending(rank, asyncio.get_running_loop().create_future())
            self.queue.put_nowait(Job(rank, next(self.count), key, function, values))
        return Reply(*await self.pending[key].future)

    async def work(self) -> None:
        """Compute what is asked for, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            job = await self.queue.get()
            seconds, status, body = await loop.run_in_executor(self.thread, compute, job.function, job.values)
            self.seconds += 0.2 * (seconds - self.seconds)
            if status == 200 and len(body) <= self.limits.answer_bytes:
                self.answers[job.key] = body
            while len(self.answers) > self.limits.answers or self.kept() > self.limits.answer_bytes:
                self.answers.popitem(last=False)
            self.pending.pop(job.key).future.set_result((status, body))

    def kept(self) -> int:
        """Bytes of the answers that are kept."""
        return sum(map(len, self.answers.values()))
