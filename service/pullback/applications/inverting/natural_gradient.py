"""Natural gradient with a fixed metric and momentum: v ← βv + (M + μI)⁻¹ ∇f, z ← z − ηv (Amari, 1998)."""

import torch
from torch import Tensor

from pullback.applications.inverting.lbfgs import damped_inverse
from pullback.applications.inverting.objective import Objective
from pullback.applications.inverting.watch import Watch


def minimise(
    objective: Objective,
    codes: Tensor,
    target: Tensor,
    condition: Tensor | None,
    watch: Watch,
    *,
    metric: Tensor,
    rate: float = 0.3,
    momentum: float = 0.8,
    damping: float = 1e-2,
    steps: int = 500,
) -> tuple[Tensor, Tensor]:
    """Minimise f from several codes, one batched gradient a step. A step that leaves f infinite ends its row.

    Args:
        objective: f.
        codes: starts [rows, n].
        target: index of each row's target [rows].
        condition: class of each row, if the generator has classes.
        watch: called after each step; returns whether to stop.
        metric: M [n, n].
        rate: η.
        momentum: β.
        damping: μ relative to the largest eigenvalue of M.
        steps: most gradients.

    Returns:
        The best codes [rows, n], float64, and their values [rows].
    """
    here = codes.detach().to(torch.float64).clone()
    inverse = damped_inverse(metric.to(here), damping)
    best, values = here.clone(), here.new_full((len(here),), torch.inf)
    velocity = torch.zeros_like(here)
    for _ in range(steps):
        found, half = objective.gradients(here, target, condition)
        better = found < values
        best[better], values[better] = here[better], found[better]
        if watch(target, here, found, condition) or not bool(found.isfinite().any()):
            break
        velocity = momentum * velocity + 2 * half @ inverse
        here = here - rate * velocity
    return best, values
