"""The volume element of the generated manifold, ½ Σ log λ over the leading ranks of each metric.

A generator stretches a small volume around a code by √det H, taken over the directions that change the image.
MaGNET (Humayun, Balestriero & Baraniuk, ICLR 2022) samples codes in proportion to it, so that images are uniform on
the manifold. Polarity sampling (the same authors, CVPR 2022) takes it over the `top_k` largest singular values σ of the
Jacobian; its published code takes 30 by default. With H = 2 JᵀJ, λ = 2 σ², so ½ Σ log λ = Σ log σ + ½ k log 2. The
constant changes no difference between samples.

An eigenvalue of a null direction is round-off, and its logarithm is noise. Eigenvalues below a floor are therefore
raised to it. The floor is a share of the mean largest eigenvalue, so it is the same number for every sample.

Invariants: everything is computed from logarithms. One positive factor c for all metrics shifts every volume by
½ k log c, and changes no spread and no correlation. The leading k ranks are known exactly also where only some
eigenpairs are kept.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pullback.analysis.bootstrap import BootstrapOptions, Floats, Integers
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.samples import Samples
from pullback.analysis.scalars import (
    code_norms,
    correlation,
    histogram_figure,
    number,
    scatter_figure,
    shown,
    shown_interval,
    spread_of,
    spread_variables,
    variable,
    within,
)
from pullback.analysis.spectra import spectra_of
from pullback.errors import PullbackError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "volume element of the generated manifold: ½ Σ log λ over the leading ranks"

_UNITS = "nat"


class Options(BootstrapOptions):
    """Options of the volume."""

    ranks: int = Field(default=0, ge=0, le=1_000_000)
    """Leading ranks k whose logarithms are summed; 0 takes the ranks whose mean eigenvalue is above the floor."""
    floor: float = Field(default=1e-6, gt=0, lt=1)
    """Share of the mean largest eigenvalue to which smaller eigenvalues are raised."""


def log_volumes(eigenvalues: npt.ArrayLike, ranks: int, smallest: float) -> tuple[Floats, Integers]:
    """Return ½ Σ log max(λ, smallest) over the leading ranks of each metric, and how many of them were raised.

    Args:
        eigenvalues: `[N, k]`, any order; their magnitudes count.
        ranks: number of leading ranks, 1 to k.
        smallest: the floor, positive; squared image distance per squared latent length.

    Returns:
        Volumes `[N]` in nats, NaN for a metric that is exactly zero, and the number of raised eigenvalues `[N]`.

    Raises:
        ValueError: the ranks or the floor are out of range, or an eigenvalue is not finite.
    """
    spectra = spectra_of(eigenvalues)
    if not 1 <= ranks <= spectra.shape[1] or not smallest > 0:
        raise ValueError(f"1 to {spectra.shape[1]} ranks and a positive floor are needed, not {ranks} and {smallest}")
    leading = spectra[:, :ranks]
    volumes = 0.5 * np.log(np.maximum(leading, smallest)).sum(axis=1)
    raised: Integers = np.sum(leading < smallest, axis=1, dtype=np.int64)
    return np.where(spectra[:, 0] > 0, volumes, np.nan), raised


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return the volume of each sample, its mean and spread, and its correlation with the norm of the code.

    Raises:
        PullbackError: more ranks are asked for than are kept.
    """
    import xarray as xr

    spectra = spectra_of(samples.eigenvalues)
    kept, mean = spectra.shape[1], spectra.mean(axis=0)
    if options.ranks > kept:
        raise PullbackError(
            f"volume over {options.ranks} ranks: the sweep keeps {kept} eigenpairs of each metric. Nothing is lost. "
            f"Ask for at most {kept} ranks, or run a sweep with more components."
        )
    floor = options.floor * float(mean[0])
    ranks = options.ranks or max(1, int(np.sum(mean >= floor)))
    volumes, raised = log_volumes(spectra, ranks, floor)
    raised = np.where(np.isfinite(volumes), raised, 0)
    weights = samples.bootstrap(options.draws, options.seed)
    norms = code_norms(samples)
    r, ends, _ = correlation(volumes, norms, weights)
    label = f"log volume element over {ranks} ranks"
    return xr.Dataset(
        {
            "volume": variable(("sample",), volumes, label, _UNITS),
            **spread_variables("volume", spread_of(volumes, weights), label, _UNITS),
            "code_norm": variable(("sample",), norms, "norm of the latent code", "latent unit"),
            "norm_correlation": variable((), r, "correlation of the volume with the norm of the code", "1"),
            "norm_correlation_ci95": variable(("end",), ends, "95 % bootstrap interval of the correlation", "1"),
            "ranks": variable((), ranks, "leading ranks that are summed", "1"),
            "kept_ranks": variable((), kept, "eigenpairs that are kept of each metric", "1"),
            "latent_dim": variable((), samples.latent_dim, "size of a latent code", "1"),
            "floor": variable(
                (), floor, "eigenvalue to which smaller ones are raised", "squared distance per squared latent unit"
            ),
            "raised": variable(("sample",), raised, "eigenvalues that were raised to the floor", "1"),
            "samples_raised": variable((), int(np.sum(raised > 0)), "samples with a raised eigenvalue", "1"),
            "zero_metrics": variable((), int(np.sum(~np.isfinite(volumes))), "samples whose metric is zero", "1"),
        },
        coords={"sample": samples.numbers},
    )


