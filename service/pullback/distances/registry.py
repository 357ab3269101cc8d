"""Distances by name. A distance is a module of this package, or of a plug-in, with SUMMARY, Options and build."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from pullback.distances import custom
from pullback.distances.base import Distance
from pullback.distances.mask import Mask
from pullback.errors import SpecError
from pullback.generators.registry import resolve_device
from pullback.plugins import DISTANCES
from pullback.spec import CustomOptions, DistanceOptions, DistanceSpec, explain


@torch.inference_mode(False)  # a caller's inference mode forbids derivatives
def load_distance(
    name: str = "lpips", *, device: str | torch.device = "auto", mask: Any = None, **options: Any
) -> Distance:
    """Load a distance, ready for `metric_at`.

    Args:
        name: a distance in `pullback plugins`, such as `lpips`, `mse`, `ssim` or `features`; or `module:function` for
            your own function of images in [0, 1]: a residual f(images) -> [batch, m], or a squared distance
            f(x, y) -> [batch].
        device: `auto`, `cpu`, `cuda` or a torch device.
        mask: the weight of each place in the image, in [0, 1]: a tensor or array [height, width], the path of an array
            (`.npy`), a box [top, left, bottom, right] in fractions of the image, or a `Mask`. Nothing is
            renormalised: the metrics of a mask m and of 1 − m add up to the whole metric.
        options: as in a job's `distance`: `trunk`, `input_range` (lpips), `module`, `layer` (features; for a module
            object, use `FeatureDistance(module, layer)`), `clamp`, `size`.

    Raises:
        SpecError: the name, an option or a value is wrong, or your own function does not exist.
        WeightsError: LPIPS's weights are missing or damaged.
        PullbackError: your own code failed.
    """
    adapter: TypeAdapter[DistanceSpec] = TypeAdapter(DistanceSpec)
    pixels, made = isinstance(mask, torch.Tensor | np.ndarray), isinstance(mask, Mask)
    given = {} if pixels or made or mask is None else {"mask": str(mask) if isinstance(mask, Path) else mask}
    source = f"load_distance({name!r})"
    try:
        spec = adapter.validate_python({"name": name, **given, **options})
    except ValidationError as error:
        problems = [problem.removeprefix("distance.") for problem in explain(error, ("distance",))]
        raise SpecError([problem.replace("distance: ", "name: ", 1) for problem in problems], source) from error
    try:
        return build_distance(spec, device, Mask.of_array(mask) if pixels else mask if made else None)
    except SpecError as error:
        raise SpecError(error.problems, source) from error


def build_distance(options: DistanceOptions, device: str | torch.device = "auto", mask: Mask | None = None) -> Distance:
    """Load the distance of a validated job; raises like `load_distance`.

    Args:
        options: the job's `distance`.
        device: `auto`, `cpu`, `cuda` or a torch device.
        mask: replaces the mask in the options.
    """
    target = resolve_device(device)
    if mask is None and options.mask is not None:
        mask = Mask.of_file(options.mask) if isinstance(options.mask, str) else Mask.of_box(*options.mask)
    distance: Distance = (
        custom.build(options, mask)
        if isinstance(options, CustomOptions)
        else DISTANCES.module(options.name).build(options, mask)
    )
    return distance.to(target)
