"""Diagonality: how well the axes of the mean metric diagonalise the metric of each sample.

In the basis U of the mean metric, sample i has A = Uᵀ H_i U. Its diagonality is Σ_a A_aa² / ‖H_i‖_F², between 0 and 1:
the share of the squared metric that global axes explain. It is 1 if U holds eigenvectors of H_i. (It is the criterion
that joint diagonalisation maximises: Cardoso & Souloumiac, SIAM J. Matrix Anal. Appl. 17, 1996.) A random orthonormal
basis has the expectation ((tr H_i)² / ‖H_i‖_F² + 2) / (n + 2), because v_aᵀHv_a has the second moment
((tr H)² + 2 ‖H‖_F²) / (n (n + 2)) for v uniform on the sphere.

The coupling of two axes is |A_ab| / √(A_aa A_bb), averaged over samples. It is the |cosine| of the image changes along
the two axes, seen by the distance: how much a slider along one leaks into the other. Its control is a random
orthonormal basis for each sample.

Where only k < n eigenpairs are kept, H_i is the part that these make.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pullback.analysis.bootstrap import Bootstrap, BootstrapOptions, Floats, interval, weighted_means
from pullback.analysis.correlations import NULL_FLOOR, WORKSPACE
from pullback.analysis.eigenbasis import eigenbasis
from pullback.analysis.grassmann import random_frames
from pullback.analysis.leading import kept_part, kept_variables
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.samples import Samples
from pullback.analysis.scalars import shown, shown_interval, spread_of, variable, within

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "how well the mean metric's axes diagonalise each metric, and how much one axis leaks into another"


class Options(BootstrapOptions):
    """Options of the diagonality."""

    leading: int = Field(default=20, ge=2, le=1000)
    """Leading axes whose coupling is measured."""


def diagonality(axes: npt.ArrayLike, eigenvalues: npt.ArrayLike, eigenvectors: npt.ArrayLike) -> Floats:
    """Return Σ_a (u_aᵀ H_i u_a)² / ‖H_i‖_F² of each sample `[samples]`; NaN for a zero metric.

    Args:
        axes: an orthonormal basis, rows u_a, `[axes, n]`.
        eigenvalues: `[samples, k]`.
        eigenvectors: `[samples, k, n]`, unit rows.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    cosines = np.square(np.asarray(eigenvectors, dtype=np.float64) @ np.asarray(axes, dtype=np.float64).T)
    rates = np.matmul(values[:, None, :], cosines)[:, 0]
    return _ratio(np.sum(rates**2, axis=1), np.sum(values**2, axis=1))


