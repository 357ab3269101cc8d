"""How directions lie to the axes of a metric: overlap of subspaces, image change, angles to single axes, and controls.

For unit directions v_i and the eigenpairs (λ_j, u_j) of H̄ by descending eigenvalue, with c_ij = |v_i · u_j|:

- overlap(k): the mean cos² of the principal angles between the span of the first k directions and the span of the
  first k axes, ‖Qₖ Uₖᵀ‖² / r with an orthonormal basis Qₖ of the r-dimensional span. A random subspace has k / n.
- captured(k): the mean over directions of Σ_{j ≤ k} c_ij². Random directions have k / n.
- rate: v_iᵀ H̄ v_i = Σ_j λ_j c_ij², and its percentile among directions that are uniform on the sphere; their rate has
  a mean and a variance in closed form (`analysis.spectra.random_direction_rate`).
- cosine of the same rank c_ii, and of the best match max_j c_ij.

The control is a shuffled H̄: the same eigenvalues with an orthogonal basis that is uniformly distributed. Only the
directions' Gram matrix enters it, so dependent directions are treated as they are.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Bootstrap
from pullback.analysis.samples import Samples

Floats = npt.NDArray[np.float64]

_DEPENDENT = 1e-6
"""Length of the part of a unit direction outside the span of earlier ones, up to which it adds no dimension."""
_NULL_ENTRIES = 2**25
"""Entries of the random directions that are in memory: 128 MiB in single precision."""
_DRAW_BYTES = 256 * 2**20
"""Bytes of the metrics of bootstrap draws that are summed in one pass over the samples."""
_EIGEN_WORK = 1e10
"""Cubes of n over all draws: 200 draws at n = 368 take half a minute on one core."""
_FEWEST_DRAWS = 20
"""Fewer draws give no interval."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """Measures of m directions against n axes."""

    overlap: Floats
    """`[min(m, n)]`, overlap(k) for k = 1, 2, ..."""
    captured: Floats
    """`[n]`, captured(k) for k = 1, 2, ..."""
    rate: Floats
    """`[m]`, squared image distance per squared latent length."""
    percentile: Floats
    """`[m]`, 0 to 100."""
    same: Floats
    """`[m]`, cosine with the axis of the same rank; NaN beyond n."""
    best: Floats
    """`[m]`, largest cosine with any axis."""


class Span:
    """The nested spans of unit directions `[m, n]`: an orthonormal basis, and the directions in its coordinates."""

    def __init__(self, vectors: Floats) -> None:
        basis: list[Floats] = []
        ranks = []
        for vector in vectors:
            rest = vector
            for _ in range(2):  # once more, because the first pass leaves round-off
                rest = rest - sum((each * (each @ rest) for each in basis), np.zeros_like(rest))
            length = float(np.linalg.norm(rest))
            if length > _DEPENDENT:
                basis.append(rest / length)
            ranks.append(len(basis))
        self.basis: Floats = np.array(basis)
        """`[r, n]`, orthonormal rows; the first `ranks[k]` span the first k + 1 directions."""
        self.ranks = np.array(ranks)
        self.coordinates: Floats = vectors @ self.basis.T
        """`[m, r]`: vectors = coordinates · basis."""


class RandomRates:
    """Rates vᵀHv of random directions, for any spectrum.

    Args:
        latent_dim: n.
        count: number of directions; fewer if n is large.
        seed: seed of the draws.
    """

    def __init__(self, latent_dim: int, count: int, seed: int) -> None:
        count = max(1, min(count, _NULL_ENTRIES // latent_dim))
        stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
        squares = np.square(stream.standard_normal((count, latent_dim), dtype=np.float32))
        self._shares = squares / squares.sum(axis=1, keepdims=True)

    def __len__(self) -> int:
        return len(self._shares)

    def sorted(self, eigenvalues: Floats) -> Floats:
        """Return the rates under a spectrum, ascending."""
        rates: Floats = (self._shares @ eigenvalues.astype(np.float32)).astype(np.float64)
        return np.sort(rates)


def alignment(span: Span, images: Floats, eigenvalues: Floats, null: Floats) -> Alignment:
    """Measure directions against axes.

    Args:
        span: the directions.
        images: `[r, n]`, cosines of the span's basis with the axes.
        eigenvalues: `[n]`, descending.
        null: ascending rates of random directions under these eigenvalues.
    """
    cosines = np.square(span.coordinates @ images)  # [m, n]
    m, n = cosines.shape
    kept = min(m, n)
    ranks = span.ranks[:kept]
    sums = np.square(images).cumsum(axis=0).cumsum(axis=1)
    k = np.arange(kept)
    rate = cosines @ eigenvalues
    same = np.full(m, np.nan)
    same[:kept] = np.sqrt(cosines[k, k])
    return Alignment(
        overlap=sums[ranks - 1, k] / ranks,
        captured=cosines.mean(axis=0).cumsum(),
        rate=rate,
        percentile=100 * np.searchsorted(null, rate) / len(null),
        same=same,
        best=np.sqrt(cosines.max(axis=1)),
    )


def against_shuffled(span: Span, eigenvalues: Floats, null: Floats, repeats: int, seed: int) -> Alignment:
    """Measure directions against the eigenvalues with random orthogonal bases; arrays get a leading axis `[repeats]`.

    The coordinates of the span's basis in a uniformly distributed orthogonal basis are a uniformly distributed frame.
    """
    r, n = span.basis.shape
    stream = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(3,)))
    found = []
    for _ in range(repeats):
        frame = np.linalg.qr(stream.standard_normal((n, r)))[0].T
        found.append(alignment(span, frame, eigenvalues, null))
    return stacked(found)


def stacked(found: list[Alignment]) -> Alignment:
    """Return alignments as one, whose arrays have a leading axis."""
    return Alignment(**{each.name: np.stack([getattr(one, each.name) for one in found]) for each in fields(Alignment)})


def draws_for(latent_dim: int, draws: int) -> int:
    """Return how many bootstrap metrics are decomposed: fewer if n is large, and 0 if too few would be left."""
    affordable = min(draws, int(_EIGEN_WORK / latent_dim**3))
    return affordable if affordable >= min(_FEWEST_DRAWS, draws) else 0


def drawn_metrics(samples: Samples, mean: Floats, draws: int, seed: int) -> Iterator[Floats]:
    """Yield the mean metric `[n, n]` of each bootstrap draw over samples.

    If fewer than n eigenpairs are kept, the part of the mean that they do not make stays as it is, because its spread
    over samples is not known.
    """
    n, count = len(mean), len(samples)
    weights = np.concatenate(list(Bootstrap(count, draws, seed).blocks())).astype(np.float64)
    at_once = max(1, _DRAW_BYTES // (8 * n * n))
    for first in range(0, draws, at_once):
        block = weights[first : first + at_once] - 1  # the mean itself has weights of 1
        sums = np.zeros((len(block), n * n))
        step = max(1, _DRAW_BYTES // (8 * n * n))
        for start in range(0, count, step):
            rows = np.asarray(samples.eigenvectors[start : start + step], dtype=np.float64)
            metrics = np.matmul(rows.transpose(0, 2, 1), samples.eigenvalues[start : start + step, :, None] * rows)
            sums += block[:, start : start + step] @ metrics.reshape(len(rows), -1)
        for each in sums:
            yield mean + each.reshape(n, n) / count
