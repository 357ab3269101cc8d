"""Pictures of walks as files: sheets of labelled images as PNG or SVG, and moving ones as GIF, WebP or MP4.

Pillow draws and encodes. MP4 needs the program `ffmpeg`, on the PATH or in the package imageio-ffmpeg.
"""

import base64
import html
import importlib
import io
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pullback.atomic_files import replacing
from pullback.errors import PullbackError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

FORMATS = ("png", "svg", "gif", "webp", "mp4")
"""Formats of files: still ones, and moving ones."""
STILL, MOVING = ("png", "svg"), ("gif", "webp", "mp4")

_TEXT, _GAP = 13, 4
"""Height of text and gap between images, in pixels."""
_SIDE = 96
"""Images are enlarged, by a whole factor, to about this size."""
_PER_SECOND = 12
"""Frames per second of moving pictures."""
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Sheet:
    """A grid of images with labels.

    Attributes:
        images: `[rows, columns, height, width, 3]`, uint8.
        rows: a label for each row.
        columns: a label for each column.
        under: texts under images `[rows][columns]`, empty where there is none; None for no such texts.
        title: above everything; may be empty.
    """

    images: Pixels
    rows: Sequence[str]
    columns: Sequence[str]
    under: Sequence[Sequence[str]] | None = None
    title: str = ""

    @property
    def factor(self) -> int:
        """By how much images are enlarged, so that small ones can be seen."""
        return max(1, round(_SIDE / int(max(self.images.shape[2:4]))))

    def drawn(self) -> "Image":
        """Return the sheet as a Pillow image."""
        from PIL import Image, ImageDraw

        places = _Layout.of(self)
        canvas = Image.new("RGB", (places.width, places.height), "white")
        pen, font = ImageDraw.Draw(canvas), _font()
        for x, y, pixels in places.images(self):
            picture = Image.fromarray(pixels)
            canvas.paste(picture.resize((places.wide, places.tall), Image.Resampling.NEAREST), (x, y))
        for left, middle, text, anchor in places.texts(self):
            pen.text((left, middle), text, fill="black", font=font, anchor=anchor)
        return canvas

    def svg(self) -> str:
        """Return the sheet as SVG with embedded PNG images and text that can be edited."""
        places = _Layout.of(self)
        anchors = {"l": "start", "m": "middle", "r": "end"}
        body = [
            f'<image x="{x}" y="{y}" width="{places.wide}" height="{places.tall}" style="image-rendering:pixelated" '
            f'href="data:image/png;base64,{base64.b64encode(png_of(pixels)).decode()}"/>'
            for x, y, pixels in places.images(self)
        ]
        for left, middle, text, anchor in places.texts(self):
            place = f'x="{left}" y="{middle}" text-anchor="{anchors[anchor[0]]}" dominant-baseline="central"'
            body.append(f"<text {place}>{html.escape(text)}</text>")
        size = f'width="{places.width}" height="{places.height}" viewBox="0 0 {places.width} {places.height}"'
        style = f'font-family="sans-serif" font-size="{_TEXT}"'
        return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(body) + "\n</svg>\n"


@dataclass(frozen=True)
class _Layout:
    """Pixel places of a sheet."""

    left: int
    top: int
    wide: int
    tall: int
    step_x: int
    step_y: int
    width: int
    height: int
    head: int

    @classmethod
    def of(cls, sheet: Sheet) -> "_Layout":
        rows, columns, height, width = sheet.images.shape[:4]
        wide, tall = width * sheet.factor, height * sheet.factor
        words = [*sheet.columns, *(text for row in sheet.under or () for text in row)]
        step_x = max(wide, *(text_width(word) for word in words), 1) + _GAP
        left = max([text_width(label) for label in sheet.rows] or [0]) + 2 * _GAP
        head = _TEXT + 2 * _GAP if sheet.title else 0
        top = head + (_TEXT + 2 * _GAP if any(sheet.columns) else _GAP)
        step_y = tall + _GAP + (_TEXT + _GAP if sheet.under is not None else 0)
        full = max(left + columns * step_x + _GAP, text_width(sheet.title) + 2 * _GAP)
        return cls(left, top, wide, tall, step_x, step_y, full, top + rows * step_y + _GAP, head)

    def images(self, sheet: Sheet) -> list[tuple[int, int, Pixels]]:
        return [
            (self._x(column), self.top + row * self.step_y, sheet.images[row, column])
            for row in range(sheet.images.shape[0])
            for column in range(sheet.images.shape[1])
        ]

    def texts(self, sheet: Sheet) -> list[tuple[float, float, str, str]]:
        """Return x, y, text and Pillow's anchor of every text; texts are centred on y."""
        found = [(float(_GAP), self.head / 2, sheet.title, "lm")] if sheet.title else []
        for column, text in enumerate(sheet.columns):
            found.append((self._x(column) + self.wide / 2, self.top - _GAP - _TEXT / 2, text, "mm"))
        for row, text in enumerate(sheet.rows):
            y = self.top + row * self.step_y
            found.append((float(self.left - _GAP), y + self.tall / 2, text, "rm"))
            for column, under in enumerate(sheet.under[row] if sheet.under is not None else ()):
                found.append((self._x(column) + self.wide / 2, y + self.tall + _GAP / 2 + _TEXT / 2, under, "mm"))
        return [each for each in found if each[2]]

    def _x(self, column: int) -> int:
        return self.left + column * self.step_x + (self.step_x - _GAP - self.wide) // 2


