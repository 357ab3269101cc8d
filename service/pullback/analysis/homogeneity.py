"""Homogeneity: do the metrics of different points share their directions? (Wang & Ponce, ICLR 2021.)

Λ_ij = diag(U_iᵀ H_j U_i) holds the rates of change of point j's metric along the eigenvectors of point i. Its
correlation with λ_j, on a linear and on a logarithmic scale, is C_lin and C_log.

H_j is rebuilt from the kept eigenpairs, H_j = Σ_m λ_jm v_jm v_jmᵀ: exact when all n are kept, and otherwise
the metric without its tail, seen along the kept eigenvectors only. With M = (U_i U_jᵀ)², taken entry by
entry, Λ_ij = M λ_j and Λ_ji = Mᵀ λ_i, so that one matrix product serves both orders of a pair and no H_j is
formed.

Invariants: one rotation common to all metrics changes nothing, nor does a positive factor for each metric;
the working memory is bounded by `WORKSPACE` plus three points, however many points there are.
Leaves to others: where eigenpairs come from, and the drawing of bootstrap samples (`bootstrap`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats, Integers, interval

Progress = Callable[[int, int], None]
"""Called with the number of ordered pairs done and their total."""

WORKSPACE = 128 * 2**20
"""Bytes for one block of eigenvectors and its products."""

NULL_FLOOR = 1e-12
"""Share of the largest eigenvalue below which a value is round-off."""


class Stack(Protocol):
    """Eigenvectors `[points, k, n]` that can be sliced along points: a numpy, Zarr or lazy xarray array."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Points, kept eigenvectors, latent dimensions."""
        ...

    def __getitem__(self, points: slice, /) -> Any:
        """Return something that numpy can turn into an array."""
        ...


@dataclass(frozen=True)
class PairSummary:
    """Statistics of a correlation over ordered pairs of different points; NaN where no pair has one."""

    mean: float
    std: float
    median: float
    ci95: tuple[float, float]
    """95 % interval of the mean by bootstrap over points."""
    pairs: int
    """N(N - 1), pairs without a defined correlation included."""


def correlations(
    eigenvalues: npt.ArrayLike,
    eigenvectors: Stack,
    *,
    floor: float = NULL_FLOOR,
    progress: Progress | None = None,
) -> tuple[Floats, Floats]:
    """Compute C_log and C_lin for all ordered pairs of points (Wang & Ponce, ICLR 2021).

    C_lin[i, j] = corr(Λ_ij, λ_j); C_log[i, j] = corr(log10 Λ_ij, log10 λ_j) over the entries where both
    values are positive and above `floor` times the largest |λ_j|. The theory has exact zeros (null
    directions), the computer has 1e-17 of either sign: their logarithms are noise on a range longer than the
    spectrum's, and would decide the correlation. Masking the non-positive ones alone, as the paper does,
    keeps half of them.

    Args:
        eigenvalues: `[points, k]`, in the order of the eigenvectors.
        eigenvectors: `[points, k, n]`, unit rows.
        floor: share of the largest eigenvalue of H_j below which an entry is masked, in [0, 1).
        progress: called after each point of each block.

    Returns:
        C_log and C_lin, each `[points, points]`. NaN where a correlation does not exist: fewer than two
        entries, or values that are all equal (a multiple of the identity has no preferred direction).

    Raises:
        ValueError: shapes do not agree.
    """
    values = _checked(eigenvalues, eigenvectors)
    log, linear = (np.full((len(values), len(values)), np.nan) for _ in range(2))
    everything = np.ones(values.shape, dtype=bool)
    for block, j, forward, backward in _cross_spectra(values, eigenvectors, progress):
        target = np.broadcast_to(values[j], forward.shape)
        linear[block, j] = _row_correlation(forward, target, everything[block])
        linear[j, block] = _row_correlation(backward, values[block], everything[block])
        log[block, j] = _log_correlation(forward, target, floor)
        log[j, block] = _log_correlation(backward, values[block], floor)
    return log, linear


