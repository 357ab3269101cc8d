"""Results computed from a sweep, kept beside it as plain Zarr folders: `<sweep>.<name>.zarr`.

They can be computed again, so they are replaced whole and carry no history. What they mean is up to the analysis that
makes them.
"""

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pullback.errors import StoreError
from pullback.store.folders import local_path, whole_folder

if TYPE_CHECKING:
    import xarray as xr

_ATTEMPTS = 5


def derived_path(sweep_path: Path | str, name: str) -> Path:
    """Where the result `name` of a sweep is kept; raises ValueError for a name unfit for a file."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"a result's name is made of letters, digits, _ and -, not {name!r}")
    path = local_path(sweep_path)
    return path.with_name(f"{path.name}.{name}.zarr")


def save_derived(sweep_path: Path | str, name: str, dataset: "xr.Dataset") -> Path:
    """Keep a result, in place of an earlier one of its name; returns its folder.

    Raises:
        StoreError: the folder cannot be written; an earlier result is kept.
    """
    from zarr.codecs import Crc32cCodec, ZstdCodec

    path = derived_path(sweep_path, name)
    # A flipped byte must not come back as data, here no less than in a sweep. Given for every variable, this also
    # replaces the encoding of wherever the dataset was read from, which need not fit.
    encoding: dict[Any, Any] = {key: {"compressors": [ZstdCodec(), Crc32cCodec()]} for key in dataset.variables}
    with whole_folder(path, replace=True) as temporary, warnings.catch_warnings():
        # Strings have no final Zarr v3 specification yet; the two ends here are the same library.
        warnings.filterwarnings("ignore", message=".*(Zarr V3|Zarr format 3) specification.*")
        dataset.to_zarr(temporary, mode="w", zarr_format=3, consolidated=False, encoding=encoding)
    return path


def load_derived(sweep_path: Path | str, name: str) -> "xr.Dataset | None":
    """A kept result, wholly in memory; None where there is none.

    Raises:
        StoreError: it is damaged.
    """
    import xarray as xr

    path = derived_path(sweep_path, name)
    for attempt in range(_ATTEMPTS):
        before = _identity(path)
        if before is None:
            return None
        try:
            dataset: xr.Dataset = xr.open_zarr(path, consolidated=False, chunks=None).load()
        except Exception as error:
            # Not damaged, if it was replaced while it was read: then read the new one.
            if _identity(path) == before or attempt == _ATTEMPTS - 1:
                raise StoreError(
                    f"{path} cannot be read: it is damaged ({error}). The sweep itself is not touched: "
                    "remove that folder and compute the result again."
                ) from error
            continue
        if _identity(path) == before:
            return dataset
    raise StoreError(f"{path} is being replaced all the time; nothing is lost. Read it again when that is over.")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_ctime_ns
