"""The certificate: what was checked about each metric, and whether it may be trusted.

Every checked quantity is relative and 0 in exact arithmetic, so one limit serves every generator; correct work stays 10
times below the limits, and 3 times below that of the probe, whose error comes from the ReLUs that switch within its
step. What a method cannot have (a Jacobian, a whole matrix) is NaN and has no limit there.
Leaves to others: the probes (`probes`), and what happens to a metric that fails (`sweep` quarantines it).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from pullback.metric.precision import Precision
from pullback.metric.stopwatch import verifying

_DENSE: dict[str, float] = {
    "symmetry_error": 1e-4,
    "negative_eigenvalue": 1e-5,
    "eigen_residual": 1e-6,
    "orthogonality_error": 1e-6,
    "probe_error": 0.15,
}
_JACOBIAN = {"symmetry_error": 1e-6, "negative_eigenvalue": 1e-6, "product_error": 1e-6, "column_error": 1e-3}
_ITERATIVE = {"symmetry_error": 1e-3, "negative_eigenvalue": 1e-4, "eigen_residual": 1e-4}
_DIFFERENCES = {"symmetry_error": 0.05, "negative_eigenvalue": 0.05, "eigen_residual": 0.05}
_LIMITS: dict[str, dict[str, float]] = {
    "gauss_newton": {**_DENSE, **_JACOBIAN},
    "backprop": _DENSE,
    "lanczos": {**_DENSE, **_ITERATIVE},
    "block_krylov": {**_DENSE, **_ITERATIVE},
    "finite_difference": {**_DENSE, **_DIFFERENCES},
}
_ROUNDINGS: dict[Precision, float] = {"float32": 5e-4, "float64": 1e-9, "tf32": 0.02, "bfloat16": 0.1}
"""What roundings of the tangents may add up to, relatively."""
_PRECISION_ERRORS: dict[Precision, float] = {"float32": 0.05, "float64": 1e-9, "tf32": 0.1, "bfloat16": 0.15}
"""What the relative error of the derivative may be, measured against float64. More than the roundings: a ReLU whose
input is within round-off of 0 switches, and of millions a share of ε does, which moves the derivative by some √ε: by
0.008 for float32 in BigGAN-deep, in forward mode and in double backpropagation alike."""


def limits_of(method: str, precision: Precision = "float32") -> dict[str, float]:
    """The largest value of each quantity that passes, for a method in an arithmetic; in the order of their checks."""
    measured = 0.1 if method == "finite_difference" else _PRECISION_ERRORS[precision]  # the step's own error
    limits = {**_LIMITS[method], "precision_error": measured}
    if "column_error" in limits:  # reverse mode, its yardstick, is computed without the roundings of the tangents
        limits["column_error"] = max(limits["column_error"], 2 * _ROUNDINGS[precision])
    return limits


@dataclass(frozen=True)
class Certificate:
    """The checks of a batch of metrics; every tensor is [batch] float64 on the CPU.

    Attributes:
        finite: whether every entry that was computed is finite (bool).
        converged: whether the method came to its end (bool); an iterative one may have run out of products.
        symmetry_error: max |H − Hᵀ| / max |H| before H is made exactly symmetric; of a method without a matrix
            |uᵀHv − vᵀHu| / (‖Hu‖ ‖v‖ + ‖u‖ ‖Hv‖) for random u, v.
        negative_eigenvalue: how far the least known eigenvalue lies below zero, relative to the greatest.
        eigen_residual: max over the kept eigenpairs of ‖Hv − λv‖ / λ₁, for the vectors as stored (float32).
        orthogonality_error: max |V Vᵀ − I| over the kept eigenvectors as stored.
        trace_share: Σ kept λ / trace of H; 1 where H is zero, for nothing is left out of nothing. Estimated from random
            directions where there is no matrix.
        probe_error: of the derivative along a random direction v, against differences of forward passes, good to
            some per cent in float32: ‖Jv − (r(z+εv) − r(z−εv)) / 2ε‖ / ‖Jv‖, or of vᵀHv where there is no Jacobian.
        product_error: ‖Hv − 2Jᵀ(Jv)‖ / ‖Hv‖ for a random v: that H is the product of its Jacobian. Of `gauss_newton`.
        column_error: max over the columns i of the Jacobian of |Jᵢᵀu − (Jᵀu)ᵢ| / ‖Jᵢ‖ for a random u, where Jᵀu comes
            from reverse mode: one wrong column of thousands is seen. Of `gauss_newton`.
        precision_error: of the derivative along random directions against float64, measured once for these networks
            in this arithmetic, at a random code; NaN where the networks do not run in float64.
        limits: the largest value of each that passes.
    """

    finite: Tensor
    converged: Tensor
    symmetry_error: Tensor
    negative_eigenvalue: Tensor
    eigen_residual: Tensor
    orthogonality_error: Tensor
    trace_share: Tensor
    probe_error: Tensor
    product_error: Tensor
    column_error: Tensor
    precision_error: Tensor
    limits: Mapping[str, float] = field(default_factory=lambda: limits_of("gauss_newton"))

    @property
    def passed(self) -> Tensor:
        """Whether each metric passes every check [batch] bool; a scalar for a single metric."""
        return torch.tensor([not failure for failure in self.failures()]).reshape(self.finite.shape)

    def failures(self) -> list[str]:
        """The first check that each metric fails, `""` where it passes all; a list of one for a single metric."""
        return [self._first_failure(index) for index in range(self.finite.numel())]

    def _first_failure(self, index: int) -> str:
        for name in ("finite", "converged"):
            if not bool(getattr(self, name).reshape(-1)[index]):
                return name
        for name, limit in self.limits.items():
            value = float(getattr(self, name).reshape(-1)[index])
            unknown = name == "precision_error" and value != value
            if not value <= limit and not unknown:  # a NaN fails
                return name
        return ""

    def __getitem__(self, index: int) -> "Certificate":
        """The certificate of one metric of the batch, its tensors scalars."""
        return Certificate(**{name: getattr(self, name)[index] for name in CHECKS}, limits=self.limits)

    @staticmethod
    def concatenate(parts: Sequence["Certificate"]) -> "Certificate":
        """The certificates of several batches of one method as one."""
        joined = {name: torch.cat([getattr(part, name) for part in parts]) for name in CHECKS}
        return Certificate(**joined, limits=parts[0].limits)


CHECKS: tuple[str, ...] = tuple(entry.name for entry in fields(Certificate) if entry.name != "limits")
"""The names of everything that is checked, in the order of the attributes."""
MEASURES: tuple[str, ...] = CHECKS[2:]
"""Those of them that are numbers."""


@verifying
def check_pairs(values: Tensor, vectors: Tensor, products: Tensor) -> dict[str, Tensor]:
    """`eigen_residual` and `orthogonality_error` of eigenpairs as they are stored.

    Args:
        values: eigenvalues [batch, k].
        vectors: eigenvectors [batch, k, n], as stored: of float32 numbers.
        products: H times each of these very vectors [batch, k, n].
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
        values: every eigenvalue [batch, n], descending.
        kept: how many are kept.
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
    """How far the least of eigenvalues [batch, k] lies below zero, relative to the greatest."""
    largest = values.abs().amax(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    return (-values.amin(dim=1)).clamp_min(0) / largest


def share_of(kept: Tensor, trace: Tensor) -> Tensor:
    """Σ of the kept eigenvalues [batch, k] over the trace [batch]; 1 where that is zero."""
    return torch.where(trace == 0, torch.ones_like(trace), kept.sum(dim=1) / trace)
