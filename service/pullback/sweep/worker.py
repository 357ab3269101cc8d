"""The worker: holds the generator and the distance, and computes whole shards.

It depends neither on Ray nor on the driver: the same class runs in a Ray actor and, with `--serial`, in the driver's
process. Invariant: the results of a sample depend on the sample's index and the job alone.
"""

import os
import socket
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pullback.errors import (
    DeviceError,
    MemoryPlanError,
    PullbackError,
    RefusedError,
    SweepError,
    WorkCancelledError,
    exit_message,
    is_interrupt,
)
from pullback.generators import class_indices, generate, reference_tensor
from pullback.generators.user_code import origin_of, unmoved
from pullback.generators.user_files import Window, hashes, signature, watching
from pullback.metric import metric_at
from pullback.metric.allocation import keep_freed_memory
from pullback.metric.check_timing import seconds_verifying
from pullback.metric.checks import MEASURES, reason_code
from pullback.metric.memory import Fit, codes_together
from pullback.metric.methods import Route
from pullback.metric.strategy import Strategy
from pullback.spec import ITERATIVE_METHODS, JobSpec
from pullback.spec.metric import Method
from pullback.store.schema import GOOD, QUARANTINED, Layout, Reason, ShardRecord
from pullback.store.shard_writing import write_shard
from pullback.sweep.inputs import Inputs
from pullback.sweep.latents import LatentCodes
from pullback.sweep.parts import load_parts, metric_options, refuse_others
from pullback.sweep.tasks import Task


@dataclass(frozen=True)
class WorkOrder:
    """Everything that a worker needs. It is small, and equal for all workers of a sweep.

    Attributes:
        job: the job.
        layout: sizes and shards.
        device: `cpu` or `cuda`.
        method: how metrics are computed, `auto` resolved once for all workers.
        batch: codes at once.
        tangents: Jacobian columns at once.
        threads: CPU threads for torch.
        folder: the driver's working directory, where relative paths start and user modules are found.
        fork: the writable fork of the store's session, for results.
        inputs: the inputs of the plan; a worker that loads other inputs computes nothing.
        whole: whether the Jacobian is held whole, as the plan decided from a worker's share of memory.
        route: how derivatives are taken (`metric.methods.Route`).
        shared_by: workers that share one GPU.
        together: codes whose certificates are computed at once (`metric.memory.Fit`).
    """

    job: JobSpec
    layout: Layout
    device: str
    method: Method
    batch: int
    tangents: int
    threads: int
    folder: str
    fork: bytes
    inputs: Inputs | None = None
    whole: bool = True
    route: Route = "forward"
    shared_by: int = 1
    together: int = 0


WRITE_PAUSES = (1.0, 4.0, 15.0)
"""Seconds to wait before each retry of a refused write."""


