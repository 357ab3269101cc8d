"""What runs submitted jobs and knows of their drivers; the service itself computes nothing.

`LocalBackend` starts a driver beside the service, as a process of its own that outlives it (`sweep.background`);
`ClusterBackend` hands the job to a Ray cluster.
"""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pullback.cluster import jobs
from pullback.errors import StoreError
from pullback.spec import JobSpec, load_job
from pullback.store.folders import is_vacant
from pullback.store.reader import open_sweep
from pullback.sweep import background
from pullback.sweep.beside import beside
from pullback.sweep.control import AT_WORK, DriverRecord, SweepState, events_path, request_cancel, state_of
from pullback.sweep.identity import differences


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

    def submit(self, job: JobSpec, text: str) -> Submission:
        """Have a job run to its end, or go on with it; nothing happens where it runs or is done.

        Args:
            job: with `store` set to where its sweep goes.
            text: as it was submitted, in YAML.

        Raises:
            StoreError: another sweep has that name; or this one is being cancelled.
        """
        ...

    def state(self, path: Path) -> dict[str, Any]:
        """`state`, `planned`, `good`, `quarantined`, `pending`, `message`, `updated` and more, ready for JSON.

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
        command: what runs the job file that is put behind it.
    """

    def __init__(self, command: Sequence[str] = background.COMMAND) -> None:
        self._command = command
        self._lock = threading.Lock()  # of two equal jobs at once, one is started

    def submit(self, job: JobSpec, text: str) -> Submission:
        """See `Backend`."""
        with self._lock:
            state = "done" if _is_done(job.store_path) else self._state_of(job.store_path)
            created = not _is_known(job, state in AT_WORK)
            if state == "cancelling":
                raise StoreError(
                    f"{job.name} is being cancelled; nothing was started. Submit it again when it is cancelled."
                )
            if state != "done" and state not in AT_WORK:
                background.start(job, self._command)
        return Submission(job.name, created)

    def state(self, path: Path) -> dict[str, Any]:
        """See `Backend`."""
        found = self._found(path)
        driver = found.driver or DriverRecord("submitted")
        return {
            "state": found.state,
            **{name: getattr(found, name) for name in ("planned", "good", "quarantined", "pending")},
            "message": found.message,
            "snapshot": found.snapshot,
            "updated": driver.updated,
            "shards": dict(driver.shards),
            "workers": dict(driver.workers),
            "samples_per_second": driver.samples_per_second,
        }

    def _found(self, path: Path) -> SweepState:
        return state_of(path)

    def _state_of(self, path: Path) -> str:
        try:
            return self._found(path).state
        except StoreError:  # nothing is known of it
            return ""

    def cancel(self, path: Path) -> bool:
        """See `Backend`."""
        return request_cancel(path)

    def events(self, path: Path) -> Path | None:
        """See `Backend`."""
        journal = events_path(path)
        return journal if journal.is_file() else None


class ClusterBackend(LocalBackend):
    """Has each job driven by a Ray cluster, which shares the disk that the sweeps are on.

    What runs on this machine is `pullback submit`, for as long as it takes; what it says of a failure is kept.

    Args:
        address: of the cluster's dashboard, such as http://head:8265.
    """

    def __init__(self, address: str) -> None:
        super().__init__((sys.executable, "-m", "pullback", "submit", "--address", address))

    def _found(self, path: Path) -> SweepState:
        return jobs.state_of(path)

    def cancel(self, path: Path) -> bool:
        """See `Backend`."""
        return jobs.cancel(path)


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
