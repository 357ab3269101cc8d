"""Hints of meaning without labels: what moves in the image between the two ends of an axis.

The image change I₊ − I₋ (between the ends of the axis) is fitted by least squares with the changes that small movements
of the image I₀ would make, all at once, after a blur of `BLUR` pixels:

    I₊ − I₋ ≈ brightness + contrast (I₀ − mean) + shift · (−∇I₀) + zoom (−p · ∇I₀) + rotation (−p^⊥ · ∇I₀)

with p the place in the image relative to its centre. (This is the linearised alignment of Lucas & Kanade, IJCAI 1981,
with an affine flow; Bergen et al., ECCV 1992.) Colour is measured apart, as the change of the mean of two opponent
channels and of the mean saturation. Asymmetry is ‖I − mirror(I)‖² / (2 ‖I − mean‖²).

Units: brightness, contrast in units of the image's range; colours likewise; shifts in per cent of the image's width;
zoom in per cent; rotation in degrees. Rotation is positive clockwise as the image is seen, and zoom if it grows.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats

BLUR = 1 / 32
"""Standard deviation of the blur before the fit, relative to the image's width: movements are larger than a pixel."""
_GREY = np.array([0.299, 0.587, 0.114])
"""Luminance (ITU-R BT.601)."""


@dataclass(frozen=True)
class Effect:
    """A measurable change of images.

    Attributes:
        name: of the variable.
        more: in words, if it is positive.
        less: in words, if it is negative.
        unit: the unit, and the words' format.
    """

    name: str
    more: str
    less: str
    unit: str


EFFECTS = (
    Effect("brightness", "brighter", "darker", ""),
    Effect("contrast", "more contrast", "less contrast", ""),
    Effect("saturation", "more colourful", "less colourful", ""),
    Effect("red_green", "redder", "greener", ""),
    Effect("yellow_blue", "yellower", "bluer", ""),
    Effect("shift_x", "shifts right", "shifts left", " %"),
    Effect("shift_y", "shifts down", "shifts up", " %"),
    Effect("zoom", "larger", "smaller", " %"),
    Effect("rotation", "turns clockwise", "turns counter-clockwise", "°"),
    Effect("asymmetry", "less symmetric", "more symmetric", ""),
)
"""The effects, in the order of the columns of `effects_of`."""


def effects_of(
    below: npt.NDArray[np.float32], middle: npt.NDArray[np.float32], above: npt.NDArray[np.float32]
) -> Floats:
    """Return the effects of walks `[m, effects]`; positive from the lower to the upper end.

    Args:
        below: images at the lower end `[m, height, width, 3]` in [0, 1].
        middle: unmoved images, likewise.
        above: images at the upper end, likewise.
    """
    return np.array([_one(*three) for three in zip(below, middle, above, strict=True)])


def regions_of(maps: Floats) -> list[str]:
    """Return where maps of change `[m, height, width]` are concentrated, in words; "everywhere" if they are not.

    The image is divided into 3 × 3 parts. A region is named if it holds more than 1.6 times its share of the squared
    change: a row, a column, or a part.
    """
    return [_region(each) for each in maps]


def _one(below: Floats, middle: Floats, above: Floats) -> list[float]:
    from scipy.ndimage import gaussian_filter

    low, mid, high = (np.asarray(image, dtype=np.float64) for image in (below, middle, above))
    grey = [image @ _GREY for image in (low, mid, high)]
    height, width = grey[0].shape
    soft = [gaussian_filter(image, BLUR * width, mode="nearest") for image in grey]
    down, right = np.gradient(soft[1])
    y, x = np.mgrid[:height, :width].astype(np.float64)
    y, x = y - (height - 1) / 2, x - (width - 1) / 2
    columns = [
        np.ones_like(x),
        soft[1] - soft[1].mean(),
        -right,
        -down,
        -(x * right + y * down),
        -(x * down - y * right),
    ]
    # Pixels at the border would have to know what lies outside the image.
    edge = max(1, round(1.5 * BLUR * width))
    inner = (slice(edge, height - edge), slice(edge, width - edge))
    if min(height, width) <= 2 * edge + 2:
        inner = (slice(None), slice(None))
    design = np.stack([column[inner].ravel() for column in columns], axis=1)
    scale = np.linalg.norm(design, axis=0)
    scale[scale == 0] = 1.0
    fitted = np.linalg.lstsq(design / scale, (soft[2] - soft[0])[inner].ravel(), rcond=1e-6)[0] / scale
    _, _, shift_x, shift_y, zoom, rotation = fitted
    chroma = [_opponents(image) for image in (low, high)]
    return [
        float(grey[2].mean() - grey[0].mean()),
        float(grey[2].std() - grey[0].std()),
        float(_saturation(high) - _saturation(low)),
        chroma[1][0] - chroma[0][0],
        chroma[1][1] - chroma[0][1],
        100 * shift_x / width,
        100 * shift_y / width,
        100 * zoom,
        float(np.degrees(rotation)),
        _asymmetry(grey[2]) - _asymmetry(grey[0]),
    ]


def _opponents(image: Floats) -> tuple[float, float]:
    red, green, blue = image.reshape(-1, 3).mean(axis=0)
    return float(red - green), float((red + green) / 2 - blue)


def _saturation(image: Floats) -> float:
    return float((image.max(axis=2) - image.min(axis=2)).mean())


def _asymmetry(grey: Floats) -> float:
    spread = 2 * float(np.sum((grey - grey.mean()) ** 2))
    return float(np.sum((grey - grey[:, ::-1]) ** 2)) / spread if spread > 0 else 0.0


_ROWS, _COLUMNS = ("top", "middle", "bottom"), ("left", "centre", "right")
_CONCENTRATED = 1.6


def _region(change: Floats) -> str:
    squares = np.square(np.asarray(change, dtype=np.float64))
    if not squares.sum() > 0:
        return "nowhere"
    rows = [part.sum(axis=0) for part in np.array_split(squares, 3)]
    cells = np.array([[part.sum() for part in np.array_split(row, 3)] for row in rows]) / squares.sum()
    row, column = np.unravel_index(int(np.argmax(cells)), cells.shape)
    by_row, by_column = 3 * cells.sum(axis=1), 3 * cells.sum(axis=0)
    tall, wide = by_row.max() > _CONCENTRATED, by_column.max() > _CONCENTRATED
    if tall and wide:
        return f"{_ROWS[row]} {_COLUMNS[column]}"
    if tall:
        return _ROWS[int(np.argmax(by_row))]
    if wide:
        return _COLUMNS[int(np.argmax(by_column))]
    if 9 * cells[1, 1] > _CONCENTRATED:
        return "centre"
    return "everywhere"
