"""Listing the stored chunks of an array, and reading many of them.

A sweep of 100,000 shards has two million chunks. A query or a read through Zarr takes milliseconds of Python for each
chunk. Here one query lists the chunks of an array, and `bulk` fetches them in batches.

A chunk is identified by its index along the array's first axis. That is its shard, except in arrays that are written
once, whose chunks hold many shards. Invariant: a required chunk that is missing is an error; it never reads as fill
values.
"""

import asyncio
import math
from collections.abc import Container
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import icechunk
import numpy as np
import numpy.typing as npt
import zarr

from pullback.store import bulk
from pullback.store.failures import damaged
from pullback.store.location import Location
from pullback.store.odd_files import refuse_odd_chunks
from pullback.store.opening import INLINE_BYTES, has_chunk, read

_FEW = 64
"""Number of chunks up to which single queries are faster than a list of all chunks of the array."""

_SHARE = 16
"""A list of all chunks takes as long as single queries for a sixteenth of them."""


def rows_of_chunk(array: "zarr.Array[Any]") -> int:
    """Return the number of rows that are stored together: the rows of a Zarr shard if there are inner chunks."""
    return int((array.shards or array.chunks)[0])


def chunk_bytes(array: "zarr.Array[Any]") -> int:
    """Return the size of a stored chunk in bytes, uncompressed."""
    return math.prod(array.shards or array.chunks) * np.dtype(array.dtype).itemsize


def chunk_of(array: "zarr.Array[Any]", row: int) -> int:
    """Return the index of the chunk that holds a row."""
    return row // rows_of_chunk(array)


def present_chunks(
    session: icechunk.Session, array: "zarr.Array[Any]", wanted: npt.NDArray[np.integer], location: Location
) -> set[int]:
    """Return those of the wanted chunks that are stored.

    Args:
        session: a session of the commit that is read.
        array: the array, as this session has it.
        wanted: indices along the first axis of the grid of chunks.
        location: the sweep's address, for errors.

    Raises:
        UnavailableError: a list of chunks cannot be read just now, which proves no damage.
        StoreError: a list of the wanted chunks is damaged.
    """
    try:
        return _present_chunks(session, array, wanted)
    except Exception as error:  # errors of many classes, as in `opening.read`
        raise damaged(array.basename, location, error) from error


def _present_chunks(session: icechunk.Session, array: "zarr.Array[Any]", wanted: npt.NDArray[np.integer]) -> set[int]:
    all_chunks = -(-array.shape[0] // rows_of_chunk(array))
    if len(wanted) > max(_FEW, all_chunks // _SHARE):
        try:
            # Use another thread: in a notebook, this thread already runs an event loop.
            with ThreadPoolExecutor(1) as thread:
                stored = thread.submit(asyncio.run, _stored_chunks(session, array)).result()
            return stored.intersection(wanted.tolist())
        except icechunk.IcechunkError:
            pass  # One manifest cannot be read; the chunks of the others are found one by one.
    return {int(chunk) for chunk in wanted if has_chunk(session, array, int(chunk))}


async def _stored_chunks(session: icechunk.Session, array: "zarr.Array[Any]") -> set[int]:
    return {index[0] async for index in session.chunk_coordinates(f"/{array.path}", 10_000)}


def read_chunks(
    session: icechunk.Session,
    array: "zarr.Array[Any]",
    keys: tuple[Any, ...],
    required: Container[int],
    location: Location,
) -> npt.NDArray[Any]:
    """Read a selection of an array.

    Args:
        session: a session of the commit that is read.
        array: the array, as this session has it.
        keys: a slice, an integer or an array of indices for each axis, independently of each other.
        required: the chunks that must be there.
        location: the sweep's address, for errors.

    Raises:
        UnavailableError: the storage cannot be read just now, which proves no damage.
        StoreError: data on disk are damaged, or a required chunk is absent.
    """
    if chunk_bytes(array) > INLINE_BYTES:
        refuse_odd_chunks(location)
    rows = np.atleast_1d(np.arange(array.shape[0])[keys[0]])
    chunks = np.unique(rows // rows_of_chunk(array))
    present = present_chunks(session, array, chunks, location)
    for chunk in chunks.tolist():
        if chunk in required and chunk not in present:
            raise damaged(array.basename, location, f"shard {chunk} is committed but missing")
    if not bulk.suits(array, keys, rows, len(chunks)):
        return read(array, keys, location)
    try:
        return bulk.read_rows(array, rows, keys[1:], present)
    except Exception as error:  # as in `read`
        raise damaged(array.basename, location, error) from error
