import numpy as np
import pytest
from sample_metrics import eigenpairs, random_metrics

from pullback.analysis import leading
from pullback.analysis.leading import has_leading, leading_frames, leading_pairs, usable_sizes, weighted_sums
from pullback.analysis.samples import Samples
from pullback.errors import PullbackError


def test_a_leading_subspace_needs_rank_and_a_gap():
    spectra = [[3, 2, 1, 0.5], [3, 1, 1, 0], [3, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]]
    assert has_leading(spectra, 1).tolist() == [True, True, True, False, False]
    assert has_leading(spectra, 2).tolist() == [True, False, False, False, False]
    assert has_leading(spectra, 3).tolist() == [True, True, False, False, False]
    assert has_leading(spectra, 4).tolist() == [True, False, False, False, True]


def test_sizes_beyond_the_space_or_the_kept_pairs_are_left_out():
    samples = Samples.of_metrics(random_metrics(3, 6))
    assert usable_sizes((5, 2, 6, 2, 100), samples) == [2, 5]
    with pytest.raises(PullbackError, match="n = 6"):
        usable_sizes((6, 7), samples)


@pytest.mark.parametrize("n", [6, 80])
def test_leading_pairs_are_those_of_the_whole_decomposition(n):
    matrix = random_metrics(1, n)[0]
    values, axes = leading_pairs(matrix, 4)
    wanted, rows = eigenpairs(matrix[None], 5)
    np.testing.assert_allclose(values, wanted[0], rtol=1e-10)
    np.testing.assert_allclose(np.abs(np.sum(axes * rows[0][:4], axis=1)), 1, atol=1e-9)


@pytest.mark.parametrize("workspace", [1, 3000, 10**9])
def test_weighted_sums_are_literal_at_any_block_size(workspace, monkeypatch):
    monkeypatch.setattr(leading, "WORKSPACE", workspace)
    metrics = random_metrics(7, 5)
    values, vectors = eigenpairs(metrics)
    weights = np.random.default_rng(0).integers(0, 3, (4, 7))
    found = np.zeros((4, 5, 5))
    for part, matrices in weighted_sums(values, vectors, weights):
        found[part] = matrices
    np.testing.assert_allclose(found, np.einsum("ws,sij->wij", weights, metrics), atol=1e-12)
    chosen = np.array([0, 3, 6])
    np.testing.assert_array_equal(leading_frames(vectors, 2, chosen), vectors[chosen][:, :2])
