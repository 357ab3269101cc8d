"""What can be known of a sweep's driver, and told to it, from outside: three small files beside the sweep's folder.

- `.<name>.driver.json`: what drives the sweep and how far it is, renewed every second or two.
- `.<name>.cancel`: is there while somebody wants the driver to stop.
- `<name>.events.jsonl`: what happened, a JSON object a line.

The truth about results is the store's alone; these files add what a store cannot know: whether anybody is at work, and
why nobody is. They are right at every moment, because a reader never believes a record whose process is gone.
Of a sweep in an object store, other machines see the record some seconds late, and can leave the wish (`beside`).
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import TypeAdapter

from pullback.errors import StoreError
from pullback.store.location import Location, locate
from pullback.store.opening import is_free
from pullback.store.reader import SweepStatus, open_sweep
from pullback.sweep.beside import beside, share, shared

SUBMISSION_VARIABLE = "PULLBACK_SUBMISSION"
"""Tells a driver that a cluster starts under which name it was submitted, and to which address: `name@address`."""
STALE_SECONDS = 60.0
"""A record of another machine that is older than this is of a driver that is gone."""
RENEWED_SECONDS = 1.0
_SHARED_SECONDS = 5.0
"""How often a record is renewed in an object store."""
_LOOK_SECONDS = 2.0
"""How often a wish is looked for there."""
_SOON = 10.0
"""Seconds in which a submitted process has to be known."""
_LAST_WORDS = 2000

Life = Literal["submitted", "starting", "running", "done", "failed", "cancelled", "interrupted"]
State = Literal["submitted", "starting", "running", "cancelling", "done", "failed", "cancelled", "stopped"]
AT_WORK: frozenset[State] = frozenset({"submitted", "starting", "running", "cancelling"})
"""The states that somebody is at work in, or will be."""
WITHOUT_STORE: frozenset[State] = AT_WORK | {"failed"}
"""The states in which a sweep without a store is told of; in others, somebody removed it."""


@dataclass(frozen=True)
class DriverRecord:
    """What a driver tells of itself.

    Attributes:
        life: where it is.
        message: why it ended, where it did not end well, or what keeps it from going on; one sentence or more.
        host: of its machine.
        pid: of its process; 0 before there is one. Of one that is `submitted`, the process that will be the driver.
        planned: samples of the whole sweep; 0 where it is not known yet.
        began: when that process started, seconds since 1970: with `pid`, this names the process for good.
        updated: when the record was written, seconds since 1970.
        submission: of Ray's job submission, with the `address` of the cluster; empty where there is none.
        shards: how many are in each state.
        workers: how many are in each state.
        samples_per_second: of this run.
        commit_seconds: what the last commit took.
        memory_bytes: resident memory of the driver.
        snapshot: the last commit, once the driver has ended by itself.
    """

    life: Life
    message: str = ""
    host: str = ""
    pid: int = 0
    planned: int = 0
    began: float = 0.0
    updated: float = 0.0
    submission: str = ""
    address: str = ""
    shards: Mapping[str, int] = field(default_factory=dict)
    workers: Mapping[str, int] = field(default_factory=dict)
    samples_per_second: float = 0.0
    commit_seconds: float = 0.0
    memory_bytes: int = 0
    snapshot: str = ""

    @property
    def is_here(self) -> bool:
        """Whether it is of this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether its process runs still (on another machine: whether it wrote lately)."""
        if self.pid == 0 or self.life not in ("submitted", "starting", "running"):
            return False
        if not self.is_here:
            return time.time() - self.updated < STALE_SECONDS
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.began) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


_RECORD = TypeAdapter(DriverRecord)


@dataclass(frozen=True)
class SweepState:
    """A sweep as it is now.

    Attributes:
        state: see `State`; `stopped` where it is not finished and nobody is at work on it.
        name: the sweep's.
        planned, good, quarantined, pending: samples, from the store; before there is one, from the driver's record.
        message: what to know besides; empty where there is nothing.
        snapshot: the store's last commit; empty before there is one.
        driver: its record, if there ever was one.
        unsure: whether the only one who could tell, a cluster, did not answer.
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
        """0 done, 4 done with quarantined samples, 3 not at its end yet, 1 failed or stopped."""
        if self.state == "done":
            return 4 if self.quarantined else 0
        return 3 if self.state in AT_WORK else 1

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "exit_code": self.exit_code}


