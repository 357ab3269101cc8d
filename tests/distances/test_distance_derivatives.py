"""Derivatives of every distance: they agree with differences, in every mode, and exist where images are equal."""

import copy

import pytest
import torch
from small_distances import DISTANCES, RESIDUAL, SCALAR, some_images
from torch.func import hessian, jvp, vjp, vmap

from pullback.distances import GeneratorLayer
from toy_generators import Smooth


def exact(distance):
    return copy.deepcopy(distance).double()


def in_doubles(seed, **sizes):
    # away from 0 and 1, where clamping has a kink
    return 0.1 + 0.8 * some_images(seed, **sizes).double()


@pytest.mark.parametrize("distance", RESIDUAL.values(), ids=RESIDUAL)
def test_a_residuals_derivative_is_the_limit_of_differences(distance):
    distance, x = exact(distance), in_doubles(1)
    direction = in_doubles(2) - in_doubles(3)
    step = 1e-6
    difference = (distance.residual(x + step * direction) - distance.residual(x - step * direction)) / (2 * step)
    _, pushed = jvp(distance.residual, (x,), (direction,))
    assert float(pushed.norm()) > 1e-3
    assert torch.allclose(pushed, difference, atol=1e-7)


@pytest.mark.parametrize("distance", RESIDUAL.values(), ids=RESIDUAL)
def test_forward_and_reverse_mode_agree(distance):
    distance, x = exact(distance), in_doubles(1)
    direction = in_doubles(2)
    value, pushed = jvp(distance.residual, (x,), (direction,))
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (pulled,) = vjp(distance.residual, x)[1](weights)
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad((distance.residual(leaf) * weights).sum(), leaf)
    assert torch.allclose((pushed * weights).sum(), (pulled * direction).sum())
    assert torch.allclose(pulled, plain)


@pytest.mark.parametrize("distance", RESIDUAL.values(), ids=RESIDUAL)
def test_many_tangents_at_once_are_each_of_them_alone(distance):
    x = some_images(1)
    tangents = torch.stack([some_images(seed) - 0.5 for seed in (2, 3, 4)])
    together = vmap(lambda tangent: jvp(distance.residual, (x,), (tangent,))[1])(tangents)
    alone = torch.stack([jvp(distance.residual, (x,), (tangent,))[1] for tangent in tangents])
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
def test_the_derivative_at_identical_images_is_zero(distance):
    for images in (some_images(1), torch.zeros(2, 3, 6, 6), torch.full((2, 3, 6, 6), 0.5), torch.ones(2, 3, 6, 6)):
        x = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(distance(x, images).sum(), x)
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=DISTANCES)
@pytest.mark.parametrize("shade", [None, 0.0, 0.5, 1.0])
def test_the_second_derivative_at_identical_images_is_finite(distance, shade):
    images = some_images(1, batch=1) if shade is None else torch.full((1, 3, 6, 6), shade)

    def gradient(x):
        return vjp(lambda y: distance(y, images), x)[1](torch.ones(1))[0]

    direction = some_images(2, batch=1) - 0.5
    by_forward = jvp(gradient, (images,), (direction,))[1]
    x = images.clone().requires_grad_()
    (first,) = torch.autograd.grad(distance(x, images).sum(), x, create_graph=True)
    (by_reverse,) = torch.autograd.grad((first * direction).sum(), x)
    assert bool(by_forward.isfinite().all())
    assert torch.allclose(by_forward, by_reverse, atol=1e-4 * max(1.0, float(by_reverse.abs().max())))


@pytest.mark.parametrize("distance", RESIDUAL.values(), ids=RESIDUAL)
def test_the_hessian_of_a_residual_distance_at_a_code_is_twice_the_jacobians_square(distance):
    generator, distance = Smooth().double().requires_grad_(False), exact(distance)
    z = torch.randn(1, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    rows = torch.func.jacfwd(lambda code: distance.residual_at(generator, code[None])[0])(z[0])
    found = hessian(lambda code: distance.squared_at(generator, z, code[None])[0])(z[0])
    assert float(found.abs().max()) > 1e-6
    assert torch.allclose(found, 2 * rows.T @ rows, rtol=1e-8, atol=1e-12)


def test_the_hessian_of_a_generators_layer_is_twice_the_jacobians_square():
    generator = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3)).double()
    distance = GeneratorLayer("1")
    z = torch.randn(1, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = hessian(lambda code: distance.squared_at(generator, z, code[None])[0])(z[0])
    rows = torch.func.jacfwd(lambda code: torch.tanh(generator[0](code)))(z[0])
    assert torch.allclose(found, 2 * rows.T @ rows)


@pytest.mark.parametrize("distance", SCALAR.values(), ids=SCALAR)
def test_the_hessian_of_a_scalar_distance_at_a_code_is_the_limit_of_differences(distance):
    generator, distance = Smooth().double().requires_grad_(False), exact(distance)
    z = torch.randn(1, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = hessian(lambda code: distance.squared_at(generator, z, code[None])[0])(z[0])
    step = 1e-4  # D² is zero at z with no slope, so D²(z, z ± εv) / ε² is vᵀHv / 2
    for v in torch.eye(6, dtype=torch.float64):
        both = sum(float(distance.squared_at(generator, z, z + side * step * v)) for side in (1, -1))
        assert both / step**2 == pytest.approx(float(v @ found @ v), rel=1e-5)
    assert float(torch.linalg.eigvalsh(found)[0]) >= -1e-12
