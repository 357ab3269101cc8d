"""The inversion of pictures by one solver: starts, budget, and how good what was found is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pullback.applications.inverting.library_cache import StoredCodes, library_of
from pullback.applications.inverting.objective import Cost, Objective
from pullback.applications.inverting.solvers import DEFAULT_SOLVER, SOLVERS
from pullback.applications.inverting.starts import Library
from pullback.applications.inverting.watch import Watch
from pullback.distances import ResidualDistance
from pullback.distances.mse import Mse
from pullback.errors import ArgumentError, PullbackError
from pullback.generators import generate, reference_tensor
from pullback.generators.attributes import latent_size

METRIC_CODES = 8
"""Own samples whose mean metric is computed where there is no sweep."""
TRACED = 200
"""Steps of a trace that are kept."""
TOLERANCE = 1e-9
"""Value of f at which a target is solved."""


@dataclass(frozen=True)
class Inverted:
    """What was found for one picture.

    Attributes:
        code: [n] float64.
        condition: its class; -1 without classes.
        image: its image [3, height, width] float32.
        distance: squared distance of the two images.
        mse: mean squared difference of the pixels.
        held_out: squared distance that the solver did not see; NaN without one.
        norm: ‖(z − c) / s‖ with the mean c and the deviations s of own codes; √n is typical.
        cost: the work for this picture.
        seconds: CPU seconds for this picture.
        trace: (forward equivalents, CPU seconds, best value of f) [steps, 3].
    """

    code: np.ndarray
    condition: int
    image: np.ndarray
    distance: float
    mse: float
    held_out: float
    norm: float
    cost: Cost
    seconds: float
    trace: np.ndarray


@dataclass(frozen=True)
class Inverter:
    """Inverts pictures of one generator.

    Args:
        generator: G.
        distance: a residual distance.
        solver: a name in `SOLVERS`.
        mean_metric: the mean metric [n, n] of a sweep; without it, solvers that need one use that of a few own codes.
        held_out: a distance that only judges; None for none.
        pixel_weight: w of the objective.
        prior: ρ of the objective.
        nearest: starts from the nearest own samples.
        random: random starts.
        condition: class of all pictures; None if it is unknown or there are none.
        forward_equivalents: most work of a picture.
        seconds: most CPU seconds of a picture; None for no limit.
        samples: own samples of the library of starts.
        seed: seed of every random choice.
        stored: codes of a sweep, among which the nearest starts are looked for too.

    Raises:
        ArgumentError: the solver is unknown, the distance is no sum of squares, or a limit leaves nothing to do.
    """

    generator: nn.Module
    distance: ResidualDistance
    solver: str = DEFAULT_SOLVER
    mean_metric: Tensor | None = None
    held_out: nn.Module | None = None
    pixel_weight: float = 10.0
    prior: float = 0.01
    nearest: int = 3
    random: int = 2
    condition: int | None = None
    forward_equivalents: float = 6000.0
    seconds: float | None = None
    samples: int = 1500
    seed: int = 0
    stored: StoredCodes | None = None

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise ArgumentError("solver", f"there is no solver {self.solver!r}; choose one of {', '.join(SOLVERS)}")
        if not self.forward_equivalents > 0 or (self.seconds is not None and not self.seconds > 0):
            raise ArgumentError("budget", "a budget of nothing leaves nothing to do; give a positive number")
        if self.mean_metric is not None and self.mean_metric.shape != (n := latent_size(self.generator), n):
            raise ArgumentError(
                "sweep", f"its codes have {len(self.mean_metric)} numbers and those of this generator {n}; name another"
            )

    @cached_property
    def library(self) -> Library:
        """The own samples from which starts come."""
        return library_of(self.generator, self.samples, self.seed, self.stored)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """Height and width of the generator's images."""
        code, own = self.library.codes[:1], self.library.condition
        like = reference_tensor(self.generator)
        with torch.no_grad():
            image = generate(self.generator, code.to(like), None if own is None else own[:1].to(like.device))
        return int(image.shape[-2]), int(image.shape[-1])

    def objective(self, images: Tensor) -> Objective:
        """Return the objective of target images [targets, 3, height, width]."""
        library = self.library
        objective = Objective(
            self.generator,
            self.distance,
            images.to(reference_tensor(self.generator)),
            self.pixel_weight,
            self.prior,
            library.centre,
            library.scale,
        )
        if not bool(objective.wanted.isfinite().all()):
            raise PullbackError("the distance of this picture is not finite. Nothing is lost; leave the picture out")
        return objective

    @cached_property
    def metric(self) -> Tensor | None:
        """The metric that the solver uses [n, n] float64, of the sweep or of a few own codes; None if it uses none."""
        if SOLVERS[self.solver].metric is None:
            return None
        like = reference_tensor(self.generator)
        if self.mean_metric is not None:
            return self.mean_metric.to(like.device, torch.float64)
        codes, own = self.library.codes[:METRIC_CODES].to(like.device), self.library.condition
        own = None if own is None else own[:METRIC_CODES].to(like.device)
        with torch.no_grad():
            image = generate(self.generator, codes[:1].to(like), None if own is None else own[:1])
        return Objective(self.generator, self.distance, image, self.pixel_weight).mean_metric(codes, own)

    def invert(self, images: Tensor, *, first: int = 0, stopped: Callable[[], bool] = lambda: False) -> list[Inverted]:
        """Find the codes of images.

        Args:
            images: targets [targets, 3, height, width] in [0, 1], of the generator's size.
            first: number of the first one among all pictures, which decides its random starts.
            stopped: returns whether to stop; what was found until then is returned.
        """
        objective = self.objective(images)
        metric = self.metric
        count = len(images)
        watch = Watch(
            objective,
            count,
            count * self.forward_equivalents,
            math.inf if self.seconds is None else count * self.seconds,
            TOLERANCE,
            stopped,
        )
        starts = self.library.starts(
            objective,
            nearest=self.nearest,
            random=self.random,
            condition=self.condition,
            seed=self.seed,
            first=first,
        )
        solver = SOLVERS[self.solver]
        watch(
            starts.target,
            starts.codes,
            objective.values(starts.codes, starts.target, starts.condition),
            starts.condition,
        )
        settings: dict[str, Any] = solver.given(metric)
        if "rate" in solver.tuned and "inner" not in settings:
            settings["steps"] = max(1, int(watch.forward_equivalents / (3 * len(starts.codes))))
        if not watch.spent:
            solver.minimise(objective, starts.codes, starts.target, starts.condition, watch, **settings)
        return self._judged(objective, watch)

    def _judged(self, objective: Objective, watch: Watch) -> list[Inverted]:
        assert watch.codes is not None
        library = self.library
        own = None if library.condition is None else watch.conditions.to(objective.device)
        spent, seconds = Cost(**vars(objective.cost)), watch.elapsed
        images = objective.images(watch.codes, own)
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        wanted = objective.targets
        with torch.no_grad():
            distance = self.distance.squared(images, wanted)
            mse = Mse(False, None, None).squared(images, wanted)
            held = None if self.held_out is None else self.held_out.squared(images, wanted)  # type: ignore[operator]
        norms = ((watch.codes - library.centre) / library.scale).norm(dim=1)
        count = len(wanted)
        share = Cost(*(round(value / count) for value in (spent.forwards, spent.gradients, spent.columns)))
        steps = np.array([(used / count, time / count, *values) for used, time, values in watch.trace])
        chosen = steps[np.unique(np.linspace(0, len(steps) - 1, TRACED).astype(int))]
        return [
            Inverted(
                code=watch.codes[row].numpy(),
                condition=int(watch.conditions[row]),
                image=images[row].float().cpu().numpy(),
                distance=float(distance[row]),
                mse=float(mse[row]),
                held_out=math.nan if held is None else float(held[row]),
                norm=float(norms[row]),
                cost=share,
                seconds=seconds / count,
                trace=chosen[:, [0, 1, 2 + row]],
            )
            for row in range(count)
        ]


def stacked(found: Sequence[Inverted]) -> dict[str, np.ndarray]:
    """Return the numbers of several pictures as arrays, the first axis over pictures; traces end with NaN."""
    length = max(len(each.trace) for each in found)
    trace = np.full((len(found), length, 3), np.nan)
    for row, each in enumerate(found):
        trace[row, : len(each.trace)] = each.trace
    return {
        "code": np.stack([each.code for each in found]),
        "condition": np.array([each.condition for each in found]),
        "image": np.stack([each.image for each in found]),
        **{
            name: np.array([getattr(each, name) for each in found])
            for name in ("distance", "mse", "held_out", "norm", "seconds")
        },
        **{
            name: np.array([getattr(each.cost, name) for each in found])
            for name in ("forwards", "gradients", "columns")
        },
        "trace": trace,
    }
