"""Where a sweep's store can be: whether the place may be written to, and has room."""

import os
import shutil
from pathlib import Path

from pullback.errors import StoreError
from pullback.metric.memory import GIB
from pullback.spec import JobSpec
from pullback.store.location import Location, locate
from pullback.store.opening import is_repository


def store_place(job: JobSpec, problems: list[str]) -> Location | None:
    """Where the store is or will be; None, and the reason among the problems, where none can be."""
    try:
        place = locate(job.store or job.store_path)
        if not place.is_local:
            is_repository(place)  # for its error, where the object store does not answer
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
    """What keeps a store of so many bytes from having room there, if anything does."""
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