def summarize(matrix: npt.ArrayLike, weights: Integers) -> PairSummary:
    """Summarize a correlation matrix over ordered pairs of different points, with a bootstrap over points.

    Points are resampled, not pairs: pairs that share a point are not independent. In a draw the pair (i, j)
    counts as often as the product of the two multiplicities; a point paired with itself or with its own copy
    never counts, since its correlation is 1 by construction.

    Args:
        matrix: `[points, points]`; NaN entries are left out.
        weights: multiplicities `[draws, points]` of `bootstrap_weights`.

    Raises:
        ValueError: shapes do not agree.
    """
    pairs = np.array(matrix, dtype=np.float64)
    points = len(pairs)
    if pairs.shape != (points, points) or weights.ndim != 2 or weights.shape[1] != points:
        raise ValueError(
            f"a matrix [points, points] and weights [draws, points] are needed, "
            f"got {list(pairs.shape)} and {list(weights.shape)}"
        )
    np.fill_diagonal(pairs, np.nan)
    defined = np.isfinite(pairs)
    values = pairs[defined]
    if values.size == 0:
        return PairSummary(np.nan, np.nan, np.nan, (np.nan, np.nan), points * (points - 1))
    drawn = weights.astype(np.float64)
    sums = np.sum((drawn @ np.where(defined, pairs, 0.0)) * drawn, axis=1)
    counts = np.sum((drawn @ defined.astype(np.float64)) * drawn, axis=1)
    means = np.divide(sums, counts, out=np.full(len(drawn), np.nan), where=counts > 0)
    low, high = interval(means)
    return PairSummary(
        mean=float(values.mean()),
        std=float(values.std()),
        median=float(np.median(values)),
        ci95=(float(low), float(high)),
        pairs=points * (points - 1),
    )


def _checked(eigenvalues: npt.ArrayLike, eigenvectors: Stack) -> Floats:
    values = np.asarray(eigenvalues, dtype=np.float64)
    if values.ndim != 2 or len(eigenvectors.shape) != 3 or eigenvectors.shape[:2] != values.shape:
        raise ValueError(
            f"eigenvalues [points, k] and eigenvectors [points, k, n] are needed, "
            f"got {list(values.shape)} and {list(eigenvectors.shape)}"
        )
    return values


def _vectors(eigenvectors: Stack, start: int, stop: int) -> Floats:
    return np.asarray(eigenvectors[start:stop], dtype=np.float64)


def _cross_spectra(
    values: Floats, eigenvectors: Stack, progress: Progress | None
) -> Iterator[tuple[slice, int, Floats, Floats]]:
    """Yield (block, j, Λ_ij, Λ_ji), both `[block, k]`, until every unordered pair was met."""
    points, kept, latent = eigenvectors.shape
    size = max(1, min(points, WORKSPACE // (8 * kept * (kept + latent))))
    for start in range(0, points, size):
        stop = min(start + size, points)
        block = _vectors(eigenvectors, start, stop)
        flat = block.reshape(-1, latent)
        for j in range(start, points):
            other = block[j - start] if j < stop else _vectors(eigenvectors, j, j + 1)[0]
            overlap = (flat @ other.T).reshape(stop - start, kept, kept)
            np.square(overlap, out=overlap)
            # Λ_ij and Λ_ji from the same squared cosines; the second sums over the rows of each.
            backward = np.matmul(values[start:stop, None, :], overlap)[:, 0]
            yield slice(start, stop), j, overlap @ values[j], backward
            if progress is not None:
                # Of the ordered pairs: those of finished rows and columns, then this block's share.
                before = points**2 - (points - start) ** 2
                after = points**2 - (points - stop) ** 2
                progress(before + (after - before) * (j - start + 1) // (points - start), points**2)


def _log_correlation(cross: Floats, own: Floats, floor: float) -> Floats:
    limit = floor * np.max(np.abs(own), axis=1, keepdims=True)
    mask = (cross > 0) & (own > 0) & (cross >= limit) & (own >= limit)
    log_cross, log_own = (np.log10(array, out=np.zeros(cross.shape), where=mask) for array in (cross, own))
    return _row_correlation(log_cross, log_own, mask)


def _row_correlation(x: Floats, y: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
    """Return Pearson's r of each pair of rows `[rows, k]` over unmasked entries; NaN where there is none."""
    count = mask.sum(axis=1, keepdims=True)
    centred, scales = [], []
    for array in (x, y):
        kept = np.where(mask, array, 0.0)
        offset = kept.sum(axis=1, keepdims=True) / np.maximum(count, 1)
        residual = np.where(mask, array - offset, 0.0)
        scale = np.sqrt(np.sum(residual**2, axis=1))
        # Equal values leave round-off of their own size behind: that is no variance to correlate.
        scale[scale <= 1e-12 * np.sqrt(np.sum(kept**2, axis=1))] = 0.0
        centred.append(residual)
        scales.append(scale)
    product = scales[0] * scales[1]
    covariance = np.sum(centred[0] * centred[1], axis=1)
    defined = (product > 0) & (count[:, 0] >= 2)
    r: Floats = np.divide(covariance, product, out=np.full(len(x), np.nan), where=defined)
    return r.clip(-1, 1)
