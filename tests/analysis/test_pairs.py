"""Homogeneity by float32 products on a device, against the float64 reference."""

import numpy as np
import pytest
import torch

from pullback.analysis import pair_matrix
from pullback.analysis.correlations import correlations
from pullback.analysis.pair_kernel import Spectra
from pullback.analysis.pairs import on_device
from pullback.bench.gpu.pairs import random_metrics


def correlations_on(values, vectors, device):
    found = pair_matrix.matrices(Spectra(values), vectors, run=on_device(device))
    return found.log, found.linear


@pytest.mark.parametrize("edge", [pair_matrix.LARGEST_EDGE, 3], ids=["one tile", "tiles of three samples"])
@pytest.mark.parametrize("kept", [20, 7])
def test_correlations_are_those_of_the_reference(kept, edge, monkeypatch):
    monkeypatch.setattr(pair_matrix, "LARGEST_EDGE", edge)
    values, vectors = random_metrics(11, 20)
    values, vectors = values[:, :kept], vectors[:, :kept]
    found = correlations_on(values, vectors, "cpu")
    wanted = correlations(values, vectors)
    for ours, reference in zip(found, wanted, strict=True):
        assert np.abs(ours - reference).max() < 1e-5
        assert np.allclose(np.diag(ours), 1.0, atol=1e-6)


def test_vectors_may_be_a_tensor_or_an_array():
    values, vectors = random_metrics(5, 8)
    by_array = correlations_on(values, vectors, "cpu")
    by_tensor = correlations_on(values, torch.from_numpy(vectors), "cpu")
    assert all(np.array_equal(a, b) for a, b in zip(by_array, by_tensor, strict=True))


def test_null_directions_are_left_out_as_by_the_reference():
    values, vectors = random_metrics(6, 12)
    values[:, 8:] = 0.0
    found, wanted = correlations_on(values, vectors, "cpu"), correlations(values, vectors.astype(np.float64))
    assert np.abs(found[0] - wanted[0]).max() < 1e-4


def test_multiples_of_the_identity_have_no_correlation():
    values, vectors = random_metrics(4, 6)
    found = correlations_on(np.ones_like(values), vectors, "cpu")
    assert all(np.isnan(matrix).all() for matrix in found)


def test_shapes_that_do_not_agree_are_refused():
    values, vectors = random_metrics(4, 6)
    with pytest.raises(ValueError, match="eigenvalues"):
        correlations_on(values[:3], vectors, "cpu")
