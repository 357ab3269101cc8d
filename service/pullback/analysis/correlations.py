"""C_log and C_lin for all ordered pairs of samples, in float64 (Wang & Ponce, ICLR 2021): the reference.

`pair_kernel` computes the same in float32 products, several times faster, and its error is measured against this.

Λ_ij = diag(U_iᵀ H_j U_i) holds the rates of change of sample j's metric along the eigenvectors of sample i. Its
correlation with λ_j, on a linear and on a logarithmic scale, is C_lin and C_log.

H_j is rebuilt from the kept eigenpairs, H_j = Σ_m λ_jm v_jm v_jmᵀ: exact when all n are kept, and otherwise the metric
without its tail, seen along the kept eigenvectors only. Correlations over the leading ranks can be higher or lower than
those over whole spectra. With M = (U_i U_jᵀ)², taken entry by entry, Λ_ij = M λ_j and Λ_ji = Mᵀ λ_i. One matrix product
serves both orders of a pair, and no H_j is formed.

Invariants: one rotation common to all metrics changes nothing, nor does a positive factor for each metric. The working
memory is at most `WORKSPACE` plus three samples, however many samples there are.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats
from pullback.analysis.protocol import Progress
from pullback.analysis.samples import Stack

WORKSPACE = 128 * 2**20
"""Bytes for one block of eigenvectors and its products."""

NULL_FLOOR = 1e-12
"""Share of the largest eigenvalue below which a value is round-off."""

LEAST_SPREAD = 1e-6
"""Relative standard deviation of values below which they count as equal. Eigenvectors are stored as float32, so Λ is
accurate to some 1e-7, and smaller differences are round-off."""


def correlations(
    eigenvalues: npt.ArrayLike,
    eigenvectors: Stack,
    *,
    floor: float = NULL_FLOOR,
    progress: Progress | None = None,
) -> tuple[Floats, Floats]:
    """Compute C_log and C_lin for all ordered pairs of samples (Wang & Ponce, ICLR 2021).

    C_lin[i, j] = corr(Λ_ij, λ_j). C_log[i, j] = corr(log10 Λ_ij, log10 λ_j) over the entries where both values are
    positive and above `floor` times the largest |λ_j|. In theory the null directions of a metric have eigenvalues of
    exactly zero; in floating point they are about 1e-17, of either sign. Their logarithms are noise that would dominate
    the correlation, and masking only the non-positive ones, as the paper does, keeps half of them.

    Args:
        eigenvalues: `[samples, k]`, in the order of the eigenvectors.
        eigenvectors: `[samples, k, n]`, unit rows.
        floor: share of the largest eigenvalue of H_j below which an entry is masked, in [0, 1).
        progress: called after each sample of each block.

    Returns:
        C_log and C_lin, each `[samples, samples]`. NaN where a correlation does not exist: if fewer than two entries
        are left, or if all eigenvalues of one of the two metrics are equal. Such a metric (zero, or a multiple of the
        identity) has no preferred direction, and its computed eigenvectors are arbitrary.

    Raises:
        ValueError: shapes do not agree.
    """
    values = _checked(eigenvalues, eigenvectors)
    log, linear = (np.full((len(values), len(values)), np.nan) for _ in range(2))
    everything = np.ones(values.shape, dtype=bool)
    for block, j, forward, backward in _cross_spectra(values, eigenvectors, progress):
        target = np.broadcast_to(values[j], forward.shape)
        linear[block, j] = row_correlation(forward, target, everything[block])
        linear[j, block] = row_correlation(backward, values[block], everything[block])
        log[block, j] = log_correlation(forward, target, floor)
        log[j, block] = log_correlation(backward, values[block], floor)
    for matrix in (log, linear):
        matrix[~has_axes(values)] = np.nan
    return log, linear


def has_axes(eigenvalues: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return whether each metric has eigenvectors of its own, `[samples]`, given its eigenvalues `[samples, k]`.

    Zero and isotropic metrics have none: all their eigenvalues are equal, within `LEAST_SPREAD`.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    largest = np.abs(values).max(axis=1, keepdims=True)
    shares = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
    spread: npt.NDArray[np.bool_] = shares.std(axis=1) > LEAST_SPREAD
    return spread


def _checked(eigenvalues: npt.ArrayLike, eigenvectors: Stack) -> Floats:
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 2 or len(eigenvectors.shape) != 3 or eigenvectors.shape[:2] != values.shape:
        raise ValueError(
            f"eigenvalues [samples, k] and eigenvectors [samples, k, n] are needed, "
            f"got {list(values.shape)} and {list(eigenvectors.shape)}"
        )
    return values


def _vectors(eigenvectors: Stack, start: int, stop: int) -> Floats:
    return np.asarray(eigenvectors[start:stop], dtype=np.float64)


def _cross_spectra(
    values: Floats, eigenvectors: Stack, progress: Progress | None
) -> Iterator[tuple[slice, int, Floats, Floats]]:
    """Yield (block, j, Λ_ij, Λ_ji), both `[block, k]`, for every unordered pair."""
    samples, kept, latent = eigenvectors.shape
    size = max(1, min(samples, WORKSPACE // (8 * kept * (kept + latent))))
    for start in range(0, samples, size):
        stop = min(start + size, samples)
        block = _vectors(eigenvectors, start, stop)
        flat = block.reshape(-1, latent)
        for j in range(start, samples):
            other = block[j - start] if j < stop else _vectors(eigenvectors, j, j + 1)[0]
            overlap = (flat @ other.T).reshape(stop - start, kept, kept)
            np.square(overlap, out=overlap)
            # Λ_ij and Λ_ji from the same squared cosines; the second sums over the rows of each.
            backward = np.matmul(values[start:stop, None, :], overlap)[:, 0]
            yield slice(start, stop), j, overlap @ values[j], backward
            if progress is not None:
                # Ordered pairs of finished rows and columns, and this block's share.
                before = samples**2 - (samples - start) ** 2
                after = samples**2 - (samples - stop) ** 2
                progress(before + (after - before) * (j - start + 1) // (samples - start), samples**2)


def log_correlation(cross: Floats, own: Floats, floor: float) -> Floats:
    """Return C_log of each pair of rows `[rows, k]`: Λ and λ of the same metric, masked as by `correlations`."""
    limit = floor * np.max(np.abs(own), axis=1, keepdims=True)
    mask = (cross > 0) & (own > 0) & (cross >= limit) & (own >= limit)
    log_cross, log_own = (np.log10(array, out=np.zeros(cross.shape), where=mask) for array in (cross, own))
    return row_correlation(log_cross, log_own, mask, scale=1.0)


def row_correlation(x: Floats, y: Floats, mask: npt.NDArray[np.bool_], scale: float | None = None) -> Floats:
    """Return Pearson's r of each pair of rows `[rows, k]` over unmasked entries; NaN where it does not exist.

    Values count as equal if their standard deviation is at most `LEAST_SPREAD` times `scale`, by default their root
    mean square.
    """
    count = mask.sum(axis=1, keepdims=True)
    centred, scales = [], []
    for array in (x, y):
        kept = np.where(mask, array, 0.0)
        offset = kept.sum(axis=1, keepdims=True) / np.maximum(count, 1)
        residual = np.where(mask, array - offset, 0.0)
        spread = np.sqrt(np.sum(residual**2, axis=1))
        # Subtracting the mean of equal values leaves round-off, which must not count as variance.
        size = np.sqrt(np.sum(kept**2, axis=1)) if scale is None else scale * np.sqrt(count[:, 0])
        spread[spread <= LEAST_SPREAD * size] = 0.0
        centred.append(residual)
        scales.append(spread)
    product = scales[0] * scales[1]
    covariance = np.sum(centred[0] * centred[1], axis=1)
    defined = (product > 0) & (count[:, 0] >= 2)
    r: Floats = np.divide(covariance, product, out=np.full(len(x), np.nan), where=defined)
    return r.clip(-1, 1)
