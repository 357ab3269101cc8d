"""A worker: holds the generator and the distance, and computes whole shards.

Pure of Ray and of the driver: the same class runs inside a Ray actor and, with `--serial`, in the driver's process.
Invariant: what it computes for a sample depends on the sample's index and the job alone.
"""

import os
import traceback
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pullback.errors import SweepError
from pullback.generators import class_indices
from pullback.metric import metric_at
from pullback.metric.certificate import MEASURES, Certificate
from pullback.metric.memory import codes_together, keep_freed_memory
from pullback.spec import JobSpec
from pullback.store.repository import write_shard
from pullback.store.schema import GOOD, QUARANTINED, Layout, Reason, ShardRecord
from pullback.sweep.latents import sample_latents
from pullback.sweep.plan import load_parts

_REASONS = {
    "": Reason.NONE,
    "finite": Reason.NOT_FINITE,
    "converged": Reason.NOT_CONVERGED,
    "symmetry_error": Reason.ASYMMETRIC,
    "negative_eigenvalue": Reason.NEGATIVE_EIGENVALUE,
    "eigen_residual": Reason.EIGEN_RESIDUAL,
    "orthogonality_error": Reason.NOT_ORTHOGONAL,
    "probe_error": Reason.JACOBIAN_PROBE,
    "product_error": Reason.GRAM_PRODUCT,
    "column_error": Reason.JACOBIAN_COLUMN,
    "precision_error": Reason.PRECISION,
}


@dataclass(frozen=True)
class WorkOrder:
    """All that a worker needs to know; small, and the same for every worker of a sweep.

    Attributes:
        job: the job.
        layout: sizes and shards.
        device: `cpu` or `cuda`.
        method: how metrics are computed, `auto` resolved once for all workers.
        batch: codes at once.
        tangents: Jacobian columns at once.
        threads: CPU threads for torch.
        folder: the driver's working directory, which relative paths and a user's own modules are found from.
        fork: the writable fork of the store's session that results go through.
    """

    job: JobSpec
    layout: Layout
    device: str
    method: str
    batch: int
    tangents: int
    threads: int
    folder: str
    fork: bytes


@dataclass(frozen=True)
class ShardDone:
    """A shard that was computed and written through a fork.

    Attributes:
        shard: its number.
        fork: the fork with its writes, to be merged by the driver.
        good: samples that passed their certificate.
        quarantined: samples that did not.
    """

    shard: int
    fork: bytes
    good: int
    quarantined: int


class Worker:
    """Computes shards of one sweep.

    Raises:
        PullbackError: the generator or the distance cannot be loaded.
    """

    def __init__(self, order: WorkOrder) -> None:
        self.order = order
        os.chdir(order.folder)
        torch.set_num_threads(order.threads)  # Ray would leave each worker with one
        keep_freed_memory()
        self.batch, self.tangents = order.batch, order.tangents
        self.generator, self.distance = load_parts(order.job, order.device)

    def run(self, shard: int) -> ShardDone:
        """Compute a shard and write it through a copy of the order's fork."""
        record = self.compute(shard)
        fork = write_shard(self.order.fork, record)
        quarantined = int((record.status == QUARANTINED).sum())
        return ShardDone(shard, fork, len(record.status) - quarantined, quarantined)

    def compute(self, shard: int) -> ShardRecord:
        """The metrics of a shard's samples, and everything that is stored about them."""
        job, layout = self.order.job, self.order.layout
        indices = layout.samples_of(shard)
        latents = sample_latents(job.samples, indices, layout.latent_dim)
        classes = class_indices(self.generator, job.generator.condition, indices)
        pieces, metric_sum, start = [], np.zeros((layout.latent_dim, layout.latent_dim)), 0
        while start < len(indices):  # piece by piece, so that no more than one batch of whole metrics is held
            piece, matrices = self._piece(shard, latents, classes, start)
            metric_sum += matrices[piece.good].sum(axis=0)
            pieces.append(piece)
            start += len(piece.good)
        certificate = Certificate.concatenate([piece.certificate for piece in pieces])
        good = np.concatenate([piece.good for piece in pieces])
        return ShardRecord(
            shard=shard,
            latent=latents,
            condition=_conditions(classes, len(indices)),
            eigenvalue=np.concatenate([piece.eigenvalue for piece in pieces]),
            eigenvector=np.concatenate([piece.eigenvector for piece in pieces]),
            metric_sum=metric_sum,
            trace=np.concatenate([piece.trace for piece in pieces]),
            status=np.where(good, GOOD, QUARANTINED).astype(np.uint8),
            reason=np.array([_REASONS[failure] for failure in certificate.failures()], np.uint8),
            products=np.concatenate([piece.products for piece in pieces]),
            seconds=np.concatenate([piece.seconds for piece in pieces]),
            **_certificate_arrays(certificate),
        )

    def _piece(
        self, shard: int, latents: NDArray[np.float32], classes: torch.Tensor | None, start: int
    ) -> tuple["_Piece", NDArray[np.float64]]:
        """What is kept of one batch of a shard's codes, and their metrics [batch, n, n].

        Uses smaller batches from then on where the device turned out to have less memory than was planned with.
        """
        spec = self.order.job.metric
        batch = slice(start, start + codes_together(self.batch, latents.shape[1]))
        try:
            metric = metric_at(
                self.generator,
                self.distance,
                latents[batch],
                condition=None if classes is None else classes[batch].tolist(),
                components=self.order.layout.components,
                method=self.order.method,
                precision=spec.precision,
                deterministic=spec.deterministic,
                tolerance=spec.tolerance,
                max_products=spec.max_products,
                relative_step=spec.relative_step,
                batch=self.batch,
                tangents=self.tangents,
            )
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            first = self.order.layout.samples_of(shard)[start]
            raise SweepError(
                f"sample {first}{f' to {first + len(latents[batch]) - 1}' if len(latents[batch]) > 1 else ''}: "
                f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            ) from error
        self.batch, self.tangents = metric.batch, metric.tangents
        piece = _Piece(
            eigenvalue=metric.eigenvalues.numpy(),
            eigenvector=metric.eigenvectors.numpy().astype(np.float32),
            trace=metric.trace.numpy(),
            products=metric.products.numpy(),
            good=metric.certificate.passed.numpy(),
            seconds=metric.seconds.numpy(),
            certificate=metric.certificate,
        )
        matrix = metric.matrix
        if matrix is None:  # what its eigenpairs make of it
            matrix = (metric.eigenvectors.transpose(1, 2) * metric.eigenvalues[:, None]) @ metric.eigenvectors
        return piece, matrix.numpy()


@dataclass(frozen=True)
class _Piece:
    """What is kept of a batch of metrics; every array is [batch, ...]."""

    eigenvalue: NDArray[np.float64]
    eigenvector: NDArray[np.float32]
    trace: NDArray[np.float64]
    products: NDArray[np.int64]
    good: NDArray[np.bool_]
    seconds: NDArray[np.float64]
    certificate: Certificate


def _conditions(classes: torch.Tensor | None, count: int) -> NDArray[np.int32]:
    return np.full(count, -1, np.int32) if classes is None else classes.numpy().astype(np.int32)


def _certificate_arrays(certificate: Certificate) -> dict[str, NDArray[np.float64]]:
    return {name: getattr(certificate, name).numpy() for name in MEASURES}
