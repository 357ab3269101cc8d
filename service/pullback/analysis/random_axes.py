"""The control of homogeneity: the same correlations where one of the two metrics has random axes.

A metric whose eigenvectors are a uniformly random orthonormal frame shares no direction with another except by chance.
What its correlations are is not obvious: they depend on n, on k and on the spectra, so they are computed.
"""

from dataclasses import dataclass

import numpy as np

from pullback.analysis.bootstrap import Floats, bootstrap_weights, interval
from pullback.analysis.grassmann import random_frames
from pullback.analysis.pair_kernel import PairValues, Spectra, compare, join, singles
from pullback.analysis.samples import Stack

FRAME_OPERATIONS = 2e10
"""Floating-point operations that are spent on random frames: about a second of one core."""

LEAST_FRAMES = 8
TOGETHER_BYTES = 2 * 2**20
"""Memory of the random frames, and of the eigenvectors, that are compared at once."""


@dataclass(frozen=True, eq=False)
class RandomAxes:
    """Correlations with a metric of random axes: C_log, C_lin and C_vec, in this order."""

    values: Floats
    """`[3, draws]`; of C_log and C_lin the mean of both ways. NaN where one does not exist."""
    mean: Floats
    """`[3]`."""
    ci95: Floats
    """`[2, 3]`: 95 % interval of the mean, by bootstrap over the random frames."""


def random_axes(spectra: Spectra, eigenvectors: Stack, draws: int, seed: int, resamples: int) -> RandomAxes:
    """Compute the correlations of random pairs (i, j), with random axes in place of those of i.

    Where frames are expensive (large n), several draws share one; the interval takes that into account.

    Args:
        spectra: eigenvalues of the samples.
        eigenvectors: `[samples, k, n]`, unit rows.
        draws: number of pairs.
        seed: decides frames and pairs.
        resamples: bootstrap draws of the interval.
    """
    _, kept, latent = eigenvectors.shape
    generator = np.random.default_rng([seed, 3])
    frames = min(draws, max(LEAST_FRAMES, int(FRAME_OPERATIONS / (4.0 * latent * kept * kept))))
    frame_of = np.sort(np.arange(draws) % frames)
    pairs = generator.integers(len(spectra), size=(draws, 2))
    parts: list[PairValues] = []
    together = max(1, TOGETHER_BYTES // (4 * latent * kept))
    for start in range(0, frames, together):
        axes = singles(  # no sign of an axis changes a correlation
            random_frames(min(together, frames - start), kept, latent, generator, np.float32)
        )
        here = (frame_of >= start) & (frame_of < start + together)
        few, frame = pairs[here], frame_of[here] - start
        for first in range(0, len(few), together):
            chosen = slice(first, first + together)
            samples, place = np.unique(few[chosen, 1], return_inverse=True)
            # One frame stands for one metric: its entries are those of sample i's eigenvalues along the frame.
            right = singles(eigenvectors[samples])
            parts.append(compare(spectra, few[chosen], axes, right, (frame[chosen], place)))
    found = join(parts)
    values = np.stack([_mean(found.log), _mean(found.linear), found.vec])
    defined = np.isfinite(values)
    sums, counts = np.zeros((3, frames)), np.zeros((3, frames))
    for row in range(3):
        np.add.at(sums[row], frame_of, np.where(defined[row], values[row], 0.0))
        np.add.at(counts[row], frame_of, defined[row])
    weights = bootstrap_weights(frames, resamples, seed).astype(np.float64)
    drawn, times = weights @ sums.T, weights @ counts.T
    means = np.divide(drawn, times, out=np.full(drawn.shape, np.nan), where=times > 0)
    total = counts.sum(axis=1)
    mean = np.divide(sums.sum(axis=1), total, out=np.full(3, np.nan), where=total > 0)
    return RandomAxes(values, mean, np.stack(interval(means)))


def _mean(both: Floats) -> Floats:
    result: Floats = both.mean(axis=0)
    return result
