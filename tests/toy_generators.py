"""Small generators with known metrics, registered nowhere: jobs name them `toy_generators:factory`."""

import os
import time

import torch
from torch import Tensor, nn

from pullback.generators import Generator


class Linear(Generator):
    """Images that are linear in the code: under MSE, H = 2 AᵀA / m in closed form, at every code."""

    name = "linear"

    def __init__(self, latent_dim: int = 6, size: int = 8, seed: int = 0) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.size = size
        stream = torch.Generator().manual_seed(seed)
        self.matrix = nn.Parameter(
            0.02 * (6 / latent_dim) ** 0.5 * torch.randn(3 * size * size, latent_dim, generator=stream)
        )

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return 0.5 + (z @ self.matrix.T).view(-1, 3, self.size, self.size)


class Smooth(Linear):
    """As `Linear`, through a sigmoid: the metric depends on the code, and is differentiable everywhere."""

    name = "smooth"

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.sigmoid(20 * (super().forward(z) - 0.5))


class Classes(Linear):
    """As `Linear`, scaled by 1 + the class index: H is that of class 0 times (1 + class)²."""

    name = "classes"
    classes = ("one", "two", "three")

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        assert condition is not None
        return 0.5 + (1 + condition.to(z)).view(-1, 1, 1, 1) * (super().forward(z) - 0.5)


class Slow(Smooth):
    """As `Smooth`, and slow enough to be interrupted: every forward pass sleeps."""

    name = "slow"
    seconds = 0.05

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        time.sleep(self.seconds)
        return super().forward(z)


class Sleepy(Slow):
    """Sleeps so long that what else a sample costs matters little, even on a busy machine; not while it is planned.

    The variable PULLBACK_TEST_PLANNER names the process that plans: measuring takes a hundred passes.
    """

    seconds = 0.15

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        if os.environ.get("PULLBACK_TEST_PLANNER") == str(os.getpid()):
            return Smooth.forward(self, z)
        return super().forward(z)


def slow() -> Slow:
    return Slow()


def sleepy() -> Sleepy:
    return Sleepy()


def linear() -> Linear:
    return Linear()


def smooth() -> Smooth:
    return Smooth()


def smooth_of_twelve() -> Smooth:
    return Smooth(latent_dim=12)


def classes() -> Classes:
    return Classes()
