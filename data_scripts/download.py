"""Download a public data set, or go on where that was cut: python data_scripts/download.py agnews|clinc|squad|conll

Files come from one pinned commit of a GitHub repository and are kept only if size and git blob id are the pinned ones.
One that is already there is verified, not fetched again; one that was altered is announced and replaced. What the
finished files hold, as this script prints it:

    agnews  ag_news_csv/  train.csv 120,000 rows, test.csv 7,600 rows, classes.txt 4 rows (non-commercial use)
    clinc   clinc150/     23,700 queries: train 15,000, val 3,000, test 4,500, oos 100 / 100 / 1,000 (CC BY 3.0)
    squad   squad/        v1.1 train 87,599 and dev 10,570 questions, v2.0 130,319 and 11,873 (CC BY-SA 4.0)
    conll   conll2003/    train 14,041, valid 3,250, test 3,453 sentences (research use; never redistribute)
"""

import argparse
import hashlib
import json
import os
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, responses
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works, nothing need be installed
from kd_scratch.common.errors import UserError
from kd_scratch.common.files import make_folder, sync_folder

GITHUB = "https://raw.githubusercontent.com"
TIMEOUT = 30  # seconds without a single byte
LOOPBACK = "127.0.0.1", "localhost", "::1"
CHUNK = 1 << 16  # bytes; what a cut connection can lose at most
HINTS = {
    401: "check the name; private and gated ones are not supported",
    403: "private and gated ones are not supported",
    404: "check the name and the revision",
}


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch, its name here, and what must arrive. Raises UserError for a name that is more than a name."""

    url: str
    name: str
    size: int  # bytes
    digest: str  # hex: a git blob id (40 digits) or a SHA-256 (64 digits)

    def __post_init__(self):
        if self.name in ("", ".", "..") or any(character in self.name for character in "/\\:\0"):
            raise UserError(f"{self.url}: {self.name!r} is not a plain file name; refused")

    def new_hash(self):
        """The hash that gives `digest`. Git hashes a blob as sha1("blob <size>\\0" + content)."""
        return hashlib.sha256() if len(self.digest) == 64 else hashlib.sha1(b"blob %d\0" % self.size)

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` has exactly the expected content."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        with open(path, "rb") as file:
            return hashlib.file_digest(file, self.new_hash).hexdigest() == self.digest


def check_url(url: str) -> None:
    """Raise UserError unless the address is https, or plain http to this very machine (which the tests use)."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise UserError(f"{url}: refused: only https is followed")


class SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows at most five redirects, never from https to http."""

    max_redirections, max_repeats = 5, 1

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        check_url(newurl)
        if req.type == "https" and not newurl.lower().startswith("https:"):
            raise UserError(f"{req.full_url}: redirects from https to {newurl}: refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def open_url(url: str, offset: int = 0):
    """The response to a GET, from byte `offset` on if the server agrees: status 206, else 200 (all of it) or 416.

    Raises UserError, in one line, for a refused address, an unreachable server and every other status.
    """
    check_url(url)
    headers = {"User-Agent": "kd_scratch", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        opener = urllib.request.build_opener(SafeRedirects)
        return opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and offset:
            return error
        hint = "redirects in a circle or to a refused place" if error.code < 400 else HINTS.get(error.code, "try later")
        raise UserError(f"{url}: the server answers {error.code} {responses.get(error.code, '')}: {hint}") from None
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a redirect to something that is no address
        raise UserError(f"{url}: no answer: {getattr(error, 'reason', error)}; check the network, try again") from None


def read_body(response, url: str, limit: int) -> Iterator[bytes]:
    """The body in chunks; UserError when the network fails or when more than `limit` bytes come."""
    try:
        while chunk := response.read(min(CHUNK, limit + 1)):
            limit -= len(chunk)
            if limit < 0:
                raise UserError(f"{url}: the server sends more bytes than announced; refused")
            yield chunk
    except (OSError, HTTPException) as error:
        raise UserError(f"{url}: the connection broke: {error}; run the same command again to go on") from None


def receive(remote: RemoteFile, part: Path, offset: int) -> None:
    """Write the file's bytes from `offset` on into `part`; all of them when the server ignores the offset."""
    with open_url(remote.url, offset) as response:
        if response.status == 200:
            offset = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            return  # not the bytes asked for; fetch() sees that the file is not whole, and starts again
        left = remote.size - offset
        if response.length not in (None, left):
            raise UserError(f"{remote.url}: the server offers {response.length} bytes instead of {left}; refused")
        bar = tqdm(total=remote.size, initial=offset, desc=remote.name, unit="B", unit_scale=True, disable=None)
        with bar, open(part, "ab" if offset else "wb") as file:
            for chunk in read_body(response, remote.url, left):
                file.write(chunk)
                left -= len(chunk)
                bar.update(len(chunk))
            file.flush()
            os.fsync(file.fileno())
    if left:
        raise UserError(f"{remote.url}: the connection ended {left} bytes early; run the same command again to go on")


