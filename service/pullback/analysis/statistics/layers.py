"""Amplification between layers: does a direction that changes one layer much change the others much?

Each sweep has the metric of one layer's activation (`distance: {name: features, layer: ...}`) at the same codes; the
last one that is named is the reference, such as the image metric. Along the eigenvectors of layer i, the rates of layer
j are A_ij = diag(U_iᵀ H_j U_i). They are compared with the eigenvalues of H_i: Pearson's r, r of the logarithms, and
slope and intercept of log10 A_ij on log10 λ_i (Wang & Ponce, ICLR 2021, who report r = .915, log r = .993 and slope
.995 for the 13 layers of a DCGAN). C_log and C_lin compare A_ij with the eigenvalues of H_j by rank, as for two codes.

Controls: U_i of a code with H_j of another one, and random axes in place of U_i.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from pullback.analysis.bootstrap import Bootstrap, BootstrapOptions, Floats
from pullback.analysis.correlations import NULL_FLOOR
from pullback.analysis.cross_metrics import CrossMetrics, Eigenpairs, Line, partners
from pullback.analysis.grassmann import random_frames
from pullback.analysis.layer_figures import layer_figures
from pullback.analysis.matching import Matched, match
from pullback.analysis.own_numbers import add_own, own_json
from pullback.analysis.paired_numbers import PAIRINGS, control_tests, means_of
from pullback.analysis.protocol import Progress, Result, Table, strict
from pullback.analysis.samples import Samples
from pullback.analysis.side_by_side import MEAN_DIMS, side_by_side
from pullback.analysis.spectra import SHARES
from pullback.analysis.statements import interval as shown_interval
from pullback.errors import PullbackError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "layers of a generator: amplification of one layer's axes in the others, and curves along depth"
SWEEPS = "several"

NUMBERS = {
    "linear": "r of A_ij with λ_i",
    "log": "r of log A_ij with log λ_i",
    "slope": "slope of log A_ij on log λ_i",
    "intercept": "intercept of log10 A_ij",
    "c_lin": "C_lin: r of A_ij with λ_j by rank",
    "c_log": "C_log: the same of logarithms",
}
"""The numbers of each ordered pair of layers."""


class Options(BootstrapOptions):
    """Options of the layers."""

    homogeneity_samples: int = Field(default=100, ge=2, le=100_000)
    """Largest number of samples of each sweep whose pairs are compared for its homogeneity."""


def compute(samples: Samples, others: Sequence[Samples], options: Options, progress: Progress) -> "xr.Dataset":
    """Return the numbers of each ordered pair of layers, their means with controls, and each layer's own numbers.

    `matrix` [number, of_axes, of_metric] has means over codes, `overall` [pairing, number] means over codes and pairs.

    Raises:
        PullbackError: the sweeps have fewer than 2 codes in common.
    """
    import xarray as xr

    sweeps = (samples, *others)
    matched = match(sweeps)
    if not len(matched):
        names = ", ".join(each.about.name for each in sweeps)
        raise PullbackError(
            f"{names} do not have the same codes: {matched.reason}. Nothing was computed. Layers are compared code by "
            "code: run their jobs with the same generator, samples and seed, and only another layer"
        )
    total = len(matched) + len(sweeps)
    own = side_by_side(
        sweeps,
        matched.positions,
        paired=True,
        draws=options.draws,
        seed=options.seed,
        compared=options.homogeneity_samples,
        progress=lambda done, _: progress(done, total),
    )
    variables, coordinates = add_own(own)
    variables |= _amplification(sweeps, matched, options, lambda done: progress(len(sweeps) + done, total))
    layers = layer_names(sweeps)
    along: dict[str, Any] = {
        "number": list(NUMBERS),
        "pairing": list(PAIRINGS),
        "of_axes": layers,
        "of_metric": layers,
        "sample": matched.numbers,
    }
    coordinates |= along
    scalars = {
        "layers": layers,
        "samples": len(matched),
        "left_out": {"good_in_some_only": matched.only_in_some, "other_code": matched.other_codes},
        "latent_dim": samples.latent_dim,
        "ranks": [each.eigenvalues.shape[1] for each in sweeps],
        "generators": sorted({json.dumps(strict(_generator(each)), sort_keys=True) for each in sweeps}),
    }
    attrs = {"scalars": json.dumps(strict(scalars), allow_nan=False)}
    return xr.Dataset(variables, coords=coordinates, attrs=attrs)


def layer_names(sweeps: Sequence[Samples]) -> list[str]:
    """Return the layer of each sweep's distance, or its name if it has no layer; the sweeps' names if two are equal."""
    names = []
    for samples in sweeps:
        distance = samples.provenance.get("spec", {}).get("distance", {})
        names.append(str(distance.get("layer") or samples.provenance.get("distance") or samples.about.name))
    if len(set(names)) == len(names):
        return names
    own = [samples.about.name for samples in sweeps]
    return own if len(set(own)) == len(own) else [f"{name} ({index + 1})" for index, name in enumerate(own)]


def _generator(samples: Samples) -> Any:
    return samples.provenance.get("spec", {}).get("generator", {})


def _amplification(sweeps: Sequence[Samples], matched: Matched, options: Options, progress: Any) -> dict[str, Any]:
    generator = np.random.default_rng(options.seed)
    count, layers = len(matched), len(sweeps)
    partner, vectors = partners(count, generator), [samples.load_eigenvectors() for samples in sweeps]
    kept = max(samples.eigenvalues.shape[1] for samples in sweeps)

    def metrics(index: int) -> list[Eigenpairs]:
        found = []
        for layer, samples in enumerate(sweeps):
            position = int(matched.positions[layer][index])
            rows = np.asarray(vectors[layer][position : position + 1], dtype=np.float64)[0]
            found.append(Eigenpairs(samples.eigenvalues[position], rows))
        return found

    value = np.full((len(NUMBERS), layers, layers, count), np.nan)
    overall = np.full((len(PAIRINGS), len(NUMBERS), count), np.nan)
    curves = np.full((layers, sweeps[-1].eigenvalues.shape[1], count), np.nan)
    for index in range(count):
        here = metrics(index)
        value[..., index] = pair_numbers(here, here)
        frame = random_frames(1, kept, sweeps[0].latent_dim, generator)[0]
        random = [each.with_axes(frame[: len(each.values)]) for each in here]
        controls = (pair_numbers(here, metrics(int(partner[index]))), pair_numbers(random, here))
        for pairing, matrix in enumerate((value[..., index], *controls)):
            overall[pairing, :, index] = off_diagonal_means(matrix)
        for layer, metric in enumerate(here):
            curves[layer, :, index] = log_rates(here[-1], metric, sweeps[0].latent_dim)
        progress(index + 1)
    weights = Bootstrap(count, options.draws, options.seed)
    mean, ends, known = means_of(value, weights)
    all_mean, all_ends, _ = means_of(overall, weights)
    curve, curve_ends, _ = means_of(curves, weights)
    pairs = ("number", "of_axes", "of_metric")
    described = {"long_name": "mean over codes and over ordered pairs of different layers"}
    shares = {"long_name": "mean of log10 of the rate along the reference's axes over tr H / n", "units": "1"}
    return {
        "matrix": (pairs, mean, {"long_name": "mean over codes"}),
        "matrix_ci95": (("end", *pairs), ends, {"long_name": "95 % bootstrap interval of the mean"}),
        "codes_with": (pairs, known, {"long_name": "codes that have the number"}),
        "overall": (("pairing", "number"), all_mean, described),
        "overall_ci95": (("end", "pairing", "number"), all_ends, {"long_name": "95 % bootstrap interval over codes"}),
        "overall_p": (
            ("pairing", "number"),
            control_tests(overall),
            {"long_name": "probability without a difference from the same code, corrected (Holm)"},
        ),
        "overall_value": (("pairing", "number", "sample"), overall, {"long_name": "mean over pairs at each code"}),
        "reference_rate": (("of_metric", "rank"), curve, shares),
        "reference_rate_ci95": (("end", "of_metric", "rank"), curve_ends, {"long_name": "95 % bootstrap interval"}),
    }


def pair_numbers(axes: Sequence[Eigenpairs], metrics: Sequence[Eigenpairs]) -> Floats:
    """Return `NUMBERS` of the axes of layer i under the metric of layer j, `[number, i, j]`.

    Args:
        axes: a metric for each layer, whose axes and eigenvalues are used.
        metrics: a metric for each layer, that is measured along them.
    """
    found = np.full((len(NUMBERS), len(axes), len(metrics)), np.nan)
    symmetric = axes is metrics
    for i, first in enumerate(axes):
        for j, second in enumerate(metrics):
            if symmetric and j < i:
                continue  # one product of eigenvectors serves both orders
            crossed = CrossMetrics(first, second)
            amplified, ranked = crossed.amplification(), crossed.cross_rates()
            found[:, i, j] = _six(amplified[0], ranked[0])
            if symmetric:
                found[:, j, i] = _six(amplified[1], ranked[1])
    return found


def log_rates(reference: Eigenpairs, metric: Eigenpairs, latent_dim: int) -> Floats:
    """Return log10 of the rates of a metric along the reference's axes, over its kept trace / n; NaN for no rate."""
    rates = np.square(reference.vectors @ metric.vectors.T) @ metric.values
    mean = metric.values.sum() / latent_dim
    shares: Floats = rates / mean if mean > 0 else np.zeros_like(rates)
    logs: Floats = np.log10(shares, out=np.full(len(shares), np.nan), where=shares > NULL_FLOOR)
    return logs


