"""Backends run submitted jobs and know their drivers; the service itself computes nothing.

`LocalBackend` starts a driver on this machine, in a process that outlives the service (`driving.background`);
`ClusterBackend` submits the job to a Ray cluster.
"""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pullback.api.problem_details import RequestError
from pullback.cluster import submission as jobs
from pullback.driving import background
from pullback.driving.control import events_path, read_record
from pullback.driving.sidecar_files import known_drivers, sidecar_path
from pullback.driving.states import ACTIVE
from pullback.driving.sweep_state import SnapshotReader, SweepState, read_snapshot
from pullback.errors import SpecError, StoreError, SweepError
from pullback.jobs.plan import ResultPlan, whole_job
from pullback.jobs.state import state_of
from pullback.jobs.submission import background_job
from pullback.spec import JobSpec, load_job
from pullback.store.folders import is_vacant
from pullback.store.reader import open_sweep
from pullback.sweep.identity import differences
from pullback.sweep.inputs import changed_files, stored_inputs
from pullback.sweep.plan import usable_cores


@dataclass(frozen=True)
class Submission:
    """The result of submitting a job.

    Attributes:
        id: of its sweep.
        created: whether the sweep is new; if not, the same job was submitted or run before.
    """

    id: str
    created: bool


class Backend(Protocol):
    """Runs sweeps. Every `path` is the folder of a sweep's store, which need not exist yet."""

    def submit(self, job: JobSpec) -> Submission:
        """Start or resume a job. Does nothing if it is running or done.

        Args:
            job: with `store` set to the place of its sweep.

        Raises:
            SpecError: it asks for more than this backend has.
            StoreError: another sweep has its name, or it is being cancelled.
            RequestError: (503) as many jobs are running as this backend allows.
        """
        ...

    def submit_results(self, plan: ResultPlan) -> Submission:
        """Start or resume an analysis or an application; see `submit`."""
        ...

    def state(self, path: Path, reader: SnapshotReader = read_snapshot) -> SweepState:
        """Return the state of a job, reading the snapshot of a sweep with `reader`.

        Raises:
            StoreError: there is no sweep and no submission at this path.
        """
        ...

    def cancel(self, path: Path) -> bool:
        """Ask a job's driver to stop; returns whether one is running."""
        ...

    def events(self, path: Path) -> Path | None:
        """Return the journal, one JSON object a line; None if the sweep has no journal."""
        ...


