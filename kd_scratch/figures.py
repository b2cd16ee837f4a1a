"""Figures as SVG, by hand: self-contained, with titles, axes and legends, readable on light and dark pages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 720
#: Colours that can be told apart by colour-blind readers too (Okabe & Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #222 } .title { font-size: 15px; font-weight: 600 }
  .axis { stroke: #888; stroke-width: 1 } .rule { stroke: #ddd; stroke-width: 1 } .page { fill: #fff }
  @media (prefers-color-scheme: dark) {
    text { fill: #ddd } .axis { stroke: #999 } .rule { stroke: #444 } .page { fill: #181818 } .cell { fill: #111 }
  }
"""


@dataclass
class Bar:
    """A row of a dot plot: its single values, their mean, and half the width of an interval around it (or None)."""

    name: str
    values: Sequence[float]
    mean: float
    margin: float | None


def page(title: str, height: int, body: Sequence[str]) -> str:
    """A whole SVG file."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            f"<title>{escape(title)}</title><style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{height}"/>',
            text(16, 24, title, kind="title"),
            *body,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, said: str, anchor: str = "start", kind: str = "", turned: bool = False) -> str:
    """One line of text; turned: upwards."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}{turn}>{escape(said)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "axis", more: str = "") -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}" {more}/>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that divide a range: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    exponent = -12
    while True:
        for factor in (1, 2, 5):
            step = factor * 10.0**exponent
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)  # 1 / 0.2 is 4.999…
            count = last - first + 1
            if count <= most:
                return [round((first + i) * step, 12) for i in range(count)]
        exponent += 1


def dots(title: str, axis: str, bars: Sequence[Bar], reference: tuple[str, float]) -> str:
    """A row per name: its values as small dots, their mean as a large one with its interval; a line for comparison."""
    left, right, top, row = 150, WIDTH - 24, 64, 30
    reach = [reference[1]] + [
        x for bar in bars for x in (*bar.values, bar.mean - (bar.margin or 0), bar.mean + (bar.margin or 0))
    ]
    low, high = min(reach), max(reach)
    pad = 0.06 * (high - low) or 0.01
    low, high = max(0.0, low - pad), min(1.0, high + pad)  # an interval of few seeds may reach beyond what is possible
    bottom = top + row * len(bars)

    def at(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    body = []
    for tick in ticks(low, high):
        body.append(line(at(tick), top - 8, at(tick), bottom, "rule"))
        body.append(text(at(tick), bottom + 18, f"{100 * tick:g}", "middle"))
    body.append(line(left, bottom, right, bottom))
    body.append(text((left + right) / 2, bottom + 38, f"{axis}, per cent", "middle"))
    x = at(reference[1])
    body.append(line(x, top - 8, x, bottom, "axis", f'style="stroke: {COLOURS[1]}" stroke-dasharray="5 4"'))
    body.append(text(x, top - 14, f"{reference[0]} {100 * reference[1]:.2f}", "end" if x > WIDTH / 2 else "start"))
    for i, bar in enumerate(bars):
        y = top + row * i + row / 2
        body.append(text(left - 10, y + 4, bar.name, "end"))
        colour = COLOURS[0] if i else "#777777"
        if bar.margin is not None:
            body.append(
                line(
                    at(bar.mean - bar.margin),
                    y,
                    at(bar.mean + bar.margin),
                    y,
                    "axis",
                    f'style="stroke: {colour}; stroke-width: 2"',
                )
            )
        body += [
            f'<circle cx="{at(v):.1f}" cy="{y:.1f}" r="3" fill="{colour}" fill-opacity="0.45"/>' for v in bar.values
        ]
        hint = f"<title>{escape(bar.name)}: {100 * bar.mean:.2f}</title>"
        body.append(f'<circle cx="{at(bar.mean):.1f}" cy="{y:.1f}" r="5.5" fill="{colour}">{hint}</circle>')
    return page(title, bottom + 52, body)


def grid(title: str, across: str, down: str, cells: dict[tuple[float, float], float]) -> str:
    """Numbers by two settings, the higher the darker. cells: (across, down) -> value between 0 and 1"""
    columns, rows = (sorted({key[i] for key in cells}) for i in (0, 1))
    left, top, height = 110, 76, 40
    width = min(110.0, (WIDTH - left - 24) / len(columns))
    low, high = min(cells.values()), max(cells.values())
    body = [
        text(left + width * len(columns) / 2, top - 26, across, "middle"),
        text(24, top + height * len(rows) / 2, down, "middle", turned=True),
    ]
    body += [text(left + width * (i + 0.5), top - 8, f"{x:g}", "middle") for i, x in enumerate(columns)]
    for j, y in enumerate(rows):
        body.append(text(left - 12, top + height * (j + 0.5) + 5, f"{y:g}", "end"))
        for i, x in enumerate(columns):
            if (x, y) in cells:
                value = cells[x, y]
                strength = 0.15 + 0.6 * (value - low) / ((high - low) or 1)
                corner = f'x="{left + width * i:.1f}" y="{top + height * j:.1f}"'
                place = f'{corner} width="{width - 2:.1f}" height="{height - 2}"'
                body.append(f'<rect {place} fill="#fff"/>')  # also on a dark page
                body.append(f'<rect {place} fill="{COLOURS[5]}" fill-opacity="{strength:.2f}"/>')
                body.append(
                    text(left + width * (i + 0.5), top + height * (j + 0.5) + 5, f"{100 * value:.2f}", "middle", "cell")
                )
    return page(title, top + height * len(rows) + 20, body)


def reliability(title: str, models: dict[str, list[tuple[float, float, int]]]) -> str:
    """Share of right decisions by confidence, a line per model; on the diagonal a model is as sure as it should be.

    models: name -> bins of (mean confidence, share right, how many); those of fewer than ten decisions are left out.
    """
    left, top, side = 60, 44, 380

    def at(confidence: float, share: float) -> tuple[float, float]:
        return left + confidence * side, top + side - share * side

    body = [line(*at(0, 0), *at(1, 1), "axis", 'stroke-dasharray="5 4"')]
    for tick in (0, 0.2, 0.4, 0.6, 0.8, 1):
        body += [line(*at(0, tick), *at(1, tick), "rule"), line(*at(tick, 0), *at(tick, 1), "rule")]
        body += [
            text(at(tick, 0)[0], top + side + 18, f"{tick:g}", "middle"),
            text(left - 8, at(0, tick)[1] + 4, f"{tick:g}", "end"),
        ]
    body.append(text(left + side / 2, top + side + 38, "mean confidence of a bin", "middle"))
    body.append(text(18, top + side / 2, "share that is right", "middle", turned=True))
    for i, (name, bins) in enumerate(models.items()):
        colour, marks = COLOURS[i % len(COLOURS)], [at(c, r) for c, r, n in bins if n >= 10]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in marks)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in marks]
        y = top + 20 + 24 * i
        body.append(
            line(left + side + 28, y, left + side + 54, y, "axis", f'style="stroke: {colour}; stroke-width: 2"')
        )
        body.append(text(left + side + 62, y + 4, name))
    return page(title, top + side + 52, body)