def fetch(remote: RemoteFile, folder: Path) -> Path:
    """Bring one file into `folder` and return its path; it appears there whole and verified, or not at all.

    Bytes collect in `.NAME.part`, which survives errors and is continued by the next call. No ETag is kept: the final
    hash tells whether the pieces belong together, and if not, everything is fetched once more from byte 0.
    Raises UserError: network, disk, wrong size or hash.
    """
    target, part = folder / remote.name, folder / f".{remote.name}.part"
    try:
        if remote.is_at(target):
            print(f"{target}: already there, verified")
            return target
        if target.exists():
            print(f"{target}: altered, its size or hash is not the published one; downloading it again")
        start = part.stat().st_size if part.exists() else 0
        for offset in (start, 0) if start else (0,):
            if offset < remote.size:
                receive(remote, part, offset)
            if remote.is_at(part):
                os.replace(part, target)
                sync_folder(folder)
                return target
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{target}: can't be read or written: {error.strerror}; mend that and run it again") from None
    raise UserError(f"{remote.url}: what arrived does not have the published hash {remote.digest}; deleted")


def fetch_all(title: str, source: str, files: list[RemoteFile], folder: str | Path) -> list[Path]:
    """Say what will be downloaded, from where and how big, then fetch each file. Returns paths; raises UserError."""
    megabytes = sum(file.size for file in files) / 1e6
    print(f"{title}: {megabytes:.1f} MB in {len(files)} file(s), from {source} into {folder}", flush=True)
    folder = make_folder(folder)
    return [fetch(file, folder) for file in files]


@dataclass(frozen=True)
class DataSet:
    """Where a data set's files are, which they are, and how to count what is in one."""

    title: str
    folder: str
    source: str  # GitHub repository/commit/path
    files: dict[str, tuple[int, str]]  # name: (bytes, git blob id)
    unit: str
    count: Callable[[bytes], int]


DATA_SETS = {
    "agnews": DataSet(
        "AG News",
        "ag_news_csv",
        "mhjabreel/CharCnn_Keras/555590db4219b1243abb1918effd6a7425a2d75f/data/ag_news_csv",
        {
            "train.csv": (29470338, "694aa19971315410e000404523796b76349d3c1d"),
            "test.csv": (1857427, "130b40c3329c993468b8ed8a22c331315e478e0a"),
            "classes.txt": (31, "e0a3d189cb86add99438018b1e218d3177919dc5"),
        },
        "rows",
        lambda raw: raw.count(b"\n"),
    ),
    "clinc": DataSet(
        "CLINC150",
        "clinc150",
        "clinc/oos-eval/828f8093932c8fe6ca7936c3d2e52903b1c523de/data",
        {"data_full.json": (2495390, "7a7b26c5f2dfbbf213f3e67d2dd0727e1af545aa")},
        "queries",
        lambda raw: sum(map(len, json.loads(raw).values())),
    ),
    "squad": DataSet(
        "SQuAD",
        "squad",
        "rajpurkar/SQuAD-explorer/eee5fdbf62f8613a7812b03419e6b29617b74fd1/dataset",
        {
            "train-v1.1.json": (30288272, "77f1d9a7daee11f7bc293832020f7709f63410ad"),
            "dev-v1.1.json": (4854279, "e9a3f913ad1468ebe105b891334ca7b0bc0e2510"),
            "train-v2.0.json": (42123633, "312f804dbf85888fdce3299eaa58d6ec3f0bb6b7"),
            "dev-v2.0.json": (4370528, "c6fa1a89a12c90b7fbfa8f6fb437cfff27af41ca"),
        },
        "questions",
        lambda raw: raw.count(b'"question":'),  # as a key only: inside a string the quotes are escaped
    ),
    "conll": DataSet(
        "CoNLL-2003",
        "conll2003",
        "kamalkraj/BERT-NER/e5be564156f194f1becb0d82aeaf6e762d9eb9ed/data",
        {
            "train.txt": (3283420, "171cfe484671d6fa04e99526cbafd45e83842f54"),
            "valid.txt": (827443, "33b26c6eda1253d9e1384ac1f5b513ff8a4e3164"),
            "test.txt": (748095, "b0eee5d55d63b0038c940d7584bb85c89d91a9be"),
        },
        "sentences",
        lambda raw: len(re.findall(rb"(?<=\n\n)(?!-DOCSTART-|\n)", b"\n\n" + raw.strip())),
    ),
}


def download_data(name: str, output: str | Path, base_url: str = GITHUB) -> list[Path]:
    """Download the data set `name` into its sub-folder of `output`, print what it holds; returns the files' paths.

    Raises UserError: network, disk, wrong content.
    """
    data = DATA_SETS[name]
    source = f"{base_url}/{data.source}"
    files = [RemoteFile(f"{source}/{file}", file, size, digest) for file, (size, digest) in data.files.items()]
    paths = fetch_all(data.title, source, files, Path(output) / data.folder)
    for path in paths:
        print(f"{path}: {data.count(path.read_bytes()):,} {data.unit}")
    return paths


def exit_code(command: Callable, *arguments) -> int:
    """Run a command; 2 and one line on stderr for what the user can mend, 130 for Ctrl-C."""
    try:
        command(*arguments)
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; run the same command again to go on", file=sys.stderr)
        return 130


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("name", choices=DATA_SETS)
    parser.add_argument("--output", default=os.environ.get("KD_DATA", "data"), help="default: $KD_DATA, else data")
    options = parser.parse_args(arguments)
    return exit_code(download_data, options.name, options.output)


if __name__ == "__main__":
    sys.exit(main())
