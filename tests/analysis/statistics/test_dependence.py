"""Dependence on the code, on metrics that depend on it in a known way and on metrics that do not."""

import numpy as np
import pytest
from sample_metrics import eigenpairs, random_metrics
from scipy.stats import pearsonr

from pullback.analysis.bootstrap import Bootstrap
from pullback.analysis.correlations import correlations
from pullback.analysis.protocol import About
from pullback.analysis.request import choose
from pullback.analysis.runner import compute_statistics
from pullback.analysis.samples import Samples
from pullback.analysis.statistics.dependence import (
    Options,
    class_difference,
    holm,
    pair_correlation,
    sample_correlation,
)
from pullback.errors import PullbackError


def samples_of(metrics, codes, condition=None, kept=None):
    values, vectors = eigenpairs(metrics, kept)
    columns = {
        "eigenvalue": values,
        "eigenvector": vectors,
        "trace": np.trace(metrics, axis1=1, axis2=2),
        "latent": codes,
    }
    if condition is not None:
        columns["condition"] = np.asarray(condition)
    return Samples(About("fake", "S1", len(metrics)), columns, mean=metrics.mean(axis=0))


def analysed(samples, **options):
    asked = choose(["dependence"], {"draws": 100, "permutations": 99, **options})
    return compute_statistics(samples, asked)["dependence"]


@pytest.fixture(scope="module")
def turning():
    """Metrics whose axes turn with the first coordinate of the code, and whose trace grows with its norm."""
    generator = np.random.default_rng(0)
    codes = generator.standard_normal((30, 6)) * generator.uniform(0.3, 2, (30, 1))
    skew = np.triu(generator.standard_normal((6, 6)), 1)
    skew -= skew.T
    spectrum = 10.0 ** -np.arange(6.0)
    metrics = []
    for code in codes:
        axes = np.linalg.qr(np.eye(6) + 0.3 * code[0] * skew)[0]
        metrics.append((axes * spectrum * np.exp(np.linalg.norm(code))) @ axes.T)
    return np.array(metrics), codes


def test_metrics_that_turn_with_the_code_depend_on_its_distance_and_norm(turning):
    metrics, codes = turning
    result = analysed(samples_of(metrics, codes))
    found = result.json["effects"]
    distance = found["C_log with the distance of codes"]
    values, vectors = eigenpairs(metrics)
    log = correlations(values, vectors)[0]
    i, j = np.triu_indices(30, 1)
    r = pearsonr((log[i, j] + log[j, i]) / 2, np.linalg.norm(codes[i] - codes[j], axis=1))[0]
    assert distance["value"] == pytest.approx(r, abs=1e-5)
    assert (distance["p"], distance["pairs"], distance["samples"]) == (0.01, 435, 30)
    assert distance["ci95"][0] < r < distance["ci95"][1] < 0
    norm = found["log trace with the norm of the code"]
    assert norm["value"] == pytest.approx(1, abs=1e-6)
    assert norm["p"] == 0.01
    assert norm["pairs"] is None
    assert all(each["p_holm"] >= each["p"] for each in found.values() if each["p"] is not None)
    assert "C_log with the distance of codes" in result.sentences()[0]
    assert len(result.tables()[0].rows) == len(found)
    assert result.figures()


def test_metrics_without_a_relation_to_the_code_have_p_values_that_are_uniform():
    codes = np.random.default_rng(1).standard_normal((12, 4))
    p = []
    for seed in range(20):
        samples = samples_of(random_metrics(12, 5, seed=seed), codes)
        p.append(analysed(samples, permutations=19, seed=seed).json["effects"]["C_log with the distance of codes"]["p"])
    assert np.mean(np.array(p) <= 0.25) < 0.6
    assert np.mean(p) == pytest.approx(0.5, abs=0.25)


def test_classes_whose_metrics_differ_are_found_and_classes_are_resampled():
    groups = [random_metrics(6, 6, jitter=0.1, seed=seed) for seed in range(4)]
    classes = np.repeat(np.arange(4), 6)
    codes = np.random.default_rng(0).standard_normal((24, 6))
    result = analysed(samples_of(np.concatenate(groups), codes, classes))
    found = result.json["effects"]["C_log of one class minus of two"]
    assert found["value"] > 0.2
    assert found["p"] == 0.01
    assert found["unit"] == "class"
    assert 0 < found["ci95"][0] < found["value"] < found["ci95"][1]
    shuffled = np.random.default_rng(0).permutation(classes)
    other = analysed(samples_of(np.concatenate(groups), codes, shuffled)).json["effects"]
    assert other["C_log of one class minus of two"]["p"] > 0.05


