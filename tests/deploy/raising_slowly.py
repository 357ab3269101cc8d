"""A generator that raises in a worker at some codes, and is slow enough to be killed at the others."""

import time

from fragile_generators import Raising
from torch import Tensor


class RaisingSlowly(Raising):
    """As `Raising`, and every forward pass sleeps."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        time.sleep(0.05)
        return super().forward(z)


def generator() -> RaisingSlowly:
    return RaisingSlowly()
