"""The default of an inversion: screening of starts, then L-BFGS, and L-BFGS or Levenberg-Marquardt near the target.

1. A few L-BFGS steps from every start, batched, choose the best starts of each target by the value of f.
2. L-BFGS takes these near the target. Gradients cost little, and far away the quadratic model of f is wrong. With a
   metric, this can begin along its leading axes alone, which change the image most (`continuation`).
3. Levenberg-Marquardt with lagged Jacobians ends at the minimum, where it converges quadratically. The best start of a
   target goes first. The next one follows while the target is not solved and the budget lasts. L-BFGS can take this
   phase too (`last`), as it does with the mean metric of a sweep: a Jacobian costs as much as n / 3 gradients.

Where the image is matched closely, the prior is left out in the last phase: an own sample then comes back exactly.
"""

from typing import Literal

import torch
from torch import Tensor

from pullback.applications.inverting import lbfgs, levenberg_marquardt
from pullback.applications.inverting.objective import Objective
from pullback.applications.inverting.watch import Watch, rows_of

CLOSE = 0.05
"""Value of f without prior below which the prior is left out. Images of different own samples are 0.3 apart."""
SOLVED = 1e-3
"""Value of f without prior at which no other start is tried. A picture with 256 levels cannot be matched below 1e-5."""


def minimise(
    objective: Objective,
    codes: Tensor,
    target: Tensor,
    condition: Tensor | None,
    watch: Watch,
    *,
    metric: Tensor | None = None,
    screening: int = 10,
    kept: int = 3,
    continuation: tuple[int, ...] = (),
    first_order: int = 40,
    first_damping: float = 1e-2,
    last: Literal["levenberg_marquardt", "lbfgs"] = "levenberg_marquardt",
    jacobians: int = 20,
    gradients: int = 300,
) -> tuple[Tensor, Tensor]:
    """Minimise f for every target from several starts.

    Args:
        objective: f.
        codes: starts [rows, n].
        target: index of each row's target [rows].
        condition: class of each row, if the generator has classes.
        watch: called after each step; returns whether to stop.
        metric: M [n, n], the first Hessian of L-BFGS; None for plain L-BFGS.
        screening: L-BFGS gradients of every start.
        kept: starts of a target that go on.
        continuation: numbers of leading axes of the metric along which these move first, one after the other, each for
            as many L-BFGS gradients as `screening`; empty for none.
        first_order: L-BFGS gradients of each of these along all axes.
        first_damping: first μ of Levenberg-Marquardt, relative to the largest eigenvalue of A.
        last: the solver of the last phase.
        jacobians: most Jacobians of a start in the last phase.
        gradients: most gradients of a start in the last phase, if that is L-BFGS.

    Returns:
        The best codes [rows, n], float64, and their values [rows]; rows that were left are as they were then.
    """
    best, values = lbfgs.minimise(objective, codes, target, condition, watch, metric=metric, steps=screening)
    order = ranked(values, target)
    chosen = order[:kept].flatten()
    chosen = chosen[chosen >= 0]
    stages: list[tuple[int | None, int]] = [(min(leading, codes.shape[1]), screening) for leading in continuation] + [
        (None, first_order)
    ]
    for leading, steps in stages:
        if watch.spent or not steps:
            continue
        best[chosen], values[chosen] = lbfgs.minimise(
            objective,
            best[chosen],
            target[chosen],
            rows_of(condition, chosen),
            watch,
            metric=metric,
            leading=leading,
            steps=steps,
        )
    rank = torch.full_like(values, torch.inf)
    rank[chosen] = values[chosen]
    order = ranked(rank, target)
    bare = objective.without_prior()

    def finish(used: Objective, rows: Tensor) -> None:
        if watch.spent or len(rows) == 0:
            return
        given = (used, best[rows], target[rows], rows_of(condition, rows), watch)
        if last == "lbfgs":
            best[rows], values[rows] = lbfgs.minimise(*given, metric=metric, steps=gradients)
        else:
            best[rows], values[rows] = levenberg_marquardt.minimise(
                *given, first_damping=first_damping, steps=jacobians
            )

    for turn in order[:kept]:
        rows = turn[turn >= 0]
        reached = watch.values[target[rows].cpu()].to(values.device)
        rows = rows[reached > SOLVED]
        if watch.spent or len(rows) == 0:
            break
        far = bare.values(best[rows], target[rows], rows_of(condition, rows)) >= CLOSE
        finish(objective, rows[far])
        near = bare.values(best[rows], target[rows], rows_of(condition, rows)) < CLOSE if bool(far.any()) else ~far
        finish(bare, rows[near])
    return best, values


def ranked(values: Tensor, target: Tensor) -> Tensor:
    """Return row indices [places, targets]: row k holds the k-th best row of each target, -1 where it has fewer."""
    groups = [torch.nonzero(target == index)[:, 0] for index in sorted(set(target.tolist()))]
    found = torch.full((max(map(len, groups)), len(groups)), -1, dtype=torch.int64, device=values.device)
    for column, rows in enumerate(groups):
        rows = rows[torch.nan_to_num(values[rows], nan=torch.inf).argsort()]
        found[: len(rows), column] = rows
    return found
