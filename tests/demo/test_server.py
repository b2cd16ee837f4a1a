"""The demo's server: HTTP by hand, over real sockets; clients that are slow, large, many, strange or gone."""

import asyncio
import base64
import hashlib
import json
import random
import re
import socket
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.demo import server
from kd_scratch.demo.protocol import Limits, Reply, content_policy, parse_body, refusal
from kd_scratch.demo.server import Server, Site, listen, serve
from kd_scratch.demo.worker import Worker

PAGE = "<!doctype html><title>t</title><style>p { color: red }</style><p>é</p><script>'use strict'</script>"
FIELDS = [{"text": 20, "n": int}]


def echo(values: dict) -> dict:
    """The text so many times."""
    return {"echo": values["text"] * values["n"]}


def refuse(values: dict) -> dict:
    """What a handler does with what it cannot use."""
    raise UserError("text: is not to my taste\n")


@contextmanager
def running(functions: dict | None = None, **limits):
    """A server in a thread; gives its port. It must end when it is asked to."""
    functions = {"/api/echo": echo} | (functions or {})
    site = Site(PAGE, {"/api/facts": {"a": [1]}}, {path: (FIELDS, function) for path, function in functions.items()})
    listener, interruption = listen(0), SimpleNamespace(signal=0)
    thread = threading.Thread(target=serve, args=(site, listener, interruption, Limits(**limits)))
    port = listener.getsockname()[1]
    thread.start()
    try:
        yield port
    finally:
        interruption.signal = 15
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def port():
    """The port of a server with the usual limits."""
    with running() as number:
        yield number


def connect(port: int, receive: int = 0) -> socket.socket:
    """A connection; `receive` makes its buffer small."""
    client = socket.socket()
    if receive:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    return client


def fetch(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read an answer to its end: status, headers, body. Status 0: the connection was closed without a word."""
    raw = bytearray()
    try:
        while part := client.recv(1 << 20):
            raw += part
    except ConnectionError:
        pass
    client.close()
    if not raw:
        return 0, {}, b""
    head, _, body = bytes(raw).partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Z][\w -]+", first)[1]), headers, body


def send(port: int, raw: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, read the answer."""
    client = connect(port)
    client.sendall(raw)
    return fetch(client)


def request(port: int, first: str = "GET / HTTP/1.1", body: bytes | None = None, **headers) -> bytes:
    """A request as a browser sends it; header=None leaves one out."""
    usual = {"Host": f"127.0.0.1:{port}"}
    usual |= {} if body is None else {"Content-Type": "application/json", "Content-Length": len(body)}
    usual |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in usual.items() if value is not None)
    return f"{first}\r\n{lines}\r\n".encode("latin-1") + (body or b"")


def ask(text: str, n: int = 1) -> bytes:
    """The body of a question."""
    return json.dumps({"text": text, "n": n}).encode()


def post(port: int, text: str, n: int = 1, path: str = "/api/echo") -> tuple[int, dict, dict[str, str]]:
    """Status, JSON and headers of an answer."""
    status, headers, body = send(port, request(port, f"POST {path} HTTP/1.1", ask(text, n)))
    return status, json.loads(body or "null"), headers


# --- the protocol ---


def test_the_page_and_the_json_come_with_every_header(port):
    for path, kind, body in (
        ("/", "text/html; charset=utf-8", PAGE.encode()),
        ("/api/facts", "application/json", b'{"a":[1]}'),
    ):
        status, headers, found = send(port, request(port, f"GET {path} HTTP/1.1"))
        assert (status, found) == (200, body)
        assert headers.pop("Date").endswith(" GMT")
        assert headers == {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Connection": "close",
            "Cache-Control": "no-store",
            "Content-Security-Policy": content_policy(PAGE),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }


def test_an_answer_ends_at_once_and_does_not_wait_for_its_client():
    with running(seconds=60) as port:
        assert send(port, request(port))[0] == 200  # gives up after 20 s


def test_head_gives_the_headers_alone(port):
    status, headers, body = send(port, request(port, "HEAD / HTTP/1.1"))
    assert (status, headers["Content-Length"], body) == (200, str(len(PAGE.encode())), b"")
    assert send(port, request(port, "HEAD /none HTTP/1.1"))[0::2] == (404, b"")


