"""What can be known of a sweep's driver, and told to it, from outside: three small files beside the sweep's folder.

- `.<name>.driver.json`: what drives the sweep and how far it is, renewed every second or two.
- `.<name>.cancel`: is there while somebody wants the driver to stop.
- `<name>.events.jsonl`: what happened, a JSON object a line.

The truth about results is the store's alone; these files add what a store cannot know: whether anybody is at work, and
why nobody is. They are right at every moment, because a reader never believes a record whose process is gone.
Of a sweep in an object store the files lie in this machine's state folder.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil

from pullback.errors import StoreError
from pullback.store.folders import local_path
from pullback.store.reader import open_sweep

STALE_SECONDS = 60.0
"""A record of another machine that is older than this is of a driver that is gone."""
RENEWED_SECONDS = 1.0

Life = Literal["submitted", "starting", "running", "done", "failed", "cancelled", "interrupted"]
State = Literal["submitted", "starting", "running", "cancelling", "done", "failed", "cancelled", "stopped"]


@dataclass(frozen=True)
class DriverRecord:
    """What a driver tells of itself.

    Attributes:
        life: where it is.
        message: why it ended, where it did not end well; one sentence or more.
        host: of its machine.
        pid: of its process; 0 before there is one.
        began: when that process started, seconds since 1970: with `pid`, this names the process for good.
        updated: when the record was written, seconds since 1970.
        submission: of Ray's job submission, with the `address` of the cluster; empty where there is none.
        shards: how many are in each state.
        workers: how many are in each state.
        samples_per_second: of this run.
        commit_seconds: what the last commit took.
        memory_bytes: resident memory of the driver.
    """

    life: Life
    message: str = ""
    host: str = ""
    pid: int = 0
    began: float = 0.0
    updated: float = 0.0
    submission: str = ""
    address: str = ""
    shards: Mapping[str, int] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
    samples_per_second: float = 0.0
    commit_seconds: float = 0.0
    memory_bytes: int = 0

    @property
    def alive(self) -> bool:
        """Whether its process runs still (on another machine: whether it wrote lately)."""
        if self.pid == 0 or self.life not in ("starting", "running"):
            return False
        if self.host != socket.gethostname():
            return time.time() - self.updated < STALE_SECONDS
        try:
            return abs(psutil.Process(self.pid).create_time() - self.began) < 1.0
        except psutil.Error:
            return False


@dataclass(frozen=True)
class SweepState:
    """A sweep as it is now.

    Attributes:
        state: see `State`; `stopped` where it is not finished and nobody is at work on it.
        name: the sweep's.
        planned, good, quarantined, pending: samples, from the store; 0 before there is one.
        message: what to know besides; empty where there is nothing.
        snapshot: the store's last commit; empty before there is one.
        driver: its record, if there ever was one.
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

    @property
    def exit_code(self) -> int:
        """0 done, 4 done with quarantined samples, 3 not at its end yet, 1 failed or stopped."""
        if self.state == "done":
            return 4 if self.quarantined else 0
        return 1 if self.state in ("failed", "stopped", "cancelled") else 3

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "exit_code": self.exit_code}


