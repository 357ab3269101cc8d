"""Bootstrap over samples: the uncertainty that comes from having sampled these latent codes and not others.

Invariants: a draw is a row of multiplicities that sums to the number of samples, and every statistic of one analysis is
resampled with the same rows. The same seed gives the same rows on every machine.
"""

from collections.abc import Iterator
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pullback.spec.options import Options

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_BLOCK_BYTES = 64 * 2**20
"""Bytes of multiplicities that are in memory at once."""
BUFFER_BYTES = 256 * 2**20
"""Bytes of values that wait for a pass over the draws (`DrawnMeans`)."""
_KEPT_BYTES = 256 * 2**20
"""Bytes of multiplicities that are kept for the next pass: 1,000 draws of 268,000 samples take a byte each."""


class BootstrapOptions(Options):
    """The options of every statistic with bootstrap intervals; a base for its `Options`."""

    draws: int = Field(default=1000, ge=1, le=1_000_000)
    """Bootstrap samples behind each interval."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the bootstrap and of every other random choice."""


class PointOptions(BootstrapOptions):
    """The options of statistics that compare samples in pairs, or are too slow for all samples."""

    points: int = Field(default=1000, ge=2, le=100_000)
    """Largest number of samples that are compared in pairs, or that a Grassmannian mean takes, drawn at random. In
    pairs, twice as many take four times as long."""

    def limited(self, samples: int) -> Self:
        """Return the options with no more compared samples than there are: a larger limit changes nothing."""
        return self.model_copy(update={"points": min(self.points, samples)})


