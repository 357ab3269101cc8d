"""Sampled pairs and the errors of means over pairs, against the whole matrix and slow versions."""

from itertools import combinations

import numpy as np
import pytest
from sample_metrics import eigenpairs, random_metrics

from pullback.analysis import pair_sampling
from pullback.analysis.bootstrap import bootstrap_weights
from pullback.analysis.pair_kernel import Spectra
from pullback.analysis.pair_matrix import matrices
from pullback.analysis.pair_sampling import PairStream, compare_sampled, deviations, sampling_error
from pullback.analysis.pair_summary import dyadic_error, summarize, summarize_sampled


@pytest.fixture(scope="module")
def metrics():
    return eigenpairs(random_metrics(40, 10, jitter=0.8))


@pytest.fixture(scope="module")
def every(metrics):
    return matrices(Spectra(metrics[0]), metrics[1])


@pytest.mark.parametrize("listed", [10**6, 0], ids=["shuffled", "drawn"])
def test_the_stream_gives_every_pair_once_and_the_seed_decides_the_order(listed, monkeypatch):
    monkeypatch.setattr(pair_sampling, "MOST_LISTED", listed)
    stream = PairStream(9, 0)
    taken = [stream.take(10), stream.take(10), stream.take(100)]
    assert [len(few) for few in taken] == [10, 10, 16]
    assert sorted(map(tuple, np.concatenate(taken).tolist())) == list(combinations(range(9), 2))
    assert np.array_equal(PairStream(9, 0).take(10), taken[0])
    assert not np.array_equal(PairStream(9, 1).take(10), taken[0])
    firsts = [tuple(PairStream(4, seed).take(1)[0]) for seed in range(600)]
    counts = [firsts.count(pair) for pair in combinations(range(4), 2)]
    assert max(abs(count - 100) for count in counts) < 45, "five standard deviations"


def test_sampled_pairs_have_the_values_of_the_matrix(metrics, every):
    pairs, values = compare_sampled(Spectra(metrics[0]), metrics[1], seed=1, pairs=50)
    i, j = pairs.T
    assert len(pairs) == 50
    assert np.array_equal(values.log, [every.log[i, j], every.log[j, i]])
    assert np.array_equal(values.linear, [every.linear[i, j], every.linear[j, i]])
    assert np.array_equal(values.vec, every.vec[i, j])


def test_pairs_are_read_a_few_at_a_time(metrics, monkeypatch):
    class Lazy:
        shape = metrics[1].shape
        most = 0

        def __getitem__(self, samples):
            part = metrics[1][samples]
            Lazy.most = max(Lazy.most, len(part))
            return part

    whole = compare_sampled(Spectra(metrics[0]), metrics[1], seed=1, pairs=50)[1]
    monkeypatch.setattr(pair_sampling, "TILE_BYTES", 8 * 100 * 4)
    assert np.array_equal(compare_sampled(Spectra(metrics[0]), Lazy(), seed=1, pairs=50)[1].log, whole.log)
    assert 0 < Lazy.most <= 8


def test_sampling_ends_when_every_mean_is_known_well_enough(metrics, monkeypatch):
    monkeypatch.setattr(pair_sampling, "LEAST_PAIRS", 20)
    spectra, calls = Spectra(metrics[0]), []
    pairs, values = compare_sampled(
        spectra, metrics[1], seed=0, standard_error=0.01, progress=lambda *at: calls.append(at)
    )
    errors = [sampling_error(deviations(each), 780) for each in (values.log, values.linear, values.vec[None])]
    assert 20 < len(pairs) < 780
    assert max(errors) <= 0.01
    assert calls[-1] == (2 * len(pairs), 2 * len(pairs))
    assert len(compare_sampled(spectra, metrics[1], seed=0, standard_error=1e-9)[0]) == 780, "then all are compared"
    assert len(compare_sampled(spectra, metrics[1], seed=0, standard_error=0.5)[0]) == 20


def test_the_standard_error_is_the_spread_of_the_estimate_over_seeds(metrics, every):
    truth = every.log[~np.eye(40, dtype=bool)].mean()
    found = []
    for seed in range(80):
        pairs, values = compare_sampled(Spectra(metrics[0]), metrics[1], seed=seed, pairs=60)
        summary = summarize_sampled(pairs, values.log, np.ones((2, 40), dtype=np.int64))
        found.append((summary.mean - truth) / summary.standard_error)
    assert np.std(found) == pytest.approx(1, abs=0.25), "80 draws give it to 0.08"
    assert abs(np.mean(found)) < 0.4


def test_of_all_pairs_the_sampled_summary_is_that_of_the_matrix(metrics, every):
    weights = bootstrap_weights(40, 200, 0)
    pairs, values = compare_sampled(Spectra(metrics[0]), metrics[1], seed=0, pairs=780)
    for sampled, matrix in ((values.log, every.log), (values.vec[None], every.vec)):
        ours, whole = summarize_sampled(pairs, sampled, weights), summarize(matrix, weights)
        for name in ("mean", "std", "median", "pairs", "defined", "standard_error", "std_ci95", "median_ci95"):
            assert getattr(ours, name) == pytest.approx(getattr(whole, name), abs=1e-12), name
        assert ours.total_error == pytest.approx(whole.total_error, rel=0.3), "two ways to the same"
        assert ours.ci95[0] < ours.mean < ours.ci95[1]


def test_the_dyadic_error_is_the_double_sum_over_pairs_that_share_a_sample():
    generator = np.random.default_rng(0)
    effect = generator.standard_normal(8)
    pairs = np.array(list(combinations(range(8), 2)))[::2]
    sums = effect[pairs].sum(axis=1) + 0.1 * generator.standard_normal(len(pairs))
    sums -= sums.mean()
    double = sum(a * b for p, a in zip(pairs, sums) for q, b in zip(pairs, sums) if {*p} & {*q})  # noqa: B905
    assert dyadic_error(pairs, sums, 8) == pytest.approx(np.sqrt(double) / len(pairs))
    alone = np.array([[0, 1], [2, 3], [4, 5]])
    assert dyadic_error(alone, np.array([1.0, -2.0, 1.0]), 8) == pytest.approx(np.sqrt(6) / 3)


def test_pairs_without_a_correlation_count_for_nothing():
    pairs, weights = np.array([[0, 1], [1, 2], [0, 3]]), bootstrap_weights(4, 50, 0)
    values = np.array([[0.5, np.nan, 0.7], [0.7, np.nan, np.nan]])
    summary = summarize_sampled(pairs, values, weights)
    assert (summary.pairs, summary.defined) == (6, 3)
    assert summary.mean == pytest.approx(1.9 / 3)
    nothing = summarize_sampled(pairs, np.full((2, 3), np.nan), weights)
    assert nothing.defined == 0
    assert np.isnan(nothing.mean)


def test_standard_deviation_and_median_have_the_intervals_of_the_draws():
    matrix = np.random.default_rng(0).uniform(size=(6, 6))
    weights = bootstrap_weights(6, 200, 0)
    spreads, medians = [], []
    for row in weights:
        drawn = np.repeat(np.arange(6), row)
        entries = [matrix[i, j] for i in drawn for j in drawn if i != j]
        if entries:
            spreads.append(np.std(entries))
            medians.append(np.quantile(entries, 0.5, method="lower"))
    summary = summarize(matrix, weights)
    assert summary.std_ci95 == pytest.approx(tuple(np.quantile(spreads, [0.025, 0.975])))
    assert summary.median_ci95 == pytest.approx(tuple(np.quantile(medians, [0.025, 0.975])))
