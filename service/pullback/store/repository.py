"""A sweep's store as its driver and its workers see it: creating, writing shards, committing.

This module owns Zarr's and Icechunk's quirks. Invariants: a store exists whole or not at all; shapes never change;
a shard is written whole, through a fork, and becomes visible by the driver's commit or not at all; only the first
result of a shard is kept. Only one process may commit: see `hold`. Reading is left to `reader`, the meaning of the
arrays to `schema`.

What a failure leaves: a worker killed in mid-shard leaves chunk files that nothing refers to; a driver killed
between commits loses the shards handed in since the last one, which are pending again; nothing else.
"""

import inspect
import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import icechunk
import numpy as np
import numpy.typing as npt
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import StoreLike

from pullback.errors import StoreError
from pullback.store.folders import local_path, whole_folder
from pullback.store.lock import hold
from pullback.store.schema import ARRAYS, PENDING, SHARD_ARRAYS, ArraySchema, Layout, ShardRecord

__all__ = ["Root", "SweepStore", "create", "hold", "write_shard"]

FORMAT = 1
"""The version of the arrays and attributes; a reader refuses a newer one."""

ATTRIBUTE = "pullback"
"""The root group's attribute under which format, layout and provenance stand."""

BRANCH = "main"

_SHARDS_A_MANIFEST = 64
"""A commit rewrites the manifests it touches. Unsplit, they grow with the sweep: 600 shards committed by fours
left 69 MB of them, split like this 8 MB."""

if "ICECHUNK_LOG" not in os.environ:
    # Icechunk's warning that local storage loses concurrent commits is answered by `hold`; it would be printed by
    # every process that opens a sweep. The second name is version 2's, the third its remark on the same storage.
    icechunk.set_logs_filter(
        "warn,icechunk::storage::object_store=error,icechunk_arrow_object_store=error,icechunk_storage::readback=error"
    )


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
    def of(cls, group: zarr.Group, path: Path) -> "Root":
        """Read the attributes; raises StoreError where they are not a sweep's, or a newer version's."""
        entry = cast(Any, group.attrs.asdict().get(ATTRIBUTE))
        if not isinstance(entry, Mapping):
            raise StoreError(f"{path} is an Icechunk repository, but not a sweep of Pullback; it was left as it is.")
        version = entry.get("format")
        if not isinstance(version, int) or version > FORMAT:
            raise StoreError(
                f"{path} has format {version}, and this version of Pullback reads up to {FORMAT}; "
                "it was left as it is. Update Pullback to read it."
            )
        try:
            return cls(Layout.from_dict(entry["layout"]), dict(entry["provenance"]))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path} does not say which sweep it is ({error}): its attributes are damaged.") from error


def create(path: Path | str, layout: Layout, provenance: dict[str, Any]) -> "SweepStore":
    """Make the store of a planned sweep, every array at its final shape, every sample pending.

    The Icechunk repository is the folder `path` itself; it appears there whole or not at all. Missing parents are
    made, and removed again on failure.

    Args:
        path: a local folder that does not exist or is empty.
        layout: the sizes that fix every shape.
        provenance: what made the sweep, ready for JSON; its `name` is the sweep's.

    Raises:
        StoreError: the path is taken, a URL or not writable; the provenance is not JSON.
    """
    path = local_path(path)
    attributes = Root(layout, provenance).to_attributes()
    with whole_folder(path.resolve()) as temporary:
        try:
            repository = icechunk.Repository.create(_storage(temporary), config=_config(), **_format_options())
            repository.save_config()
            session = repository.writable_session(BRANCH)
            make_arrays(session.store, layout, attributes)
            session.commit("plan")
        except icechunk.IcechunkError as error:
            raise StoreError(
                f"{path} cannot be written ({cause(error)}); nothing was left there. "
                "Check that the folder is writable and its disk is not full, or choose another."
            ) from error
    return SweepStore.open(path)


def make_arrays(store: StoreLike, layout: Layout, attributes: dict[str, Any]) -> zarr.Group:
    """Make the root group and every array of a sweep in an empty Zarr store, and fill `sample`."""
    group = zarr.create_group(store, zarr_format=3, attributes=attributes)
    for schema in ARRAYS:
        _make_array(group, schema, layout)
    array_of(group, "sample")[:] = np.arange(layout.samples, dtype=np.int64)
    return group


