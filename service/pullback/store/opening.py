"""Opening the repository of a sweep and reading from it.

Errors of Zarr and Icechunk, which have no common class, become StoreError here.
"""

import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import icechunk
import numpy as np
import numpy.typing as npt
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync as zarr_sync

from pullback.errors import StoreError
from pullback.store.failures import cause, damaged, unavailable, unreachable
from pullback.store.folders import is_vacant
from pullback.store.location import Location, locate
from pullback.store.object_tip import find_object_tip
from pullback.store.objects import newest_objects
from pullback.store.odd_files import refuse_odd_files
from pullback.store.schema import ArraySchema
from pullback.store.tip import BRANCH, Tip, find_tip, view

NO_PRELOAD = icechunk.ManifestPreloadConfig(max_total_refs=0)
"""Keeps Icechunk from reading manifests ahead when a store is opened: 0.2 s instead of 2 ms for 100,000 samples."""

ATTRIBUTE = "pullback"
"""The root group's attribute that holds format, revision, layout and provenance."""
INLINE_BYTES = 512
"""Largest size in bytes of a chunk that Icechunk keeps in its manifests. Larger chunks have a file each."""

logger = logging.getLogger(__name__)

_CREATION_SECONDS = 10.0
"""Longest wait for another driver that has written the first snapshot of a repository, but not its reference yet."""
_CREATION_PAUSE = 0.1

if "ICECHUNK_LOG" not in os.environ:
    # Without the filter, every process that opens a sweep would print Icechunk's warning that local storage loses
    # concurrent commits, which `driver_lock` prevents. The second and third names are those of version 2. The raised
    # errors contain what the other messages say: the search for credentials, and manifests that cannot be read.
    icechunk.set_logs_filter(
        "warn,icechunk::storage::object_store=error,icechunk_arrow_object_store=error,"
        "icechunk_storage::readback=error,aws_config=error,icechunk::repository=off,"
        "icechunk::session=off"
    )


def is_repository(address: Location | Path | str) -> bool:
    """Whether a location seems to hold an Icechunk repository.

    Raises:
        UnavailableError: the folder may not be entered, or its disk does not answer.
        StoreError: an object store does not answer.
    """
    location = locate(address)
    if location.is_local:  # Icechunk's own check would create the folder
        path = location.path
        try:
            # After a power cut the folder of references may be missing.
            return (path / "snapshots").is_dir() and any(
                (path / name).exists() for name in ("refs", "repo", "manifests")
            )
        except OSError as error:
            raise unavailable(location, error) from error
    try:
        return icechunk.Repository.exists(location.storage())
    except icechunk.IcechunkError as error:
        raise unreachable(location, error) from error


def is_free(location: Location) -> bool:
    """Whether a location is free for a new sweep.

    In an object store a repository without content counts as free: another driver is about to fill it, or was killed
    before it did.
    """
    if location.is_local:
        try:
            return is_vacant(location.path)
        except OSError as error:
            raise unavailable(location, error) from error
    if not becomes_repository(location):
        return True
    repository, tip = open_tip(location)
    return not tip.lost and not has_content(repository.readonly_session(BRANCH))


def becomes_repository(location: Location) -> bool:
    """Whether an object store holds a repository, or will in a moment: wait for one that another driver creates.

    Icechunk writes the first snapshot of a repository before its reference.

    Raises:
        StoreError: there are snapshots, and their reference is missing; or the object store does not answer.
    """
    end = time.monotonic() + _CREATION_SECONDS
    while not is_repository(location):
        snapshots = newest_objects(location.child("snapshots"))
        if not snapshots:
            return False
        # The reference may have been written since it was looked for.
        if (len(snapshots) > 1 or time.monotonic() > end) and not is_repository(location):
            raise StoreError(
                f"{location} holds snapshots, but their reference (refs/branch.{BRANCH}/ref.json) is missing; "
                "it was left as it is. Restore that object from a copy or an earlier version of it, or run the job "
                "with another `store`."
            )
        time.sleep(_CREATION_PAUSE)
    return True


def open_repository(location: Location) -> icechunk.Repository:
    """Open the Icechunk repository at a location for reading.

    If its last commit cannot be read, the newest readable one takes its place, and a warning is logged.

    Raises:
        StoreError: there is no repository (the message names the nearest sweep), or it cannot be read.
    """
    return open_tip(location)[0]


def open_tip(
    location: Location, snapshot: str | None = None, thorough: bool = False
) -> tuple[icechunk.Repository, Tip]:
    """As `open_repository`; also return the commit to read. A repository with a damaged tip must not be committed to.

    Args:
        location: the location.
        snapshot: the snapshot that will be read. The last commit need not be readable then.
        thorough: see `find_tip`.
    """
    if not is_repository(location):
        raise StoreError(_missing(location))
    if location.is_local:
        refuse_odd_files(location)
    if not location.is_local:
        repository = _open(location)
        tip = Tip("") if snapshot is not None else _object_tip(repository, location)
        if tip.lost:
            warn_once(tip.warning(location))
        return repository, tip
    if snapshot is not None:
        with suppress(StoreError):
            return _open(location), Tip(snapshot)
    tip = find_tip(location, thorough)
    if tip.whole:
        return _open(location), tip
    if snapshot is None:
        warn_once(tip.warning(location))
    return _open(view(location, tip.snapshot)), tip


def _object_tip(repository: icechunk.Repository, location: Location) -> Tip:
    """As `find_object_tip`, without an additional request if the last commit can be read."""
    try:
        if has_content(repository.readonly_session(BRANCH)):
            return Tip("")
    except (icechunk.IcechunkError, ValueError):  # the search finds out why
        pass
    return find_object_tip(repository, location)


_warned: set[str] = set()


