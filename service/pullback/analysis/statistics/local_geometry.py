"""Scalars of each metric's spectrum: effective rank, participation ratio, and local rank and local scaling.

- Effective rank of H: exp(−Σ pᵢ log pᵢ) with pᵢ = λᵢ / Σ λ (Roy & Vetterli, EUSIPCO 2007).
- Participation ratio: (Σ λ)² / Σ λ², the number of equal eigenvalues with the same sum and sum of squares.
- Local rank ν and local scaling ψ (Humayun et al., "What secrets do your manifolds hold?", ICLR 2025) describe the
  Jacobian J by its singular values σ: ν = exp(−Σ αᵢ log αᵢ) with αᵢ = σᵢ / Σ σ, and ψ = log √det(JᵀJ) = Σ log σᵢ over
  the singular values that are not zero. H = 2 JᵀJ gives σ = √(λ / 2). J is the Jacobian of the distance's residual
  r(G(z)). Humayun et al. take that of the image: under MSE, r is the image over √m, so their σ is √m times ours.

Their third descriptor, local complexity δ, counts the linear regions of a piecewise linear generator around a code. No
spectrum at single codes determines it, so it is not computed.

If only k < n eigenpairs are kept, the ranks are known as ranges. The n − k other eigenvalues have a known sum, and none
exceeds the smallest kept one. The chain rule of the entropy gives log R = h(P) + (1 − P) log R_kept + P H_rest for the
share P of the rest, whose entropy H_rest lies between −log of its largest share and log(n − k).

Invariants: ranks lie in [1, n] and do not change if a metric is multiplied by a positive factor.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pullback.analysis.bootstrap import BootstrapOptions, Floats, Integers
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.samples import Samples
from pullback.analysis.scalars import (
    bounded_mean,
    code_norms,
    correlation,
    histogram_figure,
    number,
    shown,
    shown_interval,
    shown_range,
    shown_with,
    spread_of,
    variable,
    within,
)
from pullback.analysis.spectra import spectra_of
from pullback.analysis.statements import percent
from pullback.analysis.truncation import Rest, rests_of

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "over how many directions the image change is spread, and how strongly the generator stretches"

QUANTITIES = {
    "effective_rank": ("effective rank of H", "directions"),
    "participation_ratio": ("participation ratio", "directions"),
    "local_rank": ("local rank ν", "directions"),
    "local_scaling": ("local scaling ψ", "nat"),
}
"""Label and units of each scalar."""

_STEPS = 257
"""Values of the rest's sum at which its bounds are evaluated."""


class Options(BootstrapOptions):
    """Options of the local geometry."""

    tolerance: float = Field(default=1e-6, gt=0, lt=1)
    """Share of a sample's largest eigenvalue up to which an eigenvalue counts as zero in the local scaling."""


@dataclass(frozen=True, eq=False)
class Ranks:
    """A rank of each metric as a range `[N]`; both ends are equal if the spectrum is whole. NaN for a zero metric."""

    least: Floats
    greatest: Floats


def effective_ranks(eigenvalues: npt.ArrayLike, rests: "list[Rest] | None" = None, latent_dim: int = 0) -> Ranks:
    """Return exp of the entropy of the shares λ / Σ λ (Roy & Vetterli, EUSIPCO 2007).

    Args:
        eigenvalues: `[N, k]`, any order; their magnitudes count.
        rests: what is known about each metric outside its kept eigenpairs; None if all are kept.
        latent_dim: n; needed with `rests`.
    """
    spectra = spectra_of(eigenvalues)
    if rests is None:
        return _same(_entropy_ranks(spectra))
    remaining = latent_dim - spectra.shape[1]
    return _bounded(
        [_rank_range(row, rest.low, rest.high, rest.ceiling, remaining) for row, rest in _zip(spectra, rests)]
    )


def local_ranks(eigenvalues: npt.ArrayLike, rests: "list[Rest] | None" = None, latent_dim: int = 0) -> Ranks:
    """Return exp of the entropy of the shares σ / Σ σ of the Jacobian's singular values (Humayun et al., ICLR 2025).

    Arguments are those of `effective_ranks`.
    """
    singular = np.sqrt(spectra_of(eigenvalues))
    if rests is None:
        return _same(_entropy_ranks(singular))
    remaining = latent_dim - singular.shape[1]
    ranges = []
    for row, rest in _zip(singular, rests):
        # Σ √λ over the rest is least if few are at the ceiling, and greatest if all are equal.
        top = float(np.sqrt(rest.ceiling))
        ends = (rest.low / top if top > 0 else 0.0), float(np.sqrt(rest.high * remaining))
        ranges.append(_rank_range(row, *ends, top, remaining))
    return _bounded(ranges)


