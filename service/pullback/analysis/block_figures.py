"""Figures of blocks of the code, from the dataset of the statistic `blocks`."""

import numpy as np
import xarray as xr

from pullback.analysis.drawing import (
    FIRST,
    NULL,
    SMALL,
    Figure,
    Style,
    draw_band,
    draw_errors,
    draw_heat_map,
    draw_line,
    drawable,
    label_ends,
    legend_above,
    log_axis,
    new_figure,
    plain_axes,
    rank_axis,
    series,
)


def shares_figure(found: xr.Dataset, labels: list[str]) -> Figure:
    """Draw the share of the trace of each block with its interval, and the share of its coordinates."""
    shares, ends = 100 * found["trace_share"].values.mean(axis=0), 100 * found["trace_share_ci95"].values
    rows = np.arange(len(labels), dtype=np.float64)
    drawn = new_figure("block-shares", height=max(1.8, 0.16 * len(labels) + 1.0))
    axes = plain_axes(drawn, x="share (%)")
    draw_line(
        axes, 100 * found["isotropic_share"].values, rows, NULL, "of the coordinates", linestyle="none", marker="x"
    )
    draw_errors(axes, shares, rows, ends[0], ends[1], FIRST, "of the trace", horizontal=True)
    axes.set_yticks(rows, labels, fontsize=SMALL)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xlim(left=0)
    legend_above(axes)
    return drawn


def coupling_figure(found: xr.Dataset, labels: list[str]) -> Figure:
    """Draw the coupling of each pair of blocks as a matrix."""
    coupling = np.where(np.eye(len(labels), dtype=bool), np.nan, found["coupling"].values)
    drawn = new_figure("block-coupling", height=2.8)
    axes = drawn.add_subplot()
    draw_heat_map(axes, coupling, "coupling", low=0.0, names=labels)
    rows = range(len(labels))
    axes.set_xticks(rows, labels, fontsize=SMALL, rotation=90 if len(labels) > 3 else 0)
    axes.set_yticks(rows, labels, fontsize=SMALL)
    axes.set_xlabel("block", fontsize=SMALL)
    return drawn


def spectra_figure(found: xr.Dataset, labels: list[str]) -> Figure:
    """Draw the mean spectrum of each block by rank on a log axis, with its interval."""
    spectra, ends = found["mean_spectrum"].values, found["mean_spectrum_ci95"].values
    few = len(labels) <= 6
    drawn = new_figure("block-spectra", height=2.6 if few else 3.4)
    axes = plain_axes(drawn, x="rank within the block", y="eigenvalue (squared distance / latent length²)")
    axes.set_yscale("log")
    largest = max(float(np.nanmax(spectra, initial=0.0)), float(np.finfo(np.float64).tiny))
    ranks, lines = np.arange(1, spectra.shape[1] + 1), []
    for at, name in enumerate(labels):
        # Layers have an order, which a sequence of shades shows; dashes distinguish neighbours.
        style = series(at) if few else Style(_shade(at / len(labels)), series(at).dashes)
        low, high = (drawable(end, largest) for end in ends[:, at])
        draw_band(axes, ranks, low, high, style, alpha=0.3)
        lines.append(draw_line(axes, ranks, drawable(spectra[at], largest), style, name))
    rank_axis(axes, len(ranks))
    log_axis(axes.yaxis)
    if few:
        label_ends(axes, lines)
    else:
        legend_above(axes, columns=4)
    return drawn


def _shade(part: float) -> str:
    """Return the colour of a sequence at `part` of it, 0 to 1; not as light as its end, which is hard to see."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return to_hex(colormaps["cividis"](0.9 * part))
