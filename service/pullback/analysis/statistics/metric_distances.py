"""Distances between the metrics of pairs of samples: affine-invariant and log-Euclidean (`matrix_distances`).

Both need positive definite metrics, and the metrics of generators are often rank-deficient. Each is therefore
regularised as H + ε tr(H)/n I. The distances depend on ε, so they are computed for the chosen ε and for five values
from 1e-6 to 1e-2. d / √n is the root mean square of log ratios over directions, so exp(d / √n) is a typical ratio.

Each distance has two references with the same two spectra. The *least* distance is that of metrics with the same axes
in the same order. The *chance* distance is that after the axes of the second metric are replaced by a random basis. The
position (d − least) / (chance − least) is 0 if the axes agree, and 1 if they are unrelated.

Pairs are sampled at random. Two pairs that share a sample are not independent, so intervals are ± 1.96 standard errors
for dyadic data (`pair_summary.dyadic_error`).

If only k < n eigenpairs are kept, the remaining trace is spread evenly over the remaining dimensions, as in `means`.

Invariants: the same seed takes the same pairs. One factor for all metrics changes no distance, nor does one rotation.
"""

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from pullback.analysis.bootstrap import BootstrapOptions, Floats, Integers, bootstrap_weights, interval
from pullback.analysis.grassmann import random_frames
from pullback.analysis.matrix_distances import LogMetric, affine_invariants, aligned, log_euclidean
from pullback.analysis.pair_samples import random_pairs
from pullback.analysis.pair_summary import NORMAL_95, dyadic_error
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.samples import Samples
from pullback.analysis.scalars import scatter_figure, shown, shown_interval, shown_with, variable, within
from pullback.analysis.statements import percent
from pullback.analysis.statistics.means import log_coefficients
from pullback.errors import PullbackError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "affine-invariant and log-Euclidean distances between metrics, and how they depend on the regularisation"

KINDS = ("affine-invariant", "log-Euclidean")
"""The two distances, in the order of the dimension `kind`."""

CURVE = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""The regularisations ε of the sensitivity curve; the chosen one is added to them."""


class Options(BootstrapOptions):
    """Options of the distances between metrics."""

    regularization: float = Field(default=1e-4, gt=0, lt=1)
    """ε of the logarithm of H + ε tr(H)/n I."""
    pairs: int = Field(default=100, ge=1, le=1_000_000)
    """Largest number of pairs of samples that are compared, drawn at random without replacement."""


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return means of both distances by regularisation, with chance, least value, position and intervals.

    Raises:
        PullbackError: fewer than 2 samples have a metric that is not zero.
    """
    import xarray as xr

    levels = np.array(sorted({*CURVE, options.regularization}))
    usable = np.flatnonzero(samples.eigenvalues.any(axis=1))
    if len(usable) < 2:
        raise PullbackError(
            f"sweep {samples.about.name!r} has {len(usable)} good sample with a metric that is not zero; a distance "
            "needs 2. Nothing is lost. Run the sweep with more samples."
        )
    pairs = usable[random_pairs(len(usable), options.pairs, options.seed)]
    found = _distances(samples, pairs, levels, options.seed, progress)  # [3, kind, level, pair]
    values, chance, least = np.moveaxis(found, -1, 1)  # [pair, kind, level] each
    means, errors = (
        found.mean(axis=-1),
        [_errors(pairs, each - each.mean(axis=0)) for each in (values, chance, least)],
    )
    span = means[1] - means[2]
    with np.errstate(invalid="ignore", divide="ignore"):  # isotropic metrics have no axes
        position = np.where(span > 1e-9 * means[1], (means[0] - means[2]) / span, np.nan)
        linear = ((values - least) - position * (chance - least)) / span
    position_error = _errors(pairs, linear - linear.mean(axis=0))
    main = int(np.flatnonzero(levels == options.regularization)[0])
    codes = _code_distances(samples, pairs)
    r, r_ends = _code_correlations(values[:, :, main], codes, pairs, options)
    trace = np.maximum(samples.trace, samples.eigenvalues.sum(axis=1)).sum()
    kept = float(samples.eigenvalues.sum() / trace) if samples.truncated else 1.0
    unit, level = "nat", ("kind", "regularization")

    def between(mean: Floats, error: Floats) -> Floats:
        return np.stack([mean - NORMAL_95 * error, mean + NORMAL_95 * error])

    return xr.Dataset(
        {
            "distance": variable(level, means[0], "mean distance of two metrics", unit),
            "distance_ci95": variable(("end", *level), between(means[0], errors[0]), "95 % interval", unit),
            "chance": variable(level, means[1], "mean distance with axes in a random basis", unit),
            "chance_ci95": variable(("end", *level), between(means[1], errors[1]), "95 % interval", unit),
            "least": variable(level, means[2], "mean distance with the same axes", unit),
            "least_ci95": variable(("end", *level), between(means[2], errors[2]), "95 % interval", unit),
            "position": variable(level, position, "position between the same axes (0) and random ones (1)", "1"),
            "position_ci95": variable(("end", *level), between(position, position_error), "95 % interval", "1"),
            "pair": variable(("number", "member"), samples.numbers[pairs], "samples of each pair", "1"),
            "pair_distance": variable(("number", "kind"), values[:, :, main], "distance of each pair", unit),
            "code_distance": variable(("number",), codes, "distance of the codes", "latent unit"),
            "code_correlation": variable(("kind",), r, "correlation with the distance of the codes", "1"),
            "code_correlation_ci95": variable(("end", "kind"), r_ends, "95 % interval", "1"),
            "pairs": variable((), len(pairs), "pairs that are compared", "1"),
            "zero_metrics": variable((), len(samples) - len(usable), "samples whose metric is zero", "1"),
            "chosen": variable((), options.regularization, "the chosen regularisation ε", "1"),
            "latent_dim": variable((), samples.latent_dim, "size of a latent code", "1"),
            "kept_ranks": variable((), samples.eigenvalues.shape[1], "eigenpairs kept of each metric", "1"),
            "trace_share": variable((), kept, "share of the trace in the kept eigenpairs", "1"),
        },
        coords={"regularization": levels},
    )


