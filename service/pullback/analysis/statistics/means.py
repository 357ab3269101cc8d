"""Three means of metrics, and how far their leading axes are apart.

- Arithmetic: H̄ = mean H_i, the mean that every application uses (Wang & Ponce, ICLR 2021). Samples whose images change
  most count most.
- Log-Euclidean: exp(mean log(H_i + ε tr(H_i)/n I)) (Arsigny, Fillard, Pennec & Ayache, SIAM J. Matrix Anal. Appl. 29,
  2007). A factor of one metric changes no axis. The logarithm needs a floor, because metrics are often rank-deficient;
  ε is the option `regularization`.
- Grassmannian: the Karcher mean of the samples' top-k eigenspaces (Karcher, Comm. Pure Appl. Math. 30, 1977). It sees
  no eigenvalues at all.

If the three agree, the choice of the mean does not matter. The leading k-dimensional subspaces of two means are
compared by their overlap, the mean squared cosine of their principal angles, which is k/n for random subspaces, and by
their largest principal angle.

Intervals are the value ± 1.96 standard deviations of the bootstrap draws. A draw repeats some samples, so its means are
noisier than those of the sweep and its overlaps are lower; percentiles of the draws would lie below the value.

Where only k < n eigenpairs are kept, the logarithm of the rest of a metric is that of its remaining trace spread evenly
over the remaining dimensions, and the draws of the arithmetic mean add the constant H̄ − K̄ to the drawn kept parts.
"""

from collections.abc import Callable
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from pullback.analysis.bootstrap import Floats, Integers, PointOptions, bootstrap_weights, centred_interval
from pullback.analysis.grassmann import karcher_mean, overlap, principal_angles
from pullback.analysis.leading import (
    SubspaceOptions,
    has_leading,
    kept_part,
    kept_variables,
    leading_frames,
    leading_pairs,
    usable_sizes,
    weighted_sums,
)
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.samples import Samples
from pullback.analysis.scalars import shown, shown_interval, spread_of, variable, within

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "arithmetic, log-Euclidean and Grassmannian mean metrics, and how far their leading axes are apart"

Frames = list[list[list[Floats | None]]]
"""For each mean and size, the leading subspace `[k, n]` over all samples first, then over each draw; None where the
mean has none."""

MEANS = ("arithmetic", "log-Euclidean", "Grassmannian")
PAIRS = tuple(combinations(range(3), 2))

MOST_DRAWS = 100
"""Largest number of bootstrap draws. Every draw computes the three means again."""
_DRAWN_TOLERANCE = 1e-3
"""Length of the mean tangent, in radians, at which the Karcher mean of a draw has converged."""


class Options(SubspaceOptions, PointOptions):
    """Options of the means. Only the Grassmannian mean has a limit of `points`; the others take all samples."""

    regularization: float = Field(default=1e-4, gt=0, lt=1)
    """ε of the logarithm of H + ε tr(H)/n I."""


def decisive(options: Options, samples: int) -> Options:
    """Return the options with no more draws than are made, and no more points than there are samples."""
    return options.limited(samples).model_copy(update={"draws": min(options.draws, MOST_DRAWS)})


