"""The driver's side of its sidecar files: it renews its record, checks for cancel requests, and writes the journal."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from pullback.driving.control import discard_older_cancel_request, write_record
from pullback.driving.last_words import reason_of
from pullback.driving.record import DriverRecord
from pullback.driving.sidecar_files import get_sidecar_object, sidecar_path
from pullback.store.location import Location, locate

SUBMISSION_VARIABLE = "PULLBACK_SUBMISSION"
"""Environment variable in which a cluster's driver finds its submission's name and address: `name@address`."""
RENEWED_SECONDS = 1.0
"""Seconds between renewals of the record."""
_SHARED_SECONDS = 5.0
"""Seconds between renewals of the record in an object store."""
_LOOK_SECONDS = 2.0
"""Seconds between checks of the object store for a cancel request."""


class Driver:
    """A running driver: its record, its journal, and requests to stop it.

    Args:
        store: the sweep's store.
        planned: samples of the whole sweep.
        echo: called with each line of the journal.
    """

    def __init__(
        self, store: Location | Path | str, planned: int = 0, echo: Callable[[str], None] = lambda line: None
    ) -> None:
        self._store, self._name, self._echo = store, locate(store).name, echo
        self._process = psutil.Process()
        submission, _, address = os.environ.get(SUBMISSION_VARIABLE, "").partition("@")
        self._record = DriverRecord(
            "starting",
            host=socket.gethostname(),
            pid=self._process.pid,
            planned=planned,
            began=self._process.create_time(),
            submission=submission,
            address=address,
        )
        self._written = self._shared = self._looked = 0.0
        self._cancel_requested = False
        self._renew(force=True)

    def cancelled(self) -> bool:
        """Whether a request to stop this run is pending. Called often, so it also renews the record."""
        self._renew()
        if not self._cancel_requested and time.time() - self._looked > _LOOK_SECONDS:
            self._looked = time.time()
            self._cancel_requested = get_sidecar_object(self._store, "cancel") is not None
        return self._cancel_requested or sidecar_path(self._store, "cancel").exists()

    def update(self, **changes: Any) -> None:
        """Change fields of the record. It is written at most every second, unless `life` changes or trouble begins."""
        before, self._record = self._record, replace(self._record, **changes)
        force = self._record.life != before.life or bool(self._record.message) != bool(before.message)
        self._renew(force)

    def log(self, event: str, **facts: Any) -> None:
        """Add a line to the journal. An error while writing it does not end the sweep."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        text = json.dumps({"time": now, "event": event, "sweep": self._name, **facts})
        with suppress(OSError, ValueError):  # the stream is closed, or its disk is full
            self._echo(text)
        line = text.encode() + b"\n"
        with suppress(OSError), sidecar_path(self._store, "events").open("a+b") as journal:
            if journal.seek(0, os.SEEK_END):  # a full disk may have cut the previous line
                journal.seek(-1, os.SEEK_END)
                line = line if journal.read(1) == b"\n" else b"\n" + line
            journal.write(line)

    def _renew(self, force: bool = False) -> None:
        now = time.time()
        if not force and now - self._written < RENEWED_SECONDS:
            return
        self._written = now
        record = replace(self._record, updated=now, memory_bytes=self._process.memory_info().rss)
        shared = force or now - self._shared > _SHARED_SECONDS
        write_record(self._store, record, shared)
        self._shared = now if shared else self._shared


@contextmanager
def driver_session(
    store: Location | Path | str, planned: int = 0, echo: Callable[[str], None] = lambda line: None
) -> Iterator[Driver]:
    """Record this process as the driver of a sweep within the block, and record an error that leaves the block.

    Args:
        store: the sweep's store.
        planned: samples of the whole sweep.
        echo: called with each line of the journal.
    """
    discard_older_cancel_request(store)
    driver = Driver(store, planned, echo)
    try:
        yield driver
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        # Write the journal first: its readers stop once the record shows the end.
        why = reason_of(error)
        driver.log("interrupted" if stopped else "failed", message=why)
        driver.update(life="interrupted" if stopped else "failed", message="" if stopped else why)
        raise
