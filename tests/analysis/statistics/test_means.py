import json

import numpy as np
import pytest
import scipy.linalg
from sample_metrics import FakeSweep, random_metrics, rotation

from pullback.analysis.bootstrap import bootstrap_weights
from pullback.analysis.grassmann import geodesic_distance, karcher_mean, orthonormal, principal_angles
from pullback.analysis.runner import compute
from pullback.analysis.samples import Samples
from pullback.analysis.statistics.means import MEANS, Options


def means_of(samples, **options):
    return compute(samples, "means", Options(**{"sizes": (1, 2, 3), "draws": 8, **options}))


def top(matrix, k):
    return np.linalg.eigh(matrix)[1].T[::-1][:k]


@pytest.fixture(scope="module")
def metrics():
    return random_metrics(10, 6, jitter=0.6)


@pytest.fixture(scope="module")
def result(metrics):
    return means_of(Samples.of_metrics(metrics), regularization=1e-3)


def literal_log_euclidean(metrics, epsilon):
    n = metrics.shape[1]
    logs = [scipy.linalg.logm(metric + epsilon * np.trace(metric) / n * np.eye(n)) for metric in metrics]
    return scipy.linalg.expm(np.mean(logs, axis=0))


def test_the_leading_subspaces_are_those_of_the_literal_means(result, metrics):
    literal = literal_log_euclidean(metrics, 1e-3)
    karcher = karcher_mean(np.stack([top(metric, 3) for metric in metrics]))
    wanted = [top(metrics.mean(axis=0), 3), top(literal, 3), karcher]
    for axes, frame in zip(result["axis"].values, wanted, strict=True):
        np.testing.assert_allclose(principal_angles(axes, frame), 0, atol=1e-7)


def test_overlaps_and_angles_are_scipys(result, metrics):
    spaces = {
        "arithmetic": top(metrics.mean(axis=0), 2),
        "log-Euclidean": top(literal_log_euclidean(metrics, 1e-3), 2),
        "Grassmannian": karcher_mean(np.stack([top(metric, 2) for metric in metrics])),
    }
    for pair in result["pair"].values:
        one, other = (spaces[name].T for name in pair.split(" – "))
        angles = scipy.linalg.subspace_angles(one, other)
        at = result.dataset.sel(pair=pair, size=2)
        assert float(at["overlap"]) == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-9)
        assert float(at["largest_angle"]) == pytest.approx(np.degrees(angles.max()), abs=1e-5)
        assert float(at["random_overlap"]) == pytest.approx(2 / 6)


def test_the_interval_is_that_of_means_that_are_computed_again(result, metrics):
    drawn = []
    for row in bootstrap_weights(10, 8, 0):
        copies = np.repeat(metrics, row, axis=0)
        one, other = top(copies.mean(axis=0), 2), top(literal_log_euclidean(copies, 1e-3), 2)
        drawn.append(np.mean(np.cos(scipy.linalg.subspace_angles(one.T, other.T)) ** 2))
    at = result.dataset.isel(pair=0, size=1)
    value, spread = float(at["overlap"]), 1.96 * np.std(drawn, ddof=1)
    wanted = np.clip([value - spread, value + spread], 0, 1)
    np.testing.assert_allclose(at["overlap_ci95"].values, wanted, atol=1e-8)


def test_the_overlap_with_the_samples_is_literal(result, metrics):
    frame = top(metrics.mean(axis=0), 2)
    wanted = np.mean([np.sum((frame @ top(metric, 2).T) ** 2) / 2 for metric in metrics])
    at = result.dataset.sel(mean="arithmetic", size=2)
    assert float(at["sample_overlap"]) == pytest.approx(wanted)
    low, high = at["sample_overlap_ci95"].values
    assert low < wanted < high


def test_metrics_with_common_axes_have_one_mean():
    turn, spectra = rotation(5), np.random.default_rng(0).uniform(1, 2, (8, 5)) * [100, 50, 10, 5, 1]
    result = means_of(Samples.of_metrics(np.einsum("ij,sj,kj->sik", turn, spectra, turn)))
    np.testing.assert_allclose(result["overlap"], 1, atol=1e-12)
    np.testing.assert_allclose(result["overlap_ci95"], 1, atol=1e-12)
    np.testing.assert_allclose(result["largest_angle"], 0, atol=1e-5)


