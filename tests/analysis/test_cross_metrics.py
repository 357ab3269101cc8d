"""Two metrics of one code against slow, obvious versions with whole matrices, and closed forms."""

import numpy as np
import pytest
from sample_metrics import eigenpairs, random_metrics, rotation
from scipy.linalg import logm, subspace_angles

from pullback.analysis.correlations import correlations
from pullback.analysis.cross_metrics import CrossMetrics, Eigenpairs, line, partners


def pairs_of(matrix, kept=None):
    values, vectors = eigenpairs(matrix[None], kept)
    return Eigenpairs(values[0], vectors[0])


@pytest.fixture(scope="module")
def two():
    """Two metrics of 12 dimensions with related axes."""
    first, second = random_metrics(2, 12, decay=7, jitter=0.8, seed=4)
    return first, 40 * second


@pytest.fixture(scope="module")
def crossed(two):
    return CrossMetrics(*map(pairs_of, two))


def test_flat_correlations_are_those_of_the_entries(two, crossed):
    assert crossed.flat_correlation() == pytest.approx(np.corrcoef(two[0].ravel(), two[1].ravel())[0, 1], abs=1e-12)
    for epsilon in (1e-6, 1e-2):
        logs = [logm(12 * h / np.trace(h) + epsilon * np.eye(12)) for h in two]
        r, distance = crossed.log_metrics(epsilon)
        assert r == pytest.approx(np.corrcoef(logs[0].ravel(), logs[1].ravel())[0, 1], abs=1e-8)
        assert distance == pytest.approx(np.linalg.norm(logs[0] - logs[1]), rel=1e-8)


def test_kept_parts_are_compared_where_eigenpairs_are_dropped(two):
    a, b = (pairs_of(h, kept) for h, kept in zip(two, (5, 4), strict=True))
    parts = [(each.vectors.T * each.values) @ each.vectors for each in (a, b)]
    crossed = CrossMetrics(a, b)
    assert crossed.flat_correlation() == pytest.approx(np.corrcoef(parts[0].ravel(), parts[1].ravel())[0, 1], abs=1e-12)
    logs = [logm(12 * h / np.trace(h) + 1e-3 * np.eye(12)) for h in parts]
    assert crossed.log_metrics(1e-3)[1] == pytest.approx(np.linalg.norm(logs[0] - logs[1]), rel=1e-6)
    along = np.einsum("ki,ij,kj->k", a.vectors, parts[1], a.vectors)[:4]
    np.testing.assert_allclose(crossed.a_under_b(), along, rtol=1e-12)
    assert crossed.cross_rates()[0].linear == pytest.approx(np.corrcoef(along, b.values)[0, 1])


def test_cross_rates_are_the_homogeneity_of_two_samples(two, crossed):
    values = np.stack([crossed.a.values, crossed.b.values])
    log, linear = correlations(values, np.stack([crossed.a.vectors, crossed.b.vectors]))
    forward, backward = crossed.cross_rates()
    assert (forward.log, forward.linear) == pytest.approx((log[0, 1], linear[0, 1]), abs=1e-12)
    assert (backward.log, backward.linear) == pytest.approx((log[1, 0], linear[1, 0]), abs=1e-12)
    along = np.diag(crossed.a.vectors @ two[1] @ crossed.a.vectors.T)
    slope, intercept = np.polyfit(np.log10(crossed.b.values), np.log10(along), 1)
    assert (forward.slope, forward.intercept) == pytest.approx((slope, intercept), abs=1e-9)


def test_spectra_are_compared_by_rank(crossed):
    found, (x, y) = crossed.spectra(), (crossed.a.values, crossed.b.values)
    assert found.linear == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.log == pytest.approx(np.corrcoef(np.log10(x), np.log10(y))[0, 1])
    np.testing.assert_allclose((found.slope, found.intercept), np.polyfit(np.log10(x), np.log10(y), 1), rtol=1e-9)


