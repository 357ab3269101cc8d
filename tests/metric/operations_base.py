"""Generators of a single operation, and what the derivative of each should be."""

import functools

import torch
from torch import nn

from pullback import metric_at
from pullback.errors import PullbackError
from pullback.metric.memory import Fit
from pullback.metric.strategy import Strategy

CODE = 5


@functools.cache
def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + sum(shape)))


def constant(x, *shape):
    """Fixed normal numbers of a shape, in the dtype of x."""
    return draw(*shape).to(x.dtype)


class layer:  # noqa: N801 - it reads as a function in the tables
    """An operation with weights: `run(module, x)` with a module that is made once and drawn from a fixed seed."""

    def __init__(self, make, run=lambda made, x: made(x)):
        self.make, self.run = make, run
        self.made = {}

    def __call__(self, x):
        if x.dtype not in self.made:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(11)
                made = self.make().double()
                for parameter in made.parameters():
                    parameter.add_(torch.rand_like(parameter) * 0.2)
            self.made[x.dtype] = made.eval().requires_grad_(False).to(x.dtype)
        return self.run(self.made[x.dtype], x)


FORWARD = Strategy("gauss_newton", "forward", Fit(batch=3, tangents=CODE, bytes=0, available=0))
"""What is decided for nearly every operation. Measuring memory to decide it takes ten times as long as a metric."""


def metric_of_single(generator, distance, z, strategy=FORWARD):
    """The metric of a generator of one operation; the strategy is decided where the usual one fails."""
    try:
        return metric_at(generator, distance, z, strategy=strategy)
    except PullbackError:
        return metric_at(generator, distance, z)


class Single(nn.Module):
    """A generator of images [batch, 3, 4, 4] whose only uncommon part is one operation.

    Args:
        operation: x [batch, 4, 4, 4] in (-1, 1) to a tensor [batch, ...].
        before: x as it comes from the code to x as the operation gets it: in another layout, for example.
    """

    latent_dim = CODE

    def __init__(self, operation, before=lambda x: x):
        super().__init__()
        self.operation, self.before = operation, before
        self.dtype = nn.Parameter(torch.zeros(()), requires_grad=False)  # what the metric makes codes like

    def forward(self, z):
        x = torch.tanh(z @ constant(z, CODE, 64) * 0.6 + constant(z, 64) * 0.3).view(len(z), 4, 4, 4)
        y = self.operation(self.before(x)).reshape(len(z), -1)
        mixed = y @ constant(y, y.shape[1], 48) / y.shape[1] ** 0.5
        return torch.sigmoid(mixed).view(-1, 3, 4, 4)


def codes(batch, dtype=torch.float32):
    return draw(batch, CODE, seed=3).to(dtype)
