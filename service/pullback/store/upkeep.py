"""Keeping sweeps in order: giving up damaged shards to be computed again, and removing what nothing refers to."""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import zarr

from pullback.errors import StoreError
from pullback.store.audit import Audit, Auditor, examine
from pullback.store.location import Location, locate
from pullback.store.lock import hold
from pullback.store.opening import BRANCH, cause, commit_on_tip, open_repository, read_session
from pullback.store.repository import make_array
from pullback.store.schema import BY_NAME, SAMPLE, SHARD_ARRAYS

DAY = timedelta(days=1)

_SAFE_AGE = timedelta(hours=1)
"""A worker's chunks are referred to within seconds of being written, once its driver commits. What is older than
this and still not referred to never will be; what is younger is only removed where nobody drives the sweep."""


@dataclass(frozen=True)
class Garbage:
    """What a collection removed, or would remove.

    Attributes:
        bytes: size of all of it.
        chunks: chunks to which no commit refers: of workers killed in mid-shard, mostly.
        manifests: lists of chunks to which no commit refers.
        snapshots: commits that no branch leads to: those that were expired.
        transaction_logs: their logs.
        expired: commits taken out of the history; none without `expire`.
    """

    bytes: int
    chunks: int
    manifests: int
    snapshots: int
    transaction_logs: int
    expired: int

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


def repair(address: Location | Path | str, progress: Callable[[int, int], None] = lambda done, total: None) -> Audit:
    """Audit a sweep, and make every damaged shard pending again, in one commit; the next run computes it again.

    Latents belong to the sample's index, so the new results are those that were lost. Shards that are not damaged
    stay as they are. The sweep is held all the while; one in an object store cannot be, so its drivers have to be
    stopped by whoever repairs it.

    Args:
        address: the sweep.
        progress: see `audit`.

    Returns:
        What was damaged.

    Raises:
        StoreError: another process drives the sweep, the storage refused, or not even the sweep's description can
            be read, which nothing here repairs.
    """
    location = locate(address)
    with hold(location):
        repository = open_repository(location)
        session = read_session(repository, location)
        found = examine(location, session, progress)
        if not found.damages:
            return found

        def write(writable: icechunk.Session) -> bool:
            if writable.snapshot_id != found.snapshot:
                raise StoreError(
                    f"another process committed to {location} while it was looked through; nothing was changed. "
                    "Stop whoever drives it, and repair it again."
                )
            _give_up(found, Auditor(location, session), writable)
            return True

        try:
            commit_on_tip(repository, write, f"repair: {len(found.lost_shards)} shards are pending again")
        except (icechunk.ConflictError, icechunk.IcechunkError) as error:
            raise StoreError(
                f"{location} could not be repaired ({cause(error)}); it was left as it is. Check that its storage can "
                "be written to and is not full. If it still cannot be repaired, restore it from a copy, or run the job "
                "with another `store`."
            ) from error
    return found


def _give_up(found: Audit, auditor: Auditor, session: icechunk.Session) -> None:
    """Take what is damaged out of a session, as if it had never been written."""
    group = zarr.open_group(session.store, mode="r+", use_consolidated=False)
    lost = set(found.lost_shards)
    for name in sorted({damage.array for damage in found.damages if damage.kind == "references"}):
        _rebuild(name, lost, auditor, group)
    keys = [
        f"{schema.name}/{_chunk_key(group, schema.name, shard)}" for schema in SHARD_ARRAYS for shard in sorted(lost)
    ]
    numbers = [damage.shard for damage in found.damages if damage.array == SAMPLE.name]
    keys += [f"{SAMPLE.name}/{_chunk_key(group, SAMPLE.name, shard)}" for shard in numbers]
    asyncio.run(_delete(session, keys))
    for shard in numbers:
        rows = auditor.layout.samples_of(shard)
        _array(group, SAMPLE.name)[rows.start : rows.stop] = np.array(rows, np.int64)


def _rebuild(name: str, lost: set[int], auditor: Auditor, group: zarr.Group) -> None:
    """Make an array anew, with all that can be read of it: to one whose manifest is torn nothing can be written."""
    schema, layout = BY_NAME[name], auditor.layout
    del group[name]
    array = make_array(group, schema, layout).with_config({"write_empty_chunks": True})
    for shard in range(layout.shards):
        rows = schema.rows_of(layout, shard)
        if schema == SAMPLE:
            array[rows] = np.arange(rows.start, rows.stop)
        elif shard not in lost and auditor.has(schema, shard):
            array[rows] = auditor.read(schema, shard, shard)


def _array(group: zarr.Group, name: str) -> "zarr.Array[Any]":
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _chunk_key(group: zarr.Group, name: str, shard: int) -> str:
    index = (shard, *(0 for _ in BY_NAME[name].dims[1:]))
    return str(_array(group, name).metadata.encode_chunk_key(index))


async def _delete(session: icechunk.Session, keys: list[str]) -> None:
    for key in keys:  # a key that is not there is no error
        await session.store.delete(key)


def collect_garbage(
    address: Location | Path | str,
    older_than: timedelta = DAY,
    expire: timedelta | None = None,
    dry_run: bool = False,
) -> Garbage:
    """Remove from a sweep's storage what no commit refers to. Every commit stays, unless `expire` is given.

    Args:
        address: the sweep.
        older_than: leave alone what was written more recently: a running driver's workers may have written it.
        expire: also take commits older than this out of the history, but the last one. A reader that is looking at
            one of them, or has kept its id, cannot go on with it.
        dry_run: only say what would be removed; what expired commits hold is not counted in then.

    Returns:
        What was removed, or would be.

    Raises:
        StoreError: there is no sweep; the storage refused; or `older_than` is under an hour or `expire` is given
            while another process drives the sweep (and of an object store, where that is not known, an
            `older_than` under an hour).
    """
    location = locate(address)
    repository = open_repository(location)
    recent = older_than < _SAFE_AGE
    if recent and not location.is_local and not dry_run:
        raise StoreError(
            f"whether {location} is driven by anyone cannot be known, and what was written within the last hour may "
            "be a running driver's; nothing was removed. Give an age of at least 1h."
        )
    now = datetime.now(UTC)
    with hold(location) if (recent or expire is not None) and not dry_run else nullcontext():
        try:
            expired = 0
            if expire is not None:
                expired = _expire(repository, now - expire, dry_run)
            removed = repository.garbage_collect(now - older_than, dry_run=dry_run)
        except icechunk.IcechunkError as error:
            raise StoreError(
                f"{location} could not be cleared of garbage ({cause(error)}); no result is lost. "
                "Check that its storage can be read and written to; pullback audit tells whether it is damaged."
            ) from error
    return Garbage(
        removed.bytes_deleted,
        removed.chunks_deleted,
        removed.manifests_deleted,
        removed.snapshots_deleted,
        removed.transaction_logs_deleted,
        expired,
    )


def _expire(repository: icechunk.Repository, before: datetime, dry_run: bool) -> int:
    if not dry_run:
        return len(repository.expire_snapshots(before))
    return sum(ancestor.written_at < before for ancestor in list(repository.ancestry(branch=BRANCH))[1:])
