"""Loading a job's generator and distance, and examining the inputs that they were made from."""

import socket
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d

from pullback.distances import Distance, build_distance
from pullback.errors import PullbackError
from pullback.generators import any_condition, generate, load_for, reference_tensor
from pullback.generators.codes import trial_codes
from pullback.generators.user_code import origin_of, unmoved
from pullback.generators.user_files import Window, watching
from pullback.metric.precision import as_precise_as
from pullback.spec import JobSpec
from pullback.spec.arguments import arguments_of
from pullback.sweep.inputs import Inputs, agree, built_changes, changes, inputs_of, is_tensor, other_values
from pullback.sweep.latents import LatentCodes

_SAME = 1e-4
"""Relative differences up to this are round-off."""
_PIXELS, _EACH = 8, 13
"""Images are averaged to 8 × 8 pixels, and every 13th number is kept."""


def load_parts(job: JobSpec, device: str | torch.device) -> tuple[nn.Module, Distance]:
    """The job's generator and distance on a device.

    Raises:
        PullbackError: either cannot be loaded.
    """
    generator = load_for(job.generator, device)
    return generator, as_precise_as(distance_of(job, device), generator)


def distance_of(job: JobSpec, device: str | torch.device) -> Distance:
    """Build the job's distance on a device.

    Raises:
        SpecError: an option of the distance cannot work; names the option by its path in the job.
        PullbackError: the distance cannot be loaded.
    """
    with arguments_of("distance"):
        return build_distance(job.distance, device)


def reading_of(generator: nn.Module, distance: Distance) -> Window:
    """The window that records which files user code reads while it computes; unused without user code."""
    origin = origin_of(generator) or origin_of(distance)
    return Window() if origin is None else origin.used


def examine(job: JobSpec, generator: nn.Module, distance: Distance, device: str | torch.device) -> Inputs:
    """Examine the inputs of a job's generator and distance, which were just loaded on a device.

    User code builds a second generator and distance. Entries that differ between the two and change no image (a time,
    a counter) are `unstable`, and not part of the sweep's identity.

    Raises:
        PullbackError: the two give different numbers, so two workers would not compute the same sweep; or user code
            failed.
    """
    codes = LatentCodes(job.samples, generator, job.generator.condition is not None).hashes
    origins = {"generator": origin_of(generator), "distance": origin_of(distance)}
    if not any(origins.values()):
        return inputs_of(generator, distance, codes)
    values = _values(generator, distance)  # may read files
    first = inputs_of(generator, distance, codes)
    changed = {
        f"{part}: {name}"
        for part, origin in origins.items()
        if origin is not None
        for name, value in origin.built_now().items()
        if origin.built.get(name, value) != value
    }
    again, other = load_parts(job, device)
    second = inputs_of(again, other, codes)
    differing = {name for name in {*first.built, *second.built} if first.built.get(name) != second.built.get(name)}
    named = ", ".join(built_changes(first, second, unstable=True))
    if any(is_tensor(name) for name in differing) or (differing and not agree(values, _values(again, other), _SAME)):
        part = "distance" if all(name.startswith("distance") for name in differing) else "generator"
        raise PullbackError(
            f"calling {_factory_of(job, part)} twice gave two different networks ({named}), so no two workers would "
            "compute the same numbers. Draw what is random from a fixed seed (torch.manual_seed in the factory), or "
            "load it from a file"
        )
    return replace(
        first, unstable=tuple(sorted(changed | differing)), values=tuple(values), device=_computed_by(generator)
    )


def _factory_of(job: JobSpec, part: str) -> str:
    return job.generator.name if part == "generator" else str(getattr(job.distance, "module", job.distance.name))


def _computed_by(generator: nn.Module) -> str:
    tensor = reference_tensor(generator)
    return f"{tensor.device.type} {tensor.dtype}"


@torch.no_grad()
def _values(generator: nn.Module, distance: Distance) -> list[float]:
    """Two images and their squares, averaged to a few pixels, and the squared distance between them."""
    z = trial_codes(generator, 2, 1)
    condition = any_condition(generator, 2, z.device)
    own = None if condition is None else condition[:1]
    with unmoved(), watching(reading_of(generator, distance)):
        try:
            images = generate(generator, z, condition).double()
            apart = distance.squared_at(generator, z[:1], z[1:], own).double()
        except PullbackError:
            raise
        except (Exception, SystemExit) as error:
            raise PullbackError(f"the distance cannot measure its images: {error}") from error
    few = adaptive_avg_pool2d(torch.cat([images, images**2]), _PIXELS)
    return [*few.flatten()[::_EACH].tolist(), *apart.flatten().tolist()]


def refuse_others(
    planned: Inputs, generator: nn.Module, distance: Distance, codes: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Refuse a generator or a distance that differs from the plan's.

    Images and distances must agree too. If they do, global variables may differ, because some depend on where the code
    runs (in a worker, in which process).

    Raises:
        PullbackError: names the files, tensors or attributes that differ.
    """
    here = inputs_of(generator, distance, codes)
    changed = changes(planned, here)
    if planned.values and not changes(planned, here, of_globals=False):
        values = tuple(_values(generator, distance))
        changed = other_values(planned, replace(here, values=values, device=_computed_by(generator)))
    if changed:
        raise PullbackError(
            f"on {socket.gethostname()} this is not what the sweep was planned with: {'; '.join(changed)}. The worker "
            "computed nothing. A file has changed since the sweep began, or differs on this machine. Make the files "
            "equal and run again, or give the job another `store`"
        )


def metric_options(job: JobSpec) -> dict[str, Any]:
    """Return the job's arguments for `metric_at` and `estimate`, except the method."""
    metric = job.metric
    return {
        "precision": metric.precision,
        "deterministic": metric.deterministic,
        "tolerance": metric.tolerance,
        "max_products": metric.max_products,
        "relative_step": metric.relative_step,
    }
