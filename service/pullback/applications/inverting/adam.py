"""Adam (Kingma & Ba, ICLR 2015) on codes, in z or in other linear coordinates c with z = z₀ + B c.

With B = U, the eigenvectors of a mean metric, it is the arm of Wang & Ponce (ICLR 2021). With B = U (Λ + μI)^−p the
coordinates are scaled as well. The learning rate falls by a cosine over the steps, or over the CPU seconds where these
are limited and end first.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from pullback.applications.inverting.objective import Objective
from pullback.applications.inverting.watch import Watch

_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8
"""Decay of the two moments, and the ε of the paper."""


def scaled_basis(metric: Tensor, power: float, damping: float = 1e-3) -> Tensor:
    """Return B = U (Λ + μI)^−p [n, n] float64, scaled so that its columns have a geometric mean length of one.

    Args:
        metric: M [n, n] with eigenvectors U and eigenvalues Λ.
        power: p; 0 gives U.
        damping: μ relative to the largest eigenvalue.
    """
    spectrum, axes = torch.linalg.eigh(metric.to(torch.float64))
    lengths = (spectrum.clamp_min(0) + damping * spectrum[-1]) ** -power
    basis: Tensor = axes * (lengths / lengths.log().mean().exp())
    return basis


def minimise(
    objective: Objective,
    codes: Tensor,
    target: Tensor,
    condition: Tensor | None,
    watch: Watch,
    *,
    basis: Tensor | None = None,
    rate: float = 0.05,
    steps: int = 500,
    rule: Literal["adam", "sgd"] = "adam",
) -> tuple[Tensor, Tensor]:
    """Minimise f from several codes, one batched gradient a step.

    Args:
        objective: f.
        codes: starts [rows, n].
        target: index of each row's target [rows].
        condition: class of each row, if the generator has classes.
        watch: called after each step; returns whether to stop.
        basis: B [n, n]; None for the identity.
        rate: learning rate of the first step.
        steps: most steps, over which the rate falls to zero.
        rule: `adam`, or `sgd` for plain gradient steps.

    Returns:
        The best codes [rows, n], float64, and their values [rows].
    """
    here = codes.detach().to(torch.float64).clone()
    basis = None if basis is None else basis.to(here)
    best, values = here.clone(), here.new_full((len(here),), torch.inf)
    mean, square = torch.zeros_like(here), torch.zeros_like(here)
    for step in range(1, steps + 1):
        found, half = objective.gradients(here, target, condition)
        better = found < values
        best[better], values[better] = here[better], found[better]
        if watch(target, here, found, condition):
            break
        slope = 2 * half if basis is None else 2 * half @ basis
        mean = _FIRST * mean + (1 - _FIRST) * slope
        square = _SECOND * square + (1 - _SECOND) * slope.square()
        share = min(1.0, max((step - 1) / steps, watch.time_share))
        own = rate * (1 + math.cos(math.pi * share)) / 2
        if rule == "adam":
            moved = mean / (1 - _FIRST**step) / ((square / (1 - _SECOND**step)).sqrt() + _EPSILON)
        else:
            moved = slope
        here = here - own * (moved if basis is None else moved @ basis.T)
    return best, values
