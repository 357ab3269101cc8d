"""Affine-invariant and log-Euclidean distances between two metrics, from their eigenpairs.

For positive definite A and B:

- affine-invariant: ‖log(A^-½ B A^-½)‖ = √Σ log² μ with the generalised eigenvalues μ of (B, A) (Pennec, Fillard &
  Ayache, Int. J. Computer Vision 66, 2006). No change of coordinates of the latent space changes it.
- log-Euclidean: ‖log A − log B‖ (Arsigny, Fillard, Pennec & Ayache, SIAM J. Matrix Anal. Appl. 29, 2007). Rotations of
  the latent space do not change it.

Norms are Frobenius norms. Both distances are √n |log c| between A and c A, and equal if A and B commute. Both are least
if B has the eigenvectors of A in the same order: then they are the distance of the sorted logarithms of eigenvalues.

A metric of k kept eigenpairs is V^T diag(exp a) V + exp(α) (I − V^T V). Outside the span of both sets of eigenvectors,
of r ≤ min(2k, n) dimensions, A and B are multiples of the identity, so everything happens in r dimensions.
"""

from dataclasses import dataclass

import numpy as np

from pullback.analysis.bootstrap import Floats


@dataclass(frozen=True, eq=False)
class LogMetric:
    """A positive definite matrix: Σ exp(a_m) v_m v_mᵀ, and exp(α) times the identity on the rest.

    Attributes:
        logs: a `[k]`, logarithms of the kept eigenvalues.
        vectors: v `[k, n]`, unit rows, orthogonal.
        base: α, the logarithm of the other n − k eigenvalues; of no meaning if k = n.
    """

    logs: Floats
    vectors: Floats
    base: float

    @property
    def latent_dim(self) -> int:
        """n, the size of the matrix."""
        return int(self.vectors.shape[1])

    @property
    def spectrum(self) -> Floats:
        """Logarithms of all n eigenvalues, descending."""
        rest = np.full(self.latent_dim - len(self.logs), self.base)
        ordered: Floats = np.sort(np.concatenate([self.logs, rest]))[::-1]
        return ordered


def log_euclidean(first: LogMetric, second: LogMetric) -> float:
    """Return ‖log A − log B‖ of two matrices of one size.

    With c = a − α, log A = Σ c_m v_m v_mᵀ + α I, so ‖log A − log B‖² needs squared cosines of eigenvectors only.
    """
    one, two, shift = first.logs - first.base, second.logs - second.base, first.base - second.base
    cosines = np.square(first.vectors @ second.vectors.T)
    square = float(one @ one + two @ two - 2 * (one @ cosines @ two))
    square += 2 * shift * float(one.sum() - two.sum()) + first.latent_dim * shift**2
    return float(np.sqrt(max(square, 0.0)))


def affine_invariant(first: LogMetric, second: LogMetric) -> float:
    """Return ‖log(A^-½ B A^-½)‖ of two matrices of one size.

    A^-½ B A^-½ = S Sᵀ with S = A^-½ B^½. The logarithms of its eigenvalues are twice those of the singular values of S,
    whose ratio is the root of that of the eigenvalues, so that small ones keep their digits.
    """
    return float(affine_invariants([first], [second])[0])


def affine_invariants(firsts: list[LogMetric], seconds: list[LogMetric]) -> Floats:
    """Return the affine-invariant distances of pairs of matrices that have the same two sets of eigenvectors.

    Args:
        firsts: matrices with one set of eigenvectors and different eigenvalues, such as several regularisations.
        seconds: as many, with another set.
    """
    n, outer, inner = firsts[0].latent_dim, firsts[0].vectors, seconds[0].vectors
    if len(outer) == n and len(inner) == n:
        turn = outer @ inner.T
    else:
        # An orthonormal basis of both spans that starts with `outer`, and in it one that starts with `inner`.
        joint = np.linalg.qr(np.concatenate([outer, inner]).T)[0]
        turn = np.linalg.qr(joint.T @ inner.T, mode="complete")[0]
        turn[:, : len(inner)] = joint.T @ inner.T
        turn[: len(outer)] *= np.sign(np.einsum("nk,kn->k", joint[:, : len(outer)], outer))[:, None]
    rank = len(turn)
    distances = np.empty(len(firsts))
    for at, (first, second) in enumerate(zip(firsts, seconds, strict=True)):
        rows = np.concatenate([first.logs, np.full(rank - len(first.logs), first.base)])
        columns = np.concatenate([second.logs, np.full(rank - len(second.logs), second.base)])
        singular = np.linalg.svd(np.exp(-rows / 2)[:, None] * turn * np.exp(columns / 2), compute_uv=False)
        smallest = np.finfo(np.float64).tiny
        square = 4 * float(np.sum(np.log(np.maximum(singular, smallest)) ** 2))
        square += (n - rank) * (second.base - first.base) ** 2 if rank < n else 0.0
        distances[at] = np.sqrt(square)
    return distances


def aligned(first: LogMetric, second: LogMetric) -> float:
    """Return both distances if the second matrix had the eigenvectors of the first one in the same order: their least
    value over all rotations (the inequalities of Lidskii and of Gelfand & Naimark; Bhatia, Matrix Analysis, 1997)."""
    return float(np.linalg.norm(first.spectrum - second.spectrum))