@dataclass(frozen=True)
class Seen:
    """What the last commit of a sweep's store says."""

    name: str
    snapshot: str
    status: SweepStatus


def see(store: Location | Path | str) -> Seen:
    """Look into a sweep's store; raises StoreError where there is none, or it cannot be read."""
    sweep = open_sweep(store)
    return Seen(sweep.name, sweep.snapshot, sweep.status())


Look = Callable[[Location | Path | str], Seen]


class Driver:
    """The driver's own side: its record, the wish to cancel, and the journal."""

    def __init__(
        self, store: Location | Path | str, planned: int = 0, echo: Callable[[str], None] = lambda line: None
    ) -> None:
        self._store, self._name, self._echo = store, locate(store).name, echo
        process = psutil.Process()
        self._process = process
        submission, _, address = os.environ.get(SUBMISSION_VARIABLE, "").partition("@")
        self._record = DriverRecord(
            "starting",
            host=socket.gethostname(),
            pid=process.pid,
            planned=planned,
            began=process.create_time(),
            submission=submission,
            address=address,
        )
        self._written = self._shared = self._looked = 0.0
        self._wished = False
        self._renew(force=True)

    def cancelled(self) -> bool:
        """Whether somebody wants this run to stop. As it is asked often, the record is renewed besides."""
        self._renew()
        if not self._wished and time.time() - self._looked > _LOOK_SECONDS:
            self._looked = time.time()
            self._wished = shared(self._store, "cancel") is not None
        return self._wished or beside(self._store, "cancel").exists()

    def tell(self, **changes: Any) -> None:
        """Change fields of the record; it is written at most every second, unless `life` changes."""
        force = "life" in changes and changes["life"] != self._record.life
        self._record = replace(self._record, **changes)
        self._renew(force)

    def note(self, event: str, **facts: Any) -> None:
        """Add a line to the journal. A full disk must not end a sweep that it does not hold."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        told = json.dumps({"time": now, "event": event, "sweep": self._name, **facts})
        self._echo(told)
        line = told.encode() + b"\n"
        with suppress(OSError), beside(self._store, "events").open("a+b") as journal:
            if journal.seek(0, os.SEEK_END):  # a full disk may have torn the line before
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
def driving(
    store: Location | Path | str, planned: int = 0, echo: Callable[[str], None] = lambda line: None
) -> Iterator[Driver]:
    """Be known as the driver of a sweep of so many samples for the length of the block; an error is recorded."""
    _forget_older_wish(store)
    driver = Driver(store, planned, echo)
    try:
        yield driver
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        # the journal first: who follows it stops at the end that the record tells
        driver.note("interrupted" if stopped else "failed", message=str(error))
        driver.tell(life="interrupted" if stopped else "failed", message="" if stopped else str(error))
        raise


def _forget_older_wish(store: Location | Path | str) -> None:
    """Remove a wish to cancel, unless it is meant for the submission that now begins in this process."""
    record = read_record(store)
    if record is None or record.life != "submitted" or record.pid not in (0, os.getpid()):
        _forget_wish(store)


def _forget_wish(store: Location | Path | str) -> None:
    with suppress(OSError):
        beside(store, "cancel").unlink()
    share(store, "cancel", None)


def is_wished(store: Location | Path | str) -> bool:
    """Whether somebody wants the sweep's driver to stop."""
    return beside(store, "cancel").exists() or shared(store, "cancel") is not None


def announce(store: Location | Path | str, record: DriverRecord) -> None:
    """Write the record of a submission; wishes to cancel from before it are none of its."""
    _forget_wish(store)
    write_record(store, record)


def write_record(store: Location | Path | str, record: DriverRecord, shared: bool = True) -> None:
    """Put a record in place of the one before; a reader sees either.

    Args:
        store: the sweep's.
        record: the new one.
        shared: whether other machines shall see it, where the sweep is in an object store.
    """
    content = json.dumps(asdict(record))
    if shared:
        share(store, "driver", content.encode())
    path = beside(store, "driver")
    new = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(OSError):  # it is news, not results
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(content, encoding="utf-8")
        new.replace(path)


