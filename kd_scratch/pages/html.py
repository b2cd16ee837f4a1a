"""HTML pages, by hand: one file each, nothing loaded from anywhere; light and dark, for phones and for paper."""

from collections.abc import Iterable, Sequence
from html import escape

from kd_scratch.common.console import cell

STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --paper: #fff; --soft: #5b5b62; --line: #d8d8de; --tint: #f3f4f7;
  --accent: #0060a8; --good: #00734f; --bad: #b3400a }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6ea; --paper: #16171a; --soft: #a3a3ad; --line: #3a3b41;
  --tint: #202227; --accent: #6db9f2; --good: #4fc79b; --bad: #f0915a } }
* { box-sizing: border-box } html { text-size-adjust: 100% }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0.5rem 0 } h2 { font-size: 1.2rem; margin: 2rem 0 0.5rem }
h3 { font-size: 1rem; margin: 1.25rem 0 0.25rem } p, ul, ol { margin: 0.5rem 0 } a { color: var(--accent) }
nav { display: flex; flex-wrap: wrap; gap: 0.25rem 1rem; border-block: 1px solid var(--line); padding: 0.5rem 0 }
.wide { overflow-x: auto; margin: 0.5rem 0 } table { border-collapse: collapse; font-size: 0.9rem }
th, td { padding: 0.25rem 0.6rem; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top;
  font-variant-numeric: tabular-nums; overflow-wrap: normal; white-space: nowrap }
.left td { white-space: normal }
th { font-weight: 600 } th:first-child, td:first-child, .left th, .left td { text-align: left }
figure { margin: 1rem 0 } figure svg { display: block; width: 100%; max-width: 36rem; height: auto }
figcaption, .soft { color: var(--soft); font-size: 0.9rem } code, pre { font: 0.85rem/1.45 ui-monospace, monospace }
pre { background: var(--tint); padding: 0.75rem; overflow-x: auto; overflow-wrap: normal }
.side { display: flex; flex-wrap: wrap; gap: 1rem } .side > * { flex: 1 1 18rem; min-width: 0; margin: 0 }
.good { color: var(--good) } .bad { color: var(--bad) }
@media print { :root { --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --tint: #f3f3f3 } nav { display: none }
  body { max-width: none; font-size: 10pt } figure, tr { break-inside: avoid } .wide { overflow: visible } }
"""


def page(title: str, lead: str, sections: Sequence[tuple[str, str]], style: str = "") -> str:
    """A whole page. title, lead and headings are text; what the sections hold is HTML, and style more CSS."""
    links = "".join(f'<a href="#s{i}">{escape(heading)}</a>' for i, (heading, _) in enumerate(sections, 1))
    parts = (
        f'<section id="s{i}"><h2>{escape(heading)}</h2>\n{body}\n</section>'
        for i, (heading, body) in enumerate(sections, 1)
    )
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>",
            f'<header><h1>{escape(title)}</h1>\n<p class="soft">{escape(lead)}</p></header>',
            f"<nav>{links}</nav>\n<main>",
            *parts,
            "</main>\n</body>\n</html>\n",
        ]
    )


def html_table(header: Sequence[str], rows: Iterable[Sequence], left: bool = False) -> str:
    """Rows as a table that scrolls by itself where the screen is narrow; numbers as in the terminal's tables."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell(value))}</td>" for value in row) + "</tr>" for row in rows)
    kind = ' class="left"' if left else ""
    return f'<div class="wide"><table{kind}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def figure(picture: str, caption: str = "") -> str:
    """An SVG picture within a page, with a text below it."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{picture}{below}</figure>"


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of text."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"
