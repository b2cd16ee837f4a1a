"""Data files from anyone: whatever is in them, they are read correctly or refused in one line that names the place.

Each task's own tests hold its table of malformed files. Here are the tables of what may happen to any file, files of
100 MB, and thousands of mutations (20,000 with `make torture`), compared with a plain second reading.
"""

import csv
import html
import io
import itertools
import json
import os
import random
import re
import resource
import signal
import sys
import time
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kd_scratch.__main__ import main
from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.tasks import TASKS
from kd_scratch.training.examples import read_unlabelled
from tests.conftest import TORTURE

DATA = DataConfig()
AGNEWS = """"3","Shares rise, again","The ""brewery"" rose 9 percent\\after a report"
"1","Été","Two lines
in one field, and 木 😀"
"2","A final","The goalkeeper saved, \\quot;twice\\quot;"
"4","",""
"""
CSV = 'id,text,label\n1,the moon is frozen,space\n2,"shares, and ""more"" shares",money\n3,été 木,space\n'
TSV = "label\ttext\nspace\tthe moon, frozen\nmoney\tshares rose\nspace\tété 木 😀\n"
SEVERAL = (
    'text,labels\nthe moon is frozen,space;news\n"shares, and ""more"" shares",money\nété 木,\nÉté 😀, news ;space\n'
)
SEVERAL_LINES = [
    {"text": "the moon is frozen", "labels": ["space", "news"]},
    {"text": "été 木 😀", "labels": []},
    {"text": "shares rose", "labels": "money;news"},
]
CONLL = (
    "-DOCSTART- -X- -X- O\n\nAda NNP B-NP B-PER\nBerg NNP I-NP I-PER\nflew VBD B-VP O\nto TO B-PP O\n"
    "Torvia NNP B-NP B-LOC\n. . O O\n\nÉté NN B-NP O\n木 NN B-NP S-ORG\n\n"
)
CLINC = {
    "train": [["what is my balance", "balance"], ["wake me at six", "alarm"], ["été 木 😀", "alarm"]],
    "oos_train": [["who won", "oos"]],
    "val": [["set an alarm", "alarm"]],
    "oos_val": [["why is the sky blue", "oos"]],
}
SQUAD = {
    "version": "2.0",
    "data": [
        {
            "title": "Bridges",
            "paragraphs": [
                {
                    "context": "The old bridge is 90 metres long. Été 木 😀 ends here.",
                    "qas": [
                        {
                            "id": "a1",
                            "question": "How long is it?",
                            "answers": [{"text": "90 metres", "answer_start": 18}, {"text": "90", "answer_start": 18}],
                            "is_impossible": False,
                        },
                        {"id": "a2", "question": "Who built it?", "answers": [], "is_impossible": True},
                    ],
                },
                {"context": "A second one.", "qas": [{"id": "b1", "question": "Which?", "answers": [
                    {"text": "second", "answer_start": 2}]}]},
            ],
        }
    ],
}  # fmt: skip
SQUAD_LINES = [
    {"id": "a1", "question": "How long?", "context": "The bridge is 90 metres long. Été 木 😀 ends here.",
     "answers": {"text": ["90 metres", "90"], "answer_start": [14, 14]}},
    {"id": 7, "question": "Which?", "context": "A second one.", "answers": {"text": [], "answer_start": []}},
    {"id": "a3", "question": "Which?", "context": "A second one.", "answers": [{"text": "second", "answer_start": 2}]},
]  # fmt: skip
CONLL_LINES = [
    {"id": 0, "tokens": ["Ada", "Berg", "flew", "to", "Torvia", "."],
     "ner_tags": ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]},
    {"id": 1, "tokens": ["Été", "木", "😀"], "ner_tags": ["O", "S-ORG", "O"]},
    {"id": 2, "tokens": ["Torvia"], "ner_tags": ["B-LOC"]},
]  # fmt: skip


