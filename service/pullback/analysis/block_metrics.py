"""Metrics of blocks of the code, from the eigenpairs of the whole metric.

A block is a range of coordinates. With the eigenpairs of H, H_ab = Σ λ_m u_m,a u_m,bᵀ, where u_m,a is the part of an
eigenvector in block a.
"""

import numpy as np

from pullback.analysis.bootstrap import Floats

Blocks = dict[str, tuple[int, int]]
"""Name -> (start, stop) of the coordinates."""


def block_norms(eigenvalues: Floats, eigenvectors: Floats, blocks: Blocks) -> Floats:
    """Return ‖H_ab‖² `[blocks, blocks]` in Frobenius norms for one metric.

    ‖H_ab‖² = Σ_mp λ_m λ_p (u_m,a · u_p,a)(u_m,b · u_p,b), so no block is formed.

    Args:
        eigenvalues: `[k]`.
        eigenvectors: `[k, n]`, rows.
        blocks: ranges of coordinates.
    """
    weighted = []
    for start, stop in blocks.values():
        part = eigenvectors[:, start:stop]
        weighted.append((part @ part.T).ravel())
    grams = np.array(weighted)
    squares: Floats = (grams * np.outer(eigenvalues, eigenvalues).ravel()) @ grams.T
    return np.maximum(squares, 0.0)


def block_pairs(eigenvalues: Floats, eigenvectors: Floats, bounds: tuple[int, int]) -> tuple[Floats, Floats]:
    """Return the eigenvalues `[m]`, descending, and eigenvectors `[m, d]`, rows, of one block of one metric.

    m = min(k, d); the other eigenvalues of the block of the kept part are zero. Negative eigenvalues, which are
    round-off, count as zero.

    Args:
        eigenvalues: `[k]`.
        eigenvectors: `[k, n]`, rows.
        bounds: start and stop of the d coordinates.
    """
    start, stop = bounds
    factor = np.sqrt(np.maximum(eigenvalues, 0.0))[:, None] * eigenvectors[:, start:stop]
    _, singular, rows = np.linalg.svd(factor, full_matrices=False)
    return singular**2, rows


def random_couplings(eigenvalues: Floats, latent_dim: int, first: int, second: int) -> Floats:
    """Return the coupling of two blocks of sizes `first` and `second` if the eigenvectors were a random basis, `[N]`.

    With S1 = Σ λ and S2 = Σ λ², E[H_ii²] = (S1² + 2 S2) / (n (n + 2)) and, for i ≠ j, E[H_ij²] = (n S2 − S1²) /
    ((n − 1) n (n + 2)): moments of Haar measure. The coupling is that of the expectations of the squared norms.

    Args:
        eigenvalues: `[N, k]`; the other n − k count as zero.
        latent_dim: n.
        first: coordinates of one block.
        second: coordinates of the other block.

    Returns:
        NaN for a metric that is zero.
    """
    n, totals, squares = latent_dim, eigenvalues.sum(axis=1), np.square(eigenvalues).sum(axis=1)
    diagonal = (totals**2 + 2 * squares) / (n * (n + 2))
    other = (n * squares - totals**2) / (max(n - 1, 1) * n * (n + 2))
    norms = [size * diagonal + size * (size - 1) * other for size in (first, second)]
    scale = np.sqrt(norms[0] * norms[1])
    found: Floats = np.divide(first * second * other, scale, out=np.full_like(scale, np.nan), where=scale > 0)
    return found


def block_spectrum(values: Floats, part: Floats) -> Floats:
    """Return the leading min(k, d) eigenvalues of one block of one metric, descending; from the smaller matrix.

    Args:
        values: eigenvalues of the metric, `[k]`.
        part: the block's coordinates of its eigenvectors, `[k, d]`.

    Returns:
        `[min(k, d)]`. Negative eigenvalues, which are round-off, count as zero.
    """
    kept, size = part.shape
    if kept < size and (values >= 0).all():
        roots = np.sqrt(values)
        small = roots[:, None] * (part @ part.T) * roots
    else:
        small = part.T @ (values[:, None] * part)
    found: Floats = np.maximum(np.linalg.eigvalsh(small)[::-1][: min(kept, size)], 0.0)
    return found
