"""L-BFGS for many rows at once, plain or with a metric as its first Hessian.

Each row has its own step, its own pairs and its own line search; one batched gradient serves all of them, because on a
CPU the gradients of 8 rows at once cost a third of 8 single ones. The line search finds a weak Wolfe step by bisection
and doubling (Lewis & Overton, Mathematical Programming 141, 2013, algorithm 2.6), so sᵀy > 0 for every pair. The
direction is the two-loop recursion of Nocedal (Mathematics of Computation 35, 1980).

With H₀ = γ (M + μI)⁻¹ as first inverse Hessian, L-BFGS in z is the same as plain L-BFGS in y = (M + μI)^½ z. Where
gradients are projected on the span of leading axes of M, which H₀ maps to itself, codes stay in that span.
"""

import torch
from torch import Tensor

from pullback.applications.inverting.objective import Objective
from pullback.applications.inverting.watch import Watch, rows_of

PAIRS = 30
"""Pairs of steps and gradients that are kept."""
_DECREASE, _CURVATURE = 1e-4, 0.9
"""Constants of the weak Wolfe conditions."""
_TRIALS = 20
"""Trials of a line search after which the row ends: f cannot be lowered in its arithmetic."""


def damped_inverse(metric: Tensor, damping: float) -> Tensor:
    """Return (M + μI)⁻¹ [n, n] float64, with μ relative to the largest eigenvalue of M."""
    spectrum, axes = torch.linalg.eigh(metric.to(torch.float64))
    inverse: Tensor = (axes / (spectrum.clamp_min(0) + damping * spectrum[-1])) @ axes.T
    return inverse


def leading_span(metric: Tensor, count: int) -> Tensor:
    """Return the projection [n, n] float64 on the span of the leading axes of M [n, n]."""
    axes = torch.linalg.eigh(metric.to(torch.float64))[1][:, -count:]
    span: Tensor = axes @ axes.T
    return span


def minimise(
    objective: Objective,
    codes: Tensor,
    target: Tensor,
    condition: Tensor | None,
    watch: Watch,
    *,
    metric: Tensor | None = None,
    damping: float = 1e-3,
    leading: int | None = None,
    steps: int = 1000,
) -> tuple[Tensor, Tensor]:
    """Minimise f from several codes.

    Args:
        objective: f.
        codes: starts [rows, n].
        target: index of each row's target [rows].
        condition: class of each row, if the generator has classes.
        watch: called after each gradient; returns whether to stop.
        metric: M [n, n], a metric whose damped inverse is the first inverse Hessian; None for plain L-BFGS.
        damping: μ relative to the largest eigenvalue of M.
        leading: number of leading axes of M along which codes move; None for all. It needs a metric.
        steps: most gradients of a row.

    Returns:
        The best codes [rows, n], float64, and their values [rows].
    """
    here = codes.detach().to(torch.float64).clone()
    first = None if metric is None else damped_inverse(metric.to(here), damping)
    span = None if metric is None or leading is None else leading_span(metric.to(here), leading)

    def gradients(codes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        found, half = objective.gradients(codes, target[rows], rows_of(condition, rows))
        return found, 2 * half if span is None else 2 * half @ span

    active = torch.arange(len(here), device=here.device)
    value, slope = gradients(here, active)
    best, values = here.clone(), value.clone()
    pairs = _Pairs(len(here), here.shape[1], first, here)
    direction = pairs.direction(slope)
    step = _first_step(slope, direction)
    low, high, trials = torch.zeros_like(step), torch.full_like(step, torch.inf), torch.zeros_like(step)
    if watch(target, here, value, condition):
        return best, values
    for _ in range(steps - 1):
        active = active[(trials[active] < _TRIALS) & (values[active] > watch.tolerance)]
        if len(active) == 0:
            break
        trial = here[active] + step[active, None] * direction[active]
        found, new = gradients(trial, active)
        downhill = (slope[active] * direction[active]).sum(dim=1)
        enough = found <= value[active] + _DECREASE * step[active] * downhill
        flat = (new * direction[active]).sum(dim=1) >= _CURVATURE * downhill
        better = found < values[active]
        best[active[better]], values[active[better]] = trial[better], found[better]
        high[active] = torch.where(enough, high[active], step[active])
        low[active] = torch.where(enough & ~flat, step[active], low[active])
        step[active] = torch.where(high[active].isfinite(), (low[active] + high[active]) / 2, 2 * low[active])
        trials[active] += 1
        taken = enough & flat
        rows = active[taken]
        if len(rows):
            pairs.add(rows, trial[taken] - here[rows], new[taken] - slope[rows])
            here[rows], value[rows], slope[rows] = trial[taken], found[taken], new[taken]
            direction = pairs.direction(slope)
            step[rows], low[rows], high[rows], trials[rows] = 1.0, 0.0, torch.inf, 0.0
        if watch(target[active], trial, found, rows_of(condition, active)):
            break
    return best, values


def _first_step(slope: Tensor, direction: Tensor) -> Tensor:
    """The first trial step [rows]: of length one in the metric of the first Hessian, or shorter."""
    length = (-(slope * direction).sum(dim=1)).clamp_min(torch.finfo(torch.float64).tiny).sqrt()
    return (1 / length).clamp_max(1.0)


class _Pairs:
    """The last pairs (s, y) of each row, newest first. Empty places have ϱ = 0 and change nothing."""

    def __init__(self, rows: int, n: int, first: Tensor | None, like: Tensor) -> None:
        self._first = first
        self._s, self._y = (like.new_zeros(rows, PAIRS, n) for _ in range(2))
        self._rho = like.new_zeros(rows, PAIRS)
        self._gamma = like.new_ones(rows)

    def add(self, rows: Tensor, s: Tensor, y: Tensor) -> None:
        product = (s * y).sum(dim=1)
        good = product > 0
        rows, s, y, product = rows[good], s[good], y[good], product[good]
        for held, new in ((self._s, s), (self._y, y), (self._rho, 1 / product)):
            held[rows, 1:] = held[rows, :-1].clone()
            held[rows, 0] = new
        self._gamma[rows] = product / (y * self._scaled(y)).sum(dim=1)

    def _scaled(self, vectors: Tensor) -> Tensor:
        return vectors if self._first is None else vectors @ self._first

    def direction(self, slope: Tensor) -> Tensor:
        """Return −Hg [rows, n] for the gradients of all rows."""
        q = slope.clone()
        weights = []
        for place in range(PAIRS):
            weight = self._rho[:, place] * (self._s[:, place] * q).sum(dim=1)
            q -= weight[:, None] * self._y[:, place]
            weights.append(weight)
        q = self._gamma[:, None] * self._scaled(q)
        for place in reversed(range(PAIRS)):
            back = self._rho[:, place] * (self._y[:, place] * q).sum(dim=1)
            q += (weights[place] - back)[:, None] * self._s[:, place]
        return -q