def log_coefficients(samples: Samples, regularization: float) -> tuple[Floats, Floats]:
    """Return the logarithms of regularised metrics, as coefficients of their eigenvectors and of the identity.

    log(H_i + ε_i I) = Σ_m c_im v_im v_imᵀ + o_i I, with ε_i = ε tr(H_i)/n. The eigenvalues that are not kept count as
    equal: the remaining trace over the remaining dimensions, but no more than the smallest kept eigenvalue.

    Args:
        samples: N samples of k kept eigenpairs.
        regularization: ε.

    Returns:
        c `[N, k]` and o `[N]`; both are NaN for a sample whose metric is zero.
    """
    values = np.maximum(samples.eigenvalues, 0.0)
    sums, n = values.sum(axis=1), samples.latent_dim
    trace = np.maximum(samples.trace, sums) if samples.truncated else sums
    shift = np.where(trace > 0, regularization * trace / n, np.nan)
    rest = np.zeros(len(values))
    if samples.truncated:
        rest = np.minimum((trace - sums) / (n - values.shape[1]), values[:, -1])
    offset = np.log(rest + shift)
    return np.log(values + shift[:, None]) - offset[:, None], offset


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return overlaps and angles of the means' leading subspaces `[pair, size]`, with 95 % bootstrap intervals."""
    import xarray as xr

    options = decisive(options, len(samples))
    sizes = usable_sizes(options.sizes, samples)
    samples.load_eigenvectors()
    ones = np.ones((1, len(samples)), dtype=np.int64)
    weights = np.vstack([ones, bootstrap_weights(len(samples), options.draws, options.seed)])
    chosen = samples.choose(options.points, options.seed)
    coefficients, offsets = log_coefficients(samples, options.regularization)
    logged = np.isfinite(offsets)
    coefficients = np.where(logged[:, None], coefficients, 0.0)
    done, total = 0, (2 + len(sizes)) * len(weights)

    def advance() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    arithmetic = samples.mean_metric()
    (_, sums), *_ = weighted_sums(samples.eigenvalues, samples.eigenvectors, ones)
    frames = [
        _spaces(samples, samples.eigenvalues, weights, sizes, advance, arithmetic - sums[0] / len(samples)),
        _spaces(samples, coefficients, np.where(logged, weights, 0), sizes, advance),
        _karcher_means(samples, chosen, sizes, weights, advance),
    ]
    axes = np.full((len(MEANS), sizes[-1], samples.latent_dim), np.nan)
    for index, found in enumerate(frames):
        frame = found[-1][0]
        if frame is not None:  # in the order of the rates of the arithmetic mean within the subspace
            axes[index] = np.linalg.eigh(frame @ arithmetic @ frame.T)[1].T[::-1] @ frame
    counted = [int(has_leading(samples.eigenvalues[chosen], k).sum()) for k in sizes]
    return xr.Dataset(
        {
            **_compared(frames, sizes),
            **_with_samples(samples, frames, sizes, options),
            "axis": variable(("mean", "rank", "latent_dim"), axes, "axes of the largest subspace of each mean", "1"),
            "random_overlap": variable(
                ("size",), np.array(sizes) / samples.latent_dim, "expected overlap of random subspaces, k/n", "1"
            ),
            "grassmannian_samples": variable(
                ("size",), counted, "samples of the Grassmannian mean, those with a leading subspace", "1"
            ),
            "log_euclidean_samples": variable((), int(logged.sum()), "samples whose metric is not zero", "1"),
            "regularization": variable((), options.regularization, "ε of H + ε tr(H)/n I", "1"),
            **kept_variables(samples),
        },
        coords={"size": sizes, "mean": list(MEANS), "pair": [f"{MEANS[a]} – {MEANS[b]}" for a, b in PAIRS]},
    )


def _spaces(
    samples: Samples,
    coefficients: Floats,
    weights: Integers,
    sizes: list[int],
    advance: Callable[[], None],
    constant: Floats | float = 0.0,
) -> list[list[Floats | None]]:
    """Leading subspaces of Σ_i w_i A_i / Σ_i w_i + constant, by size and row of weights."""
    found: list[list[Floats | None]] = [[] for _ in sizes]
    for part, sums in weighted_sums(coefficients, samples.eigenvectors, weights):
        for matrix, count in zip(sums, weights[part].sum(axis=1), strict=True):
            values, rows = leading_pairs(matrix / max(count, 1) + constant, sizes[-1])
            # Logarithms are of either sign: only differences of eigenvalues show whether there is a subspace.
            shifted = values - values[-1] + float(np.ptp(values))
            for size, k in zip(found, sizes, strict=True):
                size.append(rows[:k] if bool(has_leading(shifted, k)) else None)
            advance()
    return found


