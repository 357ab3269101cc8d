"""Making the Zarr arrays of a sweep, as `schema` describes them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import StoreLike

from pullback.store.chunks import rows_of_chunk
from pullback.store.opening import array_of
from pullback.store.schema import ARRAYS, SAMPLE, ArraySchema, Layout


def make_arrays(
    store: StoreLike, layout: Layout, attributes: dict[str, Any], chunks: Mapping[str, int] | None = None
) -> zarr.Group:
    """Create the root group and every array of a sweep in an empty Zarr store, and fill `sample`.

    Args:
        store: the Zarr store.
        layout: the sizes that fix every shape.
        attributes: attributes of the root group.
        chunks: rows of a chunk, for arrays that differ from a sweep's in them; such an array has no inner chunks.
    """
    group = zarr.create_group(store, zarr_format=3, attributes=attributes)
    for schema in ARRAYS:
        make_array(group, schema, layout, (chunks or {}).get(schema.name))
    write_numbers(array_of(group, SAMPLE.name), range(layout.samples))
    return group


def make_array(
    group: zarr.Group, schema: ArraySchema, layout: Layout, chunk_rows: int | None = None
) -> "zarr.Array[Any]":
    """Create one empty array of a sweep at its final shape; `chunk_rows` as in `make_arrays`."""
    chunk = schema.chunk_shape(layout) if chunk_rows is None else (chunk_rows, *schema.shape(layout)[1:])
    inner = schema.inner_chunks and chunk_rows is None
    # With zarr's default codecs a flipped byte is returned as data. The checksum comes last, over the bytes as stored.
    codecs = [ZstdCodec(), Crc32cCodec()] if schema.compressed else [Crc32cCodec()]
    return group.create_array(
        schema.name,
        shape=schema.shape(layout),
        shards=chunk if inner else None,
        chunks=(1, *chunk[1:]) if inner else chunk,
        dtype=schema.dtype,
        compressors=codecs,
        fill_value=schema.fill,
        dimension_names=schema.dims,
        attributes=attributes_of(schema),
    )


def write_numbers(array: "zarr.Array[Any]", rows: range) -> None:
    """Write whole chunks of `sample`: those that contain the rows."""
    step = rows_of_chunk(array)
    for start in range(rows.start // step * step, rows.stop, step):
        stop = min(start + step, array.shape[0])
        array[start:stop] = np.arange(start, stop, dtype=np.int64)


def attributes_of(schema: ArraySchema) -> dict[str, Any]:
    """The stored attributes of an array."""
    return {"long_name": schema.long_name, "units": schema.units, **schema.attributes}
