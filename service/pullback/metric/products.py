"""Products of the metric with vectors, at one latent code, without the metric.

For n in the thousands H is not formed: a Krylov method (`krylov`) needs only V -> HV. Three ways to it, the choice
depending on the distance: 2 Jᵀ(JV) where the distance is a sum of squares, a second backward pass where it is not, and
differences of gradients where there is no second derivative or no memory for its graph.

Vectors come as rows, several at once: on every machine tried a batch costs less than its vectors one by one. A batch of
vectors becomes a batch of copies of the code, which needs the image of a code to depend on that code alone.

Leaves to others: full float32 on GPUs (`jacobian.exact_arithmetic`, around the whole computation), weights without
gradients, and how many vectors fit into memory.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap

from pullback.distances.base import Distance, ResidualDistance
from pullback.generators.base import images_of

Product = Callable[[Tensor], Tensor]
"""V [p, n] -> HV [p, n]: row i of the result is H times row i."""

Squared = Callable[[Tensor], Tensor]
"""The map z -> d²(z0, z): codes [batch, n] to squared distances [batch], sample by sample."""

CHUNK = 32
"""Vectors multiplied at once; on the CPU the cost of a vector no longer falls beyond 16."""

_SMALL = 0.01
"""A code this much shorter than a standard normal one gives no scale to a finite difference."""


def squared_map(generator: nn.Module, distance: Distance, z0: Tensor, condition: Tensor | None = None) -> Squared:
    """The map whose Hessian at z0 is the metric: codes to their squared distances from G(z0).

    What z0 itself gives is computed once, here, and held constant.

    Args:
        generator: G.
        distance: of either kind.
        z0: the code [n].
        condition: its class [1], where G has classes.

    Returns:
        codes [batch, n] -> d²(z0, ·) [batch].
    """

    def classes(batch: int) -> Tensor | None:
        return None if condition is None else condition.reshape(1).expand(batch)

    with torch.no_grad():
        if isinstance(distance, ResidualDistance):  # which may read more of the generator than its image
            there = distance.residual_at(generator, z0[None], classes(1))
        else:
            there = images_of(generator, z0[None], classes(1))

    def squared(codes: Tensor) -> Tensor:
        if isinstance(distance, ResidualDistance):
            difference = distance.residual_at(generator, codes, classes(len(codes))) - there
            return torch.sum(difference * difference, dim=1)
        result: Tensor = distance(there, images_of(generator, codes, classes(len(codes))))
        return result

    return squared


def gauss_newton_product(
    features: Callable[[Tensor], Tensor], z: Tensor, *, chunk: int = CHUNK, push: Product | None = None
) -> Product:
    """HV = 2 Jᵀ(JV) with the Jacobian J of residual features: one forward-mode and one reverse-mode pass a chunk.

    Source: Schraudolph, Neural Computation 14 (2002), for Gauss-Newton products; for a residual distance at its
    operating point they are the Hessian's own (`gauss_newton`). The reverse pass goes through one primal, kept from
    the start, with its cotangents mapped over: as fast as a batch of copies of the code, whose forward pass and
    activations it does without.

    Args:
        features: codes [1, n] to residual features [1, m] (`feature_map`).
        z: the code [n].
        chunk: vectors taken through the network at once; memory grows with it.
        push: V [p, n] -> VJᵀ [p, m], a faster forward mode if there is one; `vmap(jvp)` by default.

    Returns:
        The product, exact up to the round-off of z's dtype.
    """
    code = z.detach()[None]
    with torch.no_grad():
        transpose = vjp(features, code)[1]

    def push_by_jvp(vectors: Tensor) -> Tensor:
        pushed: Tensor = vmap(lambda tangent: jvp(features, (code,), (tangent[None],))[1][0])(vectors)
        return pushed

    def multiply(vectors: Tensor) -> Tensor:
        with torch.no_grad():  # vjp and jvp differentiate all the same, and leave no graph of the graph
            pushed = (push or push_by_jvp)(vectors)
            pulled: Tensor = vmap(lambda cotangent: transpose(cotangent[None])[0][0])(pushed)
            return 2 * pulled

    return _in_chunks(multiply, chunk)


def double_backward_product(squared: Squared, z: Tensor, *, chunk: int = CHUNK) -> Product:
    """HV as the gradient of the gradient: ∂/∂z (g(z) · v), with g = ∂ d²(z0, ·)/∂z. For any distance.

    Source: Pearlmutter, Neural Computation 6 (1994), in the reverse-over-reverse form of Wang & Ponce's BackwardIter.
    Theirs goes back once a vector; here a chunk of vectors goes back through the graph of as many copies of the code,
    whose gradients depend on their own copy alone. That takes a third of the time on a 64-pixel DCGAN, and needs no
    batching rule of any operator, unlike `is_grads_batched`, which was slower than one vector after the other.

    The graph is kept for the next call with as many vectors; another number builds it anew, which costs about two
    thirds of a product.

    Args:
        squared: from `squared_map`.
        z: the code z0 [n].
        chunk: vectors multiplied at once; the graph's memory grows with it.

    Raises:
        RuntimeError: something in the distance or the generator cannot be differentiated twice.
    """
    kept: tuple[Tensor, Tensor] | None = None

    def multiply(vectors: Tensor) -> Tensor:
        nonlocal kept
        with torch.enable_grad():
            if kept is None or len(kept[0]) != len(vectors):
                kept = None  # the old graph goes before the new one comes
                codes = z.detach().repeat(len(vectors), 1).requires_grad_()
                kept = codes, differentiable_gradients(squared, codes)
            return torch.autograd.grad(kept[1], kept[0], vectors, retain_graph=True)[0]

    return _in_chunks(multiply, chunk)


def differentiable_gradients(squared: Squared, codes: Tensor) -> Tensor:
    """∂ d²(z0, ·)/∂z at codes [batch, n] that require gradients, [batch, n], with its graph.

    Raises:
        RuntimeError: the graph goes through an `autograd.Function` that is `once_differentiable`. Asked for the
            gradient of such a gradient in given inputs, torch leaves the Function out and says nothing: H would be 0.
    """
    distances = squared(codes)
    # torch marks where such a Function was only if what comes back to it requires a gradient itself
    ones = torch.ones_like(distances).requires_grad_()
    (gradients,) = torch.autograd.grad(distances, codes, ones, create_graph=True)
    open_nodes, seen = [gradients.grad_fn], {gradients.grad_fn}
    while open_nodes:
        node = open_nodes.pop()
        if node is None:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("d² has no second derivative: an autograd.Function in it is once_differentiable")
        fresh = {following for following, _ in node.next_functions} - seen
        seen |= fresh
        open_nodes.extend(fresh)
    return gradients


def difference_product(squared: Squared, z: Tensor, *, relative_step: float = 1e-3, chunk: int = CHUNK) -> Product:
    """HV from gradients at displaced codes: (g(z0 + εv) − g(z0 − εv)) / 2ε, with g = ∂ d²(z0, ·)/∂z. For any distance.

    Source: Wang & Ponce's ForwardIter, ε = relative_step · ‖z0‖ / ‖v‖. Unlike theirs, the origin is safe: where ‖z0‖ is
    below 0.01 √n the norm of a standard normal code, √n, takes its place; and eigenvalues are not halved.

    Both signs and all vectors of a chunk are one batch of codes, whose gradients are one backward pass.

    Args:
        squared: from `squared_map`.
        z: the code z0 [n].
        relative_step: the length of the displacement, relative to the code's.
        chunk: vectors multiplied at once, each with two codes.

    Returns:
        The product, with an error of order ε² where d² is smooth, and of order ε across the kinks of ReLUs; in float32
        round-off adds about 1e-7 / relative_step, relatively.
    """
    typical = float(z.numel()) ** 0.5
    length = float(z.detach().norm())
    radius = relative_step * (length if length >= _SMALL * typical else typical)

    def multiply(vectors: Tensor) -> Tensor:
        lengths = vectors.norm(dim=1, keepdim=True)
        moved = radius * vectors / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
        with torch.enable_grad():
            codes = torch.cat([z.detach() + moved, z.detach() - moved]).requires_grad_()
            (gradients,) = torch.autograd.grad(squared(codes).sum(), codes)
        ahead, behind = gradients.chunk(2)
        product: Tensor = (ahead - behind) * (lengths / (2 * radius))
        return product

    return _in_chunks(multiply, chunk)


def _in_chunks(multiply: Product, chunk: int) -> Product:
    if chunk < 1:
        raise ValueError(f"at least one vector must be multiplied at once, not {chunk}")

    def product(vectors: Tensor) -> Tensor:
        if len(vectors) <= chunk:
            return multiply(vectors)
        return torch.cat([multiply(part) for part in torch.split(vectors, chunk)])

    return product
