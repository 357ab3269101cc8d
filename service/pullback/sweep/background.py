"""Drivers in the background of this machine: `pullback run` in a process of its own, which outlives who started it.

Beside the sweep it leaves the job as it runs (`.<name>.job.yaml`) and what the driver printed (`.<name>.log`), with the
files of `control`.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import psutil
import yaml
from filelock import FileLock, Timeout

from pullback.errors import SweepError
from pullback.spec import JobSpec
from pullback.sweep.beside import beside
from pullback.sweep.control import DriverRecord, announce, is_wished, read_record, write_record

COMMAND = (sys.executable, "-m", "pullback", "run")
"""What runs the job's file that is put behind it."""
_PATIENCE_SECONDS = 120.0
"""For other submitters, and for a driver that is being cancelled."""


def start(job: JobSpec, command: Sequence[str] = COMMAND) -> bool:
    """Have a job run in the background, unless a driver is at work on its sweep already.

    Args:
        job: its relative paths go by this process's working directory, here and there.
        command: what runs the job's file that is put behind it.

    Returns:
        Whether a driver was started. One that is being cancelled is waited for.

    Raises:
        SweepError: it cannot be started.
    """
    store = job.store_path
    file = beside(store, "job")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # of several submitters at the same moment one starts the driver, and the others find it
        # (a lock whose name is no sweep's, with a character that no name has)
        with FileLock(str(file.with_name(f"{file.stem}~lock")), timeout=_PATIENCE_SECONDS):
            return _start(job, command)
    except (OSError, Timeout) as error:
        raise SweepError(
            f"a driver for {store} could not be started ({getattr(error, 'strerror', None) or error}); nothing was "
            f"changed. Check that {file.parent} can be written to, or run it here with `pullback run`"
        ) from error


def _start(job: JobSpec, command: Sequence[str]) -> bool:
    store = job.store_path
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (earlier := read_record(store)) is not None and earlier.alive:
        if not is_wished(store):
            return False
        if time.monotonic() > deadline:
            raise SweepError(
                f"the driver of {store} is being cancelled and has not ended yet; nothing was started. "
                "Submit the job again when `pullback status` says that it is cancelled."
            )
        time.sleep(0.1)
    file, log = beside(store, "job"), beside(store, "log")
    content = {**job.model_dump(mode="json", exclude_none=True), "store": job.store or str(store)}
    new = file.with_name(f"{file.name}.{os.getpid()}")  # a full disk must not leave half a job
    try:
        new.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        new.replace(file)
    finally:
        new.unlink(missing_ok=True)
    here, samples = socket.gethostname(), job.samples.count
    submitted = DriverRecord("submitted", host=here, planned=samples, updated=time.time())
    announce(store, submitted)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, str(file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C and the end of this terminal are none of its business
        )
    now = read_record(store)
    if now is not None and now.life == "submitted":  # else it was faster, and tells more
        with suppress(psutil.Error):
            began = psutil.Process(process.pid).create_time()
            write_record(store, replace(submitted, pid=process.pid, began=began))
    return True
