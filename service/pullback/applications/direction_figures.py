"""The figures of the application `directions`. Controls stand in each: shuffled axes as a band, random directions."""

from typing import TYPE_CHECKING

import numpy as np

from pullback.analysis.drawing import (
    CONTROL,
    NULL,
    Figure,
    draw_band,
    draw_errors,
    draw_line,
    legend_above,
    new_figure,
    plain_axes,
    rank_axis,
    series,
)

if TYPE_CHECKING:
    import xarray as xr

    from pullback.analysis.bootstrap import Floats, Integers
    from pullback.analysis.drawing import Axes

RANDOM = "random"
"""The set that is a control, and is drawn in every figure."""
_LONGEST = 24


def overlap_figure(data: "xr.Dataset") -> Figure:
    """Draw overlap(k) of every set with its interval, the shuffled control of the largest set, and k/n."""
    figure = new_figure("direction-overlap", height=2.9)
    axes = plain_axes(figure, x="number k of directions and of axes", y="overlap (mean cos²)")
    k = 1 + np.arange(data.sizes["subspace_size"])
    largest = int(np.argmax(data["directions"].values))
    low, high = data["overlap_shuffled_band"].isel(set=largest).values
    draw_band(axes, k, low, high, CONTROL, "shuffled axes, 5–95 %", alpha=0.3)
    draw_line(axes, k, k / data.sizes["axis"], NULL, "chance, k/n", marked=False)
    for place, name in enumerate(names_of(data)):
        own = data.isel(set=place)
        style = CONTROL if name == RANDOM else series(place)
        if "overlap_ci95" in own and name != RANDOM:
            bottom, top = own["overlap_ci95"].values
            draw_band(axes, k, bottom, top, style)
        draw_line(axes, k, own["overlap"].values, style, shown(name), marked=int(own["directions"]) <= 12)
    axes.set_ylim(0, 1.02)
    rank_axis(axes, len(k))
    legend_above(axes)
    return figure


def percentile_figure(data: "xr.Dataset", place: int) -> Figure:
    """Draw the percentile of the image change along each direction of one set, and of the random set."""
    own, count = data.isel(set=place), int(data["directions"][place])
    figure = new_figure(f"direction-percentile-{place + 1}")
    axes = plain_axes(figure, x="rank of the direction", y="image change (percentile)")
    ranks = 1 + np.arange(count)
    _band(axes, ranks, own["percentile_shuffled_band"].values[:, :count])
    _random(axes, data, "percentile", count)
    values = own["percentile"].values[:count]
    ends = own["percentile_ci95"].values[:, :count] if "percentile_ci95" in own else np.full((2, count), np.nan)
    draw_errors(axes, ranks, values, ends[0], ends[1], series(place), shown(str(own["set"].values)))
    axes.set_ylim(-3, 103)
    rank_axis(axes, count)
    legend_above(axes)
    return figure


def cosine_figure(data: "xr.Dataset", place: int) -> Figure:
    """Draw the cosines of one set's directions with the nearest axis and with the axis of the same rank."""
    own, count = data.isel(set=place), int(data["directions"][place])
    figure = new_figure(f"direction-cosine-{place + 1}")
    axes = plain_axes(figure, x="rank of the direction", y="|cos| with an axis")
    ranks = 1 + np.arange(count)
    _band(axes, ranks, own["best_shuffled_band"].values[:, :count], "nearest, shuffled")
    _random(axes, data, "best", count, "nearest, random")
    missing = np.full(count, np.nan)
    draw_errors(axes, ranks, own["best"].values[:count], missing, missing, series(place), "nearest axis")
    draw_line(axes, ranks, own["same"].values[:count], series(place).lighter(), "same rank", marked=False)
    axes.set_ylim(0, 1.02)
    rank_axis(axes, count)
    legend_above(axes)
    return figure


def names_of(data: "xr.Dataset") -> list[str]:
    """Return the names of the sets."""
    return [str(name) for name in data["set"].values]


def shown(name: str) -> str:
    """Return a set's name, shortened in its middle if it is long."""
    half = _LONGEST // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}"


def _band(axes: "Axes", ranks: "Integers", ends: "Floats", label: str = "shuffled axes, 5–95 %") -> None:
    if len(ranks) == 1:  # a band of a single rank needs a width
        draw_band(axes, [0.9, 1.1], ends[0].repeat(2), ends[1].repeat(2), CONTROL, label, alpha=0.3)
        return
    draw_band(axes, ranks, ends[0], ends[1], CONTROL, label, alpha=0.3)


def _random(axes: "Axes", data: "xr.Dataset", measure: str, count: int, label: str = "random directions") -> None:
    if RANDOM not in names_of(data):
        return
    values = data[measure].isel(set=names_of(data).index(RANDOM)).values[:count]
    draw_line(axes, 1 + np.arange(len(values)), values, CONTROL, label, linestyle="none", marked=True, alpha=0.7)