def participation_ratios(eigenvalues: npt.ArrayLike, rests: "list[Rest] | None" = None, latent_dim: int = 0) -> Ranks:
    """Return (Σ λ)² / Σ λ². Arguments are those of `effective_ranks`.

    The ratio grows with the sum R of the rest, and Σ λ² over the rest lies between R² / (n − k) and R λ_k.
    """
    spectra = spectra_of(eigenvalues)
    low, high, ceiling = np.zeros((3, len(spectra)))
    if rests is not None:
        low, high, ceiling = np.array([(rest.low, rest.high, rest.ceiling) for rest in rests]).T
    remaining = max(latent_dim - spectra.shape[1], 1)
    scale = np.where(spectra[:, 0] > 0, spectra[:, 0], np.nan)
    shares = spectra / scale[:, None]
    sums, squares = shares.sum(axis=1), np.square(shares).sum(axis=1)
    low, high, ceiling = low / scale, high / scale, ceiling / scale
    least = (sums + low) ** 2 / (squares + low * ceiling)
    greatest = (sums + high) ** 2 / (squares + high**2 / remaining)
    return Ranks(least, np.maximum(least, greatest))


def local_scalings(eigenvalues: npt.ArrayLike, tolerance: float) -> tuple[Floats, Integers]:
    """Return ψ = Σ log σ over the singular values that are not zero `[N]`, and their number (Humayun et al., 2025).

    Args:
        eigenvalues: `[N, k]`, any order; their magnitudes count.
        tolerance: share of the largest eigenvalue of each metric up to which λ counts as zero.
    """
    spectra = spectra_of(eigenvalues)
    counted = (spectra > tolerance * spectra[:, :1]) & (spectra > 0)
    logarithms = np.log(spectra, out=np.zeros_like(spectra), where=counted)
    numbers: Integers = counted.sum(axis=1, dtype=np.int64)
    scalings = 0.5 * (np.where(counted, logarithms, 0.0).sum(axis=1) - numbers * np.log(2.0))
    return np.where(numbers > 0, scalings, np.nan), numbers


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return the four scalars of each sample, with means, spreads and correlations with the norm of the code."""
    import xarray as xr

    values, n = spectra_of(samples.eigenvalues), samples.latent_dim
    rests = rests_of(values, samples.trace, n, samples.estimated) if samples.truncated else None
    scalings, counted = local_scalings(values, options.tolerance)
    found = {
        "effective_rank": effective_ranks(values, rests, n),
        "participation_ratio": participation_ratios(values, rests, n),
        "local_rank": local_ranks(values, rests, n),
        "local_scaling": _same(scalings),
    }
    weights, norms = samples.bootstrap(options.draws, options.seed), code_norms(samples)
    entries: dict[str, Any] = {}
    for name, ranks in found.items():
        label, units = QUANTITIES[name]
        means, ends = bounded_mean(ranks.least, ranks.greatest, weights)
        spread = spread_of(ranks.least, weights)
        r, r_ends, _ = correlation(ranks.least, norms, weights)
        entries |= {
            name: variable(("sample",), ranks.least, f"{label}, or its least possible value", units),
            f"{name}_greatest": variable(("sample",), ranks.greatest, f"greatest possible {label}", units),
            f"{name}_mean": variable(("bound",), means, f"mean {label}, least and greatest", units),
            f"{name}_mean_ci95": variable(("end",), ends, "95 % bootstrap interval of the mean", units),
            f"{name}_sd": variable((), spread.sd, f"standard deviation of the {label} over samples", units),
            f"{name}_sd_ci95": variable(("end",), spread.sd_ci95, "95 % bootstrap interval", units),
            f"{name}_norm_correlation": variable((), r, "correlation with the norm of the code", "1"),
            f"{name}_norm_correlation_ci95": variable(("end",), r_ends, "95 % bootstrap interval", "1"),
        }
    totals = np.maximum(samples.trace, values.sum(axis=1)) if samples.truncated else values.sum(axis=1)
    share = float(values.sum() / totals.sum()) if totals.sum() > 0 else 1.0
    return xr.Dataset(
        {
            **entries,
            "singular_values": variable(("sample",), counted, "singular values in the local scaling", "1"),
            "kept_ranks": variable((), values.shape[1], "eigenpairs that are kept of each metric", "1"),
            "latent_dim": variable((), n, "size of a latent code", "1"),
            "trace_share": variable((), share, "share of the trace in the kept eigenpairs", "1"),
            "zero_metrics": variable((), int(np.sum(values[:, 0] == 0)), "samples whose metric is zero", "1"),
        },
        coords={"sample": samples.numbers},
    )


def summary(result: Result) -> Table:
    """Return a row for each scalar: mean, spread, and correlation with the norm of the code, with intervals."""
    found = result.dataset
    rows = [
        [
            f"{label} ({units})",
            shown_range(found[f"{name}_mean"].values),
            shown_interval(found[f"{name}_mean_ci95"].values),
            shown_with(number(found, f"{name}_sd"), found[f"{name}_sd_ci95"].values),
            shown(number(found, f"{name}_norm_correlation")),
            shown_interval(found[f"{name}_norm_correlation_ci95"].values),
        ]
        for name, (label, units) in QUANTITIES.items()
    ]
    columns = ("", ">mean", ">95 % interval", ">std over samples", ">r with ‖z‖", ">95 % interval of r")
    return Table(columns, rows, "Local geometry")


def sentences(result: Result) -> list[str]:
    """Return over how many directions the image change is spread, and the local rank and scaling."""
    found, n = result.dataset, int(result["latent_dim"])
    if not np.isfinite(found["effective_rank_mean"].values).all():
        return []

    def stated(name: str) -> str:
        return shown_range(found[f"{name}_mean"].values) + within(found[f"{name}_mean_ci95"].values)

    return [
        f"The image change of a sample is spread over {stated('effective_rank')} of {n} directions in the mean "
        f"(effective rank of H). The local rank of Humayun et al., which takes the square roots of eigenvalues, is "
        f"{stated('local_rank')}.",
        f"The local scaling (log volume element) is {stated('local_scaling')} in nats, with a standard deviation of "
        f"{number(found, 'local_scaling_sd'):.3g} over samples.",
    ]


def notes(result: Result) -> list[str]:
    """Return what the four scalars are, and where the intervals come from."""
    options, counted = result.options.model_dump(), result["singular_values"].values
    least, most = int(counted.min()), int(counted.max())
    return [
        "Effective rank and local rank are exp of the entropy of the shares of λ and of σ = √(λ/2). Both are 1 if one "
        "direction has all of the change, and n if all directions change the image alike.",
        f"The local scaling sums log σ over {least if least == most else f'{least} to {most}'} singular values of the "
        f"distance's residual: those that are not zero (λ above {options['tolerance']:g} of the sample's largest).",
        "Local complexity, the third descriptor of Humayun et al., is no function of the spectrum and is not computed.",
        f"Intervals are percentiles of {options['draws']} bootstrap draws of the samples.",
    ]


def cautions(result: Result) -> list[str]:
    """Return what ranks that are not kept and zero metrics leave undetermined."""
    found, lines = result.dataset, []
    kept, n, zeros = (int(found[name]) for name in ("kept_ranks", "latent_dim", "zero_metrics"))
    if kept < n:
        lines.append(
            f"{kept} of {n} eigenpairs are kept, with {percent(number(found, 'trace_share'))} of the trace. Ranks are "
            "given as the range that these and the trace allow; spreads and correlations are those of the least value. "
            f"The local scaling is that of the {kept} kept ranks."
        )
    counted = found["singular_values"].values
    if len({*counted[counted > 0].tolist()}) > 1:
        lines.append(
            "Samples differ in how many singular values are not zero, and each one more changes the local scaling. The "
            "statistic `volume` takes the same number of ranks for all samples."
        )
    if zeros:
        lines.append(f"Samples left out, because their metric is zero and has none of these numbers: {zeros}.")
    return lines


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw a histogram over samples of each scalar."""
    found = result.dataset
    cut = int(found["kept_ranks"]) < int(found["latent_dim"])
    figures = {}
    for name, (label, units) in QUANTITIES.items():
        least = ", least possible value," if cut and units != "nat" else ""
        mean, ends = float(found[f"{name}_mean"].values[0]), found[f"{name}_mean_ci95"].values
        caption = (
            f"{label[:1].upper()}{label[1:]}{least} of each sample, with the mean (line) and its 95 % interval (band)."
        )
        figures[caption] = histogram_figure(
            name.replace("_", "-"), found[name].values, mean, ends, f"{label} ({units})"
        )
    return figures


