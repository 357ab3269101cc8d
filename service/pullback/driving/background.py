"""Background drivers on this machine: `pullback run` in a process that outlives the process that started it.

Sidecar files: the job as it runs (`.<name>.job.yaml`) and the driver's output (`.<name>.log`), besides those of
`control`.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil
import yaml
from filelock import FileLock, Timeout

from pullback.atomic_files import replace_file
from pullback.driving.control import cancel_requested, read_record, record_submission, write_record
from pullback.driving.queue import start_now
from pullback.driving.record import DriverRecord
from pullback.driving.sidecar_files import sidecar_path
from pullback.errors import SweepError
from pullback.spec import JobSpec
from pullback.store.location import Location

COMMAND = (sys.executable, "-P", "-m", "pullback", "run")
"""The command to which the job's file is appended; -P keeps Python from importing from the working directory."""
_PATIENCE_SECONDS = 120.0
"""Seconds to wait for other submitters, and for a driver that is being cancelled."""


@dataclass(frozen=True)
class BackgroundJob:
    """All that a background driver needs of a job of any kind.

    Attributes:
        store: the address of the job; its sidecar files lie beside it.
        planned: number of samples or results of the whole job.
        content: content of the job's file, with paths that are valid in every working directory.
    """

    store: Location | Path | str
    planned: int
    content: Mapping[str, Any]

    @classmethod
    def of_sweep(cls, job: JobSpec) -> "BackgroundJob":
        """Convert a sweep's job."""
        content = {**job.model_dump(mode="json", exclude_none=True), "store": job.store or str(job.store_path)}
        return cls(job.store_path, job.samples.count, content)


def write_job(store: Location | Path | str, content: Mapping[str, Any]) -> Path:
    """Write a job's file beside the address of the job, and return its path; raises OSError."""
    file = sidecar_path(store, "job")
    replace_file(file, yaml.safe_dump(dict(content), sort_keys=False), durable=True)
    return file


def start(
    job: JobSpec | BackgroundJob, command: Sequence[str] = COMMAND, queue: Literal["wait", "now"] | None = None
) -> bool:
    """Run a job in the background, unless a driver of it runs already.

    Args:
        job: a sweep's job, whose relative paths start in this process's working directory; or any other job.
        command: the command to which the job's file is appended.
        queue: `wait` until earlier submissions on this machine have ended (`queue`). `now` starts at once, also a
            driver of the sweep that is queued; later submissions wait for it. None ignores the queue.

    Returns:
        Whether a driver was started. If the running driver is being cancelled, this waits for its end.

    Raises:
        SweepError: it cannot be started.
    """
    job = BackgroundJob.of_sweep(job) if isinstance(job, JobSpec) else job
    store = job.store
    file = sidecar_path(store, "job")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # If several processes submit at the same moment, one starts the driver and the others find it running. Names of
        # sweeps contain no `~`, so no sweep has this lock file.
        with FileLock(str(file.with_name(f"{file.stem}~lock")), timeout=_PATIENCE_SECONDS):
            return _start(job, command, queue)
    except (OSError, Timeout) as error:
        raise SweepError(
            f"a driver for {store} could not be started ({getattr(error, 'strerror', None) or error}); nothing was "
            f"changed. Check that {file.parent} can be written to, or run it here with `pullback run`"
        ) from error


def _start(job: BackgroundJob, command: Sequence[str], queue: str | None) -> bool:
    store = job.store
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (earlier := read_record(store)) is not None and earlier.alive:
        if not cancel_requested(store):
            if queue == "now" and earlier.life == "queued":
                start_now(str(store))
            return False
        if time.monotonic() > deadline:
            raise SweepError(
                f"the driver of {store} is being cancelled and has not ended yet; nothing was started. "
                "Submit the job again when `pullback status` says that it is cancelled."
            )
        time.sleep(0.1)
    file, log = write_job(store, job.content), sidecar_path(store, "log")
    submitted = DriverRecord("submitted", host=socket.gethostname(), planned=job.planned, updated=time.time())
    record_submission(store, submitted)
    turn = [] if queue is None else [sys.executable, "-m", "pullback.driving.queue", str(store), queue]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*turn, *command, str(file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C and the end of this terminal do not reach it
        )
    now = read_record(store)
    if now is not None and now.life == "submitted":  # otherwise the driver's own record is newer
        with suppress(psutil.Error):
            began = psutil.Process(process.pid).create_time()
            write_record(store, replace(submitted, pid=process.pid, began=began))
    return True
