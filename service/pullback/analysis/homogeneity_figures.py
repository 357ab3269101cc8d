"""Figures of the homogeneity: the matrix of C_log, and a histogram of each correlation against random axes."""

from typing import TYPE_CHECKING

import numpy as np

from pullback.analysis.homogeneity_result import CORRELATIONS, Homogeneity

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDERED_SAMPLES = 2000
"""Largest number of samples that are ordered by similarity, because that takes a clustering of all pairs."""


def matrix_figure(found: Homogeneity) -> "Figure":
    """Draw the matrix C_log, with similar samples beside each other.

    The diagonal, 1 by construction, is left blank, and the colour scale starts at the 2nd percentile of the pairs, so
    that neither it nor one odd pair flattens the rest.
    """
    from pullback.analysis.drawing import draw_heat_map, new_figure, plain_axes, similarity_order

    figure = new_figure("homogeneity-matrix", height=3.0)
    axes = plain_axes(figure, x="metric of sample j", y="eigenvectors of sample i")
    log = found.values("log")
    low, high = np.percentile(log, [2, 100]) if log.size else (0.0, 1.0)
    drawn = np.where(np.eye(len(found.log), dtype=bool), np.nan, found.log)
    order = similarity_order(drawn) if len(drawn) <= ORDERED_SAMPLES else None
    draw_heat_map(axes, drawn, "C_log", low=low, high=high, order=order, names=found.compared.tolist())
    return figure


def histogram_figure(found: Homogeneity, name: str) -> "Figure":
    """Draw the distribution of a correlation over ordered pairs of different samples, against that with random axes.

    Args:
        found: the result.
        name: `log`, `linear` or `vec`.
    """
    from pullback.analysis.drawing import NULL, draw_histogram, guide, legend_above, new_figure, plain_axes, series

    values, summary = found.values(name), getattr(found, f"{name}_summary")
    row = list(CORRELATIONS).index(name)
    random = np.empty(0) if found.random is None else found.random[row][np.isfinite(found.random[row])]
    figure = new_figure(f"homogeneity-{name}")
    axes = plain_axes(figure, x=f"{CORRELATIONS[name]} (correlation)", y="pairs (%)")
    both = np.concatenate([values, random])
    low, high = (float(both.min()), 1.0) if both.size else (0.0, 1.0)
    bins = np.linspace(low - 0.02 * (high - low + 1e-9), high + 1e-9, 41)
    draw_histogram(axes, values, bins, series(row), "pairs of samples")
    if random.size:
        draw_histogram(axes, random, bins, NULL, "random axes", filled=False)
    if np.isfinite(summary.mean):
        guide(axes, x=summary.mean, text=f"mean {summary.mean:.3f}")
    else:
        axes.text(0.5, 0.5, "no pair has one", transform=axes.transAxes, ha="center")
    legend_above(axes)
    return figure
