"""What the benchmark of inversion says about its goals: sentences computed from the rows, with a verdict each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from pullback.analysis.side_by_side import holm
from pullback.applications.inverting.solvers import DEFAULT_SOLVER, DEFAULT_WITH_SWEEP
from pullback.bench.inversion_problems import LEVELS, PHOTOGRAPH
from pullback.bench.inversion_settings import ARMS
from pullback.bench.inversion_statistics import (
    Outcome,
    compare,
    complete_targets,
    mcnemar,
    outcome,
    ratio_of_pairs,
    reached_at,
    wilson,
)

FEW = 16
"""Targets below which the arms are not ranked."""
_ENOUGH, _ADAM, _LBFGS, _SECONDS = 0.9, 0.2, 0.6, 10.0
"""Goal of recovery: least share of the default, most of Adam and of L-BFGS, and CPU seconds."""
_EXACT, _JACOBIANS, _HALF, _SMALL_P, _P = 1e-8, 10, 0.5, 0.01, 0.05
"""The other goals: value of f near the target, its Jacobians, ratios of time and gradients, and p-values."""

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Goal:
    """A goal of the benchmark and what was found.

    Attributes:
        name: what was to be shown.
        reached: whether it was; None if it was not measured.
        sentences: the figures.
    """

    name: str
    reached: bool | None
    sentences: str

    @property
    def line(self) -> str:
        """The goal as an entry of a list in Markdown."""
        verdict = {True: "Reached", False: "Not reached", None: "Not measured"}[self.reached]
        return f"- **{self.name}. {verdict}.** {self.sentences}"


def goals(rows: Rows, n: int, seconds: float | None) -> list[Goal]:
    """Return the goals with their verdicts.

    Args:
        rows: of the benchmark.
        n: size of a code.
        seconds: CPU seconds of a target; None if they were not limited.
    """
    return [_recovery(rows, n, seconds), _near(rows, n), _metric(rows, n), _out_of_range(rows), _basis(rows, n)]


def _found(rows: Rows, suite: str, n: int) -> dict[str, Outcome]:
    """Outcomes of all arms of a suite on the targets that every one has finished."""
    arms = [arm for arm in ARMS if any(row["suite"] == suite and row["arm"] == arm for row in rows)]
    targets = complete_targets(rows, suite, arms) if arms else []
    return {arm: outcome(rows, suite, arm, targets, n) for arm in arms} if targets else {}


def _share(found: Outcome) -> str:
    count, total = int(found.recovered.sum()), len(found.targets)
    low, high = wilson(count, total)
    return f"{count} of {total} ({count / total:.0%}; 95 %: {low:.0%} to {high:.0%})"


def _missing(name: str, arms: Sequence[str], found: Mapping[str, Any]) -> Goal | None:
    left = [ARMS[arm].label for arm in arms if arm not in found]
    return Goal(name, None, f"No target is finished by every arm that this needs: {', '.join(left)}.") if left else None


def _recovery(rows: Rows, n: int, seconds: float | None) -> Goal:
    name = (
        f"Recovery of own samples: at least {_ENOUGH:.0%} by the default in {_SECONDS:g} CPU seconds, where Adam "
        f"recovers at most {_ADAM:.0%} and L-BFGS at most {_LBFGS:.0%}"
    )
    found = _found(rows, "S1", n)
    if missing := _missing(name, (DEFAULT_SOLVER, "adam", "lbfgs"), found):
        return missing
    own = [found[arm] for arm in (DEFAULT_SOLVER, DEFAULT_WITH_SWEEP) if arm in found]
    best = max(found.values(), key=lambda each: (int(each.recovered.sum()), -float(np.median(each.seconds))))
    parts = [
        f"The default {how} a sweep, {ARMS[each.arm].label}, recovers {_share(each)} in {np.median(each.seconds):.1f} "
        f"CPU seconds (median; at most {each.seconds.max():.1f})."
        for how, each in zip(("without", "with"), own, strict=False)
    ]
    parts.append(f"Adam recovers {_share(found['adam'])}, and L-BFGS {_share(found['lbfgs'])}.")
    if best.arm in (DEFAULT_SOLVER, DEFAULT_WITH_SWEEP):
        parts.append("No arm recovers more.")
    else:
        most = max(own, key=lambda each: int(each.recovered.sum()))
        more = "more" if best.recovered.sum() > most.recovered.sum() else "as many in less time"
        parts.append(
            f"{ARMS[best.arm].label} recovers {more}: {_share(best)}, in {np.median(best.seconds):.1f} CPU seconds "
            f"(McNemar p = {mcnemar(best, most):.2g})."
        )
    reached = (
        max(float(each.recovered.mean()) for each in own) >= _ENOUGH
        and float(found["adam"].recovered.mean()) <= _ADAM
        and float(found["lbfgs"].recovered.mean()) <= _LBFGS
    )
    measured = seconds is not None and seconds <= _SECONDS
    return Goal(name, reached if measured else None, " ".join(parts))


def _near(rows: Rows, n: int) -> Goal:
    name = (
        f"Near the target: Levenberg-Marquardt from D² = {LEVELS[0]:g} to f ≤ {_EXACT:g} in at most {_JACOBIANS} "
        f"Jacobians on {_ENOUGH:.0%} of the targets, in half of L-BFGS's time"
    )
    found = _found(rows, "S4", n)
    if missing := _missing(name, ("lbfgs", "levenberg_marquardt"), found):
        return missing
    targets = [target for target in found["lbfgs"].targets if target % len(LEVELS) == 0]
    base, ends = reached_at(rows, "S4", "lbfgs", targets, _EXACT, 2), outcome(rows, "S4", "lbfgs", targets, n).seconds
    parts, reached = [], False
    for arm in ("levenberg_marquardt", "levenberg_marquardt_exact"):
        if arm not in found:
            continue
        here, time = outcome(rows, "S4", arm, targets, n), reached_at(rows, "S4", arm, targets, _EXACT, 2)
        done = np.isfinite(time)
        few = float((done & (here.jacobians <= _JACOBIANS)).mean())
        ratio = ratio_of_pairs(time, base, ends)
        reached |= few >= _ENOUGH and ratio[0] <= _HALF
        jacobians = f"{np.median(here.jacobians[done]):.0f} Jacobians (median)" if done.any() else "its Jacobians"
        parts.append(
            f"{ARMS[arm].label} gets there on {int(done.sum())} of {len(targets)} targets with {jacobians}, on "
            f"{few:.0%} within {_JACOBIANS}. Its time over that of L-BFGS is {_interval(ratio)}."
        )
    parts.append(f"L-BFGS gets there on {int(np.isfinite(base).sum())} of {len(targets)}.{_BOUND}")
    return Goal(name, reached, " ".join(parts))


_BOUND = " Where L-BFGS does not get there, its end stands for it, so the true ratio is smaller."


def _interval(ratio: tuple[float, float, float]) -> str:
    middle, low, high = (f"{each:.2f}" if np.isfinite(each) else "without bound" for each in ratio)
    return f"{middle} (median; 95 %: {low} to {high})"


def _metric(rows: Rows, n: int) -> Goal:
    name = "The mean metric as first Hessian halves the gradients of L-BFGS"
    found = _found(rows, "S4", n)
    if missing := _missing(name, ("lbfgs", "lbfgs_metric"), found):
        return missing
    targets, ends = found["lbfgs"].targets, found["lbfgs"].work
    parts, ratio = [], (np.nan, np.nan, np.nan)
    for threshold in (1e-4, _EXACT):
        plain = reached_at(rows, "S4", "lbfgs", targets, threshold)
        own = reached_at(rows, "S4", "lbfgs_metric", targets, threshold)
        ratio = ratio_of_pairs(own, plain, ends)
        text = (
            f"To f ≤ {threshold:g}, L-BFGS with the metric needs {_interval(ratio)} of the gradients of plain L-BFGS; "
            f"it gets there on {int(np.isfinite(own).sum())} of {len(targets)} targets, plain L-BFGS on "
            f"{int(np.isfinite(plain).sum())}"
        )
        if "lbfgs_metric_random" in found:
            other = reached_at(rows, "S4", "lbfgs_metric_random", targets, threshold)
            text += f", and with the same spectrum on random axes on {int(np.isfinite(other).sum())}"
        parts.append(f"{text}.")
    return Goal(name, bool(ratio[0] <= _HALF), " ".join(parts) + _BOUND)


def _out_of_range(rows: Rows) -> Goal:
    name = f"Images out of range: lower held-out LPIPS-vgg than Adam, paired p < {_SMALL_P:g}"
    chosen = {
        arm: {
            row["target"]: row["held_out"]
            for row in rows
            if row["suite"] == "S3" and row["arm"] == arm and np.isfinite(row["held_out"])
        }
        for arm in ARMS
    }
    own = next((arm for arm in (DEFAULT_SOLVER, DEFAULT_WITH_SWEEP, "hybrid_lbfgs") if chosen[arm]), DEFAULT_SOLVER)
    arms = (own, "adam")
    targets = sorted(set(chosen[own]) & set(chosen["adam"]))
    if missing := _missing(name, arms, {arm: True for arm in arms if targets}):
        return missing
    one, two = (np.array([chosen[arm][target] for target in targets]) for arm in arms)
    difference = np.log(one) - np.log(two)
    p = float(wilcoxon(difference).pvalue) if np.any(difference) else 1.0
    ratio, low, high = ratio_of_pairs(one, two)
    photographs = sum(target % PHOTOGRAPH[1] == PHOTOGRAPH[0] for target in targets)
    text = (
        f"On {len(targets)} images, {photographs} of them cut from a photograph, the held-out distance of "
        f"{ARMS[own].label} is {np.median(one):.3f} and that of Adam {np.median(two):.3f} (medians). The ratio is "
        f"{ratio:.2f} (95 %: {low:.2f} to {high:.2f}), lower on {int((one < two).sum())} of {len(targets)}, "
        f"p = {p:.2g}."
    )
    if least_p(len(targets)) >= _SMALL_P:
        text += " So few images cannot reach this p-value."
    return Goal(name, ratio < 1 and p < _SMALL_P, text)


def least_p(count: int) -> float:
    """Return the smallest p-value of Wilcoxon's test with this many pairs."""
    return 2.0 ** (1 - count)


