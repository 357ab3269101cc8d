"""Masks: a weight in [0, 1] for each place in the image, which restricts a distance to a region.

A mask m turns a distance that is a sum over places, D² = Σ_p s_p, into D²_m = Σ_p m_p s_p. Nothing is renormalised,
so masks that add up to one give metrics that add up to the whole metric: D²_m + D²_(1−m) = D², and H_m + H_(1−m) = H.
A layer of h × w places uses the mask averaged over the area of each place, so this additivity holds at every layer.
"""

import hashlib
import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pullback.errors import ArgumentError
from pullback.regular_files import read_regular

_MOST_BYTES = 256 * 2**20
"""Largest size of a mask file in bytes: 8192 × 8192 numbers in float32."""


class Mask:
    """Weights in [0, 1] that are constant on the cells of a grid laid over the whole image.

    Args:
        weights: the weight of each cell [rows, columns], not all zero.
        rows: the edges of the rows [rows + 1] float64, from 0 (top of the image) to 1 (bottom).
        columns: the edges of the columns [columns + 1] float64, from 0 (left) to 1 (right).
        sha256: the mask's hash in a sweep's identity; None if the job contains the mask itself (a box).
    """

    def __init__(self, weights: Tensor, rows: Tensor, columns: Tensor, sha256: str | None = None) -> None:
        self._weights = weights.to(torch.float64)
        self._rows = rows
        self._columns = columns
        self.sha256 = sha256

    @classmethod
    def of_box(cls, top: float, left: float, bottom: float, right: float) -> "Mask":
        """Make a mask of 1 inside a box and 0 outside. Edges are fractions of the image in [0, 1], at any subpixel.

        Raises:
            SpecError: the box has no area, or lies outside the image.
        """
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise ArgumentError(
                "mask",
                "a box is [top, left, bottom, right] in fractions of the image from 0 to 1, with "
                f"top < bottom and left < right; this one is {[top, left, bottom, right]}",
            )
        weights = torch.zeros(3, 3)
        weights[1, 1] = 1
        rows, columns = torch.tensor([[0, top, bottom, 1], [0, left, right, 1]], dtype=torch.float64)
        return cls(weights, rows, columns)

    @classmethod
    def of_array(cls, values: Any) -> "Mask":
        """Make a mask from weights [height, width]. They span the whole image, whose resolution may differ.

        Args:
            values: a tensor or array of booleans or of numbers in [0, 1].

        Raises:
            SpecError: it does not have two axes, has values outside [0, 1], or has only zeros.
        """
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = values.float() if values.is_floating_point() else values  # numpy has no bfloat16
        return cls._of_pixels(np.asarray(values))

    @classmethod
    def of_file(cls, path: str | Path) -> "Mask":
        """Read a mask from a `.npy` file; otherwise like `of_array`. No code in the file is run.

        Raises:
            SpecError: the file is missing, is not such an array, or the array is not a valid mask.
        """
        try:
            content = read_regular(path, _MOST_BYTES)
            _check_header(content)
            array: np.ndarray = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
        except FileNotFoundError:
            raise ArgumentError("mask", f"there is no file {path} (from {Path.cwd()})") from None
        except OSError as error:
            raise ArgumentError("mask", f"{path} cannot be read: {error.strerror}") from error
        except Exception as error:  # damaged files raise nearly anything
            raise ArgumentError("mask", f"{path} cannot be read as an array that numpy.save wrote: {error}") from error
        return cls._of_pixels(array, f" (in {path})")

    @classmethod
    def _of_pixels(cls, array: np.ndarray, where: str = "") -> "Mask":
        if array.dtype.kind not in "biuf":
            raise ArgumentError("mask", f"numbers in [0, 1] are needed, not {array.dtype}{where}")
        if array.ndim != 2 or array.size == 0:
            hint = "; a box is a list of four numbers" if array.shape == (4,) and not where else ""
            raise ArgumentError("mask", f"an array [height, width] is needed, not {list(array.shape)}{where}{hint}")
        with np.errstate(over="ignore"):  # values too large for float32 raise below
            pixels = np.ascontiguousarray(array, dtype="<f4")  # fixed byte order for the hash
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise ArgumentError(
                "mask",
                f"weights in [0, 1] are needed, not in [{pixels.min():.3g}, {pixels.max():.3g}]{where}; "
                "divide a mask of 8-bit values by 255",
            )
        if not pixels.any():
            raise ArgumentError("mask", f"every weight is zero, so that nothing would be measured{where}")
        digest = hashlib.sha256(np.asarray(pixels.shape, dtype="<i8").tobytes() + pixels.tobytes()).hexdigest()
        height, width = pixels.shape
        rows, columns = (torch.linspace(0, 1, count + 1, dtype=torch.float64) for count in (height, width))
        return cls(torch.from_numpy(pixels.astype(np.float64)), rows, columns, digest)

    def at(self, height: int, width: int) -> Tensor:
        """Return the mask averaged over the area of each place of a layer: [height, width] float64 on the CPU."""
        return _shares(self._rows, height) @ self._weights @ _shares(self._columns, width).T


def _check_header(content: bytes) -> None:
    """Raise ValueError if a `.npy` header declares a wrong data size: numpy allocates memory before it reads."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:  # its data are a pickle, which is never read
        return
    declared, held = math.prod(shape) * dtype.itemsize, len(content) - file.tell()
    if declared != held:
        raise ValueError(f"its header declares {declared:,} bytes of data, and {held:,} follow")


def _shares(edges: Tensor, count: int) -> Tensor:
    """Return the share of each of `count` equal intervals of [0, 1] inside each cell: [count, cells]."""
    inner = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    low = torch.maximum(inner[:-1, None], edges[None, :-1])
    high = torch.minimum(inner[1:, None], edges[None, 1:])
    overlap = (high - low).clamp_min(0)
    return overlap / overlap.sum(dim=1, keepdim=True)  # a mask of ones stays exactly one
