import numpy as np
import pytest
from sample_metrics import random_metrics, rotation
from scalar_samples import result_of, samples_of, shown
from scipy.stats import entropy

RANKS = ("effective_rank", "participation_ratio", "local_rank")


def jacobians(seed=0, samples=6, rows=15, n=5):
    generator = np.random.default_rng(seed)
    return generator.standard_normal((samples, rows, n)) * np.exp(-np.arange(n))


def metrics_of(maps):
    return 2 * np.einsum("smi,smj->sij", maps, maps)


def spectrum(values):
    turn = rotation(len(values))
    return (turn * np.asarray(values, dtype=float)) @ turn.T


def test_rank_and_scaling_are_those_of_the_singular_values_of_the_jacobian():
    maps = jacobians()
    result = result_of("local_geometry", samples_of(metrics_of(maps)))
    singular = np.linalg.svd(maps, compute_uv=False)
    assert result["local_rank"].values == pytest.approx(np.exp(entropy(singular, axis=1)))
    assert result["local_scaling"].values == pytest.approx(
        0.5 * np.linalg.slogdet(np.einsum("smi,smj->sij", maps, maps))[1]
    )
    assert result["effective_rank"].values == pytest.approx(np.exp(entropy(singular**2, axis=1)))
    assert result["participation_ratio"].values == pytest.approx(
        (singular**2).sum(axis=1) ** 2 / (singular**4).sum(axis=1)
    )
    assert result["local_rank_mean"].values == pytest.approx([result["local_rank"].values.mean()] * 2)
    assert "complexity" in shown(result)


@pytest.mark.parametrize("equal", [1, 3, 6])
def test_equal_eigenvalues_count_themselves(equal):
    one = spectrum([7.0] * equal + [0.0] * (6 - equal))
    result = result_of("local_geometry", samples_of([one, 5 * one]))
    for name in RANKS:
        assert result[name].values == pytest.approx([equal, equal], abs=1e-5)
    assert result["singular_values"].values.tolist() == [equal, equal]
    assert result["local_scaling"].values == pytest.approx(equal * np.log(np.sqrt([3.5, 17.5])))


def test_null_directions_leave_the_scaling_alone_and_a_different_number_is_said():
    result = result_of("local_geometry", samples_of([spectrum([4, 2, 1e-9]), spectrum([4, 2, 1])]))
    assert result["local_scaling"].values[0] == pytest.approx(0.5 * (np.log(2.0) + np.log(1.0)))
    assert result["singular_values"].values.tolist() == [2, 3]
    assert "volume" in shown(result)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("kept", [1, 4, 9])
def test_cut_spectra_bound_the_ranks_of_whole_ones(kept, whole):
    metrics = random_metrics(8, 10, decay=3.0)
    true = result_of("local_geometry", samples_of(metrics))
    cut = result_of("local_geometry", samples_of(metrics, kept=kept, whole=whole))
    for name in RANKS:
        assert (cut[name].values <= true[name].values + 1e-9).all()
        assert (true[name].values <= cut[f"{name}_greatest"].values + 1e-9).all()
        assert (cut[f"{name}_greatest"].values <= 10 + 1e-9).all()
        low, high = cut[f"{name}_mean_ci95"].values
        assert low <= true[f"{name}_mean_ci95"].values[0] + 1e-9
        assert high >= true[f"{name}_mean_ci95"].values[1] - 1e-9
    assert f"{kept} of 10" in shown(cut)


@pytest.mark.parametrize("name", RANKS)
def test_bounds_are_near_when_the_rest_is_small(name):
    metrics = random_metrics(5, 12, decay=20.0)
    cut = result_of("local_geometry", samples_of(metrics, kept=10))
    low, high = cut[f"{name}_mean"].values
    assert high - low < 0.02 * low


def test_bounds_are_attained_by_equal_and_by_concentrated_rests():
    concentrated, equal = spectrum([8, 4, 4, 4, 0, 0, 0, 0]), spectrum([8, 4, *[8 / 6] * 6])
    for metric, end in ((concentrated, ""), (equal, "_greatest")):
        whole = result_of("local_geometry", samples_of([metric] * 2))
        cut = result_of("local_geometry", samples_of([metric] * 2, kept=2))
        for name in ("effective_rank", "participation_ratio"):
            assert cut[name + end].values == pytest.approx(whole[name].values)


def test_a_zero_metric_is_left_out():
    metrics = np.concatenate([metrics_of(jacobians()), np.zeros((1, 5, 5))])
    for kept in (None, 3):
        result = result_of("local_geometry", samples_of(metrics, kept=kept))
        for name in (*RANKS, "local_scaling"):
            assert np.isnan(result[name].values[-1])
            assert np.isfinite(result[f"{name}_mean"].values).all()
        assert int(result["zero_metrics"]) == 1
        shown(result)


def test_the_scaling_that_follows_the_norm_correlates_with_it():
    codes = np.random.default_rng(3).standard_normal((12, 3))
    metrics = np.exp(-np.linalg.norm(codes, axis=1))[:, None, None] * spectrum([4, 2, 1])
    result = result_of("local_geometry", samples_of(metrics, latent=codes))
    assert float(result["local_scaling_norm_correlation"]) == pytest.approx(-1)
    assert np.isnan(float(result["local_rank_norm_correlation"])), "all ranks are equal"
    shown(result)
