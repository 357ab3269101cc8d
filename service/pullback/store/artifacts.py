"""Artifacts: results computed from a sweep and stored beside it as `<sweep>.<name>.zarr`.

They can be computed again, so each is replaced as a whole. Beside a folder they are plain Zarr folders without history.
In an object store, a folder cannot be replaced in one step, so each is an Icechunk repository. The analysis that makes
an artifact defines its content.
"""

import re
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import icechunk

from pullback.errors import DamagedError, StoreError
from pullback.store.commits import commit_on_tip
from pullback.store.failures import cause
from pullback.store.folders import whole_folder
from pullback.store.location import Location, locate
from pullback.store.objects import children, remove_tree
from pullback.store.opening import becomes_repository, is_free, open_repository
from pullback.store.tip import BRANCH

if TYPE_CHECKING:
    import xarray as xr

_ATTEMPTS = 5
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"


def artifact_location(sweep: Location | Path | str, name: str) -> Location:
    """The location of a sweep's artifact; raises ValueError for a name that is not valid in a file name."""
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"an artifact's name consists of letters, digits, _ and -, not {name!r}")
    place = locate(sweep)
    return place.sibling(f"{place.name}.{name}.zarr")


def save_artifact(sweep: Location | Path | str, name: str, dataset: "xr.Dataset") -> Location:
    """Store an artifact, replacing an earlier one of the same name. Returns its location.

    Raises:
        StoreError: it cannot be written; an earlier artifact is kept.
    """
    place = artifact_location(sweep, name)
    if place.is_local:
        with whole_folder(place.path, replace=True) as temporary:
            _write(dataset, temporary, consolidated=True)
        return place

    def replace(session: icechunk.Session) -> bool:
        _write(dataset, session.store, consolidated=False)
        return True

    try:
        commit_on_tip(_repository(place), replace, "replace")
    except (icechunk.ConflictError, icechunk.IcechunkError) as error:
        raise StoreError(
            f"{place} cannot be written ({cause(error)}); an earlier result is kept, and the sweep is not touched. "
            "Check that its bucket can be written to."
        ) from error
    return place


def _repository(place: Location) -> icechunk.Repository:
    """Open the repository of an artifact in an object store; create it, unless another process just does so."""
    try:
        return icechunk.Repository.open_or_create(place.storage())
    except icechunk.IcechunkError:
        if not becomes_repository(place):
            raise
        return open_repository(place)


def load_artifact(sweep: Location | Path | str, name: str) -> "xr.Dataset | None":
    """Load an artifact into memory; None if there is none.

    Raises:
        DamagedError: it cannot be read.
        StoreError: an object store does not answer.
    """
    place = artifact_location(sweep, name)
    if place.is_local:
        return _load_folder(place.path)
    if is_free(place):
        return None
    try:
        return _read(open_repository(place).readonly_session(BRANCH).store)
    except Exception as error:  # errors of many classes, as in `opening.read`
        raise _damaged(place, error) from error


def artifact_names(sweep: Location | Path | str) -> list[str]:
    """The names of a sweep's artifacts; raises StoreError if an object store does not answer."""
    place = locate(sweep)
    pattern = rf"{re.escape(place.name)}\.({_NAME})\.zarr"
    found = (re.fullmatch(pattern, other.name) for other in children(place.parent))
    return [each[1] for each in found if each is not None]


def remove_artifact(sweep: Location | Path | str, name: str) -> None:
    """Remove an artifact, if it exists.

    Raises:
        StoreError: it cannot be removed.
    """
    place = artifact_location(sweep, name)
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
            # If it was replaced while it was read, it is not damaged: read the new one.
            if _identity(path) == before or attempt == _ATTEMPTS - 1:
                raise _damaged(Location(path), error) from error
            continue
        if _identity(path) == before:
            return dataset
    raise StoreError(f"{path} was replaced each time it was read; nothing is lost. Read it again later.")


def _write(dataset: "xr.Dataset", store: Any, consolidated: bool) -> None:
    """Write a dataset into a Zarr store, replacing its content.

    Metadata of a folder are consolidated; otherwise plain `xarray.open_zarr` warns at length.
    """
    from zarr.codecs import Crc32cCodec, ZstdCodec

    # A checksum for each chunk, as in a sweep. Given for every variable, this also replaces the encoding of the file
    # that the dataset was read from, which may not fit.
    encoding: dict[Any, Any] = {key: {"compressors": [ZstdCodec(), Crc32cCodec()]} for key in dataset.variables}
    with warnings.catch_warnings():
        # Strings have no final Zarr v3 specification yet. The same library writes and reads these.
        warnings.filterwarnings("ignore", message=".*(Zarr V3|Zarr format 3) specification.*")
        dataset.to_zarr(store, mode="w", zarr_format=3, consolidated=consolidated, encoding=encoding)


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
