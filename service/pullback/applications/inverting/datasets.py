"""The dataset of an inversion: codes, images and costs of all pictures."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.analysis.bootstrap import Integers
from pullback.analysis.protocol import strict
from pullback.analysis.scalars import variable
from pullback.applications.inverting.inverter import Inverter
from pullback.applications.inverting.pictures import Picture, PictureError
from pullback.applications.inverting.solvers import SOLVERS
from pullback.generators.attributes import class_names, latent_size, name_of

if TYPE_CHECKING:
    import xarray as xr


def joined(held: Mapping[str, np.ndarray], new: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the numbers of two groups of pictures as one; NaN fills the shorter traces."""
    if not held:
        return dict(new)
    length = max(held["trace"].shape[1], new["trace"].shape[1])
    padded = [
        np.pad(each["trace"], ((0, 0), (0, length - each["trace"].shape[1]), (0, 0)), constant_values=np.nan)
        for each in (held, new)
    ]
    others = {name: np.concatenate([held[name], new[name]]) for name in new if name != "trace"}
    return {**others, "trace": np.concatenate(padded)}


_MEANINGS = {
    "distance": ("squared distance of the picture and its reconstruction", "squared distance"),
    "mse": ("mean squared difference of pixels in [0, 1]", "1"),
    "held_out": ("LPIPS-vgg of the picture and its reconstruction, which no solver sees", "squared distance"),
    "norm": ("norm of the code, in deviations of own codes from their mean", "1"),
    "seconds": ("CPU seconds", "s"),
    "forwards": ("images computed", "1"),
    "gradients": ("gradients computed", "1"),
    "columns": ("columns of Jacobians computed", "1"),
}


def dataset_of(
    inverter: Inverter, pictures: Sequence[Picture | PictureError], done: Integers, held: Mapping[str, np.ndarray]
) -> "xr.Dataset":
    """Return the dataset of an inversion.

    Args:
        inverter: has the generator and the solver.
        pictures: the pictures, or why a file is none.
        done: the places of the inverted ones among these.
        held: their numbers in this order, from `stacked`.
    """
    import xarray as xr

    height, width = inverter.shape
    count, n = len(pictures), latent_size(inverter.generator)
    places = np.asarray(done, dtype=np.int64)

    def rows(name: str, shape: tuple[int, ...] = ()) -> Any:
        values = np.full((count, *shape), np.nan)
        if len(places):
            values[places] = held[name]
        return values

    steps = held["trace"].shape[1] if len(places) else 0
    conditions = np.full(count, -1)
    if len(places):
        conditions[places] = held["condition"]
    targets = np.zeros((count, 3, height, width), dtype=np.float32)
    for row, picture in enumerate(pictures):
        if isinstance(picture, Picture):
            targets[row] = picture.image.numpy()
    images = np.nan_to_num(rows("image", (3, height, width)))
    scalars = {
        "pictures": [p.name if isinstance(p, Picture) else "" for p in pictures],
        "notes": [p.note if isinstance(p, Picture) else "" for p in pictures],
        "problems": ["" if isinstance(p, Picture) else str(p) for p in pictures],
        "generator": name_of(inverter.generator),
        "classes": list(class_names(inverter.generator)),
        "distance": inverter.distance.name,
        "solver": SOLVERS[inverter.solver].label,
        "latent_dim": n,
        "library": len(inverter.library.codes),
    }
    variables = {
        "code": variable(("picture", "latent_dim"), rows("code", (n,)), "latent code", "1"),
        "condition": variable(("picture",), conditions, "class of the code, -1 without classes", "1"),
        "target": variable(("picture", "y", "x", "channel"), _bytes(targets), "the picture as it was matched", "1"),
        "reconstruction": variable(("picture", "y", "x", "channel"), _bytes(images), "image of the code", "1"),
        "trace": variable(
            ("picture", "step", "quantity"),
            rows("trace", (steps, 3)),
            "forward equivalents, CPU seconds and best value of the objective after each step",
            "1",
        ),
    }
    for name, (meaning, unit) in _MEANINGS.items():
        variables[name] = variable(("picture",), rows(name), meaning, unit)
    return xr.Dataset(variables).assign_attrs(scalars=json.dumps(strict(scalars), allow_nan=False))


def _bytes(images: Any) -> Any:
    """Images [pictures, 3, height, width] in [0, 1] as bytes [pictures, height, width, 3]."""
    return np.moveaxis(np.round(np.clip(images, 0, 1) * 255), 1, -1).astype(np.uint8)
