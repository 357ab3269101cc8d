"""Reading many chunks of an array at once.

Zarr spends a quarter of a millisecond of Python on every chunk. Here one request to Icechunk fetches many chunks, and
each is decoded in 10 µs. Invariants: the values are those that Zarr returns; every checksum is verified.

Supports the two chains of codecs that `arrays` creates: chunks that are compressed and then checksummed, and Zarr
shards whose inner chunks are checksummed only. Zarr reads arrays with other codecs.
"""

import math
from collections.abc import Callable, Container
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from pullback.store.failures import WrongBytesError

_WORTH_IT = 8
"""Least number of chunks for which this is faster than Zarr."""
_BATCH_BYTES = 32 * 2**20
_BATCH_CHUNKS = 1024
_CHECKSUM_BYTES = 4
_KEPT = 256
"""Decoded chunks that are cached by their bytes: most of 100,000 chunks of `status` are equal."""
_KEPT_BYTES = 1024

Decoder = Callable[[bytes], npt.NDArray[Any]]
"""Turns the stored bytes of a chunk into its values; raises WrongBytesError if a checksum or size is wrong."""


def suits(array: "zarr.Array[Any]", selection: tuple[Any, ...], rows: npt.NDArray[np.intp], chunks: int) -> bool:
    """Whether `read_rows` can read a selection faster than Zarr.

    Args:
        array: the array.
        selection: a key for each axis.
        rows: the rows that the first key selects.
        chunks: how many chunks hold them.
    """
    simple = all(isinstance(key, slice) or (isinstance(key, np.ndarray) and key.ndim == 1) for key in selection)
    if chunks < _WORTH_IT or not simple or np.dtype(array.dtype).newbyteorder("<") != array.dtype:
        return False
    codecs = [codec.to_dict() for codec in array.metadata.codecs]  # type: ignore[union-attr]
    if array.shards is None:
        return _names(codecs) == ["bytes", "zstd", "crc32c"] and array.chunks[1:] == array.shape[1:]
    # Zarr reads single inner chunks; here a Zarr shard is fetched whole.
    inner: Any = codecs[0].get("configuration")
    return (
        _names(codecs) == ["sharding_indexed"]
        and _names(inner["codecs"]) == ["bytes", "crc32c"]
        and _names(inner["index_codecs"]) == ["bytes", "crc32c"]
        and inner["index_location"] == "end"
        and array.chunks == (1, *array.shape[1:])
        and 2 * len(rows) >= chunks * array.shards[0]
    )


