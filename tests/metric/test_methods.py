"""Every method through `metric_at`: the same metric, the choice of `auto`, and runs that do not converge."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pullback.distances import load_distance
from pullback.errors import SpecError
from pullback.metric import metric_at
from pullback.metric.methods import DENSE, choose, expected_products
from pullback.spec.metric import METHODS
from toy_generators import Classes, Smooth

MSE = load_distance("mse", device="cpu")
SSIM = load_distance("ssim", device="cpu")
ITERATIVE = tuple(method for method in METHODS if method not in DENSE)


def exact(generator, distance, z, condition=None):
    """H by a Hessian of d² in float64."""
    generator, distance, z0 = generator.double(), distance.double(), z.double()
    classes = () if condition is None else (torch.tensor([condition]),)
    with torch.no_grad():
        reference = generator(z0[None], *classes)
    found = torch.func.hessian(lambda code: distance(reference, generator(code[None], *classes)).sum())(z0)
    generator.float(), distance.float()
    return found.detach()


KINDS = [(method, MSE) for method in ("auto", *METHODS)]
KINDS += [(method, SSIM) for method in ("auto", *METHODS) if method != "gauss_newton"]


@pytest.mark.parametrize(("method", "distance"), KINDS)
def test_every_method_finds_the_same_eigenpairs_under_every_kind_of_distance(method, distance):
    generator, z = Smooth(latent_dim=10, size=16), torch.randn(10, generator=torch.Generator().manual_seed(0))
    values, columns = torch.linalg.eigh(exact(generator, distance, z))
    metric = metric_at(generator, distance, z, method=method, components=4)
    rough = method == "finite_difference"
    torch.testing.assert_close(metric.eigenvalues, values.flip(0)[:4], rtol=1e-2 if rough else 2e-4, atol=0)
    if not rough:
        alignment = (metric.eigenvectors @ columns.flip(1)[:, :4]).diagonal().abs()
        assert float(alignment.min()) > 0.99
    assert metric.certificate.failures() == [""]
    assert metric.eigenvectors.shape == (4, 10)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_all_the_eigenpairs_there_are(method):
    generator, z = Smooth(), torch.randn(6, generator=torch.Generator().manual_seed(1))
    wanted = exact(generator, MSE, z)
    metric = metric_at(generator, MSE, z, method=method)
    assert metric.eigenvalues.shape == (6,)
    tolerance = 0.02 if method == "finite_difference" else 1e-4
    torch.testing.assert_close(metric.matrix, wanted, rtol=tolerance, atol=tolerance * float(wanted.abs().max()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("latent_dim", [1, 2, 7])
def test_every_method_runs_to_the_smallest_codes_and_to_one_eigenpair(method, latent_dim):
    metric = metric_at(Smooth(latent_dim=latent_dim), MSE, torch.ones(2, latent_dim), method=method, components=1)
    assert metric.eigenvalues.shape == (2, 1)
    assert bool((metric.eigenvalues > 0).all())
    assert metric.method == method


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_each_code_its_own_class(method):
    codes = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    metric = metric_at(Classes(), MSE, codes, condition=["three", "one"], method=method, components=2)
    plain = metric_at(Classes(), MSE, codes, condition="one", components=2).eigenvalues
    torch.testing.assert_close(metric.eigenvalues, plain * torch.tensor([[9.0], [1.0]]).double(), rtol=1e-2, atol=0)


def test_the_origin_is_a_code_like_any_other_for_finite_differences():
    z = torch.zeros(6)
    wanted = metric_at(Smooth(), MSE, z).eigenvalues
    found = metric_at(Smooth(), MSE, z, method="finite_difference", components=6).eigenvalues
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-4 * float(wanted[0]))


@pytest.mark.parametrize("method", ITERATIVE)
def test_a_run_that_does_not_converge_returns_what_it_has_and_says_so(method):
    generator = Smooth(latent_dim=40)
    z = torch.randn(40, generator=torch.Generator().manual_seed(3))
    metric = metric_at(generator, MSE, z, method=method, components=5, max_products=6, tolerance=1e-9)
    assert not bool(metric.converged)
    assert metric.certificate.failures() == ["converged"]
    assert int(metric.products) <= 6
    assert bool(metric.eigenvalues.isfinite().all())
    assert float(metric.residuals.max()) > 1e-6
    whole = metric_at(generator, MSE, z).eigenvalues
    assert bool((metric.eigenvalues <= whole[:5] * (1 + 1e-4)).all()), "Ritz values lie below the eigenvalues"


def test_what_is_left_of_the_trace_is_estimated_where_there_is_no_matrix():
    generator, z = Smooth(latent_dim=40), torch.randn(40, generator=torch.Generator().manual_seed(4))
    whole = metric_at(generator, MSE, z, method="gauss_newton", components=8)
    found = metric_at(generator, MSE, z, method="block_krylov", components=8)
    assert found.matrix is None
    assert float(found.trace) == pytest.approx(float(whole.trace), rel=0.1)
    assert float(found.certificate.trace_share) == pytest.approx(float(whole.certificate.trace_share), rel=0.1)
    assert int(found.products) > 0


class Broken(Smooth):
    """As `Smooth`, and not a number for codes whose first coordinate is large."""

    def forward(self, z, condition=None):
        return super().forward(z) * torch.where(z[:, 0] > 5, torch.nan, 1.0)[:, None, None, None]


@pytest.mark.parametrize("method", METHODS)
def test_a_code_without_a_finite_image_is_flagged_and_spares_the_others(method):
    codes = torch.zeros(3, 6)
    codes[1, 0] = 9
    metric = metric_at(Broken(), MSE, codes, method=method, components=2)
    assert metric.certificate.failures() == ["", "finite", ""]
    assert bool(metric.eigenvalues[[0, 2]].isfinite().all())


@given(st.integers(1, 5000), st.integers(1, 5000), st.booleans(), st.sampled_from([MSE, SSIM]))
def test_auto_is_dense_for_many_pairs_and_iterative_for_few(latent_dim, kept, whole, distance):
    kept = min(kept, latent_dim)
    chosen = choose("auto", distance, latent_dim, kept, whole)
    dense = "gauss_newton" if distance is MSE else "backprop"
    assert chosen in (dense, "block_krylov")
    if 8 * kept >= latent_dim:
        assert chosen == dense
    if 100 * kept <= latent_dim:
        assert chosen == "block_krylov"


def test_auto_says_what_it_picked():
    assert metric_at(Smooth(), MSE, torch.zeros(6)).method == "gauss_newton"
    assert metric_at(Smooth(size=16), SSIM, torch.zeros(6)).method == "backprop"
    assert metric_at(Smooth(latent_dim=100), MSE, torch.zeros(100), components=1).method == "block_krylov"


def test_a_jacobian_that_does_not_fit_makes_products_worth_while_sooner():
    assert choose("auto", MSE, 100, 10, whole=True) == "gauss_newton"
    assert choose("auto", MSE, 100, 10, whole=False) == "block_krylov"


def test_gauss_newton_of_a_distance_that_is_no_sum_of_squares_is_refused_with_what_to_use():
    with pytest.raises(SpecError, match=r"gauss_newton needs a sum of squares.*backprop.*block_krylov"):
        metric_at(Smooth(size=16), SSIM, torch.zeros(6), method="gauss_newton")


def test_an_unknown_method_is_refused_with_the_nearest():
    with pytest.raises(SpecError, match="did you mean 'lanczos'"):
        metric_at(Smooth(), MSE, torch.zeros(6), method="lanzos")


@pytest.mark.parametrize("method", METHODS)
def test_the_expected_work_is_never_more_than_a_whole_iteration(method):
    assert expected_products(method, 100, 100) <= 200
    assert expected_products(method, 4096, 20) <= 4096
