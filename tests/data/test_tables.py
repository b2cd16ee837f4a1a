"""data/tables.py: what separates columns and what quotes mean, found in the whole file; rows that stay in it."""

import csv
import io
import random

import pytest

from kd_scratch.common.errors import UserError
from kd_scratch.common.files import LONGEST
from kd_scratch.common.text_file import open_text
from kd_scratch.data.rows import FileRows
from kd_scratch.data.tables import Layout, find_layout, rows_or_errors, sample_rows, table_examples, table_rows


def layout_of(tmp_path, text: str, name: str = "x.csv", header=("text", "label")) -> Layout:
    """The layout that is found for a file."""
    path = tmp_path / name
    path.write_bytes(text.encode())
    return find_layout(open_text(path), lambda row: bool(header) and set(header) <= set(row), 2, lambda note: None)


@pytest.mark.parametrize("delimiter", ["\t", ",", ";", "|"])
@pytest.mark.parametrize("header", [("text", "label"), ()])
def test_the_delimiter_is_found_by_the_header_or_by_rows_of_one_length(tmp_path, delimiter, header):
    rows = [header] if header else []
    rows += [('"one, two; three | four"', "a"), ("five", "b"), ("six", "a")]
    text = "\n".join(delimiter.join(row) for row in rows)
    assert layout_of(tmp_path, text, header=header).delimiter == delimiter


def test_a_line_of_a_spreadsheet_names_the_delimiter_and_is_no_row(tmp_path):
    layout = layout_of(tmp_path, "sep=;\r\ntext;label\r\na,b;x\r\n")
    assert (layout.delimiter, layout.skip) == (";", 1)
    rows = list(table_rows(open_text(tmp_path / "x.csv"), layout))
    assert [(line, row) for line, _, row in rows] == [(2, ["text", "label"]), (3, ["a,b", "x"])]


#: A TSV's lines -> whether its quotes enclose fields.
QUOTES = {
    "a text begins with one": (['text\tlabel', '"a b\tx', "c\ty"], False),
    "one line opens, another closes": (["label\ttext", 'x\t"a', "y\tb", 'x\tc"'], False),
    "a text is a quotation": (["text\tlabel", '"all of it"\tx', "c\ty", "d\ty"], False),
    "inches": (['text\tlabel', '5"\tx', '"so ""it"" is"\ty'], False),
    "two quotations in a text": (['text\tlabel', '"a" or "b"\tx', "c\ty"], False),
    "all fields": (['"text"\t"label"', '"a"\t"x"', '"c ""d"""\t"y"'], True),
    "all texts": (['text\tlabel', '"a"\t1', '"c"\t0'], True),
    "where needed, for a quote": (['text\tlabel', 'a\tx', '"c ""d"""\ty'], True),
    "where needed, for a comma, as spreadsheets do": (['text\tlabel', '"a, b"\tx', '"c ""d"""\ty', 'e\tx'], True),
    "quotations with commas, and other commas": (['text\tlabel', '"a, b"\tx', 'e, f\tx'], False),
    "where needed, for a line end": (['text\tlabel', '"a', 'b"\tx', 'c\ty'], True),
    "where needed, for a tab": (['text\tlabel', '"a\tb"\tx', 'c\ty'], True),
    "none": (['text\tlabel', "a\tx"], False),
    "a ragged line": (['text\tlabel', '"a\tx', 'b"', 'c"\ty'], False),
    "all labels, though a text is malformed": (['text\tlabel', '"a "b" c"\t"x"', '"c"\t"y"'], True),
}  # fmt: skip


@pytest.mark.parametrize("lines, enclose", QUOTES.values(), ids=QUOTES)
def test_whether_quotes_of_a_tsv_enclose_fields(tmp_path, lines, enclose):
    layout = layout_of(tmp_path, "\n".join(lines) + "\n", "x.tsv")
    assert layout.delimiter == "\t" and layout.quotes == enclose


