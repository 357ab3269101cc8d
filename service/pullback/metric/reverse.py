"""The Jacobian of residual features by reverse mode alone, for maps that have no forward mode.

A second reverse pass gives a forward product: g(u) = Jᵀu is linear in u, so the gradient of g(u) · v in u is J v
(Townsend, "A new trick for calculating Jacobian vector products", 2017). This needs a backward pass that can be
differentiated with respect to its cotangent. Without one, J is computed row by row from each feature's gradient.
Every direction has its own copy of the code, so no operation needs a batching rule. The image of a code must depend on
that code alone.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pullback.metric.jacobian import Features, Push
from pullback.metric.kernels import DifferentiableKernels, differentiable_kernels
from pullback.metric.products import Product, in_chunks, refuse_once_differentiable


def push_by_reverse(features: Features, z: Tensor) -> Push:
    """The push from tangents [chunk, batch, n] to J v [chunk, batch, m] at codes z [batch, n], by two reverse passes.

    Raises:
        RuntimeError: the backward pass cannot be differentiated. The first push raises this error.
    """
    transposed = _Transposed(features, z)

    def push(tangents: Tensor) -> Tensor:
        return transposed.push(tangents.reshape(-1, z.shape[1])).reshape(*tangents.shape[:2], -1)

    return push


def rows_by_reverse(features: Features, z: Tensor, chunk: int) -> Tensor:
    """Jᵀ [batch, n, m] at codes z [batch, n], one reverse pass for each chunk of features.

    Args:
        features: the map to m features.
        z: latent codes.
        chunk: features pulled back at once, each with its own copy of the codes.
    """
    batch, n = z.shape
    with torch.enable_grad(), differentiable_kernels(), DifferentiableKernels():
        codes = z.detach().repeat(chunk, 1).requires_grad_()
        value = features(codes)
    m = value.shape[1]
    rows = value.new_empty(batch, n, m)
    for start in range(0, m, chunk):
        many = min(chunk, m - start)
        cotangents = value.new_zeros(chunk, batch, m)
        index = torch.arange(many, device=z.device)
        cotangents[index, :, start + index] = 1
        (pulled,) = torch.autograd.grad(value, codes, cotangents.reshape(-1, m), retain_graph=True)
        rows[:, :, start : start + many] = pulled.reshape(chunk, batch, n)[:many].permute(1, 2, 0)
    return rows


def product_by_reverse(features: Features, z: Tensor, *, chunk: int) -> Product:
    """The product V [p, n] -> HV = 2 Jᵀ(JV) at one code z [n], by reverse passes through copies of the code."""
    transposed = _Transposed(features, z.detach()[None])

    def multiply(vectors: Tensor) -> Tensor:
        return 2 * transposed.pull(transposed.push(vectors))

    return in_chunks(multiply, chunk)


class _Transposed:
    """The graph of u -> Jᵀu at copies of codes. It is kept for the next call with the same number of copies."""

    def __init__(self, features: Callable[[Tensor], Tensor], z: Tensor) -> None:
        self._features, self._z = features, z.detach()
        self._kept: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def push(self, tangents: Tensor) -> Tensor:
        """J v for tangents v [copies · batch, n]. The codes of the batch alternate."""
        _, _, cotangents, pulled = self._graph(len(tangents))
        return torch.autograd.grad(pulled, cotangents, tangents, retain_graph=True)[0]

    def pull(self, cotangents: Tensor) -> Tensor:
        """Jᵀu for cotangents u [copies · batch, m]."""
        codes, value, _, _ = self._graph(len(cotangents))
        return torch.autograd.grad(value, codes, cotangents, retain_graph=True)[0]

    def _graph(self, many: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if self._kept is None or len(self._kept[0]) != many:
            self._kept = None  # free the old graph before the new one is built
            with torch.enable_grad():
                codes = self._z.repeat(many // len(self._z), 1).requires_grad_()
                with differentiable_kernels(), DifferentiableKernels():
                    value = self._features(codes)
                cotangents = torch.zeros_like(value).requires_grad_()
                (pulled,) = torch.autograd.grad(value, codes, cotangents, create_graph=True)
                refuse_once_differentiable(pulled)
            self._kept = codes, value, cotangents, pulled
        return self._kept
