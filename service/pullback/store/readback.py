"""A quick check that committed chunks are still there: reads the last byte of each chunk's file.

It finds files that another program removed or cut, at a tenth of a millisecond each. `audit` checks their content.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from pullback.store.failures import is_damage, unavailable
from pullback.store.location import Location, locate
from pullback.store.odd_files import refuse_odd_chunks
from pullback.store.opening import INLINE_BYTES, array_of, holds, open_tip, read_session, root_group
from pullback.store.root import Root
from pullback.store.schema import SHARD_ARRAYS, ArraySchema, Layout

_AT_ONCE = 64


def unreadable_shards(address: Location | Path | str, shards: Sequence[int]) -> list[int]:
    """The committed shards that have a missing or cut file, ascending.

    Args:
        address: the sweep.
        shards: the shards to check.

    Raises:
        UnavailableError: something cannot be read at the moment.
        StoreError: the sweep cannot be read.
    """
    location = locate(address)
    repository, tip = open_tip(location, thorough=True)
    if not tip.whole:
        return sorted(shards)
    group = root_group(read_session(repository, location), location)
    layout = Root.of(group, location).layout
    refuse_odd_chunks(location)
    lost: set[int] = set()
    for schema in SHARD_ARRAYS:
        if _chunk_bytes(schema, layout) > INLINE_BYTES and holds(group, schema):
            array = array_of(group, schema.name, location)
            for first in range(0, len(shards), _AT_ONCE):
                lost |= _unreadable(array, shards[first : first + _AT_ONCE], location)
    return sorted(lost)


def _unreadable(array: "zarr.Array[Any]", shards: Sequence[int], location: Location) -> set[int]:
    zeros = (0,) * (array.ndim - 1)
    keys = [f"{array.path}/{array.metadata.encode_chunk_key((shard, *zeros))}" for shard in shards]
    try:
        ends = list(
            sync(
                array.store.get_partial_values(
                    default_buffer_prototype(), [(key, SuffixByteRequest(1)) for key in keys]
                )
            )
        )
    except Exception:  # Icechunk leaves out chunks that it cannot read, and hides why
        if len(shards) > 1:
            return {lost for shard in shards for lost in _unreadable(array, [shard], location)}
        return {*shards} if _is_lost(array, keys[0], location) else set()
    return {shard for shard, end in zip(shards, ends, strict=True) if end is None}


def _is_lost(array: "zarr.Array[Any]", key: str, location: Location) -> bool:
    """Whether a chunk is damaged or missing, by reading all of it; raises UnavailableError if that is not known."""
    try:
        return sync(array.store.get(key, default_buffer_prototype())) is None
    except Exception as error:  # Zarr and Icechunk have no common class of errors
        if is_damage(error, location):
            return True
        raise unavailable(location, error) from error


def _chunk_bytes(schema: ArraySchema, layout: Layout) -> int:
    return int(np.prod(schema.shard_shape(layout), dtype=object)) * np.dtype(schema.dtype).itemsize
