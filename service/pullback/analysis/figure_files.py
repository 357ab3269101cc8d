"""Figures as files: PNG, SVG and PDF, and the numbers that they show as CSV.

The numbers are read from the drawn artists, so every figure of every statistic has them and they are those that are
seen. Each panel gives a table: a row for each value of each line, band, histogram or set of markers, or the matrix of a
heat map. Guides (`drawing.NO_DATA`) are left out.
"""

import base64
import csv
import io
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.patches import Rectangle, StepPatch

from pullback.analysis.drawing import NO_DATA, Axes, Figure, FigureCanvasAgg

Format = Literal["png", "svg", "pdf"]
FORMATS: tuple[Format, ...] = ("png", "svg", "pdf")

DPI = 300
"""Pixels per inch of PNG files, as journals ask for."""

_DENSE = 3000
"""Values beyond which an artist is stored as pixels in SVG and PDF, which would otherwise be large and slow."""

_TYPES = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "svg": "image/svg+xml",
    "pdf": "application/pdf",
    "csv": "text/csv;charset=utf-8",
}


@dataclass(frozen=True)
class FigureTable:
    """The numbers of one panel: `rows` under `columns`. `name` is the panel's, empty if the figure has only one."""

    name: str
    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]

    def csv(self) -> str:
        """Return the table as CSV: a line of headings, numbers with 9 significant digits, nothing for a missing one."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_cell(value) for value in row] for row in self.rows)
        return buffer.getvalue()


def to_bytes(figure: Figure, kind: Format, dpi: float = DPI) -> bytes:
    """Return a figure as a file of this kind. The same figure gives the same bytes: no date, no random names."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    if kind != "png":
        _rasterize_dense(figure)
    metadata = {"png": {"Software": "Pullback"}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    content = buffer.getvalue()
    return _stable_names(content) if kind == "svg" else content


def lay_out(figure: Figure) -> None:
    """Lay a figure out once for all of its files; each would otherwise lay it out twice, which takes long."""
    FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine(None)  # with "none" each file would still be drawn twice


def data_uri(content: bytes, kind: str) -> str:
    """Return content as a `data:` address, to stand in an HTML page without another file."""
    return f"data:{_TYPES[kind]};base64,{base64.b64encode(content).decode('ascii')}"


def figure_tables(figure: Figure) -> list[FigureTable]:
    """Return the numbers that a figure shows, a table for each panel that has any."""
    panels = [(axes, _panel(axes)) for axes in figure.axes if axes.get_label() not in (NO_DATA, "<colorbar>")]
    filled = [(axes, table) for axes, table in panels if table is not None]
    if len(filled) == 1:
        return [filled[0][1]]
    return [
        FigureTable(
            _slug(str(axes.get_label()) or axes.get_title(loc="left") or axes.get_title()) or f"panel-{i}", *rest
        )
        for i, (axes, table) in enumerate(filled, 1)
        for rest in [(table.columns, table.rows)]
    ]


def _panel(axes: Axes) -> FigureTable | None:
    x, y = (" ".join(text.split()) for text in (axes.get_xlabel() or "x", axes.get_ylabel() or "y"))
    if axes.images:
        image = axes.images[0]
        values = np.ma.filled(np.ma.asarray(image.get_array(), dtype=np.float64), np.nan)
        if values.ndim != 2:  # a picture
            return None
        rows, columns = getattr(image, "pullback_names", (range(values.shape[0]), range(values.shape[1])))
        heads = (f"{y} \\ {x}", *map(str, columns))
        return FigureTable("", heads, [(name, *line) for name, line in zip(rows, values.tolist(), strict=True)])
    entries = [entry for artist in _artists(axes) for entry in _series(artist)]
    if not entries:
        return None
    banded = any(low is not None for *_, low, _ in entries)
    names = _distinct(("series", x, y, *(("low", "high") if banded else ())))
    return FigureTable("", names, [entry[: len(names)] for entry in entries])


def _artists(axes: Axes) -> list[Any]:
    found = [*axes.lines, *axes.collections, *axes.patches]
    return [artist for artist in found if artist.get_label() != NO_DATA and artist.get_visible()]


def _series(artist: Any) -> list[tuple[Any, ...]]:
    """Return (series, x, y, low, high) of an artist; (…, None, None) where there is no band."""
    label = str(artist.get_label())
    name = "" if label.startswith("_") else label
    if isinstance(artist, PolyCollection):
        return _band(artist, name)
    if isinstance(artist, PathCollection):
        offsets: Any = np.ma.asarray(artist.get_offsets(), dtype=np.float64)
        return [(name, x, y, None, None) for x, y in offsets.filled(np.nan).tolist()]
    if isinstance(artist, LineCollection):
        lines = [np.asarray(line) for line in artist.get_segments() if len(line)]
        upright = all(np.ptp(line[:, 0]) == 0 for line in lines)
        name = name or label.removeprefix("_")  # an interval has no name in a legend, and one in the data
        return [(name, line[0, 0], None, *np.sort(line[:, 1])) for line in lines] if upright else []
    if isinstance(artist, StepPatch):
        heights, edges, _ = artist.get_data()
        return [
            (name, (left + right) / 2, height, None, None)
            for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True)
        ]
    if isinstance(artist, Rectangle):
        return [(name, artist.get_x() + artist.get_width() / 2, artist.get_height(), None, None)]
    if hasattr(artist, "get_xdata"):
        x, y = (np.asarray(values).tolist() for values in (artist.get_xdata(), artist.get_ydata()))
        return [(name, *point, None, None) for point in zip(x, y, strict=True)]
    return []


def _band(artist: PolyCollection, name: str) -> list[tuple[Any, ...]]:
    """Return the ends of a filled band at each x."""
    ends: dict[float, list[float]] = {}
    for path in artist.get_paths():
        for x, y in np.asarray(path.vertices).tolist():
            ends.setdefault(x, []).append(y)
    return [(name or "band", x, None, min(values), max(values)) for x, values in sorted(ends.items())]


def _rasterize_dense(figure: Figure) -> None:
    for axes in figure.axes:
        for line in axes.lines:
            line.set_rasterized(len(np.atleast_1d(line.get_xdata())) > _DENSE)
        for collection in axes.collections:
            collection.set_rasterized(len(np.atleast_1d(collection.get_offsets())) > _DENSE)


def _stable_names(svg: bytes) -> bytes:
    """Return an SVG with the random parts of its identifiers replaced by numbers in the order of their appearance."""
    text = svg.decode("utf-8")
    found = dict.fromkeys(re.findall(r'id="([A-Za-z]+[0-9a-f]{10})"', text))
    for number, name in enumerate(found):
        text = text.replace(name, f"{name[:1]}_{number}")
    return text.encode("utf-8")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.9g}" if np.isfinite(value) else ""
    return str(value)


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the headings, with a number appended to each repeated one."""
    return tuple(name if name not in names[:i] else f"{name} ({i})" for i, name in enumerate(names))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40]
