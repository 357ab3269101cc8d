"""Pictures of any size and mode as targets of an inversion.

A picture is turned upright by its EXIF orientation, put on white where it is transparent, cropped at its centre to the
shape of the generator's images, and resized with antialiasing. Grey pictures get three equal channels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pullback.errors import PullbackError
from pullback.regular_files import read_regular

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".npy")
"""Endings of the files that are taken from a folder."""
_MOST_BYTES = 512 * 2**20
_MOST_PIXELS = 100_000_000
_DEEP = ("I;16", "I;16B", "I;16L", "I", "F")
"""Modes of Pillow with more than 8 bits: divided by 65,535, or left alone if they are numbers in [0, 1]."""


class PictureError(PullbackError):
    """A file or an array is no picture that can be inverted."""


@dataclass(frozen=True)
class Picture:
    """A target of an inversion.

    Attributes:
        name: the file's path, or the place of an array, such as `image 0`.
        image: [3, height, width] float32 in [0, 1], of the generator's size.
        note: what was done with it, such as `cropped to 480 × 480, resized to 64 × 64`; empty if nothing was.
    """

    name: str
    image: Tensor
    note: str


def files_in(paths: Sequence[str | Path]) -> list[str]:
    """Return the files that are named, and those with a picture's ending in the folders that are named, sorted.

    Raises:
        PullbackError: a path does not exist, or a folder has no picture.
    """
    found: list[str] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(str(each) for each in path.iterdir() if each.suffix.lower() in ENDINGS and each.is_file())
            if not inside:
                raise PullbackError(
                    f"the folder {path} has no picture ({', '.join(ENDINGS)}). Nothing was computed; name another one"
                )
            found += inside
        elif not path.exists():
            raise PullbackError(
                f"there is no picture {path} (from {Path.cwd()}). Nothing was computed; correct its path"
            )
        else:
            found.append(str(path))
    return found


def read_picture(path: str | Path, height: int, width: int) -> Picture:
    """Read a picture as a target of an inversion.

    Args:
        path: a file that Pillow reads, or a `.npy` array like those of `of_array`.
        height: height of the generator's images.
        width: their width.

    Raises:
        PictureError: the file cannot be read as a picture.
    """
    try:
        content = read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror or error}") from error
    if Path(path).suffix.lower() == ".npy":
        try:
            array = np.load(io.BytesIO(content), allow_pickle=False)
        except Exception as error:
            raise PictureError(f"{path} is no array that numpy.save wrote") from error
        return of_array(array, height, width, str(path))
    image, notes = _decoded(content, str(path))
    return _fitted(image, height, width, str(path), notes)


def of_array(values: Any, height: int, width: int, name: str) -> Picture:
    """Return an array as a target of an inversion.

    Args:
        values: a PIL image; or an array or tensor [height, width], [height, width, 3], [3, height, width] or
            [1, height, width] of bytes, or of numbers in [0, 1].
        height: height of the generator's images.
        width: their width.
        name: what the picture is called in results.

    Raises:
        PictureError: it has another shape, or values that are not finite or far outside [0, 1].
    """
    if hasattr(values, "getbands"):
        image, notes = _of_pillow(values, name)
        return _fitted(image, height, width, name, notes)
    array: Any = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "buif" or array.ndim not in (2, 3) or 0 in array.shape:
        raise PictureError(
            f"{name} has the shape {list(array.shape)}; an image is [height, width, 3] or [3, height, width]"
        )
    if array.ndim == 2:
        array = array[None]
    elif _channels_last(array.shape):
        array = np.moveaxis(array, -1, 0)
    if array.shape[0] not in (1, 3, 4):
        raise PictureError(f"{name} has {array.shape[0]} channels; an image has 1, 3 or 4")
    whole = array.dtype.kind in "ui"
    scaled = array.astype(np.float32) / np.float32(np.iinfo(array.dtype).max if whole else 1)
    if not np.isfinite(scaled).all():
        raise PictureError(f"{name} has values that are not finite")
    if scaled.min() < -0.25 or scaled.max() > 1.25:
        raise PictureError(
            f"{name} has values from {scaled.min():.3g} to {scaled.max():.3g}; numbers in [0, 1] or bytes are needed"
        )
    return _fitted(_on_white(torch.from_numpy(scaled)), height, width, name, [])


def _channels_last(shape: tuple[int, ...]) -> bool:
    if shape[-1] in (3, 4):
        return shape[0] not in (3, 4)
    return shape[-1] == 1 and shape[0] not in (1, 3, 4)


def _decoded(content: bytes, name: str) -> tuple[Tensor, list[str]]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise PictureError(f"{name} has {opened.width} × {opened.height} pixels, more than {_MOST_PIXELS:,}")
            opened.load()
            return _of_pillow(opened, name)
    except PictureError:
        raise
    except Exception as error:  # damaged files raise nearly anything
        raise PictureError(f"{name} is no picture that can be read") from error


def _of_pillow(opened: Any, name: str) -> tuple[Tensor, list[str]]:
    """An image [3, height, width] in [0, 1] of a PIL image, and what was done with it."""
    from PIL import ImageOps

    notes = []
    upright = ImageOps.exif_transpose(opened)
    if upright.size != opened.size or opened.getexif().get(0x0112, 1) not in (0, 1):
        notes.append("turned upright")
    if getattr(opened, "n_frames", 1) > 1:
        notes.append("first frame")
    if upright.mode in _DEEP:
        deep: Any = np.asarray(upright, dtype=np.float32)
        if not np.isfinite(deep).all():
            raise PictureError(f"{name} has values that are not finite")
        deep = deep if deep.size and deep.max() <= 1 else deep / 65535
        return torch.from_numpy(np.clip(deep, 0, 1))[None].repeat(3, 1, 1), notes
    transparent = "A" in upright.mode or "transparency" in upright.info
    pixels = np.asarray(upright.convert("RGBA" if transparent else "RGB"), dtype=np.float32) / 255
    if transparent and pixels[..., 3].min() < 1:
        notes.append("put on white")
    return _on_white(torch.from_numpy(np.moveaxis(pixels, -1, 0).copy())), notes


def _on_white(image: Tensor) -> Tensor:
    if image.shape[0] == 1:
        return image.repeat(3, 1, 1)
    if image.shape[0] == 4:
        return image[:3] * image[3:] + (1 - image[3:])
    return image


def _fitted(image: Tensor, height: int, width: int, name: str, notes: list[str]) -> Picture:
    """Crop an image [3, h, w] at its centre to the shape height : width, and resize it."""
    tall, wide = image.shape[1:]
    if tall * width != wide * height:
        rows = min(tall, max(1, round(wide * height / width)))
        columns = min(wide, max(1, round(tall * width / height)))
        top, left = (tall - rows) // 2, (wide - columns) // 2
        image = image[:, top : top + rows, left : left + columns]
        if (rows, columns) != (tall, wide):
            notes = [*notes, f"cropped to {columns} × {rows}"]
    if image.shape[1:] != (height, width):
        image = interpolate(image[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False)[0]
        notes = [*notes, f"resized to {width} × {height}"]
    return Picture(name, image.clamp(0, 1).contiguous(), ", ".join(notes))
