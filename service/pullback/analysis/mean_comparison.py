"""The mean metrics of two sweeps, compared by the numbers of `cross_metrics`, with random axes beside them.

H̄_A and H̄_B are the means over the compared samples of each sweep. The control gives H̄_A random axes and keeps its
eigenvalues. There is no control by another code, because a mean belongs to no single code.

Intervals are the value ± 1.96 standard deviations of bootstrap draws. Each draw takes the same samples of both sweeps
where these have the same codes, and computes both means again. Large n has fewer draws, or none: two decompositions of
an n × n matrix cost about 20 n³ operations.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pullback.analysis.bootstrap import Floats, Integers, bootstrap_weights, centred_interval, interval
from pullback.analysis.cross_metrics import CrossMetrics, Eigenpairs
from pullback.analysis.eigenbasis import eigenbasis
from pullback.analysis.grassmann import random_frames
from pullback.analysis.leading import weighted_sums
from pullback.analysis.paired_numbers import SIZES, UNCHANGED, number_names, numbers_of
from pullback.analysis.samples import Samples

MOST_DRAWS = 100
"""Largest number of bootstrap draws."""
LEAST_DRAWS = 10
"""With fewer draws there is no interval."""
MOST_FRAMES = 40
"""Largest number of random axes."""
LEAST_FRAMES = 3

DRAWN_OPERATIONS = 5e11
"""Floating-point operations that are spent on the decompositions of draws: less than a minute of one core."""
FRAME_OPERATIONS = 2e11
"""The same for random axes, 12 n³ each."""


def draws_for(draws: int, latent_dim: int) -> int:
    """Return how many bootstrap draws are made of those that are asked for; 0 if there are too few for an interval."""
    most = min(draws, MOST_DRAWS, int(DRAWN_OPERATIONS / (20 * latent_dim**3)))
    return most if most >= LEAST_DRAWS else 0


def frames_for(latent_dim: int) -> int:
    """Return the number of random axes."""
    return max(LEAST_FRAMES, min(MOST_FRAMES, int(FRAME_OPERATIONS / (12 * latent_dim**3))))


def mean_variables(
    one: Samples,
    other: Samples,
    positions: tuple[Integers, Integers],
    *,
    paired: bool,
    epsilon: float,
    draws: int,
    seed: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the variables and the coordinates of a dataset with the numbers of the two mean metrics.

    Args:
        one: the sweep A.
        other: the sweep B, of the same n.
        positions: which samples of each sweep are averaged.
        paired: whether the i-th positions are the same code.
        epsilon: the regularisation of log H.
        draws: bootstrap draws; at most `draws_for` are made.
        seed: of the bootstrap and of random axes.
    """
    n = one.latent_dim
    sizes = [size for size in SIZES if size < n]
    names, made = number_names(sizes), draws_for(draws, n)
    means = [
        _means(samples, chosen, _weights(len(chosen), made, seed + (0 if paired else index)))
        for index, (samples, chosen) in enumerate(zip((one, other), positions, strict=True))
    ]
    drawn = np.full((made, len(names)), np.nan)
    for row, (a, b) in enumerate(zip(*means, strict=True)):
        crossed = CrossMetrics(a, b)
        if row == 0:
            first, value = crossed, numbers_of(crossed, epsilon, sizes)
        else:
            drawn[row - 1] = numbers_of(crossed, epsilon, sizes)
    ends = centred_interval(value, drawn)
    for column, name in enumerate(names):
        ends[:, column] = np.clip(ends[:, column], *_range(name))
    generator = np.random.default_rng([seed, 6])
    random = np.stack(
        [
            numbers_of(CrossMetrics(first.a.with_axes(random_frames(1, n, n, generator)[0]), first.b), epsilon, sizes)
            for _ in range(frames_for(n))
        ]
    )
    random[:, [names.index(name) for name in UNCHANGED]] = np.nan
    known = np.isfinite(random).any(axis=0)
    chance = np.where(known, np.where(np.isfinite(random), random, 0).sum(axis=0), np.nan)
    chance /= np.maximum(np.isfinite(random).sum(axis=0), 1)
    rate = "squared image distance per squared latent length"
    variables = {
        "mean_metrics": (("mean_number",), value, {"long_name": "number of the two mean metrics"}),
        "mean_metrics_ci95": (("end", "mean_number"), ends, {"long_name": "95 % bootstrap interval"}),
        "mean_metrics_random": (("mean_number",), chance, {"long_name": "mean over random axes"}),
        "mean_metrics_random_range": (
            ("end", "mean_number"),
            np.stack(interval(random)),
            {"long_name": "middle 95 % of random axes"},
        ),
        "mean_eigenvalue": (
            ("sweep", "mean_axis"),
            np.stack([first.a.values, first.b.values]),
            {"long_name": "eigenvalues of each mean metric", "units": rate},
        ),
        "mean_cross_rate": (
            ("sweep", "mean_axis"),
            np.stack([first.b_under_a(), first.a_under_b()]),
            {"long_name": "rates of each mean metric along the axes of the other", "units": rate},
        ),
        "mean_samples": (("sweep",), [len(each) for each in positions], {"long_name": "averaged samples"}),
        "mean_whole": (
            ("sweep",),
            [_is_whole(*each) for each in zip((one, other), positions, strict=True)],
            {"long_name": "whether whole metrics are averaged, not their kept parts"},
        ),
        "mean_draws": ((), made, {"long_name": "bootstrap draws of the mean metrics"}),
        "mean_random_axes": ((), len(random), {"long_name": "number of random axes"}),
    }
    return variables, {"mean_number": names, "mean_axis": np.arange(1, n + 1)}


def _weights(samples: int, draws: int, seed: int) -> Integers:
    """Multiplicities of all samples once, and of each draw."""
    ones = np.ones((1, samples), dtype=np.int64)
    return np.vstack([ones, bootstrap_weights(samples, draws, seed)]) if draws else ones


def _is_whole(samples: Samples, positions: Integers) -> bool:
    """Whether the mean is that of whole metrics: all eigenpairs are kept, or the sweep's own mean is of all samples."""
    return not samples.truncated or (samples.whole and len(positions) == len(samples))


def _means(samples: Samples, positions: Integers, weights: Integers) -> Iterator[Eigenpairs]:
    """Yield the mean metric of each row of weights by its eigenpairs; draws add the constant H̄ − K̄ to kept parts."""
    constant: Floats | float | None = None
    values, vectors = samples.eigenvalues[positions], samples.load_eigenvectors(positions)
    for part, sums in weighted_sums(values, vectors, weights):
        for row, matrix in zip(weights[part], sums, strict=True):
            mean = matrix / row.sum()
            if constant is None:
                exact = samples.truncated and _is_whole(samples, positions)
                constant = samples.mean_metric() - mean if exact else 0.0
            yield Eigenpairs(*eigenbasis(mean + constant))


def _range(name: str) -> tuple[float, float]:
    """The least and the greatest possible value of a number."""
    if name.startswith(("cosine_", "overlap_")):
        return 0.0, 1.0
    if name.endswith("_slope"):
        return -np.inf, np.inf
    return (0.0, np.inf) if name == "log_distance" else (-1.0, 1.0)
