"""Anisotropy: how few directions of latent space carry the image change (Wang & Ponce, ICLR 2021).

The mean spectrum averages |eigenvalue| over samples rank by rank. dim(q) counts the ranks whose cumulative share stays
below q. Both have an interval from the bootstrap over samples.

Invariants: scaling every metric by one positive factor changes no dimension. With a trace the shares refer to the whole
spectrum, also where only the leading eigenpairs were kept. A count that the kept ranks and the trace do not determine
is not stated.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Bootstrap, BootstrapOptions, Floats, Integers, interval, weighted_means
from pullback.analysis.correlations import NULL_FLOOR
from pullback.analysis.protocol import Progress, Result, Table, strict
from pullback.analysis.samples import Samples
from pullback.analysis.spectra import (
    SHARES,
    MeanSpectrum,
    dim_below,
    mean_of_spectra,
    needed_for,
    ranks_below,
    spectra_of,
)
from pullback.analysis.statements import count, percent
from pullback.analysis.truncation import NOTHING, Rest, count_range, rest_of, share_range
from pullback.metric.checks import TRACE_PROBES

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "how few directions of latent space carry the image change: mean spectrum and dim(q)"

STATED_SHARE = "0.99"
"""The share of the trace that sentences are about."""

_RATE = "squared image distance per squared latent length"


class Options(BootstrapOptions):
    """Options of the anisotropy."""


@dataclass(frozen=True)
class Dimension:
    """The number of ranks that carry the share `share` of the mean spectrum, by both rules."""

    share: float
    below: int
    """Ranks whose cumulative share is strictly below `share` (the rule of Wang & Ponce). A lower bound where
    `needed` is None."""
    needed: int | None
    """Ranks needed to reach the share: one more. None if the kept eigenvalues do not reach it, or if the trace is an
    estimate whose error leaves the count open."""
    below_ci95: tuple[int, int]
    """95 % bootstrap interval of `below`."""
    needed_ci95: tuple[int | None, int | None]
    """95 % bootstrap interval of `needed`; None for an end that lies beyond the kept ranks."""
    at_least: int = 0
    """The least number of ranks that can be needed; equal to `needed` if that is known."""
    at_most: int | None = None
    """The greatest number of ranks that can be needed; None if the kept eigenvalues do not determine it."""


@dataclass(frozen=True, eq=False)
class Anisotropy:
    """Mean spectrum and its dimensions, with bootstrap intervals over samples."""

    spectrum: MeanSpectrum
    spectrum_ci95: Floats
    """`[2, k]`: lower and upper end of the mean at each rank."""
    total: float
    """The total that shares refer to: the sum of the mean spectrum, or the mean trace if pairs were dropped."""
    dimensions: tuple[Dimension, ...]
    """In the order of the shares asked for."""
    rest: Rest = NOTHING
    """What is known about the metrics outside their kept eigenpairs."""
    latent_dim: int = 0
    """n, the size of a latent code."""
    samples: int = 0
    exact: bool = True
    """False if traces are estimates."""

    @property
    def trace_share(self) -> float:
        """Share of the trace that the kept ranks carry, 0 to 1; 1 if all are kept."""
        return float(self.spectrum.mean.sum()) / self.total if self.rest != NOTHING and self.total > 0 else 1.0

    @property
    def trace_share_range(self) -> tuple[float, float]:
        """The share for the trace two standard deviations above and below its estimate."""
        return share_range(float(self.spectrum.mean.sum()), self.rest)


def anisotropy(
    eigenvalues: npt.ArrayLike,
    weights: Integers | Bootstrap,
    trace: npt.ArrayLike | None = None,
    shares: Sequence[float] = SHARES,
    *,
    latent_dim: int | None = None,
    estimated: bool = False,
) -> Anisotropy:
    """Compute the mean spectrum and its dimensions with 95 % bootstrap intervals over samples.

    Args:
        eigenvalues: `[samples, k]`, any order.
        weights: multiplicities `[draws, samples]`, or a `Bootstrap`.
        trace: full trace of each sample's metric, `[samples]`; needed if k < n, default the sum of |eigenvalue|.
        shares: the q of dim(q), each in (0, 1).
        latent_dim: n, if it exceeds k; default k.
        estimated: True if the traces are estimates, as iterative methods make them if k < n.

    Raises:
        ValueError: shapes do not agree, a number is not finite, a share is outside (0, 1), or every
            eigenvalue is zero.
    """
    spectra = spectra_of(eigenvalues)
    samples, kept = spectra.shape
    if weights.shape[1:] != (samples,):
        raise ValueError(f"weights are [draws, {samples}], got {list(weights.shape)}")
    sums = spectra.sum(axis=1)
    totals = sums if trace is None else np.asarray(trace, dtype=np.float64)
    if totals.shape != (samples,) or not np.isfinite(totals).all():
        raise ValueError(f"trace is one finite number for each of the {samples} samples")
    # A trace below the sum of its kept eigenvalues is round-off.
    totals = np.maximum(totals, sums)
    mean_total = float(totals.mean())
    spectrum = mean_of_spectra(spectra)
    drawn_spectra, drawn_totals = weighted_means(weights, spectra), weighted_means(weights, totals)
    rest = rest_of(spectra, totals, latent_dim or kept, estimated)
    dimensions = []
    for share in shares:
        below = dim_below(spectrum.mean, share, mean_total)
        needed = needed_for(below, kept)
        at_least, at_most = needed or kept + 1, needed
        if rest != NOTHING:
            at_least, at_most = count_range(spectrum.mean, share, rest, untouched=kept)
        if at_least != at_most:  # the trace is not known well enough
            below, needed = min(below, at_least - 1), None
        low, high = (int(end) for end in interval(ranks_below(drawn_spectra, share, drawn_totals)))
        ends = (low, high), (needed_for(low, kept), needed_for(high, kept))
        dimensions.append(Dimension(share, below, needed, *ends, at_least, at_most))
    ends95 = np.stack(interval(drawn_spectra))
    return Anisotropy(
        spectrum, ends95, mean_total, tuple(dimensions), rest, latent_dim or kept, samples, exact=not estimated
    )


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return the mean spectrum `[rank]` with its band and interval; counts and totals are JSON in `attrs`."""
    weights = samples.bootstrap(options.draws, options.seed)
    trace = samples.trace if samples.truncated else None
    found = anisotropy(samples.eigenvalues, weights, trace, latent_dim=samples.latent_dim, estimated=samples.estimated)
    return to_dataset(found)