def off_diagonal_means(matrix: Floats) -> Floats:
    """Return the means of `[number, layers, layers]` over ordered pairs of different layers; NaN without a pair."""
    layers = matrix.shape[1]
    values = matrix[:, ~np.eye(layers, dtype=bool)]
    known = np.isfinite(values)
    sums = np.where(known, values, 0.0).sum(axis=1)
    counts = known.sum(axis=1)
    means: Floats = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)
    return means


def _six(amplified: Line, ranked: Line) -> list[float]:
    return [
        amplified.linear,
        amplified.log,
        amplified.slope,
        amplified.intercept,
        ranked.linear,
        ranked.log,
    ]


def to_json(result: Result) -> dict[str, Any]:
    """Return the matrices of means, their means over pairs beside the controls, and each layer's own numbers."""
    dataset = result.dataset
    content: dict[str, Any] = json.loads(dataset.attrs["scalars"])
    content["matrix"] = {
        name: {"mean": dataset["matrix"].values[row], "ci95": dataset["matrix_ci95"].values[:, row]}
        for row, name in enumerate(NUMBERS)
    }
    content["overall"] = {
        pairing: {
            name: {
                "mean": float(dataset["overall"].values[row, column]),
                "ci95": dataset["overall_ci95"].values[:, row, column],
                **({"p": float(dataset["overall_p"].values[row, column])} if row else {}),
            }
            for column, name in enumerate(NUMBERS)
        }
        for row, pairing in enumerate(PAIRINGS)
    }
    content["own"] = own_json(result)
    return content


