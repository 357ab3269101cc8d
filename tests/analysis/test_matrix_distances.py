import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_metrics import eigenpairs, random_metrics, rotation

from pullback.analysis.grassmann import random_frames
from pullback.analysis.matrix_distances import (
    LogMetric,
    affine_invariant,
    affine_invariants,
    aligned,
    log_euclidean,
)


def log_metric(matrix, kept=None, base=0.0):
    values, vectors = eigenpairs(matrix[None], kept)
    return LogMetric(np.log(values[0]), vectors[0], base)


def dense(metric):
    rest = np.eye(metric.latent_dim) - metric.vectors.T @ metric.vectors
    return (metric.vectors.T * np.exp(metric.logs)) @ metric.vectors + np.exp(metric.base) * rest


def scipys(one, two):
    """Both distances by scipy: generalised eigenvalues, and matrix logarithms."""
    affine = np.linalg.norm(np.log(scipy.linalg.eigvalsh(two, one)))
    return affine, np.linalg.norm(scipy.linalg.logm(one) - scipy.linalg.logm(two))


@pytest.mark.parametrize("kept", [None, 1, 2, 3, 5, 7])
def test_distances_are_scipys_for_whole_and_for_low_rank_metrics(kept):
    one, two = random_metrics(2, 8, jitter=2.0)
    first, second = log_metric(one, kept, base=-8.0), log_metric(two, kept, base=-7.0)
    affine, euclidean = scipys(dense(first), dense(second))
    assert affine_invariant(first, second) == pytest.approx(affine)
    assert log_euclidean(first, second) == pytest.approx(euclidean)


def test_ranks_may_differ():
    one, two = random_metrics(2, 6, jitter=2.0)
    first, second = log_metric(one), log_metric(two, 2, base=-5.0)
    for pair in ((first, second), (second, first)):
        affine, euclidean = scipys(*map(dense, pair))
        assert affine_invariant(*pair) == pytest.approx(affine)
        assert log_euclidean(*pair) == pytest.approx(euclidean)


@settings(max_examples=10)
@given(st.integers(1, 7), st.floats(0.01, 100.0), st.integers(0, 100))
def test_a_factor_is_the_root_of_n_times_its_logarithm(n, factor, seed):
    one = random_metrics(1, n, seed=seed)[0]
    first, second = log_metric(one), log_metric(factor * one)
    wanted = np.sqrt(n) * abs(np.log(factor))
    for distance in (affine_invariant, log_euclidean, aligned):
        assert distance(first, second) == pytest.approx(wanted, abs=1e-6)


def test_same_axes_in_the_same_order_are_nearest():
    spectrum, other = np.log([9.0, 4.0, 1.0, 0.1]), np.log([5.0, 5.0, 0.3, 0.2])
    turn = rotation(4)
    one = LogMetric(spectrum, turn, 0.0)
    least = np.linalg.norm(spectrum - other)
    same = LogMetric(other, turn, 0.0)
    assert affine_invariant(one, same) == pytest.approx(least)
    assert log_euclidean(one, same) == pytest.approx(least)
    for seed in range(1, 8):
        turned = LogMetric(other, rotation(4, seed), 0.0)
        assert aligned(one, turned) == pytest.approx(least)
        assert affine_invariant(one, turned) >= least
        assert log_euclidean(one, turned) >= least


def test_a_change_of_coordinates_changes_no_affine_invariant_distance():
    one, two = random_metrics(2, 5, jitter=2.0)
    change = np.random.default_rng(0).standard_normal((5, 5))
    assert affine_invariant(log_metric(one), log_metric(two)) == pytest.approx(
        affine_invariant(log_metric(change @ one @ change.T), log_metric(change @ two @ change.T))
    )


def test_identical_metrics_of_low_rank_have_no_distance():
    one = log_metric(random_metrics(1, 9)[0], 3, base=-9.0)
    assert affine_invariant(one, one) == pytest.approx(0, abs=1e-6)
    assert log_euclidean(one, one) == pytest.approx(0, abs=1e-6)


def test_spectra_of_nine_decades_and_float32_vectors_cost_little():
    generator = np.random.default_rng(1)
    spectra = np.sort(generator.uniform(-21, 0, (2, 40)))[:, ::-1]
    turns = [random_frames(1, 40, 40, generator)[0] for _ in range(2)]
    exact = [LogMetric(logs, turn, 0.0) for logs, turn in zip(spectra, turns, strict=True)]
    stored = [LogMetric(m.logs, m.vectors.astype(np.float32).astype(np.float64), 0.0) for m in exact]
    wanted = affine_invariant(*exact)
    assert affine_invariant(*stored) == pytest.approx(wanted, rel=1e-4)
    assert affine_invariant(*exact[::-1]) == pytest.approx(wanted, rel=1e-6)
    assert log_euclidean(*stored) == pytest.approx(log_euclidean(*exact), rel=1e-5)


def test_several_regularisations_share_their_vectors():
    one, two = random_metrics(2, 6, jitter=1.0)
    firsts = [log_metric(one + shift * np.eye(6)) for shift in (0.0, 0.1)]
    seconds = [log_metric(two + shift * np.eye(6)) for shift in (0.0, 0.1)]
    assert affine_invariants(firsts, seconds) == pytest.approx(
        [affine_invariant(*pair) for pair in zip(firsts, seconds, strict=True)]
    )
