"""Maintenance of a sweep: repair makes damaged shards pending again, garbage collection removes unused files."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import icechunk
import zarr

from pullback.errors import StoreError
from pullback.store.arrays import make_array, write_numbers
from pullback.store.audit import Audit, Auditor, examine, went_back
from pullback.store.chunks import chunk_of, rows_of_chunk
from pullback.store.commits import commit_on_tip
from pullback.store.durability import sync_filesystem
from pullback.store.failures import cause, clock_error
from pullback.store.location import Location, locate
from pullback.store.lock import driver_lock, first_driver_write
from pullback.store.objects import store_time
from pullback.store.opening import open_repository, open_tip, read_session
from pullback.store.recovery import recover
from pullback.store.schema import BY_NAME, SAMPLE
from pullback.store.tip import BRANCH

DAY = timedelta(days=1)

_SAFE_AGE = timedelta(hours=1)
"""A commit refers to a worker's chunks seconds after they are written. Older chunks without a reference are garbage.
Younger ones are removed only if no driver is running."""

_MARGIN = timedelta(minutes=1)
"""File systems round times, and the clocks of a server and of its clients differ."""


@dataclass(frozen=True)
class Garbage:
    """The files that a garbage collection removed, or would remove.

    Attributes:
        bytes: total size.
        chunks: chunks to which no commit refers, mostly of workers that were killed.
        manifests: lists of chunks to which no commit refers.
        snapshots: expired commits, to which no branch leads.
        transaction_logs: the logs of these commits.
        expired: commits taken out of the history; 0 without `expire`.
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

    If the last commit cannot be read, the sweep first goes back to the newest one that can.

    Latent codes depend on the sample's index alone, so the next run gives the results that were lost. Undamaged shards
    stay as they are. The driver lock is held meanwhile. An object store has no such lock: stop the sweep's drivers
    first.

    Args:
        address: the sweep.
        progress: see `audit`.

    Returns:
        What was damaged.

    Raises:
        UnavailableError: something cannot be read at the moment, which proves no damage; nothing was changed.
        StoreError: another process drives the sweep, the storage refused, or the sweep's description cannot be read,
            which cannot be repaired.
    """
    location = locate(address)
    with driver_lock(location):
        repository, tip = open_tip(location, thorough=True)
        session = read_session(repository, location, tip.pinned(location))
        found = replace(examine(location, session, progress), went_back=went_back(tip, location))
        if found.went_back:
            recover(location)
            repository = open_repository(location)
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
            message = f"repair: {len(found.lost_shards)} shards are pending again"
            if location.is_local:
                folder = location.path.resolve()
                sync_filesystem(folder)  # rewritten chunks, and files of older drivers
                commit_on_tip(repository, write, message, folder)
            else:
                commit_on_tip(repository, write, message)
        except (icechunk.ConflictError, icechunk.IcechunkError, OSError) as error:
            clock = clock_error(error, location)
            if clock is not None:
                raise clock from error
            raise StoreError(
                f"{location} could not be repaired ({cause(error)}); it was left as it is. Check that its storage can "
                "be written to and is not full. If it still cannot be repaired, restore it from a copy, or run the job "
                "with another `store`."
            ) from error
    return found


def _give_up(found: Audit, auditor: Auditor, session: icechunk.Session) -> None:
    """Remove the damaged shards from a session, as if they had never been written."""
    group = zarr.open_group(session.store, mode="r+", use_consolidated=False)
    lost = set(found.lost_shards)
    for name in sorted({damage.array for damage in found.damages if damage.kind == "references"}):
        _rebuild(name, lost, auditor, group)
    keys = [
        f"{schema.name}/{_chunk_key(group, schema.name, shard)}"
        for schema in auditor.schemas
        if schema != SAMPLE
        for shard in sorted(lost)
    ]
    asyncio.run(_delete(session, keys))
    # All samples of a chunk are written anew, so what the chunk held does not matter.
    numbers = _array(group, SAMPLE.name)
    damaged = [auditor.layout.samples_of(damage.shard) for damage in found.damages if damage.array == SAMPLE.name]
    chunks = sorted({chunk_of(numbers, samples.start) for samples in damaged})
    asyncio.run(_delete(session, [f"{SAMPLE.name}/{numbers.metadata.encode_chunk_key((chunk,))}" for chunk in chunks]))
    for chunk in chunks:
        first = chunk * rows_of_chunk(numbers)
        write_numbers(numbers, range(first, first + 1))


def _rebuild(name: str, lost: set[int], auditor: Auditor, group: zarr.Group) -> None:
    """Create an array again and copy its readable shards: an array with a damaged manifest cannot be written to."""
    schema, layout = BY_NAME[name], auditor.layout
    del group[name]
    array = make_array(group, schema, layout).with_config({"write_empty_chunks": True})
    if schema == SAMPLE:
        write_numbers(array, range(layout.samples))
        return
    for shard in range(layout.shards):
        rows = schema.rows_of(layout, shard)
        if shard not in lost and auditor.has(schema, shard):
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
    driver_since: Callable[[Location], datetime | None] = lambda location: None,
) -> Garbage:
    """Remove files of a sweep to which no commit refers. Every commit stays, unless `expire` is given.

    Args:
        address: the sweep.
        older_than: keep files written more recently, by the clock of the storage. Files of a running driver are kept
            whatever their age.
        expire: also take commits older than this out of the history, except the last one. Readers can no longer read
            them.
        dry_run: only count what would be removed. The files of commits that would expire are not counted.
        driver_since: returns when the driver of a sweep in an object store began, by the clock of the object store;
            None if no driver is running. It is not called for a folder, whose lock shows this.

    Returns:
        What was removed, or would be.

    Raises:
        StoreError: there is no sweep; the storage refused; or `older_than` is under an hour or `expire` is given
            while another process drives the sweep (in an object store, any `older_than` under an hour).
    """
    location = locate(address)
    repository, tip = open_tip(location)
    if not tip.whole:
        raise StoreError(
            f"the last commit of {location} cannot be read, so what is garbage cannot be known; nothing was removed. "
            f"Repair the sweep first: pullback audit {location} --repair"
        )
    if older_than < _SAFE_AGE and not location.is_local and not dry_run:
        raise StoreError(
            f"{location} does not show whether a driver is running, which may still need files of the last hour; "
            "nothing was removed. Give an age of at least 1h."
        )
    try:
        now = store_time(location)
    except StoreError:
        if not dry_run:
            raise
        now = datetime.now(UTC)
    with ExitStack() as held:
        before = now - older_than
        if not location.is_local:
            before = _before_remote_driver(location, before, driver_since(location), expire is not None and not dry_run)
        elif not dry_run:
            before = _before_any_driver(location, before, held, must_hold=older_than < _SAFE_AGE or expire is not None)
        try:
            expired = 0
            if expire is not None:
                expired = _expire(repository, now - expire, dry_run)
            removed = repository.garbage_collect(before, dry_run=dry_run)
        except icechunk.IcechunkError as error:
            raise StoreError(
                f"the garbage of {location} could not be removed ({cause(error)}); no result is lost. "
                "Check that its storage can be read and written to; `pullback audit` shows whether it is damaged."
            ) from error
    return Garbage(
        removed.bytes_deleted,
        removed.chunks_deleted,
        removed.manifests_deleted,
        removed.snapshots_deleted,
        removed.transaction_logs_deleted,
        expired,
    )


def _before_any_driver(location: Location, before: datetime, held: ExitStack, must_hold: bool) -> datetime:
    """Return the time before which files may be removed without removing files of a running driver or its workers.

    If no driver is running, `held` keeps the driver lock, so that none begins. Otherwise the driver's files are kept
    whatever their age, because its clock or this one may be wrong.
    """
    try:
        held.enter_context(driver_lock(location))
    except StoreError:
        since = first_driver_write(location)
        if must_hold or since is None:
            raise
        return min(before, datetime.fromtimestamp(since, UTC) - _MARGIN)
    return before


def _before_remote_driver(location: Location, before: datetime, since: datetime | None, expires: bool) -> datetime:
    """As `_before_any_driver`, for a sweep in an object store. Only a record shows whether it has a driver."""
    if since is None:
        return before
    if expires:
        raise StoreError(
            f"a driver of {location} is running (or was killed within the last hour), and its workers may still need "
            "commits that would expire; nothing was removed. Omit --expire, or wait for the driver to end."
        )
    return min(before, since - _MARGIN)


def _expire(repository: icechunk.Repository, before: datetime, dry_run: bool) -> int:
    if not dry_run:
        return len(repository.expire_snapshots(before))
    return sum(ancestor.written_at < before for ancestor in list(repository.ancestry(branch=BRANCH))[1:])
