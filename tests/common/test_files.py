"""Files: a broken one is a UserError with its place; a write leaves the old content or the new, never a part."""

import errno
import hashlib
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from kd_scratch.common import files
from kd_scratch.common.errors import DiskError, UserError
from kd_scratch.common.text_file import open_text

UNREADABLE = {
    "Latin-1 byte on the third line": (b"one\ntwo\ncaf\xe9\n", "line 3: byte 0xe9 is not UTF-8"),
    "UTF-16": ("text".encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
    "character cut off at the end of the file": ("one\né".encode()[:-1], "line 2: byte 0xc3 is not UTF-8"),
    "NUL on the second line": (b"one\ntw\0o\n", "line 2: NUL character"),
    "empty": (b"", "the file is empty"),
}
UNUSABLE_JSON = {
    "not JSON": (b'{\n "a": 1,\n "b" 2}', "line 3: not JSON"),
    "two values": (b"{} {}", "line 1: not JSON: Extra data"),
    "lists nested 100,000 deep": (b"[" * 100_000, "not usable JSON"),
    "objects nested 100,000 deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "not usable JSON"),
    "a number of 100,000 digits": (b"9" * 100_000, "not usable JSON"),
    "Latin-1": (b'{"a":\n"\xe9"}', "line 2: byte 0xe9 is not UTF-8"),
}


@pytest.mark.parametrize("content, place", UNREADABLE.values(), ids=UNREADABLE)
def test_text_that_cannot_be_read_is_refused_with_file_and_line(tmp_path, content, place):
    path = tmp_path / "in.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        files.read_text(path)
    assert str(error.value).startswith(f"{path}: {place}")
    assert "\n" not in str(error.value)


def test_text_is_read_as_it_is_except_for_a_byte_order_mark(tmp_path):
    path = tmp_path / "in.txt"
    path.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\nend \xef\xbb\xbf")
    assert files.read_text(path) == "café\r\nend \ufeff"


def test_a_missing_file_and_a_folder_are_told_apart(tmp_path):
    with pytest.raises(UserError, match="missing.txt: no such file"):
        files.read_text(tmp_path / "missing.txt")
    with pytest.raises(UserError, match="is a folder, a file is needed"):
        files.read_text(tmp_path)


def test_a_file_below_a_file_cannot_be_read(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file/below: cannot be read: Not a directory"):
        files.read_text(tmp_path / "file" / "below")


@pytest.mark.parametrize("content, place", UNUSABLE_JSON.values(), ids=UNUSABLE_JSON)
def test_json_that_cannot_be_used_is_refused_with_its_place(tmp_path, content, place):
    path = tmp_path / "in.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        files.read_json(path)
    assert str(error.value).startswith(f"{path}: {place}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [r'{"a": "\ud800"}', r'{"\udc00": 1}', r'[["\uDBFF text", "intent"]]'])
def test_json_with_half_a_surrogate_pair_is_refused(tmp_path, content):
    (tmp_path / "in.json").write_text(content)
    with pytest.raises(UserError, match="in.json"):
        files.read_json(tmp_path / "in.json")


def test_json_is_read_back_as_written(tmp_path):
    value = {"ö": [1, 2.5, None, True], "nested": {"text": "line\nbreak 😀"}}
    files.write_json(tmp_path / "out.json", value)
    assert files.read_json(tmp_path / "out.json") == value
    assert (tmp_path / "out.json").read_text(encoding="utf-8").endswith("\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_has_no_nan_so_writing_one_fails_and_the_old_file_stays(tmp_path, value):
    path = tmp_path / "out.json"
    path.write_text("old")
    with pytest.raises(ValueError):
        files.write_json(path, {"loss": value})
    assert path.read_text() == "old"


def broken_off(error):
    """Chunks to write, the second of which never comes."""
    yield b"new"
    raise error


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt()], ids=["bug", "Ctrl-C"])
def test_an_interrupted_write_leaves_the_old_content_and_no_temporary_file(tmp_path, error):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        files.write_atomically(path, broken_off(error))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_two_threads_may_write_the_same_file(tmp_path):
    """Each its own temporary file, so that one of them is there as a whole in the end."""
    path, both = tmp_path / "out.txt", threading.Barrier(2)

    def content(name):
        yield name.encode()
        both.wait()  # both are open now
        yield b" and whole"

    with ThreadPoolExecutor(2) as pool:  # what fails in a thread is raised here
        list(pool.map(lambda name: files.write_atomically(path, content(name)), ("one", "two")))
    assert path.read_text() in ("one and whole", "two and whole") and os.listdir(tmp_path) == ["out.txt"]


def test_a_full_disk_is_a_user_error_and_leaves_the_old_content_and_no_temporary_file(tmp_path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with pytest.raises(UserError, match="out.txt: cannot be written: No space left"):
        files.write_atomically(path, broken_off(OSError(28, "No space left on device")))
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.txt"]


def test_a_target_that_is_a_folder_or_in_no_folder_is_a_user_error(tmp_path):
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "missing" / "out.txt"):
        with pytest.raises(UserError, match="cannot be written"):
            files.write_text(path, "new")
    assert os.listdir(tmp_path) == ["folder"]


def test_what_a_killed_process_left_behind_is_removed_and_what_a_running_one_writes_is_not(tmp_path, monkeypatch):
    """Nor what a process of another machine writes into a folder that both see: nobody here knows whether it runs."""
    monkeypatch.setattr(files.platform, "node", lambda: "here.example.org")
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    for process in (finished.pid, os.getppid()):
        for host in ("here-example-org", "there"):
            (tmp_path / f".out.txt.{host}.{process}.tmp").write_text("a part")
    (tmp_path / f".out.txt.here-example-org.{os.getpid()}.tmp").write_text(
        "left by an earlier process of our number, and longer"
    )
    files.write_text(tmp_path / "out.txt", "new")
    assert (tmp_path / "out.txt").read_text() == "new"
    left = [f"here-example-org.{os.getppid()}", f"there.{finished.pid}", f"there.{os.getppid()}"]
    assert sorted(os.listdir(tmp_path)) == sorted([*(f".out.txt.{name}.tmp" for name in left), "out.txt"])


def test_the_content_is_on_the_disk_before_the_rename_and_the_rename_before_the_end(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor):
        status = os.fstat(descriptor)
        events.append("folder synced" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes synced")
        fsync(descriptor)

    def watched_replace(source, target):
        events.append("renamed")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    files.write_atomically(tmp_path / "out.txt", [b"new", b" content"])
    assert events == ["11 bytes synced", "renamed", "folder synced"]


def test_folders_are_made_with_their_parents_and_a_file_in_the_way_is_a_user_error(tmp_path):
    assert files.make_folder(tmp_path / "a" / "b").is_dir()
    assert files.make_folder(tmp_path / "a" / "b").is_dir(), "made already"
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file: cannot be made a folder"):
        files.make_folder(tmp_path / "file")


def test_hashes_of_parts_depend_on_where_the_parts_end():
    hashes = {files.sha256(*parts) for parts in [("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ()]}
    assert len(hashes) == 6
    assert files.sha256("é", b"x") == files.sha256("é".encode(), "x"), "text counts as its UTF-8 bytes"


def test_the_hash_of_a_file_is_the_plain_sha256_of_its_bytes(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "file").write_bytes(content)
    assert files.sha256_of_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_what_an_error_quotes_cannot_break_the_line_or_command_the_terminal():
    message = str(UserError("x.csv: line 1: \x1b[2Jlabel\r\n\u202e\u2028 été 木 👨\u200d👩 is none"))
    assert message == r"x.csv: line 1: \x1b[2Jlabel\r\n\u202e\u2028 été 木 👨" + "\u200d👩 is none"
    long = str(UserError("x.csv: " + "a" * 100_000 + "; the cure"))
    assert len(long) < 2000 and long.startswith("x.csv: aaa") and long.endswith("a; the cure")


@pytest.mark.parametrize("fails", ["fsync of the folder", "tidying up"])
def test_a_disk_that_refuses_at_the_end_or_forbids_to_tidy_up_is_one_line_too(tmp_path, monkeypatch, fails):
    def refused(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    if fails == "tidying up":
        monkeypatch.setattr(os, "fsync", refused)
        monkeypatch.setattr(os, "unlink", refused)
    else:
        monkeypatch.setattr(files, "sync_folder", refused)
    with pytest.raises(DiskError, match="out.txt: cannot be written: Read-only file system; choose a folder"):
        files.write_text(tmp_path / "out.txt", "new")


def test_deleting_what_is_not_there_is_nothing_and_what_may_not_be_is_one_line(tmp_path):
    files.remove(tmp_path / "none")
    with pytest.raises(DiskError, match="cannot be deleted"):
        files.remove(tmp_path)


def test_a_leftover_that_may_not_be_removed_hinders_nobody(tmp_path, monkeypatch):
    """In a folder that all may write to, it may be another user's."""
    finished = subprocess.Popen([sys.executable, "-c", ""])
    finished.wait()
    leftover = tmp_path / f".out.txt.{files.platform.node().replace('.', '-')}.{finished.pid}.tmp"
    leftover.write_text("a part")

    def refused(path, **_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "unlink", refused)
    files.write_text(tmp_path / "out.txt", "new")
    assert (tmp_path / "out.txt").read_text() == "new" and leftover.exists()


def test_a_link_leads_out_of_its_folder_but_not_within_the_hubs_cache(tmp_path):
    repository = tmp_path / "models--x--y"
    snapshot = repository / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for file in (snapshot / "own", repository / "blobs" / "hash", repository / "other"):
        file.touch()
    targets = {"in": "own", "loop": "loop", "blob": "../../blobs/hash", "out": "../../other", "gone": "/none"}
    for name, target in targets.items():
        (snapshot / name).symlink_to(target)
    (tmp_path / "link").symlink_to(snapshot, target_is_directory=True)
    for folder in (snapshot, tmp_path / "link"):
        assert {path.name for path in folder.iterdir() if files.leads_out(path)} == {"out", "gone"}


def test_a_pipe_or_device_is_refused_and_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(UserError, match="is a pipe or a device, not a file; write it to a file first"):
            files.open_file(path)


def test_what_fails_while_it_is_read_is_one_line(tmp_path):
    """The memory of a process is a regular file, and its first byte cannot be read."""
    for read in (files.read_text, files.sha256_of_file, open_text):
        with pytest.raises(UserError, match="/proc/self/mem: cannot be read: Input/output error"):
            read("/proc/self/mem")


def test_a_file_that_cannot_replace_another_is_one_line(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").write_text("x")
    with pytest.raises(DiskError, match="folder: cannot be replaced: Is a directory"):
        files.replace_file(tmp_path / "a", tmp_path / "folder")
    files.replace_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "x" and not (tmp_path / "a").exists()