class LocalBackend:
    """Runs each job in a process of its own on this machine.

    Args:
        drivers: how many may run at once.
        command: runs a job; the path of the job's file is appended.
    """

    def __init__(self, drivers: int = 4, command: Sequence[str] = background.COMMAND) -> None:
        self._drivers, self._command = drivers, command
        self._lock = threading.Lock()  # so that two equal jobs start one driver

    def submit(self, job: JobSpec) -> Submission:
        """See `Backend`."""
        self._check(job)
        with self._lock:
            state = "done" if _is_done(job.store_path) else self._state_name(job.store_path)
            created = not _is_known(job, state in ACTIVE)
            if state == "cancelling":
                raise StoreError(
                    f"{job.name} is being cancelled; nothing was started. Submit it again when it is cancelled."
                )
            if state != "done" and state not in ACTIVE:
                self._make_room(job.store_path.parent)
                self._start(job, job.name)
        return Submission(job.name, created)

    def submit_results(self, plan: ResultPlan) -> Submission:
        """See `Backend`."""
        path, id = plan.place.path, plan.place.name
        with self._lock:
            if plan.finished == len(plan.parts):  # perhaps by `pullback analyze`, which leaves no job
                if not sidecar_path(path, "job").exists():
                    background.write_job(path, whole_job(plan))
                return Submission(id, created=False)
            state = self._state_name(path)
            if state == "cancelling":
                raise StoreError(f"{id} is being cancelled; nothing was started. Submit it again when it is cancelled.")
            if state not in ACTIVE:
                job = background_job(plan)
                self._make_room(path.parent)
                self._start(job, id)
        return Submission(id, created=state == "")

    def state(self, path: Path, reader: SnapshotReader = read_snapshot) -> SweepState:
        """See `Backend`. Asks the cluster about a job that was submitted to one."""
        return state_of(path, reader)

    def _check(self, job: JobSpec) -> None:
        workers, here = job.resources.workers, usable_cores()
        if workers != "auto" and workers > here:
            raise SpecError([f"resources.workers: this service has {here} at most; remove the key"])

    def _start(self, job: JobSpec | background.BackgroundJob, name: str) -> None:
        try:
            background.start(job, self._command)
        except SweepError as error:
            if not isinstance(error.__cause__, OSError):
                raise RequestError(409, str(error)) from error
            why = error.__cause__.strerror or error.__cause__
            raise RequestError(
                503,
                f"the service could not start a driver for {name} ({why}); nothing was changed. "
                "Report this to the operator of the service",
            ) from error

    def _make_room(self, folder: Path) -> None:
        """Raise RequestError if as many jobs are running as may."""
        running = sum(self._is_at_work(folder / name) for name in known_drivers(folder))
        if running >= self._drivers:
            raise RequestError(
                503,
                f"{running} jobs are running, as many as this service runs at once; nothing was started. "
                "Submit it again when one of them has ended (see GET /v1/sweeps)",
                {"Retry-After": "60"},
            )

    def _is_at_work(self, path: Path) -> bool:
        record = read_record(path)
        if record is None or record.life not in ACTIVE:
            return False
        return record.alive or (record.life == "submitted" and self._state_name(path) in ACTIVE)

    def _state_name(self, path: Path) -> str:
        try:
            return self.state(path).state
        except StoreError:  # there is neither a sweep nor a submission
            return ""

    def cancel(self, path: Path) -> bool:
        """See `Backend`."""
        return jobs.cancel(path)

    def events(self, path: Path) -> Path | None:
        """See `Backend`."""
        journal = events_path(path)
        return journal if journal.is_file() else None


class ClusterBackend(LocalBackend):
    """Submits each job to a Ray cluster that shares the disk of the sweeps.

    `pullback submit` runs on this machine until the cluster has accepted the job; its errors are stored.

    Args:
        address: of the cluster's dashboard, such as http://head:8265.
        drivers: how many jobs may run at once.
    """

    def __init__(self, address: str, drivers: int = 32) -> None:
        super().__init__(drivers, (sys.executable, "-P", "-m", "pullback", "submit", "--address", address))

    def _check(self, job: JobSpec) -> None:
        """Accept any number of workers: a cluster starts as many as it has room for."""


def _is_known(job: JobSpec, at_work: bool) -> bool:
    """Return whether the same job was submitted or run before; raises StoreError if another job has its name.

    A job that ended before it created a store has left nothing, so another may take its name.
    """
    path, here = job.store_path, job.complete()
    if not is_vacant(path):
        provenance = open_sweep(path).provenance
        there = provenance.get("spec", {})
        changed = changed_files(job, stored_inputs(provenance), Path.cwd())
        if there == here and changed:
            raise StoreError(
                f"{job.name} was computed with other versions of {', '.join(changed)} on the service's machine. It was "
                "left as it is. Give this job another name, or restore the files to resume that sweep."
            )
    else:
        try:
            there = load_job(sidecar_path(path, "job")).complete()
        except SpecError:  # the file is missing, a crash truncated it, or a later version wrote it
            if at_work and sidecar_path(path, "job").exists():
                raise StoreError(
                    f"a job named {job.name} is running, and the file that describes it cannot be read; "
                    "nothing was started. Give this job another name, or submit it again when the other has ended."
                ) from None
            return False
        if not at_work and there != here:
            return False
    if there != here:
        raise StoreError(
            f"another job has the name {job.name}; it differs in {'; '.join(differences(there, here))}. It was left "
            "as it is. Give this job another name, or submit exactly the same job to resume the other."
        )
    return True


def _is_done(path: Path) -> bool:
    return not is_vacant(path) and open_sweep(path).status().pending == 0
