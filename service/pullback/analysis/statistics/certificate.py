"""Certificate: how far the good metrics stay from the limits that they were checked against.

Every metric carries a certificate of relative errors that are 0 in exact arithmetic (`pullback.metric.checks`).
This statistic collects them over the good samples. It draws nothing at random, so it has no options and no intervals.
"""

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats
from pullback.analysis.protocol import Progress, Result, Table
from pullback.analysis.samples import Samples
from pullback.metric.checks import label_of, limits_of
from pullback.spec.options import Options as Base
from pullback.store.schema import CERTIFICATE

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUMMARY = "relative errors of the good metrics, against the limits that they were checked against"


NO_ERRORS = ("trace_share",)
"""Quantities of a certificate that record what was kept, and are not errors."""


class Options(Base):
    """The certificate has no options."""


def compute(samples: Samples, options: Options, progress: Progress) -> "xr.Dataset":
    """Return each stored quantity of the certificate `[sample]`; NaN where it was not computed."""
    import xarray as xr

    return xr.Dataset(
        {
            name: (
                ("sample",),
                np.asarray(samples.column(name), dtype=np.float64),
                {"long_name": f"certificate: {name.replace('_', ' ')}"},
            )
            for name in CERTIFICATE
            if name in samples
        }
    )


def from_dataset(dataset: "xr.Dataset") -> dict[str, Floats]:
    """Return each quantity over samples by name."""
    return {name: np.asarray(dataset[name].values, dtype=np.float64) for name in CERTIFICATE if name in dataset}


def to_json(result: Result) -> dict[str, Any]:
    """Return the largest value and the median of each quantity."""
    return {name: _extent(values) for name, values in result.value.items()}


def limits(result: Result) -> dict[str, float]:
    """Return the limits that the sweep's good metrics were held to; none if its method is not recorded."""
    method, precision = result.about.method, result.about.precision
    if method is None or precision is None:
        return {}
    columns = result.json.get("column_error", {"max": None})
    whole = columns["max"] is not None
    return limits_of(method, precision, latent_dim=result.about.latent_dim or 512, whole=whole)


def summary(result: Result) -> Table:
    """Return a row for each quantity: median, worst value and limit."""
    rows = [[row["label"], _short(row["median"]), _short(row["max"]), _short(row["limit"])] for row in _rows(result)]
    return Table(["quantity", ">median", ">worst", ">limit"], rows, "Certificate")


def notes(result: Result) -> list[str]:
    """Return whether every good metric is within its limits, and what was not measured."""
    rows = _rows(result)
    measured = [row for row in rows if row["max"] is not None]
    beyond = [row["label"] for row in measured if row["limit"] is not None and row["max"] > row["limit"]]
    lines = ["All of them are 0 in exact arithmetic."]
    if beyond:
        lines.append(f"These exceed the limit that this version of Pullback sets: {', '.join(beyond)}.")
    elif measured and all(row["limit"] is not None for row in measured):
        lines.append(f"Every good metric is within all {len(measured)} limits that were measured.")
    missing = [row["label"] for row in rows if row["max"] is None]
    if missing:
        lines.append(f"Not measured for these metrics: {', '.join(missing)}.")
    if any(row["name"] in ("probe_error", "precision_error") for row in measured):
        lines.append(
            "Finite differences have an error of their own where ReLUs switch within their step; "
            "a wrong derivative shows as an error near 1."
        )
    return lines


def figure(result: Result) -> dict[str, "Figure"]:
    """Draw the spread of each quantity over samples against its limit."""
    bounds = limits(result)
    names = [name for name in bounds or result.value if name not in NO_ERRORS]
    values = {name: result.value[name] for name in names if name in result.value}
    measured = [name for name in values if np.isfinite(values[name]).any()]
    if not measured:
        return {}
    caption = (
        "Relative errors of the good metrics. Line: least to greatest over samples; bar: 5th to 95th percentile; dot: "
        "median; vertical mark: the limit beyond which a metric is quarantined."
    )
    beyond = int(sum(np.sum(values[name] > bounds[name]) for name in measured if name in bounds))
    if bounds and not beyond:
        caption += " All stay to the left of their limits."
    return {caption: certificate_figure(values, bounds)}