def read_rows(
    array: "zarr.Array[Any]", rows: npt.NDArray[np.intp], rest: tuple[Any, ...], present: Container[int]
) -> npt.NDArray[Any]:
    """Read the given rows of an array, and the selected entries of each.

    Args:
        array: an array that `suits`; each chunk is whole in every axis but the first.
        rows: indices along the first axis, in any order, none negative.
        rest: a slice or an array of indices for each further axis, independently of each other.
        present: the chunks that the array has; the others read as fill values.

    Raises:
        WrongBytesError: the checksum or size of a chunk is wrong (names the shard), or a chunk of `present` is absent.
        Exception: Icechunk's own errors, for other damage and for a storage that cannot be read just now.
    """
    size = (array.shards or array.chunks)[0]
    wanted = [(chunk, *places) for chunk, *places in _places(rows, size) if chunk in present]
    widths = [len(np.arange(length)[key]) for length, key in zip(array.shape[1:], rest, strict=True)]
    values = np.full((len(rows), *widths), array.fill_value, array.dtype)
    prototype, decode, kept = default_buffer_prototype(), _decoder(array), dict[bytes, npt.NDArray[Any]]()
    key_of = array.metadata.encode_chunk_key
    zeros, path, store = (0,) * (array.ndim - 1), array.path, array.store
    chunk_bytes = size * int(np.prod(array.shape[1:])) * np.dtype(array.dtype).itemsize
    step = min(_BATCH_CHUNKS, max(1, _BATCH_BYTES // max(1, chunk_bytes)))
    narrowed = [(axis, key) for axis, key in enumerate(rest, start=1) if not _is_everything(key)]

    def fetch(first: int) -> list[Any]:
        keys = [f"{path}/{key_of((chunk, *zeros))}" for chunk, _, _ in wanted[first : first + step]]
        try:
            found = list(sync(store.get_partial_values(prototype, [(key, None) for key in keys])))
            if len(found) == len(keys) and all(stored is not None for stored in found):
                return found
        except Exception:
            pass  # Icechunk leaves out chunks that it cannot read, and hides why.
        one_by_one = [sync(store.get(key, prototype)) for key in keys]  # raises the error itself
        for key, stored in zip(keys, one_by_one, strict=True):
            if stored is None:
                raise WrongBytesError(f"the chunk {key} is listed but missing")
        return one_by_one

    with ThreadPoolExecutor(1) as ahead:  # fetches the next batch while this one is decoded
        coming = ahead.submit(fetch, 0)
        for first in range(0, len(wanted), step):
            chunks = coming.result()
            coming = ahead.submit(fetch, first + step)
            for (chunk, where, inside), stored in zip(wanted[first : first + step], chunks, strict=True):
                content = stored.to_bytes()
                piece = kept.get(content)
                if piece is None:
                    try:
                        piece = decode(content)
                    except WrongBytesError as error:
                        raise WrongBytesError(f"{error} of shard {chunk} is wrong") from None
                    for axis, key in narrowed:
                        piece = piece[(slice(None),) * axis + (key,)]
                    if len(content) <= _KEPT_BYTES and len(kept) < _KEPT:
                        kept[content] = piece
                values[where] = piece[inside]
    return values


def _places(rows: npt.NDArray[np.intp], size: int) -> list[tuple[int, Any, Any]]:
    """For each chunk with wanted rows: its index, positions of the rows in the result, and positions in the chunk."""
    if len(rows) == 0:
        return []
    start, stop = int(rows[0]), int(rows[-1]) + 1
    if len(rows) == stop - start and (np.diff(rows) == 1).all():
        return [
            (
                chunk,
                slice(max(chunk * size - start, 0), (chunk + 1) * size - start),
                slice(max(start - chunk * size, 0), stop - chunk * size),
            )
            for chunk in range(start // size, (stop - 1) // size + 1)
        ]
    owners = rows // size
    order = np.argsort(owners, kind="stable")
    chunks, starts = np.unique(owners[order], return_index=True)
    pieces = np.split(order, starts[1:])
    return [(chunk, where, rows[where] - chunk * size) for chunk, where in zip(chunks.tolist(), pieces, strict=True)]


def _names(codecs: Any) -> list[str]:
    return [codec["name"] for codec in codecs]


def _is_everything(key: Any) -> bool:
    return isinstance(key, slice) and key == slice(None)


def _decoder(array: "zarr.Array[Any]") -> Decoder:
    dtype, shape = np.dtype(array.dtype), array.chunks
    if array.shards is None:
        zstd = Zstd()

        def decode(chunk: bytes) -> npt.NDArray[Any]:
            values: npt.NDArray[Any] = np.frombuffer(zstd.decode(_checked(chunk, "the checksum")), dtype)
            return _shaped(values, shape)

        return decode

    count, inner, fill = array.shards[0], shape[1:], array.fill_value

    def decode_inner(shard: bytes) -> npt.NDArray[Any]:
        """Decode a Zarr shard: inner chunks, then an offset and a length for each; all bits set mean a missing
        chunk."""
        index = _checked(shard[-16 * count - _CHECKSUM_BYTES :], "the checksum of the index")
        values = np.full((count, *inner), fill, dtype)
        for row, (offset, length) in enumerate(np.frombuffer(index, "<u8").reshape(count, 2).tolist()):
            if offset != _NONE:
                piece = _checked(shard[offset : offset + length], "the checksum")
                values[row] = _shaped(np.frombuffer(piece, dtype), inner)
        return values

    return decode_inner


_NONE = 2**64 - 1
"""Offset of an inner chunk that is not stored."""


def _shaped(values: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    if values.size != math.prod(shape):
        raise WrongBytesError("the size")
    return values.reshape(shape)


def _checked(stored: bytes, what: str) -> bytes:
    content, checksum = stored[:-_CHECKSUM_BYTES], stored[-_CHECKSUM_BYTES:]
    if google_crc32c.value(content) != int.from_bytes(checksum, "little"):
        raise WrongBytesError(what)
    return content
