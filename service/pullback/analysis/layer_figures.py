"""Figures of layers: heat maps of amplification, curves along depth, rates along the reference's axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.analysis.spectra import SHARES

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_HEAT_MAPS = {
    "linear": ("r of the rates A with the eigenvalues λ", "linear correlation of the rates with the eigenvalues"),
    "log": ("r of log A with log λ", "correlation of their logarithms"),
    "slope": ("slope of log A on log λ", "slope of their regression on logarithmic scales"),
    "intercept": ("intercept of log10 A on log10 λ", "intercept of that regression, in units of both layers"),
}


def layer_figures(dataset: "xr.Dataset", layers: Sequence[str]) -> dict[str, "Figure"]:
    """Return the figures by caption; `dataset` is that of `statistics.layers`."""
    drawn = {}
    for name, (label, words) in _HEAT_MAPS.items():
        caption = f"Rates of one layer along the eigenvectors of another: {words}. The diagonal is blank."
        drawn[caption] = _heat_map(dataset, layers, name, label)
    drawn["Dimensions of the mean spectrum of each layer, with 95 % intervals."] = _dims(dataset, layers)
    drawn[
        f"How well each layer's eigenvectors serve the metric of {layers[-1]} (C_log), and the homogeneity of each "
        "layer between codes, with 95 % intervals."
    ] = _alike(dataset, layers)
    drawn[
        f"Rates of each layer along the eigenvectors of {layers[-1]} by rank, as multiples of the layer's mean rate "
        "tr H / n; geometric means over codes."
    ] = _rates(dataset, layers)
    return drawn


def _heat_map(dataset: "xr.Dataset", layers: Sequence[str], name: str, label: str) -> "Figure":
    from pullback.analysis.drawing import COLUMN, draw_heat_map, new_figure, plain_axes

    figure = new_figure(f"amplification-{name}", height=0.9 * COLUMN)
    axes = plain_axes(figure, x="layer of the metric", y="layer of the eigenvectors")
    matrix = dataset["matrix"].sel(number=name).values
    blank = np.where(np.eye(len(matrix), dtype=bool), np.nan, matrix)
    draw_heat_map(axes, blank, label, names=list(layers), diverging=name == "intercept")
    _name_ticks(axes, layers, both=True)
    return figure


def _dims(dataset: "xr.Dataset", layers: Sequence[str]) -> "Figure":
    from pullback.analysis.drawing import label_ends, new_figure, plain_axes, series

    figure = new_figure("dimensions-by-layer")
    axes = plain_axes(figure, x="layer", y="dim(q): eigenvalues that carry the share q")
    lines = []
    for index, share in enumerate(SHARES):
        quantity = f"dim_{share:g}"
        values, ends = dataset["own"].sel(quantity=quantity).values, dataset["own_ci95"].sel(quantity=quantity).values
        lines.append(_curve(axes, values, ends, series(index), f"q = {share:g}"))
    axes.set_ylim(bottom=0)
    _name_ticks(axes, layers)
    label_ends(axes, lines)
    return figure


def _alike(dataset: "xr.Dataset", layers: Sequence[str]) -> "Figure":
    from pullback.analysis.drawing import CONTROL, legend_above, new_figure, plain_axes, series

    figure = new_figure("axes-by-layer")
    axes = plain_axes(figure, x="layer", y="C_log")
    values = dataset["matrix"].sel(number="c_log").values[:, -1].copy()
    ends = dataset["matrix_ci95"].sel(number="c_log").values[:, :, -1].copy()
    values[-1], ends[:, -1] = np.nan, np.nan
    _curve(axes, values, ends, series(0), f"under {layers[-1]}, same code")
    own = dataset.sel(quantity="c_log")
    _curve(axes, own["own"].values, own["own_ci95"].values, CONTROL, "same layer, two codes")
    axes.set_ylim(top=1.02)
    _name_ticks(axes, layers)
    legend_above(axes, columns=2)
    return figure


def _rates(dataset: "xr.Dataset", layers: Sequence[str]) -> "Figure":
    from matplotlib import colormaps

    from pullback.analysis.drawing import (
        Style,
        draw_line,
        label_ends,
        log_axis,
        new_figure,
        plain_axes,
        rank_axis,
        series,
    )

    figure = new_figure("rates-along-reference-axes")
    axes = plain_axes(figure, x=f"rank of the eigenvector of {layers[-1]}", y="rate / mean rate of the layer")
    rates = 10.0 ** dataset["reference_rate"].values
    ranks = np.arange(1, rates.shape[1] + 1)
    colours = colormaps["cividis"](np.linspace(0.0, 0.85, len(layers)))
    lines = []
    for index, name in enumerate(layers):
        style = Style(tuple(colours[index]), series(index).dashes, series(index).marker, 1.2)  # type: ignore[arg-type]
        lines.append(draw_line(axes, ranks, rates[index], style, label=name))
    rank_axis(axes, len(ranks))
    log_axis(axes.yaxis)
    label_ends(axes, lines)
    return figure


def _curve(axes: Any, values: Any, ends: Any, style: Any, label: str) -> Any:
    from pullback.analysis.drawing import NO_DATA, draw_errors, draw_line

    at = np.arange(len(values))
    draw_line(axes, at, values, style, NO_DATA, marked=False)
    return draw_errors(axes, at, values, ends[0], ends[1], style, label=label)


def _name_ticks(axes: Any, layers: Sequence[str], both: bool = False) -> None:
    """Write the names of layers at the ticks: all of up to 16, and evenly spread ones of more."""
    from pullback.analysis.drawing import SMALL

    step = -(-len(layers) // 16)
    at = list(range(0, len(layers), step))
    names = [layers[index] for index in at]
    axes.set_xticks(at, names, rotation=45, ha="right", rotation_mode="anchor", fontsize=SMALL)
    if both:
        axes.set_yticks(at, names, fontsize=SMALL)
