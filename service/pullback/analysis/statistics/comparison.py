"""Comparison of the metrics of two sweeps, such as those of two distances, trunks, methods or precisions.

Where both sweeps have the same latent codes, A and B are compared code by code (`cross_metrics`, as Wang & Ponce, ICLR
2021, compare LPIPS, MSE and SSIM), beside two controls: the metric A of a code with the metric B of another code, and
A with random axes. The mean metrics of two sweeps of one latent size are compared too (`mean_comparison`), and each
sweep's own numbers stand beside each other in any case (`side_by_side`).

A claim that two metrics have similar axes needs "same code" to be above both controls: metrics of one generator share
axes between codes, and numbers such as overlaps are not 0 for random axes.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from pullback.analysis.bootstrap import BootstrapOptions
from pullback.analysis.comparison_figures import comparison_figures
from pullback.analysis.matching import Matched, differing_keys, match
from pullback.analysis.mean_comparison import mean_variables
from pullback.analysis.mean_comparison_words import means_json, means_note, means_sentence, means_tables
from pullback.analysis.own_numbers import add_own, own_cautions, own_json, own_sentence, own_table
from pullback.analysis.paired_numbers import LABELS, PAIRINGS, axis_label, paired_variables
from pullback.analysis.protocol import Progress, Result, Table, strict
from pullback.analysis.samples import Samples
from pullback.analysis.side_by_side import side_by_side
from pullback.analysis.statements import interval as shown_interval
from pullback.analysis.statements import numbers as shown_numbers

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

SUMMARY = "the metrics of two sweeps code by code: correlations of H, of log H and of spectra, cross rates, overlap"
SWEEPS = 2
VERSION = 2

_SIGNIFICANT = 0.05
"""Corrected probability below which a sentence states a difference."""


class Options(BootstrapOptions):
    """Options of the comparison."""

    epsilon: float = Field(default=1e-4, gt=0, lt=1)
    """Regularisation ε of the logarithm of a metric, log(nH / tr H + ε I)."""
    homogeneity_samples: int = Field(default=100, ge=2, le=100_000)
    """Largest number of samples of each sweep whose pairs are compared for its homogeneity."""


def compute(samples: Samples, others: Sequence[Samples], options: Options, progress: Progress) -> "xr.Dataset":
    """Return each sweep's own numbers, those of the mean metrics and, for the same codes, those by pairing.

    `mean_metrics` [mean_number] are the numbers of the two mean metrics, with random axes beside them. `value`
    [pairing, number, sample] has the numbers of each sample, `mean` and `mean_ci95` their means and 95 % bootstrap
    intervals over samples.
    """
    (other,) = others
    matched = match([samples, other])
    first, second = matched.positions if len(matched) else (np.arange(len(samples)), np.arange(len(other)))
    positions, paired = (first, second), len(matched) > 0
    total = len(matched) + 3
    own = side_by_side(
        [samples, other],
        positions,
        paired=paired,
        draws=options.draws,
        seed=options.seed,
        compared=options.homogeneity_samples,
        progress=lambda done, _: progress(done, total),
    )
    variables, coordinates = add_own(own)
    if samples.latent_dim == other.latent_dim:
        means, numbers = mean_variables(
            samples, other, positions, paired=paired, epsilon=options.epsilon, draws=options.draws, seed=options.seed
        )
        variables |= means
        coordinates |= numbers
    progress(3, total)
    if paired:
        cross, along = paired_variables(
            samples,
            other,
            matched,
            epsilon=options.epsilon,
            draws=options.draws,
            seed=options.seed,
            progress=lambda done: progress(done + 3, total),
        )
        variables |= cross
        coordinates |= along
    return _dataset(variables, coordinates, (samples, other), matched)


def _dataset(
    variables: dict[str, Any], coordinates: dict[str, Any], sweeps: tuple[Samples, Samples], matched: Matched
) -> "xr.Dataset":
    import xarray as xr

    first, second = sweeps
    scalars = {
        "samples": len(matched),
        "different_codes": matched.reason,
        "left_out": {"good_in_one_only": matched.only_in_some, "other_code": matched.other_codes},
        "jobs_differ": [list(each) for each in differing_keys(first, second)],
        "latent_dim": [first.latent_dim, second.latent_dim],
        "ranks": [first.eigenvalues.shape[1], second.eigenvalues.shape[1]],
    }
    attrs = {"scalars": json.dumps(strict(scalars), allow_nan=False)}
    return xr.Dataset(variables, coords=coordinates, attrs=attrs)


def to_json(result: Result) -> dict[str, Any]:
    """Return means by pairing with intervals, numbers of the mean metrics, own numbers, and what the jobs differ in."""
    dataset = result.dataset
    content: dict[str, Any] = json.loads(dataset.attrs["scalars"])
    content["own"] = own_json(result)
    if "mean_metrics" in dataset:
        content["mean_metrics"] = means_json(dataset)
    if "mean" not in dataset:
        return content
    for pairing in dataset["pairing"].values:
        chosen = dataset.sel(pairing=pairing)
        content[str(pairing)] = {
            str(name): {
                "mean": float(chosen["mean"].sel(number=name)),
                "ci95": chosen["mean_ci95"].sel(number=name).values,
                "samples": int(chosen["samples_with"].sel(number=name)),
                **({} if pairing == PAIRINGS[0] else {"p": float(chosen["p_control"].sel(number=name))}),
            }
            for name in dataset["number"].values
        }
    content["sensitivity"] = {
        str(name): {
            "epsilon": dataset["epsilon"].values,
            "mean": dataset["sensitivity"].sel(log_number=name, pairing="same_code").values,
            "other_code": dataset["sensitivity"].sel(log_number=name, pairing="other_code").values,
        }
        for name in dataset["log_number"].values
    }
    return content


def summary(result: Result) -> list[Table]:
    """Return a table of the comparison with both controls, one of subspaces, one of each sweep's own numbers."""
    content, tables = result.json, []
    if "same_code" in content:
        columns = ["", ">same code", ">95 % interval"]
        for control in ("other code", "random axes"):
            columns += [f">{control}", ">95 % interval", ">p"]
        title = f"A: {result.about.name}, B: {result.further[0].name}; {content['samples']} codes"
        labels = {**LABELS, "log_h": f"{LABELS['log_h']} (ε = {result.options.model_dump()['epsilon']:g})"}
        rows = [_row(content, name, label) for name, label in labels.items()]
        tables.append(Table(columns, rows, title))
        numbers = content["same_code"]  # there are no numbers of axes beyond the kept eigenpairs
        axes = [name for name in numbers if name not in LABELS and numbers[name]["mean"] is not None]
        rows = [_row(content, name, axis_label(name)) for name in axes]
        tables.append(Table(columns, rows, "Leading axes of A and B"))
    if "mean_metrics" in content:
        tables += means_tables(content["mean_metrics"], result.options.model_dump()["epsilon"])
    differing = [[str(key), str(first), str(second)] for key, first, second in content["jobs_differ"]]
    if differing:
        tables.append(Table(["key", "A", "B"], differing, "Differences between the jobs"))
    tables.append(own_table(result, ("A", "B")))
    return tables


