"""Data files as they come: text of any encoding, read as UTF-8. (The files of a model are read with files.read_text.)

Which encoding a file has is found in its bytes, in this order: a mark at the beginning; zeros in every other
byte (UTF-16); all of it UTF-8; all of it plausible as cp1252, what older programs write in Western Europe
and America.
"""

import codecs
import io
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from kd_scratch.common.console import Say, say
from kd_scratch.common.errors import DiskError, UserError, remedy
from kd_scratch.common.files import json_value, open_file, reading

AUTO = "auto"
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16's, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
#: The first bytes of files that are often taken for text -> what such a file is, and what to do.
NO_TEXT = {
    b"PK\3\4": "is a ZIP archive or an Excel workbook; save the sheet as CSV first",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook; save the sheet as CSV first",
    b"\x1f\x8b": "is compressed with gzip; unpack it first: gunzip -k",
    b"PAR1": "is a Parquet file; write it as CSV or JSON lines first",
}
CHUNK = 2**20
UTF8_CHARACTER = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
#: What text in cp1252 does not hold: control characters, bytes without meaning, signs such as ³ or ‚ within a word,
#: and UTF-8, but for what begins with ß, É or a small letter: those may stand in front of “ or », as in "Spaß“".
NOT_CP1252 = re.compile(
    rb"[\0-\x08\x0e-\x19\x1c-\x1f\x7f\x81\x8d\x8f\x90\x9d]"
    rb"|[A-Za-z][\x82-\x84\x86-\x89\xa1-\xaa\xac\xae-\xb6\xb8-\xba\xbc-\xbf][A-Za-z]"
    rb"|[\xc2-\xc8\xca-\xde][\x80-\xbf]|\xe2[\x80-\xbf]{2}|\xf0[\x80-\xbf]{3}"
)
LETTERS = re.compile(rb"[^\0-\x7f\x85\x91-\x97\xa0\xab\xbb]{3,}")  # and no …, quotes, dashes, blanks

MARK = "\ufeff"  # a byte-order mark; where files were joined it also stands in front of a later line


class TextFile:
    """The text of a file, as UTF-8: in the file itself, or in an unnamed copy that vanishes with this object.

    It is open as long as this lives: a file put in its place is another. Lines end with LF, CRLF or CR.
    lenient: a byte that is no text becomes a surrogate (0xff: U+DCFF), and rows that are malformed do not end a table.
    """

    def __init__(self, path: Path, file: BinaryIO, start: int = 0, lenient: bool = False):
        self.path = path
        self.file = file
        self.start = start  # place of the first byte of text: behind a mark
        self.lenient = lenient
        self.errors = "surrogateescape" if lenient else "strict"

    def lines(self) -> Iterator[tuple[int, str]]:
        """(place of its first byte, text with its line end) of each line, one in memory at a time; at least one."""
        place = self.start
        with reading(self.path):
            raw = io.BufferedReader(_View(self.file, place), CHUNK)
            for line in io.TextIOWrapper(raw, encoding="utf-8", errors=self.errors, newline=""):
                yield place, line
                place += len(line) if line.isascii() else len(line.encode(errors=self.errors))
        if place == self.start:
            yield place, ""  # a mark and nothing else

    def first_line(self) -> str:
        """The first line that holds more than blanks, without those around it; "" where there is none."""
        return next((text.strip() for _, text in self.lines() if text.strip()), "")

    def part(self, begin: int, end: int) -> str:
        """The text between two places, of which `lines` gives the first one."""
        with reading(self.path):
            self.file.seek(begin)
            return self.file.read(end - begin).decode(errors=self.errors)

    def holds(self, character: str) -> bool:
        """Whether a character of ASCII occurs in it."""
        return any(character.encode() in chunk for chunk in chunks(self.file))

    def end(self) -> int:
        """The place behind the last byte."""
        return self.file.seek(0, os.SEEK_END)

    def text(self) -> str:
        """All of it."""
        return self.part(self.start, self.end())

    def json(self):
        """The value in a file of JSON; UserError with the place where it is not JSON."""
        return json_value(self.text(), str(self.path))

    def __del__(self):
        self.file.close()


class _View(io.RawIOBase):
    """A file from a place on, read without regard to who else moves in it."""

    def __init__(self, file: BinaryIO, place: int):
        self.file = file
        self.place = place

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        self.file.seek(self.place)
        count = self.file.readinto(buffer)
        self.place += count
        return count


def open_text(path: str | Path, encoding: str = AUTO, say: Say = say, lenient: bool = False) -> TextFile:
    """A file as UTF-8, whatever its encoding; it is read once for that, and never whole in memory.

    encoding: the name of one that Python knows, or "auto". say: what takes the line about a file that is no
    UTF-8. lenient: see TextFile; else it raises UserError with the line where it is no text, or not in that encoding.
    """
    path = Path(path)
    file = open_file(path)
    with reading(path):
        beginning = file.read(4096)
        if not beginning:
            raise UserError(f"{path}: the file is empty")
        for first, message in NO_TEXT.items():
            if beginning.startswith(first):
                raise UserError(f"{path}: {message}")
        mark = next((mark for mark in MARKS if beginning.startswith(mark)), b"")
        utf8 = is_utf8(file)
        if encoding == AUTO:
            encoding = MARKS.get(mark) or unmarked_utf16(beginning) or ("utf-8" if utf8 else cp1252(file, path, say))
            if encoding.startswith("utf-") and encoding != "utf-8":
                say(f"{path}: read as {encoding[:6].upper()}")
        if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
            if not utf8 and not lenient:
                refuse(file, path)
            return TextFile(path, file, len(mark) if MARKS.get(mark) == "utf-8" else 0, lenient)
        file.seek(0)
        return TextFile(path, as_utf8(file, path, encoding, lenient), lenient=lenient)


