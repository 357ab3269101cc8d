"""The numbers of two metrics for every code that two sweeps share, with two controls beside them.

A and B of the same code are compared (`cross_metrics`), A of a code with B of another one, and A with random axes with
B. Means have 95 % bootstrap intervals over codes; each control is tested against the same code.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pullback.analysis.bootstrap import Bootstrap, Floats, interval, weighted_means
from pullback.analysis.cross_metrics import CrossMetrics, Eigenpairs, partners
from pullback.analysis.grassmann import random_frames
from pullback.analysis.matching import Matched
from pullback.analysis.samples import Samples
from pullback.analysis.side_by_side import holm, signed_rank

PAIRINGS = ("same_code", "other_code", "random_axes")
"""A and B of the same code; A of a code and B of another one; A with random axes and B, of the same code."""
EPSILONS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
"""Regularisations of log H for which the sensitivity is shown."""
COSINES = 10
"""Leading eigenvectors whose |cos| is given."""

SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)
"""Sizes of leading subspaces whose overlap is given."""
_SCATTERED = 4
"""Samples whose cross rates are kept for the figure."""
_LINES = {
    "spectrum": "spectrum of B against that of A",
    "a_under_b": "A's axes under B",
    "b_under_a": "B's axes under A",
}
_PARTS = {"linear": "r, linear", "log": "r, log", "slope": "log-log slope"}
LABELS = {
    "h": "H, entry by entry: r (C_vec)",
    "log_h": "log H, entry by entry: r",
    "log_distance": "log-Euclidean distance",
    **{f"{name}_{part}": f"{label}: {what}" for name, label in _LINES.items() for part, what in _PARTS.items()},
}
UNCHANGED = ("spectrum_linear", "spectrum_log", "spectrum_slope")
"""Numbers that do not depend on axes: random axes change nothing."""


def number_names(sizes: Sequence[int]) -> list[str]:
    """Return the names of the numbers that each pair of metrics has, given the sizes of subspaces."""
    return [
        *LABELS,
        *(f"cosine_{rank + 1}" for rank in range(COSINES)),
        *(f"overlap_{size}" for size in sizes),
    ]


def axis_label(name: str) -> str:
    """Describe the number `cosine_RANK` or `overlap_SIZE` in words."""
    kind, _, number = name.partition("_")
    return f"|cos| of eigenvectors {number}" if kind == "cosine" else f"overlap of the leading {number}"


def numbers_of(crossed: CrossMetrics, epsilon: float, sizes: Sequence[int]) -> Floats:
    """Return the numbers of two metrics in the order of `number_names`."""
    lines = [crossed.spectra(), *crossed.cross_rates()]
    return np.concatenate(
        [
            [crossed.flat_correlation(), *crossed.log_metrics(epsilon)],
            [value for line in lines for value in (line.linear, line.log, line.slope)],
            crossed.axis_cosines(COSINES),
            crossed.overlaps(sizes),
        ]
    )


def sizes_of(one: Samples, other: Samples) -> list[int]:
    """Return the sizes of leading subspaces for which overlaps are given: below n, and kept in both sweeps."""
    kept = min(one.eigenvalues.shape[1], other.eigenvalues.shape[1])
    return [size for size in SIZES if size <= kept and size < one.latent_dim]


def paired_variables(
    one: Samples,
    other: Samples,
    matched: Matched,
    *,
    epsilon: float,
    draws: int,
    seed: int,
    progress: Callable[[int], None],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the variables and the coordinates of a dataset with the numbers of every code.

    Args:
        one: the sweep A.
        other: the sweep B.
        matched: the samples with the same codes, at least 2.
        epsilon: the regularisation of log H.
        draws: bootstrap draws.
        seed: of the bootstrap, of the other codes and of random axes.
        progress: called with the number of finished codes.
    """
    generator = np.random.default_rng(seed)
    count, sizes = len(matched), sizes_of(one, other)
    names, partner = number_names(sizes), partners(len(matched), generator)
    vectors = one.load_eigenvectors(), other.load_eigenvectors()

    def metric(sweep: int, index: int) -> Eigenpairs:
        position = int(matched.positions[sweep][index])
        rows = np.asarray(vectors[sweep][position : position + 1], dtype=np.float64)[0]
        return Eigenpairs((one, other)[sweep].eigenvalues[position], rows)

    value = np.full((len(PAIRINGS), len(names), count), np.nan)
    logs = np.full((2, len(PAIRINGS), len(EPSILONS), count), np.nan)
    ranks = min(one.eigenvalues.shape[1], other.eigenvalues.shape[1])
    shown = min(_SCATTERED, count)
    scatter = np.full((2, 2, shown, ranks), np.nan)
    for index in range(count):
        a, b = metric(0, index), metric(1, index)
        frame = random_frames(1, len(a.values), one.latent_dim, generator)[0]
        paired = (
            CrossMetrics(a, b),
            CrossMetrics(a, metric(1, int(partner[index]))),
            CrossMetrics(a.with_axes(frame), b),
        )
        for pairing, crossed in enumerate(paired):
            value[pairing, :, index] = numbers_of(crossed, epsilon, sizes)
            for column, each in enumerate(EPSILONS):
                logs[:, pairing, column, index] = crossed.log_metrics(each)
        if index < shown:
            scatter[:, 0, index] = paired[0].own("b"), paired[0].own("a")
            scatter[:, 1, index] = paired[0].a_under_b(), paired[0].b_under_a()
        progress(index + 1)
    for name in UNCHANGED:
        value[PAIRINGS.index("random_axes"), names.index(name)] = np.nan
    weights = Bootstrap(count, draws, seed)
    mean, ends, known = means_of(value, weights)
    log_mean, log_ends, _ = means_of(logs, weights)
    rate = "squared image distance per squared latent length"
    variables = {
        "value": (("pairing", "number", "sample"), value, {"long_name": "number of each sample"}),
        "mean": (("pairing", "number"), mean, {"long_name": "mean over samples"}),
        "mean_ci95": (("end", "pairing", "number"), ends, {"long_name": "95 % bootstrap interval of the mean"}),
        "p_control": (
            ("pairing", "number"),
            control_tests(value),
            {"long_name": "probability without a difference from the same code, corrected (Holm)"},
        ),
        "samples_with": (("pairing", "number"), known, {"long_name": "samples that have the number"}),
        "sensitivity": (
            ("log_number", "pairing", "epsilon"),
            log_mean,
            {"long_name": "mean of log_h and log_distance by the regularisation of log H"},
        ),
        "sensitivity_ci95": (("end", "log_number", "pairing", "epsilon"), log_ends, {"long_name": "95 % interval"}),
        "scattered": (
            ("direction", "axis_of", "shown_sample", "rank"),
            scatter,
            {"long_name": "eigenvalues and cross rates of the first samples", "units": rate},
        ),
    }
    coordinates = {
        "pairing": list(PAIRINGS),
        "number": names,
        "sample": matched.numbers,
        "log_number": ["log_h", "log_distance"],
        "epsilon": list(EPSILONS),
        "direction": ["a_under_b", "b_under_a"],
        "axis_of": ["own", "other"],
        "shown_sample": matched.numbers[:shown],
    }
    return variables, coordinates


def means_of(values: Floats, weights: Any) -> tuple[Floats, Floats, Any]:
    """Return means over the last axis, their intervals `[2, ...]`, and how many values there are; NaN is left out."""
    shape = values.shape[:-1]
    flat = values.reshape(-1, values.shape[-1]).T
    known = np.isfinite(flat)
    filled = np.where(known, flat, 0.0)
    drawn = weighted_means(weights, np.column_stack([filled, known]))
    with np.errstate(invalid="ignore", divide="ignore"):
        means = filled.sum(axis=0) / known.sum(axis=0)
        draws = drawn[:, : flat.shape[1]] / drawn[:, flat.shape[1] :]
    ends = np.stack(interval(draws))
    ends[:, known.sum(axis=0) < 2] = np.nan
    return means.reshape(shape), ends.reshape(2, *shape), known.sum(axis=0).reshape(shape)


def control_tests(value: Floats) -> Floats:
    """Test each number of the controls against that of the same code, over samples; `[pairing, number]`."""
    same, *controls = value
    p = [np.array([signed_rank(x, y) for x, y in zip(same, control, strict=True)]) for control in controls]
    return holm(np.stack([np.full(len(same), np.nan), *p]))
