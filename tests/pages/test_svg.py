"""Figures: what they draw stands where its numbers are, and what they write is text."""

import xml.etree.ElementTree as ET

import pytest

from kd_scratch.pages.svg import Bar, confusion, curves, dots, grid, heat_map, reliability, ticks, trade_off

SVG = "{http://www.w3.org/2000/svg}"


def texts_of(svg: str) -> list[str]:
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


def test_ticks_are_round_and_inside():
    assert ticks(0.912, 0.958) == [0.92, 0.93, 0.94, 0.95]
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0] and ticks(3.0, 3.0) == [3.0]
    assert ticks(-0.3, 0.3) == [-0.2, 0.0, 0.2]


def test_dots_stand_where_their_values_are():
    bars = [Bar("a <b>", [0.90, 0.92], 0.91, 0.01), Bar("c", [0.95], 0.95, None, grey=True)]
    root = ET.fromstring(svg := dots("title & more", "accuracy", bars, ("teacher", 0.96)))
    circles = [(float(c.get("cx")), float(c.get("cy")), float(c.get("r"))) for c in root.iter(f"{SVG}circle")]
    (x1, y1, _), (x2, _, _), (mean, y, r), (x4, y4, _), (x5, _, _) = circles
    assert x1 < mean < x2 < x4 == x5 and mean == pytest.approx((x1 + x2) / 2, abs=0.2) and y == y1 < y4 and r > 5
    assert [c.get("fill") == "#777777" for c in root.iter(f"{SVG}circle")] == [False] * 3 + [True] * 2
    assert {"title & more", "a <b>", "c", "accuracy, per cent", "teacher 96.00"} <= set(texts_of(svg))


def test_correlations_below_0_stand_where_they_are():
    bars = [Bar("a", [-0.2, 0.2], 0.0, None), Bar("b", [0.0], 0.0, None)]
    circles = [float(c.get("cx")) for c in ET.fromstring(dots("t", "m", bars, ("teacher", 0.3))).iter(f"{SVG}circle")]
    assert circles[0] < circles[2] < circles[1] and circles[2] == circles[3]


def test_long_names_of_dots_have_room_and_odd_ones_leave_the_picture_whole():
    name = "another study of students: soft targets\x1b"
    root = ET.fromstring(dots("t", "accuracy", [Bar(name, [0.9], 0.9, None)], ("teacher", 0.96)))
    [label] = [element for element in root.iter(f"{SVG}text") if element.text.startswith("another")]
    assert float(label.get("x")) > 7 * len(label.text) and label.text.endswith("…")


def test_a_grid_has_a_number_in_every_cell_and_the_highest_is_the_darkest():
    svg = grid("t", "alpha", "temperature", {(0.5, 1.0): 0.9, (0.5, 2.0): 0.91, (0.9, 1.0): 0.92})
    assert {"90.00", "91.00", "92.00", "0.5", "0.9", "1", "2"} <= set(texts_of(svg))
    strengths = [float(r.get("fill-opacity")) for r in ET.fromstring(svg).iter(f"{SVG}rect") if r.get("fill-opacity")]
    assert strengths == sorted(strengths) and len(set(strengths)) == 3 and strengths[-1] == 0.75


def test_reliability_leaves_out_bins_of_few():
    bins = [(0.3, 0.2, 9), (0.5, 0.5, 10), (0.9, 0.8, 100)]
    root = ET.fromstring(reliability("t", {"teacher": bins, "other": bins[1:]}))
    lines = [len(line.get("points").split()) for line in root.iter(f"{SVG}polyline")]
    assert lines == [2, 2] and "other" in texts_of(reliability("t", {"other": bins}))


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    """The corners of every line drawn through points."""
    lines = [element.get("points").split() for element in ET.fromstring(svg).iter(f"{SVG}polyline")]
    return [[tuple(map(float, point.split(","))) for point in line] for line in lines]


def test_curves_go_through_their_points():
    lines = {"teacher": [(1, 2.0), (2, 1.0), (3, 1.5)], "<b>": [(1, 1.0), (3, 2.0)]}
    svg = curves("a & b", "epochs", "loss", lines)
    (a, b, c), (d, e) = points_of(svg)
    assert a[0] == d[0] and c[0] == e[0] and b[0] == pytest.approx((a[0] + c[0]) / 2, abs=0.1)
    assert a[1] == e[1] < c[1] < b[1] == d[1] and c[1] == pytest.approx((a[1] + b[1]) / 2, abs=0.1)
    assert {"a & b", "epochs", "loss", "teacher", "<b>"} <= set(texts_of(svg))
    assert len(list(ET.fromstring(svg).iter(f"{SVG}circle"))) == 5


