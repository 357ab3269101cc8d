"""Generators that fail on purpose, to see what a pool of workers does about it. Named in jobs by `module:factory`."""

import os
from pathlib import Path

from torch import Tensor

from toy_generators import Smooth

BAD_SIGN = -1.0


class _Fragile(Smooth):
    """Fails on batches whose first code has a first coordinate beyond a threshold."""

    name = "fragile"

    def fail(self) -> None:
        raise NotImplementedError

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        try:
            bad = len(z) == 1 and float(z[0, 0]) < BAD_SIGN
        except RuntimeError:  # inside vmap; the plain passes of the probe are enough to fail in
            bad = False
        if bad:
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


class Counting(_Fragile):
    """Raises, and notes each time in a file."""

    def fail(self) -> None:
        with Path(os.environ["PULLBACK_TEST_MARK"]).with_name("tries").open("a") as tries:
            tries.write("failed\n")
        raise ValueError("this code is one that I cannot draw")


def counting() -> Counting:
    return Counting()


def raising() -> Raising:
    return Raising()


def dying() -> Dying:
    return Dying()


def dying_once() -> DyingOnce:
    return DyingOnce()
