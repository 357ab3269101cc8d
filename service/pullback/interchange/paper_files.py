"""Metrics of single codes in the `.npz` files of the paper's scripts (Wang & Ponce, ICLR 2021).

| kind | arrays |
|---|---|
| `paper` | `eva_BP` `[k]`, `evc_BP` `[n, k]`, `H_BP` `[n, n]`, and the code `feat` `[1, n]` |
| `paper-early` | `eigvals`, `eigvects`, `H`, and the code `feat`, `vect` or `code` |
| BigGAN's | as `paper-early`, and again with `_nois` and `_clas` for the two blocks of the code |

Their scripts call `numpy.linalg.eigh`: eigenvalues ascend and eigenvectors are columns. Files with rows, or in another
order, exist. If the file has H, the equation H v = λ v decides whether eigenvectors are rows or columns; if k < n, the
shape decides; otherwise they are taken as columns. H of a file has no factor ½, like that of Pullback.

A file with k < n eigenpairs needs `H_BP` (`H`), or `trace`, the trace of the whole metric: without them, the share of
the eigenpairs is not known. `trace` is an addition of Pullback; with it, H is the sum of the kept eigenpairs only.
"""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.errors import StoreError
from pullback.regular_files import NotRegularError, open_regular

Floats = npt.NDArray[np.float64]

_CODES = ("feat", "vect", "code", "feats")
"""Names of the code, in the order in which they are looked for."""
_BLOCKS = {"nois": "noise", "clas": "class"}
"""Suffixes of BigGAN's blocks, and the names of the blocks; the noise comes first in a code."""
_LOOSE = 1e-3
"""Largest relative error of eigenpairs, of their orthonormality, and of the symmetry of H, in single precision."""


@dataclass(frozen=True, eq=False)
class PaperMetric:
    """The metric of one file.

    Attributes:
        code: `[n]`.
        eigenvalues: `[k]`, descending.
        eigenvectors: unit rows `[k, n]`.
        metric: the whole H `[n, n]`, exactly symmetric; None if the file has none, or only the part of its eigenpairs.
        trace: of the whole metric.
        symmetry_error: max |H − Hᵀ| / max |H|; NaN without H.
        residual: max ‖H v − λ v‖ / λ₁; NaN without H.
        orthogonality_error: max |V Vᵀ − I|.
        blocks: name -> (start, stop) of the blocks that the file has; empty for a code without blocks.
    """

    code: Floats
    eigenvalues: Floats
    eigenvectors: Floats
    metric: Floats | None
    trace: float
    symmetry_error: float
    residual: float
    orthogonality_error: float
    blocks: Mapping[str, tuple[int, int]]


def read_paper_metric(path: Path, block: str | None = None) -> PaperMetric:
    """Read the metric of one file.

    Args:
        path: the file.
        block: `noise` or `class` for the metric of one block of a BigGAN's code; the whole code by default.

    Raises:
        StoreError: the file is missing, damaged or of another layout; shapes do not agree; numbers are not finite;
            eigenvectors are not orthonormal, or are not those of H.
    """
    arrays = _arrays(path)
    names = _names(path, arrays, block)
    values = _real(path, arrays, names["values"]).reshape(-1)
    vectors = _real(path, arrays, names["vectors"])
    metric = _real(path, arrays, names["metric"]) if names["metric"] in arrays else None
    blocks = _blocks(arrays)
    code = _code(path, arrays, block, blocks)
    n, k = len(code), len(values)
    if vectors.shape not in ((n, k), (k, n)):
        raise _refused(
            path,
            f"{names['vectors']} has the shape {list(vectors.shape)}, which does not fit {k} eigenvalues and a code of "
            f"{n} numbers",
        )
    if metric is not None and metric.shape != (n, n):
        raise _refused(path, f"{names['metric']} has the shape {list(metric.shape)}, and the code has {n} numbers")
    symmetry = np.nan
    if metric is not None:
        largest = float(np.abs(metric).max())
        symmetry = float(np.abs(metric - metric.T).max()) / largest if largest > 0 else 0.0
        if symmetry > _LOOSE:
            raise _refused(path, f"{names['metric']} is not symmetric (relative deviation {symmetry:.2g})")
        metric = (metric + metric.T) / 2
    rows, residual = _rows(path, values, vectors, metric)
    order = len(values) - 1 - np.argsort(-values[::-1], kind="stable")  # equal ones keep their descending order
    values, rows = values[order], rows[order]
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (np.abs(lengths - 1) < _LOOSE).all():
        raise _refused(path, f"{names['vectors']} has vectors whose length is not 1")
    deviation = float(np.abs(rows @ rows.T - np.eye(k)).max())
    if deviation > _LOOSE:
        raise _refused(path, f"{names['vectors']} is not orthonormal (deviation {deviation:.2g})")
    trace = float(np.trace(metric)) if metric is not None else float(values.sum())
    if k < n and "trace" in arrays:
        trace, metric = float(_real(path, arrays, "trace").reshape(-1)[0]), None
    elif k < n and metric is None:
        raise _refused(path, f"it has {k} of {n} eigenpairs and no {names['metric']}, so its trace is not known")
    return PaperMetric(code, values, rows, metric, trace, symmetry, residual, deviation, {} if block else blocks)


