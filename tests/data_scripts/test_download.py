"""The downloaders, against a server on the loopback address."""

import dataclasses
import errno
import hashlib
import json
import os
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.request import Request

import pytest

from data_scripts import download, download_checkpoint
from data_scripts.download import RemoteFile, SafeRedirects, fetch
from data_scripts.download_checkpoint import download_checkpoint as download_model
from kd_scratch.common.errors import UserError

BODY = bytes(range(256)) * 1200  # 300 kB: several chunks
COMMIT = "c0ffee" + "0" * 34


def git_blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob " + str(len(content)).encode() + b"\0" + content).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers a path with its content in `routes`, or by calling what stands there; logs (path, Range header)."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.routes, self.log = {}, []

    def file(self, content=BODY, expected=None, name="file.bin"):
        """Serve `content`; the RemoteFile returned expects it, or `expected` instead."""
        self.routes[f"/{name}"] = content
        expected = expected or (content if isinstance(content, bytes) else BODY)
        return RemoteFile(f"{self.url}/{name}", name, len(expected), git_blob_id(expected))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.log.append((self.path, asked))
        route = self.server.routes.get(self.path)
        if callable(route):
            route(self)
        elif route is None:
            self.send(b"", 404)
        elif asked:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            self.send(route[start:], 206, {"Content-Range": f"bytes {start}-{len(route) - 1}/{len(route)}"})
        else:
            self.send(route)

    def send(self, body, status=200, headers=None, length=None):
        self.send_response(status)
        for name, value in ({"Content-Length": length or len(body)} | (headers or {})).items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def redirect(location):
    return lambda handler: handler.send(b"", 302, {"Location": location})


def cut_after(count, body=BODY):
    return lambda handler: handler.send(body[:count], length=len(body))


def refused(remote, folder, match):
    """fetch() refuses in one line, and nothing appears under the file's name; returns the line."""
    with pytest.raises(UserError, match=match) as caught:
        fetch(remote, folder)
    assert not (folder / remote.name).exists() and "\n" not in str(caught.value)
    return str(caught.value)


def part_of(remote, folder):
    return folder / f".{remote.name}.part"


def test_digest_of_forty_digits_is_gits_blob_id(tmp_path):
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")  # git hash-object prints this id
    assert RemoteFile("u", "hello", 6, "ce013625030ba8dba906f756967f9e9ca394464a").is_at(path)
    assert not RemoteFile("u", "hello", 6, "ce013625030ba8dba906f756967f9e9ca394464b").is_at(path)


def test_file_arrives_whole_and_leaves_no_part(server, tmp_path):
    remote = server.file()
    assert fetch(remote, tmp_path).read_bytes() == BODY
    assert os.listdir(tmp_path) == ["file.bin"]


def test_intact_file_is_not_asked_for_again(server, tmp_path, capsys):
    remote = server.file()
    fetch(remote, tmp_path)
    fetch(remote, tmp_path)
    assert len(server.log) == 1 and "already there, verified" in capsys.readouterr().out


def test_altered_file_is_announced_and_replaced(server, tmp_path, capsys):
    remote = server.file()
    (tmp_path / "file.bin").write_bytes(b"\xff" + BODY[1:])
    assert fetch(remote, tmp_path).read_bytes() == BODY
    assert "file.bin: altered" in capsys.readouterr().out


def test_altered_file_stays_when_its_replacement_fails(server, tmp_path):
    remote = server.file(cut_after(1000))
    (tmp_path / "file.bin").write_bytes(b"mine")
    with pytest.raises(UserError):
        fetch(remote, tmp_path)
    assert (tmp_path / "file.bin").read_bytes() == b"mine"


def test_cut_connection_is_reported_then_resumed_where_it_broke(server, tmp_path):
    remote = server.file(cut_after(200_000))
    refused(remote, tmp_path, "107200 bytes early; run the same command again")
    kept = part_of(remote, tmp_path).read_bytes()
    assert 0 < len(kept) < len(BODY) and BODY.startswith(kept)
    server.file()
    assert fetch(remote, tmp_path).read_bytes() == BODY
    assert server.log == [("/file.bin", None), ("/file.bin", f"bytes={len(kept)}-")]


def test_server_that_ignores_the_range_restarts_the_file(server, tmp_path):
    remote = server.file(lambda handler: handler.send(BODY))
    part_of(remote, tmp_path).write_bytes(BODY[:1000])
    assert fetch(remote, tmp_path).read_bytes() == BODY
    assert server.log == [("/file.bin", "bytes=1000-")]


