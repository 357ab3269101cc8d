"""Figures of spectra, of one sweep or of several on one axis: mean spectra with bands, and the shares left over."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pullback.analysis.bootstrap import Floats
from pullback.analysis.drawing import (
    FIRST,
    GREY,
    SMALL,
    Axes,
    Figure,
    Style,
    draw_band,
    draw_line,
    draw_marker,
    drawable,
    guide,
    legend_above,
    log_axis,
    new_figure,
    plain_axes,
    raised,
    rank_axis,
)
from pullback.analysis.statements import count

if TYPE_CHECKING:
    from pullback.analysis.statistics.anisotropy import Anisotropy, Dimension

RATE = "D² per latent length²"
"""The unit of an eigenvalue on an axis of a figure."""

_LEAST_LEFT = 1e-15
"""A share left over below which a sum of shares is round-off."""


@dataclass(frozen=True)
class Drawn:
    """An anisotropy as it is drawn: the name of its sweep, and its style."""

    found: "Anisotropy"
    name: str = ""
    style: Style = FIRST


def spectra_figure(entries: Sequence[Drawn]) -> Figure:
    """Draw mean spectra by rank on a log axis, each with its 5-95 % band over samples.

    One spectrum also has its bootstrap interval. Ranks start at 1. Values that are not positive, or below 1e-12 of the
    largest, are outside the axis.
    """
    figure = new_figure("spectrum" if len(entries) == 1 else "spectra", height=2.7)
    axes = plain_axes(figure, x="rank", y=f"mean |λ| ({RATE})")
    axes.set_yscale("log")
    for entry in entries:
        spectrum, largest = entry.found.spectrum, float(entry.found.spectrum.mean[0])
        ranks = np.arange(1, len(spectrum.mean) + 1)
        alone = len(entries) == 1
        name = f"5–95 % of {entry.found.samples} samples" if alone else f"_{entry.name}, 5–95 % of samples"
        draw_band(axes, ranks, raised(spectrum.p5, largest), spectrum.p95, entry.style, name, 0.18 if alone else 0.12)
        if alone:
            ends = entry.found.spectrum_ci95
            draw_band(axes, ranks, raised(ends[0], largest), ends[1], entry.style, "95 % of the mean", 0.45)
        label = "mean" if alone else entry.name
        draw_line(axes, ranks, drawable(spectrum.mean, largest), entry.style, label, marked=len(ranks) <= 12)
    _limit(axes, entries)
    rank_axis(axes, max(len(entry.found.spectrum.mean) for entry in entries))
    log_axis(axes.yaxis)
    legend_above(axes)
    return figure


def remainder_figure(entries: Sequence[Drawn]) -> Figure:
    """Draw what the leading ranks leave of each spectrum, 1 - cumulative share.

    A marker is at the count of ranks that reaches a share q. The label of a single spectrum's marker is that count,
    with its 95 % bootstrap interval; dim(q) of Wang & Ponce (ICLR 2021), the ranks strictly below q, is one less.
    """
    figure = new_figure("remainder" if len(entries) == 1 else "shares", height=2.7)
    axes = plain_axes(figure, x="number of leading ranks", y="share of the trace left over")
    axes.set_yscale("log")
    right = max(2, *(len(entry.found.spectrum.mean) for entry in entries))
    for entry in entries:
        left_over = remainder(entry.found)
        ranks = np.arange(1, len(left_over) + 1)
        name = entry.name or "left over"
        draw_line(axes, ranks, np.where(left_over > _LEAST_LEFT, left_over, np.nan), entry.style, name, marked=False)
        for dimension in entry.found.dimensions:
            _mark(axes, entry, dimension, right, labelled=len(entries) == 1)
    shares = [dimension.share for dimension in entries[0].found.dimensions]
    for share in shares:
        guide(axes, y=1 - share, text=f"{100 * share:.10g} %")
    axes.set_ylim(min((1 - share for share in shares), default=1e-5) / 4, 1.5)
    rank_axis(axes, right)
    log_axis(axes.yaxis)
    if len(entries) > 1:
        legend_above(axes)
    return figure


def remainder(found: "Anisotropy") -> Floats:
    """Return the share of the trace that is left after each rank, `[k]`."""
    mean = found.spectrum.mean
    # Summed from the tail: 1 - cumsum would leave nothing but round-off where the remainder is small.
    dropped = max(found.total - float(mean.sum()), 0.0)
    left: Floats = (np.append(np.cumsum(mean[::-1])[::-1][1:], 0.0) + dropped) / found.total
    return left


def _mark(axes: Axes, entry: Drawn, dimension: "Dimension", right: int, labelled: bool) -> None:
    """Mark the ranks that reach a share, and write their number beside the mark."""
    kept, left_over = len(entry.found.spectrum.mean), 1 - dimension.share
    if dimension.needed is None:
        label, x = count(vars(dimension), kept), min(max(dimension.at_least, 1), kept)
    else:
        ends = [f"{end}" if end is not None else f">{kept}" for end in dimension.needed_ci95]
        label, x = f"{dimension.needed} [{ends[0]}, {ends[1]}]", dimension.needed
        draw_marker(axes, x, left_over, entry.style, "ranks that reach a share" if labelled else f"_{entry.name}")
    if not labelled:
        return
    # To the right of the falling curve there is room, unless the marker is far to the right itself.
    on_left = x > 0.6 * right
    axes.annotate(
        label,
        (x, left_over),
        xytext=(-6 if on_left else 6, -3 if on_left else 3),
        textcoords="offset points",
        horizontalalignment="right" if on_left else "left",
        verticalalignment="top" if on_left else "bottom",
        fontsize=SMALL,
        color=GREY if dimension.needed is None else "black",
    )


def _limit(axes: Axes, entries: Sequence[Drawn]) -> None:
    """Limit the vertical axis to what is drawn.

    Exact zeros (of a band over samples with zero metrics) have no place on a log axis and do not stretch it.
    """
    low, high = [], []
    for entry in entries:
        spectrum = entry.found.spectrum
        drawn = np.concatenate([spectrum.p5, spectrum.mean])
        low.append(drawn[drawn >= raised(drawn, float(spectrum.mean[0]))].min())
        high.append(spectrum.p95.max())
    axes.set_ylim(min(low) / 1.6, max(*high, min(low)) * 1.6)
