"""Exports of a sweep to formats that need no Icechunk: Zarr, netCDF and CSV, chosen by the name's ending.

Zarr holds every array and attribute, and netCDF holds the same in one file. CSV has a row for each computed sample: its
status, code, eigenvalues and certificate, but no eigenvectors and no sums of metrics.

Invariants: an export appears whole or not at all; no existing file is replaced; all of it comes from one snapshot,
which the attributes of Zarr and netCDF name.
"""

import csv
import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from pullback.errors import StoreError
from pullback.store.arrays import make_arrays
from pullback.store.folders import local_path, whole_file, whole_folder
from pullback.store.opening import array_of
from pullback.store.schema import BY_NAME, GOOD, PENDING, SHARD_ARRAYS, ArraySchema, Layout, Reason

if TYPE_CHECKING:
    from pullback.store.reader import Sweep

_CHUNK_BYTES = 4 * 2**20
"""A chunk of an export, uncompressed: few files, and a single eigenvector is still read in milliseconds. With a file
for each shard and array, the export of 2,000 shards took 65 s of CPU time and wrote 44,000 files."""
_BLOCK_BYTES = 64 * 2**20
"""Bytes of one array that are read at a time."""


def export(sweep: "Sweep", out: Path | str) -> str:
    """Write a sweep's snapshot to a path whose ending names the format: `.zarr` (or none), `.nc` or `.csv`.

    Returns:
        How to open it, in Python.

    Raises:
        StoreError: the ending is another; the path is taken, not writable or inside the sweep; the data do not fit the
            format; data on disk are damaged. Nothing is left there.
    """
    path = local_path(out)
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise StoreError(
            f"{out} ends in {path.suffix}, which is not a format of exports; nothing was written. Use .zarr (a folder "
            "with every array), .nc (netCDF, one file) or .csv (a row for each sample, without eigenvectors)."
        )
    if sweep.location.is_local and sweep.path.resolve() in path.resolve().parents:
        raise StoreError(f"{out} is inside the sweep itself; nothing was written. Choose a path beside it.")
    write(sweep, path)
    return _OPENED_BY[path.suffix.lower()].format(str(out))


def _write_zarr(sweep: "Sweep", path: Path) -> None:
    layout = sweep.layout
    chunks = {schema.name: _chunk_rows(schema, layout) for schema in SHARD_ARRAYS}
    with whole_folder(path) as temporary:
        copy = make_arrays(LocalStore(temporary), layout, sweep.attributes(), chunks)
        for schema in SHARD_ARRAYS:
            target = array_of(copy, schema.name)
            target.attrs.update(sweep.attributes_of(schema.name))
            for rows in _blocks(schema, layout, chunks[schema.name]):
                target[rows] = sweep.values(schema.name, rows)
        consolidate(temporary)


def _chunk_rows(schema: ArraySchema, layout: Layout) -> int:
    """Return the number of rows of an array in a chunk of an export: the rows of many shards, or a part of a large one.

    A shard is a whole number of chunks, or a chunk is a whole number of shards, so none is read or written twice.
    """
    first = schema.shard_shape(layout)[0]
    most = max(1, _CHUNK_BYTES // _row_bytes(schema, layout))
    if most >= first:
        return first * min(most // first, layout.shards)
    return max(rows for rows in range(1, most + 1) if first % rows == 0)


def _row_bytes(schema: ArraySchema, layout: Layout) -> int:
    return int(np.prod(schema.shape(layout)[1:], dtype=object)) * np.dtype(schema.dtype).itemsize


def _blocks(schema: ArraySchema, layout: Layout, chunk_rows: int) -> Iterator[slice]:
    """Yield the rows of an array, as many whole chunks and shards at a time as fit the working memory."""
    length = schema.shape(layout)[0]
    unit = max(chunk_rows, schema.shard_shape(layout)[0])
    step = unit * max(1, _BLOCK_BYTES // (unit * _row_bytes(schema, layout)))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def consolidate(folder: Path) -> None:
    """Write the metadata of all arrays of a local Zarr folder in one place. Without this, xarray warns at length."""
    with warnings.catch_warnings():
        # This is not part of Zarr's format 3 yet. Readers that do not support it read the arrays' own metadata.
        warnings.filterwarnings("ignore", message=".*Consolidated metadata.*")
        zarr.consolidate_metadata(LocalStore(folder))


def _write_netcdf(sweep: "Sweep", path: Path) -> None:
    engine = next((name for name in ("netCDF4", "h5netcdf") if importlib.util.find_spec(name)), "scipy")
    dataset = sweep.dataset(only_good=False)
    dataset.attrs = _plain({**sweep.attributes()})
    for variable in dataset.variables.values():
        variable.attrs = _plain(variable.attrs)
    with whole_file(path) as temporary:
        try:
            dataset.to_netcdf(temporary, engine=engine.lower())  # type: ignore[call-overload]
        except (ValueError, TypeError, OverflowError) as error:
            better = "" if engine != "scipy" else " With netCDF4 or h5netcdf installed, larger ones do."
            raise StoreError(
                f"the sweep does not fit a netCDF file of {engine} ({error}); nothing was written.{better} "
                "Or export it as .zarr."
            ) from error


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Convert attributes for netCDF: nested values become JSON."""
    return {key: json.dumps(value) if isinstance(value, Mapping) else value for key, value in attributes.items()}


def _write_csv(sweep: "Sweep", path: Path) -> None:
    layout, status = sweep.layout, sweep.sample_status()
    reasons = {int(reason): reason.name.lower() for reason in Reason}
    widest = max((BY_NAME["eigenvalue"], BY_NAME["latent"]), key=lambda schema: _row_bytes(schema, layout))
    single = [
        schema for schema in SHARD_ARRAYS if schema.dims == ("sample",) and schema.name not in ("status", "reason")
    ]
    header = ["sample", "status", "reason", *(schema.name for schema in single)]
    header += [f"eigenvalue_{rank + 1}" for rank in range(layout.components)]
    header += [f"latent_{axis}" for axis in range(layout.latent_dim)]
    with whole_file(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for rows in _blocks(widest, layout, layout.shard_size):
            if (status[rows] == PENDING).all():
                continue
            columns = [sweep.values(schema.name, rows) for schema in single]
            wide = [sweep.values(name, rows) for name in ("eigenvalue", "latent")]
            why = sweep.values("reason", rows)
            for place, sample in enumerate(range(rows.start, rows.stop)):
                if status[sample] == PENDING:
                    continue
                good = status[sample] == GOOD
                values = [column[place] for column in columns] + [value for array in wide for value in array[place]]
                named = reasons.get(int(why[place]), f"reason_{why[place]}")
                writer.writerow(
                    [
                        sample,
                        "good" if good else "quarantined",
                        "" if good else named,
                        *(_cell(each) for each in values),
                    ]
                )


def _cell(value: Any) -> str:
    """Format a number with all its digits; NaN becomes an empty cell."""
    if isinstance(value, np.floating):
        return "" if np.isnan(value) else repr(float(value)) if value.dtype == np.float64 else str(value)
    return str(int(value))


_WRITERS: Mapping[str, Callable[["Sweep", Path], None]] = {
    "": _write_zarr,
    ".zarr": _write_zarr,
    ".nc": _write_netcdf,
    ".csv": _write_csv,
}
_OPENED_BY: Mapping[str, str] = {
    "": "xarray.open_zarr({!r})",
    ".zarr": "xarray.open_zarr({!r})",
    ".nc": "xarray.open_dataset({!r})",
    ".csv": "pandas.read_csv({!r})",
}
