"""Sizes, colours and styles of figures, and the import of matplotlib.

Figures are drawn into files and need no backend. matplotlib refuses to be imported where `MPLBACKEND` names a backend
that is not installed, which a notebook's kernel hands on to the processes that it starts; so the variable is set aside
during the import. There is no pyplot and no global state, so that figures can be made in any thread of a server.
"""

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

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
    "SECOND",
    "SKY",
    "SMALL",
    "TEXT",
    "VERMILION",
    "Axes",
    "AxesImage",
    "Axis",
    "ConstrainedLayoutEngine",
    "Figure",
    "FigureCanvasAgg",
    "FuncFormatter",
    "LogLocator",
    "MaxNLocator",
    "NullFormatter",
    "NullLocator",
    "Style",
    "XAxis",
    "font_file",
    "new_figure",
    "series",
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
SECOND = _SERIES[1]
"""The style of the numbers beside them."""
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