@pytest.mark.parametrize("seed", range(40))
def test_a_table_that_was_written_with_or_without_quoting_is_read_as_it_was_written(tmp_path, seed):
    """Written by csv.writer (minimal and full quoting), or plainly; the texts hold quotes anywhere."""
    rng = random.Random(seed)
    way = ("plain", csv.QUOTE_MINIMAL, csv.QUOTE_ALL)[seed % 3]
    letters = 'ab" ,' if way == "plain" else 'ab" ,\t\n'
    rows = [["".join(rng.choices(letters, k=rng.randint(1, 6))) + "z", rng.choice("xy")] for _ in range(30)]
    if way == "plain":
        rows.append(['"', "x"])
        text = "".join("\t".join(row) + "\n" for row in [["text", "label"], *rows])
    else:
        rows.append(['a "b', "x"])
        buffer = io.StringIO()
        csv.writer(buffer, delimiter="\t", quoting=way, lineterminator="\n").writerows([["text", "label"], *rows])
        text = buffer.getvalue()
    layout = layout_of(tmp_path, text, "x.tsv")
    file = open_text(tmp_path / "x.tsv")
    assert [row for _, _, row in table_rows(file, layout)][1:] == rows
    examples = table_examples(file, layout, lambda line, row: row, header=True)
    assert isinstance(examples, FileRows) and list(examples) == rows and examples[17] == rows[17]


def test_blanks_between_a_comma_and_a_quote_do_not_count_but_others_do(tmp_path):
    assert layout_of(tmp_path, 'text, label\n"a, b", "x"\n"c", "y"\n').blanks
    assert not layout_of(tmp_path, 'text,label\n"a, ""b""",x\n').blanks
    assert not layout_of(tmp_path, "text,label\na, x\n").blanks


@pytest.mark.parametrize("line", ['pos, "great" movie', 'pos, "great movie', 'pos, "great" and "good"'])
def test_a_text_behind_a_blank_may_begin_with_a_quotation(tmp_path, line):
    text = f"label,text\n{line}\nneg,bad one\n"
    layout = layout_of(tmp_path, text)
    rows = table_rows(open_text(tmp_path / "x.csv"), layout)
    assert [row for _, _, row in rows] == [["label", "text"], line.split(",", 1), ["neg", "bad one"]]


def test_of_two_delimiters_that_fit_one_is_not_that_of_the_texts(tmp_path):
    text = "pos;Hello, world\nneg;Bye, world\npos;Yes, it is\n"
    assert layout_of(tmp_path, text, header=()).delimiter == ";"
    assert layout_of(tmp_path, text.replace(", ", " ").replace(";", ", "), header=()).delimiter == ","


def test_rows_that_are_no_examples_are_left_out_and_the_header_too(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text,label\na,x\nb,\nc,y\n")
    rows = table_examples(open_text(path), Layout(), lambda line, row: (line, row[0]) if row[1] else None, header=True)
    assert list(rows) == [(2, "a"), (4, "c")]


def test_a_quote_left_open_is_refused_with_the_line_where_it_begins(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('text,label\na,x\n"b,y\n' + "c,x\n" * 1000)
    with pytest.raises(UserError, match=r"x\.csv: line 3: malformed CSV: unexpected end of data"):
        list(table_rows(open_text(path), Layout()))


def test_a_sample_ends_where_a_field_is_too_long(tmp_path):
    """Reading the table refuses it, with its line; what is decided before is decided by the rows in front of it."""
    layout = Layout(",")
    lines = ["text,label\n", "fox,a\n", f"{'x' * (LONGEST + 1)},b\n", "dog,b\n"]
    assert sample_rows(lines, layout) == [["text", "label"], ["fox", "a"]]


def test_behind_a_malformed_row_rows_go_on_with_the_next_line(tmp_path):
    (tmp_path / "x.csv").write_text('a,1\n\n"b" c,2\n"two\nlines",3\n"open,4\nd,5\n"e""",6\n')
    found = list(rows_or_errors(open_text(tmp_path / "x.csv"), Layout()))
    assert [line for line, _, _ in found] == [1, 3, 4, 6, 7, 8]
    assert [row for _, _, row in found if isinstance(row, list)] == [
        ["a", "1"],
        ["two\nlines", "3"],
        ["d", "5"],
        ['e"', "6"],
    ]
    assert [str(row)[-52:] for _, _, row in found if isinstance(row, UserError)] == [
        "x.csv: line 3: malformed CSV: ',' expected after '\"'",
        "x.csv: line 6: malformed CSV: ',' expected after '\"'",
    ]
    with pytest.raises(UserError, match="line 3: malformed"):
        list(table_rows(open_text(tmp_path / "x.csv"), Layout()))
    lenient = table_rows(open_text(tmp_path / "x.csv", lenient=True), Layout())
    assert [line for line, _, _ in lenient] == [1, 4, 7, 8]
