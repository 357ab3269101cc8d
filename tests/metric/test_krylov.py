"""The eigenpairs of `top_eigenpairs` against dense answers, ARPACK, and matrices that trip up Krylov methods."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import LinearOperator, eigsh

from pullback.metric.krylov import BLOCK, top_eigenpairs


def symmetric(spectrum, seed=0):
    """A matrix with this spectrum and random eigenvectors."""
    n = len(spectrum)
    basis = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    matrix = (basis * np.asarray(spectrum, dtype=np.float64)) @ basis.T
    return torch.from_numpy((matrix + matrix.T) / 2)


def search(matrix, k, **options):
    """The top k of a matrix [n, n], multiplied in its own dtype."""
    return top_eigenpairs(lambda vectors: vectors @ matrix, len(matrix), k, dtype=matrix.dtype, **options)


def assert_are_the_top(result, matrix, k, error=1e-8):
    """Values, residuals and orthogonality against numpy's dense answer."""
    matrix = matrix.numpy().astype(np.float64)
    values, vectors, residuals = (part.numpy() for part in (result.eigenvalues, result.eigenvectors, result.residuals))
    scale = np.abs(np.linalg.eigvalsh(matrix)).max() or 1.0
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1][:k], rtol=0, atol=error * scale)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), atol=1e-10)
    true = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1) / scale
    np.testing.assert_allclose(residuals, true, rtol=0.01, atol=error)


@st.composite
def spectra(draw):
    """Decaying, flat, repeated, clustered, rank-deficient, indefinite and mixed spectra of any size and scale."""
    n = draw(st.integers(1, 40))
    base = {
        "decaying": lambda: np.exp(-np.arange(n) * draw(st.floats(0, 2))),
        "flat": lambda: np.linspace(1, draw(st.floats(0.5, 1)), n),
        "indefinite": lambda: np.linspace(draw(st.floats(-2, 0)), 1, n),
        "negative": lambda: -np.linspace(draw(st.floats(0, 1)), 1, n),
        "zero": lambda: np.zeros(n),
    }[draw(st.sampled_from(["decaying", "flat", "indefinite", "negative", "zero"]))]()
    first, copies = draw(st.integers(0, n - 1)), draw(st.integers(1, n))
    base[first : first + copies] = (
        base[first] * (1 + draw(st.sampled_from([0.0, 1e-9, 1e-4])) * np.arange(n))[: len(base[first : first + copies])]
    )
    rank = draw(st.integers(0, n))
    base[rank:] *= draw(st.sampled_from([0.0, 1.0]))
    return base * draw(st.sampled_from([1.0, 1e-8, 1e8]))


@settings(max_examples=150, deadline=None)
@given(spectra(), st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 12))
def test_the_top_of_every_spectrum_is_that_of_a_dense_decomposition(spectrum, seed, k, block):
    matrix, k = symmetric(spectrum, seed), min(k, len(spectrum))
    result = search(matrix, k, block=block, tolerance=1e-9)
    assert_are_the_top(result, matrix, k, error=2e-8)
    assert result.converged
    assert result.products <= len(spectrum)


@settings(max_examples=40, deadline=None)
@given(spectra(), st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([1e-6, 1e-10]))
def test_float32_products_give_their_own_precision_and_end(spectrum, seed, k, tolerance):
    matrix, k = symmetric(spectrum, seed).float(), min(k, len(spectrum))
    result = search(matrix, k, tolerance=tolerance)
    assert_are_the_top(result, matrix, k, error=2e-6)
    assert result.products <= 2 * len(spectrum)


@pytest.mark.parametrize("block", [1, 4, 8])
def test_the_search_ends_at_what_float32_products_reach(block):
    """Not at 2n products, which is what no tolerance at all would take."""
    matrix = symmetric(0.97 ** np.arange(400)).float()
    reached = search(matrix, 5, block=block, tolerance=1e-12)
    assert not reached.converged
    assert float(reached.residuals.max()) < 1e-6
    assert reached.products < 150
    assert_are_the_top(reached, matrix, 5, error=2e-6)


