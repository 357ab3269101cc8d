import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_metrics import eigenpairs, random_metrics, rotation

from pullback.analysis.bootstrap import bootstrap_weights
from pullback.analysis.eigenbasis import eigenbasis, rates_along
from pullback.analysis.statistics.mean_metric import mean_metric


def test_the_eigenbasis_diagonalises_and_descends_as_scipy_says():
    metric = random_metrics(1, 8)[0]
    values, axes = eigenbasis(metric)
    assert values == pytest.approx(scipy.linalg.eigvalsh(metric)[::-1])
    assert axes @ metric @ axes.T == pytest.approx(np.diag(values), abs=1e-12)
    assert axes @ axes.T == pytest.approx(np.eye(8), abs=1e-12)


@settings(max_examples=20)
@given(st.integers(1, 6), st.integers(0, 100))
def test_signs_are_fixed_so_that_a_common_rotation_turns_the_axes_and_keeps_the_values(n, seed):
    metric, turn = random_metrics(1, n, seed=seed)[0], rotation(n, seed) if n > 1 else np.eye(1)
    values, axes = eigenbasis(metric)
    turned_values, turned_axes = eigenbasis(turn @ metric @ turn.T)
    assert turned_values == pytest.approx(values)
    assert np.abs(np.sum(turned_axes * (axes @ turn.T), axis=1)) == pytest.approx(np.ones(n))
    for row in turned_axes:
        assert row[np.argmax(np.abs(row))] > 0


def test_rates_along_axes_are_the_quadratic_forms_of_the_metrics():
    metrics, axes = random_metrics(4, 6), rotation(6)[:3]
    literal = [[u @ metric @ u for u in axes] for metric in metrics]
    assert rates_along(axes, *eigenpairs(metrics)) == pytest.approx(np.array(literal))


def test_the_interval_is_that_of_a_literal_bootstrap_along_the_fixed_axes():
    metrics = random_metrics(9, 5)
    weights = bootstrap_weights(9, 200, 0)
    result = mean_metric(metrics.mean(axis=0), *eigenpairs(metrics), weights)
    drawn = [[u @ np.repeat(metrics, row, axis=0).mean(axis=0) @ u for u in result.eigenvectors] for row in weights]
    assert result.ci95 == pytest.approx(np.quantile(drawn, [0.025, 0.975], axis=0))
    assert result.eigenvalues == pytest.approx(scipy.linalg.eigvalsh(metrics.mean(axis=0))[::-1])


def test_a_cut_spectrum_leaves_the_mean_exact_and_the_interval_around_it():
    metrics = random_metrics(12, 8)
    weights = bootstrap_weights(12, 400, 0)
    whole = mean_metric(metrics.mean(axis=0), *eigenpairs(metrics), weights)
    cut = mean_metric(metrics.mean(axis=0), *eigenpairs(metrics, 4), weights)
    assert cut.eigenvalues == pytest.approx(whole.eigenvalues)
    stated = np.isfinite(cut.ci95[0])
    assert (cut.ci95[0][stated] <= cut.eigenvalues[stated]).all()
    assert (cut.eigenvalues[stated] <= cut.ci95[1][stated]).all()
    assert cut.ci95[:, 0] == pytest.approx(whole.ci95[:, 0], rel=0.02)


def test_an_interval_is_left_out_where_pairs_that_are_not_kept_make_much_of_the_eigenvalue():
    metrics = random_metrics(12, 8)
    weights = bootstrap_weights(12, 400, 0)
    whole = mean_metric(metrics.mean(axis=0), *eigenpairs(metrics), weights)
    cut = mean_metric(metrics.mean(axis=0), *eigenpairs(metrics, 4), weights)
    stated = np.isfinite(cut.ci95[0])
    assert stated[0]
    assert not stated[4:].any()
    np.testing.assert_allclose(cut.ci95[:, stated], whole.ci95[:, stated], rtol=0.06)
    assert np.isfinite(whole.ci95).all()


def test_identical_metrics_leave_no_uncertainty():
    metrics = np.repeat(random_metrics(1, 4), 5, axis=0)
    result = mean_metric(metrics.mean(axis=0), *eigenpairs(metrics), bootstrap_weights(5, 20, 0))
    assert result.ci95 == pytest.approx(np.stack([result.eigenvalues] * 2))


def test_a_small_asymmetry_is_averaged_away():
    values, _ = eigenbasis([[2.0, 1.0 + 1e-9], [1.0 - 1e-9, 2.0]])
    assert values == pytest.approx([3.0, 1.0], abs=1e-15)


def test_metrics_that_are_not_finite_or_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="finite"):
        eigenbasis(np.full((3, 3), np.nan))
    with pytest.raises(ValueError, match="square"):
        eigenbasis(np.ones((2, 3)))
    with pytest.raises(ValueError, match="agree"):
        mean_metric(np.eye(3), *eigenpairs(random_metrics(2, 4)), bootstrap_weights(2, 5, 0))
