"""Random directions: how fast the image changes along a random direction (Wang & Ponce, ICLR 2021).

For v uniform on the unit sphere of n dimensions, vᵀHv has the mean Σλ/n and the variance
2 (n Σλ² − (Σλ)²) / (n² (n + 2)). Both are computed for each sample from its spectrum, and checked by Monte Carlo with
directions and eigenvectors. The axes of the mean metric H̄ are then placed in the null distribution of vᵀH̄v.

If k < n eigenpairs are kept, the mean follows from the trace. The variance also depends on the rest of the
spectrum, so bounds are given. The Monte Carlo check is then that of the kept part.
"""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pullback.analysis.bootstrap import BootstrapOptions, DrawnMeans, Floats, interval, weighted_means
from pullback.analysis.eigenbasis import eigenbasis, rates_in_parts
from pullback.analysis.protocol import Progress, Result, Table, strict
from pullback.analysis.samples import Samples
from pullback.analysis.spectra import random_direction_variance
from pullback.analysis.statements import interval as shown_interval
from pullback.analysis.statements import percent, shown_ranks

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "how fast the image changes along random directions, and where the axes of the mean metric stand among them"

_RATE = "squared image distance per squared latent length"


class Options(BootstrapOptions):
    """Options of the random directions."""

    directions: int = Field(default=3000, ge=2, le=1_000_000)
    """Random directions of each Monte Carlo check, and of the null distribution of the mean metric."""
    checked: int = Field(default=200, ge=1, le=1_000_000)
    """Largest number of samples whose formulas are checked by Monte Carlo, drawn at random."""


