"""Bootstrap over points: the uncertainty that comes from having sampled these latent codes and not others.

Invariants: a draw is a row of multiplicities that sums to the number of points, so that every statistic of
one analysis is resampled with the same rows; the same seed gives the same rows on every machine.
Leaves to others: what is averaged with the multiplicities (each statistic weighs its own points).
"""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


def bootstrap_weights(points: int, draws: int, seed: int) -> Integers:
    """Draw how often each point appears in each bootstrap sample.

    Args:
        points: number of points, at least 1.
        draws: number of bootstrap samples, at least 1.
        seed: seed of numpy's default bit generator, not negative.

    Returns:
        Multiplicities `[draws, points]`, multinomial with equal shares; each row sums to `points`.

    Raises:
        ValueError: no points or no draws are asked for.
    """
    if points < 1 or draws < 1:
        raise ValueError(f"a bootstrap needs at least 1 point and 1 draw, got {points} and {draws}")
    generator = np.random.default_rng(seed)
    return generator.multinomial(points, np.full(points, 1 / points), size=draws)


def weighted_means(weights: npt.ArrayLike, values: npt.ArrayLike) -> Floats:
    """Return the mean of `values` over each bootstrap sample.

    Args:
        weights: multiplicities `[draws, points]`.
        values: one row a point, `[points, ...]`.

    Returns:
        Means `[draws, ...]`.
    """
    multiplicities = np.asarray(weights, dtype=np.float64)
    sums: Floats = np.tensordot(multiplicities, np.asarray(values, dtype=np.float64), 1)
    sums /= multiplicities.shape[1]
    return sums


def interval(values: npt.ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Return the percentile interval of bootstrap values, draw by draw along the first axis.

    A draw for which a statistic does not exist is NaN (one point drawn every time has no pairs); such draws
    are left out, and an interval without a single draw is NaN.

    Args:
        values: `[draws, ...]`.
        level: coverage, in (0, 1).

    Returns:
        Lower and upper end, each `[...]`. Whole numbers keep ends that were drawn, and hence whole.

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
