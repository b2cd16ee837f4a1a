"""What clients send and get: HTTP/1.1 heads, JSON bodies, and the limits of both. Nothing here waits or computes."""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus

from kd_scratch.common.errors import UserError
from kd_scratch.data.json_lines import without_duplicates

REQUEST = re.compile(rb"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.[01]")
HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")
SINGLE = (
    "host origin sec-fetch-site sec-fetch-mode sec-fetch-dest content-type content-length transfer-encoding expect"
).split()
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


@dataclass
class Reply(Exception):
    """An answer on its way out; raised where it is a refusal."""

    status: int
    body: bytes
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)


def refusal(status: int, why: str, **headers: str) -> Reply:
    """A reply with the reason why there is no answer."""
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
        value = json.loads(raw.decode(), object_pairs_hook=without_duplicates)
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


# --- what it gets ---


def reply_head(reply: Reply, policy: str) -> bytes:
    """Status line and headers of a reply. policy: see content_policy."""
    lines = {
        "Date": formatdate(usegmt=True),
        "Content-Type": reply.kind,
        "Content-Length": str(len(reply.body)),
        "Connection": "close",
        "Cache-Control": "no-store",
        "Content-Security-Policy": policy,
        "Cross-Origin-Opener-Policy": "same-origin",
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
