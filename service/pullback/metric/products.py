"""Products of the metric with vectors at one latent code, without forming the metric.

For n in the thousands H is not formed, because a Krylov method (`krylov`) needs only V -> HV. There are three ways to
compute it: 2 Jᵀ(JV) if the distance is a sum of squares, a second backward pass for any other distance, and differences
of gradients if there is no second derivative or no memory for its graph.

Vectors come as rows, several at once, because on every machine tried a batch is cheaper than its vectors one by one. A
batch of vectors becomes a batch of copies of the code, so the image of a code must depend on that code alone.

Elsewhere: full float32 on GPUs (`precision.arithmetic`, around the whole computation), weights that require no
gradients, and how many vectors fit into memory (`memory`).
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap

from pullback.distances.base import Distance, ResidualDistance
from pullback.generators.base import generate, one_row, repeat_rows
from pullback.metric.forward.torch_modes import Pushforward, raise_if_no_way_helps
from pullback.metric.kernels import DifferentiableKernels, differentiable_kernels

Product = Callable[[Tensor], Tensor]
"""Maps V [p, n] to HV [p, n]: row i of the result is H times row i."""

Squared = Callable[[Tensor], Tensor]
"""The map z -> d²(z0, z): codes [batch, n] to squared distances [batch], independent for each sample."""

CHUNK = 32
"""Vectors multiplied at once. On a CPU the cost per vector no longer falls beyond 16."""

_SMALL = 0.01
"""A code shorter than this fraction of a standard normal code's length is too short to set the scale of a step."""


def squared_map(generator: nn.Module, distance: Distance, z0: Tensor, condition: Tensor | None = None) -> Squared:
    """The map whose Hessian at z0 is the metric: codes to their squared distances from G(z0).

    The image or the features of z0 are computed once, here, and held constant.

    Args:
        generator: G.
        distance: a residual distance or any other distance.
        z0: the code [n].
        condition: class of the code [1], if G is class-conditional.

    Returns:
        The map from codes [batch, n] to d²(z0, ·) [batch].
    """

    def classes(batch: int) -> Tensor | None:
        return None if condition is None else repeat_rows(one_row(condition), batch)

    with torch.no_grad():
        if isinstance(distance, ResidualDistance):  # it may read more of the generator than the image
            there = distance.residual_at(generator, z0[None], classes(1))
        else:
            there = generate(generator, z0[None], classes(1))

    def squared(codes: Tensor) -> Tensor:
        if isinstance(distance, ResidualDistance):
            difference = distance.residual_at(generator, codes, classes(len(codes))) - there
            return torch.sum(difference * difference, dim=1)
        result: Tensor = distance(there, generate(generator, codes, classes(len(codes))))
        return result

    return squared


def gauss_newton_product(
    features: Callable[[Tensor], Tensor], z: Tensor, *, chunk: int = CHUNK, push: Product | None = None
) -> Product:
    """HV = 2 Jᵀ(JV) with the Jacobian J of residual features: one forward-mode and one reverse-mode pass per chunk.

    Source: Schraudolph, Neural Computation 14 (2002), for Gauss-Newton products. For a residual distance at its
    operating point they equal the products with the Hessian (`gauss_newton`). The reverse pass maps over cotangents and
    reuses one primal pass. This is as fast as a batch of copies of the code, but needs no forward pass and no
    activations for the copies.

    Args:
        features: the map from codes [1, n] to residual features [1, m] (`feature_map`).
        z: the code [n].
        chunk: vectors passed through the network at once. Memory grows with it.
        push: maps V [p, n] to VJᵀ [p, m] by a faster forward mode; by default torch's own (`Pushforward`).

    Returns:
        The product, exact up to the round-off of z's dtype.
    """
    code = z.detach()[None]
    pull = _Transpose(features, code)
    by_torch = Pushforward(lambda codes: (features(codes),), [code], rows=False)

    def multiply(vectors: Tensor) -> Tensor:
        with torch.no_grad():  # vjp and jvp still differentiate, but record no second-order graph
            pushed = by_torch(vectors[:, None])[0][:, 0] if push is None else push(vectors)
            return 2 * pull(pushed)

    return in_chunks(multiply, chunk)


class _Transpose:
    """The map U [p, m] -> UJ [p, n] at one code, in reverse mode through one primal pass.

    `torch.func` maps over the rows of U. The rows are computed one by one if an operation has no batching rule, if an
    `autograd.Function` does not support `torch.func`, or if a batching rule is wrong (in torch 2.13, the rule of
    `cdist`'s backward pass is). A product with a weighted sum of the rows detects a wrong rule.
    """

    def __init__(self, features: Callable[[Tensor], Tensor], code: Tensor) -> None:
        self._features, self._code = features, code
        self._graph: tuple[Tensor, Tensor] | None = None
        self._mapped: Callable[[Tensor], Tensor] | None = None
        self._compared = 0  # largest number of rows for which the mapped result was checked
        try:
            with torch.no_grad(), differentiable_kernels(), DifferentiableKernels():
                transpose = vjp(features, code)[1]
            self._mapped = vmap(lambda cotangent: transpose(cotangent[None])[0][0])
        except Exception as error:
            raise_if_no_way_helps(error)

    def __call__(self, cotangents: Tensor) -> Tensor:
        if self._mapped is not None:
            try:
                pulled = self._mapped(cotangents)
            except Exception as error:
                raise_if_no_way_helps(error)
                self._mapped = None
            else:
                if len(cotangents) <= self._compared or not bool(cotangents.any()):
                    return pulled
                self._compared = len(cotangents)
                weights = torch.arange(1, len(cotangents) + 1).to(cotangents)
                wanted, found = self._by_rows((weights @ cotangents)[None])[0], weights @ pulled
                if float((found - wanted).norm()) <= torch.finfo(found.dtype).eps ** 0.25 * float(wanted.norm()):
                    self._graph = None
                    return pulled
                self._mapped = None
        return self._by_rows(cotangents)

    def _by_rows(self, cotangents: Tensor) -> Tensor:
        if self._graph is None:
            with torch.enable_grad(), differentiable_kernels(), DifferentiableKernels():
                point = self._code.clone().requires_grad_()
                self._graph = point, self._features(point)
        point, value = self._graph
        rows = [torch.autograd.grad(value, point, row[None], retain_graph=True)[0][0] for row in cotangents]
        return torch.stack(rows)


