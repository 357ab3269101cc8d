"""Writing one shard, in a worker: whole, through a fork of the driver's session.

The driver makes the shard visible (`repository.SweepStore.merge` and `commit`). A worker killed in the middle leaves
chunk files to which nothing refers.
"""

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import icechunk
import zarr

from pullback.errors import RefusedError, StoreError
from pullback.store.durability import sync_written
from pullback.store.failures import cause
from pullback.store.opening import ATTRIBUTE, revision_of
from pullback.store.schema import SHARD_ARRAYS, ArraySchema, Layout, ShardRecord


def write_shard(fork: bytes, record: ShardRecord) -> bytes:
    """Write one shard whole, in a worker. The driver makes it visible with `merge` and `commit`.

    Args:
        fork: `SweepStore.fork()` of the driver, valid for any number of shards in any process.
        record: the shard's results.

    Returns:
        The argument for `SweepStore.merge`: a few kilobytes (23 for a sweep of 60,000 shards), without the data.

    Raises:
        ValueError: the record does not fit the plan.
        RefusedError: the storage refused.
    """
    pickled, folder = pickle.loads(fork)
    session = pickle.loads(pickled)
    try:
        with ThreadPoolExecutor(1) as thread:  # the caller's thread may have an event loop, as in a notebook
            thread.submit(asyncio.run, _write(session, record)).result()
        result = pickle.dumps(session)
        if folder is not None:  # here, not in the driver, which cannot sync another machine's memory
            sync_written(result, folder, _native_chunks(session))
    except (icechunk.IcechunkError, OSError) as error:
        raise RefusedError(f"shard {record.shard} could not be written ({cause(error)})") from error
    return result


def _native_chunks(session: icechunk.Session) -> int:
    """Number of files with a shard's chunks. Icechunk keeps small chunks in its manifests."""
    written = session.status().updated_chunks  # a sweep of an earlier version lacks some arrays
    kinds = (str(session.chunk_type(name, index)) for name, chunks in written.items() for index in chunks)
    return sum(kind.lower().endswith("native") for kind in kinds)


async def _write(session: icechunk.Session, record: ShardRecord) -> None:
    """Write all arrays concurrently. One after the other, each would wait several times for Python's lock, which the
    computing thread holds most of the time."""
    group = await zarr.api.asynchronous.open_group(store=session.store, mode="r+", use_consolidated=False)
    layout = Layout.from_dict(cast(dict[str, Any], group.attrs[ATTRIBUTE])["layout"])
    record.validate(layout)
    revision = revision_of(group.attrs)

    async def write(schema: ArraySchema) -> None:
        try:
            if schema.since > revision and not await group.contains(schema.name):
                return
            array = cast("zarr.AsyncArray[Any]", await group.getitem(schema.name))
        except Exception as error:  # errors of many classes, as in `opening.read`
            raise StoreError(
                f"shard {record.shard} could not be written: the description of {schema.name} is damaged "
                f"({cause(error)}). What was committed before is kept; `pullback audit` lists the damage."
            ) from error
        # Chunks that equal the fill value are written too, so that every shard has every chunk, and `merge`
        # recognizes an incomplete result.
        array = array.with_config({"write_empty_chunks": True})
        values = getattr(record, schema.name).reshape(-1, *array.shape[1:])
        await array.setitem(schema.rows_of(layout, record.shard), values)

    await asyncio.gather(*map(write, SHARD_ARRAYS))
