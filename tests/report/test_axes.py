"""Curves among rows, and labels and scales of axes."""

from __future__ import annotations

import itertools

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from lightexp.core.formatting import format_binary_bytes
from lightexp.report import axes


def test_find_curves_needs_three_rows_of_one_name() -> None:
    names = ["control", "a sparsity=0.5", "b sparsity=0.5", "a sparsity=0.8", "a sparsity=0.9", "b sparsity=0.8"]
    (curve,) = axes.find_curves(names)
    assert (curve.style["label"], curve.indices, curve.values) == ("a", [1, 3, 4], ["0.5", "0.8", "0.9"])


def test_draw_point_names_a_style_once_in_the_legend() -> None:
    plot = Figure().add_subplot()
    for x in (1.0, 2.0):
        axes.draw_point(plot, x, 0.5, 0.1, axes.POINT_STYLES["row"])
    axes.draw_point(plot, 3.0, 0.5, None, axes.POINT_STYLES["control"])
    assert plot.get_legend_handles_labels()[1] == ["row", "control"]


def make_points(count: int, important: int = 1) -> list[axes.PlotPoint]:
    """Return points on a diagonal, of which one in `important` is important."""
    return [axes.PlotPoint(f"row {n}", f"title {n}", float(n), 0.5 + n, n % important == 0) for n in range(count)]


def test_finish_axes_labels_important_points_of_many() -> None:
    for size, count in (((12, 8), 40), ((3.3, 2.7), 20)):
        plot = Figure(figsize=size, layout="constrained").add_subplot()
        points = make_points(count, 10)
        plot.plot([point.x for point in points], [point.y for point in points], marker="o", label="row")
        sentence = axes.finish_axes(plot, points)
        assert [text.get_text() for text in plot.texts] == [f"title {n}" for n in range(0, count, 10)]
        assert sentence == f"{count - count // 10} points off the front have no label."


def test_finish_axes_places_labels_where_points_end_up() -> None:
    figure = Figure(figsize=(7, 4.4), layout="constrained")
    plot = axes.add_axes(figure, "a long label of the x axis\nin two lines", "a label of the y axis\nin two lines")
    rng = np.random.default_rng(3)
    xy = rng.uniform(1e3, 1e6, (24, 2))
    points = [axes.PlotPoint("", f"name of row {n}", float(x), float(y), n % 2 == 0) for n, (x, y) in enumerate(xy)]
    for point in points:
        axes.draw_point(plot, point.x, point.y, 3e4, axes.POINT_STYLES["row"])
    axes.scale_log2_axis(plot, [point.x for point in points], "{:g}".format)
    axes.finish_axes(plot, points)
    figure.draw_without_rendering()
    assert len(plot.texts) > 12
    boxes = [Text.get_window_extent(text).padded(-0.1) for text in plot.texts]  # without the line to the point
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(box.contains(*plot.transData.transform((point.x, point.y))) for box in boxes for point in points)
    assert all(plot.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_finish_axes_names_the_labels_without_room() -> None:
    plot = Figure(figsize=(6, 4)).add_subplot()
    points = [axes.PlotPoint("", f"a very long name of a row {n}", 1.0, 1.0, is_important=True) for n in range(20)]
    plot.plot([1.0], [1.0], marker="o", label="row")
    sentence = axes.finish_axes(plot, points)
    assert 0 < len(plot.texts) < 20
    assert sentence.startswith("Without a label for want of room: a very long name of a row 1")


def test_scale_log2_axis_has_ticks_at_powers_of_two() -> None:
    plot = Figure().add_subplot()
    axes.scale_log2_axis(plot, [1000.0, 4000.0], format_binary_bytes)
    assert plot.get_xscale() == "log"
    ticks = plot.xaxis.get_major_locator()()
    assert {1024.0, 1536.0, 2048.0, 4096.0} <= set(ticks)
    assert plot.xaxis.get_major_formatter()(1536.0, 0) == "1.5 KiB"


def test_draw_points_makes_a_picture_of_many() -> None:
    plot = Figure().add_subplot()
    points = [
        axes.StyledPoint(float(n), n % 7, 0.1 if n % 2 else None, axes.POINT_STYLES["row"], n % 500 == 0)
        for n in range(axes.MAX_MARKS + 1)
    ]
    sentence = axes.draw_points(plot, points)
    assert sentence == "998 points are drawn as one picture, without error bars, which table.csv has."
    pictures = [line for line in plot.lines if line.get_rasterized()]
    assert [len(line.get_xdata()) for line in pictures] == [998]
    assert [len(container.lines[0].get_xdata()) for container in plot.containers] == [3]
    assert plot.get_legend_handles_labels()[1] == ["row"]
    few = Figure().add_subplot()
    assert axes.draw_points(few, points[1:]) == ""
    assert len(few.containers) == axes.MAX_MARKS
