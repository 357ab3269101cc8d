import itertools
from pathlib import Path

import numpy as np
import pytest
from test_store_reader import forget, native_chunks

from pullback.errors import StoreError
from pullback.store import bulk
from pullback.store.creation import create
from pullback.store.opening import read
from pullback.store.reader import Sweep, open_sweep
from pullback.store.schema import BY_NAME, Layout
from stored_sweeps import commit, flip_byte, record_of

LAYOUT = Layout(samples=46, latent_dim=20, components=12, shard_size=4)
"""Twelve shards, the last of 2 samples: more than are read one by one, and chunks that are files of their own."""


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    store = create(tmp_path / "sweep", LAYOUT, {})
    commit(store, *(record_of(LAYOUT, shard, quarantined=(1,)) for shard in range(11) if shard != 5))
    return open_sweep(store.path)


ROWS = (slice(None), slice(1, 43), slice(None, None, -3), np.array([45, 0, 0, 7, 21, 20]))
OTHERS = ("eigenvalue", "latent", "status", "sample", "trace", "condition", "metric_sum")


@pytest.mark.parametrize(
    ("name", "rows"),
    [*(("eigenvector", rows) for rows in ROWS), *zip(OTHERS, itertools.cycle(ROWS), strict=False)],
)
def test_many_shards_at_once_are_what_zarr_reads(sweep: Sweep, name: str, rows: object) -> None:
    schema = BY_NAME[name]
    array = sweep._array(schema)
    present = {0} if name == "sample" else set(range(11)) - {5}
    numbers = np.arange(array.shape[0])[: 12 if name == "metric_sum" else None][
        slice(None) if name == "metric_sum" else rows
    ]
    everything = (slice(None), slice(None))
    for rest in (everything, (slice(2, 9), np.array([3, 1])), (np.array([], int), slice(0))):
        keys = rest[: len(schema.dims) - 1]
        found = bulk.read_rows(array, numbers, keys, present)
        expected = read(array, (slice(None), *keys), sweep.location)[numbers]
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_single_samples_selections_and_few_chunks_are_left_to_zarr(sweep: Sweep) -> None:
    values, vectors = (sweep._array(BY_NAME[name]) for name in ("eigenvalue", "eigenvector"))
    whole, every = (slice(None), slice(None)), np.arange(46)
    assert bulk.suits(values, whole, every, 12)
    assert bulk.suits(vectors, (*whole, slice(None)), every, 12)
    assert not bulk.suits(vectors, (np.arange(0, 46, 4), slice(None), slice(None)), np.arange(0, 46, 4), 12)
    assert not bulk.suits(values, whole, every, 2)
    assert not bulk.suits(values, (slice(None), 3), every, 12)


def test_a_flipped_byte_among_many_shards_is_reported_not_returned(sweep: Sweep) -> None:
    assert sweep.values("latent", slice(None)).shape == (46, 20)
    # of twelve shards, every file that is no manifest holds a chunk
    for chunk in native_chunks(sweep.path):
        flip_byte(chunk)
    for name in ("metric_sum", "eigenvector"):
        with pytest.raises(StoreError, match=rf"'{name}' of .*sweep cannot be read.*checksum.* of shard 0 is wrong"):
            open_sweep(sweep.path).values(name, slice(None))


@pytest.mark.parametrize("position", [0, 500, 3839, -1, -10, -80])
def test_a_flipped_byte_of_an_eigenvector_or_its_index_is_reported_not_returned(sweep: Sweep, position: int) -> None:
    assert sweep.values("eigenvector", slice(None)).shape == (46, 12, 20)
    vectors = [
        chunk for chunk in native_chunks(sweep.path) if chunk.stat().st_size == 4 * (12 * 20 * 4 + 4) + 4 * 16 + 4
    ]
    for chunk in vectors:
        flip_byte(chunk, position)
    assert len(vectors) == 10
    with pytest.raises(StoreError, match="'eigenvector'"):
        open_sweep(sweep.path).values("eigenvector", slice(None))


def test_a_shard_that_is_lost_among_many_is_reported_not_read_as_fill_values(sweep: Sweep) -> None:
    forget(sweep.path, "trace", 9)
    again = open_sweep(sweep.path)
    with pytest.raises(StoreError, match=r"'trace'.*shard 9 is committed but missing"):
        again.values("trace", slice(0, 46))
    assert again.values("trace", slice(0, 36)).shape == (36,), "what is whole can still be read"


def test_a_lost_status_among_many_is_reported_not_taken_for_pending(sweep: Sweep) -> None:
    assert sweep.status().pending == 6
    forget(sweep.path, "status", 9)
    with pytest.raises(StoreError, match=r"'status'.*shard 9 is committed but missing"):
        open_sweep(sweep.path).status()