def warn_once(sentence: str) -> None:
    """Log a warning once per process: a command may open a sweep several times."""
    if sentence not in _warned:
        _warned.add(sentence)
        logger.warning("%s", sentence)


def _open(location: Location) -> icechunk.Repository:
    try:
        config = icechunk.RepositoryConfig(manifest=icechunk.ManifestConfig(preload=NO_PRELOAD))  # not the stored one
        return icechunk.Repository.open(location.storage(), config=config)
    except icechunk.IcechunkError as error:
        raise StoreError(f"{location} cannot be opened ({cause(error)}); it was left as it is.") from error


def read_session(repository: icechunk.Repository, location: Location, snapshot: str | None = None) -> icechunk.Session:
    """A read-only session of a snapshot; of the last commit by default."""
    try:
        if snapshot is None:
            return repository.readonly_session(BRANCH)
        return repository.readonly_session(snapshot_id=snapshot)
    except (icechunk.IcechunkError, ValueError) as error:  # ValueError: not an id
        if snapshot is not None:
            raise StoreError(
                f"{location} has no snapshot {snapshot!r} that can be read ({cause(error)}); it was left as it is. "
                f"`pullback snapshots {location}` lists its snapshots; without one, the last commit is read."
            ) from error
        raise StoreError(f"{location} cannot be opened ({cause(error)}); it was left as it is.") from error


def root_group(session: icechunk.Session, location: Location) -> zarr.Group:
    """The root group of a session, for reading."""
    try:
        return zarr.open_group(session.store, mode="r", use_consolidated=False)
    except FileNotFoundError:
        raise StoreError(
            f"{location} is an Icechunk repository without a root group, not a sweep of Pullback (or a damaged one); "
            "it was left as it is."
        ) from None
    except (icechunk.IcechunkError, ValueError) as error:
        raise StoreError(f"{location} cannot be opened ({cause(error)}); it was left as it is.") from error


def array_of(group: zarr.Group, name: str, location: Location | None = None) -> "zarr.Array[Any]":
    """Open an array of a group by name; raises StoreError if its description is damaged."""
    try:
        return cast("zarr.Array[Any]", group[name])
    except Exception as error:  # errors of many classes, as in `read`
        if location is None:  # an array that was made a moment ago
            raise
        # The description is JSON that Zarr parses: a missing key, a wrong type or a wrong value in it is damage.
        wrong = isinstance(error, KeyError | TypeError | ValueError)
        raise damaged(name, location, cause(error) if wrong else error) from error


def revision_of(attributes: Mapping[str, Any]) -> int:
    """Revision of the format by which a sweep was made, from its root group's attributes; 1 if none is stored."""
    entry = attributes.get(ATTRIBUTE)
    revision = entry.get("revision", 1) if isinstance(entry, Mapping) else 1
    return revision if isinstance(revision, int) else 1


def holds(group: zarr.Group, schema: ArraySchema) -> bool:
    """Whether a sweep has an array, or must have it: only arrays of later revisions than the sweep's may be missing."""
    if schema.since <= revision_of(group.attrs.asdict()):
        return True
    try:
        return schema.name in group
    except Exception:  # its description is damaged; opening it raises the error
        return True


def read(array: "zarr.Array[Any]", selection: Any, location: Location) -> npt.NDArray[Any]:
    """Read a selection (slices and integer arrays, one an axis, independently of each other).

    Raises:
        UnavailableError: the storage cannot be read at the moment.
        StoreError: the data are damaged; the message names the array.
    """
    try:
        return np.asarray(array.oindex[selection])
    except IndexError:  # the selection is out of bounds: the caller's mistake
        raise
    except Exception as error:  # Zarr's codecs and Icechunk have no common class of errors
        raise damaged(array.basename, location, error) from error


def has_chunk(session: icechunk.Session, array: "zarr.Array[Any]", chunk: int) -> bool:
    """Whether a chunk is stored, by its index along the array's first axis. A missing chunk reads as fill values,
    without an error."""
    index = (chunk, *(0 for _ in array.shape[1:]))
    try:
        kind = session.chunk_type(f"/{array.path}", index)
    except icechunk.IcechunkError:  # it hides the reason, which reading the chunk shows
        key = f"{array.path}/{array.metadata.encode_chunk_key(index)}"
        return zarr_sync(session.store.get(key, default_buffer_prototype())) is not None
    return not str(kind).lower().endswith("uninitialized")  # Icechunk 1 writes the names in capitals, 2 does not


def has_content(session: icechunk.Session) -> bool:
    """Whether a session has a root group: a repository is created before it is filled."""
    try:
        zarr.open_group(session.store, mode="r", use_consolidated=False)
    except FileNotFoundError:
        return False
    return True


def _missing(location: Location) -> str:
    if not location.is_local:
        return f"no sweep at {location}. Check the address, or run a job to make one."
    path = location.path
    usual = Path("sweeps") / path
    if len(path.parts) == 1 and _may_be_repository(usual):
        return f"no sweep at {path}; did you mean {usual}?"
    try:
        if path.is_dir() and any(path.iterdir()):
            return f"{path} is a folder, but not a sweep of Pullback; it was left as it is."
        names = [other.name for other in path.absolute().parent.iterdir() if _may_be_repository(other)]
    except OSError:
        names = []
    near = get_close_matches(path.name, names, n=1)
    if near:
        return f"no sweep at {path}; did you mean {path.with_name(near[0])}?"
    if names:
        return f"no sweep at {path}; in that folder there are: {', '.join(sorted(names))}."
    return f"no sweep at {path}, and none beside it. Check the path, or run a job to make one."


def _may_be_repository(path: Path) -> bool:
    """Whether to suggest a folder as a sweep. An unreadable folder is not suggested."""
    try:
        return is_repository(Location(path))
    except StoreError:
        return False
