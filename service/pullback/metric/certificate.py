"""The certificate: what was checked about each metric, and whether it may be trusted.

Every checked quantity is relative and 0 in exact arithmetic, so one limit serves every generator. On the trained
DCGANs correct float32 work stays 30 times below the limits, and 3 times below that of the probe, whose error comes from
the ReLUs that switch within its step. The probe finds a derivative that is wrong in a layer or for a part of the image;
an error in a single column of n moves it by 1/√n only, and passes.
Leaves to others what happens to a metric that fails (`sweep` quarantines it).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pullback.metric.jacobian import Features, directional_difference

LIMITS: dict[str, float] = {
    "symmetry_error": 1e-6,
    "negative_eigenvalue": 1e-6,
    "eigen_residual": 1e-6,
    "orthogonality_error": 1e-6,
    "probe_error": 0.15,
}
"""The largest value of each checked quantity that passes; `trace_share` is reported and has no limit."""


@dataclass(frozen=True)
class Certificate:
    """The checks of a batch of metrics; every tensor is [batch] float64 on the CPU.

    Attributes:
        finite: whether every entry of the metric is finite (bool).
        symmetry_error: max |H − Hᵀ| / max |H|, before H is made exactly symmetric.
        negative_eigenvalue: how far the least eigenvalue lies below zero, relative to the greatest.
        eigen_residual: max over the kept eigenpairs of ‖Hv − λv‖ / λ₁, for the vectors as stored (float32).
        orthogonality_error: max |V Vᵀ − I| over the kept eigenvectors as stored.
        trace_share: Σ kept λ / trace of H; 1 where H is zero, for nothing is left out of nothing.
        probe_error: ‖Jv − central difference‖ / ‖Jv‖ along one random direction v: an independent check of the
            derivative itself, good to some per cent in float32.
    """

    finite: Tensor
    symmetry_error: Tensor
    negative_eigenvalue: Tensor
    eigen_residual: Tensor
    orthogonality_error: Tensor
    trace_share: Tensor
    probe_error: Tensor

    @property
    def passed(self) -> Tensor:
        """Whether each metric passes every check [batch] bool; a scalar for a single metric."""
        return torch.tensor([not failure for failure in self.failures()]).reshape(self.finite.shape)

    def failures(self) -> list[str]:
        """The first check that each metric fails, `""` where it passes all; a list of one for a single metric."""
        return [self._first_failure(index) for index in range(self.finite.numel())]

    def _first_failure(self, index: int) -> str:
        if not bool(self.finite.reshape(-1)[index]):
            return "finite"
        for name, limit in LIMITS.items():
            if not float(getattr(self, name).reshape(-1)[index]) <= limit:  # a NaN fails
                return name
        return ""

    def __getitem__(self, index: int) -> "Certificate":
        """The certificate of one metric of the batch, its tensors scalars."""
        return Certificate(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    @staticmethod
    def concatenate(parts: Sequence["Certificate"]) -> "Certificate":
        """The certificates of several batches as one."""
        names = [field.name for field in fields(Certificate)]
        return Certificate(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def certify(metric: Tensor, values: Tensor, vectors: Tensor, kept: int, probe_error: Tensor) -> Certificate:
    """Check metrics against their eigen-decompositions.

    Args:
        metric: H [batch, n, n] float64 on the CPU, as computed.
        values: eigenvalues [batch, n], descending.
        vectors: eigenvectors [batch, n, n], rows.
        kept: how many eigenpairs are kept.
        probe_error: of `probe_jacobian`, [batch].
    """
    largest = values.abs().amax(dim=1).clamp_min(torch.finfo(torch.float64).tiny)
    top = vectors[:, :kept].to(torch.float32).to(torch.float64)
    products = top @ metric
    residual = (products - values[:, :kept, None] * top).norm(dim=2).amax(dim=1) / largest
    identity = torch.eye(kept, dtype=torch.float64)
    scale = metric.abs().amax(dim=(1, 2)).clamp_min(torch.finfo(torch.float64).tiny)
    trace = metric.diagonal(dim1=1, dim2=2).sum(dim=1)
    return Certificate(
        finite=metric.isfinite().all(dim=(1, 2)),
        symmetry_error=(metric - metric.transpose(1, 2)).abs().amax(dim=(1, 2)) / scale,
        negative_eigenvalue=(-values[:, -1]).clamp_min(0) / largest,
        eigen_residual=residual,
        orthogonality_error=(top @ top.transpose(1, 2) - identity).abs().amax(dim=(1, 2)),
        trace_share=torch.where(trace == 0, torch.ones_like(trace), values[:, :kept].sum(dim=1) / trace),
        probe_error=probe_error.to("cpu", torch.float64),
    )


def probe_jacobian(features: Features, z: Tensor, rows: Tensor) -> Tensor:
    """Compare J with central differences along a random direction, the same for every code and device.

    Args:
        features: the map that J is of.
        z: latent codes [batch, n].
        rows: Jᵀ [batch, n, m].

    Returns:
        ‖Jv − Δ‖ / ‖Jv‖ [batch]; 0 where both are zero.
    """
    drawn = torch.randn(1, z.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direction = (drawn / drawn.norm()).to(z).expand_as(z)
    pushed = torch.einsum("bn,bnm->bm", direction, rows)
    size = pushed.norm(dim=1)
    with torch.no_grad():
        residual_size = features(z).norm(dim=1)
    # The step that changes the residual by sqrt(machine epsilon) of its size, whatever the units of the latent
    # space: a smaller one drowns in round-off, in a larger one more ReLUs switch (the error grows as sqrt(ε)).
    relative = torch.finfo(z.dtype).eps ** 0.5 / 2
    # Where the residual itself is zero (MSE of a black image) it has no size to go by: 1 is that of images in [0, 1].
    scale = torch.where(residual_size == 0, torch.ones_like(size), residual_size)
    step = relative * scale / torch.where(size > 0, size, torch.ones_like(size))
    difference = directional_difference(features, z, direction, step[:, None])
    error = (pushed - difference).norm(dim=1)
    return torch.where(error == 0, torch.zeros_like(error), error / size)
