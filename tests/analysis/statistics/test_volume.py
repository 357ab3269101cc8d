import numpy as np
import pytest
from sample_metrics import random_metrics, rotation
from scalar_samples import result_of, samples_of, shown

from pullback.analysis.statistics.volume import log_volumes
from pullback.errors import PullbackError


def diagonal(spectra):
    turn = rotation(len(spectra[0]))
    return np.array([(turn * np.asarray(spectrum)) @ turn.T for spectrum in spectra])


@pytest.fixture(scope="module")
def metrics():
    return random_metrics(9, 6)


def test_over_all_ranks_the_volume_is_half_the_log_determinant(metrics):
    result = result_of("volume", samples_of(metrics), floor=1e-12)
    assert result["volume"].values == pytest.approx(0.5 * np.linalg.slogdet(metrics)[1])
    assert float(result["volume_mean"]) == pytest.approx(0.5 * np.linalg.slogdet(metrics)[1].mean())
    assert int(result["samples_raised"]) == 0
    shown(result)


def test_the_volume_is_the_log_of_the_product_of_singular_values():
    jacobians = np.random.default_rng(0).standard_normal((5, 12, 4))
    metrics = 2 * np.einsum("smi,smj->sij", jacobians, jacobians)
    singular = np.linalg.svd(jacobians, compute_uv=False)[:, :3]
    volumes = result_of("volume", samples_of(metrics), ranks=3)["volume"].values
    assert volumes == pytest.approx(np.log(np.prod(singular, axis=1)) + 1.5 * np.log(2))


def test_eigenvalues_below_the_floor_count_as_the_floor_and_are_counted():
    result = result_of("volume", samples_of(diagonal([[4.0, 1.0, 1e-9], [2.0, 1.0, 0.5]])), floor=1e-3, ranks=3)
    floor = 3e-3
    assert float(result["floor"]) == pytest.approx(floor)
    assert result["volume"].values == pytest.approx([0.5 * np.log(4 * floor), 0.5 * np.log(1.0)])
    assert result["raised"].values.tolist() == [1, 0]
    assert int(result["samples_raised"]) == 1
    assert "upper bounds" in shown(result)


def test_by_default_null_directions_are_left_out():
    result = result_of("volume", samples_of(diagonal([[4.0, 1.0, 0.1, 0, 0], [3.0, 2.0, 0.2, 0, 0]])))
    assert int(result["ranks"]) == 3
    assert result["volume"].values == pytest.approx(0.5 * np.log([0.4, 1.2]))


def test_huge_and_tiny_spectra_neither_overflow_nor_underflow():
    spectra = np.array([np.full(400, 1e200), np.full(400, 1e200)])
    assert log_volumes(spectra, 400, 1e-200)[0] == pytest.approx(0.5 * 400 * np.log(1e200))
    assert log_volumes(1e-300 * np.ones((2, 400)), 400, 1e-306)[0] == pytest.approx(0.5 * 400 * np.log(1e-300))


def test_a_common_factor_shifts_all_volumes_and_no_spread(metrics):
    one, other = (result_of("volume", samples_of(factor * metrics), ranks=4) for factor in (1.0, 25.0))
    assert other["volume"].values - one["volume"].values == pytest.approx(4 * np.log(5.0))
    assert float(other["volume_sd"]) == pytest.approx(float(one["volume_sd"]))


def test_cut_spectra_give_the_same_leading_volume(metrics):
    cut, whole = samples_of(metrics, kept=3, whole=False), samples_of(metrics)
    assert result_of("volume", cut, ranks=3)["volume"].values == pytest.approx(
        result_of("volume", whole, ranks=3)["volume"].values
    )
    assert "3 kept ranks of 6" in shown(result_of("volume", cut))
    with pytest.raises(PullbackError, match="4"):
        result_of("volume", cut, ranks=4)


def test_a_zero_metric_has_no_volume_and_is_left_out(metrics):
    metrics = np.concatenate([metrics, np.zeros((1, 6, 6))])
    result = result_of("volume", samples_of(metrics), ranks=2)
    assert np.isnan(result["volume"].values[-1])
    assert int(result["zero_metrics"]) == 1
    assert float(result["volume_mean"]) == pytest.approx(np.mean(result["volume"].values[:-1]))
    shown(result)


def test_the_volume_that_follows_the_norm_correlates_with_it():
    codes = np.random.default_rng(0).standard_normal((20, 4))
    norms = np.linalg.norm(codes, axis=1)
    result = result_of("volume", samples_of(np.exp(norms)[:, None, None] * np.eye(4), latent=codes))
    assert result["volume"].values == pytest.approx(2 * norms)
    assert float(result["norm_correlation"]) == pytest.approx(1)
    assert result["norm_correlation_ci95"].values == pytest.approx([1, 1])
    shown(result)
    same = result_of("volume", samples_of(np.exp(norms)[:, None, None] * np.eye(4), latent=codes / norms[:, None]))
    assert np.isnan(float(same["norm_correlation"]))
    shown(same)
