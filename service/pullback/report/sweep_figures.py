"""Figures of several sweeps on one axis, such as a sweep and its control.

Each is one entry of `SWEEP_FIGURES`: which statistics it needs, and a function that draws it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pullback.analysis import Analysis
from pullback.analysis.drawing import (
    CONTROL,
    NULL,
    Figure,
    Style,
    draw_histogram,
    draw_line,
    drawable,
    guide,
    legend_above,
    log_axis,
    new_figure,
    plain_axes,
    rank_axis,
    series,
)
from pullback.analysis.spectra import random_direction_rate
from pullback.analysis.spectrum_figures import Drawn, remainder_figure, spectra_figure
from pullback.store.reader import Sweep


@dataclass(frozen=True)
class Named:
    """A sweep's analysis as it is drawn: under which name and in which style."""

    name: str
    analysis: Analysis
    style: Style


@dataclass(frozen=True)
class SweepFigure:
    """A figure of one sweep or of several.

    Attributes:
        summary: what it shows; a phrase without a full stop.
        statistics: the statistics that it needs of each sweep.
        draw: returns the figures by caption.
    """

    summary: str
    statistics: tuple[str, ...]
    draw: Callable[[Sequence[Named]], dict[str, Figure]]


def named(opened: Sequence[tuple[Sweep, Analysis]]) -> list[Named]:
    """Return sweeps with their names and styles: the first control is grey, and names that are equal get numbers."""
    found: list[Named] = []
    controls = others = 0
    for sweep, analysis in opened:
        if control_of(sweep) and not controls:
            style, controls = CONTROL, 1
        else:
            style, others = series(others), others + 1
        control = control_of(sweep)
        name = f"{sweep.name} ({control})" if control and control not in sweep.name else sweep.name
        same = sum(1 for each in found if each.name == name)
        found.append(Named(f"{name} {same + 1}" if same else name, analysis, style))
    return found


def control_of(sweep: Sweep) -> str | None:
    """Return which control of a trained generator a sweep is, such as "shuffled"; None if it is not a control."""
    generator = sweep.provenance.get("spec", {}).get("generator", {})
    control = generator.get("control") if isinstance(generator, dict) else None
    return str(control) if control else None


def spectra(entries: Sequence[Named]) -> dict[str, Figure]:
    """Draw mean spectra with their bands."""
    caption = f"Mean spectra of {_listed(entries)}, each with the 5th to 95th percentile over its samples (bands)."
    return {caption: spectra_figure([_drawn(entry) for entry in entries])}


def shares(entries: Sequence[Named]) -> dict[str, Figure]:
    """Draw the share of the trace that the leading ranks leave over."""
    counts = []
    for entry in entries:
        dim = entry.analysis["anisotropy"].json["dim"]["0.99"]
        if dim["needed"] is not None:
            counts.append(f"{dim['needed']} ({entry.name})")
    ranks = f" The ranks that reach 99 %: {', '.join(counts)}." if counts else ""
    caption = f"Share of the trace that is left over after the leading ranks, of {_listed(entries)}.{ranks}"
    return {caption: remainder_figure([_drawn(entry) for entry in entries])}


def similarity(entries: Sequence[Named]) -> dict[str, Figure]:
    """Draw histograms of C_log and of C_lin over pairs of samples."""
    drawn: dict[str, Figure] = {}
    for row, (key, label) in enumerate((("log", "C_log"), ("linear", "C_lin"))):
        random = entries[0].analysis["homogeneity"].value.random
        chance = np.empty(0) if random is None else random[row][np.isfinite(random[row])]
        values = [entry.analysis["homogeneity"].value.values(key) for entry in entries]
        if not any(each.size for each in values):
            continue
        figure = new_figure(label.lower().replace("_", "-"), height=2.4)
        axes = plain_axes(figure, x=f"{label} (correlation, no unit)", y="ordered pairs of samples (%)")
        low = min(0.0, *(float(each.min()) for each in (*values, chance) if each.size))
        bins = np.linspace(low - 0.02, 1.0 + 1e-9, 41)
        for entry, each in zip(entries, values, strict=True):
            draw_histogram(axes, each, bins, entry.style, entry.name, filled=entry.style is not CONTROL)
        if chance.size:
            draw_histogram(axes, chance, bins, NULL, "random axes", filled=False)
        legend_above(axes)
        means = [f"{each.mean():.3f} ({entry.name})" for entry, each in zip(entries, values, strict=True) if each.size]
        caption = f"{label} between the metrics of two samples of {_listed(entries)}: 1 where both have the same axes."
        dotted = " Dotted: random axes." if chance.size else ""
        drawn[f"{caption}{dotted} Mean: {', '.join(means)}."] = figure
    return drawn


def null(entries: Sequence[Named]) -> dict[str, Figure]:
    """Draw the rate along each axis of the mean metric, relative to that along a random direction."""
    figure = new_figure("null", height=2.6)
    axes = plain_axes(figure, x="rank of the axis", y="λ / mean λ (no unit)")
    axes.set_yscale("log")
    ranks, above = 0, []
    for entry in entries:
        found = entry.analysis["mean_metric"].value
        if not found.whole or not len(found.eigenvalues) or found.eigenvalues.sum() <= 0:
            continue
        mean, _ = random_direction_rate(found.eigenvalues)
        relative = drawable(found.eigenvalues / mean, float(found.eigenvalues[0] / mean))
        draw_line(axes, np.arange(1, len(relative) + 1), relative, entry.style, entry.name, marked=len(relative) <= 12)
        ranks = max(ranks, len(relative))
        above.append(f"{int(np.sum(found.eigenvalues > mean))} of {len(relative)} ({entry.name})")
    if not ranks:
        return {}
    guide(axes, y=1, text="random\ndirection", style=NULL)
    rank_axis(axes, ranks)
    log_axis(axes.yaxis)
    legend_above(axes)
    caption = (
        "Eigenvalues of the mean metric in units of their mean, which is the rate along a random direction (dotted). "
        f"Axes above a random direction: {', '.join(above)}."
    )
    return {caption: figure}


SWEEP_FIGURES = {
    "spectra": SweepFigure("mean spectra with bands, of one sweep or of several", ("anisotropy",), spectra),
    "shares": SweepFigure("the share of the trace that leading ranks leave over", ("anisotropy",), shares),
    "similarity": SweepFigure(
        "histograms of C_log and C_lin, against those of a control", ("homogeneity",), similarity
    ),
    "null": SweepFigure("axes of the mean metric against random directions", ("mean_metric",), null),
}
"""The figures of several sweeps by name."""


def _drawn(entry: Named) -> Drawn:
    return Drawn(entry.analysis["anisotropy"].value, entry.name, entry.style)


def _listed(entries: Sequence[Named]) -> str:
    names = [entry.name for entry in entries]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
