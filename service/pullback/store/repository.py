"""A sweep's store as its driver and its workers see it: creating, writing shards, committing.

Invariants: a store exists whole or not at all; shapes never change; a shard is written whole, through a fork, and
becomes visible by the driver's commit or not at all; only the first result of a shard is kept. To a folder only one
process may commit: see `hold`. In an object store two drivers may: each commit is made on top of the last, and leaves
out what that has already. Reading is left to `reader`, the meaning of the arrays to `schema`.

What a failure leaves: a worker killed in mid-shard leaves chunk files that nothing refers to; a driver killed
between commits loses the shards handed in since the last one, which are pending again; nothing else.
"""

import asyncio
import inspect
import json
import math
import pickle
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import icechunk
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import StoreLike

from pullback.errors import NoSweepError, RefusedError, StoreError
from pullback.store.folders import whole_folder
from pullback.store.location import Location, locate
from pullback.store.lock import hold
from pullback.store.opening import (
    BRANCH,
    NO_PRELOAD,
    array_of,
    cause,
    commit_on_tip,
    has_content,
    is_free,
    is_repository,
    open_repository,
    read,
    read_session,
    root_group,
)
from pullback.store.schema import ARRAYS, PENDING, SHARD_ARRAYS, ArraySchema, Layout, ShardRecord

__all__ = ["Root", "SweepStore", "create", "hold", "is_repository", "write_shard"]

FORMAT = 1
"""The version of the arrays and attributes; a reader refuses a newer one."""

ATTRIBUTE = "pullback"
"""The root group's attribute under which format, layout and provenance stand."""

_LEAST_SHARDS_A_MANIFEST = 64
"""A commit rewrites the manifests it touches. Unsplit, they grow with the sweep: 600 shards committed by fours
left 69 MB of them, split like this 8 MB."""