@pytest.mark.parametrize("block", [1, 4, 8])
def test_arpack_finds_the_same_pairs(block):
    matrix = symmetric(1 / (1 + np.arange(300.0)), seed=1)
    operator = LinearOperator(matrix.shape, matvec=lambda v: matrix.numpy() @ v, dtype=np.float64)
    values, columns = eigsh(operator, k=10, which="LA", tol=1e-10)
    found = search(matrix, 10, block=block, tolerance=1e-10)
    np.testing.assert_allclose(found.eigenvalues, values[::-1], rtol=1e-12)
    alignment = np.abs((found.eigenvectors.numpy() @ columns[:, ::-1]).diagonal())
    np.testing.assert_allclose(alignment, 1, atol=1e-10)


@pytest.mark.parametrize(("block", "share"), [(1, 1.5), (4, 2.2)])
def test_not_many_more_products_are_needed_than_by_arpack_for_the_same_residual(block, share):
    """Which multiplies one vector at a time, and does not look for copies."""
    matrix = symmetric(1 / (1 + np.arange(600.0)), seed=2)
    counted = []
    operator = LinearOperator(
        matrix.shape, matvec=lambda v: (counted.append(1), matrix.numpy() @ v)[1], dtype=np.float64
    )
    v0 = np.random.default_rng(0).standard_normal(600)
    values, columns = eigsh(operator, k=20, which="LA", tol=1e-3, v0=v0)
    reached = float(np.linalg.norm(matrix.numpy() @ columns - columns * values, axis=0).max())
    found = search(matrix, 20, block=block, tolerance=reached)
    assert found.converged
    assert found.products < share * len(counted)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(2, 40), st.integers(1, 8))
def test_every_copy_of_an_eigenvalue_is_found_whatever_the_block(seed, before, copies, block):
    """A Krylov space of one vector holds one vector of each eigenspace: the copies must be looked for."""
    spectrum = np.concatenate([np.linspace(3, 2.5, before), np.full(copies, 2.0), np.linspace(1, 0, 100)])
    matrix, k = symmetric(spectrum, seed), before + copies + 3
    result = search(matrix, k, block=block, tolerance=1e-8)
    assert result.converged
    np.testing.assert_allclose(result.eigenvalues, spectrum[:k], atol=1e-7)


@pytest.mark.parametrize("gap", [1e-9, 1e-7, 1e-5])
def test_a_cluster_narrower_than_the_tolerance_is_found_whole(gap):
    spectrum = np.concatenate([2 + gap * np.arange(15), np.linspace(1, 0, 250)])
    result = search(symmetric(spectrum), 20, tolerance=1e-5)
    np.testing.assert_allclose(result.eigenvalues, np.sort(spectrum)[::-1][:20], atol=2e-4)


@pytest.mark.parametrize("spectrum", [np.zeros(200), np.ones(200), np.r_[np.ones(50), np.zeros(150)]])
def test_what_makes_no_difference_is_not_looked_for(spectrum):
    """Copies of the smallest wanted eigenvalue cannot change the answer."""
    result = search(symmetric(spectrum), 20)
    assert result.converged
    assert result.products <= 2 * 20 + BLOCK
    np.testing.assert_allclose(result.eigenvalues, spectrum[:20], atol=1e-12)


@pytest.mark.parametrize("largest_subspace", [1, 40, 60])
def test_restarts_in_a_small_subspace_lead_to_the_same_pairs(largest_subspace):
    matrix = symmetric(1 - np.arange(250) / 250)
    roomy = search(matrix, 8, tolerance=1e-8)
    tight = search(matrix, 8, tolerance=1e-8, largest_subspace=largest_subspace, max_products=4000)
    assert_are_the_top(tight, matrix, 8)
    assert tight.converged
    assert tight.products > roomy.products