def _basis(rows: Rows, n: int) -> Goal:
    name = "Whether the eigenbasis helps Adam is settled"
    found = _found(rows, "S1", n)
    if missing := _missing(name, ("adam", "adam_basis"), found):
        return missing
    arms = [arm for arm in ("adam_basis", "adam_basis_random") if arm in found]
    compared = [compare(found[arm], found["adam"]) for arm in arms]
    parts = []
    verdicts = []
    for arm, versus, p in zip(arms, compared, holm([each.p for each in compared]), strict=True):
        wins = int((found[arm].distance < found["adam"].distance).sum())
        low, high = versus.ratio_ci95
        verdict = "helps" if p < _P and versus.ratio < 1 else "harms" if p < _P else "makes no difference that shows"
        verdicts.append(p < _P or (low > 0.5 and high < 2))
        who = "The eigenbasis" if arm == "adam_basis" else "A random basis"
        parts.append(
            f"{who} {verdict}: D² is {versus.ratio:.2f} times "
            f"that in z (95 %: {low:.2f} to {high:.2f}), lower on {wins} of {versus.targets} targets, p = {p:.2g}."
        )
    count = len(found["adam"].targets)
    if count < FEW:
        parts.append(f"{count} targets are too few to settle it.")
    return Goal(name, verdicts[0] and count >= FEW, " ".join(parts))
