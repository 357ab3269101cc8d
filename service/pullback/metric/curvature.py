"""Checks of the curvature DᵀHD by second differences of the squared distance, for methods without a Jacobian.

d²(z, z + tD) + d²(z, z − tD) = t² DᵀHD + O(t⁴) holds for every twice differentiable distance. The differences are taken
with several steps t. Round-off dominates short steps; curvature and switching ReLUs dominate long steps. An error that
appears at every step is an error of the metric.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pullback.errors import is_interrupt
from pullback.metric.check_timing import verifying
from pullback.metric.differences import GROUP
from pullback.metric.probes import FEW, along_code_and_mean, covering, draw_signs, draw_signs_along
from pullback.metric.products import Product, Squared

_OWN_STEPS, _OWN_MORE = ((0.03,), (3e-3, 1e-3)), ((0.1, 0.03, 0.01, 1e-3), (0.1, 0.03, 0.01, 3e-3, 1e-3))
"""Lengths of displacements relative to the norm of the code, in the arithmetic of the networks: the pair used at first,
and the pair for a closer look. Each pair is (long steps, which reveal a rounded image; short steps)."""
_EXACT_STEPS, _EXACT_MORE = ((0.03,), (1e-4,)), ((0.1, 0.03, 0.01, 1e-3), (1e-2, 1e-3, 1e-4, 1e-5, 1e-6))
"""The same in float64. Shorter steps would miss the effect of a path that rounds to float32 and has no derivative."""
_DIRECTIONS = (2, 4)
"""Number of directions at first, and for a closer look. The directions differ in their signs, because along one
direction the contributions of a wrong row of H may cancel."""
AT_ONCE = 6
"""Codes whose squared distances are computed at once. Memory grows with this number (`memory`)."""
_ROUND_OFF = 1e3
"""A squared distance is trusted if it exceeds the one caused by round-off of the code by this factor."""


@verifying
def second_differences(
    squared: Squared,
    z: Tensor,
    directions: Tensor,
    steps: Sequence[float],
    expected: Tensor | None = None,
    at_once: int = AT_ONCE,
) -> Tensor:
    """Estimates of DᵀHD, one per direction and step [directions, steps] float64; NaN if round-off dominates.

    Args:
        squared: maps codes [batch, n] to d²(z, ·) [batch].
        z: the code [n].
        directions: D [directions, n] float64 on the CPU.
        steps: lengths of the displacements, relative to the length of the code. If the code is too short to set a
            scale, each step is also taken relative to the length of a standard normal code. This doubles the number
            of estimates.
        expected: DᵀHD [directions]. If it is far above round-off, an estimate at round-off level is still used.
        at_once: codes whose squared distances are computed at once.
    """
    code, scales = z.to("cpu", torch.float64), _scales(z)
    # Displacement at round-off level. It has its own direction, because contributions to the image may cancel along D.
    stray = draw_signs(z[None], 9)[0] * (4 * torch.finfo(z.dtype).eps * scales[0] / len(z) ** 0.5)
    lengths = torch.cat([torch.tensor(steps, dtype=torch.float64) * scale for scale in scales.flip(0)])
    estimates = []
    for index, direction in enumerate(directions):
        unit = direction.norm()
        moved = torch.cat([(lengths / unit)[:, None] * direction, stray[None]])
        with torch.no_grad():
            codes = torch.cat([code + moved, code - moved]).to(z)
            parts = [codes[start : start + at_once] for start in range(0, len(codes), at_once)]
            squares = torch.cat([squared(part).to("cpu", torch.float64) for part in parts])
        both = squares.view(2, -1).sum(dim=0)
        noise = _ROUND_OFF * both[-1].abs()
        trusted = both[:-1].abs() > noise
        still = both[:-1] == 0
        if expected is not None:
            still |= (lengths / unit) ** 2 * expected[index].abs() > 10 * noise
        estimate = both[:-1] / (lengths / unit) ** 2
        estimates.append(torch.where(trusted | still, estimate, torch.full_like(estimate, torch.nan)))
    return torch.stack(estimates)


def _scales(z: Tensor) -> Tensor:
    """Reference lengths for the steps at a code [n], smallest first: the code's length, and √n if the code is short."""
    own, typical = float(z.detach().to("cpu", torch.float64).norm()), float(len(z)) ** 0.5
    if own >= _SHORT * typical:
        return torch.tensor([own], dtype=torch.float64)
    scales = [own, typical] if own > 0 else [typical]
    return torch.tensor(scales, dtype=torch.float64)


