"""Small stored sweeps: records of random numbers, and stores filled with them."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pullback.store.creation import create
from pullback.store.repository import SweepStore
from pullback.store.schema import GOOD, QUARANTINED, SHARD_ARRAYS, Layout, Reason, ShardRecord
from pullback.store.shard_writing import write_shard

LAYOUT = Layout(samples=10, latent_dim=16, components=8, shard_size=4)
"""Three shards, the last of 2 samples; eigenvectors too large for Icechunk to keep them inline."""


def record_of(
    layout: Layout,
    shard: int,
    seed: int = 0,
    quarantined: tuple[int, ...] = (),
    reason: Reason = Reason.ASYMMETRIC,
) -> ShardRecord:
    """Random numbers in every array, of which eigenvalues descend and eigenvectors have length 1.

    `quarantined` are sample indices, given the reason."""
    rng = np.random.default_rng((seed, shard))
    samples = layout.samples_of(shard)
    values = {}
    for schema in SHARD_ARRAYS:
        rest = schema.shape(layout)[1:]
        shape = rest if schema.dims[0] == "shard" else (len(samples), *rest)
        values[schema.name] = (rng.normal(size=shape) * 3).astype(schema.dtype)
    values["eigenvalue"] = -np.sort(-values["eigenvalue"], axis=1)
    values["eigenvector"] /= np.linalg.norm(values["eigenvector"], axis=2, keepdims=True)
    bad = np.isin(samples, quarantined)
    values["status"] = np.where(bad, QUARANTINED, GOOD).astype(np.uint8)
    values["reason"] = np.where(bad, reason, Reason.NONE).astype(np.uint8)
    return ShardRecord(shard, **values)


def filled(path: Path | str, shards: tuple[int, ...] = (0, 1, 2), layout: Layout = LAYOUT) -> SweepStore:
    """A store with the given shards committed; sample 1 is quarantined."""
    store = create(path, layout, {"name": Path(path).name, "seed": 7})
    commit(store, *(record_of(layout, shard, quarantined=(1,)) for shard in shards))
    return store


def commit(store: SweepStore, *records: ShardRecord) -> str:
    """Write the records as workers would, merge and commit them."""
    for record in records:
        assert store.merge(record.shard, write_shard(store.fork(), record))
    return store.commit("shards")


def altered(record: ShardRecord, **values: object) -> ShardRecord:
    """The record with some fields replaced."""
    return replace(record, **values)


def flip_byte(path: Path, position: int = -100) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


NATIVE = {"eigenvector", "metric_sum"}
"""The arrays whose chunks are files of their own; Icechunk keeps smaller ones in its manifests."""


def chunks(path: Path) -> set[Path]:
    """Return the chunk files of a sweep's store."""
    return {*(path / "chunks").iterdir()}
