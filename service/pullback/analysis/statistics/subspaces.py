"""Principal angles and canonical correlations between the leading subspaces of samples.

Principal angles compare two subspaces as such: θ_1 ≤ … ≤ θ_k, all 0 for the same subspace (Björck & Golub, Math. Comp.
27, 1973). Their mean squared cosine is the overlap, k/n for random subspaces.

Canonical correlations compare them on the codes that occur: ρ_1 ≥ … ≥ ρ_k are the largest correlations of linear
combinations of U_i z with linear combinations of U_j z over codes z (Hotelling, Biometrika 28, 1936). If the codes'
covariance S is the identity, ρ_m = cos θ_m. Elsewhere, as in w of a StyleGAN, they differ, because codes vary in few
directions. They equal the cosines of the principal angles of U_i S^½ and U_j S^½. S is estimated from the codes of the
sweep; few samples raise all correlations, those of random subspaces too, which stand beside them.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.analysis.bootstrap import Floats, Integers, bootstrap_weights
from pullback.analysis.grassmann import orthonormal, principal_angles, principal_cosines, random_frames
from pullback.analysis.leading import (
    SubspacePairOptions,
    has_leading,
    kept_part,
    kept_variables,
    leading_frames,
    usable_sizes,
)
from pullback.analysis.pair_samples import pair_interval, pair_mean, random_pairs
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.samples import Samples
from pullback.analysis.scalars import shown, shown_interval, variable, within

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "principal angles and canonical correlations between the leading subspaces of pairs of samples"

_NULL_DRAWS = 500
"""Pairs of random subspaces behind each control."""


class Options(SubspacePairOptions):
    """Options of the comparison of subspaces."""


def decisive(options: Options, samples: int) -> Options:
    """Return the options that decide the result of this number of samples."""
    return options.limited(samples)


def code_factor(codes: Floats) -> Floats:
    """Return F `[n, r]` with S = F Fᵀ for the covariance S of codes `[samples, n]`, r its rank."""
    centred = codes - codes.mean(axis=0)
    _, sizes, rows = np.linalg.svd(centred / np.sqrt(max(len(codes) - 1, 1)), full_matrices=False)
    rank = int(np.sum(sizes > 1e-10 * sizes[0])) if sizes.size and sizes[0] > 0 else 0
    factor: Floats = rows[:rank].T * sizes[:rank]
    return factor


def canonical_correlations(one: Floats, other: Floats, factor: Floats) -> Floats:
    """Return the canonical correlations `[..., k]`, descending, of the coordinates that codes have in two frames.

    Args:
        one: frames `[..., k, n]`.
        other: frames `[..., k, n]`.
        factor: of the codes' covariance, `[n, r]` with r ≥ k.
    """
    return principal_cosines(orthonormal(one @ factor), orthonormal(other @ factor))


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return principal angles, overlaps and canonical correlations by size, with intervals and those of random ones."""
    import xarray as xr

    samples.require(2, "a comparison of pairs")
    sizes = usable_sizes(options.sizes, samples)
    n, most = samples.latent_dim, sizes[-1]
    chosen = samples.choose(options.points, options.seed)
    pairs = random_pairs(len(chosen), options.pairs, options.seed)
    weights = bootstrap_weights(len(chosen), options.draws, options.seed)
    frames = leading_frames(samples.eigenvectors, most, chosen)
    factor = None
    if "latent" in samples:
        codes = np.asarray(samples.column("latent"), dtype=np.float64)
        factor = code_factor(codes) if codes.ndim == 2 and codes.shape[1] == n else None
    kinds = ("angle", "correlation")
    values = {kind: np.full((len(pairs), len(sizes), most), np.nan) for kind in kinds}
    null = {kind: np.full((len(sizes), most), np.nan) for kind in kinds}
    squared = np.empty(len(sizes))
    for place, k in enumerate(sizes):
        both = np.flatnonzero(has_leading(samples.eigenvalues[chosen], k)[pairs].all(axis=1))
        for start in range(0, len(both), 256):
            part = both[start : start + 256]
            ours, theirs = (frames[pairs[part, side], :k] for side in (0, 1))
            _fill(values, (part, place), ours, theirs, factor)
        one, other = (
            random_frames(_NULL_DRAWS, k, n, np.random.default_rng([options.seed, k, half])) for half in (0, 1)
        )
        drawn = {kind: np.full((_NULL_DRAWS, 1, most), np.nan) for kind in kinds}
        _fill(drawn, (np.arange(_NULL_DRAWS), 0), one, other, factor)
        for kind in kinds:
            null[kind][place] = drawn[kind][:, 0].mean(axis=0)
        squared[place] = np.mean(drawn["correlation"][:, 0, :k] ** 2)
        progress(place + 1, len(sizes))
    squares = {"overlap": np.cos(np.radians(values["angle"])) ** 2, "squared_correlation": values["correlation"] ** 2}
    entries: dict[str, Any] = {}
    words = {"angle": "principal angle", "correlation": "canonical correlation"}
    for kind, unit in (("angle", "degrees"), ("correlation", "1")):
        dims, of = ("size", "order"), f"mean {words[kind]} of this order over pairs"
        _add(entries, kind, dims, of, unit, pairs, values[kind], weights)
        low, high = _band(values[kind])
        entries[f"{kind}_p5"] = variable(dims, low, f"5th percentile over pairs of the {words[kind]}", unit)
        entries[f"{kind}_p95"] = variable(dims, high, f"95th percentile over pairs of the {words[kind]}", unit)
        entries[f"random_{kind}"] = variable(dims, null[kind], f"mean {words[kind]} of random subspaces", unit)
    for name, of in (
        ("overlap", "mean squared cosine of the principal angles"),
        ("squared_correlation", "mean squared canonical correlation"),
    ):
        known = np.isfinite(squares[name])
        counts = known.sum(axis=2)
        total = np.where(known, squares[name], 0.0).sum(axis=2)
        mean = np.divide(total, counts, out=np.full(total.shape, np.nan), where=counts > 0)
        _add(entries, name, ("size",), of, "1", pairs, mean, weights)
    entries["random_overlap"] = variable(("size",), np.array(sizes) / n, "expected overlap of random subspaces", "1")
    words_of = "mean squared canonical correlation of random subspaces"
    entries["random_squared_correlation"] = variable(("size",), squared, words_of, "1")
    entries["compared"] = variable((), len(chosen), "samples that are compared", "1")
    entries["pairs"] = variable((), len(pairs), "pairs that are compared", "1")
    return xr.Dataset({**entries, **kept_variables(samples)}, coords={"size": sizes, "order": np.arange(1, most + 1)})