_SHORT = 0.01
"""A code shorter than this fraction of a standard normal code's length is too short to set the scale of a step."""


@verifying
def check_curvature(
    products: Product,
    z: Tensor,
    sizes: Tensor,
    squared: Squared,
    exact: Callable[[], Squared] | None,
    limits: Mapping[str, float],
    dense: bool,
    at_once: int = AT_ONCE,
) -> dict[str, Tensor]:
    """`probe_error`, `precision_error` and `coordinate_error` of a metric at one code, as float64 scalars.

    Args:
        products: maps vectors [p, n] to H times them [p, n].
        z: the code [n].
        sizes: square root of H's diagonal [n] float64 on the CPU, at least approximately and up to a factor.
        squared: maps codes [batch, n] to d²(z, ·) [batch].
        exact: makes the same map in float64, if possible.
        limits: limits of the certificate. Errors beyond them are measured again with more directions and steps, and
            for each group of coordinates alone.
        dense: whether `sizes` are exact, because the whole matrix is known.
        at_once: codes whose squared distances are computed at once.
    """
    check = _Curvature(products, z, sizes, limits, dense, at_once)
    if z.dtype != torch.float64:
        own = check.first(squared, z, _OWN_STEPS)
        if check.is_settled(own):
            return check.named(own)
    map64 = _working(exact, z)
    if map64 is None:
        return check.named(check.complete(squared, z, _OWN_STEPS, _OWN_MORE))
    return check.named(check.complete(map64, z.to(torch.float64), _EXACT_STEPS, _EXACT_MORE))


def _working(exact: Callable[[], Squared] | None, z: Tensor) -> Squared | None:
    """The map in float64, or None if it does not exist or does not run."""
    try:
        made = exact() if exact is not None else None
        if made is not None:
            made(z.to(torch.float64)[None])
    except Exception as error:  # a network that does not run in float64 may raise any error
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        return None
    return made


@dataclass(frozen=True)
class _Found:
    """The largest errors over all directions: by long steps, by short steps, and relative to a single coordinate."""

    probe: Tensor
    precision: Tensor
    single: Tensor
    directions: Tensor
    certain: bool
    """Whether each direction has a short step that is above round-off."""