def json_lines(rows: list) -> str:
    """A file of JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


#: name -> task, split, a file of its format
FORMATS = {
    "agnews": ("agnews", "", AGNEWS),
    "csv": ("csv", "", CSV),
    "tsv": ("csv", "", TSV),
    "clinc": ("clinc", "train", json.dumps(CLINC, ensure_ascii=False)),
    "conll": ("conll", "", CONLL),
    "squad": ("squad", "", json.dumps(SQUAD, ensure_ascii=False)),
    "squad lines": ("squad", "", json_lines(SQUAD_LINES)),
    "conll lines": ("conll", "", json_lines(CONLL_LINES)),
    "several": ("labels", "", SEVERAL),
    "several lines": ("labels", "", json_lines(SEVERAL_LINES)),
}


def read(name: str, path: Path) -> list:
    """The examples of a file."""
    task, split, _ = FORMATS[name]
    return list(TASKS[task].read(path, split, DATA))


def refusal(call: Callable, path: Path) -> str:
    """What a UserError says, without the path; it must be one line of bearable length."""
    with pytest.raises(UserError) as caught:
        call()
    said = str(caught.value)
    assert str(path) in said and "\n" not in said and len(said) < len(str(path)) + 600, said
    return said.split(str(path), 1)[1].removeprefix(": ")


#: What may happen to a file of any format -> how it is changed, and what is said.
ANY_FILE = {
    "empty": (lambda raw: b"", "the file is empty"),
    "Latin-1 after UTF-8": (lambda raw: raw + b"caf\xe9", "is not UTF-8, though others are"),
    "Chinese of another encoding": (
        lambda raw: raw.decode().replace("😀", "").replace("é", "木林森").replace("É", "木").encode("gbk"),
        "is not UTF-8",
    ),
    "UTF-16, cut": (lambda raw: raw.decode().encode("utf-16")[:-1], "is not utf-16-"),
    "NUL": (lambda raw: raw.replace("É".encode(), b"\0").replace("é".encode(), b"\0"), "NUL character"),
    "zeros": (lambda raw: bytes(1000), "line 1: NUL character"),
    "cut inside a character": (lambda raw: raw[: raw.index("木".encode()) + 1], "is not UTF-8"),
    "a picture": (lambda raw: b"\x89PNG\r\n\x1a\n" + raw, "line 1: byte 0x89 is not UTF-8"),
}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("how", ANY_FILE)
def test_a_file_that_is_no_text_is_refused_with_its_line(tmp_path, name, how):
    change, fragment = ANY_FILE[how]
    path = tmp_path / "data"
    path.write_bytes(change(FORMATS[name][2].encode()))
    said = refusal(lambda: read(name, path), path)
    assert fragment in said and (how == "empty" or re.match(r"line \d+: ", said)), said


@pytest.mark.parametrize("name", FORMATS)
def test_no_file_a_folder_and_a_name_that_cannot_be_one_are_refused(tmp_path, name):
    for path, fragment in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / ("n" * 999), ""),
    ):
        assert fragment in refusal(lambda path=path: read(name, path), path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(tmp_path, name):
    path = tmp_path / "data"
    path.write_text(FORMATS[name][2], encoding="utf-8", newline="")
    plain = read(name, path)
    path.write_text(FORMATS[name][2], encoding="utf-8-sig", newline="")
    assert read(name, path) == plain
    path.write_text(FORMATS[name][2], encoding="utf-8-sig", newline="\r\n")
    found = read(name, path)
    if name == "agnews":  # a line break inside a field is part of the text, of whichever kind
        found = [replace(example, text=example.text.replace("\r\n", "\n")) for example in found]
    assert found == plain


#: format -> a malformed file -> its expected line
MALFORMED = {
    "agnews": {
        "cut inside a quote": (AGNEWS[:60], "line 1: malformed CSV: unexpected end of data"),
        "cut inside a row": (AGNEWS + '"1","a"', "line 6: 2 columns instead of the first row's 3"),
        "two delimiters": (AGNEWS.replace('","', '";"', 3), "line 1: malformed CSV"),
        "JSON": (json.dumps(CLINC), "are called 'text' and 0 columns are called 'label' among train, oos_train"),
        "half a million columns": ('"1"' + ',"x"' * 499_999, "line 1: 500,000 columns, more than"),
        "the class alone": ("1\n2\n", "line 1: 1 columns instead of 3"),
        "a quote left open before a long file": ('"1","a","b\n' + '"1","a","b"\n' * 20, "line 1: malformed CSV"),
        "a text of a million characters": (f'"1","a","{"b" * 1_000_000}"', "line 1: a text of 1,000,002 characters"),
    },
    "csv": {
        "cut inside a quote": (CSV[:60], "line 3: malformed CSV"),
        "ragged": (CSV + "4,short\n", "line 5: 2 columns instead of the header's 3"),
        "no header": (CSV.split("\n", 1)[1], "line 1: 0 columns are called 'text'"),
        "two text columns": (CSV.replace("id,", "text,"), "line 1: 2 columns are called 'text'"),
        "half a million columns in one row": (CSV + "x" + ",x" * 499_999, "line 5: 500,000 columns, more than"),
        "half a million columns in the header": ("x" + ",x" * 499_999, "line 1: 500,000 columns, more than"),
        "no label": (CSV + "4,text,\n", "line 5: the label is empty"),
    },
    "tsv": {"ragged": (TSV + "money\ta\tb\n", "line 5: 3 columns instead of the header's 2")},
    "clinc": {
        "cut": (json.dumps(CLINC)[:50], "line 1: not JSON"),
        "a list": (json.dumps([[CLINC]]), "is a JSON array of no objects"),
        "no such split": (json.dumps({"test": []}), "it has no key 'train'"),
        "an object for a list": (json.dumps(CLINC | {"train": {"a": "b"}}), "'train' is not a list"),
        "three in a pair": (json.dumps(CLINC | {"train": [["a", "b", "c"]]}), "train[0]: is not a pair"),
        "a number for a text": (json.dumps(CLINC | {"train": [["a", "b"], [1, "b"]]}), "train[1]: is not a pair"),
        "null for a label": (json.dumps(CLINC | {"train": [["a", None]]}), "train[0]: is not a pair"),
        "a string for a pair": (json.dumps(CLINC | {"train": ["ab"]}), "train[0]: is not a pair"),
        "a text of a million": (json.dumps(CLINC | {"train": [["a" * 1_000_001, "b"]]}), "train[0]: a text of 1,0"),
        "two values": (json.dumps(CLINC) + "{}", "line 1: not JSON: Extra data"),
        "half a character": (json.dumps(CLINC | {"train": [["a\ud800", "b"]]}), "not usable JSON"),
        "nested a hundred thousand deep": ('{"train":' + "[" * 100_000, "not usable JSON"),
    },
    "conll": {
        "a word alone": (CONLL + "Ada\n", "line 13: has no tag"),
        "cut inside a line": (CONLL + "Ada NNP B-N", "line 13: has 3 columns, the lines before it 4"),
        "half a million columns": (CONLL + "x " * 499_999 + "O\n", "line 13: has 500000 columns, the lines"),
        "no such tag": (CONLL + "Ada NNP B-NP X-PER\n", "line 13: tag 'X-PER' is not O"),
        "a tag without type": (CONLL + "Ada NNP B-NP B-\n", "line 13: tag 'B-' is not O"),
        "CSV": (CSV, "line 2: tag 'space' is not O"),
        "two line ends": (CONLL + "Ada O\rBerg O\n", "line 13: holds a carriage return"),
        "an endless word": ("a" * 1_000_001 + " O\n", "line 1: a text of 1,000,001 characters"),
    },
    "squad": {
        "cut": (json.dumps(SQUAD)[:90], "line 1: not JSON"),
        "a list of a number": (json.dumps([SQUAD, 7]), "[1] must be an object"),
        "a number": ("7", "it must be an object or a list"),
        "data an object": (json.dumps({"data": SQUAD}), "data must be a list"),
        "article a string": (json.dumps({"data": ["x"]}), "data[0] must be an object"),
        "no context": (json.dumps({"data": [{"paragraphs": [{"qas": [{"question": "?"}]}]}]}),
                       "data[0].paragraphs[0].qas[0].context must be a string; there is only question"),
        "a list for an id": (json.dumps(SQUAD).replace('"b1"', "[7]"), "qas[0].id must be a string or a number"),
        "true for an id": (json.dumps(SQUAD).replace('"b1"', "true"), "qas[0].id must be a string or a number"),
        "true for a place": (json.dumps(SQUAD).replace(": 18}", ": true}"), "answers[0].answer_start must be a"),
        "infinity for a place": (json.dumps(SQUAD).replace(": 18}", ": 1e999}"), "answers[0].answer_start must be a"),
        "a place of 5,000 digits": (json.dumps(SQUAD).replace(": 18}", f': "{"9" * 5000}"}}'), "answer_start must"),
        "levels the wrong way round": (json.dumps({"qas": [{"data": SQUAD["data"]}]}), "qas[0].question must be a"),
        "levels within themselves": ('{"data": [' * 400 + '{"question": "?"}' + "]}" * 400, "data[0].question must be"),
        "a bad JSON line": ('{"question": "?", "context": "c", "answers": []}\n{"question": "?"}\n',
                            "line 2: context must be a string; there is only question"),
        "an endless context": (json.dumps(SQUAD).replace("A second", "A " * 500_000 + "second"),
                               "data[0].paragraphs[1].context: a text of 1,00"),
    },
}  # fmt: skip


@pytest.mark.parametrize("name, how", [(name, how) for name, cases in MALFORMED.items() for how in cases])
def test_a_malformed_file_has_its_expected_line(tmp_path, name, how):
    content, expected = MALFORMED[name][how]
    path = tmp_path / "data"
    path.write_text(content, encoding="utf-8")
    assert expected in refusal(lambda: read(name, path), path)


# --- large files ---


def measured(call: Callable) -> tuple[str, float, float]:
    """What a call says when it refuses, the bytes that it took at most, and its seconds on the processor. It runs in a
    process of its own."""
    receive, send = os.pipe()
    process = os.fork()
    if not process:
        sys.settrace(None)  # of coverage, which would count here what it then loses
        try:
            before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
            try:
                said = f"read: {call()}"
            except BaseException as error:
                said = str(error) if isinstance(error, UserError) else f"not a UserError: {error!r}"
            peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * KILOBYTES
            os.write(send, json.dumps([said, peak, time.process_time() - started]).encode())
        finally:
            os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as pipe:
        said = pipe.read()
    os.waitpid(process, 0)
    return tuple(json.loads(said))


KILOBYTES = 1 if sys.platform == "darwin" else 1024  # what ru_maxrss counts
HUNDRED = 100_000_000 if TORTURE else 10_000_000
#: what -> format, the file's chunks, what is said, how many times the file's size it may take
LARGE = {
    "agnews, one line": ("agnews", lambda: [b"x" * HUNDRED], "a field of more than 1,000,000 characters", 6),
    "agnews, a quote left open": (
        "agnews", lambda: [b'"1","a","b\n', b'"1","title","text"\n' * (HUNDRED // 19)], "line 1: malformed CSV", 1),
    "csv, one line": ("csv", lambda: [b"text,label\n", b"x y " * (HUNDRED // 4)], "a field of more than 1,000,000", 6),
    "csv, an endless header": ("csv", lambda: [b"x," * (HUNDRED // 2)], "1 columns, more than 100,000", 60),
    "conll, one line": ("conll", lambda: [b"x" * HUNDRED], "line 1: has no tag", 6),
    "conll, one line of words": ("conll", lambda: [b"xxxxxxx " * (HUNDRED // 8), b"O\n"], "read: 1", 60),
    "squad, one line of brackets": ("squad", lambda: [b'{"data": [', b"[]," * (HUNDRED // 3), b"1]}"], "data[0]", 60),
    "squad, one context": (
        "squad", lambda: [b'{"data": [{"paragraphs": [{"qas": [], "context": "', b"x " * (HUNDRED // 2), b'"}]}]}'],
        "a text of", 6),
    "clinc, one text": ("clinc", lambda: [b'{"train": [["', b"x " * (HUNDRED // 2), b'", "a"]]}'], "a text of", 6),
    "clinc, one string": ("clinc", lambda: [b'"', b"x" * HUNDRED, b'"'], "a field of more than 1,000,000", 6),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("what", LARGE)
def test_a_hundred_megabytes_on_one_line_take_bounded_time_and_memory(tmp_path, what):
    name, chunks, expected, times = LARGE[what]
    path = tmp_path / "data"
    with open(path, "wb") as file:
        file.writelines(chunks())
    said, peak, seconds = measured(lambda: len(read(name, path)))
    assert expected in said, said[:300]
    assert peak < times * HUNDRED + 50e6 and seconds < 60, (peak / HUNDRED, seconds)


def test_a_hundred_megabytes_on_one_line_without_labels(tmp_path):
    path = tmp_path / "news.txt"
    path.write_bytes(b"x " * (HUNDRED // 2))
    said, peak, _ = measured(lambda: len(read_unlabelled(TASKS["agnews"], path, DataConfig(), "--unlabelled news.txt")))
    assert "line 1: a text of" in said and peak < 6 * HUNDRED


# --- mutations ---

BITS = [b"", b"\0", b"\xff", b"\xef\xbb\xbf", b'"', b'""', b",", b"\t", b"\n", b"\r", b"\r\n", b"\n\n", b"{", b"}",
        b"[", b"]", b"9" * 30, b"-1", b"null", b"true", b"NaN", b"1e999", b"\\", b"\\u0000", b"\\ud800", b" ",
        b"-DOCSTART-", b" O\n", b"I-PER", "\u2028".encode(), "\u0301".encode(), b"\xc2\x85", b"\x0c", b"\x1c",
        b"\xed\xa0\x80"]  # fmt: skip
ODD = [None, True, 0, -1, 1.5, 2**70, "", "x", "\0", "é", [], [[]], {}, {"a": 1}, ["a", "b"], "a" * 300]


def changed_bytes(rng: random.Random, raw: bytes) -> bytes:
    """A file with a few edits."""
    content = bytearray(raw)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        place = rng.randrange(len(content) + 1)
        length = rng.choice([1, 1, 2, 5, 30])
        edit = rng.choice(["flip", "cut", "insert", "replace", "repeat", "move", "end"])
        if edit == "flip" and place < len(content):
            content[place] ^= 1 << rng.randrange(8)
        elif edit == "cut":
            del content[place : place + length]
        elif edit == "insert":
            content[place:place] = rng.choice(BITS)
        elif edit == "replace":
            content[place : place + length] = rng.choice(BITS)
        elif edit == "repeat":
            content[place:place] = content[place : place + rng.choice([1, 10, 100])] * rng.choice([1, 2, 50])
        elif edit == "move":
            part = content[place : place + length]
            del content[place : place + length]
            other = rng.randrange(len(content) + 1)
            content[other:other] = part
        elif edit == "end" and rng.random() < 0.3:
            del content[place:]
    return bytes(content)


def changed_value(rng: random.Random, value):
    """A JSON value in which something has been replaced, removed, doubled, renamed or wrapped."""
    if not isinstance(value, dict | list) or not value or rng.random() < 0.15:
        return rng.choice([*ODD, [value], {"data": value}])
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key, edit = rng.choice(keys), rng.random()
    result = dict(value) if isinstance(value, dict) else list(value)
    if edit < 0.7:
        result[key] = changed_value(rng, value[key])
    elif edit < 0.8:
        del result[key]
    elif isinstance(result, list):
        result.insert(key, result[rng.choice(keys)])
    else:
        result[rng.choice([*keys, "x", ""])] = result.pop(key)
    return result


def mutation(rng: random.Random, name: str) -> bytes:
    """A mutated file of a format."""
    text = FORMATS[name][2]
    if name in ("clinc", "squad") and rng.random() < 0.5:
        value = json.loads(text)
        for _ in range(rng.choice([1, 1, 2])):
            value = changed_value(rng, value)
        return json.dumps(value, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if name.endswith(" lines") and rng.random() < 0.5:
        rows = list(map(json.loads, text.splitlines()))
        rows[rng.randrange(len(rows))] = changed_value(rng, rng.choice(rows))
        return json_lines(rows).encode("utf-8", "surrogatepass")
    return changed_bytes(rng, text.encode())


def plainly(name: str, raw: bytes) -> list:
    """What a second, plain reading finds in a file that was not refused: labels and texts, or words."""
    text = decoded(raw)
    if name == "clinc":
        value = json.loads(text)
        return [(label, text) for text, label in (value[0] if isinstance(value, list) else value)["train"]]
    if name == "squad":
        return list(plain_questions(json.loads(text), ["", "data", "paragraphs", "qas"], None))
    if name.endswith(" lines"):
        values = [json.loads(line) for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
        if name == "squad lines":
            return [question for value in values for question in plain_questions(value, [], None)]
        if name == "several lines":
            return [(plain_labels(value["labels"]), value["text"]) for value in values]
        sentences = [next(value[key] for key in ("text", "tokens", "words") if key in value) for value in values]
        return [tuple(words) for words in sentences if words]
    sentences, words = [], []
    for line in [*text.split("\n" if "\n" in text else "\r"), ""]:
        line = re.sub(rf"^ *\ufeff*(?=[^ \t])|[{UNSEEN}]*$", "", line).strip(" ")
        cells = line.split("\t" if "\t" in line else " ")
        if not "".join(cells) or re.match(r"\W{0,4}DOCSTART\W{0,4}([\s,;]|$)", line, re.I):
            sentences += [tuple(words)] if words else []
            words = []
        else:
            words.append(cells[0].strip(" "))
    return sentences


UNSEEN = r"\s\x00-\x1f\x7f-\xa0\u2028\ufeff"  # of BITS, and what the flip of a bit may make


def plain_questions(value, levels: list[str], context: str | None):
    """Question, context and answers of each, from whatever levels there are."""
    if isinstance(value, list):
        for item in value:
            yield from plain_questions(item, levels, context)
        return
    context = value.get("context", context)
    for depth, key in enumerate(levels, 1):
        if key in value:
            yield from plain_questions(value[key], levels[depth:], context)
            return
    answers = value.get("answers") or []
    if isinstance(answers, dict) and isinstance(answers["text"], list):
        answers = [text or "" for text in answers["text"]]
    answers = [a if isinstance(a, str) else a["text"] or "" for a in ([answers], answers)[isinstance(answers, list)]]
    yield value["question"], context, tuple(sorted(plain_answer(a) for a in answers if a.strip()))


def plain_labels(labels) -> tuple[str, ...]:
    """Each label once, sorted, from a list or from a text with semicolons."""
    parts = labels if isinstance(labels, list) else [labels] if isinstance(labels, bool) else str(labels).split(";")
    names = {(json.dumps(part) if isinstance(part, bool) else str(part)).strip() for part in parts}
    return tuple(sorted(names - {""}))


def plain_answer(text: str) -> str:
    """An answer without what the reader may have repaired."""
    return html.unescape(unicodedata.normalize("NFC", text)).strip()


def decoded(raw: bytes) -> str:
    """The text of a file that was not refused."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("cp1252")


