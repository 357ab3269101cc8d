"""The eigenbasis of a metric, and the rates of change of other metrics along its axes.

Invariants: rows of a basis are unit eigenvectors by descending eigenvalue. Their signs are fixed (the entry of largest
magnitude is positive), so the same metric gives the same axes.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats
from pullback.analysis.correlations import WORKSPACE
from pullback.analysis.samples import Stack


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
    """Return a_ik = u_kᵀ H_i u_k, the rate of each sample's metric along common axes.

    H_i is rebuilt from the kept eigenpairs: a_ik = Σ_m λ_im (u_k · v_im)². This is exact if all n are kept, and
    otherwise a lower bound.

    Args:
        axes: unit rows u_k, `[axes, n]`.
        eigenvalues: `[samples, k]`.
        eigenvectors: `[samples, k, n]`, unit rows; read a few samples at a time.

    Returns:
        `[samples, axes]`; squared image distance per squared latent length.
    """
    rates = np.empty((len(np.asarray(eigenvalues)), len(np.asarray(axes))))
    for part, found in rates_in_parts(axes, eigenvalues, eigenvectors):
        rates[part] = found
    return rates


def rates_in_parts(
    axes: npt.ArrayLike, eigenvalues: npt.ArrayLike, eigenvectors: Stack
) -> Iterator[tuple[slice, Floats]]:
    """Yield the rates of `rates_along` a few samples at a time: which samples, and their rates `[part, axes]`."""
    directions = np.asarray(axes, dtype=np.float64)
    values = np.asarray(eigenvalues, dtype=np.float64)
    _, kept, latent = eigenvectors.shape
    size = max(1, WORKSPACE // (8 * kept * (latent + len(directions))))
    for start in range(0, len(values), size):
        part = slice(start, min(start + size, len(values)))
        rows = np.asarray(eigenvectors[part], dtype=np.float64)
        cosines = np.square(rows @ directions.T)
        yield part, np.matmul(values[part, None, :], cosines)[:, 0]