def null_moments(eigenvalues: npt.ArrayLike, latent_dim: int) -> tuple[Floats, Floats]:
    """Return mean and variance of vᵀHv over uniformly random unit vectors v (Wang & Ponce, ICLR 2021).

    Args:
        eigenvalues: all eigenvalues of each metric that are not zero, `[samples, k]`.
        latent_dim: n.

    Returns:
        Mean Σλ/n and variance 2 (n Σλ² − (Σλ)²) / (n² (n + 2)), `[samples]` each.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    return values.sum(axis=-1) / latent_dim, random_direction_variance(
        values.sum(axis=-1), np.sum(values**2, axis=-1), latent_dim
    )


def variance_bounds(eigenvalues: npt.ArrayLike, trace: npt.ArrayLike, latent_dim: int) -> tuple[Floats, Floats]:
    """Return bounds of the variance of vᵀHv of metrics of which k < n eigenvalues and the trace are known.

    The n − k other eigenvalues μ are between 0 and the smallest kept one and have the sum R = tr H − Σλ. So Σμ² lies
    between R²/(n − k), if they are equal, and R λ_k.

    Args:
        eigenvalues: `[samples, k]`, kept ones.
        trace: of the whole metrics, `[samples]`.
        latent_dim: n.

    Returns:
        Lower and upper bound, `[samples]` each; both the variance itself if k = n.
    """
    values = np.asarray(eigenvalues, dtype=np.float64)
    sums, squares = values.sum(axis=1), np.sum(values**2, axis=1)
    remaining = latent_dim - values.shape[1]
    if remaining == 0:
        variance = random_direction_variance(sums, squares, latent_dim)
        return variance, variance
    rest = np.maximum(np.asarray(trace, dtype=np.float64) - sums, 0.0)
    least = rest**2 / remaining
    most = np.maximum(rest * np.maximum(values.min(axis=1), 0.0), least)
    low, high = (random_direction_variance(sums + rest, squares + each, latent_dim) for each in (least, most))
    return low, high


def random_rates(
    eigenvalues: npt.ArrayLike, eigenvectors: npt.ArrayLike, directions: int, generator: np.random.Generator
) -> Floats:
    """Return vᵀHv for uniformly random unit vectors v, `[directions]`, of one metric.

    Args:
        eigenvalues: `[k]`.
        eigenvectors: `[k, n]`, unit rows.
        directions: how many.
        generator: of the vectors.
    """
    values, rows = np.asarray(eigenvalues, dtype=np.float64), np.asarray(eigenvectors, dtype=np.float64)
    vectors = generator.standard_normal((directions, rows.shape[1]))
    rates: Floats = np.square(vectors @ rows.T) @ values / np.sum(vectors**2, axis=1)
    return rates


def percentiles(rates: npt.ArrayLike, null: npt.ArrayLike) -> Floats:
    """Return the share of the null distribution below each rate, in per cent; ties count half."""
    ordered = np.sort(np.asarray(null, dtype=np.float64))
    values = np.asarray(rates, dtype=np.float64)
    below = np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")
    shares: Floats = 50.0 * below / len(ordered)
    return shares


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return mean and standard deviation of the null by sample, the Monte Carlo check, and the percentile of each axis.

    The summary with its intervals is JSON in `attrs`.
    """
    import xarray as xr

    n, weights = samples.latent_dim, samples.bootstrap(options.draws, options.seed)
    values = samples.eigenvalues
    trace = np.maximum(samples.trace, values.sum(axis=1)) if samples.truncated else values.sum(axis=1)
    low, high = (np.sqrt(each) for each in variance_bounds(values, trace, n))
    checked = samples.choose(options.checked, options.seed)
    rows = []
    for done, sample in enumerate(checked, 1):
        rows.append(_check(samples, int(sample), options))
        progress(done, len(checked))
    found = np.array(rows).T
    axes = _axes(samples, trace / n, weights, options)
    largest = values.max(axis=1)
    scalars = {
        "latent_dim": n,
        "ranks": values.shape[1],
        "samples": len(samples),
        "directions": options.directions,
        "trace": "estimated" if samples.estimated else "exact",
        "trace_share": float(values.sum() / trace.sum()) if trace.sum() > 0 else 1.0,
        "mean": _with_interval(weights, trace / n),
        "relative_std": _with_interval(weights, high, trace / n),
        "relative_std_low": _with_interval(weights, low, trace / n),
        "largest": _with_interval(weights, largest, trace / n),
        "agreement": _agreement(found, options.directions),
        "axes_above": int(np.sum(axes["percentile"] > 95)),
        "axes_below": int(np.sum(axes["percentile"] < 5)),
        "axes": len(axes["percentile"]),
        "whole": samples.whole,
        "null_band": axes.pop("band"),
    }
    rate, one, per = {"units": _RATE}, {"units": "1"}, {"units": "%"}
    return xr.Dataset(
        {
            "random_mean": (("sample",), trace / n, {"long_name": "mean rate along random directions", **rate}),
            "random_std": (("end", "sample"), np.stack([low, high]), {"long_name": "bounds of its deviation", **rate}),
            "checked_sample": (("checked",), samples.numbers[checked], {"long_name": "sample of the check"}),
            "formula_mean": (("checked",), found[0], {"long_name": "mean by the formula, kept part", **rate}),
            "formula_std": (("checked",), found[1], {"long_name": "deviation by the formula, kept part", **rate}),
            "monte_carlo_mean": (("checked",), found[2], {"long_name": "mean by Monte Carlo, kept part", **rate}),
            "monte_carlo_std": (("checked",), found[3], {"long_name": "deviation by Monte Carlo, kept part", **rate}),
            "mean_error": (("checked",), found[4], {"long_name": "difference in standard errors, mean", **one}),
            "std_error": (("checked",), found[5], {"long_name": "difference in standard errors, deviation", **one}),
            "axis_rate": (("axis",), axes["rate"], {"long_name": "rate of the mean metric along its axes", **rate}),
            "axis_ratio": (("axis",), axes["ratio"], {"long_name": "times the mean of random directions", **one}),
            "axis_ratio_ci95": (("end", "axis"), axes["ratio_ci95"], {"long_name": "95 % interval", **one}),
            "axis_percentile": (("axis",), axes["percentile"], {"long_name": "random directions below", **per}),
            "axis_percentile_ci95": (("end", "axis"), axes["percentile_ci95"], {"long_name": "95 % interval", **per}),
            "axis_deviations": (("axis",), axes["deviations"], {"long_name": "null deviations above the mean", **one}),
        },
        attrs={"scalars": json.dumps(strict(scalars), allow_nan=False)},
    )


def to_json(result: Result) -> dict[str, Any]:
    """Return the summary, and rate, ratio and percentile of each axis of the mean metric."""
    content: dict[str, Any] = json.loads(result.dataset.attrs["scalars"])
    names = ("rate", "ratio", "ratio_ci95", "percentile", "percentile_ci95", "deviations")
    return {**content, "axis": {name: result[f"axis_{name}"].values for name in names}}