def to_dataset(found: Anisotropy) -> "xr.Dataset":
    """Return an anisotropy as a dataset; `from_dataset` is the inverse."""
    import xarray as xr

    scalars = {
        "total": found.total,
        "rest": asdict(found.rest),
        "dim": {f"{each.share:g}": _counts(each) for each in found.dimensions},
        "latent_dim": found.latent_dim,
        "samples": found.samples,
        "exact": found.exact,
    }
    spectrum = found.spectrum

    def described(*dims: str, values: Floats, name: str) -> tuple[tuple[str, ...], Floats, dict[str, str]]:
        return dims, values, {"long_name": name, "units": _RATE}

    return xr.Dataset(
        {
            "mean_spectrum": described("rank", values=spectrum.mean, name="mean |eigenvalue|"),
            "spectrum_p5": described("rank", values=spectrum.p5, name="5th percentile over samples"),
            "spectrum_p95": described("rank", values=spectrum.p95, name="95th percentile over samples"),
            "mean_spectrum_ci95": described(
                "end", "rank", values=found.spectrum_ci95, name="95 % bootstrap interval of the mean spectrum"
            ),
        },
        attrs={"scalars": json.dumps(strict(scalars), allow_nan=False)},
    )


def from_dataset(dataset: "xr.Dataset") -> Anisotropy:
    """Rebuild the anisotropy that `to_dataset` stored; raises KeyError if something is missing."""
    scalars = json.loads(dataset.attrs["scalars"])
    arrays = {str(name): np.asarray(variable.values, dtype=np.float64) for name, variable in dataset.items()}
    return Anisotropy(
        MeanSpectrum(arrays["mean_spectrum"], arrays["spectrum_p5"], arrays["spectrum_p95"]),
        arrays["mean_spectrum_ci95"],
        scalars["total"],
        tuple(_dimension(share, counts) for share, counts in scalars["dim"].items()),
        Rest(**scalars["rest"]),
        scalars["latent_dim"],
        scalars["samples"],
        scalars["exact"],
    )


def to_json(result: Result) -> dict[str, Any]:
    """Return counts by share, and the mean spectrum with its band and interval."""
    found: Anisotropy = result.value
    spectrum = found.spectrum
    return {
        "dim": {f"{each.share:g}": _counts(each) for each in found.dimensions},
        "mean_spectrum": spectrum.mean,
        "mean_spectrum_ci95": found.spectrum_ci95,
        "band": {"p5": spectrum.p5, "p95": spectrum.p95},
        "ranks": len(spectrum.mean),
        "latent_dim": found.latent_dim,
        "trace": "exact" if found.exact else "estimated",
        "trace_share": found.trace_share,
        "trace_share_range": found.trace_share_range,
    }


def summary(result: Result) -> Table:
    """Return a row for each share: ranks needed, ranks below it, and the axes of the mean metric that are needed."""
    content, mean = result.json, result.others.get("mean_metric")
    columns = ["share of the trace", ">ranks needed", ">95 % interval", ">dim(q): ranks below"]
    if mean is not None:
        columns.append(f">axes of the mean H{'' if mean.json['of'] == 'whole metrics' else ' (bounds)'}")
    rows = []
    for share, dim in content["dim"].items():
        below = str(dim["below"]) if dim["needed"] is not None else f"≥ {dim['below']}"
        row = [f"{100 * float(share):g} %", count(dim, content["ranks"]), ranks_interval(dim, content["ranks"]), below]
        if mean is not None:
            row.append(count(mean.json["dim"][share]) if share in mean.json["dim"] else "–")
        rows.append(row)
    return Table(columns, rows, "Anisotropy")


