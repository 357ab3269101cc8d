"""The measures of several sets of directions as one dataset: values, intervals, shuffled controls and p.

A measure `x` has the variables `x`, `x_ci95` (bootstrap over samples), `x_shuffled` (mean), `x_shuffled_band` (5th and
95th percentile) and `x_p`, the share of shuffled bases, H̄ itself included, whose value is at least that of H̄.

Intervals are those of the basic bootstrap, [2x − q97.5, 2x − q2.5], cut to the range of the measure and extended to x.
Resampled samples repeat, so the axes of a draw are noisier than those of H̄ and its overlaps lie low. The interval of
percentiles would keep that bias.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pullback.analysis.bootstrap import interval
from pullback.analysis.spectra import random_direction_rate
from pullback.applications.alignment import Alignment, Floats
from pullback.applications.direction_sets import DirectionSet

if TYPE_CHECKING:
    import xarray as xr

RATE = "squared image distance per squared latent length"


class _Measure(NamedTuple):
    value: Callable[[Alignment], Any]
    """Of one alignment, or of several along a leading axis."""
    dims: tuple[str, ...]
    meaning: str
    units: str = "1"
    largest: float = 1.0


_MEASURES = {
    "overlap": _Measure(
        lambda found: found.overlap, ("subspace_size",), "mean cos² between the first k directions and the first k axes"
    ),
    "captured": _Measure(lambda found: found.captured, ("axis",), "mean share of a direction in the first k axes"),
    "rate": _Measure(lambda found: found.rate, ("direction",), "image change along the direction, vᵀH̄v", RATE, np.inf),
    "percentile": _Measure(
        lambda found: found.percentile, ("direction",), "percentile of the image change among random ones", "%", 100
    ),
    "same": _Measure(lambda found: found.same, ("direction",), "|cos| with the axis of the same rank"),
    "best": _Measure(lambda found: found.best, ("direction",), "|cos| with the nearest axis"),
    "median_percentile": _Measure(
        lambda found: np.median(found.percentile, axis=-1), (), "median percentile of the image change", "%", 100
    ),
    "mean_same": _Measure(
        lambda found: np.nanmean(found.same, axis=-1), (), "mean |cos| with the axis of the same rank"
    ),
    "mean_best": _Measure(lambda found: found.best.mean(axis=-1), (), "mean |cos| with the nearest axis"),
}
MEASURES = tuple(_MEASURES)
"""Names of the measures."""


def alignment_dataset(
    sets: list[DirectionSet],
    measured: list[Alignment],
    controls: list[Alignment],
    drawn: list[Alignment] | None,
    eigenvalues: Floats,
    null: Floats,
) -> "xr.Dataset":
    """Return the measures as one dataset, with NaN where a set has fewer directions than another.

    Args:
        sets: the sets of directions.
        measured: their alignment with H̄.
        controls: their alignments with shuffled H̄, along a leading axis.
        drawn: their alignments with the metrics of bootstrap draws, along a leading axis; None without intervals.
        eigenvalues: of H̄, `[n]`.
        null: rates of random directions.
    """
    import xarray as xr

    most, n = max(len(each.vectors) for each in sets), len(eigenvalues)
    sizes = {"subspace_size": min(most, n), "axis": n, "direction": most, "latent_dim": n, "end": 2}

    def padded(dims: tuple[str, ...], rows: list[Any]) -> Floats:
        """Return one array of a row for each set; the last dimension may be shorter than its size."""
        whole = np.full([len(rows), *(sizes[dim] for dim in dims)], np.nan)
        for place, row in enumerate(rows):
            inside: tuple[Any, ...] = (place, *map(slice, np.shape(row)))
            whole[inside] = row
        return whole

    variables: dict[str, Any] = {}

    def add(name: str, dims: tuple[str, ...], rows: list[Any], meaning: str, units: str) -> None:
        values = padded(dims, rows)
        variables[name] = (("set", *dims), values, {"long_name": meaning, "units": units})

    for name, measure in _MEASURES.items():
        own = [measure.value(each) for each in measured]
        shuffled = [measure.value(each) for each in controls]
        dims, meaning, units = measure.dims, measure.meaning, measure.units
        add(name, dims, own, meaning, units)
        add(f"{name}_shuffled", dims, [row.mean(axis=0) for row in shuffled], f"{meaning}: mean, shuffled H̄", units)
        ends = [np.quantile(row, [0.05, 0.95], axis=0) for row in shuffled]
        add(f"{name}_shuffled_band", ("end", *dims), ends, f"{meaning}: 5th and 95th percentile, shuffled H̄", units)
        pairs = zip(own, shuffled, strict=True)
        chances = [(1 + np.sum(row >= value, axis=0)) / (1 + len(row)) for value, row in pairs]
        add(f"{name}_p", dims, chances, f"{meaning}: one-sided p against shuffled H̄", "1")
        if drawn is not None:
            draws = [measure.value(each) for each in drawn]
            intervals = [_basic(value, row, measure.largest) for value, row in zip(own, draws, strict=True)]
            add(f"{name}_ci95", ("end", *dims), intervals, f"{meaning}: 95 % bootstrap interval", units)
    add("vector", ("direction", "latent_dim"), [each.vectors for each in sets], "directions, unit rows", "1")
    add("strength", ("direction",), [each.strengths for each in sets], "the source's own measure", "of the source")
    mean, deviation = random_direction_rate(eigenvalues)
    scalars = {
        "null_mean": (mean, "mean image change along random directions, formula"),
        "null_sd": (deviation, "standard deviation of the image change along random directions, formula"),
        "null_mean_drawn": (null.mean(), "mean image change along the drawn random directions"),
        "null_sd_drawn": (null.std(), "standard deviation of the image change along the drawn random directions"),
    }
    for name, (value, meaning) in scalars.items():
        variables[name] = ((), value, {"long_name": meaning, "units": RATE})
    about = {"long_name": "eigenvalues of the mean metric", "units": RATE}
    variables["eigenvalue"] = (("axis",), eigenvalues, about)
    counts = [len(each.vectors) for each in sets]
    variables["directions"] = (("set",), counts, {"long_name": "number of directions", "units": "1"})
    return xr.Dataset(variables, coords={"set": [each.name for each in sets]})


def _basic(value: Any, drawn: Any, largest: float) -> Floats:
    """Return the ends of the basic bootstrap interval, along a leading axis `[2]`."""
    low, high = interval(drawn)
    ends: Floats = np.stack([np.minimum(2 * value - high, value), np.maximum(2 * value - low, value)])
    return np.clip(ends, 0.0, largest)
