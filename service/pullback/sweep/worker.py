"""A worker: holds the generator and the distance, and computes whole shards.

Pure of Ray and of the driver: the same class runs inside a Ray actor and, with `--serial`, in the driver's process.
Invariant: what it computes for a sample depends on the sample's index and the job alone.
"""

import os
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pullback.errors import (
    DeviceError,
    MemoryPlanError,
    RefusedError,
    SweepError,
    WorkCancelledError,
    is_interrupt,
)
from pullback.generators import class_indices
from pullback.metric import metric_at
from pullback.metric.certificate import MEASURES
from pullback.metric.memory import codes_together, keep_freed_memory
from pullback.metric.stopwatch import seconds_verifying
from pullback.spec import JobSpec
from pullback.store.repository import write_shard
from pullback.store.schema import GOOD, QUARANTINED, Layout, Reason, ShardRecord
from pullback.sweep.latents import sample_latents
from pullback.sweep.plan import load_parts
from pullback.sweep.tasks import Task

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


WRITE_PAUSES = (1.0, 4.0, 15.0)
"""Seconds after which a write that was refused is tried again."""


@dataclass(frozen=True)
class ShardDone:
    """A shard that was computed and written through a fork.

    Attributes:
        shard: its number.
        fork: the fork with its writes, to be merged by the driver.
        good: samples that passed their certificate.
        quarantined: samples that did not.
        notes: what was raised at samples that are quarantined for it, a line each.
        computing: seconds of computing, certificates included.
        verifying: those of them that the certificates took.
        writing: seconds of writing, while the next shard is computed.
        attempt: how often the shard was tried before.
        worker: who computed it; empty where there is only one.
    """

    shard: int
    fork: bytes
    good: int
    quarantined: int
    notes: tuple[str, ...] = ()
    computing: float = 0.0
    verifying: float = 0.0
    writing: float = 0.0
    attempt: int = 0
    worker: str = ""