class Bootstrap:
    """Multiplicities `[draws, samples]`: how often each sample appears in each bootstrap draw.

    Multiplicities are multinomial with equal shares, and each row sums to `samples`. All of them at once take 8 GB for
    a million samples and 1,000 draws. They are therefore drawn again for each pass (0.06 s a draw of a million
    samples), except where they are few enough to be kept.

    Args:
        samples: number of samples, at least 1.
        draws: number of bootstrap draws, at least 1.
        seed: seed of numpy's default bit generator, not negative.

    Raises:
        ValueError: `samples` or `draws` is less than 1.
    """

    def __init__(self, samples: int, draws: int, seed: int) -> None:
        if samples < 1 or draws < 1:
            raise ValueError(f"a bootstrap needs at least 1 sample and 1 draw, got {samples} and {draws}")
        self.shape = (draws, samples)
        self._seed = seed
        self._kept: list[npt.NDArray[np.unsignedinteger]] = []

    def blocks(self) -> Iterator[Integers]:
        """Yield the rows in order, a few at a time so that they fit the working memory."""
        if self._kept:
            for few in self._kept:
                yield few.astype(np.int64)
            return
        draws, samples = self.shape
        generator, shares = np.random.default_rng(self._seed), np.full(samples, 1 / samples)
        rows = max(1, _BLOCK_BYTES // (8 * samples))
        kept: list[npt.NDArray[np.unsignedinteger]] = []
        for first in range(0, draws, rows):
            block: Integers = generator.multinomial(samples, shares, size=min(rows, draws - first))
            if draws * samples <= _KEPT_BYTES:
                kept.append(block.astype(np.min_scalar_type(block.max())))
            yield block
        self._kept = kept


def bootstrap_weights(samples: int, draws: int, seed: int) -> Integers:
    """Return all multiplicities of a `Bootstrap`, `[draws, samples]`; arguments and errors are the same."""
    return np.concatenate(list(Bootstrap(samples, draws, seed).blocks()))


def weighted_means(weights: Integers | Bootstrap, values: npt.ArrayLike) -> Floats:
    """Return the mean of `values` over each bootstrap draw.

    Args:
        weights: multiplicities `[draws, samples]`, or a `Bootstrap`.
        values: one row for each sample, `[samples, ...]`.

    Returns:
        Means `[draws, ...]`.
    """
    array = np.asarray(values, dtype=np.float64)
    flat = array.reshape(len(array), -1)
    blocks = weights.blocks() if isinstance(weights, Bootstrap) else (weights,)
    sums = np.concatenate([np.asarray(block, dtype=np.float64) @ flat for block in blocks])
    sums /= weights.shape[1]
    return sums.reshape(len(sums), *array.shape[1:])


class DrawnMeans:
    """Means over all samples and over each bootstrap draw of values that come a few samples at a time.

    Values wait in a buffer of at most `BUFFER_BYTES`, whatever the number of samples. Each full buffer takes a pass
    over the draws, and a large buffer saves passes: a `Bootstrap` may draw its multiplicities again for each.

    Args:
        weights: multiplicities `[draws, samples]`, or a `Bootstrap`.
        columns: values of each sample.
    """

    def __init__(self, weights: Integers | Bootstrap, columns: int) -> None:
        draws, samples = weights.shape
        self._weights = weights
        self._buffer = np.empty((max(1, min(samples, BUFFER_BYTES // (8 * max(columns, 1)))), columns))
        self._waiting = self._done = 0
        self._total, self._sums = np.zeros(columns), np.zeros((draws, columns))

    def add(self, values: npt.ArrayLike) -> None:
        """Take the values of the next samples, `[any, columns]`, in the order of the weights."""
        left = np.asarray(values, dtype=np.float64)
        while len(left):
            room = len(self._buffer) - self._waiting
            few, left = left[:room], left[room:]
            self._buffer[self._waiting : self._waiting + len(few)] = few
            self._waiting += len(few)
            if self._waiting == len(self._buffer):
                self._flush()

    def means(self) -> tuple[Floats, Floats]:
        """Return the means over all samples `[columns]` and over each draw `[draws, columns]`.

        Raises:
            ValueError: values of some samples are missing.
        """
        self._flush()
        samples = self._weights.shape[1]
        if self._done != samples:
            raise ValueError(f"the values of {self._done} of {samples} samples are known")
        return self._total / samples, self._sums / samples

    def _flush(self) -> None:
        part, row = self._buffer[: self._waiting], 0
        chosen = slice(self._done, self._done + self._waiting)
        if not len(part):
            return
        blocks = self._weights.blocks() if isinstance(self._weights, Bootstrap) else (self._weights,)
        for block in blocks:
            self._sums[row : row + len(block)] += block[:, chosen].astype(np.float64) @ part
            row += len(block)
        self._total += part.sum(axis=0)
        self._done += self._waiting
        self._waiting = 0


def interval(values: npt.ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the percentile interval of the values of bootstrap draws, which lie along the first axis.

    A draw in which a statistic does not exist is NaN, such as one that holds a single sample and hence no pair. Such
    draws are left out; an interval without any draw is NaN.

    Args:
        values: `[draws, ...]`.
        level: coverage, in (0, 1).

    Returns:
        Lower and upper end, each `[...]`. The ends of whole numbers are drawn values, and hence whole.

    Raises:
        ValueError: the level is not inside (0, 1), or there is no draw.
    """
    array = np.asarray(values)
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies in (0, 1), got {level}")
    if array.ndim == 0 or array.shape[0] == 0:
        raise ValueError("an interval needs at least 1 draw")
    tail = (1 - level) / 2
    whole = np.issubdtype(array.dtype, np.integer)
    ends = np.full((2, *array.shape[1:]), np.nan)
    flat, flat_ends = array.reshape(len(array), -1), ends.reshape(2, -1)
    complete = np.isfinite(flat).all(axis=0)
    flat_ends[:, complete] = np.quantile(
        flat[:, complete], [tail, 1 - tail], axis=0, method="inverted_cdf" if whole else "linear"
    )
    for column in np.flatnonzero(~complete):
        drawn = flat[np.isfinite(flat[:, column]), column]
        if drawn.size:
            flat_ends[:, column] = np.quantile(drawn, [tail, 1 - tail])
    return ends[0], ends[1]


def centred_interval(value: Floats, drawn: Floats) -> Floats:
    """Return the value ± 1.96 standard deviations of its bootstrap draws.

    It serves numbers that are lower in each draw because a draw repeats samples, such as overlaps of means: percentiles
    of the draws would lie below the value.

    Args:
        value: `[...]`.
        drawn: `[draws, ...]`; a draw without the number is NaN, and is left out.

    Returns:
        Lower and upper end, `[2, ...]`; NaN with fewer than 2 draws.
    """
    known = np.isfinite(drawn)
    count = known.sum(axis=0)
    mean = np.where(known, drawn, 0.0).sum(axis=0) / np.maximum(count, 1)
    squares = np.where(known, (drawn - mean) ** 2, 0.0).sum(axis=0)
    deviation = np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), np.nan)
    return np.stack([value - 1.96 * deviation, value + 1.96 * deviation])