def summary(result: Result) -> list[Table]:
    """Return the means over pairs of layers beside their controls, and a row for each layer along depth."""
    content = result.json
    columns = ["", ">same code", ">95 % interval"]
    for control in ("other code", "random axes"):
        columns += [f">{control}", ">95 % interval", ">p"]
    rows = []
    for name, label in NUMBERS.items():
        row: list[Any] = [label]
        for pairing in PAIRINGS:
            found = content["overall"][pairing][name]
            row += [_three(found["mean"]), shown_interval(found["ci95"], 3)]
            if "p" in found:
                row.append("–" if found["p"] is None else f"{found['p']:.2g}")
        rows.append(row)
    pairs = len(content["layers"]) * (len(content["layers"]) - 1)
    first = Table(columns, rows, f"Amplification, {pairs} ordered pairs of layers at {content['samples']} codes")
    return [first, _depth_table(content)]


def _depth_table(content: Any) -> Table:
    reference = content["layers"][-1]
    columns = ["layer", *(f">dim({share:g})" for share in SHARES), ">log10 trace", ">homogeneity C_log"]
    columns += [f">C_log under {reference}", ">95 % interval"]
    to_reference = content["matrix"]["c_log"]
    rows = []
    for index, (name, own) in enumerate(zip(content["layers"], content["own"]["sweeps"], strict=True)):
        row: list[Any] = [name]
        row += [None if own[dim]["value"] is None else f"{own[dim]['value']:.0f}" for dim in MEAN_DIMS]
        row += [_three(own["log_trace"]["value"]), _three(own["c_log"]["value"])]
        ends = [to_reference["ci95"][end][index][-1] for end in (0, 1)]
        itself = index == len(content["layers"]) - 1
        row += ["–", "–"] if itself else [_three(to_reference["mean"][index][-1]), shown_interval(ends, 3)]
        rows.append(row)
    return Table(columns, rows, "Along depth")


