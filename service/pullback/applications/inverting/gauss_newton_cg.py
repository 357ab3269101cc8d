"""Gauss-Newton with conjugate gradients: the step of Levenberg-Marquardt from products Av, without a matrix.

Each step solves (A + μI) δ = −g inexactly, to a residual of min(½, ‖g‖^½) ‖g‖ (Nocedal & Wright, Numerical
Optimization, algorithm 7.1), with a metric as preconditioner if there is one. μ follows Nielsen's rule
(`damping`). For codes of thousands of dimensions, where a Jacobian has too many columns.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pullback.applications.inverting.damping import Damping
from pullback.applications.inverting.lbfgs import damped_inverse
from pullback.applications.inverting.objective import Objective
from pullback.applications.inverting.watch import Watch, rows_of


def minimise(
    objective: Objective,
    codes: Tensor,
    target: Tensor,
    condition: Tensor | None,
    watch: Watch,
    *,
    metric: Tensor | None = None,
    damping: float = 1e-3,
    first_damping: float = 1e-2,
    products: int = 30,
    steps: int = 100,
) -> tuple[Tensor, Tensor]:
    """Minimise f from several codes, one after the other.

    Args:
        objective: f.
        codes: starts [rows, n].
        target: index of each row's target [rows].
        condition: class of each row, if the generator has classes.
        watch: called after each step; returns whether to stop.
        metric: M [n, n], whose damped inverse preconditions the systems; None for no preconditioner.
        damping: damping of M, relative to its largest eigenvalue.
        first_damping: μ of the first step, relative to the curvature of f along its gradient.
        products: most products of a step.
        steps: most steps of a row.

    Returns:
        The best codes [rows, n], float64, and their values [rows].
    """
    best = codes.detach().to(torch.float64).clone()
    values = best.new_full((len(best),), torch.inf)
    inverse = None if metric is None else damped_inverse(metric.to(best), damping)
    damped = Damping(len(best), best.device)
    active = torch.arange(len(best), device=best.device)
    for step in range(steps):
        own = rows_of(condition, active)
        value, slope, multiply = objective.products(best[active], target[active], own)
        values[active] = value
        if watch(target[active], best[active], value, own) or not bool(value.isfinite().all()):
            break
        if step == 0:
            curvature = (multiply(slope) * slope).sum(dim=1) / slope.square().sum(dim=1).clamp_min(1e-300)
            damped.values[active] = first_damping * curvature
        moved = _solve(multiply, slope, damped.values[active], inverse, products)
        predicted = -(2 * slope * moved + moved * multiply(moved)).sum(dim=1)
        trial = best[active] + moved
        found = torch.nan_to_num(objective.values(trial, target[active], own), nan=torch.inf)
        better = found < value
        gain = (value - found) / predicted.clamp_min(1e-300)
        rows = active[better]
        best[rows], values[rows] = trial[better], found[better]
        damped.update(active, better, gain)
        if watch(target[active], best[active], values[active], own):
            break
        stuck = (~better & (damped.raised[active] > 2**12)) | (better & (value - found <= 1e-10 * value))
        active = active[~stuck & (values[active] > watch.tolerance)]
        if len(active) == 0:
            break
    return best, values


def _solve(
    multiply: Callable[[Tensor], Tensor], slope: Tensor, damping: Tensor, inverse: Tensor | None, products: int
) -> Tensor:
    """Solve (A + μI) δ = −g for every row by preconditioned conjugate gradients."""
    moved, left = torch.zeros_like(slope), -slope
    scaled = left if inverse is None else left @ inverse
    direction, power = scaled.clone(), (left * scaled).sum(dim=1)
    size = slope.norm(dim=1)
    wanted = torch.minimum(size.new_tensor(0.5), size.sqrt()) * size
    going = size > 0
    for _ in range(products):
        image = multiply(direction) + damping[:, None] * direction
        length = power / (direction * image).sum(dim=1).clamp_min(1e-300)
        length = torch.where(going, length, 0.0)
        moved, left = moved + length[:, None] * direction, left - length[:, None] * image
        going = going & (left.norm(dim=1) > wanted)
        if not bool(going.any()):
            break
        scaled = left if inverse is None else left @ inverse
        new = (left * scaled).sum(dim=1)
        direction, power = scaled + (new / power.clamp_min(1e-300))[:, None] * direction, new
    return moved
