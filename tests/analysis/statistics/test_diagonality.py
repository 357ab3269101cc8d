import json

import numpy as np
import pytest
from sample_metrics import FakeSweep, eigenpairs, random_metrics, rotation

from pullback.analysis.bootstrap import bootstrap_weights
from pullback.analysis.grassmann import random_frames
from pullback.analysis.runner import compute
from pullback.analysis.samples import Samples
from pullback.analysis.statistics import diagonality as module
from pullback.analysis.statistics.diagonality import Options, couplings, diagonality, random_diagonality


def diagonality_of(samples, **options):
    return compute(samples, "diagonality", Options(**{"leading": 4, "draws": 30, **options}))


@pytest.fixture(scope="module")
def metrics():
    return random_metrics(8, 6, jitter=0.8)


@pytest.fixture(scope="module")
def result(metrics):
    return diagonality_of(Samples.of_metrics(metrics))


def literal(metrics):
    """Diagonality of each metric, and couplings of the axes, from whole matrices in the mean's basis."""
    basis = np.linalg.eigh(metrics.mean(axis=0))[1].T[::-1]
    shares, coupled = [], []
    for metric in metrics:
        seen = basis @ metric @ basis.T
        shares.append(np.sum(np.diag(seen) ** 2) / np.sum(metric**2))
        coupled.append(np.abs(seen) / np.sqrt(np.outer(np.diag(seen), np.diag(seen))))
    return np.array(shares), np.array(coupled)


def test_every_number_is_that_of_the_whole_matrices(result, metrics):
    shares, coupled = literal(metrics)
    np.testing.assert_allclose(result["diagonality"], shares, rtol=1e-9)
    np.testing.assert_allclose(result["coupling"], coupled.mean(axis=0)[:4, :4], rtol=1e-6)
    off = ~np.eye(4, dtype=bool)
    assert float(result["mean"]) == pytest.approx(shares.mean())
    assert float(result["coupling_mean"]) == pytest.approx(coupled[:, :4, :4][:, off].mean())
    assert float(result["leakage"][1]) == pytest.approx(coupled[:, 1, [0, 2, 3]].mean())
    weights = bootstrap_weights(8, 30, 0)
    drawn = [np.repeat(shares, row).mean() for row in weights]
    np.testing.assert_allclose(result["mean_ci95"], np.quantile(drawn, [0.025, 0.975]), rtol=1e-9)
    drawn = [np.repeat(coupled[:, 0, 1], row).mean() for row in weights]
    np.testing.assert_allclose(result["coupling_ci95"][:, 0, 1], np.quantile(drawn, [0.025, 0.975]), rtol=1e-6)


@pytest.mark.parametrize("workspace", [1, 2000])
def test_the_blocks_in_which_samples_are_read_change_nothing(result, metrics, workspace, monkeypatch):
    monkeypatch.setattr(module, "WORKSPACE", workspace)
    again = diagonality_of(Samples.of_metrics(metrics))
    for name in ("diagonality", "coupling", "random_coupling"):
        np.testing.assert_allclose(again[name], result[name], rtol=1e-12)


def test_common_axes_are_diagonal_and_leak_nothing():
    turn, spectra = rotation(5), np.random.default_rng(0).uniform(1, 2, (6, 5)) * [50, 20, 10, 5, 1]
    result = diagonality_of(Samples.of_metrics(np.einsum("ij,sj,kj->sik", turn, spectra, turn)))
    np.testing.assert_allclose(result["diagonality"], 1, atol=1e-12)
    assert float(result["excess"]) == pytest.approx(1)
    assert float(result["coupling_mean"]) == pytest.approx(0, abs=1e-12)
    assert float(result["random_coupling"]) > 0.1


def test_the_expectation_in_a_random_basis_is_that_of_drawn_bases(metrics):
    values, vectors = eigenpairs(metrics[:1])
    frames = random_frames(4000, 6, 6, np.random.default_rng(0))
    drawn = np.array([diagonality(frame, values, vectors)[0] for frame in frames])
    wanted = random_diagonality(values, 6)[0]
    assert drawn.mean() == pytest.approx(wanted, abs=4 * drawn.std() / 4000**0.5)
    assert random_diagonality([[3.0, 3.0, 3.0]], 3)[0] == pytest.approx(1)
    assert random_diagonality([[1.0, 0.0, 0.0]], 3)[0] == pytest.approx(3 / 5)


def test_the_coupling_is_the_cosine_of_image_changes():
    jacobian = np.random.default_rng(0).standard_normal((9, 4))
    values, vectors = eigenpairs((2 * jacobian.T @ jacobian)[None])
    axes = rotation(4)[:2]
    one, other = jacobian @ axes[0], jacobian @ axes[1]
    wanted = abs(one @ other) / np.linalg.norm(one) / np.linalg.norm(other)
    found = couplings(axes, values, vectors)[0]
    assert found[0, 1] == pytest.approx(wanted)
    np.testing.assert_allclose(np.diag(found), 1)


def test_zero_metrics_and_null_axes_have_no_numbers(metrics):
    result = diagonality_of(Samples.of_metrics(np.concatenate([metrics, np.zeros((1, 6, 6))])))
    assert np.isnan(result["diagonality"].values).tolist() == [False] * 8 + [True]
    assert float(result["mean"]) == pytest.approx(literal(metrics)[0].mean())
    assert len(result.notes()) == 2
    line = rotation(4)[:1]
    flat = diagonality_of(Samples.of_metrics(np.stack([line.T @ line] * 3)), leading=3)
    assert float(flat["mean"]) == pytest.approx(1)
    assert np.isnan(flat["leakage"]).all()
    json.dumps(flat.json, allow_nan=False)
    assert flat.tables()
    assert len(flat.figures()) == 2


def test_a_cut_spectrum_uses_the_kept_part_in_the_basis_of_the_whole_mean(metrics):
    cut = diagonality_of(Samples.of_sweep(FakeSweep(metrics, kept=3)))
    values, vectors = eigenpairs(metrics, 3)
    parts = np.einsum("ski,sk,skj->sij", vectors, values, vectors)
    basis = np.linalg.eigh(metrics.mean(axis=0))[1].T[::-1]
    wanted = [np.sum(np.diag(basis @ part @ basis.T) ** 2) / np.sum(part**2) for part in parts]
    np.testing.assert_allclose(cut["diagonality"], wanted, rtol=1e-5)
    assert len(cut.cautions()) == 1


def test_the_result_has_tables_words_and_figures(result):
    assert [len(table.rows) for table in result.tables()] == [3, 4]
    assert [figure.get_label() for figure in result.figures().values()] == ["coupling", "diagonality"]
    assert len(result.sentences()) == 2