def test_the_policy_allows_the_pages_own_blocks_and_nothing_else():
    policy = dict(part.split(" ", 1) for part in content_policy(PAGE).split("; "))
    digest = {
        name: f"'sha256-{base64.b64encode(hashlib.sha256(block).digest()).decode()}'"
        for name, block in (("script-src", b"'use strict'"), ("style-src", b"p { color: red }"))
    }
    nothing = dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'")
    assert policy == nothing | digest | {"connect-src": "'self'", "img-src": "data:"}
    assert "script-src 'none'; style-src 'none'" in content_policy("<p>")


def test_a_question_is_answered(port):
    assert post(port, "é<b>", 2)[:2] == (200, {"echo": "é<b>é<b>"})
    body = ask("a")
    named = request(port, "POST /api/echo HTTP/1.1", body, Host=f"LocalHost:{port}", Sec_Fetch_Site="same-origin")
    assert send(port, named)[0] == 200
    same = {"Origin": f"http://localhost:{port}", "Content_Type": "Application/JSON; charset=utf-8"}
    assert send(port, request(port, "POST /api/echo HTTP/1.1", body, Host=f"localhost:{port}", **same))[0] == 200


def test_a_client_that_asks_may_go_on_before_it_sends_its_body(port):
    client = connect(port)
    client.sendall(request(port, "POST /api/echo HTTP/1.1", b"", Content_Length=len(ask("a")), Expect="100-continue"))
    assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.sendall(ask("a"))
    assert fetch(client)[0] == 200


LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


def test_a_link_on_another_site_opens_the_page(port):
    status, _, body = send(port, request(port, **LINK))
    assert (status, body) == (200, PAGE.encode())


def test_the_address_that_a_refusal_names_is_the_right_one(port):
    _, _, body = send(port, request(port, Host="127.0.0.1:1"))
    host = re.search("open http://(.*)/ ", json.loads(body)["error"])[1]
    assert send(port, request(port, Host=host))[0] == 200


