"""The paper's own method, as the reference that every other is compared with: the metric by backpropagation.

Wang & Ponce (ICLR 2021) build the gradient of d²(z0, ·) at z0 with its graph, then go back through that graph once for
every latent coordinate. Exact for any twice differentiable distance, one code at a time, n backward passes of batch 1.
Nothing is batched or left out here, since this is what speed is measured against.
"""

import torch
from torch import Tensor, nn

from pullback.distances.base import Distance
from pullback.metric.products import differentiable_gradients, squared_map


def backprop_metric(generator: nn.Module, distance: Distance, z: Tensor, condition: Tensor | None = None) -> Tensor:
    """H(z0) = ∂²/∂z² D²(G(z0), G(z)) at z = z0, a row for each backward pass.

    Source: Wang & Ponce, ICLR 2021, method "BP".

    Args:
        generator: G, with weights that need no gradient.
        distance: of either kind.
        z: the code z0 [n].
        condition: its class [1], where G has classes.

    Returns:
        H [n, n] as computed, symmetric up to round-off, in z's dtype and on its device.

    Raises:
        RuntimeError: something in the distance or the generator cannot be differentiated twice.
    """
    squared = squared_map(generator, distance, z, condition)
    with torch.enable_grad():
        code = z.detach().clone()[None].requires_grad_()
        (gradient,) = differentiable_gradients(squared, code)
        rows = [torch.autograd.grad(entry, code, retain_graph=True)[0][0] for entry in gradient]
    return torch.stack(rows)
