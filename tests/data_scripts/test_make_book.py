"""The annotated source: every line of the package is in it, numbers beside lines, links that lead on."""

import ast
import re
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch

from data_scripts import make_book
from data_scripts.book_numbers import Recorder, assignments, describe
from tests.conftest import ROOT
from tests.test_house import CHAPTERS

# --- numbers ---


def test_a_value_in_short():
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3) - 1.5
    for value, text in [
        (x, "2,3: −1.5 −0.5 0.5 …"),
        (torch.tensor(0.25), "0.25"),
        (np.array([1, 2]), "2: 1 2"),
        (torch.empty(2, 3, device="meta"), "2,3 torch.float32"),
        ((x, None), "(2,3: −1.5 −0.5 0.5 …; None)"),
        (3, "3"),
        ("a\nb", r"'a\nb'"),
        (list(range(9)), "9 of them"),
        ([], "[]"),
        (object(), None),
        (torch.nn.Linear(1, 1), None),
    ]:
        assert describe(value) == text, value
    assert len(describe("x" * 500)) == 70


SOURCE = """
def outer(n):
    total = 0
    for i in range(n):
        total += (
            i
        )
    if n > 2:
        return inner(total), None
    return total


def inner(x):
    y = z = x + 1
    return y


def other(x):
    return x
"""


@pytest.fixture
def recorded(tmp_path):
    """A function: calls of SOURCE's functions -> the numbers that they leave, by line."""
    path = tmp_path / "it.py"
    path.write_text(SOURCE)
    space = {}
    exec(compile(SOURCE, str(path), "exec"), space)
    before = sys.gettrace()

    def call(*calls, within=None):
        recorder = Recorder(tmp_path)
        recorder.within = within and space[within]
        with recorder:
            for name, n in calls:
                space[name](n)
        assert sys.gettrace() is before
        return {line: texts for (file, line), texts in recorder.numbers.items() if file == str(path)}

    return call


def test_each_statement_leaves_what_it_made_when_it_ran_first(recorded):
    numbers = recorded(("outer", 2), ("outer", 4))
    assert numbers[3] == ["total = 0"] and numbers[4] == ["i = 0"] and numbers[7] == ["total = 0"]
    assert numbers[10] == ["→ 1"], "the first call went there"
    assert numbers[9] == ["→ (7; None)"], "the second one here"
    assert sorted(numbers[14]) == ["y = 7", "z = 7"] and numbers[15] == ["→ 7"]


def test_within_a_function_alone_its_own_calls_are_looked_at(recorded):
    assert set(recorded(("other", 1), ("inner", 1), ("other", 2), within="inner")) == {14, 15}
    assert assignments(SOURCE)[6] == assignments(SOURCE)[5] == (7, ("total",), False)


# --- pages ---


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The whole book."""
    folder = tmp_path_factory.mktemp("book")
    counts = make_book.make_book(folder)
    return folder, counts


def code_of(html: str) -> dict[str, dict[int, str]]:
    """The source lines of a page by file and number."""
    files = {}
    for section in html.split("<section ")[1:]:
        rows = re.findall(r"<s> *(\d+) </s>(.*?)(?=\n<s>|</pre>)", section, re.S)
        lines = {int(number): unescape(re.sub(r"<[^>]+>", "", line)) for number, line in rows}
        files[re.search("<h2>(.*?)</h2>", section)[1]] = lines
    return files


def docstring_lines(text: str) -> set[int]:
    """The lines of a source that are docstrings."""
    kinds = ast.Module | ast.ClassDef | ast.FunctionDef
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, kinds) and ast.get_docstring(node)]
    return {line for node in nodes for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)}


@pytest.mark.slow
def test_the_book_holds_every_line_and_its_links_lead_somewhere(book):
    folder, counts = book
    assert [name.removesuffix(".py") for name in make_book.chapters()] == [c for c in CHAPTERS if c != "__main__"]
    assert counts["lines with numbers"] > 1500 and counts["chapters"] == len(CHAPTERS) - 1
    for path in (ROOT / "kd_scratch").glob("*/*.py"):
        text = path.read_text()
        if text.strip():
            shown = code_of((folder / f"{path.parent.name}.html").read_text())[path.name]
            expected = dict(enumerate(text.split("\n"), 1))
            hidden = docstring_lines(text)
            assert all(line in hidden or not expected[line].strip() for line in expected.keys() - shown.keys()), path
            assert all(shown[line] == expected[line] for line in shown), path
    pages = {path.name: path.read_text() for path in folder.glob("*.html")}
    ids = {name: set(re.findall(r'id="([^"]+)"', text)) for name, text in pages.items()}
    for name, text in pages.items():
        assert "<script" not in text and not re.search(r'(src|href)="http(?!s://)', text), name
        for link in set(re.findall(r'href="([^"]+)"', text)):
            target, _, anchor = unescape(link).partition("#")
            if not link.startswith("https:"):
                assert (target or name) in pages and (not anchor or anchor in ids[target or name]), (name, link)


@pytest.mark.slow
def test_a_functions_row_has_its_docstring_tests_stages_and_numbers(book):
    folder, _ = book
    text = (folder / "nn.html").read_text()
    row = text.split('id="layers.attention"')[1].split('id="layers.split_heads"')[0]
    assert "softmax(Q·Kᵀ / sqrt(W)) · V: each query takes" in row and "key, value  B,H,S,W" in row
    assert 'tests-nn.html#test_layers.test_attention_is_its_formula"' in row and 'href="example.html#s' in row
    numbers = re.findall(r'<div class="number">(.*?)</div>', row)
    assert '<div class="number other">' in row, "of a batch with padding"
    scores = next(line for line in numbers if line.startswith("scores = "))
    assert re.fullmatch(r"scores = 1,4,(\d+),\1: .* …", scores), scores


def test_readmes_become_html_and_hostile_text_stays_text():
    html = make_book.markdown(
        "# A\n\nb `<i>` **c** [d](https://e.org) [f](g.md)\n\n| h | i |\n|---|---|\n| `j` | <k> |\n"
    )
    assert "<h3>A</h3>" in html and '<a href="https://e.org">d</a> f' in html and "<strong>c</strong>" in html
    assert "<code>&lt;i&gt;</code>" in html and "<td>&lt;k&gt;</td>" in html and "---" not in html
    assert make_book.markdown("1. *a*\n2. b\n\n      c\n    d") == (
        "<ol><li><em>a</em>\n</li><li>b</li></ol>\n<pre>  c\nd</pre>"
    )
    assert make_book.markdown("```sh\nmake <it>\n```") == "<pre>make &lt;it&gt;</pre>"
    assert make_book.coloured('x = "<b>"  # <i>\n')[0] == "x = <q>&quot;&lt;b&gt;&quot;</q>  <i># &lt;i&gt;</i>"


def test_the_script_prints_what_it_has_made_or_why_not(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(make_book, "run_example", lambda folder, package: pytest.fail("not reached"))
    (tmp_path / "file").write_text("")
    assert make_book.main(["--output", str(tmp_path / "file")]) == 2
    assert "file: cannot be made a folder: File exists\n" in capsys.readouterr().err
    monkeypatch.setattr(make_book, "make_book", lambda output: {"chapters": 14, "lines": 21000})
    assert make_book.main(["--output", str(Path("book"))]) == 0
    assert capsys.readouterr().out == "14 chapters, 21,000 lines: book/index.html\n"
