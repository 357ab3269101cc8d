"""Running a sweep: the driver's side.

The driver is the only one that commits. It opens or creates the store, gives the pending shards to a pool of workers,
merges the first result of each shard, and commits every few seconds. The store is the truth: what is committed is
never computed again, and nothing else is remembered between two runs.

If this process is killed, what was committed stays, what was not is computed again by the next run, and the lock
on the store is released by the operating system. What goes on is told beside the store (`control`).
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pullback.errors import RefusedError
from pullback.store.reader import SweepStatus, open_sweep
from pullback.store.repository import SweepStore, hold
from pullback.store.schema import PENDING, QUARANTINED
from pullback.sweep.control import Driver, Life, driving
from pullback.sweep.identity import attach_store
from pullback.sweep.plan import Plan, threads_of
from pullback.sweep.pools import Event, PoolFactory, PoolState, Results, ShardFailed
from pullback.sweep.tasks import STORAGE_SECONDS
from pullback.sweep.worker import ShardDone, WorkOrder

COMMIT_SECONDS = 2.0
"""A killed driver loses at most the work of so many seconds, and of the shards in flight."""
_ENOUGH_TO_JUDGE = 20
"""Samples after which a sweep may be ended for having too many quarantined."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        planned: samples of the whole sweep.
        done: samples that are finished, those of earlier runs among them.
        quarantined: those of them that failed their certificate.
        started_with: samples that were finished when this run began.
        trouble: what keeps it from going on just now, though it may yet; empty if nothing does.
    """

    planned: int
    done: int
    quarantined: int
    started_with: int
    trouble: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        status: counts over the whole sweep, from the store.
        computed: samples that this run computed and committed.
        failed: shards that were given up.
        interrupted: whether the user stopped it.
        cancelled: whether somebody asked it to stop, from elsewhere.
        broken: why the sweep was ended though its workers could go on; empty where it was not.
        snapshot: id of the last commit.
    """

    status: SweepStatus
    computed: int
    failed: tuple[ShardFailed, ...]
    interrupted: bool
    cancelled: bool
    broken: str
    snapshot: str

    @property
    def exit_code(self) -> int:
        """0 done, 4 done with quarantined samples, 1 failed, 130 interrupted or cancelled."""
        if self.broken or self.failed:
            return 1
        if self.interrupted or self.cancelled:
            return 130
        return 1 if self.status.pending else 4 if self.status.quarantined else 0


