from itertools import combinations

import numpy as np
import pytest
import scipy.linalg
from sample_metrics import random_metrics, rotation
from scalar_samples import result_of, samples_of, shown
from scipy.stats import pearsonr

from pullback.analysis.statistics.metric_distances import CURVE
from pullback.errors import PullbackError


def regularised(metric, epsilon, kept=None):
    """H + ε tr(H)/n I; where only `kept` eigenpairs are known, the rest of the trace is spread evenly."""
    n = len(metric)
    shift = epsilon * np.trace(metric) / n
    if kept is None:
        return metric + shift * np.eye(n)
    values, columns = np.linalg.eigh(metric)
    part = (columns[:, -kept:] * values[-kept:]) @ columns[:, -kept:].T
    rest = np.eye(n) - columns[:, -kept:] @ columns[:, -kept:].T
    return part + (np.trace(metric) - values[-kept:].sum()) / (n - kept) * rest + shift * np.eye(n)


@pytest.fixture(scope="module")
def metrics():
    return random_metrics(6, 7, decay=5.0, jitter=1.0)


@pytest.fixture(scope="module")
def result(metrics):
    codes = np.random.default_rng(2).standard_normal((6, 7))
    return result_of("metric_distances", samples_of(metrics, latent=codes))


@pytest.mark.parametrize("kept", [None, 3])
def test_distances_are_scipys_of_regularised_metrics_at_every_regularisation(metrics, kept):
    result = result_of("metric_distances", samples_of(metrics[:4], kept=kept))
    assert result["regularization"].values == pytest.approx(CURVE)
    for at, epsilon in enumerate(CURVE):
        affine, euclidean = [], []
        for i, j in combinations(range(4), 2):
            one, two = (regularised(metrics[each], epsilon, kept) for each in (i, j))
            affine.append(np.linalg.norm(np.log(scipy.linalg.eigvalsh(two, one))))
            euclidean.append(np.linalg.norm(scipy.linalg.logm(one) - scipy.linalg.logm(two)))
        assert result["distance"].values[:, at] == pytest.approx([np.mean(affine), np.mean(euclidean)], rel=1e-4)


def test_all_pairs_are_compared_if_there_are_no_more(result):
    assert result["pair"].values.tolist() == [list(pair) for pair in combinations(range(6), 2)]
    codes = result["code_distance"].values
    for kind in range(2):
        distances = result["pair_distance"].values[:, kind]
        assert float(result["code_correlation"].values[kind]) == pytest.approx(pearsonr(distances, codes)[0])
    assert "15 pairs" in shown(result)


def test_equal_metrics_are_at_the_least_distance(metrics):
    result = result_of("metric_distances", samples_of(np.repeat(metrics[:1], 4, axis=0)))
    assert result["distance"].values == pytest.approx(np.zeros((2, 5)), abs=1e-5)
    assert result["position"].values == pytest.approx(np.zeros((2, 5)), abs=1e-4)
    assert (result["chance"].values > 1).all()
    shown(result)


def test_metrics_with_unrelated_axes_stand_at_chance_and_common_axes_at_the_least_distance():
    spectra = np.exp(-np.arange(20.0) / 3 + 0.2 * np.random.default_rng(0).standard_normal((12, 20)))
    unrelated = [(rotation(20, seed) * row) @ rotation(20, seed).T for seed, row in enumerate(spectra)]
    common = [(rotation(20) * np.sort(row)) @ rotation(20).T for row in spectra]
    assert result_of("metric_distances", samples_of(unrelated))["position"].values == pytest.approx(1, abs=0.05)
    found = result_of("metric_distances", samples_of(common))
    assert found["position"].values == pytest.approx(0, abs=0.01)
    assert found["distance"].values == pytest.approx(found["least"].values, rel=1e-3)


