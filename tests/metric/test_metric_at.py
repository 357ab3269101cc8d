"""`metric_at` against independent answers: double backprop, closed forms, an outside library, finite differences."""

import copy

import numpy as np
import pytest
import torch
from curvlinops import GGNLinearOperator, HessianLinearOperator
from odd_generators import Black, Constant

from pullback.distances import load_distance
from pullback.errors import MemoryPlanError, PullbackError, SpecError
from pullback.metric import compute as pullback_metric
from pullback.metric import metric_at
from toy_generators import Classes, Linear, Smooth

MSE = load_distance("mse", device="cpu")


def squared_distance_from(generator, distance, z, condition=None):
    """z -> D²(G(z0), G(z)) in float64, and z0: the metric is its Hessian at z0, by definition."""
    generator, distance = copy.deepcopy(generator).double(), copy.deepcopy(distance).double()
    z0 = z.double()
    classes = () if condition is None else (torch.tensor([condition]),)
    with torch.no_grad():
        reference = generator(z0[None], *classes)
    return lambda code: distance(reference, generator(code[None], *classes)).sum(), z0


def hessian_by_double_backprop(generator, distance, z):
    return torch.autograd.functional.hessian(*squared_distance_from(generator, distance, z))


def products_by_double_backprop(generator, distance, z, directions, condition=None):
    """The rows v -> Hv: where a whole Hessian would take too long."""
    function, z0 = squared_distance_from(generator, distance, z, condition)
    return torch.stack([torch.autograd.functional.vhp(function, z0, v.double())[1] for v in directions])


def relative_error(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def code(n, seed, scale=1.0):
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(seed))


@pytest.mark.weights
@pytest.mark.parametrize(("seed", "scale"), [(0, 1.0), (1, 0.1), (2, 2.5)])
def test_the_metric_of_trained_faces_under_lpips_is_that_of_double_backprop(faces, lpips_alex, seed, scale):
    z = code(100, seed, scale)
    exact = hessian_by_double_backprop(faces, lpips_alex, z)
    metric = metric_at(faces, lpips_alex, z)
    assert relative_error(metric.matrix, exact) < 1e-5
    wanted = torch.linalg.eigvalsh(exact).flip(0)
    # near the origin only 7 eigenvalues are not zero: too few ReLUs are open there
    torch.testing.assert_close(metric.eigenvalues, wanted, rtol=1e-4, atol=1e-12 * float(wanted[0]))
    assert bool(metric.certificate.passed)


@pytest.mark.weights
def test_a_float64_generator_and_distance_give_a_float64_metric(faces, lpips_alex):
    z = code(100, 3)
    exact = hessian_by_double_backprop(faces, lpips_alex, z)
    metric = metric_at(copy.deepcopy(faces).double(), copy.deepcopy(lpips_alex).double(), z)
    assert relative_error(metric.matrix, exact) < 1e-10
    assert bool(metric.certificate.passed)


@pytest.mark.weights
@pytest.mark.parametrize("options", [{"input_range": "paper", "clamp": True}, {"size": 40}])
def test_the_conventions_of_the_measurement_are_inside_the_derivative(faces, lpips_alex, options):
    distance = load_distance("lpips", trunk="alex", device="cpu", **options)
    z, directions = code(100, 4), torch.eye(100)[::13]
    exact = products_by_double_backprop(faces, distance, z, directions)
    matrix = metric_at(faces, distance, z).matrix
    assert relative_error(matrix[::13], exact) < 1e-5
    assert relative_error(metric_at(faces, lpips_alex, z).matrix[::13], exact) > 0.01


@pytest.mark.weights
def test_the_metric_of_a_class_conditional_generator_is_that_of_double_backprop(eyes, lpips_alex):
    z, directions = code(100, 5), torch.eye(100)[::13]
    exact = products_by_double_backprop(eyes, lpips_alex, z, directions, eyes.classes.index("green"))
    metric = metric_at(eyes, lpips_alex, torch.stack([z, z]), condition=["green", "brown"])
    assert relative_error(metric.matrix[0, ::13], exact) < 1e-5
    assert relative_error(metric.matrix[1, ::13], exact) > 0.01
    assert metric.certificate.failures() == ["", ""]


@pytest.mark.weights
def test_the_metric_of_faces_under_mse_is_that_of_double_backprop(faces):
    z = code(100, 6)
    exact = products_by_double_backprop(faces, MSE, z, torch.eye(100)[::7])
    assert relative_error(metric_at(faces, MSE, z).matrix[::7], exact) < 1e-5