def _make_array(group: zarr.Group, schema: ArraySchema, layout: Layout) -> None:
    shard = schema.shard_shape(layout)
    # With zarr's default codecs a flipped byte is returned as data. The checksum comes last, over the bytes as stored.
    codecs = [ZstdCodec(), Crc32cCodec()] if schema.compressed else [Crc32cCodec()]
    group.create_array(
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
        What to give to `SweepStore.merge`: a few kilobytes, for the data stays where it was written.

    Raises:
        ValueError: the record does not fit the plan.
        StoreError: the disk refused.
    """
    session = pickle.loads(fork)
    group = zarr.open_group(session.store, mode="r+", use_consolidated=False)
    layout = Layout.from_dict(cast(dict[str, Any], group.attrs[ATTRIBUTE])["layout"])
    record.validate(layout)
    try:
        for schema in SHARD_ARRAYS:
            # Chunks that equal the fill value are written too: every shard then has every chunk, and `merge` can
            # tell a whole result from a part.
            array = array_of(group, schema.name).with_config({"write_empty_chunks": True})
            rows = schema.rows_of(layout, record.shard)
            array[rows] = getattr(record, schema.name).reshape(-1, *array.shape[1:])
    except (icechunk.IcechunkError, OSError) as error:
        raise StoreError(
            f"shard {record.shard} could not be written ({cause(error)}); what was committed before is kept. "
            "Check that the sweep's disk is mounted and not full, then run the sweep again: it resumes."
        ) from error
    return pickle.dumps(session)


class SweepStore:
    """The driver's side of one sweep's store. Not for concurrent use; hold the sweep (`hold`) while you commit."""

    def __init__(self, path: Path, repository: icechunk.Repository, root: Root) -> None:
        self.path = path
        self.layout = root.layout
        self.provenance = root.provenance
        self._repository = repository
        self._fork: bytes | None = None
        self._staged: dict[int, bytes] = {}
        self._committed = set(range(root.layout.shards)) - set(self.pending_shards())

    @classmethod
    def open(cls, path: Path | str) -> "SweepStore":
        """Open an existing sweep to go on with it; raises StoreError where there is none."""
        path = local_path(path)
        repository = open_repository(path)
        group = root_group(read_session(repository, path), path)
        return cls(path, repository, Root.of(group, path))

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
        group = root_group(read_session(self._repository, self.path), self.path)
        return read(array_of(group, "status"), slice(None), self.path)

    def pending_shards(self) -> list[int]:
        """The shards, ascending, of which any sample's committed status is pending."""
        pending = np.flatnonzero(self.status() == PENDING)
        return [int(shard) for shard in np.unique(pending // self.layout.shard_size)]

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
                f"a worker's result for shard {shard} of {self.path} is not exactly that shard; it was not taken, "
                "and the shard is still pending. Run the sweep again; if this returns, report it."
            )
        self._staged[shard] = result
        return True

    def commit(self, message: str) -> str:
        """Make every merged shard visible at once; returns the id of the new commit (of the last, if none was merged).

        On failure the merged shards stay merged, and committing can be tried again.

        Raises:
            StoreError: another process committed since, or the disk refused.
        """
        if not self._staged:
            return self.snapshot
        try:
            session = self._repository.writable_session(BRANCH)
            session.merge(*(pickle.loads(result) for result in self._staged.values()))
            snapshot = session.commit(message)
        except (icechunk.ConflictError, icechunk.IcechunkError) as error:
            raise StoreError(
                f"{len(self._staged)} shards could not be committed to {self.path} ({cause(error)}); what was "
                "committed before is kept. Check that its disk is not full and that no other process drives this "
                "sweep, then run it again: it resumes."
            ) from error
        self._committed |= self._staged.keys()
        self._staged.clear()
        return snapshot


# Opening and reading, shared with `reader`.


def is_repository(path: Path) -> bool:
    """Whether a folder looks like an Icechunk repository. Icechunk itself would make the folder by asking."""
    return (path / "snapshots").is_dir() and ((path / "refs").is_dir() or (path / "repo").is_file())


def open_repository(path: Path) -> icechunk.Repository:
    """Open the Icechunk repository at a path; raises StoreError where there is none, with the nearest sweep."""
    if not is_repository(path):
        raise StoreError(_missing(path))
    try:
        # Absolute, because a fork carries the path to workers that may stand in another folder.
        return icechunk.Repository.open(_storage(path.resolve()))
    except icechunk.IcechunkError as error:
        raise StoreError(f"{path} cannot be opened ({cause(error)}); it was left as it is.") from error


def read_session(repository: icechunk.Repository, path: Path, snapshot: str | None = None) -> icechunk.Session:
    """A read-only session of the commit with this id; of the last one by default."""
    try:
        if snapshot is None:
            return repository.readonly_session(BRANCH)
        return repository.readonly_session(snapshot_id=snapshot)
    except (icechunk.IcechunkError, ValueError) as error:  # ValueError: what is no id at all
        if snapshot is not None:
            raise StoreError(
                f"{path} has no snapshot {snapshot!r} that can be read ({cause(error)}); it was left as it is. "
                "Take an id that a reader of this very sweep gave, or none for the last commit."
            ) from error
        raise StoreError(f"{path} cannot be opened ({cause(error)}); it was left as it is.") from error


def root_group(session: icechunk.Session, path: Path) -> zarr.Group:
    """The root group that a session sees, for reading."""
    try:
        return zarr.open_group(session.store, mode="r", use_consolidated=False)
    except FileNotFoundError:
        raise StoreError(
            f"{path} is an Icechunk repository without a root group, not a sweep of Pullback (or a damaged one); "
            "it was left as it is."
        ) from None
    except (icechunk.IcechunkError, ValueError) as error:
        raise StoreError(f"{path} cannot be opened ({cause(error)}); it was left as it is.") from error


def array_of(group: zarr.Group, name: str, path: Path | None = None) -> "zarr.Array[Any]":
    """An array of the group, by name; raises StoreError where its description is damaged."""
    try:
        return cast("zarr.Array[Any]", group[name])
    except Exception as error:  # see `read`
        raise damaged(name, path or Path(str(group.store)), error) from error


def read(array: "zarr.Array[Any]", selection: Any, path: Path) -> npt.NDArray[Any]:
    """Read a selection (slices and integer arrays, one an axis, independently of each other).

    Raises:
        StoreError: what is on disk is damaged; names the array.
    """
    try:
        return np.asarray(array.oindex[selection])
    except Exception as error:  # Zarr's codecs and Icechunk raise as they like; all of it means the same here
        raise damaged(array.basename, path, error) from error


def has_chunk(session: icechunk.Session, schema: ArraySchema, shard: int) -> bool:
    """Whether the array holds anything for the shard. If not, it reads as fill values, without an error."""
    index = [shard, *(0 for _ in schema.dims[1:])]
    kind = session.chunk_type(f"/{schema.name}", index)
    return not str(kind).lower().endswith("uninitialized")  # Icechunk 1 writes the names in capitals, 2 does not


def damaged(name: str, path: Path, why: BaseException | str) -> StoreError:
    """The error to raise where an array's data on disk cannot be trusted."""
    return StoreError(
        f"the array '{name}' of {path} cannot be read: its data on disk are damaged or missing "
        f"({cause(why) if isinstance(why, BaseException) else why}). Nothing wrong was returned; other arrays "
        "and samples may still be read. Restore the folder from a copy, or run the sweep anew in another folder."
    )


def cause(error: BaseException) -> str:
    """What an error says, in one line. Icechunk adds several that only its authors can use."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    first = lines[0].removeprefix("x ")
    deeper = [line.removeprefix("`-> ") for line in lines if line.startswith("`-> ")]
    return f"{first}: {deeper[-1]}" if deeper and deeper[-1] != first else first


def _missing(path: Path) -> str:
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


def _storage(path: Path) -> icechunk.Storage:
    return icechunk.local_filesystem_storage(str(path))


def _config() -> icechunk.RepositoryConfig:
    by_shard = {icechunk.ManifestSplitDimCondition.Axis(0): _SHARDS_A_MANIFEST}
    splitting = icechunk.ManifestSplittingConfig.from_dict(
        {icechunk.ManifestSplitCondition.AnyArray(): by_shard}  # type: ignore[dict-item]
    )
    config = icechunk.RepositoryConfig.default()
    config.manifest = icechunk.ManifestConfig(splitting=splitting)
    return config


def _format_options() -> dict[str, Any]:
    """Icechunk 2 writes its format 2 unless told, which Icechunk 1 cannot read; both read and write format 1."""
    parameters = inspect.signature(icechunk.Repository.create).parameters
    return {"spec_version": 1} if "spec_version" in parameters else {}
