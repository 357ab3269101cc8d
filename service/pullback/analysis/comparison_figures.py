"""Figures of the comparison of two sweeps: cross rates, overlap and |cos| by rank, sensitivity to ε, mean spectra."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_NAMES = {"same_code": "same code", "other_code": "other code", "random_axes": "random axes"}


def comparison_figures(dataset: "xr.Dataset", first: str, second: str) -> dict[str, "Figure"]:
    """Return the figures by caption; those of single codes only where the sweeps have the same ones.

    Args:
        dataset: of `statistics.comparison`.
        first: name of the sweep A.
        second: name of the sweep B.
    """
    drawn = {}
    if "mean" in dataset:
        for direction, axes_of, metric in (("a_under_b", first, second), ("b_under_a", second, first)):
            caption = (
                f"Rates of change of {metric} along the eigenvectors of {axes_of}, against the eigenvalues of {metric} "
                "of equal rank. On the line both have the same axes."
            )
            drawn[caption] = scatter_figure(dataset, direction, axes_of, metric)
        drawn[
            f"Overlap (mean cos² of principal angles) of the k leading eigenvectors of {first} and {second}, with 95 % "
            "intervals."
        ] = _by_rank(dataset, "overlap", "size k of the leading subspaces", "mean cos²")
        drawn[f"|cos| between the eigenvectors of equal rank of {first} and {second}, with 95 % intervals."] = _by_rank(
            dataset, "cosine", "rank", "|cos|"
        )
        drawn[
            f"Correlation of the entries of log H of {first} and {second} by the regularisation ε, with 95 % intervals."
        ] = sensitivity_figure(dataset)
    if "mean_metrics" in dataset:
        drawn[
            f"Spectra of the mean metrics of {first} and {second}, each as a share of its trace, and rates of change "
            f"of {second} along the axes of {first}. If both have the same axes, these rates are the eigenvalues of "
            f"{second}."
        ] = mean_spectra_figure(dataset, first, second)
    return drawn


def scatter_figure(dataset: "xr.Dataset", direction: str, axes_of: str, metric: str) -> "Figure":
    """Draw cross rates against eigenvalues on logarithmic axes, with the line of equal axes."""
    from pullback.analysis.drawing import COLUMN, GREY, NO_DATA, log_axis, new_figure, plain_axes, series

    name = f"cross-rates-{direction.replace('_', '-')}"
    figure = new_figure(name, height=COLUMN)
    across = f"eigenvalue of {metric}\n(squared distance / latent length²)"
    axes = plain_axes(figure, x=across, y=f"rate of {metric} along eigenvectors of {axes_of}")
    chosen = dataset["scattered"].sel(direction=direction)
    own, other = (chosen.sel(axis_of=each).values for each in ("own", "other"))
    positive = (own > 0) & (other > 0) & (own > 1e-12 * np.abs(own).max()) & (other > 1e-12 * np.abs(own).max())
    for index, number in enumerate(dataset["shown_sample"].values):
        style, here = series(index), positive[index]
        axes.plot(
            own[index][here],
            other[index][here],
            linestyle="none",
            marker=style.marker,
            markersize=3,
            markerfacecolor="none",
            markeredgewidth=0.7,
            color=style.color,
            label=f"sample {int(number)}",
        )
    if positive.any():
        shown = np.concatenate([own[positive], other[positive]])
        ends = [shown.min() / 1.5, shown.max() * 1.5]
        axes.plot(ends, ends, color=GREY, linewidth=0.8, zorder=0.9, label=NO_DATA)
        axes.set_xlim(*ends)
        axes.set_ylim(*ends)
        log_axis(axes.xaxis)
        log_axis(axes.yaxis)
        axes.set_aspect("equal")
    _legend(axes, 2)
    return figure


def mean_spectra_figure(dataset: "xr.Dataset", first: str, second: str) -> "Figure":
    """Draw the eigenvalues of both mean metrics by rank, and the rates of the second along the axes of the first."""
    from pullback.analysis.drawing import draw_line, drawable, log_axis, new_figure, plain_axes, rank_axis, series

    figure = new_figure("mean-spectra")
    axes = plain_axes(figure, x="rank of the axis", y="share of the trace")
    axes.set_yscale("log")
    a, b = (each / each.sum() if each.sum() > 0 else each for each in dataset["mean_eigenvalue"].values)
    total = float(dataset["mean_eigenvalue"].values[1].sum())
    along = dataset["mean_cross_rate"].values[1] / (total if total > 0 else 1.0)
    largest = max(float(a[0]), float(b[0]))
    named = ((a, f"axes of {first}"), (b, f"axes of {second}"), (along, f"{second} along the axes of {first}"))
    for index, (values, label) in enumerate(named):
        draw_line(axes, dataset["mean_axis"].values, drawable(values, largest), series(index), label, marked=False)
    rank_axis(axes, len(a))
    log_axis(axes.yaxis)
    _legend(axes, 1)
    return figure


def sensitivity_figure(dataset: "xr.Dataset") -> "Figure":
    """Draw the flat correlation of log H against ε, with both controls."""
    from pullback.analysis.drawing import draw_band, draw_line, log_axis, new_figure, plain_axes

    figure = new_figure("sensitivity-to-epsilon")
    axes = plain_axes(figure, x="regularisation ε (share of tr H / n)", y="r of the entries of log H")
    chosen = dataset.sel(log_number="log_h")
    for pairing, style in _styles():
        low, high = chosen["sensitivity_ci95"].sel(pairing=pairing).values
        draw_band(axes, dataset["epsilon"].values, low, high, style)
        mean = chosen["sensitivity"].sel(pairing=pairing).values
        draw_line(axes, dataset["epsilon"].values, mean, style, label=_NAMES[pairing])
    log_axis(axes.xaxis)
    _legend(axes)
    return figure


def _by_rank(dataset: "xr.Dataset", kind: str, x: str, y: str) -> "Figure":
    """Draw the numbers `KIND_1`, `KIND_2`, ... of each pairing with their intervals, from 0 to 1."""
    from pullback.analysis.drawing import (
        NO_DATA,
        draw_errors,
        draw_line,
        log_axis,
        new_figure,
        plain_axes,
        rank_axis,
        series,
    )

    figure = new_figure(f"{kind}-by-rank")
    axes = plain_axes(figure, x=x, y=y)
    names = [str(name) for name in dataset["number"].values if str(name).startswith(f"{kind}_")]
    ranks = np.array([int(name.rpartition("_")[2]) for name in names], dtype=np.float64)
    for pairing, style in _styles():
        chosen = dataset.sel(pairing=pairing, number=names)
        low, high = chosen["mean_ci95"].values
        draw_line(axes, ranks, chosen["mean"].values, style.lighter(), NO_DATA, marked=False)
        draw_errors(axes, ranks, chosen["mean"].values, low, high, style, label=_NAMES[pairing])
    known = [name for name in names if "mean_number" in dataset.coords and name in dataset["mean_number"].values]
    if known:
        means, at = dataset.sel(mean_number=known), [int(name.rpartition("_")[2]) for name in known]
        draw_line(axes, at, means["mean_metrics"].values, series(1).lighter(), NO_DATA, marked=False)
        low, high = means["mean_metrics_ci95"].values
        draw_errors(axes, at, means["mean_metrics"].values, low, high, series(1), label="mean metrics")
    axes.set_ylim(0, 1.02)
    if kind == "cosine":
        rank_axis(axes, len(names))
    elif len(ranks):
        axes.set_xscale("log")
        axes.set_xlim(0.85, max(float(ranks.max()), 2) * 1.18)
        log_axis(axes.xaxis, plain=True)
    _legend(axes)
    return figure


def _styles() -> list[tuple[str, Any]]:
    from pullback.analysis.drawing import CONTROL, NULL, series

    return [("same_code", series(0)), ("other_code", CONTROL), ("random_axes", NULL)]


def _legend(axes: Any, columns: int = 3) -> None:
    from pullback.analysis.drawing import legend_above

    legend_above(axes, columns=columns)
