"""Irregular files in a repository: pipes and devices, for which a reader would wait for ever."""

import os
from pathlib import Path

from pullback.errors import StoreError
from pullback.store.failures import unavailable
from pullback.store.location import Location
from pullback.store.tip import BRANCH

_MEMBERS = (".", "snapshots", "refs", f"refs/branch.{BRANCH}", "manifests", "transactions")
"""Folders of a repository with few files, of which Icechunk may open any."""
_scanned: dict[Path, int] = {}
"""Folders of chunks without odd files, with the time of the last change of each."""


def refuse_odd_chunks(location: Location) -> None:
    """Raise StoreError if a chunk is a pipe or a device, for which a reader would wait for ever.

    A folder is scanned again only if it has changed. A scan takes 1 µs for each file.
    """
    if not location.is_local:
        return
    folder = location.path.resolve() / "chunks"
    try:
        changed = folder.stat().st_mtime_ns
    except OSError:  # no chunk has a file of its own, or the read reports what is wrong
        return
    if _scanned.get(folder) != changed:
        refuse_odd_files(location, ("chunks",))
        _scanned[folder] = changed


def refuse_odd_files(location: Location, members: tuple[str, ...] = _MEMBERS) -> None:
    """Raise StoreError if a file that Icechunk would open is a pipe or a device, for which it would wait."""
    try:
        for folder in (location.path / name for name in members):
            if not folder.is_dir():
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not (entry.is_file() or entry.is_dir()):
                        raise StoreError(
                            f"{location} cannot be opened: {entry.path} is neither a file nor a folder; it was left as "
                            "it is. Remove that, and restore the file from a copy."
                        )
    except OSError as error:
        raise unavailable(location, error) from error
