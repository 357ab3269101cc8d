"""The sweeps in a folder, by id, each opened at one snapshot.

Invariants: an id is the name of a folder in the listing; it becomes part of a path only after it was checked, and
symbolic links are not followed. Opened snapshots are cached, because a snapshot never changes.
"""

import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pullback.api.documents import SweepSummary
from pullback.api.paths import without_paths
from pullback.api.problem_details import RequestError
from pullback.driving.sidecar_files import known_drivers
from pullback.driving.sweep_state import SnapshotSummary
from pullback.errors import StoreError, UnavailableError
from pullback.jobs.address import is_address
from pullback.store.failures import unavailable
from pullback.store.folders import local_path
from pullback.store.location import Location, locate
from pullback.store.opening import is_repository
from pullback.store.reader import Sweep, SweepStatus, open_sweep

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,149}")
_CACHED_SNAPSHOTS = 16
_CACHED_SUMMARIES = 10_000
"""Each takes a few KB, and saves 0.1 s of reading for a sweep of 100,000 samples."""


def is_id(text: str) -> bool:
    """Return whether a text may be the id of a sweep."""
    return _ID.fullmatch(text) is not None and ".." not in text


@dataclass(frozen=True, eq=False)
class Opened:
    """A sweep at one snapshot. Any number of threads may read it."""

    id: str
    sweep: Sweep

    @cached_property
    def status(self) -> npt.NDArray[np.uint8]:
        """Status of every sample, [samples]; the values are in `store.schema`."""
        return self.sweep.sample_status()


_Key = tuple[str, int, str]
"""An id, the inode of its folder, and a snapshot."""


class Catalog:
    """The sweeps directly inside a folder. The folder need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = local_path(folder).absolute()
        self._opened: OrderedDict[_Key, Opened] = OrderedDict()
        self._summaries: OrderedDict[_Key, SweepSummary] = OrderedDict()
        self._lock = threading.Lock()

    def ids(self) -> list[str]:
        """Return the ids of all sweeps, sorted."""
        return sorted(name for name in self._folders() if self._is_sweep(name))

    def submitted(self) -> list[str]:
        """Return the ids of submitted jobs without a sweep, sorted."""
        names = (name for name in known_drivers(self.folder) if is_id(name) and not (self.folder / name).is_symlink())
        return sorted(name for name in names if not is_address(name) and not self.has(name))

    def has(self, id: str) -> bool:
        """Return whether a sweep has this id."""
        return id in self._folders() and self._is_sweep(id)

    def _is_sweep(self, name: str) -> bool:
        """Return whether a folder is a sweep. One that cannot be read counts as one, so that its error is shown."""
        try:
            return is_repository(self.folder / name)
        except UnavailableError:
            return True

    def without_paths(self, text: str) -> str:
        """Return a message for remote users: sweeps by id, and without paths of the server."""
        return without_paths(text, self.folder)

    def summary(self, id: str) -> SweepSummary:
        """Describe a sweep at its last snapshot. The store is read once for each snapshot.

        Raises:
            StoreError: there is no such sweep, or it cannot be read.
        """
        sweep = open_sweep(self.folder / id)
        key = (id, self._inode(id), sweep.snapshot)
        with self._lock:
            known = self._summaries.get(key)
        if known is None:
            known = SweepSummary.of(sweep)
            with self._lock:
                self._summaries[key] = known
                while len(self._summaries) > _CACHED_SUMMARIES:
                    self._summaries.popitem(last=False)
        return known

    def read_snapshot(self, store: Location | Path | str) -> SnapshotSummary:
        """Read the last snapshot of a sweep in this folder, from the cache if possible."""
        summary = self.summary(locate(store).name)
        return SnapshotSummary(summary.name, summary.snapshot, SweepStatus(**summary.samples.model_dump()))

    def place(self, id: str) -> Path:
        """Return the folder of a sweep, which need not exist; raises RequestError (404) for an impossible id."""
        if not is_id(id) or (self.folder / id).is_symlink():
            raise _missing(id)
        return self.folder / id

    def open(self, id: str, snapshot: str | None = None) -> Opened:
        """Open a sweep at a snapshot, by default the last.

        Raises:
            RequestError: (404) there is no such sweep, or it has no such snapshot.
            StoreError: it cannot be read.
        """
        path = self.place(id)
        if not self.has(id):
            if id in self.submitted():
                raise RequestError(404, f"{id} has no results yet; GET /v1/sweeps/{id}/status shows its state")
            raise _missing(id)
        inode = self._inode(id)
        if snapshot is None:
            sweep = open_sweep(path)
            return self._cached((id, inode, sweep.snapshot), Opened(id, sweep))
        with self._lock:
            known = self._opened.get((id, inode, snapshot))
        if known is not None:
            return known
        try:
            return self._cached((id, inode, snapshot), Opened(id, open_sweep(path, snapshot)))
        except StoreError as error:
            open_sweep(path)  # raises if the sweep is unreadable and not only the snapshot
            raise RequestError(404, str(error)) from None

    def _folders(self) -> set[str]:
        """Return the names of subfolders that may be sweeps.

        Raises:
            UnavailableError: the folder cannot be listed.
        """
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name for entry in entries if is_id(entry.name) and _is_folder(entry)}
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise unavailable(locate(self.folder), error) from error

    def _inode(self, id: str) -> int:
        """Return the inode of a sweep's folder. It differs if another folder has taken the place of an earlier one."""
        path = self.folder / id
        try:
            return path.stat().st_ino
        except OSError as error:
            raise unavailable(locate(path), error) from error

    def _cached(self, key: _Key, opened: Opened) -> Opened:
        """Return the cached snapshot, or cache this one."""
        with self._lock:
            cached = self._opened.setdefault(key, opened)
            self._opened.move_to_end(key)
            while len(self._opened) > _CACHED_SNAPSHOTS:
                self._opened.popitem(last=False)
            return cached


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # a stale handle of a network disk: its error is shown later
        return True


def _missing(id: str) -> RequestError:
    shown = id if is_id(id) else repr(id[:100])
    return RequestError(404, f"there is no sweep {shown}; GET /v1/sweeps lists all sweeps")