def sentences(result: Result) -> list[str]:
    """Return how far layers amplify the same directions, beside the controls."""
    content = result.json
    same, other, random = (content["overall"][pairing] for pairing in PAIRINGS)
    if any(each["log"]["mean"] is None for each in (same, other, random)):
        return []
    low, high = same["log"]["ci95"]
    between = "" if low is None else f" (95 % interval {low:.3f} to {high:.3f})"
    return [
        f"Along the eigenvectors of one of {len(content['layers'])} layers, the rates of another layer follow the "
        f"eigenvalues with a mean correlation of {_three(same['linear']['mean'])} linear and {same['log']['mean']:.3f} "
        f"log{between}, and a slope of {_three(same['slope']['mean'])}. With the metric of another code the log "
        f"correlation is {other['log']['mean']:.3f}, along random axes {random['log']['mean']:.3f}."
    ]


def cautions(result: Result) -> list[str]:
    """Return which samples are left out, what truncation leaves undetermined, and whether the generators differ."""
    content, lines = result.json, []
    left = content["left_out"]
    if any(left.values()):
        lines.append(
            f"Compared are the {content['samples']} samples that are good in all sweeps and have the same code; "
            f"{left['good_in_some_only']} are good in some sweeps only, and {left['other_code']} have another code."
        )
    if min(content["ranks"]) < content["latent_dim"]:
        lines.append(
            f"Not all of {content['latent_dim']} eigenpairs are kept ({', '.join(map(str, content['ranks']))}): rates "
            "are those of the kept parts."
        )
    if len(content["generators"]) > 1:
        lines.append("The sweeps have different generators, or settings of them.")
    return lines


def notes(result: Result) -> list[str]:
    """Return how to read the tables, and how intervals and tests are made."""
    options, content = result.options.model_dump(), result.json
    return [
        f"Layers are in the order in which the sweeps were named; the last one, {content['layers'][-1]}, is the "
        "reference. A_ij has the rates of layer j along the eigenvectors of layer i. Traces have the units of each "
        "layer.",
        "Other code: eigenvectors of a code with the metric of another one, drawn at random. Random axes: random "
        "directions in place of the eigenvectors. p compares each with the same code (Wilcoxon's signed-rank test over "
        "codes, corrected by Holm's method).",
        f"Intervals come from {options['draws']} bootstrap draws of the codes.",
    ]


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw heat maps of amplification, curves along depth, and the rates of each layer along the reference's axes."""
    return layer_figures(result.dataset, result.json["layers"])


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
