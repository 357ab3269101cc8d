"""Checks of a matrix and its eigenpairs: finite, symmetric, positive semi-definite, and correctly decomposed."""

import torch
from torch import Tensor

from pullback.metric.check_timing import verifying


@verifying
def check_pairs(values: Tensor, vectors: Tensor, products: Tensor) -> dict[str, Tensor]:
    """`eigen_residual` and `orthogonality_error` of eigenpairs as stored.

    Args:
        values: eigenvalues [batch, k].
        vectors: eigenvectors [batch, k, n] as stored, with float32 numbers.
        products: H times each of these vectors [batch, k, n].
    """
    vectors, products = vectors.to(torch.float64), products.to(torch.float64)
    tiny = torch.finfo(torch.float64).tiny
    largest = values.abs().amax(dim=1).clamp_min(tiny)
    residual = (products - values[:, :, None] * vectors).norm(dim=2).amax(dim=1) / largest
    identity = torch.eye(vectors.shape[1], dtype=torch.float64)
    orthogonality = (vectors @ vectors.transpose(1, 2) - identity).abs().amax(dim=(1, 2))
    return {"eigen_residual": residual, "orthogonality_error": orthogonality}


@verifying
def check_matrix(metric: Tensor, values: Tensor, kept: int) -> dict[str, Tensor]:
    """`finite`, `symmetry_error`, `negative_eigenvalue` and `trace_share` of whole metrics.

    Args:
        metric: H [batch, n, n] float64 on the CPU, as computed.
        values: all eigenvalues [batch, n], descending.
        kept: number of eigenvalues that are kept.
    """
    tiny = torch.finfo(torch.float64).tiny
    scale = metric.abs().amax(dim=(1, 2)).clamp_min(tiny)
    trace = metric.diagonal(dim1=1, dim2=2).sum(dim=1)
    return {
        "finite": metric.isfinite().all(dim=(1, 2)),
        "symmetry_error": (metric - metric.transpose(1, 2)).abs().amax(dim=(1, 2)) / scale,
        "negative_eigenvalue": below_zero(values),
        "trace_share": share_of(values[:, :kept], trace),
    }


def below_zero(values: Tensor) -> Tensor:
    """How far the smallest of the eigenvalues [batch, k] lies below zero, relative to the largest |eigenvalue|."""
    largest = values.abs().amax(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    return (-values.amin(dim=1)).clamp_min(0) / largest


def share_of(kept: Tensor, trace: Tensor) -> Tensor:
    """Sum of the kept eigenvalues [batch, k] divided by the trace [batch]; 1 if the trace is zero."""
    return torch.where(trace == 0, torch.ones_like(trace), kept.sum(dim=1) / trace)
