"""Figures of a report: arrays or an `Analysis` in, a matplotlib `Figure` out.

Invariants: no pyplot and no global state, so that figures can be made in any thread of a server; colours tell
apart with any colour vision (Okabe & Ito) and never carry a meaning alone; every axis names its unit; a number
that does not exist is left out and never drawn as zero.
Leaves to others: the statistics (`analysis`), the images along axes (`strips`), and the page around the
figures.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from pullback.analysis.bootstrap import Floats
from pullback.analysis.homogeneity import PairSummary
from pullback.analysis.job import Analysis

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#595959"
"""Blue and vermilion of Okabe & Ito, and a grey that is readable on white."""

_TEXT, _SMALL = 10, 8.5

# Eigenvalues below this share of the largest are round-off; drawing them would stretch the axis over it.
_DRAWN_DECADES = 12

CERTIFICATE_LABELS = {
    "symmetry_error": "asymmetry of H",
    "negative_eigenvalue": "most negative eigenvalue",
    "eigen_residual": "eigenpair residual",
    "orthogonality_error": "non-orthogonality",
    "trace_share": "trace not kept",
    "probe_error": "derivative against\ndifferences",
    "product_error": "H against\nits Jacobian",
    "column_error": "Jacobian columns against\nreverse mode",
    "precision_error": "derivative against\nfloat64",
}
"""Row labels of `certificate_figure`; another quantity is shown under its own name."""


def spectrum_figure(analysis: Analysis) -> Figure:
    """Draw the mean spectrum by rank on a log axis, with the band over points and the bootstrap interval.

    Ranks start at 1. Values that are not positive, or below 1e-12 of the largest, are outside the axis.
    """
    spectrum, interval = analysis.anisotropy.spectrum, analysis.anisotropy.spectrum_ci95
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = _plain_axes(figure)
    ranks = np.arange(1, len(spectrum.mean) + 1)
    axes.set_yscale("log")
    axes.fill_between(
        ranks,
        _positive(spectrum.p5, spectrum.mean[0]),
        spectrum.p95,
        color=BLUE,
        alpha=0.16,
        linewidth=0,
        label=f"5–95 % of {analysis.samples} points",
    )
    axes.fill_between(
        ranks,
        _positive(interval[0], spectrum.mean[0]),
        interval[1],
        color=BLUE,
        alpha=0.4,
        linewidth=0,
        label="95 % interval of the mean",
    )
    axes.plot(ranks, _drawable(spectrum.mean, spectrum.mean[0]), color=BLUE, linewidth=1.4, label="mean")
    axes.set_xlim(1, max(len(ranks), 2))
    smallest = _positive(spectrum.p5, spectrum.mean[0]).min()
    axes.set_ylim(smallest / 1.6, spectrum.p95.max() * 1.6)
    axes.set_xlabel("rank", fontsize=_TEXT)
    axes.set_ylabel("|eigenvalue| (squared distance / latent length²)", fontsize=_TEXT)
    axes.legend(fontsize=_SMALL, frameon=False, loc="upper right")
    return figure


def cumulative_figure(analysis: Analysis) -> Figure:
    """Draw what the leading ranks leave of the spectrum, 1 - cumulative share, and mark dim(q) for each q.

    A marker stands at the count needed to reach q; its label gives dim(q), the ranks strictly below q (one
    less, the rule of Wang & Ponce, ICLR 2021), with its 95 % bootstrap interval.
    """
    anisotropy = analysis.anisotropy
    mean = anisotropy.spectrum.mean
    # Summed from the tail: 1 - cumsum would leave nothing but round-off where the remainder is small.
    dropped = max(anisotropy.total - float(mean.sum()), 0.0)
    remainder = (np.append(np.cumsum(mean[::-1])[::-1][1:], 0.0) + dropped) / anisotropy.total
    counts = np.arange(1, len(mean) + 1)
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = _plain_axes(figure)
    axes.set_yscale("log")
    axes.plot(counts, np.where(remainder > 1e-15, remainder, np.nan), color=BLUE, linewidth=1.6)
    right = max(len(mean), 2)
    for dimension in anisotropy.dimensions:
        left_over = 1 - dimension.share
        axes.axhline(left_over, color=GREY, linewidth=0.6, linestyle=(0, (2, 3)), zorder=0)
        low, high = dimension.below_ci95
        name = f"dim({100 * dimension.share:g} %)"
        if dimension.needed is None:
            label, x = f"{name}: more than the {len(mean)} kept", len(mean)
        else:
            label, x = f"{name} = {dimension.below} [{low}, {high}]", dimension.needed
            axes.plot([x], [left_over], marker="o", markersize=6, color=VERMILION, linestyle="none", zorder=3)
        # To the right of the falling curve there is room, unless the marker is far to the right itself.
        on_left = x > 0.6 * right
        axes.annotate(
            label,
            (x, left_over),
            xytext=(-9 if on_left else 9, -4 if on_left else 4),
            textcoords="offset points",
            horizontalalignment="right" if on_left else "left",
            verticalalignment="top" if on_left else "bottom",
            fontsize=_SMALL,
        )
    finest = min((1 - dimension.share for dimension in anisotropy.dimensions), default=1e-5)
    axes.set_ylim(finest / 4, 1.2)
    note = "marker: ranks needed to reach the share; dim: ranks still below it, one less [95 % interval]"
    axes.set_title(note, fontsize=_SMALL, color=GREY, loc="left")
    axes.set_xlim(0, right * 1.01)
    axes.set_xlabel("number of leading ranks", fontsize=_TEXT)
    axes.set_ylabel("share of the spectrum left over", fontsize=_TEXT)
    return figure


def homogeneity_figure(analysis: Analysis) -> Figure:
    """Draw the matrix C_log beside histograms of C_log and C_lin over ordered pairs of different points.

    The diagonal, 1 by construction, is left blank, and the colour scale starts at the 2nd percentile of the pairs, so
    that neither it nor one odd pair flattens the rest.
    """
    off_diagonal = ~np.eye(len(analysis.log), dtype=bool)
    log, linear = (matrix[off_diagonal & np.isfinite(matrix)] for matrix in (analysis.log, analysis.linear))
    figure = Figure(figsize=(9.5, 4.2), layout=ConstrainedLayoutEngine(w_pad=0.12))
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.05])
    matrix_axes = figure.add_subplot(grid[:, 0])
    lowest, highest = np.percentile(log, [2, 100]) if log.size else (0.0, 1.0)
    image = matrix_axes.imshow(
        np.where(off_diagonal, analysis.log, np.nan),
        cmap="cividis",
        vmin=min(lowest, highest - 1e-3),
        vmax=highest,
        interpolation="nearest",
    )
    bar = figure.colorbar(image, ax=matrix_axes, extend="min", shrink=0.85)
    bar.set_label("C_log", fontsize=_TEXT)
    bar.ax.tick_params(labelsize=_SMALL)
    matrix_axes.set_xlabel("point whose metric is measured, j", fontsize=_TEXT)
    matrix_axes.set_ylabel("point whose eigenvectors are used, i", fontsize=_TEXT)
    matrix_axes.tick_params(labelsize=_SMALL)

    both = np.concatenate([log, linear])
    low, high = (float(both.min()), 1.0) if both.size else (0.0, 1.0)
    bins = np.linspace(low - 0.02 * (high - low + 1e-9), high + 1e-9, 41)
    upper = _plain_axes(figure, grid[0, 1])
    lower = _plain_axes(figure, grid[1, 1], sharex=upper)
    _histogram(upper, log, bins, "C_log", BLUE, analysis.log_summary)
    _histogram(lower, linear, bins, "C_lin", VERMILION, analysis.linear_summary)
    upper.tick_params(labelbottom=False)
    lower.set_xlabel("correlation of Λ with λ (Pearson's r)", fontsize=_TEXT)
    return figure


def certificate_figure(certificate: Mapping[str, npt.ArrayLike], limits: Mapping[str, float]) -> Figure:
    """Draw each quantity of the certificate over points against its limit, on a log axis.

    Magnitudes are drawn. `trace_share` is drawn as what is missing from 1, and so is its limit. Exact zeros,
    which a log axis has no place for, are open circles at its left end. A dot beyond its limit is a cross.

    Args:
        certificate: quantity to its values over points, `[points]`, NaN where it was not computed.
        limits: quantity to the limit that a good sample keeps; quantities without one are drawn without.
    """
    rows = {name: _shortfall(name, values) for name, values in certificate.items()}
    bounds = {name: float(_shortfall(name, [limits[name]])[0]) for name in rows if name in limits}
    drawn = np.concatenate([np.zeros(0), *rows.values(), list(bounds.values())])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    bottom, top = (drawn.min(), drawn.max()) if drawn.size else (1e-9, 1.0)
    left, right = 10 ** (np.floor(np.log10(bottom)) - 1), 10 ** np.ceil(np.log10(top) + 0.3)

    size = (7.5, 0.9 + 0.62 * max(len(rows), 1))
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12))
    axes = _plain_axes(figure)
    axes.set_xscale("log")
    for row, (name, values) in enumerate(rows.items()):
        _certificate_row(axes, row, values, bounds.get(name), float(left))
    axes.set_xlim(left / 2, right)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [CERTIFICATE_LABELS.get(name, name.replace("_", " ")) for name in rows])
    axes.tick_params(axis="y", length=0, labelsize=_TEXT)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("relative error (no unit). Bar: limit; black line: median; open circle: 0", fontsize=_SMALL)
    return figure


def axes_figure(
    images: npt.ArrayLike,
    row_labels: Sequence[str],
    step_labels: Sequence[str],
    face_titles: Sequence[str],
    distances: npt.ArrayLike,
) -> Figure:
    """Lay out image strips along axes: a block for each face, a row for each axis, a column for each step.

    Args:
        images: `[faces, rows, steps, height, width, 3]` in [0, 1].
        row_labels: `[rows]`, such as "axis 1  λ = 1.21".
        step_labels: `[steps]`, written above each block.
        face_titles: `[faces]`.
        distances: image distance of each image to the unmoved one, `[faces, rows, steps]`; those of both ends
            are written under the strip.

    Raises:
        ValueError: shapes do not agree, or an image leaves [0, 1].
    """
    pictures, ends = np.asarray(images, dtype=np.float64), np.asarray(distances, dtype=np.float64)
    expected = (len(face_titles), len(row_labels), len(step_labels))
    if pictures.ndim != 6 or pictures.shape[5] != 3 or pictures.shape[:3] != expected or ends.shape != expected:
        raise ValueError(
            f"images [faces, rows, steps, height, width, 3] and distances [faces, rows, steps] of {list(expected)} "
            f"are needed, got {list(pictures.shape)} and {list(ends.shape)}"
        )
    if not (pictures.min() >= 0 and pictures.max() <= 1):
        raise ValueError("images hold values outside [0, 1]")
    faces, rows, steps, height, width, _ = pictures.shape
    line, gap = round(0.26 * height), round(0.3 * width)
    canvas = np.ones((rows * (height + line), faces * steps * width + (faces - 1) * gap, 3))
    for face, row, step in np.ndindex(faces, rows, steps):
        y, x = row * (height + line), face * (steps * width + gap) + step * width
        canvas[y : y + height, x : x + width] = pictures[face, row, step]

    inch = 0.62 / width  # of one image pixel: a 64-pixel image is 68 pixels wide at 110 dpi
    margin, head = 1.45, 0.5  # inches for row labels and for titles
    size = (margin + canvas.shape[1] * inch + 0.1, head + canvas.shape[0] * inch + 0.05)
    figure = Figure(figsize=size)
    axes = figure.add_axes(
        (margin / size[0], 0.05 / size[1], canvas.shape[1] * inch / size[0], canvas.shape[0] * inch / size[1])
    )
    axes.imshow(canvas, extent=(0, canvas.shape[1], canvas.shape[0], 0), aspect="auto")
    axes.set_axis_off()
    note = "under each end: distance\nto the unmoved image"
    axes.text(-0.12 * width, -0.06 / inch, note, ha="right", va="bottom", fontsize=6.5, color=GREY)
    for row, label in enumerate(row_labels):
        y = row * (height + line) + height / 2
        axes.text(-0.12 * width, y, label, ha="right", va="center", fontsize=_SMALL)
    for face, title in enumerate(face_titles):
        start = face * (steps * width + gap)
        axes.text(start + steps * width / 2, -0.25 / inch, title, ha="center", va="bottom", fontsize=_TEXT)
        for step, label in enumerate(step_labels):
            x = start + (step + 0.5) * width
            axes.text(x, -0.06 / inch, label, ha="center", va="bottom", fontsize=7, color=GREY)
        for row, step in np.ndindex(rows, steps):
            if step in (0, steps - 1) and np.isfinite(ends[face, row, step]):
                x, y = start + (step + 0.5) * width, row * (height + line) + height + 0.02 / inch
                axes.text(x, y, f"{ends[face, row, step]:.3f}", ha="center", va="top", fontsize=6.5, color=GREY)
    return figure


def to_data_uri(figure: Figure, dpi: float = 110) -> str:
    """Return the figure as a PNG in a `data:` address, to stand in an HTML page without another file."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _plain_axes(figure: Figure, position: Any = 111, **options: Any) -> Axes:
    axes: Axes = figure.add_subplot(position, **options)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=_SMALL)
    return axes


