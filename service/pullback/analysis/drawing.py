"""What the figures of statistics share: matplotlib, sizes, styles, axes, and the common kinds of plot.

A statistic draws its figures like this::

    from pullback.analysis.drawing import draw_line, legend_above, new_figure, plain_axes, rank_axis, log_axis

    figure = new_figure("spectrum")                 # 3.4 in wide: one column of a journal
    axes = plain_axes(figure, x="rank", y="|eigenvalue| (squared distance / latent length²)")
    draw_band(axes, ranks, low, high, series(0), label="5–95 % of 60 samples")
    draw_line(axes, ranks, mean, series(0), label="mean")
    rank_axis(axes, len(ranks))
    log_axis(axes.yaxis)
    legend_above(axes)

The rules of the house:

- A figure has one panel and is `COLUMN` wide. A statistic with several panels returns several figures in its dict:
  the report lays them side by side on a wide page, and under each other on a phone, and numbers them. Only a figure
  that cannot be divided is `PAGE` wide.
- `new_figure` names a figure, in lower case with hyphens. `pullback figure` names its files after it.
- Text has `TEXT` or `SMALL` points and nothing else, so that all figures of a page have text of one size. There is no
  title: the caption, which is the figure's key in the dict, says what to see.
- Every axis names its quantity and unit. Ranks are whole numbers from 1 (`rank_axis`).
- `series(i)` is the style of the i-th set of numbers. Its colours can be told apart with any colour vision (Okabe &
  Ito); dashes and markers do so in grey. `CONTROL` is the style of a control or a null wherever there is one.
- Names of series stand at the ends of their lines (`label_ends`) or above the axes (`legend_above`), never among data.
- A number that does not exist is left out and never drawn as zero.

Labels of lines, bands, bars and images are also the headings of the figure's data as CSV (`figure_files`). A label that
starts with an underscore is drawn without a name; `NO_DATA` marks guides that are no data.

This module has the plots, and names everything else that a statistic needs: styles (`figure_styles`) and axes
(`figure_axes`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats, Integers
from pullback.analysis.figure_axes import (
    drawable,
    guide,
    label_ends,
    legend_above,
    log_axis,
    plain_axes,
    raised,
    rank_axis,
)
from pullback.analysis.figure_styles import (
    BLACK,
    BLUE,
    COLUMN,
    CONTROL,
    FIRST,
    GREEN,
    GREY,
    NO_DATA,
    NULL,
    ORANGE,
    PAGE,
    PURPLE,
    SECOND,
    SKY,
    SMALL,
    TEXT,
    VERMILION,
    Axes,
    AxesImage,
    ConstrainedLayoutEngine,
    Figure,
    FigureCanvasAgg,
    MaxNLocator,
    Style,
    font_file,
    new_figure,
    series,
)

__all__ = [
    "BLACK",
    "BLUE",
    "COLUMN",
    "CONTROL",
    "FIRST",
    "GREEN",
    "GREY",
    "NO_DATA",
    "NULL",
    "ORANGE",
    "PAGE",
    "PURPLE",
    "SKY",
    "SMALL",
    "TEXT",
    "VERMILION",
    "Axes",
    "ConstrainedLayoutEngine",
    "Figure",
    "FigureCanvasAgg",
    "Style",
    "draw_band",
    "draw_errors",
    "draw_heat_map",
    "draw_histogram",
    "draw_line",
    "draw_marker",
    "drawable",
    "font_file",
    "guide",
    "label_ends",
    "legend_above",
    "log_axis",
    "new_figure",
    "plain_axes",
    "raised",
    "rank_axis",
    "series",
    "similarity_order",
]


def draw_line(
    axes: Axes, x: npt.ArrayLike, y: npt.ArrayLike, style: Style = FIRST, label: str = "", **options: Any
) -> Any:
    """Draw a line; numbers that are not finite leave a gap. Up to 12 values also get markers."""
    values = np.asarray(y, dtype=np.float64)
    marked = options.pop("marked", values.size <= 12)
    given = {"color": style.color, "linestyle": style.dashes, "linewidth": style.width, **options}
    if marked:
        given = {"marker": style.marker, "markersize": 4, "markeredgewidth": 0.8, **given}
    (line,) = axes.plot(np.asarray(x), values, label=label or "_line", **given)
    return line


def draw_band(
    axes: Axes,
    x: npt.ArrayLike,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    style: Style = FIRST,
    label: str = "",
    alpha: float = 0.18,
) -> Any:
    """Fill between two curves: percentiles over samples (`alpha` 0.18), or an interval of a mean (0.4)."""
    options: dict[str, Any] = {"color": style.color, "alpha": alpha, "linewidth": 0, "label": label or "_band"}
    return axes.fill_between(np.asarray(x), np.asarray(low, float), np.asarray(high, float), **options)


def draw_errors(
    axes: Axes,
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    low: npt.ArrayLike,
    high: npt.ArrayLike,
    style: Style = FIRST,
    label: str = "",
    horizontal: bool = False,
) -> Any:
    """Draw markers with intervals; a missing end leaves the marker alone.

    Args:
        axes: the axes.
        x: positions `[m]`.
        y: values `[m]`.
        low: lower ends `[m]`.
        high: upper ends `[m]`.
        style: colour and marker.
        label: the name of the series.
        horizontal: the intervals are those of `x`, not of `y`.
    """
    at, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    bottom, top = (np.asarray(end, dtype=np.float64) for end in (low, high))
    draw = axes.hlines if horizontal else axes.vlines
    name = f"_interval of {label}" if label and not label.startswith("_") else "_interval"
    draw(values if horizontal else at, bottom, top, colors=style.color, linewidth=1.1, label=name)
    given: dict[str, Any] = {"marker": style.marker, "markersize": 4.5, "linestyle": "none", "color": style.color}
    (line,) = axes.plot(at, values, label=label or "_line", **given)
    return line


def draw_marker(axes: Axes, x: float, y: float, style: Style = SECOND, label: str = "", filled: bool = True) -> Any:
    """Draw one marker, open if `filled` is False."""
    face = style.color if filled else "white"
    (line,) = axes.plot(
        [x],
        [y],
        marker=style.marker,
        markersize=5,
        markerfacecolor=face,
        markeredgecolor=style.color,
        linestyle="none",
        zorder=3,
        label=label or "_marker",
    )
    return line


def draw_histogram(
    axes: Axes,
    values: npt.ArrayLike,
    bins: npt.ArrayLike,
    style: Style = FIRST,
    label: str = "",
    filled: bool = True,
    share: bool = True,
) -> Floats:
    """Draw a histogram: filled for the numbers at hand, an outline for what they are compared with.

    Args:
        axes: the axes.
        values: any shape; numbers that are not finite are left out.
        bins: the edges, the same for all histograms that are compared.
        style: colour and dashes.
        label: the name of the series.
        filled: False draws the outline only.
        share: draw per cent of the values in each bin, so that sets of different sizes can be compared.

    Returns:
        The heights, `[bins]`.
    """
    finite = np.asarray(values, dtype=np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    edges = np.asarray(bins, dtype=np.float64)
    heights = np.histogram(finite, edges)[0].astype(np.float64)
    if share and finite.size:
        heights *= 100 / finite.size
    look: dict[str, Any] = {"edgecolor": style.color, "linewidth": 1.1, "linestyle": style.dashes}
    if filled:
        look = {"facecolor": style.color, "edgecolor": style.color, "linewidth": 0.6, "alpha": 0.55}
    axes.stairs(heights, edges, fill=filled, label=label or "_histogram", **look)  # the axis starts at 0
    return heights


def draw_heat_map(
    axes: Axes,
    matrix: npt.ArrayLike,
    label: str,
    *,
    low: float | None = None,
    high: float | None = None,
    order: Integers | None = None,
    names: Sequence[Any] | None = None,
    columns: Sequence[Any] | None = None,
    diverging: bool = False,
) -> AxesImage:
    """Draw a matrix `[rows, columns]` with a colour bar; entries that are not finite stay blank.

    Args:
        axes: the axes.
        matrix: the numbers.
        label: name and unit of the numbers.
        low: value at the lower end of the colours; the least by default. Smaller values get the same colour.
        high: value at the upper end; the greatest by default.
        order: positions of rows and columns in the order in which a square matrix is drawn (`similarity_order`).
        names: what each row stands for, before `order`; its data as CSV has them.
        columns: what each column stands for; like `names` by default if the matrix is square.
        diverging: colours for numbers around 0, with white there.
    """
    values = np.asarray(matrix, dtype=np.float64)
    rows = list(range(len(values)) if names is None else names)
    heads = list(columns if columns is not None else rows if values.shape[0] == values.shape[1] else ())
    heads = heads or list(range(values.shape[1]))
    if order is not None:
        values = values[np.ix_(order, order)]
        rows, heads = [rows[i] for i in order], [heads[i] for i in order]
    finite = values[np.isfinite(values)]
    ends = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    bottom, top = ends[0] if low is None else low, ends[1] if high is None else high
    if diverging:
        top = max(abs(bottom), abs(top))
        bottom = -top
    if top <= bottom:
        bottom = top - max(1e-3, 1e-3 * abs(top))
    colours = "RdBu_r" if diverging else "cividis"
    image = axes.imshow(values, cmap=colours, vmin=bottom, vmax=top, interpolation="nearest", aspect="auto")
    image.set_label(label)
    image.pullback_names = (rows, heads)  # type: ignore[attr-defined]
    axes.spines[["top", "right"]].set_visible(True)
    if values.shape[0] == values.shape[1]:
        axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    beyond = (finite.size > 0 and ends[0] < bottom, finite.size > 0 and ends[1] > top)
    extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond, "neither")
    bar = axes.figure.colorbar(image, ax=axes, extend=extend, shrink=0.9, pad=0.02)
    bar.set_label(label, fontsize=TEXT)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_linewidth(0.5)
    bar.ax.set_label(NO_DATA)
    return image


def similarity_order(similarity: npt.ArrayLike) -> Integers:
    """Return an order of rows that puts similar ones beside each other.

    Average linkage of 1 - (S + Sᵀ)/2, the leaves in the order of the tree. Entries that are not finite count as the
    least similarity; the diagonal does not count.

    Args:
        similarity: `[m, m]`, larger for more similar; it need not be symmetric.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    values = np.asarray(similarity, dtype=np.float64)
    if len(values) < 3:
        return np.arange(len(values))
    both = (values + values.T) / 2
    finite = both[np.isfinite(both)]
    both = np.where(np.isfinite(both), both, finite.min() if finite.size else 0.0)
    distance = np.maximum(both.max() - both, 0.0)
    np.fill_diagonal(distance, 0.0)
    order: Integers = leaves_list(linkage(squareform(distance, checks=False), "average")).astype(np.int64)
    return order
