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

Figures are drawn into files and need no backend. matplotlib refuses to be imported where `MPLBACKEND` names a backend
that is not installed, which a notebook's kernel hands on to the processes that it starts; so the variable is set aside
during the import. There is no pyplot and no global state, so that figures can be made in any thread of a server.
"""

import os
import textwrap
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats, Integers

_named = os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis, XAxis
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
finally:
    if _named is not None:
        os.environ["MPLBACKEND"] = _named
if _named is not None:
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = _named

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

COLUMN, PAGE = 3.4, 7.0
"""Widths of a journal's column and of its page, in inches."""

TEXT, SMALL = 8, 7
"""Text sizes in points at these widths: names of axes, and everything smaller."""

BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
"""Colours of Okabe & Ito."""
GREY, BLACK = "#595959", "#000000"
"""A grey that is readable on white, and black."""

NO_DATA = "_guide"
"""Label of lines that are no data, such as the line of a limit."""

_DECADES = 12
"""Decades of a log axis below its largest value: smaller eigenvalues are round-off."""


@dataclass(frozen=True)
class Style:
    """How one set of numbers is drawn: its colour, and dashes and a marker that tell it apart in grey."""

    color: str
    dashes: Any = "-"
    marker: str = "o"
    width: float = 1.4

    def lighter(self, width: float = 0.9) -> "Style":
        """Return the style with a thinner line."""
        return replace(self, width=width)


_SERIES = (
    Style(BLUE),
    Style(VERMILION, (0, (5, 1.6)), "s"),
    Style(GREEN, (0, (1.2, 1.2)), "^"),
    Style(PURPLE, (0, (6, 1.5, 1.2, 1.5)), "D"),
    Style(ORANGE, (0, (3, 1, 1, 1, 1, 1)), "v"),
    Style(BLACK, (0, (9, 3)), "P"),
)

FIRST = _SERIES[0]
"""The style of the numbers at hand."""
CONTROL = Style(GREY, (0, (4, 2)), "X")
"""The style of a control sweep."""
NULL = Style(BLACK, (0, (1, 1.5)), "x", 1.1)
"""The style of what chance gives: random axes, random directions."""


def font_file() -> str:
    """Return the path of the sans-serif font that comes with matplotlib, for pictures that Pillow draws."""
    from matplotlib.font_manager import findfont

    return findfont("DejaVu Sans")


def series(index: int) -> Style:
    """Return the style of the set of numbers at `index`, from 0; after six they repeat."""
    return _SERIES[index % len(_SERIES)]


def new_figure(name: str = "", width: float = COLUMN, height: float = 2.5, **options: Any) -> Figure:
    """Return an empty figure.

    Args:
        name: what it shows, in lower case with hyphens, such as "spectrum"; files are named after it.
        width: in inches, `COLUMN` or `PAGE`.
        height: in inches.
        options: of matplotlib's Figure. By default the layout keeps text and axes apart.
    """
    options.setdefault("layout", ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03))
    figure = Figure(figsize=(width, height), **options)
    figure.set_label(name)
    return figure


def plain_axes(figure: Figure, position: Any = 111, x: str = "", y: str = "", **options: Any) -> Axes:
    """Add axes without the upper and the right spine to a figure.

    Args:
        figure: the figure.
        position: as of `Figure.add_subplot`.
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


def draw_marker(axes: Axes, x: float, y: float, style: Style = _SERIES[1], label: str = "", filled: bool = True) -> Any:
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