def run_sweep(
    plan: Plan,
    pool: PoolFactory,
    report: Callable[[Progress], None] = lambda progress: None,
    echo: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run a planned sweep to its end, or further towards it.

    Args:
        plan: the sweep.
        pool: what runs the workers.
        report: called with the progress after each shard, and now and then in between.
        echo: called with each line of the journal.

    Raises:
        StoreError: the store belongs to another sweep, is held by another driver, or cannot be written.
        PullbackError: no worker could be started.
    """
    place = plan.place
    with hold(place), driving(place, plan.layout.samples, echo) as driver:
        store = attach(plan)
        run = _Run(store, driver, plan, report)
        driver.note("run", sweep_id=plan.sweep_id, pending=run.planned - run.done, workers=plan.workers)
        pending = store.pending_shards()
        interrupted = False
        if pending:
            try:
                # closed before its pool is, for it may have workers of the pool to stop
                with (
                    pool(_order(plan, store), plan) as workers,
                    closing(workers.results(pending, driver.cancelled)) as results,
                ):
                    interrupted = run.collect(results)
            except KeyboardInterrupt:  # while the workers were starting or being stopped: all results are committed
                interrupted = True
        status = open_sweep(place).status()
        outcome = Outcome(
            status,
            run.done - run.started_with,
            tuple(run.failed),
            interrupted,
            driver.cancelled() and status.pending > 0,
            run.broken,
            store.snapshot,
        )
        # the journal first: who follows it stops at the end that the record tells
        driver.note(_life(outcome), **status.as_dict(), message=outcome.broken)
        why = outcome.broken or "; ".join(each.error for each in outcome.failed)
        driver.tell(life=_life(outcome), message=why, snapshot=outcome.snapshot)
        return outcome


def _life(outcome: Outcome) -> Life:
    if outcome.broken or outcome.failed:
        return "failed"
    if outcome.cancelled:
        return "cancelled"
    return "interrupted" if outcome.interrupted or outcome.status.pending else "done"


def attach(plan: Plan) -> SweepStore:
    """The sweep's store: the existing one, else a new one.

    Raises:
        StoreError: something else is at the path, or it cannot be written.
    """
    return attach_store(plan.place, plan.layout, plan.provenance)


def _order(plan: Plan, store: SweepStore) -> WorkOrder:
    return WorkOrder(
        job=plan.job,
        # the store's own layout: a later run may ask for another shard size, which is fixed once there are shards
        layout=store.layout,
        device=plan.device,
        method=plan.method,
        batch=plan.fit.batch,
        tangents=plan.fit.tangents,
        threads=threads_of(plan.workers),
        folder=str(Path.cwd()),
        fork=store.fork(),
    )


class _Run:
    """The driver's loop over what comes from the workers.

    Attributes:
        planned: samples of the whole sweep.
        done: samples that are finished, those of earlier runs among them.
        quarantined: those of them that are.
        started_with: samples that were finished when the run began.
        failed: shards that were given up.
        broken: why the sweep has to end, once it has.
    """

    def __init__(self, store: SweepStore, driver: Driver, plan: Plan, report: Callable[[Progress], None]) -> None:
        self._store, self._driver, self._report = store, driver, report
        self._allowed = plan.job.resources.max_quarantined
        status = store.status()
        self.planned = store.layout.samples
        self.started_with = self.done = int((status != PENDING).sum())
        self.quarantined = int((status == QUARANTINED).sum())
        self.failed: list[ShardFailed] = []
        self.broken = ""
        self._began = self._committed = time.monotonic()
        self._refusal = self._trouble = ""
        """What keeps commits, and workers, from going on just now."""
        self._refused_since: float | None = None
        """When the storage first refused a commit, if it does so now."""

    def collect(self, results: Results) -> bool:
        """Merge and commit results until there are no more, or the user interrupts; then commit what has come.

        Returns whether the user interrupted.
        """
        self._driver.tell(life="running")
        self._tell()
        interrupted = False
        try:
            for result in results:
                self._take(result)
                self._tell()
                if self._store.uncommitted and time.monotonic() - self._committed >= COMMIT_SECONDS:
                    self._try_to_commit()
                if self.broken:
                    break
        except KeyboardInterrupt:
            interrupted = True
        finally:  # also when a worker's error ends the run: nothing that was handed in is lost
            if not interrupted:
                interrupted = self._outlast()
            if self._store.uncommitted:
                with _uninterrupted():
                    self._commit()
        return interrupted

    def _outlast(self) -> bool:
        """Try to commit the last results for as long as a storage may refuse; whether the user ended that.

        Who cancelled waits for no storage: what it refuses then is computed again.
        """
        try:
            while self._store.uncommitted and self._may_wait() and not self._driver.cancelled():
                if not self._try_to_commit():
                    time.sleep(COMMIT_SECONDS)
        except KeyboardInterrupt:
            return True
        return False

    def _take(self, result: ShardDone | ShardFailed | Event | PoolState | None) -> None:
        if isinstance(result, ShardFailed):
            self.failed.append(result)
            self._driver.note("given up", shard=result.shard, attempt=result.attempts, message=result.error)
        elif isinstance(result, Event):
            self._driver.note(result.name, **result.facts)
        elif isinstance(result, PoolState):
            self._driver.tell(shards=dict(result.shards), workers=dict(result.workers))
            self._trouble = result.trouble
        elif result is not None and self._store.merge(result.shard, result.fork):
            self.done += result.good + result.quarantined
            self.quarantined += result.quarantined
            self._driver.note(
                "shard",
                shard=result.shard,
                attempt=result.attempt,
                worker=result.worker,
                good=result.good,
                quarantined=result.quarantined,
                computing=round(result.computing, 3),
                verifying=round(result.verifying, 3),
                writing=round(result.writing, 3),
            )
            for note in result.notes:
                self._driver.note("quarantined", shard=result.shard, attempt=result.attempt, message=note)
            self._judge(result.notes)

    def _judge(self, notes: Sequence[str]) -> None:
        """End a sweep whose samples are nearly all no good: it is the model that is broken, or the distance."""
        if self.done >= min(_ENOUGH_TO_JUDGE, self.planned) and self.quarantined > self._allowed * self.done:
            last = f" The last one: {notes[-1]}." if notes else ""
            self.broken = (
                f"{self.quarantined} of {self.done} samples are quarantined, which is more than "
                f"resources.max_quarantined ({self._allowed:g}) allows.{last} What was computed is kept. See the "
                "reasons with `pullback show`; mend the generator or the distance, or allow more and run again to go on"
            )

    def _tell(self) -> None:
        rate = (self.done - self.started_with) / max(time.monotonic() - self._began, 1e-9)
        trouble = self._refusal or self._trouble
        trouble = f"{trouble}; it is tried again" if trouble else ""
        self._driver.tell(samples_per_second=rate, message=trouble)
        self._report(Progress(self.planned, self.done, self.quarantined, self.started_with, trouble))

    def _may_wait(self) -> bool:
        return self._refused_since is None or time.monotonic() - self._refused_since < STORAGE_SECONDS

    def _try_to_commit(self) -> bool:
        """Commit, or leave it for a later try while the storage may yet come back; whether it was committed.

        Raises:
            RefusedError: the storage has refused for `STORAGE_SECONDS`.
        """
        refused = self._refused_since is not None
        try:
            self._commit()
        except RefusedError as error:
            self._refused_since = self._refused_since or time.monotonic()
            self._committed = time.monotonic()
            if not self._may_wait():
                raise
            self._refusal = error.what
            self._driver.note("commit refused", message=error.what)
            self._tell()
            return False
        if refused:
            self._tell()
        return True

    def _commit(self) -> None:
        began = time.monotonic()
        self._store.commit(f"{self.done} of {self.planned} samples")
        self._committed = time.monotonic()
        self._refused_since, self._refusal = None, ""
        self._driver.tell(commit_seconds=self._committed - began)
        self._driver.note("commit", samples=self.done, seconds=round(self._committed - began, 4))


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