def test_overlaps_are_mean_squared_cosines_of_principal_angles(crossed):
    sizes = [1, 3, 11]
    a, b = crossed.a.vectors, crossed.b.vectors
    expected = [np.mean(np.cos(subspace_angles(a[:k].T, b[:k].T)) ** 2) for k in sizes]
    np.testing.assert_allclose(crossed.overlaps(sizes), expected, atol=1e-12)
    np.testing.assert_allclose(crossed.axis_cosines(2), [abs(a[0] @ b[0]), abs(a[1] @ b[1])])
    assert np.isnan(crossed.axis_cosines(14)[12:]).all()


def test_a_metric_compared_with_a_multiple_of_itself_agrees_in_every_number(two):
    crossed = CrossMetrics(pairs_of(two[0]), pairs_of(7 * two[0]))
    forward, backward = crossed.cross_rates()
    lines = [crossed.spectra(), forward, backward]
    np.testing.assert_allclose([(each.linear, each.log, each.slope) for each in lines], 1, atol=1e-9)
    np.testing.assert_allclose([*crossed.overlaps([1, 5]), *crossed.axis_cosines(12)], 1, atol=1e-9)
    r, distance = crossed.log_metrics(1e-4)
    assert (crossed.flat_correlation(), r) == pytest.approx((1, 1))
    assert distance == pytest.approx(0, abs=1e-6)


def test_units_of_either_metric_and_a_common_rotation_change_nothing(two, crossed):
    turn = rotation(12, 3)
    turned = CrossMetrics(pairs_of(turn @ two[0] @ turn.T), pairs_of(1e-6 * turn @ two[1] @ turn.T))
    assert turned.cross_rates()[1].log == pytest.approx(crossed.cross_rates()[1].log, abs=1e-7)
    np.testing.assert_allclose(turned.overlaps([2, 6]), crossed.overlaps([2, 6]), atol=1e-9)
    assert turned.log_metrics(1e-4)[1] == pytest.approx(crossed.log_metrics(1e-4)[1], rel=1e-7)


def test_opposite_spectra_on_the_same_axes_have_a_correlation_of_minus_one():
    values = 10.0 ** np.arange(0, -6, -1)
    a, b = Eigenpairs(values, np.eye(6)), Eigenpairs(values, np.eye(6)[::-1])
    forward, _ = CrossMetrics(a, b).cross_rates()
    assert (forward.log, forward.slope) == pytest.approx((-1, -1))


def test_axes_beyond_the_rank_have_no_cosine_and_no_overlap(two):
    values = np.array([4.0, 2, 1] + [1e-17] * 9)
    deficient = Eigenpairs(values, rotation(12))
    crossed = CrossMetrics(deficient, pairs_of(two[1]))
    assert deficient.rank == 3
    assert np.isfinite(crossed.overlaps([3, 4])).tolist() == [True, False]
    assert np.isfinite(crossed.axis_cosines(5)).sum() == 3
    forward, backward = crossed.cross_rates()
    assert np.isfinite(forward.log)
    expected = line(
        np.diag(crossed.b.vectors @ ((deficient.vectors.T * values) @ deficient.vectors) @ crossed.b.vectors.T)[:3],
        values[:3],
    )
    assert backward.log == pytest.approx(expected.log)


@pytest.mark.parametrize("values", [np.zeros(6), np.ones(6)])
def test_a_metric_without_axes_has_no_cross_numbers(values):
    crossed = CrossMetrics(Eigenpairs(values, np.eye(6)), Eigenpairs(np.arange(6, 0, -1.0), rotation(6)))
    forward, backward = crossed.cross_rates()
    assert np.isnan([forward.log, backward.linear, *crossed.overlaps([1, 2]), *crossed.axis_cosines(3)]).all()
    if not values.any():
        assert np.isnan([crossed.flat_correlation(), *crossed.log_metrics(1e-4)]).all()


@pytest.mark.parametrize("count", [2, 3, 17])
def test_every_sample_gets_another_one_as_partner(count):
    found = partners(count, np.random.default_rng(0))
    assert sorted(found) == list(range(count))
    assert (found != np.arange(count)).all()


def test_metrics_of_different_spaces_are_refused():
    with pytest.raises(ValueError, match="one n"):
        CrossMetrics(Eigenpairs(np.ones(2), np.eye(2)), Eigenpairs(np.ones(3), np.eye(3)))
