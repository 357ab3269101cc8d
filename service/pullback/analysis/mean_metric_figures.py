"""The figure of a mean metric: its eigenvalues beside the mean spectrum and random directions, and the caption."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats
from pullback.analysis.spectra import random_direction_rate
from pullback.analysis.statements import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from pullback.analysis.statistics.mean_metric import MeanMetric


def mean_metric_caption(found: "MeanMetric", own: Floats | None) -> str:
    """Return the caption of `axes_spectrum_figure`, with how many axes exceed a random direction."""
    part = "the mean metric" if found.whole else f"the kept part of the mean metric ({percent(found.trace_share)})"
    caption = f"Eigenvalues of {part} along its axes (line), with the 95 % interval (band)."
    if own is not None:
        caption += (
            " Dashed: the mean spectrum, each sample along its own eigenvectors. The closer the lines, the more the "
            "samples share their axes."
        )
    if found.whole:
        mean, _ = random_direction_rate(found.eigenvalues)
        above = int(np.sum(found.eigenvalues > mean))
        caption += (
            " Dotted: a random direction, ± 1 standard deviation over directions. "
            f"{above} of {len(found.eigenvalues)} axes change{'s' if above == 1 else ''} the image more than a random "
            "direction does on average."
        )
    return caption


def axes_spectrum_figure(found: "MeanMetric", own: npt.ArrayLike | None = None) -> "Figure":
    """Draw the eigenvalues of the mean metric by rank on a log axis, with their intervals.

    Args:
        found: the mean metric, with at least one positive eigenvalue.
        own: the mean spectrum `[k]` over samples, to compare with.
    """
    from pullback.analysis.drawing import (
        CONTROL,
        NULL,
        draw_band,
        draw_line,
        drawable,
        legend_above,
        log_axis,
        new_figure,
        plain_axes,
        raised,
        rank_axis,
    )

    largest = float(found.eigenvalues[0])
    ranks = np.arange(1, len(found.eigenvalues) + 1)
    figure = new_figure("axes", height=2.7)
    axes = plain_axes(figure, x="rank of the axis", y="λ (D² per latent length²)")
    axes.set_yscale("log")
    shown = drawable(found.eigenvalues, largest)
    ends = np.where(np.isfinite(shown), found.ci95, np.nan)
    draw_band(axes, ranks, raised(ends[0], largest), ends[1], label="95 % interval", alpha=0.35)
    draw_line(axes, ranks, shown, label="mean metric's axes")
    drawn = [shown[np.isfinite(shown)], ends[1][np.isfinite(ends[1])]]
    if own is not None:
        values = drawable(np.asarray(own, dtype=np.float64), largest)
        draw_line(axes, np.arange(1, len(values) + 1), values, CONTROL, "samples, own directions", marked=False)
        drawn.append(values[np.isfinite(values)])
    if found.whole:
        mean, spread = random_direction_rate(found.eigenvalues)
        ends = np.full((2, len(ranks)), [[max(mean - spread, mean / 10)], [mean + spread]])
        draw_band(axes, ranks, ends[0], ends[1], NULL, alpha=0.08)
        draw_line(axes, ranks, np.full(len(ranks), mean), NULL, "random direction", marked=False)
        drawn.append(np.array([mean]))
    everything = np.concatenate(drawn)
    axes.set_ylim(everything.min() / 1.6, everything.max() * 1.6)
    rank_axis(axes, max(len(ranks), 0 if own is None else np.size(own)))
    log_axis(axes.yaxis)
    legend_above(axes)
    return figure
