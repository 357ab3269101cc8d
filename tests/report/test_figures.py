import base64
import io
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from PIL import Image

from pullback.analysis.drawing import CONTROL, NO_DATA, PAGE, VERMILION, series, similarity_order
from pullback.analysis.figure_files import to_bytes
from pullback.analysis.homogeneity_figures import histogram_figure, matrix_figure
from pullback.analysis.mean_metric_figures import axes_spectrum_figure
from pullback.analysis.pair_kernel import PairValues
from pullback.analysis.spectra import MeanSpectrum, random_direction_rate
from pullback.analysis.spectrum_figures import Drawn, remainder, remainder_figure, spectra_figure
from pullback.analysis.statistics.anisotropy import Anisotropy, Dimension
from pullback.analysis.statistics.certificate import certificate_figure
from pullback.analysis.statistics.homogeneity import Homogeneity, PairSummary
from pullback.analysis.statistics.mean_metric import MeanMetric
from pullback.report.figures import strip_picture
from pullback.report.strip_figure import axes_figure

MEAN = np.array([6.0, 3.0, 0.9, 0.1])


def anisotropy(mean=MEAN, total=10.0, needed=3):
    dimension = Dimension(0.95, 2, needed, (1, 2), (2, 3), needed or 5, needed)
    ends = np.stack([mean * 0.9, mean * 1.1])
    return Anisotropy(MeanSpectrum(mean, mean * 0.5, mean * 2), ends, total, (dimension,), samples=3)


def homogeneity(log=None, linear=None, pair_mean=0.4):
    samples = 3
    log = np.array([[1.0, 0.2, 0.3], [0.4, 1.0, 0.5], [0.6, 0.4, 1.0]]) if log is None else log
    linear = np.where(np.eye(samples, dtype=bool), 1.0, 0.25) if linear is None else linear
    summary = PairSummary(pair_mean, 0.1, 0.4, (0.3, 0.5), 6)
    return Homogeneity(np.arange(samples), log, linear, summary, summary)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_the_spectrum_shows_mean_band_and_interval_by_rank_on_a_log_axis():
    figure = spectra_figure([Drawn(anisotropy())])
    (axes,) = figure.axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == [1, 2, 3, 4]
    assert line.get_ydata().tolist() == MEAN.tolist()
    assert axes.get_yscale() == "log"
    band, interval = (area.get_paths()[0].vertices[:, 1] for area in axes.collections)
    assert (band.min(), band.max()) == (0.05, 12.0)
    assert (interval.min(), interval.max()) == pytest.approx((0.09, 6.6))
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {"5–95 % of 3 samples", "95 % of the mean", "mean"}
    assert axes.get_xlabel() == "rank"
    assert "D² per latent length²" in axes.get_ylabel()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 10, 100])
def test_ranks_are_whole_numbers_from_one(ranks):
    mean = np.linspace(2, 1, ranks)
    for figure in (spectra_figure([Drawn(anisotropy(mean))]), remainder_figure([Drawn(anisotropy(mean))])):
        ticks = figure.axes[0].get_xticks()
        assert ticks[0] == 1
        assert all(tick == int(tick) <= max(ranks, 2) for tick in ticks)
        assert len(ticks) <= 8


def test_null_eigenvalues_neither_stretch_the_axis_nor_are_drawn():
    (axes,) = spectra_figure([Drawn(anisotropy(np.array([1.0, 0.5, 1e-17, 0.0]), 1.5))]).axes
    assert np.isnan(axes.lines[0].get_ydata()[2:]).all()
    assert axes.get_ylim()[0] > 1e-13


def test_spectra_of_several_sweeps_share_an_axis_and_are_distinguished_in_grey():
    entries = [Drawn(anisotropy(), "one", series(0)), Drawn(anisotropy(MEAN[:3]), "two", CONTROL)]
    figure = spectra_figure(entries)
    one, two = figure.axes[0].lines
    assert (len(one.get_xdata()), len(two.get_xdata())) == (4, 3)
    assert one.get_linestyle() != two.get_linestyle()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    lines = remainder_figure(entries).axes[0].get_legend_handles_labels()[1]
    assert {"one", "two"} <= set(lines)


