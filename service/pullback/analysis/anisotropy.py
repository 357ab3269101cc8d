"""Anisotropy: how few directions of latent space carry the image change (Wang & Ponce, ICLR 2021).

The mean spectrum averages |eigenvalue| over points rank by rank; dim(q) counts the ranks that its cumulative
share leaves below q. Both are given with an interval from the bootstrap over points.

Invariants: ranks are of |eigenvalue|, descending, whatever the order of the input; scaling every metric by
one positive factor changes no dimension; with a trace the shares refer to the whole spectrum, also where only
the leading eigenpairs were kept.
Leaves to others: where spectra come from, and the drawing of bootstrap samples (`bootstrap`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats, Integers, interval, weighted_means

SHARES = (0.99, 0.999, 0.9999, 0.99999)
"""The shares q that Wang & Ponce report."""

# A share within this of q has reached q. A sum of thousands of terms is off by about 1e-12 of its total,
# while the finest q leaves a remainder of 1e-5, so that the tolerance decides exact ties and nothing else.
_ROUND_OFF = 1e-12


@dataclass(frozen=True, eq=False)
class MeanSpectrum:
    """Mean of |eigenvalue| over points, rank by rank."""

    mean: Floats
    """`[k]`, descending; squared image distance per squared latent length."""
    p5: Floats
    """`[k]`, 5th percentile over points at each rank."""
    p95: Floats
    """`[k]`, 95th percentile over points at each rank."""


@dataclass(frozen=True)
class Dimension:
    """The number of ranks that carry the share `share` of the mean spectrum, by both rules."""

    share: float
    below: int
    """Ranks whose cumulative share is strictly below `share` (the rule of Wang & Ponce). Where the kept
    eigenvalues do not reach the share (`needed` is None), all of them are: a lower bound."""
    needed: int | None
    """Ranks needed to reach the share: one more; None where the kept eigenvalues do not reach it."""
    below_ci95: tuple[int, int]
    needed_ci95: tuple[int | None, int | None]


@dataclass(frozen=True, eq=False)
class Anisotropy:
    """Mean spectrum and its dimensions, with bootstrap intervals over points."""

    spectrum: MeanSpectrum
    spectrum_ci95: Floats
    """`[2, k]`: lower and upper end of the mean at each rank."""
    total: float
    """What the shares refer to: the sum of the mean spectrum, or the mean trace where pairs were dropped."""
    dimensions: tuple[Dimension, ...]
    """In the order of the shares asked for."""


def ranked(eigenvalues: npt.ArrayLike) -> Floats:
    """Return |eigenvalues| `[..., k]` in descending order along the last axis."""
    magnitudes = np.abs(np.asarray(eigenvalues, dtype=np.float64))
    return np.ascontiguousarray(np.sort(magnitudes, axis=-1)[..., ::-1])


def mean_spectrum(eigenvalues: npt.ArrayLike) -> MeanSpectrum:
    """Average |eigenvalue| over points by rank, with the 5-95 % band over points (Wang & Ponce, ICLR 2021).

    Args:
        eigenvalues: `[points, k]`, any order, at least 1 point.

    Raises:
        ValueError: the array is not of that shape, is empty or holds a number that is not finite.
    """
    spectra = _spectra(eigenvalues)
    p5, p95 = np.percentile(spectra, [5, 95], axis=0)
    return MeanSpectrum(spectra.mean(axis=0), p5, p95)


def dim_below(spectrum: npt.ArrayLike, share: float, trace: float | None = None) -> int:
    """Count the ranks whose cumulative share is strictly below `share` (Wang & Ponce, ICLR 2021).

    Args:
        spectrum: eigenvalues `[k]`, any order; their magnitudes count.
        share: q in (0, 1).
        trace: sum of the full spectrum where `spectrum` holds its leading part only; default the sum of what
            is given. A trace below that sum (round-off) counts as that sum.

    Returns:
        0 to k. A share that equals `share` up to round-off (1e-12) is not below it. k means that the given
        part does not reach the share.

    Raises:
        ValueError: the share is outside (0, 1), or the spectrum has no positive finite sum.
    """
    values = ranked(spectrum)
    total = float(values.sum()) if trace is None else max(float(trace), float(values.sum()))
    if not (0 < share < 1):
        raise ValueError(f"a share lies in (0, 1), got {share}")
    if not (np.isfinite(total) and total > 0):
        raise ValueError(f"a spectrum whose sum is {total} has no shares")
    return int(_ranks_below(values[None], share, np.array([total]))[0])


def dim_needed(spectrum: npt.ArrayLike, share: float, trace: float | None = None) -> int | None:
    """Count the ranks needed to reach `share` of the spectrum: one more than `dim_below`.

    Arguments and errors are those of `dim_below`.

    Returns:
        1 to k, or None where the given part of the spectrum does not reach the share.
    """
    return _needed(dim_below(spectrum, share, trace), np.size(spectrum))


def anisotropy(
    eigenvalues: npt.ArrayLike,
    weights: Integers,
    trace: npt.ArrayLike | None = None,
    shares: Sequence[float] = SHARES,
) -> Anisotropy:
    """Compute the mean spectrum and its dimensions with 95 % bootstrap intervals over points.

    Args:
        eigenvalues: `[points, k]`, any order.
        weights: multiplicities `[draws, points]` of `bootstrap_weights`.
        trace: full trace of each point's metric, `[points]`; needed where k < n, default the sum of
            |eigenvalue|.
        shares: the q of dim(q), each in (0, 1).

    Raises:
        ValueError: shapes do not agree, a number is not finite, a share is outside (0, 1), or every
            eigenvalue is zero.
    """
    spectra = _spectra(eigenvalues)
    points, kept = spectra.shape
    if weights.ndim != 2 or weights.shape[1] != points:
        raise ValueError(f"weights are [draws, {points}], got {list(weights.shape)}")
    sums = spectra.sum(axis=1)
    totals = sums if trace is None else np.asarray(trace, dtype=np.float64)
    if totals.shape != (points,) or not np.isfinite(totals).all():
        raise ValueError(f"trace is one finite number for each of the {points} points")
    # Point by point: a trace below the sum of what was kept of it is round-off.
    totals = np.maximum(totals, sums)
    mean_total = float(totals.mean())
    spectrum = mean_spectrum(spectra)
    drawn_spectra, drawn_totals = weighted_means(weights, spectra), weighted_means(weights, totals)
    dimensions = []
    for share in shares:
        below = dim_below(spectrum.mean, share, mean_total)
        low, high = (int(end) for end in interval(_ranks_below(drawn_spectra, share, drawn_totals)))
        dimensions.append(
            Dimension(share, below, _needed(below, kept), (low, high), (_needed(low, kept), _needed(high, kept)))
        )
    return Anisotropy(spectrum, np.stack(interval(drawn_spectra)), mean_total, tuple(dimensions))


def _spectra(eigenvalues: npt.ArrayLike) -> Floats:
    spectra = ranked(eigenvalues)
    if spectra.ndim != 2 or 0 in spectra.shape:
        raise ValueError(f"eigenvalues are [points, k] with at least 1 of each, got {list(spectra.shape)}")
    if not np.isfinite(spectra).all():
        raise ValueError("eigenvalues hold numbers that are not finite")
    return spectra


def _ranks_below(spectra: Floats, share: float, totals: Floats) -> Integers:
    """Return how many ranks of each spectrum `[draws, k]` stay below the share of its total `[draws]`."""
    cumulative = np.cumsum(spectra, axis=1)
    below: Integers = np.sum(cumulative < (share - _ROUND_OFF) * totals[:, None], axis=1, dtype=np.int64)
    return below


def _needed(below: int, kept: int) -> int | None:
    return below + 1 if below < kept else None
