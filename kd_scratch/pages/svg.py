"""Figures as SVG, by hand: self-contained, with titles, axes and legends, readable on light and dark pages."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from kd_scratch.common.console import shorten
from kd_scratch.common.errors import printable

WIDTH, NARROW = 720, 480  # of a whole page, and of what should still be readable on a phone
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
    """A row of a dot plot: its single values, their mean, and half the width of an interval around it (or None).

    grey: drawn without a colour, as what others are compared with.
    """

    name: str
    values: Sequence[float]
    mean: float
    margin: float | None
    grey: bool = False


def page(title: str, height: float, body: Sequence[str], width: float = WIDTH) -> str:
    """A whole SVG file."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img">',
            f"<title>{escape(printable(title))}</title><style>{STYLE}</style>",
            f'<rect class="page" width="{width:g}" height="{height:g}"/>',
            text(16, 24, title, kind="title"),
            *body,
            "</svg>\n",
        ]
    )


def text(x: float, y: float, content: str, anchor: str = "start", kind: str = "", turned: bool = False) -> str:
    """One line of text; turned: upwards."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}{turn}>{escape(printable(content))}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "axis", more: str = "") -> str:
    """A straight line."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}" {more}/>'


def ticks(low: float, high: float) -> list[float]:
    """At most six round numbers that divide a range: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    exponent = -12
    while True:
        for factor in (1, 2, 5):
            step = factor * 10.0**exponent
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)  # 1 / 0.2 is 4.999…
            count = last - first + 1
            if count <= 6:
                return [round((first + i) * step, 12) for i in range(count)]
        exponent += 1


def dots(title: str, axis: str, bars: Sequence[Bar], reference: tuple[str, float]) -> str:
    """A row per name: its values as small dots, their mean as a large one with its interval; a line for comparison."""
    names = [shorten(bar.name, 36) for bar in bars]
    reference_name, reference_score = reference
    left = max(150, 20 + 7 * max(map(len, names)))
    right, top, row = WIDTH - 24, 64, 30
    bottom = top + row * len(bars)
    reach = [reference_score]
    for bar in bars:
        margin = bar.margin or 0
        reach += [*bar.values, bar.mean - margin, bar.mean + margin]
    pad = 0.06 * (max(reach) - min(reach)) or 0.01
    least = -1.0 if any(value < 0 for bar in bars for value in bar.values) else 0.0  # a correlation
    low = max(least, min(reach) - pad)  # an interval of few seeds may reach beyond what is possible
    high = min(1.0, max(reach) + pad)

    def at(value: float) -> float:
        return left + (min(max(value, low), high) - low) / (high - low) * (right - left)

    body = []
    for tick in ticks(low, high):
        body.append(line(at(tick), top - 8, at(tick), bottom, "rule"))
        body.append(text(at(tick), bottom + 18, f"{100 * tick:g}", "middle"))
    body.append(line(left, bottom, right, bottom))
    body.append(text((left + right) / 2, bottom + 38, f"{axis}, per cent", "middle"))
    x = at(reference_score)
    body.append(line(x, top - 8, x, bottom, "axis", f'style="stroke: {COLOURS[1]}" stroke-dasharray="5 4"'))
    anchor = "end" if x > WIDTH / 2 else "start"
    body.append(text(x, top - 14, f"{reference_name} {100 * reference_score:.2f}", anchor))
    for i, bar in enumerate(bars):
        y = top + row * i + row / 2
        body.append(text(left - 10, y + 4, names[i], "end"))
        colour = "#777777" if bar.grey else COLOURS[0]
        if bar.margin is not None:
            style = f'style="stroke: {colour}; stroke-width: 2"'
            body.append(line(at(bar.mean - bar.margin), y, at(bar.mean + bar.margin), y, "axis", style))
        body += [
            f'<circle cx="{at(v):.1f}" cy="{y:.1f}" r="3" fill="{colour}" fill-opacity="0.45"/>' for v in bar.values
        ]
        hint = f"<title>{escape(printable(bar.name))}: {100 * bar.mean:.2f}</title>"
        body.append(f'<circle cx="{at(bar.mean):.1f}" cy="{y:.1f}" r="5.5" fill="{colour}">{hint}</circle>')
    return page(title, bottom + 52, body)


def grid(title: str, across: str, down: str, cells: dict[tuple[float, float], float]) -> str:
    """Numbers by two settings, the higher the darker. cells: (across, down) -> value between 0 and 1"""
    columns = sorted({x for x, _ in cells})
    rows = sorted({y for _, y in cells})
    low, high = min(cells.values()), max(cells.values())
    shown = {}
    for (x, y), value in cells.items():
        strength = 0.2 + 0.8 * (value - low) / ((high - low) or 1)
        shown[columns.index(x), rows.index(y)] = strength, f"{100 * value:.2f}"
    return matrix(title, across, down, [f"{x:g}" for x in columns], [f"{y:g}" for y in rows], shown)


def confusion(title: str, classes: Sequence[str], counts: dict[tuple[str, str], int]) -> str:
    """A confusion matrix: the darker, the more of a row. counts: (gold class, predicted class) -> how many"""
    totals = Counter()
    for (gold, _), count in counts.items():
        totals[gold] += count
    shown = {}
    for (gold, predicted), count in counts.items():
        shown[classes.index(predicted), classes.index(gold)] = count / max(1, totals[gold]), f"{count:,}"
    return matrix(title, "prediction", "gold", classes, classes, shown)


def matrix(
    title: str,
    across: str,
    down: str,
    columns: Sequence[str],
    rows: Sequence[str],
    cells: dict[tuple[int, int], tuple[float, str]],
) -> str:
    """A table of coloured cells. cells: (column, row) -> how dark, from 0 to 1, and the text in it"""
    turned = max(map(len, columns)) > 8  # they would run into each other
    left, top, height = 130, 150 if turned else 76, 40
    width = min(110.0, (NARROW - left - 8) / len(columns))
    body = [
        text(left, 48, f"{across} →") if turned else text(left + width * len(columns) / 2, top - 26, across, "middle"),
        text(18, top + height * len(rows) / 2, down, "middle", turned=True),
    ]
    for i, name in enumerate(columns):
        place = (left + width * (i + 0.6), top - 8)
        body.append(text(*place, shorten(name, 12), "start" if turned else "middle", turned=turned))
    body += [text(left - 8, top + height * (j + 0.5) + 5, shorten(name, 14), "end") for j, name in enumerate(rows)]
    for (i, j), (strength, content) in cells.items():
        corner = f'x="{left + width * i:.1f}" y="{top + height * j:.1f}"'
        body += _shade(f'{corner} width="{width - 2:.1f}" height="{height - 2}"', 0.75 * strength)
        body.append(text(left + width * (i + 0.5), top + height * (j + 0.5) + 5, content, "middle", "cell"))
    return page(title, top + height * len(rows) + 12, body, max(NARROW, 36 + 8.6 * len(title)))


def heat_map(title: str, pieces: Sequence[str], weights: Sequence[Sequence[float]]) -> str:
    """The attention of each piece (down) to all pieces (across): weights S,S, each row of sum 1."""
    side, left, top = 16, 120, 130
    pieces = [shorten(piece, 13) for piece in pieces]
    body = [text(left - 6, top + side * (j + 0.75), piece, "end") for j, piece in enumerate(pieces)]
    body += [text(left + side * (i + 0.75), top - 6, piece, turned=True) for i, piece in enumerate(pieces)]
    for j, row in enumerate(weights):
        for i, weight in enumerate(row):
            place = f'x="{left + side * i}" y="{top + side * j}" width="{side - 1}" height="{side - 1}"'
            body += _shade(place, float(weight))
    return page(title, top + side * len(pieces) + 12, body, max(NARROW, left + side * len(pieces) + 12))


def _shade(place: str, strength: float) -> list[str]:
    """A rectangle, the darker the stronger; on white, also on a dark page."""
    colour = f'<rect {place} fill="{COLOURS[0]}" fill-opacity="{strength:.2f}"/>'
    return [f'<rect {place} fill="#fff"/>', colour] if strength >= 0.005 else [f'<rect {place} fill="#fff"/>']


# --- lines and points in a frame ---

Place = Callable[[float, float], tuple[float, float]]


def frame(
    across: str, up: str, x: tuple[float, float], y: tuple[float, float], top: float, height: float = 260
) -> tuple[Place, list[str]]:
    """Axes with round numbers over the ranges x and y: where a point lies on the page, and what to draw."""
    left, right, bottom = 62, NARROW - 16, top + height

    (x_low, x_high), (y_low, y_high) = x, y

    def at(a: float, b: float) -> tuple[float, float]:
        across_share = (a - x_low) / ((x_high - x_low) or 1)
        up_share = (b - y_low) / ((y_high - y_low) or 1)
        return left + across_share * (right - left), bottom - up_share * height

    body = []
    for tick in ticks(y_low, y_high):
        _, height_of = at(0, tick)
        body.append(line(left, height_of, right, height_of, "rule"))
        body.append(text(left - 8, height_of + 4, f"{tick:,.12g}", "end"))
    for tick in ticks(x_low, x_high):
        place, _ = at(tick, 0)
        body.append(line(place, bottom, place, bottom + 5))
        body.append(text(place, bottom + 20, f"{tick:,.12g}", "middle"))
    body += [line(left, bottom, right, bottom), text((left + right) / 2, bottom + 40, across, "middle")]
    body.append(text(16, top + height / 2, up, "middle", turned=True))
    return at, body


def legend(names: Sequence[str]) -> tuple[list[str], float]:
    """A short line and a name for each colour under the title, in as many rows as that takes; and where they end."""
    body, x, y = [], 62.0, 48.0
    for i, name in enumerate(names):
        name = shorten(name, 30)
        if x > 62 and x + 23 + 7.2 * len(name) > NARROW:
            x, y = 62.0, y + 20
        body.append(line(x, y - 4, x + 18, y - 4, "axis", f'style="stroke: {_colour(i)}; stroke-width: 3"'))
        body.append(text(x + 23, y, name))
        x += 40 + 7.2 * len(name)
    return body, y + 22


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _path(name: str, marks: Sequence[tuple[float, float]], colour: str, dots: bool = True) -> list[str]:
    """A line through places on the page, with a dot on each."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in marks)
    hint = f"<title>{escape(printable(name))}</title>"
    body = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2">{hint}</polyline>']
    if dots:
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in marks]
    return body


