"""What works where torch has only some derivatives: the same metric by another route, or a refusal that names one."""

import re

import pytest
import torch
from odd_derivatives import ODD
from torch import nn
from torch.nn import functional

from pullback.distances import load_distance
from pullback.errors import PullbackError, SpecError
from pullback.metric import compute as pullback_metric
from pullback.metric import metric_at, strategy
from pullback.metric.memory import Fit
from pullback.metric.strategy import Strategy
from pullback.spec.metric import METHODS
from toy_generators import Smooth

MSE = load_distance("mse", device="cpu")
SSIM = load_distance("ssim", device="cpu")
TWICE = ("old", "lstm", "grid_sample")
"""Those whose backward pass can be differentiated."""
CODES = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


class Enlarged(nn.Module):
    """Images of 16 × 16, which SSIM needs."""

    latent_dim = 6

    def __init__(self, generator):
        super().__init__()
        self.generator = generator

    def forward(self, z):
        return functional.interpolate(self.generator(z), size=(16, 16))


def by_differences(generator, distance, z, step=1e-5):
    """H at each code from differences of gradients in float64, without the package."""
    generator, distance = generator.double(), distance.double()

    def at(code):
        with torch.no_grad():
            there = generator(code[None])

        def gradient(moved):
            moved = moved.detach().requires_grad_()
            return torch.autograd.grad(distance(there, generator(moved[None])).sum(), moved)[0]

        axes = step * torch.eye(len(code), dtype=torch.float64)
        rows = torch.stack([(gradient(code + axis) - gradient(code - axis)) / (2 * step) for axis in axes])
        return (rows + rows.T) / 2

    found = torch.stack([at(code) for code in z.double()])
    generator.float(), distance.float()
    return found


def made(name, distance):
    return ODD[name]().eval() if distance is MSE else Enlarged(ODD[name]().eval())


@pytest.mark.parametrize(
    ("distance", "method"),
    [*((MSE, method) for method in ("auto", *METHODS)), (SSIM, "auto"), (SSIM, "backprop"), (SSIM, "block_krylov")],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
@pytest.mark.parametrize("name", ODD)
def test_every_method_gives_the_metric_or_names_one_that_does(name, method, distance):
    generator = made(name, distance)
    impossible = name not in TWICE and method in ("backprop", "lanczos", "block_krylov")
    if name == "cdist" and distance is MSE and method != "backprop":
        impossible = False  # the tape differentiates this operation row by row
    if impossible:
        with pytest.raises(SpecError, match=rf"method: {method} cannot") as caught:
            metric_at(generator, distance, CODES, method=method)
        method = re.search(r"use auto or (\w+)", str(caught.value))[1]
    found = metric_at(generator, distance, CODES, method=method)
    wanted = by_differences(generator, distance, CODES)
    tolerance = 5e-3 if found.method == "finite_difference" else 1e-4
    torch.testing.assert_close(found.matrix, wanted, rtol=0, atol=tolerance * float(wanted.abs().max()))
    assert found.certificate.failures() == ["", "", ""]
    assert method in ("auto", found.method)


@pytest.mark.parametrize(
    ("name", "distance", "method", "route"),
    [
        ("old", MSE, "gauss_newton", "forward"),
        ("lstm", MSE, "gauss_newton", "forward"),
        ("cdist", MSE, "gauss_newton", "forward"),
        ("once", MSE, "finite_difference", "differences"),
        ("lstm", SSIM, "backprop", "second"),
        ("once", SSIM, "finite_difference", "differences"),
    ],
)
def test_auto_falls_back_and_reports_it(name, distance, method, route):
    found = metric_at(made(name, distance), distance, CODES[0])
    assert (found.method, found.route) == (method, route)
    assert bool(found.note) == (route == "differences")


def test_where_forward_mode_works_nothing_falls_back():
    found = metric_at(Smooth(), MSE, CODES[0])
    assert (found.method, found.route, found.note) == ("gauss_newton", "forward", "")


class _Counted(torch.autograd.Function):
    passes = 0

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        _Counted.passes += 1
        return gradient * ctx.saved_tensors[0].cos()


class _Once(nn.Module):
    latent_dim = 8

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3 * 16 * 16, generator=torch.Generator().manual_seed(0)) / 3)

    def forward(self, z):
        return torch.sigmoid(_Counted.apply(z) @ self.weight).view(-1, 3, 16, 16)


def test_features_are_pulled_back_one_by_one_for_all_codes_together():
    found = metric_at(_Once(), load_distance("mse"), torch.randn(4, 8, generator=torch.Generator().manual_seed(1)))
    assert bool(found.certificate.passed.all())
    assert _Counted.passes < 2 * 3 * 16 * 16  # one for each feature, and some for the checks


def test_a_few_features_are_pulled_back_one_by_one():
    class Few(nn.Module):
        latent_dim = 6

        def __init__(self):
            super().__init__()
            self.generator = ODD["once"]()

        def forward(self, z):
            return functional.adaptive_avg_pool2d(self.generator(z), 2)

    found = metric_at(Few(), MSE, CODES)
    assert (found.method, found.route) == ("gauss_newton", "rows")
    wanted = by_differences(Few(), MSE, CODES)
    torch.testing.assert_close(found.matrix, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("name", TWICE)
def test_a_jacobian_that_does_not_fit_is_avoided_by_reverse_passes_too(name):
    tight = Strategy("gauss_newton", "reverse", Fit(1, 4, 0, 0, whole=False))
    generator = made(name, MSE)
    found = metric_at(generator, MSE, CODES, strategy=tight)
    wanted = by_differences(generator, MSE, CODES)
    torch.testing.assert_close(found.matrix, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


def test_images_without_any_derivative_are_refused_by_every_method():
    class Detached(Smooth):
        def forward(self, z, condition=None):
            return super().forward(z).detach()

    for method in ("auto", *METHODS):
        with pytest.raises(PullbackError, match=r"no method can differentiate|without a derivative"):
            metric_at(Detached(), MSE, CODES[0], method=method)


def test_bfloat16_tangents_need_forward_mode():
    with pytest.raises(PullbackError, match=r"precision: the tangents.*use float32"):
        metric_at(made("old", MSE), MSE, CODES[0], precision="bfloat16")


def test_a_strategy_is_followed_whatever_memory_is_free(monkeypatch):
    monkeypatch.setattr(pullback_metric, "decide", lambda *arguments: pytest.fail("it was decided before"))
    monkeypatch.setattr(strategy, "usable_bytes", lambda device: 10**15)
    found = metric_at(Smooth(), MSE, CODES, strategy=Strategy("gauss_newton", "forward", Fit(2, 3, 0, 0, whole=False)))
    assert (found.method, found.batch, found.tangents, found.whole) == ("gauss_newton", 2, 3, False)