def _positive(values: Floats, largest: float) -> Floats:
    """Return values raised to the bottom of a log axis that ends at `largest`."""
    return np.maximum(values, max(largest, np.finfo(np.float64).tiny) * 10.0**-_DRAWN_DECADES)


def _drawable(values: Floats, largest: float) -> Floats:
    """Return values with NaN where they would fall below a log axis that ends at `largest`."""
    return np.where(values >= _positive(values, largest), values, np.nan)


def _histogram(axes: Axes, values: Floats, bins: Floats, name: str, colour: str, summary: PairSummary) -> None:
    axes.hist(values, bins=bins.tolist(), color=colour, alpha=0.75)
    axes.set_ylabel("ordered pairs", fontsize=_TEXT)
    if not np.isfinite(summary.mean):
        axes.set_title(f"{name}: no pair has one", fontsize=_TEXT, loc="left")
        return
    axes.axvline(summary.mean, color="black", linewidth=1.2)
    low, high = summary.ci95
    axes.set_title(f"{name}: mean {summary.mean:.3f} (line), 95 % [{low:.3f}, {high:.3f}]", fontsize=_TEXT, loc="left")


def _shortfall(name: str, values: npt.ArrayLike) -> Floats:
    """Return what is drawn of a certificate's quantity: its magnitude, or what a share lacks to 1."""
    array = np.asarray(values, dtype=np.float64)
    if name != "trace_share":
        return np.abs(array)
    missing = np.abs(1 - array)
    # All pairs kept: what is left of 1 is the round-off of two sums, far left of everything worth seeing.
    return np.where(missing < 1e-12, 0.0, missing)


