"""Reading a sweep at one snapshot, which no later commit changes.

Reading never changes a store. Damaged data raise StoreError and are never returned. A sum of truncated metrics is never
returned as a sum of whole ones. Statistics beyond counts and the mean metric are in the analysis package.
"""

import logging
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk
import numpy as np
import numpy.typing as npt
import zarr

from pullback.errors import NoSweepError, StoreError
from pullback.spec import ITERATIVE_METHODS
from pullback.store.arrays import attributes_of
from pullback.store.chunks import present_chunks, read_chunks
from pullback.store.counts import SweepStatus, ZeroMetrics
from pullback.store.failures import damaged
from pullback.store.location import Location, locate
from pullback.store.objects import children
from pullback.store.opening import (
    ATTRIBUTE,
    array_of,
    holds,
    is_repository,
    open_tip,
    read_session,
    root_group,
)
from pullback.store.root import Root
from pullback.store.schema import (
    ARRAYS,
    BY_NAME,
    GOOD,
    PENDING,
    QUARANTINED,
    ArraySchema,
    Layout,
    Reason,
)

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "Sweep",
    "SweepStatus",
    "ZeroMetrics",
    "list_sweeps",
    "open_sweep",
]

logger = logging.getLogger(__name__)

_SUM_BYTES = 64 * 2**20
"""Bytes of `metric_sum` that are read at a time."""


