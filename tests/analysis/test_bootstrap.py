import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from pullback.analysis import bootstrap as bootstrap_module
from pullback.analysis.bootstrap import Bootstrap, DrawnMeans, bootstrap_weights, interval, weighted_means


@given(st.integers(1, 30), st.integers(1, 20), st.integers(0, 2**32))
def test_every_draw_has_as_many_points_as_the_sample_and_a_seed_fixes_it(points, draws, seed):
    weights = bootstrap_weights(points, draws, seed)
    assert weights.shape == (draws, points)
    assert weights.min() >= 0
    assert (weights.sum(axis=1) == points).all()
    assert (weights == bootstrap_weights(points, draws, seed)).all()


def test_multiplicities_have_the_variance_of_equal_shares():
    weights = bootstrap_weights(10, 20_000, 1)
    assert weights.mean(axis=0) == pytest.approx(np.ones(10), abs=0.03)
    assert weights.var(axis=0) == pytest.approx(np.full(10, 0.9), abs=0.04)


@pytest.mark.parametrize(("points", "draws"), [(0, 5), (5, 0)])
def test_a_bootstrap_without_points_or_draws_is_refused(points, draws):
    with pytest.raises(ValueError, match="at least 1"):
        bootstrap_weights(points, draws, 0)


def test_weighted_means_are_means_of_the_repeated_points():
    values = np.random.default_rng(0).standard_normal((6, 2, 3))
    weights = bootstrap_weights(6, 4, 0)
    literal = [np.repeat(values, row, axis=0).mean(axis=0) for row in weights]
    assert weighted_means(weights, values) == pytest.approx(np.array(literal))


@pytest.mark.parametrize("kept_bytes", [0, 10**6])
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_draws_in_blocks_are_the_same_and_can_be_gone_through_again(monkeypatch, rows, kept_bytes):
    monkeypatch.setattr(bootstrap_module, "_BLOCK_BYTES", rows * 8 * 300)
    monkeypatch.setattr(bootstrap_module, "_KEPT_BYTES", kept_bytes)
    expected = np.random.default_rng(3).multinomial(300, np.full(300, 1 / 300), size=10)
    drawn = Bootstrap(300, 10, 3)
    assert drawn.shape == (10, 300)
    for _ in range(2):
        blocks = list(drawn.blocks())
        assert max(len(block) for block in blocks) == min(rows, 10)
        assert (np.concatenate(blocks) == expected).all()
    values = np.random.default_rng(0).standard_normal((300, 2, 3))
    assert weighted_means(drawn, values) == pytest.approx(weighted_means(expected, values), rel=1e-13)
    assert (bootstrap_weights(300, 10, 3) == expected).all()


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_values_that_come_in_parts_have_the_means_of_all_of_them(monkeypatch, rows):
    monkeypatch.setattr(bootstrap_module, "BUFFER_BYTES", rows * 8 * 3)
    values, weights = np.random.default_rng(0).standard_normal((30, 3)), Bootstrap(30, 10, 3)
    means = DrawnMeans(weights, 3)
    for start in range(0, 30, 7):
        means.add(values[start : start + 7])
    total, drawn = means.means()
    assert total == pytest.approx(values.mean(axis=0), rel=1e-12)
    assert drawn == pytest.approx(weighted_means(weights, values), rel=1e-12)
    few = DrawnMeans(weights, 3)
    few.add(values[:2])
    with pytest.raises(ValueError, match="2 of 30"):
        few.means()


def test_means_over_many_points_need_memory_for_a_few_draws_only(monkeypatch):
    monkeypatch.setattr(bootstrap_module, "_BLOCK_BYTES", 2**20)
    monkeypatch.setattr(bootstrap_module, "_KEPT_BYTES", 0)
    values = np.ones((20_000, 2))
    tracemalloc.start()
    try:
        assert weighted_means(Bootstrap(20_000, 200, 0), values) == pytest.approx(1)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20, "all multiplicities take 32 MB"
    finally:
        tracemalloc.stop()


def test_the_interval_of_a_mean_agrees_with_scipy():
    values = np.random.default_rng(0).exponential(size=40)
    ours = interval(weighted_means(bootstrap_weights(40, 20_000, 0), values))
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), rel=0.02)


def test_an_interval_has_its_level_and_works_column_by_column():
    values = np.arange(101.0)
    low, high = interval(np.stack([values, -values], axis=1), 0.9)
    assert low.tolist() == pytest.approx([5, -95])
    assert high.tolist() == pytest.approx([95, -5])


def test_whole_numbers_keep_whole_ends():
    low, high = interval(np.array([3, 4, 4, 9]), 0.5)
    assert (low, high) == (3, 4)


def test_draws_without_a_value_are_left_out():
    values = np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]])
    low, high = interval(values, 0.5)
    assert (low[0], high[0]) == (1.5, 2.5)
    assert np.isnan([low[1], high[1]]).all()


def test_an_impossible_level_and_an_empty_set_of_draws_are_refused():
    with pytest.raises(ValueError, match="level"):
        interval([1.0], 1.0)
    with pytest.raises(ValueError, match="draw"):
        interval([])