def test_a_factor_of_one_metric_turns_the_arithmetic_mean_only(metrics):
    scaled = metrics * np.where(np.arange(10) == 3, 1e4, 1.0)[:, None, None]
    before, after = (means_of(Samples.of_metrics(each), draws=1)["axis"].values for each in (metrics, scaled))
    turned = [float(geodesic_distance(one, other)) for one, other in zip(before, after, strict=True)]
    assert turned[0] > 0.1
    assert max(turned[1:]) < 1e-6


def test_zero_isotropic_and_rank_deficient_metrics_count_where_they_have_axes(metrics):
    basis = rotation(6)[:2]
    odd = np.concatenate([metrics, np.zeros((1, 6, 6)), np.eye(6)[None], (basis.T @ np.diag([2.0, 1.0]) @ basis)[None]])
    result = means_of(Samples.of_metrics(odd))
    assert int(result["log_euclidean_samples"]) == 12
    assert result["grassmannian_samples"].values.tolist() == [11, 11, 10]
    assert np.isfinite(result["overlap"]).all()
    wanted = karcher_mean(np.stack([*(top(metric, 2) for metric in metrics), basis]))
    literal = top(odd.mean(axis=0), 2)
    found = float(result.dataset.sel(pair="arithmetic – Grassmannian", size=2)["overlap"])
    assert found == pytest.approx(np.mean(np.cos(scipy.linalg.subspace_angles(literal.T, wanted.T)) ** 2), abs=1e-7)


def test_isotropic_metrics_have_no_means_to_compare():
    result = means_of(Samples.of_metrics(np.stack([np.eye(4), 2 * np.eye(4), 3 * np.eye(4)])))
    assert np.isnan(result["overlap"]).all()
    assert len(result.sentences()) == 1
    json.dumps(result.json, allow_nan=False)
    assert all(len(table.text()) for table in result.tables())


@pytest.mark.parametrize("whole", [True, False])
def test_a_cut_spectrum_states_its_share_and_stays_near_the_whole(metrics, whole):
    cut = means_of(Samples.of_sweep(FakeSweep(metrics, kept=4, whole=whole)))
    every = means_of(Samples.of_sweep(FakeSweep(metrics)))
    shares = np.linalg.eigvalsh(metrics)[:, 2:].sum() / np.trace(metrics, axis1=1, axis2=2).sum()
    assert float(cut["trace_share"]) == pytest.approx(shares)
    assert len(cut.cautions()) == 1
    assert every.cautions() == []
    if whole:
        np.testing.assert_allclose(principal_angles(cut["axis"][0], every["axis"][0]), 0, atol=1e-6)
    np.testing.assert_allclose(cut["overlap"], every["overlap"], atol=0.15)


def test_a_cut_logarithm_is_that_of_the_trace_spread_evenly():
    turn = rotation(4)
    spectra = np.array([[8.0, 4, 1, 1], [9, 3, 2, 2]])
    metrics = np.einsum("ij,sj,kj->sik", turn, spectra, turn)
    metrics[1] = orthonormal(turn + 0.2).T @ np.diag(spectra[1]) @ orthonormal(turn + 0.2)
    cut, every = (means_of(Samples.of_sweep(FakeSweep(metrics, kept=kept)), sizes=(2,)) for kept in (2, 4))
    np.testing.assert_allclose(principal_angles(cut["axis"][1], every["axis"][1]), 0, atol=1e-6)


def test_the_result_has_tables_words_and_one_figure(result):
    assert [len(table.rows) for table in result.tables()] == [9, 3]
    assert str(MEANS[1]) in result.sentences()[0]
    (figure,) = result.figures().values()
    assert figure.get_label() == "means-overlap"
    assert set(result.json) >= {"overlap", "overlap_ci95", "largest_angle", "largest_angle_ci95", "random_overlap"}