@pytest.mark.parametrize("answer", [(b"", 416), (BODY[999:], 206, {"Content-Range": "bytes 999-307199/307200"})])
def test_server_that_cannot_continue_restarts_the_file(server, tmp_path, answer):
    remote = server.file(lambda handler: handler.send(*answer) if handler.headers["Range"] else handler.send(BODY))
    part_of(remote, tmp_path).write_bytes(BODY[:1000])
    assert fetch(remote, tmp_path).read_bytes() == BODY
    assert [asked for _, asked in server.log] == ["bytes=1000-", None]


@pytest.mark.parametrize("length", [1000, len(BODY), len(BODY) + 1])
def test_part_of_other_content_is_fetched_once_more_from_scratch(server, tmp_path, length):
    remote = server.file()
    part_of(remote, tmp_path).write_bytes(b"x" * length)
    assert fetch(remote, tmp_path).read_bytes() == BODY
    assert server.log[-1] == ("/file.bin", None) and len(server.log) <= 2


def test_complete_part_is_verified_and_installed_without_a_request(server, tmp_path):
    remote = server.file()
    part_of(remote, tmp_path).write_bytes(BODY)
    assert fetch(remote, tmp_path).read_bytes() == BODY and server.log == []


def test_flipped_bit_is_refused_and_deleted(server, tmp_path):
    remote = server.file(b"\x01" + BODY[1:], expected=BODY)
    refused(remote, tmp_path, "does not have the published hash")
    assert os.listdir(tmp_path) == [] and len(server.log) == 1


@pytest.mark.parametrize("content", [BODY[:-1], BODY + b"x"], ids=["shorter", "longer"])
def test_file_of_another_size_is_refused_before_its_first_byte(server, tmp_path, content):
    remote = server.file(content, expected=BODY)
    refused(remote, tmp_path, f"offers {len(content)} bytes instead of {len(BODY)}")
    assert os.listdir(tmp_path) == []


def test_never_more_bytes_are_written_than_announced(server, tmp_path):
    def endless(handler):  # no length: the body ends where the connection does
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(BODY * 3)

    remote = server.file(endless)
    refused(remote, tmp_path, "more bytes than announced")
    assert part_of(remote, tmp_path).stat().st_size <= len(BODY)


def test_redirects_are_followed_and_keep_the_range(server, tmp_path):
    server.file(name="real")
    remote = server.file(redirect("/real"))
    part_of(remote, tmp_path).write_bytes(BODY[:1000])
    assert fetch(remote, tmp_path).read_bytes() == BODY
    assert server.log[-1] == ("/real", "bytes=1000-")


@pytest.mark.parametrize("location", ["http://example.com/x", "http://127.0.0.1.example.com/x", "ftp://example.com/x"])
def test_redirect_to_plain_http_elsewhere_is_refused_without_contact(server, tmp_path, monkeypatch, location):
    contacted, connect = [], socket.create_connection
    spy = lambda address, *rest, **named: contacted.append(address[0]) or connect(address, *rest, **named)  # noqa: E731
    monkeypatch.setattr(socket, "create_connection", spy)
    refused(server.file(redirect(location)), tmp_path, "only https")
    assert contacted == ["127.0.0.1"]


def test_redirect_from_https_to_http_is_refused_even_on_loopback():
    with pytest.raises(UserError, match="from https to http://127.0.0.1/x"):
        SafeRedirects().redirect_request(Request("https://a.org/x"), None, 302, "Found", {}, "http://127.0.0.1/x")


def test_plain_http_and_local_files_are_refused_as_a_start(tmp_path):
    for url in ("http://example.com/f", "file:///etc/hosts", "data:,x"):
        refused(RemoteFile(url, "f", 1, git_blob_id(b"x")), tmp_path, "only https")


@pytest.mark.parametrize("count", [1, 10], ids=["loop", "long chain"])
def test_redirects_without_end_are_refused(server, tmp_path, count):
    for step in range(count):
        server.routes[f"/{step}"] = redirect(f"/{(step + 1) % count}")
    refused(server.file(redirect("/0")), tmp_path, "redirects in a circle")
    assert len(server.log) <= 7


@pytest.mark.parametrize("status, hint", [(404, "check the name"), (500, "try later"), (401, "gated")])
def test_error_status_is_one_line_with_a_hint(server, tmp_path, status, hint):
    message = refused(server.file(lambda handler: handler.send(b"", status)), tmp_path, hint)
    assert str(status) in message and server.url in message