@pytest.mark.parametrize("max_products", [1, 3, 4, 7, 12])
def test_too_few_products_give_what_they_found_with_true_residuals(max_products):
    matrix, k = symmetric(1 / (1 + np.arange(100.0))), 4
    result = search(matrix, k, block=3, max_products=max_products, tolerance=1e-9)
    assert not result.converged
    assert result.products == max_products
    assert result.eigenvectors.shape == (k, 100)
    have = min(k, max_products)
    assert bool(result.eigenvalues[:have].isfinite().all())
    assert bool(result.eigenvalues[have:].isnan().all())
    assert bool(result.eigenvectors[have:].isnan().all())
    values, vectors = result.eigenvalues[:have], result.eigenvectors[:have]
    true = (vectors @ matrix - values[:, None] * vectors).norm(dim=1) / values[0]
    torch.testing.assert_close(result.residuals[:have], true, rtol=1e-8, atol=1e-12)
    assert float(true.max()) > 1e-9
    assert bool((values <= torch.linalg.eigvalsh(matrix).flip(0)[:have] + 1e-12).all()), "Ritz values lie below"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_product_that_is_not_finite_ends_the_search_with_nan(bad, after):
    matrix, calls = symmetric(1 / (1 + np.arange(60.0))), []

    def product(vectors):
        calls.append(len(vectors))
        images = vectors @ matrix
        if len(calls) > after:
            images[0, 7] = bad
        return images

    result = top_eigenpairs(product, 60, 4, block=4, tolerance=1e-12, dtype=torch.float64)
    assert not result.converged
    assert (result.iterations, result.products) == (after + 1, sum(calls))
    assert result.eigenvectors.shape == (4, 60)
    for tensor in (result.eigenvalues, result.eigenvectors, result.residuals):
        assert bool(tensor.isnan().all())


def test_products_and_calls_are_counted_and_blocks_are_no_larger_than_asked_for():
    matrix, calls = symmetric(1 / (1 + np.arange(80.0))), []

    def product(vectors):
        calls.append(len(vectors))
        assert vectors.dtype == torch.float32
        return vectors @ matrix.float()

    result = top_eigenpairs(product, 80, 5, block=6)
    assert (result.products, result.iterations) == (sum(calls), len(calls))
    assert max(calls) == 6
    assert result.eigenvalues.dtype == result.eigenvectors.dtype == result.residuals.dtype == torch.float64


def test_a_looser_tolerance_never_costs_more_products():
    matrix = symmetric(0.02 + np.exp(-np.arange(500) / 15))
    products = [search(matrix, 15, tolerance=tolerance).products for tolerance in (1e-2, 1e-3, 1e-5, 1e-8)]
    assert products == sorted(products)


def test_the_result_depends_on_the_seed_and_on_nothing_else():
    matrix = symmetric(1 / (1 + np.arange(80.0)))
    torch.manual_seed(1)
    one = search(matrix, 5)
    torch.manual_seed(2)
    two, other = search(matrix, 5), search(matrix, 5, seed=1)
    assert torch.equal(one.eigenvectors, two.eigenvectors)
    assert not torch.equal(one.eigenvectors, other.eigenvectors)
    torch.testing.assert_close(one.eigenvalues, other.eigenvalues, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    "options",
    [
        {"k": 0},
        {"k": 11},
        {"k": 2, "block": 0},
        {"k": 2, "max_products": 0},
        {"k": 2, "tolerance": -1.0},
        {"k": 2, "tolerance": float("nan")},
    ],
)
def test_arguments_out_of_range_are_refused_before_anything_is_multiplied(options):
    with pytest.raises(ValueError, match=r"between 1 and 10|at least 1"):
        top_eigenpairs(lambda vectors: pytest.fail("multiplied"), 10, **options)
