"""Generators that fail on purpose, to see what a pool of workers does about it. Named in jobs by `module:factory`."""

import os
import sys
from pathlib import Path

from torch import Tensor

from pullback.spec.models import SamplesSpec
from pullback.sweep.latents import sample_latents
from toy_generators import Smooth

BAD_SIGN = -1.0
IN_A_WORKER = "default_worker" in sys.argv[0]  # Ray's; the plan, made in the test's own process, is not to fail


def _rounded(row: list[float]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in row)


class _Fragile(Smooth):
    """Fails, in a worker, on batches with a code of the tests' jobs whose first coordinate is below a threshold."""

    name = "fragile"

    def __init__(self) -> None:
        super().__init__()
        codes = sample_latents(SamplesSpec(count=64, seed=1), range(64), 6)
        self.bad = {_rounded(row) for row in codes.tolist() if row[0] < BAD_SIGN}

    def fail(self) -> None:
        raise NotImplementedError

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        try:
            rows = z.detach().as_subclass(Tensor).tolist()
        except RuntimeError:  # inside vmap; the plain passes of the probe are enough to fail in
            rows = []
        if IN_A_WORKER and any(_rounded(row) in self.bad for row in rows):
            self.fail()
        return super().forward(z)


class Raising(_Fragile):
    """Raises."""

    def fail(self) -> None:
        raise ValueError("this code is one that I cannot draw")


class Dying(_Fragile):
    """Kills its process, every time."""

    def fail(self) -> None:
        os._exit(1)


class DyingOnce(_Fragile):
    """Kills its process the first time, and leaves a mark so that it works from then on."""

    def fail(self) -> None:
        mark = Path(os.environ["PULLBACK_TEST_MARK"])
        if not mark.exists():
            mark.touch()
            os._exit(1)


class Faulting(_Fragile):
    """Raises what torch raises when a GPU faults."""

    def fail(self) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def faulting() -> Faulting:
    return Faulting()


def dying_at_once() -> Smooth:
    """Kills the worker that constructs it."""
    if IN_A_WORKER:
        os._exit(1)
    return Smooth()


def raising() -> Raising:
    return Raising()


def dying() -> Dying:
    return Dying()


def dying_once() -> DyingOnce:
    return DyingOnce()