def random_diagonality(eigenvalues: npt.ArrayLike, n: int) -> Floats:
    """Return the expected diagonality of each metric in a random orthonormal basis `[samples]`; NaN for a zero metric.

    Args:
        eigenvalues: `[samples, k]`; the others are taken as zero.
        n: size of the metric.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    return (_ratio(values.sum(axis=1) ** 2, np.sum(values**2, axis=1)) + 2) / (n + 2)


def couplings(axes: npt.ArrayLike, eigenvalues: npt.ArrayLike, eigenvectors: npt.ArrayLike) -> Floats:
    """Return |A_ab| / √(A_aa A_bb) with A = axes H_i axesᵀ, `[samples, axes, axes]`.

    NaN for an axis along which a metric is zero or round-off: the image does not change along it.

    Args:
        axes: unit rows `[axes, n]`, or different ones for each sample, `[samples, axes, n]`.
        eigenvalues: `[samples, k]`.
        eigenvectors: `[samples, k, n]`, unit rows.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    along = np.asarray(eigenvectors, dtype=np.float64) @ np.swapaxes(np.asarray(axes, dtype=np.float64), -1, -2)
    metrics = np.swapaxes(along, 1, 2) @ (values[:, :, None] * along)
    rates = np.diagonal(metrics, axis1=1, axis2=2)
    moving = (rates > 0) & (rates > NULL_FLOOR * np.abs(values).max(axis=1, keepdims=True))
    lengths = np.sqrt(np.where(moving, rates, np.nan))
    coupled: Floats = np.abs(metrics) / (lengths[:, :, None] * lengths[:, None, :])
    return coupled


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return the diagonality of each sample, and the coupling of the leading axes, with 95 % bootstrap intervals."""
    import xarray as xr

    n, many = samples.latent_dim, len(samples)
    axes = eigenbasis(samples.mean_metric())[1]
    leading = min(options.leading, n)
    generator = np.random.default_rng([options.seed, 1])
    own = np.empty(many)
    coupled = np.empty((many, leading * leading), dtype=np.float32)  # the largest array, for the intervals
    leaks, coupling, control = np.empty((many, leading)), np.empty(many), np.empty(many)
    kept = samples.eigenvalues.shape[1]
    size = max(1, WORKSPACE // (8 * (2 * kept * n + leading * n)))
    for start in range(0, many, size):
        part = slice(start, min(start + size, many))
        values, rows = samples.eigenvalues[part], np.asarray(samples.eigenvectors[part], dtype=np.float64)
        own[part] = diagonality(axes, values, rows)
        pairs = couplings(axes[:leading], values, rows)
        coupled[part] = pairs.reshape(len(rows), -1)
        leaks[part], coupling[part] = _leakage(pairs), _off_diagonal(pairs)
        control[part] = _off_diagonal(couplings(random_frames(len(rows), leading, n, generator), values, rows))
        progress(part.stop, many)
    null = random_diagonality(samples.eigenvalues, n)
    excess = _ratio(own - null, 1 - null)
    weights = samples.bootstrap(options.draws, options.seed)
    means, ends = _mean_of(coupled, weights)
    scalars: dict[str, Any] = {}
    for name, values, words in (
        ("mean", own, "mean diagonality in the basis of the mean metric"),
        ("random", null, "mean expected diagonality in a random basis"),
        ("excess", excess, "mean of (D − D_random) / (1 − D_random): 0 for a random basis, 1 for eigenvectors"),
        ("coupling_mean", coupling, "mean coupling of the leading axes"),
        ("random_coupling", control, "mean coupling of as many random orthonormal axes"),
    ):
        spread = spread_of(values, weights)
        scalars[name] = variable((), spread.mean, words, "1")
        scalars[f"{name}_ci95"] = variable(("end",), spread.mean_ci95, f"95 % bootstrap interval of the {words}", "1")
    by_axis, axis_ends = _mean_of(leaks, weights)
    words = "coupling of two axes, mean over samples"
    leak = "mean coupling of an axis with the other leading axes"
    return xr.Dataset(
        {
            "diagonality": variable(("sample",), own, "diagonality in the basis of the mean metric", "1"),
            "random_diagonality": variable(("sample",), null, "expected diagonality in a random basis", "1"),
            **scalars,
            "coupling": variable(("axis", "other"), means.reshape(leading, leading), words, "1"),
            "coupling_ci95": variable(
                ("end", "axis", "other"),
                ends.reshape(2, leading, leading),
                f"95 % bootstrap interval of the {words}",
                "1",
            ),
            "leakage": variable(("axis",), by_axis, leak, "1"),
            "leakage_ci95": variable(("end", "axis"), axis_ends, f"95 % bootstrap interval of the {leak}", "1"),
            **kept_variables(samples),
        },
        coords={"sample": samples.numbers, "axis": np.arange(1, leading + 1), "other": np.arange(1, leading + 1)},
    )


def _ratio(above: Floats, below: Floats) -> Floats:
    found: Floats = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return found


def _without_diagonal(coupled: Floats) -> Floats:
    return np.where(np.eye(coupled.shape[1], dtype=bool), np.nan, coupled)


def _leakage(coupled: Floats) -> Floats:
    """Mean coupling of each axis with the others `[samples, axes]`; NaN if it is not defined."""
    others = _without_diagonal(coupled)
    known = np.isfinite(others)
    return _ratio(np.where(known, others, 0.0).sum(axis=2), known.sum(axis=2).astype(np.float64))


def _off_diagonal(coupled: Floats) -> Floats:
    """Mean coupling of two different axes `[samples]`; NaN if it is not defined."""
    others = _without_diagonal(coupled).reshape(len(coupled), -1)
    known = np.isfinite(others)
    return _ratio(np.where(known, others, 0.0).sum(axis=1), known.sum(axis=1).astype(np.float64))


def _mean_of(values: npt.NDArray[np.floating[Any]], weights: Bootstrap) -> tuple[Floats, Floats]:
    """Mean over the samples that have a value `[m]`, and its 95 % bootstrap interval `[2, m]`.

    A few columns of `values` `[samples, m]` are taken at a time, so that their float64 copies fit the working memory.
    """
    mean, ends = np.empty(values.shape[1]), np.empty((2, values.shape[1]))
    size = max(1, WORKSPACE // (32 * len(values)))
    for start in range(0, values.shape[1], size):
        part = slice(start, start + size)
        known = np.isfinite(values[:, part])
        filled = np.where(known, values[:, part], 0.0).astype(np.float64)
        mean[part] = _ratio(filled.sum(axis=0), known.sum(axis=0).astype(np.float64))
        drawn = _ratio(weighted_means(weights, filled), weighted_means(weights, known))
        ends[:, part] = np.stack(interval(drawn))
    return mean, ends


def summary(result: Result) -> list[Table]:
    """Return the diagonality and the coupling beside a random basis, and the leakage of the leading axes."""
    data = result.dataset

    def row(label: str, name: str, null: str = "") -> list[str]:
        random = (shown(float(data[null])), shown_interval(data[f"{null}_ci95"].values)) if null else ("–", "–")
        return [label, shown(float(data[name])), shown_interval(data[f"{name}_ci95"].values), *random]

    leading = data.sizes["axis"]
    rows = [
        row("diagonality, Σ diag² / ‖H‖²", "mean", "random"),
        row("excess over a random basis, 0 to 1", "excess"),
        row(f"coupling of the {leading} leading axes", "coupling_mean", "random_coupling"),
    ]
    leaks = []
    for place in range(leading):
        others = data["coupling"].values[place].copy()
        others[place] = np.nan
        most = int(np.nanargmax(others)) if np.isfinite(others).any() else None
        leaks.append(
            [
                str(place + 1),
                shown(float(data["leakage"][place])),
                shown_interval(data["leakage_ci95"].values[:, place]),
                "–" if most is None else str(most + 1),
                "–" if most is None else shown(float(others[most])),
                "–" if most is None else shown_interval(data["coupling_ci95"].values[:, place, most]),
            ]
        )
    columns = ("", ">mean", ">95 % interval", ">random basis", ">95 % interval")
    headings = (">axis", ">mean coupling", ">95 % interval", ">most with axis", ">coupling", ">95 % interval")
    return [Table(columns, rows, "Diagonality"), Table(headings, leaks, "Leakage of the leading axes")]


def sentences(result: Result) -> list[str]:
    """Return how much of each metric the global axes diagonalise, and how much they leak."""
    data = result.dataset
    if not np.isfinite(float(data["mean"])):
        return []
    return [
        f"In the basis of the mean metric, the diagonal holds {shown(float(data['mean']))} of a metric's squared "
        f"entries in the mean over samples{within(data['mean_ci95'].values)}; in a random basis it would be "
        f"{shown(float(data['random']))}.",
        f"The image changes along two of the {data.sizes['axis']} leading axes have a mean |cosine| of "
        f"{shown(float(data['coupling_mean']))}{within(data['coupling_mean_ci95'].values)}; along random axes it is "
        f"{shown(float(data['random_coupling']))}. At 0 a slider along one axis leaves the other's change alone.",
    ]


def notes(result: Result) -> list[str]:
    """Return which samples count and where the intervals come from."""
    options = result.options.model_dump()
    unknown = int(np.sum(~np.isfinite(result["diagonality"].values)))
    lines = [f"Intervals come from {options['draws']} bootstrap draws of the samples; the axes stay fixed."]
    if unknown:
        lines.append(f"{unknown} samples whose metric is zero have no diagonality.")
    return lines


def cautions(result: Result) -> list[str]:
    """Return how much of the trace is kept; nothing if all eigenpairs are."""
    return kept_part(result)


def figure(result: Result) -> "dict[str, Figure]":
    """Draw the coupling of the leading axes as a matrix, and the diagonality of the samples as a histogram."""
    from pullback.analysis.drawing import (
        NULL,
        draw_heat_map,
        draw_histogram,
        legend_above,
        new_figure,
        plain_axes,
        series,
    )

    data = result.dataset
    matrix = np.where(np.eye(data.sizes["axis"], dtype=bool), np.nan, data["coupling"].values)
    coupling = new_figure("coupling", height=2.9)
    axes = plain_axes(coupling, x="axis", y="other axis")
    ranks = data["axis"].values.tolist()
    image = draw_heat_map(axes, matrix, "coupling, |cosine| of image changes", low=0.0, names=ranks)
    image.set_extent((0.5, len(ranks) + 0.5, len(ranks) + 0.5, 0.5))  # ranks start at 1
    histogram = new_figure("diagonality")
    axes = plain_axes(histogram, x="diagonality, Σ diag² / ‖H‖²", y="samples (%)")
    bins = np.linspace(0, 1, 41)
    heights = [
        *draw_histogram(axes, data["diagonality"].values, bins, series(0), "axes of the mean metric"),
        *draw_histogram(axes, data["random_diagonality"].values, bins, NULL, "random basis, expected", filled=False),
    ]
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05 * max(max(heights), 1.0))
    legend_above(axes)
    return {
        "Coupling of the leading axes of the mean metric: the |cosine| of the image changes along two axes, averaged "
        "over samples. The diagonal, 1 by definition, is blank.": coupling,
        "Diagonality of each sample's metric in the basis of the mean metric. At 1 the global axes are the sample's "
        "own eigenvectors.": histogram,
    }
