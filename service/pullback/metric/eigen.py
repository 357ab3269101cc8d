"""Eigen-decomposition of metrics."""

import torch
from torch import Tensor


def eigendecompose(metric: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of symmetric metrics, largest first.

    Always computed in float64 on the CPU, because batched CUDA `eigh` has returned wrong vectors without an error.

    Args:
        metric: H [batch, n, n], symmetric. A metric that is not finite gives NaN instead of an error.

    Returns:
        Eigenvalues [batch, n], descending, and eigenvectors as rows [batch, n, n]; both float64 on the CPU.
    """
    metric = metric.to("cpu", torch.float64)
    finite = metric.isfinite().all(dim=(1, 2))
    values = torch.full(metric.shape[:2], torch.nan, dtype=torch.float64)
    vectors = torch.full(metric.shape, torch.nan, dtype=torch.float64)
    if finite.any():
        ascending, columns = torch.linalg.eigh(metric[finite])
        values[finite] = ascending.flip(1)
        vectors[finite] = columns.flip(2).transpose(1, 2)
    return values, vectors
