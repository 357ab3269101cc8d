"""Finite differences of features: the length of a step, the difference, and its round-off."""

import torch
from torch import Tensor

from pullback.metric.jacobian import Features


def step_of(
    z: Tensor,
    directions: Tensor,
    size: Tensor,
    value: Tensor,
    relative: float | None = None,
    latent: float | None = None,
) -> Tensor:
    """The step ε [batch] of a difference along directions, float64 on the CPU.

    The step changes the features by a small fraction of their norm, independent of the units of the latent space. It
    changes the code by a small fraction of its norm at most, independent of the scale of the image.

    Args:
        z: latent codes [batch, n]. Their dtype determines the fractions.
        directions: D [batch, n].
        size: ‖J D‖ [batch].
        value: the features [batch, m].
        relative: fraction of the features' norm; by default 1e-9 in float64, sqrt(machine epsilon) / 2 otherwise.
        latent: largest fraction of the code's norm.
    """
    double = z.dtype == torch.float64
    relative = relative or (1e-9 if double else torch.finfo(z.dtype).eps ** 0.5 / 2)
    latent = latent or (1e-4 if double else 1e-2)
    longest = latent * latent_scale(z) / directions.norm(dim=1)
    wanted = relative * value.to(torch.float64).norm(dim=1).cpu() / size
    return torch.where((wanted > 0) & (wanted < longest), wanted, longest)


def latent_scale(z: Tensor) -> Tensor:
    """The norm of codes [batch], or √n for a code that is too short to set a scale; float64 on the CPU."""
    typical = float(z.shape[1]) ** 0.5
    length = z.detach().to("cpu", torch.float64).norm(dim=1)
    return torch.where(length > 1e-6 * typical, length, torch.full_like(length, typical))


def directional_difference(features: Features, z: Tensor, directions: Tensor, step: Tensor) -> Tensor:
    """The central difference (r(z + εD) − r(z − εD)) / 2ε of the features along directions.

    Args:
        features: the map.
        z: latent codes [batch, n].
        directions: D [batch, n].
        step: ε of each code [batch], in latent units.

    Returns:
        [batch, m] float64, an independent estimate of J D.
    """
    moved = step[:, None] * directions
    ahead, behind = z.to("cpu", torch.float64) + moved, z.to("cpu", torch.float64) - moved
    codes = torch.cat([ahead, behind]).to(z)
    with torch.no_grad():
        there, back = features(codes).to(torch.float64).chunk(2)
    difference: Tensor = (there - back) / (2 * step.to(there.device)[:, None])
    return difference


def rounding_of(z: Tensor, value: Tensor, step: Tensor, units: float = 4) -> Tensor:
    """Norm of the error [batch] that round-off of features [batch, m] causes in a difference; see `beyond_rounding`."""
    size: Tensor = value.to(torch.float64).norm(dim=1).cpu()
    return units * torch.finfo(z.dtype).eps * size / step


def beyond_rounding(deviation: Tensor, z: Tensor, value: Tensor, step: Tensor, units: float = 4) -> Tensor:
    """The norms of deviations [batch, m], minus the largest error that round-off of the features can cause [batch].

    Args:
        deviation: the derivative minus a difference of features divided by its step.
        z: the codes, in the dtype of the difference.
        value: the features.
        step: ε [batch].
        units: round-off of the features, in machine epsilons of their norm.
    """
    norm, rounding = deviation.norm(dim=1).cpu(), rounding_of(z, value, step, units)
    return torch.where(norm > rounding, norm - rounding, 0 * norm)  # `0 * norm` keeps a NaN
