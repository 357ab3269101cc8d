"""Measures of directions against axes: slow definitions, closed forms, and scipy."""

import numpy as np
import pytest
from sample_metrics import random_metrics
from scipy.linalg import subspace_angles

from pullback.analysis.samples import Samples
from pullback.analysis.spectra import random_direction_rate
from pullback.applications.alignment import (
    RandomRates,
    Span,
    against_shuffled,
    alignment,
    drawn_metrics,
    draws_for,
)

N = 9


@pytest.fixture(scope="module")
def basis():
    return np.linalg.qr(np.random.default_rng(1).standard_normal((N, N)))[0]


@pytest.fixture(scope="module")
def eigenvalues():
    return np.exp(-np.arange(N) / 2.0)


def directions(count, seed=2):
    rows = np.random.default_rng(seed).standard_normal((count, N))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def measured(vectors, axes, eigenvalues, null=None):
    span = Span(vectors)
    return alignment(span, span.basis @ axes.T, eigenvalues, np.array([0.0]) if null is None else null)


def test_every_measure_is_its_definition(basis, eigenvalues):
    vectors, null = directions(5), np.sort(np.random.default_rng(3).random(50))
    found = measured(vectors, basis, eigenvalues, null)
    metric = basis.T @ np.diag(eigenvalues) @ basis
    for k in range(1, 6):
        angles = subspace_angles(vectors[:k].T, basis[:k].T)
        assert found.overlap[k - 1] == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-12)
    for k in range(1, N + 1):
        assert found.captured[k - 1] == pytest.approx(np.mean(np.sum((vectors @ basis[:k].T) ** 2, axis=1)))
    rates = [v @ metric @ v for v in vectors]
    np.testing.assert_allclose(found.rate, rates, rtol=1e-12)
    np.testing.assert_allclose(found.percentile, [100 * np.mean(null < rate) for rate in rates])
    np.testing.assert_allclose(found.same, [abs(vectors[i] @ basis[i]) for i in range(5)])
    np.testing.assert_allclose(found.best, np.abs(vectors @ basis.T).max(axis=1))


def test_signs_change_nothing_and_the_axes_themselves_agree_wholly(basis, eigenvalues):
    signs = np.where(np.arange(N) % 2, -1.0, 1.0)[:, None]
    found = measured(signs * basis, basis, eigenvalues)
    np.testing.assert_allclose(found.overlap, 1)
    np.testing.assert_allclose(found.same, 1)
    np.testing.assert_allclose(found.rate, eigenvalues, rtol=1e-12)


def test_a_repeated_direction_adds_no_dimension(basis, eigenvalues):
    vectors = np.stack([basis[0], -basis[0], basis[1]])
    span = Span(vectors)
    assert span.ranks.tolist() == [1, 1, 2]
    assert measured(vectors, basis, eigenvalues).overlap.tolist() == pytest.approx([1, 1, 1])


def test_shuffled_axes_have_the_overlap_of_chance_and_the_rates_of_random_directions(eigenvalues):
    rates = RandomRates(N, 4000, seed=0)
    null = rates.sorted(eigenvalues)
    found = against_shuffled(Span(directions(4)), eigenvalues, null, 600, seed=0)
    k = np.arange(1, 5)
    np.testing.assert_allclose(found.overlap.mean(axis=0), k / N, atol=0.02)
    np.testing.assert_allclose(found.captured.mean(axis=0), np.arange(1, N + 1) / N, atol=0.02)
    assert found.percentile.mean() == pytest.approx(50, abs=3)


def test_dependent_directions_keep_their_angles_when_the_axes_are_shuffled(eigenvalues):
    vectors = np.stack([directions(1)[0], directions(1)[0]])
    found = against_shuffled(Span(vectors), eigenvalues, np.array([0.0]), 20, seed=0)
    np.testing.assert_allclose(found.rate[:, 0], found.rate[:, 1], rtol=1e-10)


def test_the_formula_of_the_null_agrees_with_drawn_directions(eigenvalues):
    drawn = RandomRates(N, 40_000, seed=1).sorted(eigenvalues)
    mean, deviation = random_direction_rate(eigenvalues)
    assert drawn.mean() == pytest.approx(mean, rel=0.02)
    assert drawn.std() == pytest.approx(deviation, rel=0.03)
    assert random_direction_rate(np.ones(4)) == (1, 0)


def test_a_drawn_metric_is_the_mean_of_the_samples_that_were_drawn():
    samples = Samples.of_metrics(metrics := random_metrics(6, 5))
    weights = samples.bootstrap(7, 3)
    expected = np.concatenate(list(weights.blocks())) @ metrics.reshape(6, -1) / 6
    found = np.stack(list(drawn_metrics(samples, metrics.mean(axis=0), 7, 3)))
    np.testing.assert_allclose(found.reshape(7, -1), expected, atol=1e-12)


def test_large_metrics_get_fewer_draws_and_none_rather_than_too_few():
    assert draws_for(100, 200) == 200
    assert 20 <= draws_for(700, 200) < 200
    assert draws_for(4096, 200) == 0
