"""A web server for this computer alone: HTTP/1.1 on 127.0.0.1, JSON in and out, one answer computed at a time.

It trusts nobody who connects. A request must come from the page that is served here, or from no page at all; how large
it may be, how long it may take to arrive, and what may wait for its turn or to be fetched is bounded (see Limits).
"""

import asyncio
import base64
import errno
import hashlib
import itertools
import json
import re
import socket
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus

from kd_scratch.common.errors import UserError
from kd_scratch.common.files import sha256
from kd_scratch.common.signals import Interruption

ADDRESS = "127.0.0.1"  # never another one: what is computed here is nobody else's business
REQUEST = re.compile(rb"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.[01]")
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")
SINGLE = ("host", "origin", "sec-fetch-site", "content-type", "content-length", "transfer-encoding", "expect")
CHUNK = 65536
#: Key -> what its value must be: a text of at most so many characters, or (`int`) a whole number.
Fields = dict[str, int | type[int]]


@dataclass(frozen=True)
class Limits:
    """What a client may ask of the server."""

    head: int = 16 * 1024  # bytes of the request line and the headers
    body: int = 64 * 1024
    seconds: float = 10.0  # for a request to arrive whole, and once more for its answer to be fetched
    connections: int = 256
    unfetched: int = 32 * 1024 * 1024  # bytes of answers that wait to be fetched
    wait: float = 1.5  # seconds until its turn that a request may expect
    answers: int = 64  # that are kept, for those who ask the same again
    answer_bytes: int = 4 * 1024 * 1024


@dataclass(frozen=True)
class Site:
    """What is served: a page of HTML at /, JSON by path, and functions of JSON objects by path, each with the keys of
    the objects that it takes (or several such sets of keys)."""

    page: str
    json: dict[str, object]
    functions: dict[str, tuple[Sequence[Fields], Callable[[dict], dict]]]


@dataclass
class Reply(Exception):
    """An answer on its way out; raised where it is a refusal."""

    status: int
    body: bytes
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, why: str, **headers: str) -> Reply:
    """A reply that says why there is no answer."""
    return Reply(status, encode({"error": why}), headers={name.replace("_", "-"): v for name, v in headers.items()})


def encode(value) -> bytes:
    """A value as JSON. ValueError for what JSON lacks."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


# --- what a client sends ---


def parse_head(raw: bytes) -> tuple[str, str, dict[str, str]]:
    """Method, path and headers (names in lower case); a Reply is raised where they are malformed."""
    first, *lines = raw.removesuffix(b"\r\n\r\n").split(b"\r\n")
    start = REQUEST.fullmatch(first)
    if not start:
        raise refusal(400, "the first line is not METHOD /PATH HTTP/1.1")
    headers: dict[str, str] = {}
    for line in lines:
        found = HEADER.fullmatch(line)
        if not found:
            raise refusal(400, "a header is malformed")
        name = found[1].decode().lower()
        if name in headers and name in SINGLE:
            raise refusal(400, f"{name}: the header is there twice")
        headers[name] = found[2].decode("latin-1").strip(" \t")
    return start[1].decode(), start[2].decode(), headers


def parse_body(raw: bytes, choices: Sequence[Fields]) -> dict[str, str | int]:
    """A JSON object that has exactly the keys of one of the choices; UserError names the key that is wrong."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise UserError("the body is not UTF-8") from None
    except (ValueError, RecursionError) as error:  # not JSON; a number of thousands of digits; nested too deep
        raise UserError(f"the body is not usable JSON: {error}") from None
    if not isinstance(value, dict):
        raise UserError("the body must be a JSON object")
    fields = max(choices, key=lambda fields: (len(fields.keys() & value.keys()), -len(fields)))
    for name in value:
        if name not in fields:
            raise UserError(f"{name[:40]}: there is no such key; these are needed: {', '.join(fields)}")
    for name, wanted in fields.items():
        if name not in value:
            raise UserError(f"{name}: is missing")
        if type(value[name]) is not (int if wanted is int else str):
            raise UserError(f"{name}: must be a {'whole number' if wanted is int else 'text'}")
        if wanted is int:
            continue
        if len(value[name]) > wanted:
            raise UserError(f"{name}: is {len(value[name]):,} characters long, at most {wanted:,} are taken")
        try:
            value[name].encode()
        except UnicodeEncodeError:
            raise UserError(f"{name}: holds half a character (a lone surrogate), which is no text") from None
    return value


def _once(pairs: list[tuple[str, object]]) -> dict:
    value = {}
    for name, content in pairs:
        if name in value:
            raise UserError(f"{name[:40]}: is there twice")
        value[name] = content
    return value


# --- one answer at a time ---


