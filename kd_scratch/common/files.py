"""Files, handled with care: strict reading, atomic writing, hashes."""

import glob
import hashlib
import json
import os
import platform
import re
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from kd_scratch.common.errors import DiskError, UserError, remedy

LONGEST = 1_000_000  # characters of one text
LOCK = ".run.lock.0.tmp"  # named as something that is left over
OF_A_MODEL = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
              "vocab.txt", "model.safetensors.index.json", "pytorch_model.bin.index.json")  # fmt: skip
BESIDE_A_MODEL = ("training.json", "quantization.json", "calibration.json", "pruning.json", "README.md")


def read_text(path: str | Path) -> str:
    """The text of a UTF-8 file (a byte-order mark is dropped). Raises UserError, never UnicodeDecodeError."""
    raw = read_bytes(path)
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: line {line}: byte {raw[error.start]:#04x} is not UTF-8; "
            f"convert the file first, for example: iconv -f latin1 -t utf-8"
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}: line {line}: NUL character; this is not a text file")
    return text


def check_length(text: str, place: str) -> None:
    """UserError where a text is so long that something has gone wrong, and tokenizing it would take gigabytes."""
    if len(text) > LONGEST:
        raise UserError(
            f"{place}: a text of {len(text):,} characters, at most {LONGEST:,} can be read; was a quote left open, or "
            "does a whole file stand in one line? Cut it first"
        )


def read_bytes(path: str | Path) -> bytes:
    """The content of a non-empty file; UserError where there is none."""
    with open_file(path) as file, reading(path):
        raw = file.read()
    if not raw:
        raise UserError(f"{path}: the file is empty")
    return raw


def has_content(path: Path, content: bytes) -> bool:
    """Whether a file holds just that."""
    try:
        return read_bytes(path) == content
    except UserError:
        return False


def leads_out(path: Path) -> bool:
    """Whether a file of a folder is a link to a file elsewhere, which whoever made the folder may not have.

    Links into the hub's cache are none: -> …/models--bert-base-uncased/blobs/HASH
    """
    folder, target = (Path(os.path.realpath(one)) for one in (path.parent, path))
    in_cache = target.parent.name == "blobs" and target.parents[1].name.startswith("models--")
    return folder not in target.parents and not in_cache


