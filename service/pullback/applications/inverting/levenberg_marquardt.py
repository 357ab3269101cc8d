"""Levenberg-Marquardt with the exact Jacobian, for many rows at once.

Each step solves (A + μI) δ = −g, with A = JᵀJ of the whole sum of squares and g half its gradient. μ follows Nielsen's
rule (`damping`).

A Jacobian costs n forward passes and a gradient three, so a Jacobian is kept for several steps (`lagged`): each step
has the true gradient, and A is computed again once f falls too little.
"""

import torch
from torch import Tensor

from pullback.applications.inverting.damping import Damping
from pullback.applications.inverting.objective import Local, Objective
from pullback.applications.inverting.watch import Watch, rows_of

FIRST_DAMPING = 1e-3
"""μ of the first step, relative to the largest eigenvalue of A."""
LEAST_DAMPING = 1e-9
"""Smallest μ, relative to the largest diagonal entry of A."""
SLOW = 0.25
"""Ratio of the values of two steps above which a lagged Jacobian is computed again."""
_ATTEMPTS = 12
"""Steps with one Jacobian, refused ones included, after which a row ends."""


def minimise(
    objective: Objective,
    codes: Tensor,
    target: Tensor,
    condition: Tensor | None,
    watch: Watch,
    *,
    first_damping: float = FIRST_DAMPING,
    lagged: bool = True,
    steps: int = 30,
) -> tuple[Tensor, Tensor]:
    """Minimise f from several codes.

    Args:
        objective: f.
        codes: starts [rows, n].
        target: index of each row's target [rows].
        condition: class of each row, if the generator has classes.
        watch: called after each step; returns whether to stop.
        first_damping: μ of the first step, relative to the largest eigenvalue of A.
        lagged: keep a Jacobian for several steps.
        steps: most Jacobians of a row.

    Returns:
        The best codes [rows, n], float64, and their values [rows].
    """
    best = codes.detach().to(torch.float64).clone()
    values = torch.full((len(best),), torch.inf, dtype=torch.float64, device=best.device)
    damping = Damping(len(best), best.device)
    active = torch.arange(len(best), device=best.device)
    for step in range(steps):
        rows = rows_of(condition, active)
        local = objective.local(best[active], target[active], rows)
        values[active] = local.value
        if not bool(local.value.isfinite().all()):  # codes from which no step can be taken
            good = local.value.isfinite()
            active = active[good]
            if len(active) == 0:
                break
            local = Local(local.value[good], local.gradient[good], local.curvature[good])
            rows = rows_of(condition, active)
        if step == 0:
            damping.values[active] = first_damping * torch.linalg.eigvalsh(local.curvature)[:, -1]
        if watch(target[active], best[active], values[active], rows):
            break
        done = _refine(objective, local, best, values, damping, active, target, condition, lagged, watch)
        if watch.spent:
            break
        active = active[~done]
        if len(active) == 0:
            break
    return best, values


def _refine(
    objective: Objective,
    local: Local,
    best: Tensor,
    values: Tensor,
    damping: Damping,
    active: Tensor,
    target: Tensor,
    condition: Tensor | None,
    lagged: bool,
    watch: Watch,
) -> Tensor:
    """Steps with one Jacobian; updates `best`, `values` and the damping. Returns which active rows are done."""
    spectrum, axes = torch.linalg.eigh(local.curvature)
    spectrum = spectrum.clamp_min(0)
    least = torch.finfo(torch.float64).tiny
    floor = (LEAST_DAMPING * local.curvature.diagonal(dim1=1, dim2=2).amax(dim=1)).clamp_min(least)
    slope = local.gradient.clone()
    done = torch.zeros(len(active), dtype=torch.bool, device=best.device)
    going = torch.arange(len(active), device=best.device)
    for _ in range(_ATTEMPTS):
        mine = active[going]
        damping.values[mine] = torch.maximum(damping.values[mine], floor[going])
        turned = (axes[going].transpose(1, 2) @ slope[going][:, :, None])[:, :, 0]
        moved = -(axes[going] @ (turned / (spectrum[going] + damping.values[mine][:, None]))[:, :, None])[:, :, 0]
        predicted = (moved * (damping.values[mine][:, None] * moved - slope[going])).sum(dim=1)
        trial = best[mine] + moved
        found = torch.nan_to_num(objective.values(trial, target[mine], rows_of(condition, mine)), nan=torch.inf)
        before = values[mine]
        gain = (before - found) / predicted.clamp_min(least)
        better = found < before
        accepted = mine[better]
        best[accepted], values[accepted] = trial[better], found[better]
        damping.update(mine, better, gain)
        small = (values[mine] <= watch.tolerance) | ((before - found).abs() <= 1e-10 * before)
        done[going[small & better | (values[mine] <= watch.tolerance)]] = True
        # a refused step is tried again with more damping; an accepted one goes on with the same Jacobian while it pays
        fast = better & (found < SLOW * before) if lagged else torch.zeros_like(better)
        if watch(target[mine], best[mine], values[mine], rows_of(condition, mine)):
            break
        keep = (fast | ~better) & ~done[going]
        going = going[keep]
        if len(going) == 0:
            break
        again = fast[keep]
        if bool(again.any()):
            which = going[again]
            there = active[which]
            _, slope[which] = objective.gradients(best[there], target[there], rows_of(condition, there))
    else:
        done[going[~again]] = True
    return done
