"""The audit of a sweep: reads every committed chunk of every array, and checks that its numbers are possible.

Kinds of damage: the file of a chunk is cut, empty, changed or missing; the reference to a chunk is lost, or the
manifest that holds it cannot be read; stored numbers cannot belong to a metric. Checksums and missing chunks show the
first two. Rules that every record obeys show the last. A storage that cannot be read at the moment proves no damage,
and ends the audit (`failures`). The audit changes nothing; `maintenance.repair` does.
"""

from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import icechunk
import numpy as np
import numpy.typing as npt
import zarr

from pullback.store import bulk
from pullback.store.chunks import chunk_of
from pullback.store.failures import cause, damaged, is_damage, unavailable
from pullback.store.location import Location, locate
from pullback.store.odd_files import refuse_odd_chunks
from pullback.store.opening import array_of, has_chunk, holds, open_tip, read_session, root_group
from pullback.store.root import Root
from pullback.store.schema import ARRAYS, GOOD, PENDING, QUARANTINED, SAMPLE, ArraySchema, Layout, Reason
from pullback.store.tip import Tip

_SPAN_BYTES = 64 * 2**20
_SPAN_SHARDS = 64
"""Small shards are read together: one by one takes three times as long, and much longer from an object store."""

_FINITE = ("latent", "eigenvalue", "eigenvector", "trace", "seconds")
_UNIT = 1e-3
"""Largest accepted difference of an eigenvector's squared length from 1. In float32, correct ones are within 1e-6."""
_ROUNDING = 1e-12
"""Amount, relative to the largest eigenvalue, by which an eigenvalue may exceed the one before it."""

Kind = Literal["unreadable", "missing", "references", "wrong"]
"""`unreadable`: a chunk cannot be decoded or fails its checksum. `missing`: a chunk is absent. `references`: the
reference to a chunk cannot be read. `wrong`: the numbers are impossible."""


@dataclass(frozen=True)
class Damage:
    """Damage to one shard in one array.

    Attributes:
        shard: the shard.
        array: the array's name.
        kind: see `Kind`.
        what: a description.
    """

    shard: int
    array: str
    kind: Kind
    what: str


@dataclass(frozen=True)
class Audit:
    """Result of an audit.

    Attributes:
        snapshot: the id of the commit that was read.
        shards: number of planned shards.
        committed: number of shards with results.
        damages: in the order of shards; empty for a clean sweep.
    """

    snapshot: str
    shards: int
    committed: int
    damages: tuple[Damage, ...]
    went_back: str = ""
    """Why an earlier commit was read instead of the last one; empty if the last one was read."""

    @property
    def lost_shards(self) -> list[int]:
        """Shards that must be computed again, ascending. `sample` can be restored without computing."""
        return sorted({damage.shard for damage in self.damages if damage.array != SAMPLE.name})