def _certificate_row(axes: Axes, row: int, values: Floats, limit: float | None, left: float) -> None:
    finite = values[np.isfinite(values)]
    if limit is not None and limit > 0:
        axes.plot([limit, limit], [row - 0.36, row + 0.36], color=VERMILION, linewidth=2.5)
    if finite.size == 0:
        axes.annotate(
            "not computed", (0.02, row), xycoords=("axes fraction", "data"), va="center", fontsize=_SMALL, color=GREY
        )
        return
    # A fixed spread over the row's height, only to keep equal values apart.
    heights = row + 0.24 * np.sin(2.4 * np.arange(finite.size))
    beyond = finite > limit if limit is not None else np.zeros(finite.size, dtype=bool)
    for chosen, marker, face in (
        ((finite > 0) & ~beyond, "o", BLUE),
        ((finite > 0) & beyond, "x", VERMILION),
        (finite == 0, "o", "none"),
    ):
        if chosen.any():
            axes.plot(
                np.where(finite > 0, finite, left)[chosen],
                heights[chosen],
                linestyle="none",
                marker=marker,
                markersize=4 if marker == "o" else 6,
                markerfacecolor=face,
                markeredgecolor=VERMILION if marker == "x" else BLUE,
                markeredgewidth=1.2 if marker == "x" else 0.5,
                alpha=1 if marker == "x" else 0.6,
            )
    median = float(np.median(finite))
    if median > 0:
        axes.plot([median, median], [row - 0.3, row + 0.3], color="black", linewidth=1.5)
