import base64
import io
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from pullback.analysis.anisotropy import Anisotropy, Dimension, MeanSpectrum
from pullback.analysis.homogeneity import PairSummary
from pullback.analysis.job import Analysis
from pullback.analysis.mean_metric import MeanMetric
from pullback.report.figures import (
    VERMILION,
    axes_figure,
    certificate_figure,
    cumulative_figure,
    homogeneity_figure,
    spectrum_figure,
    to_data_uri,
)

MEAN = np.array([6.0, 3.0, 0.9, 0.1])


def make_analysis(mean=MEAN, total=10.0, needed=3, log=None, linear=None, pair_mean=0.4):
    points = 3
    log = np.array([[1.0, 0.2, 0.3], [0.4, 1.0, 0.5], [0.6, 0.4, 1.0]]) if log is None else log
    linear = np.where(np.eye(points, dtype=bool), 1.0, 0.25) if linear is None else linear
    summary = PairSummary(pair_mean, 0.1, 0.4, (0.3, 0.5), 6)
    return Analysis(
        name="fake",
        snapshot="S1",
        samples=points,
        anisotropy=Anisotropy(
            MeanSpectrum(mean, mean * 0.5, mean * 2),
            np.stack([mean * 0.9, mean * 1.1]),
            total,
            (Dimension(0.95, 2, needed, (1, 2), (2, 3)),),
        ),
        compared=np.arange(points),
        log=log,
        linear=linear,
        log_summary=summary,
        linear_summary=summary,
        mean_metric=MeanMetric(mean, np.eye(4), np.stack([mean, mean])),
        certificate={},
        draws=10,
        seed=0,
    )


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_spectrum_shows_mean_band_and_interval_by_rank_on_a_log_axis():
    (axes,) = spectrum_figure(make_analysis()).axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [1, 2, 3, 4]
    assert line.get_ydata().tolist() == MEAN.tolist()
    assert axes.get_yscale() == "log"
    band, interval = (area.get_paths()[0].vertices[:, 1] for area in axes.collections)
    assert (band.min(), band.max()) == (0.05, 12.0)
    assert (interval.min(), interval.max()) == pytest.approx((0.09, 6.6))
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["5–95 % of 3 points", "95 % interval of the mean", "mean"]
    assert axes.get_xlabel() == "rank"
    assert "squared distance / latent length²" in axes.get_ylabel()


def test_null_eigenvalues_neither_stretch_the_axis_nor_are_drawn():
    (axes,) = spectrum_figure(make_analysis(np.array([1.0, 0.5, 1e-17, 0.0]), 1.5)).axes
    assert np.isnan(axes.lines[0].get_ydata()[2:]).all()
    assert axes.get_ylim()[0] > 1e-13


def test_the_remainder_starts_after_the_first_rank_and_counts_dropped_pairs():
    (axes,) = cumulative_figure(make_analysis()).axes
    assert axes.lines[0].get_ydata()[:3] == pytest.approx([0.4, 0.1, 0.01])
    assert np.isnan(axes.lines[0].get_ydata()[3])
    (axes,) = cumulative_figure(make_analysis(total=20.0)).axes
    assert axes.lines[0].get_ydata() == pytest.approx([0.7, 0.55, 0.505, 0.5])
    assert axes.get_yscale() == "log"


def test_each_dimension_is_marked_where_the_share_is_reached_and_labelled():
    (axes,) = cumulative_figure(make_analysis()).axes
    (marker,) = (line for line in axes.lines if line.get_marker() == "o")
    assert marker.get_xdata() == [3]
    assert marker.get_ydata() == pytest.approx([0.05])
    assert "dim(95 %) = 2 [1, 2]" in texts(axes)


def test_a_share_that_was_not_reached_is_said_and_not_marked():
    (axes,) = cumulative_figure(make_analysis(total=20.0, needed=None)).axes
    assert not [line for line in axes.lines if line.get_marker() == "o"]
    assert "dim(95 %): more than the 4 kept" in texts(axes)


def test_homogeneity_shows_the_matrix_and_off_diagonal_histograms_with_their_means():
    analysis = make_analysis()
    matrix, upper, lower, bar = _homogeneity_axes(homogeneity_figure(analysis))
    off_diagonal = ~np.eye(3, dtype=bool)
    shown = np.ma.filled(matrix.images[0].get_array(), np.nan)
    assert np.array_equal(shown, np.where(off_diagonal, analysis.log, np.nan), equal_nan=True)
    assert matrix.images[0].norm.vmax == 0.6
    assert bar.get_ylabel() == "C_log"
    for axes, values in ((upper, [0.2, 0.3, 0.4, 0.4, 0.5, 0.6]), (lower, [0.25] * 6)):
        heights = [bar.get_height() for bar in axes.patches]
        edges = [bar.get_x() for bar in axes.patches] + [axes.patches[-1].get_x() + axes.patches[-1].get_width()]
        assert heights == np.histogram(values, edges)[0].tolist()
        assert sum(heights) == 6
        assert list(axes.lines[0].get_xdata()) == [0.4, 0.4]
    assert upper.get_title(loc="left") == "C_log: mean 0.400 (line), 95 % [0.300, 0.500]"
    assert lower.get_title(loc="left").startswith("C_lin")


