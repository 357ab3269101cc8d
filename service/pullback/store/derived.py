"""Results computed from a sweep, kept beside it: `<sweep>.<name>.zarr`.

They can be computed again, so they are replaced whole. Beside a folder they are plain Zarr folders without history; in
an object store, where a folder cannot be replaced in one step, each is an Icechunk repository of its own. What they
mean is up to the analysis that makes them.
"""

import re
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk

from pullback.errors import DamagedError, StoreError
from pullback.store.folders import whole_folder
from pullback.store.location import Location, locate
from pullback.store.objects import children, remove_tree
from pullback.store.opening import BRANCH, cause, commit_on_tip, is_free, open_repository

if TYPE_CHECKING:
    import xarray as xr

_ATTEMPTS = 5
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"


def derived_place(sweep: Location | Path | str, name: str) -> Location:
    """Where the result `name` of a sweep is kept; raises ValueError for a name unfit for a file."""
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"a result's name is made of letters, digits, _ and -, not {name!r}")
    place = locate(sweep)
    return place.sibling(f"{place.name}.{name}.zarr")


def save_derived(sweep: Location | Path | str, name: str, dataset: "xr.Dataset") -> Location:
    """Keep a result, in place of an earlier one of its name; returns where.

    Raises:
        StoreError: it cannot be written; an earlier result is kept.
    """
    place = derived_place(sweep, name)
    if place.is_local:
        with whole_folder(place.path, replace=True) as temporary:
            _write(dataset, temporary)
        return place

    def replace(session: icechunk.Session) -> bool:
        _write(dataset, session.store)
        return True

    try:
        repository = icechunk.Repository.open_or_create(place.storage())
        commit_on_tip(repository, replace, "replace")
    except (icechunk.ConflictError, icechunk.IcechunkError) as error:
        raise StoreError(
            f"{place} cannot be written ({cause(error)}); an earlier result is kept, and the sweep is not touched. "
            "Check that its bucket can be written to."
        ) from error
    return place


def load_derived(sweep: Location | Path | str, name: str) -> "xr.Dataset | None":
    """A kept result, wholly in memory; None where there is none.

    Raises:
        DamagedError: it cannot be read.
        StoreError: an object store does not answer.
    """
    place = derived_place(sweep, name)
    if place.is_local:
        return _load_folder(place.path)
    if is_free(place):
        return None
    try:
        return _read(open_repository(place).readonly_session(BRANCH).store)
    except Exception as error:  # see `opening.read`
        raise _damaged(place, error) from error


def derived_names(sweep: Location | Path | str) -> list[str]:
    """The names of all that is kept beside a sweep; raises StoreError where an object store does not answer."""
    place = locate(sweep)
    pattern = rf"{re.escape(place.name)}\.({_NAME})\.zarr"
    found = (re.fullmatch(pattern, other.name) for other in children(place.parent))
    return [each[1] for each in found if each is not None]


def remove_derived(sweep: Location | Path | str, name: str) -> None:
    """Remove a kept result, if it is there.

    Raises:
        StoreError: it cannot be removed.
    """
    place = derived_place(sweep, name)
    if not place.is_local:
        remove_tree(place)
        return
    try:
        shutil.rmtree(place.path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StoreError(f"{place} cannot be removed ({error.strerror}); the sweep is not touched.") from error


def _load_folder(path: Path) -> "xr.Dataset | None":
    for attempt in range(_ATTEMPTS):
        before = _identity(path)
        if before is None:
            return None
        try:
            dataset = _read(path)
        except Exception as error:
            # Not damaged, if it was replaced while it was read: then read the new one.
            if _identity(path) == before or attempt == _ATTEMPTS - 1:
                raise _damaged(Location(path), error) from error
            continue
        if _identity(path) == before:
            return dataset
    raise StoreError(f"{path} is being replaced all the time; nothing is lost. Read it again when that is over.")


def _write(dataset: "xr.Dataset", store: Any) -> None:
    """Write a dataset into a Zarr store, in place of what is there."""
    from zarr.codecs import Crc32cCodec, ZstdCodec

    # A flipped byte must not come back as data, here no less than in a sweep. Given for every variable, this also
    # replaces the encoding of wherever the dataset was read from, which need not fit.
    encoding: dict[Any, Any] = {key: {"compressors": [ZstdCodec(), Crc32cCodec()]} for key in dataset.variables}
    with warnings.catch_warnings():
        # Strings have no final Zarr v3 specification yet; the two ends here are the same library.
        warnings.filterwarnings("ignore", message=".*(Zarr V3|Zarr format 3) specification.*")
        dataset.to_zarr(store, mode="w", zarr_format=3, consolidated=False, encoding=encoding)


def _read(store: Any) -> "xr.Dataset":
    import xarray as xr

    dataset: xr.Dataset = xr.open_zarr(store, consolidated=False, chunks=None).load()
    return dataset


def _damaged(place: Location, error: BaseException) -> DamagedError:
    return DamagedError(
        f"{place} cannot be read: it is damaged ({cause(error)}). The sweep itself is not touched: "
        "compute the result again, which replaces it."
    )


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_ctime_ns
