"""Baselines that Pullback's methods are compared with, written as in a plain script.

`backprop` is the paper's method for whole metrics; it is in `metric.backprop`. `arpack` is the paper's method for a few
eigenpairs of large n: scipy's `eigsh` with products by a second backward pass, one vector at a time (Wang & Ponce,
ICLR 2021).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pullback.metric.methods import Setting
from pullback.metric.products import Squared, differentiable_gradients

BASELINES = ("backprop", "arpack")


def arpack_pairs(
    squared: Squared, z: Tensor, components: int, tolerance: float = Setting.tolerance
) -> tuple[Tensor, float]:
    """Compute the largest eigenvalues of the Hessian of d²(z0, ·) at z0 with ARPACK.

    Source: Lehoucq, Sorensen & Yang, ARPACK Users' Guide (1998), through `scipy.sparse.linalg.eigsh`.

    Args:
        squared: the map from codes to squared distances, from `squared_map`.
        z: the code z0 [n].
        components: number of eigenpairs, 1 to n − 1.
        tolerance: tolerance of ARPACK, relative to each eigenvalue.

    Returns:
        Eigenvalues [components], descending, float64 on the CPU, and the largest ‖Hv − λv‖ / λ₁.

    Raises:
        ImportError: scipy is not installed.
        scipy.sparse.linalg.ArpackNoConvergence: ARPACK did not converge.
        RuntimeError: d² cannot be differentiated twice.
    """
    from scipy.sparse.linalg import LinearOperator, eigsh

    code = z.detach().clone()[None].requires_grad_()
    with torch.enable_grad():
        gradient = differentiable_gradients(squared, code)

    def multiply(vector: NDArray[np.float64]) -> NDArray[np.float64]:
        cotangent = torch.from_numpy(np.asarray(vector).reshape(1, -1)).to(code)
        (image,) = torch.autograd.grad(gradient, code, cotangent, retain_graph=True)
        result: NDArray[np.float64] = image[0].cpu().numpy().astype(np.float64)
        return result

    operator = LinearOperator((len(z), len(z)), matvec=multiply, dtype=np.float64)
    values, vectors = eigsh(operator, k=components, which="LA", tol=tolerance)
    errors = [np.linalg.norm(multiply(v) - value * v) for value, v in zip(values, vectors.T, strict=True)]
    return torch.from_numpy(values[::-1].copy()), float(max(errors) / abs(values[-1]))
