"""Write the annotated source: one self-contained page for each chapter, to be read in a browser or on paper.

    python data_scripts/make_book.py --output runs/book     # open runs/book/index.html

On one side the code, on the other docstrings with formulas and shapes, the unit tests that name a function, the stages
of `trace` that show it, and beside each line the numbers that it makes of one traced example (see book_numbers.py).
Prints how many chapters, lines and numbers there are: 14 chapters, about 25,000 lines, some 2,000 of them with numbers.
"""

import argparse
import ast
import io
import keyword
import re
import sys
import tempfile
import textwrap
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs from a checkout that is not installed

from data_scripts.book_numbers import run_example  # noqa: E402
from kd_scratch.common.errors import UserError  # noqa: E402
from kd_scratch.common.files import make_folder, write_text  # noqa: E402
from kd_scratch.pages.html import page  # noqa: E402
from kd_scratch.trace.stages import where  # noqa: E402
from kd_scratch.trace.trace import Trace, as_html  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "kd_scratch"
TITLE = "kd_scratch, the annotated source"
STYLE = """
body { max-width: 100rem } .source { font-size: 0.8rem; margin-top: 0.75rem }
.row { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 26rem); gap: 0 1rem }
.row pre { margin: 0; padding: 0 0.5rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: 0.8rem }
.row div { padding-left: 0.5rem; border-left: 2px solid var(--line); min-width: 0 }
.row .note { font-size: 0.8rem; padding-block: 0.25rem; margin-block: 0.5rem 0 } .note p { margin: 0 0 0.4rem }
.row .note pre { background: none; padding: 0; margin: 0 0 0.4rem; font-size: 0.72rem }
.row .number { color: var(--good); font: 0.75rem/1.55 ui-monospace, monospace; border-color: var(--good) }
.row .other { color: var(--soft); border-color: var(--line) }
.row i { color: var(--soft); font-style: normal } .row b { color: var(--accent); font-weight: 600 }
.row q { quotes: none; color: var(--bad) } .row s { text-decoration: none; user-select: none; color: var(--line) }
.row:target, .row:target pre { background: var(--tint) } details { font: 0.8rem/1.4 system-ui, sans-serif }
@media (max-width: 60rem) { .row { grid-template-columns: minmax(0, 1fr) } .row .number { margin-left: 2.2rem } }
@media print { .row { grid-template-columns: minmax(0, 1.7fr) minmax(0, 1fr); break-inside: avoid }
  .row pre { background: none } .row .number { margin-left: 0 } }
"""


def read(path: Path) -> str:
    """A file of the project."""
    return path.read_text(encoding="utf-8")


# --- what there is to read, in which order ---


def chapters() -> list[str]:
    """The chapters in the order of the README's tree: common, config.py, nn, …"""
    tree = read(ROOT / "README.md").split("## The tree")[1].split("    tests/")[0]
    return re.findall(r"^ {6}(\w+(?:\.py|(?=/)))", tree, re.M)


def files_of(folder: Path) -> list[Path]:
    """A chapter's files in the order of the table in its README; behind them those that it does not name."""
    if folder.is_file():
        return [folder]
    readme = read(folder / "README.md") if (folder / "README.md").exists() else ""
    named = re.findall(r"`(\w+\.py)`", "\n".join(re.findall(r"^\|.*", readme, re.M)))
    order = {name: i for i, name in reversed([*enumerate(named)])}
    files = [path for path in sorted(folder.glob("*.py")) if read(path).strip()]
    return sorted(files, key=lambda path: order.get(path.name, len(order)))


# --- which tests know a function, which stages of the trace show it ---


