"""The driver's side of a sweep's store: forks for workers, merging their results, committing.

Invariants: a shard becomes visible by the driver's commit or not at all; only the first result of a shard is kept. Only
one process may commit to a folder (`lock.driver_lock`). Two drivers may commit to an object store: each commit is made
on top of the last one, and leaves out the shards that the last one has already.

A killed driver loses the shards that it merged since its last commit; they are pending again.
"""

import pickle
import time
from contextlib import suppress
from pathlib import Path

import icechunk
import numpy as np
import numpy.typing as npt

from pullback.errors import RefusedError, StoreError
from pullback.store.chunks import read_chunks
from pullback.store.commits import commit_on_tip
from pullback.store.durability import recently_written, sync_filesystem, written_chunks
from pullback.store.failures import cause, clock_error
from pullback.store.location import Location, locate
from pullback.store.lock import note_driver_write
from pullback.store.opening import array_of, holds, open_tip, read_session, revision_of, root_group
from pullback.store.root import Root
from pullback.store.schema import PENDING, REVISION, SHARD_ARRAYS
from pullback.store.tip import BRANCH

_UNSYNCED_SECONDS = 600.0
"""A commit older than this is on the disk without a sync: systems write memory to the disk after some 30 seconds."""


class SweepStore:
    """A sweep's store, as its driver uses it. Not for concurrent use; committing requires the driver lock."""

    path: Path
    """The sweep's folder; for an object store, its address as pathlib writes it."""
    durable: bool = True
    """Whether commits in a folder are synced to the disk, so that a power cut leaves the sweep readable. Set it before
    `fork` is called."""

    def __init__(
        self, location: Location, repository: icechunk.Repository, root: Root, pinned: str | None = None
    ) -> None:
        self.location = location
        self.path = location.path
        self.layout = root.layout
        self.provenance = root.provenance
        self._repository = repository
        self._pinned = pinned
        """The snapshot to read if the branch's cannot be read; None if it can."""
        self._fork: bytes | None = None
        self._staged: dict[int, bytes] = {}
        self._files: dict[int, list[Path]] = {}
        """Chunk files of the shards merged since the last commit; only for a folder."""
        self.vanished: set[int] = set()
        """Shards whose files another program removed before they were committed; they are pending."""
        self._committed: set[int] = set()
        self._whole = True
        """Whether the last commit can be read, so that commits can build on it."""
        self._tip = ""
        """The commit that `_committed` was read from; another driver may have committed since."""
        session = read_session(repository, location, pinned)
        self._look(session)
        group = root_group(session, location)
        self.revision = revision_of(group.attrs.asdict())
        """Revision of the format by which the sweep was made."""
        self._schemas = [schema for schema in SHARD_ARRAYS if holds(group, schema)]

    @classmethod
    def open(cls, address: Location | Path | str) -> "SweepStore":
        """Open an existing sweep to add to it.

        If its last commit cannot be read, the newest readable one is used, and nothing can be committed before
        `recovery.recover`.

        Raises:
            StoreError: there is no sweep, or it cannot be read.
        """
        location = locate(address)
        repository, tip = open_tip(location)
        pinned = tip.pinned(location)
        group = root_group(read_session(repository, location, pinned), location)
        store = cls(location, repository, Root.of(group, location), pinned)
        store._whole = tip.whole
        return store

    @property
    def snapshot(self) -> str:
        """The id of the last commit."""
        return self._pinned or self._repository.lookup_branch(BRANCH)

    @property
    def lag(self) -> float:
        """Seconds by which the clock of this machine is behind the last commit; 0 if it is not.

        Icechunk refuses commits until it has caught up.
        """
        written = next(iter(self._repository.ancestry(snapshot_id=self.snapshot))).written_at
        return max(0.0, written.timestamp() - time.time())

    @property
    def uncommitted(self) -> int:
        """Number of shards merged since the last commit."""
        return len(self._staged)

    def status(self) -> npt.NDArray[np.uint8]:
        """The committed status of every sample, [samples] u1."""
        return self._status_in(read_session(self._repository, self.location, self._pinned))

    def pending_shards(self) -> list[int]:
        """The shards with a pending sample, ascending."""
        return self._pending_in(self.status())

    def fork(self) -> bytes:
        """Return the pickled fork with which workers write shards: under 1 KB, valid for the whole run everywhere."""
        if not self._whole:
            raise StoreError(
                f"the last commit of {self.location} cannot be read, so nothing can be added; it was left as it is. "
                f"Run the job again, or: pullback audit {self.location} --repair"
            )
        if self.revision > REVISION:
            raise StoreError(
                f"{self.location} was made by a newer version of Pullback (revision {self.revision} of the format, and "
                f"this one writes {REVISION}), whose results have more columns. This version reads it; nothing was "
                "changed. Update Pullback to continue it."
            )
        if self._fork is None:
            folder = self._synced_folder
            if folder is not None and recently_written(_reference(folder), time.time(), _UNSYNCED_SECONDS):
                sync_filesystem(folder)  # an earlier driver may not have synced its last commits
            self._fork = pickle.dumps((pickle.dumps(self._repository.writable_session(BRANCH).fork()), folder))
        return self._fork

    def merge(self, shard: int, result: bytes) -> bool:
        """Add a worker's result to the next commit.

        Args:
            shard: the shard that was computed.
            result: the return value of `write_shard`.

        Returns:
            False if the shard already has a result; the new one is then ignored.

        Raises:
            StoreError: the result contains other chunks than those of the shard.
        """
        if shard in self._committed or shard in self._staged:
            return False
        written = pickle.loads(result).status().updated_chunks
        expected = {f"/{schema.name}": [[shard, *(0 for _ in schema.dims[1:])]] for schema in self._schemas}
        if {name: [list(index) for index in chunks] for name, chunks in written.items()} != expected:
            raise StoreError(
                f"a worker returned chunks of other shards for shard {shard} of {self.location}; its result was "
                "discarded, and the shard is still pending. Run the job again; if this happens again, report it."
            )
        self._staged[shard] = result
        if self.location.is_local:
            self._files[shard] = written_chunks(result, self.path.resolve())
            for path in self._files[shard]:
                with suppress(OSError):
                    note_driver_write(self.location, path.stat().st_mtime)
        return True

    def commit(self, message: str) -> str:
        """Make every merged shard visible at once. Returns the id of the new commit, or of the last one if none was
        merged.

        On failure the shards stay merged, and committing can be tried again.

        Raises:
            ClockError: the clock of this machine is behind the last commit.
            RefusedError: another process committed in between each time, or the storage refused.
        """
        if not self._staged:
            return self.snapshot
        try:
            snapshot = commit_on_tip(self._repository, self._merge_staged, message, self._synced_folder)
        except (icechunk.ConflictError, icechunk.IcechunkError, OSError) as error:
            clock = clock_error(error, self.location)
            if clock is not None:
                raise clock from error
            what = f"{len(self._staged)} shards could not be committed to {self.location} ({cause(error)})"
            others = "; other processes drive this sweep too" if isinstance(error, icechunk.ConflictError) else ""
            raise RefusedError(what + others) from error
        self._committed |= self._staged.keys()
        self._staged.clear()
        self._files.clear()
        self._tip = snapshot
        return snapshot

    @property
    def _synced_folder(self) -> Path | None:
        return self.path.resolve() if self.durable and self.location.is_local else None

    def _merge_staged(self, session: icechunk.Session) -> bool:
        """Merge the shards into a session of the last commit, except those that this commit already has.

        In an object store, another driver may have committed them. The first result counts.
        """
        self._look(session)
        for shard in self._committed & self._staged.keys():
            del self._staged[shard]
        for shard, files in self._files.items():
            if shard in self._staged and not all(path.exists() for path in files):
                del self._staged[shard]
                self.vanished.add(shard)
        if self._staged:
            session.merge(*(pickle.loads(result) for result in self._staged.values()))
        return bool(self._staged)

    def _look(self, session: icechunk.Session) -> None:
        """Read from a session of the last commit which shards are committed."""
        if session.snapshot_id != self._tip:
            self._committed = {*range(self.layout.shards)} - {*self._pending_in(self._status_in(session))}
            self._tip = session.snapshot_id

    def _status_in(self, session: icechunk.Session) -> npt.NDArray[np.uint8]:
        array = array_of(root_group(session, self.location), "status", self.location)
        return read_chunks(session, array, (slice(None),), (), self.location)

    def _pending_in(self, status: npt.NDArray[np.uint8]) -> list[int]:
        shards = np.unique(np.flatnonzero(status == PENDING) // self.layout.shard_size)
        return [int(shard) for shard in shards]


def _reference(folder: Path) -> Path:
    return folder / "refs" / f"branch.{BRANCH}" / "ref.json"
