"""Checks of Jacobians against finite differences: first in the arithmetic of the networks, then in float64 if in doubt.

Two forward passes per code, both in one batch, settle most codes. One of them gives a difference along a direction that
moves every coordinate. The other is a step that visibly changes the image. Codes in doubt take further passes. The
networks are copied to float64 only if these leave a code in doubt.
Elsewhere: the directions, and the checks by reverse mode (`probes`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from pullback.errors import is_interrupt
from pullback.metric.check_timing import verifying
from pullback.metric.jacobian import Features, FeaturesOf, Push, derivative_at
from pullback.metric.probes import Looks
from pullback.metric.steps import beyond_rounding, directional_difference, rounding_of, step_of
from pullback.metric.visible_steps import probe_error_of, visible_step

GROUP = 16
"""Coordinates per group. If the difference along all coordinates is too inaccurate to rule out one wrong column, a
difference is taken along each group alone."""
PushAt = Callable[[Features, Tensor, bool], Push]
"""Makes the derivative of features at codes: with a tape if the flag is True, else with torch's own forward mode."""


@verifying
def check_jacobian(
    features_of: FeaturesOf,
    z: Tensor,
    looks: Looks,
    limits: Mapping[str, float],
    exact: Callable[[], FeaturesOf | None] = lambda: None,
    push_at: PushAt | None = None,
) -> dict[str, Tensor]:
    """The checks of the Jacobians of a batch.

    Args:
        features_of: the map whose Jacobian is J.
        z: latent codes [batch, n].
        looks: result of `compare_columns`.
        limits: limits of the certificate. If `coordinate_error` or `precision_error` exceeds its limit, it is measured
            again with more steps.
        exact: makes the same map in float64, or returns None if that is impossible. Called only if a code is in doubt.
        push_at: how J was made; by default a tape or torch's own forward mode.

    Returns:
        `probe_error`, `precision_error`, `coordinate_error`, `column_error`, `product_error`, each [batch].
    """
    push_at = push_at or (lambda features, code, recorded: derivative_at(features, code, recorded=recorded))
    probe, relative, single, settled = _in_own_arithmetic(features_of, z, looks, limits)
    exact_of = None if bool(settled.all()) else exact()
    for part in _each(~settled):  # one code at a time, because float64 takes twice the memory
        relative[part], single[part] = _along_all(features_of, exact_of, z, looks, part)
        if not bool(single[part] <= limits["coordinate_error"]) or bool(relative[part] > limits["precision_error"]):
            relative[part], single[part] = _closer(
                features_of, exact_of, z, looks, part, limits["coordinate_error"], push_at
            )
    single = single.maximum(_along_code_and_mean(features_of, exact, z, looks, limits["coordinate_error"]))
    return {
        "product_error": looks.product_error,
        "column_error": looks.column_error,
        "probe_error": probe,
        "precision_error": relative,
        "coordinate_error": single,
    }


_SHORT = 1e-4
"""Change of the features, relative to their norm, that the float32 step along all coordinates causes at most. At this
size, round-off and switching ReLUs contribute about equally to the error, together 1 per cent for most generators."""
_VISIBLE = {"relative": 1e-6, "latent": 3e-6}
"""Bounds of the first step in float64, relative to the norms of the features and of the code. A part of a network may
round the code or the image to float32 and cut the derivative there (`tolist`, numpy). Its effect vanishes within steps
below the round-off of float32."""
_CERTAIN = 0.8
"""Share of a limit that round-off may take. A step is shortened until round-off takes this share, because fewer ReLUs
switch within a short step: of 30 codes of five generators (n = 64), 24 are settled rather than 20."""
_FINE = 0.1
"""Limit of `coordinate_error` in float32."""
_SAME = 0.1
"""Steps that differ by less than this share are not both tried."""
_LENGTHENED = 1.5
"""Factor by which the step of a difference over one side may exceed that of a difference over both sides."""
_LONGEST = 0.03
"""Upper bound of that step, relative to the norm of the code."""


