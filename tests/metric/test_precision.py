"""The arithmetic of derivatives: torch's switches, the errors that are measured, and what a device does not have."""

import pytest
import torch
from odd_generators import OnlySingle

from pullback.distances import load_distance
from pullback.errors import PullbackError
from pullback.metric import metric_at
from pullback.metric.checks import limits_of
from pullback.metric.precision import arithmetic, in_double, relative_error
from toy_generators import Smooth

MSE = load_distance("mse", device="cpu")


@pytest.mark.weights
def test_each_arithmetic_has_its_own_error_and_it_is_what_the_eigenvalues_show(faces, lpips_alex):
    z = torch.randn(100, generator=torch.Generator().manual_seed(3))
    exact = metric_at(faces, lpips_alex, z, precision="float64")
    single = metric_at(faces, lpips_alex, z)
    half = metric_at(faces, lpips_alex, z, precision="bfloat16")
    errors = [float(metric.certificate.precision_error) for metric in (exact, single, half)]
    assert errors[0] < 1e-4
    assert errors[1] < 0.01, "the bound includes the error of a difference in float32"
    assert 1e-3 < errors[2] < 0.05
    assert exact.matrix.dtype == single.matrix.dtype == half.matrix.dtype == torch.float64
    found = [float((metric.matrix - exact.matrix).norm() / exact.matrix.norm()) for metric in (single, half)]
    assert found[0] < 1e-5
    assert 1e-4 < found[1] < 0.05
    assert [bool(metric.certificate.passed) for metric in (exact, single, half)] == [True, True, True]


def test_float64_of_a_float32_generator_is_the_metric_of_its_double():
    generator, z = Smooth(), torch.randn(6, generator=torch.Generator().manual_seed(4))
    found = metric_at(generator, MSE, z, precision="float64").matrix
    wanted = metric_at(in_double(generator), in_double(MSE), z.double(), precision="float64").matrix
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)
    assert next(generator.parameters()).dtype == torch.float32, "the user's own module stays as it is"


def test_an_arithmetic_that_the_device_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(PullbackError, match=r"no tf32.*float32, float64 or bfloat16"):
        metric_at(Smooth(), MSE, torch.zeros(6), precision="tf32")


def test_a_network_that_insists_on_float32_is_compared_in_float32_and_passes():
    certificate = metric_at(OnlySingle(), MSE, torch.randn(6)).certificate
    assert float(certificate.precision_error) < certificate.limits["precision_error"]
    assert certificate.failures() == [""]


def test_a_network_that_insists_on_float32_and_drowns_in_its_round_off_has_an_unknown_error_and_passes():
    class Dim(OnlySingle):
        def forward(self, z):
            return 0.5 + 1e-6 * super().forward(z)

    certificate = metric_at(Dim(), MSE, torch.randn(6, generator=torch.Generator().manual_seed(0))).certificate
    assert bool(certificate.precision_error.isnan())
    assert certificate.failures() == [""]


def test_a_large_error_against_float64_fails_the_certificate():
    certificate = metric_at(Smooth(), MSE, torch.randn(2, 6)).certificate
    certificate.precision_error[1] = 2 * certificate.limits["precision_error"]
    assert certificate.failures() == ["", "precision_error"]


def test_a_rougher_arithmetic_is_allowed_larger_errors_and_no_more():
    names = ("float64", "float32", "tf32", "bfloat16")
    limits = [limits_of("gauss_newton", name)["precision_error"] for name in names]
    assert limits == sorted(limits)
    assert limits[-1] < 0.2
    columns = [limits_of("gauss_newton", name)["column_error"] for name in names]
    assert columns[0] == columns[1] < columns[2] < columns[3]


def test_the_relative_error_is_zero_only_where_both_agree():
    found = relative_error(torch.tensor([[3.0, 4.0], [0, 0], [1, 0]]), torch.tensor([[3.0, 4.0], [0, 0], [0, 1.0]]))
    assert found.tolist() == pytest.approx([0, 0, 2**0.5])


def test_deterministic_metrics_repeat_bit_by_bit_and_leave_torch_as_it_was():
    z = torch.randn(2, 6)
    first = metric_at(Smooth(), MSE, z, deterministic=True)
    assert torch.equal(first.matrix, metric_at(Smooth(), MSE, z, deterministic=True).matrix)
    assert not torch.are_deterministic_algorithms_enabled()
    with arithmetic(deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()


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
    with arithmetic():
        assert torch.backends.cuda.matmul.fp32_precision != "tf32"
        assert torch.backends.cudnn.conv.fp32_precision != "tf32"
    assert _Precision.read() == before


@pytest.mark.parametrize("choose", SETTINGS[:4])
def test_who_uses_the_older_switches_can_read_them_within(as_torch_starts, choose):
    choose()
    with arithmetic():
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cuda.matmul.allow_tf32 is False
        assert torch.backends.cudnn.allow_tf32 is False


@pytest.mark.parametrize("choose", SETTINGS)
def test_an_error_within_leaves_the_callers_choice_too(as_torch_starts, choose):
    choose()
    before = _Precision.read()
    with pytest.raises(ZeroDivisionError), arithmetic():
        _ = 1 / 0
    assert _Precision.read() == before


@pytest.mark.parametrize("choose", SETTINGS)
def test_a_metric_can_be_had_whatever_the_caller_chose(as_torch_starts, choose):
    z = torch.randn(6, generator=torch.Generator().manual_seed(3))
    wanted = metric_at(Smooth(), MSE, z).matrix
    choose()
    torch.testing.assert_close(metric_at(Smooth(), MSE, z).matrix, wanted, rtol=1e-6, atol=0)
