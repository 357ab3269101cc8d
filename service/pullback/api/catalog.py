"""The sweeps of a folder by their ids, opened at one snapshot.

Invariants: an id is a folder's name that is found in the listing; it never becomes a part of a path unchecked, and
links are not followed. What was opened at a snapshot is kept, for a snapshot never changes.
"""

import os
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.api.paths import without_paths
from pullback.api.problems import RequestError
from pullback.errors import StoreError
from pullback.store.folders import local_path
from pullback.store.location import Location, locate
from pullback.store.reader import Sweep, SweepStatus, open_sweep
from pullback.store.repository import is_repository
from pullback.sweep.beside import driven
from pullback.sweep.control import Seen

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_KEPT_OPEN = 16
_KEPT_SUMMARIES = 10_000
"""A few KB each, and 0.1 s of reading for 100,000 samples."""


def is_id(text: str) -> bool:
    """Whether a text can be a sweep's id."""
    return _ID.fullmatch(text) is not None and ".." not in text


@dataclass(frozen=True, eq=False)
class Opened:
    """A sweep at one snapshot, for any number of threads."""

    id: str
    sweep: Sweep

    @cached_property
    def status(self) -> npt.NDArray[np.uint8]:
        """The status of every sample, [samples]; see `store.schema`."""
        return self.sweep.sample_status()

    def summary(self) -> dict[str, Any]:
        """What the sweep is and how far it was at the snapshot, ready for JSON."""
        provenance, layout = self.sweep.provenance, self.sweep.layout
        told = ("sweep_id", "generator", "distance", "method", "spec", "created")
        return {
            "id": self.id,
            "name": self.sweep.name,
            "snapshot": self.sweep.snapshot,
            "samples": self.sweep.status().as_dict(),
            "latent_dim": layout.latent_dim,
            "components": layout.components,
            "shard_size": layout.shard_size,
            **{key: provenance.get(key) for key in told},
        }

    def details(self) -> dict[str, Any]:
        """As `summary`, with why samples are quarantined and all that is known of what made the sweep."""
        return {
            **self.summary(),
            "quarantine_reasons": self.sweep.reasons(),
            "provenance": self.sweep.provenance,
        }


_Key = tuple[str, int, str]
"""An id, the folder it is, and a snapshot."""


class Catalog:
    """The sweeps directly inside a folder, which need not exist yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = local_path(folder).absolute()
        self._opened: OrderedDict[_Key, Opened] = OrderedDict()
        self._summaries: OrderedDict[_Key, dict[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def ids(self) -> list[str]:
        """The ids of all sweeps, in order."""
        return sorted(name for name in self._folders() if is_repository(self.folder / name))

    def submitted(self) -> list[str]:
        """The ids under which something was submitted and no sweep is, in order."""
        names = (name for name in driven(self.folder) if is_id(name) and not (self.folder / name).is_symlink())
        return sorted(name for name in names if not self.has(name))

    def has(self, id: str) -> bool:
        """Whether there is a sweep of that id."""
        return id in self._folders() and is_repository(self.folder / id)

    def without_paths(self, text: str) -> str:
        """A message as a remote user can use it: sweeps by their ids, and no paths of the server."""
        return without_paths(text, self.folder)

    def summary(self, id: str) -> dict[str, Any]:
        """What a sweep is and how far it is now, ready for JSON; read once at each snapshot.

        Raises:
            StoreError: there is none, or it cannot be read.
        """
        sweep = open_sweep(self.folder / id)
        key = (id, (self.folder / id).stat().st_ino, sweep.snapshot)
        with self._lock:
            known = self._summaries.get(key)
        if known is None:
            known = Opened(id, sweep).summary()
            with self._lock:
                self._summaries[key] = known
                while len(self._summaries) > _KEPT_SUMMARIES:
                    self._summaries.popitem(last=False)
        return dict(known)

    def see(self, store: Location | Path | str) -> Seen:
        """As `control.see`, of a sweep in this folder; a snapshot that was seen before is not read again."""
        summary = self.summary(locate(store).name)
        return Seen(summary["name"], summary["snapshot"], SweepStatus(**summary["samples"]))

    def place(self, id: str) -> Path:
        """Where the sweep of an id is or would be; raises RequestError (404) for what cannot be one."""
        if not is_id(id) or (self.folder / id).is_symlink():
            raise _missing(id)
        return self.folder / id

    def open(self, id: str, snapshot: str | None = None) -> Opened:
        """Open a sweep at a snapshot, or as it is now.

        Raises:
            RequestError: (404) there is no such sweep, or no such snapshot of it.
            StoreError: it cannot be read.
        """
        path = self.place(id)
        if not self.has(id):
            if id in self.submitted():
                raise RequestError(404, f"{id} has no results yet; GET /v1/sweeps/{id}/status says how it is")
            raise _missing(id)
        inode = path.stat().st_ino  # a folder that took the place of another has snapshots of its own
        if snapshot is None:
            sweep = open_sweep(path)
            return self._keep((id, inode, sweep.snapshot), Opened(id, sweep))
        with self._lock:
            known = self._opened.get((id, inode, snapshot))
        if known is not None:
            return known
        try:
            return self._keep((id, inode, snapshot), Opened(id, open_sweep(path, snapshot)))
        except StoreError as error:
            open_sweep(path)  # if it is not the snapshot that is wrong, this says so
            raise RequestError(404, str(error)) from None

    def _folders(self) -> set[str]:
        """What lies in the folder and could be a sweep."""
        try:
            with os.scandir(self.folder) as entries:
                return {entry.name for entry in entries if is_id(entry.name) and entry.is_dir(follow_symlinks=False)}
        except FileNotFoundError:
            return set()

    def _keep(self, key: _Key, opened: Opened) -> Opened:
        """The one that is kept open already, or else this one from now on."""
        with self._lock:
            kept = self._opened.setdefault(key, opened)
            self._opened.move_to_end(key)
            while len(self._opened) > _KEPT_OPEN:
                self._opened.popitem(last=False)
            return kept


def _missing(id: str) -> RequestError:
    shown = id if is_id(id) else repr(id[:100])
    return RequestError(404, f"there is no sweep {shown}; GET /v1/sweeps lists those that there are")
