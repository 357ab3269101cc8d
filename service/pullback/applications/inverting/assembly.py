"""The inverter that a job's options describe."""

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from pullback.applications.inverting.inverter import Inverter
from pullback.applications.inverting.library_cache import StoredCodes
from pullback.applications.inverting.solvers import DEFAULT_SOLVER, DEFAULT_WITH_SWEEP, MOST_AXES, SOLVERS
from pullback.applications.protocol import Subject
from pullback.applications.results import generator_identity
from pullback.distances import Distance, ResidualDistance, load_distance
from pullback.errors import ArgumentError, PullbackError, WeightsError
from pullback.generators.attributes import class_names, latent_size, name_of
from pullback.generators.base import class_indices, reference_tensor
from pullback.generators.user_code import declared_weights
from pullback.spec import GeneratorSpec, names_code
from pullback.store.reader import Sweep
from pullback.sweep.identity import IMPORTED, stored_job

if TYPE_CHECKING:
    from pullback.applications.inversion import Options

_SMALLEST_HELD_OUT = 32
"""Smallest height and width of images that LPIPS-vgg takes."""


def inverter_of(subject: Subject, given: "Options") -> Inverter:
    """Return the inverter of a job.

    Raises:
        PullbackError: the sweep is of another generator, or an option cannot work.
    """
    sweep = subject.sweep
    if sweep is not None and subject.spec is not None:
        refuse_another(sweep, subject.generator, subject.spec)
    if given.distance is None and given.mask is None and sweep is not None and IMPORTED not in sweep.provenance:
        distance = subject.distance
    else:
        distance = load_distance(given.distance or "lpips", device=subject.device, mask=given.mask)
    return make_inverter(subject.generator, distance, given, sweep)


def default_solver(sweep: Sweep | None) -> str:
    """Return the solver of an inversion that names none; with the mean metric of a sweep of fair size."""
    has_metric = sweep is not None and sweep.layout.latent_dim <= MOST_AXES and sweep.status().good > 0
    return DEFAULT_WITH_SWEEP if has_metric else DEFAULT_SOLVER


def stored_codes(sweep: Sweep, generator: torch.nn.Module, samples: int, seed: int) -> StoredCodes | None:
    """Return the codes of good samples of a sweep, at random where there are more than asked for.

    Returns:
        None if there is no good sample, or a sample has no class though the generator has classes.
    """
    data = sweep.dataset()[["latent", "condition"]]
    chosen = np.arange(data.sizes["sample"])
    if len(chosen) > samples:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, samples, replace=False))
    data = data.isel(sample=chosen).load()
    classes = torch.from_numpy(data["condition"].values.astype(np.int64)) if class_names(generator) else None
    if not len(chosen) or (classes is not None and bool((classes < 0).any())):
        return None
    return StoredCodes(torch.from_numpy(data["latent"].values.astype(np.float64)), classes)


def refuse_another(sweep: Sweep, generator: torch.nn.Module, spec: GeneratorSpec | None) -> None:
    """Raise PullbackError if a sweep was computed with another generator.

    Its codes must have the size of the generator's codes, and its weight files must be those of the generator. User
    code is also compared by the job's section `generator`.

    Args:
        sweep: the sweep.
        generator: the loaded generator.
        spec: the section of the job; None if the generator is an object.
    """
    held, digests = set(sweep.provenance.get("weights", {}).values()), set(declared_weights(generator).values())
    same = digests <= held
    if spec is not None and names_code(spec.name) and IMPORTED not in sweep.provenance:
        there = stored_job(sweep.provenance, "inversion").generator
        keys = [generator_identity(each.model_copy(update={"condition": None})) for each in (spec, there)]
        same = same and keys[0] == keys[1]
    if sweep.layout.latent_dim != latent_size(generator) or not (same or IMPORTED in sweep.provenance):
        raise PullbackError(
            f"the sweep {sweep.name!r} was computed with another generator than {name_of(generator)}. Nothing was "
            "computed; name a sweep of this generator, or none"
        )


def make_inverter(
    generator: torch.nn.Module, distance: Distance, given: "Options", sweep: Sweep | None = None
) -> Inverter:
    """Return the inverter that the options describe.

    Args:
        generator: G.
        distance: the distance that is minimised.
        given: the options.
        sweep: a sweep of this generator, for starts and the mean metric.

    Raises:
        SpecError: an option cannot work, or the class is unknown.
        StoreError: the solver needs the mean metric of a sweep that has none.
    """
    if not isinstance(distance, ResidualDistance):
        raise ArgumentError("distance", f"{distance.name} is no sum of squares; choose one such as lpips or mse")
    known = None if given.condition is None else class_indices(generator, given.condition, range(1))
    solver = given.solver or default_solver(sweep)
    metric = None
    if sweep is not None and SOLVERS[solver].metric is not None:
        metric = torch.from_numpy(sweep.mean_metric(kept=True))
    inverter = Inverter(
        generator,
        distance,
        solver,
        metric,
        pixel_weight=given.pixel_weight,
        prior=given.prior,
        nearest=given.nearest,
        random=given.random,
        condition=None if known is None else int(known[0]),
        forward_equivalents=given.budget,
        seconds=given.seconds,
        samples=given.samples,
        seed=given.seed,
        stored=None if sweep is None else stored_codes(sweep, generator, given.samples, given.seed),
    )
    if given.held_out and min(inverter.shape) >= _SMALLEST_HELD_OUT:
        with suppress(WeightsError):
            judge = load_distance("lpips", trunk="vgg", device=reference_tensor(generator).device)
            inverter = replace(inverter, held_out=judge)
    return inverter
