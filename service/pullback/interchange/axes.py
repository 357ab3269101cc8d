"""Axes of a sweep's mean metric as files of directions that other tools read.

| layout | file | content |
|---|---|---|
| `axes` | `.npy` | unit rows `[k, n]`, float64, by descending eigenvalue |
| `axes` | `.npz` | `axes` `[k, n]`, `eigenvalues` `[k]`, `mean` `[n]` and `deviations` `[k]` of the codes, sweep and snapshot, `names` `[k]` |
| `ganspace` | `.npz` | GANSpace's components, float32: `act_comp`, `act_mean`, `act_stdev`, `lat_comp`, `lat_mean`, `lat_stdev`, `var_ratio`, `random_stdevs` |
| `e4e` | `.pt` | encoder4editing's `{comp, mean, std}`, float32 tensors |

GANSpace's deviations are those of the codes of the sweep along each axis, so its sliders move by as much as codes do.
The metric has no activations: `act_*` repeats `lat_*`, as in GANSpace's own files for W. `var_ratio` is the share of
each axis in the trace of the mean metric, in place of the share of variance.

Convention: rows have length 1, and their entry of largest magnitude is positive.
"""  # noqa: E501 - a table

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pullback.analysis.correlations import NULL_FLOOR
from pullback.analysis.eigenbasis import eigenbasis
from pullback.errors import StoreError
from pullback.interchange.axis_names import names_path, read_names

if TYPE_CHECKING:
    from pullback.store.reader import Sweep

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Axes:
    """The leading axes of a mean metric.

    Attributes:
        vectors: unit rows `[k, n]`, by descending eigenvalue.
        eigenvalues: `[k]`, squared image distance per squared latent length.
        shares: `[k]`, the share of each axis in the trace of the mean metric.
        mean: the mean of the sweep's codes `[n]`.
        deviations: standard deviation of the codes along each axis `[k]`, in latent units.
        random_deviations: the same along k random directions.
        sweep: name and snapshot.
        names: the name of each axis in the sweep's file of names; empty for an axis without one.
    """

    vectors: Floats
    eigenvalues: Floats
    shares: Floats
    mean: Floats
    deviations: Floats
    random_deviations: Floats
    sweep: tuple[str, str]
    names: tuple[str, ...] = ()


def axes_of(sweep: "Sweep", count: int | None = None) -> Axes:
    """Return the leading axes of a sweep's mean metric.

    Args:
        sweep: an open sweep.
        count: number of axes; all by default. If only kept eigenpairs are known, the mean of these has fewer than n.

    Raises:
        StoreError: the sweep has no good samples, or fewer axes than asked for.
    """
    values, vectors = eigenbasis(sweep.mean_metric(kept=True))
    trace = float(values.sum())
    if not sweep.whole_metrics:
        found = int(np.sum(values > NULL_FLOOR * max(float(values[0]), 0.0)))
        values, vectors = values[:found], vectors[:found]
    if count is not None and not 1 <= count <= len(values):
        raise StoreError(
            f"{sweep.location} has {len(values)} axes, so {count} cannot be exported; nothing was written."
        )
    kept = slice(count)
    codes = sweep.dataset()["latent"].values.astype(np.float64)
    mean = codes.mean(axis=0)
    random = np.random.default_rng(0).standard_normal((len(values[kept]), len(mean)))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    return Axes(
        vectors[kept],
        values[kept],
        values[kept] / trace if trace > 0 else np.zeros(len(values[kept])),
        mean,
        ((codes - mean) @ vectors[kept].T).std(axis=0),
        ((codes - mean) @ random.T).std(axis=0),
        (sweep.name, sweep.snapshot),
        _names(sweep, len(values[kept])),
    )


def _names(sweep: "Sweep", count: int) -> tuple[str, ...]:
    named = {str(each.axis): each.name for each in read_names(names_path(sweep.location))}
    return tuple(named.get(str(rank), "") for rank in range(1, count + 1))


def _write_npy(axes: Axes, path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, axes.vectors, allow_pickle=False)


def _write_npz(axes: Axes, path: Path) -> None:
    name, snapshot = axes.sweep
    _savez(
        path,
        axes=axes.vectors,
        eigenvalues=axes.eigenvalues,
        mean=axes.mean,
        deviations=axes.deviations,
        sweep=np.array(name),
        snapshot=np.array(snapshot),
        names=np.array(axes.names),
    )


def _write_ganspace(axes: Axes, path: Path) -> None:
    arrays = {
        "act_comp": axes.vectors[:, None],
        "act_mean": axes.mean[None],
        "act_stdev": axes.deviations,
        "lat_comp": axes.vectors[:, None],
        "lat_mean": axes.mean[None],
        "lat_stdev": axes.deviations,
        "var_ratio": axes.shares,
        "random_stdevs": axes.random_deviations,
    }
    _savez(path, **{name: array.astype(np.float32) for name, array in arrays.items()})


def _write_e4e(axes: Axes, path: Path) -> None:
    import torch

    arrays = {"comp": axes.vectors[:, None], "mean": axes.mean[None], "std": axes.deviations}
    with path.open("wb") as file:
        torch.save({name: torch.from_numpy(array).float() for name, array in arrays.items()}, file)


def _savez(path: Path, **arrays: npt.NDArray[np.generic]) -> None:
    with path.open("wb") as file:  # np.savez adds .npz to a path without it
        np.savez(file, allow_pickle=False, **arrays)


WRITERS: Mapping[tuple[str, str], Callable[[Axes, Path], None]] = {
    ("axes", ".npy"): _write_npy,
    ("axes", ".npz"): _write_npz,
    ("ganspace", ".npz"): _write_ganspace,
    ("e4e", ".pt"): _write_e4e,
}
"""Functions that write axes, by layout and ending."""