def png_of(pixels: Pixels) -> bytes:
    """Return an image `[height, width, 3]` as PNG."""
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="PNG")
    return held.getvalue()


def heat_map(values: npt.ArrayLike) -> Pixels:
    """Return a map `[height, width]` as an image `[height, width, 3]`: black is 0, white the largest value."""
    array = np.asarray(values, dtype=np.float64)
    top = float(array.max())
    level = array / top if top > 0 else array
    # Black, dark violet, orange, yellow, white: lightness ascends evenly, so the map can be read in grey.
    nodes = np.array([[0, 0, 4], [84, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 220]], dtype=np.float64)
    places = np.linspace(0, 1, len(nodes))
    return (
        np.stack([np.interp(level, places, nodes[:, colour]) for colour in range(3)], axis=-1).round().astype(np.uint8)
    )


def write_still(sheet: Sheet, path: Path) -> None:
    """Write a sheet as `.png` or `.svg`.

    Raises:
        OSError: the file cannot be written; an earlier one is kept.
    """
    with replacing(path) as new:
        if path.suffix == ".svg":
            new.write_text(sheet.svg(), encoding="utf-8")
        else:
            sheet.drawn().save(new, format="PNG")


def write_moving(sheets: Sequence[Sheet], path: Path) -> None:
    """Write sheets one after the other, there and back, as `.gif`, `.webp` or `.mp4`.

    Args:
        sheets: of equal size.
        path: the file; its ending is the format.

    Raises:
        PullbackError: MP4 is asked for, and there is no ffmpeg or it fails.
        OSError: the file cannot be written; an earlier one is kept.
    """
    frames = [sheet.drawn() for sheet in sheets]
    frames += frames[-2:0:-1]
    with replacing(path) as new:
        if path.suffix == ".mp4":
            _write_mp4(frames, new, path)
            return
        options = {"save_all": True, "append_images": frames[1:], "duration": round(1000 / _PER_SECOND), "loop": 0}
        if path.suffix == ".webp":
            frames[0].save(new, format="WEBP", quality=90, method=4, **options)
        else:
            frames[0].save(new, format="GIF", **options)


def has_ffmpeg() -> bool:
    """Return whether the program that writes MP4 is found."""
    return _ffmpeg() is not None


NO_FFMPEG = (
    "MP4 needs the program ffmpeg, which is not on this machine. Install it (the package imageio-ffmpeg has one), or "
    "choose gif or webp"
)


def _ffmpeg() -> str | None:
    """The program on the PATH, or that of the package imageio-ffmpeg."""
    if (found := shutil.which("ffmpeg")) is not None:
        return found
    try:
        program: str = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ImportError, RuntimeError):  # no such package, or it has no program for this machine
        return None
    return program


def _write_mp4(frames: "Sequence[Image]", new: Path, path: Path) -> None:
    program = _ffmpeg()
    if program is None:
        raise PullbackError(f"{path.name} was not written: {NO_FFMPEG}; the other files are written.")
    width, height = (side - side % 2 for side in frames[0].size)  # the codec needs even sides
    command = [
        program, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}",
        "-r", str(_PER_SECOND), "-i", "-", "-pix_fmt", "yuv420p", "-f", "mp4", str(new),
    ]  # fmt: skip
    content = b"".join(frame.convert("RGB").crop((0, 0, width, height)).tobytes() for frame in frames)
    done = subprocess.run(command, input=content, capture_output=True, check=False, timeout=600)
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise PullbackError(f"{path.name} was not written: ffmpeg failed ({words[-1]}); the other files are written.")


@cache
def _font() -> "FreeTypeFont":
    """A font with Greek and Cyrillic letters and the minus sign, which Pillow's own has not."""
    from PIL import ImageFont

    from pullback.analysis.drawing import font_file

    return ImageFont.truetype(font_file(), _TEXT)


def text_width(text: str) -> int:
    """Return the width of a text in a sheet, in pixels."""
    return int(np.ceil(_font().getlength(text))) if text else 0
