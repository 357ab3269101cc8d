import json

import numpy as np
import pytest
import scipy.linalg
from sample_metrics import FakeSweep, random_metrics

from pullback.analysis.pair_samples import nearest_pairs, random_pairs
from pullback.analysis.protocol import About
from pullback.analysis.runner import compute
from pullback.analysis.samples import Samples
from pullback.analysis.statistics.distortion import Options
from pullback.errors import PullbackError


def samples_of(metrics, codes):
    values, vectors = np.linalg.eigh(metrics)
    columns = {
        "eigenvalue": values[:, ::-1].copy(),
        "eigenvector": vectors.transpose(0, 2, 1)[:, ::-1].copy(),
        "trace": np.trace(metrics, axis1=1, axis2=2),
        "latent": codes,
    }
    return Samples(About("toy", "", len(metrics)), columns, mean=metrics.mean(axis=0))


def distortion_of(samples, **options):
    return compute(samples, "distortion", Options(**{"sizes": (1, 2), "draws": 30, **options}))


def apart(metrics, pair, k):
    one, other = (np.linalg.eigh(metrics[i])[1][:, ::-1][:, :k] for i in pair)
    return np.sqrt(np.sum(scipy.linalg.subspace_angles(one, other) ** 2))


@pytest.fixture(scope="module")
def turning():
    """Metrics of rank-one axes that turn with the first coordinate of the code: near codes have near axes."""
    codes = np.random.default_rng(0).uniform(0, 1.2, (40, 1)) * np.ones(4)
    axes = np.stack([np.cos(codes[:, 0]), np.sin(codes[:, 0]), 0 * codes[:, 0], 0 * codes[:, 0]], axis=1)
    return codes, np.einsum("si,sj->sij", axes, axes) + np.diag([0, 0, 0.3, 0.1])


def test_every_number_is_that_of_the_literal_pairs(turning):
    codes, _ = turning
    metrics = random_metrics(40, 6, jitter=0.7)
    result = distortion_of(samples_of(metrics, codes), pairs=50)
    for k in (1, 2):
        near = np.mean([apart(metrics, pair, k) for pair in nearest_pairs(codes)])
        random = np.mean([apart(metrics, pair, k) for pair in random_pairs(40, 50, 0)])
        at = result.dataset.sel(size=k)
        assert float(at["near"]) == pytest.approx(near, abs=1e-7)
        assert float(at["random"]) == pytest.approx(random, abs=1e-7)
        assert float(at["distortion"]) == pytest.approx(random / near)
        low, high = at["distortion_ci95"].values
        assert low < random / near < high


def test_axes_that_turn_with_the_code_are_distorted_by_the_ratio_of_the_codes(turning):
    codes, metrics = turning
    result = distortion_of(samples_of(metrics, codes), sizes=(1,))
    assert float(result["distortion"][0]) == pytest.approx(float(result["code_ratio"]), rel=1e-6)
    assert float(result["distortion"][0]) > 5
    assert result.cautions() == []


def test_unrelated_axes_are_not_distorted_and_as_far_apart_as_random_ones():
    generator = np.random.default_rng(1)
    frames = np.linalg.qr(generator.standard_normal((60, 8, 8)))[0]
    metrics = np.einsum("sij,j,skj->sik", frames, np.exp(-np.arange(8.0)), frames)
    result = distortion_of(samples_of(metrics, generator.standard_normal((60, 40))))
    low, high = result["distortion_ci95"].values
    assert (low < 1).all()
    assert (high > 1).all()
    np.testing.assert_allclose(result["random"], result["unrelated"], rtol=0.05)
    assert len(result.cautions()) == 1  # the codes are hardly nearer


def test_common_axes_have_no_distortion():
    spectra = np.random.default_rng(0).uniform(1, 2, (9, 4)) * [50, 20, 5, 1]
    metrics = np.einsum("sj,jk->sjk", spectra, np.eye(4))
    result = distortion_of(samples_of(metrics, spectra))
    np.testing.assert_allclose(result["random"], 0, atol=1e-7)
    assert np.isnan(result["distortion"]).all()
    json.dumps(result.json, allow_nan=False)
    assert result.sentences() == []
    assert len(result.figures()) == 1


def test_metrics_without_a_leading_subspace_are_left_out(turning):
    codes, metrics = turning
    odd = metrics.copy()
    odd[:3] = np.stack([np.zeros((4, 4)), np.eye(4), np.diag([1.0, 0, 0, 0])])
    result = distortion_of(samples_of(odd, codes))
    pairs = random_pairs(40, 2000, 0)
    for k, left_out in ((1, {0, 1}), (2, {0, 1, 2})):
        wanted = np.mean([apart(odd, pair, k) for pair in pairs if not left_out & set(pair.tolist())])
        assert float(result.dataset.sel(size=k)["random"]) == pytest.approx(wanted, abs=1e-6)


def test_a_sweep_without_codes_is_refused_and_a_cut_one_says_so(turning):
    codes, _ = turning
    metrics = random_metrics(40, 6)
    with pytest.raises(PullbackError, match="codes"):
        distortion_of(Samples.of_metrics(metrics))
    sweep = FakeSweep(metrics, kept=3)
    sweep._dataset["latent"] = (("sample", "code"), codes)
    cut = distortion_of(Samples.of_sweep(sweep))
    every = distortion_of(samples_of(metrics, codes))
    np.testing.assert_allclose(cut["random"], every["random"], atol=1e-5)
    assert "3 of 6" in cut.cautions()[0]


def test_the_result_has_a_table_words_and_a_figure(turning):
    codes, metrics = turning
    result = distortion_of(samples_of(metrics, codes), sizes=(1, 3))
    assert [len(table.rows) for table in result.tables()] == [3]
    assert [figure.get_label() for figure in result.figures().values()] == ["distortion"]
    assert len(result.sentences()) == 1
    assert len(result.notes()) == 2
