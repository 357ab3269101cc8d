"""Random pairs of samples, as many as a standard error needs.

Pairs are drawn without replacement, each unordered pair with the same probability, and both orders of it are compared.
The mean over them then estimates the mean over all pairs without bias, whether or not pairs share samples, with a
standard error that falls as 1/√pairs.
"""

from collections.abc import Callable

import numpy as np

from pullback.analysis.bootstrap import Floats, Integers
from pullback.analysis.pair_kernel import PairValues, Spectra, compare, join, singles
from pullback.analysis.pair_matrix import TILE_BYTES
from pullback.analysis.samples import Stack

LEAST_PAIRS = 256
"""Pairs before the first look at the standard error: fewer are too few to estimate the spread."""

MOST_LISTED = 4_000_000
"""Number of pairs up to which all are listed and shuffled; of more, pairs are drawn until enough are different."""


class PairStream:
    """Different unordered pairs i < j of N samples in random order; the same seed gives the same order.

    Args:
        samples: N, at least 2.
        seed: seed of numpy's default bit generator.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.total = samples * (samples - 1) // 2
        self._samples = samples
        self._generator = np.random.default_rng([seed, 2])
        self._listed = self._generator.permutation(self.total) if self.total <= MOST_LISTED else None
        self._seen: set[int] = set()
        self.drawn = 0

    def take(self, count: int) -> Integers:
        """Return the next pairs, at most `count`, `[pairs, 2]`, sorted."""
        count = min(count, self.total - self.drawn)
        if self._listed is not None:
            i, j = np.triu_indices(self._samples, 1)
            chosen = self._listed[self.drawn : self.drawn + count]
            pairs = np.column_stack([i[chosen], j[chosen]])
        else:
            fresh: list[int] = []
            while len(fresh) < count:
                i = self._generator.integers(self._samples, size=count)
                j = self._generator.integers(self._samples - 1, size=count)
                j += j >= i
                for key in (np.minimum(i, j) * self._samples + np.maximum(i, j)).tolist():
                    if len(fresh) < count and key not in self._seen:
                        self._seen.add(key)
                        fresh.append(key)
            pairs = np.column_stack(np.divmod(np.array(fresh, dtype=np.int64), self._samples))
        self.drawn += count
        result: Integers = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        return result


def compare_sampled(
    spectra: Spectra,
    eigenvectors: Stack,
    *,
    seed: int,
    pairs: int | None = None,
    standard_error: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Integers, PairValues]:
    """Compare random pairs of samples.

    Args:
        spectra: eigenvalues of the samples.
        eigenvectors: `[samples, k, n]`, unit rows; in memory, or read for some pairs at a time.
        seed: decides the pairs and their order.
        pairs: number of unordered pairs; all if there are fewer. None takes as many as the standard error needs.
        standard_error: with `pairs` None, the sampling ends when the standard error of each mean is at most this, or
            when all pairs are compared.
        progress: called with ordered pairs done and the number that is expected to be needed.

    Returns:
        The pairs `[pairs, 2]` and their correlations.
    """
    stream = PairStream(len(spectra), seed)
    size = max(1, TILE_BYTES // (8 * eigenvectors.shape[1] * eigenvectors.shape[2]))
    wanted = stream.total if pairs is None else min(pairs, stream.total)
    goal = min(wanted, LEAST_PAIRS) if pairs is None else wanted
    taken: list[Integers] = []
    values: list[PairValues] = []
    while stream.drawn < goal:
        few = stream.take(min(max(LEAST_PAIRS, size), goal - stream.drawn))
        for start in range(0, len(few), size):
            part = few[start : start + size]
            values.append(_compare(spectra, eigenvectors, part))
            taken.append(part)
        if pairs is None and stream.drawn >= goal:
            goal = min(wanted, max(goal, _needed(join(values), standard_error, stream.total)))
        if progress is not None:
            progress(2 * stream.drawn, 2 * goal)
    return np.concatenate(taken), join(values)


def sampling_error(sums: Floats, total: int) -> float:
    """Return the standard error of a mean over pairs that are drawn without replacement from `total` pairs.

    Source: Cochran, Sampling Techniques (1977), 2.6 and, for the different numbers of values in a pair, 2.11.

    Args:
        sums: of each drawn pair, the sum of its values' deviations from the mean, divided by the mean number of
            values in a pair, `[pairs]`.
        total: number of all pairs.
    """
    count = len(sums)
    if count < 2:
        return 0.0 if count == total else np.nan
    return float(np.sqrt((1 - count / total) * np.sum(sums**2) / (count - 1) / count))


def deviations(values: Floats) -> Floats:
    """Return the `sums` of `sampling_error` for values `[ways, pairs]`, NaN where one does not exist."""
    defined = np.isfinite(values)
    if not defined.any():
        return np.zeros(values.shape[1])
    mean, count = float(values[defined].mean()), defined.sum() / values.shape[1]
    result: Floats = np.where(defined, values - mean, 0.0).sum(axis=0) / count
    return result


def _needed(found: PairValues, standard_error: float, total: int) -> int:
    """Return the number of pairs that give every mean the standard error, with a margin of 5 %."""
    most = 0.0
    for values in (found.log, found.linear, found.vec[None]):
        sums = deviations(values)
        error = sampling_error(sums, total)
        if error <= standard_error:
            continue
        variance = float(np.sum(sums**2) / max(len(sums) - 1, 1))
        wanted = variance / max(standard_error, 1e-12) ** 2
        most = max(most, 1.05 * wanted / (1 + wanted / total) + 1)
    return int(min(most, total))


def _compare(spectra: Spectra, eigenvectors: Stack, pairs: Integers) -> PairValues:
    if isinstance(eigenvectors, np.ndarray) and eigenvectors.dtype == np.float32:
        return compare(spectra, pairs, eigenvectors, eigenvectors, (pairs[:, 0], pairs[:, 1]))
    used, places = np.unique(pairs, return_inverse=True)
    vectors = singles(eigenvectors[used])
    i, j = places.reshape(pairs.shape).T
    return compare(spectra, pairs, vectors, vectors, (i, j))