def _karcher_means(
    samples: Samples, chosen: Integers, sizes: list[int], weights: Integers, advance: Callable[[], None]
) -> list[list[Floats | None]]:
    """Karcher means of the samples' leading subspaces, by size and row of weights."""
    rows = leading_frames(samples.eigenvectors, sizes[-1], chosen)
    found: list[list[Floats | None]] = []
    for k in sizes:
        known = has_leading(samples.eigenvalues[chosen], k)
        own, size, mean = rows[known, :k], [], None
        for draw, shares in enumerate(weights[:, chosen[known]]):
            frame = None
            if draw == 0 and len(own):
                frame = mean = karcher_mean(own)
            elif shares.any():
                frame = karcher_mean(own, shares, start=mean, tolerance=_DRAWN_TOLERANCE, most_steps=50)
            size.append(frame)
            advance()
        found.append(size)
    return found


def _compared(frames: Frames, sizes: list[int]) -> dict[str, Any]:
    """Overlap and largest angle of each pair of means and size, with intervals from the draws."""
    draws = len(frames[0][0])
    overlaps, angles = (np.full((draws, len(PAIRS), len(sizes)), np.nan) for _ in range(2))
    for pair, (first, second) in enumerate(PAIRS):
        for place in range(len(sizes)):
            for draw, (one, other) in enumerate(zip(frames[first][place], frames[second][place], strict=True)):
                if one is not None and other is not None:
                    overlaps[draw, pair, place] = overlap(one, other)
                    angles[draw, pair, place] = np.degrees(principal_angles(one, other)[-1])
    made = {}
    for name, values, most, words, unit in (
        ("overlap", overlaps, 1.0, "mean squared cosine of the principal angles of two means", "1"),
        ("largest_angle", angles, 90.0, "largest principal angle of two means", "degrees"),
    ):
        made[name] = variable(("pair", "size"), values[0], words, unit)
        ends = np.clip(centred_interval(values[0], values[1:]), 0.0, most)
        made[f"{name}_ci95"] = variable(("end", "pair", "size"), ends, f"95 % bootstrap interval of the {words}", unit)
    return made


def _with_samples(samples: Samples, frames: Frames, sizes: list[int], options: Options) -> dict[str, Any]:
    """Mean overlap of each mean's subspace, which stays fixed, with those of the samples."""
    weights = samples.bootstrap(options.draws, options.seed)
    shared = np.full((len(samples), len(MEANS), len(sizes)), np.nan)
    for start in range(0, len(samples), 256):
        part = np.arange(start, min(start + 256, len(samples)))
        rows = leading_frames(samples.eigenvectors, sizes[-1], part)
        for place, k in enumerate(sizes):
            known = has_leading(samples.eigenvalues[part], k)
            for index, mean in enumerate(frames):
                frame = mean[place][0]
                if frame is not None:
                    shared[part[known], index, place] = overlap(rows[known, :k], frame)
    spreads = [[spread_of(shared[:, m, k], weights) for k in range(len(sizes))] for m in range(len(MEANS))]
    ends = np.moveaxis(np.array([[each.mean_ci95 for each in row] for row in spreads]), 2, 0)
    words = "mean overlap of a mean's leading subspace with those of the samples"
    return {
        "sample_overlap": variable(("mean", "size"), [[each.mean for each in row] for row in spreads], words, "1"),
        "sample_overlap_ci95": variable(("end", "mean", "size"), ends, f"95 % bootstrap interval of the {words}", "1"),
    }


def summary(result: Result) -> list[Table]:
    """Return the comparison of the means by size, and how well each represents the samples."""
    data = result.dataset
    rows, own = [], []
    for size in data["size"].values:
        for pair in data["pair"].values:
            at = data.sel(size=size, pair=pair)
            cells = [text for name in ("overlap", "largest_angle") for text in _both(at, name)]
            rows.append([str(size), str(pair), *cells, shown(float(at["random_overlap"]))])
        of = [text for mean in MEANS for text in _both(data.sel(size=size, mean=mean), "sample_overlap")]
        own.append([str(size), *of, shown(float(data["random_overlap"].sel(size=size)))])
    columns = (">k", "means", ">overlap", ">95 % interval", ">largest angle (°)", ">95 % interval", ">random overlap")
    headings = (">k", *(text for mean in MEANS for text in (f">{mean}", ">95 % interval")), ">random")
    return [
        Table(columns, rows, "Leading subspaces of the means"),
        Table(headings, own, "Overlap of each mean's leading subspace with the samples' own"),
    ]


