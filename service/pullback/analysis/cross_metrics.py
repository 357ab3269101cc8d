"""Two metrics at one code, A and B: correlations of whole metrics and spectra, cross rates, and overlaps of axes.

All numbers follow from the eigenpairs and the cosines C = U_A U_Bᵀ between them; no n × n matrix of a metric is formed.
With S = C², taken entry by entry, the rates of change of B along A's axes are Λ = diag(U_A B U_Aᵀ) = S λ_B, and those
of A along B's axes Sᵀ λ_A. For matrices X = a I + Σ x_i u_i u_iᵀ and Y = b I + Σ y_j v_j v_jᵀ,
⟨X, Y⟩ = n a b + a Σ y + b Σ x + xᵀ S y, and the sum of the entries of X is n a + Σ x_i (1·u_i)².

Definitions as in the code of Wang & Ponce (ICLR 2021): flat correlations of H and of log H, correlations and log-log
slope of spectra, C_lin and C_log of the cross rates, |cos| of eigenvectors of equal rank. The logarithm of a metric is
that of nH / tr H + ε I: metrics of two distances have different units, and a metric may have null directions.
Overlap of leading subspaces: the mean of cos² of their principal angles, ‖U_k V_kᵀ‖² / k.

Invariants: nothing changes if both metrics are rotated alike, except the flat correlations, which depend on the basis;
a positive factor of one metric changes no number. If only leading eigenpairs are kept, the numbers are those of the
kept parts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats
from pullback.analysis.correlations import LEAST_SPREAD, NULL_FLOOR, has_axes


@dataclass(frozen=True, eq=False)
class Eigenpairs:
    """A metric by its kept eigenpairs.

    Attributes:
        values: eigenvalues `[k]`, descending.
        vectors: eigenvectors `[k, n]`, unit rows.
    """

    values: Floats
    vectors: Floats

    @cached_property
    def rank(self) -> int:
        """How many kept eigenvalues are above round-off; 0 for a metric without axes of its own."""
        if not has_axes(self.values[None])[0]:
            return 0
        return int(np.sum(self.values > NULL_FLOOR * np.abs(self.values).max()))

    def with_axes(self, vectors: Floats) -> "Eigenpairs":
        """Return the metric with the same eigenvalues and other axes."""
        return Eigenpairs(self.values, vectors)


@dataclass(frozen=True)
class Line:
    """Correlations and log-log regression of rates with eigenvalues; NaN where they do not exist."""

    linear: float
    log: float
    slope: float
    """Slope of log10 y on log10 x."""
    intercept: float
    """log10 y where log10 x is 0."""


class CrossMetrics:
    """What two metrics of one code have in common.

    Args:
        a: the first metric.
        b: the second one, of the same n.

    Raises:
        ValueError: shapes do not agree.
    """

    def __init__(self, a: Eigenpairs, b: Eigenpairs) -> None:
        if a.vectors.shape[1] != b.vectors.shape[1] or any(len(x.values) != len(x.vectors) for x in (a, b)):
            raise ValueError(f"eigenvectors [k, n] of one n are needed, got {a.vectors.shape} and {b.vectors.shape}")
        self.a, self.b = a, b
        self.latent_dim = a.vectors.shape[1]
        self.cosines: Floats = a.vectors @ b.vectors.T
        self._squares = np.square(self.cosines)
        self._ranks = min(len(a.values), len(b.values))

    def flat_correlation(self) -> float:
        """C_vec: Pearson's r of the n² entries of both metrics."""
        return self._flat((self.a.values, 0.0), (self.b.values, 0.0))[0]

    def log_metrics(self, epsilon: float) -> tuple[float, float]:
        """Return Pearson's r of the entries of log(nH / tr H + ε I), and the Frobenius norm of their difference.

        The second one is the log-Euclidean distance (Arsigny et al., SIAM J. Matrix Anal. 29, 2007) of the regularised
        metrics. Negative eigenvalues count as zero.
        """
        logs = [self._logarithms(each.values, epsilon) for each in (self.a, self.b)]
        if logs[0] is None or logs[1] is None:
            return np.nan, np.nan
        return self._flat((logs[0], np.log(epsilon)), (logs[1], np.log(epsilon)))

    def spectra(self) -> Line:
        """Compare λ_B with λ_A by rank."""
        return line(self.b.values[: self._ranks], self.a.values[: self._ranks])

    def a_under_b(self) -> Floats:
        """Return Λ: the rates of B along the leading axes of A, `[min(k_A, k_B)]`."""
        return (self._squares @ self.b.values)[: self._ranks]

    def b_under_a(self) -> Floats:
        """Return the rates of A along the leading axes of B, `[min(k_A, k_B)]`."""
        return (self.a.values @ self._squares)[: self._ranks]

    def own(self, which: str) -> Floats:
        """Return the leading eigenvalues of metric `a` or `b`, `[min(k_A, k_B)]`."""
        return (self.a if which == "a" else self.b).values[: self._ranks]

    def cross_rates(self) -> tuple[Line, Line]:
        """Compare the rates of B along A's axes with λ_B, and those of A along B's axes with λ_A (C_lin, C_log)."""
        if not (self.a.rank and self.b.rank):
            return _NO_LINE, _NO_LINE
        rates, own = (self.a_under_b(), self.b_under_a()), (self.own("b"), self.own("a"))
        forward, backward = (line(y, x, largest=float(np.abs(x).max())) for y, x in zip(rates, own, strict=True))
        return forward, backward

    def amplification(self) -> tuple[Line, Line]:
        """Compare the rates of B along A's axes with λ_A, and those of A along B's axes with λ_B.

        This is A_ij = diag(U_iᵀ H_j U_i) against the eigenvalues of H_i (Wang & Ponce's amplification between layers):
        both rates belong to the same direction, while `cross_rates` compares them by rank.
        """
        return line(self.a_under_b(), self.own("a")), line(self.b_under_a(), self.own("b"))

    def axis_cosines(self, count: int) -> Floats:
        """Return |cos| between eigenvectors of equal rank, `[count]`; NaN beyond the rank of either metric."""
        found = np.full(count, np.nan)
        known = min(count, self.a.rank, self.b.rank)
        found[:known] = np.abs(np.diagonal(self.cosines)[:known])
        return found

    def overlaps(self, sizes: Sequence[int]) -> Floats:
        """Return the mean cos² between the leading subspaces of each size; NaN beyond the rank of either metric.

        It is 1 for equal subspaces, and k / n in the mean for random ones.
        """
        known = min(self.a.rank, self.b.rank)
        return np.array([self._squares[:k, :k].sum() / k if k <= known else np.nan for k in sizes])

    def _logarithms(self, values: Floats, epsilon: float) -> Floats | None:
        """Return log(n λ / tr H + ε) − log ε for each eigenvalue; None for a metric without positive trace."""
        positive = np.maximum(values, 0.0)
        trace = float(positive.sum())
        return None if trace <= 0 else np.log1p(self.latent_dim * positive / (trace * epsilon))

    def _flat(self, x: tuple[Floats, float], y: tuple[Floats, float]) -> tuple[float, float]:
        """Return the flat correlation and the Frobenius distance of X = a I + Σ x u uᵀ and Y, each given as (x, a)."""
        n = self.latent_dim
        (weights, base), (others, other_base) = x, y
        inner = (
            n * base * other_base + base * others.sum() + other_base * weights.sum() + weights @ self._squares @ others
        )
        sums = [
            n * start + each @ np.square(vectors.sum(axis=1))
            for each, start, vectors in ((weights, base, self.a.vectors), (others, other_base, self.b.vectors))
        ]
        norms = [
            n * start**2 + 2 * start * each.sum() + each @ each
            for each, start in ((weights, base), (others, other_base))
        ]
        variances = [norm - total**2 / n**2 for norm, total in zip(norms, sums, strict=True)]
        defined = all(v > LEAST_SPREAD**2 * norm for v, norm in zip(variances, norms, strict=True))
        r = (inner - sums[0] * sums[1] / n**2) / np.sqrt(variances[0] * variances[1]) if defined else np.nan
        return float(np.clip(r, -1, 1)), float(np.sqrt(max(norms[0] + norms[1] - 2 * inner, 0.0)))


