"""Files of latent directions, in the layouts of GANSpace, InterFaceGAN and encoder4editing, and as plain arrays.

| file | content |
|---|---|
| `.npy` | an array `[k, n]` or `[n]`; InterFaceGAN's boundaries are `[1, 512]`, or `[18, 512]` in W+ |
| `.npz` | GANSpace's `lat_comp`, `lat_mean`, `lat_stdev` (its `decomposition.py`); or `axes` of `pullback export` |
| `.pt`, `.pth` | encoder4editing's `{comp, mean, std}` (its `editings/ganspace.py`), or a tensor |
| `.pkl` | a named edit as GANSpace's window writes it (`edit_files`) |
| `.json` | named edits of `pullback export` and `pullback axes --export` |

Invariants: no code of a file is run; a file is accepted as a whole or refused with a sentence.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.errors import PullbackError, WeightsError
from pullback.interchange.edit_files import are_edits, edits_of
from pullback.regular_files import NotRegularError, open_regular
from pullback.weights.checkpoints import read_checkpoint

Floats = npt.NDArray[np.float64]

ENDINGS = (".npy", ".npz", ".pt", ".pth", ".pkl", ".json")
"""Endings of files that can be read."""
_NPZ_LAYOUTS = {
    "lat_comp": ("GANSpace", "lat_stdev", "lat_mean"),
    "axes": ("axes of a mean metric", "eigenvalues", "mean"),
    "comp": ("comp, mean, std", "std", "mean"),
}
"""Arrays of directions in `.npz` files by their key: layout, key of the strengths, key of the mean."""


@dataclass(frozen=True, eq=False)
class DirectionFile:
    """The directions of a file.

    Attributes:
        vectors: `[m, n]`, in the file's order and with the file's lengths and signs.
        strengths: `[m]`, the file's own measure of each direction (a standard deviation, an eigenvalue); None without.
        layout: the recognised layout.
        notes: how the shape of the file was understood, where that is not obvious.
        names: the name of each direction `[m]`; empty without.
    """

    vectors: Floats
    strengths: Floats | None
    layout: str
    notes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Content:
    """What a file holds: directions in the file's shape, strengths, layout, names, and layers of named edits."""

    array: Floats
    strengths: Floats | None
    layout: str
    names: tuple[str, ...] = ()
    layers: tuple[tuple[int, int], ...] = ()


def read_directions(
    path: Path | str, latent_dim: int, blocks: Mapping[str, tuple[int, int]] | None = None, block: str | None = None
) -> DirectionFile:
    """Read the directions of a file as vectors of a latent space.

    Args:
        path: the file.
        latent_dim: n, the size of a code.
        blocks: the named blocks of a code, name -> (start, stop).
        block: the block to which the file's directions belong; zeros fill the other coordinates.

    Raises:
        PullbackError: the file is missing, damaged, of an unknown layout or would run code; its directions have
            another size, are zero, or are not finite.
    """
    path, blocks = Path(path), dict(blocks or {})
    if block is not None and block not in blocks:
        known = f"its blocks are {', '.join(blocks)}" if blocks else "it has none"
        raise PullbackError(f"the latent space has no block {block!r}: {known}. Nothing was computed.")
    content = _content(path)
    strengths = content.strengths
    start, stop = blocks[block] if block is not None else (0, latent_dim)
    vectors, notes = _rows(path, content.array, stop - start, {} if block is not None else blocks)
    if content.layers and block is None:
        notes += _keep_layers(vectors, content.layers, list(blocks.values()))
    if block is not None:
        whole = np.zeros((len(vectors), latent_dim))
        whole[:, start:stop] = vectors
        vectors, notes = whole, [*notes, f"its directions belong to the block {block}"]
    if not np.isfinite(vectors).all():
        raise _refused(path, "holds numbers that are not finite")
    if not vectors.any(axis=1).all():
        raise _refused(path, f"direction {int(np.argmin(vectors.any(axis=1))) + 1} of it is zero")
    if strengths is not None:
        strengths = strengths.reshape(-1)
        strengths = strengths if len(strengths) == len(vectors) and np.isfinite(strengths).all() else None
    names = content.names if len(content.names) == len(vectors) and any(content.names) else ()
    return DirectionFile(vectors, strengths, content.layout, tuple(notes), names)


def _keep_layers(vectors: Floats, layers: Sequence[tuple[int, int]], blocks: Sequence[tuple[int, int]]) -> list[str]:
    """Set the coordinates of layers that an edit does not move to zero, in place; return notes."""
    if len(blocks) < 2 or all(first <= 0 and last >= len(blocks) for first, last in layers):
        return []
    for vector, (first, last) in zip(vectors, layers, strict=True):
        for layer, (start, stop) in enumerate(blocks):
            if not first <= layer < last:
                vector[start:stop] = 0
    return ["each moves the layers of its edit only"]


