"""Opening a sweep's repository and reading it, for the driver, the reader and upkeep alike; and committing to it.

Errors of Zarr and Icechunk, which raise as they like, become StoreError here.
"""

import os
import random
import re
import time
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import icechunk
import numpy as np
import numpy.typing as npt
import zarr

from pullback.errors import StoreError
from pullback.store.folders import is_vacant
from pullback.store.location import Location, locate
from pullback.store.schema import ArraySchema

BRANCH = "main"

NO_PRELOAD = icechunk.ManifestPreloadConfig(max_total_refs=0)
"""Icechunk would read manifests ahead whenever a store is opened: 0.2 s of 100,000 samples, where 2 ms are needed."""

_ATTEMPTS = 20
_LONGEST_PAUSE = 2.0
"""Seconds. Two drivers that commit every few seconds rarely meet twice in a row; twenty do not meet twenty times."""

if "ICECHUNK_LOG" not in os.environ:
    # Icechunk's warning that local storage loses concurrent commits is answered by `hold`; it would be printed by
    # every process that opens a sweep. The second name is version 2's, the third its remark on the same storage.
    # What the search for credentials meets on its way, and why a manifest cannot be read, is in the errors raised.
    icechunk.set_logs_filter(
        "warn,icechunk::storage::object_store=error,icechunk_arrow_object_store=error,"
        "icechunk_storage::readback=error,aws_config=error,icechunk::repository=off"
    )


def is_repository(address: Location | Path | str) -> bool:
    """Whether an Icechunk repository seems to be there; raises StoreError where an object store does not answer."""
    location = locate(address)
    if location.is_local:  # Icechunk itself would make the folder by asking
        path = location.path
        return (path / "snapshots").is_dir() and ((path / "refs").is_dir() or (path / "repo").is_file())
    try:
        return icechunk.Repository.exists(location.storage())
    except icechunk.IcechunkError as error:
        raise unreachable(location, error) from error


def is_free(location: Location) -> bool:
    """Whether a sweep can be made there, because there is none.

    In an object store a repository without content is nothing yet: another driver is about to fill it, or was
    killed before it did.
    """
    if location.is_local:
        return is_vacant(location.path)
    return not is_repository(location) or not has_content(open_repository(location).readonly_session(BRANCH))


def open_repository(location: Location) -> icechunk.Repository:
    """Open the Icechunk repository at a place; raises StoreError where there is none, with the nearest sweep."""
    if not is_repository(location):
        raise StoreError(_missing(location))
    try:
        config = icechunk.RepositoryConfig(manifest=icechunk.ManifestConfig(preload=NO_PRELOAD))  # over the store's own
        return icechunk.Repository.open(location.storage(), config=config)
    except icechunk.IcechunkError as error:
        raise StoreError(f"{location} cannot be opened ({cause(error)}); it was left as it is.") from error


def commit_on_tip(repository: icechunk.Repository, write: Callable[[icechunk.Session], bool], message: str) -> str:
    """Write on top of the last commit, and commit; again, if another process has committed meanwhile.

    Args:
        repository: where.
        write: called with a session of the last commit, maybe several times; says whether there is anything to
            commit.
        message: the commit's.

    Returns:
        The id of the new commit; of the last one, if there was nothing to commit.

    Raises:
        icechunk.ConflictError: others committed in between, every time.
        icechunk.IcechunkError: the storage refused.
    """
    attempt = 0
    while True:
        session = repository.writable_session(BRANCH)
        if not write(session):
            return session.snapshot_id
        try:
            return session.commit(message)
        except icechunk.ConflictError:
            attempt += 1
            if attempt == _ATTEMPTS:
                raise
        time.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.01 * 2**attempt)))