def sentences(result: Result) -> list[str]:
    """Return how alike the metrics are, beside the controls, and whether dimensions and homogeneity differ."""
    content = result.json
    first, second = result.about.name, result.further[0].name
    lines = [*own_sentence(result, name="dim_0.99"), *own_sentence(result, name="c_log")]
    if "mean_metrics" in content:
        lines[:0] = means_sentence(content["mean_metrics"], first, second)
    if "same_code" not in content:
        return lines
    same, other, random = (content[pairing]["a_under_b_log"] for pairing in PAIRINGS)
    if same["mean"] is not None and other["mean"] is not None and random["mean"] is not None:
        stated = (
            f"Along the eigenvectors of {first}, the metric of {second} reproduces its own spectrum with a mean "
            f"correlation (C_log) of {same['mean']:.3f}{_within(same['ci95'])} at the same code, {other['mean']:.3f} "
            f"at another code and {random['mean']:.3f} along random axes."
        )
        lines.insert(0, " ".join([stated, *_verdict(same["mean"], other, content["samples"])]))
    return lines


def cautions(result: Result) -> list[str]:
    """Return which samples are left out, what truncation leaves undetermined, and what cannot be compared."""
    content, names = result.json, [about.name for about in result.sweeps]
    lines = []
    if content["different_codes"]:
        lines.append(
            f"{names[0]} and {names[1]} do not have the same codes ({content['different_codes']}): only each sweep's "
            "own numbers are compared, with independent bootstrap draws."
        )
    left = content["left_out"]
    if content["samples"] and any(left.values()):
        lines.append(
            f"Compared are the {content['samples']} samples that are good in both sweeps and have the same code; "
            f"{left['good_in_one_only']} are good in one sweep only, and {left['other_code']} have another code."
        )
    if content["samples"] and any(k < n for k, n in zip(content["ranks"], content["latent_dim"], strict=True)):
        kept = " and ".join(map(str, content["ranks"]))
        lines.append(
            f"Only {kept} of {content['latent_dim'][0]} eigenpairs are kept of A and B: the comparison is one of the "
            "kept parts, and correlations over whole spectra can be higher or lower."
        )
    return [*lines, *own_cautions(result)]


