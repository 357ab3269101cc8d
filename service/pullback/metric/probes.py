"""Independent looks at a derivative, along random directions; what they find stands in the certificate.

Every probe is drawn from a fixed seed on the CPU, so that it is the same for every code, batch and device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pullback.metric.jacobian import Features, pull_back
from pullback.metric.stopwatch import verifying

SCALAR_STEP = 1e-4
"""The squared distance that a step of `probe_squared` makes: large beside the round-off of an SSIM, small beside 1."""
RESIDUAL_STEP = 1e-6
"""The same for a sum of squares, whose round-off is that of its differences: a smaller step crosses fewer kinks."""


def random_directions(count: int, z: Tensor) -> Tensor:
    """Unit vectors [count, n] like z [batch, n]."""
    drawn = torch.randn(count, z.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unit: Tensor = drawn / drawn.norm(dim=1, keepdim=True)
    return unit.to(z)


@dataclass(frozen=True)
class Looks:
    """What probes need of a Jacobian once it is gone, for a batch of codes.

    Attributes:
        pushed: Jv for a random unit v [batch, m].
        projected: Jᵀu for random features u [batch, n].
        sizes: the norm of each column [batch, n].
        product_error: see `Certificate` [batch].
    """

    pushed: Tensor
    projected: Tensor
    sizes: Tensor
    product_error: Tensor

    @staticmethod
    def joined(parts: Sequence["Looks"]) -> "Looks":
        """Those of several batches as one."""
        return Looks(*[torch.cat([getattr(part, entry.name) for part in parts]) for entry in fields(Looks)])


@verifying
def look(rows: Tensor, metric: Tensor) -> Looks:
    """What is kept of a Jacobian for its probes.

    Args:
        rows: Jᵀ [batch, n, m].
        metric: H as computed from it [batch, n, n] float64.
    """
    direction = random_directions(1, rows[:, :, 0])[0]
    pushed = direction @ rows
    wanted = 2 * torch.bmm(rows, pushed[:, :, None])[:, :, 0].to(metric)
    error, size = (metric @ direction.to(metric) - wanted).norm(dim=1), metric.flatten(1).norm(dim=1)
    product_error = torch.where(error == 0, torch.zeros_like(error), error / size)
    return Looks(pushed, rows @ _random_features(rows), rows.norm(dim=2), product_error)


@verifying
def probe_jacobian(features: Features, z: Tensor, looks: Looks) -> dict[str, Tensor]:
    """`probe_error`, `column_error` and `product_error` of Jacobians.

    Args:
        features: the map that J is of.
        z: latent codes [batch, n].
        looks: of their Jacobians.

    Returns:
        Each [batch]; 0 where there is nothing to compare.
    """
    try:
        pulled, value = pull_back(features, z, _random_features(looks.pushed).expand(len(z), -1))
    except NotImplementedError:  # an operator of a user's own may have no reverse mode: nothing vouches for it
        with torch.no_grad():
            pulled, value = torch.full_like(z, torch.nan), features(z)
    # a column a thousand times smaller than the largest decides nothing: its round-off is that of the others
    scale = looks.sizes.maximum(1e-3 * looks.sizes.amax(dim=1, keepdim=True))
    deviation = (looks.projected - pulled).abs()
    column_error = torch.where(deviation == 0, torch.zeros_like(deviation), deviation / scale).amax(dim=1)
    return {
        "probe_error": _against_differences(features, z, value, looks.pushed),
        "column_error": column_error,
        "product_error": looks.product_error,
    }


def _random_features(like: Tensor) -> Tensor:
    """Normal numbers [m] like a tensor [..., m]."""
    return torch.randn(like.shape[-1], generator=torch.Generator().manual_seed(1)).to(like)


def _against_differences(features: Features, z: Tensor, value: Tensor, pushed: Tensor) -> Tensor:
    size, residual_size = pushed.norm(dim=1), value.norm(dim=1)
    # The step that changes the residual by sqrt(machine epsilon) of its size, whatever the units of the latent
    # space: a smaller one drowns in round-off, in a larger one more ReLUs switch (the error grows as sqrt(ε)).
    relative = torch.finfo(z.dtype).eps ** 0.5 / 2
    # Where the residual itself is zero (MSE of a black image) it has no size to go by: 1 is that of images in [0, 1].
    scale = torch.where(residual_size == 0, torch.ones_like(size), residual_size)
    step = (relative * scale / torch.where(size > 0, size, torch.ones_like(size)))[:, None]
    direction = random_directions(1, z).expand_as(z)
    error = (pushed - directional_difference(features, z, direction, step)).norm(dim=1)
    return torch.where(error == 0, torch.zeros_like(error), error / size)


def directional_difference(features: Features, z: Tensor, direction: Tensor, step: Tensor) -> Tensor:
    """The central difference (r(z + εv) − r(z − εv)) / 2ε of the features along a direction.

    Args:
        features: the map.
        z: latent codes [batch, n].
        direction: v [batch, n].
        step: ε of each code [batch, 1], in latent units.

    Returns:
        [batch, m], an independent estimate of J v.
    """
    with torch.no_grad():
        ahead, behind = features(torch.cat([z + step * direction, z - step * direction])).chunk(2)
    return (ahead - behind) / (2 * step)


@verifying
def probe_squared(
    squared: Callable[[Tensor], Tensor], z: Tensor, product: Callable[[Tensor], Tensor], step: float
) -> Tensor:
    """`probe_error` of a product at one code: of vᵀHv against d²(z0, z0 + εv) + d²(z0, z0 − εv) = ε² vᵀHv + O(ε⁴).

    Args:
        squared: codes [batch, n] to d²(z0, ·) [batch].
        z: the code z0 [n].
        product: vectors [p, n] to H times them [p, n].
        step: the squared distance that is gone in both directions, `RESIDUAL_STEP` or `SCALAR_STEP`.

    Returns:
        The relative error, a scalar.
    """
    direction = random_directions(1, z[None])
    curvature = float((product(direction).to("cpu", torch.float64) * direction.to("cpu", torch.float64)).sum())
    if not curvature > 0:
        return torch.tensor(0.0 if curvature == 0 else torch.nan, dtype=torch.float64)
    length = (step / curvature) ** 0.5
    with torch.no_grad():
        both = squared(z + length * torch.cat([direction, -direction])).to("cpu", torch.float64).sum()
    error: Tensor = both / length**2 / curvature - 1
    return error.abs()


@verifying
def probe_symmetry(product: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """`symmetry_error` of a product at a code z [n], a scalar: |uᵀHv − vᵀHu| / (‖Hu‖ + ‖Hv‖) for random unit u, v."""
    directions = random_directions(2, z[None])
    products = product(directions).to("cpu", torch.float64)
    crossed = products @ directions.to("cpu", torch.float64).T
    size = products.norm(dim=1).sum()
    return (crossed[0, 1] - crossed[1, 0]).abs() / torch.where(size == 0, torch.ones_like(size), size)