class Worker:
    """Computes shards of one sweep.

    `run` may be called from two threads: they compute one after the other, and one writes while the other computes.

    Raises:
        PullbackError: the generator or the distance cannot be loaded.
    """

    def __init__(self, order: WorkOrder) -> None:
        self.order = order
        if Path(order.folder).is_dir():  # else another machine's, of which nothing is needed
            os.chdir(order.folder)
        torch.set_num_threads(order.threads)  # Ray would leave each worker with one
        keep_freed_memory()
        self.batch, self.tangents = order.batch, order.tangents
        self.generator, self.distance = load_parts(order.job, order.device)
        self._computing = threading.Lock()
        self.stop_when: Callable[[], bool] = lambda: False
        """Asked before each batch of codes: if so, the work is given up."""

    def run(self, task: Task) -> ShardDone | None:
        """Compute a task's shard and write it through a copy of the order's fork; None of a part, which is not kept.

        Raises:
            SweepError: a sample raised, which the message names, and the task does not say to isolate it.
            DeviceError: the GPU faulted.
            MemoryPlanError: not even the smallest batch fits into memory.
            RefusedError: the result cannot be written.
            WorkCancelledError: `stop_when` said so.
            KeyboardInterrupt: also where torch made another error of it.
        """
        with self._computing:
            began, verified = time.perf_counter(), seconds_verifying()
            record, notes = self.compute(task)
            computing, verified = time.perf_counter() - began, seconds_verifying() - verified
        if task.samples is not None:
            return None
        began = time.perf_counter()
        fork = self._write(record)
        quarantined = int((record.status == QUARANTINED).sum())
        good = len(record.status) - quarantined
        writing = time.perf_counter() - began
        return ShardDone(
            task.shard, fork, good, quarantined, tuple(notes), computing, verified, writing, attempt=task.attempt
        )

    def _write(self, record: ShardRecord) -> bytes:
        """Write a result; one that took long to compute is not thrown away for a moment's trouble of its storage."""
        for pause in WRITE_PAUSES:
            try:
                return write_shard(self.order.fork, record)
            except RefusedError:
                end = time.monotonic() + pause
                while time.monotonic() < end and not self.stop_when():
                    time.sleep(min(0.1, pause))
        return write_shard(self.order.fork, record)

    def compute(self, task: Task) -> tuple[ShardRecord, list[str]]:
        """The metrics of a task's samples and everything that is stored about them, and what was raised at some."""
        job, layout = self.order.job, self.order.layout
        indices = layout.samples_of(task.shard)
        latents = sample_latents(job.samples, indices, layout.latent_dim)
        classes = class_indices(self.generator, job.generator.condition, indices)
        record = _empty_record(task.shard, layout, latents, classes)
        wanted = indices if task.samples is None else task.samples
        places = [sample - indices.start for sample in wanted if sample not in task.skip]
        record.reason[[sample - indices.start for sample in sorted(task.skip)]] = Reason.KILLED
        notes, start = [], 0
        while start < len(places):  # piece by piece, so that no more than one batch of whole metrics is held
            if self.stop_when():
                raise WorkCancelledError(f"shard {task.shard} was given up, as asked for; it is still pending")
            # alone, a sample that raises takes none of its neighbours along
            many = 1 if task.isolate else codes_together(self.batch, layout.latent_dim)
            piece = places[start : start + many]
            try:
                self._fill(record, piece, classes)
            except SweepError as error:
                if not task.isolate:
                    raise
                record.reason[piece] = Reason.RAISED
                notes.append(str(error))
            start += len(piece)
        return record, notes

    def _fill(self, record: ShardRecord, places: list[int], classes: torch.Tensor | None) -> None:
        """Compute the samples at some places of a shard, and put what is kept of them into its record.

        Uses smaller batches from then on where the device turned out to have less memory than was planned with.
        """
        spec = self.order.job.metric
        try:
            metric = metric_at(
                self.generator,
                self.distance,
                record.latent[places],
                condition=None if classes is None else classes[places].tolist(),
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
        except (MemoryPlanError, DeviceError):
            raise
        except Exception as error:
            if is_interrupt(error):  # the user's, and no fault of the sample at hand
                raise KeyboardInterrupt from error
            first = self.order.layout.samples_of(record.shard)[places[0]]
            named = f"sample {first}" + (f" to {first + len(places) - 1}" if len(places) > 1 else "")
            where = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{named}: {type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            raise (DeviceError if is_device_fault(error) else SweepError)(told) from error
        self.batch, self.tangents = metric.batch, metric.tangents
        matrix = metric.matrix
        if matrix is None:  # what its eigenpairs make of it
            matrix = (metric.eigenvectors.transpose(1, 2) * metric.eigenvalues[:, None]) @ metric.eigenvectors
        good = metric.certificate.passed.numpy()
        record.metric_sum[...] += matrix.numpy()[good].sum(axis=0)
        record.status[places] = np.where(good, GOOD, QUARANTINED)
        record.reason[places] = [_REASONS[failure] for failure in metric.certificate.failures()]
        for name in ("eigenvalue", "eigenvector", "trace", "products", "seconds"):
            getattr(record, name)[places] = getattr(metric, _NAMES.get(name, name)).numpy()
        for name in MEASURES:
            getattr(record, name)[places] = getattr(metric.certificate, name).numpy()


_NAMES = {"eigenvalue": "eigenvalues", "eigenvector": "eigenvectors"}
"""What the record calls otherwise than the metric."""


def is_device_fault(error: BaseException) -> bool:
    """Whether an error of torch means that its process can use the GPU no more."""
    fault: type[BaseException] | None = getattr(torch, "AcceleratorError", None)
    return (fault is not None and isinstance(error, fault)) or "CUDA error" in str(error)


def _empty_record(
    shard: int, layout: Layout, latents: NDArray[np.float32], classes: torch.Tensor | None
) -> ShardRecord:
    """A shard's record with the codes, in which every sample is quarantined and nothing else is known."""
    many = len(latents)

    def unknown(*shape: int) -> NDArray[np.float64]:
        return np.full((many, *shape), np.nan)

    return ShardRecord(
        shard=shard,
        latent=latents,
        condition=np.full(many, -1, np.int32) if classes is None else classes.numpy().astype(np.int32),
        eigenvalue=unknown(layout.components),
        eigenvector=np.full((many, layout.components, layout.latent_dim), np.nan, np.float32),
        metric_sum=np.zeros((layout.latent_dim, layout.latent_dim)),
        trace=unknown(),
        status=np.full(many, QUARANTINED, np.uint8),
        reason=np.full(many, Reason.RAISED, np.uint8),
        products=np.full(many, -1, np.int64),
        seconds=unknown(),
        **{name: unknown() for name in MEASURES},
    )