def summary(result: Result) -> list[Table]:
    """Return both distances at the chosen regularisation, and at all of them."""
    found, main = result.dataset, _main(result)
    columns = (
        *("", ">mean", ">95 % interval", ">same axes", ">random axes"),
        *(">position", ">95 % interval", ">r with ‖z − z′‖", ">95 % interval of r"),
    )

    def row(label: str, kind: int, at: int) -> list[str]:
        return [
            label,
            shown(float(found["distance"].values[kind, at])),
            shown_interval(found["distance_ci95"].values[:, kind, at]),
            shown_with(found["least"].values[kind, at], found["least_ci95"].values[:, kind, at]),
            shown_with(found["chance"].values[kind, at], found["chance_ci95"].values[:, kind, at]),
            shown(float(found["position"].values[kind, at])),
            shown_interval(found["position_ci95"].values[:, kind, at]),
        ]

    rows = [
        [
            *row(name, kind, main),
            shown(float(found["code_correlation"].values[kind])),
            shown_interval(found["code_correlation_ci95"].values[:, kind]),
        ]
        for kind, name in enumerate(KINDS)
    ]
    curve = [
        [f"{epsilon:g}", *row(name, kind, at)]
        for kind, name in enumerate(KINDS)
        for at, epsilon in enumerate(found["regularization"].values)
    ]
    return [
        Table(columns, rows, f"Distances between metrics, {int(found['pairs'])} pairs, ε = {float(found['chosen']):g}"),
        Table((">ε", *columns[:7]), curve, "Distances by regularisation"),
    ]


def sentences(result: Result) -> list[str]:
    """Return how far two metrics are apart, where their axes stand, and what the regularisation changes."""
    found, main, n = result.dataset, _main(result), int(result["latent_dim"])
    distance, position = found["distance"].values[:, main], found["position"].values
    lines = [
        f"Two metrics are {distance[0]:.3g}{within(found['distance_ci95'].values[:, 0, main])} nats apart in the "
        f"affine-invariant distance, a typical factor of {np.exp(distance[0] / n**0.5):.3g} in each direction; "
        f"{distance[1]:.3g}{within(found['distance_ci95'].values[:, 1, main])} in the log-Euclidean one."
    ]
    if np.isfinite(position[:, main]).all():
        lines.append(
            "Between metrics with the same axes (0) and with unrelated ones (1), they stand at "
            f"{position[0, main]:.2f}{within(found['position_ci95'].values[:, 0, main])} and "
            f"{position[1, main]:.2f}{within(found['position_ci95'].values[:, 1, main])}. Over all regularisations "
            f"these positions range from {np.nanmin(position):.2f} to {np.nanmax(position):.2f}."
        )
    return lines


