"""Mean spectra, and the number of ranks that carry a share of them (Wang & Ponce, ICLR 2021).

Ranks are those of |eigenvalue|, descending, whatever the order of the input.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats, Integers
from pullback.analysis.truncation import ROUND_OFF

SHARES = (0.99, 0.999, 0.9999, 0.99999)
"""The shares q that Wang & Ponce report."""

_BAND_BYTES = 32 * 2**20
"""Bytes of spectra whose percentiles are found at once: each is copied for it."""


@dataclass(frozen=True, eq=False)
class MeanSpectrum:
    """Mean of |eigenvalue| over samples, rank by rank."""

    mean: Floats
    """`[k]`, descending; squared image distance per squared latent length."""
    p5: Floats
    """`[k]`, 5th percentile over samples at each rank."""
    p95: Floats
    """`[k]`, 95th percentile over samples at each rank."""


def ranked(eigenvalues: npt.ArrayLike) -> Floats:
    """Return |eigenvalues| `[..., k]` in descending order along the last axis."""
    magnitudes: Floats = np.abs(np.asarray(eigenvalues, dtype=np.float64))
    # Sorted in place with their signs turned: the spectra of many samples are large, and each copy counts.
    np.negative(magnitudes, out=magnitudes)
    magnitudes.sort(axis=-1)
    np.negative(magnitudes, out=magnitudes)
    return magnitudes


def mean_spectrum(eigenvalues: npt.ArrayLike) -> MeanSpectrum:
    """Average |eigenvalue| over samples by rank, with the 5-95 % band over samples (Wang & Ponce, ICLR 2021).

    Args:
        eigenvalues: `[samples, k]`, any order, at least 1 sample.

    Raises:
        ValueError: the array is not of that shape, is empty or holds a number that is not finite.
    """
    return mean_of_spectra(spectra_of(eigenvalues))


def mean_of_spectra(spectra: Floats) -> MeanSpectrum:
    """Return the mean of spectra `[samples, k]` that `spectra_of` returned, with their band."""
    step = max(1, _BAND_BYTES // (8 * len(spectra)))
    starts = range(0, spectra.shape[1], step)
    bands = [np.percentile(spectra[:, start : start + step], [5, 95], axis=0) for start in starts]
    p5, p95 = np.concatenate(bands, axis=1)
    return MeanSpectrum(spectra.mean(axis=0), p5, p95)


def dim_below(spectrum: npt.ArrayLike, share: float, trace: float | None = None) -> int:
    """Count the ranks whose cumulative share is strictly below `share` (Wang & Ponce, ICLR 2021).

    Args:
        spectrum: eigenvalues `[k]`, any order; their magnitudes count.
        share: q in (0, 1).
        trace: sum of the full spectrum if `spectrum` holds its leading part only; default the sum of `spectrum`. A
            trace below that sum (round-off) counts as that sum.

    Returns:
        0 to k. A share that equals `share` up to round-off (1e-12) is not below it. k means that `spectrum` does not
        reach the share.

    Raises:
        ValueError: the share is outside (0, 1), or the spectrum has no positive finite sum.
    """
    values = ranked(spectrum)
    total = float(values.sum()) if trace is None else max(float(trace), float(values.sum()))
    if not (0 < share < 1):
        raise ValueError(f"a share lies in (0, 1), got {share}")
    if not (np.isfinite(total) and total > 0):
        raise ValueError(f"a spectrum whose sum is {total} has no shares")
    return int(ranks_below(values[None], share, np.array([total]))[0])


def dim_needed(spectrum: npt.ArrayLike, share: float, trace: float | None = None) -> int | None:
    """Count the ranks needed to reach `share` of the spectrum: one more than `dim_below`.

    Arguments and errors are those of `dim_below`.

    Returns:
        1 to k, or None if `spectrum` does not reach the share.
    """
    return needed_for(dim_below(spectrum, share, trace), np.size(spectrum))


def random_direction_rate(eigenvalues: npt.ArrayLike) -> tuple[float, float]:
    """Return mean and standard deviation of vᵀHv over unit vectors v that are uniform on the sphere.

    Args:
        eigenvalues: all n of H, any order, with their signs; squared image distance per squared latent length.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    sums, squares = np.array(values.sum()), np.array(np.square(values).sum())
    return float(sums) / values.size, float(np.sqrt(random_direction_variance(sums, squares, values.size)))


def random_direction_variance(sums: Floats, squares: Floats, latent_dim: int) -> Floats:
    """Return the variance of vᵀHv over unit vectors v that are uniform on the sphere; its mean is Σλ / n.

    It is 2 (n Σλ² − (Σλ)²) / (n² (n + 2)) (Wang & Ponce, ICLR 2021).

    Args:
        sums: Σλ, any shape.
        squares: Σλ², of the same shape.
        latent_dim: n.
    """
    variance: Floats = 2 * (latent_dim * squares - sums**2) / (latent_dim**2 * (latent_dim + 2))
    return np.maximum(variance, 0.0)


def spectra_of(eigenvalues: npt.ArrayLike) -> Floats:
    """Return |eigenvalues| `[samples, k]` in descending order; raises ValueError as `mean_spectrum` does."""
    spectra = ranked(eigenvalues)
    if spectra.ndim != 2 or 0 in spectra.shape:
        raise ValueError(f"eigenvalues are [samples, k] with at least 1 of each, got {list(spectra.shape)}")
    if not np.isfinite(spectra).all():
        raise ValueError("eigenvalues hold numbers that are not finite")
    return spectra


def ranks_below(spectra: Floats, share: float, totals: Floats) -> Integers:
    """Return how many ranks of each spectrum `[draws, k]` stay below the share of its total `[draws]`."""
    cumulative = np.cumsum(spectra, axis=1)
    below: Integers = np.sum(cumulative < (share - ROUND_OFF) * totals[:, None], axis=1, dtype=np.int64)
    return below


def needed_for(below: int, kept: int) -> int | None:
    """Return the ranks needed to reach a share that `below` ranks do not reach; None beyond the kept ranks."""
    return below + 1 if below < kept else None
