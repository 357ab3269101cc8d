"""Correlations of given pairs of metrics: C_log, C_lin and C_vec from one product of their eigenvectors.

With M = (U_i U_jᵀ)², taken entry by entry, Λ_ij = diag(U_i H_j U_iᵀ) = M λ_j and Λ_ji = Mᵀ λ_i (rows of U are
eigenvectors). So one product serves both orders of a pair. It also gives the inner product of the matrices,
tr(H_i H_j) = λ_iᵀ M λ_j = λ_i · Λ_ij, and with it C_vec, so that no n × n matrix is formed.

The products are made in float32, and everything after them in float64. Eigenvectors are stored as float32, so a cosine
is known to about 1e-7 whatever the arithmetic. One pair is one product of `[k, n]` with `[n, k]`: its squares stay in
the processor's cache, and its result does not depend on which other pairs are compared.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats, Integers
from pullback.analysis.correlations import LEAST_SPREAD, NULL_FLOOR, has_axes, log_correlation, row_correlation

Singles = npt.NDArray[np.float32]

CACHED = 512 * 2**10
"""Bytes of squared cosines that are made at once, so that they stay in the cache of a core."""

MATRIX_SPREAD = 1e-5
"""Share of Σ H² below which the variance of a matrix's entries is too near to the round-off of float32, 1e-7. Such a
matrix counts as one of equal entries."""


class Spectra:
    """The eigenvalues of all compared samples, prepared for correlations; each is divided by its largest magnitude.

    The correlations do not depend on a factor of a metric, and float32 products neither overflow nor vanish then.

    Args:
        eigenvalues: `[samples, k]`, in the order of the eigenvectors.

    Raises:
        ValueError: eigenvalues are not `[samples, k]`.
    """

    def __init__(self, eigenvalues: npt.ArrayLike) -> None:
        values = np.asarray(eigenvalues, dtype=np.float64)
        if values.ndim != 2:
            raise ValueError(f"eigenvalues are [samples, k], got {list(values.shape)}")
        largest = np.abs(values).max(axis=1, keepdims=True, initial=0.0)
        self.shares: Floats = np.divide(values, largest, out=np.zeros_like(values), where=largest > 0)
        self.singles: Singles = self.shares.astype(np.float32)
        self.axes = has_axes(values)
        self.squares: Floats = np.sum(self.shares**2, axis=1)
        self.linear = _unit(self.shares)
        self.above = (self.shares >= NULL_FLOOR).all(axis=1)
        logs = np.log10(self.shares, out=np.zeros_like(self.shares), where=self.shares >= NULL_FLOOR)
        self.logs = _unit(logs)
        # Nearly equal logarithms take the careful path of the reference.
        self.above &= logs.std(axis=1) > 2 * LEAST_SPREAD

    def __len__(self) -> int:
        return len(self.shares)


@dataclass(frozen=True, eq=False)
class PairValues:
    """The correlations of unordered pairs (i, j) of samples, both ways; NaN where one does not exist."""

    log: Floats
    """C_log `[2, pairs]`: C_log[i, j], the metric of j along the axes of i, and C_log[j, i]."""
    linear: Floats
    """C_lin `[2, pairs]`, likewise."""
    vec: Floats
    """C_vec `[pairs]`, the same both ways."""


def join(parts: Sequence[PairValues]) -> PairValues:
    """Return the values of several lists of pairs as those of one list."""
    return PairValues(
        np.concatenate([each.log for each in parts], axis=1),
        np.concatenate([each.linear for each in parts], axis=1),
        np.concatenate([each.vec for each in parts]),
    )


def compare(
    spectra: Spectra,
    pairs: Integers,
    left: Singles,
    right: Singles,
    places: tuple[Integers, Integers],
) -> PairValues:
    """Compute the correlations of pairs of samples.

    Args:
        spectra: eigenvalues of all samples.
        pairs: samples i and j of each pair, `[pairs, 2]`.
        left: eigenvectors that hold those of each i, `[samples, k, n]`, unit rows.
        right: eigenvectors that hold those of each j.
        places: where in `left` and in `right` those of each pair are, `[pairs]` each.
    """
    kept = spectra.shares.shape[1]
    forward, backward = np.empty((len(pairs), kept)), np.empty((len(pairs), kept))
    most = max(1, CACHED // (4 * kept * kept))
    cosines = np.empty((most, kept, kept), dtype=np.float32)
    for start, stop in _runs(*places, most):
        i, others = pairs[start, 0], pairs[start:stop, 1]
        first = places[1][start]
        block = cosines[: stop - start]
        np.matmul(left[places[0][start]], right[first : first + stop - start].transpose(0, 2, 1), out=block)
        np.square(block, out=block)
        forward[start:stop] = np.matmul(block, spectra.singles[others, :, None])[..., 0]
        backward[start:stop] = np.matmul(spectra.singles[i], block)
    entries = [
        _entry_sums(spectra, side, place, samples)
        for side, place, samples in zip((left, right), places, pairs.T, strict=True)
    ]
    return correlate(spectra, pairs, forward, backward, entries, left.shape[2])


def _runs(i: Integers, j: Integers, most: int) -> Iterator[tuple[int, int]]:
    """Yield start and stop of runs of pairs with one i and consecutive j, each of limited length."""
    breaks = np.flatnonzero((np.diff(i) != 0) | (np.diff(j) != 1)) + 1
    edges = [0, *breaks.tolist(), len(i)]
    for first, last in pairwise(edges):
        for start in range(first, last, most):
            yield start, min(start + most, last)


def correlate(
    spectra: Spectra, pairs: Integers, forward: Floats, backward: Floats, entries: Sequence[Floats], latent_dim: int
) -> PairValues:
    """Return the correlations of pairs, given Λ_ij and Λ_ji `[pairs, k]` in units of the largest |λ| of their metric.

    Args:
        spectra: eigenvalues of all samples.
        pairs: samples i and j of each pair, `[pairs, 2]`.
        forward: Λ_ij.
        backward: Λ_ji.
        entries: sum of all entries of the kept parts of H_i and of H_j, `[pairs]` each.
        latent_dim: n.
    """
    i, j = pairs.T
    log, linear = (
        np.stack([function(spectra, forward, j), function(spectra, backward, i)]) for function in (_log, _linear)
    )
    unknown = ~(spectra.axes[i] & spectra.axes[j])
    log[:, unknown] = linear[:, unknown] = np.nan
    inner = np.einsum("pk,pk->p", spectra.shares[i], forward)
    return PairValues(log, linear, matrix_correlation(spectra, pairs, inner, entries, latent_dim))


def matrix_correlation(
    spectra: Spectra, pairs: Integers, inner: Floats, entries: Sequence[Floats], latent_dim: int
) -> Floats:
    """Return C_vec = corr(flat H_i, flat H_j) of pairs, from sums over the n² entries of their kept parts.

    Args:
        spectra: eigenvalues of all samples.
        pairs: samples i and j of each pair, `[pairs, 2]`.
        inner: tr(H_i H_j), `[pairs]`, each metric divided as in `Spectra`.
        entries: as for `correlate`.
        latent_dim: n.

    Returns:
        `[pairs]`; NaN where a matrix has equal entries, such as zero.
    """
    means = [each / latent_dim for each in entries]
    variances = []
    for samples, mean in zip(pairs.T, means, strict=True):
        variance = spectra.squares[samples] - mean**2
        variances.append(np.where(variance > MATRIX_SPREAD * spectra.squares[samples], variance, 0.0))
    scale = np.sqrt(variances[0] * variances[1])
    vec: Floats = np.divide(inner - means[0] * means[1], scale, out=np.full(len(pairs), np.nan), where=scale > 0)
    np.clip(vec, -1, 1, out=vec)
    return vec


def singles(eigenvectors: Any) -> Singles:
    """Return eigenvectors of any source as float32 in memory, without a copy where they are that already."""
    return np.ascontiguousarray(np.asarray(eigenvectors, dtype=np.float32))


def entry_sums(spectra: Spectra, vectors: Singles, samples: Integers) -> Floats:
    """Return the sum of all entries of each metric's kept part, Σ_m λ_m (1·v_m)², `[samples]`, divided as `Spectra`."""
    sums = np.array([each.sum(axis=1, dtype=np.float64) for each in vectors])
    result: Floats = np.einsum("sk,sk->s", spectra.shares[samples], sums**2)
    return result


