"""data/json_lines.py: examples of JSON lines, each checked once and read from the file when it is asked for."""

import errno
import json
import os
import tempfile
import time

import pytest

from kd_scratch.common.errors import DiskError, UserError
from kd_scratch.data.json_lines import json_rows, open_rows
from kd_scratch.data.rows import FileRows


def rows(tmp_path, text: str, make=lambda line, row: (line, row), encoding="utf-8"):
    path = tmp_path / "x.jsonl"
    path.write_text(text, encoding=encoding)
    return json_rows(path, make)


def test_objects_are_read_when_asked_for_and_blank_lines_are_none(tmp_path):
    found = rows(tmp_path, '\ufeff{"a": "é"}\r\n\n  {"a": "\\u2028\u2028"}\n{"a": [1, {"b": null}]}')
    assert isinstance(found, FileRows) and len(found) == 3
    assert found[2] == (4, {"a": [1, {"b": None}]}) and found[0] == (1, {"a": "é"})
    assert found[1] == (3, {"a": "\u2028\u2028"}), "which ends no line"


def test_a_key_that_is_twice_among_many_is_found_in_moments(tmp_path):
    keys, start = ", ".join(f'"{i}": 1' for i in [*range(50_000), 49_999]), time.process_time()
    with pytest.raises(UserError, match="the key '49999' is there twice"):
        rows(tmp_path, "{" + keys + "}\n")
    assert time.process_time() - start < 1


def test_an_object_that_is_no_example_is_left_out_and_a_bad_one_found_on_opening(tmp_path):
    found = rows(tmp_path, '{"a":2}\r{"a":1}\r\n{"a":3}\n', lambda line, row: row["a"] if row["a"] > 1 else None)
    assert list(found) == [2, 3]

    def make(line, row):
        raise UserError(f"line {line}: bad")

    with pytest.raises(UserError, match="line 1: bad"):
        rows(tmp_path, '{"a":1}\n', make)


@pytest.mark.parametrize(
    "line, message",
    [
        ("[1]", "line 2: is not an object"),
        ("5", "line 2: is not an object"),
        ('"x"', "line 2: is not an object"),
        ('{"a": 1', "line 2: not JSON: .*each line must hold one whole object"),
        ('{"a": 1} {"a": 2}', "line 2: not JSON: Extra data"),
        ("{'a': 1}", "line 2: not JSON"),
        ('{"a": "\\ud800"}', "line 2: not usable JSON"),
        ('{"a": 1, "a": 2}', "line 2: not usable JSON: the key 'a' is there twice"),
        ('{"a": ' + "9" * 5000 + "}", "line 2: not usable JSON"),
        ('{"a": ' + "[" * 100_000 + "}", "line 2: not usable JSON"),
        ('{"a": {"b": 1, "b": 2}}', "line 2: not usable JSON: the key 'b' is there twice"),
    ],
)
def test_a_line_that_is_no_object_is_refused_with_its_number(tmp_path, line, message):
    with pytest.raises(UserError, match=rf"x\.jsonl: {message}") as error:
        rows(tmp_path, f'{{"a": 0}}\n{line}\n')
    assert "\n" not in str(error.value)


VALUES = [{"a": "é\n}], {[\\", "b": [{"c": {}}, '\\"']}, {"a": "\u2028\\"}, {}, {"a": 'x"y'}]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("indent", [None, 0, 1])
@pytest.mark.parametrize("is_ascii", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_an_array_of_objects_is_read_as_lines_of_them(tmp_path, indent, encoding, is_ascii, end):
    text = json.dumps(VALUES, indent=indent, ensure_ascii=is_ascii).replace("\n", end)
    path = tmp_path / "x.json"
    path.write_bytes(f"{end}{text}{end}".encode(encoding))
    said = []
    file = open_rows(path, say=said.append)
    assert list(json_rows(file, lambda line, row: row)) == VALUES
    assert f"{path}: is one JSON array of 4 objects, read one by one" in said
    assert path.read_bytes() == f"{end}{text}{end}".encode(encoding), "the file itself is as it was"


def test_the_line_of_an_object_in_an_array_is_that_in_which_it_begins(tmp_path):
    text = '[\n  {\n  "a": 1\n  },\n\n  {"a":\n 2}, {"a": 3},\n{"a": 4}]\n'
    assert list(rows(tmp_path, text)) == [(2, {"a": 1}), (6, {"a": 2}), (7, {"a": 3}), (8, {"a": 4})]
    assert list(rows(tmp_path, '[{"a": 1},{"a": 2}]')) == [(1, {"a": 1}), (2, {"a": 2})]
    with pytest.raises(UserError, match="x.jsonl: line 5: not usable JSON: the key 'a' is there twice"):
        rows(tmp_path, '[\n {\n  "a": 1\n },\n {\n  "a": 1,\n  "a": 2\n }\n]')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"a": 1}\n', "line 1: the array does not end; was the file cut?"),
        ('[{"a": 1},\n{"a"', "line 2: the array does not end; was the file cut?"),
        ('[{"a": 1},\n{"a', "line 2: a text does not end on its line; write a line end in it as \\n, or was the"),
        ('[{"a": "b\nc"}]', "line 1: a text does not end on its line; write a line end in it as \\n, or was the"),
        ('[{"a": 1},\n5,\n{"a": 2}]', "line 3: the array is to hold objects with commas between, not ',5,{'"),
        ('[{"a": 1}\n{"a": 2}]', "line 2: the array is to hold objects with commas between, not '{'"),
        ('[{"a": 1}, ["b"]]', "line 1: the array is to hold objects with commas between, not ',['"),
        ('[{"a": 1}]\n[{"a": 2}]\n', "line 2: the array is to hold objects with commas between, not '[{'"),
        ('[{"a": 1}, 5]\n', "line 1: the array is not all; there is ', 5' beside it"),
        ('[{"a": 1}]\nand more', "line 2: the array is not all; there is 'and more' beside it"),
        ('[{"a": 1]]', "line 1: not JSON: "),
        ('[{"a": 1}}', "line 1: the array is not all"),
    ],
)
def test_an_array_that_is_malformed_is_refused_with_its_line(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        rows(tmp_path, text)
    assert f"x.jsonl: {message}" in str(error.value) and "\n" not in str(error.value)


def test_a_copy_of_an_array_for_which_there_is_no_room_is_one_line(tmp_path, monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(DiskError, match="no copy of .*x.jsonl in UTF-8: No space left"):
        rows(tmp_path, '[{"a": 1}]')


@pytest.mark.parametrize("text", ["[1, 2]", '[\n "a",\n "b"\n]', '\n[["a", "b"]]', "[]"])
def test_an_array_of_other_things_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="x.jsonl: is a JSON array of no objects; give objects, as in"):
        rows(tmp_path, text)
