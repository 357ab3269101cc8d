"""Running a sweep: the driver.

The driver is the only process that commits. It opens or creates the store, gives the pending shards to a pool of
workers, merges the first result of each shard, and commits every few seconds. The store decides what is done: committed
shards are never computed again, and nothing else is remembered between two runs.

If this process is killed, the next run computes again only what was not committed, and the operating system releases
the driver lock. Progress is recorded beside the store (`session`).
"""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from pullback.driving.pool_protocol import Event, PoolFactory, PoolState, Results, ShardFailed
from pullback.driving.session import Driver, driver_session
from pullback.driving.states import Life
from pullback.errors import ClockError, RefusedError
from pullback.signals import uninterrupted
from pullback.store.lock import driver_lock
from pullback.store.opening import warn_once
from pullback.store.readback import unreadable_shards
from pullback.store.reader import Sweep, SweepStatus, open_sweep
from pullback.store.recovery import recover
from pullback.store.repository import SweepStore
from pullback.store.schema import PENDING, QUARANTINED
from pullback.sweep.identity import attach_store
from pullback.sweep.plan import Plan, threads_of
from pullback.sweep.shard_timing import COMMIT_SECONDS
from pullback.sweep.tasks import STORAGE_SECONDS
from pullback.sweep.worker import ShardDone, WorkOrder

_LONGEST_LAG = 3600.0
"""If this machine's clock is behind the last commit by at most this many seconds, a run waits until it catches up."""
_ENOUGH_TO_JUDGE = 20
"""A run ends because of too many quarantined samples only after this many samples."""


@dataclass(frozen=True)
class SweepProgress:
    """Progress of a run.

    Attributes:
        planned: samples of the whole sweep.
        done: finished samples, including those of earlier runs.
        quarantined: finished samples that failed their certificate.
        started_with: samples that were finished when this run began.
        trouble: why results cannot be stored at the moment; empty if they can.
    """

    planned: int
    done: int
    quarantined: int
    started_with: int
    trouble: str = ""


@dataclass(frozen=True)
class Outcome:
    """Outcome of a run.

    Attributes:
        status: counts of the whole sweep, from the store.
        computed: samples that this run computed and committed.
        failed: shards that were given up.
        interrupted: whether a signal stopped the run.
        cancelled: whether a cancel request stopped the run.
        broken: why the run ended although its workers could continue; empty otherwise.
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
    report: Callable[[SweepProgress], None] = lambda progress: None,
    echo: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Run a planned sweep until it is finished or stopped.

    Args:
        plan: the sweep.
        pool: makes the pool of workers.
        report: called with the progress after each shard, and now and then in between.
        echo: called with each line of the journal.

    Raises:
        StoreError: the store belongs to another sweep, is held by another driver, or cannot be written.
        PullbackError: no worker could be started.
    """
    place = plan.place
    with driver_lock(place), driver_session(place, plan.layout.samples, echo) as driver:
        lost = recover(place)
        if lost:
            warn_once(lost)
            driver.log("went back", message=lost)
        store = attach(plan)
        run = _Run(store, driver, plan, report)
        driver.log("run", sweep_id=plan.sweep_id, pending=run.planned - run.done, workers=plan.workers)
        pending = store.pending_shards()
        interrupted = False
        if pending:
            _refuse_clock(store)
            try:
                # closed before the pool, because it may have to stop workers of the pool
                with (
                    pool(_order(plan, store), plan) as workers,
                    closing(workers.results(pending, driver.cancelled)) as results,
                ):
                    interrupted = run.collect(results)
            except KeyboardInterrupt:  # while the workers were starting or being stopped: all results are committed
                interrupted = True
        sweep = open_sweep(place)
        status = sweep.status()
        broken = run.broken or (_not_there(store, sweep) if run.done > run.started_with else "")
        outcome = Outcome(
            status,
            run.done - run.started_with,
            tuple(run.failed),
            interrupted,
            driver.cancelled() and status.pending > 0,
            broken,
            store.snapshot,
        )
        # Write the journal first: its readers stop once the record shows the end.
        driver.log(_life(outcome), **status.as_dict(), message=outcome.broken)
        why = outcome.broken or "; ".join(each.error for each in outcome.failed)
        driver.update(life=_life(outcome), message=why, snapshot=outcome.snapshot)
        return outcome


def _not_there(store: SweepStore, sweep: Sweep) -> str:
    """Return a sentence about results that were written and are missing now; empty if nothing is missing."""
    if store.vanished:
        return (
            f"another program removed the results of {len(store.vanished)} shards from {store.location} before they "
            "were committed. These shards are pending again, and nothing else is lost. Find out what removes files "
            "there, then run the job again"
        )
    lost = unreadable_shards(store.location, sweep.committed_shards)
    if not lost:
        return ""
    return (
        f"{len(lost)} committed shards of {store.location} cannot be read: another program removed or truncated "
        f"their files. All others are intact. `pullback audit {store.location} --repair` makes them pending; then run "
        "the job again"
    )


def _refuse_clock(store: SweepStore) -> None:
    """Refuse to compute results that could not be committed for a long time.

    Raises:
        ClockError: the clock of this machine is far behind the last commit.
    """
    lag = store.lag
    if lag > _LONGEST_LAG:
        raise ClockError(
            f"nothing can be committed to {store.location}: the clock of this machine is {lag / 3600:.3g} hours behind "
            "the last commit. Nothing was computed",
            lag,
        )


def _life(outcome: Outcome) -> Life:
    if outcome.broken or outcome.failed:
        return "failed"
    if outcome.cancelled:
        return "cancelled"
    return "interrupted" if outcome.interrupted or outcome.status.pending else "done"