@dataclass(frozen=True)
class Root:
    """What the root group's attributes say of a sweep."""

    layout: Layout
    provenance: dict[str, Any]

    def to_attributes(self) -> dict[str, Any]:
        """The attributes to store; raises StoreError where the provenance is not JSON."""
        try:
            provenance = json.loads(json.dumps(self.provenance, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise StoreError(
                f"the provenance cannot be stored as JSON ({error}); nothing was written. "
                "Give it as plain dicts, lists, strings, finite numbers and booleans."
            ) from error
        return {ATTRIBUTE: {"format": FORMAT, "layout": self.layout.to_dict(), "provenance": provenance}}

    @classmethod
    def of(cls, group: zarr.Group, location: Location) -> "Root":
        """Read the attributes; raises StoreError where they are not a sweep's, or a newer version's."""
        entry = cast(Any, group.attrs.asdict().get(ATTRIBUTE))
        if not isinstance(entry, Mapping):
            raise NoSweepError(
                f"{location} is an Icechunk repository, but not a sweep of Pullback; it was left as it is."
            )
        version = entry.get("format")
        if not isinstance(version, int) or version > FORMAT:
            raise StoreError(
                f"{location} has format {version}, and this version of Pullback reads up to {FORMAT}; "
                "it was left as it is. Update Pullback to read it."
            )
        try:
            return cls(Layout.from_dict(entry["layout"]), dict(entry["provenance"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{location} does not say which sweep it is ({error}): its attributes are damaged."
            ) from error


def create(address: Location | Path | str, layout: Layout, provenance: dict[str, Any]) -> "SweepStore":
    """Make the store of a planned sweep, every array at its final shape, every sample pending.

    The Icechunk repository is the folder (or prefix) itself; the sweep appears there whole or not at all. Missing
    parents of a folder are made, and removed again on failure.

    Args:
        address: a folder that does not exist or is empty, or a free place in an object store.
        layout: the sizes that fix every shape.
        provenance: what made the sweep, ready for JSON; its `name` is the sweep's.

    Raises:
        StoreError: the place is taken or not writable; the provenance is not JSON.
    """
    location = locate(address)
    attributes = Root(layout, provenance).to_attributes()
    if location.is_local:
        with whole_folder(location.path.resolve()) as temporary:
            _make_sweep(Location(temporary), location, layout, attributes)
    else:
        if not is_free(location):
            raise _taken(location)
        _make_sweep(location, location, layout, attributes)
    return SweepStore.open(location)


def _make_sweep(place: Location, location: Location, layout: Layout, attributes: dict[str, Any]) -> None:
    """Make the repository and commit the arrays, which is when the sweep at `location` begins to exist."""
    try:
        repository = _make_repository(place, layout)
        session = repository.writable_session(BRANCH)
        if has_content(session):  # since a moment ago
            raise _taken(location)
        make_arrays(session.store, layout, attributes)
        session.commit("plan")
    except icechunk.ConflictError as error:
        raise _taken(location) from error
    except icechunk.IcechunkError as error:
        raise StoreError(
            f"{location} cannot be written ({cause(error)}); no sweep was left there. "
            "Check that it is writable and not full, or choose another place."
        ) from error


def _make_repository(place: Location, layout: Layout) -> icechunk.Repository:
    """An empty repository; one that is there already, where a driver was killed or another is at it now."""
    try:
        repository = icechunk.Repository.create(place.storage(), config=_config(layout), **_format_options())
    except icechunk.IcechunkError:
        if not is_repository(place):
            raise
        return open_repository(place)
    repository.save_config()
    return repository


def _taken(location: Location) -> StoreError:
    return StoreError(f"{location} is taken; it was left as it is. Choose another place.")


def make_arrays(store: StoreLike, layout: Layout, attributes: dict[str, Any]) -> zarr.Group:
    """Make the root group and every array of a sweep in an empty Zarr store, and fill `sample`."""
    group = zarr.create_group(store, zarr_format=3, attributes=attributes)
    for schema in ARRAYS:
        make_array(group, schema, layout)
    array_of(group, "sample")[:] = np.arange(layout.samples, dtype=np.int64)
    return group


def make_array(group: zarr.Group, schema: ArraySchema, layout: Layout) -> "zarr.Array[Any]":
    """Make one array of a sweep, at its final shape, with nothing in it."""
    shard = schema.shard_shape(layout)
    # With zarr's default codecs a flipped byte is returned as data. The checksum comes last, over the bytes as stored.
    codecs = [ZstdCodec(), Crc32cCodec()] if schema.compressed else [Crc32cCodec()]
    return group.create_array(
        schema.name,
        shape=schema.shape(layout),
        shards=shard if schema.inner_chunks else None,
        chunks=(1, *shard[1:]) if schema.inner_chunks else shard,
        dtype=schema.dtype,
        compressors=codecs,
        fill_value=schema.fill,
        dimension_names=schema.dims,
        attributes={"long_name": schema.long_name, "units": schema.units, **schema.attributes},
    )


def write_shard(fork: bytes, record: ShardRecord) -> bytes:
    """Write one shard whole, in a worker; the driver makes it visible with `merge` and `commit`.

    Args:
        fork: `SweepStore.fork()` of the driver; it serves any number of shards, in any process.
        record: the shard's results.

    Returns:
        What to give to `SweepStore.merge`: a few kilobytes (23 of 60,000 shards), for the data stay where they were
        written.

    Raises:
        ValueError: the record does not fit the plan.
        RefusedError: the storage refused.
    """
    session = pickle.loads(fork)
    try:
        with ThreadPoolExecutor(1) as thread:  # the caller's may have an event loop, as a notebook's
            thread.submit(asyncio.run, _write(session, record)).result()
    except (icechunk.IcechunkError, OSError) as error:
        raise RefusedError(f"shard {record.shard} could not be written ({cause(error)})") from error
    return pickle.dumps(session)


async def _write(session: icechunk.Session, record: ShardRecord) -> None:
    """Write all arrays at once: one after the other, each would wait several times for the lock of Python, which the
    thread that computes holds most of the time."""
    group = await zarr.api.asynchronous.open_group(store=session.store, mode="r+", use_consolidated=False)
    layout = Layout.from_dict(cast(dict[str, Any], group.attrs[ATTRIBUTE])["layout"])
    record.validate(layout)

    async def write(schema: ArraySchema) -> None:
        try:
            array = cast("zarr.AsyncArray[Any]", await group.getitem(schema.name))
        except Exception as error:  # see `read`
            raise StoreError(
                f"shard {record.shard} could not be written: the description of {schema.name} is damaged "
                f"({cause(error)}). What was committed before is kept; `pullback audit` tells what is damaged."
            ) from error
        # Chunks that equal the fill value are written too: every shard then has every chunk, and `merge` can tell a
        # whole result from a part.
        array = array.with_config({"write_empty_chunks": True})
        values = getattr(record, schema.name).reshape(-1, *array.shape[1:])
        await array.setitem(schema.rows_of(layout, record.shard), values)

    await asyncio.gather(*map(write, SHARD_ARRAYS))


class SweepStore:
    """The driver's side of one sweep's store. Not for concurrent use; hold the sweep (`hold`) while you commit."""

    path: Path
    """The sweep's folder; in an object store there is none, and this is its address as pathlib writes it."""

    def __init__(self, location: Location, repository: icechunk.Repository, root: Root) -> None:
        self.location = location
        self.path = location.path
        self.layout = root.layout
        self.provenance = root.provenance
        self._repository = repository
        self._fork: bytes | None = None
        self._staged: dict[int, bytes] = {}
        self._committed: set[int] = set()
        self._tip = ""
        """The commit of which `_committed` tells; another driver may have committed since."""
        self._look(read_session(repository, location))

    @classmethod
    def open(cls, address: Location | Path | str) -> "SweepStore":
        """Open an existing sweep to go on with it; raises StoreError where there is none."""
        location = locate(address)
        repository = open_repository(location)
        group = root_group(read_session(repository, location), location)
        return cls(location, repository, Root.of(group, location))

    @property
    def snapshot(self) -> str:
        """The id of the last commit."""
        return self._repository.lookup_branch(BRANCH)

    @property
    def uncommitted(self) -> int:
        """How many shards were merged since the last commit."""
        return len(self._staged)

    def status(self) -> npt.NDArray[np.uint8]:
        """The committed status of every sample, [samples] u1."""
        return self._status_in(read_session(self._repository, self.location))

    def pending_shards(self) -> list[int]:
        """The shards, ascending, of which any sample's committed status is pending."""
        return self._pending_in(self.status())

    def fork(self) -> bytes:
        """What a worker needs to write shards, pickled: under 1 KB, good for the whole run and for any process."""
        if self._fork is None:
            self._fork = pickle.dumps(self._repository.writable_session(BRANCH).fork())
        return self._fork

    def merge(self, shard: int, result: bytes) -> bool:
        """Take a worker's result for the next commit.

        Args:
            shard: the shard that was asked for.
            result: what `write_shard` returned.

        Returns:
            False, and the result is ignored, where the shard has one already.

        Raises:
            StoreError: the result is not exactly that shard's.
        """
        if shard in self._committed or shard in self._staged:
            return False
        written = pickle.loads(result).status().updated_chunks
        expected = {f"/{schema.name}": [[shard, *(0 for _ in schema.dims[1:])]] for schema in SHARD_ARRAYS}
        if {name: [list(index) for index in chunks] for name, chunks in written.items()} != expected:
            raise StoreError(
                f"a worker's result for shard {shard} of {self.location} is not exactly that shard; it was not taken, "
                "and the shard is still pending. Run the sweep again; if this returns, report it."
            )
        self._staged[shard] = result
        return True

    def commit(self, message: str) -> str:
        """Make every merged shard visible at once; returns the id of the new commit (of the last, if none was merged).

        On failure the merged shards stay merged, and committing can be tried again.

        Raises:
            RefusedError: other processes committed all the time, or the storage refused.
        """
        if not self._staged:
            return self.snapshot
        try:
            snapshot = commit_on_tip(self._repository, self._merge_staged, message)
        except (icechunk.ConflictError, icechunk.IcechunkError) as error:
            what = f"{len(self._staged)} shards could not be committed to {self.location} ({cause(error)})"
            others = "; other processes drive this sweep too" if isinstance(error, icechunk.ConflictError) else ""
            raise RefusedError(what + others) from error
        self._committed |= self._staged.keys()
        self._staged.clear()
        self._tip = snapshot
        return snapshot

    def _merge_staged(self, session: icechunk.Session) -> bool:
        """Put the merged shards into a session of the last commit, but for those that this commit has already.

        Where there is no lock another driver may have committed them: the first result stays.
        """
        self._look(session)
        for shard in self._committed & self._staged.keys():
            del self._staged[shard]
        if self._staged:
            session.merge(*(pickle.loads(result) for result in self._staged.values()))
        return bool(self._staged)

    def _look(self, session: icechunk.Session) -> None:
        """Learn what is committed, from a session of the last commit."""
        if session.snapshot_id != self._tip:
            self._committed = {*range(self.layout.shards)} - {*self._pending_in(self._status_in(session))}
            self._tip = session.snapshot_id

    def _status_in(self, session: icechunk.Session) -> npt.NDArray[np.uint8]:
        group = root_group(session, self.location)
        return read(array_of(group, "status", self.location), slice(None), self.location)

    def _pending_in(self, status: npt.NDArray[np.uint8]) -> list[int]:
        shards = np.unique(np.flatnonzero(status == PENDING) // self.layout.shard_size)
        return [int(shard) for shard in shards]


def _shards_a_manifest(shards: int) -> int:
    """Between manifests that are large and a list of them that is long: every worker's result carries the list.

    With 64 in each, committing a shard of 20,000 took 4 ms, and with these 0.6 ms.
    """
    return max(_LEAST_SHARDS_A_MANIFEST, 2 * math.isqrt(shards))


def _config(layout: Layout) -> icechunk.RepositoryConfig:
    by_shard = {icechunk.ManifestSplitDimCondition.Axis(0): _shards_a_manifest(layout.shards)}
    splitting = icechunk.ManifestSplittingConfig.from_dict(
        {icechunk.ManifestSplitCondition.AnyArray(): by_shard}  # type: ignore[dict-item]
    )
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(splitting=splitting, preload=NO_PRELOAD)
    return config


def _format_options() -> dict[str, Any]:
    """Icechunk 2 writes its format 2 unless told, which Icechunk 1 cannot read; both read and write format 1."""
    parameters = inspect.signature(icechunk.Repository.create).parameters
    return {"spec_version": 1} if "spec_version" in parameters else {}
