"""Laws that hold for every metric, on small generators in float64."""

import copy

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_generators import Turned
from scipy.stats import ortho_group

from pullback.distances import load_distance
from pullback.metric import metric_at
from toy_generators import Classes, Linear, Smooth

MSE = load_distance("mse", device="cpu")
SEEDS = st.integers(0, 2**31)


def codes(seed, count=5, n=6):
    return torch.randn(count, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(1, 6), st.integers(1, 8))
def test_how_much_is_computed_at_once_changes_nothing(seed, batch, tangents):
    z = codes(seed)
    one_by_one = metric_at(Smooth().double(), MSE, z, batch=1, tangents=1)
    together = metric_at(Smooth().double(), MSE, z, batch=batch, tangents=tangents)
    torch.testing.assert_close(together.matrix, one_by_one.matrix, rtol=1e-12, atol=1e-16)
    torch.testing.assert_close(together.eigenvalues, one_by_one.eigenvalues, rtol=1e-9, atol=1e-15)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 6), st.integers(1, 8))
def test_how_much_is_computed_at_once_changes_a_float32_metric_by_rounding_only(seed, batch, tangents):
    z = codes(seed).float()
    one_by_one = metric_at(Smooth(), MSE, z, batch=1, tangents=1).matrix
    together = metric_at(Smooth(), MSE, z, batch=batch, tangents=tangents).matrix
    assert float((together - one_by_one).norm() / one_by_one.norm()) < 1e-6


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.permutations(range(5)), st.integers(1, 5), st.integers(1, 3))
def test_neither_the_order_nor_the_company_of_a_code_matters(seed, order, count, batch):
    z = codes(seed)
    alone = torch.stack([metric_at(Smooth().double(), MSE, code).matrix for code in z])
    chosen = list(order)[:count]
    among = metric_at(Smooth().double(), MSE, z[chosen], batch=batch, tangents=4).matrix
    torch.testing.assert_close(among, alone[chosen], rtol=1e-12, atol=1e-16)


@settings(max_examples=10, deadline=None)
@given(SEEDS, st.lists(st.integers(0, 2), min_size=4, max_size=4), st.integers(1, 4))
def test_classes_go_with_their_codes_through_the_batches(seed, classes, batch):
    z = codes(seed, 4)
    found = metric_at(Classes().double(), MSE, z, condition=classes, batch=batch, tangents=3).matrix
    plain = metric_at(Linear().double(), MSE, z).matrix
    factors = torch.tensor([(1.0 + index) ** 2 for index in classes], dtype=torch.float64)
    torch.testing.assert_close(found, factors[:, None, None] * plain, rtol=1e-10, atol=1e-15)


@settings(max_examples=20, deadline=None)
@given(SEEDS)
def test_turning_the_latent_space_turns_the_metric(seed):
    rotation = torch.from_numpy(ortho_group.rvs(6, random_state=seed))
    z = codes(seed, 2)
    turned = metric_at(Turned(Smooth().double(), rotation), MSE, z).matrix
    straight = metric_at(Smooth().double(), MSE, z @ rotation.T).matrix
    torch.testing.assert_close(turned, rotation.T @ straight @ rotation, rtol=1e-9, atol=1e-13)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.floats(0.1, 5))
def test_the_metric_is_positive_semi_definite_and_symmetric(seed, scale):
    metric = metric_at(Smooth(seed=seed % 100), MSE, scale * codes(seed).float(), tangents=4)
    assert torch.equal(metric.matrix, metric.matrix.transpose(1, 2))
    least, largest = metric.eigenvalues[:, -1], metric.eigenvalues[:, 0]
    assert bool((least >= -1e-12 * largest).all())
    pushed = torch.einsum("bi,bij,bj->b", codes(seed), metric.matrix, codes(seed))
    assert bool((pushed >= 0).all())


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 2), st.integers(0, 50))
def test_scaling_the_change_of_the_images_scales_the_metric_by_the_square(factor, seed):
    plain = Linear(seed=seed).double().requires_grad_(False)
    scaled = copy.deepcopy(plain)
    scaled.matrix *= factor
    z = codes(seed, 1)
    wanted = factor**2 * metric_at(plain, MSE, z).matrix
    torch.testing.assert_close(metric_at(scaled, MSE, z).matrix, wanted, rtol=1e-10, atol=0)


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.integers(1, 6))
def test_the_metric_is_the_squared_rate_of_change_along_every_direction(seed, count):
    """vᵀHv = 2 ‖Δr‖² / ε², with Δr the change of the residual over a small step ε."""
    generator, step = Smooth().double(), 1e-5
    z, v = codes(seed, count), codes(seed + 1, count)
    matrix = metric_at(generator, MSE, z).matrix
    with torch.no_grad():
        change = MSE.residual(generator(z + step * v)) - MSE.residual(generator(z - step * v))
    rate = 2 * (change / (2 * step)).square().sum(dim=1)
    np.testing.assert_allclose(torch.einsum("bi,bij,bj->b", v, matrix, v), rate, rtol=1e-6)