@pytest.mark.parametrize("seed", range(3))
def test_of_a_linear_generator_under_mse_the_metric_is_two_a_transposed_a_over_m(seed):
    generator = Linear(seed=seed)
    a = generator.matrix.detach().numpy().astype(np.float64)
    metric = metric_at(generator, MSE, code(6, seed))
    np.testing.assert_allclose(metric.matrix, 2 * a.T @ a / a.shape[0], rtol=1e-5, atol=1e-9)


def test_each_code_has_the_metric_of_its_own_class():
    generator = Classes()
    a = generator.matrix.detach().numpy().astype(np.float64)
    metric = metric_at(generator, MSE, torch.randn(4, 6), condition=["one", "three", 1, "two"])
    for found, factor in zip(metric.matrix, (1, 9, 4, 4), strict=True):
        np.testing.assert_allclose(found, factor * 2 * a.T @ a / a.shape[0], rtol=1e-5, atol=1e-8)


class _LatentCodeAsWeights(torch.nn.Module):
    """A "network" whose only parameter is the latent code and whose prediction is the residual of its image."""

    def __init__(self, generator, distance, z):
        super().__init__()
        self.code = torch.nn.Parameter(z)
        # not registered: the latent code must be the only parameter
        self.parts = (generator, distance)

    def forward(self, x):
        generator, distance = self.parts
        return distance.residual(generator((self.code * x[0, 0])[None]))


@pytest.mark.parametrize("operator", [GGNLinearOperator, HessianLinearOperator])
def test_curvlinops_finds_the_same_curvature(operator):
    """D² is the summed squared error of a network whose weights are the code, against the residual at z0.

    There the loss is zero, so that its Hessian and its generalised Gauss-Newton matrix are both H.
    """
    generator = Smooth().double().requires_grad_(False)
    z = code(6, 7).double()
    model = _LatentCodeAsWeights(generator, MSE, z)
    one = torch.ones(1, 1, dtype=torch.float64)
    target = model(one).detach()
    data = [(one, target)]
    curvature = operator(model, torch.nn.MSELoss(reduction="sum"), list(model.parameters()), data)
    wanted = curvature @ torch.eye(6, dtype=torch.float64)
    assert relative_error(metric_at(generator, MSE, z).matrix, wanted) < 1e-12


def test_finite_differences_of_the_squared_distance_find_the_same_metric():
    generator = Smooth().double()
    z = code(6, 8).double()
    step, axes = 1e-3, torch.eye(6, dtype=torch.float64)

    @torch.no_grad()
    def squared_distance(change):
        return float(MSE(generator(z[None]), generator((z + change)[None])))

    wanted = torch.zeros(6, 6, dtype=torch.float64)
    for i in range(6):
        for j in range(6):
            a, b = step * axes[i], step * axes[j]
            corners = [squared_distance(s * a + t * b) * s * t for s in (1, -1) for t in (1, -1)]
            wanted[i, j] = sum(corners) / (4 * step**2)
    assert relative_error(metric_at(generator, MSE, z).matrix, wanted) < 1e-5


def test_a_single_code_has_no_batch_axis():
    generator, codes = Smooth(), torch.randn(3, 6)
    many, one = metric_at(generator, MSE, codes, components=4), metric_at(generator, MSE, codes[1], components=4)
    assert many.matrix.shape == (3, 6, 6)
    assert many.eigenvalues.shape == (3, 4)
    assert many.eigenvectors.shape == (3, 4, 6)
    assert many.certificate.passed.shape == many.seconds.shape == (3,)
    assert one.matrix.shape == (6, 6)
    assert one.eigenvalues.shape == (4,)
    assert one.eigenvectors.shape == (4, 6)
    assert one.certificate.passed.shape == one.seconds.shape == ()
    assert one.certificate.failures() == [""]
    assert bool(one.certificate.passed) is True
    # By norm: a sum in another order moves a small element by more than its own float32 precision.
    assert relative_error(one.matrix, many.matrix[1]) < 1e-6


@pytest.mark.parametrize("form", [np.asarray, lambda z: z.tolist(), torch.as_tensor, lambda z: np.asarray(z, "f8")])
def test_codes_may_be_arrays_lists_or_tensors(form):
    codes = np.random.default_rng(0).standard_normal((2, 6)).astype(np.float32)
    wanted = metric_at(Smooth(), MSE, torch.from_numpy(codes)).matrix
    torch.testing.assert_close(metric_at(Smooth(), MSE, form(codes)).matrix, wanted, rtol=0, atol=0)


