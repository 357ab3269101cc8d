"""Homogeneity: do the metrics of different samples share their directions? (Wang & Ponce, ICLR 2021.)

Λ_ij = diag(U_iᵀ H_j U_i) is the rate of change of sample j's metric along the eigenvectors of sample i.
C_lin = corr(Λ_ij, λ_j), C_log = corr(log10 Λ_ij, log10 λ_j), and C_vec = corr(flat H_i, flat H_j). They are 1 if both
samples have the same axes. The control is the same with random axes in place of those of sample i.

All pairs of the compared samples, or random pairs until the means are known well enough. Where k < n eigenpairs are
kept, every H is the part that they make.
"""

import json
import os
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import psutil
from pydantic import Field

from pullback.analysis.bootstrap import Integers, PointOptions, bootstrap_weights
from pullback.analysis.homogeneity_figures import histogram_figure, matrix_figure
from pullback.analysis.homogeneity_result import CORRELATIONS, Homogeneity, from_dataset, to_dataset
from pullback.analysis.pair_kernel import PairValues, Spectra
from pullback.analysis.pair_matrix import in_turn, matrices, measured_error, products
from pullback.analysis.pair_sampling import compare_sampled
from pullback.analysis.pair_summary import PairSummary, summarize, summarize_sampled
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.random_axes import random_axes
from pullback.analysis.samples import Samples
from pullback.analysis.statements import interval as shown_interval
from pullback.errors import PullbackError

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

__all__ = [
    "Homogeneity",
    "Options",
    "PairSummary",
    "compute",
    "from_dataset",
    "summarize",
    "to_dataset",
]

SUMMARY = "how well one sample's eigenvectors serve the metrics of others: C_log, C_lin and C_vec over pairs of samples"
VERSION = 2

ROUGH_RATE = 5e10
"""Floating-point operations of one core in a second, to guess how long a matrix takes."""

LONG_SECONDS = 20.0
"""Work that is worth a second process, or the import of torch to use a GPU."""

SMALL_BYTES = 64 * 2**20
"""Size of matrices that is never refused."""