def _fill(
    values: dict[str, Floats], at: tuple[Integers, int], one: Floats, other: Floats, factor: Floats | None
) -> None:
    """Write the angles in degrees, and the correlations where codes have a covariance of sufficient rank."""
    part, place = at
    k = one.shape[-2]
    values["angle"][part, place, :k] = np.degrees(principal_angles(one, other))
    if factor is not None and factor.shape[1] >= k:
        values["correlation"][part, place, :k] = canonical_correlations(one, other, factor)


def _add(
    entries: dict[str, Any],
    name: str,
    dims: tuple[str, ...],
    words: str,
    unit: str,
    pairs: Integers,
    values: Floats,
    weights: Integers,
) -> None:
    """Add a mean over pairs and its interval to the entries of a dataset."""
    mean, drawn = pair_mean(pairs, values, weights)
    ends = pair_interval(pairs, values, drawn)
    entries[name] = variable(dims, mean, words, unit)
    entries[f"{name}_ci95"] = variable(("end", *dims), ends, f"95 % bootstrap interval of the {words}", unit)


def _band(values: Floats) -> Floats:
    """5th and 95th percentile over pairs `[2, size, order]`; NaN where no pair has a value."""
    flat = values.reshape(len(values), -1)
    ends = np.full((2, flat.shape[1]), np.nan)
    for column in range(flat.shape[1]):
        known = flat[np.isfinite(flat[:, column]), column]
        if known.size:
            ends[:, column] = np.quantile(known, [0.05, 0.95])
    return ends.reshape(2, *values.shape[1:])


def summary(result: Result) -> list[Table]:
    """Return overlaps and canonical correlations by size, and the principal angles of the largest size."""
    data = result.dataset
    rows = []
    for size in data["size"].values:
        at = data.sel(size=size)
        cells = [*_both(at, "overlap"), shown(float(at["random_overlap"]))]
        rows.append([str(size), *cells, *_both(at, "squared_correlation")])
        rows[-1].append(shown(float(at["random_squared_correlation"])))
    at = data.isel(size=-1)
    angles = []
    for place in range(data.sizes["order"]):
        one = at.isel(order=place)
        angles.append(
            [
                str(place + 1),
                *_both(one, "angle"),
                shown(float(one["random_angle"])),
                *_both(one, "correlation"),
                shown(float(one["random_correlation"])),
            ]
        )
    heads = (">k", ">overlap", ">95 % interval", ">random", ">mean ρ²", ">95 % interval", ">random")
    columns = (">order", ">angle (°)", ">95 % interval", ">random (°)", ">correlation ρ", ">95 % interval", ">random")
    return [
        Table(heads, rows, f"Leading subspaces of {int(data['pairs'])} pairs of samples"),
        Table(columns, angles, f"Principal angles and canonical correlations, k = {int(at['size'])}"),
    ]


