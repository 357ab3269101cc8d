"""The comparison of two mean metrics in words: JSON, tables, a sentence, and how the numbers are made."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.analysis.paired_numbers import LABELS, axis_label
from pullback.analysis.protocol import Table, strict
from pullback.analysis.statements import interval, shown_ranks

if TYPE_CHECKING:
    import xarray as xr

_SIZE = 10
"""Number of leading axes in the sentence, or fewer if the sweep has fewer."""


def means_json(dataset: "xr.Dataset") -> dict[str, Any]:
    """Return the numbers of the two mean metrics with intervals and control, and their eigenvalues."""
    names = [str(name) for name in dataset["mean_number"].values]
    columns = zip(
        names,
        dataset["mean_metrics"].values,
        dataset["mean_metrics_ci95"].values.T,
        dataset["mean_metrics_random"].values,
        dataset["mean_metrics_random_range"].values.T,
        strict=True,
    )
    content: dict[str, Any] = strict(
        {
            "samples": dataset["mean_samples"].values,
            "whole": dataset["mean_whole"].values,
            "draws": int(dataset["mean_draws"]),
            "random_axes": int(dataset["mean_random_axes"]),
            "eigenvalues": dataset["mean_eigenvalue"].values,
            "along_the_other": dataset["mean_cross_rate"].values,
            "numbers": {
                name: {"value": float(value), "ci95": ends, "random": float(random), "random_range": chance}
                for name, value, ends, random, chance in columns
            },
        }
    )
    return content


def means_tables(content: Mapping[str, Any], epsilon: float) -> list[Table]:
    """Return a table of the numbers beside random axes, and one of the eigenvalues by rank.

    Args:
        content: of `means_json`.
        epsilon: the regularisation of log H.
    """
    labels = {**LABELS, "log_h": f"{LABELS['log_h']} (ε = {epsilon:g})"}
    rows = [
        [
            labels.get(name) or axis_label(name),
            _number(found["value"]),
            interval(found["ci95"], 3),
            _number(found["random"]),
            interval(found["random_range"], 3),
        ]
        for name, found in content["numbers"].items()
        if found["value"] is not None
    ]
    columns = ("", ">mean metrics", ">95 % interval", ">random axes", ">middle 95 %")
    (a, b), (_, along) = content["eigenvalues"], content["along_the_other"]
    spectra = [[str(rank + 1), *(f"{each[rank]:.3g}" for each in (a, b, along))] for rank in shown_ranks(len(a))]
    return [
        Table(columns, rows, "Mean metrics of A and B"),
        Table((">rank", ">λ of A", ">λ of B", ">rate of B along A's axis"), spectra, "Spectra of the mean metrics"),
    ]


def means_sentence(content: Mapping[str, Any], first: str, second: str) -> list[str]:
    """Return how far the leading axes of the mean metrics are the same, beside random axes."""
    sizes = [int(name.partition("_")[2]) for name in content["numbers"] if name.startswith("overlap_")]
    known = [size for size in sizes if content["numbers"][f"overlap_{size}"]["value"] is not None]
    if not known:
        return []
    size = min(known, key=lambda each: abs(each - _SIZE))
    found = content["numbers"][f"overlap_{size}"]
    low, high = found["ci95"]
    within = "" if low is None else f" (95 % interval {low:.3f} to {high:.3f})"
    axes = "leading axis" if size == 1 else f"{size} leading axes"
    return [
        f"The {axes} of the mean metrics of {first} and {second} overlap by {found['value']:.3f}{within}; random axes "
        f"overlap by {found['random']:.3f}, and equal ones by 1."
    ]


def means_note(content: Mapping[str, Any]) -> str:
    """Return how the numbers of the mean metrics are made."""
    counts = content["samples"]
    averaged = f"{counts[0]}" if counts[0] == counts[1] else f"{counts[0]} and {counts[1]}"
    parts = [
        "the whole metrics" if all(content["whole"]) else "the kept parts of the metrics",
        f"of {averaged} samples",
    ]
    if content["draws"]:
        made = (
            f"Intervals are the value ± 1.96 standard deviations of {content['draws']} bootstrap draws, because a draw "
            "repeats samples and its means are less alike."
        )
    else:
        made = "There are no intervals: they need 10 bootstrap draws, and there are fewer for large codes."
    return (
        f"The mean metrics average {' '.join(parts)}. {made} Random axes: {content['random_axes']} times, the mean "
        "metric of A keeps its eigenvalues and gets random axes."
    )


def _number(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.3f}"
