"""The Jacobian of residual features with respect to the latent code, in forward mode.

J = ∂ r(G(z)) / ∂z is computed for a batch of codes at once, one chunk of columns at a time. Every code of the batch
moves along the same unit vector, so the image of a code must depend on that code alone. A chunk is pushed through a
`Linearization` if the map can be recorded and replayed, and else through torch's own derivatives.
Elsewhere: how many codes and columns at once (`memory`), the arithmetic (`precision`), and whether the result is right
(`certificate`).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pullback.distances import ResidualDistance
from pullback.errors import ArgumentError, PullbackError, with_message
from pullback.generators.base import repeat_rows
from pullback.metric.forward.linearize import Linearization
from pullback.metric.forward.tape import Untraceable
from pullback.metric.forward.torch_modes import Pushforward, raise_if_no_way_helps
from pullback.metric.kernels import differentiable_kernels
from pullback.metric.reasons import one_line

Features = Callable[[Tensor], Tensor]
"""A map from latent codes [batch, n] to residual features [batch, m], independent for each sample."""
FeaturesOf = Callable[[slice | Tensor], Features]
"""Makes the feature map of some codes of a batch (a slice or indices), with the classes of those codes."""
Push = Callable[[Tensor], Tensor]
"""Maps tangents [chunk, batch, n] to derivatives of the features along them [chunk, batch, m]."""


def feature_map(generator: nn.Module, distance: ResidualDistance, condition: Tensor | None = None) -> Features:
    """r∘G: maps latent codes [batch, n] to residual features [batch, m], for classes [batch] if G has classes.

    The codes may be several displaced copies of the batch, one after the other. The classes are repeated accordingly.
    """

    def features(z: Tensor) -> Tensor:
        classes = condition
        if classes is not None and len(classes) != len(z):
            classes = repeat_rows(classes, len(z) // len(classes))
        return distance.residual_at(generator, z, classes)

    return features


def derivative_at(features: Features, z: Tensor, dtype: torch.dtype | None = None, recorded: bool = True) -> Push:
    """The derivative of the features at codes, as a function of tangents.

    If recording or replaying the map fails, torch's own forward mode is used instead.

    Args:
        features: the map to differentiate.
        z: latent codes [batch, n].
        dtype: dtype of the tangents if the map can be recorded; by default the dtype of z.
        recorded: False to use torch's own forward mode, which is slower and independent of the rules in `forward`.

    Raises:
        PullbackError: a dtype is requested for the tangents, and the map cannot be recorded. The returned push raises
            it if no way to the derivative works.
    """
    return _Derivative(features, z, dtype, recorded)


class _Derivative:
    """The push that `derivative_at` returns."""

    def __init__(self, features: Features, z: Tensor, dtype: torch.dtype | None, recorded: bool) -> None:
        self._features, self._z, self._dtype = features, z, dtype
        self._error: Exception | None = None
        self._recorded = self._try(lambda: Linearization(features, z, dtype).push) if recorded else None
        self._fallback: Push | None = None

    def __call__(self, tangents: Tensor) -> Tensor:
        recorded = self._recorded
        if recorded is not None:
            pushed: Tensor | None = self._try(lambda: recorded(tangents))
            if pushed is not None:
                return pushed
            self._recorded = None
        if self._fallback is None:
            self._fallback = by_forward_mode(self._features, self._z)
        try:
            return self._fallback(tangents)
        except PullbackError:
            raise
        except Exception as error:
            raise_if_no_way_helps(error)
            # `Untraceable` is a limit of the tape, not an error of the network. Any other tape error has priority.
            shown = error if self._error is None or isinstance(self._error, Untraceable) else self._error
            raise PullbackError(
                f"the derivative of this generator and distance cannot be computed: {one_line(shown)}. Nothing was "
                "stored. Replace the operation that this names, or use the method finite_difference, which "
                "needs a gradient only"
            ) from shown

    def _try(self, attempt: Callable[[], Any]) -> Any:
        """The result of an attempt, or None if it failed and another way may work."""
        try:
            with differentiable_kernels():
                return attempt()
        except Exception as error:
            raise_if_no_way_helps(error)
            if self._dtype is not None:
                name = str(self._dtype).removeprefix("torch.")
                raise ArgumentError(
                    "precision",
                    f"the tangents of this generator and distance cannot be {name}, because their derivative could not "
                    f"be recorded ({one_line(error)}). Nothing was computed; use float32",
                ) from error
            self._error = with_message(error).with_traceback(None)  # a traceback would keep tensors alive
        return None


def can_be_recorded(features: Features, z: Tensor) -> bool:
    """Whether a tape can record the map at codes [batch, n]. Then its derivative is independent of torch's own."""
    try:
        Linearization(features, z)
    except Exception as error:
        raise_if_no_way_helps(error)
        return False
    return True


def by_forward_mode(features: Features, z: Tensor) -> Push:
    """The derivative of the features at codes [batch, n] by torch's own derivatives; see `Pushforward`."""
    push = Pushforward(lambda codes: (features(codes),), [z.detach()], rows=False)

    def pushed(tangents: Tensor) -> Tensor:
        with torch.no_grad():
            return push(tangents)[0]

    return pushed


def jacobian(push: Push, z: Tensor, tangents: int) -> Tensor:
    """All columns of the Jacobian at every code.

    Args:
        push: from `derivative_at` at these codes.
        z: latent codes [batch, n].
        tangents: number of columns pushed at once, at least 1. Memory grows with batch × tangents.

    Returns:
        Jᵀ [batch, n, m]: row i is the derivative of the features along latent coordinate i.
    """
    batch, n = z.shape
    axes = torch.eye(n, dtype=z.dtype, device=z.device)
    rows: Tensor | None = None
    for start in range(0, n, tangents):
        pushed = push(axes[start : start + tangents, None, :].expand(-1, batch, -1))
        if rows is None:  # allocated once: joining a list of chunks at the end would need twice the memory
            rows = pushed.new_empty(batch, n, pushed.shape[-1])
        rows[:, start : start + tangents] = pushed.transpose(0, 1)
        del pushed
    assert rows is not None
    return rows


def pull_back(features: Features, z: Tensor, cotangents: Tensor) -> tuple[Tensor, Tensor]:
    """Jᵀ applied to one cotangent per code, by reverse mode, and the features.

    Args:
        features: the map.
        z: latent codes [batch, n].
        cotangents: [batch, m].

    Returns:
        Jᵀu [batch, n], and r(G(z)) [batch, m].
    """
    with torch.enable_grad():
        codes = z.detach().requires_grad_()
        value = features(codes)
        (pulled,) = torch.autograd.grad(value, codes, cotangents)
    return pulled, value.detach()