def _has(values: Any) -> bool:
    return bool(np.isfinite(values.values).any())


def _both(at: "xr.Dataset", name: str) -> tuple[str, str]:
    return shown(float(at[name])), shown_interval(at[f"{name}_ci95"].values)


def sentences(result: Result) -> list[str]:
    """Return how much of their leading subspaces two samples share."""
    data = result.dataset
    known = data["size"].values[np.isfinite(data["overlap"].values)]
    if not len(known):
        return ["No two samples have leading subspaces to compare."]
    at = data.sel(size=min(known, key=lambda k: abs(int(k) - 10)))
    size = int(at["size"])
    what = "leading axes" if size == 1 else f"subspaces of the {size} leading axes"
    return [
        f"The {what} of two samples overlap by {shown(float(at['overlap']))}{within(at['overlap_ci95'].values)}, and "
        f"random ones by {shown(float(at['random_overlap']))}. The smallest angle between two of them is "
        f"{shown(float(at['angle'][0]))}° in the mean, and the largest {shown(float(at['angle'][size - 1]))}°."
    ]


def notes(result: Result) -> list[str]:
    """Return how pairs were chosen, what the correlations are, and where the intervals come from."""
    data, options = result.dataset, result.options.model_dump()
    some = (
        f" of {int(data['compared'])} samples, drawn at random" if int(data["compared"]) < result.about.samples else ""
    )
    lines = [
        f"{int(data['pairs'])} random pairs{some} were compared (seed {options['seed']}). Intervals come from "
        f"{options['draws']} bootstrap draws of the samples.",
    ]
    if _has(data["correlation"]):
        lines.append(
            "Canonical correlations are those of the codes' coordinates along the two samples' axes, with the "
            "covariance of the sweep's codes. Few codes raise all of them, so compare with the random ones."
        )
    return lines


def cautions(result: Result) -> list[str]:
    """Return how much of the trace is kept; nothing if all eigenpairs are."""
    return kept_part(result)


def figure(result: Result) -> "dict[str, Figure]":
    """Draw the principal angles of the largest size by order, with their band over pairs, beside random ones."""
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
    at = data.isel(size=-1)
    order = data["order"].values
    angles = new_figure("principal-angles", height=2.6)
    axes = plain_axes(angles, x="order of the principal angle", y="angle (degrees)")
    draw_band(axes, order, at["angle_p5"].values, at["angle_p95"].values, series(0), label="5–95 % of pairs")
    draw_line(axes, order, at["angle"].values, series(0), label="mean of pairs", marked=True)
    draw_line(axes, order, at["random_angle"].values, NULL, "random subspaces")
    rank_axis(axes, len(order))
    axes.set_ylim(0, 92)
    legend_above(axes)
    overlaps = new_figure("subspace-overlap", height=2.5)
    axes = plain_axes(overlaps, x="number of leading axes, k", y="mean cos² or ρ²")
    places = np.arange(data.sizes["size"])
    for index, (name, label) in enumerate((("overlap", "overlap"), ("squared_correlation", "canonical correlation²"))):
        moved = places + 0.08 * (2 * index - 1)
        low, high = data[f"{name}_ci95"].values
        draw_errors(axes, moved, data[name].values, low, high, series(index), label)
    draw_line(axes, places, data["random_overlap"].values, NULL, "random subspaces")
    axes.set_xticks(places, [str(k) for k in data["size"].values])
    axes.set_ylim(0, 1.03)
    legend_above(axes)
    return {
        f"Principal angles between the subspaces of the {int(at['size'])} leading axes of two samples. At 0° an axis "
        "of one lies in the subspace of the other.": angles,
        "Overlap and squared canonical correlation of the leading subspaces of two samples by size, with 95 % "
        "bootstrap intervals. The dotted line is the expectation for random subspaces, k/n.": overlaps,
    }
