"""Means over pairs of samples, with their errors.

Two pairs that share a sample are not independent, so intervals come from the samples: by bootstrap over them where all
pairs are compared, and by the variance for dyadic data (Aronow, Samii & Assenova, Political Analysis 23, 2015) where
pairs are sampled. The bootstrap would overstate the spread of sampled pairs, because it draws each pair with both of
its samples (Owen, Annals of Applied Statistics 1, 2007).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats, Integers, interval
from pullback.analysis.pair_sampling import deviations, sampling_error

NORMAL_95 = 1.959963984540054
"""Half-width of the 95 % interval of a normal distribution, in standard deviations."""

SORTED_PAIRS = 20_000
"""Largest number of pairs for the bootstrap of a median. Of more pairs, evenly spaced ones are taken. The interval is
hardly wider for it, because the variation between samples dominates."""

_BLOCK = 4_000_000
"""Multiplicities of pairs that are in memory at once."""

_NOWHERE = (np.nan, np.nan)


@dataclass(frozen=True)
class PairSummary:
    """Summary of a correlation over ordered pairs of different samples; NaN if no pair has one."""

    mean: float
    std: float
    median: float
    ci95: tuple[float, float]
    """95 % interval of the mean by bootstrap over samples, or from `total_error` where pairs are sampled. NaN if fewer
    than 3 samples have a defined pair: every draw then has the same mean."""
    pairs: int
    """The ordered pairs that were compared, including those without a defined correlation."""
    defined: int | None = None
    """Number of pairs that have a correlation; mean, std and median are taken over them."""
    std_ci95: tuple[float, float] = _NOWHERE
    """95 % interval of `std` by bootstrap over samples; too wide rather than too narrow where pairs are sampled."""
    median_ci95: tuple[float, float] = _NOWHERE
    """95 % interval of `median`, likewise."""
    standard_error: float = np.nan
    """Standard error of `mean` as an estimate of the mean over all pairs of these samples; 0 if all were compared."""
    total_error: float = np.nan
    """Standard error of `mean` as an estimate for other samples drawn like these."""


def summarize(matrix: npt.ArrayLike, weights: Integers) -> PairSummary:
    """Summarize a correlation matrix over ordered pairs of different samples, with a bootstrap over samples.

    Samples are resampled and not pairs, because pairs that share a sample are not independent. In a draw, the pair
    (i, j) counts as often as the product of the two multiplicities. A sample paired with itself or with its own copy
    never counts, because its correlation is 1 by construction.

    Args:
        matrix: `[samples, samples]`; NaN entries are left out.
        weights: multiplicities `[draws, samples]` of `bootstrap_weights`.

    Raises:
        ValueError: shapes do not agree.
    """
    pairs = np.array(matrix, dtype=np.float64)
    samples = len(pairs)
    if pairs.shape != (samples, samples) or weights.ndim != 2 or weights.shape[1] != samples:
        raise ValueError(
            f"a matrix [samples, samples] and weights [draws, samples] are needed, "
            f"got {list(pairs.shape)} and {list(weights.shape)}"
        )
    np.fill_diagonal(pairs, np.nan)
    defined = np.isfinite(pairs)
    values = pairs[defined]
    if values.size == 0:
        return _nothing(samples * (samples - 1))
    drawn = weights.astype(np.float64)
    known = np.where(defined, pairs, 0.0)
    counts, sums, squares = (
        np.sum((drawn @ each) * drawn, axis=1) for each in (defined.astype(np.float64), known, known**2)
    )
    means = np.divide(sums, counts, out=np.full(len(drawn), np.nan), where=counts > 0)
    spreads = np.sqrt(
        np.maximum(np.divide(squares, counts, out=np.full(len(drawn), np.nan), where=counts > 0) - means**2, 0.0)
    )
    medians = _medians(np.argwhere(defined), values, weights)
    enough = int(np.sum(defined.any(axis=0) | defined.any(axis=1))) >= 3
    ends = [_ends(each) if enough else _NOWHERE for each in (means, spreads, medians)]
    return PairSummary(
        mean=float(values.mean()),
        std=float(values.std()),
        median=float(np.median(values)),
        ci95=ends[0],
        pairs=samples * (samples - 1),
        defined=int(values.size),
        std_ci95=ends[1],
        median_ci95=ends[2],
        standard_error=0.0,
        total_error=float(np.nanstd(means)) if enough else np.nan,
    )


def summarize_sampled(pairs: Integers, values: Floats, weights: Integers) -> PairSummary:
    """Summarize a correlation over sampled pairs.

    Args:
        pairs: samples i and j of each unordered pair, `[pairs, 2]`, drawn without replacement.
        values: the correlation `[ways, pairs]`: both ways, or one row where it is the same; NaN entries are left out.
        weights: multiplicities `[draws, samples]` of `bootstrap_weights`.
    """
    samples, count = weights.shape[1], 2 * len(pairs)
    defined = np.isfinite(values)
    if not defined.any():
        return _nothing(count)
    kept, times = values[defined], 2 // len(values)
    sums = deviations(values)
    error = sampling_error(sums, samples * (samples - 1) // 2)
    total = dyadic_error(pairs, sums, samples)
    enough = len(np.unique(pairs[defined.any(axis=0)])) >= 3
    mean = float(kept.mean())
    both = np.broadcast_to(pairs, (len(values), *pairs.shape))[defined]
    drawn = [
        _drawn_moments(both, kept, few)
        for few in np.array_split(weights, min(len(weights), 1 + len(weights) * len(kept) // _BLOCK))
    ]
    spreads, medians = np.concatenate(drawn), _medians(both, kept, weights)
    return PairSummary(
        mean=mean,
        std=float(kept.std()),
        median=float(np.median(kept)),
        ci95=(max(mean - NORMAL_95 * total, -1.0), min(mean + NORMAL_95 * total, 1.0)) if enough else _NOWHERE,
        pairs=count,
        defined=int(defined.sum()) * times,
        std_ci95=_ends(spreads) if enough else _NOWHERE,
        median_ci95=_ends(medians) if enough else _NOWHERE,
        standard_error=error,
        total_error=total if enough else np.nan,
    )


def dyadic_error(pairs: Integers, sums: Floats, samples: int) -> float:
    """Return the standard error of a mean over pairs, two of which are dependent if they share a sample.

    The variance is Σ e_p e_q over all p and q with a sample in common, divided by the squared number of pairs:
    Σ_i (Σ_{p ∋ i} e_p)² − Σ_p e_p² in the numerator (Aronow, Samii & Assenova, Political Analysis 23, 2015, eq. 2).
    If chance makes this smaller than the variance of independent pairs, the latter is returned.

    Args:
        pairs: `[pairs, 2]`.
        sums: deviations of the pairs from the mean, `[pairs]`.
        samples: number of samples.
    """
    of_samples = np.zeros(samples)
    np.add.at(of_samples, pairs[:, 0], sums)
    np.add.at(of_samples, pairs[:, 1], sums)
    alone = float(np.sum(sums**2))
    return float(np.sqrt(max(float(np.sum(of_samples**2)) - alone, alone)) / len(sums))


def _nothing(pairs: int) -> PairSummary:
    return PairSummary(np.nan, np.nan, np.nan, _NOWHERE, pairs, 0)


def _ends(drawn: Floats) -> tuple[float, float]:
    low, high = interval(drawn)
    return float(low), float(high)


def _drawn_moments(pairs: Integers, values: Floats, weights: Integers) -> Floats:
    """Return the standard deviation of the values in each draw, `[draws]`."""
    times = weights[:, pairs[:, 0]].astype(np.float64) * weights[:, pairs[:, 1]]
    counts = times.sum(axis=1)
    means, squares = (
        np.divide(times @ each, counts, out=np.full(len(times), np.nan), where=counts > 0)
        for each in (values, values**2)
    )
    result: Floats = np.sqrt(np.maximum(squares - means**2, 0.0))
    return result


def _medians(pairs: Integers, values: Floats, weights: Integers) -> Floats:
    """Return the median of the values in each draw, `[draws]`: the lower one of two; NaN in a draw without a pair."""
    step = -(-len(values) // SORTED_PAIRS)
    order = np.argsort(values[::step], kind="stable")
    i, j = pairs[::step][order].T
    ordered, medians = values[::step][order], np.full(len(weights), np.nan)
    for draw, row in enumerate(weights):
        reached = np.cumsum(row[i] * row[j])
        if reached[-1]:
            medians[draw] = ordered[np.searchsorted(reached, (reached[-1] + 1) // 2)]
    return medians
