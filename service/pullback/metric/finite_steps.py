"""Check that coordinates with a zero derivative do not change the image over finite steps.

A rounded image, a quantised code or a detached coordinate has a derivative of exactly zero, in forward and in reverse
mode, although the image changes. The fundamental theorem of calculus reveals this: r(z + tD) − r(z) is the integral of
the derivative along the path. If the features change and the derivative does not account for the change, the derivative
is wrong. If a ReLU is off or a pixel is saturated at the code, the derivative becomes non-zero along the path, and the
zero at the code is right.
"""

import torch
from torch import Tensor

from pullback.errors import is_interrupt
from pullback.metric.check_timing import verifying
from pullback.metric.jacobian import Features, pull_back
from pullback.metric.probes import draw_signs

_STEPS = (0.01, 0.1, 1.0, 8.0)
"""Distance that each coordinate moves, in units of the root mean square of the code's coordinates."""
_POINTS = 32
"""Number of intervals of the path. The interval with the largest change is examined."""
_NODES = 8
"""Number of places within that interval at which the derivative is taken."""
_ROUND_OFF = 200.0
"""Changes below this many machine epsilons, relative to the features' norm, are round-off."""


@verifying
def unexplained_change(features: Features, z: Tensor, still: Tensor) -> Tensor:
    """`zero_error` of a code: the fraction of a finite change of the features that their derivative does not explain.

    Args:
        features: the map.
        z: the code [n].
        still: the coordinates that have a zero derivative [n] bool.

    Returns:
        A float64 scalar in [0, 1]: 0 if no coordinate is still or nothing changes, 1 if the features change while the
        derivative is zero all along the path.
    """
    nothing = torch.zeros((), dtype=torch.float64)
    if not bool(still.any()):
        return nothing
    length = float(z.norm()) / len(z) ** 0.5
    unit = length if length > 1e-6 else 1.0
    direction = (unit * draw_signs(z[None], 4)[0] * still).to(z)
    step = _first_change(features, z, direction)
    if step is None:
        return nothing
    where = torch.linspace(0, step, _POINTS + 1, dtype=z.dtype, device=z.device)
    with torch.no_grad():
        values = features(z + where[:, None] * direction)
    increments = values.diff(dim=0)
    sizes = increments.norm(dim=1)
    index = int(sizes.argmax())
    width = float(where[1])
    nodes = where[index] + width * (torch.arange(_NODES, device=z.device).to(z) + 0.5) / _NODES
    toward = increments[index] / sizes[index]
    try:
        pulled, _ = pull_back(features, z + nodes[:, None] * direction, toward.expand(_NODES, -1))
    except (RuntimeError, NotImplementedError) as error:
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        pulled = torch.zeros_like(z)[None]  # the features do not depend on the code, so the derivative is zero
    explained = width * float((pulled @ direction).mean())
    return torch.tensor(1 - explained / float(sizes[index]), dtype=torch.float64).abs().clamp_max(1)


def _first_change(features: Features, z: Tensor, direction: Tensor) -> float | None:
    """The first step along a direction that changes the features beyond round-off; None if no step does."""
    with torch.no_grad():
        start = features(z[None])
        smallest = _ROUND_OFF * torch.finfo(z.dtype).eps * start.norm()
        for step in _STEPS:
            try:
                change = (features((z + step * direction)[None]) - start).norm()
            except (ValueError, RuntimeError) as error:  # far from the code, images may leave their valid range
                if is_interrupt(error) or step == _STEPS[0]:
                    raise
                return None
            if change > smallest:
                return step
    return None