def compute(function: Callable[[dict], dict], values: dict) -> tuple[float, int, bytes]:
    """Seconds, status and JSON of a function's answer. What goes wrong in it is an answer too."""
    start = time.perf_counter()
    try:
        status, body = 200, encode(function(values))
    except UserError as error:
        status, body = 400, encode({"error": str(error)})
    except Exception:
        traceback.print_exc()
        status, body = 500, encode({"error": "something went wrong here; the terminal of the server says what"})
    return time.perf_counter() - start, status, body


class Worker:
    """Computes answers in one thread: the page's first, and else in the order in which they were asked for.

    Who asks what is being computed waits for the same answer, who asks what was answered lately gets that. Where the
    wait would be too long, as the latest answers have shown, there is a refusal at once.
    """

    def __init__(self, limits: Limits):
        self.limits = limits
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.line: asyncio.PriorityQueue[tuple] = asyncio.PriorityQueue()
        self.count = itertools.count()
        self.pending: dict[str, tuple[int, asyncio.Future]] = {}  # 0: the page's, 1: a program's
        self.answers: OrderedDict[str, bytes] = OrderedDict()  # the latest ones last
        self.seconds = 0.1  # moving average of one answer

    async def answer(self, path: str, function: Callable[[dict], dict], values: dict, page: bool) -> Reply:
        """The function's answer to the values, for the page or for a program."""
        key, rank = sha256(path, encode(sorted(values.items()))), 0 if page else 1
        if key in self.answers:
            self.answers.move_to_end(key)
            return Reply(200, self.answers[key])
        if key not in self.pending:
            if sum(other <= rank for other, _ in self.pending.values()) * self.seconds > self.limits.wait:
                raise refusal(503, "too much is waiting to be computed; try again in a second", Retry_After="1")
            self.pending[key] = rank, asyncio.get_running_loop().create_future()
            self.line.put_nowait((rank, next(self.count), key, function, values))
        return Reply(*await self.pending[key][1])

    async def work(self) -> None:
        """Compute what is asked for, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            _, _, key, function, values = await self.line.get()
            seconds, status, body = await loop.run_in_executor(self.thread, compute, function, values)
            self.seconds += 0.2 * (seconds - self.seconds)
            if status == 200 and len(body) <= self.limits.answer_bytes:
                self.answers[key] = body
            while len(self.answers) > self.limits.answers or self.kept() > self.limits.answer_bytes:
                self.answers.popitem(last=False)
            self.pending.pop(key)[1].set_result((status, body))

    def kept(self) -> int:
        """Bytes of the answers that are kept."""
        return sum(map(len, self.answers.values()))


# --- the server ---


class Server:
    """One site on one socket. Connections are open, and of these some wait for their client: to send, or to fetch."""

    def __init__(self, site: Site, port: int, limits: Limits):
        self.site, self.limits, self.worker = site, limits, Worker(limits)
        names = (ADDRESS, "localhost")  # another name for this address would be another site's (DNS rebinding)
        self.hosts = {f"{name}:{port}" for name in names} | set(names if port == 80 else ())
        self.fixed = {path: Reply(200, encode(value)) for path, value in site.json.items()}
        self.fixed["/"] = Reply(200, site.page.encode(), "text/html; charset=utf-8")
        self.policy = content_policy(site.page)
        self.open: set[asyncio.StreamWriter] = set()
        self.waiting: dict[asyncio.StreamWriter, int] = {}  # longest first; bytes that each has not fetched

    async def run(self, listener: socket.socket, interruption: Interruption) -> None:
        """Serve until a signal comes."""
        server = await asyncio.start_server(self.connection, sock=listener, limit=self.limits.head, backlog=256)
        worker = asyncio.create_task(self.worker.work())
        while not interruption.signal:
            await asyncio.sleep(0.1)
        server.close()
        worker.cancel()
        await asyncio.sleep(0.05)  # connections that were made just now become known
        for writer in self.open:
            writer.transport.abort()
        self.worker.thread.shutdown(wait=False, cancel_futures=True)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request and its answer; a client that goes away, or is too slow, ends it."""
        if len(self.open) >= self.limits.connections and not self.drop_slowest():
            writer.transport.abort()
            return
        self.open.add(writer)
        try:
            # At the end of the server all are cancelled, which is nothing to be told of either.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                head_only, reply = await self.respond(reader, writer)
                await self.send(reader, writer, head_only, reply)
        finally:
            self.open.discard(writer)
            self.waiting.pop(writer, None)
            writer.transport.abort()

    def drop_slowest(self) -> bool:
        """Close the connection that has waited for its client for the longest time; False where none waits."""
        slowest = next(iter(self.waiting), None)
        if slowest is None:
            return False
        del self.waiting[slowest]
        self.open.discard(slowest)
        slowest.transport.abort()
        return True

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[bool, Reply]:
        """Read a request and find the answer; the first is whether only its headers are wanted."""
        method = ""
        self.waiting[writer] = 0
        try:
            async with asyncio.timeout(self.limits.seconds):
                method, path, headers = parse_head(await reader.readuntil(b"\r\n\r\n"))
                length = self.check(method, path, headers)
                if headers.get("expect", "").lower() == "100-continue":
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                body = await reader.readexactly(length)
            self.waiting.pop(writer, None)
            if path in self.fixed:
                return method == "HEAD", self.fixed[path]
            choices, function = self.site.functions[path]
            page = "origin" in headers  # as it is in what a browser sends, and this server's own, as has been checked
            return False, await self.worker.answer(path, function, parse_body(body, choices), page)
        except Reply as reply:
            return method == "HEAD", reply
        except UserError as error:
            return False, refusal(400, str(error))
        except asyncio.LimitOverrunError:
            return False, refusal(431, f"request line and headers take more than {self.limits.head:,} bytes")
        except TimeoutError:
            return False, refusal(408, f"the request has not arrived within {self.limits.seconds:g} seconds")

    def check(self, method: str, path: str, headers: dict[str, str]) -> int:
        """The length of the body that follows; a Reply is raised where the request is not for us, or not allowed."""
        host, length = headers.get("host", "").lower(), headers.get("content-length", "")
        if host not in self.hosts:
            raise refusal(403, "host: is not this server's address")
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            raise refusal(403, "origin: another site may not ask here")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise refusal(403, "sec-fetch-site: another site may not ask here")
        if path not in self.fixed and path not in self.site.functions:
            raise refusal(404, "there is nothing at this path")
        allowed = "GET, HEAD" if path in self.fixed else "POST"
        if method not in allowed.split(", "):
            raise refusal(405, f"only {allowed} can be used here", Allow=allowed)
        if "transfer-encoding" in headers:
            raise refusal(501, "transfer-encoding: is not supported, send content-length")
        if not re.fullmatch("[0-9]*", length) or ("content-length" in headers and not length):
            raise refusal(400, "content-length: is not a number")
        if method != "POST":
            return 0
        if not length:
            raise refusal(411, "content-length: is missing")
        if len(length) > 15 or int(length) > self.limits.body:
            raise refusal(413, f"the body is too large, at most {self.limits.body:,} bytes are taken")
        if headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise refusal(415, "content-type: must be application/json")
        return int(length)

    async def send(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head_only: bool, reply: Reply
    ) -> None:
        """Let a client fetch its answer, piece by piece. What it still sends is then thrown away (some MB at most),
        since a connection that is closed on unread bytes loses the answer."""
        self.waiting[writer] = len(reply.body)
        while sum(self.waiting.values()) > self.limits.unfetched:
            self.drop_slowest()
        writer.transport.set_write_buffer_limits(0)  # drain() waits until all is gone
        body = b"" if head_only else reply.body
        async with asyncio.timeout(self.limits.seconds):
            writer.write(self.head(reply))
            for start in range(0, max(len(body), 1), CHUNK):
                writer.write(body[start : start + CHUNK])
                await writer.drain()
            writer.write_eof()
            for _ in range(64):
                if not await reader.read(CHUNK):
                    break

    def head(self, reply: Reply) -> bytes:
        """Status line and headers."""
        lines = {
            "Date": formatdate(usegmt=True),
            "Content-Type": reply.kind,
            "Content-Length": str(len(reply.body)),
            "Connection": "close",
            "Cache-Control": "no-store",
            "Content-Security-Policy": self.policy,
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        text = "".join(f"{name}: {value}\r\n" for name, value in (lines | reply.headers).items())
        return f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n{text}\r\n".encode()


def content_policy(page: str) -> str:
    """What a browser may do on the page: run and apply the blocks that are in it, and ask this server; nothing else."""

    def hashes(tag: str) -> str:
        blocks = re.findall(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks]
        return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def listen(port: int) -> socket.socket:
    """A socket on this computer's own address; port 0: any free one. UserError where the port cannot be had."""
    if not 0 <= port < 65536:
        raise UserError(f"--port {port}: must be between 0 (any free one) and 65535")
    try:
        return socket.create_server((ADDRESS, port), backlog=256)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be had: {error.strerror}"
        raise UserError(f"--port {port}: {why}; choose another one, or 0 for any that is free") from None


def serve(site: Site, listener: socket.socket, interruption: Interruption, limits: Limits | None = None) -> None:
    """Serve a site until a signal comes."""
    asyncio.run(Server(site, listener.getsockname()[1], limits or Limits()).run(listener, interruption))
