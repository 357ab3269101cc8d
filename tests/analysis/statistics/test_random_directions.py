"""The null of random directions, against closed forms, Monte Carlo and whole spectra."""

import numpy as np
import pytest
from sample_metrics import FakeSweep, eigenpairs, random_metrics

from pullback.analysis.request import choose
from pullback.analysis.runner import compute_statistics
from pullback.analysis.samples import Samples
from pullback.analysis.statistics.random_directions import null_moments, percentiles, random_rates, variance_bounds


def analysed(samples, **options):
    asked = choose(["random_directions"], {"draws": 50, "directions": 400, **options})
    return compute_statistics(samples, asked)["random_directions"]


def test_a_single_nonzero_eigenvalue_has_the_moments_of_a_beta_distribution():
    """vᵀHv = v₁² is Beta(1/2, (n − 1)/2) distributed."""
    n = 7
    mean, variance = null_moments([[1.0]], n)
    a, b = 0.5, (n - 1) / 2
    assert mean == pytest.approx(a / (a + b))
    assert variance == pytest.approx(a * b / ((a + b) ** 2 * (a + b + 1)))


def test_an_isotropic_metric_has_no_variance():
    mean, variance = null_moments(np.full((1, 9), 0.3), 9)
    assert (mean, variance) == (pytest.approx(0.3), pytest.approx(0, abs=1e-16))


def test_the_formula_is_that_of_many_random_directions():
    values, vectors = eigenpairs(random_metrics(1, 12))
    rates = random_rates(values[0], vectors[0], 200_000, np.random.default_rng(0))
    mean, variance = null_moments(values, 12)
    assert rates.mean() == pytest.approx(mean[0], rel=0.01)
    assert rates.var() == pytest.approx(variance[0], rel=0.02)


@pytest.mark.parametrize("kept", [1, 4, 9, 12])
def test_the_variance_of_a_truncated_spectrum_lies_within_its_bounds(kept):
    values, _ = eigenpairs(random_metrics(8, 12, decay=4.0))
    low, high = variance_bounds(values[:, :kept], values.sum(axis=1), 12)
    variance = null_moments(values, 12)[1]
    assert (low <= variance * (1 + 1e-9)).all()
    assert (variance <= high * (1 + 1e-9)).all()
    if kept == 12:
        assert low == pytest.approx(high)
    equal = np.full((1, 12), 0.5)
    low, high = variance_bounds(equal[:, :kept], equal.sum(axis=1), 12)
    assert (low, high) == (pytest.approx(0, abs=1e-15), pytest.approx(0, abs=1e-15))


def test_percentiles_count_what_is_below_and_half_of_the_ties():
    assert percentiles([0.5, 2.0, 3.5, 9.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx([0, 37.5, 75, 100])


def test_the_statistic_gives_the_moments_and_agrees_with_its_own_check():
    metrics = random_metrics(30, 10)
    result = analysed(Samples.of_metrics(metrics))
    traces = np.trace(metrics, axis1=1, axis2=2)
    assert result["random_mean"].values == pytest.approx(traces / 10)
    found = result.json
    assert found["mean"]["value"] == pytest.approx(traces.mean() / 10)
    assert found["mean"]["ci95"][0] < found["mean"]["value"] < found["mean"]["ci95"][1]
    values = np.linalg.eigvalsh(metrics)[:, ::-1]
    assert found["largest"]["value"] == pytest.approx(np.mean(10 * values[:, 0] / traces))
    assert found["agreement"]["samples"] == 30
    for name in ("mean", "std"):
        assert found["agreement"][name]["within"] > 0.8
        assert 0.6 < found["agreement"][name]["rms"] < 1.5
    means, _ = np.linalg.eigh(metrics.mean(axis=0))
    assert found["axis"]["rate"] == pytest.approx(means[::-1])
    assert found["axis"]["ratio"] == pytest.approx(means[::-1] / means.mean())
    assert found["axis"]["percentile"][0] == 100
    assert found["axis"]["percentile"][-1] == 0
    ends = np.array(found["axis"]["ratio_ci95"])
    assert (ends[0] <= found["axis"]["ratio"]).all()
    assert (found["axis"]["ratio"] <= ends[1]).all()
    assert [table.title for table in result.tables()]
    assert result.figures()
    assert result.sentences()[-1].endswith("below the 5th.")


@pytest.mark.parametrize("whole", [True, False])
def test_a_truncated_sweep_takes_its_mean_from_the_trace_and_states_the_share(whole):
    metrics = random_metrics(6, 12)
    samples = Samples.of_sweep(FakeSweep(metrics, kept=4, whole=whole))
    result = analysed(samples, checked=3)
    found = result.json
    traces = np.trace(metrics, axis1=1, axis2=2)
    assert result["random_mean"].values == pytest.approx(traces / 12)
    assert found["trace_share"] == pytest.approx(samples.eigenvalues.sum() / traces.sum())
    low, high = result["random_std"].values
    true = np.sqrt(null_moments(np.linalg.eigvalsh(metrics), 12)[1])
    assert (low <= true + 1e-12).all()
    assert (true <= high + 1e-12).all()
    assert result["checked_sample"].size == 3
    assert result["formula_mean"].values == pytest.approx(samples.eigenvalues[samples.choose(3, 0)].sum(axis=1) / 12)
    assert found["trace"] == ("exact" if whole else "estimated")
    assert found["whole"] is whole
    assert result.cautions()


def test_zero_and_isotropic_metrics_are_no_trouble():
    metrics = random_metrics(5, 6)
    metrics[1], metrics[2] = 0.0, 2.0 * np.eye(6)
    result = analysed(Samples.of_metrics(metrics))
    assert result["random_mean"].values[[1, 2]] == pytest.approx([0.0, 2.0])
    assert result["random_std"].values[:, [1, 2]] == pytest.approx(0, abs=1e-7)
    assert result.json["agreement"]["samples"] == 3
    alike = analysed(Samples.of_metrics(np.array([np.eye(4)] * 3)))
    assert alike.json["axes_above"] == 0
    assert alike.json["agreement"]["samples"] == 0
    assert all(table.text() for table in alike.tables())


def test_the_seed_decides_the_numbers():
    samples = Samples.of_metrics(random_metrics(5, 6))
    assert analysed(samples).json == analysed(samples).json
    assert not np.array_equal(
        analysed(samples)["monte_carlo_mean"].values, analysed(samples, seed=1)["monte_carlo_mean"].values
    )
