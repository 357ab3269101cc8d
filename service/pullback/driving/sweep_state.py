"""The state of a sweep, from its store and its driver's record."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pullback.driving.control import cancel_requested, read_record
from pullback.driving.last_words import last_words
from pullback.driving.record import DriverRecord
from pullback.driving.sidecar_files import disk_trouble, sidecar_path
from pullback.driving.states import NOT_BEGUN, State, exit_code
from pullback.errors import StoreError
from pullback.regular_files import read_end
from pullback.store.location import Location, locate
from pullback.store.opening import is_free
from pullback.store.reader import SweepStatus, open_sweep

HOW_TO_RESUME = "Finished samples are kept; run or submit the same job to resume"

_SILENT_SECONDS = 10.0
"""Age in seconds from which a record may be old because its driver cannot renew it."""
_SOON = 10.0
"""Seconds within which a submission must record its process."""
_MOST_LOG = 65_536
"""Bytes at the end of a driver's log that are searched for the reason of its end."""


@dataclass(frozen=True)
class SweepState:
    """A sweep as it is now.

    Attributes:
        state: one of `states.STATES`.
        name: the sweep's name.
        planned, good, quarantined, pending: samples, from the store; before there is one, from the driver's record.
        message: why the sweep is in this state; empty if the state needs no explanation.
        snapshot: the store's last commit; empty before there is one.
        driver: the last driver's record, if there ever was a driver.
        unsure: whether the cluster that could confirm the state did not answer.
    """

    state: State
    name: str
    planned: int = 0
    good: int = 0
    quarantined: int = 0
    pending: int = 0
    message: str = ""
    snapshot: str = ""
    driver: DriverRecord | None = None
    unsure: bool = False

    @property
    def exit_code(self) -> int:
        """0 done, 4 done with quarantined samples, 3 not finished yet, 1 failed or stopped."""
        return exit_code(self.state, self.quarantined)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return {**asdict(self), "exit_code": self.exit_code}


@dataclass(frozen=True)
class SnapshotSummary:
    """Name, snapshot and counts of a sweep at its last commit."""

    name: str
    snapshot: str
    status: SweepStatus


SnapshotReader = Callable[[Location | Path | str], SnapshotSummary]
"""Reads the last commit of a store; raises StoreError if there is no sweep, or it cannot be read."""


def read_snapshot(store: Location | Path | str) -> SnapshotSummary:
    """Read the last commit of a sweep; raises StoreError if there is no sweep, or it cannot be read."""
    sweep = open_sweep(store)
    return SnapshotSummary(sweep.name, sweep.snapshot, sweep.status())


def sweep_state(store: Location | Path | str, reader: SnapshotReader = read_snapshot) -> SweepState:
    """Return the state of a sweep, even if its drivers were killed.

    Args:
        store: the sweep's store.
        reader: reads the last commit; a reader with a cache must still return the last commit.

    Raises:
        StoreError: there is neither a sweep nor a driver's record, or the sweep cannot be read.
    """
    # The record is read before the store: a driver commits first and records its end afterwards.
    record = _with_trouble(read_record(store), store)
    try:
        found = reader(store)
    except StoreError:
        # There is no store yet (while a driver begins, perhaps half of one), or it is damaged.
        begins = record is not None and (record.life == "submitted" or (record.life in NOT_BEGUN and record.alive))
        if record is None or not (begins or is_free(locate(store))):
            raise
        state, message = _unfinished_state(record, store)
        planned = record.planned
        return SweepState(state, locate(store).name, planned, pending=planned, message=message, driver=record)
    status = found.status
    # A failure counts only for the snapshot at which it was recorded: other drivers may have finished the sweep since.
    failed = record is not None and record.life == "failed" and record.snapshot == found.snapshot
    if status.pending == 0 and not (record is not None and (record.alive or failed)):
        state, message = "done", ""
    else:
        state, message = _unfinished_state(record, store)
    return SweepState(
        state,
        found.name,
        status.planned,
        status.good,
        status.quarantined,
        status.pending,
        message=message,
        snapshot=found.snapshot,
        driver=record,
    )


def _with_trouble(record: DriverRecord | None, store: Location | Path | str) -> DriverRecord | None:
    """Return the record. If the disk keeps a live driver from renewing it, the message says so and the rate is gone."""
    if record is None or not record.is_here or not record.alive or record.life not in ("starting", "running"):
        return record
    if time.time() - record.updated < _SILENT_SECONDS:
        return record
    trouble = disk_trouble(sidecar_path(store, "driver").parent)
    if not trouble:
        return record
    message = f"{trouble}, so its driver can neither commit results nor report; both are tried again. Make room there"
    return replace(record, message=message, samples_per_second=0.0)


def _unfinished_state(record: DriverRecord | None, store: Location | Path | str) -> tuple[State, str]:
    """State and message of a sweep that is not done."""
    if record is None:
        return "stopped", f"no driver is running. {HOW_TO_RESUME}"
    if record.alive and cancel_requested(store):
        return "cancelling", record.message
    if record.life == "submitted":
        if record.submission or record.alive or (record.pid == 0 and time.time() - record.updated < _SOON):
            return "submitted", ""
        last_words, log = _last_words(store), sidecar_path(store, "log")
        reason = f": {last_words}" if last_words else " and logged no reason"
        return "failed", f"its driver ended before it began{reason}; its log is {log}. {HOW_TO_RESUME}"
    if record.alive:
        return record.life, record.message  # type: ignore[return-value]
    if record.life == "failed":
        return "failed", record.message
    if record.life == "cancelled":
        return "cancelled", f"it was cancelled. {HOW_TO_RESUME}"
    if record.life in ("queued", "starting", "running"):
        return (
            "stopped",
            f"its driver has ended and logged no reason (it was killed, or its machine went down). {HOW_TO_RESUME}",
        )
    return "stopped", f"no driver is running. {HOW_TO_RESUME}"


def _last_words(store: Location | Path | str) -> str:
    """The reason at the end of the driver's log; empty if none is found."""
    try:
        return last_words(read_end(sidecar_path(store, "log"), _MOST_LOG).decode(errors="replace"))
    except OSError:
        return ""
