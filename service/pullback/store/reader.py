"""A sweep as its reader sees it: one snapshot, which no later commit changes.

Reads never change a store. Damaged data are reported as StoreError, never returned. Statistics beyond counting and
the mean metric are left to the analysis package.
"""

import logging
from collections.abc import Container
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np
import numpy.typing as npt
import zarr
from zarr.storage import LocalStore

from pullback.errors import NoSweepError, StoreError
from pullback.store import bulk
from pullback.store.folders import local_path, whole_folder
from pullback.store.location import Location, locate
from pullback.store.objects import children
from pullback.store.opening import (
    BRANCH,
    array_of,
    cause,
    damaged,
    has_chunk,
    is_repository,
    open_repository,
    read,
    read_session,
    root_group,
)
from pullback.store.repository import ATTRIBUTE, Root, make_arrays
from pullback.store.schema import (
    ARRAYS,
    BY_NAME,
    GOOD,
    PENDING,
    QUARANTINED,
    SAMPLE,
    SHARD_ARRAYS,
    ArraySchema,
    Layout,
    Reason,
)

if TYPE_CHECKING:
    import xarray as xr

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepStatus:
    """How many of a sweep's samples are in which state; the three states add up to `planned`."""

    planned: int
    good: int
    quarantined: int
    pending: int

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return asdict(self)


