"""Tuning of the arms of the benchmark of inversion on targets of their own."""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pullback.applications.inverting.solvers import SOLVERS
from pullback.bench.inversion_settings import ARMS, InversionBench

CONFIGURATIONS = 16
"""Most configurations of an arm that are tried in tuning."""
_TUNING = 10_000
"""First number of the targets that only tune."""

Measure = Callable[[int, str, Mapping[str, Any]], dict[str, Any]]


def configurations(name: str) -> Iterator[dict[str, Any]]:
    """Yield the configurations of an arm that tuning compares, at most 16."""
    tuned = SOLVERS[ARMS[name].solver].tuned
    for values in itertools.islice(itertools.product(*tuned.values()), CONFIGURATIONS):
        yield dict(zip(tuned, values, strict=True))


def tuned_settings(
    settings: InversionBench, rows: list[dict[str, Any]], measure: Measure, keep: Callable[[dict[str, Any]], None]
) -> dict[str, dict[str, Any]]:
    """Return the settings of each arm: those with the best mean rank of f on the tuning targets, or the defaults.

    Args:
        settings: of the benchmark.
        rows: all rows; what they have is not computed again.
        measure: runs an arm on a target of S1: (number, arm, settings) to a row.
        keep: appends a row to `rows` and to the benchmark's file.
    """
    done = {(row["target"], row["arm"], row["configuration"]) for row in rows if row["suite"] == "tuning"}
    chosen: dict[str, dict[str, Any]] = {name: {} for name in settings.arms}
    for name in settings.arms if settings.tuning else ():
        tried = list(configurations(name))
        if len(tried) < 2 or (settings.tuned is not None and name not in settings.tuned):
            continue
        for number, given in itertools.product(range(settings.tuning), tried):
            text = json.dumps(given, sort_keys=True)
            if (_TUNING + number, name, text) not in done:
                row = measure(_TUNING + number, name, given)
                keep({**row, "suite": "tuning", "configuration": text})
        chosen[name] = best_configuration(rows, name)
    return chosen


def best_configuration(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the configuration of an arm with the best mean rank of f over the tuning targets; {} if none was tuned."""
    values: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["suite"] == "tuning" and row["arm"] == name:
            value = row["value"] if math.isfinite(row["value"]) else math.inf
            values.setdefault(row["target"], {})[row["configuration"]] = value
    if not values:
        return {}
    ranks: dict[str, list[int]] = {}
    for each in values.values():
        for rank, text in enumerate(sorted(each, key=lambda key: each[key])):
            ranks.setdefault(text, []).append(rank)
    best: dict[str, Any] = json.loads(min(ranks, key=lambda text: float(np.mean(ranks[text]))))
    return best