def attach(plan: Plan) -> SweepStore:
    """Open the sweep's store, or create it.

    Raises:
        StoreError: something else is at the path, or it cannot be written.
    """
    store = attach_store(plan.place, plan.layout, plan.provenance)
    store.durable = plan.job.resources.fsync
    return store


def _order(plan: Plan, store: SweepStore) -> WorkOrder:
    return WorkOrder(
        job=plan.job,
        # Use the store's own layout: its shard size is fixed, even if this job requests another.
        layout=store.layout,
        device=plan.device,
        method=plan.method,
        batch=plan.fit.batch,
        tangents=plan.fit.tangents,
        whole=plan.fit.whole,
        together=plan.fit.together,
        route=plan.strategy.route,
        shared_by=plan.shared_by,
        threads=threads_of(plan.workers),
        folder=plan.folder,
        fork=store.fork(),
        inputs=plan.inputs,
    )


class _Run:
    """The driver's loop over the results of the workers.

    Attributes:
        planned: samples of the whole sweep.
        done: finished samples, including those of earlier runs.
        quarantined: finished samples that failed their certificate.
        started_with: samples that were finished when the run began.
        failed: shards that were given up.
        broken: why the run must end; empty while it may continue.
    """

    def __init__(self, store: SweepStore, driver: Driver, plan: Plan, report: Callable[[SweepProgress], None]) -> None:
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
        """Why the storage refuses commits, and why it refuses workers; empty while it does not."""
        self._patience = STORAGE_SECONDS
        """Seconds for which commits may be refused."""
        self._refused_since: float | None = None
        """Time of the first of the refusals that still last; None while commits succeed."""

    def collect(self, results: Results) -> bool:
        """Merge and commit results until there are no more, or a signal interrupts; then commit what has arrived.

        Returns whether a signal interrupted.
        """
        self._driver.update(life="running")
        self._report_progress()
        interrupted = False
        try:
            for result in results:
                self._take(result)
                self._report_progress()
                if self._store.uncommitted and time.monotonic() - self._committed >= COMMIT_SECONDS:
                    self._try_to_commit()
                if self.broken:
                    break
        except KeyboardInterrupt:
            interrupted = True
        finally:  # also when a worker's error ends the run: no result that was handed in is lost
            if not interrupted:
                interrupted = self._outlast()
            if self._store.uncommitted:
                with uninterrupted():  # a second signal must not cost the last results
                    self._commit()
        return interrupted

    def _outlast(self) -> bool:
        """Try to commit the last results while the storage may still accept them. Returns whether a signal interrupted.

        After a cancel request it does not wait for the storage: the next run computes refused results again.
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
            self._driver.log("given up", shard=result.shard, attempt=result.attempts, message=result.error)
        elif isinstance(result, Event):
            self._driver.log(result.name, **result.facts)
        elif isinstance(result, PoolState):
            self._driver.update(shards=dict(result.shards), workers=dict(result.workers))
            self._trouble = result.trouble
        elif result is not None and self._store.merge(result.shard, result.fork):
            self.done += result.good + result.quarantined
            self.quarantined += result.quarantined
            self._driver.log(
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
                self._driver.log("quarantined", shard=result.shard, attempt=result.attempt, message=note)
            self._judge(result.notes)

    def _judge(self, notes: Sequence[str]) -> None:
        """End a run in which too many samples are quarantined: the generator or the distance is broken."""
        if self.done >= min(_ENOUGH_TO_JUDGE, self.planned) and self.quarantined > self._allowed * self.done:
            last = f" The last one: {notes[-1]}." if notes else ""
            self.broken = (
                f"{self.quarantined} of {self.done} samples are quarantined, which is more than "
                f"resources.max_quarantined ({self._allowed:g}) allows.{last} The results are kept. "
                "`pullback show` lists the reasons. Correct the generator or the distance, or raise the limit, then "
                "run the job again to resume"
            )

    def _report_progress(self) -> None:
        rate = (self.done - self.started_with) / max(time.monotonic() - self._began, 1e-9)
        trouble = self._refusal or self._trouble
        trouble = f"{trouble}; trying again" if trouble else ""
        # Report no rate: no result is being stored, so an estimate of the end would be wrong.
        self._driver.update(samples_per_second=0.0 if trouble else rate, message=trouble)
        self._report(SweepProgress(self.planned, self.done, self.quarantined, self.started_with, trouble))

    def _may_wait(self) -> bool:
        return self._refused_since is None or time.monotonic() - self._refused_since < self._patience

    def _try_to_commit(self) -> bool:
        """Commit, or leave it for a later try while the storage may come back. Returns whether it was committed.

        Raises:
            RefusedError: the storage has refused for `STORAGE_SECONDS`. If this machine's clock is slightly behind,
                the time that it needs to catch up is added.
        """
        refused = self._refused_since is not None
        try:
            self._commit()
        except RefusedError as error:
            self._refused_since = self._refused_since or time.monotonic()
            self._committed = time.monotonic()
            self._patience = STORAGE_SECONDS
            if isinstance(error, ClockError) and error.lag <= _LONGEST_LAG:
                self._patience = time.monotonic() - self._refused_since + error.lag + STORAGE_SECONDS
            if not self._may_wait():
                raise
            self._refusal = error.what
            self._driver.log("commit refused", message=error.what)
            self._report_progress()
            return False
        if refused:
            self._report_progress()
        return True

    def _commit(self) -> None:
        began = time.monotonic()
        self._store.commit(f"{self.done} of {self.planned} samples")
        self._committed = time.monotonic()
        self._refused_since, self._refusal = None, ""
        self._driver.update(commit_seconds=self._committed - began)
        self._driver.log("commit", samples=self.done, seconds=round(self._committed - began, 4))