def test_long_curves_have_no_dots_and_flat_ones_are_drawn_too():
    svg = curves("t", "x", "y", {"a": [(i, 1.0) for i in range(21)]})
    assert not list(ET.fromstring(svg).iter(f"{SVG}circle"))
    assert len({y for _, y in points_of(svg)[0]}) == 1
    assert len(points_of(curves("t", "x", "y", {"a": [(1, 0.0)]}))[0]) == 1


def test_the_front_of_a_trade_off_leaves_out_what_another_beats():
    points = {
        "teacher": (40.0, 0.96, (0.95, 0.97)),
        "worse": (20.0, 0.93, (0.92, 0.94)),
        "student": (18.0, 0.95, (0.94, 0.96)),
        "int8": (10.0, 0.94, (0.93, 0.95)),
    }
    svg = trade_off("t", "ms", "accuracy", points)
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in ET.fromstring(svg).iter(f"{SVG}circle")]
    (front,) = points_of(svg)
    assert front == sorted(circles[i] for i in (0, 2, 3)), "without the worse one"
    (x1, y1), _, _, (x4, y4) = circles
    left = x1 - 4 * (x1 - x4) / 3  # 40 is four times 10: the axis begins with 0
    assert left == pytest.approx(62, abs=0.3) and y1 < y4
    assert {"ms", "accuracy, per cent", "worse"} <= set(texts_of(svg))


def test_a_confusion_shades_the_share_of_a_row():
    counts = {("a", "a"): 30, ("a", "b"): 10, ("b", "b"): 5}
    svg = confusion("t", ["a", "b"], counts)
    shades = [float(r.get("fill-opacity")) for r in ET.fromstring(svg).iter(f"{SVG}rect") if r.get("fill-opacity")]
    assert shades == [pytest.approx(0.75 * share, abs=0.006) for share in (0.75, 0.25, 1)]
    assert {"30", "10", "5", "gold", "prediction"} <= set(texts_of(svg))


def test_a_heat_map_has_a_row_for_each_piece():
    svg = heat_map("t", ["[CLS]", "<b>"], [[0.9, 0.1], [0.001, 0.999]])
    rects = [r for r in ET.fromstring(svg).iter(f"{SVG}rect") if r.get("fill-opacity")]
    assert [float(r.get("fill-opacity")) for r in rects] == [0.9, 0.1, 1.0], "what is next to nothing stays white"
    assert rects[0].get("y") == rects[1].get("y") < rects[2].get("y") and rects[1].get("x") == rects[2].get("x")
    assert texts_of(svg).count("<b>") == 2


def test_a_legend_goes_on_in_the_next_row_and_the_picture_grows():
    few, many = (curves("t", "x", "y", {f"model number {i}": [(1, i), (2, i)] for i in range(n)}) for n in (2, 9))
    heights = [float(ET.fromstring(svg).get("viewBox").split()[3]) for svg in (few, many)]
    assert heights[1] == heights[0] + 2 * 20
    names = [e for e in ET.fromstring(many).iter(f"{SVG}text") if (e.text or "").startswith("model number")]
    assert len(names) == 9 and all(float(e.get("x")) + 7.2 * len(e.text) <= 480 for e in names)
    assert len({(e.get("x"), e.get("y")) for e in names}) == 9


def test_long_class_names_are_turned_and_shortened():
    classes = [f"credit_card_application_{i}" for i in range(8)]
    svg = confusion("t", classes, {(classes[0], classes[1]): 1})
    turned = [e for e in ET.fromstring(svg).iter(f"{SVG}text") if e.get("transform")]
    names = [text for text in texts_of(svg) if "credit" in text]
    assert len(turned) == 9 and len(names) == 16 and max(map(len, names)) == 14


def test_control_characters_do_not_reach_a_figure():
    svg = curves("a\x1b[2J", "x", "y", {"b\x00": [(1, 1)]})
    assert "\x1b" not in svg and "\x00" not in svg and "a\\x1b[2J" in texts_of(svg)
