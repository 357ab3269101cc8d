import tracemalloc

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_metrics import eigenpairs, random_metrics, rotation
from scipy.stats import pearsonr

from pullback.analysis import correlations as pairwise
from pullback.analysis.bootstrap import bootstrap_weights
from pullback.analysis.correlations import correlations
from pullback.analysis.statistics.homogeneity import summarize


def literal(values, vectors, floor=1e-12):
    """The definitions, pair by pair, with every metric rebuilt and scipy's correlation."""
    points = len(values)
    log, linear = np.full((2, points, points), np.nan)
    metrics = [(rows.T * spectrum) @ rows for spectrum, rows in zip(values, vectors, strict=True)]
    for i in range(points):
        for j in range(points):
            cross = np.diag(vectors[i] @ metrics[j] @ vectors[i].T)
            kept = (np.minimum(cross, values[j]) > 0) & (np.minimum(cross, values[j]) >= floor * values[j].max())
            linear[i, j] = pearsonr(cross, values[j])[0]
            log[i, j] = pearsonr(np.log10(cross[kept]), np.log10(values[j][kept]))[0]
    return log, linear


@pytest.fixture(params=[None, 5], ids=["all pairs kept", "5 pairs kept"])
def pairs(request):
    return eigenpairs(random_metrics(6, 9), request.param)


@pytest.mark.parametrize("workspace", [1, 5000, 10**9])
def test_the_correlations_are_those_of_the_definitions_at_any_block_size(pairs, workspace, monkeypatch):
    monkeypatch.setattr(pairwise, "WORKSPACE", workspace)
    log, linear = literal(*pairs)
    ours_log, ours_linear = correlations(*pairs)
    assert ours_log == pytest.approx(log, abs=1e-12)
    assert ours_linear == pytest.approx(linear, abs=1e-12)


def test_null_and_negative_eigenvalues_do_not_enter_the_logarithmic_correlation():
    values, vectors = eigenpairs(random_metrics(4, 10, jitter=0.0))
    clean, _ = correlations(values, vectors)
    noisy = values.copy()
    noisy[:, -2:] = [[-1e-17, 1e-17], [1e-17, -1e-17], [1e-16, 0.0], [0.0, -1e-17]]
    masked, _ = correlations(noisy, vectors)
    assert masked == pytest.approx(correlations(values[:, :-2], vectors[:, :-2])[0], abs=1e-9)
    unmasked, _ = correlations(noisy, vectors, floor=0.0)
    assert np.abs(unmasked - clean).max() > 0.01
    assert masked == pytest.approx(literal(noisy, vectors)[0], abs=1e-9)


@settings(max_examples=15)
@given(st.integers(2, 5), st.integers(2, 8), st.integers(0, 1000))
def test_identical_metrics_are_fully_homogeneous(points, n, seed):
    values, vectors = eigenpairs(np.repeat(random_metrics(1, n, seed=seed), points, axis=0))
    for matrix in correlations(values, vectors):
        assert matrix == pytest.approx(np.ones((points, points)), abs=1e-9)


@settings(max_examples=15)
@given(st.integers(3, 8), st.integers(0, 1000), st.floats(1e-6, 1e6))
def test_a_common_rotation_and_a_common_factor_change_nothing(n, seed, factor):
    metrics = random_metrics(4, n, seed=seed)
    turn = rotation(n, seed)
    values, vectors = eigenpairs(metrics)
    for ours, theirs in zip(
        correlations(values, vectors), correlations(factor * values, vectors @ turn.T), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-7)


def test_metrics_with_unrelated_directions_are_not_homogeneous():
    generator = np.random.default_rng(0)
    spectrum = np.exp(-np.arange(60.0) / 8)
    turns = [rotation(60, seed) for seed in range(6)]
    values = np.tile(spectrum, (6, 1))
    log, linear = correlations(values, np.array(turns))
    weights = bootstrap_weights(6, 50, 0)
    assert abs(summarize(log, weights).mean) < 0.1
    assert abs(summarize(linear, weights).mean) < 0.1
    # The order of the points means nothing.
    order = generator.permutation(6)
    shuffled, _ = correlations(values, np.array(turns)[order])
    assert shuffled == pytest.approx(log[np.ix_(order, order)], abs=1e-9)


def test_a_multiple_of_the_identity_has_no_correlation():
    values, vectors = eigenpairs(np.array([np.eye(4) * 0.3, np.diag([4.0, 3.0, 2.0, 1.0])]))
    log, linear = correlations(values, vectors)
    assert np.isnan(linear[:, 0]).all()
    assert np.isnan(log[:, 0]).all()
    assert linear[1, 1] == pytest.approx(1)


