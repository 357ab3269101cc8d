"""`PullbackMetric`: metric tensors with their eigenpairs and certificate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pullback.errors import PullbackError
from pullback.metric.certificate import Certificate, Evidence, certify
from pullback.metric.curvature import AT_ONCE
from pullback.metric.differences import PushAt
from pullback.metric.eigen import eigendecompose
from pullback.metric.exact import Maps
from pullback.metric.krylov import KrylovResult
from pullback.metric.probes import Looks
from pullback.metric.products import Product


@dataclass(frozen=True, repr=False)
class PullbackMetric:
    """Metric tensors at latent codes. For a single code [n] the batch axis is absent.

    Attributes:
        matrix: H [batch, n, n] float64, symmetric, in squared distance per squared latent unit. vᵀHv is the squared
            rate of image change along a unit vector v. None if the method finds k < n eigenpairs without the matrix.
        eigenvalues: [batch, k] float64, descending.
        eigenvectors: [batch, k, n] float64; row i belongs to eigenvalue i.
        trace: trace of the whole H [batch]; estimated from random directions if there is no matrix.
        residuals: ‖Hv − λv‖ / λ₁ of each eigenpair [batch, k].
        products: number of vectors multiplied with H [batch]; 0 for a method that multiplies none.
        certificate: the checks, each [batch].
        seconds: time taken for each code [batch].
        method: the method used. For `auto`, the method that it chose.
        blocks: named parts of the generator's latent code, as (start, stop).
        batch: codes computed at once.
        tangents: columns or vectors computed at once, for each code.
        whole: whether the whole Jacobian was held.
        route: how derivatives were computed: `forward`, `reverse`, `rows`, `second` or `differences` (see `methods`).
        note: why `auto` did not take its first choice, or the method took another route; empty if nothing failed.
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
    whole: bool = True
    route: str = "forward"
    note: str = ""

    def __repr__(self) -> str:
        n = self.eigenvectors.shape[-1]
        shape, device = list(self.eigenvalues.shape), self.eigenvalues.device
        return f"PullbackMetric(n={n}, eigenvalues={shape}, method={self.method!r}, device={str(device)!r})"

    @property
    def converged(self) -> Tensor:
        """Whether the method converged [batch]. An iterative method returns its eigenpairs in any case."""
        return self.certificate.converged

    def block(self, name: str | slice) -> "PullbackMetric":
        """The metric of a part of the latent code: a diagonal block of the same H, with its own decomposition.

        Args:
            name: a name from `blocks` (`noise` and `class` for a BigGAN), or a slice of latent coordinates.

        Raises:
            PullbackError: there is no such block, or there is no whole matrix.
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
        known = {name: value.reshape(-1) for name, value in self.certificate.values.items()}
        cut = PullbackMetric.of_matrix(
            matrix,
            len(inside),
            self.certificate.limits,
            known=known,
            seconds=self.seconds.reshape(-1),
            method=self.method,
        )
        return cut[0] if self.matrix.dim() == 2 else cut

    def __getitem__(self, index: int) -> "PullbackMetric":
        """The metric of one code of the batch, without the batch axis."""
        picked: dict[str, Any] = {name: getattr(self, name)[index] for name in _TENSORS}
        matrix = None if self.matrix is None else self.matrix[index]
        return replace(self, matrix=matrix, certificate=self.certificate[index], **picked)

    @staticmethod
    def concatenate(parts: Sequence["PullbackMetric"]) -> "PullbackMetric":
        """Join the metrics of several batches by the same method."""
        matrices = [part.matrix for part in parts if part.matrix is not None]
        joined: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
        certificate = Certificate.concatenate([part.certificate for part in parts])
        return replace(parts[0], matrix=torch.cat(matrices) if matrices else None, certificate=certificate, **joined)

    @staticmethod
    def of_matrix(
        raw: Tensor,
        kept: int,
        limits: Mapping[str, float],
        *,
        seconds: Tensor,
        method: str,
        z: Tensor | None = None,
        looks: Looks | None = None,
        push_at: PushAt | None = None,
        maps: Maps | None = None,
        at_once: int = AT_ONCE,
        known: Mapping[str, Tensor] | None = None,
    ) -> "PullbackMetric":
        """Whole metrics with their eigen-decomposition and certificate.

        Args:
            raw: H [batch, n, n] float64 on the CPU, as computed.
            kept: k, the eigenpairs to keep.
            limits: limits of the certificate.
            seconds: time taken for each code [batch].
            method: the method used.
            z: the codes [batch, n]; see `certificate.Evidence`, also for `looks` and `push_at`.
            looks: records of the Jacobian.
            push_at: the function that made the Jacobian.
            maps: the maps whose derivatives are checked; None to check the matrix only.
            at_once: codes that a check may pass through the networks at once, if there is no Jacobian.
            known: results of earlier checks; see `certificate.certify`.
        """
        matrix = (raw + raw.transpose(1, 2)) / 2
        spectrum, every = eigendecompose(matrix)
        values, vectors = spectrum[:, :kept], every[:, :kept].clone()  # a view would keep all n vectors in memory
        del every
        stored = vectors.to(torch.float32).to(torch.float64)
        certificate, trace = certify(
            Evidence(values, stored, z, raw, matrix, spectrum, looks, push_at, at_once=at_once), limits, maps, known
        )
        largest = spectrum.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
        return PullbackMetric(
            matrix=matrix,
            eigenvalues=values,
            eigenvectors=vectors,
            trace=trace,
            residuals=(stored @ matrix - values[:, :, None] * stored).norm(dim=2) / largest,
            products=torch.zeros(len(raw), dtype=torch.int64),
            certificate=certificate,
            seconds=seconds,
            method=method,
        )

    @staticmethod
    def of_pairs(
        found: KrylovResult,
        z: Tensor,
        product: Product,
        limits: Mapping[str, float],
        maps: Maps,
        *,
        method: str,
        at_once: int = AT_ONCE,
    ) -> "PullbackMetric":
        """The metric of one code from its largest eigenpairs, with its certificate; `seconds` is 0.

        Args:
            found: k eigenpairs. If k = n, H is computed from them.
            z: the code [1, n].
            product: maps vectors [p, n] to H times them.
            limits: limits of the certificate.
            maps: the maps whose derivatives are checked.
            method: the method used.
            at_once: as in `of_matrix`.
        """
        values, vectors = found.eigenvalues[None], found.eigenvectors[None]
        stored = vectors.to(torch.float32).to(torch.float64)
        converged = torch.tensor([found.converged])
        certificate, trace = certify(
            Evidence(values, stored, z, product=product, converged=converged, at_once=at_once), limits, maps
        )
        whole = bool(certificate.finite) and values.shape[1] == z.shape[1]
        return PullbackMetric(
            matrix=(vectors.transpose(1, 2) * values[:, None]) @ vectors if whole else None,
            eigenvalues=values,
            eigenvectors=vectors,
            trace=trace,
            residuals=found.residuals[None],
            products=torch.tensor([found.products]),
            certificate=certificate,
            seconds=torch.zeros(1, dtype=torch.float64),
            method=method,
        )


_TENSORS = ("eigenvalues", "eigenvectors", "trace", "residuals", "products", "seconds")
