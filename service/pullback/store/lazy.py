"""Zarr arrays as xarray variables that are read when needed, and checked when read.

`xarray.open_zarr` would give the same numbers, but an unhelpful error in the middle of a computation where the data
on disk are damaged. Imports xarray, hence imported only where a dataset is asked for.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing

from pullback.store.repository import array_of, read
from pullback.store.schema import ARRAYS


class CheckedArray(BackendArray):
    """A Zarr array that xarray reads piece by piece, through `read`."""

    def __init__(self, array: "zarr.Array[Any]", path: Path) -> None:
        self.shape = array.shape
        self.dtype = np.dtype(array.dtype)
        self._array = array
        self._path = path

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, selection: tuple[Any, ...]) -> npt.NDArray[Any]:
        return read(self._array, selection, self._path)


def lazy_dataset(group: zarr.Group, path: Path) -> xr.Dataset:
    """Every array of a sweep as a lazily read variable, with its dimensions and attributes."""
    variables = {}
    for schema in ARRAYS:
        array = array_of(group, schema.name)
        data = indexing.LazilyIndexedArray(CheckedArray(array, path))
        variables[schema.name] = xr.Variable(schema.dims, data, attrs=array.attrs.asdict())
    return xr.Dataset(variables, attrs=group.attrs.asdict())