def test_the_interval_of_a_class_difference_is_that_of_drawn_classes():
    generator = np.random.default_rng(0)
    classes = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    i, j = np.triu_indices(8, 1)
    pairs, values = np.column_stack([i, j]), generator.uniform(size=28)
    options = Options(draws=60, permutations=19)
    effect = class_difference("", values, classes, pairs, options)
    same = classes[i] == classes[j]
    assert effect.value == pytest.approx(values[same].mean() - values[~same].mean())
    drawn = []
    for row in np.random.default_rng(0).multinomial(3, np.full(3, 1 / 3), size=60):
        times = np.where(same, row[classes[i]], row[classes[i]] * row[classes[j]])
        if times[~same].any():
            means = [np.repeat(values[part], times[part]).mean() for part in (same, ~same)]
            drawn.append(means[0] - means[1])
    assert effect.ci95 == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))
    assert np.isnan(class_difference("", values, np.zeros(8, int), pairs, options).value)


def test_the_interval_of_a_correlation_over_pairs_covers_the_truth():
    """Values and distances are sums of effects of the samples, so that pairs are far from independent."""
    generator, inside, i_j = np.random.default_rng(0), 0, np.triu_indices(40, 1)
    pairs = np.column_stack(i_j)
    for _ in range(60):
        a, b = generator.standard_normal((2, 40))
        values, other = a[pairs].sum(axis=1), (0.6 * a + 0.8 * b)[pairs].sum(axis=1)
        effect = pair_correlation("", values, lambda order, x=other: x, pairs, 40, Options(permutations=19))
        inside += effect.ci95[0] < 0.6 < effect.ci95[1]
    assert inside > 48, "independent pairs would cover it in 30 of 60"


def test_a_correlation_over_samples_has_the_interval_of_the_draws():
    generator = np.random.default_rng(0)
    x = generator.standard_normal(15)
    y = x + generator.standard_normal(15)
    y[3] = np.nan
    weights = Bootstrap(15, 80, 0)
    effect = sample_correlation("", x, y, weights, Options(permutations=19))
    known = np.isfinite(y)
    assert effect.value == pytest.approx(pearsonr(x[known], y[known])[0])
    assert effect.samples == 14
    drawn = []
    for row in np.concatenate(list(weights.blocks())):
        which = np.repeat(np.arange(15), row)
        which = which[known[which]]
        drawn.append(np.corrcoef(x[which], y[which])[0, 1])
    assert effect.ci95 == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_holm_multiplies_by_the_number_of_tests_that_are_left():
    assert holm(np.array([0.01, 0.04, np.nan, 0.03])) == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)
    assert holm(np.array([0.9, 0.8])).tolist() == [1, 1]


def test_what_does_not_vary_has_no_relation(turning):
    metrics, codes = turning
    sphere = codes / np.linalg.norm(codes, axis=1, keepdims=True)
    result = analysed(samples_of(metrics, sphere.astype(np.float32), np.zeros(30, int)))
    found = result.json["effects"]
    assert found["log trace with the norm of the code"]["value"] is None
    assert "C_log of one class minus of two" not in found
    assert "norm of the code" in result.cautions()[0]
    assert result.tables()[0].text()


@pytest.mark.parametrize("kept", [1, 3])
def test_truncated_zero_and_isotropic_metrics_are_left_out_where_they_have_no_number(turning, kept):
    metrics, codes = turning[0].copy(), turning[1]
    metrics[0], metrics[1] = 0.0, np.eye(6)
    found = analysed(samples_of(metrics, codes, kept=kept)).json["effects"]
    if kept > 1:
        assert found["C_log with the distance of codes"]["pairs"] == 28 * 27 // 2
    else:
        assert found["C_log with the distance of codes"]["value"] is None
    assert found["log trace with the norm of the code"]["samples"] == 29


def test_a_sweep_without_codes_says_so(turning):
    samples = Samples.of_metrics(turning[0])
    with pytest.raises(PullbackError, match="codes"):
        analysed(samples)
