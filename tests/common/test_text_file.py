"""common/text_file.py: text of any encoding read as UTF-8, by its bytes; and what is no text refused with its line."""

import os

import pytest

from kd_scratch.common.errors import DiskError, UserError
from kd_scratch.common.text_file import open_text

FRENCH = "un café à Noël\nl’été, déjà\r\nfin\n"
RUSSIAN = "text,label\nпривет мир,да\nкак дела,нет\n"


def opened(tmp_path, raw: bytes, encoding: str = "auto"):
    """The open file of those bytes, and what was said about it."""
    path = tmp_path / "x.txt"
    path.write_bytes(raw)
    notes = []
    return open_text(path, encoding, notes.append), [note.removeprefix(f"{path}: ") for note in notes]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_an_encoding_is_found_in_the_bytes_and_told_where_it_is_not_utf_8(tmp_path, encoding):
    file, notes = opened(tmp_path, FRENCH.encode(encoding))
    assert file.text() == FRENCH and "".join(line for _, line in file.lines()) == FRENCH
    named = encoding.removesuffix("-sig").removesuffix("-le").removesuffix("-be")
    assert len(notes) == (named != "utf-8") and named in "".join(notes).lower() + "utf-8"


def test_a_mark_of_utf_16_decides_whatever_follows_and_both_orders_have_one(tmp_path):
    for mark, encoding in ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        file, _ = opened(tmp_path, mark + "你好,x\n".encode(encoding))
        assert file.text() == "你好,x\n"


WESTERN = ["„Viel Spaß“, sagt er\n", "«\xa0un café\xa0» et voilà…»\n", "schön muß… Gruß–\n", "l’été au CAFÉ\xa0»\n"]


@pytest.mark.parametrize("text", WESTERN)
def test_letters_of_cp1252_in_front_of_its_punctuation_are_not_taken_for_utf_8(tmp_path, text):
    file, notes = opened(tmp_path, text.encode("cp1252"))
    assert file.text() == text and "read as cp1252" in notes[0]


def test_bytes_that_in_cp1252_are_quotes_or_signs_within_a_word_are_those_of_another_encoding(tmp_path):
    with pytest.raises(UserError, match="nor is the file plausible in cp1252"):
        opened(tmp_path, "l'année passée\n".encode("cp850"))


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "gbk", "shift_jis", "iso8859-7", "cp1250", "big5"])
def test_other_encodings_are_no_cp1252_but_read_when_they_are_named(tmp_path, encoding):
    text = {"gbk": "a,你好世界\n", "big5": "a,你好世界\n", "shift_jis": "a,こんにちは\n",
            "iso8859-7": "a,καλημέρα κόσμε\n", "cp1250": "a,będą łączyć, wżdy\n"}.get(encoding, RUSSIAN)  # fmt: skip
    with pytest.raises(UserError, match=r"x\.txt: line \d: byte 0x\w\w is not UTF-8, .*--encoding cp1251"):
        opened(tmp_path, text.encode(encoding))
    file, notes = opened(tmp_path, text.encode(encoding), encoding)
    assert file.text() == text and notes == []


REFUSED = {
    "empty": (b"", "the file is empty"),
    "NUL": (b"ok\nna\0me\n", "line 2: NUL character"),
    "zeros": (bytes(1000), "line 1: NUL character"),
    "mostly UTF-8": (
        "un café\n".encode() * 2 + b"un caf\xe9\n",
        "line 3: byte 0xe9 is not UTF-8, though others are: mend that",
    ),
    "Greek letters and a stray byte": (
        "TNF-α is up\n".encode() + b"caf\xe9\n",
        "line 2: byte 0xe9 is not UTF-8, though",
    ),
    "UTF-8, cut": ("aé\n木".encode()[:-1], "line 2: byte 0xe6 is not UTF-8, though others are"),
    "bytes without meaning in cp1252": (b"caf\xe9\n\x81\n", "line 1: byte 0xe9 is not UTF-8, nor is the file"),
    "control characters": (b"caf\xe9\n\x01\n", "line 1: byte 0xe9 is not UTF-8"),
    "UTF-16, cut": ("a\nb".encode("utf-16")[:-1], "line 2: is not utf-16-le there; was the file cut?"),
    "UTF-16, half a character": (b"\xff\xfea\0\n\0\x00\xd8b\0", "line 2: is not utf-16-le there"),
    "UTF-16, NUL": (b"\xff\xfea\0\n\0\0\0", "line 2: NUL character"),
    "Excel": (b"PK\3\4\0\0", "is a ZIP archive or an Excel workbook; save the sheet as CSV first"),
    "gzip": (b"\x1f\x8b\x08", "is compressed with gzip; unpack it first"),
}


