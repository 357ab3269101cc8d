"""Scores of axes without labels, each with a bootstrap interval over codes, random directions and a control.

| score | definition | best |
|---|---|---|
| percentile | share of random directions along which the mean metric gives a smaller rate vᵀH̄v | 100 |
| consistency | mean cosine of the changes r(G(z + tv)) − r(G(z)) of two codes | 1 |
| pooled consistency | the same with changes averaged over places in the image | 1 |
| straightness | D between the two ends over the length of the path, in four segments | 1 |
| quadratic | D²(t) over ½λt², with the rate λ of each sample's own metric | 1 |
| guessing | share of changes whose axis and sign the nearest centroid of the other codes finds | 1 |
| leakage | mean coupling with the other axes (`analysis.statistics.diagonality`) | 0 |
| stability | cosine with the axis of this rank in random halves of the sweep (`analysis.statistics.stability`) | 1 |

Guessing is the reconstructor accuracy of Voynov & Babenko (ICML 2020) without training: of k axes with two signs each,
chance is 1 / 2k, and the code that is guessed has no part in the centroids.
"""

from dataclasses import dataclass

import numpy as np

from pullback.analysis.bootstrap import Floats, Integers, bootstrap_weights, interval, weighted_means
from pullback.analysis.eigenbasis import eigenbasis, rates_along
from pullback.analysis.grassmann import random_frames
from pullback.analysis.samples import Samples
from pullback.analysis.scalars import spread_of
from pullback.analysis.statistics.diagonality import couplings
from pullback.analysis.statistics.random_directions import percentiles
from pullback.applications.walking.responses import Response

SCORES = (
    "percentile",
    "consistency",
    "consistency_pooled",
    "straightness",
    "quadratic",
    "guessing",
    "leakage",
    "stability",
)
"""Names of the scores, in the order of tables."""
WORDS = {
    "percentile": "percentile of change",
    "consistency": "consistency",
    "consistency_pooled": "pooled consistency",
    "straightness": "straightness",
    "quadratic": "D² / ½λt²",
    "guessing": "guessing",
    "leakage": "leakage",
    "stability": "stability",
}
_SUBSETS = 50
"""Sets of random directions among which axes are guessed, for the null of guessing."""
_NULL = 3000
"""Random directions behind a percentile, as many as the paper checks."""


@dataclass(frozen=True, eq=False)
class Score:
    """One score of every axis.

    Attributes:
        values: `[axes]`; NaN where it does not exist.
        ci95: `[2, axes]`.
        null: its 5th percentile, mean and 95th percentile along random directions `[3]`.
    """

    values: Floats
    ci95: Floats
    null: Floats

    @classmethod
    def missing(cls, axes: int) -> "Score":
        """Return a score that does not exist."""
        return cls(np.full(axes, np.nan), np.full((2, axes), np.nan), np.full(3, np.nan))


def response_scores(
    axes: Response,
    random: Response,
    rates: Floats,
    random_rates: Floats,
    steps: Floats,
    random_steps: Floats,
    draws: int,
    seed: int,
) -> dict[str, Score]:
    """Return the scores that come from walks.

    Args:
        axes: responses to the axes, stacked.
        random: responses to random directions, stacked; of any number, also zero.
        rates: vᵀH_i v `[axes, S]`.
        random_rates: the same of the random directions.
        steps: t of each axis `[axes]`.
        random_steps: t of each random direction.
        draws: bootstrap draws.
        seed: of the bootstrap.
    """
    weights = bootstrap_weights(axes.straightness.shape[1], draws, seed)
    return {
        "consistency": _consistency(axes.cosines, random.cosines, weights),
        "consistency_pooled": _consistency(axes.pooled_cosines, random.pooled_cosines, weights),
        "straightness": _means(axes.straightness, random.straightness, weights),
        "quadratic": _means(
            _quadratic(axes.ends, rates, steps), _quadratic(random.ends, random_rates, random_steps), weights
        ),
        "guessing": _guessing(axes.pooled, random.pooled, weights, seed),
    }


def metric_scores(samples: Samples, axes: Floats, draws: int, seed: int) -> dict[str, Score]:
    """Return the scores that come from stored metrics alone.

    Args:
        samples: the good samples of the sweep.
        axes: unit rows `[axes, n]`.
        draws: bootstrap draws.
        seed: of the bootstrap and the random directions.
    """
    n = samples.latent_dim
    generator = np.random.default_rng([seed, 7])
    mean = samples.mean_metric()
    values = eigenbasis(mean)[0]
    squares = np.square(generator.standard_normal((_NULL, n)))
    null = squares @ values / squares.sum(axis=1)
    own = np.einsum("ij,jk,ik->i", axes, mean, axes)
    weights = samples.bootstrap(draws, seed)
    each = rates_along(axes, samples.eigenvalues, samples.eigenvectors)
    drawn = weighted_means(weights, each) + (own - each.mean(axis=0))
    placed = np.stack([percentiles(end, null) for end in interval(drawn)])
    percentile = Score(percentiles(own, null), placed, np.array([5.0, 50.0, 95.0]))
    if len(axes) < 2:
        return {"percentile": percentile, "leakage": Score.missing(len(axes))}
    leaks = np.concatenate([_leaks(axes, samples, part) for part in _parts(len(samples))])
    spreads = [spread_of(column, weights) for column in leaks.T]
    count = min(len(axes), n)
    frames = random_frames(len(samples), count, n, generator)
    chance = np.concatenate([_leaks(frames[part], samples, part) for part in _parts(len(samples))])
    leakage = Score(
        np.array([each.mean for each in spreads]),
        np.array([each.mean_ci95 for each in spreads]).T,
        _band(np.nanmean(chance, axis=0)) if count > 1 else np.full(3, np.nan),
    )
    return {"percentile": percentile, "leakage": leakage}