def tests_by_name() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """(module, name) of what tests import -> the tests that use it, themselves or through a helper of their file."""
    found = defaultdict(list)
    for path in sorted((ROOT / "tests").glob("*/test_*.py")):
        tree = ast.parse(read(path))
        imported = {
            alias.asname or alias.name: (node.module, alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module.startswith("kd_scratch")
            for alias in node.names
        }
        used = {}
        for node in tree.body:
            names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
            for name in (
                [node.name]
                if hasattr(node, "name")
                else [n.id for n in getattr(node, "targets", []) if hasattr(n, "id")]
            ):
                used[name] = names
        for test in filter(lambda name: name.startswith("test_"), used):
            reached, new = set(), used[test]
            while new:
                reached |= new
                new = set().union(*(used.get(name, set()) for name in new)) - reached
            for name in reached & imported.keys():
                found[imported[name]].append((f"tests-{path.parent.name}.html#{path.stem}.{test}", test))
    return found


def stages_by_place(traced: Trace) -> dict[str, list[tuple[str, str]]]:
    """ "kd_scratch/nn/layers.py:34 InputEmbeddings" -> the stages of the trace that name it."""
    found = defaultdict(list)
    for i, stage in enumerate(traced.stages, 1):
        for function in stage.code:
            found[where(function)].append((f"example.html#s{i}", f"{i}. {stage.title}"))
    return found


# --- a file as rows of code and notes ---


def coloured(text: str) -> list[str]:
    """The lines of a source as HTML: keywords, strings and comments have a colour."""
    lines = text.split("\n")
    done: list[list[str]] = [[] for _ in lines]
    ends = [0] * len(lines)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        (first, start), (last, end) = token.start, token.end
        tag = {tokenize.COMMENT: "i", tokenize.STRING: "q"}.get(token.type)
        if token.type == tokenize.NAME and keyword.iskeyword(token.string):
            tag = "b"
        if tag is None:
            continue
        for line in range(first, last + 1):
            a, b = (start if line == first else 0), (end if line == last else len(lines[line - 1]))
            done[line - 1] += [
                escape(lines[line - 1][ends[line - 1] : a]),
                f"<{tag}>{escape(lines[line - 1][a:b])}</{tag}>",
            ]
            ends[line - 1] = b
    return ["".join(parts) + escape(line[end:]) for parts, line, end in zip(done, lines, ends, strict=True)]


def documented(tree: ast.AST, prefix: str = "") -> Iterator[tuple[ast.AST, str]]:
    """Every function and class with its dotted name, outer ones first."""
    for node in getattr(tree, "body", []):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node, f"{prefix}{node.name}"
            yield from documented(node, f"{prefix}{node.name}.")


def prose(doc: str) -> str:
    """A docstring as HTML: what stands in columns or is set in stays as it is, all else is set anew."""
    parts = []
    for part in re.split(r"\n\s*\n", doc):
        as_it_is = re.search(r"^ |\S {2,}\S", part, re.M)
        parts.append(f"<pre>{escape(part)}</pre>" if as_it_is else f"<p>{escape(' '.join(part.split()))}</p>")
    return "".join(parts)


def links(**targets: list[tuple[str, str]]) -> str:
    """Links to fold out, by what they lead to; nothing where there are none."""
    kinds = {kind: list(dict.fromkeys(found)) for kind, found in targets.items() if found}
    if not kinds:
        return ""
    title = ", ".join(f"{len(found)} {kind if len(found) > 1 else kind[:-1]}" for kind, found in kinds.items())
    inner = "<br>".join(f'<a href="{escape(to)}">{escape(text)}</a>' for found in kinds.values() for to, text in found)
    return f"<details><summary>{title}</summary>{inner}</details>"


def source(path: Path, numbers: dict, example: set, tests: dict, stages: dict) -> str:
    """A file as HTML: rows of code with the docstring, or the numbers, that belong to it."""
    text = read(path)
    tree = ast.parse(text)
    lines = coloured(text)
    place = path.relative_to(ROOT)
    module = ".".join(place.with_suffix("").parts)
    hidden: set[int] = set()  # lines of docstrings, which become notes
    notes: dict[int, tuple[int, str, str]] = {}  # first line of a row -> its last line, id, note
    for node, name in documented(tree):
        doc = ast.get_docstring(node)
        body = node.body[0]
        known = links(tests=tests.get((module, name)), stages=stages.get(f"{place}:{node.lineno} {name}"))
        last = body.lineno - 1 if doc else max(node.lineno, body.lineno - 1)
        hidden |= set(range(body.lineno, body.end_lineno + 1)) if doc else set()
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        if body.lineno > node.lineno:
            notes[first] = last, f"{path.stem}.{name}", (prose(doc) if doc else "") + known
    lead = ast.get_docstring(tree)
    if lead:
        hidden |= set(range(1, tree.body[0].end_lineno + 1))
    rows = [f'<div class="row"><pre></pre><div class="note">{prose(lead)}</div></div>'] if lead else []
    pending: list[int] = []

    def row(which: list[int], kind: str = "", note: str = "", name: str = "") -> None:
        code = "\n".join(f"<s>{line:4} </s>{lines[line - 1]}" for line in which)
        anchor = f' id="{escape(name)}"' if name else ""
        side = f'<div class="{kind}">{note}</div>' if note else ""
        rows.append(f'<div class="row"{anchor}><pre>{code}</pre>{side}</div>')

    line = 1
    while line <= len(lines):
        if line in notes:
            if pending:
                row(pending)
                pending = []
            last, name, note = notes[line]
            row([*range(line, last + 1)], "note", note, name)
            line = last
        elif line not in hidden:
            pending.append(line)
            if (str(path), line) in numbers:
                if pending[:-1]:
                    row(pending[:-1])
                kind = "number" if (str(path), line) in example else "number other"
                row(pending[-1:], kind, "<br>".join(map(escape, numbers[str(path), line])))
                pending = []
        line += 1
    while pending and not lines[pending[-1] - 1]:
        pending.pop()
    if pending:
        row(pending)
    return f'<div class="source">{"".join(rows)}</div>'


# --- READMEs ---


def inline(text: str) -> str:
    """Code, bold and links of a line of Markdown; links lead to addresses only."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    text = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)
    text = re.sub(r"(?<![\w*])\*([^*\s][^*]*)\*(?!\w)", r"<em>\1</em>", text)
    return re.sub(
        r"\[([^]]+)\]\((https://[^)\s]+)\)",
        r'<a href="\2">\1</a>',
        re.sub(r"\[([^]]+)\]\((?!https)[^)]+\)", r"\1", text),
    )


def markdown(text: str) -> str:
    """The part of Markdown that our READMEs use: headings, paragraphs, lists, tables, code."""
    done = []
    for part in re.split(r"(^```\w*\n.*?^```$)", text, flags=re.M | re.S):
        if part.startswith("```"):
            done.append(f"<pre>{escape(part.split(chr(10), 1)[1][:-4])}</pre>")
            continue
        for block in filter(str.strip, re.split(r"\n\s*\n", part)):
            lines = block.strip("\n").split("\n")
            if lines[0].startswith("#"):
                done.append(f"<h3>{inline(lines[0].lstrip('# '))}</h3>")
                lines = lines[1:]
            if not lines:
                continue
            if lines[0].startswith("|"):
                cells = [
                    [inline(cell.strip()) for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
                    for line in lines
                    if "---" not in line
                ]
                table = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in cells)
                done.append(f'<div class="wide"><table class="left">{table}</table></div>')
            elif lines[0].startswith("    "):
                done.append(f"<pre>{escape(textwrap.dedent(block).strip(chr(10)))}</pre>")
            elif re.match(r"[-*] |\d+\. ", lines[0]):
                items = re.split(r"^(?:[-*]|\d+\.) ", "\n".join(lines), flags=re.M)[1:]
                tag = "ol" if lines[0][0].isdigit() else "ul"
                done.append(f"<{tag}>" + "".join(f"<li>{inline(item)}</li>" for item in items) + f"</{tag}>")
            else:
                done.append(f"<p>{inline(' '.join(lines))}</p>")
    return "\n".join(done)


# --- the pages ---


def turn(names: list[str], i: int) -> str:
    """Links to the pages before and behind."""
    targets = [("index", "contents")]
    targets += [(name, f"← {name}") for name in names[max(0, i - 1) : i]]
    targets += [(name, f"{name} →") for name in names[i + 1 : i + 2]]
    return " · ".join(f'<a href="{to}.html">{text}</a>' for to, text in targets)


def first_sentence(folder: Path) -> str:
    """What a chapter is, from the first paragraph of its README or of its docstring."""
    text = (
        read(folder / "README.md").split("\n", 1)[1] if folder.is_dir() else ast.get_docstring(ast.parse(read(folder)))
    )
    return " ".join(text.strip().split("\n\n")[0].split()).split(". ")[0].rstrip(".:")


def make_book(output: Path) -> dict[str, int]:
    """Write all pages into a folder; what there is of what, for people."""
    make_folder(output)
    with tempfile.TemporaryDirectory() as scratch:
        numbers, example, traced = run_example(Path(scratch), PACKAGE)
    tests, stages = tests_by_name(), stages_by_place(traced)
    names = [name.removesuffix(".py") for name in chapters()]
    counts = {"chapters": len(names), "lines": 0, "lines with numbers": len(numbers)}
    contents = []
    for i, name in enumerate(names):
        folder = PACKAGE / name if (PACKAGE / name).is_dir() else PACKAGE / f"{name}.py"
        files = files_of(folder)
        readme = read(folder / "README.md").split("\n", 1)[1] if folder.is_dir() else ""
        sections = [("What it is for", f"<p>{turn(names, i)}</p>{markdown(readme)}")]
        sections += [(path.name, source(path, numbers, example, tests, stages)) for path in files]
        write_text(output / f"{name}.html", page(f"{i + 1}. {name}", TITLE, sections, STYLE))
        size = sum(read(path).count("\n") for path in files)
        counts["lines"] += size
        cells = f'<a href="{name}.html">{i + 1}.&nbsp;{name}</a>', inline(first_sentence(folder)), f"{size:,}"
        contents.append("".join(f"<td>{cell}</td>" for cell in cells))
    for folder in sorted({path.parent for path in (ROOT / "tests").glob("*/test_*.py")}):
        sections = [(path.name, source(path, {}, set(), {}, {})) for path in sorted(folder.glob("test_*.py"))]
        write_text(output / f"tests-{folder.name}.html", page(f"tests of {folder.name}", TITLE, sections, STYLE))
    write_text(output / "example.html", as_html(traced))
    table = f'<div class="wide"><table class="left"><tr>{"</tr><tr>".join(contents)}</tr></table></div>'
    note = (
        '<p>Green numbers are those of an example: <a href="example.html">its trace, stage by stage</a>. Grey ones are '
        "of a small training, or of questions and tags. Each line has what it made when it ran first.</p>"
    )
    program = read(ROOT / "README.md").split("## Distillation in one screen")[1].split("\n## ")[0]
    sections = [("Chapters", note + table), ("Distillation in one screen", markdown(program))]
    write_text(output / "index.html", page(TITLE, "code, explanations, numbers", sections, STYLE))
    return counts | {"kB": sum(path.stat().st_size for path in output.glob("*.html")) // 1000}


def main(arguments: list[str] | None = None) -> int:
    """Run the script; the exit status is 2, with one line on stderr, where nothing can be written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the pages")
    given = parser.parse_args(arguments)
    try:
        counts = make_book(given.output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(", ".join(f"{count:,} {what}" for what, count in counts.items()) + f": {given.output / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
