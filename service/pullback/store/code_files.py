"""Codes that a user gives: a `.npy` or `.npz` file, a Zarr array, or the codes of another sweep."""

import io
import zipfile
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from pullback.errors import SpecError
from pullback.regular_files import read_regular
from pullback.spec import nearest
from pullback.store.opening import is_repository
from pullback.store.reader import open_sweep

_MOST_BYTES = 4 * 2**30


def read_codes(path: str, key: str | None = None, named: str = "samples.codes") -> NDArray[np.float64]:
    """Read codes [rows, numbers] from a file or store; further dimensions are flattened.

    Args:
        path: `.npy`, `.npz`, a folder with a Zarr array or group, or a sweep.
        key: the array in an `.npz` file or a Zarr group that holds several.
        named: the key of the job, for messages.

    Raises:
        SpecError: the path cannot be read, or does not hold finite numbers with a row for each code.
    """
    try:
        array = _read(path, key, named)
    except SpecError:
        raise
    except Exception as error:  # numpy, zipfile and zarr raise nearly anything for damaged files
        text = str(error).strip().partition("\n")[0][:200]
        raise SpecError([f"{named}: {path} cannot be read as codes: {text}"]) from error
    if array.ndim < 2 or not array.size or array.dtype.kind not in "fiu":
        raise SpecError([f"{named}: {path} holds {array.dtype} {list(array.shape)}; codes [rows, numbers] are needed"])
    codes = array.reshape(len(array), -1).astype(np.float64)
    if not np.isfinite(codes).all():
        raise SpecError([f"{named}: {path} holds values that are not finite"])
    return codes


def _read(path: str, key: str | None, named: str) -> NDArray[np.generic]:
    place = Path(path)
    if "://" in path or (place.is_dir() and is_repository(path)):
        sweep = open_sweep(path)
        return sweep.values("latent", slice(0, sweep.layout.samples))
    if place.is_dir():
        return _of_zarr(path, key, named)
    content = read_regular(place, _MOST_BYTES)
    if content[:6] == b"\x93NUMPY":
        array: NDArray[np.generic] = np.load(io.BytesIO(content), allow_pickle=False)
        return array
    if content[:2] == b"PK":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(each.file_size for each in archive.infolist()) > _MOST_BYTES:
                raise SpecError([f"{named}: {path} declares more than {_MOST_BYTES / 2**30:.0f} GiB"])
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            found: NDArray[np.generic] = held[_chosen(list(held.files), key, path, named)]
            return found
    raise SpecError([f"{named}: {path} is neither .npy, .npz, a Zarr array nor a sweep"])


def _of_zarr(path: str, key: str | None, named: str) -> NDArray[np.generic]:
    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Group):
        node = node[_chosen([name for name, _ in node.arrays()], key, path, named)]
    if not isinstance(node, zarr.Array) or node.nbytes > _MOST_BYTES:
        raise SpecError([f"{named}: {path} holds no array of codes"])
    return np.asarray(node[:])


def _chosen(names: list[str], key: str | None, path: str, named: str) -> str:
    if key is None and len(names) == 1:
        return names[0]
    section = named.partition(".")[0]
    if key is None:
        raise SpecError([f"{section}.key: {path} holds several arrays; choose one of {', '.join(names)}"])
    if key not in names:
        raise SpecError(
            [f"{section}.key: {path} has no array {key!r}{nearest(key, names) or ';'} it has {', '.join(names)}"]
        )
    return key
