import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import eigvalsh
from scipy.stats import ortho_group

from pullback.metric.eigen import eigendecompose


def symmetric(seed, batch=2, n=5):
    drawn = np.random.default_rng(seed).standard_normal((batch, n, n))
    return torch.from_numpy(drawn + drawn.transpose(0, 2, 1))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 12))
def test_rows_are_orthonormal_eigenvectors_largest_first_and_rebuild_the_metric(seed, batch, n):
    metric = symmetric(seed, batch, n)
    values, vectors = eigendecompose(metric)
    assert values.shape == (batch, n)
    assert vectors.shape == (batch, n, n)
    assert bool((values.diff(dim=1) <= 0).all())
    for h, value, rows in zip(metric.numpy(), values.numpy(), vectors.numpy(), strict=True):
        np.testing.assert_allclose(value[::-1], eigvalsh(h), atol=1e-12 * max(1, abs(value).max()))
        np.testing.assert_allclose((rows.T * value) @ rows, h, atol=1e-12 * max(1, abs(h).max()))
        np.testing.assert_allclose(rows @ rows.T, np.eye(n), atol=1e-12)
        np.testing.assert_allclose(rows @ h, value[:, None] * rows, atol=1e-11 * max(1, abs(value).max()))


def test_known_eigenpairs_are_found():
    basis = ortho_group.rvs(4, random_state=1)
    wanted = np.array([9.0, 4.0, 1.0, 0.25])
    values, vectors = eigendecompose(torch.from_numpy((basis.T * wanted) @ basis)[None])
    np.testing.assert_allclose(values[0], wanted, rtol=1e-12)
    np.testing.assert_allclose(np.abs(vectors[0].numpy() @ basis.T), np.eye(4), atol=1e-12)


def test_a_metric_with_nan_gives_nan_and_leaves_its_neighbours_alone():
    metric = symmetric(0, batch=3)
    metric[1, 2, 3] = torch.nan
    values, vectors = eigendecompose(metric)
    assert bool(values[1].isnan().all())
    assert bool(vectors[1].isnan().all())
    alone, _ = eigendecompose(metric[[0, 2]])
    assert torch.equal(values[[0, 2]], alone)


def test_a_batch_without_a_finite_metric_is_no_error():
    values, vectors = eigendecompose(torch.full((2, 3, 3), torch.inf))
    assert bool(values.isnan().all())
    assert bool(vectors.isnan().all())


def test_a_float32_metric_is_decomposed_in_float64():
    metric = torch.tensor([[[1.0, 0.0], [0.0, 1e-9]]])
    values, vectors = eigendecompose(metric)
    assert values.dtype == vectors.dtype == torch.float64
    assert values[0].tolist() == [1.0, float(torch.tensor(1e-9))]
