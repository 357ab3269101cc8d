"""The numbers of `side_by_side` as part of a statistic's result: dataset, JSON, table, cautions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pullback.analysis.protocol import Result, Table
from pullback.analysis.side_by_side import MEAN_DIMS, QUANTITIES, SAMPLE_DIMS, SideBySide
from pullback.analysis.spectra import SHARES
from pullback.analysis.statements import interval as shown_interval

LABELS = {
    **{name: f"dim({share:g}) of the mean spectrum" for name, share in zip(MEAN_DIMS, SHARES, strict=True)},
    **{name: f"dim({share:g}), mean over samples" for name, share in zip(SAMPLE_DIMS, SHARES, strict=True)},
    "log_trace": "log10 of the trace, mean over samples",
    "c_log": "homogeneity C_log",
    "c_lin": "homogeneity C_lin",
    "c_vec": "homogeneity C_vec",
}
"""What each quantity is, in words."""


def add_own(own: SideBySide) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the variables and coordinates of a dataset with the numbers of each sweep."""
    variables = {
        "own": (("sweep", "quantity"), own.values, {"long_name": "numbers of each sweep"}),
        "own_ci95": (("end", "sweep", "quantity"), own.ci95, {"long_name": "95 % bootstrap interval"}),
        "difference": (("other_sweep", "quantity"), own.differences, {"long_name": "difference from the first sweep"}),
        "difference_ci95": (("end", "other_sweep", "quantity"), own.differences_ci95, {"long_name": "95 % interval"}),
        "p": (("other_sweep", "quantity"), own.p, {"long_name": "probability without a difference, corrected (Holm)"}),
        "tested": (("other_sweep", "quantity"), own.tested, {"long_name": "samples that the test is based on"}),
        "paired": ((), own.paired, {"long_name": "whether the sweeps have the same codes"}),
    }
    return variables, {"quantity": list(QUANTITIES)}


def own_json(result: Result) -> dict[str, Any]:
    """Return the numbers of each sweep by name, and their differences from the first sweep."""
    dataset = result.dataset

    def numbers(variable: str, ends: str, dim: str, index: int) -> dict[str, Any]:
        values, intervals = dataset[variable].isel({dim: index}).values, dataset[ends].isel({dim: index}).values
        return {
            name: {"value": float(values[column]), "ci95": intervals[:, column]}
            for column, name in enumerate(QUANTITIES)
        }

    differences = []
    for index in range(len(result.further)):
        found = numbers("difference", "difference_ci95", "other_sweep", index)
        for column, name in enumerate(QUANTITIES):
            p = float(dataset["p"].values[index, column])
            if np.isfinite(p):
                found[name] |= {"p": p, "tested": int(dataset["tested"].values[index, column])}
        differences.append(found)
    return {
        "paired": bool(dataset["paired"]),
        "sweeps": [numbers("own", "own_ci95", "sweep", index) for index in range(len(result.sweeps))],
        "differences": differences,
    }


def own_table(result: Result, names: Sequence[str]) -> Table:
    """Return a table with a column for each sweep and, for two sweeps, their difference with its test."""
    own = result.json["own"]
    columns = [""]
    for name in names:
        columns += [f">{name}", ">95 % interval"]
    two = len(names) == 2
    if two:
        columns += [f">{names[1]} − {names[0]}", ">95 % interval", ">p", ">n"]
    rows: list[list[Any]] = []
    for name, label in LABELS.items():
        digits = digits_of(name)
        row: list[Any] = [label]
        for sweep in own["sweeps"]:
            row += cells(sweep[name], digits)
        if two:
            change = own["differences"][0][name]
            p = change.get("p")
            row += [*cells(change, digits), None if p is None else f"{p:.2g}", change.get("tested")]
        rows.append(row)
    return Table(columns, rows, "Each sweep by itself")


def own_sentence(result: Result, index: int = 1, name: str = "c_log") -> list[str]:
    """State a number in the first and in another sweep, and whether the interval of the difference excludes 0.

    Args:
        result: of a statistic with these numbers.
        index: which sweep, from 1.
        name: the quantity.
    """
    own, about = result.json["own"], result.sweeps
    one, other = (own["sweeps"][each][name] for each in (0, index))
    change = own["differences"][index - 1][name]
    if change["value"] is None or change["ci95"][0] is None:
        return []
    digits = digits_of(name)
    low, high = change["ci95"]
    verdict = "excludes" if low > 0 or high < 0 else "includes"
    return [
        f"{sentence_case(LABELS[name])} is {one['value']:.{digits}f} in {about[0].name} and "
        f"{other['value']:.{digits}f} in {about[index].name}. The 95 % interval of the difference, "
        f"{low:.{digits}f} to {high:.{digits}f}, {verdict} 0."
    ]


def own_cautions(result: Result) -> list[str]:
    """Return why numbers are missing."""
    own = result.json["own"]["sweeps"]
    open_dims = any(sweep[name]["value"] is None for sweep in own for name in (*MEAN_DIMS, *SAMPLE_DIMS))
    if not open_dims:
        return []
    return ["A dash: the kept eigenpairs, or the error of an estimated trace, do not determine the dimension."]


def digits_of(name: str) -> int:
    """Return how many digits after the point a number has in tables and sentences."""
    return 0 if name in MEAN_DIMS else 1 if name in SAMPLE_DIMS else 3


def cells(found: Any, digits: int) -> list[str | None]:
    """Return the cells of a number with its interval; `found` is an entry of `own_json`."""
    value = found["value"]
    return [None if value is None else f"{value:.{digits}f}", shown_interval(found["ci95"], digits)]


def sentence_case(text: str) -> str:
    """Return a label as the beginning of a sentence."""
    return text if text.startswith("dim") else text[:1].upper() + text[1:]