def summary(result: Result) -> Table:
    """Return the mean volume, its spread and its correlation with the norm of the code, with their intervals."""
    found, ranks = result.dataset, int(result["ranks"])
    rows = [
        [label, shown(number(found, name)), shown_interval(found[f"{name}_ci95"].values)]
        for name, label in (
            ("volume_mean", "mean over samples (nat)"),
            ("volume_sd", "standard deviation over samples (nat)"),
            ("norm_correlation", "correlation with ‖z‖"),
        )
    ]
    rows.append(["samples with an eigenvalue below the floor", str(int(found["samples_raised"])), "–"])
    return Table(["", ">value", ">95 % interval"], rows, f"Volume, ½ Σ log λ over {ranks} ranks")


def sentences(result: Result) -> list[str]:
    """Return how much the volume element differs between samples, and whether it follows the norm of the code."""
    found, ranks = result.dataset, int(result["ranks"])
    deviation, r = number(found, "volume_sd"), number(found, "norm_correlation")
    if not np.isfinite(deviation):
        return []
    lines = [
        f"The log volume element over the leading {ranks} ranks has a standard deviation of {deviation:.3g} nats over "
        f"samples{within(found['volume_sd_ci95'])}. That is a factor of {np.exp(deviation / ranks):.3g} in length for "
        "each direction."
    ]
    if np.isfinite(r):
        low, high = found["norm_correlation_ci95"].values
        open_ = "; the interval contains zero" if low <= 0 <= high else ""
        lines.append(f"Its correlation with the norm of the code is {r:.2f}{within((low, high))}{open_}.")
    return lines


def notes(result: Result) -> list[str]:
    """Return the ranks and the floor, and where the intervals come from."""
    found, options = result.dataset, result.options.model_dump()
    chosen = "given" if options["ranks"] else "those whose mean eigenvalue is above the floor"
    return [
        f"The sum has {int(found['ranks'])} of {int(found['latent_dim'])} ranks ({chosen}). Eigenvalues below "
        f"{number(found, 'floor'):.3g}, {options['floor']:g} of the mean largest one, count as that number.",
        f"Intervals are percentiles of {options['draws']} bootstrap draws of the samples.",
    ]


def cautions(result: Result) -> list[str]:
    """Return what the floor, zero metrics and the ranks that are not kept leave undetermined."""
    found, lines = result.dataset, []
    ranks, kept, n = (int(found[name]) for name in ("ranks", "kept_ranks", "latent_dim"))
    if kept < n and ranks == kept:
        lines.append(
            f"The volume is that of the {kept} kept ranks of {n}: the ranks that are not kept may change its mean and "
            "its spread."
        )
    raised, zeros = int(found["samples_raised"]), int(found["zero_metrics"])
    if raised:
        total = int(found["raised"].values.sum())
        lines.append(
            f"Eigenvalues below the floor are raised to it: {total} of the {ranks} leading ones of each sample, in "
            f"{raised} sample{'' if raised == 1 else 's'}. The volumes there are upper bounds."
        )
    if zeros:
        lines.append(f"Samples left out, because their metric is zero and has no volume: {zeros}.")
    return lines


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw the volumes of the samples, and the volume against the norm of the code where that differs."""
    found = result.dataset
    volumes, norms, r = found["volume"].values, found["code_norm"].values, number(found, "norm_correlation")
    label = f"½ Σ log λ over {int(found['ranks'])} ranks (nat)"
    figures = {
        "Log volume element of each sample, with the mean (line) and its 95 % interval (band).": histogram_figure(
            "volume", volumes, number(found, "volume_mean"), found["volume_mean_ci95"].values, label
        )
    }
    if np.isfinite(r):
        caption = (
            "Log volume element of each sample against the norm of its code: Pearson's r is "
            f"{r:.2f}{within(found['norm_correlation_ci95'])}."
        )
        figures[caption] = scatter_figure("volume-norm", norms, volumes, ("‖z‖ (latent units)", label))
    return figures