@pytest.mark.parametrize("raw, message", REFUSED.values(), ids=REFUSED)
def test_what_is_no_text_is_refused_with_its_line(tmp_path, raw, message):
    with pytest.raises(UserError) as error:
        opened(tmp_path, raw)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_named_encoding_that_is_wrong_is_refused_with_the_line(tmp_path):
    with pytest.raises(UserError, match="line 2: is not ascii there"):
        opened(tmp_path, "a\né\n".encode(), "ascii")
    with pytest.raises(UserError, match="line 2: byte 0xe9 is not UTF-8"):
        opened(tmp_path, b"a\ncaf\xe9\n", "utf-8")
    with pytest.raises(UserError, match="line 1: NUL character; this is not text in cp1252"):
        opened(tmp_path, FRENCH.encode("utf-16"), "cp1252")


def test_the_characters_that_are_read_as_cp1252_are_counted_and_one_is_shown(tmp_path):
    _, [note] = opened(tmp_path, FRENCH.encode("cp1252"))
    assert note.startswith("is not UTF-8, read as cp1252 (Western European): 8 characters such as in 'café'")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_a_text_larger_than_what_is_read_at_once_is_whole_and_its_places_are_right(tmp_path, encoding):
    text = "".join(f"ligne {i} été\n" for i in range(120_000))
    file, _ = opened(tmp_path, text.encode(encoding))
    places = list(file.lines())
    assert "".join(line for _, line in places) == text
    for i in (0, 1, 77_777, 119_998):
        assert file.part(places[i][0], places[i + 1][0]) == places[i][1], "in any order"
    os.unlink(file.path)
    assert len(list(file.lines())) == 120_000, "the open file outlives its name"


def test_two_readings_of_one_file_do_not_disturb_each_other(tmp_path):
    file, _ = opened(tmp_path, b"".join(b"%d\n" % i for i in range(300_000)))
    one, two = file.lines(), file.lines()
    for i in range(0, 250_000):
        assert next(one)[1] == f"{i}\n"
        if i % 50_000 == 0:
            assert file.part(0, 2) == "0\n" and next(two)[1] == f"{i // 50_000}\n"


def test_a_disk_without_room_for_the_copy_is_one_line(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(DiskError, match=r"no copy of .*x\.txt in UTF-8: No space left on device; make room"):
        opened(tmp_path, FRENCH.encode("utf-16"))


@pytest.mark.parametrize(
    ("encoding", "first", "bad"), [("auto", "café", b"\xff"), ("utf-8", "café", b"\xff"), ("cp1251", "жук", b"\x98")]
)
def test_a_lenient_file_keeps_what_is_no_text_as_surrogates(encoding, first, bad, tmp_path):
    written = first.encode("utf-8" if encoding == "auto" else encoding)
    (tmp_path / "a.txt").write_bytes(written + b"\na" + bad + b"\0b\nlast\n")
    with pytest.raises(UserError):
        open_text(tmp_path / "a.txt", encoding)
    file = open_text(tmp_path / "a.txt", encoding, lenient=True)
    lines = list(file.lines())
    assert [text for _, text in lines] == [f"{first}\n", f"a{chr(0xDC00 + bad[0])}\0b\n", "last\n"]
    assert file.part(lines[2][0], file.end()) == "last\n", "places are those of bytes"
