"""Dimensions, traces and homogeneity of several sweeps, with their differences.

They need no common codes. Where the sweeps have the same codes, each bootstrap draw takes the same samples from all of
them, and tests are paired; otherwise draws are independent, and tests are of two independent sets of samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Bootstrap, Floats, Integers, bootstrap_weights, interval, weighted_means
from pullback.analysis.pair_kernel import Spectra
from pullback.analysis.pair_matrix import matrices
from pullback.analysis.protocol import Progress
from pullback.analysis.samples import Samples
from pullback.analysis.spectra import SHARES, ranks_below
from pullback.analysis.statistics.anisotropy import anisotropy

MEAN_DIMS = tuple(f"dim_{share:g}" for share in SHARES)
"""dim(q) of the mean spectrum, the rule of Wang & Ponce."""
SAMPLE_DIMS = tuple(f"sample_dim_{share:g}" for share in SHARES)
"""Means over samples of dim(q) of each sample's spectrum."""
TESTED = (*SAMPLE_DIMS, "log_trace")
"""The numbers that each sample has, so that a test compares them."""
QUANTITIES = (*MEAN_DIMS, *TESTED, "c_log", "c_lin", "c_vec")

SAME = 1e-12
"""Differences up to this share of the larger number are round-off. Tests count them as zero."""


@dataclass(frozen=True, eq=False)
class SideBySide:
    """Numbers of sweeps, `QUANTITIES` of each, and their differences from the first sweep.

    Attributes:
        values: `[sweeps, quantities]`; NaN where the kept eigenpairs do not decide a number.
        ci95: 95 % bootstrap intervals `[2, sweeps, quantities]`.
        differences: of each other sweep minus the first, `[sweeps − 1, quantities]`.
        differences_ci95: `[2, sweeps − 1, quantities]`.
        p: probability of a difference at least as large if there were none, `[sweeps − 1, quantities]`, corrected by
            Holm's method for all of them; NaN for the numbers that are not `TESTED`.
        tested: how many samples the test is based on, `[sweeps − 1, quantities]`; of two independent sets, of both.
        paired: whether the samples of all sweeps are the same codes.
    """

    values: Floats
    ci95: Floats
    differences: Floats
    differences_ci95: Floats
    p: Floats
    tested: Integers
    paired: bool


def side_by_side(
    sweeps: Sequence[Samples],
    positions: Sequence[Integers],
    *,
    paired: bool,
    draws: int,
    seed: int,
    compared: int,
    progress: Progress = lambda done, total: None,
) -> SideBySide:
    """Compute the numbers of each sweep and their differences from the first.

    Args:
        sweeps: at least one.
        positions: which samples of each sweep count.
        paired: whether the i-th positions of all sweeps are the same code.
        draws: bootstrap draws.
        seed: of the bootstrap and of the choice of samples for the homogeneity.
        compared: largest number of samples of each sweep whose pairs are compared for the homogeneity.
        progress: called after each sweep.
    """
    columns, drawn, per_sample = [], [], []
    for index, (samples, chosen) in enumerate(zip(sweeps, positions, strict=True)):
        own_seed = seed if paired else seed + index
        found = _numbers(samples, chosen, draws, own_seed, compared)
        columns.append(found[0])
        drawn.append(found[1])
        per_sample.append(found[2])
        progress(index + 1, len(sweeps))
    differences = [each - drawn[0] for each in drawn[1:]]
    p, tested = _tests(per_sample, paired)
    shape = (0, len(QUANTITIES))
    values = np.array(columns)
    return SideBySide(
        values,
        np.stack([np.stack(interval(each)) for each in drawn], axis=1),
        values[1:] - values[:1],
        np.stack([np.stack(interval(each)) for each in differences], axis=1) if differences else np.zeros((2, *shape)),
        p,
        tested,
        paired,
    )


def apart(one: npt.ArrayLike, other: npt.ArrayLike) -> bool | None:
    """Return whether two intervals have no number in common; None if one of them does not exist."""
    (low, high), (low2, high2) = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if not np.isfinite([low, high, low2, high2]).all():
        return None
    return bool(high < low2 or high2 < low)


