"""data/json_lines.py: examples of JSON lines, each checked once and read from the file when it is asked for."""

import json
import shlex
import subprocess
import sys
import time

import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.data.json_lines import json_rows
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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("indent", [None, 1])
def test_the_cure_for_an_array_makes_json_lines_of_it(tmp_path, indent, encoding):
    values = [{"a": "é\n"}, {"a": "b"}]
    tmp_path = tmp_path / "my files"
    tmp_path.mkdir()
    with pytest.raises(UserError) as error:
        rows(tmp_path, json.dumps(values, indent=indent), encoding=encoding)
    cure = str(error.value).split("for example by: ")[1].replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(cure, shell=True, cwd=tmp_path, check=True)
    assert json.loads((tmp_path / "x.jsonl").read_text(encoding)) == values, "the user's file is as it was"
    assert [row for _, row in json_rows(tmp_path / "x-lines.jsonl", lambda line, row: (line, row))] == values


@pytest.mark.parametrize("text", ["[1, 2]", '[\n "a",\n "b"\n]', '\n[["a", "b"]]', "[]"])
def test_an_array_of_other_things_is_refused_without_a_command(tmp_path, text):
    with pytest.raises(UserError, match="x.jsonl: is one JSON array, and not of objects; JSON lines are needed"):
        rows(tmp_path, text)


def test_several_arrays_are_refused_without_a_command(tmp_path):
    with pytest.raises(UserError, match="x.jsonl: holds arrays; JSON lines are needed, each an object"):
        rows(tmp_path, '[{"a": 1}]\n[{"a": 2}]\n')


def test_the_cure_for_an_array_does_not_write_to_the_file_that_it_reads(tmp_path):
    (tmp_path / "lines.jsonl").write_text('[{"a": 1}]')
    with pytest.raises(UserError, match=r"/lines.jsonl > \S+/lines-lines.jsonl$"):
        json_rows(tmp_path / "lines.jsonl", lambda line, row: row)
