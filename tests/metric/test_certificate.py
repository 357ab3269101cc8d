import copy
import pickle
from dataclasses import fields

import pytest
import torch
from odd_generators import Black, Constant, WrongDerivative

from pullback.distances import load_distance
from pullback.metric import methods, metric_at
from pullback.metric.certificate import Certificate
from pullback.metric.checks import CHECKS, MEASURES, NAMES, limits_of, reason_code
from pullback.metric.curvature import second_differences
from pullback.metric.differences import check_jacobian
from pullback.metric.gauss_newton import metric_from_jacobian
from pullback.metric.jacobian import derivative_at, feature_map, jacobian
from pullback.metric.probes import compare_columns, look, probe_symmetry
from pullback.metric.products import squared_map
from pullback.metric.result import PullbackMetric
from pullback.spec.metric import METHODS, PRECISIONS
from pullback.store import schema
from toy_generators import Linear, Smooth

MSE = load_distance("mse", device="cpu")
CLEAN = {
    "probe_error": 0.01,
    "product_error": 0.0,
    "column_error": 0.0,
    "precision_error": 0.0,
    "coordinate_error": 0.0,
    "zero_error": 0.0,
}


def sound(n=5, batch=2):
    """Metrics as correct work gives them."""
    rows = torch.randn(batch, n, 4 * n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    metric = 2 * rows @ rows.transpose(1, 2)
    return (metric + metric.transpose(1, 2)) / 2


def certified(metric, kept=5, **checks):
    known = {name: torch.as_tensor(value).double().expand(len(metric)) for name, value in {**CLEAN, **checks}.items()}
    seconds = torch.zeros(len(metric))
    limits = limits_of("gauss_newton")
    return PullbackMetric.of_matrix(
        metric, kept, limits, known=known, seconds=seconds, method="gauss_newton"
    ).certificate


def test_correct_work_passes_every_check():
    certificate = certified(sound())
    assert certificate.failures() == ["", ""]
    assert certificate.passed.tolist() == [True, True]
    assert certificate.trace_share.tolist() == pytest.approx([1, 1])


@pytest.mark.weights
def test_metrics_of_trained_faces_pass_with_room_to_spare(faces, lpips_alex):
    codes = torch.randn(3, 100, generator=torch.Generator().manual_seed(1))
    certificate = metric_at(faces, lpips_alex, codes, method="gauss_newton").certificate
    assert certificate.failures() == ["", "", ""]
    for name, limit in certificate.limits.items():
        # bounds from differences in float32 include the error of the difference; beyond the limit float64 decides
        room = 1 if name in ("precision_error", "coordinate_error") else 2
        assert float(getattr(certificate, name).nan_to_num(0).max()) < limit / room


@pytest.mark.weights
@pytest.mark.parametrize("method", ["backprop", "lanczos", "block_krylov", "finite_difference"])
def test_every_other_method_passes_its_certificate_on_trained_faces(faces, method):
    z = torch.randn(100, generator=torch.Generator().manual_seed(1))
    metric = metric_at(faces, MSE, z, method=method, components=4, relative_step=1e-3)
    assert metric.certificate.failures() == [""]
    assert set(metric.certificate.limits) <= set(MEASURES)


def _asymmetric(metric):
    metric[1, 0, 1] += 1e-4 * metric[1].abs().max()


def _negative(metric):
    values, columns = torch.linalg.eigh(metric[1])
    metric[1] -= (values[0] + 1e-4 * values[-1]) * torch.outer(columns[:, 0], columns[:, 0])
    metric[1] = (metric[1] + metric[1].T) / 2


def _not_finite(metric):
    metric[1, 3, 3] = torch.nan


def _infinite(metric):
    metric[1, 3, 3] = torch.inf


@pytest.mark.parametrize(
    ("spoil", "failure"),
    [
        (_asymmetric, "symmetry_error"),
        (_negative, "negative_eigenvalue"),
        (_not_finite, "finite"),
        (_infinite, "finite"),
    ],
)
def test_each_fault_of_the_matrix_trips_its_own_limit_and_spares_the_other_metrics(spoil, failure):
    metric = sound()
    spoil(metric)
    certificate = certified(metric)
    assert certificate.failures() == ["", failure]
    assert certificate.passed.tolist() == [True, False]


@pytest.mark.parametrize("wrong", [0.5, float("nan")])
@pytest.mark.parametrize("name", ["probe_error", "product_error", "column_error"])
def test_each_probe_trips_its_own_limit_and_an_unknown_one_does_too(name, wrong):
    assert certified(sound(), **{name: [0.0, wrong]}).failures() == ["", name]


def _wrong_value(values, vectors):
    values[1, 2] *= 1.001


def _wrong_vectors(values, vectors):
    vectors[1] = torch.eye(5)


def _swapped_vectors(values, vectors):
    vectors[1, [0, 4]] = vectors[1, [4, 0]].clone()


def _not_orthogonal(values, vectors):
    # In a nearly degenerate pair every mixture has a small residual: orthogonality alone gives it away.
    vectors[1, 2] = (3 * vectors[1, 2] + 4 * vectors[1, 3]) / 5


@pytest.mark.parametrize(
    ("spoil", "failure"),
    [
        (_wrong_value, "eigen_residual"),
        (_wrong_vectors, "eigen_residual"),
        (_swapped_vectors, "eigen_residual"),
        (_not_orthogonal, "orthogonality_error"),
    ],
)
def test_a_decomposition_that_lies_is_seen(monkeypatch, spoil, failure):
    """Batched `eigh` has done this on a GPU without an error."""
    from pullback.metric import result

    def eigendecompose(metric):
        ascending, columns = torch.linalg.eigh(metric)
        values, vectors = ascending.flip(1), columns.flip(2).transpose(1, 2).clone()
        spoil(values, vectors)
        return values, vectors

    metric = sound()
    if failure == "orthogonality_error":
        axes = torch.linalg.eigh(metric[1])[1]
        metric[1] = (axes * torch.tensor([1.0, 1, 1, 1, 5])) @ axes.T
        metric[1] = (metric[1] + metric[1].T) / 2
    monkeypatch.setattr(result, "eigendecompose", eigendecompose)
    assert certified(metric).failures() == ["", failure]


def test_every_check_has_a_label_a_meaning_a_definition_and_a_reason_of_its_own():
    assert len({check.name for check in CHECKS}) == len({check.label for check in CHECKS}) == len(CHECKS)
    failing = [check for check in CHECKS if check.name != "trace_share"]
    assert len({check.code for check in failing}) == len({check.reason for check in failing}) == len(failing)
    for check in CHECKS:
        assert 0 < len(check.label) <= 40
        assert check.meaning
        assert check.definition
        assert check.code != 0 or check.name == "trace_share"


def test_every_check_can_fail_by_some_method_and_every_method_has_limits():
    measured = {check.name for check in CHECKS if check.reason and not check.flag}
    assert {name for method in METHODS for name in limits_of(method)} == measured
    assert set(limits_of("gauss_newton")) == measured
    for method in METHODS:
        for precision in PRECISIONS:
            assert measured - set(limits_of(method, precision)) <= {"column_error", "product_error"}


def test_no_mapping_misses_a_check():
    """The stored arrays, the record of a shard, the reasons and the metric's certificate all have every check."""
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    for method in METHODS:
        found = metric_at(Linear(), MSE, z, method=method, components=2).certificate
        assert set(found.values) == set(NAMES)
        assert all(getattr(found, name).shape == (2,) for name in NAMES)
    assert tuple(array.name for array in schema.ARRAYS if array.certificate) == schema.CERTIFICATE == MEASURES
    assert set(MEASURES) <= {entry.name for entry in fields(schema.ShardRecord)}
    for name in ["", *NAMES]:
        if name != "trace_share":
            reason = schema.Reason(reason_code(name))
            assert (reason == schema.Reason.NONE) == (name == "")


def test_codes_of_reasons_in_stores_do_not_change():
    assert {reason.name: int(reason) for reason in schema.Reason} == {
        "NONE": 0,
        "NOT_FINITE": 1,
        "ASYMMETRIC": 2,
        "NEGATIVE_EIGENVALUE": 3,
        "EIGEN_RESIDUAL": 4,
        "NOT_ORTHOGONAL": 5,
        "JACOBIAN_PROBE": 6,
        "NOT_CONVERGED": 7,
        "GRAM_PRODUCT": 8,
        "JACOBIAN_COLUMN": 9,
        "PRECISION": 10,
        "RAISED": 11,
        "KILLED": 12,
        "COORDINATE": 13,
        "ZERO": 14,
    }


def test_a_certificate_is_copied_and_pickled_with_its_values():
    certificate = certified(sound())
    for again in (copy.deepcopy(certificate), pickle.loads(pickle.dumps(certificate))):
        assert torch.equal(again.symmetry_error, certificate.symmetry_error)
        assert again.failures() == ["", ""]
    with pytest.raises(AttributeError):
        certificate.unknown_error  # noqa: B018


def test_what_did_not_converge_does_not_pass():
    certificate = certified(sound())
    certificate.converged[1] = False
    assert certificate.failures() == ["", "converged"]


def test_vectors_are_checked_as_they_are_stored():
    """Rounding to float32 is part of what is certified: it shows in the residual, and stays far below the limit."""
    certificate = certified(sound())
    assert (certificate.eigen_residual > 1e-9).all()
    assert (certificate.eigen_residual < 1e-7).all()


@pytest.mark.parametrize("kept", [1, 3, 5])
def test_the_share_of_the_trace_is_that_of_the_kept_eigenvalues(kept):
    metric = sound()
    wanted = [float(torch.linalg.eigvalsh(h)[5 - kept :].sum() / h.trace()) for h in metric]
    assert certified(metric, kept).trace_share.tolist() == pytest.approx(wanted, rel=1e-12)


def test_the_zero_metric_passes_and_keeps_all_of_its_trace():
    certificate = certified(torch.zeros(1, 5, 5, dtype=torch.float64), 2)
    assert certificate.failures() == [""]
    assert certificate.trace_share.tolist() == [1]


def test_one_certificate_of_a_batch_is_read_like_the_batch():
    metric = sound()
    _asymmetric(metric)
    batch = certified(metric)
    assert [batch[0].failures(), batch[1].failures()] == [[""], ["symmetry_error"]]
    assert [bool(batch[0].passed), bool(batch[1].passed)] == [True, False]
    assert Certificate.concatenate([batch, batch]).failures() == batch.failures() * 2


@pytest.mark.parametrize("factor", [0.5, 1.5, -1.0, 0.0])
def test_a_wrong_derivative_is_found_by_the_probe(factor):
    codes = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    certificate = metric_at(WrongDerivative(factor), MSE, codes).certificate
    assert set(certificate.failures()) <= {"probe_error", "precision_error"}
    assert not certificate.passed.any()


def test_the_same_generator_with_the_right_derivative_passes():
    codes = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    assert metric_at(WrongDerivative(1.0), MSE, codes).certificate.failures() == ["", ""]


@pytest.mark.parametrize("factor", [0.0, 0.97, 1.02, -1.0])
def test_one_wrong_column_of_forty_is_found_where_differences_do_not_see_it(monkeypatch, factor):
    def wrong(*arguments, **options):
        push = derivative_at(*arguments, **options)
        scale = torch.ones(40)
        scale[17] = factor
        return lambda tangents: push(scale * tangents)

    codes = torch.randn(3, 40, generator=torch.Generator().manual_seed(5))
    generator = Smooth(latent_dim=40)
    assert metric_at(generator, MSE, codes).certificate.failures() == ["", "", ""]
    monkeypatch.setattr(methods, "derivative_at", wrong)
    certificate = metric_at(generator, MSE, codes).certificate
    assert (certificate.column_error > certificate.limits["column_error"]).all()
    if abs(factor - 1) < 0.1:
        assert certificate.failures() == ["column_error"] * 3, "no other check is fine enough"


def test_a_network_that_the_tape_misreads_is_computed_by_torchs_own_forward_mode(monkeypatch):
    """The column error gives the tape away; then the metric is computed again without it."""

    def misread(features, z, dtype=None, recorded=True):
        push = derivative_at(features, z, dtype, recorded)
        return (lambda tangents: 1.01 * push(tangents)) if recorded else push

    codes = torch.randn(2, 6, generator=torch.Generator().manual_seed(5))
    wanted = metric_at(Smooth(), MSE, codes).matrix
    monkeypatch.setattr(methods, "derivative_at", misread)
    metric = metric_at(Smooth(), MSE, codes)
    torch.testing.assert_close(metric.matrix, wanted, rtol=1e-5, atol=0)
    assert metric.certificate.failures() == ["", ""]


def _probed(features, z, spoil=lambda rows, metric: None):
    rows = jacobian(derivative_at(features, z), z, z.shape[1])
    metric = metric_from_jacobian(rows)
    spoil(rows, metric)
    return _checked(features, z, rows, metric)


def _checked(features, z, rows, metric):
    looks = compare_columns(features, z, look(rows, metric, z))
    return check_jacobian(lambda part: features, z, looks, limits_of("gauss_newton"))


def test_a_column_that_changes_in_memory_is_found():
    features = feature_map(Smooth(latent_dim=50), MSE)
    z = torch.randn(2, 50, generator=torch.Generator().manual_seed(6))
    limits = limits_of("gauss_newton")

    def spoil(rows, metric):
        rows[1, 31] = rows[1, 30]

    found = _probed(features, z, spoil)
    assert float(found["column_error"][0]) < limits["column_error"] < float(found["column_error"][1])


def test_a_metric_that_is_not_the_product_of_its_jacobian_is_found():
    features = feature_map(Smooth(), MSE)
    z = torch.randn(2, 6, generator=torch.Generator().manual_seed(7))

    def spoil(rows, metric):
        metric[1, 2, 2] *= 1.001

    found = _probed(features, z, spoil)
    limit = limits_of("gauss_newton")["product_error"]
    assert float(found["product_error"][0]) < limit < float(found["product_error"][1])


@pytest.mark.parametrize("wrong", [0.7, 1.4])
def test_the_probe_measures_by_how_much_the_jacobian_is_wrong(wrong):
    features = feature_map(Smooth().double(), MSE)
    z = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    rows = wrong * jacobian(derivative_at(features, z), z, 6)
    found = _checked(features, z, rows, metric_from_jacobian(rows))
    assert found["probe_error"].tolist() == pytest.approx([abs(wrong - 1) / wrong] * 2, rel=0.05)


@pytest.mark.parametrize("unit", [1e-3, 1.0, 1e3])
def test_the_probes_do_not_depend_on_the_unit_of_the_latent_space(unit):
    """The same generator with its codes in another unit: correct work passes in each."""
    inner = Smooth()
    z = unit * torch.randn(2, 6, generator=torch.Generator().manual_seed(4))
    found = _probed(feature_map(lambda code: inner(code / unit), MSE), z)
    assert float(found["probe_error"].max()) < 0.02
    assert float(found["column_error"].max()) < 1e-4


def test_the_probes_are_the_same_every_time_and_for_every_batch():
    features = feature_map(Smooth(), MSE)
    z = torch.randn(3, 6)
    once, again, alone = _probed(features, z), _probed(features, z), _probed(features, z[1:2])
    for name, values in once.items():
        torch.testing.assert_close(values, again[name], rtol=0, atol=0, equal_nan=True)
        torch.testing.assert_close(values[1:2], alone[name], rtol=0.3, atol=3e-3, equal_nan=True)


@pytest.mark.parametrize("generator", [Constant(), Black()])
def test_the_probes_of_a_zero_derivative_or_a_zero_residual_are_numbers(generator):
    found = _probed(feature_map(generator, MSE), torch.zeros(1, 6))
    for name in ("probe_error", "column_error", "product_error"):
        assert float(found[name].max()) < 1e-3


def test_the_probe_of_an_image_that_is_not_finite_is_not_zero():
    """Its derivative may well be zero (torch.where), and zero against NaN must not pass."""

    def features(z):
        return torch.where(z[:, :1] > 1e9, z, torch.full_like(z, torch.nan))

    z, rows = torch.ones(1, 6), torch.zeros(1, 6, 6)
    found = _checked(features, z, rows, metric_from_jacobian(rows))
    assert bool(found["probe_error"].isnan().all())


@pytest.mark.parametrize("wrong", [0.5, 1.0, 2.0])
def test_second_differences_of_the_squared_distance_give_the_curvature(wrong):
    generator, z = Linear().double(), torch.randn(6, dtype=torch.float64)
    matrix = metric_at(generator, MSE, z).matrix
    squared = squared_map(generator, MSE, z)
    direction = torch.randn(3, 6, dtype=torch.float64)
    found = second_differences(lambda codes: wrong * squared(codes), z, direction, (1e-2, 1e-3))
    wanted = wrong * ((direction @ matrix) * direction).sum(dim=1)
    torch.testing.assert_close(found, wanted[:, None].expand(-1, 2), rtol=1e-8, atol=0)


def test_a_product_that_is_not_symmetric_is_seen():
    z = torch.randn(6, generator=torch.Generator().manual_seed(8))
    matrix = metric_at(Linear(), MSE, z).matrix
    skewed = matrix + torch.triu(0.1 * matrix.abs().max() * torch.ones(6, 6))
    assert float(probe_symmetry(lambda v: v.double() @ matrix, z)) < 1e-7
    assert float(probe_symmetry(lambda v: v.double() @ skewed, z)) > 1e-3
