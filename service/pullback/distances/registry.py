"""Distances by name. A new one is a module with a `build`, its model in `spec`, and a line here."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from pullback.distances import custom, features, lpips, mse, ssim
from pullback.distances.base import Distance
from pullback.distances.mask import Mask
from pullback.errors import SpecError
from pullback.generators.zoo import resolve_device
from pullback.spec import CustomSpec, DistanceSpec, FeaturesSpec, LpipsSpec, MseSpec, SsimSpec, explain

_BUILDERS: dict[type, Callable[[Any, Mask | None], Distance]] = {
    LpipsSpec: lpips.build,
    MseSpec: mse.build,
    SsimSpec: ssim.build,
    FeaturesSpec: features.build,
    CustomSpec: custom.build,
}


def load_distance(
    name: str = "lpips", *, device: str | torch.device = "auto", mask: Any = None, **options: Any
) -> Distance:
    """A distance, ready for `metric_at`.

    Args:
        name: `lpips`, `mse`, `ssim`, `features`, or `module:function` for your own: f(images) -> [batch, m], a
            residual, or f(x, y) -> [batch], a squared distance, of images in [0, 1].
        device: `auto`, `cpu`, `cuda` or a torch device.
        mask: how much each place of the image counts, in [0, 1]: a tensor or array [height, width], the path of one
            (`.npy`), a box [top, left, bottom, right] in fractions of the image, or a `Mask`. Nothing is
            renormalised: the metrics of a mask m and of 1 − m add up to the whole metric.
        options: as in a job's `distance`: `trunk`, `input_range` (lpips), `module`, `layer` (features; for a module
            that you hold, use `FeatureDistance(module, layer)`), `clamp`, `size`.

    Raises:
        SpecError: an unknown name or option, a wrong value, or no such function of your own.
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
        raise SpecError(explain(error, ("distance",)), source) from error
    try:
        return build_distance(spec, device, Mask.of_array(mask) if pixels else mask if made else None)
    except SpecError as error:
        raise SpecError(error.problems, source) from error


def build_distance(spec: DistanceSpec, device: str | torch.device = "auto", mask: Mask | None = None) -> Distance:
    """As `load_distance`, for the `distance` of a validated job.

    Args:
        spec: the job's `distance`.
        device: `auto`, `cpu`, `cuda` or a torch device.
        mask: in place of the spec's own.
    """
    target = resolve_device(device)
    if mask is None and spec.mask is not None:
        mask = Mask.of_file(spec.mask) if isinstance(spec.mask, str) else Mask.of_box(*spec.mask)
    return _BUILDERS[type(spec)](spec, mask).to(target)
