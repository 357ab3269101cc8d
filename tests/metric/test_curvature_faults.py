"""Distances whose second derivative is not that of their values are refused; right ones pass at any scale."""

import pytest
import torch
from planted_faults import failures, smooth

from pullback.distances.base import ScalarDistance

N = 40


class Absolute(ScalarDistance):
    """The mean absolute difference, which has a kink where the metric is taken."""

    name = "l1"

    def between(self, x, y):
        return (x - y).abs().mean(dim=(1, 2, 3))


class Fourth(ScalarDistance):
    """A distance whose metric is zero, and rightly so."""

    name = "fourth"

    def between(self, x, y):
        return ((x - y) ** 4).mean(dim=(1, 2, 3))


class OnDetached(ScalarDistance):
    name = "detached"

    def between(self, x, y):
        return ((x - y).detach() ** 2).mean(dim=(1, 2, 3)) + 0 * ((x - y) ** 2).sum(dim=(1, 2, 3))


class WrongSecond(ScalarDistance):
    """Its first derivative is right, its second 20 per cent too small."""

    name = "wrong second"

    def between(self, x, y):
        return _Square.apply(x - y).mean(dim=(1, 2, 3))


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        return 2 * (0.8 * x + 0.2 * x.detach()) * gradient


class ScaledSquares(ScalarDistance):
    name = "scaled"

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def between(self, x, y):
        return self.factor * ((x - y) ** 2).mean(dim=(1, 2, 3))


@pytest.mark.parametrize("method", ["backprop", "block_krylov"])
@pytest.mark.parametrize("distance", [Absolute(), OnDetached(), WrongSecond()])
def test_a_distance_with_another_curvature_than_its_derivatives_say_is_refused(distance, method):
    assert failures(smooth(N), distance, method) != [""]


@pytest.mark.parametrize("method", ["backprop", "block_krylov", "lanczos"])
@pytest.mark.parametrize("distance", [*map(ScaledSquares, (1e-12, 1e-6, 1, 1e6, 1e12))])
def test_a_right_curvature_passes_whatever_its_scale(distance, method):
    assert failures(smooth(6), distance, method) == [""]


def test_a_curvature_of_zero_passes_where_the_distance_is_of_higher_order():
    assert failures(smooth(6), Fourth(), "backprop") == [""]
