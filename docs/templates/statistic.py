"""The effective rank of metrics, as an example. Say here what the statistic measures, and its source.

TEMPLATE: copy to service/pullback/analysis/statistics/NAME.py. The file's name is the statistic's name in jobs.

exp(−Σ pᵢ log pᵢ) with pᵢ = λᵢ / Σ λ (Roy & Vetterli, EUSIPCO 2007): 1 if one direction has all of the change, n if all
directions change the image alike.
"""

from typing import Any

import numpy as np
import xarray as xr
from pydantic import Field

from pullback.analysis.bootstrap import BootstrapOptions, interval, weighted_means
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.samples import Samples

SUMMARY = "effective rank: over how many directions the image change is spread"  # TEMPLATE: one line, for tables


class Options(BootstrapOptions):
    """Options of this statistic: its keys in a job, its flags on the command line and its parameters over HTTP."""

    # TEMPLATE: a type, a default and a docstring for each. The docstring is the help text; bounds go into Field. The
    # base brings `draws` and `seed`; a statistic without intervals derives from pullback.spec.options.Options.
    ranks: int = Field(default=0, ge=0)
    """Leading eigenvalues that count; 0 takes all that are kept."""


def compute(samples: Samples, options: Options, progress: Progress) -> xr.Dataset:
    """Return the effective rank of each sample and its mean with a 95 % bootstrap interval.

    Args:
        samples: the good samples of a sweep at one snapshot.
        options: the options.
        progress: called as `progress(done, total)`; for statistics that take long.
    """
    # TEMPLATE: pure: arrays in, a dataset out. Name every dimension; give a long_name and units to every variable.
    eigenvalues = np.abs(samples.eigenvalues[:, : options.ranks or None])  # [samples, k]
    total = eigenvalues.sum(axis=1, keepdims=True)
    shares = np.divide(eigenvalues, total, out=np.zeros_like(eigenvalues), where=total > 0)
    logarithms = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    ranks = np.exp(-np.sum(shares * logarithms, axis=1))
    known = total[:, 0] > 0  # a zero metric has no directions
    # Samples without a rank count for nothing in the sums, and in the number of samples of each draw.
    drawn = weighted_means(samples.bootstrap(options.draws, options.seed), np.column_stack([ranks * known, known]))
    with np.errstate(invalid="ignore"):  # a draw without any rank has no mean, and is left out of the interval
        means = drawn[:, 0] / drawn[:, 1]
    unit = {"units": "1"}
    return xr.Dataset(
        {
            "effective_rank": (("sample",), np.where(known, ranks, np.nan), {"long_name": "effective rank", **unit}),
            "mean": ((), ranks[known].mean(), {"long_name": "mean effective rank", **unit}),
            "mean_ci95": (("end",), np.stack(interval(means)), {"long_name": "95 % interval of the mean", **unit}),
        }
    )


def summary(result: Result) -> Table:
    """Return the rows of a table. A heading that begins with `>` is of numbers."""
    low, high = result["mean_ci95"].values
    row = ["effective rank", float(result["mean"]), f"{low:.3g} – {high:.3g}"]
    return Table(["", ">mean", ">95 % interval"], [row])


def figure(result: Result) -> Any:
    """Return a matplotlib figure for the report, several by caption, or None."""
    # TEMPLATE: import matplotlib here and not above. Label axes with units; choose colours that are readable in grey.
    from pullback.analysis.drawing import GREY, Figure, plain_axes

    drawn = Figure(figsize=(4, 3), layout="constrained")
    axes = plain_axes(drawn)
    values = result["effective_rank"].values
    axes.hist(values[np.isfinite(values)], bins="auto", color=GREY)
    axes.set(xlabel="effective rank", ylabel="samples")
    return {"Distribution of the effective rank over samples.": drawn}


def sentences(result: Result) -> list[str]:
    """Return what the numbers mean, for the top of the report. TEMPLATE: optional; compute every number in it."""
    return [f"The image change of a sample is spread over {float(result['mean']):.3g} directions in the mean."]
