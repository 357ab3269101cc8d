"""The metric by double backpropagation: the paper's method, and the reference for every other method.

Wang & Ponce (ICLR 2021) compute the gradient of d²(z0, ·) at z0 and keep its graph. They then backpropagate through
that graph once for each latent coordinate. The result is exact for any twice differentiable distance. Each code takes
n backward passes of batch 1. Nothing is batched or optimised here, because speedups are measured against this method.
"""

import torch
from torch import Tensor, nn

from pullback.distances.base import Distance
from pullback.metric.products import differentiable_gradients, squared_map


def backprop_metric(generator: nn.Module, distance: Distance, z: Tensor, condition: Tensor | None = None) -> Tensor:
    """H(z0) = ∂²/∂z² D²(G(z0), G(z)) at z = z0, one row per backward pass.

    Source: Wang & Ponce, ICLR 2021, method "BP".

    Args:
        generator: G, with weights that require no gradient.
        distance: a residual distance or any other distance.
        z: the code z0 [n].
        condition: class of the code [1], if G is class-conditional.

    Returns:
        H [n, n] as computed, symmetric up to round-off, in z's dtype and on its device.

    Raises:
        RuntimeError: an operation in the distance or the generator cannot be differentiated twice.
    """
    squared = squared_map(generator, distance, z, condition)
    with torch.enable_grad():
        code = z.detach().clone()[None].requires_grad_()
        (gradient,) = differentiable_gradients(squared, code)
        rows = [torch.autograd.grad(entry, code, retain_graph=True)[0][0] for entry in gradient]
    return torch.stack(rows)