def double_backward_product(squared: Squared, z: Tensor, *, chunk: int = CHUNK) -> Product:
    """HV as the gradient of the gradient: ∂/∂z (g(z) · v), with g = ∂ d²(z0, ·)/∂z. For any distance.

    Source: Pearlmutter, Neural Computation 6 (1994), in the reverse-over-reverse form of Wang & Ponce's BackwardIter.
    Their method makes one backward pass per vector. Here a chunk of vectors goes back through the graph of as many
    copies of the code, and the gradient of each copy depends on that copy alone. This takes a third of the time on a
    64-pixel DCGAN. It needs no batching rules, unlike `is_grads_batched`, which was slower than one vector at a time.

    The graph is kept for the next call with the same number of vectors. Any other number rebuilds it, which costs about
    two thirds of a product.

    Args:
        squared: from `squared_map`.
        z: the code z0 [n].
        chunk: vectors multiplied at once. The memory of the graph grows with it.

    Raises:
        RuntimeError: an operation in the distance or the generator cannot be differentiated twice.
    """
    kept: tuple[Tensor, Tensor] | None = None

    def multiply(vectors: Tensor) -> Tensor:
        nonlocal kept
        with torch.enable_grad():
            if kept is None or len(kept[0]) != len(vectors):
                kept = None  # free the old graph before the new one is built
                codes = z.detach().repeat(len(vectors), 1).requires_grad_()
                kept = codes, differentiable_gradients(squared, codes)
            return torch.autograd.grad(kept[1], kept[0], vectors, retain_graph=True)[0]

    return in_chunks(multiply, chunk)


def differentiable_gradients(squared: Squared, codes: Tensor) -> Tensor:
    """∂ d²(z0, ·)/∂z [batch, n] at codes [batch, n] that require gradients, with its graph.

    Raises:
        RuntimeError: the graph contains an `autograd.Function` that is `once_differentiable`. Torch silently leaves
            such a Function out of the gradient of a gradient with respect to given inputs, so H would be 0.
    """
    with differentiable_kernels(), DifferentiableKernels():
        distances = squared(codes)
    # Torch marks such a Function only if the cotangent that reaches it requires a gradient.
    ones = torch.ones_like(distances).requires_grad_()
    (gradients,) = torch.autograd.grad(distances, codes, ones, create_graph=True)
    if not gradients.requires_grad:  # they do not depend on the code, as for a rounded image
        gradients = gradients + 0 * codes
    refuse_once_differentiable(gradients)
    return gradients


def refuse_once_differentiable(gradients: Tensor) -> None:
    """Raise RuntimeError if the graph of gradients contains an `autograd.Function` that is `once_differentiable`.

    Torch leaves such a Function out of a second derivative without an error.
    """
    open_nodes, seen = [gradients.grad_fn], {gradients.grad_fn}
    while open_nodes:
        node = open_nodes.pop()
        if node is None:
            continue
        if node.name() == "torch::autograd::Error":
            raise RuntimeError("there is no second derivative: an autograd.Function is once_differentiable")
        fresh = {following for following, _ in node.next_functions} - seen
        seen |= fresh
        open_nodes.extend(fresh)


def difference_product(squared: Squared, z: Tensor, *, relative_step: float = 1e-3, chunk: int = CHUNK) -> Product:
    """HV from gradients at displaced codes: (g(z0 + εv) − g(z0 − εv)) / 2ε, with g = ∂ d²(z0, ·)/∂z. For any distance.

    Source: Wang & Ponce's ForwardIter, ε = relative_step · ‖z0‖ / ‖v‖. It differs from ForwardIter in two
    ways. If ‖z0‖ is below 0.01 √n, the norm √n of a standard normal code replaces it, so the origin is a valid code.
    Eigenvalues are not halved.

    Both signs and all vectors of a chunk form one batch of codes, whose gradients take one backward pass.

    Args:
        squared: from `squared_map`.
        z: the code z0 [n].
        relative_step: length of the displacement, relative to the norm of the code.
        chunk: vectors multiplied at once, each with two codes.

    Returns:
        The product. Its error is of order ε² where d² is smooth, and of order ε across the kinks of ReLUs. In float32,
        round-off adds a relative error of about 1e-7 / relative_step.
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

    return in_chunks(multiply, chunk)


def in_chunks(multiply: Product, chunk: int) -> Product:
    """Turn a product into one that multiplies at most `chunk` vectors at once."""
    if chunk < 1:
        raise ValueError(f"at least one vector must be multiplied at once, not {chunk}")

    def product(vectors: Tensor) -> Tensor:
        if len(vectors) <= chunk:
            return multiply(vectors)
        return torch.cat([multiply(part) for part in torch.split(vectors, chunk)])

    return product