def table_readings(name: str, raw: bytes) -> list[list]:
    """Labels and texts of a table, read with each delimiter, with and without quotes and blanks behind delimiters.

    Which of these readings is the right one is the matter of tests/data/test_tables.py; a mixture of them never is.
    """
    readings = []
    for delimiter, quoting, blanks in itertools.product("\t,;|", (csv.QUOTE_MINIMAL, csv.QUOTE_NONE), (False, True)):
        options = {"delimiter": delimiter, "quoting": quoting, "skipinitialspace": blanks}
        rows = [row for row in csv.reader(io.StringIO(decoded(raw), newline=""), **options) if "".join(row).strip()]
        try:
            found = agnews_reading(rows) if name == "agnews" else csv_reading(rows)
            readings.append([(plain_labels(label), text) for label, text in found] if name == "several" else found)
        except (LookupError, ValueError):
            continue
    return readings


def agnews_reading(rows: list[list[str]]) -> list:
    rows = [row for row in rows if row != rows[0]] if re.search("[a-z]", rows[0][0]) else rows
    lowest = 0 if any(row[0].strip() == "0" for row in rows) else 1
    labels = ("World", "Sports", "Business", "Sci/Tech")
    return [(labels[int(row[0]) - lowest], " ".join(row[1:3]).replace("\\", " ").strip()) for row in rows]