def _each(chosen: Tensor) -> list[slice]:
    """A slice for each chosen code [batch] bool."""
    return [slice(index, index + 1) for index in torch.nonzero(chosen).flatten().tolist()]


def _in_own_arithmetic(
    features_of: FeaturesOf, z: Tensor, looks: Looks, limits: Mapping[str, float]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Differences in the dtype of the codes, from two forward passes per code, both in one batch.

    In float32 the first pass gives a difference over one side of the code. Codes that it leaves in doubt take another
    pass on the other side, and then two passes by a shorter step. With coarser tangents, both sides come at once, and
    then two passes by a longer step. A code is settled if any of these comparisons settles it. A deviation δ of the
    derivative is the same in all of them, and ‖δ + κ‖ is below ‖δ‖ only if the error κ of a difference points against
    δ. In networks of ReLUs (n = 64), 256 wide, a fault of 0.15 of the largest column passed at all of 60 codes, and one
    of 0.2 at none. In networks 1,024 wide, a fault of 0.14 passed at 38 of 40 codes, and one of 0.16 at none. So a
    fault of less than about 0.2 of the largest column may not be found here.

    Returns:
        `probe_error`, `precision_error`, `coordinate_error` and `settled`, each [batch]. `settled` is True if the
        latter two errors are within their limits and round-off is small enough to be certain.
    """
    features = features_of(slice(0, len(z)))
    size = looks.pushed.to(torch.float64).norm(dim=1).cpu()
    double = z.dtype == torch.float64
    # Coarse tangents have an error of their own to report, so their differences are over both sides at once.
    one_side = not double and limits["coordinate_error"] <= _FINE
    parts = _VISIBLE if double else {"relative": _SHORT, "latent": _LONGEST}
    longest = step_of(z, looks.directions, size, looks.value, **parts)
    short = longest if double else longest * _shortened(z, looks, longest, limits)
    visible = visible_step(z, looks)
    start = z.to("cpu", torch.float64)
    # Round-off of a difference over one side is twice that of one over both sides.
    step = longest * _shortened(z, looks, longest / 2, limits, _LENGTHENED) if one_side else short
    moved, shown = step[:, None] * looks.directions, start + visible[:, None] * looks.even
    codes = [start + moved, shown] if one_side else [start + moved, start - moved, shown]
    with torch.no_grad():
        ahead, *others, seen = features(torch.cat(codes).to(z)).chunk(len(codes))
    probe = probe_error_of(features_of, z, looks, visible, seen)

    def doubtful(where: Tensor) -> Tensor:
        return torch.nonzero(~found.settled & where).flatten()

    if one_side:
        found = _errors_of_side(ahead, z, looks, step, limits)
        part = doubtful(torch.ones_like(found.settled))
        if len(part) > 0:
            with torch.no_grad():
                behind = features_of(part)((start - moved)[part].to(z))
            found.improve(part, _errors_of_sides(ahead[part], behind, z[part], looks[part], step[part], limits))
    else:
        found = _errors_of_sides(ahead, others[0], z, looks, step, limits)
    other = short if one_side else longest
    part = doubtful((other / step - 1).abs() > _SAME)
    if len(part) > 0:
        code, moved = start[part], other[part, None] * looks.directions[part]
        with torch.no_grad():
            ahead, behind = features_of(part)(torch.cat([code + moved, code - moved]).to(z)).chunk(2)
        found.improve(part, _errors_of_sides(ahead, behind, z[part], looks[part], other[part], limits))
    return probe, found.relative, found.single, found.settled


def _shortened(z: Tensor, looks: Looks, step: Tensor, limits: Mapping[str, float], most: float = 1.0) -> Tensor:
    """The factor [batch], from 1/2 to `most`, at which round-off of a step takes `_CERTAIN` of its limits."""
    rounding = rounding_of(z, looks.value, step)
    shares = torch.stack([rounding / (_CERTAIN * limits[name] * unit) for unit, name in _units(looks)])
    return shares.amax(dim=0).nan_to_num(1.0).clamp(0.5, most)


@dataclass
class _Found:
    """`precision_error`, `coordinate_error`, and whether both are certainly within their limits; each [batch]."""

    relative: Tensor
    single: Tensor
    settled: Tensor

    def improve(self, codes: Tensor, other: "_Found") -> None:
        """Take the errors of another difference at some codes (indices), where it settles more or has less error."""
        better = ~self.settled[codes] & (other.settled | (other.single < self.single[codes]))
        for own, new in (
            (self.relative, other.relative),
            (self.single, other.single),
            (self.settled, other.settled),
        ):
            own[codes] = torch.where(better, new, own[codes])


def _errors_of_side(ahead: Tensor, z: Tensor, looks: Looks, step: Tensor, limits: Mapping[str, float]) -> _Found:
    """The errors by the difference between features [batch, m] one step ahead of the code and those at the code."""
    deviation = beyond_rounding(
        looks.pushed.to(torch.float64) - _slope(ahead, looks.value, step), z, looks.value, step / 2
    )
    return _judged(deviation, rounding_of(z, looks.value, step / 2), looks, limits)


def _errors_of_sides(
    ahead: Tensor, behind: Tensor, z: Tensor, looks: Looks, step: Tensor, limits: Mapping[str, float]
) -> _Found:
    """The errors by the best of four comparisons with features [batch, m] one step ahead of the code and one behind.

    A ReLU that switches on one side of the code does not affect the other side. So the difference over both sides is
    followed by a difference over each side, whose round-off is twice as large, and by what both sides have in common.
    """
    pushed = looks.pushed.to(torch.float64)
    rounding = rounding_of(z, looks.value, step)
    central = beyond_rounding(pushed - _slope(ahead, behind, 2 * step), z, looks.value, step)
    found = _judged(central, rounding, looks, limits)
    if z.dtype == torch.float64 or bool(found.settled.all()):
        return found
    every = torch.arange(len(z))
    sides = [pushed - _slope(ahead, looks.value, step), pushed - _slope(looks.value, behind, step)]
    for side in sides:
        found.improve(every, _judged(beyond_rounding(side, z, looks.value, step / 2), 2 * rounding, looks, limits))
    common = _common_deviation(sides[0], sides[1], rounding, looks.sizes.amax(dim=1))
    found.improve(every, _judged(common, rounding, looks, limits))
    return found


def _common_deviation(ahead: Tensor, behind: Tensor, rounding: Tensor, largest: Tensor) -> Tensor:
    """The norm [batch] of what the deviations [batch, m] on both sides of a code have in common.

    A wrong derivative deviates by the same vector δ on both sides, so their inner product is ‖δ‖². Each switched ReLU
    is on one side, and the inner products of different ones nearly cancel. The inner product lacks the round-off of the
    features at the code, which has opposite signs on both sides, so its bound is added. Infinite if both deviations are
    long, because then their inner product is not accurate. With n = 64, a fault of 0.15 of the largest column is found.
    """
    inner = (ahead * behind).sum(dim=1).cpu()
    shorter = torch.minimum(ahead.norm(dim=1), behind.norm(dim=1)).cpu()
    common = (inner.clamp_min(0) + rounding**2).sqrt()
    return torch.where(shorter <= _LONG * largest, common, torch.full_like(common, torch.inf))


_LONG = 0.5
"""Longest deviation of one side, relative to the largest column, for which both sides are multiplied."""


def _slope(above: Tensor, below: Tensor, length: Tensor) -> Tensor:
    """The difference of features [batch, m] divided by the distance of their codes [batch], in float64."""
    difference: Tensor = (above.to(torch.float64) - below) / length.to(above.device)[:, None]
    return difference


def _units(looks: Looks) -> tuple[tuple[Tensor, str], tuple[Tensor, str]]:
    """What the deviation of J D is relative to [batch] in each of two checks, and the name of the check."""
    largest = looks.sizes.amax(dim=1)
    size = looks.pushed.to(torch.float64).norm(dim=1).cpu().maximum(largest)  # columns may cancel in the sum
    return (size, "precision_error"), (largest, "coordinate_error")


def _judged(deviation: Tensor, rounding: Tensor, looks: Looks, limits: Mapping[str, float]) -> _Found:
    """The errors of a deviation [batch] of J D whose round-off has the given bound [batch]."""
    settled = torch.ones(len(deviation), dtype=torch.bool)
    errors = []
    for unit, name in _units(looks):
        errors.append(torch.where(deviation == 0, torch.zeros_like(unit), deviation / unit))
        settled &= (errors[-1] <= limits[name]) & (rounding <= limits[name] * unit)
    return _Found(errors[0], errors[1], settled)


def _along_all(
    features_of: FeaturesOf, exact_of: FeaturesOf | None, z: Tensor, looks: Looks, part: slice
) -> tuple[Tensor, Tensor]:
    """`precision_error` and `coordinate_error` of a part of a batch, by one step along all coordinates."""
    z, looks = z[part], looks[part]
    total = looks.pushed.to(torch.float64)
    largest = looks.sizes.amax(dim=1)
    unknown = torch.full_like(largest, torch.nan)
    features = (exact_of or features_of)(part)
    try:
        codes, parts = (z.to(torch.float64), _VISIBLE) if exact_of else (z, {})
        step = step_of(codes, looks.directions, total.norm(dim=1).cpu(), looks.value, **parts)
        deviation = beyond_rounding(
            total - directional_difference(features, codes, looks.directions, step), codes, looks.value, step
        )
    except Exception as error:
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        if exact_of is None:
            raise
        return unknown, unknown.clone()
    size = total.norm(dim=1).cpu().maximum(largest)  # columns may cancel in the sum
    relative = torch.where(deviation == 0, torch.zeros_like(size), deviation / size)
    single = torch.where(deviation == 0, torch.zeros_like(size), deviation / largest)
    return (relative, single) if exact_of else (unknown, single)


def _closer(
    features_of: FeaturesOf,
    exact_of: FeaturesOf | None,
    z: Tensor,
    looks: Looks,
    part: slice,
    enough: float,
    push_at: PushAt,
) -> tuple[Tensor, Tensor]:
    """`precision_error` and `coordinate_error` of one code, by several steps and along each group of coordinates.

    The error of a difference depends on its step: round-off grows as the step shrinks, and curvature and switching
    ReLUs grow with the step. An error of the derivative remains at every step. So the step with the least error counts.
    """
    code, own = z[part], looks[part]
    largest = own.sizes.amax()
    total = own.pushed.to(torch.float64)
    small = 0.1 * enough * largest

    def deviations(features: Features, at: Tensor, factors: Sequence[float]) -> tuple[Tensor, Tensor]:
        """The least deviation along all coordinates, and that of a single one."""
        least = _least_deviation(features, at, factors, own.directions, total, own.value, small)
        if not least > enough * largest:
            return least, least
        moved = _by_group(own.directions)
        pushed = _pushed_by_group(features_of(part), code, moved, total, push_at)
        if pushed is None:
            return least, least
        apart = zip(moved, pushed, strict=True)
        errors = [_least_deviation(features, at, factors, by, to, own.value, small) for by, to in apart]
        return least, torch.stack(errors).amax()

    attempts = [(exact_of, code.to(torch.float64), _EXACT_FACTORS)] if exact_of else []
    for maps_of, at, factors in [*attempts, (features_of, code, _OWN_FACTORS)]:
        try:
            maps = maps_of(part)
            along, single = deviations(maps, at, factors)
            if at.dtype == torch.float64:
                single = single.maximum(deviations(maps, at, _VISIBLE_FACTORS)[1])
            relative = along / total.norm().cpu().maximum(largest)
            single = single / largest if single > 0 else single
            return (relative if maps_of is exact_of else torch.full_like(relative, torch.nan)), single
        except Exception as error:  # only in float64: the original map has already run
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            if maps_of is features_of:
                raise
    raise AssertionError("the last attempt returns or raises")


def _least_deviation(
    features: Features,
    z: Tensor,
    factors: Sequence[float],
    direction: Tensor,
    wanted: Tensor,
    value: Tensor,
    enough: Tensor,
) -> Tensor:
    """The least deviation of J D from the differences over several steps, a scalar.

    Args:
        features: the map.
        z: the code [1, n].
        factors: steps, relative to the step of `step_of`. The search stops at the first sufficiently small deviation.
        direction: D [n] or [1, n].
        wanted: J D [m] or [1, m].
        value: the features [1, m].
        enough: the deviation at which the search stops.
    """
    direction, wanted = direction.view(1, -1), wanted.view(1, -1).to(torch.float64)
    least = torch.tensor(torch.inf, dtype=torch.float64)
    for factor in factors:
        parts = _VISIBLE if factors is _VISIBLE_FACTORS else {}
        step = factor * step_of(z, direction, wanted.norm(dim=1).cpu(), value, **parts)
        deviation = wanted - directional_difference(features, z, direction, step)
        least = torch.fmin(least, beyond_rounding(deviation, z, value, step)[0])
        if least <= enough:
            break
    return least


def _along_code_and_mean(
    features_of: FeaturesOf, exact: Callable[[], FeaturesOf | None], z: Tensor, looks: Looks, enough: float
) -> Tensor:
    """The largest deviation along the code and along its mean, relative to the largest column [batch].

    Zero in large latent spaces, because there the other directions already cover both. The arithmetic of the networks
    is tried first, and float64 only if the deviation is too large.
    """
    errors = torch.zeros(len(z), dtype=torch.float64)
    for index in range(len(z) if looks.along.shape[1] else 0):
        part = slice(index, index + 1)
        code, own = z[part], looks[part]
        largest = own.sizes.amax()
        for direction, wanted in zip(own.along[0], own.pushed_along[0], strict=True):
            if not bool(direction.any()) or not bool(largest > 0):
                continue
            small = enough * largest
            factors = _VISIBLE_FACTORS if code.dtype == torch.float64 else _OWN_FACTORS
            least = _least_deviation(features_of(part), code, factors, direction, wanted, own.value, small)
            exact_of = exact() if not bool(least <= small) else None
            if exact_of is not None:
                with suppress(RuntimeError, TypeError, AssertionError):  # a network may not run in float64
                    again = _least_deviation(
                        exact_of(part), code.double(), _VISIBLE_FACTORS, direction, wanted, own.value, small
                    )
                    least = torch.fmin(least, again)
            errors[index] = errors[index].maximum(least / largest)
    return errors


_EXACT_FACTORS = (1.0, 1e-2, 1e2, 1e4, 1e5)
_OWN_FACTORS = (1.0, 0.1, 10.0)
"""Steps to try, relative to the step of `step_of`."""
_VISIBLE_FACTORS = (1.0, 10.0, 100.0)
"""Steps to try in float64, relative to that of `_VISIBLE`, for a path that rounds to float32 and has no derivative.
Shorter steps miss it."""


def _by_group(directions: Tensor) -> Tensor:
    """The parts [groups, n] of a direction [1, n], each restricted to the coordinates of one group."""
    n = directions.shape[1]
    group = torch.arange(n) // GROUP
    apart: Tensor = torch.where(torch.arange(int(group[-1]) + 1)[:, None] == group, directions, 0.0)
    return apart


def _pushed_by_group(features: Features, code: Tensor, moved: Tensor, total: Tensor, push_at: PushAt) -> Tensor | None:
    """J times each group's direction [groups, m], computed as J was; None if no computation reproduces J D."""
    for recorded in (True, False):
        try:
            push = push_at(features, code, recorded)
            pushed = torch.cat([push(one[None, None].to(code))[0] for one in moved])
        except Exception as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            continue
        if (pushed.sum(dim=0).to(torch.float64) - total[0]).norm() <= 0.01 * total.norm():
            return pushed
    return None