def curves(title: str, across: str, up: str, lines: dict[str, Sequence[tuple[float, float]]]) -> str:
    """A line for each name through its points (x, y); dots where there are few."""
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    pad = 0.04 * (max(ys) - min(ys)) or 0.05 * abs(max(ys)) or 1.0
    names, top = legend(list(lines))
    at, body = frame(across, up, (min(0.0, *xs), max(xs)), (min(ys) - pad, max(ys) + pad), top)
    for i, (name, points) in enumerate(lines.items()):
        marks = [at(*point) for point in points]
        body += _path(name, marks, _colour(i), dots=len(marks) <= 20)
    return page(title, top + 314, [*names, *body], NARROW)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (cost, score) that no other one beats in both, the cheapest first."""
    front, best = [], -1.0
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if score > best:
            front.append((cost, score))
            best = score
    return front


def trade_off(title: str, across: str, up: str, points: dict[str, tuple[float, float, tuple[float, float]]]) -> str:
    """What costs what: a point (cost, score, interval of the score) for each name, and through those that no other one
    beats in both a line (the Pareto front). Scores are given from 0 to 1, and shown in per cent."""
    scores = [100 * value for _, score, bounds in points.values() for value in (score, *bounds)]
    pad = 0.06 * (max(scores) - min(scores)) or 1.0
    costs = [cost for cost, _, _ in points.values()]
    names, top = legend(list(points))
    reach = (min(scores) - pad, max(scores) + pad)
    at, body = frame(across, f"{up}, per cent", (0.0, 1.08 * max(costs)), reach, top)
    front = [at(cost, 100 * score) for cost, score in pareto_front([(c, s) for c, s, _ in points.values()])]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in front)
    body.append(f'<polyline points="{path}" fill="none" class="axis" stroke-dasharray="5 4"/>')
    for i, (name, (cost, score, bounds)) in enumerate(points.items()):
        x, y = at(cost, 100 * score)
        _, low = at(cost, 100 * bounds[0])
        _, high = at(cost, 100 * bounds[1])
        body.append(line(x, low, x, high, "axis", f'style="stroke: {_colour(i)}; stroke-width: 2"'))
        hint = f"<title>{escape(printable(name))}: {cost:,.3g}, {100 * score:.2f} %</title>"
        body.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{_colour(i)}">{hint}</circle>')
    return page(title, top + 314, [*names, *body], NARROW)


def reliability(title: str, models: dict[str, list[tuple[float, float, int]]]) -> str:
    """Share of right decisions by confidence, a line per model; on the diagonal a model is calibrated.

    models: name -> bins of (mean confidence, share right, how many); those of fewer than ten decisions are left out.
    """
    names, top = legend(list(models))
    at, body = frame("mean confidence of a bin", "share that is right", (0, 1), (0, 1), top, height=380)
    body.append(line(*at(0, 0), *at(1, 1), "axis", 'stroke-dasharray="5 4"'))
    for i, (name, bins) in enumerate(models.items()):
        marks = [at(confidence, right) for confidence, right, count in bins if count >= 10]
        body += _path(name, marks, _colour(i))
    return page(title, top + 434, [*names, *body], NARROW)
