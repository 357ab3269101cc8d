"""The paper's own method against Hessians by torch and against 2JᵀJ."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pullback.distances import load_distance
from pullback.metric.backprop import backprop_metric
from pullback.metric.gauss_newton import metric_from_jacobian
from pullback.metric.jacobian import by_forward_mode, feature_map, jacobian
from toy_generators import Classes, Smooth

MSE = load_distance("mse", device="cpu").double()
SSIM = load_distance("ssim", device="cpu").double()


def frozen(generator):
    return generator.double().requires_grad_(False)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_jacobian(generator, distance, z, condition=None):
    """2JᵀJ [n, n] in float64."""
    features = feature_map(generator, distance, condition)
    return metric_from_jacobian(jacobian(by_forward_mode(features, z[None]), z[None], 16))[0]


@pytest.mark.parametrize("distance", [MSE, SSIM])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.0, 0.1, 3.0]))
def test_it_is_the_hessian_of_the_squared_distance(distance, seed, n, length):
    generator, z = frozen(Smooth(n, size=12)), length * draw(n, seed=seed)
    reference = generator(z[None])
    wanted = torch.func.hessian(lambda code: distance(reference, generator(code[None])).sum())(z)
    found = backprop_metric(generator, distance, z)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11 * float(wanted.abs().max()))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9))
def test_it_is_twice_the_gram_matrix_of_the_jacobian(seed, n):
    generator, z = frozen(Smooth(n)), draw(n, seed=seed)
    wanted = by_jacobian(generator, MSE, z)
    found = backprop_metric(generator, MSE, z)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12 * float(wanted.abs().max()))


@pytest.mark.parametrize(("index", "factor"), [(0, 1), (2, 9)])
def test_the_class_reaches_the_generator(index, factor):
    generator, z = frozen(Classes()), draw(6)
    plain = backprop_metric(generator, MSE, z, torch.tensor([0]))
    found = backprop_metric(generator, MSE, z, torch.tensor([index]))
    torch.testing.assert_close(found, factor * plain, rtol=1e-10, atol=0)


def test_every_coordinate_is_one_backward_pass_of_one_code():
    """It is what speed is measured against: nothing of it may be batched."""
    passes, codes = [], []

    class Counting(Smooth):
        def forward(self, z, condition=None):
            codes.append(len(z))
            if z.requires_grad:
                z.register_hook(lambda gradient: passes.append(len(gradient)))
            return super().forward(z)

    backprop_metric(frozen(Counting()), MSE, draw(6))
    assert codes == [1, 1]
    assert passes == [1] * 7


@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.enable_grad])
def test_it_works_without_gradients_around_it_and_leaves_none(surrounding):
    z = draw(6).requires_grad_()
    with surrounding():
        found = backprop_metric(frozen(Smooth()), MSE, z)
    assert not found.requires_grad
    assert z.grad is None
    torch.testing.assert_close(found, by_jacobian(frozen(Smooth()), MSE, z.detach()), rtol=1e-9, atol=1e-15)


@pytest.mark.weights
def test_on_trained_faces_under_lpips_it_is_the_hessian_and_twice_the_gram_matrix(faces, lpips_alex):
    z = torch.randn(100, generator=torch.Generator().manual_seed(0))
    found = backprop_metric(faces, lpips_alex, z).double()
    generator, distance = copy.deepcopy(faces).double(), copy.deepcopy(lpips_alex).double()
    with torch.no_grad():
        reference = generator(z.double()[None])

    def squared(code):
        return distance(reference, generator(code[None])).sum()

    rows = torch.tensor([3, 71])
    gradient = torch.func.grad(squared)
    wanted = torch.stack(
        [torch.func.jvp(gradient, (z.double(),), (axis,))[1] for axis in torch.eye(100, dtype=torch.float64)[rows]]
    )
    assert float((found[rows] - wanted).norm() / wanted.norm()) < 1e-5
    gram = by_jacobian(generator, distance, z.double())
    assert float((found - gram).norm() / gram.norm()) < 1e-5
    assert float((gram[rows] - wanted).norm() / wanted.norm()) < 1e-9
