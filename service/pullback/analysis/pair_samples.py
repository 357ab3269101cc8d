"""Pairs of samples: random ones and nearest neighbours, and means over pairs with a bootstrap over samples.

A bootstrap draws samples and not pairs, because pairs that share a sample are not independent: a pair counts as often
as the product of the multiplicities of its samples.
"""

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats, Integers, interval

_ROWS = 256
"""Codes whose distances to all others are in memory at once."""


def random_pairs(samples: int, most: int, seed: int) -> Integers:
    """Return at most `most` unordered pairs of different samples `[pairs, 2]`, drawn without replacement.

    Raises:
        ValueError: there are fewer than 2 samples, or no pair is asked for.
    """
    if samples < 2 or most < 1:
        raise ValueError(f"at least 2 samples and 1 pair are needed, got {samples} and {most}")
    total = samples * (samples - 1) // 2
    if total <= most:
        first, second = np.triu_indices(samples, 1)
    else:
        numbers = np.sort(np.random.default_rng(seed).choice(total, most, replace=False))
        # Pair number p of the rows (1, 0), (2, 0), (2, 1), (3, 0), ...
        second = np.floor((1 + np.sqrt(1 + 8.0 * numbers)) / 2).astype(np.int64)
        second -= second * (second - 1) // 2 > numbers
        second += (second + 1) * second // 2 <= numbers
        first = numbers - second * (second - 1) // 2
    return np.stack([first, second], axis=1).astype(np.int64)


def nearest_pairs(codes: npt.ArrayLike) -> Integers:
    """Return each code with its nearest other code as unordered pairs `[pairs, 2]`; a mutual pair is listed once.

    Args:
        codes: `[samples, n]`, at least 2.
    """
    points = np.asarray(codes, dtype=np.float64)
    squares = np.sum(points**2, axis=1)
    nearest = np.empty(len(points), dtype=np.int64)
    for start in range(0, len(points), _ROWS):
        part = slice(start, min(start + _ROWS, len(points)))
        apart = squares - 2 * points[part] @ points.T  # the own square is the same for a whole row
        apart[np.arange(part.stop - start), np.arange(start, part.stop)] = np.inf
        nearest[part] = np.argmin(apart, axis=1)
    pairs = np.sort(np.stack([np.arange(len(points)), nearest], axis=1), axis=1)
    unique: Integers = np.unique(pairs, axis=0)
    return unique


def pair_mean(pairs: Integers, values: npt.ArrayLike, weights: Integers) -> tuple[Floats, Floats]:
    """Return the mean over pairs, and its value in each bootstrap draw of the samples.

    Args:
        pairs: positions of samples, `[pairs, 2]`.
        values: `[pairs, ...]`; NaN entries are left out.
        weights: multiplicities `[draws, samples]`.

    Returns:
        The mean `[...]`, and `[draws, ...]`; NaN where no pair has a value.
    """
    array = np.asarray(values, dtype=np.float64)
    flat = array.reshape(len(array), -1)
    known = np.isfinite(flat)
    filled = np.where(known, flat, 0.0)
    counted = (weights[:, pairs[:, 0]] * weights[:, pairs[:, 1]]).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = filled.sum(axis=0) / known.sum(axis=0)
        drawn = (counted @ filled) / (counted @ known)
    return mean.reshape(array.shape[1:]), drawn.reshape(len(drawn), *array.shape[1:])


def pair_interval(pairs: Integers, values: npt.ArrayLike, drawn: Floats) -> Floats:
    """Return the 95 % percentile interval of a mean over pairs `[2, ...]`.

    NaN where fewer than 3 samples have a pair: every draw then has the same mean, or none.

    Args:
        pairs: positions of samples, `[pairs, 2]`.
        values: `[pairs, ...]`.
        drawn: from `pair_mean`, `[draws, ...]`.
    """
    array = np.asarray(values, dtype=np.float64)
    flat = array.reshape(len(array), -1)
    ends = np.stack(interval(drawn)).reshape(2, -1)
    for column in range(flat.shape[1]):
        if np.unique(pairs[np.isfinite(flat[:, column])]).size < 3:
            ends[:, column] = np.nan
    return ends.reshape(2, *array.shape[1:])
