"""Paired statistics of the benchmark of inversion. The unit is the target.

Success counts have Wilson's interval (JASA 22, 1927). An arm is compared with the reference by Wilcoxon's signed ranks
of log₁₀ D², the ratio of medians with a bootstrap over targets, and McNemar's exact test of successes; p-values are
corrected over arms by Holm's method (Scandinavian Journal of Statistics 6, 1979).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest, norm, wilcoxon

MATCHED, RECOVERED = 1e-3, 0.05
"""D² and relative error of the code below which an own sample counts as recovered."""
_LEAST = 1e-12
"""D² below which two reconstructions count as equally good: round-off of float32."""


@dataclass(frozen=True)
class Outcome:
    """The rows of an arm on one suite, in the order of the targets.

    Attributes:
        arm: its name.
        targets: numbers of the targets.
        distance: D² of each [targets].
        recovered: whether D² < 1e-3, and the code's error < .05 where the code is known [targets].
        work: forward equivalents of each.
        seconds: CPU seconds of each.
        jacobians: Jacobians of each.
        gradients: gradients of each.
        norm: norm of each code relative to √n.
        held_out: LPIPS-vgg of each; NaN where it was not computed.
    """

    arm: str
    targets: tuple[int, ...]
    distance: np.ndarray
    recovered: np.ndarray
    work: np.ndarray
    seconds: np.ndarray
    jacobians: np.ndarray
    gradients: np.ndarray
    norm: np.ndarray
    held_out: np.ndarray

    @property
    def count(self) -> int:
        """Number of targets."""
        return len(self.targets)


@dataclass(frozen=True)
class Comparison:
    """An arm against the reference, over the targets that both have.

    Attributes:
        targets: their number.
        ratio: median D² of the arm over that of the reference.
        ratio_ci95: 95 % bootstrap interval.
        p: Wilcoxon's p-value, before correction; 1 if nothing differs.
        p_success: McNemar's p-value of the successes, before correction.
    """

    targets: int
    ratio: float
    ratio_ci95: tuple[float, float]
    p: float
    p_success: float


def complete_targets(rows: Sequence[Mapping[str, Any]], suite: str, arms: Sequence[str]) -> list[int]:
    """Return the targets of a suite that every arm has finished, sorted."""
    done: dict[int, set[str]] = {}
    for row in rows:
        if row["suite"] == suite:
            done.setdefault(row["target"], set()).add(row["arm"])
    return sorted(target for target, names in done.items() if names >= set(arms))


def outcome(rows: Sequence[Mapping[str, Any]], suite: str, arm: str, targets: Sequence[int], n: int) -> Outcome:
    """Collect an arm's rows on the given targets; n is the size of a code."""
    by_target = {row["target"]: row for row in rows if row["suite"] == suite and row["arm"] == arm}
    own = [by_target[target] for target in targets]

    def column(key: str) -> np.ndarray:
        return np.array([row[key] for row in own], dtype=float)

    distance = column("distance")
    errors = np.array([0.0 if row["code_error"] is None else row["code_error"] for row in own])
    return Outcome(
        arm,
        tuple(targets),
        distance,
        (distance < MATCHED) & (errors < RECOVERED),
        column("work"),
        column("seconds"),
        column("columns") / n,
        column("gradients"),
        column("norm"),
        np.array([row.get("held_out", np.nan) for row in own], dtype=float),
    )


def compare(arm: Outcome, reference: Outcome, draws: int = 10_000, seed: int = 0) -> Comparison:
    """Compare an arm with the reference on the same targets."""
    one, two = (np.maximum(np.nan_to_num(each.distance, nan=np.inf), _LEAST) for each in (arm, reference))
    with np.errstate(invalid="ignore"):
        difference = np.nan_to_num(np.log10(one) - np.log10(two))
    p = float(wilcoxon(difference).pvalue) if np.any(difference) else 1.0
    drawn = np.random.default_rng(seed).integers(len(one), size=(draws, len(one)))
    ratios = np.median(one[drawn], axis=1) / np.median(two[drawn], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    ratio = float(np.median(one) / np.median(two))
    return Comparison(len(one), ratio, (float(low), float(high)), p, mcnemar(arm, reference))


def mcnemar(arm: Outcome, reference: Outcome) -> float:
    """Return McNemar's exact p-value of the successes of two arms on the same targets; 1 if they agree."""
    gained = int((arm.recovered & ~reference.recovered).sum())
    changed = gained + int((~arm.recovered & reference.recovered).sum())
    return float(binomtest(gained, changed).pvalue) if changed else 1.0


def ratio_of_pairs(
    one: np.ndarray, two: np.ndarray, ends: np.ndarray | None = None, draws: int = 10_000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the median of the ratios of paired positive numbers with its 95 % bootstrap interval.

    Args:
        one: numerators; infinite for an arm that did not get there.
        two: denominators, likewise.
        ends: what the second arm had spent at its end. Where only that arm did not get there, the ratio with its end
            stands for the true one, which is smaller. Without it such pairs are left out.
        draws: bootstrap samples.
        seed: their seed.

    Returns:
        The median and the ends of its interval; NaN without any pair, infinite where the first arm seldom got there.
    """
    known = np.isfinite(two) if ends is None else np.isfinite(one) | np.isfinite(two)
    if not known.any():
        return np.nan, np.nan, np.nan
    below = two if ends is None else np.where(np.isfinite(two), two, ends)
    ratios = one[known] / below[known]
    drawn = np.random.default_rng(seed).integers(len(ratios), size=(draws, len(ratios)))
    medians = np.sort(np.median(ratios[drawn], axis=1))
    return float(np.median(ratios)), float(medians[int(0.025 * draws)]), float(medians[int(0.975 * draws)])


def wilson(successes: int, count: int, level: float = 0.95) -> tuple[float, float]:
    """Return Wilson's interval of a proportion; (0, 1) for no trials."""
    if count == 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + level / 2))
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, centre - half), min(1.0, centre + half)


def reached_at(
    rows: Sequence[Mapping[str, Any]], suite: str, arm: str, targets: Sequence[int], threshold: float, column: int = 1
) -> np.ndarray:
    """Return the work (column 1) or CPU seconds (2) at which each target first had f at a threshold; inf if never."""
    found = np.full(len(targets), np.inf)
    for row in rows:
        if row["suite"] == suite and row["arm"] == arm and row["target"] in targets:
            times = [each[column] for each in row["reached"] if each[0] == threshold]
            if times:
                found[list(targets).index(row["target"])] = times[0]
    return found


def expected_work(
    rows: Sequence[Mapping[str, Any]], suite: str, arm: str, targets: Sequence[int], threshold: float
) -> float:
    """Return ERT: the work of all targets until the threshold or the end, over the successes; inf without any.

    Hansen et al., COCO performance assessment, arXiv 1605.03560.
    """
    first = reached_at(rows, suite, arm, targets, threshold)
    ends = {row["target"]: row["work"] for row in rows if row["suite"] == suite and row["arm"] == arm}
    spent = sum(time if math.isfinite(time) else ends[target] for target, time in zip(targets, first, strict=True))
    successes = int(np.isfinite(first).sum())
    return float(spent / successes) if successes else math.inf