class Options(PointOptions):
    """Options of the homogeneity."""

    pairs: Literal["all", "auto"] | Annotated[int, Field(ge=1)] = "all"
    """all: every pair of these samples. A number: so many random pairs of them. auto: as many random pairs as
    `standard_error` needs."""
    standard_error: float = Field(default=0.001, gt=0, lt=1)
    """With `pairs: auto`, the standard error of each mean correlation, against the mean over all pairs, at which
    sampling ends."""
    random_axes: int = Field(default=200, ge=0, le=100_000)
    """Pairs with random axes, the control; 0 leaves it out."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where all pairs are compared. auto: a GPU if there is one and the work is long."""
    workers: int = Field(default=0, ge=0, le=256)
    """Processes that share all pairs on CPUs. 0: one for each core if the work is long; an interrupted one then
    continues."""


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return C_log, C_lin and C_vec of the compared samples, all pairs or sampled ones, and the control.

    All pairs are `homogeneity_log [point, other]` and so on; sampled ones `pair_log [order, pair]`. Summaries are JSON
    in `attrs`.

    Raises:
        PullbackError: the matrices of all pairs do not fit into memory, a GPU is asked for that is not there, or a
            process failed.
    """
    chosen = samples.choose(options.points, options.seed)
    spectra, vectors = Spectra(samples.eigenvalues[chosen]), samples.load_eigenvectors(chosen)
    weights = bootstrap_weights(len(chosen), options.draws, options.seed)
    rest = _control(spectra, vectors, options)
    sizes = {"ranks": samples.eigenvalues.shape[1], "latent_dim": samples.latent_dim}
    if decisive(options, len(samples)).pairs != "all":
        return to_dataset(_sampled(samples, chosen, spectra, vectors, weights, options, progress, {**sizes, **rest}))
    _check_memory(len(chosen))
    found = matrices(spectra, vectors, progress, _runner(samples, spectra, options))
    if len(chosen) > 1:
        i, j = np.triu_indices(len(chosen), 1)
        few = np.random.default_rng(options.seed).choice(len(i), min(64, len(i)), replace=False)
        i, j = i[few], j[few]
        log, linear = (np.stack([each[i, j], each[j, i]]) for each in (found.log, found.linear))
        tested = PairValues(log, linear, found.vec[i, j])
        sizes["precision_error"] = measured_error(spectra.shares, vectors, np.column_stack([i, j]), tested)
    return to_dataset(
        Homogeneity(
            samples.numbers[chosen],
            found.log,
            found.linear,
            summarize(found.log, weights),
            summarize(found.linear, weights),
            vec=found.vec,
            vec_summary=summarize(found.vec, weights),
            **sizes,
            **rest,
        )
    )


def decisive(options: Options, samples: int) -> Options:
    """Return the options that determine the result. The device, and limits above the available numbers, do not."""
    points = min(options.points, samples)
    pairs = options.pairs
    if isinstance(pairs, int) and pairs >= points * (points - 1) // 2:
        pairs = "all"
    usual = Options()
    update: dict[str, Any] = {"points": points, "pairs": pairs, "device": usual.device, "workers": usual.workers}
    if pairs != "auto":
        update["standard_error"] = usual.standard_error
    return options.model_copy(update=update)


def _sampled(
    samples: Samples,
    chosen: Integers,
    spectra: Spectra,
    vectors: Any,
    weights: Integers,
    options: Options,
    progress: Progress,
    rest: Mapping[str, Any],
) -> Homogeneity:
    pairs, values = compare_sampled(
        spectra,
        vectors,
        seed=options.seed,
        pairs=None if options.pairs == "auto" else int(options.pairs),
        standard_error=options.standard_error,
        progress=progress,
    )
    nothing = np.empty((0, 0))
    log, linear, vec = (
        summarize_sampled(pairs, each, weights) for each in (values.log, values.linear, values.vec[None])
    )
    return Homogeneity(
        samples.numbers[chosen],
        nothing,
        nothing,
        log,
        linear,
        vec=nothing,
        vec_summary=vec,
        sampled=pairs,
        sampled_values=values,
        precision_error=measured_error(spectra.shares, vectors, pairs, values),
        **rest,
    )


def _control(spectra: Spectra, vectors: Any, options: Options) -> dict[str, Any]:
    if not options.random_axes:
        return {}
    control = random_axes(spectra, vectors, options.random_axes, options.seed, options.draws)
    return {"random": control.values, "random_mean": control.mean, "random_ci95": control.ci95}


def _check_memory(samples: int) -> None:
    needed, there = 3 * 8 * samples**2, psutil.virtual_memory().available
    if needed > max(there, SMALL_BYTES):
        raise PullbackError(
            f"the correlations of all pairs of {samples} samples take {needed / 1e9:.3g} GB, and {there / 1e9:.3g} GB "
            "of memory are free. Nothing was computed. Compare random pairs with `pairs: auto`, or fewer samples with "
            "`points`."
        )


def _runner(samples: Samples, spectra: Spectra, options: Options) -> Any:
    """Return what computes the tiles: a GPU, several processes, or this one."""
    count, kept = spectra.shares.shape
    long = count**2 / 2 * products(kept, samples.latent_dim) / ROUGH_RATE > LONG_SECONDS
    if options.device == "cuda" or (options.device == "auto" and long and not options.workers):
        import torch

        from pullback.analysis.pairs import on_device

        if torch.cuda.is_available():
            return on_device("cuda")
        if options.device == "cuda":
            raise PullbackError("device: cuda, but torch finds no GPU here. Nothing was computed. Use device: cpu.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    workers = options.workers or (cores if long else 1)
    if workers == 1:
        return in_turn
    from pullback.analysis.tile_workers import shared

    return partial(shared, workers=workers, identity=f"{samples.about.name} {samples.about.snapshot}")


def to_json(result: Result) -> dict[str, Any]:
    """Return the summaries and those of the control, without the matrices."""
    content: dict[str, Any] = json.loads(result.dataset.attrs["scalars"])
    return content


def summary(result: Result) -> Table:
    """Return a row for each correlation, beside its mean with random axes."""
    found = result.json
    some = f" of {found['points']} samples" if found["points"] < result.about.samples else ""
    ranks = "" if found["ranks"] == found["latent_dim"] else f", leading {found['ranks']} ranks"
    sampled, control = found.get("sampled"), found.get("random_axes")
    rows = []
    for key, label in CORRELATIONS.items():
        if key not in found:
            continue
        row = [
            label,
            _three(found[key]["mean"]),
            shown_interval(found[key]["ci95"], 3),
            _three(found[key]["std"]),
            _three(found[key]["median"]),
            str(found[key]["defined"]),
        ]
        if sampled:
            row.append(_error(found[key]["standard_error"]))
        if control:
            row += [_three(control[key]["mean"]), shown_interval(control[key]["ci95"], 3)]
        rows.append(row)
    columns = ["", ">mean", ">95 % interval", ">std", ">median", ">pairs"]
    columns += [">standard error"] if sampled else []
    columns += [">random axes", ">95 % interval"] if control else []
    every = f"{found['pairs']} of {found['points'] * (found['points'] - 1)}" if sampled else found["pairs"]
    return Table(columns, rows, f"Homogeneity, {every} pairs{some}{ranks}")


def sentences(result: Result) -> list[str]:
    """Return how well one sample's eigenvectors serve the metrics of others, against random axes."""
    found = result.json
    stated = [
        f"{found[key]['mean']:.3f} on a {scale} scale{_between(found[key]['ci95'])}"
        for key, scale in (("log", "log"), ("linear", "linear"))
        if found[key]["mean"] is not None
    ]
    lines = []
    if stated:
        k = found["ranks"]
        what = "eigenvectors, another sample's metric reproduces its own spectrum"
        if k < found["latent_dim"]:
            what = (
                f"{k} leading eigenvectors, the {k} leading ranks of another sample's metric reproduce their spectrum"
            )
        control = found.get("random_axes")
        chance = [
            f"{control[key]['mean']:.3f}"
            for key in ("log", "linear")
            if control and found[key]["mean"] is not None and control[key]["mean"] is not None
        ]
        random = f" Random axes give {' and '.join(chance)}." if chance else ""
        lines.append(
            f"Measured along one sample's {what} with a mean correlation of {' and of '.join(stated)}. It is 1 where "
            f"both have the same axes.{random}"
        )
    if stated and found["ranks"] == 2:
        lines.append("Two ranks can only give a correlation of 1 or -1, whatever the axes.")
    missing = {name: found["pairs"] - found[key]["defined"] for key, name in CORRELATIONS.items() if key in found}
    for many in sorted({many for many in missing.values() if many}):
        names = [name for name, count in missing.items() if count == many]
        lines.append(
            f"{' and '.join(names)} {'does' if len(names) == 1 else 'do'} not exist for {many} of {found['pairs']} "
            "pairs: one of the metrics is zero or isotropic and has no axes of its own, or fewer than two different "
            "values above round-off are left to correlate."
        )
    return lines