class _Curvature:
    """Comparison of one metric with second differences. The arguments are those of `check_curvature`."""

    def __init__(
        self, products: Product, z: Tensor, sizes: Tensor, limits: Mapping[str, float], dense: bool, at_once: int
    ) -> None:
        self._products, self._z, self._sizes = products, z, sizes
        self._limits, self._dense, self._at_once = limits, dense, at_once

    def named(self, found: _Found) -> dict[str, Tensor]:
        return {"probe_error": found.probe, "precision_error": found.precision, "coordinate_error": found.single}

    def is_settled(self, found: _Found) -> bool:
        """Whether the errors are certainly within their limits."""
        return found.certain and self._is_within(found)

    def _is_within(self, found: _Found) -> bool:
        enough = self._limits["coordinate_error"]
        within = found.probe < _CLOSE and found.single <= enough
        return bool(within and not found.precision > self._limits["precision_error"])

    def first(self, squared: Squared, z: Tensor, steps: tuple[Sequence[float], Sequence[float]]) -> _Found:
        """The errors along a few directions."""
        return self._look(squared, z, _DIRECTIONS[0], *steps)

    def complete(
        self,
        squared: Squared,
        z: Tensor,
        steps: tuple[Sequence[float], Sequence[float]],
        more: tuple[Sequence[float], Sequence[float]],
    ) -> _Found:
        """The errors. If the first look exceeds a limit, look again with more directions, steps, and by group."""
        found = self.first(squared, z, steps)
        if not self._is_within(found):
            found = self._look(squared, z, _DIRECTIONS[1], *more)
        if not found.single <= self._limits["coordinate_error"]:
            found = replace(found, single=self._by_group(squared, z, found.directions, more[1]))
        if z.dtype != torch.float64:  # round-off dominates the short steps, so the error is unknown
            found = replace(found, precision=torch.full_like(found.precision, torch.nan))
        return found

    def _look(self, squared: Squared, z: Tensor, count: int, long: Sequence[float], short: Sequence[float]) -> _Found:
        signs = torch.cat([draw_signs_along(self._z[None], salt) for salt in range(count)])
        directions = covering(self._sizes.expand(count, -1), signs)
        curvatures = self._curvatures(directions)
        unit = self._sizes.amax() ** 2 if self._dense else curvatures.abs().mean() / len(z)
        if len(z) <= FEW:
            along = along_code_and_mean(self._z[None])[0]
            directions = torch.cat([directions, along[along.any(dim=1)]])
            curvatures = torch.cat([curvatures, self._curvatures(directions[count:])])
            unit = unit.maximum(curvatures[count:].abs().amax())
        estimates = second_differences(squared, z, directions, (*long, *short), curvatures, self._at_once)
        each = estimates.view(len(directions), -1, len(long) + len(short))  # axis 1: the reference lengths of the code
        far, near = each[:, :, : len(long)].flatten(1), each[:, :, len(long) :].flatten(1)
        return _Found(
            probe=_relative(far, curvatures, unit).amax(),
            precision=_relative(near, curvatures, unit).amax(),
            single=_absolute(near, curvatures, unit).amax(),
            directions=directions[:count],
            certain=bool((~near.isnan()).any(dim=1).all()),
        )

    def _by_group(self, squared: Squared, z: Tensor, directions: Tensor, steps: Sequence[float]) -> Tensor:
        """The largest error of the directions restricted to one group of coordinates."""
        groups = torch.zeros(len(directions), -(-len(z) // GROUP), len(z), dtype=torch.float64)
        for index in range(groups.shape[1]):
            part = slice(index * GROUP, (index + 1) * GROUP)
            groups[:, index, part] = directions[:, part]
        apart = groups.flatten(0, 1)
        curvatures = self._curvatures(apart)
        unit = self._sizes.amax() ** 2 if self._dense else curvatures.abs().sum() / len(z) / len(directions)
        estimates = second_differences(squared, z, apart, steps, curvatures, self._at_once)
        return _absolute(estimates, curvatures, unit).amax()

    def _curvatures(self, directions: Tensor) -> Tensor:
        """DᵀHD [p] of directions D [p, n]."""
        multiplied: Tensor = self._products(directions.to(self._z)).to("cpu", torch.float64) * directions
        summed: Tensor = multiplied.sum(dim=1)
        return summed


_NEGLIGIBLE = 1e-6
"""If the curvature is 0, estimates below this fraction of the unit come from rounding the direction."""
_CLOSE = 0.1
"""Take more steps if `probe_error` exceeds this."""


def _relative(estimates: Tensor, curvatures: Tensor, unit: Tensor) -> Tensor:
    """|estimate − DᵀHD| / max(|estimate|, |DᵀHD|, unit) [directions]."""
    wanted = curvatures[:, None]
    error = (estimates - wanted).abs()
    scale = torch.maximum(estimates.abs(), wanted.abs()).maximum(unit)
    return _best(torch.where(error == 0, torch.zeros_like(error), error / scale), estimates, curvatures, unit)


def _absolute(estimates: Tensor, curvatures: Tensor, unit: Tensor) -> Tensor:
    error = (estimates - curvatures[:, None]).abs()
    return _best(torch.where(error == 0, torch.zeros_like(error), error / unit), estimates, curvatures, unit)


def _best(errors: Tensor, estimates: Tensor, curvatures: Tensor, unit: Tensor) -> Tensor:
    """The error at the best trusted step [directions]; NaN if the metric is not finite.

    If no step is trusted, the error is 0. A squared distance of higher order has a curvature of 0, and its estimates
    shrink with the step. Its error is the estimate at the shortest step divided by the estimate at the longest step.
    """
    known = torch.where(estimates.isnan(), torch.full_like(errors, torch.inf), errors)
    best = known.amin(dim=1)
    best = torch.where(best.isinf(), torch.zeros_like(best), best)
    trusted = ~estimates.isnan()
    order = torch.arange(estimates.shape[1])
    longest = torch.where(trusted, order, len(order)).amin(dim=1).clamp_max(len(order) - 1)
    shortest = torch.where(trusted, order, -1).amax(dim=1).clamp_min(0)
    far, near = (estimates.abs().nan_to_num().gather(1, at[:, None])[:, 0] for at in (longest, shortest))
    vanishing = torch.where(far > 0, near / far, near.sign()).clamp_max(1)
    vanishing = torch.where(shortest > longest, vanishing, near.sign())
    best = torch.where((curvatures == 0) & (far > _NEGLIGIBLE * unit), vanishing, best)
    return torch.where(curvatures.isfinite(), best, torch.full_like(best, torch.nan))
