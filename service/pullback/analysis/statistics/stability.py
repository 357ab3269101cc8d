"""Stability of axes: does the k-th axis of the mean metric exist, or did these samples happen to make it?

The samples are divided at random into two halves, many times. Each half has its own mean metric and axes. The |cosine|
of the k-th axis of one half and the k-th axis of the other is 1 if the axis does not depend on the samples, and about
0.8/√n for random axes. Two axes whose eigenvalues are close swap ranks or mix; axes are therefore also matched one to
one so that the sum of |cosines| is largest (Kuhn, Naval Res. Logist. Q. 2, 1955), and the subspaces of the k leading
axes are compared by their overlap, the mean squared cosine of their principal angles, which is k/n for random ones.

The mean of a half has half of the samples, so the axes of all samples are more stable than the values shown.

An interval holds the middle 95 % of the splits. The metrics are those of the kept eigenpairs.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pullback.analysis.bootstrap import Floats, Integers, interval
from pullback.analysis.correlations import LEAST_SPREAD, NULL_FLOOR
from pullback.analysis.grassmann import overlap, random_frames
from pullback.analysis.leading import (
    SizeOptions,
    has_leading,
    kept_part,
    kept_variables,
    leading_pairs,
    usable_sizes,
    weighted_sums,
)
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.samples import Samples
from pullback.analysis.scalars import shown, shown_interval, variable, within

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "stability of the mean metric's axes: |cosine| of each axis between random halves of the sweep"

STABLE = 0.9
"""|cosine| from which sentences call an axis stable: at most 26 degrees apart."""
_NULL_DRAWS = 200
"""Pairs of random frames behind the expectation for matched random axes."""


class Options(SizeOptions):
    """Options of the stability."""

    ranks: int = Field(default=20, ge=1, le=1000)
    """Leading axes that are compared."""
    splits: int = Field(default=100, ge=2, le=100_000)
    """Random divisions of the samples into two halves."""
    seed: int = Field(default=0, ge=0, le=2**63 - 1)
    """Seed of the divisions."""


def halves(samples: int, splits: int, seed: int) -> Integers:
    """Return which samples are in the first half of each split, 0 or 1, `[splits, samples]`."""
    generator = np.random.default_rng(seed)
    members = np.zeros((splits, samples), dtype=np.int64)
    for row in members:
        row[generator.permutation(samples)[: samples // 2]] = 1
    return members


def matched_cosines(one: npt.ArrayLike, other: npt.ArrayLike) -> Floats:
    """Return |cosine| of each axis of `one` `[m, n]` and its partner in `other` `[m, n]`, `[m]`.

    The matching is one to one and has the largest sum of |cosines|.
    """
    from scipy.optimize import linear_sum_assignment  # takes a while to import

    cosines = np.abs(np.asarray(one) @ np.asarray(other).T)
    rows, columns = linear_sum_assignment(cosines, maximize=True)
    found: Floats = np.empty(len(cosines))
    found[rows] = cosines[rows, columns]
    return found


def random_cosine(n: int) -> tuple[float, float]:
    """Return the mean and the 95th percentile of |cosine| of two random directions in n dimensions.

    The squared cosine has the distribution Beta(1/2, (n − 1)/2).
    """
    from scipy.special import betaincinv, gammaln

    if n == 1:
        return 1.0, 1.0
    mean = np.exp(gammaln(n / 2) - gammaln((n + 1) / 2)) / np.sqrt(np.pi)
    return float(mean), float(np.sqrt(betaincinv(0.5, (n - 1) / 2, 0.95)))


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return |cosines| by rank, plain and matched, and overlaps by size, each with its 95 % range over splits."""
    import xarray as xr

    sizes = usable_sizes(options.sizes, samples)
    n = samples.latent_dim
    ranks = min(options.ranks, n, samples.eigenvalues.shape[1])
    many = max(ranks, sizes[-1])
    samples.load_eigenvectors()
    first = halves(len(samples), options.splits, options.seed)
    cosines, matched = (np.full((options.splits, ranks), np.nan) for _ in range(2))
    overlaps = np.full((options.splits, len(sizes)), np.nan)
    # Both halves of a split stand beside each other, so that they are in memory together.
    weights = np.stack([first, 1 - first], axis=1).reshape(-1, len(samples))
    previous: tuple[Floats, Floats] | None = None
    done = 0
    for _, sums in weighted_sums(samples.eigenvalues, samples.eigenvectors, weights):
        for matrix in sums:
            if previous is None:
                previous = leading_pairs(matrix, many)
                continue
            (ours, left), (theirs, right) = previous, leading_pairs(matrix, many)
            previous = None
            known = _separate(ours, ranks) & _separate(theirs, ranks)
            cosines[done, known] = np.abs(np.sum(left[:ranks] * right[:ranks], axis=1))[known]
            ranked = int(min(_positive(ours, ranks), _positive(theirs, ranks)))
            if ranked:
                matched[done, :ranked] = matched_cosines(left[:ranked], right[:ranked])
            for place, k in enumerate(sizes):
                if bool(has_leading(ours, k)) and bool(has_leading(theirs, k)):
                    overlaps[done, place] = overlap(left[:k], right[:k])
            done += 1
            progress(done, options.splits)
    mean, high = random_cosine(n)
    frames = random_frames(2 * _NULL_DRAWS, ranks, n, np.random.default_rng([options.seed, 1]))
    pairs = zip(frames[::2], frames[1::2], strict=True)
    null = np.mean([matched_cosines(one, other) for one, other in pairs])
    cosine, same = "|cosine| of the axis of this rank in two halves", "overlap of the leading subspaces of two halves"
    return xr.Dataset(
        {
            **_over_splits("cosine", cosines, "rank", cosine),
            **_over_splits("matched_cosine", matched, "rank", f"{cosine}, matched"),
            **_over_splits("overlap", overlaps, "size", same),
            "random_cosine": variable((), mean, "mean |cosine| of two random directions", "1"),
            "random_cosine_p95": variable((), high, "95th percentile of |cosine| of two random directions", "1"),
            "random_matched_cosine": variable((), null, "mean |cosine| of matched random axes", "1"),
            "random_overlap": variable(("size",), np.array(sizes) / n, "expected overlap of random subspaces", "1"),
            "half": variable((), len(samples) // 2, "samples of a half", "1"),
            **kept_variables(samples),
        },
        coords={"rank": np.arange(1, ranks + 1), "size": sizes},
    )


def _positive(values: Floats, ranks: int) -> int:
    """How many leading eigenvalues are above round-off."""
    return int(np.sum(values[:ranks] > NULL_FLOOR * max(float(values[0]), 0.0)))


def _separate(values: Floats, ranks: int) -> npt.NDArray[np.bool_]:
    """Whether each axis is determined: its eigenvalue is above round-off and differs from its neighbours'."""
    own = values[:ranks]
    found = own > NULL_FLOOR * max(float(values[0]), 0.0)
    gaps = values[:-1] - values[1:]
    least = LEAST_SPREAD * own
    found[1:] &= gaps[: ranks - 1] > least[1:]
    after = min(ranks, len(gaps))
    found[:after] &= gaps[:after] > least[:after]
    return found


def _over_splits(name: str, values: Floats, dim: str, words: str) -> dict[str, Any]:
    """Mean and 95 % range over splits, as entries of a dataset; NaN where no split has a value."""
    known = np.isfinite(values)
    count = known.sum(axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    mean = np.divide(total, count, out=np.full(values.shape[1], np.nan), where=count > 0)
    ends = np.stack(interval(values))
    return {
        name: variable((dim,), mean, f"mean {words}", "1"),
        f"{name}_ci95": variable(("end", dim), ends, f"middle 95 % of splits: {words}", "1"),
    }


def stable_ranks(values: npt.ArrayLike) -> int:
    """Return how many leading ranks have a |cosine| of at least `STABLE`, up to the first that has not."""
    below = np.flatnonzero(~(np.asarray(values) >= STABLE))
    return int(below[0]) if below.size else int(np.size(values))


def summary(result: Result) -> list[Table]:
    """Return |cosines| by rank and overlaps by size, with their ranges, beside the values of random axes."""
    from pullback.analysis.statements import shown_ranks

    data = result.dataset
    random, matched = float(data["random_cosine"]), float(data["random_matched_cosine"])
    rows = []
    for place in shown_ranks(data.sizes["rank"]):
        at = data.isel(rank=place)
        rows.append([str(place + 1), *_both(at, "cosine"), *_both(at, "matched_cosine"), shown(random), shown(matched)])
    own = [
        [str(size), *_both(data.sel(size=size), "overlap"), shown(float(data["random_overlap"].sel(size=size)))]
        for size in data["size"].values
    ]
    columns = (">rank", ">|cos|", ">95 % of splits", ">matched |cos|", ">95 % of splits", ">random", ">random, matched")
    return [
        Table(columns, rows, f"Axes in two halves of {int(data['half'])} samples"),
        Table((">k", ">overlap", ">95 % of splits", ">random"), own, "Leading subspaces in two halves"),
    ]


def _both(at: "xr.Dataset", name: str) -> tuple[str, str]:
    return shown(float(at[name])), shown_interval(at[f"{name}_ci95"].values)


def sentences(result: Result) -> list[str]:
    """Return how many leading axes two halves of the sweep agree on."""
    data = result.dataset
    plain, matched = data["cosine"].values, data["matched_cosine"].values
    ranks, stable = len(plain), stable_ranks(plain)
    if stable:
        which = "The first axis" if stable == 1 else f"Each of the first {stable} axes"
        lines = [f"{which} of the mean metric has a mean |cosine| of at least {STABLE} between halves of the sweep."]
    elif np.isfinite(plain[0]):
        ends = within(data["cosine_ci95"].values[:, 0]).replace("95 % interval", "95 % of splits")
        lines = [
            f"Already the first axis differs between halves of the sweep: its mean |cosine| is {shown(plain[0])}{ends}."
        ]
    else:
        lines = ["The halves of the sweep have no first axis: their largest eigenvalues are equal."]
    agreed = int(np.sum(matched >= STABLE))
    lines.append(
        f"If axes may change ranks, {agreed} of the {ranks} leading ones reach {STABLE}. Random axes have "
        f"{shown(float(data['random_cosine']))} in the mean, and {shown(float(data['random_matched_cosine']))} when "
        "they are matched."
    )
    return lines


def notes(result: Result) -> list[str]:
    """Return how the samples were divided and what the ranges are."""
    options = result.options.model_dump()
    return [
        f"The samples were divided {options['splits']} times into halves of {int(result['half'])} (seed "
        f"{options['seed']}). Ranges hold the middle 95 % of the splits. The axes of all samples are more stable than "
        "those of a half.",
        "Matched: the axes of the two halves are paired one to one so that the sum of |cosines| is largest. An axis "
        "whose |cosine| is low at the same rank and high when matched has changed its rank.",
    ]


def cautions(result: Result) -> list[str]:
    """Return how much of the trace is kept; nothing if all eigenpairs are."""
    return kept_part(result)


def figure(result: Result) -> "dict[str, Figure]":
    """Draw |cosine| by rank, plain and matched, and the overlap of the leading subspaces by size."""
    from pullback.analysis.drawing import (
        NULL,
        draw_band,
        draw_errors,
        draw_line,
        legend_above,
        new_figure,
        plain_axes,
        rank_axis,
        series,
    )

    data = result.dataset
    ranks = data["rank"].values
    by_rank = new_figure("stability-axes", height=2.7)
    axes = plain_axes(by_rank, x="rank of the axis", y="|cosine| between two halves")
    low, high = data["cosine_ci95"].values
    draw_band(axes, ranks, low, high, series(0), label="same rank, 95 % of splits")
    draw_line(axes, ranks, data["cosine"].values, series(0), label="same rank, mean", marked=True)
    draw_line(axes, ranks, data["matched_cosine"].values, series(1), label="matched, mean", marked=True)
    draw_line(axes, ranks, np.full(len(ranks), float(data["random_matched_cosine"])), NULL, "random, matched")
    rank_axis(axes, len(ranks))
    axes.set_ylim(0, 1.03)
    legend_above(axes)
    by_size = new_figure("stability-subspaces", height=2.5)
    axes = plain_axes(by_size, x="number of leading axes, k", y="overlap (mean cos²)")
    places = np.arange(data.sizes["size"])
    low, high = data["overlap_ci95"].values
    draw_errors(axes, places, data["overlap"].values, low, high, series(0), "two halves")
    draw_line(axes, places, data["random_overlap"].values, NULL, "random subspaces")
    axes.set_xticks(places, [str(k) for k in data["size"].values])
    axes.set_ylim(0, 1.03)
    legend_above(axes)
    return {
        "|Cosine| of each axis of the mean metric between two random halves of the sweep. At 1 the axis does not "
        "depend on the samples. A rank that is low alone and high when matched has swapped with another.": by_rank,
        "Overlap of the subspaces of the k leading axes between two random halves, with the middle 95 % of splits. "
        "The dotted line is the expectation for random subspaces, k/n.": by_size,
    }