def read_session(repository: icechunk.Repository, location: Location, snapshot: str | None = None) -> icechunk.Session:
    """A read-only session of the commit with this id; of the last one by default."""
    try:
        if snapshot is None:
            return repository.readonly_session(BRANCH)
        return repository.readonly_session(snapshot_id=snapshot)
    except (icechunk.IcechunkError, ValueError) as error:  # ValueError: what is no id at all
        if snapshot is not None:
            raise StoreError(
                f"{location} has no snapshot {snapshot!r} that can be read ({cause(error)}); it was left as it is. "
                "Take an id that a reader of this very sweep gave, or none for the last commit."
            ) from error
        raise StoreError(f"{location} cannot be opened ({cause(error)}); it was left as it is.") from error


def root_group(session: icechunk.Session, location: Location) -> zarr.Group:
    """The root group that a session sees, for reading."""
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
    """An array of the group, by name; raises StoreError where its description is damaged."""
    try:
        return cast("zarr.Array[Any]", group[name])
    except Exception as error:  # see `read`
        raise damaged(name, location or str(group.store), error) from error


def read(array: "zarr.Array[Any]", selection: Any, location: Location) -> npt.NDArray[Any]:
    """Read a selection (slices and integer arrays, one an axis, independently of each other).

    Raises:
        StoreError: what is on disk is damaged; names the array.
    """
    try:
        return np.asarray(array.oindex[selection])
    except Exception as error:  # Zarr's codecs and Icechunk raise as they like; all of it means the same here
        raise damaged(array.basename, location, error) from error


def has_chunk(session: icechunk.Session, schema: ArraySchema, shard: int) -> bool:
    """Whether the array holds anything for the shard. If not, it reads as fill values, without an error."""
    index = [shard, *(0 for _ in schema.dims[1:])]
    kind = session.chunk_type(f"/{schema.name}", index)
    return not str(kind).lower().endswith("uninitialized")  # Icechunk 1 writes the names in capitals, 2 does not


def damaged(name: str, location: Location | str, why: BaseException | str) -> StoreError:
    """The error to raise where an array's data on disk cannot be trusted."""
    return StoreError(
        f"the array '{name}' of {location} cannot be read: its data on disk are damaged or missing "
        f"({cause(why) if isinstance(why, BaseException) else why}). Nothing wrong was returned; other arrays "
        f"and samples may still be read. `pullback audit {location} --repair` makes the damaged shards pending; "
        "run the job again then."
    )


def cause(error: BaseException) -> str:
    """What an error says, in one line. Icechunk adds several that only its authors can use."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    told = re.search(r'code: "(\w+)", message: "([^"]+)"', str(error))  # an object store's own words
    if told:
        return f"{told[2]} ({told[1]})"
    first = lines[0].removeprefix("x ")
    deeper = [line.removeprefix("`-> ") for line in lines if line.startswith("`-> ")]
    return f"{first}: {deeper[-1]}" if deeper and deeper[-1] != first else first


def unreachable(location: Location, error: BaseException) -> StoreError:
    """The error to raise where an object store does not do what it is asked."""
    return StoreError(
        f"{location} cannot be reached ({cause(error)}); nothing was written, and nothing that was committed is lost. "
        "Check that the bucket exists, that the environment has its region (AWS_REGION) and credentials for it (AWS_* "
        "or GOOGLE_*), and, for another server than Amazon's, that AWS_ENDPOINT_URL names it."
    )


def has_content(session: icechunk.Session) -> bool:
    """Whether the session sees a root group: a repository is made before it is filled."""
    try:
        zarr.open_group(session.store, mode="r", use_consolidated=False)
    except FileNotFoundError:
        return False
    return True


def _missing(location: Location) -> str:
    if not location.is_local:
        return f"no sweep at {location}. Check the address, or run a job to make one."
    path = location.path
    if path.is_dir() and any(path.iterdir()):
        return f"{path} is a folder, but not a sweep of Pullback; it was left as it is."
    try:
        names = [other.name for other in path.absolute().parent.iterdir() if is_repository(other)]
    except OSError:
        names = []
    near = get_close_matches(path.name, names, n=1)
    if near:
        return f"no sweep at {path}; did you mean {path.with_name(near[0])}?"
    if names:
        return f"no sweep at {path}; in that folder there are: {', '.join(sorted(names))}."
    return f"no sweep at {path}, and none beside it. Check the path, or run a job to make one."