def test_a_lazy_array_is_read_in_slices_and_gives_the_same():
    values, vectors = eigenpairs(random_metrics(5, 6))
    lazy = xr.DataArray(vectors.astype(np.float32), dims=("sample", "component", "latent"))
    assert correlations(values, lazy)[0] == pytest.approx(correlations(values, vectors)[0], abs=1e-5)


def test_memory_is_bounded_by_the_workspace(monkeypatch):
    points, n = 40, 64
    values, vectors = eigenpairs(random_metrics(points, n))
    vectors = vectors.astype(np.float32)
    monkeypatch.setattr(pairwise, "WORKSPACE", 4 * 8 * n * 2 * n)
    tracemalloc.start()
    correlations(values, vectors)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * points * n * n * 8


def test_progress_counts_up_to_all_pairs(monkeypatch):
    monkeypatch.setattr(pairwise, "WORKSPACE", 3 * 8 * 6 * 12)
    values, vectors = eigenpairs(random_metrics(7, 6))
    calls = []
    correlations(values, vectors, progress=lambda done, total: calls.append((done, total)))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert calls[-1] == (49, 49)


def test_the_summary_leaves_the_diagonal_out():
    matrix = np.array([[99.0, 0.1, 0.2], [0.3, 99.0, 0.4], [0.5, 0.9, 99.0]])
    summary = summarize(matrix, bootstrap_weights(3, 10, 0))
    entries = [0.1, 0.2, 0.3, 0.4, 0.5, 0.9]
    assert summary.mean == pytest.approx(np.mean(entries))
    assert summary.std == pytest.approx(np.std(entries))
    assert summary.median == pytest.approx(0.35)
    assert summary.pairs == 6


def test_the_interval_resamples_points_and_never_pairs_a_point_with_its_copy():
    matrix = np.random.default_rng(0).uniform(size=(5, 5))
    weights = bootstrap_weights(5, 300, 0)
    means = []
    for row in weights:
        drawn = np.repeat(np.arange(5), row)
        entries = [matrix[i, j] for i in drawn for j in drawn if i != j]
        if entries:
            means.append(np.mean(entries))
    assert summarize(matrix, weights).ci95 == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


def test_undefined_pairs_are_left_out_of_the_summary():
    matrix = np.full((3, 3), np.nan)
    assert np.isnan(summarize(matrix, bootstrap_weights(3, 10, 0)).mean)
    matrix[0, 1] = 0.5
    summary = summarize(matrix, bootstrap_weights(3, 200, 0))
    assert (summary.mean, summary.defined, summary.pairs) == (0.5, 1, 6)
    assert np.isnan(summary.ci95).all(), "one pair says nothing of the spread"
    matrix[2, 1] = 0.5
    assert summarize(matrix, bootstrap_weights(3, 200, 0)).ci95 == (0.5, 0.5)


@pytest.mark.parametrize("odd", [np.zeros((5, 5)), 3.0 * np.eye(5), 1e-30 * np.eye(5)])
def test_a_metric_without_axes_of_its_own_is_in_no_pair(odd):
    metrics = random_metrics(4, 5)
    log, linear = correlations(*eigenpairs(metrics))
    metrics[1] = odd
    others = [0, 2, 3]
    for found, wanted in zip(correlations(*eigenpairs(metrics)), (log, linear), strict=True):
        assert np.isnan(found[1]).all()
        assert np.isnan(found[:, 1]).all()
        np.testing.assert_allclose(found[np.ix_(others, others)], wanted[np.ix_(others, others)])


def test_round_off_in_an_isotropic_metric_is_not_correlated():
    rng = np.random.default_rng(0)
    noise = 1e-9 * rng.standard_normal((4, 6, 6))
    values, vectors = eigenpairs(np.eye(6) + noise + noise.transpose(0, 2, 1))
    for matrix in correlations(values, vectors.astype(np.float32)):
        assert np.isnan(matrix).all()


def test_two_points_have_no_interval():
    metrics = random_metrics(2, 5)
    _, linear = correlations(*eigenpairs(metrics))
    summary = summarize(linear, bootstrap_weights(2, 200, 0))
    assert np.isfinite(summary.mean)
    assert summary.defined == 2
    assert np.isnan(summary.ci95).all()


def test_shapes_that_do_not_agree_are_refused():
    values, vectors = eigenpairs(random_metrics(3, 4))
    with pytest.raises(ValueError, match="eigenvectors"):
        correlations(values[:, :2], vectors)
    with pytest.raises(ValueError, match="weights"):
        summarize(np.eye(3), bootstrap_weights(4, 10, 0))