def line(y: npt.ArrayLike, x: npt.ArrayLike, largest: float | None = None) -> Line:
    """Compare rates y with eigenvalues x: Pearson's r, r of the logarithms, and the log-log regression of y on x.

    Args:
        y: `[k]`.
        x: `[k]`.
        largest: the largest possible value of y; by default the largest |y|. Logarithms are taken where y and x are
            above 1e-12 of their largest values, as for C_log; smaller ones are round-off.
    """
    a, b = (np.asarray(values, dtype=np.float64) for values in (y, x))
    size_a, size_b = (float(np.abs(values).max(initial=0.0)) for values in (a, b))
    if not (size_a and size_b):
        return _NO_LINE
    limit = NULL_FLOOR * (size_a if largest is None else largest)
    mask = (a > 0) & (b > 0) & (a >= limit) & (b >= NULL_FLOOR * size_b)
    log_a, log_b = np.log10(a[mask]), np.log10(b[mask])
    log_r = pearson(log_a, log_b, scale=1.0)
    slope = intercept = np.nan
    if log_r == log_r:  # a number
        centre_a, centre_b = log_a.sum() / log_a.size, log_b.sum() / log_b.size
        centred = log_b - centre_b
        slope = centred @ (log_a - centre_a) / (centred @ centred)
        intercept = centre_a - slope * centre_b
    return Line(pearson(a, b), log_r, float(slope), float(intercept))


_NO_LINE = Line(np.nan, np.nan, np.nan, np.nan)


def pearson(x: Floats, y: Floats, scale: float | None = None) -> float:
    """Return Pearson's r; NaN with fewer than 2 values, or if one side is constant.

    Values are constant if their standard deviation is at most 1e-6 times `scale`, by default their root mean square.
    """
    count = x.size
    if count < 2:
        return np.nan
    # Dot products and sums: numpy's mean and std take several times as long for arrays of this size.
    first, second = x - x.sum() / count, y - y.sum() / count
    squares = float(first @ first), float(second @ second)
    for values, square in zip((x, y), squares, strict=True):
        size = values @ values / count if scale is None else scale**2
        if square / count <= LEAST_SPREAD**2 * size:
            return np.nan
    r = float(first @ second) / math.sqrt(squares[0] * squares[1])
    return min(1.0, max(-1.0, r))


def partners(samples: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return for each sample another one, `[samples]`, such that each is taken once; for at least 2 samples."""
    order = generator.permutation(samples)
    found = np.empty(samples, dtype=np.int64)
    found[order] = np.roll(order, 1)
    return found
