"""The mean metric of a space and its eigenbasis, the global coordinate system of every application.

H̄ is the mean of the points' metrics over all n² entries, exact however few eigenpairs each point kept.

Invariants: rows of a basis are unit eigenvectors by descending eigenvalue; their signs are fixed (the entry
of largest magnitude is positive), so that the same metric gives the same axes.
Leaves to others: summing the metrics of a sweep (`store`), what the axes do to images (`applications`), and the
drawing of bootstrap samples (`bootstrap`).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats, Integers, interval, weighted_means
from pullback.analysis.homogeneity import WORKSPACE, Stack


@dataclass(frozen=True, eq=False)
class MeanMetric:
    """Eigenvalues and axes of H̄, with a bootstrap interval over points for each eigenvalue."""

    eigenvalues: Floats
    """`[n]`, descending; squared image distance per squared latent length."""
    eigenvectors: Floats
    """`[n, n]`, unit rows."""
    ci95: Floats
    """`[2, n]`: lower and upper end of u_kᵀ H̄ u_k along the fixed axis u_k."""


def eigenbasis(metric: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return eigenvalues `[n]`, descending, and eigenvectors `[n, n]`, rows, of a symmetric matrix.

    The entry of largest magnitude of each eigenvector is positive. Asymmetry (round-off) is averaged away.

    Raises:
        ValueError: the matrix is not square or holds numbers that are not finite.
        numpy.linalg.LinAlgError: the decomposition failed.
    """
    matrix = np.asarray(metric, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"a metric is a square matrix of finite numbers, got {list(matrix.shape)}")
    values, columns = np.linalg.eigh((matrix + matrix.T) / 2)
    # LAPACK has been seen to return NaN without reporting it.
    if not (np.isfinite(values).all() and np.isfinite(columns).all()):
        raise np.linalg.LinAlgError("the eigendecomposition of the mean metric is not finite")
    rows = columns.T[::-1]
    largest = np.take_along_axis(rows, np.argmax(np.abs(rows), axis=1)[:, None], axis=1)
    return values[::-1].copy(), rows * np.where(largest < 0, -1.0, 1.0)


def rates_along(axes: npt.ArrayLike, eigenvalues: npt.ArrayLike, eigenvectors: Stack) -> Floats:
    """Return a_ik = u_kᵀ H_i u_k, the rate of each point's metric along common axes.

    H_i is rebuilt from the kept eigenpairs: a_ik = Σ_m λ_im (u_k · v_im)², exact when all n are kept and
    otherwise short of what the dropped pairs add.

    Args:
        axes: unit rows u_k, `[axes, n]`.
        eigenvalues: `[points, k]`.
        eigenvectors: `[points, k, n]`, unit rows; read a few points at a time.

    Returns:
        `[points, axes]`; squared image distance per squared latent length.
    """
    directions = np.asarray(axes, dtype=np.float64)
    values = np.asarray(eigenvalues, dtype=np.float64)
    rates = np.empty((len(values), len(directions)))
    _, kept, latent = eigenvectors.shape
    size = max(1, WORKSPACE // (8 * kept * (latent + len(directions))))
    for start in range(0, len(values), size):
        rows = np.asarray(eigenvectors[start : start + size], dtype=np.float64)
        cosines = np.square(rows @ directions.T)
        rates[start : start + size] = np.matmul(values[start : start + size, None, :], cosines)[:, 0]
    return rates


def mean_metric(
    metric: npt.ArrayLike, eigenvalues: npt.ArrayLike, eigenvectors: Stack, weights: Integers
) -> MeanMetric:
    """Compute the eigenbasis of H̄, with a 95 % bootstrap interval over points for each eigenvalue.

    The axes are held fixed while points are resampled: the interval is that of the weighted mean of
    a_ik = u_kᵀ H_i u_k along the axis u_k of the full sample's H̄. A new decomposition for every draw would
    follow ranks and not axes, and would mix the spread of an eigenvalue with the repulsion of its neighbours.
    Where pairs were dropped, what they add to the mean is known from H̄, its spread is not: the interval is
    shifted by the former and leaves out the latter.

    Args:
        metric: H̄ `[n, n]`, the mean of the points' whole metrics.
        eigenvalues: kept eigenvalues of the good points, `[points, k]`.
        eigenvectors: kept eigenvectors, `[points, k, n]`, unit rows.
        weights: multiplicities `[draws, points]` of `bootstrap_weights`.

    Raises:
        ValueError: shapes do not agree, or H̄ holds numbers that are not finite.
        numpy.linalg.LinAlgError: the decomposition failed.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    means, axes = eigenbasis(metric)
    if eigenvectors.shape != (*values.shape, len(means)) or weights.shape[1:] != values.shape[:1]:
        raise ValueError(
            f"a metric {list(axes.shape)}, eigenvalues {list(values.shape)}, eigenvectors "
            f"{list(eigenvectors.shape)} and weights {list(weights.shape)} do not agree"
        )
    rates = rates_along(axes, values, eigenvectors)
    dropped = means - rates.mean(axis=0)
    return MeanMetric(means, axes, np.stack(interval(weighted_means(weights, rates))) + dropped)
