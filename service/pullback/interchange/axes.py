"""Axes of a sweep's mean metric as files of directions that other tools read.

| layout | file | content |
|---|---|---|
| `axes` | `.npy` | unit rows `[k, n]`, float64, by descending eigenvalue |
| `axes` | `.npz` | `axes` `[k, n]`, `eigenvalues` `[k]`, `mean` `[n]` and `deviations` `[k]` of the codes, sweep and snapshot, `names` and `tags` `[k]`, `ranges` `[k, 2]` |
| `ganspace` | `.npz` | GANSpace's components, float32: `act_comp`, `act_mean`, `act_stdev`, `lat_comp`, `lat_mean`, `lat_stdev`, `var_ratio`, `random_stdevs` |
| `e4e` | `.pt` | encoder4editing's `{comp, mean, std}`, float32 tensors |
| `edits` | `.json` | named edits with the keys of GANSpace (`edit_files`), one for each axis |

A `.npy` of one axis, `[1, n]`, is a boundary of InterFaceGAN.

GANSpace's deviations are those of the codes of the sweep along each axis, so its sliders move by as much as codes do.
The metric has no activations: `act_*` repeats `lat_*`, as in GANSpace's own files for W. `var_ratio` is the share of
each axis in the trace of the mean metric, in place of the share of variance.

Convention: rows have length 1, and their entry of largest magnitude is positive.
"""  # noqa: E501 - a table

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pullback.analysis.correlations import NULL_FLOOR
from pullback.analysis.eigenbasis import eigenbasis
from pullback.analysis.protocol import strict
from pullback.errors import StoreError
from pullback.interchange.axis_names import AxisName, entries_of, names_path, read_names
from pullback.interchange.edit_files import reach_of

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
        source: generator, space, class and truncation of the sweep, as far as they are recorded.
        entries: the entry of each axis in the sweep's file of names; None for an axis without one.
        texts: each axis as a rank or an expression.
    """

    vectors: Floats
    eigenvalues: Floats
    shares: Floats
    mean: Floats
    deviations: Floats
    random_deviations: Floats
    sweep: tuple[str, str]
    source: Mapping[str, Any]
    entries: tuple[AxisName | None, ...]
    texts: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The name of each axis; empty for an axis without one."""
        return tuple("" if each is None else each.name for each in self.entries)


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
    texts = [str(rank + 1) for rank in range(len(values[kept]))]
    entries = entries_of(read_names(names_path(sweep.location)), texts)
    return axes_along(sweep, vectors[kept], values[kept], trace, texts, entries)


def axes_along(
    sweep: "Sweep",
    vectors: Floats,
    values: Floats,
    trace: float,
    texts: Sequence[str],
    entries: Sequence[AxisName | None],
) -> Axes:
    """Return directions of a sweep's latent space as axes.

    Args:
        sweep: an open sweep.
        vectors: unit rows `[k, n]`.
        values: the rate of the mean metric along each `[k]`.
        trace: of the mean metric.
        texts: each as a rank, an expression or a name.
        entries: the entry of each in the sweep's file of names; None without.
    """
    codes = sweep.dataset()["latent"].values.astype(np.float64)
    mean = codes.mean(axis=0)
    random = np.random.default_rng(0).standard_normal((len(values), len(mean)))
    random /= np.linalg.norm(random, axis=1, keepdims=True)
    generator = sweep.provenance.get("spec", {}).get("generator", {})
    return Axes(
        vectors,
        values,
        values / trace if trace > 0 else np.zeros(len(values)),
        mean,
        ((codes - mean) @ vectors.T).std(axis=0),
        ((codes - mean) @ random.T).std(axis=0),
        (sweep.name, sweep.snapshot),
        {
            "model_name": sweep.provenance.get("generator"),
            "latent_space": str(sweep.provenance.get("space", "z")).upper(),
            "output_class": generator.get("condition"),
            "truncation": generator.get("truncation"),
            "layers": max(1, len(sweep.provenance.get("blocks") or ())),
            "samples": sweep.layout.samples,
        },
        tuple(entries),
        tuple(texts),
    )


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
        tags=np.array(["" if each is None else ", ".join(each.tags) for each in axes.entries]),
        ranges=np.array([(np.nan, np.nan) if each is None or not each.range else each.range for each in axes.entries]),
    )


def _write_edits(axes: Axes, path: Path) -> None:
    source = dict(axes.source)
    layers, samples = source.pop("layers"), source.pop("samples")
    name, snapshot = axes.sweep
    whole = {"name": "mean metric", "components": len(axes.vectors), "samples": samples, "layer": None,
             "class_name": source["output_class"]}  # fmt: skip
    edits = []
    for place, (entry, text) in enumerate(zip(axes.entries, axes.texts, strict=True)):
        vector, deviation, rate = axes.vectors[place], float(axes.deviations[place]), float(axes.eigenvalues[place])
        ends = None if entry is None else entry.range
        moved = {"comp": vector[None], "stdev": deviation}
        edits.append(
            {
                "name": entry.name if entry is not None else f"axis {text}" if text.isdigit() else text,
                "sigma_range": reach_of(ends, rate, deviation),
                "component_index": int(text) - 1 if text.isdigit() else None,
                **{f"{kind}_{key}": value for kind in ("act", "lat") for key, value in moved.items()},
                **source,
                "decomposition": whole,
                "edit_type": "latent",
                "edit_start": 0,
                "edit_end": layers,
                "example_seed": None,
                "axis": text,
                "tags": [] if entry is None else list(entry.tags),
                "range": ends,
                "rate": rate,
                "sweep": name,
                "snapshot": snapshot,
            }
        )
    path.write_text(json.dumps(strict(edits), ensure_ascii=False, allow_nan=False, indent=1) + "\n", encoding="utf-8")


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
    ("edits", ".json"): _write_edits,
}
"""Functions that write axes, by layout and ending."""