def summary(result: Result) -> list[Table]:
    """Return a table of the null, one of the check, and one of the axes of the mean metric."""
    found = result.json
    bounds = found["ranks"] < found["latent_dim"]
    rows = [["mean rate, trace / n", _three(found["mean"]["value"]), shown_interval(found["mean"]["ci95"], None)]]
    for name, label in (("relative_std_low", "at least"), ("relative_std", "at most")):
        if bounds or name == "relative_std":
            words = f"standard deviation / mean{f', {label}' if bounds else ''}"
            rows.append([words, _three(found[name]["value"]), shown_interval(found[name]["ci95"], None)])
    rows.append(
        ["largest eigenvalue / mean", _three(found["largest"]["value"]), shown_interval(found["largest"]["ci95"], None)]
    )
    null = Table(("along random directions", ">mean over samples", ">95 % interval"), rows, "Random directions")
    check = found["agreement"]
    agreed = Table(
        ("", ">samples", ">within 1.96 standard errors", ">root mean square, standard errors"),
        [
            [label, str(check["samples"]), _share(check[name]["within"]), _three(check[name]["rms"])]
            for name, label in (("mean", "mean"), ("std", "standard deviation"))
        ],
        f"Formula against Monte Carlo, {found['directions']} directions each",
    )
    axis = found["axis"]
    listed = [
        [
            str(rank + 1),
            _three(axis["rate"][rank]),
            _three(axis["ratio"][rank]),
            shown_interval((axis["ratio_ci95"][0][rank], axis["ratio_ci95"][1][rank]), None),
            f"{axis['percentile'][rank]:.1f}",
        ]
        for rank in shown_ranks(len(axis["rate"]))
    ]
    part = "mean H" if found["whole"] else "kept part of the mean H"
    columns = (">axis", ">rate", ">times the random mean", ">95 % interval", ">percentile")
    return [null, agreed, Table(columns, listed, f"Axes of the {part} among random directions")]


def sentences(result: Result) -> list[str]:
    """Return how the best direction and the axes of the mean metric compare with random directions."""
    found = result.json
    lines = []
    if found["largest"]["value"] is not None:
        lines.append(
            f"Along its largest eigenvector a sample's image changes {found['largest']['value']:.3g} times as fast as "
            "along a random direction in the mean."
        )
    lines.append(
        f"Of the {found['axes']} axes of the mean metric, {found['axes_above']} are above the 95th percentile of "
        f"random directions and {found['axes_below']} below the 5th."
    )
    return lines


def notes(result: Result) -> list[str]:
    """Return how the null is made, and how its formula was checked."""
    found, options = result.json, result.options.model_dump()
    return [
        "For v uniform on the unit sphere, vᵀHv has the mean Σλ/n and the variance 2(nΣλ² − (Σλ)²)/(n²(n + 2)). Rates "
        f"are {_RATE}.",
        f"The check draws {found['directions']} directions for each of {found['agreement']['samples']} samples. If the "
        "formula holds, about 95 % of the differences are within 1.96 standard errors and their root mean square is "
        "about 1.",
        f"Intervals come from {options['draws']} bootstrap draws of the samples; the axes of the mean metric stay "
        "fixed.",
    ]


def cautions(result: Result) -> list[str]:
    """Return what the ranks that are not kept leave undetermined; nothing if all are kept."""
    found = result.json
    if found["ranks"] == found["latent_dim"]:
        return []
    return [
        f"The kept {found['ranks']} of {found['latent_dim']} eigenpairs carry {percent(found['trace_share'])} of the "
        f"trace, which is {'an estimate' if found['trace'] == 'estimated' else 'exact'}. The mean comes from the "
        "trace; the standard deviation is bounded; the check is that of the kept part."
    ]


def figure(result: Result) -> "dict[str, Figure]":
    """Draw the rates of the mean metric's axes against the null."""
    from pullback.analysis.drawing import (
        NULL,
        draw_band,
        draw_line,
        drawable,
        legend_above,
        log_axis,
        new_figure,
        plain_axes,
        raised,
        rank_axis,
        series,
    )

    rates = np.array(result["axis_rate"].values)
    low, middle, high = result.json["null_band"]
    if not rates.size or rates[0] <= 0:
        return {}
    drawn = new_figure("random-directions", height=2.7)
    axes = plain_axes(drawn, x="axis of the mean metric, by rank", y="rate (D² per latent length²)")
    axes.set_yscale("log")
    ranks, level = np.arange(1, len(rates) + 1), np.ones(len(rates))
    ends = raised(low * level, rates[0]), raised(high * level, rates[0])
    draw_band(axes, ranks, *ends, NULL, "5–95 % of random directions")
    draw_line(axes, ranks, middle * level, NULL, "mean of random directions", marked=False)
    draw_line(axes, ranks, drawable(rates, rates[0]), series(0), "axes of the mean metric")
    rank_axis(axes, len(rates))
    log_axis(axes.yaxis)
    legend_above(axes)
    return {"Rate of change along the axes of the mean metric, against random directions.": drawn}


