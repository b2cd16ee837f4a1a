"""Files of texts as people have them: each variant is read right, or refused in one line with a cure that works."""

import hashlib
import json
import re
from collections import Counter

import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.config import DataConfig
from kd_scratch.data.rows import FileRows
from kd_scratch.evaluation.inputs import open_inputs
from kd_scratch.tasks import TASKS
from kd_scratch.tasks.text_files import read_texts

ROWS = [
    ("the moon is frozen", "space"),
    ('shares, "more" shares', "money"),
    ("été à Paris", "space"),
    ("it's", "money"),
]
PLAIN = [('"foo bar', "a"), ('baz" qux', "b"), ('he said "x"', "a"), ('"whole"', "b"), ('5" pipe', "a")]
SHORT = [("a", "x"), ("b", "y")]
NEWS = [("Title one Text", "Business"), ("No x", "World")]
LINES = '{"text": "a", "label": "x"}\n\n{"text": "b", "label": "y"}\n'
BY_NUMBER = dict(text_column="1", label_column="2")


def table(rows, delimiter=",", header="text{}label\n", behind="", quote='"{}"') -> str:
    """A table of two columns, its fields in quotes or plain."""
    inner = '""' if quote == '"{}"' else '"'
    lines = [
        quote.format(text.replace('"', inner)) + delimiter + behind + quote.format(label) + "\n" for text, label in rows
    ]
    return header.format(delimiter + behind) + "".join(lines)


def tsv(rows, header="text\tlabel\n") -> str:
    return table(rows, "\t", header, quote="{}")


