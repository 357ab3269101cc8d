"""The products with the metric against Hessians of d² by torch, in float64, and against an outside library."""

import pytest
import torch
from curvlinops import GGNLinearOperator
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_generators import Constant
from torch import nn

from pullback.distances import ScalarDistance, load_distance
from pullback.metric.backprop import backprop_metric
from pullback.metric.forward.linearize import Linearization
from pullback.metric.jacobian import feature_map
from pullback.metric.products import (
    difference_product,
    double_backward_product,
    gauss_newton_product,
    squared_map,
)
from toy_generators import Classes, Linear, Smooth

MSE = load_distance("mse", device="cpu").double()
SSIM = load_distance("ssim", device="cpu").double()


def frozen(generator):
    return generator.double().requires_grad_(False)


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def hessian(generator, distance, z, condition=None):
    """∂²/∂z² D²(G(z0), G(z)) at z0, by definition."""
    classes = () if condition is None else (condition,)
    reference = generator(z[None], *classes)
    return torch.func.hessian(lambda code: distance(reference, generator(code[None], *classes)).sum())(z)


def gauss_newton(generator, distance, z, condition=None, **options):
    return gauss_newton_product(feature_map(generator, distance, condition), z, **options)


def double_backward(generator, distance, z, condition=None, **options):
    return double_backward_product(squared_map(generator, distance, z, condition), z, **options)


def differences(generator, distance, z, condition=None, **options):
    return difference_product(squared_map(generator, distance, z, condition), z, **options)


EXACT = [(gauss_newton, MSE), (double_backward, MSE), (double_backward, SSIM)]
EVERY = [*EXACT, (differences, MSE), (differences, SSIM)]
MAKERS = [gauss_newton, double_backward, differences]


@pytest.mark.parametrize(("make", "distance"), EXACT)
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 12), st.sampled_from([0.0, 0.1, 3.0]))
def test_exact_products_are_those_of_the_hessian(make, distance, seed, n, vectors, length):
    generator, z = frozen(Smooth(n, size=12)), length * draw(n, seed=seed)
    directions = draw(vectors, n, seed=seed + 1)
    found = make(generator, distance, z)(directions)
    wanted = directions @ hessian(generator, distance, z)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11 * float(wanted.abs().max()))


@pytest.mark.parametrize("distance", [MSE, SSIM])
@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 9), st.sampled_from([0.0, 1e-6, 0.3, 3.0]))
def test_differences_of_gradients_come_near_the_hessian_also_at_the_origin(distance, seed, n, length):
    """At the whole of it: Wang & Ponce's differences give half. And at the origin, where their step is zero.

    The error is the third derivative's, which codes of length 3 make large.
    """
    generator, z = frozen(Smooth(n, size=12)), length * draw(n, seed=seed)
    directions = draw(3, n, seed=seed + 1)
    found = differences(generator, distance, z)(directions)
    wanted = directions @ hessian(generator, distance, z)
    assert float((found - wanted).norm() / wanted.norm()) < 1e-3


def test_differences_of_gradients_find_the_whole_eigenvalues_of_a_known_metric():
    """H = 2 AᵀA / m at every code: no step has an error but round-off, and none has a factor."""
    generator = frozen(Linear())
    exact = 2 * generator.matrix.T @ generator.matrix / len(generator.matrix)
    for z in (torch.zeros(6).double(), draw(6)):
        found = differences(generator, MSE, z, relative_step=0.5)(torch.eye(6).double())
        torch.testing.assert_close(torch.linalg.eigvalsh(found), torch.linalg.eigvalsh(exact), rtol=1e-9, atol=0)


def test_the_error_of_differences_falls_with_the_square_of_the_step():
    generator, z, directions = frozen(Smooth()), draw(6), draw(4, 6, seed=1)
    exact = gauss_newton(generator, MSE, z)(directions)
    coarse, fine = (
        float((differences(generator, MSE, z, relative_step=step)(directions) - exact).norm()) for step in (0.1, 0.01)
    )
    assert coarse / fine == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize(("make", "distance"), EVERY)
def test_products_are_linear_whatever_the_length_of_a_vector(make, distance):
    """The step of a difference does not depend on it either; and a zero vector gives zero, not NaN."""
    product, directions = make(frozen(Smooth(size=12)), distance, draw(6)), draw(3, 6, seed=1)
    unit = product(directions)
    torch.testing.assert_close(product(1e6 * directions), 1e6 * unit, rtol=1e-6, atol=1e-6 * float(unit.abs().max()))
    torch.testing.assert_close(product(1e-6 * directions), 1e-6 * unit, rtol=1e-6, atol=0)
    assert torch.equal(product(0 * directions), torch.zeros(3, 6).double())


@pytest.mark.parametrize(("make", "distance"), EVERY)
@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
def test_how_many_vectors_go_at_once_changes_nothing(make, distance, chunk):
    generator, z, directions = frozen(Smooth(size=12)), draw(6), draw(7, 6, seed=1)
    one_by_one = torch.cat([make(generator, distance, z)(row[None]) for row in directions])
    found = make(generator, distance, z, chunk=chunk)(directions)
    torch.testing.assert_close(found, one_by_one, rtol=1e-6, atol=1e-9 * float(one_by_one.abs().max()))


@pytest.mark.parametrize("make", MAKERS)
def test_no_more_vectors_than_a_chunk_go_through_the_network(make):
    seen = []

    class Counting(Smooth):
        def forward(self, z, condition=None):
            seen.append(len(z))
            return super().forward(z)

    make(frozen(Counting()), MSE, draw(6), chunk=2)(draw(7, 6, seed=1))
    assert max(seen) == {gauss_newton: 1, double_backward: 2, differences: 4}[make]


