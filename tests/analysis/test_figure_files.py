"""Figures as files, and the numbers that are read from them."""

import csv
import io
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from pullback.analysis.drawing import (
    CONTROL,
    draw_band,
    draw_errors,
    draw_heat_map,
    draw_histogram,
    draw_line,
    draw_marker,
    guide,
    label_ends,
    log_axis,
    new_figure,
    plain_axes,
    rank_axis,
    series,
    similarity_order,
)
from pullback.analysis.figure_files import FORMATS, figure_tables, to_bytes


@pytest.fixture(scope="module")
def plotted():
    """A figure with a line, a band, a guide and a single marker."""
    figure = new_figure("plotted")
    axes = plain_axes(figure, x="rank", y="rate (1 / length²)")
    draw_band(axes, [1, 2, 3], [1, 0.5, 0.1], [3, 2, 1], label="spread")
    draw_line(axes, [1, 2, 3], [2, np.nan, 0.5], label="mean")
    draw_marker(axes, 2, 0.7, label="mark")
    guide(axes, y=0.3, text="limit")
    rank_axis(axes, 3)
    log_axis(axes.yaxis)
    return figure


def rows_of(figure):
    (table,) = figure_tables(figure)
    return list(csv.DictReader(io.StringIO(table.csv())))


def test_the_numbers_of_a_figure_are_those_that_are_drawn(plotted):
    rows = rows_of(plotted)
    assert list(rows[0]) == ["series", "rank", "rate (1 / length²)", "low", "high"]
    found = {(row["series"], float(row["rank"])): tuple(row.values())[2:] for row in rows}
    assert found == {
        ("mean", 1): ("2", "", ""),
        ("mean", 2): ("", "", ""),
        ("mean", 3): ("0.5", "", ""),
        ("mark", 2): ("0.7", "", ""),
        ("spread", 1): ("", "1", "3"),
        ("spread", 2): ("", "0.5", "2"),
        ("spread", 3): ("", "0.1", "1"),
    }


@pytest.mark.parametrize("kind", FORMATS)
def test_a_figure_gives_the_same_file_each_time(plotted, kind):
    one, two = (to_bytes(plotted, kind, dpi=100) for _ in range(2))
    assert one == two
    if kind == "png":
        with Image.open(io.BytesIO(one)) as image:
            assert (image.format, image.size) == ("PNG", (340, 250))
    elif kind == "svg":
        root = ElementTree.fromstring(one)
        assert float(root.attrib["width"].removesuffix("pt")) == pytest.approx(3.4 * 72)
        names = [each.attrib["id"] for each in root.iter() if "id" in each.attrib]
        assert len(names) == len(set(names))
    else:
        assert one.startswith(b"%PDF")


def test_a_heat_map_gives_its_matrix_in_the_order_in_which_it_is_drawn():
    matrix = np.array([[1.0, 0.1, 0.9], [0.1, 1.0, 0.2], [0.9, 0.2, np.nan]])
    order = similarity_order(matrix)
    assert abs(list(order).index(0) - list(order).index(2)) == 1, "similar rows are neighbours"
    figure = new_figure()
    axes = plain_axes(figure, x="sample j", y="sample i")
    draw_heat_map(axes, matrix, "C", order=order, names=[5, 6, 7])
    (table,) = figure_tables(figure)
    names = [[5, 6, 7][i] for i in order]
    assert table.columns == ("sample i \\ sample j", *map(str, names))
    for row, i in zip(table.rows, order, strict=True):
        np.testing.assert_array_equal(row[1:], matrix[i, order])


def test_histograms_of_different_sizes_are_compared_by_their_shares():
    figure = new_figure()
    axes = plain_axes(figure, x="value", y="samples (%)")
    heights = draw_histogram(axes, [0.1, 0.2, 0.9, np.nan], [0, 0.5, 1], label="own")
    control = draw_histogram(axes, np.full(50, 0.9), [0, 0.5, 1], CONTROL, label="control", filled=False)
    assert heights == pytest.approx([200 / 3, 100 / 3])
    assert control.tolist() == [0, 100]
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 100, "the taller histogram is not cut"
    assert [(row["series"], float(row["value"]), row["samples (%)"]) for row in rows_of(figure)] == [
        ("own", 0.25, "66.6666667"),
        ("own", 0.75, "33.3333333"),
        ("control", 0.25, "0"),
        ("control", 0.75, "100"),
    ]


def test_intervals_are_part_of_the_numbers():
    figure = new_figure()
    axes = plain_axes(figure, x="k", y="overlap")
    draw_errors(axes, [1, 2], [0.5, 0.6], [0.4, 0.5], [0.6, 0.7], label="mean")
    found = [tuple(row.values()) for row in rows_of(figure)]
    assert ("mean", "1", "0.5", "", "") in found
    assert ("interval of mean", "2", "", "0.5", "0.7") in found


def test_several_panels_give_a_table_each():
    figure = new_figure()
    for position, name in ((121, "left"), (122, "right")):
        axes = plain_axes(figure, position, x="x", y="y")
        axes.set_label(name)
        draw_line(axes, [1, 2], [3, 4], label="a")
    assert [(table.name, len(table.rows)) for table in figure_tables(figure)] == [("left", 2), ("right", 2)]
    assert figure_tables(new_figure()) == []


def test_names_at_the_ends_of_lines_do_not_overlap():
    figure = new_figure()
    axes = plain_axes(figure)
    lines = [
        draw_line(axes, [1, 2], [0, height], series(i), f"line {i}") for i, height in enumerate([1.0, 1.0, 0.99, 0])
    ]
    label_ends(axes, lines)
    heights = {text.get_text(): text.xy[1] for text in axes.texts}
    inches = axes.get_window_extent().height / figure.dpi
    gaps = np.diff(sorted(heights.values())) * inches * 72
    assert (gaps >= 8).all()
    assert max(heights.values()) <= 1


@pytest.mark.parametrize(("low", "high"), [(1e-9, 1.0), (1.0, 8.0), (0.02, 5.0), (3.0, 3.5)])
def test_log_axes_have_few_ticks_and_at_least_two(low, high):
    figure = new_figure()
    axes = plain_axes(figure)
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    log_axis(axes.yaxis)
    figure.draw_without_rendering()
    shown = [tick for tick in axes.get_yticks() if low <= tick <= high]
    assert 1 <= len(shown) <= 8
    if high > 3.5:
        assert len(shown) >= 2
    assert all(text.get_text() for text in axes.get_yticklabels())


def test_long_names_of_axes_are_broken_and_whole_in_the_numbers():
    figure = new_figure()
    name = "eigenvalue of a sweep with a long name (squared distance / latent length²)"
    axes = plain_axes(figure, x=name, y=name)
    draw_line(axes, [1, 2], [3, 4])
    figure.draw_without_rendering()
    for label in (axes.xaxis.label, axes.yaxis.label):
        box = label.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
    assert figure_tables(figure)[0].columns == ("series", name, f"{name} (2)")


def test_styles_are_distinguished_without_their_colours():
    looks = {(str(series(i).dashes), series(i).marker) for i in range(6)}
    assert len(looks) == 6
