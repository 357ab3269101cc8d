"""What runs submitted jobs and knows of their drivers; the service itself computes nothing.

`LocalBackend` starts a driver beside the service, as a process of its own that outlives it. What it leaves beside a
sweep is what `sweep.control` says, with the job (`.<name>.job.yaml`) and the driver's output (`.<name>.log`).
"""

import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from pullback.errors import StoreError
from pullback.spec import JobSpec, load_job
from pullback.store.folders import is_vacant
from pullback.store.reader import open_sweep
from pullback.sweep.control import DriverRecord, events_path, read_record, request_cancel, state_of, write_record

_LAST_WORDS = 2000


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
            StoreError: another sweep has that name.
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

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", "pullback", "run")) -> None:
        self._command = list(command)
        self._lock = threading.Lock()
        self._children: dict[Path, subprocess.Popen[bytes]] = {}

    def submit(self, job: JobSpec, text: str) -> Submission:
        """See `Backend`."""
        path = job.store_path
        with self._lock:
            created = not self._is_known(job)
            if self._reap(path) is None and not _works(path) and not _is_done(path):
                self._start(job)
        return Submission(job.name, created)

    def state(self, path: Path) -> dict[str, Any]:
        """See `Backend`."""
        self._reap(path)
        found = state_of(path)
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

    def cancel(self, path: Path) -> bool:
        """See `Backend`."""
        return request_cancel(path)

    def events(self, path: Path) -> Path | None:
        """See `Backend`."""
        journal = events_path(path)
        return journal if journal.is_file() else None

    def _is_known(self, job: JobSpec) -> bool:
        """Whether this very job was submitted or run before; raises StoreError where another one has its name."""
        path = job.store_path
        if not is_vacant(path):
            there = open_sweep(path).provenance.get("spec")
        elif _job_file(path).is_file():
            there = load_job(_job_file(path)).complete()
        else:
            return False
        if there != job.complete():
            raise StoreError(
                f"another job has the name {job.name}; it was left as it is. Give this one another name, or submit "
                "exactly the same job to go on with that one."
            )
        return True

    def _start(self, job: JobSpec) -> None:
        path = job.store_path
        path.parent.mkdir(parents=True, exist_ok=True)
        content = job.model_dump(mode="json", exclude_none=True)
        _job_file(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        write_record(path, DriverRecord("submitted", updated=time.time()))
        with _log_file(path).open("wb") as log:
            self._children[path] = subprocess.Popen(
                [*self._command, str(_job_file(path))],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # it goes on when the service ends
            )

    def _reap(self, path: Path) -> subprocess.Popen[bytes] | None:
        """The process that works on a sweep, if it still does; one that ended before it was a driver says why."""
        child = self._children.get(path)
        if child is None or child.poll() is None:
            return child
        self._children.pop(path, None)
        record = read_record(path)
        if child.returncode and record is not None and record.life == "submitted":
            words = _log_file(path).read_text(encoding="utf-8", errors="replace").strip()
            write_record(path, DriverRecord("failed", message=words[-_LAST_WORDS:], updated=time.time()))
        return None


def _works(path: Path) -> bool:
    """Whether a driver works on a sweep, whoever started it."""
    record = read_record(path)
    return record is not None and record.alive


def _is_done(path: Path) -> bool:
    return not is_vacant(path) and open_sweep(path).status().pending == 0


def _job_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.job.yaml")


def _log_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.log")