def _both(at: "xr.Dataset", name: str) -> tuple[str, str]:
    return shown(float(at[name])), shown_interval(at[f"{name}_ci95"].values)


def sentences(result: Result) -> list[str]:
    """Return how alike the leading subspaces of the means are, at the largest size that all have."""
    data = result.dataset
    complete = data["size"].values[np.isfinite(data["overlap"].values).all(axis=0)]
    if not len(complete):
        return ["The means have no leading axes to compare: their largest eigenvalues are equal."]
    size = min((int(k) for k in complete), key=lambda k: abs(k - 10))
    at = data.sel(size=size)
    lowest = int(np.argmin(at["overlap"].values))
    names = str(data["pair"].values[lowest]).replace(" – ", " and the ")
    axes = "axis" if size == 1 else f"{size} axes"
    return [
        f"The leading {axes} of the arithmetic, the log-Euclidean and the Grassmannian mean overlap by at least "
        f"{shown(float(at['overlap'][lowest]))}{within(at['overlap_ci95'].values[:, lowest])}, which is that "
        f"of the {names} mean. It is 1 for the same subspace and {shown(float(at['random_overlap']))} for random ones."
    ]


def notes(result: Result) -> list[str]:
    """Return the regularisation, which samples count, and where the intervals come from."""
    data, options = result.dataset, result.options.model_dump()
    logged, counted = int(data["log_euclidean_samples"]), data["grassmannian_samples"].values
    lines = [
        "The overlap of two subspaces is the mean squared cosine of their principal angles. The log-Euclidean mean is "
        f"that of log(H + ε tr(H)/n I) with ε = {float(data['regularization']):g}.",
        f"Intervals come from {min(options['draws'], MOST_DRAWS)} bootstrap draws of the samples; each draw computes "
        "all three means again. They are the value ± 1.96 standard deviations of the draws. Those of the overlap with "
        "the samples are percentiles, with the means kept fixed.",
    ]
    if logged < result.about.samples:
        lines.append(f"{result.about.samples - logged} samples whose metric is zero have no logarithm.")
    if counted.min() < result.about.samples:
        listed = ", ".join(f"{n} for k = {k}" for k, n in zip(data["size"].values, counted, strict=True))
        lines.append(f"Samples of the Grassmannian mean, those that have a leading subspace: {listed}.")
    return lines


def cautions(result: Result) -> list[str]:
    """Return how much of the trace is kept; nothing if all eigenpairs are."""
    return kept_part(result)


def figure(result: Result) -> "dict[str, Figure]":
    """Draw the overlap of each pair of means by size, with intervals, beside that of random subspaces."""
    from pullback.analysis.drawing import NULL, draw_errors, draw_line, legend_above, new_figure, plain_axes, series

    data = result.dataset
    drawn = new_figure("means-overlap", height=2.7)
    axes = plain_axes(drawn, x="number of leading axes, k", y="overlap (mean cos²)")
    places = np.arange(data.sizes["size"])
    for index, pair in enumerate(data["pair"].values):
        low, high = data["overlap_ci95"].values[:, index]
        moved = places + 0.1 * (index - 1)
        draw_errors(axes, moved, data["overlap"].values[index], low, high, series(index), str(pair))
    draw_line(axes, places, data["random_overlap"].values, NULL, "random subspaces")
    axes.set_xticks(places, [str(k) for k in data["size"].values])
    axes.set_ylim(0, 1.03)
    legend_above(axes, columns=1)
    caption = (
        "Overlap of the leading subspaces of the three means, with 95 % bootstrap intervals. At 1 the choice of the "
        "mean does not matter; the dotted line is the expectation for random subspaces, k/n."
    )
    return {caption: drawn}
