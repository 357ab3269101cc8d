import numpy as np
import pytest
import torch

from pullback.distances import load_distance
from pullback.metric.gauss_newton import BLOCK, metric_from_jacobian
from pullback.metric.jacobian import by_forward_mode, derivative_at, feature_map, jacobian, pull_back
from pullback.metric.steps import directional_difference
from toy_generators import Classes, Linear, Smooth

MSE = load_distance("mse", device="cpu")


@pytest.mark.parametrize("way", [derivative_at, by_forward_mode])
@pytest.mark.parametrize("tangents", [1, 4, 5, 6, 100])
def test_the_columns_are_those_of_reverse_mode(tangents, way):
    features = feature_map(Smooth().double().requires_grad_(False), MSE)
    z = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = jacobian(way(features, z), z, tangents)
    assert rows.shape == (3, 6, 192)
    for code, found in zip(z, rows, strict=True):
        wanted = torch.autograd.functional.jacobian(lambda c: features(c[None])[0], code)
        torch.testing.assert_close(found, wanted.T, rtol=1e-12, atol=1e-15)


def test_what_is_pulled_back_is_the_transposed_jacobian_times_the_cotangent():
    features = feature_map(Classes().double(), MSE, torch.tensor([1, 2]))
    z = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    cotangents = torch.randn(2, 192, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    pulled, value = pull_back(features, z, cotangents)
    wanted = torch.einsum("bnm,bm->bn", jacobian(derivative_at(features, z), z, 6), cotangents)
    torch.testing.assert_close(pulled, wanted, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(value, features(z))


def test_classes_go_round_with_rounds_of_the_same_codes():
    features = feature_map(Classes(), MSE, torch.tensor([0, 2]))
    z = torch.randn(2, 6)
    torch.testing.assert_close(features(torch.cat([z, z])), torch.cat([features(z), features(z)]))


def test_the_directional_difference_is_the_jacobian_along_the_direction():
    features = feature_map(Smooth().double(), MSE)
    z, v = torch.randn(2, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    difference = directional_difference(features, z, v, torch.full((2,), 1e-5, dtype=torch.float64))
    wanted = torch.einsum("bn,bnm->bm", v, jacobian(derivative_at(features, z), z, 6))
    torch.testing.assert_close(difference, wanted, rtol=1e-6, atol=1e-9)


def test_a_condition_reaches_the_generator():
    z = torch.randn(2, 6, dtype=torch.float64)
    plain = jacobian(derivative_at(feature_map(Linear().double(), MSE), z), z, 6)
    found = jacobian(derivative_at(feature_map(Classes().double(), MSE, torch.tensor([2, 0])), z), z, 6)
    torch.testing.assert_close(found, torch.tensor([3.0, 1.0]).double()[:, None, None] * plain, rtol=1e-10, atol=1e-14)


def test_blocks_of_features_add_up_to_the_whole_product():
    rows = torch.randn(2, 3, 2 * BLOCK + 17, generator=torch.Generator().manual_seed(2))
    wanted = 2 * rows.double() @ rows.double().transpose(1, 2)
    found = metric_from_jacobian(rows)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_products_are_taken_in_float64():
    """A small eigenvalue survives beside one 1e9 times as large, which float32 products would bury."""
    large, small = torch.ones(1000), torch.tensor([3e-5, -3e-5]).repeat(500)
    rows = torch.stack([large + small, large])
    exact = rows.numpy().astype(np.float64)
    wanted = np.linalg.eigvalsh(2 * exact @ exact.T)
    found = np.linalg.eigvalsh(metric_from_jacobian(rows[None])[0])
    assert 0 < wanted[0] < 1e-8 * wanted[1]
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