def _zip(rows: Floats, rests: list[Rest]) -> "list[tuple[Floats, Rest]]":
    return list(zip(rows, rests, strict=True))


def _same(values: Floats) -> Ranks:
    return Ranks(values, values)


def _bounded(ranges: list[tuple[float, float]]) -> Ranks:
    least, greatest = np.array(ranges).T
    return Ranks(least, greatest)


def _entropy_ranks(weights: Floats) -> Floats:
    """Return exp of the entropy of each row's shares `[N]`; NaN for a row of zeros."""
    totals = weights.sum(axis=1, keepdims=True)
    shares = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    ranks: Floats = np.exp(-np.sum(shares * logarithms, axis=1))
    return np.where(totals[:, 0] > 0, ranks, np.nan)


def _rank_range(kept: Floats, low: float, high: float, top: float, remaining: int) -> tuple[float, float]:
    """Return the range of exp of the entropy, if `remaining` more weights up to `top` sum to between low and high."""
    total = float(kept.sum())
    own = float(np.log(_entropy_ranks(kept[None])[0])) if total > 0 else 0.0
    if high <= 0 or top <= 0:
        value = float(np.exp(own)) if total > 0 else np.nan
        return value, value
    sums = np.linspace(low, high, _STEPS)
    share = sums / (total + sums)
    other = 1 - share
    mixed = -(share * np.log(np.maximum(share, 1e-300)) + other * np.log(np.maximum(other, 1e-300)))
    base = mixed + other * own
    least = base + share * np.log(np.maximum(sums / top, 1.0))
    greatest = base + share * np.log(float(remaining))
    return float(np.exp(least.min())), float(np.exp(greatest.max()))
