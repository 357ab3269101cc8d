"""The Jacobian of residual features with respect to the latent code, in forward mode.

J = ∂ r(G(z)) / ∂z is built a chunk of columns at a time, for a batch of codes at once. Every code of the batch is
moved along the same unit vector, so the image of a code must depend on that code alone. A chunk is pushed through a
`Linearization` where the map can be recorded, and by torch's own forward mode where it cannot.
Leaves to others: how many codes and columns at once (`memory`), in which arithmetic (`precision`), and whether the
result is right (`certificate`).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jvp, vmap

from pullback.distances import ResidualDistance
from pullback.errors import PullbackError, is_interrupt
from pullback.metric.linearize import Linearization

Features = Callable[[Tensor], Tensor]
"""A map from latent codes [batch, n] to residual features [batch, m], sample by sample."""
Push = Callable[[Tensor], Tensor]
"""Tangents [chunk, batch, n] to derivatives of the features along them [chunk, batch, m]."""


def feature_map(generator: nn.Module, distance: ResidualDistance, condition: Tensor | None = None) -> Features:
    """r∘G: latent codes [batch, n] to residual features [batch, m], for classes [batch] where G has classes.

    Several rounds of the same codes, moved, may be given at once: the classes go round with them.
    """

    def features(z: Tensor) -> Tensor:
        classes = condition
        if classes is not None and len(classes) != len(z):
            classes = classes.repeat(len(z) // len(classes))
        return distance.residual_at(generator, z, classes)

    return features


def derivative_at(features: Features, z: Tensor, dtype: torch.dtype | None = None, recorded: bool = True) -> Push:
    """The derivative of the features at codes, as a function of tangents.

    Args:
        features: the map to differentiate.
        z: latent codes [batch, n].
        dtype: of the tangents where the map can be recorded, by default that of z.
        recorded: False for torch's own forward mode in any case: slower, and independent of our rules.

    Raises:
        PullbackError: tangents of another dtype than the code's are asked for, and the map cannot be recorded.
    """
    if recorded:
        try:
            return Linearization(features, z, dtype).push
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            # Whatever our rules stumble over in a user's network, torch may know how to do; if not, its error is
            # the one that the user can do something about.
            if dtype is not None:
                name = str(dtype).removeprefix("torch.")
                raise PullbackError(
                    f"metric.precision: the tangents of this generator and distance cannot be {name}, because their "
                    f"derivative could not be recorded ({type(error).__name__}: {error}). Nothing was computed; use "
                    "float32"
                ) from error
    return by_forward_mode(features, z)


def by_forward_mode(features: Features, z: Tensor) -> Push:
    """The derivative of the features at codes [batch, n] by torch's own forward mode, a primal pass for each chunk."""

    def push(tangents: Tensor) -> Tensor:
        with torch.no_grad():
            pushed: Tensor = vmap(lambda tangent: jvp(features, (z,), (tangent,))[1])(tangents)
        return pushed

    return push


def jacobian(push: Push, z: Tensor, tangents: int) -> Tensor:
    """Every column of the Jacobian at every code.

    Args:
        push: of `derivative_at` these codes.
        z: latent codes [batch, n].
        tangents: how many columns are pushed forward at once, at least 1; memory grows with batch × tangents.

    Returns:
        Jᵀ [batch, n, m]: row i is the derivative of the features along latent coordinate i.
    """
    batch, n = z.shape
    axes = torch.eye(n, dtype=z.dtype, device=z.device)
    rows: Tensor | None = None
    for start in range(0, n, tangents):
        pushed = push(axes[start : start + tangents, None, :].expand(-1, batch, -1))
        if rows is None:  # written in place: a list of chunks joined at the end would hold everything twice
            rows = pushed.new_empty(batch, n, pushed.shape[-1])
        rows[:, start : start + tangents] = pushed.transpose(0, 1)
        del pushed
    assert rows is not None
    return rows


def pull_back(features: Features, z: Tensor, cotangents: Tensor) -> tuple[Tensor, Tensor]:
    """Jᵀ applied to one cotangent a code, by reverse mode, and the features.

    Args:
        features: the map.
        z: latent codes [batch, n].
        cotangents: [batch, m].

    Returns:
        [batch, n], and r(G(z)) [batch, m].
    """
    with torch.enable_grad():
        point = z.detach().requires_grad_()
        value = features(point)
        (pulled,) = torch.autograd.grad(value, point, cotangents)
    return pulled, value.detach()