def test_isotropic_metrics_have_a_distance_and_no_position():
    metrics = [factor * np.eye(5) for factor in (1.0, 2.0, 4.0)]
    result = result_of("metric_distances", samples_of(metrics))
    wanted = np.sqrt(5) * np.log(2) * (1 + 1 + 2) / 3
    assert result["distance"].values == pytest.approx(np.full((2, 5), wanted), rel=1e-6)
    assert np.isnan(result["position"].values).all()
    shown(result)


def test_the_distance_of_rank_deficient_metrics_depends_on_the_regularisation_and_says_so():
    metrics = random_metrics(5, 6, jitter=2.0)
    values, columns = np.linalg.eigh(metrics)
    values[:, :3] = 0
    low_rank = np.einsum("sik,sk,sjk->sij", columns, values, columns)
    result = result_of("metric_distances", samples_of(low_rank), regularization=0.05)
    assert result["regularization"].values[-1] == 0.05
    assert (np.diff(result["distance"].values, axis=1) < 0).all()
    assert "one ε only" in shown(result)


def test_a_factor_for_all_metrics_changes_nothing(metrics, result):
    codes = np.random.default_rng(2).standard_normal((6, 7))
    other = result_of("metric_distances", samples_of(1e-6 * metrics, latent=codes))
    assert other["distance"].values == pytest.approx(result["distance"].values)


def test_zero_metrics_are_left_out_and_a_single_other_one_is_refused(metrics):
    some = np.concatenate([np.zeros((1, 7, 7)), metrics[:3], np.zeros((1, 7, 7))])
    result = result_of("metric_distances", samples_of(some))
    assert result["pair"].values.tolist() == [[1, 2], [1, 3], [2, 3]]
    assert int(result["zero_metrics"]) == 2
    shown(result)
    with pytest.raises(PullbackError, match="2"):
        result_of("metric_distances", samples_of(some[:2]))


def test_two_samples_have_a_distance_and_no_interval(metrics):
    result = result_of("metric_distances", samples_of(metrics[:2]))
    assert np.isfinite(result["distance"].values).all()
    assert np.isnan(result["distance_ci95"].values).all()
    shown(result)


def test_sampled_pairs_are_decided_by_the_seed_and_their_means_have_wider_intervals():
    metrics = random_metrics(12, 5, jitter=1.0)
    few, same, other = (
        result_of("metric_distances", samples_of(metrics), pairs=20, seed=seed, draws=20) for seed in (0, 0, 1)
    )
    every = result_of("metric_distances", samples_of(metrics), pairs=1000, draws=20)
    assert (int(few["pairs"]), int(every["pairs"])) == (20, 66)
    assert np.array_equal(few["pair"].values, same["pair"].values)
    assert np.array_equal(few["distance"].values, same["distance"].values)
    assert not np.array_equal(few["pair"].values, other["pair"].values)
    wanted = {
        tuple(pair): row for pair, row in zip(every["pair"].values.tolist(), every["pair_distance"].values, strict=True)
    }
    for pair, row in zip(few["pair"].values.tolist(), few["pair_distance"].values, strict=True):
        assert row == pytest.approx(wanted[tuple(pair)])
    assert few["distance"].values == pytest.approx(every["distance"].values, rel=0.2)
    low, high = few["distance_ci95"].values
    assert (low < few["distance"].values).all()
    assert (few["distance"].values < high).all()


def test_intervals_sum_over_pairs_with_a_common_sample(result):
    distances, pairs = result["pair_distance"].values[:, 0], result["pair"].values
    deviations = distances - distances.mean()
    total = sum(
        deviations[p] * deviations[q]
        for p in range(15)
        for q in range(15)
        if {*pairs[p].tolist()} & {*pairs[q].tolist()}
    )
    half = 1.96 * np.sqrt(max(total, (deviations**2).sum())) / 15
    main = CURVE.index(1e-4)
    low, high = result["distance_ci95"].values[:, 0, main]
    assert (low, high) == pytest.approx((distances.mean() - half, distances.mean() + half), rel=1e-4)
