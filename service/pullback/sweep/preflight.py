"""Preflight checks of a sweep's store: whether its location can be written to and has room."""

import os
import shutil
from pathlib import Path

from pullback.errors import StoreError
from pullback.metric.memory import GIB
from pullback.spec import JobSpec
from pullback.store.location import Location, locate
from pullback.store.opening import is_repository


def placed(job: JobSpec, folder: str) -> Location:
    """Return the location of a job's store: as the job names it, or absolute if the working directory has changed.

    Args:
        job: the job.
        folder: the working directory in which its relative paths start.
    """
    place = locate(job.store or job.store_path)
    return place if not place.is_local or str(Path.cwd()) == folder else Location(Path(folder) / place.path)


def store_place(job: JobSpec, problems: list[str]) -> Location | None:
    """Return the location of the store. If it cannot be used, return None and add the reason to the problems."""
    try:
        place = locate(job.store or job.store_path)
        if not place.is_local:
            is_repository(place)  # raises if the object store does not answer
            return place
        existing = _existing_part(place.path)
    except StoreError as error:
        problems.append(f"store: {error}")
        return None
    except OSError as error:
        problems.append(f"store: {job.store_path} cannot be reached ({error.strerror}); choose another folder")
        return None
    if not existing.is_dir():
        problems.append(f"store: {existing} is a file; choose another folder")
        return None
    if not os.access(existing, os.W_OK | os.X_OK):
        problems.append(f"store: the folder {existing} may not be written to; choose another one")
        return None
    return place


def _existing_part(path: Path) -> Path:
    return next(folder for folder in (path, *path.absolute().parents) if folder.exists())


def disk_problems(place: Location, need: int) -> list[str]:
    """Problems if a new store of a size in bytes does not fit on the disk."""
    if not place.is_local or place.path.exists():
        return []
    existing = _existing_part(place.path)
    free = shutil.disk_usage(existing).free
    if need <= free:
        return []
    return [
        f"store: it will have up to {need / GIB:.3g} GiB and {existing} has {free / GIB:.3g} GiB free; "
        "lower samples.count or metric.components, or choose another folder"
    ]
