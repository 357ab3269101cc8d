"""Stored arrays as xarray variables that are read when needed, and checked when read.

`xarray.open_zarr` gives the same numbers. But for damaged data it raises an unhelpful error in the middle of a
computation, and for missing data it returns fill values. This module imports xarray, so it is imported only when a
dataset is requested.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing


class CheckedArray(BackendArray):
    """An array that xarray reads piece by piece, through a function that checks what it returns."""

    def __init__(self, shape: tuple[int, ...], dtype: str, read: Callable[[Any], npt.NDArray[Any]]) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._read = read

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)


def lazy_variable(dims: tuple[str, ...], array: CheckedArray, attributes: dict[str, Any]) -> xr.Variable:
    """The array as a variable of a dataset; nothing is read yet."""
    return xr.Variable(dims, indexing.LazilyIndexedArray(array), attrs=attributes)