def cautions(result: Result) -> list[str]:
    """Return what the ranks that are not kept leave undetermined; nothing if all are kept."""
    found = result.json
    if found["ranks"] == found["latent_dim"]:
        return []
    ranks = "rank" if found["ranks"] == 1 else f"{found['ranks']} ranks"
    return [f"Homogeneity compares the leading {ranks} only. Over whole spectra it can be higher or lower."]


def notes(result: Result) -> list[str]:
    """Return which pairs were compared, where the intervals come from, and how exact the products are."""
    found = result.json
    points, samples = found["points"], result.about.samples
    options = result.options.model_dump()
    drawn = f" among {points} of the {samples}, drawn at random (seed {options['seed']})" if points < samples else ""
    draws = f"{options['draws']} bootstrap draws of the samples"
    lines = ["C_vec correlates the entries of Hᵢ with those of Hⱼ."] if "vec" in found else []
    if found.get("sampled"):
        seeded = f" (seed {options['seed']})"
        errors = max(found[key]["standard_error"] or 0.0 for key in CORRELATIONS)
        lines.append(
            f"{found['pairs'] // 2} random pairs of samples{drawn or seeded} were compared, both "
            f"ways. The standard error of each mean, against the mean over all pairs, is at most {errors:.2g}. The "
            "interval of the mean also covers that other samples could have been drawn, and that pairs that share a "
            f"sample are not independent; those of the standard deviation and the median come from {draws}."
        )
    else:
        lines += [
            f"There are {found['pairs']} ordered pairs of different samples{drawn}.",
            f"Intervals come from {draws}; fewer than three samples with a correlation give none.",
        ]
    control = found.get("random_axes")
    if control:
        lines.append(
            f"Random axes: the same correlations for {max(each['pairs'] for each in control.values())} pairs in which "
            "one metric has uniformly random orthonormal eigenvectors and keeps its eigenvalues. Of C_log and C_lin "
            "the mean of both ways of a pair is taken."
        )
    if found.get("precision_error") is not None:
        lines.append(
            "Products of eigenvectors are made in float32. Over pairs drawn at random, C_log and C_lin differ from "
            f"those of float64 products by at most {found['precision_error']:.1g}."
        )
    return lines


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw C_log as a matrix, and a histogram of each correlation against that with random axes."""
    found, value = result.json, result.value
    kept = ""
    if found["ranks"] < found["latent_dim"]:
        kept = f", where Uᵢ and Hⱼ are made of the {found['ranks']} kept eigenpairs"
    what = {
        "log": f"correlates the logarithms of Λ = diag(UᵢᵀHⱼUᵢ) and of the eigenvalues of Hⱼ{kept}",
        "linear": "correlates the same on a linear scale",
        "vec": "correlates the entries of Hᵢ and of Hⱼ",
    }
    drawn = {}
    if value.sampled is None:
        caption = f"C_log of each ordered pair of samples: it {what['log']}. Similar samples stand beside each other."
        drawn[caption] = matrix_figure(value)
        what["log"] = "correlates rates with eigenvalues on a log scale"
    for name, label in CORRELATIONS.items():
        if name in found:
            against = ", against pairs in which one metric has random axes" if value.random is not None else ""
            caption = f"{label} of pairs of samples{against}. It {what[name]}; 1 means the same axes."
            drawn[caption] = histogram_figure(value, name)
    return drawn


def _error(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _three(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _between(ends: Any) -> str:
    low, high = ends
    return "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