@dataclass(frozen=True)
class ShardDone:
    """A shard that was computed, and written through a fork.

    Attributes:
        shard: its number.
        fork: the fork with its writes, to be merged by the driver.
        good: samples that passed their certificate.
        quarantined: samples that did not.
        notes: a line for each sample that is quarantined because it raised, with the error.
        computing: seconds of computing, certificates included.
        verifying: seconds of these that the certificates took.
        writing: seconds of writing, during which the next shard is computed.
        attempt: number of earlier tries of the shard.
        worker: name of the worker; empty if there is only one.
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

    `run` may be called from two threads: one writes while the other computes.

    Raises:
        PullbackError: the generator or the distance cannot be loaded, or differs from the plan's.
    """

    def __init__(self, order: WorkOrder) -> None:
        self.order = order
        if Path(order.folder).is_dir():  # another machine's folder is not needed here
            os.chdir(order.folder)
        torch.set_num_threads(order.threads)  # Ray sets one thread
        keep_freed_memory()
        fit = Fit(order.batch, order.tangents, 0, 0, order.whole, order.together)
        self._strategy = Strategy(order.method, order.route, fit)
        """The plan's strategy. A failed allocation makes its batch smaller for good; the method never changes."""
        self.generator, self.distance = load_parts(order.job, order.device)
        self.codes = LatentCodes(order.job.samples, self.generator)
        if order.inputs is not None:
            refuse_others(order.inputs, self.generator, self.distance, self.codes.hashes)
        self._read: dict[str, str] = {}
        """SHA-256 of the files that user code read while shards were computed."""
        self._computing = threading.Lock()
        self.stop_when: Callable[[], bool] = lambda: False
        """Called before each batch of codes; the work is given up if it returns True."""

    def _refuse_changed_files(self, window: Window) -> None:
        """Refuse results if user code read a file that has changed since the plan."""
        origin = origin_of(self.generator) or origin_of(self.distance)
        if origin is None or not window.opened:
            return
        now = hashes(window.opened, origin.base)
        planned = {} if self.order.inputs is None else self.order.inputs.read
        known = {**now, **self._read, **planned}
        changed = {name for name, digest in now.items() if digest != known[name]}
        changed |= {Path(path).name for path, seen in window.opened.items() if seen != {signature(path)}}
        if changed:
            raise PullbackError(
                f"{', '.join(sorted(changed))} changed on {socket.gethostname()} while the sweep ran, and the "
                "generator or distance reads it in every pass. The results of this shard are thrown away; what was "
                "committed is kept. Restore the file and run again, or give the job another `store`"
            )
        self._read |= now

    def run(self, task: Task) -> ShardDone | None:
        """Compute a task's shard and write it through a copy of the order's fork.

        Returns None for a part of a shard, whose result is not kept.

        Raises:
            SweepError: a sample raised, and the task does not isolate it. The message names the sample.
            DeviceError: the GPU faulted.
            MemoryPlanError: the smallest batch does not fit into memory.
            RefusedError: the result cannot be written.
            WorkCancelledError: `stop_when` returned True.
            KeyboardInterrupt: Ctrl-C, even if torch turned it into another error.
        """
        with self._computing:
            began, verified = time.perf_counter(), seconds_verifying()
            with unmoved(), watching(Window()) as window:
                record, notes = self.compute(task)
            self._refuse_changed_files(window)
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
        """Write a result. If the storage refuses, retry for a while, because computing it may have taken long."""
        for pause in WRITE_PAUSES:
            try:
                return write_shard(self.order.fork, record)
            except RefusedError:
                end = time.monotonic() + pause
                while time.monotonic() < end and not self.stop_when():
                    time.sleep(min(0.1, pause))
        return write_shard(self.order.fork, record)

    def compute(self, task: Task) -> tuple[ShardRecord, list[str]]:
        """Compute the record of a task's samples. Also returns a note for each sample that raised."""
        job, layout = self.order.job, self.order.layout
        indices = layout.samples_of(task.shard)
        classes = class_indices(self.generator, job.generator.condition, indices)
        latents = self.codes.at(indices, classes)
        record = _empty_record(task.shard, layout, latents, classes)
        wanted = indices if task.samples is None else task.samples
        places = [sample - indices.start for sample in wanted if sample not in task.skip]
        record.reason[[sample - indices.start for sample in sorted(task.skip)]] = Reason.KILLED
        notes, start = [], 0
        while start < len(places):  # batch by batch, so that whole metrics of only one batch are in memory
            if self.stop_when():
                raise WorkCancelledError(f"shard {task.shard} was given up, as asked for; it is still pending")
            # a sample that raises alone does not affect its neighbours
            fit = self._strategy.fit
            many = 1 if task.isolate else fit.together or codes_together(fit.batch, layout.latent_dim)
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
        """Compute samples of a shard, by their positions, and fill in its record.

        If the device has less memory than planned, later batches are smaller.
        """
        try:
            metric = metric_at(
                self.generator,
                self.distance,
                record.latent[places],
                condition=None if classes is None else classes[places].tolist(),
                components=self.order.layout.components,
                **metric_options(self.order.job),
                replay="eager" if self.order.device == "cpu" else self.order.job.resources.replay,
                strategy=self._strategy,
            )
        except (MemoryPlanError, DeviceError):
            raise
        except (Exception, SystemExit) as error:
            if is_interrupt(error):  # by the user; the sample is not the cause
                raise KeyboardInterrupt from error
            first = self.order.layout.samples_of(record.shard)[places[0]]
            named = f"sample {first}" + (f" to {first + len(places) - 1}" if len(places) > 1 else "")
            shown: BaseException = error
            if isinstance(error, Exception) and not is_device_fault(error):
                shown = self._plain_error(record, places, classes) or error
            where = traceback.extract_tb(shown.__traceback__)[-1]
            what = exit_message(shown) if isinstance(shown, SystemExit) else f"{type(shown).__name__}: {shown}"
            message = f"{named}: {what} ({where.filename}:{where.lineno})"
            raise (DeviceError if is_device_fault(error) else SweepError)(message) from error
        fit = self._strategy.fit
        together = fit.together if metric.batch == fit.batch else 0
        fit = replace(fit, batch=metric.batch, tangents=metric.tangents, whole=metric.whole, together=together)
        self._strategy = replace(self._strategy, fit=fit)
        matrix = metric.matrix
        # An iterative method with k < n has no whole metrics: sum the part that the eigenpairs make.
        # `Sweep.whole_metrics` recognizes such sums by the method.
        if matrix is None:
            if self.order.method not in ITERATIVE_METHODS:
                raise SweepError(
                    f"{self.order.method} returned no whole metrics, so they cannot be summed; this batch was discarded"
                )
            matrix = (metric.eigenvectors.transpose(1, 2) * metric.eigenvalues[:, None]) @ metric.eigenvectors
        good = metric.certificate.passed.numpy()
        record.metric_sum[...] += matrix.numpy()[good].sum(axis=0)
        record.status[places] = np.where(good, GOOD, QUARANTINED)
        record.reason[places] = [reason_code(failure) for failure in metric.certificate.failures()]
        for name in ("eigenvalue", "eigenvector", "trace", "products", "seconds"):
            getattr(record, name)[places] = getattr(metric, _NAMES.get(name, name)).numpy()
        for name in MEASURES:
            getattr(record, name)[places] = metric.certificate.values[name].numpy()

    def _plain_error(self, record: ShardRecord, places: list[int], classes: torch.Tensor | None) -> Exception | None:
        """Return the error that the generator alone raises at some samples, or None.

        Its traceback names the line of user code.
        """
        codes = torch.as_tensor(record.latent[places]).to(reference_tensor(self.generator))
        own = None if classes is None else classes[places].to(codes.device)
        try:
            with torch.no_grad():
                generate(self.generator, codes, own)
        except Exception as error:
            if is_interrupt(error):
                raise KeyboardInterrupt from error
            return error
        return None


_NAMES = {"eigenvalue": "eigenvalues", "eigenvector": "eigenvectors"}
"""Fields of the record whose names differ from the metric's."""


def is_device_fault(error: BaseException) -> bool:
    """Whether an error of torch means that the process cannot use the GPU any more."""
    fault: type[BaseException] | None = getattr(torch, "AcceleratorError", None)
    return (fault is not None and isinstance(error, fault)) or "CUDA error" in str(error)


def _empty_record(
    shard: int, layout: Layout, latents: NDArray[np.float32], classes: torch.Tensor | None
) -> ShardRecord:
    """Make a shard's record that holds the codes. Every sample is quarantined until its result is filled in."""
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
