"""A worker: holds the generator and the distance, and computes whole shards.

Pure of Ray and of the driver: the same class runs inside a Ray actor and, with `--serial`, in the driver's process.
Invariant: what it computes for a sample depends on the sample's index and the job alone.
"""

import os
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pullback.generators import class_indices
from pullback.metric import PullbackMetric, metric_at
from pullback.metric.certificate import Certificate
from pullback.spec import JobSpec
from pullback.store.schema import GOOD, QUARANTINED, Layout, Reason, ShardRecord
from pullback.sweep.latents import sample_latents
from pullback.sweep.plan import load_parts

_REASONS = {
    "": Reason.NONE,
    "finite": Reason.NOT_FINITE,
    "symmetry_error": Reason.ASYMMETRIC,
    "negative_eigenvalue": Reason.NEGATIVE_EIGENVALUE,
    "eigen_residual": Reason.EIGEN_RESIDUAL,
    "orthogonality_error": Reason.NOT_ORTHOGONAL,
    "probe_error": Reason.JACOBIAN_PROBE,
}


@dataclass(frozen=True)
class WorkOrder:
    """All that a worker needs to know; small, and the same for every worker of a sweep.

    Attributes:
        job: the job.
        layout: sizes and shards.
        device: `cpu` or `cuda`.
        batch: codes at once.
        tangents: Jacobian columns at once.
        threads: CPU threads for torch; None leaves its default.
        folder: the driver's working directory, which relative paths and a user's own modules are found from.
        fork: the writable fork of the store's session that results go through.
    """

    job: JobSpec
    layout: Layout
    device: str
    batch: int
    tangents: int
    threads: int | None
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
        seconds: how long it took.
    """

    shard: int
    fork: bytes
    good: int
    quarantined: int
    seconds: float


class Worker:
    """Computes shards of one sweep.

    Raises:
        PullbackError: the generator or the distance cannot be loaded.
    """

    def __init__(self, order: WorkOrder) -> None:
        self.order = order
        os.chdir(order.folder)
        if order.threads is not None:
            torch.set_num_threads(order.threads)
        self.batch, self.tangents = order.batch, order.tangents
        self.generator, self.distance = load_parts(order.job, order.device)

    def run(self, shard: int) -> ShardDone:
        """Compute a shard and write it through a copy of the order's fork."""
        from pullback.store.repository import write_shard

        began = time.perf_counter()
        record = self.compute(shard)
        fork = write_shard(self.order.fork, record)
        quarantined = int((record.status == QUARANTINED).sum())
        return ShardDone(shard, fork, len(record.status) - quarantined, quarantined, time.perf_counter() - began)

    def compute(self, shard: int) -> ShardRecord:
        """The metrics of a shard's samples, and everything that is stored about them."""
        job, layout = self.order.job, self.order.layout
        indices = layout.samples_of(shard)
        latents = sample_latents(job.samples, indices, layout.latent_dim)
        classes = class_indices(self.generator, job.generator.condition, indices)
        metric = self._metric(latents, classes)
        certificate = metric.certificate
        reason = np.array([_REASONS[failure] for failure in certificate.failures()], np.uint8)
        good = reason == Reason.NONE
        return ShardRecord(
            shard=shard,
            latent=latents,
            condition=_conditions(classes, len(indices)),
            eigenvalue=metric.eigenvalues.numpy(),
            eigenvector=metric.eigenvectors.numpy().astype(np.float32),
            metric_sum=metric.matrix.numpy()[good].sum(axis=0),
            trace=metric.matrix.diagonal(dim1=1, dim2=2).sum(dim=1).numpy(),
            status=np.where(good, GOOD, QUARANTINED).astype(np.uint8),
            reason=reason,
            seconds=metric.seconds.numpy(),
            **_certificate_arrays(certificate),
        )

    def _metric(self, latents: NDArray[np.float32], classes: torch.Tensor | None) -> PullbackMetric:
        """The metrics, with smaller pieces where the device turns out to have less memory than planned with."""
        while True:
            try:
                return metric_at(
                    self.generator,
                    self.distance,
                    latents,
                    condition=None if classes is None else classes.tolist(),
                    components=self.order.layout.components,
                    batch=self.batch,
                    tangents=self.tangents,
                )
            except torch.OutOfMemoryError:
                if self.batch == self.tangents == 1:
                    raise
                if self.batch > 1:
                    self.batch //= 2
                else:
                    self.tangents //= 2
                torch.cuda.empty_cache()


def _conditions(classes: torch.Tensor | None, count: int) -> NDArray[np.int32]:
    return np.full(count, -1, np.int32) if classes is None else classes.numpy().astype(np.int32)


def _certificate_arrays(certificate: Certificate) -> dict[str, NDArray[np.float64]]:
    names = [name for name in (*_REASONS, "trace_share") if name not in ("", "finite")]
    return {name: getattr(certificate, name).numpy() for name in names}