def write_paper_metric(
    path: Path,
    code: Floats,
    eigenvalues: Floats,
    eigenvectors: Floats,
    early: bool = False,
    blocks: Mapping[str, tuple[int, int]] | None = None,
    trace: float | None = None,
) -> None:
    """Write one file as the paper's scripts do: eigenvalues ascending, eigenvectors in columns, H from the eigenpairs.

    Args:
        path: the file.
        code: `[n]`.
        eigenvalues: `[k]`, descending.
        eigenvectors: unit rows `[k, n]`.
        early: use the names `eigvals`, `eigvects`, `H` and `vect`.
        blocks: the blocks `noise` and `class` of a BigGAN's code, whose metrics are written too.
        trace: the trace of the whole metric, if the eigenpairs are a part of it.
    """
    values, columns = eigenvalues[::-1], eigenvectors[::-1].T
    metric = (columns * values) @ columns.T
    metric = (metric + metric.T) / 2
    names = ("eigvals", "eigvects", "H", "vect") if early or blocks else ("eva_BP", "evc_BP", "H_BP", "feat")
    arrays: dict[str, Any] = dict(zip(names, (values, columns, metric, code[None].astype(np.float32)), strict=True))
    if trace is not None:
        arrays["trace"] = np.float64(trace)
    for suffix, name in _BLOCKS.items():
        if blocks and name in blocks:
            part = slice(*blocks[name])
            own_values, own_columns = np.linalg.eigh(metric[part, part])
            arrays |= {f"eigvals_{suffix}": own_values, f"eigvects_{suffix}": own_columns}
            arrays |= {f"H_{suffix}": metric[part, part], f"{name}vec": code[None, part].astype(np.float32)}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def natural_order(paths: list[Path]) -> list[Path]:
    """Return files by name, with numbers in the names in numerical order: `Hess_BP_2.npz` before `Hess_BP_10.npz`."""

    def key(path: Path) -> tuple[tuple[tuple[int, int, str], ...], str]:
        parts = re.split(r"(\d+)", path.name)
        return tuple((1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts), str(path)

    return sorted(paths, key=key)


def class_of(path: Path) -> int | None:
    """Return the class index in a file's name, such as 207 of `Hess_cls207.npz`; None without."""
    found = re.search(r"cl(?:as)?s(?:_id)?[_-]?(\d+)", path.stem)
    return int(found[1]) if found else None


def _arrays(path: Path) -> Any:
    try:
        with open_regular(path) as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise _refused(path, "it is a single array, not an .npz file")
            return {name: loaded[name] for name in loaded.files if _wanted(name)}
    except FileNotFoundError:
        raise StoreError(f"there is no file {path}; nothing was written.") from None
    except (NotRegularError, IsADirectoryError, PermissionError) as error:
        raise _refused(path, f"it cannot be read ({error.strerror or error})") from error
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        why = (
            "it holds pickled objects, which could run code"
            if "allow_pickle" in str(error)
            else f"it is damaged ({error})"
        )
        raise _refused(path, why) from error


def _wanted(name: str) -> bool:
    """Whether an array is part of a layout. Files of comparisons also hold lists of objects, which are not read."""
    stems = ("eva_BP", "evc_BP", "H_BP", "eigvals", "eigvects", "H", "H_avg", "noisevec", "classvec", "trace", *_CODES)
    return name in stems or any(name == f"{stem}_{suffix}" for stem in stems for suffix in _BLOCKS)


def _names(path: Path, arrays: Mapping[str, Any], block: str | None) -> dict[str, str]:
    """Return the names of the eigenvalues, the eigenvectors and the metric."""
    suffixes = {name: f"_{suffix}" for suffix, name in _BLOCKS.items()}
    if block is not None and block not in suffixes:
        raise StoreError(f"a file of the paper has the blocks noise and class, not {block!r}; nothing was written.")
    suffix = "" if block is None else suffixes[block]
    early = {"values": f"eigvals{suffix}", "vectors": f"eigvects{suffix}", "metric": f"H{suffix}"}
    late = {"values": "eva_BP", "vectors": "evc_BP", "metric": "H_BP"}
    for names in (early,) if block is not None else (late, early):
        if names["values"] in arrays and names["vectors"] in arrays:
            return names
    if any(f"eigvals{each}" in arrays for each in suffixes.values()) and block is None:
        raise _refused(path, "it has metrics of the blocks only; name one with --block noise or --block class")
    if "H_avg" in arrays:
        raise _refused(path, "it is a mean metric, not the metric of one code")
    wanted = "eigvals, eigvects" if block is None else f"eigvals{suffix}, eigvects{suffix}"
    late_names = "eva_BP, evc_BP or " if block is None else ""
    raise _refused(path, f"it has no {late_names}{wanted}")


def _real(path: Path, arrays: Mapping[str, Any], name: str) -> Floats:
    values = np.asarray(arrays[name])
    if values.dtype.kind not in "fiu":
        raise _refused(path, f"{name} holds values of the type {values.dtype}, not real numbers")
    if not np.isfinite(values).all():
        raise _refused(path, f"{name} holds numbers that are not finite; leave this file out")
    return values.astype(np.float64)


def _blocks(arrays: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Return the blocks of a BigGAN's code: first the noise, then the class."""
    sizes = {}
    for suffix, name in _BLOCKS.items():
        found = arrays.get(f"eigvals_{suffix}", arrays.get(f"{name}vec"))
        if found is None:
            return {}
        sizes[name] = int(np.asarray(found).size)
    return {"noise": (0, sizes["noise"]), "class": (sizes["noise"], sizes["noise"] + sizes["class"])}


def _code(path: Path, arrays: Mapping[str, Any], block: str | None, blocks: Mapping[str, tuple[int, int]]) -> Floats:
    if block is not None and f"{block}vec" in arrays:
        return _real(path, arrays, f"{block}vec").reshape(-1)
    name = next((name for name in _CODES if name in arrays), None)
    if name is None:
        parts = [f"{part}vec" for part in ("noise", "class")]
        if not all(part in arrays for part in parts):
            raise _refused(path, f"it has no code under any of the names {', '.join(_CODES)}")
        return np.concatenate([_real(path, arrays, part).reshape(-1) for part in parts])
    code = _real(path, arrays, name).reshape(-1)
    if block is not None:
        if not blocks:
            raise _refused(path, f"it does not say where the block {block} lies in the code")
        return code[slice(*blocks[block])]
    return code


def _rows(path: Path, values: Floats, vectors: Floats, metric: Floats | None) -> tuple[Floats, float]:
    """Return eigenvectors as rows `[k, n]`, and their residual; NaN without a metric."""
    k, square = len(values), vectors.shape[0] == vectors.shape[1]
    if not square:
        rows = vectors if vectors.shape[0] == k else vectors.T
        return rows, np.nan if metric is None else _residual(path, values, rows, metric)
    if metric is None:
        return vectors.T, np.nan
    found = {orientation: _error(values, rows, metric) for orientation, rows in (("c", vectors.T), ("r", vectors))}
    rows = vectors if found["r"] < found["c"] else vectors.T
    return rows, _residual(path, values, rows, metric)


def _residual(path: Path, values: Floats, rows: Floats, metric: Floats) -> float:
    error = _error(values, rows, metric)
    if error > _LOOSE:
        raise _refused(path, f"its eigenvectors are not those of its H, in rows or in columns (residual {error:.2g})")
    return error


def _error(values: Floats, rows: Floats, metric: Floats) -> float:
    largest = max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
    return float(np.linalg.norm(rows @ metric - values[:, None] * rows, axis=1).max()) / largest


def _refused(path: Path, why: str) -> StoreError:
    return StoreError(f"{path} cannot be imported: {why}. Nothing was written.")