def notes(result: Result) -> list[str]:
    """Return how the numbers and intervals are made."""
    options = result.options.model_dump()
    lines = [
        f"Intervals come from {options['draws']} bootstrap draws of the samples. p is from {_test(result)}, corrected "
        "for all tests of the table (Holm).",
        f"The homogeneity of each sweep is that of at most {options['homogeneity_samples']} samples.",
    ]
    if "mean_metrics" in result.dataset:
        lines.append(means_note(result.json["mean_metrics"]))
    if "mean" in result.dataset:
        shown = [int(number) for number in result["shown_sample"].values]
        lines[:0] = [
            "Same code: both metrics of one code. Other code: A of a code with B of another one, drawn at random. "
            "Random axes: A keeps its eigenvalues and gets random axes. p compares each with the same code (Wilcoxon's "
            "signed-rank test, corrected by Holm's method for all numbers of both tables).",
            f"log H is log(nH / tr H + ε I) with ε = {options['epsilon']:g}; negative eigenvalues count as zero.",
            f"The scatter shows sample{'' if len(shown) == 1 else 's'} {shown_numbers(shown)}.",
        ]
    return lines


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw cross rates, overlap by rank and |cos| with their controls, the sensitivity to ε, and both mean spectra."""
    return comparison_figures(result.dataset, result.about.name, result.further[0].name)


def _row(content: Any, name: str, label: str) -> list[str]:
    row = [label]
    for pairing in PAIRINGS:
        found = content[pairing][name]
        row += [_number(found["mean"]), shown_interval(found["ci95"], 3)]
        if "p" in found:
            row.append("–" if found["p"] is None else f"{found['p']:.2g}")
    return row


def _test(result: Result) -> str:
    paired = bool(result["paired"])
    return "Wilcoxon's signed-rank test over codes" if paired else "Mann and Whitney's U test"


def _verdict(same: float, other: Any, codes: int) -> list[str]:
    """Return whether two metrics of one code are more alike than those of two codes; nothing without a test."""
    p = other["p"]
    if p is None:
        return []
    alike = f"{'more' if same > other['mean'] else 'less'} alike than"
    if p >= _SIGNIFICANT:
        alike = "not distinguishably more or less alike than"
    return [
        f"Both metrics of one code are {alike} those of two codes (signed-rank test over {codes} codes, p = {p:.2g})."
    ]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _within(ends: Any) -> str:
    low, high = ends
    return "" if low is None or high is None else f" (95 % interval {low:.3f} to {high:.3f})"
