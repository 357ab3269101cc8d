"""Where in the image a distance looks: a weight in [0, 1] for each place.

A mask m turns a distance that is a sum over places, D² = Σ_p s_p, into D²_m = Σ_p m_p s_p. Nothing is renormalised,
so masks that add up to one give metrics that add up to the whole metric: D²_m + D²_(1−m) = D², and H_m + H_(1−m) = H.
A layer of h × w places takes the mask averaged over the area of each place, which keeps that sum at every layer.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pullback.errors import SpecError


class Mask:
    """Weights in [0, 1] that are constant on the cells of a grid laid over the whole image.

    Args:
        weights: the weight of each cell [rows, columns], not all zero.
        rows: the rows' edges [rows + 1] float64 from the top of the image, 0, to its bottom, 1.
        columns: the columns' edges [columns + 1] float64 from its left, 0, to its right, 1.
        sha256: the hash by which the mask is known in a sweep's identity; None where the job itself spells it out.
    """

    def __init__(self, weights: Tensor, rows: Tensor, columns: Tensor, sha256: str | None = None) -> None:
        self._weights = weights.to(torch.float64)
        self._rows = rows
        self._columns = columns
        self.sha256 = sha256

    @classmethod
    def of_box(cls, top: float, left: float, bottom: float, right: float) -> "Mask":
        """1 inside a box and 0 outside it; its edges are fractions of the image in [0, 1], whole pixels or not.

        Raises:
            SpecError: it has no area, or lies outside the image.
        """
        if not (0 <= top < bottom <= 1 and 0 <= left < right <= 1):
            raise SpecError(
                [
                    "distance.mask: a box is [top, left, bottom, right] in fractions of the image from 0 to 1, with "
                    f"top < bottom and left < right; this one is {[top, left, bottom, right]}"
                ]
            )
        weights = torch.zeros(3, 3)
        weights[1, 1] = 1
        rows, columns = torch.tensor([[0, top, bottom, 1], [0, left, right, 1]], dtype=torch.float64)
        return cls(weights, rows, columns)

    @classmethod
    def of_array(cls, values: Any) -> "Mask":
        """A weight for each pixel [height, width]; it spans the whole image, whatever that one's own resolution.

        Args:
            values: a tensor or an array of numbers or truth values in [0, 1].

        Raises:
            SpecError: it has another number of axes, values outside [0, 1], or zeros alone.
        """
        if isinstance(values, Tensor):
            values = values.detach().cpu()
            values = values.float() if values.is_floating_point() else values  # numpy knows no bfloat16
        return cls._of_pixels(np.asarray(values))

    @classmethod
    def of_file(cls, path: str | Path) -> "Mask":
        """As `of_array`, for an array in numpy's `.npy` format. No code that a file may carry is run.

        Raises:
            SpecError: the file is missing or is no such array, or the array is no mask.
        """
        try:
            with Path(path).open("rb") as file:
                array: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        except FileNotFoundError:
            raise SpecError([f"distance.mask: there is no file {path} (from {Path.cwd()})"]) from None
        except Exception as error:  # damaged files raise nearly anything
            raise SpecError(
                [f"distance.mask: {path} cannot be read as an array that numpy.save wrote: {error}"]
            ) from error
        return cls._of_pixels(array, f" (in {path})")

    @classmethod
    def _of_pixels(cls, array: np.ndarray, where: str = "") -> "Mask":
        if array.dtype.kind not in "biuf":
            raise SpecError([f"distance.mask: numbers in [0, 1] are needed, not {array.dtype}{where}"])
        if array.ndim != 2 or array.size == 0:
            hint = "; a box is a list of four numbers" if array.shape == (4,) and not where else ""
            raise SpecError(
                [f"distance.mask: an array [height, width] is needed, not {list(array.shape)}{where}{hint}"]
            )
        with np.errstate(over="ignore"):  # what is too large for float32 is refused below
            pixels = np.ascontiguousarray(array, dtype="<f4")  # one byte order, for the hash
        if not (np.isfinite(pixels).all() and pixels.min() >= 0 and pixels.max() <= 1):
            raise SpecError(
                [
                    f"distance.mask: weights in [0, 1] are needed, these go from {pixels.min():.3g} to "
                    f"{pixels.max():.3g}{where}; divide a mask of 8-bit values by 255"
                ]
            )
        if not pixels.any():
            raise SpecError([f"distance.mask: every weight is zero, so that nothing would be measured{where}"])
        digest = hashlib.sha256(np.asarray(pixels.shape, dtype="<i8").tobytes() + pixels.tobytes()).hexdigest()
        height, width = pixels.shape
        rows, columns = (torch.linspace(0, 1, count + 1, dtype=torch.float64) for count in (height, width))
        return cls(torch.from_numpy(pixels.astype(np.float64)), rows, columns, digest)

    def at(self, height: int, width: int) -> Tensor:
        """The mask averaged over the area of each place of a layer: [height, width] float64 on the CPU, in [0, 1]."""
        return _shares(self._rows, height) @ self._weights @ _shares(self._columns, width).T


def _shares(edges: Tensor, count: int) -> Tensor:
    """The share of each of `count` equal intervals of [0, 1] that lies between each two edges: [count, cells]."""
    inner = torch.linspace(0, 1, count + 1, dtype=torch.float64)
    low = torch.maximum(inner[:-1, None], edges[None, :-1])
    high = torch.minimum(inner[1:, None], edges[None, 1:])
    overlap = (high - low).clamp_min(0)
    return overlap / overlap.sum(dim=1, keepdim=True)  # so that a mask of ones is one everywhere, round-off or not