def holm(p: npt.ArrayLike) -> Floats:
    """Correct probabilities for their number by Holm's step-down method (Scand. J. Statist. 6, 1979); NaN stays NaN."""
    values = np.asarray(p, dtype=np.float64)
    flat = values.ravel()
    corrected = np.full_like(flat, np.nan)
    known = np.flatnonzero(np.isfinite(flat))
    order = known[np.argsort(flat[known], kind="stable")]
    steps = flat[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.reshape(values.shape)


def signed_rank(x: Floats, y: Floats) -> float:
    """Return p of Wilcoxon's signed-rank test of paired values `[m]`; 1 if all are equal, NaN without a pair.

    Pairs in which one value is NaN are left out.
    """
    from scipy.stats import wilcoxon

    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    if not len(x):
        return np.nan
    change = np.where(np.abs(y - x) <= SAME * np.maximum(np.abs(x), np.abs(y)), 0.0, y - x)
    return float(wilcoxon(change).pvalue) if change.any() else 1.0


def _numbers(samples: Samples, chosen: Integers, draws: int, seed: int, compared: int) -> tuple[Floats, Floats, Floats]:
    """Return numbers `[quantities]`, their draws `[draws, quantities]`, and those of samples `[samples, TESTED]`."""
    spectra = -np.sort(-np.abs(samples.eigenvalues[chosen]), axis=1)
    sums = spectra.sum(axis=1)
    totals = np.maximum(samples.trace[chosen], sums) if samples.truncated else sums
    weights = Bootstrap(len(chosen), draws, seed)
    dims, drawn_dims = _mean_dims(samples, spectra, totals, weights)
    own = _sample_numbers(samples, spectra, totals)
    known = np.isfinite(own)
    filled = np.where(known, own, 0.0)
    sums_drawn = weighted_means(weights, np.column_stack([filled, known]))
    with np.errstate(invalid="ignore", divide="ignore"):  # no sample, or no sample of a draw, has a value
        means = filled.sum(axis=0) / known.sum(axis=0)
        drawn_means = sums_drawn[:, : len(TESTED)] / sums_drawn[:, len(TESTED) :]
    few = chosen if len(chosen) <= compared else chosen[_subset(len(chosen), compared, seed)]
    pairs, drawn_pairs = _homogeneity(samples, few, draws, seed)
    return np.concatenate([dims, means, pairs]), np.column_stack([drawn_dims, drawn_means, drawn_pairs]), own


def _mean_dims(samples: Samples, spectra: Floats, totals: Floats, weights: Bootstrap) -> tuple[Floats, Floats]:
    """Return dim(q) of the mean spectrum, and of the mean spectrum of each draw; NaN where it is not decided."""
    if not spectra.any():
        nothing = np.full(len(SHARES), np.nan)
        return nothing, np.tile(nothing, (weights.shape[0], 1))
    estimated = samples.estimated
    found = anisotropy(spectra, weights, totals, latent_dim=samples.latent_dim, estimated=estimated).dimensions
    drawn = weighted_means(weights, np.column_stack([spectra, totals]))
    kept = spectra.shape[1]
    decided = np.array([each.needed is not None for each in found])
    dims = np.where(decided, [each.below for each in found], np.nan)
    counts = np.column_stack([ranks_below(drawn[:, :-1], share, drawn[:, -1]) for share in SHARES]).astype(np.float64)
    counts[(counts >= kept) | ~decided | (drawn[:, -1:] <= 0)] = np.nan
    return dims, counts


def _sample_numbers(samples: Samples, spectra: Floats, totals: Floats) -> Floats:
    """Return dim(q) of each sample and log10 of its trace, `[samples, TESTED]`; NaN for a zero metric.

    If the kept eigenpairs or an estimated trace leave a dimension of one sample open, no sample has it: the others
    alone would be those with fewer dimensions.
    """
    own = [ranks_below(spectra, share, totals).astype(np.float64) for share in SHARES]
    for dims in own:
        dims[totals <= 0] = np.nan
        if samples.estimated or np.any(dims >= spectra.shape[1]):
            dims[:] = np.nan
    logs = np.log10(totals, out=np.full(len(totals), np.nan), where=totals > 0)
    return np.column_stack([*own, logs])


def _homogeneity(samples: Samples, chosen: Integers, draws: int, seed: int) -> tuple[Floats, Floats]:
    """Return the mean C_log, C_lin and C_vec over pairs of different samples, and their draws `[draws, 3]`."""
    found = matrices(Spectra(samples.eigenvalues[chosen]), samples.load_eigenvectors(chosen))
    weights = bootstrap_weights(len(chosen), draws, seed).astype(np.float64)
    means, drawn = [], []
    for matrix in (found.log, found.linear, found.vec):
        np.fill_diagonal(matrix, np.nan)
        defined = np.isfinite(matrix)
        filled = np.where(defined, matrix, 0.0)
        sums = np.sum((weights @ filled) * weights, axis=1)
        counts = np.sum((weights @ defined.astype(np.float64)) * weights, axis=1)
        means.append(float(matrix[defined].mean()) if defined.any() else np.nan)
        few = int((defined.any(axis=0) | defined.any(axis=1)).sum()) < 3  # every draw then has the same mean
        nothing = np.full(len(weights), np.nan)
        drawn.append(nothing if few else np.divide(sums, counts, out=nothing, where=counts > 0))
    return np.array(means), np.column_stack(drawn)


def _subset(count: int, most: int, seed: int) -> Integers:
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _tests(per_sample: Sequence[Floats], paired: bool) -> tuple[Floats, Integers]:
    """Test every other sweep against the first: Wilcoxon's signed ranks where paired, Mann & Whitney's U otherwise."""
    from scipy.stats import mannwhitneyu

    p = np.full((len(per_sample) - 1, len(QUANTITIES)), np.nan)
    tested = np.zeros(p.shape, dtype=np.int64)
    for row, other in enumerate(per_sample[1:]):
        for index, name in enumerate(TESTED):
            column = QUANTITIES.index(name)
            x, y = per_sample[0][:, index], other[:, index]
            if paired:
                known = np.isfinite(x) & np.isfinite(y)
                x, y = x[known], y[known]
                tested[row, column] = len(x)
                p[row, column] = signed_rank(x, y)
            else:
                x, y = x[np.isfinite(x)], y[np.isfinite(y)]
                tested[row, column] = len(x) + len(y)
                if len(x) and len(y):
                    p[row, column] = mannwhitneyu(x, y).pvalue
    return holm(p), tested
