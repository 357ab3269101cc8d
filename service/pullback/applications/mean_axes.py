"""The leading axes of the mean metric H̄ for codes of thousands of dimensions, without a matrix n × n.

H̄ V = mean_i H_i V, with exact products H_i V of each sample's metric (2 Jᵀ(JV) for a residual distance). A block
Krylov search (`metric.krylov`: Wu & Simon, SIAM J. Matrix Anal. Appl. 22, 2000) finds the k largest eigenpairs of H̄
from these products. No metric is truncated, so the axes are those of the whole H̄, also where the sweep keeps few
eigenpairs of each metric.

At the end one more pass multiplies the axes found. It gives the residual ‖H̄u − λu‖ of each pair with λ = uᵀH̄u,
independently of the search, and the rate uᵀH_i u of every sample, from which the intervals come (bootstrap over
samples, the axes fixed). By Weyl's theorem an eigenvalue of H̄ lies within ‖H̄u − λu‖ of λ.

Every product is recorded, so an interrupted run goes on within a block. `resources.workers` of the job spreads the
samples over processes; it changes no number.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from pullback.analysis.bootstrap import Bootstrap, BootstrapOptions, Floats, interval, weighted_means
from pullback.analysis.protocol import Table
from pullback.analysis.scalars import shown, shown_interval, variable
from pullback.analysis.statements import percent, shown_ranks
from pullback.applications.averaged_products import Averaged, Networks, spread
from pullback.applications.protocol import Progress, Subject
from pullback.applications.results import ApplicationResult
from pullback.errors import PullbackError
from pullback.generators.base import reference_tensor
from pullback.metric.krylov import top_eigenpairs

if TYPE_CHECKING:
    import xarray as xr

    from pullback.analysis.drawing import Figure

SUMMARY = "leading axes of the mean metric by block Krylov on products, for codes of thousands of dimensions"
NEEDS = ("sweep",)

_RATE = "squared image distance per squared latent length"
_VECTORS_PER_AXIS = 6
"""Vectors that the search multiplies for each axis, about; for the progress only."""


class Options(BootstrapOptions):
    """Options of the mean metric's axes."""

    axes: int = Field(default=20, ge=1, le=10_000)
    """Number of axes, those of the largest eigenvalues first."""
    samples: int | None = Field(default=None, ge=1)
    """Samples over which the metric is averaged, drawn at random; by default all good ones."""
    tolerance: float = Field(default=1e-5, gt=0, lt=1)
    """Residual ‖H̄u − λu‖ / λ₁ at which the search stops."""
    block: int = Field(default=16, ge=1, le=1024)
    """Largest number of vectors that are multiplied in one round. Larger blocks need fewer rounds and more products."""
    max_products: int | None = Field(default=None, ge=1)
    """Largest number of vectors that the search multiplies with every sample's metric; by default 2n."""