class Driver:
    """The driver's own side: its record, the wish to cancel, and the journal."""

    def __init__(self, store: Path | str) -> None:
        self._store = store
        process = psutil.Process()
        self._process = process
        earlier = read_record(store)
        self._record = DriverRecord(
            "starting",
            host=socket.gethostname(),
            pid=process.pid,
            began=process.create_time(),
            submission="" if earlier is None else earlier.submission,
            address="" if earlier is None else earlier.address,
        )
        self._written = 0.0
        self._renew(force=True)

    def cancelled(self) -> bool:
        """Whether somebody wants this run to stop."""
        return _beside(self._store, "cancel").exists()

    def tell(self, **changes: Any) -> None:
        """Change fields of the record; it is written at most every second, unless `life` changes."""
        force = "life" in changes and changes["life"] != self._record.life
        self._record = replace(self._record, **changes)
        self._renew(force)

    def note(self, event: str, **facts: Any) -> None:
        """Add a line to the journal. A full disk must not end a sweep that it does not hold."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **facts}
        with suppress(OSError), _beside(self._store, "events").open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")

    def _renew(self, force: bool = False) -> None:
        now = time.time()
        if not force and now - self._written < RENEWED_SECONDS:
            return
        self._written = now
        record = replace(self._record, updated=now, memory_bytes=self._process.memory_info().rss)
        write_record(self._store, record)


@contextmanager
def driving(store: Path | str) -> Iterator[Driver]:
    """Be known as the driver of a sweep for the length of the block; an error that leaves it is recorded."""
    _beside(store, "cancel").unlink(missing_ok=True)  # an older wish, which was fulfilled
    driver = Driver(store)
    try:
        yield driver
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        driver.tell(life="interrupted" if stopped else "failed", message="" if stopped else str(error))
        driver.note("interrupted" if stopped else "failed", message=str(error))
        raise


def write_record(store: Path | str, record: DriverRecord) -> None:
    """Put a record in place of the one before; a reader sees either."""
    path = _beside(store, "driver")
    new = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):  # it is news, not results
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps(asdict(record)), encoding="utf-8")
        new.replace(path)


def read_record(store: Path | str) -> DriverRecord | None:
    """The record of the sweep's last driver; None where there is none that can be read."""
    try:
        return DriverRecord(**json.loads(_beside(store, "driver").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def request_cancel(store: Path | str) -> bool:
    """Ask the sweep's driver to stop after the batch at hand; what is done stays, and can be gone on with.

    Returns:
        Whether there is a driver to ask.
    """
    record = read_record(store)
    if record is None or not record.alive:
        return False
    _beside(store, "cancel").touch()
    return True


def events_path(store: Path | str) -> Path:
    """The sweep's journal, which need not exist yet."""
    return _beside(store, "events")


def state_of(store: Path | str) -> SweepState:
    """Where a sweep is, whatever became of those who computed it.

    Raises:
        StoreError: nothing is known of a sweep there, or it cannot be read.
    """
    record = read_record(store)
    try:
        sweep = open_sweep(store)
    except StoreError:
        if record is None:
            raise
        name = str(store).rstrip("/").rpartition("/")[2]
        if record.life == "submitted" or record.alive:
            return SweepState("submitted" if record.life == "submitted" else "starting", name, driver=record)
        return SweepState(
            "failed" if record.life == "failed" else "stopped", name, message=_why(record, store), driver=record
        )
    status = sweep.status()
    counts: dict[str, Any] = {**status.as_dict(), "snapshot": sweep.snapshot, "driver": record}
    if record is not None and record.alive:
        state: State = "cancelling" if _beside(store, "cancel").exists() else "running"
        return SweepState(state, sweep.name, **counts)
    if record is not None and record.life == "failed":
        return SweepState("failed", sweep.name, message=record.message, **counts)
    if status.pending == 0:
        return SweepState("done", sweep.name, **counts)
    if record is not None and record.life == "submitted":
        return SweepState("submitted", sweep.name, **counts)
    cancelled = record is not None and record.life == "cancelled"
    why = _why(record, store)
    return SweepState("cancelled" if cancelled else "stopped", sweep.name, message=why, **counts)


def _why(record: DriverRecord | None, store: Path | str) -> str:
    if record is not None and record.life == "failed":
        return record.message
    if record is not None and record.life == "cancelled":
        return "it was cancelled. What was done is kept; run or submit the same job to go on"
    if record is not None and record.life in ("starting", "running"):
        return "its driver is gone without a word (killed, or its machine is). Run or submit the same job to go on"
    return "nobody is at work on it. Run or submit the same job to go on"


def _beside(store: Path | str, what: Literal["driver", "cancel", "events"]) -> Path:
    path = local_path(store).absolute()
    names = {"driver": f".{path.name}.driver.json", "cancel": f".{path.name}.cancel"}
    return path.with_name(names.get(what, f"{path.name}.events.jsonl"))
