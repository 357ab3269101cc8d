import json

import numpy as np
import pytest
import scipy.linalg
from sample_metrics import FakeSweep, eigenpairs, random_metrics, rotation

from pullback.analysis.grassmann import random_frames
from pullback.analysis.pair_samples import random_pairs
from pullback.analysis.runner import compute
from pullback.analysis.samples import Samples
from pullback.analysis.statistics.subspaces import Options, canonical_correlations, code_factor


class CodedSweep(FakeSweep):
    def __init__(self, metrics, codes, **options):
        super().__init__(metrics, **options)
        self._dataset["latent"] = (("sample", "code"), codes)


def subspaces_of(samples, **options):
    return compute(samples, "subspaces", Options(**{"sizes": (1, 2, 4), "draws": 30, **options}))


@pytest.fixture(scope="module")
def metrics():
    return random_metrics(14, 7, jitter=0.8)


@pytest.fixture(scope="module")
def codes():
    return np.random.default_rng(5).standard_normal((14, 7)) * np.arange(1, 8)


@pytest.fixture(scope="module")
def result(metrics, codes):
    return subspaces_of(Samples.of_sweep(CodedSweep(metrics, codes)), pairs=30, seed=1)


def literal_correlations(one, other, codes):
    """Canonical correlations from the generalised eigenproblem of the covariances of both sets of coordinates."""
    x, y = codes @ one.T, codes @ other.T
    joint = np.cov(np.hstack([x, y]).T)
    k = one.shape[0]
    sxx, syy, sxy = joint[:k, :k], joint[k:, k:], joint[:k, k:]
    squares = scipy.linalg.eigvals(np.linalg.solve(sxx, sxy) @ np.linalg.solve(syy, sxy.T)).real
    return np.sqrt(np.sort(squares)[::-1])


def test_every_number_is_that_of_the_literal_pairs(result, metrics, codes):
    rows = eigenpairs(metrics)[1]
    pairs = random_pairs(14, 30, 1)
    for k in (1, 2, 4):
        angles, correlations = [], []
        for i, j in pairs:
            one, other = rows[i, :k], rows[j, :k]
            angles.append(np.sort(scipy.linalg.subspace_angles(one.T, other.T)))
            correlations.append(literal_correlations(one, other, codes))
        at = result.dataset.sel(size=k)
        np.testing.assert_allclose(at["angle"][:k], np.degrees(np.mean(angles, axis=0)), atol=1e-4)
        np.testing.assert_allclose(at["angle_p95"][:k], np.degrees(np.quantile(angles, 0.95, axis=0)), atol=1e-4)
        np.testing.assert_allclose(at["correlation"][:k], np.mean(correlations, axis=0), atol=1e-5)
        assert float(at["overlap"]) == pytest.approx(np.mean(np.cos(angles) ** 2), abs=1e-6)
        assert float(at["squared_correlation"]) == pytest.approx(np.mean(np.square(correlations)), abs=1e-5)
        assert np.isnan(at["angle"][k:]).all()
        low, high = at["overlap_ci95"].values
        assert low < float(at["overlap"]) < high


def test_isotropic_codes_have_the_cosines_as_correlations():
    frames = random_frames(2, 3, 6, np.random.default_rng(0))
    cosines = np.cos(np.sort(scipy.linalg.subspace_angles(frames[0].T, frames[1].T)))
    codes = np.concatenate([np.eye(6), -np.eye(6)])
    found = canonical_correlations(frames[0], frames[1], code_factor(codes))
    np.testing.assert_allclose(found, cosines, atol=1e-12)


def test_the_factor_is_that_of_the_covariance():
    codes = np.random.default_rng(0).standard_normal((30, 5)) @ np.diag([3, 2, 1, 0.5, 0])
    factor = code_factor(codes)
    assert factor.shape == (5, 4)
    np.testing.assert_allclose(factor @ factor.T, np.cov(codes.T), atol=1e-12)


def test_random_subspaces_are_those_of_the_control():
    generator = np.random.default_rng(2)
    frames = np.linalg.qr(generator.standard_normal((60, 8, 8)))[0]
    metrics = np.einsum("sij,j,skj->sik", frames, np.exp(-np.arange(8.0)), frames)
    result = subspaces_of(Samples.of_sweep(CodedSweep(metrics, generator.standard_normal((60, 8)))))
    for name, null in (("overlap", "random_overlap"), ("squared_correlation", "random_squared_correlation")):
        np.testing.assert_allclose(result[name], result[null], rtol=0.1)
    np.testing.assert_allclose(result["angle"], result["random_angle"], rtol=0.06)


def test_common_axes_have_no_angles():
    turn, spectra = rotation(5), np.random.default_rng(0).uniform(1, 2, (6, 5)) * [80, 30, 12, 5, 1]
    result = subspaces_of(Samples.of_metrics(np.einsum("ij,sj,kj->sik", turn, spectra, turn)), sizes=(2,))
    np.testing.assert_allclose(result["angle"], 0, atol=1e-5)
    np.testing.assert_allclose(result["overlap"], 1)
    assert np.isnan(result["correlation"]).all()  # no codes are known
    assert len(result.notes()) == 1


def test_too_few_codes_have_no_correlations(metrics, codes):
    few = subspaces_of(Samples.of_sweep(CodedSweep(metrics[:4], codes[:4])))
    assert np.isfinite(few["squared_correlation"].values).tolist() == [True, True, False]


def test_metrics_without_leading_subspaces_are_left_out(metrics):
    odd = np.concatenate([np.zeros((1, 7, 7)), np.eye(7)[None], metrics[:4]])
    result, wanted = subspaces_of(Samples.of_metrics(odd)), subspaces_of(Samples.of_metrics(metrics[:4]))
    np.testing.assert_allclose(result["overlap"], wanted["overlap"], atol=1e-9)
    none = subspaces_of(Samples.of_metrics(np.stack([np.eye(4)] * 3)), sizes=(1, 2))
    assert np.isnan(none["overlap"]).all()
    json.dumps(none.json, allow_nan=False)
    assert len(none.sentences()) == 1
    assert none.tables()
    assert len(none.figures()) == 2


def test_a_cut_spectrum_has_the_same_subspaces(metrics):
    cut, every = (subspaces_of(Samples.of_sweep(FakeSweep(metrics, kept=kept))) for kept in (4, None))
    np.testing.assert_allclose(cut["overlap"], every["overlap"], atol=1e-6)
    assert len(cut.cautions()) == 1


def test_the_result_has_tables_words_and_figures(result):
    assert [len(table.rows) for table in result.tables()] == [3, 4]
    assert [figure.get_label() for figure in result.figures().values()] == ["principal-angles", "subspace-overlap"]
    assert len(result.sentences()) == 1
    assert len(result.notes()) == 2