class Auditor:
    """The arrays of a sweep at one commit.

    Raises:
        StoreError: an array is missing or does not have the planned shape and type, which cannot be repaired.
    """

    def __init__(self, location: Location, session: icechunk.Session) -> None:
        self.location = location
        self.session = session
        group = root_group(session, location)
        self.layout = Root.of(group, location).layout
        refuse_odd_chunks(location)
        self.schemas = [schema for schema in ARRAYS if holds(group, schema)]
        self.arrays = {schema.name: _open(group, schema, self.layout, location) for schema in self.schemas}

    def spans(self) -> Iterator[range]:
        """Yield ranges of shards that are read together."""
        most = max(_shard_bytes(schema, self.layout) for schema in self.schemas)
        step = min(_SPAN_SHARDS, max(1, _SPAN_BYTES // most))
        for first in range(0, self.layout.shards, step):
            yield range(first, min(first + step, self.layout.shards))

    def examine(self, shards: range) -> tuple[int, list[Damage]]:
        """Count the committed shards of a range, and list their damage.

        Raises:
            UnavailableError: something cannot be read at the moment, which proves no damage.
        """
        found: dict[int, list[Damage]] = {shard: [] for shard in shards}
        values: dict[int, dict[str, npt.NDArray[Any]]] = {shard: {} for shard in shards}
        present = {schema.name: self._present(schema, shards, found) for schema in self.schemas}
        others = [name for name in present if name != SAMPLE.name]
        committed = [shard for shard in shards if any(shard in present[name] for name in others)]
        for schema in self.schemas:
            wanted = list(shards) if schema == SAMPLE else committed
            for shard in wanted:
                if shard not in present[schema.name] and schema.name not in {d.array for d in found[shard]}:
                    found[shard].append(
                        Damage(shard, schema.name, "missing", "the shard is committed but the chunk is missing")
                    )
            self._read(schema, shards, [shard for shard in wanted if shard in present[schema.name]], values, found)
        for shard in shards:
            wrong = _wrong(values[shard], self.layout.samples_of(shard))
            found[shard] += [Damage(shard, array, "wrong", what) for array, what in wrong]
        return len(committed), [damage for shard in shards for damage in found[shard]]

    def read(
        self, schema: ArraySchema, first: int, last: int, present: Container[int] | None = None
    ) -> npt.NDArray[Any]:
        """Read the shards first to last of an array; raises errors of Zarr and Icechunk.

        With `present`, the shards that are stored, many small shards are fetched together.
        """
        array = self.arrays[schema.name]
        rows = slice(schema.rows_of(self.layout, first).start, schema.rows_of(self.layout, last).stop)
        if present is not None and not schema.written_once:
            rest, numbers = (slice(None),) * (array.ndim - 1), np.arange(rows.start, rows.stop)
            if bulk.suits(array, (rows, *rest), numbers, last - first + 1):
                return bulk.read_rows(array, numbers, rest, present)
        return np.asarray(array[rows])

    def has(self, schema: ArraySchema, shard: int) -> bool:
        """Whether the array has a chunk for the shard; raises if that is not known."""
        array = self.arrays[schema.name]
        return has_chunk(self.session, array, chunk_of(array, schema.rows_of(self.layout, shard).start))

    def _present(self, schema: ArraySchema, shards: range, found: Mapping[int, list[Damage]]) -> set[int]:
        present = set()
        for shard in shards:
            try:
                if self.has(schema, shard):
                    present.add(shard)
            except Exception as error:  # Icechunk raises errors of many classes
                self._refuse_trouble(error)
                found[shard].append(Damage(shard, schema.name, "references", cause(error)))
        return present

    def _read(
        self,
        schema: ArraySchema,
        shards: range,
        wanted: list[int],
        values: Mapping[int, dict[str, npt.NDArray[Any]]],
        found: Mapping[int, list[Damage]],
    ) -> None:
        """Read the wanted shards of a range into `values`: together, or one by one if that fails."""
        if not wanted:
            return
        try:
            together = self.read(schema, shards[0], shards[-1], {*wanted})
            start = schema.rows_of(self.layout, shards[0]).start
            for shard in wanted:
                rows = schema.rows_of(self.layout, shard)
                values[shard][schema.name] = together[rows.start - start : rows.stop - start]
            return
        except Exception as error:
            if len(shards) == 1:
                self._refuse_trouble(error)
                found[shards[0]].append(Damage(shards[0], schema.name, "unreadable", cause(error)))
                return
        for shard in wanted:
            self._read(schema, range(shard, shard + 1), [shard], values, found)

    def _refuse_trouble(self, error: Exception) -> None:
        if not is_damage(error, self.location):
            raise unavailable(self.location, error) from error


def audit(address: Location | Path | str, progress: Callable[[int, int], None] = lambda done, total: None) -> Audit:
    """Read everything that is committed to a sweep, and list the damage. Changes nothing.

    Args:
        address: the sweep.
        progress: called now and then with the number of shards done and of all shards.

    Raises:
        UnavailableError: the storage cannot be read at the moment, which proves no damage.
        StoreError: there is no sweep, or its description cannot be read.
    """
    location = locate(address)
    repository, tip = open_tip(location, thorough=True)
    session = read_session(repository, location, tip.pinned(location))
    return replace(examine(location, session, progress), went_back=went_back(tip, location))


def went_back(tip: Tip, location: Location) -> str:
    """Why a tip is not whole, as a sentence; empty if it is whole."""
    return "" if tip.whole else tip.warning(location)


def examine(location: Location, session: icechunk.Session, progress: Callable[[int, int], None]) -> Audit:
    """As `audit`, for the commit of a session."""
    auditor = Auditor(location, session)
    committed, damages, total = 0, list[Damage](), auditor.layout.shards
    progress(0, total)
    for shards in auditor.spans():
        count, found = auditor.examine(shards)
        committed += count
        damages += found
        progress(shards.stop, total)
    return Audit(session.snapshot_id, total, committed, tuple(damages))


def _open(group: zarr.Group, schema: ArraySchema, layout: Layout, location: Location) -> "zarr.Array[Any]":
    array = array_of(group, schema.name, location)
    if array.shape != schema.shape(layout) or array.dtype != np.dtype(schema.dtype):
        raise damaged(schema.name, location, f"found {array.dtype}{list(array.shape)}")
    return array


def _shard_bytes(schema: ArraySchema, layout: Layout) -> int:
    return int(np.prod(schema.shard_shape(layout), dtype=object)) * np.dtype(schema.dtype).itemsize


def _wrong(values: Mapping[str, npt.NDArray[Any]], samples: range) -> Iterator[tuple[str, str]]:
    """Yield the array and a description of each impossibility in a shard's numbers. Arrays that were not read are
    left out."""
    if SAMPLE.name in values and not np.array_equal(values[SAMPLE.name], samples):
        yield SAMPLE.name, "the samples are not numbered by their position"
    if "metric_sum" in values and not np.isfinite(values["metric_sum"]).all():
        yield "metric_sum", "it is not finite"
    status, reason = values.get("status"), values.get("reason")
    if status is None:
        return
    if not np.isin(status, (GOOD, QUARANTINED)).all():
        pending = int((status == PENDING).sum())
        yield "status", f"{pending} of {len(status)} samples are pending" if pending else "unknown status value"
    good = status == GOOD
    if reason is not None and not np.array_equal(good, reason == Reason.NONE):
        yield "reason", "a sample must have a reason exactly where it is quarantined"
    for name in _FINITE:
        if name in values and not np.isfinite(values[name][good]).all():
            yield name, "it is not finite for a good sample"
    eigenvalue, eigenvector = values.get("eigenvalue"), values.get("eigenvector")
    if eigenvalue is not None and (np.diff(eigenvalue[good]) > _ROUNDING * np.abs(eigenvalue[good, :1])).any():
        yield "eigenvalue", "they do not descend"
    if eigenvector is not None:
        lengths = np.square(eigenvector[good], dtype=np.float64).sum(axis=-1)
        if (np.abs(lengths - 1) > _UNIT).any():
            yield "eigenvector", "it is not of unit length"