def forget_record(store: Location | Path | str) -> None:
    """Remove the record of a driver that never was."""
    beside(store, "driver").unlink(missing_ok=True)
    share(store, "driver", None)


def read_record(store: Location | Path | str) -> DriverRecord | None:
    """The record of the sweep's last driver; None where there is none that can be read."""
    contents = [shared(store, "driver")]
    with suppress(OSError):
        contents.append(beside(store, "driver").read_bytes())
    records = []
    for content in contents:
        with suppress(ValueError):
            if content is not None:
                records.append(_RECORD.validate_json(content))  # a later version may know more fields
    return max(records, key=lambda record: record.updated, default=None)


def request_cancel(store: Location | Path | str) -> bool:
    """Ask the sweep's driver to stop after the batch at hand; what is done stays, and can be gone on with.

    Returns:
        Whether there is a driver to ask.
    """
    record = read_record(store)
    if record is None or not record.alive:
        return False
    beside(store, "cancel").touch()
    share(store, "cancel", b"")
    return True


def events_path(store: Location | Path | str) -> Path:
    """The sweep's journal, which need not exist yet."""
    return beside(store, "events")


def state_of(store: Location | Path | str, look: Look = see) -> SweepState:
    """Where a sweep is, whatever became of those who computed it.

    Args:
        store: the sweep's.
        look: what looks into it; one that remembers what it saw must still see the last commit.

    Raises:
        StoreError: nothing is known of a sweep there, or it cannot be read.
    """
    record = read_record(store)  # before the store: a driver commits, and then says that it has ended
    try:
        seen = look(store)
    except StoreError:
        # there is none yet (of a driver that begins, perhaps half of one), or it is damaged
        begins = record is not None and (record.life == "submitted" or (record.life == "starting" and record.alive))
        if record is None or not (begins or is_free(locate(store))):
            raise
        state, message = _without_end(record, store)
        planned = record.planned
        return SweepState(state, locate(store).name, planned, pending=planned, message=message, driver=record)
    status = seen.status
    # a driver that judged the results as they are now; an older one that failed says nothing of what others did since
    failed = record is not None and record.life == "failed" and record.snapshot == seen.snapshot
    if status.pending == 0 and not (record is not None and (record.alive or failed)):
        state, message = "done", ""
    else:
        state, message = _without_end(record, store)
    return SweepState(
        state,
        seen.name,
        status.planned,
        status.good,
        status.quarantined,
        status.pending,
        message=message,
        snapshot=seen.snapshot,
        driver=record,
    )


GO_ON = "What was done is kept; run or submit the same job to go on"


def _without_end(record: DriverRecord | None, store: Location | Path | str) -> tuple[State, str]:
    """The state of a sweep that is not done, and what to say of it."""
    if record is None:
        return "stopped", f"nobody is at work on it. {GO_ON}"
    if record.alive and is_wished(store):
        return "cancelling", record.message
    if record.life == "submitted":
        if record.submission or record.alive or (record.pid == 0 and time.time() - record.updated < _SOON):
            return "submitted", ""
        words = _last_words(store)
        return "failed", f"its driver ended before it began: {words}" if words else (
            f"its driver ended before it began, without a word; see {beside(store, 'log')}. {GO_ON}"
        )
    if record.alive:
        return record.life, record.message  # type: ignore[return-value]
    if record.life == "failed":
        return "failed", record.message
    if record.life == "cancelled":
        return "cancelled", f"it was cancelled. {GO_ON}"
    if record.life in ("starting", "running"):
        return "stopped", f"its driver is gone without a word (killed, or its machine is). {GO_ON}"
    return "stopped", f"nobody is at work on it. {GO_ON}"


def _last_words(store: Location | Path | str) -> str:
    """The end of what a driver printed, which had no time to write down why it ended."""
    try:
        return beside(store, "log").read_text(encoding="utf-8", errors="replace").strip()[-_LAST_WORDS:]
    except OSError:
        return ""