class Sweep:
    """A sweep at one commit. Open it again to see later commits."""

    location: Location
    path: Path
    """The sweep's folder; for an object store, its address as pathlib writes it."""
    name: str
    """The name in its job, or the name of its folder."""
    provenance: dict[str, Any]
    """The record of the sweep's origin: job, inputs, versions."""
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
        """Count the planned, good, quarantined and pending samples."""
        counts = np.bincount(self._status, minlength=QUARANTINED + 1)
        return SweepStatus(len(self._status), int(counts[GOOD]), int(counts[QUARANTINED]), int(counts[PENDING]))

    def sample_status(self) -> npt.NDArray[np.uint8]:
        """The status of every sample, [samples]: PENDING, GOOD or QUARANTINED of `schema`."""
        return self._status.copy()

    def values(self, name: str, samples: slice, components: slice = slice(None)) -> npt.NDArray[Any]:
        """Read a part of one array by position, without making a dataset.

        Args:
            name: an array whose first dimension is `sample`, or `metric_sum`.
            samples: samples of any status; shards of `metric_sum`.
            components: entries of the second dimension, if there is one.

        Raises:
            StoreError: data on disk are damaged.
        """
        schema = BY_NAME[name]
        return self._read(schema, (samples, components) if len(schema.dims) > 1 else samples)

    def reasons(self) -> dict[str, int]:
        """Count the quarantined samples by the name of the reason; only reasons that occur."""
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
            StoreError: data on disk are damaged. Raised here, or when the values are used.
        """
        import xarray as xr

        from pullback.store.xarray_backend import CheckedArray, lazy_variable

        variables = {}
        for schema in ARRAYS:
            array = CheckedArray(schema.shape(self.layout), schema.dtype, partial(self._read, schema))
            variables[schema.name] = lazy_variable(schema.dims, array, self.attributes_of(schema.name))
        dataset = xr.Dataset(variables, attrs=self._group.attrs.asdict())
        return dataset.isel(sample=np.flatnonzero(self._status == GOOD)) if only_good else dataset

    def zero_metrics(self) -> ZeroMetrics:
        """Return the computed samples whose metric is exactly zero: every kept eigenvalue and the trace are 0.

        Raises:
            StoreError: data on disk are damaged.
        """
        candidates = np.flatnonzero((self._status != PENDING) & (self._read(BY_NAME["trace"]) == 0))
        if len(candidates):
            zero = (self._read(BY_NAME["eigenvalue"], candidates) == 0).all(axis=1)
            candidates = candidates[zero]
        good = self._status[candidates] == GOOD
        return ZeroMetrics(tuple(candidates[good].tolist()), tuple(candidates[~good].tolist()))

    @cached_property
    def whole_metrics(self) -> bool:
        """Whether `metric_sum` sums whole metrics.

        False if an iterative method kept k < n eigenpairs: then it sums the part of each metric that these make.
        A sweep whose record names no method is judged by the trace of the sum.

        Raises:
            StoreError: data on disk are damaged.
        """
        if self.layout.components == self.layout.latent_dim:
            return True
        if "method" in self.provenance:
            return self.provenance["method"] not in ITERATIVE_METHODS
        good = self._status == GOOD
        if not good.any():
            return True
        found, trace = float(np.trace(self._metric_total())), float(self._read(BY_NAME["trace"])[good].sum())
        whole, part = abs(found - trace), abs(found - float(self._read(BY_NAME["eigenvalue"])[good].sum()))
        return whole <= 1e-4 * abs(trace) or part > 1e-4 * abs(trace)

    def trace_share(self) -> float:
        """Share of the trace of the good samples' metrics that their kept eigenvalues carry; 1 if the trace is zero.

        The traces are estimates if `whole_metrics` is False.

        Raises:
            StoreError: data on disk are damaged.
        """
        good = self._status == GOOD
        if self.layout.components == self.layout.latent_dim or not good.any():
            return 1.0
        trace, share = (self._read(BY_NAME[name])[good] for name in ("trace", "trace_share"))
        return float((share * trace).sum() / trace.sum()) if trace.sum() else 1.0

    def mean_metric(self, kept: bool = False) -> npt.NDArray[np.float64]:
        """Return the mean of the metric over the good samples, [n, n].

        The mean is exact if the method computes whole matrices, however few eigenvectors are kept. Otherwise
        (`whole_metrics` is False) only the mean of the parts that the kept eigenpairs make is known. It has the share
        `trace_share()` of the whole mean's trace, and is returned only on request.

        Args:
            kept: return the mean of the parts that the kept eigenpairs make, if the whole mean is not known.

        Raises:
            StoreError: no sample is good yet; the whole metrics were not computed and `kept` is False; data on disk
                are damaged.
        """
        good = self.status().good
        if not good:
            raise StoreError(
                f"{self.location} has no good sample yet, hence no mean metric; "
                "continue the sweep, or see why its samples are quarantined."
            )
        if not (kept or self.whole_metrics):
            raise StoreError(
                f"{self.location} has no mean of whole metrics: {self.provenance.get('method', 'its method')} computed "
                f"{self.layout.components} of {self.layout.latent_dim} eigenpairs of each metric, which carry "
                f"{100 * self.trace_share():.3g} % of the trace. mean_metric(kept=True) returns the mean of that part; "
                "for the whole one, run a sweep with metric.method gauss_newton or backprop."
            )
        return self._metric_total() / good

    def _metric_total(self) -> npt.NDArray[np.float64]:
        total = np.zeros((self.layout.latent_dim, self.layout.latent_dim))
        shards, step = np.array(self.committed_shards), max(1, _SUM_BYTES // total.nbytes)
        for first in range(0, len(shards), step):
            for each in self._read(BY_NAME["metric_sum"], shards[first : first + step]):
                total += each
        return total

    def export(self, out: Path | str) -> str:
        """Write the snapshot as a Zarr folder, a netCDF or a CSV file, by the ending of `out`; see `store.export`."""
        from pullback.store.export import export

        return export(self, out)

    def attributes(self) -> dict[str, Any]:
        """Return the sweep's attributes, ready for JSON; they name the snapshot."""
        attributes: dict[str, Any] = self._group.attrs.asdict()
        return {**attributes, ATTRIBUTE: {**attributes[ATTRIBUTE], "snapshot": self.snapshot}}

    def attributes_of(self, name: str) -> dict[str, Any]:
        """Return the attributes of one array; those of `metric_sum` say what was summed."""
        if not self._holds(BY_NAME[name]):
            return attributes_of(BY_NAME[name])
        attributes: dict[str, Any] = self._array(BY_NAME[name]).attrs.asdict()
        if name != "metric_sum" or "method" not in self.provenance:
            return attributes
        n, k = self.layout.latent_dim, self.layout.components
        what = "whole metric" if self.whole_metrics else f"part of the metric that {k} of its {n} eigenpairs make"
        meaning = f"sum of the {what} over the good samples of the shard"
        return {**attributes, "long_name": meaning, "whole": int(self.whole_metrics)}

    @property
    def committed_shards(self) -> list[int]:
        """The committed shards, ascending."""
        return sorted(self._committed)

    @cached_property
    def _status(self) -> npt.NDArray[np.uint8]:
        schema, other = BY_NAME["status"], BY_NAME["trace"]
        status = read_chunks(self._session, self._array(schema), (slice(None),), (), self.location)
        # A lost chunk of `status` reads as pending. It is noticed because another array has the shard.
        pending = np.unique(np.flatnonzero(status == PENDING) // self.layout.shard_size)
        for shard in sorted(present_chunks(self._session, self._array(other), pending, self.location)):
            raise damaged(schema.name, self.location, f"shard {shard} is committed but missing")
        return status

    @cached_property
    def _committed(self) -> frozenset[int]:
        first_of_each = self._status[:: self.layout.shard_size]  # a shard is committed whole or not at all
        return frozenset(int(shard) for shard in np.flatnonzero(first_of_each != PENDING))

    def _holds(self, schema: ArraySchema) -> bool:
        return schema.name in self._arrays or holds(self._group, schema)

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
        """Read a selection; raise if a lost chunk would read as fill values."""
        keys = selection if isinstance(selection, tuple) else (selection,)
        keys += (slice(None),) * (len(schema.dims) - len(keys))
        if not self._holds(schema):
            absent = np.broadcast_to(np.array(schema.fill, schema.dtype), schema.shape(self.layout))
            return absent[keys].copy()
        return read_chunks(self._session, self._array(schema), keys, self._expected(schema), self.location)

    def _expected(self, schema: ArraySchema) -> "range | frozenset[int]":
        """Chunks that must be stored: those of committed shards; all chunks of an array that is written once."""
        return range(self.layout.shards) if schema.written_once else self._committed


def open_sweep(address: Location | Path | str, snapshot: str | None = None) -> Sweep:
    """Open a sweep read-only, at its last commit or at an earlier snapshot.

    Args:
        address: the sweep's folder, or its address in an object store.
        snapshot: the `Sweep.snapshot` of an earlier reader, which always gives the same numbers.

    Raises:
        StoreError: there is no sweep (the message names the nearest), no such snapshot, or it cannot be read.
    """
    location = locate(address)
    repository, tip = open_tip(location, snapshot)
    session = read_session(repository, location, tip.pinned(location) if snapshot is None else snapshot)
    return Sweep(location, session, root_group(session, location))


def list_sweeps(
    folder: Location | Path | str, left_out: Callable[[StoreError], None] = lambda error: logger.warning("%s", error)
) -> list[Sweep]:
    """Open the sweeps directly inside a folder or a prefix, in the order of names. Everything else is ignored.

    Args:
        folder: the folder or prefix.
        left_out: called for each sweep and folder that cannot be read. By default a warning is logged.

    Raises:
        StoreError: an object store does not answer, or cannot be listed here.
    """
    sweeps = []
    for location in children(locate(folder)):
        if location.path.name.startswith("."):
            continue
        try:
            if is_repository(location):
                sweeps.append(open_sweep(location))
        except NoSweepError:  # such as a cached analysis
            continue
        except StoreError as error:
            # One damaged sweep must not hide the others.
            left_out(error)
    return sweeps
