"""The tip of a sweep in an object store, if its last commit cannot be read.

An object store answers a write once the data are safe, and Icechunk writes a commit's reference last. So a power cut
cannot leave a reference to a missing snapshot, as it can in a folder (`tip`). Objects can still be lost by other means,
such as a deletion by hand or a rule that expires objects. Then the newest readable snapshot replaces the tip. A lost
manifest does not: the audit finds it, and the shards that it lists are computed again.
"""

from datetime import UTC, datetime, timedelta

import icechunk
import zarr

from pullback.errors import StoreError
from pullback.store.failures import cause, is_damage, unavailable
from pullback.store.location import Location
from pullback.store.objects import newest_objects
from pullback.store.tip import BRANCH, Tip

_ROUNDED = timedelta(seconds=2)
"""Snapshots written within this time of each other are compared by their own dates, which are not rounded."""


def find_object_tip(repository: icechunk.Repository, location: Location) -> Tip:
    """The commit to read: the branch's, or the newest snapshot that can be read.

    Args:
        repository: the opened repository.
        location: the sweep's place in an object store.

    Raises:
        UnavailableError: something cannot be read just now, which proves no damage.
        StoreError: no snapshot can be read.
    """
    try:
        named = repository.lookup_branch(BRANCH)
        lost = _loss(repository, named, location)
    except icechunk.IcechunkError as error:
        raise unavailable(location, error) from error
    if not lost:
        return Tip("")
    found: list[icechunk.SnapshotInfo] = []
    oldest: datetime | None = None
    for written, name in newest_objects(location.child("snapshots")):
        if oldest is not None and written < oldest:
            break
        if name != named and not _loss(repository, name, location) and _has_arrays(repository, name):
            found.append(next(iter(repository.ancestry(snapshot_id=name))))
            oldest = oldest or written - _ROUNDED
    if found:
        newest = max(found, key=lambda snapshot: snapshot.written_at)
        when = newest.written_at.astimezone(UTC).isoformat(sep=" ", timespec="seconds")
        return Tip(newest.id, when, newest.message, lost)
    raise StoreError(
        f"{location} cannot be opened: {lost}, and no earlier snapshot can be read. It was left as it is. "
        "Restore it from a copy, or run the job with another `store`."
    )


def _loss(repository: icechunk.Repository, snapshot: str, location: Location) -> str:
    """Why a snapshot cannot be read; empty if it can. Raises UnavailableError if that is not known."""
    try:
        repository.inspect_snapshot(snapshot)
    except icechunk.IcechunkError as error:
        if is_damage(error, location):
            return f"its snapshot is damaged or missing ({cause(error)})"
        raise unavailable(location, error) from error
    return ""


def _has_arrays(repository: icechunk.Repository, snapshot: str) -> bool:
    """Whether a snapshot holds a sweep. The first snapshot of every repository is empty."""
    try:
        zarr.open_group(repository.readonly_session(snapshot_id=snapshot).store, mode="r", use_consolidated=False)
    except FileNotFoundError:
        return False
    return True


def reset_object_tip(repository: icechunk.Repository, tip: Tip) -> None:
    """Set the branch to what `find_object_tip` found, unless another driver has moved the branch meanwhile.

    Raises:
        icechunk.IcechunkError: the object store refused, or the branch has moved.
    """
    named = repository.lookup_branch(BRANCH)
    repository.reset_branch(BRANCH, tip.snapshot, from_snapshot_id=named)
