"""`metric_at`: the metric tensor at latent codes, with its eigen-decomposition and certificate."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pullback.distances.base import ResidualDistance
from pullback.errors import PullbackError
from pullback.generators.base import class_indices, like
from pullback.generators.checks import check_once
from pullback.metric.certificate import Certificate, certify, probe_jacobian
from pullback.metric.eigen import eigendecompose
from pullback.metric.gauss_newton import metric_from_jacobian
from pullback.metric.jacobian import feature_map, jacobian
from pullback.metric.memory import fit


@dataclass(frozen=True)
class PullbackMetric:
    """Metric tensors at latent codes. For a single code [n] the batch axis is absent.

    Attributes:
        matrix: H [batch, n, n] float64, symmetric, in squared distance per squared latent unit; vᵀHv is the squared
            rate of image change along a unit vector v.
        eigenvalues: [batch, k] float64, descending.
        eigenvectors: [batch, k, n] float64; row i belongs to eigenvalue i.
        certificate: what was checked, [batch] each.
        seconds: time taken for each code, [batch].
    """

    matrix: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    certificate: Certificate
    seconds: Tensor


def metric_at(
    generator: nn.Module,
    distance: ResidualDistance,
    z: Any,
    *,
    condition: Any = None,
    components: int | None = None,
    batch: int | None = None,
    tangents: int | None = None,
) -> PullbackMetric:
    """The pull-back metric H(z) = ∂²/∂z² D²(G(z0), G(z)) at z = z0, exactly, as 2 JᵀJ.

    Source: Wang & Ponce, ICLR 2021, whose H this is; the Gauss-Newton form is exact for residual distances.

    Args:
        generator: maps codes to images; from `load_generator`, or your own module with `latent_dim`.
        distance: from `load_distance`.
        z: a latent code [n], or several [batch, n]: a tensor or anything numpy makes an array of. Moved to the
            generator's device and dtype; a generator and a distance in float64 give a float64 metric.
        condition: for a class-conditional generator: a class name or index, or one for each code, or `cycle`.
        components: how many eigenpairs to return, largest first; all by default.
        batch: codes computed at once; chosen to fit into memory by default.
        tangents: Jacobian columns computed at once; chosen to fit into memory by default.

    Raises:
        PullbackError: the generator does not behave as one (see `generators.checks`); z or `components` does not fit
            it, or z is not finite.
        MemoryPlanError: even one code with one tangent (or what was fixed of them) does not fit into memory.
        SpecError: the condition does not fit the generator.
    """
    check_once(generator)
    codes = torch.as_tensor(z).to(like(generator))
    single = codes.dim() == 1
    codes = codes[None] if single else codes
    n = int(generator.latent_dim)  # type: ignore[arg-type]
    if codes.dim() != 2 or codes.shape[1] != n or len(codes) == 0:
        raise PullbackError(f"latent codes [{n}] or [batch, {n}] are needed, not {list(torch.as_tensor(z).shape)}")
    if not bool(codes.isfinite().all()):
        raise PullbackError("the latent codes have values that are not finite")
    kept = n if components is None else components
    if not 1 <= kept <= n:
        raise PullbackError(f"components must be between 1 and {n}, the size of a code, not {components}")
    classes = class_indices(generator, condition, range(len(codes)))
    if batch is None or tangents is None:
        plan = fit(generator, distance, codes=len(codes), batch=batch, tangents=tangents)
        batch, tangents = batch or plan.batch, tangents or plan.tangents
    parts = list(_in_batches(generator, distance, codes, classes, kept, batch, tangents))
    joined = PullbackMetric(
        matrix=torch.cat([part.matrix for part in parts]),
        eigenvalues=torch.cat([part.eigenvalues for part in parts]),
        eigenvectors=torch.cat([part.eigenvectors for part in parts]),
        certificate=Certificate.concatenate([part.certificate for part in parts]),
        seconds=torch.cat([part.seconds for part in parts]),
    )
    return _first(joined) if single else joined


def _in_batches(
    generator: nn.Module,
    distance: ResidualDistance,
    codes: Tensor,
    classes: Tensor | None,
    kept: int,
    batch: int,
    tangents: int,
) -> Iterator[PullbackMetric]:
    for start in range(0, len(codes), batch):
        began = time.perf_counter()
        z = codes[start : start + batch]
        condition = None if classes is None else classes[start : start + batch].to(z.device)
        features = feature_map(generator, distance, condition)
        rows = jacobian(features, z, tangents)
        probe = probe_jacobian(features, z, rows)
        raw = metric_from_jacobian(rows).cpu()
        del rows  # the largest array of all; the decomposition needs none of it
        matrix = (raw + raw.transpose(1, 2)) / 2
        values, vectors = eigendecompose(matrix)
        certificate = certify(raw, values, vectors, kept, probe)
        each = (time.perf_counter() - began) / len(z)
        seconds = torch.full((len(z),), each, dtype=torch.float64)
        # a copy of what is kept: a view would hold on to all n eigenvectors
        yield PullbackMetric(matrix, values[:, :kept], vectors[:, :kept].clone(), certificate, seconds)


def _first(metric: PullbackMetric) -> PullbackMetric:
    pick: Sequence[Tensor] = [x[0] for x in (metric.matrix, metric.eigenvalues, metric.eigenvectors)]
    return PullbackMetric(pick[0], pick[1], pick[2], metric.certificate[0], metric.seconds[0])
