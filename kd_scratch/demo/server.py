"""A web server for this computer alone: HTTP/1.1 on 127.0.0.1, JSON in and out, one answer computed at a time.

It trusts nobody who connects. A request must come from the page that is served here, or from no page at all; how large
it may be, how long it may take to arrive, and what may wait for its turn or to be fetched is bounded (see Limits).
"""

import asyncio
import errno
import re
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from kd_scratch.common.errors import UserError
from kd_scratch.common.signals import Interruption
from kd_scratch.demo.protocol import (
    Fields,
    Limits,
    Reply,
    content_policy,
    encode,
    parse_body,
    parse_head,
    refusal,
    reply_head,
)
from kd_scratch.demo.worker import Worker

ADDRESS = "127.0.0.1"  # never another one: what is computed here is nobody else's business
CHUNK = 65536


@dataclass(frozen=True)
class Site:
    """What is served: a page of HTML at /, JSON by path, and functions of JSON objects by path, each with the keys of
    the objects that it takes (or several such sets of keys)."""

    page: str
    json: dict[str, object]
    functions: dict[str, tuple[Sequence[Fields], Callable[[dict], dict]]]


class Server:
    """One site on one socket. Connections are open, and of these some wait for their client: to send, or to fetch."""

    def __init__(self, site: Site, port: int, limits: Limits):
        self.site = site
        self.limits = limits
        self.worker = Worker(limits.wait)
        names = (ADDRESS, "localhost")  # another name for this address would be another site's (DNS rebinding)
        self.address = f"http://{ADDRESS}:{port}/"
        self.hosts = {f"{name}:{port}" for name in names} | set(names if port == 80 else ())
        self.fixed = {path: Reply(200, encode(value)) for path, value in site.json.items()}
        self.fixed["/"] = Reply(200, site.page.encode(), "text/html; charset=utf-8")
        self.policy = content_policy(site.page)
        self.open: set[asyncio.StreamWriter] = set()
        self.waiting: dict[asyncio.StreamWriter, int] = {}  # longest first; bytes that each has not fetched

    async def run(self, listener: socket.socket, interruption: Interruption) -> None:
        """Serve until a signal comes."""
        server = await asyncio.start_server(self.connection, sock=listener, limit=self.limits.head, backlog=256)
        while not interruption.signal:
            await asyncio.sleep(0.1)
        server.close()
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
            # At the end of the server all are cancelled, which is no error either.
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
            values = parse_body(body, choices)
            return False, await self.worker.answer(
                function, values, page, lambda: not (reader.at_eof() or writer.is_closing())
            )
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
        host = headers.get("host", "").lower()
        length = headers.get("content-length", "")
        if host not in self.hosts:
            cure = f"open {self.address} (a tunnel has the same port on both ends)"
            raise refusal(403, f"host: is not this server's address; {cure}")
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            raise refusal(403, "origin: another site may not ask here")
        # A link on another site may open the page, which is the same for all; no other page may hold it.
        how = method, path, headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")
        opens_page = how == ("GET", "/", "navigate", "document")
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and not opens_page:
            raise refusal(403, "sec-fetch-site: another site may not ask here")
        if path not in self.fixed and path not in self.site.functions:
            raise refusal(404, "there is nothing at this path")
        allowed = "GET, HEAD" if path in self.fixed else "POST"
        if method not in allowed.split(", "):
            raise refusal(405, f"only {allowed} can be used here", Allow=allowed)
        if "transfer-encoding" in headers:
            raise refusal(501, "transfer-encoding: is not supported; send content-length")
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
            writer.write(reply_head(reply, self.policy))
            for start in range(0, max(len(body), 1), CHUNK):
                writer.write(body[start : start + CHUNK])
                await writer.drain()
            writer.write_eof()
            for _ in range(64):
                if not await reader.read(CHUNK):
                    break


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
