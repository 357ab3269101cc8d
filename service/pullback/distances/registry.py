"""Distances by name."""

from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from pullback.distances.base import ResidualDistance
from pullback.distances.lpips import load_lpips
from pullback.distances.mse import Mse
from pullback.errors import SpecError
from pullback.generators.zoo import resolve_device
from pullback.spec import DistanceSpec, LpipsSpec, MseSpec, explain


def load_distance(name: str = "lpips", *, device: str | torch.device = "auto", **options: Any) -> ResidualDistance:
    """A distance, ready for `metric_at`.

    Args:
        name: `lpips` or `mse`.
        device: `auto`, `cpu`, `cuda` or a torch device.
        options: as in a job's `distance`: `trunk`, `input_range` (lpips), `clamp`, `size`.

    Raises:
        SpecError: an unknown name or option, or a wrong value.
        WeightsError: LPIPS's weights are missing or damaged.
    """
    adapter: TypeAdapter[LpipsSpec | MseSpec] = TypeAdapter(DistanceSpec)
    try:
        spec = adapter.validate_python({"name": name, **options})
    except ValidationError as error:
        raise SpecError(explain(error, ("distance",)), f"load_distance({name!r})") from error
    return build_distance(spec, device)


def build_distance(spec: LpipsSpec | MseSpec, device: str | torch.device = "auto") -> ResidualDistance:
    """As `load_distance`, for the `distance` of a validated job."""
    distance: ResidualDistance
    if isinstance(spec, MseSpec):
        distance = Mse(spec.clamp, spec.size)
    else:
        distance = load_lpips(spec.trunk, input_range=spec.input_range, clamp=spec.clamp, size=spec.size)
    return distance.to(resolve_device(device))
