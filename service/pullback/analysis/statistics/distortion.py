"""Distortion: do near codes share their leading subspace more than random ones?

The distortion is the mean Grassmann distance of the leading subspaces of random pairs over that of near pairs (Choi,
Hwang, Cho & Kang, "Analyzing the Latent Space of GAN through Local Dimension Estimation", arXiv 2205.13182, 2022). It
is 1 where the subspace changes no less between near codes than between any two, as it does if the axes are global, or
if they are unrelated; the distances themselves, beside that of random subspaces, show which. It is large where every
region of the latent space has axes of its own.

Near pairs are each sample and its nearest neighbour among the codes of the sweep. Choi et al. draw a code close to each
code instead. In many dimensions the nearest of some hundred independent codes is hardly nearer than the others, so the
ratio of the codes' own distances stands beside the distortion: a distortion near 1 says little where that ratio is too.

The Grassmann distance is the geodesic one, the root of the sum of squared principal angles (Edelman, Arias & Smith,
SIAM J. Matrix Anal. Appl. 20, 1998).
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats, Integers, bootstrap_weights, interval
from pullback.analysis.grassmann import geodesic_distance, random_frames
from pullback.analysis.leading import (
    SubspacePairOptions,
    has_leading,
    kept_part,
    kept_variables,
    leading_frames,
    usable_sizes,
)
from pullback.analysis.pair_samples import nearest_pairs, pair_interval, pair_mean, random_pairs
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.samples import Samples
from pullback.analysis.scalars import shown, shown_interval, variable, within
from pullback.errors import PullbackError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "Grassmann distance of the leading subspaces of random samples over that of near ones"

_NULL_DRAWS = 500
"""Pairs of random subspaces behind their expected distance."""


class Options(SubspacePairOptions):
    """Options of the distortion."""


def decisive(options: Options, samples: int) -> Options:
    """Return the options that decide the result of this number of samples."""
    return options.limited(samples)


def pair_distances(frames: Floats, known: npt.NDArray[np.bool_], pairs: Integers) -> Floats:
    """Return the geodesic distance of the subspaces of each pair `[pairs]`, NaN where a sample has none.

    Args:
        frames: `[samples, k, n]`.
        known: which samples have a subspace, `[samples]`.
        pairs: `[pairs, 2]`.
    """
    found = np.full(len(pairs), np.nan)
    both = np.flatnonzero(known[pairs].all(axis=1))
    for start in range(0, len(both), 256):
        part = both[start : start + 256]
        found[part] = geodesic_distance(frames[pairs[part, 0]], frames[pairs[part, 1]])
    return found


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return the distances of near and of random pairs by size, and their ratio, with 95 % bootstrap intervals.

    Raises:
        PullbackError: the sweep has no latent codes.
    """
    import xarray as xr

    if "latent" not in samples:
        raise PullbackError("the distortion needs the latent codes of the samples, which this sweep does not have.")
    samples.require(2, "a comparison of pairs")
    sizes = usable_sizes(options.sizes, samples)
    chosen = samples.choose(options.points, options.seed)
    codes = np.asarray(samples.column("latent"), dtype=np.float64)[chosen]
    codes = codes.reshape(len(chosen), -1)
    kinds = {
        "near": nearest_pairs(codes),
        "random": random_pairs(len(chosen), options.pairs, options.seed),
    }
    weights = bootstrap_weights(len(chosen), options.draws, options.seed)
    frames = leading_frames(samples.eigenvectors, sizes[-1], chosen)
    null = np.empty(len(sizes))
    distances = {kind: np.empty((len(pairs), len(sizes))) for kind, pairs in kinds.items()}
    for place, k in enumerate(sizes):
        known = has_leading(samples.eigenvalues[chosen], k)
        for kind, pairs in kinds.items():
            distances[kind][:, place] = pair_distances(frames[:, :k], known, pairs)
        one, other = (
            random_frames(_NULL_DRAWS, k, samples.latent_dim, np.random.default_rng([options.seed, k, half]))
            for half in (0, 1)
        )
        null[place] = geodesic_distance(one, other).mean()
        progress(place + 1, len(sizes))
    entries, means, draws, code_means, code_draws = {}, {}, {}, {}, {}
    for kind, pairs in kinds.items():
        words = f"mean Grassmann distance of the leading subspaces of {kind} pairs"
        means[kind], draws[kind] = pair_mean(pairs, distances[kind], weights)
        entries[kind] = variable(("size",), means[kind], words, "radian")
        entries[f"{kind}_ci95"] = variable(
            ("end", "size"),
            pair_interval(pairs, distances[kind], draws[kind]),
            f"95 % bootstrap interval of the {words}",
            "radian",
        )
        apart = np.linalg.norm(codes[pairs[:, 0]] - codes[pairs[:, 1]], axis=1)
        code_means[kind], code_draws[kind] = pair_mean(pairs, apart, weights)
        entries[f"{kind}_pairs"] = variable((), len(pairs), f"{kind} pairs", "1")
    ratio, ratio_ends = _ratio(means, draws)
    entries["distortion"] = variable(("size",), ratio, "distance of random pairs over that of near pairs", "1")
    entries["distortion_ci95"] = variable(("end", "size"), ratio_ends, "95 % bootstrap interval of the distortion", "1")
    code_ratio, code_ends = _ratio(code_means, code_draws)
    words = "distance of the codes of random pairs over that of near pairs"
    entries["code_ratio"] = variable((), code_ratio, words, "1")
    entries["code_ratio_ci95"] = variable(("end",), code_ends, f"95 % bootstrap interval of the {words}", "1")
    entries["unrelated"] = variable(("size",), null, "mean Grassmann distance of random subspaces", "radian")
    entries["compared"] = variable((), len(chosen), "samples that are compared", "1")
    return xr.Dataset({**entries, **kept_variables(samples)}, coords={"size": sizes})