class Sweep:
    """A sweep as it stood at one commit. Open it again to see later ones."""

    location: Location
    path: Path
    """The sweep's folder; in an object store there is none, and this is its address as pathlib writes it."""
    name: str
    """The name its job gave it, or else its folder's."""
    provenance: dict[str, Any]
    """What made the sweep, as the job recorded it."""
    layout: Layout
    snapshot: str
    """The id of the commit that is read."""

    def __init__(self, location: Location, session: icechunk.Session, group: zarr.Group) -> None:
        root = Root.of(group, location)
        self.location = location
        self.path = location.path
        self.provenance = root.provenance
        self.name = str(root.provenance.get("name", location.name))
        self.layout = root.layout
        self.snapshot = session.snapshot_id
        self._session = session
        self._group = group
        self._arrays: dict[str, zarr.Array[Any]] = {}  # opening one takes a millisecond

    def __repr__(self) -> str:
        return f"<Sweep {self.name} at {self.location}: {self.layout.samples} samples>"

    def status(self) -> SweepStatus:
        """How many samples are planned, good, quarantined and pending."""
        counts = np.bincount(self._status, minlength=QUARANTINED + 1)
        return SweepStatus(len(self._status), int(counts[GOOD]), int(counts[QUARANTINED]), int(counts[PENDING]))

    def sample_status(self) -> npt.NDArray[np.uint8]:
        """The status of every sample, [samples]: PENDING, GOOD or QUARANTINED of `schema`."""
        return self._status.copy()

    def values(self, name: str, samples: slice, components: slice = slice(None)) -> npt.NDArray[Any]:
        """A piece of one array by position, without making a dataset of all of them.

        Args:
            name: an array whose first dimension is `sample`.
            samples: which samples, of any status.
            components: which entries of the second dimension, where there is one.

        Raises:
            StoreError: data on disk are damaged.
        """
        schema = BY_NAME[name]
        return self._read(schema, (samples, components) if len(schema.dims) > 1 else samples)

    def reasons(self) -> dict[str, int]:
        """How many samples are quarantined for which reason, by the reason's name; reasons that occur only."""
        reasons = self._read(BY_NAME["reason"])[self._status == QUARANTINED]
        names = {int(reason): reason.name for reason in Reason}
        values, counts = np.unique(reasons, return_counts=True)
        return {
            names.get(int(value), f"REASON_{value}"): int(count) for value, count in zip(values, counts, strict=True)
        }

    def dataset(self, only_good: bool = True) -> "xr.Dataset":
        """The sweep as a dataset with the coordinate `sample`, read from disk when used.

        Args:
            only_good: leave out every sample that is not good. `metric_sum` has all shards either way; it sums
                good samples only.

        Raises:
            StoreError: here or when values are used, where data on disk are damaged.
        """
        import xarray as xr

        from pullback.store.lazy import CheckedArray, lazy_variable

        variables = {}
        for schema in ARRAYS:
            array = CheckedArray(schema.shape(self.layout), schema.dtype, partial(self._read, schema))
            variables[schema.name] = lazy_variable(schema.dims, array, self._array(schema).attrs.asdict())
        dataset = xr.Dataset(variables, attrs=self._group.attrs.asdict())
        return dataset.isel(sample=np.flatnonzero(self._status == GOOD)) if only_good else dataset

    def mean_metric(self) -> npt.NDArray[np.float64]:
        """The mean of the metric over the good samples, [n, n]; exact however few eigenvectors are kept.

        Raises:
            StoreError: no sample is good yet, or data on disk are damaged.
        """
        good = self.status().good
        if not good:
            raise StoreError(
                f"{self.location} has no good sample yet, hence no mean metric; "
                "run the sweep on, or see why its samples are quarantined."
            )
        total = np.zeros((self.layout.latent_dim, self.layout.latent_dim))
        for shard in sorted(self._committed):
            total += self._read(BY_NAME["metric_sum"], slice(shard, shard + 1))[0]
        return total / good

    def export(self, out: Path | str) -> None:
        """Write the snapshot as a plain Zarr v3 folder, which `xarray.open_zarr(out, consolidated=False)` opens.

        Every array and attribute is copied, shard by shard; the root attribute names the snapshot.

        Raises:
            StoreError: the path is taken, not writable or inside the sweep, or data on disk are damaged; nothing is
                left there.
        """
        if self.location.is_local and self.path.resolve() in local_path(out).resolve().parents:
            raise StoreError(f"{out} is inside the sweep itself; nothing was written. Choose a folder beside it.")
        attributes: dict[str, Any] = self._group.attrs.asdict()
        attributes[ATTRIBUTE] = {**attributes[ATTRIBUTE], "snapshot": self.snapshot}
        with whole_folder(local_path(out)) as temporary:
            copy = make_arrays(LocalStore(temporary), self.layout, attributes)
            targets = {schema.name: array_of(copy, schema.name) for schema in SHARD_ARRAYS}
            for shard in sorted(self._committed):
                for schema in SHARD_ARRAYS:
                    rows = schema.rows_of(self.layout, shard)
                    targets[schema.name][rows] = self._read(schema, rows)

    @cached_property
    def _status(self) -> npt.NDArray[np.uint8]:
        schema, other = BY_NAME["status"], BY_NAME["trace"]
        status = self._values(schema, (slice(None),), ())
        # A lost chunk of `status` reads as pending; that the shard is there in another array gives it away.
        for shard in np.unique(np.flatnonzero(status == PENDING) // self.layout.shard_size):
            if has_chunk(self._session, other, int(shard)):
                raise damaged(schema.name, self.location, f"shard {shard} is committed, and absent")
        return status

    @cached_property
    def _committed(self) -> frozenset[int]:
        first_of_each = self._status[:: self.layout.shard_size]  # a shard is committed whole or not at all
        return frozenset(int(shard) for shard in np.flatnonzero(first_of_each != PENDING))

    def _array(self, schema: ArraySchema) -> "zarr.Array[Any]":
        if schema.name not in self._arrays:
            self._arrays[schema.name] = self._open_array(schema)
        return self._arrays[schema.name]

    def _open_array(self, schema: ArraySchema) -> "zarr.Array[Any]":
        array = array_of(self._group, schema.name, self.location)
        if array.shape != schema.shape(self.layout) or array.dtype != np.dtype(schema.dtype):
            raise damaged(schema.name, self.location, f"found {array.dtype}{list(array.shape)}")
        return array

    def _read(self, schema: ArraySchema, selection: Any = slice(None)) -> npt.NDArray[Any]:
        """Read a selection, and make sure that none of it is a fill value in place of a lost result."""
        keys = selection if isinstance(selection, tuple) else (selection,)
        keys += (slice(None),) * (len(schema.dims) - len(keys))
        return self._values(schema, keys, self._expected(schema))

    def _values(self, schema: ArraySchema, keys: tuple[Any, ...], required: Container[int]) -> npt.NDArray[Any]:
        """Read a selection, one key an axis; a shard that is required and not there is an error."""
        array = self._array(schema)
        rows = np.atleast_1d(np.arange(schema.shape(self.layout)[0])[keys[0]])
        shards = np.unique(rows // schema.shard_shape(self.layout)[0])
        try:
            present = {int(shard) for shard in shards if has_chunk(self._session, schema, int(shard))}
        except icechunk.IcechunkError as error:
            raise damaged(schema.name, self.location, error) from error
        for shard in shards:
            if shard in required and shard not in present:
                raise damaged(schema.name, self.location, f"shard {shard} is committed, and absent")
        if not bulk.suits(array, keys, len(shards)):
            return read(array, keys, self.location)
        try:
            return bulk.read_shards(array, rows, keys[1:], present)
        except Exception as error:  # as in `read`
            raise damaged(schema.name, self.location, error) from error

    def _expected(self, schema: ArraySchema) -> "range | frozenset[int]":
        """The shards for which the array must hold something."""
        return range(self.layout.shards) if schema == SAMPLE else self._committed


def open_sweep(address: Location | Path | str, snapshot: str | None = None) -> Sweep:
    """Open a sweep read-only, as it stands at its last commit, or as it stood at an earlier one.

    Args:
        address: the sweep's folder, or its address in an object store.
        snapshot: the `Sweep.snapshot` of an earlier reader, to see for ever what that one saw.

    Raises:
        StoreError: there is no sweep there (and which one may be meant), no such snapshot, or it cannot be read.
    """
    location = locate(address)
    repository = open_repository(location)
    session = read_session(repository, location, snapshot)
    return Sweep(location, session, root_group(session, location))


@dataclass(frozen=True)
class Commit:
    """One of a sweep's snapshots.

    Attributes:
        id: what `open_sweep` takes as `snapshot`.
        written: when.
        message: what it brought.
    """

    id: str
    written: datetime
    message: str

    def as_dict(self) -> dict[str, str]:
        """Ready for JSON."""
        return {"id": self.id, "written": self.written.isoformat(timespec="seconds"), "message": self.message}


def history(address: Location | Path | str, most: int | None = None) -> list[Commit]:
    """The snapshots of a sweep that can be opened, the last one first; at most so many.

    Raises:
        StoreError: there is no sweep there, or it cannot be read.
    """
    location = locate(address)
    repository = open_repository(location)
    commits: list[Commit] = []
    try:
        for ancestor in repository.ancestry(branch=BRANCH):
            if ancestor.parent_id is None or len(commits) == most:  # the first one is of an empty repository
                break
            commits.append(Commit(ancestor.id, ancestor.written_at, ancestor.message))
    except icechunk.IcechunkError as error:
        raise StoreError(
            f"the history of {location} cannot be read ({cause(error)}); it was left as it is. "
            "The sweep as it is now may still be: leave the snapshot out."
        ) from error
    return commits


def list_sweeps(folder: Location | Path | str) -> list[Sweep]:
    """The sweeps directly inside a folder or a prefix, by name; everything else there is ignored.

    Raises:
        StoreError: an object store does not answer, or cannot be listed here.
    """
    sweeps = []
    for location in children(locate(folder)):
        if location.name.startswith(".") or not is_repository(location):
            continue
        try:
            sweeps.append(open_sweep(location))
        except NoSweepError:  # such as a kept analysis
            continue
        except StoreError as error:
            # One damaged sweep must not hide the others.
            logger.warning("%s", error)
    return sweeps
