"""Download a checkpoint from the Hugging Face hub: python data_scripts/download_checkpoint.py bert-base-uncased

One request turns the revision into a commit and lists that commit's files with their sizes and hashes (SHA-256 for
large files, git blob ids for small ones); every file then comes from that commit and must match. Only what a
checkpoint needs is fetched, and of weights one form: safetensors, or where there are none pytorch_model.bin, which
kd_scratch reads without running it. Files that are there already are verified against the hub; the rest is as in
download.py.
"""

import argparse
import json
import os
import re
import sys
from pathlib import Path
from urllib.parse import quote

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a plain checkout works, nothing need be installed
from data_scripts.download import RemoteFile, exit_code, fetch_all, open_url, read_body
from kd_scratch.common.errors import UserError

HUB = "https://huggingface.co"
MAX_LISTING = 16 << 20  # bytes of JSON
SMALL_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "added_tokens.json",
    "special_tokens_map.json",
)  # fmt: skip
#: The one file of weights -> its shards, which come with an index; the first form that is complete is taken.
WEIGHTS = {
    "model.safetensors": re.compile(r"model-\d{5}-of-\d{5}\.safetensors", re.ASCII),
    "pytorch_model.bin": re.compile(r"pytorch_model-\d{5}-of-\d{5}\.bin", re.ASCII),
}
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def list_files(name: str, revision: str, base_url: str = HUB) -> tuple[str, dict[str, tuple[int, str]]]:
    """The commit that `revision` stands for, and its files as {path: (bytes, digest)}.

    Source: the hub's API, GET /api/models/NAME/revision/REVISION?blobs=true. Raises UserError.
    """
    url = f"{base_url}/api/models/{name}/revision/{quote(revision, safe='')}?blobs=true"
    with open_url(url) as response:
        raw = b"".join(read_body(response, url, MAX_LISTING))
    try:
        answer = json.loads(raw)
        commit, files = answer["sha"], {}
        for entry in answer["siblings"]:
            lfs = entry.get("lfs")  # for these, size and blobId can be those of the pointer file
            files[str(entry["rfilename"])] = (lfs["size"], lfs["sha256"]) if lfs else (entry["size"], entry["blobId"])
        if not re.fullmatch("[0-9a-f]{40}", commit):
            raise ValueError("sha is not a commit")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{url}: not the listing of a model: {type(error).__name__}: {error}") from None
    return commit, files


def choose_files(name: str, files: dict[str, tuple[int, str]]) -> list[str]:
    """The names of a checkpoint's files among all in its repository, weights last.

    Only names from a fixed list or pattern are ever chosen, so no name in the listing can lead out of the folder.
    Raises UserError when there are no weights in a form that kd_scratch reads, or no config.json.
    """
    forms = []
    for single, pattern in WEIGHTS.items():
        shards, index = sorted(filter(pattern.fullmatch, files)), f"{single}.index.json"
        forms += [[single]] * (single in files) + [[index, *shards]] * (index in files and bool(shards))
    if not forms or "config.json" not in files:
        lacks = "config.json" if forms else " or ".join(WEIGHTS)
        raise UserError(f"{name}: lacks {lacks}; choose another checkpoint")
    return [file for file in SMALL_FILES if file in files] + forms[0]


def download_checkpoint(name: str, output: str | Path, revision: str = "main", base_url: str = HUB) -> list[Path]:
    """Download the model `name` ("model" or "owner/model") into the folder `output`; returns the files' paths.

    Raises UserError: no such name or revision, no weights, network, disk, wrong content.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"{name!r}: not a hub name; write it like bert-base-uncased or owner/model")
    commit, listing = list_files(name, revision, base_url)
    files = []
    for file in choose_files(name, listing):
        size, digest = listing[file]
        if not (isinstance(size, int) and size > 0 and re.fullmatch("[0-9a-f]{40}([0-9a-f]{24})?", str(digest))):
            raise UserError(f"{name}: the hub announces no usable size and hash for {file}; try again later")
        files.append(RemoteFile(f"{base_url}/{name}/resolve/{commit}/{file}", file, size, digest))
    return fetch_all(f"{name} at commit {commit}", base_url, files, output)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("name", help="bert-base-uncased, or owner/model")
    parser.add_argument("--revision", default="main", help="branch, tag or commit; default: main")
    parser.add_argument("--output", help="the model's folder; default: models/NAME in $KD_DATA, else in data")
    options = parser.parse_args(arguments)
    output = options.output or Path(os.environ.get("KD_DATA", "data"), "models", options.name)
    return exit_code(download_checkpoint, options.name, output, options.revision)


if __name__ == "__main__":
    sys.exit(main())