def run(subject: Subject, given: Options, progress: Progress) -> "xr.Dataset":
    """Return eigenvalues, axes and residuals of H̄, the rates of the samples along the axes, and intervals.

    Raises:
        PullbackError: no sample is good, the networks cannot be loaded, or a product is not finite.
    """
    import xarray as xr

    sweep = subject.sweep
    assert sweep is not None
    data = sweep.dataset()
    good = int(data.sizes["sample"])
    if not good:
        raise PullbackError(f"sweep {sweep.name!r} has no good sample yet, hence no mean metric. Run the sweep on")
    chosen = np.arange(good)
    if given.samples is not None and given.samples < good:
        chosen = np.sort(np.random.default_rng(given.seed).choice(good, given.samples, replace=False))
    data = data.isel(sample=chosen)
    codes, numbers = data["latent"].values, data["sample"].values.astype(np.int64)
    n = int(codes.shape[1])
    k = min(given.axes, n)
    networks = Networks(subject, k)
    expected = -(-min(2 * n, _VECTORS_PER_AXIS * k) // given.block) + 1
    with spread(subject, k, networks) as compute:
        averaged = Averaged(numbers, codes, compute, progress, expected)
        found = top_eigenpairs(
            averaged,
            n,
            k,
            block=given.block,
            tolerance=given.tolerance,
            max_products=given.max_products,
            seed=given.seed,
            dtype=reference_tensor(networks.generator).dtype,
        )
        axes = found.eigenvectors.numpy()
        axes = axes[np.isfinite(axes).all(axis=1)]  # with few products, fewer pairs are found
        averaged.expected = len(averaged.vectors) + 1
        images, rates = averaged.multiply(axes, record=False)
    values = np.sum(images * axes, axis=1)
    order = np.argsort(values)[::-1]
    values, axes, images, rates = values[order], axes[order], images[order], rates[:, order]
    residuals = np.linalg.norm(images - values[:, None] * axes, axis=1)
    signs = np.where(np.take_along_axis(axes, np.argmax(np.abs(axes), axis=1)[:, None], axis=1) < 0, -1.0, 1.0)
    trace = data["trace"].values.astype(np.float64)
    shares, ends = _intervals(rates, trace, given)
    largest = max(float(np.abs(values).max()), float(np.finfo(np.float64).tiny))
    return xr.Dataset(
        {
            "eigenvalue": variable(("axis",), values, "eigenvalue of the mean metric", _RATE),
            "eigenvalue_ci95": variable(("end", "axis"), ends, "95 % bootstrap interval along the fixed axis", _RATE),
            "eigenvector": variable(("axis", "latent_dim"), axes * signs, "axes of the mean metric, unit rows", "1"),
            "residual": variable(("axis",), residuals, "‖H̄u − λu‖", _RATE),
            "relative_residual": variable(("axis",), residuals / largest, "‖H̄u − λu‖ / λ₁", "1"),
            "rate": variable(("sample", "axis"), rates, "uᵀH_i u of each sample along each axis", _RATE),
            "random_rate": variable((), trace.mean() / n, "mean rate along a random direction, tr(H̄)/n", _RATE),
            "random_rate_ci95": variable(
                ("end",),
                _interval(trace[:, None] / n, given)[:, 0],
                "95 % bootstrap interval of the random rate",
                _RATE,
            ),
            "trace_share": variable((), shares[0], "share of the trace along the axes", "1"),
            "trace_share_ci95": variable(("end",), shares[1:], "95 % bootstrap interval of the share", "1"),
            "converged": variable((), bool(found.converged), "whether every residual is within the tolerance", "1"),
            "products": variable((), found.products + len(axes), "vectors multiplied with each sample's metric", "1"),
            "rounds": variable((), found.iterations + 1, "blocks of vectors", "1"),
            "resumed": variable((), averaged.resumed, "products H_i v taken from an interrupted run", "1"),
            "samples": variable((), len(numbers), "samples over which the metric is averaged", "1"),
            "latent_size": variable((), n, "size of a latent code, n", "1"),
        },
        coords={"axis": np.arange(1, len(axes) + 1), "sample": numbers},
    )


def _interval(values: Floats, given: Options) -> Floats:
    """95 % bootstrap interval of means over samples `[2, m]`; NaN with one sample."""
    if len(values) < 2:
        return np.full((2, values.shape[1]), np.nan)
    return np.stack(interval(weighted_means(Bootstrap(len(values), given.draws, given.seed), values)))


def _intervals(rates: Floats, trace: Floats, given: Options) -> tuple[Floats, Floats]:
    """The share of the trace along the axes with its interval `[3]`, and the intervals of the eigenvalues `[2, k]`."""
    total = float(trace.mean())
    share = float(rates.sum(axis=1).mean()) / total if total > 0 else np.nan
    if len(rates) < 2:
        return np.array([share, np.nan, np.nan]), np.full((2, rates.shape[1]), np.nan)
    drawn = weighted_means(Bootstrap(len(rates), given.draws, given.seed), np.column_stack([rates, trace]))
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = interval(drawn[:, :-1].sum(axis=1) / drawn[:, -1])
    return np.array([share, low, high]), np.stack(interval(drawn[:, :-1]))


def summary(result: ApplicationResult) -> Table:
    """Return eigenvalues with intervals and residuals, and how far they are above a random direction's rate."""
    data = result.dataset
    random = float(data["random_rate"])
    rows = []
    for place in shown_ranks(data.sizes["axis"]):
        at = data.isel(axis=place)
        value = float(at["eigenvalue"])
        rows.append(
            [
                str(place + 1),
                shown(value),
                shown_interval(at["eigenvalue_ci95"].values),
                f"{float(at['relative_residual']):.1e}",
                shown(value / random if random > 0 else np.nan),
            ]
        )
    columns = (">axis", ">λ of the mean H", ">95 % interval", ">residual / λ₁", ">times a random direction")
    return Table(
        columns, rows, f"Axes of the mean metric of {int(data['samples'])} samples, n = {int(data['latent_size'])}"
    )


def sentences(result: ApplicationResult) -> list[str]:
    """Return how much of the image change the axes carry, and how well the pairs are known."""
    data = result.dataset
    axes, share = data.sizes["axis"], float(data["trace_share"])
    lines = []
    if np.isfinite(share):
        carry = "axis of the mean metric carries" if axes == 1 else f"{axes} axes of the mean metric carry"
        low, high = data["trace_share_ci95"].values
        ends = f" (95 % interval {percent(low)} to {percent(high)})" if np.isfinite([low, high]).all() else ""
        lines.append(
            f"The leading {carry} {percent(share)} of the trace, which is the image change in all directions{ends}; as "
            f"many random directions carry {percent(axes / int(data['latent_size']))}."
        )
    lines.append(
        f"The largest residual ‖H̄u − λu‖ is {float(data['relative_residual'].max()):.1e} of the largest eigenvalue, "
        f"after {int(data['products'])} products with the metric of each of {int(data['samples'])} samples."
    )
    return lines


def cautions(result: ApplicationResult) -> list[str]:
    """Return whether the search ended before its residuals were small."""
    if bool(result["converged"]):
        return []
    return [
        "The search for the mean metric's axes ended before every residual was within the tolerance. The residuals say "
        "how well each axis is known. A larger max_products or a larger tolerance lets the search finish."
    ]


def figure(result: ApplicationResult) -> "dict[str, Figure]":
    """Draw the eigenvalues by rank with their intervals and the spread over samples."""
    from pullback.analysis.drawing import (
        NULL,
        draw_band,
        draw_line,
        legend_above,
        log_axis,
        new_figure,
        plain_axes,
        rank_axis,
        series,
    )

    data = result.dataset
    ranks, values = data["axis"].values, data["eigenvalue"].values
    positive = np.where(values > 0, values, np.nan)
    drawn = new_figure("mean-axes", height=3.0)
    axes = plain_axes(drawn, x="axis", y="rate (squared distance / latent length²)")
    low, high = np.percentile(data["rate"].values, [5, 95], axis=0)
    floor = np.nanmin(positive) * 1e-3 if np.isfinite(positive).any() else 1e-300
    draw_band(axes, ranks, np.maximum(low, floor), np.maximum(high, floor), series(0), "5–95 % of samples")
    low, high = data["eigenvalue_ci95"].values
    draw_band(axes, ranks, np.maximum(low, floor), np.maximum(high, floor), series(0), "95 % interval", alpha=0.4)
    draw_line(axes, ranks, positive, series(0), "λ of the mean metric", marked=True)
    random = float(data["random_rate"])
    draw_line(axes, ranks, np.full(len(ranks), random if random > 0 else np.nan), NULL, "random direction")
    rank_axis(axes, len(ranks))
    log_axis(axes.yaxis)
    legend_above(axes)
    caption = (
        "Eigenvalues of the mean metric, with their intervals and the spread of the samples' rates along each axis, "
        "beside the rate along a random direction. An eigenvalue is known to within its residual, which the table has."
    )
    return {caption: drawn}


def to_json(result: ApplicationResult) -> dict[str, Any]:
    """Return everything but axes and rates of samples."""
    left_out = ("eigenvector", "rate", "sample")
    return {str(name): each.values for name, each in result.dataset.variables.items() if name not in left_out}