def notes(result: Result) -> list[str]:
    """Return the regularisation, the pairs, and where the intervals come from."""
    found, options = result.dataset, result.options.model_dump()
    return [
        f"Metrics are regularised as H + ε tr(H)/n I with ε = {float(found['chosen']):g}, and with the others of the "
        "curve.",
        f"{int(found['pairs'])} pairs of samples are compared, drawn at random without replacement (seed "
        f"{options['seed']}). Intervals are ± 1.96 standard errors that allow for pairs with a common sample.",
        f"The interval of r is of {options['draws']} bootstrap draws of the samples; for sampled pairs it is too wide "
        "rather than too narrow.",
        "Same axes: the least distance of the two spectra over all rotations. Random axes: the second metric's axes "
        "are replaced by a random basis, one for each pair.",
    ]


def cautions(result: Result) -> list[str]:
    """Return how much depends on the regularisation, and what truncated spectra and zero metrics leave undetermined."""
    found, lines = result.dataset, []
    means, levels = found["distance"].values, found["regularization"].values
    for kind, name in enumerate(KINDS):
        ratio = float(means[kind].max() / means[kind].min()) if means[kind].min() > 0 else 1.0
        if ratio > 1.5:
            lines.append(
                f"The {name} distance depends on the regularisation: it changes by a factor of {ratio:.2g} between "
                f"ε = {levels.min():g} and {levels.max():g}. Compare it at one ε only."
            )
    kept, n = int(found["kept_ranks"]), int(found["latent_dim"])
    if kept < n:
        lines.append(
            f"{kept} of {n} eigenpairs are kept, with {percent(float(found['trace_share']))} of the trace. The rest "
            "counts as spread evenly over the other directions, so the distances do not see differences there."
        )
    zeros = int(found["zero_metrics"])
    if zeros:
        lines.append(f"Samples left out, because their metric is zero and has no distance: {zeros}.")
    return lines


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw both distances against the regularisation, and against the distance of the codes."""
    found, main = result.dataset, _main(result)
    figures = {
        f"Mean {name} distance against the regularisation ε, with 95 % intervals, between that of the same axes and "
        "that of random axes.": _curve_figure(found, kind)
        for kind, name in enumerate(KINDS)
    }
    if np.isfinite(found["code_distance"].values).all():
        epsilon = f"{float(found['regularization'].values[main]):g}"
        figures[f"Affine-invariant distance of metrics (ε = {epsilon}) against the distance of their codes."] = (
            scatter_figure(
                "metric-distance-code",
                found["code_distance"].values,
                found["pair_distance"].values[:, 0],
                ("‖z − z′‖ (latent units)", "affine-invariant distance (nat)"),
            )
        )
    return figures


def _main(result: Result) -> int:
    return int(np.argmin(np.abs(result["regularization"].values - float(result["chosen"]))))


def _distances(samples: Samples, pairs: Integers, levels: Floats, seed: int, progress: Progress) -> Floats:
    """Return distances, those by chance and the least ones `[3, kind, level, pair]`."""
    logs = [log_coefficients(samples, float(level)) for level in levels]
    used, places = np.unique(pairs, return_inverse=True)
    stack, kept, n = samples.load_eigenvectors(used), samples.eigenvalues.shape[1], samples.latent_dim
    rows = places.reshape(pairs.shape)
    generator = np.random.default_rng([seed, 4])
    found = np.empty((3, len(KINDS), len(levels), len(pairs)))

    def metrics(sample: int, vectors: Floats) -> list[LogMetric]:
        return [
            LogMetric(coefficients[sample] + offsets[sample], vectors, float(offsets[sample]))
            for coefficients, offsets in logs
        ]

    for at, (i, j) in enumerate(pairs):
        one, two = (np.asarray(stack[row : row + 1], dtype=np.float64)[0] for row in rows[at])
        first, second, turned = metrics(i, one), metrics(j, two), metrics(j, random_frames(1, kept, n, generator)[0])
        for row, others in enumerate((second, turned)):
            found[row, 0, :, at] = affine_invariants(first, others)
            found[row, 1, :, at] = [log_euclidean(*both) for both in zip(first, others, strict=True)]
        found[2, :, :, at] = [aligned(*both) for both in zip(first, second, strict=True)]
        progress(at + 1, len(pairs))
    return found


def _errors(pairs: Integers, deviations: Floats) -> Floats:
    """Return the standard error of a mean over pairs, `[...]`, from deviations `[pairs, ...]`; NaN for 2 samples."""
    if len(np.unique(pairs)) < 3:
        return np.full(deviations.shape[1:], np.nan)
    columns = deviations.reshape(len(pairs), -1).T
    errors = [dyadic_error(pairs, column, int(pairs.max()) + 1) for column in columns]
    return np.array(errors).reshape(deviations.shape[1:])


def _code_distances(samples: Samples, pairs: Integers) -> Floats:
    if "latent" not in samples:
        return np.full(len(pairs), np.nan)
    codes = np.asarray(samples.column("latent"), dtype=np.float64)
    distances: Floats = np.linalg.norm(codes[pairs[:, 0]] - codes[pairs[:, 1]], axis=1)
    return distances


def _code_correlations(values: Floats, codes: Floats, pairs: Integers, options: Options) -> tuple[Floats, Floats]:
    """Return Pearson's r of each kind with the codes' distances, and its 95 % interval `[2, kind]` by bootstrap."""
    spread = np.column_stack([values, codes]).std(axis=0)
    nothing = np.full(len(KINDS), np.nan)
    if len(pairs) < 3 or not np.isfinite(codes).all() or spread[-1] <= 1e-6 * abs(codes).max():
        return nothing, np.stack([nothing, nothing])
    _, places = np.unique(pairs, return_inverse=True)
    i, j = places.reshape(pairs.shape).T
    weights = bootstrap_weights(int(places.max()) + 1, options.draws, options.seed)
    times = weights[:, i].astype(np.float64) * weights[:, j]
    x = (codes - codes.mean()) / spread[-1]
    r, drawn = nothing.copy(), np.full((len(times), len(KINDS)), np.nan)
    for kind in range(len(KINDS)):
        if spread[kind] <= 1e-6 * abs(values[:, kind]).max():
            continue
        y = (values[:, kind] - values[:, kind].mean()) / spread[kind]
        r[kind] = float(np.mean(x * y))
        with np.errstate(invalid="ignore", divide="ignore"):  # a draw may hold no pair, or one pair only
            counts = times.sum(axis=1)
            mx, my, xx, yy, xy = (times @ each / counts for each in (x, y, x * x, y * y, x * y))
            variance = (xx - mx**2) * (yy - my**2)
            drawn[:, kind] = np.where(variance > 1e-12, (xy - mx * my) / np.sqrt(variance), np.nan)
    return np.clip(r, -1, 1), np.stack(interval(np.clip(drawn, -1, 1)))


def _curve_figure(found: "xr.Dataset", kind: int) -> "Figure":
    from pullback.analysis.drawing import (
        FIRST,
        NULL,
        draw_band,
        draw_line,
        legend_above,
        log_axis,
        new_figure,
        plain_axes,
        series,
    )

    epsilon, ends = found["regularization"].values, found["distance_ci95"].values[:, kind]
    drawn = new_figure(f"metric-distance-{KINDS[kind].lower()}")
    axes = plain_axes(drawn, x="regularisation ε", y=f"{KINDS[kind]} distance (nat)")
    draw_band(axes, epsilon, ends[0], ends[1], FIRST, alpha=0.3)
    draw_line(axes, epsilon, found["distance"].values[kind], FIRST, "pairs of samples")
    draw_line(axes, epsilon, found["chance"].values[kind], NULL, "random axes")
    draw_line(axes, epsilon, found["least"].values[kind], series(1), "same axes")
    axes.set_ylim(bottom=0)
    log_axis(axes.xaxis)
    legend_above(axes)
    return drawn
