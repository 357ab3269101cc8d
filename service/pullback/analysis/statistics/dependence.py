"""Whether the metric depends on the code (Wang & Ponce, ICLR 2021, compare C_log with the distance of two codes).

Over random pairs of samples, C_log (the mean of both ways) is correlated with the distance ‖z_i − z_j‖ of their codes
and with the angle between them, and compared between pairs of one class and of two. Over samples, the trace and the
number of ranks that carry 99 % of it are correlated with ‖z‖.

Each effect has a 95 % interval and a p value by permutation. The codes (or classes, or norms) are permuted among the
samples, not among the pairs (Mantel, Cancer Research 27, 1967), because pairs that share a sample are not independent.
The p values of all effects are corrected together (Holm, Scand. J. Statist. 6, 1979).
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from pullback.analysis.bootstrap import (
    Bootstrap,
    Floats,
    Integers,
    PointOptions,
    bootstrap_weights,
    interval,
    weighted_means,
)
from pullback.analysis.pair_kernel import Spectra
from pullback.analysis.pair_sampling import compare_sampled
from pullback.analysis.pair_summary import NORMAL_95, dyadic_error
from pullback.analysis.protocol import Progress, Result, Table, strict
from pullback.analysis.samples import Samples
from pullback.analysis.side_by_side import holm
from pullback.analysis.spectra import ranked, ranks_below
from pullback.analysis.statements import interval as shown_interval
from pullback.errors import PullbackError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "whether the metric depends on the code: C_log on distances and classes, trace and ranks on norms"

SHARE = 0.99
"""The share of the trace whose ranks are counted."""

SAME = 1e-6
"""Numbers with a smaller relative spread count as equal: norms of codes on a sphere differ by round-off."""

TABLED_SAMPLES = 2000
"""Samples up to which the inner products of all codes are kept for the permutations."""

_NOWHERE = (np.nan, np.nan)


class Options(PointOptions):
    """Options of the dependence."""

    compared_pairs: int = Field(default=5000, ge=3, le=10_000_000)
    """Largest number of random pairs of these samples."""
    permutations: int = Field(default=999, ge=19, le=1_000_000)
    """Permutations behind each p value; the smallest possible p value of 999 permutations is 0.001."""


@dataclass(frozen=True)
class Effect:
    """One relation, with its uncertainty; NaN where it does not exist."""

    name: str
    value: float
    """A correlation (Pearson's r), or a difference of means."""
    ci95: tuple[float, float]
    p: float
    """Two-sided, by permutation."""
    samples: int
    pairs: int | None
    """None for an effect over samples."""
    unit: str
    """What is resampled: `sample` or `class`."""


Permuted = Callable[[Integers], Floats]
"""Returns a value for each pair, after the samples' codes or classes were dealt anew in this order."""


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return each effect with interval, p value and numbers of samples and pairs, and the pairs that were compared.

    Raises:
        PullbackError: the sweep has no codes, or fewer than 2 samples.
    """
    import xarray as xr

    samples.require(2, "the dependence on codes")
    if "latent" not in samples:
        raise PullbackError("the sweep stores no latent codes, so nothing can depend on them. Nothing was computed.")
    codes = np.asarray(samples.column("latent"), dtype=np.float64).reshape(len(samples), -1)
    chosen = samples.choose(options.points, options.seed)
    spectra = Spectra(samples.eigenvalues[chosen])
    vectors = samples.load_eigenvectors(chosen)
    pairs, values = compare_sampled(
        spectra, vectors, seed=options.seed, pairs=options.compared_pairs, progress=progress
    )
    log = values.log.mean(axis=0)
    known = np.isfinite(log)
    pairs, log = pairs[known], log[known]
    distance, angle = _distances(codes[chosen], pairs)
    nobody = np.arange(len(chosen))
    effects = [
        pair_correlation("C_log with the distance of codes", log, distance, pairs, len(chosen), options),
        pair_correlation("C_log with the angle of codes", log, angle, pairs, len(chosen), options),
    ]
    classes = samples.column("condition")[chosen] if "condition" in samples else np.full(len(chosen), -1)
    if (classes >= 0).all() and len(np.unique(classes)) > 1:
        effects.append(class_difference("C_log of one class minus of two", log, classes, pairs, options))
    effects += _norm_effects(samples, codes, options)
    p = holm(np.array([effect.p for effect in effects]))
    scalars = {
        "effects": {
            effect.name: {**asdict(effect), "p_holm": corrected} for effect, corrected in zip(effects, p, strict=True)
        },
        "samples": len(samples),
        "points": len(chosen),
        "pairs": len(pairs),
        "permutations": options.permutations,
        "ranks": samples.eigenvalues.shape[1],
        "latent_dim": samples.latent_dim,
    }
    unit = {"units": "latent unit"}
    return xr.Dataset(
        {
            "pair_sample": (("pair", "end"), samples.numbers[chosen][pairs], {"long_name": "samples of each pair"}),
            "pair_log": (("pair",), log, {"long_name": "C_log, mean of both ways", "units": "1"}),
            "pair_distance": (("pair",), distance(nobody), {"long_name": "distance of the codes", **unit}),
            "pair_angle": (("pair",), angle(nobody), {"long_name": "angle of the codes", "units": "degree"}),
        },
        attrs={"scalars": json.dumps(strict(scalars), allow_nan=False)},
    )


def pair_correlation(
    name: str, values: Floats, permuted: Permuted, pairs: Integers, samples: int, options: Options
) -> Effect:
    """Correlate values of pairs with a distance of the codes.

    The standard error is that of dyadic data (`dyadic_error`), of the linear part of r: zx zy − r (zx² + zy²)/2 for
    standardised x and y. Pairs that share a sample are not taken for independent.

    Args:
        name: of the effect.
        values: `[pairs]`.
        permuted: gives the distances for an order of the samples.
        pairs: samples i and j of each pair, `[pairs, 2]`.
        samples: how many there are.
        options: permutations and seed.
    """
    used = len(np.unique(pairs))
    own = permuted(np.arange(samples))
    y = _standard(values)
    x = _standard(own)
    if y is None or x is None or used < 3:
        return Effect(name, np.nan, _NOWHERE, np.nan, used, len(pairs), "sample")
    r = float(np.mean(x * y))
    error = dyadic_error(pairs, x * y - r * (x**2 + y**2) / 2, samples)

    def correlation(order: Integers) -> float:
        other = _standard(permuted(order))
        return 0.0 if other is None else float(np.mean(other * y))

    ends = max(r - NORMAL_95 * error, -1.0), min(r + NORMAL_95 * error, 1.0)
    return Effect(name, r, ends, _p_value(r, correlation, samples, options), used, len(pairs), "sample")


def class_difference(name: str, values: Floats, classes: Integers, pairs: Integers, options: Options) -> Effect:
    """Return the mean over pairs of one class minus that over pairs of two, with a bootstrap over classes.

    In a bootstrap draw, a pair of one class counts as often as the class was drawn, and a pair of two classes as often
    as the product of both. Fewer than three classes give no interval.

    Args:
        name: of the effect.
        values: `[pairs]`.
        classes: of each sample, `[samples]`.
        pairs: samples i and j of each pair, `[pairs, 2]`.
        options: permutations, draws and seed.
    """
    names, numbers = np.unique(classes, return_inverse=True)
    first, second = numbers[pairs].T

    def difference(order: Integers) -> float:
        same = numbers[order[pairs[:, 0]]] == numbers[order[pairs[:, 1]]]
        return float(values[same].mean() - values[~same].mean()) if 0 < same.sum() < len(same) else np.nan

    found, used = difference(np.arange(len(classes))), len(np.unique(pairs))
    if not np.isfinite(found):
        return Effect(name, np.nan, _NOWHERE, np.nan, used, len(pairs), "class")
    # Sums and counts by pair of classes, so that a draw costs no more than their square.
    shape = (len(names), len(names))
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (first, second), values)
    np.add.at(counts, (first, second), 1.0)
    weights = bootstrap_weights(len(names), options.draws, options.seed).astype(np.float64)
    inside = weights @ np.diag(sums), weights @ np.diag(counts)
    apart = [np.einsum("da,ab,db->d", weights, each - np.diag(np.diag(each)), weights) for each in (sums, counts)]
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = interval(inside[0] / inside[1] - apart[0] / apart[1])
    ends = (float(low), float(high)) if len(names) >= 3 else _NOWHERE
    return Effect(name, found, ends, _p_value(found, difference, len(classes), options), used, len(pairs), "class")


def sample_correlation(name: str, x: Floats, y: Floats, weights: Bootstrap, options: Options) -> Effect:
    """Correlate two numbers of each sample, with a bootstrap over samples and a permutation test.

    Args:
        name: of the effect.
        x: `[samples]`.
        y: `[samples]`; NaN where it does not exist.
        weights: the bootstrap.
        options: permutations and seed.
    """
    known = np.isfinite(x) & np.isfinite(y)
    many = int(known.sum())
    first, second = _standard(x[known]), _standard(y[known])
    if first is None or second is None or many < 3:
        return Effect(name, np.nan, _NOWHERE, np.nan, many, None, "sample")
    columns = np.zeros((len(x), 6))
    columns[known] = np.column_stack([np.ones(many), first, second, first**2, second**2, first * second])
    count, mean_x, mean_y, square_x, square_y, product = weighted_means(weights, columns).T
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = (square_x / count - (mean_x / count) ** 2) * (square_y / count - (mean_y / count) ** 2)
        drawn = (product / count - mean_x * mean_y / count**2) / np.sqrt(spread)
    low, high = interval(np.where(spread > 0, drawn, np.nan))
    r = float(np.mean(first * second))
    p = _p_value(r, lambda order: float(np.mean(first[order] * second)), many, options)
    return Effect(name, r, (float(low), float(high)), p, many, None, "sample")


def _distances(codes: Floats, pairs: Integers) -> tuple[Permuted, Permuted]:
    """Return functions that give distances and angles (degrees) of the codes of each pair."""
    squares = np.sum(codes**2, axis=1)
    norms = np.sqrt(squares)
    table = codes @ codes.T if len(codes) <= TABLED_SAMPLES else None

    def inner(i: Integers, j: Integers) -> Floats:
        return table[i, j] if table is not None else np.einsum("pn,pn->p", codes[i], codes[j])

    def distance(order: Integers) -> Floats:
        i, j = order[pairs].T
        result: Floats = np.sqrt(np.maximum(squares[i] + squares[j] - 2 * inner(i, j), 0.0))
        return result

    def angle(order: Integers) -> Floats:
        i, j = order[pairs].T
        product = norms[i] * norms[j]
        cosines = np.divide(inner(i, j), product, out=np.zeros(len(pairs)), where=product > 0)
        result: Floats = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
        return result

    return distance, angle


def _norm_effects(samples: Samples, codes: Floats, options: Options) -> list[Effect]:
    norms, weights = np.linalg.norm(codes, axis=1), samples.bootstrap(options.draws, options.seed)
    spectra = ranked(samples.eigenvalues)
    totals = np.maximum(samples.trace, spectra.sum(axis=1)) if samples.truncated else spectra.sum(axis=1)
    traces = np.log10(totals, out=np.full(len(totals), np.nan), where=totals > 0)
    effects = [sample_correlation("log trace with the norm of the code", norms, traces, weights, options)]
    if not samples.estimated:
        needed = (ranks_below(spectra, SHARE, totals) + 1).astype(np.float64)
        needed[(needed > spectra.shape[1]) | (totals <= 0)] = np.nan
        name = f"ranks for {100 * SHARE:g} % with the norm of the code"
        effects.append(sample_correlation(name, norms, needed, weights, options))
    return effects


def _p_value(found: float, statistic: Callable[[Integers], float], samples: int, options: Options) -> float:
    """Return the two-sided p value (1 + number as far from 0) / (1 + permutations); Phipson & Smyth, 2010."""
    generator = np.random.default_rng([options.seed, 6])
    far = 1
    for _ in range(options.permutations):
        permuted = statistic(generator.permutation(samples))
        far += not abs(permuted) < abs(found) * (1 - 1e-12)
    return far / (1 + options.permutations)


def _standard(values: Floats) -> Floats | None:
    """Return values minus their mean, divided by their standard deviation; None if all are equal or there are none."""
    if not len(values):
        return None
    centred = values - values.mean()
    spread = float(np.sqrt(np.mean(centred**2)))
    if spread <= SAME * float(np.abs(values).max()):
        return None
    result: Floats = centred / spread
    return result


def to_json(result: Result) -> dict[str, Any]:
    """Return every effect, without the pairs."""
    content: dict[str, Any] = json.loads(result.dataset.attrs["scalars"])
    return content


def summary(result: Result) -> Table:
    """Return a row for each effect."""
    rows = [
        [
            name,
            "–" if each["value"] is None else f"{each['value']:.3f}",
            shown_interval(each["ci95"], 3),
            "–" if each["p"] is None else f"{each['p']:.3g}",
            "–" if each["p_holm"] is None else f"{each['p_holm']:.3g}",
            str(each["samples"]),
            "–" if each["pairs"] is None else str(each["pairs"]),
        ]
        for name, each in result.json["effects"].items()
    ]
    columns = ("", ">r or difference", ">95 % interval", ">p", ">p corrected", ">samples", ">pairs")
    return Table(columns, rows, "Dependence on the code")


def sentences(result: Result) -> list[str]:
    """Return which effects are beyond chance, and how large they are."""
    found = result.json["effects"]
    sure = [f"{name} ({each['value']:.2f})" for name, each in found.items() if (each["p_holm"] or 1) < 0.05]
    known = [name for name, each in found.items() if each["value"] is not None]
    if not known:
        return ["No relation of the metric with the code could be measured."]
    if not sure:
        return [f"None of {len(known)} relations of the metric with the code is beyond chance (corrected p < 0.05)."]
    return [f"Beyond chance (corrected p < 0.05), of {len(known)} relations: {', '.join(sure)}."]


def notes(result: Result) -> list[str]:
    """Return how pairs, intervals and p values are made."""
    found, options = result.json, result.options.model_dump()
    return [
        f"C_log is the mean of both ways of each of {found['pairs']} random pairs of {found['points']} samples. Their "
        "intervals take into account that pairs share samples; those over samples and over classes come from "
        f"{options['draws']} bootstrap draws.",
        f"p values are two-sided, from {found['permutations']} permutations of the samples, and corrected by Holm's "
        "method for the number of relations.",
    ]


def cautions(result: Result) -> list[str]:
    """Return which relations do not exist in this sweep, and what the ranks that are not kept leave undetermined."""
    found = result.json
    missing = [name for name, each in found["effects"].items() if each["value"] is None]
    constant = f"Not defined, because one of the two numbers does not vary: {', '.join(missing)}."
    lines = [constant] if missing else []
    if found["ranks"] < found["latent_dim"]:
        lines.append(f"C_log compares the leading {found['ranks']} of {found['latent_dim']} ranks only.")
    return lines


def figure(result: Result) -> "dict[str, Figure]":
    """Draw C_log of the pairs against the distance of their codes."""
    from pullback.analysis.drawing import draw_line, legend_above, new_figure, plain_axes, series

    distance, log = result["pair_distance"].values, result["pair_log"].values
    if not len(log):
        return {}
    drawn = new_figure("dependence-distance", height=2.7)
    axes = plain_axes(drawn, x="distance of the codes (latent units)", y="C_log of the pair")
    first = series(0)
    dots = {"marker": ".", "markersize": 3, "linestyle": "none", "alpha": 0.35, "rasterized": True}
    draw_line(axes, distance, log, first, "pairs of samples", marked=False, **dots)
    edges = np.unique(np.quantile(distance, np.linspace(0, 1, 11)))
    if len(edges) > 2:
        bins = np.clip(np.digitize(distance, edges) - 1, 0, len(edges) - 2)
        middle = [(float(distance[bins == k].mean()), float(log[bins == k].mean())) for k in np.unique(bins)]
        x, y = zip(*middle, strict=True)
        draw_line(axes, x, y, series(1), "mean of each tenth")
    legend_above(axes)
    return {"C_log of random pairs of samples against the distance of their codes.": drawn}