def _ratio(means: dict[str, Floats], drawn: dict[str, Floats]) -> tuple[Floats, Floats]:
    """Random over near, and its interval; NaN where near pairs have no distance."""
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(means["near"] > 0, means["random"] / means["near"], np.nan)
        values = np.where(drawn["near"] > 0, drawn["random"] / drawn["near"], np.nan)
    ends = np.stack(interval(values))
    return value, np.where(np.isfinite(value), ends, np.nan)


def summary(result: Result) -> Table:
    """Return the distances of near and random pairs and the distortion, by size."""
    data = result.dataset
    rows = []
    for size in data["size"].values:
        at = data.sel(size=size)
        cells = [text for name in ("near", "random", "distortion") for text in _both(at, name)]
        rows.append([str(size), *cells, shown(float(at["unrelated"]))])
    rows.append(["codes", "–", "–", "–", "–", *_both(data, "code_ratio"), "–"])
    columns = (">k", ">near (rad)", ">95 % interval", ">random (rad)", ">95 % interval", ">random / near")
    pairs = f"{int(data['near_pairs'])} near and {int(data['random_pairs'])} random pairs"
    return Table((*columns, ">95 % interval", ">random subspaces (rad)"), rows, f"Distortion, {pairs}")


def _both(at: "xr.Dataset", name: str) -> tuple[str, str]:
    return shown(float(at[name])), shown_interval(at[f"{name}_ci95"].values)


def sentences(result: Result) -> list[str]:
    """Return how much farther apart the subspaces of random pairs are than those of near pairs."""
    data = result.dataset
    known = data["size"].values[np.isfinite(data["distortion"].values)]
    if not len(known):
        return []
    at = data.sel(size=min(known, key=lambda k: abs(int(k) - 10)))
    axes = "leading axes" if int(at["size"]) == 1 else f"subspaces of the {int(at['size'])} leading axes"
    return [
        f"The {axes} of two random samples are {shown(float(at['distortion']))} times as far apart as those of nearest "
        f"neighbours{within(at['distortion_ci95'].values)}, whose codes are {shown(float(data['code_ratio']))} times "
        f"nearer. The distance of random pairs is {shown(float(at['random']))} rad, that of random subspaces "
        f"{shown(float(at['unrelated']))} rad."
    ]


def notes(result: Result) -> list[str]:
    """Return how pairs were chosen and where the intervals come from."""
    data, options = result.dataset, result.options.model_dump()
    some = (
        f" among {int(data['compared'])} samples, drawn at random"
        if int(data["compared"]) < result.about.samples
        else ""
    )
    return [
        f"Near pairs are each sample and the nearest other code{some}, whatever their classes. Random pairs are drawn "
        f"with seed {options['seed']}.",
        f"Intervals come from {options['draws']} bootstrap draws of the samples.",
    ]


def cautions(result: Result) -> list[str]:
    """Return how much of the trace is kept, and whether near codes are near."""
    lines = kept_part(result)
    if float(result["code_ratio"]) < 1.5:
        lines.append(
            "Distortion: the codes of near pairs are hardly nearer than those of random pairs (distances differ by a "
            f"factor of {float(result['code_ratio']):.2f}). More samples, or samples around codes, make nearer pairs."
        )
    return lines


def figure(result: Result) -> "dict[str, Figure]":
    """Draw the distances of near and random pairs by size, beside that of random subspaces."""
    from pullback.analysis.drawing import NULL, draw_errors, draw_line, legend_above, new_figure, plain_axes, series

    data = result.dataset
    drawn = new_figure("distortion", height=2.6)
    axes = plain_axes(drawn, x="number of leading axes, k", y="Grassmann distance (rad)")
    places = np.arange(data.sizes["size"])
    for index, (kind, label) in enumerate((("near", "nearest neighbours"), ("random", "random pairs"))):
        at = places + 0.08 * (2 * index - 1)
        low, high = data[f"{kind}_ci95"].values
        draw_errors(axes, at, data[kind].values, low, high, series(index), label)
    draw_line(axes, places, data["unrelated"].values, NULL, "random subspaces")
    axes.set_xticks(places, [str(k) for k in data["size"].values])
    axes.set_ylim(bottom=0)
    legend_above(axes)
    caption = (
        "Distance of the leading subspaces of nearest neighbours and of random pairs of samples, with 95 % bootstrap "
        "intervals. The distortion is the second over the first. The dotted line is for random subspaces."
    )
    return {caption: drawn}
