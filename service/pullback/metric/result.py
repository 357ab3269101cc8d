"""`PullbackMetric`: metric tensors with what was found and checked about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pullback.errors import PullbackError
from pullback.metric.certificate import CHECKS, MEASURES, Certificate, check_matrix, check_pairs
from pullback.metric.eigen import eigendecompose


@dataclass(frozen=True, repr=False)
class PullbackMetric:
    """Metric tensors at latent codes. For a single code [n] the batch axis is absent.

    Attributes:
        matrix: H [batch, n, n] float64, symmetric, in squared distance per squared latent unit; vᵀHv is the squared
            rate of image change along a unit vector v. None where a method finds k < n eigenpairs without it.
        eigenvalues: [batch, k] float64, descending.
        eigenvectors: [batch, k, n] float64; row i belongs to eigenvalue i.
        trace: of the whole H [batch]; estimated from random directions where there is no matrix.
        residuals: ‖Hv − λv‖ / λ₁ of each eigenpair [batch, k].
        products: vectors that were multiplied with H [batch]; 0 of a method that needs none.
        certificate: what was checked, [batch] each.
        seconds: time taken for each code, [batch].
        method: what computed it: the choice, where `auto` was asked for.
        blocks: named parts of the latent code, as (start, stop); of the generator.
        batch: codes that were computed at once.
        tangents: columns or vectors that were computed at once, for each code.
    """

    matrix: Tensor | None
    eigenvalues: Tensor
    eigenvectors: Tensor
    trace: Tensor
    residuals: Tensor
    products: Tensor
    certificate: Certificate
    seconds: Tensor
    method: str = "gauss_newton"
    blocks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    batch: int = 1
    tangents: int = 1

    def __repr__(self) -> str:
        n = self.eigenvectors.shape[-1]
        shape, device = list(self.eigenvalues.shape), self.eigenvalues.device
        return f"PullbackMetric(n={n}, eigenvalues={shape}, method={self.method!r}, device={str(device)!r})"

    @property
    def converged(self) -> Tensor:
        """Whether the method came to its end [batch]; what an iterative one has is returned in any case."""
        return self.certificate.converged

    def block(self, name: str | slice) -> "PullbackMetric":
        """The metric of a part of the latent code: a diagonal block of the same H, decomposed by itself.

        Args:
            name: of `blocks` (`noise` and `class` of a BigGAN), or a slice of latent coordinates.

        Raises:
            PullbackError: there is no such block, or no whole matrix to take it from.
        """
        if self.matrix is None:
            raise PullbackError(
                f"a block is a part of the whole metric, which {self.method} does not make; "
                "ask metric_at for method='gauss_newton' (or 'backprop')"
            )
        n = self.matrix.shape[-1]
        if isinstance(name, str):
            if name not in self.blocks:
                raise PullbackError(
                    f"this generator has no latent block {name!r}; it has {', '.join(self.blocks) or 'none'}. "
                    "A slice of coordinates, such as slice(0, 10), does as well"
                )
            name = slice(*self.blocks[name])
        inside = range(n)[name]
        if len(inside) == 0 or inside.step != 1:
            raise PullbackError(f"{name} holds no row of the {n} latent coordinates")
        part = slice(inside.start, inside.stop)
        matrix = self.matrix[..., part, part].reshape(-1, len(inside), len(inside))
        checks = {check: getattr(self.certificate, check).reshape(-1) for check in CHECKS}
        cut = PullbackMetric.of_matrix(
            matrix, len(inside), checks, self.certificate.limits, seconds=self.seconds.reshape(-1), method=self.method
        )
        return cut[0] if self.matrix.dim() == 2 else cut

    def __getitem__(self, index: int) -> "PullbackMetric":
        """The metric of one code of the batch, its batch axis gone."""
        picked: dict[str, Any] = {name: getattr(self, name)[index] for name in _TENSORS}
        matrix = None if self.matrix is None else self.matrix[index]
        return replace(self, matrix=matrix, certificate=self.certificate[index], **picked)

    @staticmethod
    def concatenate(parts: Sequence["PullbackMetric"]) -> "PullbackMetric":
        """The metrics of several batches by one method as one."""
        matrices = [part.matrix for part in parts if part.matrix is not None]
        joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
        certificate = Certificate.concatenate([part.certificate for part in parts])
        return replace(parts[0], matrix=torch.cat(matrices) if matrices else None, certificate=certificate, **joined)

    @staticmethod
    def of_matrix(
        raw: Tensor,
        kept: int,
        checks: Mapping[str, Tensor],
        limits: Mapping[str, float],
        *,
        seconds: Tensor,
        method: str,
        blocks: Mapping[str, tuple[int, int]] | None = None,
    ) -> "PullbackMetric":
        """Whole metrics with their eigen-decomposition and certificate.

        Args:
            raw: H [batch, n, n] float64 on the CPU, as computed.
            kept: k, the eigenpairs to keep.
            checks: what is known for the certificate [batch]; what goes by the matrix is checked here.
            limits: see `Certificate`.
            seconds: [batch].
            method: what computed it.
            blocks: named parts of the latent code.
        """
        matrix = (raw + raw.transpose(1, 2)) / 2
        values, vectors = eigendecompose(matrix)
        stored = vectors[:, :kept].to(torch.float32).to(torch.float64)
        products = stored @ matrix
        nothing = torch.full((len(raw),), torch.nan, dtype=torch.float64)
        done = {"converged": torch.ones(len(raw), dtype=torch.bool)}
        made = {**check_matrix(raw, values, kept), **check_pairs(values[:, :kept], stored, products)}
        largest = values.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        return PullbackMetric(
            matrix=matrix,
            eigenvalues=values[:, :kept],
            eigenvectors=vectors[:, :kept].clone(),  # a view would hold on to all n of them
            trace=matrix.diagonal(dim1=1, dim2=2).sum(dim=1),
            residuals=(products - values[:, :kept, None] * stored).norm(dim=2) / largest,
            products=torch.zeros(len(raw), dtype=torch.int64),
            certificate=Certificate(**{**dict.fromkeys(MEASURES, nothing), **done, **checks, **made}, limits=limits),
            seconds=seconds,
            method=method,
            blocks=blocks or {},
        )


_TENSORS = ("eigenvalues", "eigenvectors", "trace", "residuals", "products", "seconds")
