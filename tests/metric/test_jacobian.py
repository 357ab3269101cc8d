import numpy as np
import pytest
import torch

from pullback.distances import load_distance
from pullback.metric import metric_at
from pullback.metric.gauss_newton import BLOCK, metric_from_jacobian
from pullback.metric.jacobian import directional_difference, exact_arithmetic, feature_map, jacobian
from toy_generators import Classes, Linear, Smooth

MSE = load_distance("mse", device="cpu")


@pytest.mark.parametrize("tangents", [1, 4, 5, 6, 100])
def test_the_columns_are_those_of_reverse_mode(tangents):
    features = feature_map(Smooth().double().requires_grad_(False), MSE)
    z = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = jacobian(features, z, tangents)
    assert rows.shape == (3, 6, 192)
    for code, found in zip(z, rows, strict=True):
        wanted = torch.autograd.functional.jacobian(lambda c: features(c[None])[0], code)
        torch.testing.assert_close(found, wanted.T, rtol=1e-12, atol=1e-15)


def test_the_directional_difference_is_the_jacobian_along_the_direction():
    features = feature_map(Smooth().double(), MSE)
    z, v = torch.randn(2, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    difference = directional_difference(features, z, v, torch.full((2, 1), 1e-5, dtype=torch.float64))
    wanted = torch.einsum("bn,bnm->bm", v, jacobian(features, z, 6))
    torch.testing.assert_close(difference, wanted, rtol=1e-6, atol=1e-9)


def test_a_condition_reaches_the_generator():
    z = torch.randn(2, 6, dtype=torch.float64)
    plain = jacobian(feature_map(Linear().double(), MSE), z, 6)
    found = jacobian(feature_map(Classes().double(), MSE, torch.tensor([2, 0])), z, 6)
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


class _Precision:
    """The four readings of torch's switches for reduced precision; its older two raise if the newer were used."""

    @staticmethod
    def read():
        readings = [torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision]
        for older in (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32):
            try:
                readings.append(older())
            except RuntimeError:
                readings.append("mixed")
        return readings


@pytest.fixture
def as_torch_starts():
    """Puts torch's switches back to what they are at its start."""
    yield
    torch.backends.fp32_precision = "none"
    torch.backends.cuda.matmul.fp32_precision = "none"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True


def _older_high():
    torch.set_float32_matmul_precision("high")


def _older_medium():
    torch.set_float32_matmul_precision("medium")


def _older_both():
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True


def _newer():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.cudnn.conv.fp32_precision = "tf32"


def _newest():
    torch.backends.fp32_precision = "tf32"


SETTINGS = [lambda: None, _older_high, _older_medium, _older_both, _newer, _newest]


@pytest.mark.parametrize("choose", SETTINGS)
def test_products_are_exact_within_and_as_the_caller_chose_afterwards(as_torch_starts, choose):
    choose()
    before = _Precision.read()
    with exact_arithmetic():
        assert torch.backends.cuda.matmul.fp32_precision != "tf32"
        assert torch.backends.cudnn.conv.fp32_precision != "tf32"
    assert _Precision.read() == before


@pytest.mark.parametrize("choose", SETTINGS[:4])
def test_who_uses_the_older_switches_can_read_them_within(as_torch_starts, choose):
    choose()
    with exact_arithmetic():
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cuda.matmul.allow_tf32 is False
        assert torch.backends.cudnn.allow_tf32 is False


@pytest.mark.parametrize("choose", SETTINGS)
def test_an_error_within_leaves_the_callers_choice_too(as_torch_starts, choose):
    choose()
    before = _Precision.read()
    with pytest.raises(ZeroDivisionError), exact_arithmetic():
        _ = 1 / 0
    assert _Precision.read() == before


@pytest.mark.parametrize("choose", SETTINGS)
def test_a_metric_can_be_had_whatever_the_caller_chose(as_torch_starts, choose):
    z = torch.randn(6, generator=torch.Generator().manual_seed(3))
    wanted = metric_at(Smooth(), MSE, z).matrix
    choose()
    torch.testing.assert_close(metric_at(Smooth(), MSE, z).matrix, wanted, rtol=1e-6, atol=0)
