"""Endpoints of `pullback bench search`, and their comparison with a reference arm over units.

The unit is the cluster: values are means over repeats first. A comparison is paired over units: Student's t and
Wilcoxon's signed-rank test, both two-sided, the latter corrected over arms by Holm (Scand. J. Stat. 6, 1979), and 95 %
intervals by a bootstrap over units.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import ttest_rel

from pullback.analysis.bootstrap import Bootstrap, Floats, interval, weighted_means
from pullback.analysis.side_by_side import holm, signed_rank

SHARE = 0.8
"""Share of the best score up to which evaluations are counted."""
_DRAWS = 2000


@dataclass(frozen=True)
class Endpoints:
    """Endpoints of one arm, means over repeats by unit [units].

    Attributes:
        last: best score of the last generation as a share of the unit's best.
        best: best score of the whole run as a share of the unit's best.
        area: mean of the best score so far over the evaluations, as a share of the unit's best.
        evaluations: evaluations until the best score so far is 80 % of the unit's best; the budget if it never is.
        reached: share of runs that reach it.
        seconds: processor seconds of a run.
        curve: best score so far at `grid`, as a share [units, grid].
    """

    last: Floats
    best: Floats
    area: Floats
    evaluations: Floats
    reached: Floats
    seconds: Floats
    curve: Floats


@dataclass(frozen=True)
class Comparison:
    """An arm minus the reference.

    Attributes:
        difference: mean over units of the difference in `last`, with its interval (low, high).
        t_p: p of the paired t test.
        wilcoxon_p: p of the signed-rank test, corrected by Holm.
        ratio: evaluations to 80 % of the arm over those of the reference (ratio of means), with its interval.
        ratio_p: p of the signed-rank test on evaluations, corrected by Holm.
    """

    difference: tuple[float, float, float]
    t_p: float
    wilcoxon_p: float
    ratio: tuple[float, float, float]
    ratio_p: float


@dataclass(frozen=True)
class Outcome:
    """One suite at one level of noise.

    Attributes:
        suite: its name.
        noise: the level.
        units: names of the units that every arm has run on.
        repeats: runs of each arm on a unit, at least.
        budget: evaluations of a run.
        known: whether the unit's best score is known; else it is the best of any run.
        grid: evaluations of the curves.
        arms: endpoints by name.
        reference: name of the arm with which others are compared.
        comparisons: by name, without the reference.
    """

    suite: str
    noise: float
    units: list[str]
    repeats: int
    budget: int
    known: bool
    grid: Floats
    arms: Mapping[str, Endpoints]
    reference: str
    comparisons: Mapping[str, Comparison]


def outcome(rows: Sequence[Mapping[str, Any]], suite: str, noise: float, reference: str) -> Outcome | None:
    """Return the outcome of a suite; None if no unit has runs of every arm."""
    chosen = [row for row in rows if row["suite"] == suite and row["noise"] == noise]
    held: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in chosen:
        held.setdefault((row["unit"], row["arm"]), []).append(row)
    counts = Counter(arm for _, arm in held)
    # Arms that have hardly begun would leave no unit that all arms have run on.
    names = [arm for arm, count in counts.items() if 2 * count >= max(counts.values())]
    every = dict.fromkeys(row["unit"] for row in chosen)
    units = [unit for unit in every if all((unit, name) in held for name in names)]
    if not units or reference not in names:
        return None
    budget = int(chosen[0]["budget"])
    grid = np.linspace(0, budget, 61)[1:]
    tops = [_top([row for name in names for row in held[unit, name]]) for unit in units]
    arms = {name: _endpoints([held[unit, name] for unit in units], tops, budget, grid) for name in names}
    others = [name for name in names if name != reference]
    comparisons = dict(zip(others, _compared([arms[name] for name in others], arms[reference]), strict=True))
    repeats = min(len(held[unit, name]) for unit in units for name in names)
    known = chosen[0]["known"] is not None
    return Outcome(suite, noise, units, repeats, budget, known, grid, arms, reference, comparisons)


def compared(arm: Endpoints, reference: Endpoints) -> Comparison:
    """Return one arm minus another; p is that of a single test."""
    return _compared([arm], reference)[0]


def _top(rows: Sequence[Mapping[str, Any]]) -> float:
    """The largest possible score of a unit where it is known, or the largest found by any run."""
    known = rows[0]["known"]
    return float(known) if known is not None else max(max(row["best"]) for row in rows)


def so_far(row: Mapping[str, Any], grid: Floats) -> Floats:
    """Return the best score so far of a run after each number of evaluations in `grid`; before any, the first one."""
    best = np.maximum.accumulate(np.asarray(row["best"], float))
    place = np.searchsorted(np.asarray(row["evaluations"]), grid, side="right") - 1
    return np.asarray(best[np.maximum(place, 0)])


def evaluations_to(row: Mapping[str, Any], score: float) -> float | None:
    """Return the evaluations of a run until a generation reaches a score; None if none does."""
    reached = np.flatnonzero(np.asarray(row["best"]) >= score)
    return float(row["evaluations"][reached[0]]) if reached.size else None


def _endpoints(
    runs: Sequence[Sequence[Mapping[str, Any]]], tops: Sequence[float], budget: int, grid: Floats
) -> Endpoints:
    def by_unit(value: Any) -> Floats:
        return np.array(
            [np.mean([value(row, top) for row in each], axis=0) for each, top in zip(runs, tops, strict=True)]
        )

    def spent(row: Mapping[str, Any], top: float) -> float:
        found = evaluations_to(row, SHARE * top)
        return float(budget) if found is None else found

    return Endpoints(
        by_unit(lambda row, top: row["best"][-1] / top),
        by_unit(lambda row, top: max(row["best"]) / top),
        by_unit(lambda row, top: so_far(row, grid).mean() / top),
        by_unit(spent),
        by_unit(lambda row, top: evaluations_to(row, SHARE * top) is not None),
        by_unit(lambda row, top: row["seconds"]),
        by_unit(lambda row, top: so_far(row, grid) / top),
    )


def _compared(arms: Sequence[Endpoints], reference: Endpoints) -> list[Comparison]:
    scores = holm(np.array([signed_rank(arm.last, reference.last) for arm in arms]))
    costs = holm(np.array([signed_rank(arm.evaluations, reference.evaluations) for arm in arms]))
    found = []
    for arm, score, cost in zip(arms, scores, costs, strict=True):
        columns = np.column_stack([arm.last - reference.last, arm.evaluations, reference.evaluations])
        mean = columns.mean(axis=0)
        ends = np.full((2, 2), np.nan)
        t = np.nan
        if len(columns) > 1:
            drawn = weighted_means(Bootstrap(len(columns), _DRAWS, 0), columns)
            ends = np.array([interval(drawn[:, 0]), interval(drawn[:, 1] / drawn[:, 2])])
            t = float(ttest_rel(arm.last, reference.last).pvalue) if np.ptp(columns[:, 0]) > 0 else 1.0
        ratio = mean[1] / mean[2]
        found.append(
            Comparison(
                (float(mean[0]), float(ends[0, 0]), float(ends[0, 1])),
                t,
                float(score),
                (float(ratio), float(ends[1, 0]), float(ends[1, 1])),
                float(cost),
            )
        )
    return found