def test_unreachable_and_silent_servers_are_one_line(server, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refused(RemoteFile(f"http://127.0.0.1:{port}/f", "f", 1, git_blob_id(b"x")), tmp_path, "no answer.*try again")
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    done = threading.Event()
    refused(server.file(lambda handler: done.wait(5)), tmp_path, "no answer.*timed out")
    stalls = lambda handler: (handler.send(b"x", length=len(BODY)), done.wait(5))  # noqa: E731
    refused(server.file(stalls), tmp_path, "broke.*timed out.*again")
    done.set()


def test_full_disk_is_one_line_and_the_part_is_kept(server, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    remote = server.file()
    refused(remote, tmp_path, "No space left on device")
    assert part_of(remote, tmp_path).exists()


@pytest.mark.parametrize("name", ["../evil", "a/b", "..", ".", "", "/etc/x", "a\\b", "C:x", "a\0b"])
def test_hostile_file_names_are_refused(name):
    with pytest.raises(UserError, match="not a plain file name"):
        RemoteFile("https://a.org/x", name, 1, "0" * 40)


def test_data_set_lands_in_its_folder_with_its_counts(server, tmp_path, monkeypatch, capsys):
    rows = b'"1","title","text"\n"2","title","text"\n'
    small = dataclasses.replace(download.DATA_SETS["agnews"], files={"test.csv": (len(rows), git_blob_id(rows))})
    monkeypatch.setitem(download.DATA_SETS, "agnews", small)
    server.routes[f"/{small.source}/test.csv"] = rows
    assert download.download_data("agnews", tmp_path, server.url) == [tmp_path / "ag_news_csv" / "test.csv"]
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("AG News: 0.0 MB in 1 file(s), from " + server.url) and last.endswith("test.csv: 2 rows")


def test_counts_are_those_of_each_format():
    count = {name: data.count for name, data in download.DATA_SETS.items()}
    assert count["clinc"](b'{"train": [["a", "x"], ["b", "x"]], "oos_val": [["c", "oos"]]}') == 3
    assert count["conll"](b"-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n. . O O\n\n\nHi UH O O\n\n") == 2
    assert count["squad"](json.dumps({"qas": [{"question": 'say "question": '}, {"question": "b"}]}).encode()) == 2


def test_command_exits_with_two_and_one_line_for_a_users_mistake(tmp_path, capsys):
    occupied = tmp_path / "occupied"
    occupied.write_text("a file where a folder must go")
    assert download.main(["agnews", "--output", str(occupied)]) == 2
    assert download_checkpoint.main(["../x", "--output", str(tmp_path)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2 and "folder" in errors[0] and "not a hub name" in errors[1]


def hub(server, contents, name="owner/bert", revision="main", lfs=("model.safetensors",), **changes):
    """Publish {file: bytes} as a hub repository at COMMIT; `changes` alter the listing's entry of a file."""
    siblings = []
    for file, content in contents.items():
        entry = {"rfilename": file, "size": len(content), "blobId": git_blob_id(content)}
        if file in lfs:
            entry |= {"lfs": {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}, "blobId": "0" * 40}
        siblings.append(entry | changes.get(file.replace(".", "_"), {}))
        server.routes[f"/{name}/resolve/{COMMIT}/{file}"] = content
    listing = json.dumps({"sha": COMMIT, "siblings": siblings}).encode()
    server.routes[f"/api/models/{name}/revision/{revision}?blobs=true"] = listing


CHECKPOINT = {"config.json": b"{}", "vocab.txt": b"[PAD]\n", "model.safetensors": BODY}


def test_checkpoint_is_fetched_from_one_commit_and_only_what_it_needs(server, tmp_path, capsys):
    others = {"pytorch_model.bin": b"pickle", "README.md": b"#", "onnx/model.onnx": b"o"}
    hub(server, CHECKPOINT | others, revision="refs%2Fpr%2F7")
    paths = download_model("owner/bert", tmp_path / "bert", "refs/pr/7", server.url)
    assert {path.name: path.read_bytes() for path in paths} == CHECKPOINT
    assert sorted(os.listdir(tmp_path / "bert")) == sorted(CHECKPOINT)
    asked = [path for path, _ in server.log]
    assert asked[0].startswith("/api/") and all(f"/resolve/{COMMIT}/" in path for path in asked[1:])
    assert capsys.readouterr().out.startswith(f"owner/bert at commit {COMMIT}: 0.3 MB in 3 file(s), from {server.url}")


def test_sharded_checkpoint_comes_with_its_index(server, tmp_path):
    shards = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    index = "model.safetensors.index.json"
    hub(server, {"config.json": b"{}", index: b'{"weight_map": {}}', shards[0]: BODY, shards[1]: b"2"}, lfs=shards)
    paths = download_model("owner/bert", tmp_path, base_url=server.url)
    assert [path.name for path in paths] == ["config.json", index, *shards]


@pytest.mark.parametrize("file", ["model.safetensors", "vocab.txt"], ids=["sha256", "git blob id"])
def test_checkpoint_file_that_differs_from_the_listing_is_refused(server, tmp_path, file):
    hub(server, CHECKPOINT)
    server.routes[f"/owner/bert/resolve/{COMMIT}/{file}"] = CHECKPOINT[file][:-1] + b"!"
    with pytest.raises(UserError, match=f"{file}: what arrived does not have the published hash"):
        download_model("owner/bert", tmp_path, base_url=server.url)
    assert not (tmp_path / file).exists()


FORMS = {
    "safetensors before a pickle": (["model.safetensors", "pytorch_model.bin"], ["model.safetensors"]),
    "shards before a pickle": (
        ["model.safetensors.index.json", "model-00001-of-00001.safetensors", "pytorch_model.bin"],
        ["model.safetensors.index.json", "model-00001-of-00001.safetensors"],
    ),
    "a pickle": (["pytorch_model.bin", "tf_model.h5", "training_args.bin"], ["pytorch_model.bin"]),
    "a pickle in shards": (
        [
            "pytorch_model.bin.index.json",
            *(f"pytorch_model-0000{n}-of-00002.bin" for n in (2, 1)),
            "x-00001-of-00002.bin",
        ],
        ["pytorch_model.bin.index.json", *(f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2))],
    ),
    "an index without shards": (["model.safetensors.index.json", "pytorch_model.bin"], ["pytorch_model.bin"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_form_of_the_weights_is_fetched_with_what_stands_beside_them(server, tmp_path, form):
    published, wanted = FORMS[form]
    beside = ["config.json", "vocab.txt", "added_tokens.json", "special_tokens_map.json"]
    hub(server, dict.fromkeys([*published, *beside], b"content"))
    paths = download_model("owner/bert", tmp_path, base_url=server.url)
    assert [path.name for path in paths] == beside + wanted


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_repository_that_is_no_checkpoint_is_refused(server, tmp_path, missing):
    hub(server, {file: content for file, content in CHECKPOINT.items() if file != missing})
    with pytest.raises(UserError, match=f"lacks {missing}.*choose another checkpoint"):
        download_model("owner/bert", tmp_path, base_url=server.url)


def test_hostile_names_in_a_listing_are_never_fetched(server, tmp_path):
    good = ["config.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors"]
    hostile = ["../evil.txt", "/tmp/evil", "x/../config.json", f"../{good[2]}", f"{good[2]}/../../evil", f"{good[2]}\n"]
    hub(server, dict.fromkeys(good + hostile, b"content"))
    paths = download_model("owner/bert", tmp_path / "inner", base_url=server.url)
    assert [path.name for path in paths] == good and os.listdir(tmp_path) == ["inner"]


@pytest.mark.parametrize("name", ["../x", "a/b/c", "a/..", "", "a b", "https://a.org/x", "a?b", "-a", "a/b\n"])
def test_hostile_model_names_are_refused_before_any_request(server, tmp_path, name):
    with pytest.raises(UserError, match="not a hub name"):
        download_model(name, tmp_path, base_url=server.url)
    assert server.log == []


def test_nonsense_from_the_hub_is_one_line(server, tmp_path):
    for listing in (b"<html>", b"[]", b"{}", b'{"sha": "../..", "siblings": []}', b"[" * 99999):
        server.routes["/api/models/bert/revision/main?blobs=true"] = listing
        with pytest.raises(UserError, match="not the listing of a model"):
            download_model("bert", tmp_path, base_url=server.url)


@pytest.mark.parametrize("change", [{"size": None}, {"size": -1}, {"blobId": None}, {"blobId": "abc"}])
def test_file_without_announced_size_or_hash_is_refused(server, tmp_path, change):
    hub(server, CHECKPOINT, config_json=change)
    with pytest.raises(UserError, match="no usable size and hash for config.json"):
        download_model("owner/bert", tmp_path, base_url=server.url)
    assert os.listdir(tmp_path) == []