def sentences(result: Result) -> list[str]:
    """Return how many directions carry 99 % of the trace: each sample's own, and fixed ones."""
    content, mean = result.json, result.others.get("mean_metric")
    own = content["dim"][STATED_SHARE]
    lines = [
        f"With each sample's own eigenvectors, {count(own, content['ranks'])} of {content['latent_dim']} directions "
        f"{'carries' if own['needed'] == 1 else 'carry'} 99 % of the image change (the trace) in the mean over "
        f"{result.about.samples} samples."
    ]
    if mean is not None and STATED_SHARE in mean.json["dim"]:
        fixed = mean.json["dim"][STATED_SHARE]
        axes = " (the mean metric's)" if mean.json["of"] == "whole metrics" else ""
        lines.append(
            f"With one fixed set of axes for all codes{axes}, {count(fixed)} "
            f"{'is' if fixed['needed'] == 1 else 'are'} needed."
        )
    return lines


def cautions(result: Result) -> list[str]:
    """Return how much of the trace the kept eigenpairs carry; nothing if all are kept."""
    found = result.json
    if found["ranks"] == found["latent_dim"]:
        return []
    low, high = found["trace_share_range"]
    estimated = ""
    if found["trace"] == "estimated":
        span = "" if percent(low) == percent(high) else f", {percent(low)} to {percent(high)}"
        estimated = f" (estimated from {TRACE_PROBES} random directions{span})"
    return [
        f"Only {found['ranks']} of {found['latent_dim']} eigenpairs {'is' if found['ranks'] == 1 else 'are'} kept of "
        f"each metric, with {percent(found['trace_share'])} of the trace{estimated}."
    ]


def ranks_interval(dim: Mapping[str, Any], kept: int) -> str:
    """Return the interval of the ranks needed, a dash where that is not known; an end beyond the kept ranks is `>`."""
    if dim["needed"] is None:
        return "–"
    return " – ".join(str(end) if end is not None else f"> {kept}" for end in dim["needed_ci95"])


def notes(result: Result) -> list[str]:
    """Return what an eigenvalue is, and how the intervals are made."""
    draws = result.options.model_dump().get("draws")
    return [
        "A short step of length t along an eigenvector changes the image by D² = ½λt², where λ is its eigenvalue. "
        "Ranks count eigenvalues from the largest, rank 1. The sum of all eigenvalues of a metric is its trace.",
        f"Intervals of 95 % come from {draws} bootstrap draws of the {result.about.samples} samples.",
    ]


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw the mean spectrum, and the share of it that the leading ranks leave over."""
    from pullback.analysis.spectrum_figures import Drawn, remainder_figure, spectra_figure

    found: Anisotropy = result.value
    entries = [Drawn(found)]
    return {_spectrum_caption(found): spectra_figure(entries), _remainder_caption(found): remainder_figure(entries)}


def _spectrum_caption(found: Anisotropy) -> str:
    mean, band = found.spectrum.mean, "5th to 95th percentile over samples"
    caption = f"Mean spectrum: |λ| at each rank, averaged over {found.samples} samples (line), with the {band} (band)."
    positive = mean[mean > NULL_FLOOR * mean[0]]
    if len(positive) < 2:
        return caption
    fall = f"{mean[0] / positive[-1]:.3g} times"
    null = (
        f"; the {len(mean) - len(positive)} ranks beyond are zero but for round-off"
        if len(positive) < len(mean)
        else ""
    )
    return f"{caption} Rank 1 has {fall} the eigenvalue of rank {len(positive)}{null}."


def _remainder_caption(found: Anisotropy) -> str:
    caption = (
        "Share of the trace that is left over after the leading ranks. Markers: the number of ranks that reach each "
        "share [95 % interval]. dim(q) of Wang & Ponce counts the ranks whose share stays below q: one less."
    )
    stated = next((each for each in found.dimensions if f"{each.share:g}" == STATED_SHARE), None)
    if stated is None or stated.needed is None:
        return caption
    return f"{caption} {stated.needed} of {found.latent_dim} ranks reach {100 * stated.share:g} %."


def _counts(dimension: Dimension) -> dict[str, Any]:
    return {
        "below": dimension.below,
        "needed": dimension.needed,
        "below_ci95": list(dimension.below_ci95),
        "needed_ci95": list(dimension.needed_ci95),
        "at_least": dimension.at_least,
        "at_most": dimension.at_most,
    }


def _dimension(share: str, counts: Mapping[str, Any]) -> Dimension:
    ends = {name: tuple(counts[name]) for name in ("below_ci95", "needed_ci95")}
    return Dimension(**{**counts, **ends, "share": float(share)})
