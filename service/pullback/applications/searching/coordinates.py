"""Linear coordinates for a search: x = y S, the rows of S being the axes of a metric scaled by Λ^−p.

With H̄ = U Λ Uᵀ the coordinates are y with x = Σ_i y_i s_i u_i and s_i ∝ λ_i^−p, cut to the k leading axes (Wang &
Ponce, ICLR 2021: p = 1/4 and k = 500 of 4096 for FC6, p = 1/2.5 for BigGAN). p = ½ makes equal steps of y change the
image equally; p = 0 only rotates and cuts; p < 0 makes steps longer along the axes that change the image most.

The s_i are scaled so that y ~ N(0, I) gives E‖x‖² = n, whatever p and k are: then a standard deviation means the same
length in every coordinate system, and searchers with and without a metric can be compared.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_FLOOR = 1e-7
"""Eigenvalues below this share of the largest one count as this share: they are round-off, and λ^−p would explode."""


@dataclass(frozen=True)
class Metric:
    """Eigenvalues [m], descending, and axes [m, n] in rows."""

    eigenvalues: Floats
    axes: Floats

    @classmethod
    def of_matrix(cls, matrix: Floats) -> "Metric":
        """Decompose H̄ [n, n]. Equal eigenvalues keep the order of numpy's eigh, so the identity gives itself."""
        values, columns = np.linalg.eigh(matrix)
        order = np.argsort(-values, kind="stable")
        return cls(values[order], np.ascontiguousarray(columns.T[order]))

    def with_random_axes(self, seed: int) -> "Metric":
        """Return the control: the same eigenvalues with an orthonormal basis that is uniformly random.

        Source: Mezzadri, Notices AMS 54 (2007): QR of a Gaussian matrix, signs fixed by the diagonal of R.
        """
        m, n = self.axes.shape
        drawn = np.random.default_rng(seed).standard_normal((n, m))
        basis, upper = np.linalg.qr(drawn)
        return Metric(self.eigenvalues, np.ascontiguousarray((basis * np.sign(np.diag(upper))).T))


@dataclass(frozen=True)
class Coordinates:
    """A linear map x = y S.

    Attributes:
        n: size of x.
        rows: S [k, n], with orthogonal rows; None for the identity.
    """

    n: int
    rows: Floats | None = None

    @property
    def k(self) -> int:
        """Size of y."""
        return self.n if self.rows is None else len(self.rows)

    def x(self, y: Floats) -> Floats:
        """Return x [population, n] of y [population, k]."""
        return y if self.rows is None else y @ self.rows

    def y(self, x: Floats) -> Floats:
        """Return y [population, k] of x [population, n]: the least-squares solution, exact for x in the span of S."""
        if self.rows is None:
            return x
        return np.asarray((x @ self.rows.T) / np.sum(self.rows**2, axis=1))


def metric_coordinates(metric: Metric, exponent: float, cut: int | None = None) -> Coordinates:
    """Return the coordinates U Λ^−p of a metric, cut to its leading axes.

    Args:
        metric: eigenvalues and axes.
        exponent: p.
        cut: k, the number of leading axes; by default all.
    """
    n = metric.axes.shape[1]
    k = min(len(metric.axes), n if cut is None else cut)
    values = metric.eigenvalues[:k]
    largest = float(values[0]) if k and values[0] > 0 else 1.0
    steps = np.maximum(values / largest, _FLOOR) ** -exponent
    steps *= np.sqrt(n / np.sum(steps**2))
    return Coordinates(n, steps[:, None] * metric.axes[:k])


def dimension(eigenvalues: Floats, share: float) -> int:
    """Return how many leading eigenvalues are needed to reach a share of the trace, at least 1."""
    positive = np.maximum(eigenvalues, 0)
    total = positive.sum()
    return 1 if total == 0 else int(np.searchsorted(np.cumsum(positive) / total, share) + 1)
