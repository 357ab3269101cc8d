"""Figures of a search: the score by evaluations, and images."""

from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.analysis.drawing import (
    PAGE,
    SMALL,
    Figure,
    draw_line,
    legend_above,
    new_figure,
    plain_axes,
    series,
)

if TYPE_CHECKING:
    import xarray as xr


def score_figure(data: "xr.Dataset") -> Figure:
    """Draw best and mean score of each generation, and the best so far, by evaluations."""
    drawn = new_figure("search-score", height=2.6)
    axes = plain_axes(drawn, x="evaluations", y="score")
    spent = data["evaluations"].values
    draw_line(axes, spent, data["best_so_far"].values, series(0), "best so far")
    draw_line(axes, spent, data["best"].values, series(1).lighter(), "best of the generation", marked=False)
    draw_line(axes, spent, data["mean"].values, series(2).lighter(), "mean of the generation", marked=False)
    legend_above(axes)
    return drawn


def image_figure(data: "xr.Dataset") -> Figure:
    """Draw the best images of some generations, and the best of all at the right."""
    frames = [*data["frame_image"].values, data["best_image"].values]
    names = [f"generation {int(number)}" for number in data["frame_generation"].values] + ["best"]
    scores = [*data["frame_score"].values, data["best_score"].values]
    drawn = new_figure("search-images", width=PAGE, height=PAGE / len(frames) + 0.45)
    for place, (image, name, score) in enumerate(zip(frames, names, scores, strict=True)):
        axes = drawn.add_subplot(1, len(frames), place + 1)
        axes.imshow(pixels(image), interpolation="nearest", label="_image")
        axes.set_axis_off()
        axes.set_title(f"{name}\n{float(score):.4g}", fontsize=SMALL)
    return drawn


def pixels(image: Any) -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return an image [channels, height, width] in [0, 1] as bytes [height, width, 3]."""
    held = np.clip(np.asarray(image), 0, 1).transpose(1, 2, 0)
    return np.asarray(np.rint(255 * np.repeat(held, 3 // held.shape[2], axis=2)), dtype=np.uint8)