def _content(path: Path) -> _Content:
    """Return what a file holds."""
    ending = path.suffix.lower()
    if ending not in ENDINGS:
        raise _refused(path, f"has an unknown ending; known are {', '.join(ENDINGS)}")
    if ending in (".pt", ".pth", ".pkl"):
        return _torch_content(path)
    if ending == ".json":
        return _json_content(path)
    try:
        with open_regular(path) as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return _Content(_numbers(path, loaded), None, "an array")
            return _npz_content(path, loaded)
    except FileNotFoundError:
        raise PullbackError(f"there is no file {path}. Nothing was computed.") from None
    except (NotRegularError, IsADirectoryError, PermissionError) as error:
        raise _refused(path, f"cannot be read: {error.strerror or error}") from error
    except (OSError, EOFError, zipfile.BadZipFile) as error:
        raise _refused(path, f"is damaged: {error}") from error
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise _refused(path, "holds pickled objects, which could run code; save a plain array instead") from error
        raise _refused(path, f"is damaged: {error}") from error


def _npz_content(path: Path, loaded: Any) -> _Content:
    key = next((key for key in _NPZ_LAYOUTS if key in loaded.files), None)
    if key is None:
        raise _refused(
            path, f"holds {', '.join(loaded.files) or 'nothing'}, and none of {', '.join(_NPZ_LAYOUTS)} with directions"
        )
    layout, strength, _ = _NPZ_LAYOUTS[key]
    strengths = _numbers(path, loaded[strength]) if strength in loaded.files else None
    named = loaded["names"] if "names" in loaded.files else np.array([])
    names = tuple(named.tolist()) if named.dtype.kind == "U" and named.ndim == 1 else ()
    return _Content(_numbers(path, loaded[key]), strengths, layout, names)


def _json_content(path: Path) -> _Content:
    try:
        with open_regular(path) as file:
            content = json.loads(file.read().decode("utf-8"))
    except FileNotFoundError:
        raise PullbackError(f"there is no file {path}. Nothing was computed.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(path, f"is no JSON: {error}") from error
    if not are_edits(content):
        raise _refused(path, "holds no named edits, each with `name` and `lat_comp`")
    return _edits(path, content)


def _edits(path: Path, content: Any) -> _Content:
    try:
        edits = edits_of(content)
    except ValueError as error:
        raise _refused(path, f"is incomplete: {error}") from error
    return _Content(edits.vectors, edits.deviations, "named edits", edits.names, edits.layers)


def _torch_content(path: Path) -> _Content:
    import torch

    try:
        content = read_checkpoint(path)
    except WeightsError as error:
        raise PullbackError(f"{error} Nothing was computed.") from error
    if isinstance(content, torch.Tensor):
        return _Content(_numbers(path, content), None, "a tensor")
    if isinstance(content, np.ndarray):
        return _Content(_numbers(path, content), None, "an array")
    if are_edits(content):
        return _edits(path, content)
    if not isinstance(content, Mapping):
        raise _refused(path, f"holds {type(content).__name__}, not directions")
    if "comp" not in content:
        keys = ", ".join(map(str, list(content)[:8]))
        raise _refused(path, f"holds {keys or 'nothing'}, and no entry `comp` with directions")
    strengths = _numbers(path, content["std"]) if content.get("std") is not None else None
    return _Content(_numbers(path, content["comp"]), strengths, "encoder4editing")


def _numbers(path: Path, values: Any) -> Floats:
    if hasattr(values, "detach"):
        values = values.detach().cpu().float().numpy() if not values.is_complex() else values.detach().cpu().numpy()
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise _refused(path, f"holds values of the type {array.dtype}, not real numbers")
    if array.size == 0:
        raise _refused(path, "is empty")
    return array.astype(np.float64)


def _rows(path: Path, array: Floats, width: int, blocks: Mapping[str, tuple[int, int]]) -> tuple[Floats, list[str]]:
    """Return directions `[m, width]` of an array in one of the shapes of the layouts, and notes on the shape."""
    last = array.shape[-1] if array.ndim else 1
    if last == width:
        rows = array.reshape(-1, width)
        if len(rows) > 1 and array.ndim == 2 and np.ptp(rows, axis=0).max() == 0:
            return rows[:1], [f"its {len(rows)} rows are equal and count as one direction"]
        return rows, []
    shape = array.shape
    for axis in range(array.ndim - 1):
        if int(np.prod(shape[axis:])) == width:  # such as [18, 512] or [k, 18, 512] in W+
            return array.reshape(-1, width), [f"its last {array.ndim - axis} axes make one direction"]
    sizes = {stop - start for start, stop in blocks.values()}
    if len(blocks) > 1 and sizes == {last}:  # one direction of W for all layers of W+
        return np.tile(array.reshape(-1, last), (1, len(blocks))), [f"each is repeated in all {len(blocks)} layers"]
    hint = "; name its block with the option `block`" if last in sizes else ""
    raise _refused(path, f"has directions of {last} coordinates (shape {list(shape)}), and codes have {width}{hint}")


def _refused(path: Path, why: str) -> PullbackError:
    return PullbackError(f"the file of directions {path} {why}. Nothing was computed, and nothing is lost.")
