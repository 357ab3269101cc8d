"""The mean metric of a space and its eigenbasis, the global coordinate system of every application.

H̄ is the mean of the samples' metrics over all n² entries. A method that makes whole matrices sums them, so H̄ is exact
however few eigenpairs are stored. An iterative method with k < n has no whole matrices. It sums the part that the k
eigenpairs make, and its mean K̄ is a part of H̄; `MeanMetric.whole` and `trace_share` tell which it is.

Invariants: axes are those of `eigenbasis`, with fixed signs. No number of K̄ is given as one of H̄.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Bootstrap, BootstrapOptions, DrawnMeans, Floats, Integers, interval
from pullback.analysis.correlations import NULL_FLOOR
from pullback.analysis.eigenbasis import eigenbasis, rates_in_parts
from pullback.analysis.mean_metric_figures import axes_spectrum_figure, mean_metric_caption
from pullback.analysis.protocol import Progress, Result, Table, strict
from pullback.analysis.samples import Samples, Stack
from pullback.analysis.spectra import SHARES, dim_needed
from pullback.analysis.statements import interval as shown_interval
from pullback.analysis.statements import percent, shown_ranks
from pullback.analysis.truncation import NOTHING, Rest, count_range, share_range

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "eigenvalues and axes of the mean metric, and how many axes carry a share of its trace"

SPREAD_UNKNOWN = 0.05
"""Largest share of an axis's eigenvalue that may come from pairs that are not kept. Above it the interval is left out,
because the spread of these pairs over samples is not known."""


class Options(BootstrapOptions):
    """Options of the mean metric."""


@dataclass(frozen=True)
class AxisCount:
    """How many axes of the mean metric carry the share `share` of its trace."""

    share: float
    at_least: int
    at_most: int | None
    """None if the kept eigenpairs do not decide it."""

    @property
    def needed(self) -> int | None:
        """The number of axes; None if it is not known."""
        return self.at_least if self.at_least == self.at_most else None

    @property
    def below(self) -> int:
        """Axes whose cumulative share is strictly below `share`; a lower bound where `needed` is None."""
        return self.at_least - 1


@dataclass(frozen=True, eq=False)
class MeanMetric:
    """Eigenvalues and axes of H̄, or of its kept part K̄, with a bootstrap interval for each eigenvalue."""

    eigenvalues: Floats
    """`[m]`, descending; squared image distance per squared latent length. For H̄, m = n. K̄ has as many axes as
    eigenvalues above round-off, and the rates of H̄ along them are at least these."""
    eigenvectors: Floats
    """`[m, n]`, unit rows."""
    ci95: Floats
    """`[2, m]`: lower and upper end of u_kᵀ H̄ u_k (or u_kᵀ K̄ u_k) along the fixed axis u_k. NaN if too much of the
    eigenvalue comes from pairs that are not kept (`SPREAD_UNKNOWN`)."""
    counts: tuple[AxisCount, ...] = ()
    """How many axes of H̄ carry each share of its trace."""
    whole: bool = True
    """True for H̄, False for K̄."""
    trace_share: float = 1.0
    """Share of the trace of H̄ that this mean holds, 0 to 1."""
    trace_share_range: tuple[float, float] = (1.0, 1.0)
    """The share with the error of an estimated trace: two standard deviations of it to either side."""


def mean_metric(
    metric: npt.ArrayLike,
    eigenvalues: npt.ArrayLike,
    eigenvectors: Stack,
    weights: Integers | Bootstrap,
    *,
    rest: Rest | None = None,
    shares: Sequence[float] = SHARES,
) -> MeanMetric:
    """Compute the eigenbasis of H̄, with a 95 % bootstrap interval over samples for each eigenvalue.

    The axes u_k are those of the H̄ of all samples, and stay fixed while samples are drawn again: the interval is that
    of the weighted mean of a_ik = u_kᵀ H_i u_k. A new decomposition for every draw would follow ranks instead of axes,
    and would mix the spread of an eigenvalue with the repulsion of its neighbours.
    If pairs were dropped, their contribution to the mean is known from H̄, but its spread is not. The interval is
    shifted by the contribution, and left out where that exceeds `SPREAD_UNKNOWN` of the eigenvalue.

    Args:
        metric: H̄ `[n, n]`, the mean of the whole metrics; with `rest`, K̄, the mean of their kept parts.
        eigenvalues: kept eigenvalues of the good samples, `[samples, k]`.
        eigenvectors: kept eigenvectors, `[samples, k, n]`, unit rows.
        weights: multiplicities `[draws, samples]`, or a `Bootstrap`.
        rest: what is known about the metrics outside their kept eigenpairs, if `metric` is K̄.
        shares: the shares q of the trace for which axes are counted, each in (0, 1).

    Raises:
        ValueError: shapes do not agree, or the metric holds numbers that are not finite.
        numpy.linalg.LinAlgError: the decomposition failed.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    means, axes = eigenbasis(metric)
    if eigenvectors.shape != (*values.shape, len(means)) or weights.shape[1:] != values.shape[:1]:
        raise ValueError(
            f"a metric {list(axes.shape)}, eigenvalues {list(values.shape)}, eigenvectors "
            f"{list(eigenvectors.shape)} and weights {list(weights.shape)} do not agree"
        )
    counts: list[AxisCount] = []
    if rest is None:
        for share in shares if means.any() else ():
            needed = dim_needed(means, share)
            counts.append(AxisCount(share, needed or len(means), needed))
    else:
        found = int(np.sum(means > NULL_FLOOR * max(float(means[0]), 0.0)))
        means, axes = means[:found], axes[:found]
        counts = [AxisCount(share, *count_range(means, share, rest, untouched=0)) for share in shares]
    drawn_means = DrawnMeans(weights, len(axes))
    for _, rates in rates_in_parts(axes, values, eigenvectors):
        drawn_means.add(rates)
    kept_means, drawn = drawn_means.means()
    dropped = means - kept_means
    ends = np.stack(interval(drawn)) + dropped
    if values.shape[1] < axes.shape[1]:
        ends[:, dropped > SPREAD_UNKNOWN * np.abs(means)] = np.nan
    low, high = share_range(float(means.sum()), NOTHING if rest is None else rest)
    total = float(means.sum()) + (0.0 if rest is None else rest.trace)
    kept = 1.0 if rest is None or total == 0 else float(means.sum()) / total
    return MeanMetric(means, axes, ends, tuple(counts), rest is None, kept, (low, high))


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return eigenvalues `[axis]` and eigenvectors `[axis, latent_dim]` of the mean metric; counts are in `attrs`."""
    return to_dataset(
        mean_metric(
            samples.mean_metric(),
            samples.eigenvalues,
            samples.eigenvectors,
            samples.bootstrap(options.draws, options.seed),
            rest=None if samples.whole else samples.rest,
        )
    )


def to_dataset(found: MeanMetric) -> "xr.Dataset":
    """Return a mean metric as a dataset; `from_dataset` is the inverse."""
    import xarray as xr

    rate = "squared image distance per squared latent length"
    scalars = {
        "counts": {f"{each.share:g}": [each.at_least, each.at_most] for each in found.counts},
        "whole": found.whole,
        "trace_share": found.trace_share,
        "trace_share_range": found.trace_share_range,
    }
    return xr.Dataset(
        {
            "mean_eigenvalue": (
                ("axis",),
                found.eigenvalues,
                {"long_name": "eigenvalue of the mean metric", "units": rate},
            ),
            "mean_eigenvector": (
                ("axis", "latent_dim"),
                found.eigenvectors,
                {"long_name": "eigenvectors of the mean metric, rows", "units": "1"},
            ),
            "mean_eigenvalue_ci95": (
                ("end", "axis"),
                found.ci95,
                {"long_name": "95 % bootstrap interval along the fixed axis", "units": rate},
            ),
        },
        attrs={"scalars": json.dumps(strict(scalars), allow_nan=False)},
    )


def from_dataset(dataset: "xr.Dataset") -> MeanMetric:
    """Rebuild the mean metric that `to_dataset` stored; raises KeyError if something is missing."""
    scalars = json.loads(dataset.attrs["scalars"])
    arrays = {str(name): np.asarray(variable.values, dtype=np.float64) for name, variable in dataset.items()}
    return MeanMetric(
        arrays["mean_eigenvalue"],
        arrays["mean_eigenvector"],
        arrays["mean_eigenvalue_ci95"],
        tuple(AxisCount(float(share), *ends) for share, ends in scalars["counts"].items()),
        scalars["whole"],
        scalars["trace_share"],
        tuple(scalars["trace_share_range"]),
    )


def to_json(result: Result) -> dict[str, Any]:
    """Return eigenvalues with their intervals, and counts of axes by share; no eigenvectors."""
    found: MeanMetric = result.value
    return {
        "eigenvalues": found.eigenvalues,
        "ci95": found.ci95,
        "dim": {
            f"{each.share:g}": {
                "below": each.below,
                "needed": each.needed,
                "at_least": each.at_least,
                "at_most": each.at_most,
            }
            for each in found.counts
        },
        "of": "whole metrics" if found.whole else "kept part",
        "trace_share": found.trace_share,
        "trace_share_range": found.trace_share_range,
    }


def summary(result: Result) -> Table:
    """Return eigenvalues of the mean metric by rank, beside the mean spectrum if the anisotropy was computed too."""
    content, spectrum = result.json, result.others.get("anisotropy")
    values, ends = content["eigenvalues"], content["ci95"]
    mean = spectrum.json["mean_spectrum"] if spectrum is not None else []
    part = "the mean H" if content["of"] == "whole metrics" else f"the kept part ({percent(content['trace_share'])})"
    columns = [">rank", *([">mean |λ|", ">5–95 %"] if spectrum is not None else []), f">λ of {part}", ">95 % interval"]
    floor = NULL_FLOOR * (mean or values or [0.0])[0]
    rows = []
    for rank in shown_ranks(max(len(mean), len(values))):
        row = [str(rank + 1)]
        if spectrum is not None:
            row += _own_cells(spectrum.json, rank, floor)
        fixed = rank < len(values)
        row.append(_rate(values[rank], floor) if fixed else "–")
        shown = fixed and abs(values[rank]) > floor
        row.append(shown_interval((ends[0][rank], ends[1][rank]), None) if shown else "–")
        rows.append(row)
    return Table(columns, rows, "Spectrum")


def cautions(result: Result) -> list[str]:
    """Return whether the mean is that of whole metrics, if not all eigenpairs are kept."""
    spectrum, content = result.others.get("anisotropy"), result.json
    if content["of"] == "whole metrics":
        truncated = spectrum is not None and spectrum.json["ranks"] < spectrum.json["latent_dim"]
        return ["The mean metric is computed from whole metrics."] if truncated else []
    axes = len(content["eigenvalues"])
    return [
        f"The mean metric shown is that of the kept part. It has {axes} {'axis' if axes == 1 else 'axes'} and "
        f"{percent(content['trace_share'])} of the trace of the whole mean metric, whose rate along each axis is at "
        "least the rate shown. Where the kept part does not decide how many axes are needed, bounds are given."
    ]


def notes(result: Result) -> list[str]:
    """Return what an axis is, and how the intervals are made."""
    draws = result.options.model_dump().get("draws")
    return [
        "The mean metric is the average of the metrics of all good samples. Its eigenvectors, the axes, are one set of "
        "directions for all codes. The sign of an axis is arbitrary: walking along +t or −t is a convention.",
        f"Intervals of 95 % are those of the mean rate along the fixed axis, from {draws} bootstrap draws of the "
        f"{result.about.samples} samples.",
    ]


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw the eigenvalues of the mean metric against the mean spectrum and against random directions."""
    found: MeanMetric = result.value
    spectrum = result.others.get("anisotropy")
    if not len(found.eigenvalues) or found.eigenvalues[0] <= 0:
        return {}
    own = None if spectrum is None else np.asarray(spectrum.json["mean_spectrum"], dtype=np.float64)
    return {mean_metric_caption(found, own): axes_spectrum_figure(found, own)}


def _own_cells(spectrum: Mapping[str, Any], rank: int, floor: float) -> list[str]:
    mean, band = spectrum["mean_spectrum"], spectrum["band"]
    if rank >= len(mean):
        return ["–", "–"]
    ends = shown_interval((band["p5"][rank], band["p95"][rank]), None) if mean[rank] > floor else "–"
    return [_rate(mean[rank], floor), ends]


def _rate(value: float, floor: float) -> str:
    """An eigenvalue, or that it is no more than round-off."""
    return f"{value:.3g}" if abs(value) > floor else "≈ 0"
