"""Measures on this machine how long it takes to write, merge and commit one shard."""

import tempfile
import time
from pathlib import Path

import numpy as np

from pullback.errors import StoreError
from pullback.store.creation import create
from pullback.store.schema import GOOD, SHARD_ARRAYS, Layout, Reason, ShardRecord, stored_bytes
from pullback.store.shard_writing import write_shard

COMMIT_SECONDS = 2.0
"""Seconds between a driver's commits. A killed driver loses at most this much work, and the shards in flight."""
_MOST_BYTES = 32 * 2**20
"""Largest shard that is timed, in bytes. The time of a larger shard is estimated from one of this size."""
_UNKNOWN_SECONDS = 0.02
"""Seconds assumed if no temporary folder can be written to: measured on a local disk with small shards."""


def seconds_per_shard(layout: Layout, computing: float, durable: bool = True) -> float:
    """Seconds that storing adds to one shard: writing and merging it, and its share of the commits.

    The times come from a small store in a temporary folder. An object store may take longer.

    Args:
        layout: sizes of the sweep.
        computing: seconds of computing a shard, which decide how many shards share a commit.
        durable: whether results are synced to the disk (`resources.fsync`).
    """
    per_code = stored_bytes(Layout(1, layout.latent_dim, layout.components, 1))
    size = max(1, min(layout.shard_size, layout.samples, _MOST_BYTES // per_code))
    tried = Layout(3 * size, layout.latent_dim, layout.components, size)
    try:
        with tempfile.TemporaryDirectory(prefix="pullback-timing-") as folder:
            store = create(Path(folder) / "sweep", tried, {"name": "timing"})
            store.durable = durable
            written, committed = [], []
            for shard in range(tried.shards):
                record, began = _record(tried, shard), time.perf_counter()
                store.merge(shard, write_shard(store.fork(), record))
                written.append(time.perf_counter() - began)
                began = time.perf_counter()
                store.commit("timing")
                committed.append(time.perf_counter() - began)
    except (StoreError, OSError):  # the folder is full or read-only
        return _UNKNOWN_SECONDS
    writing = min(written[1:]) * min(layout.shard_size, layout.samples) / size  # the first one warms up
    together = max(1.0, COMMIT_SECONDS / max(computing + writing, 1e-9))
    return writing + min(committed[1:]) / together


def _record(layout: Layout, shard: int) -> ShardRecord:
    """A shard of random numbers, which take as long to store as results do."""
    many, drawn = len(layout.samples_of(shard)), np.random.default_rng(shard)
    values = {}
    for schema in SHARD_ARRAYS:
        shape = schema.shape(layout)[1:]
        shape = shape if schema.dims[0] == "shard" else (many, *shape)
        values[schema.name] = drawn.standard_normal(shape).astype(schema.dtype)
    values["status"], values["reason"] = np.full(many, GOOD, np.uint8), np.full(many, Reason.NONE, np.uint8)
    return ShardRecord(shard, **values)