POST = "POST /api/echo HTTP/1.1"
GIGABYTE = str(1 << 30)
#: what is wrong -> first line, body, headers; status, and fragment of the message
REFUSED = {
    "no request": (("GET", None, {}), 400, "the first line"),
    "lower case": (("get / HTTP/1.1", None, {}), 400, "the first line"),
    "HTTP/2": (("GET / HTTP/2.0", None, {}), 400, "the first line"),
    "HTTP/0.9": (("GET /", None, {}), 400, "the first line"),
    "a whole URL": (("GET http://127.0.0.1/ HTTP/1.1", None, {}), 400, "the first line"),
    "a space in the path": (("GET /a b HTTP/1.1", None, {}), 400, "the first line"),
    "a control character": (("GET / HTTP/1.1", None, {"A": "a\x00b"}), 400, "a header is malformed"),
    "a folded header": (("GET / HTTP/1.1", None, {"A": "b\r\n c"}), 400, "a header is malformed"),
    "a space before the colon": (("GET / HTTP/1.1", None, {"Host ": "a"}), 400, "a header is malformed"),
    "two hosts": (("GET / HTTP/1.1", None, {"host": "127.0.0.1"}), 400, "host: the header is there twice"),
    "two lengths": ((POST, b"{}", {"content-length": "3"}), 400, "content-length: the header is there twice"),
    "no host": (("GET / HTTP/1.1", None, {"Host": None}), 403, "host:"),
    "another host": (("GET / HTTP/1.1", None, {"Host": "evil.example:80"}), 403, "host:"),
    "another port": (("GET / HTTP/1.1", None, {"Host": "127.0.0.1:1"}), 403, "host:"),
    "another address": (("GET / HTTP/1.1", None, {"Host": "[::1]"}), 403, "host:"),
    "another origin": ((POST, b"{}", {"Origin": "http://evil.example"}), 403, "origin:"),
    "no origin to speak of": ((POST, b"{}", {"Origin": "null"}), 403, "origin:"),
    "the other name": ((POST, b"{}", {"Origin": "http://localhost:PORT"}), 403, "origin:"),
    "https": ((POST, b"{}", {"Origin": "https://127.0.0.1:PORT"}), 403, "origin:"),
    "another site": (("GET / HTTP/1.1", None, {"Sec-Fetch-Site": "cross-site"}), 403, "sec-fetch-site:"),
    "a site nearby": (("GET / HTTP/1.1", None, {"Sec-Fetch-Site": "same-site"}), 403, "sec-fetch-site:"),
    "another site's frame": (("GET / HTTP/1.1", None, LINK | {"Sec-Fetch-Dest": "iframe"}), 403, "sec-fetch-site:"),
    "another site's script": (("GET / HTTP/1.1", None, LINK | {"Sec-Fetch-Mode": "cors"}), 403, "sec-fetch-site:"),
    "a link to the facts": (("GET /api/facts HTTP/1.1", None, LINK), 403, "sec-fetch-site:"),
    "another site's form": ((POST, b"{}", LINK), 403, "sec-fetch-site:"),
    "a form for the page": (("POST / HTTP/1.1", b"{}", LINK), 403, "sec-fetch-site:"),
    "two modes": (("GET / HTTP/1.1", None, LINK | {"sec-fetch-mode": "cors"}), 400, "sec-fetch-mode: the header is"),
    "no such path": (("GET /api HTTP/1.1", None, {}), 404, "nothing at this path"),
    "a query": (("GET /?a=b HTTP/1.1", None, {}), 404, "nothing at this path"),
    "a way up": (("GET /../etc/passwd HTTP/1.1", None, {}), 404, "nothing at this path"),
    "a coded way up": (("GET /%2e%2e/ HTTP/1.1", None, {}), 404, "nothing at this path"),
    "GET for POST": (("GET /api/echo HTTP/1.1", None, {}), 405, "only POST"),
    "POST for GET": (("POST / HTTP/1.1", b"{}", {}), 405, "only GET, HEAD"),
    "OPTIONS": (("OPTIONS /api/echo HTTP/1.1", None, {}), 405, "only POST"),
    "DELETE": (("DELETE / HTTP/1.1", None, {}), 405, "only GET, HEAD"),
    "chunks": ((POST, b"{}", {"Transfer-Encoding": "chunked"}), 501, "transfer-encoding"),
    "chunks without a length": ((POST, None, {"Transfer-Encoding": "chunked"}), 501, "transfer-encoding"),
    "no length": ((POST, None, {"Content-Type": "application/json"}), 411, "content-length: is missing"),
    "a negative length": ((POST, b"{}", {"Content-Length": "-1"}), 400, "content-length"),
    "a signed length": ((POST, b"{}", {"Content-Length": "+2"}), 400, "content-length"),
    "a hexadecimal length": ((POST, b"{}", {"Content-Length": "0x2"}), 400, "content-length"),
    "a list of lengths": ((POST, b"{}", {"Content-Length": "2, 2"}), 400, "content-length"),
    "an empty length": ((POST, b"{}", {"Content-Length": ""}), 400, "content-length"),
    "another script's digit": ((POST, b"{}", {"Content-Length": "\xb2"}), 400, "content-length"),
    "a length to GET": (("GET / HTTP/1.1", None, {"Content-Length": "x"}), 400, "content-length"),
    "too large": ((POST, b"", {"Content-Length": "65537"}), 413, "at most 65,536 bytes"),
    "a gigabyte": ((POST, b"", {"Content-Length": GIGABYTE}), 413, "at most 65,536 bytes"),
    "a length of 9,000 digits": ((POST, b"", {"Content-Length": "9" * 9000}), 413, "at most 65,536 bytes"),
    "a form": ((POST, b"{}", {"Content-Type": "application/x-www-form-urlencoded"}), 415, "application/json"),
    "plain text": ((POST, b"{}", {"Content-Type": "text/plain"}), 415, "application/json"),
    "no type": ((POST, b"{}", {"Content-Type": None}), 415, "application/json"),
    "a long path": (("GET /" + "a" * 17000 + " HTTP/1.1", None, {}), 431, "more than 16,384 bytes"),
    "long headers": (("GET / HTTP/1.1", None, {"A": "a" * 9000, "B": "b" * 9000}), 431, "more than 16,384 bytes"),
    "not JSON": ((POST, b"{", {}), 400, "is not usable JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_request_is_refused_with_a_status_and_one_line(port, case):
    (first, body, headers), expected, fragment = REFUSED[case]
    headers = {name: value and value.replace("PORT", str(port)) for name, value in headers.items()}
    status, found, raw = send(port, request(port, first, body, **headers))
    assert status == expected and list(json.loads(raw)) == ["error"]
    assert fragment in json.loads(raw)["error"] and "\n" not in json.loads(raw)["error"]
    assert (found.get("Allow") is not None) == (status == 405) and "Content-Security-Policy" in found


def test_headers_of_almost_16_kb_are_read(port):
    assert send(port, request(port, A="a" * 16_000))[0] == 200


def test_a_body_that_is_too_large_is_refused_while_it_is_still_coming(port):
    client = connect(port)
    client.sendall(request(port, POST, b"", Content_Length=GIGABYTE))
    client.sendall(b"x" * 300_000)
    assert fetch(client)[0] == 413


def test_port_80_needs_no_port_in_the_host():
    def hosts(port: int) -> set[str]:
        return Server(Site(PAGE, {}, {}), port, Limits()).hosts

    assert hosts(80) == {"127.0.0.1", "localhost", "127.0.0.1:80", "localhost:80"}
    assert hosts(8080) == {"127.0.0.1:8080", "localhost:8080"}


def test_whatever_is_sent_the_server_lives(port):
    """Requests with a few bytes changed, cut off, doubled: an answer of a known kind, or the connection is closed."""
    rng, statuses = random.Random(0), set()
    whole = request(port, POST, ask("a"), Origin=f"http://127.0.0.1:{port}", Sec_Fetch_Site="same-origin")
    for _ in range(200):
        raw = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(raw))
            if rng.random() < 0.6:
                raw[at] = rng.choice([rng.randrange(256), *b'\r\n :{"\\'])
            elif rng.random() < 0.5:
                del raw[at : at + rng.randint(1, 9)]
            else:
                raw[at:at] = raw[at : at + rng.randint(1, 40)]
        client = connect(port)
        client.sendall(raw)
        client.shutdown(socket.SHUT_WR)
        statuses.add(fetch(client)[0])
    assert statuses <= {0, 200, 400, 403, 404, 405, 411, 413, 415} and {0, 200, 400, 403} <= statuses
    assert post(port, "still here")[0] == 200


# --- what a body may be ---

BODIES = {
    "not UTF-8": (b'{"text":"\xff","n":1}', "the body is not UTF-8"),
    "UTF-16": ('{"text":"a","n":1}'.encode("utf-16"), "the body is not UTF-8"),
    "cut off": (b'{"text":"a"', "the body is not usable JSON"),
    "nothing": (b"", "the body is not usable JSON"),
    "a list": (b'["a"]', "the body must be a JSON object"),
    "a number": (b"1", "the body must be a JSON object"),
    "nested deeply": (b"[" * 60_000, "the body is not usable JSON"),
    "nested deeply in a key": (b'{"text":' + b"[" * 900 + b"]" * 900 + b',"n":1}', "text: must be a text"),
    "a number of many digits": (b'{"text":"a","n":' + b"9" * 9000 + b"}", "the body is not usable JSON"),
    "a key is missing": (b'{"text":"a"}', "n: is missing"),
    "a key too many": (b'{"text":"a","n":1,"x\\u0007":2}', r"x\x07: there is no such key; these are needed: text, n"),
    "a long key": (b'{"' + b"k" * 9000 + b'":1}', "k" * 40 + ": there is no such key"),
    "half a character as a key": (b'{"\\ud800":1}', r"\ud800: there is no such key"),
    "a key twice": (b'{"text":"a","text":"b","n":1}', "the body is not usable JSON: the key 'text' is there twice"),
    "a text that is a number": (b'{"text":1,"n":1}', "text: must be a text"),
    "a text that is null": (b'{"text":null,"n":1}', "text: must be a text"),
    "a number that is a text": (b'{"text":"a","n":"1"}', "n: must be a whole number"),
    "a number that is true": (b'{"text":"a","n":true}', "n: must be a whole number"),
    "a fraction": (b'{"text":"a","n":1.5}', "n: must be a whole number"),
    "infinity": (b'{"text":"a","n":1e999}', "n: must be a whole number"),
    "no number": (b'{"text":"a","n":NaN}', "n: must be a whole number"),
    "a text too long": (b'{"text":"' + b"a" * 21 + b'","n":1}', "text: is 21 characters long, at most 20"),
    "half a character": (b'{"text":"a\\ud800b","n":1}', "text: holds half a character"),
}


@pytest.mark.parametrize("case", BODIES)
def test_a_body_is_refused_with_the_key_that_is_wrong(case):
    raw, fragment = BODIES[case]
    with pytest.raises(UserError) as caught:
        parse_body(raw, FIELDS)
    assert fragment in str(caught.value) and len(str(caught.value)) < 200


def test_a_body_is_read():
    assert parse_body('{"n": -3, "text": "\\ud83d\\ude00 é"}'.encode(), FIELDS) == {"n": -3, "text": "😀 é"}
    assert parse_body(b'{"text":"' + b"a" * 20 + b'","n":1}', FIELDS)["text"] == "a" * 20


def test_of_several_sets_of_keys_the_one_that_fits_best_is_wanted():
    choices = [{"group": 9, "text": 9}, {"group": 9, "question": 9, "context": 9}]
    assert parse_body(b'{"group":"a","text":"b"}', choices) == {"group": "a", "text": "b"}
    assert len(parse_body(b'{"group":"a","question":"b","context":"c"}', choices)) == 3
    for raw, fragment in (
        (b'{"group":"a"}', "text: is missing"),
        (b'{"group":"a","context":"c"}', "question: is missing"),
        (b'{"group":"a","text":"b","context":"c"}', "context: there is no such key"),
    ):
        with pytest.raises(UserError, match=fragment):
            parse_body(raw, choices)


# --- slow and many clients ---


def test_a_request_must_arrive_in_time_however_slowly_its_bytes_come():
    with running(seconds=0.4) as port:
        for raw in (request(port)[:-2], request(port, POST, b"", Content_Length=50)):
            client = connect(port)
            client.sendall(raw)
            done = threading.Event()

            def trickle(client=client, done=done):
                while not done.wait(0.05):
                    try:
                        client.sendall(b"x")
                    except OSError:
                        return

            thread = threading.Thread(target=trickle)
            thread.start()
            status, _, body = fetch(client)
            done.set()
            thread.join()
            assert status == 408 and b"within 0.4 seconds" in body


def test_an_answer_must_be_fetched_in_time():
    with running({"/api/large": lambda values: {"echo": "x" * 20_000_000}}, seconds=1.0) as port:
        client = connect(port, receive=4096)
        client.sendall(request(port, "POST /api/large HTTP/1.1", ask("a")))
        time.sleep(2)
        status, headers, body = fetch(client)
        assert status == 200 and len(body) < int(headers["Content-Length"])
        status, headers, body = send(port, request(port, "POST /api/large HTTP/1.1", ask("a")))
        assert status == 200 and len(body) == int(headers["Content-Length"])


def test_answers_that_nobody_fetches_do_not_pile_up():
    """The second one is more than may wait, so the first client is dropped, at once."""
    with running({"/api/large": lambda values: {"echo": "x" * 20_000_000}}, unfetched=30_000_000) as port:
        clients = [connect(port, receive=4096) for _ in range(2)]
        for client, text in zip(clients, "ab", strict=True):
            client.sendall(request(port, "POST /api/large HTTP/1.1", ask(text)))
            client.recv(10, socket.MSG_PEEK)
        lengths = [len(fetch(client)[2]) for client in clients]
        assert lengths[0] < 20_000_000 < lengths[1]


def test_when_full_the_slowest_client_has_to_go():
    with running(connections=4) as port:
        slow = [connect(port) for _ in range(4)]
        for i, client in enumerate(slow):
            client.sendall(b"GET / HT")
            assert post(port, f"between {i}")[0] == 200  # so all before are known to the server
        slow[0].settimeout(5)
        assert fetch(slow[0]) == (0, {}, b"")
        slow[3].sendall(request(port)[8:])
        assert fetch(slow[3])[0] == 200
        for client in slow[1:3]:
            client.close()


def test_where_all_compute_a_newcomer_has_to_go():
    go, begun = threading.Event(), threading.Semaphore(0)

    def wait(values):
        begun.release()
        assert go.wait(20)
        return {}

    with running({"/api/wait": wait}, connections=2) as port:
        clients = [connect(port) for _ in range(2)]
        for client, text in zip(clients, "ab", strict=True):  # the second waits for its turn
            client.sendall(request(port, "POST /api/wait HTTP/1.1", ask(text)))
        assert begun.acquire(timeout=20)
        until = time.monotonic() + 20
        while send(port, request(port))[0] != 0 and time.monotonic() < until:  # until the server has read the second
            time.sleep(0.01)
        assert send(port, request(port))[0] == 0
        go.set()
        assert [fetch(client)[0] for client in clients] == [200, 200]
        assert send(port, request(port))[0] == 200


def test_a_client_dropped_in_the_moment_its_request_is_whole_gets_no_answer(monkeypatch):
    seen = []

    def check(self, method, path, headers):
        seen.append(self.drop_slowest())
        return 0

    monkeypatch.setattr(Server, "check", check)
    with running() as port:
        assert send(port, request(port)) == (0, {}, b"") and seen == [True]


def test_clients_that_go_away_do_no_harm():
    with running() as port:
        for raw in (b"", b"GET / HT", request(port, POST, b"", Content_Length=50), request(port, POST, ask("gone"))):
            client = connect(port)
            client.sendall(raw)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # closes with a reset
            client.close()
        assert post(port, "here")[0] == 200


# --- one answer at a time ---


def test_answers_are_computed_one_by_one_in_the_order_of_the_requests():
    active, order, lock = [], [], threading.Lock()

    def work(values):
        with lock:
            active.append(1)
            order.append(values["text"])
            assert len(active) == 1
        time.sleep(0.01)
        active.pop()
        return {}

    with running({"/api/work": work}) as port:
        clients = []
        for i in range(10):
            clients.append(connect(port))
            clients[-1].sendall(request(port, "POST /api/work HTTP/1.1", ask(str(i))))
            while len(clients) == 1 and not order:
                time.sleep(0.001)
            time.sleep(0.005)
        assert [fetch(client)[0] for client in clients] == [200] * 10
    assert order == [str(i) for i in range(10)]


def test_a_wait_that_would_be_too_long_is_refused_at_once_and_the_server_recovers():
    go = threading.Event()

    def work(values):
        assert go.wait(20)
        return {}

    with running({"/api/work": work}, wait=0.25) as port:  # one answer is taken to need 0.1 s at first
        clients = []
        for i in range(3):
            clients.append(connect(port))
            clients[-1].sendall(request(port, "POST /api/work HTTP/1.1", ask(str(i))))
            clients[-1].setblocking(True)
            time.sleep(0.1)
        begin = time.monotonic()
        status, reply, headers = post(port, "3", path="/api/work")
        assert status == 503 and headers["Retry-After"] == "1" and "too much" in reply["error"]
        assert time.monotonic() - begin < 5
        go.set()
        assert [fetch(client)[0] for client in clients] == [200] * 3
        assert post(port, "4", path="/api/work")[0] == 200  # nothing waits now, whatever the average is


def held_work() -> tuple[Callable[[dict], dict], threading.Event, list[str]]:
    """A function that answers when the event is set, the event, and the texts that it was asked so far."""
    go, order = threading.Event(), []

    def work(values):
        order.append(values["text"])
        assert go.wait(20)
        return {}

    return work, go, order


def test_the_pages_questions_come_before_those_of_programs():
    """However many programs wait: the page waits for its own questions only."""
    work, go, order = held_work()
    with running({"/api/work": work}, wait=0.25) as port:
        clients = []
        for text in ("first", "program", "other program", "refused", "page", "the page again"):
            own = {"Origin": f"http://127.0.0.1:{port}"} if "page" in text else {}
            clients.append(connect(port))
            clients[-1].sendall(request(port, "POST /api/work HTTP/1.1", ask(text), **own))
            time.sleep(0.1)
        assert fetch(clients.pop(3))[0] == 503
        go.set()
        assert [fetch(client)[0] for client in clients] == [200] * 5
    assert order == ["first", "page", "the page again", "program", "other program"]


def test_for_clients_that_have_gone_nothing_is_computed_and_nobody_waits():
    work, go, order = held_work()
    with running({"/api/work": work}, wait=0.25) as port:
        own = {"Origin": f"http://127.0.0.1:{port}"}
        clients = []
        for text in ("first", "gone", "gone", "here", "here, too"):
            clients.append(connect(port))
            clients[-1].sendall(request(port, "POST /api/work HTTP/1.1", ask(text), **own))
            time.sleep(0.1)
            if text == "gone":
                clients.pop().close()
                time.sleep(0.1)
        go.set()
        assert [fetch(client)[0] for client in clients] == [200] * 3
    assert order == ["first", "here", "here, too"]


def test_the_average_follows_the_answers():
    async def seconds(*functions) -> float:
        """The average of a worker that has computed these, one after the other."""
        worker = Worker(wait=100)
        for function in functions:
            await worker.answer(function, {}, page=False)
        worker.thread.shutdown()
        return worker.seconds

    def slow(values):
        time.sleep(0.3)
        return {}

    assert asyncio.run(seconds(slow)) >= 0.14  # 0.1 + 0.2 · (0.3 - 0.1)
    assert asyncio.run(seconds(slow, *[dict] * 30)) < 0.05


def test_what_goes_wrong_in_a_function_is_an_answer_and_the_server_goes_on(capfd):
    def crash(values):
        raise ZeroDivisionError("secret")

    functions = {"/api/refuse": refuse, "/api/crash": crash, "/api/nan": lambda values: {"p": float("nan")}}
    with running(functions) as port:
        assert post(port, "a", path="/api/refuse")[:2] == (400, {"error": r"text: is not to my taste\n"})
        for path in ("/api/crash", "/api/nan"):
            status, reply, _ = post(port, "a", path=path)
            assert status == 500 and "terminal of the server" in reply["error"] and "secret" not in reply["error"]
        assert post(port, "a")[0] == 200
    errors = capfd.readouterr().err
    assert "ZeroDivisionError: secret" in errors and "Traceback" in errors and "ValueError" in errors


# --- where it listens, and how it ends ---


def test_it_listens_on_this_computer_alone():
    with listen(0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@pytest.mark.parametrize("port", [-1, 65536, 10**9])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(UserError, match=f"--port {port}: must be between 0"):
        listen(port)


def test_a_port_that_cannot_be_had_is_refused(monkeypatch):
    with listen(0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: is in use; choose another"):
            listen(port)

    def refuse_port(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(server.socket, "create_server", refuse_port)
    with pytest.raises(UserError, match="--port 80: cannot be had: Permission denied"):
        listen(80)


def test_it_ends_without_a_word_while_clients_send_and_answers_are_computed(capfd, caplog):
    begun = threading.Event()

    def work(values):
        begun.set()
        time.sleep(0.3)
        return {}

    with running({"/api/work": work}) as port:
        clients = [connect(port) for _ in range(3)]
        clients[0].sendall(b"GET /")
        for i, client in enumerate(clients[1:]):
            client.sendall(request(port, "POST /api/work HTTP/1.1", ask(str(i))))
        assert begun.wait(20)
    assert [fetch(client)[0] for client in clients] == [0, 0, 0]
    assert capfd.readouterr() == ("", "") and not caplog.records


def test_a_reply_is_raised_where_it_is_a_refusal():
    assert isinstance(refusal(405, "no", Allow="GET"), Reply)
    assert refusal(405, "no", Allow="GET").headers == {"Allow": "GET"}
