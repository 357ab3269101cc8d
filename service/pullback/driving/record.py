"""The record of a driver: a small JSON file beside its sweep, in which it reports its state and progress.

The file may be incomplete, foreign, or of a later version of Pullback. An impossible number is replaced by its default,
so that the rest is not lost. A file that does not identify the driver's process is not a record.
"""

import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, get_type_hints

import psutil
from pydantic import Field, TypeAdapter
from pydantic_core import from_json

from pullback.driving.states import ALIVE, Life

STALE_SECONDS = 60.0
"""Age in seconds from which another machine's record means that its driver is gone."""
_FUTURE_SECONDS = 86_400.0
"""Seconds by which another machine's clock may be ahead."""
_MOST = 2**63 - 1
_LONGEST = 10_000


@dataclass(frozen=True)
class DriverRecord:
    """State and progress of a driver.

    Attributes:
        life: its stage (`states.Life`).
        message: why it failed, or why it is waiting at the moment; empty otherwise.
        host: name of its machine.
        pid: id of its process; 0 before there is one. In the stage `submitted`, the process that will become the
            driver.
        planned: samples of the whole sweep; 0 if that is not known yet.
        began: when that process started, seconds since 1970. With `pid` this identifies the process.
        updated: when the record was written, seconds since 1970.
        submission: id of Ray's job submission, with the `address` of the cluster; empty without a submission.
        shards: number of shards in each state.
        workers: number of workers in each state.
        samples_per_second: rate of this run.
        commit_seconds: duration of the last commit.
        memory_bytes: resident memory of the driver.
        snapshot: the last commit, once the driver has ended by itself.
        position: number of earlier submissions on that machine, while it is `queued`.
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
    position: int = 0

    @property
    def is_here(self) -> bool:
        """Whether the driver runs, or ran, on this machine."""
        return self.host == socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether its process is running. On another machine: whether it renewed the record recently."""
        if self.pid == 0 or self.life not in ALIVE:
            return False
        if not self.is_here:
            return -_FUTURE_SECONDS < time.time() - self.updated < STALE_SECONDS
        try:
            process = psutil.Process(self.pid)
            return abs(process.create_time() - self.began) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.Error, OSError, ValueError):  # the last two for an impossible process id
            return False


_COUNT = Annotated[int, Field(ge=0, le=_MOST)]
_BOUNDED: dict[Any, Any] = {
    int: _COUNT,
    float: Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)],
    str: Annotated[str, Field(max_length=_LONGEST)],
    Mapping[str, int]: Annotated[dict[Annotated[str, Field(max_length=100)], _COUNT], Field(max_length=100)],
}
"""Accepted values of each type of field."""
_TYPES = get_type_hints(DriverRecord)
_FIELDS: dict[str, TypeAdapter[Any]] = {
    each.name: TypeAdapter(_BOUNDED.get(_TYPES[each.name], _TYPES[each.name])) for each in fields(DriverRecord)
}
_FIELDS["pid"] = TypeAdapter(Annotated[int, Field(ge=0, lt=2**31)])
_FIELDS["address"] = TypeAdapter(Annotated[str, Field(pattern=r"^(https?://[!-~]{1,1000})?$")])
_IDENTITY = {"life", "host", "pid", "began", "updated", "submission", "address"}
"""Fields that identify the process and show whether it is running."""


def record_of(content: bytes) -> DriverRecord | None:
    """Parse a record; None if the content is not one.

    Unknown fields are left out. An impossible value becomes the default, unless the field identifies the process.
    """
    try:
        given = from_json(content)
    except ValueError:
        return None
    if not isinstance(given, dict):
        return None
    known: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _FIELDS:
            continue
        try:
            known[name] = _FIELDS[name].validate_python(value[:_LONGEST] if isinstance(value, str) else value)
        except ValueError:  # pydantic's ValidationError is one
            if name in _IDENTITY:
                return None
    return DriverRecord(**known) if "life" in known else None