def test_the_remainder_starts_after_the_first_rank_and_counts_dropped_pairs():
    assert remainder(anisotropy()) == pytest.approx([0.4, 0.1, 0.01, 0])
    (axes,) = remainder_figure([Drawn(anisotropy())]).axes
    assert axes.lines[0].get_ydata()[:3] == pytest.approx([0.4, 0.1, 0.01])
    assert np.isnan(axes.lines[0].get_ydata()[3])
    assert remainder(anisotropy(total=20.0)) == pytest.approx([0.7, 0.55, 0.505, 0.5])
    assert axes.get_yscale() == "log"


def test_each_marker_stands_at_the_number_of_ranks_that_its_label_gives():
    (axes,) = remainder_figure([Drawn(anisotropy())]).axes
    (marker,) = (line for line in axes.lines if line.get_marker() == "o")
    assert marker.get_xdata() == [3]
    assert marker.get_ydata() == pytest.approx([0.05])
    assert {"3 [2, 3]", "95 %"} <= set(texts(axes))


def test_a_share_that_was_not_reached_is_said_and_not_marked():
    (axes,) = remainder_figure([Drawn(anisotropy(total=20.0, needed=None))]).axes
    assert not [line for line in axes.lines if line.get_marker() == "o"]
    assert "more than the 4 kept" in texts(axes)


def test_axes_are_drawn_against_samples_and_against_a_random_direction():
    found = MeanMetric(MEAN, np.eye(4), np.stack([MEAN * 0.9, MEAN * 1.1]))
    figure = axes_spectrum_figure(found, MEAN * 1.5)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["mean metric's axes"].get_ydata().tolist() == MEAN.tolist()
    assert lines["samples, own directions"].get_ydata() == pytest.approx(MEAN * 1.5)
    assert set(lines["random direction"].get_ydata()) == {2.5}
    kept = axes_spectrum_figure(replace(found, whole=False))
    assert [line.get_label() for line in kept.axes[0].lines] == ["mean metric's axes"]


def test_the_rate_along_a_random_direction_is_that_of_many():
    values = np.array([5.0, 2.0, 1.0, 0.5, -0.1])
    drawn = np.random.default_rng(0).normal(size=(200_000, 5))
    rates = (np.square(drawn) @ values) / np.square(drawn).sum(axis=1)
    assert random_direction_rate(values) == pytest.approx((rates.mean(), rates.std()), rel=0.01)
    assert random_direction_rate([3.0, 3.0]) == pytest.approx((3.0, 0.0))


def test_homogeneity_shows_the_matrix_without_its_diagonal_in_the_order_of_similarity():
    found = homogeneity()
    axes = next(axes for axes in matrix_figure(found).axes if axes.images)
    shown = np.ma.filled(axes.images[0].get_array(), np.nan)
    order = similarity_order(np.where(np.eye(3, dtype=bool), np.nan, found.log))
    wanted = np.where(np.eye(3, dtype=bool), np.nan, found.log[np.ix_(order, order)])
    assert np.array_equal(shown, wanted, equal_nan=True)
    assert axes.images[0].norm.vmax == 0.6


def test_a_correlation_is_drawn_against_random_axes_with_its_mean():
    found = replace(homogeneity(), random=np.array([[0.0, 0.1], [0.2, 0.2], [0.3, np.nan]]))
    (axes,) = histogram_figure(found, "log").axes
    assert [line.get_xdata()[0] for line in axes.lines if line.get_label() == NO_DATA] == [0.4]
    assert axes.get_legend_handles_labels()[1] == ["pairs of samples", "random axes"]
    (alone,) = histogram_figure(homogeneity(), "linear").axes
    assert alone.get_legend_handles_labels()[1] == ["pairs of samples"]


def test_a_correlation_without_any_defined_pair_says_so():
    nothing = np.full((3, 3), np.nan)
    found = homogeneity(log=nothing, linear=nothing, pair_mean=np.nan)
    (axes,) = histogram_figure(found, "log").axes
    assert "no pair has one" in texts(axes)
    assert matrix_figure(found).axes


