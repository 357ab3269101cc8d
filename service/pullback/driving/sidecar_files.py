"""The sidecar files of a sweep: their places, and the ones that other machines see.

Beside a sweep in a folder they are files in the same folder. For a sweep in an object store they are in this machine's
state folder; the driver's record and a cancel request are also objects beside the sweep.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pullback.errors import StoreError
from pullback.store.location import Location, locate
from pullback.store.objects import get_object, put_object, remove_object
from pullback.user_folders import state_folder

_LEAST_BYTES = 64 * 1024
"""Free bytes below which a disk counts as full: a file of some kilobytes may not fit."""

_NAMES = {
    "driver": ".{}.driver.json",
    "cancel": ".{}.cancel",
    "events": "{}.events.jsonl",
    "job": ".{}.job.yaml",
    "log": ".{}.log",
    "checkpoint": ".{}.checkpoint",
    "axes": "{}.axes.yaml",
}
_File = Literal["driver", "cancel", "events", "job", "log", "checkpoint", "axes"]


def sidecar_path(store: Location | Path | str, what: _File) -> Path:
    """Path of a sidecar file: beside the sweep's folder, or in this machine's state folder."""
    place = locate(store)
    if place.is_local:
        folder, name = place.canonical.path.absolute().parent, place.name
    else:  # the hash gives each address files of its own
        folder = state_folder() / "sweeps"
        name = f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"
        with suppress(OSError):  # a sweep can be read with a read-only home
            folder.mkdir(parents=True, exist_ok=True)
    return folder / _NAMES[what].format(name)


def sidecar_object(store: Location | Path | str, what: Literal["driver", "cancel"]) -> Location:
    """Place of a sidecar object of a sweep in an object store."""
    place = locate(store)
    return place.sibling(_NAMES[what].format(place.name))


def put_sidecar_object(store: Location | Path | str, what: Literal["driver", "cancel"], content: bytes | None) -> None:
    """Write an object beside a sweep in an object store; None removes it.

    Does nothing for a sweep in a folder. An error of the object store is dropped, because it must not end the sweep.
    """
    if not locate(store).is_local:
        with suppress(StoreError):
            place = sidecar_object(store, what)
            remove_object(place) if content is None else put_object(place, content)


def get_sidecar_object(store: Location | Path | str, what: Literal["driver", "cancel"]) -> bytes | None:
    """Content of an object beside a sweep in an object store.

    Returns:
        None if the object does not exist, if the object store does not answer, or if the sweep is in a folder.
    """
    if not locate(store).is_local:
        with suppress(StoreError):
            return get_object(sidecar_object(store, what))
    return None


def disk_trouble(folder: Path) -> str:
    """Return why a folder's disk cannot be written to, as the beginning of a sentence; empty if it can."""
    try:
        disk = os.statvfs(folder)
    except (OSError, AttributeError):  # Windows does not have it
        return ""
    if disk.f_flag & os.ST_RDONLY:
        return f"the disk of {folder} is mounted read-only"
    if disk.f_bavail * disk.f_frsize < _LEAST_BYTES or (disk.f_files and not disk.f_favail):
        return f"the disk of {folder} is full"
    return ""


def known_drivers(folder: Path) -> list[str]:
    """The names of the sweeps in a folder that have a driver's record; some may have no store yet."""
    before, after = _NAMES["driver"].split("{}")
    with suppress(OSError):
        names = [path.name for path in folder.iterdir()]
        return sorted(
            name.removeprefix(before).removesuffix(after)
            for name in names
            if name.startswith(before) and name.endswith(after)
        )
    return []
