"""The axes of figures: ranks, logarithmic scales, guides, and names of series outside the data."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from pullback.analysis.bootstrap import Floats
from pullback.analysis.figure_styles import (
    GREY,
    NO_DATA,
    SMALL,
    TEXT,
    Axes,
    Axis,
    Figure,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    Style,
    XAxis,
)

_DECADES = 12
"""Decades of a log axis below its largest value: smaller eigenvalues are round-off."""


def plain_axes(figure: Figure, position: Any = 111, x: str = "", y: str = "", **options: Any) -> Axes:
    """Add axes without the upper and the right spine to a figure.

    Args:
        figure: the figure.
        position: as for `Figure.add_subplot`.
        x: name and unit of the horizontal axis.
        y: name and unit of the vertical axis.
        options: of `Figure.add_subplot`.
    """
    axes: Axes = figure.add_subplot(position, **options)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)
    # Labels are no longer than the axes: characters are about 0.55 times as wide as high.
    place, size = axes.get_position(), figure.get_size_inches()
    for text, inches, set_label in (
        (x, place.width * size[0], axes.set_xlabel),
        (y, place.height * size[1], axes.set_ylabel),
    ):
        if text:
            set_label(textwrap.fill(text, max(12, round(72 * inches / (0.55 * TEXT)))), fontsize=TEXT)
    return axes


def rank_axis(axes: Axes, count: int, log: bool = False) -> None:
    """Make the horizontal axis one of ranks 1 to `count`: ticks at whole numbers only, 1 among them."""
    right = max(count, 2)
    if log:
        axes.set_xscale("log")
        axes.set_xlim(1, right)
        log_axis(axes.xaxis, plain=True)
        return
    pad = 0.012 * (right - 1)
    axes.set_xlim(1 - pad, right + pad)
    steps = MaxNLocator(nbins=6, integer=True, steps=[1, 2, 5, 10]).tick_values(1, right)
    inner = [int(tick) for tick in steps if 1 < tick <= right and tick == int(tick)]
    gap = (inner[1] - inner[0]) if len(inner) > 1 else 1
    axes.set_xticks([1, *(tick for tick in inner if tick - 1 >= 0.5 * gap)])
    axes.xaxis.set_minor_locator(NullLocator())


def log_axis(axis: Axis, plain: bool = False, ticks: int = 6) -> None:
    """Make an axis (`axes.xaxis`, `axes.yaxis`) logarithmic, with few ticks that are readable.

    Call it after everything is drawn and limits are set. Less than two decades have ticks at 1, 2 and 5.

    Args:
        axis: the axis.
        plain: write 1, 10, 100 in place of powers of ten.
        ticks: how many there are at most over two decades and more.
    """
    axes, horizontal = axis.axes, isinstance(axis, XAxis)
    (axes.set_xscale if horizontal else axes.set_yscale)("log")
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low) if low > 0 else 1.0
    subs = (1.0,) if decades >= 2 else (1.0, 2.0, 5.0) if decades >= 0.7 else tuple(float(i) for i in range(1, 10))
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=ticks if decades >= 2 else 12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value, plain or decades < 2)))
    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="both", labelsize=SMALL)
    axis.set_tick_params(which="minor", length=1.5)


def _tick(value: float, plain: bool) -> str:
    if value <= 0:
        return ""
    if plain and 1e-3 <= value < 1e5:
        return f"{value:.10g}"
    exponent = int(np.floor(np.log10(value) + 1e-9))
    digit = round(value / 10.0**exponent)
    power = f"10^{{{exponent}}}"
    return f"${power}$" if digit == 1 else rf"${digit}\times{power}$"


def guide(
    axes: Axes, x: float | None = None, y: float | None = None, text: str = "", style: Style | None = None
) -> None:
    """Draw a thin line across the axes that is no data, such as a limit, with its name at its end outside the axes."""
    look: dict[str, Any] = {"color": GREY, "linewidth": 0.7, "linestyle": (0, (2, 3))}
    if style is not None:
        look = {"color": style.color, "linewidth": style.width, "linestyle": style.dashes}
    words: dict[str, Any] = {"fontsize": SMALL, "color": look["color"], "annotation_clip": False}
    words["textcoords"] = "offset points"
    if x is not None:
        axes.axvline(x, label=NO_DATA, zorder=0.9, **look)
        if text:
            at = axes.get_xaxis_transform()
            axes.annotate(text, (x, 1), xycoords=at, xytext=(0, 2), ha="center", va="bottom", **words)
    if y is not None:
        axes.axhline(y, label=NO_DATA, zorder=0.9, **look)
        if text:
            at = axes.get_yaxis_transform()
            axes.annotate(text, (1, y), xycoords=at, xytext=(3, 0), ha="left", va="center", **words)


def label_ends(axes: Axes, lines: Sequence[Any], names: Sequence[str] | None = None) -> None:
    """Write the name of each line at its right end, outside the axes, in its colour; names do not overlap.

    Call it after scales and limits are set. The lines keep their labels, which are the headings of the data.
    """
    texts = [str(line.get_label()) for line in lines] if names is None else list(names)
    entries = []
    for line, text in zip(lines, texts, strict=True):
        y = np.asarray(line.get_ydata(), dtype=np.float64)
        finite = np.flatnonzero(np.isfinite(y))
        if finite.size and not text.startswith("_"):
            at = axes.transData.transform((float(np.asarray(line.get_xdata())[finite[-1]]), y[finite[-1]]))
            entries.append((float(axes.transAxes.inverted().transform(at)[1]), text, line.get_color()))
    if not entries:
        return
    inches = axes.get_window_extent().height / axes.figure.dpi
    gap = 1.25 * SMALL / 72 / inches
    heights = _spread([height for height, _, _ in entries], gap)
    for height, (_, text, colour) in zip(heights, entries, strict=True):
        axes.annotate(
            text,
            (1, height),
            xycoords="axes fraction",
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL,
            color=colour,
            annotation_clip=False,
            parse_math=False,
        )


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return heights moved as little as needed so that neighbours are `gap` apart, within 0 to 1 if there is room."""
    order = np.argsort(heights, kind="stable")
    wanted = np.clip(np.asarray(heights, dtype=np.float64)[order], 0, 1)
    moved = wanted - gap * np.arange(len(wanted))
    # The least-squares monotone fit, by pooling neighbours that are too close.
    groups: list[list[float]] = []
    for value in moved:
        groups.append([float(value), 1.0])
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            last, size = groups.pop()
            first, count = groups.pop()
            groups.append([(first * count + last * size) / (count + size), count + size])
    pooled = np.concatenate([np.full(int(size), value) for value, size in groups])
    fitted = np.clip(pooled, 0, max(0.0, 1 - gap * (len(wanted) - 1))) + gap * np.arange(len(wanted))
    result = np.empty(len(wanted))
    result[order] = fitted
    return [float(value) for value in result]