def unmarked_utf16(beginning: bytes) -> str | None:
    """UTF-16 without its mark: of Western text every other byte is 0, and no byte between them."""
    even, odd = beginning[0::2].count(0), beginning[1::2].count(0)
    if max(even, odd) < 0.3 * len(beginning) / 2 or min(even, odd):
        return None
    return "utf-16-le" if odd else "utf-16-be"


def cp1252(file: BinaryIO, path: Path, say: Say) -> str:
    """ "cp1252" where that is plausible for a file that is not UTF-8, else "utf-8", as which it is then refused."""
    count, sample = western(file)
    if not count:
        return "utf-8"
    say(
        f"{path}: is not UTF-8, read as cp1252 (Western European): {count:,} characters such as in {sample!r}; if that "
        "looks wrong, name its encoding with --encoding"
    )
    return "cp1252"


def chunks(file: BinaryIO) -> Iterator[bytes]:
    """The content of a file in parts, from the beginning; the last is empty."""
    file.seek(0)
    while chunk := file.read(CHUNK):
        yield chunk
    yield b""


def is_utf8(file: BinaryIO) -> bool:
    """Whether all of a file is text in UTF-8, without NUL characters."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for chunk in chunks(file):
            decoder.decode(chunk, final=not chunk)
            if b"\0" in chunk:
                return False
    except UnicodeDecodeError:
        return False
    return True


def western(file: BinaryIO) -> tuple[int, str]:
    """How many bytes of a file, that is no UTF-8, are beyond ASCII, and the first of them in cp1252 among its
    neighbours; 0 and "" where that is not plausible.

    It is where NOT_CP1252 finds nothing, where such bytes are few beside letters, and where letters stand alone:
    in Cyrillic, Greek or Chinese they follow one another.
    """
    high = letters = together = 0
    sample = ""
    for chunk in chunks(file):
        if NOT_CP1252.search(chunk):
            return 0, ""
        runs = re.findall(rb"[\x80-\xff]+", chunk)
        high += sum(map(len, runs))
        together += sum(map(len, LETTERS.findall(chunk)))
        letters += len(re.findall(rb"[A-Za-z]", chunk))
        if runs and not sample:
            sample = re.search(rb"[^\s,;|\"]{0,12}[\x80-\xff][^\s,;|\"]{0,12}", chunk)[0].decode("cp1252")
    plausible = high <= letters and 10 * together <= high
    return (high, sample) if plausible else (0, "")


def refuse(file: BinaryIO, path: Path) -> None:
    """The UserError for a file that is not UTF-8, or holds a NUL character, with its line."""
    some = any(map(UTF8_CHARACTER.search, chunks(file)))
    file.seek(0)
    for i, line in enumerate(file, 1):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            why = "though others are: mend that line" if some else "nor is the file plausible in cp1252: convert it"
            raise UserError(
                f"{path}: line {i}: byte {line[error.start]:#04x} is not UTF-8, {why}, or name the encoding of the "
                "file, such as --encoding cp1251"
            ) from None
        if b"\0" in line:
            raise UserError(f"{path}: line {i}: NUL character; this is not a text file")


def as_utf8(file: BinaryIO, path: Path, encoding: str, lenient: bool = False) -> BinaryIO:
    """An unnamed copy in UTF-8, in the folder for temporary files, of a file in another encoding, without its mark.

    lenient: see TextFile. Raises UserError with the line where it is not in that encoding, DiskError where there is no
    room.
    """
    errors = "surrogateescape" if lenient else "strict"
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    line = 1
    try:
        with temporary_copy(path) as copy:
            for i, chunk in enumerate(chunks(file)):
                text = decoder.decode(chunk, final=not chunk)
                if "\0" in text and not lenient:
                    line += text.count("\n", 0, text.index("\0"))
                    raise UserError(f"{path}: line {line}: NUL character; this is not text in {encoding}")
                copy.write((text.removeprefix("\ufeff") if i == 0 else text).encode(errors=errors))
                line += text.count("\n")
            copy.flush()
    except UnicodeError as error:
        if isinstance(error, UnicodeDecodeError):
            line += error.object[: error.start].decode(encoding, "ignore").count("\n")
        raise UserError(
            f"{path}: line {line}: is not {encoding} there; was the file cut? Mend that line, or name the file's "
            "encoding with --encoding"
        ) from None
    return copy


@contextmanager
def temporary_copy(path: Path) -> Iterator[BinaryIO]:
    """A context in which an unnamed file is written, in the folder for temporary files, and stays open behind it.

    path: of what it is a copy. DiskError where there is no room.
    """
    try:
        yield tempfile.TemporaryFile()
    except OSError as error:
        what = f"no copy of {path} in UTF-8: {error.strerror}{remedy(error)}"
        raise DiskError(f"{tempfile.gettempdir()}: {what}") from None
