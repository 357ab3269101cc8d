"""Scalars of samples: means, spreads and correlations with bootstrap intervals, where a scalar may be known as a range.

A scalar of a truncated metric lies between a least and a greatest value, `[N]` each. They are equal where the kept
eigenpairs decide it. Means are then ranges too, and an interval reaches from the lower end for the least values to the
upper end for the greatest.

Invariants: a sample without a value is NaN and counts for nothing, in the sums and in the number of samples of a draw.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Bootstrap, Floats, Integers, interval, weighted_means
from pullback.analysis.correlations import LEAST_SPREAD

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_SHOWN_APART = 1e-3
"""Relative distance of two ends below which text shows one number."""


@dataclass(frozen=True)
class Spread:
    """Mean and spread of a scalar over samples, in the scalar's units; NaN where they do not exist."""

    mean: float
    mean_ci95: tuple[float, float]
    """95 % bootstrap interval of the mean; NaN with fewer than 2 samples."""
    sd: float
    """Standard deviation over samples, divided by their number."""
    sd_ci95: tuple[float, float]
    """95 % bootstrap interval of the standard deviation; NaN with fewer than 2 samples."""
    samples: int
    """Samples that have a value."""


def spread_of(values: npt.ArrayLike, weights: Integers | Bootstrap) -> Spread:
    """Return the mean and the standard deviation over samples with 95 % percentile intervals by bootstrap.

    Args:
        values: `[N]`; NaN where a sample has none.
        weights: multiplicities `[draws, N]`, or a `Bootstrap`.

    Raises:
        ValueError: shapes do not agree.
    """
    array, known = _checked(values, weights)
    count = int(known.sum())
    if count == 0:
        return Spread(np.nan, (np.nan, np.nan), np.nan, (np.nan, np.nan), 0)
    mean = float(array[known].mean())
    centred = np.where(known, array - mean, 0.0)  # sums of squares of large numbers would cancel
    drawn = weighted_means(weights, np.column_stack([known, centred, centred**2]))
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw without a value has no mean
        offsets = drawn[:, 1] / drawn[:, 0]
        deviations = np.sqrt(np.maximum(drawn[:, 2] / drawn[:, 0] - offsets**2, 0.0))
    if count < 2:
        offsets, deviations = np.full_like(offsets, np.nan), np.full_like(deviations, np.nan)
    return Spread(mean, _ends(mean + offsets), float(array[known].std()), _ends(deviations), count)