def test_sampled_pairs_count_both_ways():
    values = PairValues(np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([[0.3, np.nan]] * 2), np.array([0.5, 0.6]))
    found = replace(homogeneity(), sampled=np.array([[0, 1], [1, 2]]), sampled_values=values)
    assert sorted(found.values("log")) == [0.1, 0.2, 0.3, 0.4]
    assert sorted(found.values("linear")) == [0.3, 0.3]
    assert sorted(found.values("vec")) == [0.5, 0.5, 0.6, 0.6]


def test_a_certificate_shows_the_spread_of_each_quantity_against_its_limit():
    values = {"symmetry_error": [1e-8, 1e-7, 1e-4], "probe_error": [0.0, 1e-3, np.nan]}
    (axes,) = certificate_figure(values, {"symmetry_error": 1e-5}).axes
    assert axes.get_xscale() == "log"
    assert [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()] == [
        "asymmetry of H",
        "derivative against visible differences",
    ]
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines["asymmetry of H, limit"].get_xdata()) == [1e-5, 1e-5]
    assert list(lines["asymmetry of H, least and greatest"].get_xdata()) == [1e-8, 1e-4]
    assert list(lines["asymmetry of H, median"].get_xdata()) == [1e-7]
    beyond = lines["asymmetry of H, beyond"]
    assert (beyond.get_xdata().tolist(), beyond.get_marker()) == ([1e-4], "x")
    assert to_rgba(beyond.get_markeredgecolor()) == to_rgba(VERMILION)
    assert list(lines["derivative against visible differences, median"].get_xdata()) == [1e-3]
    assert texts(axes) == ["1 of 2 are 0"]


def test_a_certificate_draws_magnitudes_and_says_what_was_not_computed():
    (axes,) = certificate_figure({"negative_eigenvalue": [-1e-6], "probe_error": [np.nan]}, {}).axes
    assert list(axes.lines[0].get_xdata()) == [1e-6, 1e-6]
    assert texts(axes) == ["not computed"]


def test_image_strips_stand_in_blocks_rows_and_columns():
    images = np.random.default_rng(0).uniform(size=(2, 3, 4, 10, 20, 3))
    distances = np.arange(24.0).reshape(2, 3, 4) / 100
    figure = axes_figure(images, ["a", "b", "c"], ["-2", "-1", "1", "2"], ["left", "right"], distances)
    (axes,) = figure.axes
    canvas = axes.images[0].get_array()
    line, gap = canvas.shape[0] // 3 - 10, round(0.3 * 20)
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
    assert figure.get_size_inches()[0] == PAGE


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


@pytest.mark.parametrize(("size", "kind", "shown"), [(6, "PNG", 6), (200, "JPEG", 128)])
def test_a_strip_on_a_page_is_one_small_picture(size, kind, shown):
    images = np.random.default_rng(0).uniform(size=(3, size, size, 3))
    address = strip_picture(images)
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))) as picture:
        assert (picture.format, picture.size) == (kind, (3 * shown, shown))
        if kind == "PNG":
            np.testing.assert_allclose(np.asarray(picture)[:, :6] / 255, images[0], atol=0.003)


def test_figures_leave_pyplot_alone():
    code = "import sys, pullback.report.figures, pullback.analysis.drawing; print('matplotlib.pyplot' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


@pytest.mark.parametrize("name", ["$x_{$", "a$b$c", "\\", "%s", "\x1b[0m", "名"])
def test_whatever_a_class_is_called_it_is_drawn_as_it_is_written(name):
    figure = axes_figure(np.zeros((1, 1, 2, 4, 4, 3)), [name], [name, "2"], [name], np.ones((1, 1, 2)))
    assert to_bytes(figure, "png", 40).startswith(b"\x89PNG")
    drawn = [text for text in figure.axes[0].texts if text.get_text() == name]
    assert len(drawn) == 3
    assert not any(text.get_parse_math() for text in drawn)
    quantities = certificate_figure({name: np.array([0.1, 0.2])}, {name: 0.5})
    assert to_bytes(quantities, "png", 40).startswith(b"\x89PNG")