#: variant -> task, name of the file, content, settings, what is read (or what the refusal holds), what is told
VARIANTS = {
    "semicolons": ("csv", "x.csv", table(ROWS, ";"), {}, ROWS, "apart by semicolons"),
    "bars": ("csv", "x.csv", table(ROWS, "|"), {}, ROWS, "apart by bars"),
    "sep= and nothing": ("csv", "x.csv", "sep=\r\ntext,label\r\na,x\r\n", {}, "line 1: 0 columns", ""),
    "files joined, each with a header": ("csv", "x.csv", "text,label\na,x\ntext,label\nb,y\n", {}, SHORT,
                                         "rows that repeat the header, left out: 1"),
    "files joined, other headers": ("csv", "x.csv", 'Text,label\na,x\n\ufeff"text", LABEL\nb,y\n', {}, SHORT,
                                    "rows that repeat the header, left out: 1"),
    "files joined, no header": ("agnews", "x.csv", '"3","Title one","Text"\n\ufeff"1","No","x"\n', {}, NEWS, ""),
    "files joined, commas in a text": ("csv", "x.csv", 'a,x\n\ufeff"b, or c",y\n', BY_NUMBER,
                                       [("a", "x"), ("b, or c", "y")], ""),
    "JSON lines, joined": ("csv", "x.jsonl", LINES.replace('\n{', '\n\ufeff{'), {}, SHORT, ""),
    "AG News, joined": ("agnews", "x.csv", "Class Index,Title,Description\n3,Title one,Text\n" * 2, {}, NEWS[:1] * 2,
                        "repeat the header, left out: 1"),
    "fastText's lines": ("csv", "x.train", "__label__x  a\n\nb __label__y \n", {}, SHORT, "with __label__ are labels"),
    "fastText, two labels": ("csv", "x.txt", "__label__x __label__y a\n", {}, "choose --task labels", ""),
    "fastText, no label": ("csv", "x.txt", "__label__x a\nb\n", {}, "line 2: '__label__' is an empty list; ", ""),
    "sep=": ("csv", "x.csv", "sep=;\n" + table(ROWS, ";"), {}, ROWS, "names the delimiter: ';'"),
    "blanks and quotes behind commas": ("csv", "x.csv", table(ROWS, behind=" "), {}, ROWS, "blanks between"),
    "blanks behind commas": ("csv", "x.csv", "text, label\na, x\nb, y\n", {}, SHORT, "labels do not count: 2"),
    "TSV": ("csv", "x.tsv", tsv(PLAIN), {}, PLAIN, "quotes are characters, as usual in TSV (5 of 6 lines"),
    "TSV of another name": ("csv", "x.txt", tsv(PLAIN), {}, PLAIN, "quotes are characters"),
    "TSV, quoted": ("csv", "x.tsv", table(ROWS, "\t"), {}, ROWS, "quotes enclose fields"),
    "TSV by number": ("csv", "x.tsv", tsv(PLAIN, ""), BY_NUMBER, PLAIN, "line 1 is taken as data"),
    "CSV by number": ("csv", "x.csv", table(ROWS, header=""), BY_NUMBER, ROWS, "line 1 is taken as data"),
    "CSV by number, a header": ("csv", "x.csv", table(ROWS), BY_NUMBER, ROWS, "line 1 is taken as the header"),
    "by number, odd names": ("csv", "x.csv", "q,r\na,1\nb,0\n", BY_NUMBER, [("a", "1"), ("b", "0")], "as the header"),
    "by number, a question above numbers": ("csv", "x.csv", "How was it for all of you?,n\n" + "a,1\nb,0\n" * 3,
                                            BY_NUMBER, [("a", "1"), ("b", "0")] * 3, "as the header"),
    "by number, a rare label first": ("csv", "x.csv", "this is very good news,odd\n" + "a,x\nb,y\n" * 3, BY_NUMBER,
                                      [("this is very good news", "odd"), *SHORT * 3], "as data"),
    "by number, --header no": ("csv", "x.csv", "a,x\nb,y\n", BY_NUMBER | {"header": "no"}, SHORT, ""),
    "by number, --header yes": ("csv", "x.csv", "z,y\na,x\nb,y\n", BY_NUMBER | {"header": "yes"}, SHORT, ""),
    "number and name": ("csv", "x.csv", "q,label\na,x\nb,y\n", {"text_column": "1"}, SHORT, ""),
    "a number too high": ("csv", "x.csv", "a,x\n", {"text_column": "3", "label_column": "2"},
                          "line 1: --text-column 3: there are 2 columns", ""),
    "--header no with names": ("csv", "x.csv", "a,x\n", {"header": "no"}, "must be numbers", ""),
    "names as they are": ("csv", "x.csv", "text,label\na,1.0\nb,3.10\n", {}, [("a", "1.0"), ("b", "3.10")], ""),
    "case and blanks of names": ("csv", "x.csv", " Text,LABEL \na,x\nb,y\n", {}, SHORT, "' Text' is read as the text"),
    "sentence": ("csv", "x.csv", "sentence,label\na,x\nb,y\n", {}, SHORT, "'sentence' is read as the text column"),
    "no header": ("csv", "x.csv", table(ROWS, header=""), {}, "without a header give all as numbers)", ""),
    "empty rows": ("csv", "x.csv", "text,label\na,x\nb,y\n,\n,\n", {}, SHORT, "rows of empty cells left out: 2"),
    "empty cells behind": ("csv", "x.csv", "text,label\na,x,\nb,y,,\n", {}, SHORT, "behind the last column: 2"),
    "blanks around labels": ("csv", "x.csv", "text,label\na,x \nb, y\n", {}, SHORT, "labels do not count: 2"),
    "a blank label": ("csv", "x.csv", "text,label\na, \n", {}, "line 2: the label is empty; give it one, or", ""),
    "a quote left open": ("csv", "x.csv", 'text,label\na,x\n"b,y\nc,x\nd",y\n', {},
                          "line 3: the text that begins there holds 2 lines that look like rows", ""),
    "a quote left open, label first": ("csv", "x.csv", 'label,text\nx,"a\ny,b\nx,c\nx,d"\ny,e\n', {},
                                       "line 2: the text that begins there holds 2 lines that look like rows", ""),
    "rows in a text": ("csv", "x.csv", 'label,text\nx,"He wrote:\ny,not good\nx,very good"\ny,e\n', {},
                       [("He wrote:\ny,not good\nx,very good", "x"), ("e", "y")], "holds a line that looks like a row"),
    "perhaps a quote left open": ("csv", "x.csv", 'text,label\n"well, y\nok",x\nb,y\n', {},
                                  [("well, y\nok", "x"), ("b", "y")], "holds a line that looks like a row: was a"),
    "a letter": ("csv", "x.csv", 'text,label\n"Hello, all,\nthis is, well,\nBye",x\nb,y\n', {},
                 [("Hello, all,\nthis is, well,\nBye", "x"), ("b", "y")], ""),
    "cp1251": ("csv", "x.csv", "text,label\nмир,да\n".encode("cp1251"), {"encoding": "cp1251"}, [("мир", "да")], ""),
    "AG News, a header": ("agnews", "x.csv", "Class Index,Title,Description\n3,Title one,Text\n1,No,x\n", {}, NEWS,
                          "line 1 is the header: title and description are read as one text"),
    "AG News, a class by number": ("agnews", "x.csv", "title,description,topic\nTitle one,Text,3\nNo,x,4\n",
                                   {"label_column": "3"}, [NEWS[0], ("No x", "Sci/Tech")], "read as one text"),
    "AG News, other names": ("agnews", "x.csv", "topic,headline,body\n3,Title one,Text\n4,No,x\n", {},
                             [NEWS[0], ("No x", "Sci/Tech")], "line 1 is the header: topic, headline, body"),
    "AG News, names in another order": ("agnews", "x.csv", "id,title,description,label\n9,Title one,Text,3.0\n"
                                        "8,No,x,1.0\n7,No,x,4.0\n", {}, [*NEWS, ("No x", "Sci/Tech")],
                                        "read as one text"),
    "AG News, another class": ("agnews", "x.csv", "5,a,b\n", {}, "class '5' is not one of 1, 2, 3, 4, nor a name", ""),
    "AG News, from 0": ("agnews", "x.csv", "text,label\nTitle one Text,2\nNo x,0\n", {}, NEWS, "classes are 0 to 3"),
    "AG News, from 1": ("agnews", "x.csv", "label,text\n3,Title one Text\n1,No x\n4,a\n", {},
                        [*NEWS, ("a", "Sci/Tech")], ""),
    "AG News, names": ("agnews", "x.tsv", "label\ttext\nbusiness\tTitle one Text\nWORLD\tNo x\n", {}, NEWS, ""),
    "AG News, semicolons": ("agnews", "x.csv", '"3";"Title one";"Text"\n"1";"No";"x"\n', {}, NEWS, "semicolons"),
    "AG News, by number": ("agnews", "x.csv", "Title one Text,3\nNo x,World\n", BY_NUMBER, NEWS, "taken as data"),
    "AG News, JSON lines": ("agnews", "x.jsonl", '{"text":"Title one Text","label":2}\n{"text":"No x","label":0}\n',
                            {}, NEWS, "classes are 0 to 3, read as World, Sports, Business, Sci/Tech"),
    "JSON lines": ("csv", "x.jsonl", LINES, {}, SHORT, ""),
    "JSON lines of another name": ("csv", "x.txt", LINES, {}, SHORT, ""),
    "JSON lines, other fields": ("csv", "x.jsonl", LINES.replace("text", "q"), {"text_column": "q"}, SHORT, ""),
    "JSON lines, no such field": ("csv", "x.jsonl", '{"q":"a","label":"x"}\n', {},
            "line 1: 0 columns are called 'text' among q, label", ""),
    "neither name": ("csv", "x.csv", "q,r\na,x\n", {}, "are called 'text' and 0 columns are called 'label' among q, r; "
                     "choose one with --text-column and one with --label-column, by", ""),
    "the same by number": ("csv", "x.csv", "a,x\n", {"text_column": "2", "label_column": "2"}, "are both 'x'", ""),
    "the same by name": ("csv", "x.csv", "q,x\n1,2\n", {"text_column": "x", "label_column": "2"}, "are both 'x'", ""),
    "the same field": ("csv", "x.jsonl", LINES, {"label_column": "text"}, "line 1: text and label are both 'text'", ""),
    "a comma without quotes": ("csv", "x.csv", "text,label\na, b,x\n", {}, "3 columns instead of the header's 2; put "
                               "quotes around a text that holds commas", ""),
    "JSON lines, a field missing": ("csv", "x.jsonl", LINES + '{"text":"c"}\n', {}, "line 4: has no field 'label'", ""),
    "JSON lines, numbers and truths": ("csv", "x.jsonl", '{"text":"a","label":10}\n{"text":"b","label":true}\n', {},
                                       [("a", "10"), ("b", "true")], ""),
    "JSON lines, null": ("csv", "x.jsonl", '{"text":"a","label":null}\n', {},
            "line 1: 'label' must be a text or a whole "
                         "number, not null", ""),
    "JSON lines, 1.0": ("csv", "x.jsonl", '{"text":"a","label":1.0}\n{"text":"b","label":2}\n', {},
                        [("a", "1"), ("b", "2")], ""),
    "quotes behind backslashes": ("csv", "x.csv", 'text,label\n"a \\"b\\" c",x\n', {}, 'line 2: malformed CSV: ',""),
    "JSON lines, a fraction": ("csv", "x.jsonl", '{"text":"a","label":0.5}\n', {}, "not a fraction", ""),
    "JSON lines, no text": ("csv", "x.jsonl", '{"text":["a"],"label":"x"}\n', {},
            "must be a text in quotes, not a list", ""),
    "an array for CLINC150": ("clinc", "array.json", '[{"text":"a","intent":"x"}]', {}, [("a", "x")],
                              "is one JSON array of 1 objects"),
    "JSON array": ("csv", "array.json", '[{"text":"a","label":"x"},\n {"text":"b","label":"y"}]', {}, SHORT,
                   "is one JSON array of 2 objects"),
    "an array of lists": ("csv", "x.json", '[["a","x"]]', {}, "is a JSON array of no objects", ""),
    "an array of lists, CLINC": ("clinc", "x.json", '[["a","x"]]', {}, "is a JSON array of no objects", ""),
    "CLINC, JSON lines": ("clinc", "x.jsonl", LINES.replace("label", "intent"), {}, SHORT,
            "'intent' is read as the label"),
    "CLINC, CSV": ("clinc", "x.csv", "text,intent\na,x\nb,y\nwho,oos\n", {}, SHORT, ""),
    "CLINC, CSV, --oos": ("clinc", "x.csv", "text,intent\na,x\nwho,oos\n", {"oos": True}, [("a", "x"), ("who",
            "oos")], ""),
    "CLINC, no oos keys": ("clinc", "x.json", json.dumps({"train": [["a", "x"], ["b", "y"]]}), {}, SHORT, ""),
    "CLINC, indented": ("clinc", "x.json", json.dumps({"train": [["a", "x"], ["b", "y"]]}, indent=1), {}, SHORT, ""),
    "mlm, JSON lines": ("mlm", "x.jsonl", LINES, {}, [("a", None), ("b", None)], "texts are those of the field 'text'"),
    "mlm, CSV": ("mlm", "x.csv", table(ROWS), {}, [(text, None) for text, _ in ROWS], "of the column 'text'"),
    "mlm, TSV of another name": ("mlm", "x.txt", tsv(PLAIN), {}, [(text, None) for text, _ in PLAIN], "of the column"),
    "mlm, TSV, usual name": ("mlm", "x.txt", "sentence\tlabel\na b\tx\n", {}, [("a b", None)], "of the column"),
    "mlm, lines": ("mlm", "x.txt", "a, b\n\n[c]\n{d}\n", {}, [("a, b", None), ("[c]", None), ("{d}", None)], ""),
}  # fmt: skip