def test_homogeneity_without_any_defined_pair_says_so():
    nothing = np.full((3, 3), np.nan)
    figure = homogeneity_figure(make_analysis(log=nothing, linear=nothing, pair_mean=np.nan))
    _, upper, _, _ = _homogeneity_axes(figure)
    assert upper.get_title(loc="left") == "C_log: no pair has one"
    assert not upper.lines


def _homogeneity_axes(figure):
    matrix = next(axes for axes in figure.axes if axes.images)
    upper, lower = (axes for axes in figure.axes if axes.get_ylabel() == "ordered pairs")
    (bar,) = set(figure.axes) - {matrix, upper, lower}
    return matrix, upper, lower, bar


def test_a_certificate_shows_each_quantity_against_its_limit():
    values = {"symmetry_error": [1e-8, 1e-7, 1e-4], "probe_error": [0.0, 1e-3, np.nan]}
    (axes,) = certificate_figure(values, {"symmetry_error": 1e-5}).axes
    assert axes.get_xscale() == "log"
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "asymmetry of H",
        "derivative against\ndifferences",
    ]
    limit, within, beyond, median, positive, zero, *_ = axes.lines
    assert list(limit.get_xdata()) == [1e-5, 1e-5]
    assert within.get_xdata().tolist() == [1e-8, 1e-7]
    assert (beyond.get_xdata().tolist(), beyond.get_marker()) == ([1e-4], "x")
    assert to_rgba(beyond.get_markeredgecolor()) == to_rgba(VERMILION)
    assert list(median.get_xdata()) == [1e-7, 1e-7]
    assert positive.get_xdata().tolist() == [1e-3]
    assert zero.get_markerfacecolor() == "none"
    assert axes.get_xlim()[0] < zero.get_xdata()[0] < 1e-8


def test_a_certificate_draws_magnitudes_and_what_a_trace_lacks():
    values = {"negative_eigenvalue": [-1e-6], "trace_share": [0.9, 1.0 + 2e-16]}
    (axes,) = certificate_figure(values, {"trace_share": 0.8}).axes
    drawn = np.concatenate([line.get_xdata() for line in axes.lines if line.get_linestyle() == "None"])
    assert drawn[:2] == pytest.approx([1e-6, 0.1])
    bars = [line.get_xdata()[0] for line in axes.lines if line.get_color() == VERMILION]
    assert bars[0] == pytest.approx(0.2)
    assert axes.get_xlim()[0] > 1e-9


def test_a_quantity_that_was_not_computed_is_said_to_be_so():
    (axes,) = certificate_figure({"probe_error": [np.nan, np.nan]}, {}).axes
    assert texts(axes) == ["not computed"]
    assert not axes.lines


def test_image_strips_stand_in_blocks_rows_and_columns():
    images = np.random.default_rng(0).uniform(size=(2, 3, 4, 10, 20, 3))
    distances = np.arange(24.0).reshape(2, 3, 4) / 100
    figure = axes_figure(images, ["a", "b", "c"], ["-2", "-1", "1", "2"], ["left", "right"], distances)
    (axes,) = figure.axes
    canvas = axes.images[0].get_array()
    line, gap = round(0.26 * 10), round(0.3 * 20)
    assert canvas.shape == (3 * (10 + line), 2 * 4 * 20 + gap, 3)
    for face, row, step in np.ndindex(2, 3, 4):
        y, x = row * (10 + line), face * (4 * 20 + gap) + 20 * step
        assert np.array_equal(canvas[y : y + 10, x : x + 20], images[face, row, step])
    assert (canvas[10 : 10 + line] == 1).all()
    assert (canvas[:, 80 : 80 + gap] == 1).all()
    written = texts(axes)
    for expected in ("a", "b", "c", "left", "right"):
        assert written.count(expected) == 1
    for expected in ("-2", "-1", "1", "2"):
        assert written.count(expected) == 2
    ends = sorted(float(text) for text in written if text.startswith("0."))
    assert ends == sorted(distances[:, :, [0, -1]].ravel().tolist())


def test_image_pixels_are_square_on_the_page():
    figure = axes_figure(np.zeros((1, 2, 3, 8, 8, 3)), ["a", "b"], ["1", "2", "3"], ["x"], np.zeros((1, 2, 3)))
    (axes,) = figure.axes
    rows, columns, _ = axes.images[0].get_array().shape
    box = axes.get_window_extent()
    assert box.width / columns == pytest.approx(box.height / rows)


def test_strips_of_another_shape_or_range_are_refused():
    images, distances = np.zeros((1, 2, 3, 8, 8, 3)), np.zeros((1, 2, 3))
    with pytest.raises(ValueError, match=r"are needed, got \[1, 2, 3, 8, 8, 3\]"):
        axes_figure(images, ["a"], ["1", "2", "3"], ["x"], distances)
    with pytest.raises(ValueError, match="outside"):
        axes_figure(images - 0.1, ["a", "b"], ["1", "2", "3"], ["x"], distances)


def test_a_data_address_holds_the_png_at_its_resolution():
    figure = spectrum_figure(make_analysis())
    address = to_data_uri(figure, dpi=50)
    prefix = "data:image/png;base64,"
    assert address.startswith(prefix)
    with Image.open(io.BytesIO(base64.b64decode(address[len(prefix) :]))) as image:
        assert image.format == "PNG"
        assert image.size == (350, 210)


def test_figures_leave_pyplot_alone():
    code = "import sys, pullback.report.figures; print('matplotlib.pyplot' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
