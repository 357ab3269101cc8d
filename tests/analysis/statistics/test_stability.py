import itertools
import json

import numpy as np
import pytest
import scipy.linalg
from sample_metrics import FakeSweep, random_metrics, rotation

from pullback.analysis.grassmann import random_frames
from pullback.analysis.runner import compute
from pullback.analysis.samples import Samples
from pullback.analysis.statistics.stability import Options, halves, matched_cosines, random_cosine, stable_ranks


def stability_of(samples, **options):
    return compute(samples, "stability", Options(**{"sizes": (1, 2, 3), "splits": 12, "ranks": 4, **options}))


@pytest.fixture(scope="module")
def metrics():
    return random_metrics(9, 7, jitter=0.8)


@pytest.fixture(scope="module")
def result(metrics):
    return stability_of(Samples.of_metrics(metrics), seed=2)


def literal(metrics, seed):
    """|cosines| by rank, matched |cosines| over all permutations, and overlaps of the two leading axes."""
    plain, matched, shared = [], [], []
    for row in halves(len(metrics), 12, seed):
        one, other = (np.linalg.eigh(metrics[row == half].mean(axis=0))[1].T[::-1][:4] for half in (1, 0))
        cosines = np.abs(one @ other.T)
        plain.append(np.diag(cosines))
        best = max(itertools.permutations(range(4)), key=lambda order: cosines[range(4), order].sum())
        matched.append(cosines[range(4), best])
        shared.append(np.mean(np.cos(scipy.linalg.subspace_angles(one[:2].T, other[:2].T)) ** 2))
    return np.array(plain), np.array(matched), np.array(shared)


def test_every_number_is_that_of_the_literal_halves(result, metrics):
    plain, matched, shared = literal(metrics, seed=2)
    for name, values in (("cosine", plain), ("matched_cosine", matched)):
        np.testing.assert_allclose(result[name], values.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(result[f"{name}_ci95"], np.quantile(values, [0.025, 0.975], axis=0), atol=1e-9)
    at = result.dataset.sel(size=2)
    assert float(at["overlap"]) == pytest.approx(shared.mean())
    np.testing.assert_allclose(at["overlap_ci95"], np.quantile(shared, [0.025, 0.975]), atol=1e-9)


def test_halves_share_no_sample_and_leave_none_out():
    members = halves(9, 50, 0)
    assert members.sum(axis=1).tolist() == [4] * 50
    assert members.mean() == pytest.approx(4 / 9)
    assert (members.sum(axis=0) > 0).all()
    assert halves(9, 50, 0).tolist() == members.tolist() != halves(9, 50, 1).tolist()


def test_common_axes_are_stable_and_swapped_ranks_are_matched():
    turn = rotation(5)
    spectra = np.random.default_rng(0).uniform(1, 3, (10, 5))  # the ranks of the mean change with the samples
    result = stability_of(Samples.of_metrics(np.einsum("ij,sj,kj->sik", turn, spectra, turn)), ranks=5, sizes=(4,))
    np.testing.assert_allclose(result["matched_cosine"], 1, atol=1e-6)
    assert result["cosine"].values.min() < 0.9


def test_random_metrics_are_as_stable_as_random_axes():
    generator = np.random.default_rng(0)
    frames = random_frames(40, 1, 30, generator)
    result = stability_of(Samples.of_metrics(np.swapaxes(frames, 1, 2) @ frames), splits=60, ranks=10)
    low, high = result["cosine_ci95"].values[:, 0]
    assert low < float(result["random_cosine"]) < high
    assert float(result["cosine"][0]) < 0.5


def test_the_null_is_the_cosine_of_random_directions():
    generator = np.random.default_rng(1)
    for n in (2, 9):
        mean, high = random_cosine(n)
        drawn = np.abs(random_frames(20_000, 1, n, generator)[:, 0, 0])
        assert mean == pytest.approx(drawn.mean(), abs=4 * drawn.std() / 20_000**0.5)
        assert (drawn < high).mean() == pytest.approx(0.95, abs=0.01)
    assert random_cosine(1) == (1.0, 1.0)


def test_the_matching_is_one_to_one():
    one = np.eye(3)
    other = np.array([[0.8, 0.6, 0], [0, 0, 1], [-0.6, 0.8, 0]])
    np.testing.assert_allclose(matched_cosines(one, other), [0.8, 0.8, 1])


def test_axes_that_no_half_determines_have_no_cosine(metrics):
    same = stability_of(Samples.of_metrics(np.stack([np.eye(4)] * 4)), sizes=(2,))
    assert np.isnan(same["cosine"]).all()
    assert np.isnan(same["overlap"]).all()
    json.dumps(same.json, allow_nan=False)
    assert len(same.sentences()) == 2
    line = rotation(4)[:1]
    flat = stability_of(Samples.of_metrics(np.stack([line.T @ line] * 4)), sizes=(1, 2))
    np.testing.assert_allclose(flat["cosine"], [1, np.nan, np.nan, np.nan], atol=1e-9)
    np.testing.assert_allclose(flat["overlap"], [1, np.nan], atol=1e-9)


def test_a_cut_spectrum_uses_the_kept_part_and_says_so(metrics):
    cut = stability_of(Samples.of_sweep(FakeSweep(metrics, kept=3)), seed=2)
    values, vectors = np.linalg.eigh(metrics)
    parts = np.einsum("sik,sk,sjk->sij", vectors[:, :, 4:], values[:, 4:], vectors[:, :, 4:])
    np.testing.assert_allclose(cut["cosine"], literal(parts, seed=2)[0].mean(axis=0)[:3], atol=1e-5)
    assert len(cut.cautions()) == 1


def test_stable_ranks_end_at_the_first_that_is_not():
    assert stable_ranks([0.99, 0.9, 0.5, 0.95]) == 2
    assert stable_ranks([np.nan, 1.0]) == 0
    assert stable_ranks([1.0]) == 1


def test_the_result_has_tables_words_and_figures(result):
    assert [len(table.rows) for table in result.tables()] == [4, 3]
    assert [figure.get_label() for figure in result.figures().values()] == ["stability-axes", "stability-subspaces"]
    assert len(result.sentences()) == 2