def read(tmp_path, task, name, content, split="", **settings):
    """The texts and labels of a file, whether they stay in it, and what was told."""
    path, notes = tmp_path / name, []
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    split = split or ("train" if TASKS[task].splits else "")
    examples = TASKS[task].read(path, split, DataConfig(**settings), notes.append)
    return [(e.text, getattr(e, "label", None)) for e in examples], isinstance(examples, FileRows), "\n".join(notes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_read_right_and_told_or_refused_in_one_line(tmp_path, variant):
    task, name, content, settings, expected, note = VARIANTS[variant]
    if isinstance(expected, str):
        with pytest.raises(UserError) as error:
            read(tmp_path, task, name, content, **settings)
        assert expected in str(error.value) and "\n" not in str(error.value)
        return
    found, in_file, notes = read(tmp_path, task, name, content, **settings)
    assert found == expected and in_file == (name != "x.json")
    assert note in notes if note else not re.sub(".*line 1 is taken.*|.*is read as the label.*", "", notes).strip(), (
        notes
    )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("variant", ["TSV, quoted", "semicolons", "bars"])
def test_a_table_in_another_encoding_gives_the_same_examples(tmp_path, variant, encoding):
    task, name, content, _, expected, _ = VARIANTS[variant]
    found, in_file, notes = read(tmp_path, task, name, content.encode(encoding))
    assert found == expected and in_file and (encoding == "utf-8-sig" or encoding in notes.lower())


def test_the_cures_of_refusals_work(tmp_path):
    """What the message names is done, and the file is read."""
    cures = {
        "no header": BY_NUMBER,
        "--header no with names": {"header": "no"} | BY_NUMBER,
        "JSON lines, no such field": {"text_column": "q", "label_column": "label"},
    }
    for variant, settings in cures.items():
        task, name, content, *_ = VARIANTS[variant]
        assert read(tmp_path, task, name, content, **settings)[0]
    raw = VARIANTS["cp1251"][2]
    with pytest.raises(UserError, match="such as --encoding cp1251"):
        read(tmp_path, "csv", "x.csv", raw)
    open_quote = VARIANTS["a quote left open"][2]
    assert len(read(tmp_path, "csv", "x.csv", open_quote.replace('"b,', "b,").replace('d"', "d"))[0]) == 4


@pytest.mark.parametrize("name", ["nothing", "rot13", "hex", "idna\0", "cp1251 "])
def test_an_encoding_or_header_that_is_none_is_refused(name):
    with pytest.raises(UserError, match="--encoding"):
        DataConfig(encoding=name.replace("cp1251 ", "x cp1251"))
    with pytest.raises(UserError, match="--header must be auto, yes or no"):
        DataConfig(header=name)


@pytest.mark.parametrize("key", ["val", "validation", "valid", "dev"])
def test_clinc_other_names_of_the_dev_split_are_told(tmp_path, key):
    content = json.dumps({"train": [], key: [["a", "x"]], f"oos_{key}": [["who", "oos"]]})
    found, _, notes = read(tmp_path, "clinc", "x.json", content, split="val")
    assert found == [("a", "x"), ("who", "oos")] and (f"its key '{key}' is the split val" in notes) == (key != "val")


def test_clinc_rows_out_of_scope_are_scored_apart_in_dev_and_test(tmp_path):
    (tmp_path / "x.csv").write_text("text,intent\na,x\nwho,oos\n")
    examples = TASKS["clinc"].read(tmp_path / "x.csv", "test", DataConfig(), print)
    assert [(e.label, e.in_scope) for e in examples] == [("x", True), ("oos", False)]


def test_whole_numbers_are_sorted_by_their_value_but_only_where_all_labels_are(tmp_path):
    rows = "".join(f"t,{label}\n" for label in (10, 2, -1, 0, 1))
    for more, expected in (("", ("-1", "0", "1", "2", "10")), ("t,x\n", ("-1", "0", "1", "10", "2", "x"))):
        (tmp_path / "x.csv").write_text(f"text,label\n{rows}{more}")
        examples = TASKS["csv"].read(tmp_path / "x.csv", "", DataConfig(), print)
        assert TASKS["csv"].label_list(examples) == expected


def test_500_rows_of_a_tsv_are_500_examples_wherever_their_quotes_stand(tmp_path):
    rows = [(f'"{i}' if i % 5 == 0 else f'{i}"' if i % 5 == 4 else f"{i} x", "ab"[i % 2]) for i in range(500)]
    found, _, _ = read(tmp_path, "csv", "x.tsv", tsv(rows))
    assert found == rows


def test_unlabelled_texts_have_their_line_as_id_and_empty_ones_are_none(tmp_path):
    path = tmp_path / "more.jsonl"
    path.write_text('{"text": "a"}\n{"text": " "}\n{"text": "c", "label": "x"}\n')
    make = TASKS["csv"].unlabelled
    examples = read_texts(path, DataConfig(), print, make, "--unlabelled more.jsonl")
    assert [(e.id, e.text, e.label) for e in examples] == [("more.jsonl:1", "a", None), ("more.jsonl:3", "c", None)]
    path.write_text(json.dumps({"text": "a" * 1_000_001}))
    with pytest.raises(UserError, match="--unlabelled more.jsonl: line 1: a text of 1,000,001"):
        read_texts(path, DataConfig(), print, make, "--unlabelled more.jsonl")


MONEY = ["my card, 0", "my bank is lost", "ok"]
#: what the file is called, and holds -> how --train is read
UNLABELLED = {
    "another name": ("u.csv", 'text\n"my card, 0"\nmy bank is lost\nok\n', {"text_column": "utterance"}),
    "the only column": ("u.csv", 'Sentence\n"my card, 0"\nmy bank is lost\nok\n', {}),
    "the only column, no header": ("u.csv", '"my card, 0"\nmy bank is lost\nok\n', {}),
    "the only texts": ("u.csv", 'Nr;Was;Art\n0;my card, 0;a\n1;my bank is lost;b\n2;ok;a\n', {}),
    "by number, a header": ("u.csv", 'Nr;Was\n0;my card, 0\n1;my bank is lost\n2;ok\n', {"text_column": "2"}),
    "by number, none": ("u.csv", '0;my card, 0\n1;my bank is lost\n2;ok\n', {"text_column": "2"}),
    "by a number too high": ("u.csv", 'text\n"my card, 0"\nmy bank is lost\nok\n', {"text_column": "2"}),
    "JSON lines": ("u.jsonl", '{"id": "x", "was": "my card, 0"}\n{"id": "y", "was": "my bank is lost"}\n'
                   '{"id": "z", "was": "ok"}\n', {}),
    "fastText's lines": ("u.txt", "__label__a my card, 0\n__label__b my bank is lost\n__label__b\nok\n", {}),
    "JSON lines, by number": ("u.jsonl", '{"text": "my card, 0"}\n{"text": "my bank is lost"}\n{"text": "ok"}\n',
                              {"text_column": "2"}),
}  # fmt: skip


@pytest.mark.parametrize("name", UNLABELLED)
def test_unlabelled_texts_may_stand_in_another_column_than_those_of_train(tmp_path, name):
    file, content, settings = UNLABELLED[name]
    (tmp_path / file).write_text(content)
    notes = []
    examples = read_texts(
        tmp_path / file, DataConfig(**settings), notes.append, TASKS["csv"].unlabelled, "--unlabelled"
    )
    assert [example.text for example in examples] == MONEY and notes


@pytest.mark.parametrize("first", ["Where is my order", "Hello"])
def test_the_first_line_of_a_single_column_is_a_text_where_it_is_no_usual_name(tmp_path, first):
    (tmp_path / "u.csv").write_text(f"{first}\nOrder 123 is late\nRefund 45 please\n")
    found = read_texts(tmp_path / "u.csv", DataConfig(), print, TASKS["csv"].unlabelled, "--unlabelled")
    assert [example.text for example in found] == [first, "Order 123 is late", "Refund 45 please"]


@pytest.mark.parametrize(
    ("content", "cure"),
    [
        ("my card is lost, ok\nyour bank, hello\n", "Put a line of names above, one of them text"),
        ("a,b\nmy card,is lost\nmy bank,is lost\n", "Write text for its name"),
    ],
)
def test_unlabelled_texts_that_may_be_two_columns_are_refused(tmp_path, content, cure):
    (tmp_path / "u.csv").write_text(content)
    with pytest.raises(UserError, match=f"line 1: which of these are the texts, .*\\? {cure}; or put each text"):
        read_texts(tmp_path / "u.csv", DataConfig(), print, TASKS["csv"].unlabelled, "--unlabelled")
    named = "text,other\n" + content if "Put" in cure else content.replace("a,b", "text,b")
    (tmp_path / "u.csv").write_text(named)
    examples = read_texts(tmp_path / "u.csv", DataConfig(), print, TASKS["csv"].unlabelled, "--unlabelled")
    assert [example.text.split(",")[0] for example in examples][0].startswith("my card")


def test_ag_news_own_file_is_text_without_labels_too(tmp_path):
    """Title and description are one text, as in training, without the backslashes of its line breaks."""
    rows = '"3","A title","dwindling\\band of cynics"\n"4","Another one","text, of more"\n"3","And this","is one"\n'
    (tmp_path / "u.csv").write_text(rows)
    task = TASKS["agnews"]
    notes = []
    found = read_texts(tmp_path / "u.csv", DataConfig(), notes.append, task.unlabelled, "--unlabelled")
    trained = task.read(tmp_path / "u.csv", "", DataConfig(), print)
    assert [example.text for example in found] == [example.text for example in trained]
    assert found[0].text == "A title dwindling band of cynics" and "columns as in AG News" in notes[0]
    for other in (
        "1,my card is lost,lost card\n2,where is it,missing money\n3,hello there,small talk\n",  # counted
        "3,user17,a great one\n4,user2,it is good\n3,user9,does not work\n",  # of users
    ):
        (tmp_path / "u.csv").write_text(other)
        with pytest.raises(UserError, match="which of these are the texts"):
            read_texts(tmp_path / "u.csv", DataConfig(), notes.append, task.unlabelled, "--unlabelled")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("u.csv", 'Class Index,Title,Description\n4,A title,"text\\of it, more"\n1,Another,one more\n'),
        ("u.jsonl", '{"label": 4, "title": "A title", "description": "text\\\\of it, more"}\n'
                    '{"label": 1, "title": "Another", "description": "one more"}\n'),
        ("u.jsonl", '{"Class Index": 4, "Title": "A title", "Description": "text\\\\of it, more"}\n'
                    '{"Class Index": 1, "Title": "Another", "Description": "one more"}\n'),
        ("u.jsonl", '{"label": 4, "title": "A title", "description": "text\\\\of it, more"}\n'
                    '{"label": 1, "title": "Another", "description": ""}\n'),
    ],
)  # fmt: skip
def test_title_and_description_of_ag_news_are_one_text_everywhere(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    task, texts = (
        TASKS["agnews"],
        ["A title text of it, more", content.count("one more") * "Another one more" or "Another"],
    )
    trained = task.read(tmp_path / name, "", DataConfig(), print)
    assert [example.texts for example in trained] == [[text] for text in texts]
    assert [example.label for example in trained] == ["Sci/Tech", "World"]
    found = read_texts(tmp_path / name, DataConfig(), print, task.unlabelled, "--unlabelled")
    assert [example.text for example in found] == texts
    make_inputs, count, _ = open_inputs(task, tmp_path / name, "", DataConfig(), False, (), print)
    assert [row.example.text for row in make_inputs()] == texts and count == 2


@pytest.mark.parametrize("content", ["\n{oh\n", "\n5\n"])
def test_unlabelled_lines_that_hold_no_object_are_refused_with_the_first_of_them(tmp_path, content):
    (tmp_path / "u.jsonl").write_text(content)
    with pytest.raises(UserError, match="u.jsonl: line 2: "):
        read_texts(tmp_path / "u.jsonl", DataConfig(), print, TASKS["csv"].unlabelled, "--unlabelled")


@pytest.mark.parametrize("name", ["u.csv", "u.tsv", "u.jsonl"])
def test_an_unlabelled_file_of_nothing_is_refused_as_that(tmp_path, name):
    (tmp_path / name).write_text("\n \n")
    with pytest.raises(UserError, match="holds nothing but blank lines; give one text a line"):
        read_texts(tmp_path / name, DataConfig(), print, TASKS["csv"].unlabelled, "--unlabelled")


@pytest.mark.parametrize(
    ("task", "name", "content", "labels", "said"),
    [
        ("csv", "x.csv", "premise,hypothesis,label\na,b,-1\nc,d,1\n", ["-1", "1"], ""),
        ("csv", "x.csv", "text,label\na,-1\nc,1\n", ["-1", "1"], ""),
        ("csv", "x.jsonl", '{"text": "a", "label": ["x"]}\n{"text": "b", "label": ["y"]}\n', ["x", "y"], ""),
        (
            "csv", "x.jsonl",
            '{"text": "a", "label": "x", "answer": "accept"}\n{"text": "b", "label": "x", "answer": "reject"}\n',
            ["x"], "as Prodigy marks them, left out: 1",
        ),
        ("agnews", "x.jsonl", '{"text": "a", "label": 4}\n{"text": "b", "label": 1}\n', ["Sci/Tech", "World"], ""),
        ("clinc", "x.jsonl", '{"text": "a", "intent": 61}\n{"text": "b", "intent": 42}\n', ["61", "42"], "write oos"),
        ("csv", "x.csv", 'label,text\npos,"a b\nneg,c d"\npos,e\nneg,f\n', ["pos", "pos", "neg"], "quote left open?"),
    ],
)  # fmt: skip
def test_labels_of_other_tools_are_understood_or_told(tmp_path, task, name, content, labels, said):
    notes = []
    (tmp_path / name).write_text(content)
    examples = TASKS[task].read(tmp_path / name, "train", DataConfig(), notes.append)
    assert [example.label for example in examples] == labels
    assert said in "\n".join(notes) and bool(said) == any(re.search("left|to 3|oos", note) for note in notes)


@pytest.mark.parametrize(
    ("content", "settings", "texts"),
    [
        ("text,label\ngood film,pos\nbad film,neg\n", {}, ["good film", "bad film"]),
        ("text;label\ngood film;pos\n", {}, ["good film"]),
        ("pos\tgood film\nneg\tbad film\n", BY_NUMBER | dict(text_column="2"), ["good film", "bad film"]),
        ("text, and no label\ngood film\n", {}, ["text, and no label", "good film"]),
        ("Sentence, label, and more.\nAn end.\n", {}, ["Sentence, label, and more.", "An end."]),
        ("a\tb\nc d\n", BY_NUMBER | dict(text_column="2"), ["a\tb", "c d"]),
        ("a\tb\nc\td\n", dict(text_column="3", label_column="1"), ["a\tb", "c\td"]),
    ],
)
def test_a_table_called_txt_is_one_beside_train_too(tmp_path, content, settings, texts):
    (tmp_path / "x.txt").write_text(content)
    found = read_texts(tmp_path / "x.txt", DataConfig(**settings), print, lambda place, text: text, "--unlabelled")
    assert list(found) == texts


@pytest.mark.parametrize("name, content", [
    ("x.jsonl", '{"text": "a", "label": 2}\n{"text": "b", "label": 1}\n'),
    ("x.csv", "text,label\na,2\nb,1\n"),
    ("x.csv", "label,title,description\n2,a,b\n1.0,c,d\n"),
    ("x.csv", "topic,headline,body\n2,a,b\n1,c,d\n"),
])  # fmt: skip
def test_classes_of_ag_news_that_may_be_numbered_from_0_or_1_are_refused(tmp_path, name, content):
    with pytest.raises(UserError, match="classes 1 to 3 alone may be of 1 to 4 or of 0 to 3; write names, as in World"):
        read(tmp_path, "agnews", name, content)
    named = re.sub(r"\b[12](\.0)?\b", '"World"', content)
    assert [label for _, label in read(tmp_path, "agnews", name, named)[0]] == ["World", "World"]


def test_an_array_beside_train_is_read_too(tmp_path):
    (tmp_path / "x.json").write_text('[{"text": "a"},\n{"text": "b"}]')
    found = read_texts(tmp_path / "x.json", DataConfig(), print, lambda place, text: (place, text), "--unlabelled")
    assert list(found) == [("x.json:1", "a"), ("x.json:2", "b")]


#: file -> task, settings, examples, how often each label occurs, the beginning of the SHA-256 of their representation
REAL = {
    "ag_news_csv/test.csv": ("agnews", {}, {"World": 1900, "Sports": 1900, "Business": 1900,
            "Sci/Tech": 1900}, "3b6a8269"),
    "ag_news_csv/train.csv": ("agnews", {}, {"World": 1498, "Sports": 1508, "Business": 1542,
            "Sci/Tech": 1452}, "21c71a49"),
    "ag_news_csv/more.tsv": ("csv", {}, {"Sci/Tech": 2417, "World": 2388, "Business": 2352, "Sports": 2340},
            "9a3f941f"),
    "glue/SST-2/train.tsv": ("csv", {"text_column": "sentence"}, {"1": 37569, "0": 29780}, "a04d3bed"),
    "glue/SST-2/dev.tsv": ("csv", {}, {"1": 444, "0": 428}, ""),
    "glue/CoLA/train.tsv": ("csv", {"text_column": "4", "label_column": "2"}, {"1": 6023, "0": 2528}, ""),
    "glue/RTE/train.tsv": ("csv", {"text_column": "sentence1"}, {"entailment": 1249, "not_entailment": 1241}, ""),
    "glue/MRPC/dev.tsv": ("csv", {"text_column": "#1 String", "label_column": "Quality"}, {"1": 279, "0": 129}, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_real_files_have_their_rows_and_labels(real_data, name):
    task, settings, counts, digest = REAL[name]
    examples = list(TASKS[task].read(real_data(name), "", DataConfig(**settings), print))
    assert Counter(example.label for example in examples) == counts
    written = repr(examples).replace(", pair=None", "").replace(", known=()", "")
    assert hashlib.sha256(written.encode()).hexdigest().startswith(digest)