def csv_reading(rows: list[list[str]]) -> list:
    names = [name.strip().casefold() for name in rows[0]]
    at, label_at = names.index("text"), names.index("label" if "label" in names else "labels")
    return [(row[label_at].strip(), row[at]) for row in rows[1:] if row != rows[0]]


def found(name: str, examples: list) -> list:
    """The same of what our reader has made."""
    if name.startswith("squad"):
        assert len({e.id for e in examples}) == len(examples)
        return [(e.question, e.context, tuple(sorted(map(plain_answer, e.answers)))) for e in examples]
    return [e.words for e in examples] if name.startswith("conll") else [(e.label, e.text) for e in examples]


PLACE = re.compile(
    r"line \d+: |\w*\[\d+\]|is not (SQuAD|CLINC)|is a JSON array of no objects|the file is empty|not usable JSON|"
    r"holds no |data must be"
)


def too_long(number, frame):
    raise TimeoutError("reading a small file takes more than ten seconds")


@pytest.mark.parametrize("name", FORMATS)
def test_mutated_files_are_read_correctly_or_refused_with_their_place(tmp_path, tokenizer, name):
    rng, path, task = random.Random(name), tmp_path / "data", TASKS[FORMATS[name][0]]
    verdicts = {"read": 0, "refused": 0}
    signal.signal(signal.SIGALRM, too_long)
    for number in range(20_000 if TORTURE else 700):
        raw = mutation(rng, name)
        path.write_bytes(raw)
        signal.alarm(10)
        try:
            examples = read(name, path)
        except UserError as error:
            said = str(error)
            assert said.startswith(f"{path}: ") and "\n" not in said and len(said) < len(str(path)) + 600, (number, raw)
            assert PLACE.match(said.removeprefix(f"{path}: ")), (number, said)
            verdicts["refused"] += 1
            continue
        finally:
            signal.alarm(0)
        if name in ("agnews", "csv", "tsv", "several"):
            assert found(name, examples) in table_readings(name, raw), (number, raw)
        else:
            assert found(name, examples) == plainly(name, raw), (number, raw)
        verdicts["read"] += 1
        examples, _ = task.trainable(examples)
        if task.multi_label and not any(example.label for example in examples):
            continue  # which label_list refuses
        if examples and number % 5 == 0:  # and what was read can be worked with
            labels = task.label_list(examples)
            if task.head != "sequence" or labels:
                features = task.featurize(examples, tokenizer, labels, 24, DataConfig(question_length=8))
                assert features.starts[-1] == len(features.tokens) and features.lengths.max() <= 24
    assert min(verdicts.values()) > 20, verdicts


# --- through the command line ---


@pytest.mark.parametrize("name", FORMATS)
def test_train_check_refuses_a_bad_file_with_one_line_and_leaves_nothing(tmp_path, capsys, name):
    task, split, text = FORMATS[name]
    (tmp_path / "good").write_text(text, encoding="utf-8")
    for how, change in (("cut", text.encode()[:-40]), ("empty", b""), ("binary", bytes(range(256)) * 40)):
        (tmp_path / "bad").write_bytes(change)
        argv = f"train --task {task} --model tiny-student --vocab-size 200 --max-length 24 --check --device cpu --train"
        argv = [*argv.split(), tmp_path / "bad", "--dev", tmp_path / "good", "--output", tmp_path / "out"]
        status = main([str(word) for word in argv])
        said = capsys.readouterr().err.strip()
        if how == "cut" and name in ("conll", "csv", "tsv", "agnews", "several") and status == 0:
            continue  # cut at the end of a line: a shorter file
        assert status == 2 and said.startswith("error: ") and said.count("\n") == 0 and "Traceback" not in said, how
        assert not (tmp_path / "out").exists()
