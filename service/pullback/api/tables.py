"""Tables of numbers in JSON, npy, Arrow or Zarr. None of these formats can hold code.

npy is one structured array, which includes the row numbers; Arrow is the stream format with lists of fixed
size; Zarr is a zipped Zarr v3 group with named dimensions, which `xarray.open_zarr` opens after unzipping.
"""

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa  # type: ignore[import-untyped]

Format = Literal["json", "npy", "arrow", "zarr"]

MEDIA: Mapping[Format, str] = {
    "json": "application/json",
    "npy": "application/x-npy",
    "arrow": "application/vnd.apache.arrow.stream",
    "zarr": "application/zip",
}
MOST_NUMBERS: Mapping[Format, int] = {"json": 1_000_000, "npy": 10_000_000, "arrow": 10_000_000, "zarr": 10_000_000}
"""Largest number of values in one answer. JSON is text, which takes several times as much memory."""


@dataclass(frozen=True, eq=False)
class Table:
    """Named columns of equal length.

    Attributes:
        index: what a row is, `sample` or `component`; the column of this name has the row numbers.
        columns: each [rows], or [rows, width].
        widths: name of the second dimension of each two-dimensional column.
        facts: JSON values that hold for the whole table, such as the snapshot.
    """

    index: str
    columns: Mapping[str, npt.NDArray[Any]]
    widths: Mapping[str, str]
    facts: Mapping[str, Any]

    def encode(self, form: Format) -> bytes:
        """Return the table in a format."""
        return {"json": self._json, "npy": self._npy, "arrow": self._arrow, "zarr": self._zarr}[form]()

    def _json(self) -> bytes:
        columns = {name: np.ascontiguousarray(values) for name, values in self.columns.items()}
        # NaN and infinity become null
        return orjson.dumps({**self.facts, **columns}, option=orjson.OPT_SERIALIZE_NUMPY)

    def _npy(self) -> bytes:
        kinds = [(name, values.dtype.newbyteorder("<"), values.shape[1:]) for name, values in self.columns.items()]
        rows = np.empty(len(self.columns[self.index]), dtype=kinds)
        for name, values in self.columns.items():
            rows[name] = values
        file = io.BytesIO()
        np.save(file, rows, allow_pickle=False)
        return file.getvalue()

    def _arrow(self) -> bytes:
        arrays = [
            pa.array(values)
            if values.ndim == 1
            else pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
            for values in self.columns.values()
        ]
        metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in self.facts.items()}
        batch = pa.record_batch(arrays, list(self.columns)).replace_schema_metadata(metadata)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return bytes(sink.getvalue().to_pybytes())

    def _zarr(self) -> bytes:
        import xarray as xr

        variables = {
            name: ((self.index, self.widths[name]) if values.ndim == 2 else (self.index,), values)
            for name, values in self.columns.items()
        }
        dataset = xr.Dataset(variables, attrs=dict(self.facts)).set_coords(self.index)
        packed = io.BytesIO()
        with tempfile.TemporaryDirectory(prefix="pullback-") as folder:
            with warnings.catch_warnings():
                # Zarr warns that format 3 does not define consolidated metadata yet; xarray warns if they are absent.
                warnings.filterwarnings("ignore", message=".*Consolidated metadata.*")
                dataset.to_zarr(folder, mode="w", zarr_format=3, consolidated=True)
            with zipfile.ZipFile(packed, "w") as archive:  # without compression: the chunks are compressed
                for path in sorted(Path(folder).rglob("*")):
                    if path.is_file():
                        # without a time, so that the same table gives the same bytes
                        archive.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes())
        return packed.getvalue()
