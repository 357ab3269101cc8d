"""The figure of image strips, for papers. The report shows the same images as a page of HTML (`strips`)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.analysis import Analysis, statements
from pullback.analysis.drawing import GREY, PAGE, SMALL, TEXT, Figure
from pullback.report.strips import Strips

_MARGIN, _HEAD, _LINE = 1.28, 0.42, 0.15
"""Inches: for row labels, for titles and steps, and for the distances under a row."""


def strips_figure(strips: Strips) -> Figure:
    """Lay out image strips on one page, a block for each code."""
    return axes_figure(strips.images, strips.row_labels, strips.step_labels, strips.titles, strips.distances)


def strips_caption(strips: Strips, analysis: Analysis) -> str:
    """Return what a figure of image strips shows."""
    mean = analysis["mean_metric"].json
    whole = mean["of"] == "whole metrics"
    share = "" if whole else f" of the kept part ({statements.percent(mean['trace_share'])} of the trace)"
    codes = len(strips.titles)
    return (
        f"Images along axes of the mean metric{share}. Each row moves {codes} code{'' if codes == 1 else 's'} by the "
        f"same steps t, up to ±{strips.steps[-1]:.3g} latent units; the sign of an axis is arbitrary. λ is the axis's "
        f"eigenvalue{'' if whole else ', a lower bound'}. D² ({strips.distance}) to the unmoved image is "
        "written under each end."
    )


def axes_figure(
    images: npt.ArrayLike,
    row_labels: Sequence[str],
    step_labels: Sequence[str],
    code_titles: Sequence[str],
    distances: npt.ArrayLike,
) -> Figure:
    """Lay out image strips along axes: a block for each code, a row for each axis, a column for each step.

    Args:
        images: `[codes, rows, steps, height, width, 3]` in [0, 1].
        row_labels: `[rows]`, such as "axis 1  λ = 1.21".
        step_labels: `[steps]`, written above each block.
        code_titles: `[codes]`.
        distances: image distance of each image to the unmoved one, `[codes, rows, steps]`; those of both ends
            are written under the strip.

    Raises:
        ValueError: shapes do not agree, or an image leaves [0, 1].
    """
    pictures, ends = np.asarray(images, dtype=np.float64), np.asarray(distances, dtype=np.float64)
    expected = (len(code_titles), len(row_labels), len(step_labels))
    if pictures.ndim != 6 or pictures.shape[5] != 3 or pictures.shape[:3] != expected or ends.shape != expected:
        raise ValueError(
            f"images [codes, rows, steps, height, width, 3] and distances [codes, rows, steps] of {list(expected)} "
            f"are needed, got {list(pictures.shape)} and {list(ends.shape)}"
        )
    if not (pictures.min() >= 0 and pictures.max() <= 1):
        raise ValueError("images hold values outside [0, 1]")
    codes, rows, steps, height, width, _ = pictures.shape
    gap = round(0.3 * width)
    columns = codes * steps * width + (codes - 1) * gap
    inch = (PAGE - _MARGIN - 0.05) / columns  # of one image pixel
    line = round(_LINE / inch)
    canvas = np.ones((rows * (height + line), columns, 3))
    for code, row, step in np.ndindex(codes, rows, steps):
        y, x = row * (height + line), code * (steps * width + gap) + step * width
        canvas[y : y + height, x : x + width] = pictures[code, row, step]

    size = (PAGE, _HEAD + canvas.shape[0] * inch + 0.05)
    figure = Figure(figsize=size)
    figure.set_label("strips")
    axes = figure.add_axes(
        (_MARGIN / size[0], 0.05 / size[1], columns * inch / size[0], canvas.shape[0] * inch / size[1])
    )
    axes.imshow(canvas, extent=(0, columns, canvas.shape[0], 0), aspect="auto")
    axes.set_axis_off()
    small: dict[str, Any] = {"fontsize": SMALL, "parse_math": False}
    axes.text(-0.04 / inch, -0.04 / inch, "step t", ha="right", va="bottom", color=GREY, **small)
    for row, label in enumerate(row_labels):
        y = row * (height + line) + height / 2
        axes.text(-0.04 / inch, y, label, ha="right", va="center", **small)
    for code, title in enumerate(code_titles):
        start = code * (steps * width + gap)
        middle = start + steps * width / 2
        # a class may be called `$x_{$`, which is no formula
        axes.text(middle, -0.19 / inch, title, ha="center", va="bottom", fontsize=TEXT, parse_math=False)
        for step, label in enumerate(step_labels):
            if (step - steps // 2) % max(1, round(0.34 / (width * inch))) == 0:  # as many as there is room for
                x = start + (step + 0.5) * width
                axes.text(x, -0.04 / inch, label, ha="center", va="bottom", color=GREY, **small)
        for row, step in np.ndindex(rows, steps):
            if step in (0, steps - 1) and np.isfinite(ends[code, row, step]):
                x, y = start + (step + 0.5) * width, row * (height + line) + height + 0.015 / inch
                axes.text(x, y, distance_text(ends[code, row, step]), ha="center", va="top", color=GREY, **small)
    return figure


def distance_text(value: float) -> str:
    """A distance in the room of five characters; a small one never becomes 0, and a missing one is a dash."""
    if not np.isfinite(value):
        return "–"
    return f"{value:.3f}" if value == 0 or value >= 0.01 else f"{value:.2g}"