def _entry_sums(spectra: Spectra, vectors: Singles, places: Integers, samples: Integers) -> Floats:
    used, first, again = np.unique(places, return_index=True, return_inverse=True)
    sums = np.concatenate(
        [
            entry_sums(spectra, vectors[place : place + 1], samples[k : k + 1])
            for place, k in zip(used, first, strict=True)
        ]
    )
    result: Floats = sums[again]
    return result


def _unit(rows: Floats) -> Floats:
    """Return rows minus their means, divided by their norms; zero where all values are equal."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: Floats = np.divide(centred, norms, out=np.zeros_like(centred), where=norms > 0)
    return unit


def _linear(spectra: Spectra, cross: Floats, own: Integers) -> Floats:
    kept = cross.shape[1]
    sums, squares = cross.sum(axis=1), np.einsum("pk,pk->p", cross, cross)
    # Where the values are nearly equal, subtracting sums would leave round-off.
    close = squares - sums**2 / kept <= 1e-6 * squares
    covariance = np.einsum("pk,pk->p", cross, spectra.linear[own])
    spread = np.sqrt(np.where(close, 1.0, squares - sums**2 / kept))
    r: Floats = (covariance / spread).clip(-1, 1)
    if close.any():
        target = spectra.shares[own[close]]
        r[close] = row_correlation(cross[close], target, np.ones(target.shape, dtype=bool))
    return r


def _log(spectra: Spectra, cross: Floats, own: Integers) -> Floats:
    whole = spectra.above[own] & (cross >= NULL_FLOOR).all(axis=1)
    logs = np.log10(cross, out=np.zeros_like(cross), where=whole[:, None])
    logs -= logs.mean(axis=1, keepdims=True)
    spread = np.linalg.norm(logs, axis=1)
    whole &= spread > LEAST_SPREAD * np.sqrt(cross.shape[1])
    covariance = np.einsum("pk,pk->p", logs, spectra.logs[own])
    r: Floats = np.divide(covariance, spread, out=np.full(len(cross), np.nan), where=whole).clip(-1, 1)
    if not whole.all():
        rest = ~whole
        r[rest] = log_correlation(cross[rest], spectra.shares[own[rest]], NULL_FLOOR)
    return r