def _check(samples: Samples, sample: int, options: Options) -> list[float]:
    """Formula and Monte Carlo of one sample's kept part, and their differences in standard errors."""
    values = samples.eigenvalues[sample]
    vectors = np.asarray(samples.eigenvectors[sample : sample + 1])[0]
    generator = np.random.default_rng([options.seed, 4, int(samples.numbers[sample])])
    rates = random_rates(values, vectors, options.directions, generator)
    mean, variance = (float(each) for each in null_moments(values, samples.latent_dim))
    drawn, centred = float(rates.mean()), rates - rates.mean()
    square = float(np.mean(centred**2))
    errors = np.sqrt(square / len(rates)), np.sqrt(max(float(np.mean(centred**4)) - square**2, 0.0) / len(rates))
    # The rates of an isotropic metric are equal: their differences are round-off.
    known = square > (1e-6 * abs(drawn)) ** 2
    z = [(drawn - mean) / errors[0], (square - variance) / errors[1]] if known and errors[1] > 0 else [np.nan] * 2
    return [mean, np.sqrt(variance), drawn, np.sqrt(square), *z]


def _agreement(found: Floats, directions: int) -> dict[str, Any]:
    names = {"mean": found[4], "std": found[5]}
    known = int(np.isfinite(found[4]).sum())
    return {
        "samples": known,
        "directions": directions,
        **{
            name: {
                "within": float(np.mean(np.abs(z[np.isfinite(z)]) < 1.96)) if known else None,
                "rms": float(np.sqrt(np.mean(z[np.isfinite(z)] ** 2))) if known else None,
            }
            for name, z in names.items()
        },
    }


def _axes(samples: Samples, means: Floats, weights: Any, options: Options) -> dict[str, Any]:
    """Rates, ratios and percentiles of the axes of the mean metric, or of its kept part."""
    values, axes = eigenbasis(samples.mean_metric())
    n = samples.latent_dim
    generator = np.random.default_rng([options.seed, 5])
    vectors = np.square(generator.standard_normal((options.directions, n)))
    null = vectors @ values / vectors.sum(axis=1)
    mean, variance = (float(each) for each in null_moments(values, n))
    scale = 1 / mean if mean > 0 else np.nan
    # The part of dropped pairs of whole metrics is in H̄, and their spread is not known.
    base = means if samples.whole else samples.eigenvalues.sum(axis=1) / n
    drawn_means = DrawnMeans(weights, len(axes) + 1)
    for part, rates in rates_in_parts(axes, samples.eigenvalues, samples.eigenvectors):
        drawn_means.add(np.column_stack([rates, base[part]]))
    kept_means, drawn = drawn_means.means()
    drawn[:, :-1] += values - kept_means[:-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        ends = np.stack(interval(drawn[:, :-1] / drawn[:, -1:]))
    return {
        "rate": values,
        "ratio": values * scale,
        "ratio_ci95": ends,
        "percentile": percentiles(values, null),
        "percentile_ci95": np.stack([percentiles(end, null * scale) for end in ends]),
        "deviations": (values - mean) / np.sqrt(variance) if variance > 0 else np.full(n, np.nan),
        "band": [*np.percentile(null, [5]), mean, *np.percentile(null, [95])],
    }


def _with_interval(weights: Any, values: Floats, base: Floats | None = None) -> dict[str, Any]:
    """Mean of values, or of their ratios to a base where that is positive, with a bootstrap interval."""
    known = np.ones(len(values), dtype=bool) if base is None else base > 0
    ratios = values if base is None else np.divide(values, base, out=np.zeros_like(values), where=known)
    if not known.any():
        return {"value": None, "ci95": [None, None]}
    drawn = weighted_means(weights, np.column_stack([np.where(known, ratios, 0.0), known]))
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = interval(drawn[:, 0] / drawn[:, 1])
    return {"value": float(ratios[known].mean()), "ci95": [float(low), float(high)]}


def _three(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.3g}"


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)