def certificate_figure(certificate: Mapping[str, npt.ArrayLike], limits: Mapping[str, float]) -> "Figure":
    """Draw the spread of each quantity of the certificate over samples against its limit, on a log axis.

    Magnitudes are drawn. A log axis has no place for exact zeros: their number is written at the right. A value
    beyond its limit is a cross.

    Args:
        certificate: quantity to its values over samples, `[samples]`, NaN where it was not computed.
        limits: quantity to the limit that a good sample keeps; quantities without one are drawn without.
    """
    from pullback.analysis.drawing import TEXT, log_axis, new_figure, plain_axes

    rows = {name: np.abs(np.asarray(values, dtype=np.float64)) for name, values in certificate.items()}
    bounds = {name: float(limits[name]) for name in rows if name in limits}
    drawn = np.concatenate([np.zeros(0), *rows.values(), list(bounds.values())])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    bottom, top = (drawn.min(), drawn.max()) if drawn.size else (1e-9, 1.0)

    figure = new_figure("certificate", height=0.65 + 0.36 * max(len(rows), 1))
    axes = plain_axes(figure, x="relative error (no unit; 0 in exact arithmetic)")
    axes.set_xscale("log")
    for row, (name, values) in enumerate(rows.items()):
        _certificate_row(axes, row, label_of(name), values, bounds.get(name))
    axes.set_xlim(10 ** np.floor(np.log10(bottom)), 10 ** np.ceil(np.log10(top) + 0.1))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [textwrap.fill(label_of(name), 22) for name in rows], parse_math=False)
    log_axis(axes.xaxis, ticks=4)
    axes.tick_params(axis="y", length=0, labelsize=TEXT)
    axes.spines["left"].set_visible(False)
    return figure


def _rows(result: Result) -> list[dict[str, Any]]:
    bounds, absent = limits(result), {"max": None, "median": None}
    return [
        {
            "name": name,
            "label": label_of(name),
            "limit": bounds.get(name),
            **result.json.get(name, absent),
        }
        for name in (bounds or result.json)
        if name not in NO_ERRORS
    ]


def _extent(values: Floats) -> dict[str, float]:
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return {"max": np.nan, "median": np.nan}
    return {"max": float(finite.max()), "median": float(np.median(finite))}


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value + 0.0:.3g}"


def _certificate_row(axes: "Axes", row: int, label: str, values: Floats, limit: float | None) -> None:
    from pullback.analysis.drawing import BLACK, BLUE, GREY, SMALL, VERMILION

    finite = values[np.isfinite(values)]
    positive = finite[finite > 0]
    if limit is not None and limit > 0:
        axes.plot([limit, limit], [row - 0.32, row + 0.32], color=VERMILION, linewidth=2, label=f"{label}, limit")
    zeros = "not computed" if finite.size == 0 else f"{finite.size - positive.size} of {finite.size} are 0"
    if positive.size < finite.size or finite.size == 0:
        at = ("axes fraction", "data")
        axes.annotate(zeros, (1.01, row), xycoords=at, va="center", fontsize=SMALL, color=GREY, annotation_clip=False)
    if positive.size == 0:
        return
    low, high = np.percentile(positive, [5, 95])
    ends = [positive.min(), positive.max()]
    axes.plot(ends, [row, row], color=BLUE, linewidth=0.9, label=f"{label}, least and greatest")
    axes.plot(
        [low, high], [row, row], color=BLUE, linewidth=5, alpha=0.45, solid_capstyle="butt", label=f"{label}, 5–95 %"
    )
    median = float(np.median(positive))
    axes.plot([median], [row], marker="o", markersize=4, color=BLACK, linestyle="none", label=f"{label}, median")
    beyond = positive[positive > limit] if limit is not None else positive[:0]
    if beyond.size:
        look: dict[str, Any] = {"marker": "x", "markersize": 5, "markeredgecolor": VERMILION, "markeredgewidth": 1.2}
        axes.plot(beyond, np.full(beyond.size, row), linestyle="none", label=f"{label}, beyond", **look)
