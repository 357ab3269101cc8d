import itertools

import numpy as np
import pytest

from pullback.analysis.bootstrap import bootstrap_weights
from pullback.analysis.pair_samples import nearest_pairs, pair_interval, pair_mean, random_pairs


@pytest.mark.parametrize("samples", [2, 3, 7])
def test_few_pairs_are_all_pairs(samples):
    wanted = set(itertools.combinations(range(samples), 2))
    assert {tuple(pair) for pair in random_pairs(samples, 100, 0).tolist()} == wanted


def test_drawn_pairs_are_different_ordered_and_uniform():
    drawn = [random_pairs(12, 20, seed) for seed in range(400)]
    for pairs in drawn[:20]:
        assert len({tuple(pair) for pair in pairs.tolist()}) == 20
    every = np.concatenate(drawn)
    assert (every[:, 0] < every[:, 1]).all()
    counts = np.bincount(every[:, 0] * 12 + every[:, 1], minlength=144)
    assert np.count_nonzero(counts) == 66
    assert counts.max() < 1.5 * 400 * 20 / 66
    with pytest.raises(ValueError, match="2 samples"):
        random_pairs(1, 5, 0)


def test_pairs_of_many_samples_are_within_range():
    pairs = random_pairs(100_000, 5000, 3)
    assert (pairs[:, 0] >= 0).all()
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert 95_000 < pairs.max() < 100_000


def test_nearest_pairs_are_literal():
    codes = np.random.default_rng(0).standard_normal((300, 5))
    apart = np.linalg.norm(codes[:, None] - codes[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    wanted = {tuple(sorted((i, int(j)))) for i, j in enumerate(apart.argmin(axis=1))}
    assert {tuple(pair) for pair in nearest_pairs(codes).tolist()} == wanted


def test_means_over_pairs_are_those_of_a_literal_bootstrap():
    generator = np.random.default_rng(1)
    pairs, weights = random_pairs(6, 100, 0), bootstrap_weights(6, 20, 0)
    values = generator.standard_normal((15, 2))
    values[3, 0] = np.nan
    mean, drawn = pair_mean(pairs, values, weights)
    assert mean == pytest.approx(np.nanmean(values, axis=0))
    for row, found in zip(weights, drawn, strict=True):
        copies = np.repeat(np.arange(6), row)
        seen = [
            values[np.flatnonzero((pairs == sorted((a, b))).all(axis=1))[0]]
            for a, b in itertools.combinations(copies, 2)
            if a != b
        ]
        assert found == pytest.approx(np.nanmean(seen, axis=0))
    wanted = np.quantile(drawn, [0.025, 0.975], axis=0)
    np.testing.assert_allclose(pair_interval(pairs, values, drawn), wanted)


def test_one_pair_has_no_interval():
    pairs, weights = random_pairs(2, 1, 0), bootstrap_weights(2, 20, 0)
    mean, drawn = pair_mean(pairs, [1.5], weights)
    assert mean == pytest.approx(1.5)
    assert np.isnan(pair_interval(pairs, [1.5], drawn)).all()
