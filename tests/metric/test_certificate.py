from dataclasses import fields

import pytest
import torch
from odd_generators import Black, Constant, WrongDerivative

from pullback.distances import load_distance
from pullback.metric import metric_at
from pullback.metric.certificate import LIMITS, Certificate, certify, probe_jacobian
from pullback.metric.eigen import eigendecompose
from pullback.metric.jacobian import feature_map, jacobian
from toy_generators import Smooth

MSE = load_distance("mse", device="cpu")


def sound(n=5, batch=2):
    """Metrics with their eigenpairs, as correct work gives them."""
    rows = torch.randn(batch, n, 4 * n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    metric = 2 * rows @ rows.transpose(1, 2)
    metric = (metric + metric.transpose(1, 2)) / 2
    return metric, *eigendecompose(metric)


def test_correct_work_passes_every_check():
    metric, values, vectors = sound()
    certificate = certify(metric, values, vectors, 5, torch.full((2,), 0.01))
    assert certificate.failures() == ["", ""]
    assert certificate.passed.tolist() == [True, True]
    assert certificate.trace_share.tolist() == pytest.approx([1, 1])


@pytest.mark.weights
def test_metrics_of_trained_faces_pass_with_room_to_spare(faces, lpips_alex):
    codes = torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    certificate = metric_at(faces, lpips_alex, codes).certificate
    assert certificate.failures() == ["", "", ""]
    for name, limit in LIMITS.items():
        assert float(getattr(certificate, name).max()) < limit / 2


def _asymmetric(metric, values, vectors, probe):
    metric[1, 0, 1] += 1e-4 * metric[1].abs().max()


def _negative(metric, values, vectors, probe):
    v = vectors[1, -1]
    shift = -values[1, -1] - 1e-4 * values[1, 0]
    metric[1] += shift * torch.outer(v, v)
    metric[1] = (metric[1] + metric[1].T) / 2
    values[1, -1] += shift


def _wrong_value(metric, values, vectors, probe):
    values[1, 2] *= 1.001


def _wrong_vectors(metric, values, vectors, probe):
    vectors[1] = torch.eye(5)


def _not_orthogonal(metric, values, vectors, probe):
    # In a nearly degenerate pair every mixture has a small residual: orthogonality alone gives it away.
    values[1] = torch.tensor([5.0, 1.0, 1.0, 1.0, 1.0])
    metric[1], vectors[1] = torch.diag(values[1]), torch.eye(5)
    vectors[1, 2] = torch.tensor([0, 0.6, 0.8, 0, 0])


def _not_finite(metric, values, vectors, probe):
    metric[1, 3, 3] = torch.nan


def _infinite(metric, values, vectors, probe):
    metric[1, 3, 3] = torch.inf


def _wrong_jacobian(metric, values, vectors, probe):
    probe[1] = 0.5


def _unknown_probe(metric, values, vectors, probe):
    probe[1] = torch.nan


@pytest.mark.parametrize(
    ("spoil", "failure"),
    [
        (_asymmetric, "symmetry_error"),
        (_negative, "negative_eigenvalue"),
        (_wrong_value, "eigen_residual"),
        (_wrong_vectors, "eigen_residual"),
        (_not_orthogonal, "orthogonality_error"),
        (_not_finite, "finite"),
        (_infinite, "finite"),
        (_wrong_jacobian, "probe_error"),
        (_unknown_probe, "probe_error"),
    ],
)
def test_each_fault_trips_its_own_limit_and_spares_the_other_metrics(spoil, failure):
    metric, values, vectors = sound()
    probe = torch.full((2,), 0.01)
    spoil(metric, values, vectors, probe)
    certificate = certify(metric, values, vectors, 5, probe)
    assert certificate.failures() == ["", failure]
    assert certificate.passed.tolist() == [True, False]


def test_every_limit_belongs_to_a_checked_quantity():
    names = {field.name for field in fields(Certificate)}
    assert set(LIMITS) == names - {"finite", "trace_share"}


def test_vectors_are_checked_as_they_are_stored():
    """Rounding to float32 is part of what is certified: it shows in the residual, and stays far below the limit."""
    certificate = certify(*sound(), 5, torch.zeros(2))
    assert (certificate.eigen_residual > 1e-9).all()
    assert (certificate.eigen_residual < 1e-7).all()


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_the_share_of_the_trace_is_that_of_the_kept_eigenvalues(kept):
    metric, values, vectors = sound()
    certificate = certify(metric, values, vectors, kept, torch.zeros(2))
    wanted = [float(v[:kept].sum() / h.trace()) for h, v in zip(metric, values, strict=True)]
    assert certificate.trace_share.tolist() == pytest.approx(wanted, rel=1e-12)


def test_the_zero_metric_passes_and_keeps_all_of_its_trace():
    metric = torch.zeros(1, 5, 5, dtype=torch.float64)
    certificate = certify(metric, *eigendecompose(metric), 2, torch.zeros(1))
    assert certificate.failures() == [""]
    assert certificate.trace_share.tolist() == [1]


def test_one_certificate_of_a_batch_is_read_like_the_batch():
    metric, values, vectors = sound()
    _asymmetric(metric, values, vectors, None)
    batch = certify(metric, values, vectors, 5, torch.zeros(2))
    assert [batch[0].failures(), batch[1].failures()] == [[""], ["symmetry_error"]]
    assert [bool(batch[0].passed), bool(batch[1].passed)] == [True, False]
    again = Certificate.concatenate([batch, batch])
    assert again.failures() == batch.failures() * 2


@pytest.mark.parametrize("factor", [0.5, 1.5, -1.0, 0.0])
def test_a_wrong_derivative_is_found_by_the_probe(factor):
    codes = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    certificate = metric_at(WrongDerivative(factor), MSE, codes).certificate
    assert certificate.failures() == ["probe_error", "probe_error"]


def test_the_same_generator_with_the_right_derivative_passes():
    codes = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    assert metric_at(WrongDerivative(1.0), MSE, codes).certificate.failures() == ["", ""]


@pytest.mark.parametrize("wrong", [0.7, 1.4])
def test_the_probe_measures_by_how_much_the_jacobian_is_wrong(wrong):
    features = feature_map(Smooth().double(), MSE)
    z = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    error = probe_jacobian(features, z, wrong * jacobian(features, z, 6))
    assert error.tolist() == pytest.approx([abs(wrong - 1) / wrong] * 2, rel=1e-3)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_probe_does_not_depend_on_the_unit_of_the_latent_space(unit):
    """The same generator with its codes in another unit: correct work passes in each."""
    inner = Smooth()
    z = unit * torch.randn(2, 6, generator=torch.Generator().manual_seed(4))
    features = feature_map(lambda code: inner(code / unit), MSE)
    assert float(probe_jacobian(features, z, jacobian(features, z, 6)).max()) < 0.02


def test_the_probe_is_the_same_every_time():
    features = feature_map(Smooth(), MSE)
    z = torch.randn(2, 6)
    rows = jacobian(features, z, 6)
    assert torch.equal(probe_jacobian(features, z, rows), probe_jacobian(features, z, rows))


@pytest.mark.parametrize("generator", [Constant(), Black()])
def test_the_probe_of_a_zero_derivative_or_a_zero_residual_is_a_number(generator):
    features = feature_map(generator, MSE)
    z = torch.zeros(1, 6)
    assert float(probe_jacobian(features, z, jacobian(features, z, 6))) < 1e-3


def test_the_probe_of_an_image_that_is_not_finite_is_not_zero():
    """Its derivative may well be zero (torch.where), and zero against NaN must not pass."""

    def features(z):
        return torch.where(z[:, :1] > 1e9, z, torch.full_like(z, torch.nan))

    error = probe_jacobian(features, torch.ones(1, 6), torch.zeros(1, 6, 6))
    assert bool(error.isnan().all())