def legend_above(axes: Axes, columns: int | None = None, **options: Any) -> None:
    """Put a legend above the axes, outside the data; nothing if no artist has a name.

    Args:
        axes: the axes. If the figure has no others, the legend has the whole width of the figure.
        columns: by default 2, and 1 if a name is too long for that.
        options: of matplotlib's legend.
    """
    handles, names = axes.get_legend_handles_labels()
    if not handles:
        return
    if columns is None:
        columns = 2 if max(map(len, names)) <= 23 else 1
    given: dict[str, Any] = {"ncols": columns, "frameon": False, "fontsize": SMALL, "borderaxespad": 0.1}
    given |= {"handlelength": 2.4, "columnspacing": 1.2, "labelspacing": 0.3, "borderpad": 0.2, **options}
    alone = [each for each in axes.figure.axes if each.get_label() not in (NO_DATA, "<colorbar>")] == [axes]
    if alone:
        legend = axes.figure.legend(handles, names, loc="outside upper left", **given)
    else:
        legend = axes.legend(handles, names, **{"loc": "lower left", "bbox_to_anchor": (0, 1.0), **given})
    for text in legend.get_texts():
        text.set_parse_math(False)


def raised(values: Floats, largest: float) -> Floats:
    """Return values raised to the bottom of a log axis that ends at `largest`."""
    return np.maximum(values, max(largest, np.finfo(np.float64).tiny) * 10.0**-_DECADES)


def drawable(values: Floats, largest: float) -> Floats:
    """Return values with NaN where they would fall below a log axis that ends at `largest`."""
    return np.where(values >= raised(values, largest), values, np.nan)
