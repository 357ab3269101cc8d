"""What runs submitted jobs and knows of their drivers; the service itself computes nothing.

`LocalBackend` starts a driver beside the service, as a process of its own that outlives it (`sweep.background`);
`ClusterBackend` hands the job to a Ray cluster.
"""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pullback.api.problems import RequestError
from pullback.cluster import jobs
from pullback.errors import SpecError, StoreError, SweepError
from pullback.spec import JobSpec, load_job
from pullback.store.folders import is_vacant
from pullback.store.reader import open_sweep
from pullback.sweep import background
from pullback.sweep.beside import beside, driven
from pullback.sweep.control import AT_WORK, Look, SweepState, events_path, read_record, see
from pullback.sweep.identity import differences
from pullback.sweep.plan import usable_cores


@dataclass(frozen=True)
class Submission:
    """What became of a submitted job.

    Attributes:
        id: of its sweep.
        created: whether the sweep is new; else this very job was submitted or run before.
    """

    id: str
    created: bool


class Backend(Protocol):
    """What runs sweeps. Every `path` is the folder of a sweep's store, which need not exist yet."""

    def submit(self, job: JobSpec) -> Submission:
        """Have a job run to its end, or go on with it; nothing happens where it runs or is done.

        Args:
            job: with `store` set to where its sweep goes.

        Raises:
            SpecError: it asks for more than this backend gives.
            StoreError: another sweep has that name; or this one is being cancelled.
            RequestError: (503) enough jobs are at work.
        """
        ...

    def state(self, path: Path, look: Look = see) -> SweepState:
        """Where a sweep is, its store seen through `look`.

        Raises:
            StoreError: nothing is known of a sweep there.
        """
        ...

    def cancel(self, path: Path) -> bool:
        """Ask a sweep's driver to stop; returns whether there is one to ask."""
        ...

    def events(self, path: Path) -> Path | None:
        """The file of its events, a JSON object a line; None where there is none."""
        ...


class LocalBackend:
    """Runs each job in a process of its own on this machine.

    Args:
        drivers: how many may be at work at once.
        command: what runs the job file that is put behind it.
    """

    def __init__(self, drivers: int = 4, command: Sequence[str] = background.COMMAND) -> None:
        self._drivers, self._command = drivers, command
        self._lock = threading.Lock()  # of two equal jobs at once, one is started

    def submit(self, job: JobSpec) -> Submission:
        """See `Backend`."""
        self._check(job)
        with self._lock:
            state = "done" if _is_done(job.store_path) else self._state_of(job.store_path)
            created = not _is_known(job, state in AT_WORK)
            if state == "cancelling":
                raise StoreError(
                    f"{job.name} is being cancelled; nothing was started. Submit it again when it is cancelled."
                )
            if state != "done" and state not in AT_WORK:
                self._make_room(job.store_path.parent)
                self._start(job)
        return Submission(job.name, created)

    def state(self, path: Path, look: Look = see) -> SweepState:
        """See `Backend`; of a sweep that was submitted to a cluster once, that one is asked."""
        return jobs.state_of(path, look)

    def _check(self, job: JobSpec) -> None:
        workers, here = job.resources.workers, usable_cores()
        if workers != "auto" and workers > here:
            raise SpecError([f"resources.workers: this service computes with {here} at most; leave the key out"])

    def _start(self, job: JobSpec) -> None:
        try:
            background.start(job, self._command)
        except SweepError as error:
            if not isinstance(error.__cause__, OSError):
                raise RequestError(409, str(error)) from error
            why = error.__cause__.strerror or error.__cause__  # what else it says is for those at this machine
            raise RequestError(
                503,
                f"the service could not start a driver for {job.name} ({why}); nothing was changed. Tell whoever runs "
                "the service",
            ) from error

    def _make_room(self, folder: Path) -> None:
        """Raise RequestError where as many jobs are at work as may be."""
        at_work = sum(self._is_at_work(folder / name) for name in driven(folder))
        if at_work >= self._drivers:
            raise RequestError(
                503,
                f"{at_work} jobs are at work, as many as this service runs at once; nothing was started. "
                "Submit it again when one of them is done (GET /v1/sweeps tells)",
                {"Retry-After": "60"},
            )

    def _is_at_work(self, path: Path) -> bool:
        record = read_record(path)
        if record is None or record.life not in AT_WORK:
            return False
        return record.alive or (record.life == "submitted" and self._state_of(path) in AT_WORK)

    def _state_of(self, path: Path) -> str:
        try:
            return self.state(path).state
        except StoreError:  # nothing is known of it
            return ""

    def cancel(self, path: Path) -> bool:
        """See `Backend`."""
        return jobs.cancel(path)

    def events(self, path: Path) -> Path | None:
        """See `Backend`."""
        journal = events_path(path)
        return journal if journal.is_file() else None


class ClusterBackend(LocalBackend):
    """Has each job driven by a Ray cluster, which shares the disk that the sweeps are on.

    What runs on this machine is `pullback submit`, for as long as it takes; what it says of a failure is kept.

    Args:
        address: of the cluster's dashboard, such as http://head:8265.
        drivers: how many jobs may be at work at once.
    """

    def __init__(self, address: str, drivers: int = 32) -> None:
        super().__init__(drivers, (sys.executable, "-m", "pullback", "submit", "--address", address))

    def _check(self, job: JobSpec) -> None:
        """A cluster gives a job as many workers as it has room for."""


def _is_known(job: JobSpec, at_work: bool) -> bool:
    """Whether this very job was submitted or run before; raises StoreError where another one has its name.

    A job that ended before it made a store has left nothing, and another may take its name.
    """
    path, here = job.store_path, job.complete()
    if not is_vacant(path):
        there = open_sweep(path).provenance.get("spec", {})
    elif beside(path, "job").is_file():
        there = load_job(beside(path, "job")).complete()
        if not at_work and there != here:
            return False
    else:
        return False
    if there != here:
        raise StoreError(
            f"another job has the name {job.name}, which differs in {'; '.join(differences(there, here))}. It was left "
            "as it is. Give this one another name, or submit exactly the same job to go on with that one."
        )
    return True


def _is_done(path: Path) -> bool:
    return not is_vacant(path) and open_sweep(path).status().pending == 0