def bounded_mean(
    least: npt.ArrayLike, greatest: npt.ArrayLike, weights: Integers | Bootstrap
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the range of the mean of a scalar that is known as a range, and its 95 % bootstrap interval.

    Args:
        least: `[N]`; NaN where a sample has no value.
        greatest: `[N]`.
        weights: multiplicities `[draws, N]`, or a `Bootstrap`.
    """
    low, high = spread_of(least, weights), spread_of(greatest, weights)
    return (low.mean, high.mean), (low.mean_ci95[0], high.mean_ci95[1])


def correlation(
    x: npt.ArrayLike, y: npt.ArrayLike, weights: Integers | Bootstrap
) -> tuple[float, tuple[float, float], int]:
    """Return Pearson's r over samples, its 95 % percentile interval by bootstrap, and the number of samples.

    NaN where it does not exist: with fewer than 3 samples, or if one of the two is the same for all samples.

    Args:
        x: `[N]`; NaN where a sample has none.
        y: `[N]`, likewise.
        weights: multiplicities `[draws, N]`, or a `Bootstrap`.

    Raises:
        ValueError: shapes do not agree.
    """
    first, known = _checked(x, weights)
    second, also = _checked(y, weights)
    known &= also
    count = int(known.sum())
    if count < 3 or _constant(first[known]) or _constant(second[known]):
        return np.nan, (np.nan, np.nan), count
    a, b = (np.where(known, (array - array[known].mean()) / array[known].std(), 0.0) for array in (first, second))
    drawn = weighted_means(weights, np.column_stack([known, a, b, a * a, b * b, a * b]))
    with np.errstate(invalid="ignore", divide="ignore"):
        share, *sums = drawn.T
        mean_a, mean_b, aa, bb, ab = (each / share for each in sums)
        variances = (aa - mean_a**2) * (bb - mean_b**2)
        # The variance of a draw that holds one sample many times is round-off.
        drawn_r = np.where(variances > LEAST_SPREAD**2, (ab - mean_a * mean_b) / np.sqrt(variances), np.nan)
    return float(np.clip(np.mean(a[known] * b[known]), -1, 1)), _ends(np.clip(drawn_r, -1, 1)), count


def code_norms(samples: Any) -> Floats:
    """Return the norms of the latent codes `[N]` of a `Samples`, in latent units; NaN if codes are not stored."""
    if "latent" not in samples:
        return np.full(len(samples), np.nan)
    norms: Floats = np.linalg.norm(np.asarray(samples.column("latent"), dtype=np.float64), axis=1)
    return norms


def variable(dims: tuple[str, ...], values: Any, long_name: str, units: str) -> Any:
    """Return the entry of a dataset: dimensions, values and attributes."""
    return dims, np.asarray(values), {"long_name": long_name, "units": units}


def spread_variables(name: str, spread: Spread, label: str, units: str) -> dict[str, Any]:
    """Return the entries of a dataset for a spread: `NAME_mean`, `NAME_mean_ci95`, `NAME_sd` and `NAME_sd_ci95`."""
    return {
        f"{name}_mean": variable((), spread.mean, f"mean {label}", units),
        f"{name}_mean_ci95": variable(("end",), spread.mean_ci95, "95 % bootstrap interval of the mean", units),
        f"{name}_sd": variable((), spread.sd, f"standard deviation of the {label} over samples", units),
        f"{name}_sd_ci95": variable(("end",), spread.sd_ci95, "95 % bootstrap interval of the deviation", units),
    }


def number(dataset: "xr.Dataset", name: str) -> float:
    """Return a scalar of a dataset."""
    return float(dataset[name].values)


def shown(value: float) -> str:
    """Return a number with three significant digits, or a dash if it is not known."""
    return f"{value:.3g}" if np.isfinite(value) else "–"


def shown_range(ends: npt.ArrayLike) -> str:
    """Return a value that is known as a range: one number if both ends agree, and `a to b` otherwise."""
    low, high = np.asarray(ends, dtype=np.float64)
    if not (np.isfinite(low) and np.isfinite(high)):
        return "–"
    same = high - low <= _SHOWN_APART * max(abs(low), abs(high))
    return shown((low + high) / 2) if same else f"{low:.3g} to {high:.3g}"


def shown_interval(ends: npt.ArrayLike) -> str:
    """Return both ends of an interval with three significant digits, or a dash if it is not known."""
    low, high = np.asarray(ends, dtype=np.float64)
    return f"{low:.3g} – {high:.3g}" if np.isfinite(low) and np.isfinite(high) else "–"


def shown_with(value: float, ends: npt.ArrayLike) -> str:
    """Return a number and its interval in brackets; without brackets if the interval is not known."""
    low, high = np.asarray(ends, dtype=np.float64)
    return shown(value) + (f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) and np.isfinite(high) else "")


def within(ends: npt.ArrayLike) -> str:
    """Return an interval as it follows a number in a sentence; nothing if it is not known."""
    low, high = np.asarray(ends, dtype=np.float64)
    return f" (95 % interval {low:.3g} to {high:.3g})" if np.isfinite(low) and np.isfinite(high) else ""


def histogram_figure(name: str, values: Floats, mean: float, ends: npt.ArrayLike, label: str) -> "Figure":
    """Draw a histogram over samples, with the mean as a marked line and its interval as a band.

    Args:
        name: the figure's name.
        values: `[N]`; NaN where a sample has none.
        mean: drawn as a line.
        ends: 95 % interval of the mean.
        label: quantity and unit.
    """
    from matplotlib.ticker import MaxNLocator

    from pullback.analysis.drawing import BLACK, NO_DATA, Style, draw_histogram, guide, new_figure, plain_axes

    figure = new_figure(name)
    axes = plain_axes(figure, x=label, y="samples")
    finite = values[np.isfinite(values)]
    if not finite.size:
        return figure
    low, high = float(finite.min()), float(finite.max())
    pad = 0.5 * max(abs(low), 1e-12) * LEAST_SPREAD if high - low <= LEAST_SPREAD * abs(low) else 0.0
    bins = np.linspace(low - pad, high + pad, 2 if pad else min(max(10, round(finite.size**0.5)), 40) + 1)
    draw_histogram(axes, finite, bins, label="samples", share=False)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    bottom, top = np.asarray(ends, dtype=np.float64)
    if np.isfinite(bottom) and np.isfinite(top):
        axes.axvspan(bottom, top, color=BLACK, alpha=0.15, linewidth=0, label=NO_DATA)
    guide(axes, x=mean, text=f"mean {shown(mean)}, 95 % {shown_interval(ends)}", style=Style(BLACK, width=1.1))
    return figure


def scatter_figure(name: str, x: Floats, y: Floats, labels: tuple[str, str]) -> "Figure":
    """Draw one number of each sample against another.

    Args:
        name: the figure's name.
        x: `[N]`.
        y: `[N]`.
        labels: quantities and units of both.
    """
    from pullback.analysis.drawing import draw_line, new_figure, plain_axes

    figure = new_figure(name)
    axes = plain_axes(figure, x=labels[0], y=labels[1])
    draw_line(axes, x, y, label="samples", linestyle="none", marker="o", markersize=2.5, alpha=0.6)
    return figure


def _checked(values: npt.ArrayLike, weights: Integers | Bootstrap) -> tuple[Floats, npt.NDArray[np.bool_]]:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != weights.shape[1:]:
        raise ValueError(f"values [samples] and weights [draws, samples] are needed, not {list(array.shape)}")
    return array, np.isfinite(array)


def _constant(values: Floats) -> bool:
    return float(values.std()) <= LEAST_SPREAD * max(float(np.abs(values).max()), float(np.finfo(np.float64).tiny))


def _ends(values: Floats) -> tuple[float, float]:
    low, high = interval(values)
    return float(low), float(high)
