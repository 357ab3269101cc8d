"""Figures of the application `axes`, for the report and for papers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pullback.analysis.drawing import (
    COLUMN,
    GREY,
    NULL,
    PAGE,
    SMALL,
    Figure,
    draw_band,
    draw_errors,
    draw_line,
    guide,
    legend_above,
    new_figure,
    plain_axes,
    rank_axis,
    series,
)
from pullback.applications.walking.labels import distance_labels
from pullback.applications.walking.scores import WORDS

if TYPE_CHECKING:
    import xarray as xr

_SHOWN_AXES = 8
_LONGEST = 18
_SCORES = ("consistency", "consistency_pooled", "guessing", "straightness")


def walk_figure(data: "xr.Dataset", labels: Sequence[str], steps: Sequence[str]) -> Figure:
    """Draw the walks of the first code: a row for each axis, up to eight, and a column for each frame."""
    images = data["image"].isel(code=0).values[:_SHOWN_AXES]
    under = distance_labels(data)
    rows, columns = images.shape[:2]
    margin = 0.16
    side = PAGE * (1 - margin) / columns
    ratio = images.shape[2] / images.shape[3]
    line = 0.15
    height = rows * (side * ratio + line) + 0.2
    figure = new_figure("axis-walks", PAGE, height, layout="none")
    for row in range(rows):
        for column in range(columns):
            bottom = height - 0.2 - (row + 1) * (side * ratio + line) + line
            axes = figure.add_axes(
                (margin + column * side / PAGE, bottom / height, 0.98 * side / PAGE, side * ratio / height)
            )
            axes.imshow(images[row, column], label=f"{labels[row]}, {steps[column]}", interpolation="nearest")
            axes.set_axis_off()
            if row == 0:
                axes.set_title(steps[column], fontsize=SMALL, pad=2)
            if column == 0:
                axes.text(
                    -0.06, 0.5, short(labels[row]), transform=axes.transAxes, ha="right", va="center", fontsize=SMALL
                )
            if column in (0, columns - 1):
                axes.text(
                    0.5, -0.02, under[row][0][column], transform=axes.transAxes, ha="center", va="top",
                    fontsize=SMALL, color=GREY,
                )  # fmt: skip
    return figure


def change_figure(data: "xr.Dataset", labels: Sequence[str]) -> Figure:
    """Draw the unmoved image of the first code, and |Jv| of each axis, up to eight."""
    maps = data["change"].isel(code=0).values[:_SHOWN_AXES]
    middle = data["image"].isel(axis=0, code=0, frame=data.sizes["frame"] // 2).values
    columns = min(len(maps) + 1, 5)
    rows = -(-(len(maps) + 1) // columns)
    side = COLUMN / columns
    ratio = maps.shape[1] / maps.shape[2]
    height = rows * (side * ratio + 0.17)
    figure = new_figure("axis-changes", COLUMN, height, layout="none")
    for place in range(len(maps) + 1):
        row, column = divmod(place, columns)
        bottom = height - (row + 1) * (side * ratio + 0.17)
        axes = figure.add_axes((column / columns, bottom / height, 0.97 / columns, side * ratio / height))
        title = "image" if place == 0 else labels[place - 1]
        if place == 0:
            axes.imshow(middle, label="image", interpolation="nearest")
        else:
            axes.imshow(maps[place - 1], cmap="magma", label=title, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(short(title, 12), fontsize=SMALL, pad=2)
    return figure


def curve_figure(data: "xr.Dataset", labels: Sequence[str]) -> Figure:
    """Draw D² over ½λt² against t of the first code along the first four axes."""
    figure = new_figure("axis-curves")
    axes = plain_axes(figure, x="step t (latent units)", y="D² / ½λt²")
    for place in range(min(4, data.sizes["axis"])):
        t, d = data["curve_t"].values[place, 0], data["curve_distance"].values[place, 0]
        known = np.isfinite(t) & (t != 0)
        rate = float(data["code_rate"][place, 0])
        if known.any() and rate > 0:
            ratio = np.ones(len(t))  # at t = 0 by the definition of λ
            ratio[known] = d[known] ** 2 / (0.5 * rate * t[known] ** 2)
            there = np.isfinite(t)
            draw_line(axes, t[there], ratio[there], series(place), short(labels[place]), marked=False)
    guide(axes, y=1.0)
    axes.set_ylim(bottom=0)
    legend_above(axes)
    return figure


def score_figure(data: "xr.Dataset") -> Figure:
    """Draw consistency, pooled consistency, guessing and straightness of each axis, beside random directions."""
    figure = new_figure("axis-scores", height=2.9)
    axes = plain_axes(figure, x="axis, in the order of the table", y="score")
    count = data.sizes["axis"]
    places = 1 + np.arange(count)
    for index, name in enumerate(_SCORES):
        offset = 0.12 * (index - 1.5)
        values, ends = data[name].values, data[f"{name}_ci95"].values
        draw_errors(axes, places + offset, values, ends[0], ends[1], series(index), WORDS[name])
    low, _, high = data["consistency_pooled_random"].values
    if np.isfinite(low):
        edge = np.array([0.6, count + 0.4])
        draw_band(axes, edge, np.full(2, low), np.full(2, high), NULL, "pooled consistency, random")
    rank_axis(axes, count)
    axes.set_xlim(0.6, count + 0.4)
    axes.set_ylim(top=1.05)
    legend_above(axes)
    return figure


def short(label: str, longest: int = _LONGEST) -> str:
    """Return a label, cut at its end if it is long."""
    return label if len(label) <= longest else f"{label[: longest - 1]}…"
