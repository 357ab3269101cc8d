"""Arrays as answers: a table of a few numbered rows, in JSON, npy, Arrow or Zarr. No format embeds code.

npy is one structured array, so that the rows' numbers come along; Arrow is the stream format with lists of fixed
size; Zarr is a zipped Zarr v3 group with named dimensions, which `xarray.open_zarr` opens once it is unpacked.
"""

import io
import json
import tempfile
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
"""In one answer. JSON is text, and takes several times as much memory."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows with numbers.

    Attributes:
        index: what a row is, `sample` or `component`; `columns` has an entry of this name, the rows' numbers.
        columns: each [rows], or [rows, width].
        widths: of each wide column, the name of its second dimension.
        facts: what holds for all of it, ready for JSON; the snapshot is among them.
    """

    index: str
    columns: Mapping[str, npt.NDArray[Any]]
    widths: Mapping[str, str]
    facts: Mapping[str, Any]

    def encode(self, form: Format) -> bytes:
        """The table in a format."""
        return {"json": self._json, "npy": self._npy, "arrow": self._arrow, "zarr": self._zarr}[form]()

    def _json(self) -> bytes:
        columns = {name: np.ascontiguousarray(values) for name, values in self.columns.items()}
        return orjson.dumps({**self.facts, **columns}, option=orjson.OPT_SERIALIZE_NUMPY)  # null for what is not finite

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
            dataset.to_zarr(folder, mode="w", zarr_format=3, consolidated=False)
            with zipfile.ZipFile(packed, "w") as archive:  # its chunks are compressed already
                for path in sorted(Path(folder).rglob("*")):
                    if path.is_file():
                        # as of no time, so that the same table is the same file
                        archive.writestr(zipfile.ZipInfo(path.relative_to(folder).as_posix()), path.read_bytes())
        return packed.getvalue()