def open_file(path: str | Path) -> BinaryIO:
    """A file, open for reading; UserError where there is none."""
    with reading(path):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise UserError(f"{path}: is a folder, a file is needed")
        if not stat.S_ISREG(mode):  # a pipe can be read only once, and would wait for its writer
            raise UserError(f"{path}: is a pipe or a device, not a file; write it to a file first")
        return open(path, "rb")


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Turn the system's error, where a file cannot be read, into a UserError of one line."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def check_utf8(text: str, flag: str) -> None:
    """UserError where a command line held bytes that are not UTF-8 (Python passes them on as half characters)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{flag}: {ascii(text)[:100]} is not UTF-8") from None


def read_json(path: str | Path):
    """The value in a JSON file; UserError with the place where it is not JSON."""
    return json_value(read_text(path), str(path))


def json_value(text: str, name: str):
    """The value of a text; UserError with the line where it is not JSON. name: of its file, in messages."""
    try:
        value = json.loads(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # fails where an escape is half a character (a surrogate)
        return value
    except json.JSONDecodeError as error:
        raise UserError(f"{name}: line {error.lineno}: not JSON: {error.msg}") from None
    except (RecursionError, ValueError) as error:  # nested too deep; an integer of thousands of digits
        raise UserError(f"{name}: not usable JSON: {error}") from None


def write_atomically(
    path: str | Path, chunks: Iterable[bytes], keep: Path | None = None, outdated: Path | None = None
) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new, never a part.

    Temporary file in the same folder -> fsync -> rename over the target -> fsync of the folder. The temporary name
    carries host, thread and process id, so several may write the same file; what a killed process left is removed.
    keep: the name that the old content gets; after a crash there may then be nothing at `path`, and the old at `keep`.
    outdated: another file, which belongs to the old content alone: deleted before the new is there.
    """
    path = Path(path)
    _require_place(path)
    host = platform.node().replace(".", "-")
    temporary = path.with_name(f".{path.name}.{host}.{threading.get_ident()}.{os.getpid()}.tmp")
    try:
        for leftover in path.parent.glob(f".{glob.escape(path.name)}.{glob.escape(host)}.*.tmp"):
            if not _is_running(*leftover.name.split(".")[-3:-1]):
                with suppress(OSError):  # somebody else's, in a folder that all may write to
                    leftover.unlink(missing_ok=True)
        with open(temporary, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if outdated is not None:
            outdated.unlink(missing_ok=True)
        if keep is not None and path.exists():
            os.replace(path, keep)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # the disk may refuse this too; the next process that writes the file tries again
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise DiskError(f"{path}: cannot be written: {error.strerror}{remedy(error)}") from None
        raise


def _require_place(path: Path) -> None:
    """DiskError where something else than a file is, or where no file can be."""
    if not path.name or (os.path.exists(path) and not os.path.isfile(path)):
        raise DiskError(f"{path}: cannot be written: is a folder, pipe or device; give the name of a file")


def remove(path: Path) -> None:
    """Delete a file, if it is there; UserError where that is not allowed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DiskError(f"{path}: cannot be deleted: {error.strerror}{remedy(error)}") from None


def replace_file(source: Path, target: Path) -> None:
    """Rename a file over another, durably; UserError where that is not allowed."""
    try:
        os.replace(source, target)
        sync_folder(target.parent)
    except OSError as error:
        raise DiskError(f"{target}: cannot be replaced: {error.strerror}{remedy(error)}") from None


def check_target(path: Path, *inputs: str | Path) -> None:
    """Before work: UserError where a file cannot be written there, or would overwrite what the work reads.

    inputs: files, and model directories. No file that belongs to a model, one of these or another, may be replaced.
    """
    make_folder(path.parent)
    _require_place(path)
    whole = path.resolve()
    own = path.name in (*OF_A_MODEL, *BESIDE_A_MODEL) or path.suffix in (".safetensors", ".bin")
    models = [whole.parent] if (whole.parent / "config.json").is_file() else []
    for other in map(Path, (*inputs, *models)):
        if whole == other.resolve() or (own and whole.parent == other.resolve()):
            raise UserError(f"{path}: would overwrite {other}, or a part of it; choose another name")


def check_apart(output: Path, *models: str | Path) -> None:
    """UserError where a folder is one of `models`, or lies in one. Names of sizes may be among them."""
    whole = output.resolve()
    for model in filter(Path.is_dir, map(Path, models)):
        if model.resolve() in (whole, *whole.parents):
            raise UserError(f"--output {output}: is the model {model} itself, or a part of it; choose another folder")


def check_no_file(output: Path) -> None:
    """UserError where --output, which is to be a folder, is a file."""
    if output.exists() and not output.is_dir():
        raise UserError(f"--output {output}: is a file; give the name of a folder")


def check_new_folder(output: Path, *models: str | Path, what: str = "already holds something") -> None:
    """UserError where --output is a file, or a folder that holds something. what: is wrong with it then.

    models: the folders that the work reads, which nobody is told to delete.
    """
    check_no_file(output)
    if output.is_dir() and not all(is_leftover(path.name) for path in output.iterdir()):
        check_apart(output, *models)
        raise UserError(f"--output {output}: {what}; delete it, or choose another folder")


@contextmanager
def locked(folder: Path, name: str = LOCK) -> Iterator[None]:
    """A context in which no other process may be in the same one for this file of a folder; UserError where one is.

    The lock goes with the process, however it ends. (On Windows there is none.)
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / name, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: another process writes there; wait for it, or choose another folder") from None
        yield


def is_leftover(name: str) -> bool:
    """Whether a file's name is that of a write that was cut off (or is under way): .NAME.HOST.THREAD.PROCESS.tmp"""
    return re.fullmatch(r"\..+\.[^.]*\.\d+\.tmp", name) is not None


def _is_running(thread: str, process: str) -> bool:
    """Whether a process of this number exists, or of our own number a thread; where that is not known, as if it did."""
    if process == str(os.getpid()):
        return thread in (str(one.ident) for one in threading.enumerate())
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        return True
    return True


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that renames and deletions in it survive a power cut (POSIX only)."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomically(path, [text.encode()])


def write_json(path: str | Path, value) -> None:
    """Write indented JSON atomically; NaN and infinities, which JSON lacks, are refused with ValueError."""
    write_text(path, json_text(value))


def json_text(value) -> str:
    """What write_json writes."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def make_folder(path: str | Path) -> Path:
    """Create a folder and its parents, where missing; UserError where that cannot be done."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"{path}: cannot be made a folder: {error.strerror}{remedy(error)}") from None
    return path


def sha256(*parts: bytes | memoryview | str) -> str:
    """Hex SHA-256 of parts, each preceded by its length so that ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.sha256()
    for part in parts:
        part = part.encode() if isinstance(part, str) else part
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def sha256_of_file(path: str | Path) -> str:
    """Hex SHA-256 of a file's content, as `sha256sum` prints it."""
    with open_file(path) as file, reading(path):
        return hashlib.file_digest(file, "sha256").hexdigest()
