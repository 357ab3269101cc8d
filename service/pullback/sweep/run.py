"""Running a sweep: the driver's side.

The driver is the only one that commits. It opens or creates the store, gives the pending shards to a pool of workers,
merges the first result of each shard, and commits every few seconds. The store is the truth: what is committed is
never computed again, and nothing else is remembered between two runs.

If this process is killed, what was committed stays, what was not is computed again by the next run, and the lock
on the store is released by the operating system.
"""

import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pullback.errors import SweepError
from pullback.store.folders import local_path
from pullback.store.reader import SweepStatus, open_sweep
from pullback.store.repository import SweepStore, create, hold
from pullback.store.schema import PENDING, QUARANTINED
from pullback.sweep.identity import existing_store
from pullback.sweep.plan import Plan, usable_cores
from pullback.sweep.worker import ShardDone, Worker, WorkOrder

COMMIT_SECONDS = 2.0
"""A killed driver loses at most the work of so many seconds, and of the shards in flight."""


@dataclass(frozen=True)
class ShardFailed:
    """A shard that was given up after its retries; its samples stay pending.

    Attributes:
        shard: its number.
        error: what happened the last time.
    """

    shard: int
    error: str


Results = Generator[ShardDone | ShardFailed | None, None, None]


class Pool(Protocol):
    """Something that runs a `Worker` somewhere, one or many."""

    def results(self, shards: Sequence[int]) -> Results:
        """Each shard's outcome as it comes; None now and then while nothing comes, so that the driver can act."""
        ...


PoolFactory = Callable[[WorkOrder, Plan], AbstractContextManager[Pool]]


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        planned: samples of the whole sweep.
        done: samples that are finished, those of earlier runs among them.
        quarantined: those of them that failed their certificate.
        started_with: samples that were finished when this run began.
    """

    planned: int
    done: int
    quarantined: int
    started_with: int


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: counts over the whole sweep, from the store.
        computed: samples that this run computed and committed.
        failed: shards that were given up.
        interrupted: whether the user stopped it.
        snapshot: id of the last commit.
    """

    status: SweepStatus
    computed: int
    failed: tuple[ShardFailed, ...]
    interrupted: bool
    snapshot: str


class SerialPool:
    """One worker, in this process; for debugging and for machines without Ray."""

    def __init__(self, order: WorkOrder) -> None:
        self._worker = Worker(order)

    def results(self, shards: Sequence[int]) -> Results:
        """Each shard, computed when it is asked for; an error is not retried, it is the user's to see."""
        for shard in shards:
            try:
                result = self._worker.run(shard)
            except SweepError as error:
                raise SweepError(
                    f"{error}\nWhat was done before is saved. Without --serial the other shards are computed too."
                ) from error
            yield result


@contextmanager
def serial_pool(order: WorkOrder, plan: Plan) -> Iterator[Pool]:
    """The pool of `--serial`."""
    yield SerialPool(order)


def run_sweep(plan: Plan, pool: PoolFactory, report: Callable[[Progress], None] = lambda progress: None) -> Outcome:
    """Run a planned sweep to its end, or further towards it.

    Args:
        plan: the sweep.
        pool: what runs the workers.
        report: called with the progress after each shard, and now and then in between.

    Raises:
        StoreError: the store belongs to another sweep, is held by another driver, or cannot be written.
        PullbackError: no worker could be started.
    """
    path = local_path(plan.job.store_path)
    with hold(path):
        store = attach(plan)
        before = _finished(store)
        failed: list[ShardFailed] = []
        interrupted = False
        pending = store.pending_shards()
        if pending:
            try:
                # closed before its pool is, for it may have workers of the pool to stop
                with pool(_order(plan, store), plan) as workers, closing(workers.results(pending)) as results:
                    interrupted = _collect(store, results, before, failed, report)
            except KeyboardInterrupt:  # while the workers were starting or being stopped: all results are committed
                interrupted = True
        status = open_sweep(path).status()
        return Outcome(status, _finished(store)[0] - before[0], tuple(failed), interrupted, store.snapshot)


def attach(plan: Plan) -> SweepStore:
    """The sweep's store: the existing one, else a new one.

    Raises:
        StoreError: something else is at the path, or it cannot be written.
    """
    path = local_path(plan.job.store_path)
    return existing_store(path, plan.provenance) or create(path, plan.layout, plan.provenance)


def _order(plan: Plan, store: SweepStore) -> WorkOrder:
    return WorkOrder(
        job=plan.job,
        # the store's own layout: a later run may ask for another shard size, which is fixed once there are shards
        layout=store.layout,
        device=plan.device,
        method=plan.method,
        batch=plan.fit.batch,
        tangents=plan.fit.tangents,
        threads=max(1, usable_cores() // plan.workers),
        folder=str(Path.cwd()),
        fork=store.fork(),
    )


def _collect(
    store: SweepStore,
    results: Results,
    before: tuple[int, int],
    failed: list[ShardFailed],
    report: Callable[[Progress], None],
) -> bool:
    """Merge and commit results until there are no more, or the user interrupts; then commit what has come.

    Shards that are given up are added to `failed`. Returns whether the user interrupted.
    """
    done, quarantined = before
    planned = store.layout.samples
    last_commit = time.monotonic()
    report(Progress(planned, done, quarantined, before[0]))
    interrupted = False
    try:
        for result in results:
            if isinstance(result, ShardFailed):
                failed.append(result)
            elif result is not None and store.merge(result.shard, result.fork):
                done += result.good + result.quarantined
                quarantined += result.quarantined
            report(Progress(planned, done, quarantined, before[0]))
            if store.uncommitted and time.monotonic() - last_commit >= COMMIT_SECONDS:
                store.commit(f"{done} of {planned} samples")
                last_commit = time.monotonic()
    except KeyboardInterrupt:
        interrupted = True
    finally:  # also when a worker's error ends the run: nothing that was handed in is lost
        if store.uncommitted:
            with _uninterrupted():
                store.commit(f"{done} of {planned} samples")
    return interrupted


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Within it, a second Ctrl-C does not keep the last results from being committed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _finished(store: SweepStore) -> tuple[int, int]:
    """Samples that are committed, and those of them that are quarantined."""
    status = store.status()
    return int((status != PENDING).sum()), int((status == QUARANTINED).sum())