def test_the_largest_eigenpairs_are_kept():
    z = code(6, 9)
    whole, part = metric_at(Smooth(), MSE, z), metric_at(Smooth(), MSE, z, components=2)
    torch.testing.assert_close(part.eigenvalues, whole.eigenvalues[:2], rtol=0, atol=0)
    torch.testing.assert_close(part.eigenvectors, whole.eigenvectors[:2], rtol=0, atol=0)
    share = float(whole.eigenvalues[:2].sum() / whole.eigenvalues.sum())
    assert float(part.certificate.trace_share) == pytest.approx(share, rel=1e-9)
    assert float(whole.certificate.trace_share) == pytest.approx(1)


def test_neither_parameters_nor_codes_are_changed_and_no_gradient_is_left():
    generator, z = Smooth(), torch.randn(2, 6, requires_grad=True)
    before, codes = generator.matrix.detach().clone(), z.detach().clone()
    metric = metric_at(generator, MSE, z)
    assert torch.equal(generator.matrix, before)
    assert torch.equal(z, codes)
    assert generator.matrix.grad is None
    assert z.grad is None
    assert not metric.matrix.requires_grad


def test_a_constant_generator_has_the_zero_metric_and_passes():
    metric = metric_at(Constant(), MSE, torch.randn(2, 6), components=3)
    assert float(metric.matrix.abs().max()) == 0
    assert metric.certificate.failures() == ["", ""]
    assert metric.certificate.trace_share.tolist() == [1, 1]
    assert metric.certificate.probe_error.tolist() == [0, 0]


def test_a_residual_of_zero_is_a_code_like_any_other():
    generator = Black()
    metric = metric_at(generator, MSE, torch.zeros(6))
    a = generator.matrix.detach().numpy().astype(np.float64)
    np.testing.assert_allclose(metric.matrix, 2 * a.T @ a / a.shape[0], rtol=1e-5, atol=1e-9)
    assert metric.certificate.failures() == [""]


@pytest.mark.parametrize("shape", [(5,), (2, 7), (1, 2, 6), (0, 6), ()])
def test_codes_of_a_wrong_shape_are_refused_with_the_right_one(shape):
    with pytest.raises(PullbackError, match=r"\[6\] or \[batch, 6\]") as caught:
        metric_at(Linear(), MSE, torch.zeros(shape))
    assert str(list(shape)) in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_codes_that_are_not_finite_are_refused(value):
    codes = torch.zeros(3, 6)
    codes[2, 4] = value
    with pytest.raises(PullbackError, match="not finite"):
        metric_at(Linear(), MSE, codes)


def test_the_name_of_a_distance_is_no_distance_and_the_way_to_one_is_reported():
    with pytest.raises(PullbackError, match=r"load_distance\('lpips'\), not 'mse'"):
        metric_at(Linear(), "mse", torch.zeros(6))


def test_a_metric_is_shown_by_its_shape():
    shown = repr(metric_at(Linear(), MSE, torch.zeros(3, 6), components=2, method="gauss_newton"))
    assert shown == "PullbackMetric(n=6, eigenvalues=[3, 2], method='gauss_newton', device='cpu')"


@pytest.mark.parametrize("components", [0, -1, 7])
def test_more_components_than_there_are_and_fewer_than_one_are_refused(components):
    with pytest.raises(PullbackError, match=f"between 1 and 6.*not {components}"):
        metric_at(Linear(), MSE, torch.zeros(6), components=components)


def test_a_class_conditional_generator_asks_for_its_condition():
    with pytest.raises(SpecError, match="one, two, three"):
        metric_at(Classes(), MSE, torch.zeros(6))


def test_a_condition_that_the_generator_cannot_take_is_refused():
    with pytest.raises(SpecError, match="has no classes"):
        metric_at(Linear(), MSE, torch.zeros(6), condition="one")
    with pytest.raises(SpecError, match="did you mean 'three'"):
        metric_at(Classes(), MSE, torch.zeros(6), condition="thre")
    with pytest.raises(SpecError, match="2 classes for 3 codes"):
        metric_at(Classes(), MSE, torch.zeros(3, 6), condition=["one", "two"])


def test_what_is_chosen_for_memory_goes_with_what_the_caller_fixed(monkeypatch):
    asked = []

    def decide(generator, distance, request, copies_of):
        asked.append((request.codes, request.batch, request.tangents))
        raise MemoryPlanError("too large")

    monkeypatch.setattr(pullback_metric, "decide", decide)
    with pytest.raises(MemoryPlanError):
        metric_at(Linear(), MSE, torch.zeros(2, 6), tangents=3)
    assert asked == [(2, None, 3)]


def test_a_callers_inference_mode_does_not_matter():
    generator = Smooth()
    wanted = metric_at(generator, MSE, torch.ones(2, 6)).matrix
    with torch.inference_mode():
        found = metric_at(generator, load_distance("mse", device="cpu"), torch.ones(2, 6)).matrix
    assert torch.equal(found, wanted)