def stability_score(ranks: "list[int | None]", cosines: Floats, ci95: Floats, random: float) -> Score:
    """Return the stability of the axes with a rank, from the statistic `stability`.

    Args:
        ranks: the rank of each axis from 1; None for a combination.
        cosines: mean |cosine| by rank `[ranks]`.
        ci95: its range over splits `[2, ranks]`.
        random: the mean |cosine| of two random directions.
    """
    score = Score.missing(len(ranks))
    for place, rank in enumerate(ranks):
        if rank is not None and rank <= len(cosines):
            score.values[place], score.ci95[:, place] = cosines[rank - 1], ci95[:, rank - 1]
    return Score(score.values, score.ci95, np.array([np.nan, random, np.nan]))


def _parts(samples: int) -> list[slice]:
    return [slice(start, min(start + 256, samples)) for start in range(0, samples, 256)]


def _leaks(axes: Floats, samples: Samples, part: slice) -> Floats:
    """Mean coupling of each axis with the others `[samples, axes]`."""
    coupled = couplings(axes, samples.eigenvalues[part], np.asarray(samples.eigenvectors[part]))
    others = np.where(np.eye(coupled.shape[1], dtype=bool), np.nan, coupled)
    known = np.isfinite(others)
    count = known.sum(axis=2)
    total = np.where(known, others, 0.0).sum(axis=2)
    leaks: Floats = np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0)
    return leaks


def _consistency(cosines: Floats, random: Floats, weights: Integers) -> Score:
    """Mean over pairs of different codes and both signs."""
    off = np.array([_pair_mean(each, weights[:1] * 0 + 1)[0] for each in cosines])
    drawn = np.array([_pair_mean(each, weights) for each in cosines]).T
    return Score(off, np.stack(interval(drawn)), _band([_pair_mean(each, weights[:1] * 0 + 1)[0] for each in random]))


def _pair_mean(cosines: Floats, weights: Integers) -> Floats:
    """Weighted mean of `[signs, S, S]` over pairs i ≠ j, for each row of weights `[draws, S]`."""
    both = cosines.mean(axis=0)
    both = both - np.diag(np.diag(both))
    w = weights.astype(np.float64)
    pairs = w.sum(axis=1) ** 2 - np.square(w).sum(axis=1)
    total = np.einsum("bi,ij,bj->b", w, both, w, optimize=True)
    result: Floats = np.divide(total, pairs, out=np.full(len(w), np.nan), where=pairs > 0)
    return result


def _means(values: Floats, random: Floats, weights: Integers) -> Score:
    """Mean over codes `[axes, S]`; codes without a value count for nothing."""
    spreads = [spread_of(row, weights) for row in values]
    chance = [float(np.nanmean(row)) if np.isfinite(row).any() else np.nan for row in random]
    return Score(np.array([s.mean for s in spreads]), np.array([s.mean_ci95 for s in spreads]).T, _band(chance))


def _quadratic(ends: Floats, rates: Floats, steps: Floats) -> Floats:
    """D²(t) / ½λt² `[axes, S]`, mean over both ends."""
    expected = 0.5 * rates * np.square(steps)[:, None]
    result: Floats = np.divide(ends.mean(axis=2), expected, out=np.full(expected.shape, np.nan), where=expected > 0)
    return result


def _guessing(pooled: Floats, random: Floats, weights: Integers, seed: int) -> Score:
    right = guesses(pooled)
    drawn = weighted_means(weights, right.T)
    k = len(pooled)
    null = np.full(3, np.nan)
    if len(random) >= k:
        chooser = np.random.default_rng([seed, 8])
        sets = [chooser.choice(len(random), k, replace=False) for _ in range(_SUBSETS if len(random) > k else 1)]
        null = _band([float(guesses(random[each]).mean()) for each in sets])
    return Score(right.mean(axis=1), np.stack(interval(drawn)), null)


def guesses(pooled: Floats) -> Floats:
    """Return how often each axis is guessed right at each code `[axes, S]`: 0, ½ or 1, over the two signs.

    Args:
        pooled: unit changes `[axes, S, 2, features]`.
    """
    k, codes, signs, size = pooled.shape
    changes = pooled.transpose(1, 0, 2, 3).reshape(codes, k * signs, size)
    right = np.zeros((codes, k * signs))
    total = changes.sum(axis=0)
    for place in range(codes):
        others = total - changes[place]
        lengths = np.linalg.norm(others, axis=1, keepdims=True)
        centroids = np.divide(others, lengths, out=np.zeros_like(others), where=lengths > 0)
        right[place] = np.argmax(changes[place] @ centroids.T, axis=1) == np.arange(k * signs)
    result: Floats = right.reshape(codes, k, signs).mean(axis=2).T
    return result


def _band(values: "Floats | list[float]") -> Floats:
    """5th percentile, mean and 95th percentile; NaN without values."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if not known.size:
        return np.full(3, np.nan)
    return np.array([np.percentile(known, 5), known.mean(), np.percentile(known, 95)])
