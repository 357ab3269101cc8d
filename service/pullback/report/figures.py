"""Figures as parts of an HTML page: the picture as SVG, and PDF and numbers to download, all within the page."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pullback.analysis.drawing import Figure
from pullback.analysis.figure_files import FigureTable, data_uri, figure_tables, lay_out, to_bytes

MOST_BYTES = 1_000_000
"""Size of a table beyond which it is not embedded: the matrix of 300 samples has 0.7 MB."""

_LARGEST_IMAGE = 128
"""Pixels of an image of a strip; larger ones are reduced."""


@dataclass(frozen=True)
class Embedded:
    """A figure within a page.

    Attributes:
        picture: the SVG as a `data:` address.
        width: in points, in print.
        files: what can be downloaded: its kind, its name and its `data:` address.
        left_out: whether its numbers are too many to be embedded.
    """

    picture: str
    width: float
    files: tuple[tuple[str, str, str], ...] = ()
    left_out: bool = False


def embedded(figure: Figure, stem: str) -> Embedded:
    """Return a figure for a page; its files are named after `stem`."""
    lay_out(figure)
    files = [("PDF", f"{stem}.pdf", data_uri(to_bytes(figure, "pdf"), "pdf"))]
    tables, left_out = table_files(figure_tables(figure), stem)
    picture = data_uri(to_bytes(figure, "svg"), "svg")
    return Embedded(picture, 72 * float(figure.get_size_inches()[0]), (*files, *tables), left_out)


def table_files(tables: Sequence[FigureTable], stem: str) -> tuple[list[tuple[str, str, str]], bool]:
    """Return tables as CSV to download, and whether one is too large for that."""
    files, left_out = [], False
    for table in tables:
        content = table.csv().encode("utf-8")
        if len(content) > MOST_BYTES:
            left_out = True
            continue
        name = f"{stem}-{table.name}.csv" if table.name else f"{stem}.csv"
        files.append((f"CSV {table.name}".strip(), name, data_uri(content, "csv")))
    return files, left_out


def strip_picture(images: npt.ArrayLike) -> str:
    """Return images in a row as a picture in a `data:` address.

    Args:
        images: `[steps, height, width, 3]` in [0, 1].
    """
    pictures = [
        Image.fromarray(np.round(255 * np.asarray(image, dtype=np.float64)).astype(np.uint8), "RGB")
        for image in np.asarray(images)
    ]
    width, height = pictures[0].size
    scale = min(1.0, _LARGEST_IMAGE / max(width, height))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    row = Image.new("RGB", (size[0] * len(pictures), size[1]))
    for step, picture in enumerate(pictures):
        row.paste(picture if scale == 1 else picture.resize(size, Image.Resampling.LANCZOS), (step * size[0], 0))
    buffer = io.BytesIO()
    # JPEG keeps a page of large photographs small; small pictures stay exact.
    kind: Mapping[str, object] = {"format": "PNG"} if scale == 1 else {"format": "JPEG", "quality": 92}
    row.save(buffer, **kind)  # type: ignore[arg-type]
    return data_uri(buffer.getvalue(), "png" if scale == 1 else "jpeg")