@pytest.mark.parametrize("make", MAKERS)
def test_a_chunk_without_a_vector_is_refused(make):
    with pytest.raises(ValueError, match="at least one"):
        make(frozen(Smooth()), MSE, draw(6), chunk=0)


@pytest.mark.parametrize(("make", "distance"), EVERY)
def test_one_product_serves_many_calls_with_any_number_of_vectors(make, distance):
    product = make(frozen(Smooth(size=12)), distance, draw(6))
    directions = draw(5, 6, seed=1)
    whole = product(directions)
    for count in (2, 5, 1, 2):
        torch.testing.assert_close(product(directions[:count]), whole[:count], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("make", "distance"), EVERY)
@pytest.mark.parametrize("index", [0, 2])
def test_every_copy_of_the_code_has_the_code_s_class(make, distance, index):
    generator, z, condition = frozen(Classes(size=12)), draw(6), torch.tensor([index])
    directions = draw(4, 6, seed=1)
    wanted = directions @ hessian(generator, distance, z, condition)
    found = make(generator, distance, z, condition)(directions)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("make", MAKERS)
def test_a_generator_that_ignores_its_code_gives_zero(make):
    product = make(frozen(Constant()), MSE, draw(6))
    assert torch.equal(product(draw(3, 6, seed=1)), torch.zeros(3, 6).double())


def test_a_recorded_forward_mode_gives_the_product_of_torch_s_own():
    generator, z, directions = frozen(Smooth()), draw(6), draw(4, 6, seed=1)
    push = Linearization(feature_map(generator, MSE), z[None]).push
    recorded = gauss_newton(generator, MSE, z, push=lambda vectors: push(vectors[:, None])[:, 0])
    torch.testing.assert_close(recorded(directions), gauss_newton(generator, MSE, z)(directions), rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("surrounding", [torch.no_grad, torch.enable_grad])
def test_products_leave_no_graph_and_need_none_around_them(make, surrounding):
    z = draw(6).requires_grad_()
    with surrounding():
        found = make(frozen(Smooth()), MSE, z)(draw(2, 6, seed=1))
    assert not found.requires_grad
    assert bool((found != 0).all())
    assert z.grad is None


@pytest.mark.parametrize("make", MAKERS)
def test_products_keep_the_dtype_of_the_code(make):
    z, directions = draw(6), draw(3, 6, seed=1)
    exact = make(frozen(Smooth()), MSE, z)(directions)
    found = make(Smooth().requires_grad_(False), load_distance("mse", device="cpu"), z.float())(directions.float())
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < (1e-3 if make is differences else 1e-6)


class _Cubes(ScalarDistance):
    """A distance by an operator whose derivative torch cannot differentiate, `_cdist_backward`."""

    name = "cubes"

    def between(self, x, y):
        moved = (1 + x - y).flatten(1)
        return torch.cdist(moved[:, None], 0 * moved[:, None], p=3).flatten() ** 3


class _Squares(ScalarDistance):
    """MSE by a Function whose second derivative its author forgot."""

    name = "squares"

    def between(self, x, y):
        return _Squared.apply((x - y).flatten(1)).mean(dim=1)


class _Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return 2 * ctx.saved_tensors[0] * gradient


@pytest.mark.parametrize(("distance", "message"), [(_Cubes(), "not implemented"), (_Squares(), "once_differentiable")])
def test_a_distance_without_a_second_derivative_is_an_error_and_not_a_zero(distance, message):
    product = double_backward(frozen(Smooth()), distance, draw(6))
    with pytest.raises(RuntimeError, match=message):
        product(draw(2, 6, seed=1))
    with pytest.raises(RuntimeError, match=message):
        backprop_metric(frozen(Smooth()), distance, draw(6))


def test_differences_of_gradients_do_without_a_second_derivative():
    generator, z, directions = frozen(Smooth()), draw(6), draw(2, 6, seed=1)
    found = differences(generator, _Squares(), z)(directions)
    torch.testing.assert_close(found, differences(generator, MSE, z)(directions), rtol=1e-9, atol=0)


def test_the_squared_distance_is_zero_at_its_own_code_and_the_distance_elsewhere():
    generator, z, codes = frozen(Smooth(size=12)), draw(6), draw(3, 6, seed=1)
    for distance in (MSE, SSIM):
        squared = squared_map(generator, distance, z)
        assert float(squared(z[None])) == pytest.approx(0, abs=1e-15)
        torch.testing.assert_close(squared(codes), distance(generator(z[None]), generator(codes)))


class _CodeAsWeights(nn.Module):
    """A network whose only weights are the code: its curvature at them is the metric."""

    def __init__(self, features, z):
        super().__init__()
        self.features = features
        self.code = nn.Parameter(z.clone())

    def forward(self, one):
        return one * self.features(self.code[None])


def test_curvlinops_multiplies_by_the_same_gauss_newton_matrix():
    features, z, directions = feature_map(frozen(Smooth()), MSE), draw(6), draw(4, 6, seed=1)
    model, one = _CodeAsWeights(features, z), torch.ones(1, 1, dtype=torch.float64)
    data = [(one, model(one).detach())]
    operator = GGNLinearOperator(model, nn.MSELoss(reduction="sum"), list(model.parameters()), data)
    found = gauss_newton_product(features, z)(directions)
    torch.testing.assert_close(found, (operator @ directions.T).T, rtol=1e-10, atol=0)
