"""Looking for damage: every committed chunk of every array is read, and its numbers are checked for what they must be.

What storage can do to a sweep: a chunk's file is torn, empty, flipped in a bit or gone; a reference to a chunk is lost,
or the manifest that holds it cannot be read; or numbers were written that cannot be a metric's. The first are found
by checksums and by absence, the last by what every record obeys. Nothing is changed here: see `upkeep.repair`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import icechunk
import numpy as np
import numpy.typing as npt
import zarr

from pullback.store.location import Location, locate
from pullback.store.opening import array_of, cause, damaged, has_chunk, open_repository, read_session, root_group
from pullback.store.repository import Root
from pullback.store.schema import ARRAYS, GOOD, PENDING, QUARANTINED, SAMPLE, SHARD_ARRAYS, ArraySchema, Layout, Reason

_SPAN_BYTES = 64 * 2**20
_SPAN_SHARDS = 64
"""Shards are read together where they are small: one by one takes three times as long, and far more from afar."""

_FINITE = ("latent", "eigenvalue", "eigenvector", "trace", "seconds")
_UNIT = 1e-3
"""How far the squared length of an eigenvector may be from 1; of a right one in float32 it is within 1e-6."""
_ROUNDING = 1e-12
"""How far, relative to the largest, an eigenvalue may exceed the one before it."""

Kind = Literal["unreadable", "missing", "references", "wrong"]
"""A chunk that cannot be read or fails its checksum; one that is not there; one of which it cannot be said where it
is; one that was read and cannot be right."""


@dataclass(frozen=True)
class Damage:
    """What is wrong with one shard in one array.

    Attributes:
        shard: the shard.
        array: the array's name.
        kind: see `Kind`.
        what: in words.
    """

    shard: int
    array: str
    kind: Kind
    what: str


@dataclass(frozen=True)
class Audit:
    """What was looked at, and what was found.

    Attributes:
        snapshot: the id of the commit that was read.
        shards: how many are planned.
        committed: how many of them hold results.
        damages: by shard; empty of a clean sweep.
    """

    snapshot: str
    shards: int
    committed: int
    damages: tuple[Damage, ...]

    @property
    def lost_shards(self) -> list[int]:
        """The shards, ascending, that must be computed again. What `sample` holds can be written without."""
        return sorted({damage.shard for damage in self.damages if damage.array != SAMPLE.name})


class Auditor:
    """A sweep's arrays at one commit, opened to be looked through.

    Raises:
        StoreError: an array is not there or has another form than the plan's, which cannot be repaired.
    """

    def __init__(self, location: Location, session: icechunk.Session) -> None:
        self.location = location
        self.session = session
        group = root_group(session, location)
        self.layout = Root.of(group, location).layout
        self.arrays = {schema.name: _open(group, schema, self.layout, location) for schema in ARRAYS}

    def spans(self) -> Iterator[range]:
        """The shards, in the pieces that are read together."""
        most = max(_shard_bytes(schema, self.layout) for schema in ARRAYS)
        step = min(_SPAN_SHARDS, max(1, _SPAN_BYTES // most))
        for first in range(0, self.layout.shards, step):
            yield range(first, min(first + step, self.layout.shards))

    def examine(self, shards: range) -> tuple[int, list[Damage]]:
        """How many of adjacent shards are committed, and all that is wrong with them, by shard."""
        found: dict[int, list[Damage]] = {shard: [] for shard in shards}
        values: dict[int, dict[str, npt.NDArray[Any]]] = {shard: {} for shard in shards}
        present = {schema.name: self._present(schema, shards, found) for schema in ARRAYS}
        committed = [shard for shard in shards if any(shard in present[schema.name] for schema in SHARD_ARRAYS)]
        for schema in ARRAYS:
            wanted = list(shards) if schema == SAMPLE else committed
            for shard in wanted:
                if shard not in present[schema.name] and schema.name not in {d.array for d in found[shard]}:
                    found[shard].append(Damage(shard, schema.name, "missing", "it is committed, and absent"))
            self._read(schema, shards, [shard for shard in wanted if shard in present[schema.name]], values, found)
        for shard in shards:
            wrong = _wrong(values[shard], self.layout.samples_of(shard))
            found[shard] += [Damage(shard, array, "wrong", what) for array, what in wrong]
        return len(committed), [damage for shard in shards for damage in found[shard]]

    def read(self, schema: ArraySchema, first: int, last: int) -> npt.NDArray[Any]:
        """What the array holds of the shards first to last; raises as Zarr and Icechunk do."""
        rows = slice(schema.rows_of(self.layout, first).start, schema.rows_of(self.layout, last).stop)
        return np.asarray(self.arrays[schema.name][rows])

    def has(self, schema: ArraySchema, shard: int) -> bool:
        """Whether the array holds anything for the shard; raises where that cannot be said."""
        return has_chunk(self.session, schema, shard)

    def _present(self, schema: ArraySchema, shards: range, found: Mapping[int, list[Damage]]) -> set[int]:
        present = set()
        for shard in shards:
            try:
                if self.has(schema, shard):
                    present.add(shard)
            except Exception as error:  # Icechunk raises as it likes
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
        """Read the wanted ones of adjacent shards into `values`, together if all is well, else one by one."""
        if not wanted:
            return
        try:
            together = self.read(schema, shards[0], shards[-1])
            start = schema.rows_of(self.layout, shards[0]).start
            for shard in wanted:
                rows = schema.rows_of(self.layout, shard)
                values[shard][schema.name] = together[rows.start - start : rows.stop - start]
            return
        except Exception as error:
            if len(shards) == 1:
                found[shards[0]].append(Damage(shards[0], schema.name, "unreadable", cause(error)))
                return
        for shard in wanted:
            self._read(schema, range(shard, shard + 1), [shard], values, found)


def audit(address: Location | Path | str, progress: Callable[[int, int], None] = lambda done, total: None) -> Audit:
    """Read everything that is committed to a sweep, and say what is damaged. Changes nothing.

    Args:
        address: the sweep.
        progress: called now and then with the shards that are done, and all.

    Raises:
        StoreError: there is no sweep, or not even its description can be read.
    """
    location = locate(address)
    return examine(location, read_session(open_repository(location), location), progress)


def examine(location: Location, session: icechunk.Session, progress: Callable[[int, int], None]) -> Audit:
    """As `audit`, of the commit that a session sees."""
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
    """What cannot be right in a shard's numbers, as array and words; arrays that were not read are left out."""
    if SAMPLE.name in values and not np.array_equal(values[SAMPLE.name], samples):
        yield SAMPLE.name, "the samples are not numbered by their place"
    if "metric_sum" in values and not np.isfinite(values["metric_sum"]).all():
        yield "metric_sum", "it is not finite"
    status, reason = values.get("status"), values.get("reason")
    if status is None:
        return
    if not np.isin(status, (GOOD, QUARANTINED)).all():
        pending = int((status == PENDING).sum())
        yield "status", f"{pending} of {len(status)} samples are pending" if pending else "it is none that there is"
    good = status == GOOD
    if reason is not None and not np.array_equal(good, reason == Reason.NONE):
        yield "reason", "samples have a reason exactly where they are quarantined, and here they do not"
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
