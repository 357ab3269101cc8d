"""The solvers of an inversion on problems with a known solution."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from pullback import load_distance
from pullback.applications.inverting import adam, gauss_newton_cg, lbfgs, levenberg_marquardt
from pullback.applications.inverting.objective import Objective
from pullback.applications.inverting.solvers import SOLVERS
from pullback.applications.inverting.watch import Watch
from pullback.errors import ArgumentError
from toy_generators import Classes, Linear, Smooth

N = 5


@pytest.fixture(scope="module")
def mse():
    return load_distance("mse", device="cpu")


@pytest.fixture(scope="module")
def problem(mse):
    """Three targets of a smooth generator in float64, their codes, starts nearby, and a metric."""
    generator = Smooth(N).double()
    codes = torch.randn(3, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    objective = Objective(generator, mse, generator(codes).detach(), pixel_weight=1.0)
    start = codes + 0.3 * torch.randn(3, N, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return objective, codes, start, objective.mean_metric(codes)


def run(problem, minimise, watch=None, rows=slice(None), **settings):
    objective, _, start, _ = problem
    target = torch.arange(3)[rows]
    watch = watch or Watch(objective, 3)
    return (*minimise(objective, start[rows], target, None, watch, **settings), watch)


def whitened(objective, root, start, target):
    def value(y):
        found, half = objective.gradients(start + torch.from_numpy(y)[None] @ root, target)
        return float(found), (2 * half @ root)[0].numpy()

    return value


def test_the_gradient_and_the_quadratic_model_are_those_of_automatic_differentiation(problem, mse):
    objective, _, start, _ = problem
    prior = Objective(objective.generator, mse, objective.targets, 2.0, 0.5, torch.ones(N), torch.full((N,), 2.0))
    target = torch.arange(3)

    def value(z, index):
        image = prior.generator(z[None])
        squares = (image - prior.targets[index]).square().mean()
        return 3 * squares + 0.5 / N * ((z - 1) / 2).square().sum()

    local = prior.local(start, target)
    found, half = prior.gradients(start, target)
    for index in range(3):
        z = start[index].clone().requires_grad_()
        wanted = value(z, index)
        (slope,) = torch.autograd.grad(wanted, z)
        torch.testing.assert_close(found[index], wanted.detach())
        torch.testing.assert_close(2 * half[index], slope)
    torch.testing.assert_close(local.value, found)
    torch.testing.assert_close(local.gradient, half)
    torch.testing.assert_close(prior.values(start, target), found)
    _, slope, multiply = prior.products(start, target)
    torch.testing.assert_close(slope, half)
    vectors = torch.randn(3, N, dtype=torch.float64)
    torch.testing.assert_close(multiply(vectors), (local.curvature @ vectors[:, :, None])[:, :, 0])


def test_the_cost_counts_images_gradients_and_columns(problem, mse):
    objective = Objective(problem[0].generator, mse, problem[0].targets)
    target = torch.arange(3)
    objective.values(problem[2], target)
    objective.gradients(problem[2], target)
    objective.local(problem[2][:2], target[:2])
    cost = objective.cost
    assert (cost.forwards, cost.gradients, cost.columns) == (3 + 2, 3, 2 * N)
    assert cost.forward_equivalents == 5 + 9 + 10
    objective.without_prior().values(problem[2], target)
    assert cost.forwards == 8


@pytest.mark.parametrize("weights", [{"pixel_weight": -1.0}, {"prior": -1.0}])
def test_negative_weights_are_refused(problem, mse, weights):
    with pytest.raises(ArgumentError):
        Objective(problem[0].generator, mse, problem[0].targets, **weights)


def test_a_distance_that_is_no_sum_of_squares_is_refused(problem):
    with pytest.raises(ArgumentError):
        Objective(problem[0].generator, load_distance("ssim", device="cpu"), problem[0].targets)


def test_levenberg_marquardt_converges_quadratically(problem):
    codes = problem[1]
    errors = []
    for steps in range(1, 7):
        found, *_ = run(problem, levenberg_marquardt.minimise, lagged=False, steps=steps, first_damping=1e-9)
        errors.append(float((found - codes).norm(dim=1).max()))
    assert errors[-1] < 1e-9
    ratios = [np.log(later) / np.log(now) for now, later in pairwise(errors) if 1e-7 < now < 0.05]
    assert ratios
    assert min(ratios) > 1.5


def test_a_lagged_jacobian_needs_fewer_columns_for_the_same_minimum(problem, mse):
    columns = {}
    for lagged in (False, True):
        objective = Objective(problem[0].generator, mse, problem[0].targets)
        watch = Watch(objective, 3, tolerance=1e-16)
        found, *_ = run((objective, *problem[1:]), levenberg_marquardt.minimise, watch, lagged=lagged)
        torch.testing.assert_close(found, problem[1], atol=1e-5, rtol=0)
        columns[lagged] = objective.cost.columns
    assert columns[True] < columns[False]


@pytest.mark.parametrize("with_metric", [False, True])
def test_lbfgs_finds_the_minimum_that_scipy_finds(problem, with_metric):
    objective, codes, start, metric = problem
    found, values, _ = run(problem, lbfgs.minimise, metric=metric if with_metric else None, steps=200)
    torch.testing.assert_close(found, codes, atol=1e-5, rtol=0)
    value = whitened(objective, torch.eye(N, dtype=torch.float64), start[:1], torch.tensor([0]))
    scipy = minimize(value, np.zeros(N), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-10})
    np.testing.assert_allclose(start[0].numpy() + scipy.x, found[0].numpy(), atol=1e-5)
    assert float(values.max()) < 1e-10


def test_lbfgs_along_leading_axes_stays_in_their_span_and_minimises_there(problem):
    objective, _, start, metric = problem
    found, *_ = run(problem, lbfgs.minimise, metric=metric, leading=2, steps=100)
    axes = torch.linalg.eigh(metric)[1]
    moved = (found - start) @ axes
    assert float(moved[:, :-2].abs().max()) < 1e-9
    assert float(moved[:, -2:].abs().min()) > 1e-3
    _, half = objective.gradients(found, torch.arange(3))
    assert float((half @ axes[:, -2:]).abs().max()) < 1e-5


def test_lbfgs_with_a_metric_is_lbfgs_in_whitened_coordinates(problem, mse):
    objective, _, start, metric = problem
    spectrum, axes = torch.linalg.eigh(metric)
    root = (axes * (spectrum + 1e-3 * spectrum[-1]).rsqrt()) @ axes.T

    class Whitened(torch.nn.Module):
        latent_dim = N

        def __init__(self):
            super().__init__()
            self.inner = objective.generator

        def forward(self, y):
            return self.inner(start[:1] + y @ root)

    white = Objective(Whitened(), mse, objective.targets, pixel_weight=1.0)
    one = torch.tensor([0])
    for steps in (2, 5, 9):
        there, _ = lbfgs.minimise(objective, start[:1], one, None, Watch(objective, 3), metric=metric, steps=steps)
        here, _ = lbfgs.minimise(white, torch.zeros(1, N, dtype=torch.float64), one, None, Watch(white, 3), steps=steps)
        torch.testing.assert_close(there, start[:1] + here @ root, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("name", ["adam", "lbfgs", "lbfgs_metric", "levenberg_marquardt", "gauss_newton_cg"])
def test_a_batch_gives_what_single_rows_give(problem, name):
    solver = SOLVERS[name]
    settings = {**solver.given(problem[3]), "steps": 6}
    together, values, _ = run(problem, solver.minimise, **settings)
    for row in range(3):
        alone, value, _ = run(problem, solver.minimise, rows=slice(row, row + 1), **settings)
        torch.testing.assert_close(alone[0], together[row], atol=1e-7, rtol=1e-5)
        torch.testing.assert_close(value[0], values[row], atol=1e-9, rtol=1e-5)


def test_plain_descent_without_a_basis_is_that_in_any_orthogonal_basis(problem):
    """The basis named `none` of the paper must change nothing; Adam depends on the basis, plain descent does not."""
    turn = torch.linalg.qr(torch.randn(N, N, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    for rule, same in (("sgd", True), ("adam", False)):
        none, *_ = run(problem, adam.minimise, rule=rule, steps=20, rate=0.5)
        identity, *_ = run(problem, adam.minimise, rule=rule, steps=20, rate=0.5, basis=torch.eye(N))
        turned, *_ = run(problem, adam.minimise, rule=rule, steps=20, rate=0.5, basis=turn)
        torch.testing.assert_close(none, identity, atol=1e-12, rtol=1e-12)
        assert bool(torch.isclose(none, turned, atol=1e-10).all()) == same


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_a_scaled_basis_scales_the_eigenvectors(problem, power):
    metric = problem[3]
    basis = adam.scaled_basis(metric, power, damping=0.0)
    lengths = basis.norm(dim=0)
    spectrum = torch.linalg.eigvalsh(metric)
    torch.testing.assert_close(lengths / lengths[0], (spectrum / spectrum[0]) ** -power)
    torch.testing.assert_close(lengths.log().mean(), torch.tensor(0.0, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", list(SOLVERS))
def test_every_solver_lowers_f_and_keeps_the_budget(problem, mse, name):
    objective = Objective(problem[0].generator, mse, problem[0].targets)
    solver, target = SOLVERS[name], torch.arange(3)
    before = objective.values(problem[2], target)
    watch = Watch(objective, 3, forward_equivalents=400)
    codes, values = solver.minimise(objective, problem[2], target, None, watch, **solver.given(problem[3]))
    assert (values <= before + 1e-12).all()
    assert float(values.sum()) < 0.5 * float(before.sum()) or "cma" in name
    torch.testing.assert_close(objective.values(codes, target), values, atol=1e-9, rtol=1e-6)
    assert watch.used < 400 + 400
    torch.testing.assert_close(watch.values, values, atol=1e-9, rtol=1e-6)


def test_a_solver_that_needs_a_metric_says_so():
    with pytest.raises(ValueError, match="metric"):
        SOLVERS["lbfgs_metric"].given(None)


def test_conjugate_gradients_end_where_the_exact_steps_end(problem):
    found, *_ = run(problem, gauss_newton_cg.minimise, steps=40)
    torch.testing.assert_close(found, problem[1], atol=1e-4, rtol=0)


def test_rows_of_a_conditional_generator_keep_their_class(mse):
    generator = Classes(N)
    codes = torch.randn(2, N, generator=torch.Generator().manual_seed(4))
    classes = torch.tensor([0, 2])
    objective = Objective(generator, mse, generator(codes, classes).detach(), pixel_weight=1.0)
    watch = Watch(objective, 2)
    found, _ = levenberg_marquardt.minimise(objective, 0 * codes, torch.arange(2), classes, watch, first_damping=1e-6)
    torch.testing.assert_close(found.float(), codes, atol=1e-3, rtol=1e-3)
    assert watch.conditions.tolist() == [0, 2]


def test_the_watch_keeps_the_best_and_ends_at_the_tolerance_or_a_stop(mse):
    generator = Linear(N)
    objective = Objective(generator, mse, generator(torch.zeros(1, N)).detach())
    watch = Watch(objective, 1, tolerance=0.1)
    one = torch.tensor([0])
    assert not watch(one, torch.ones(1, N), torch.tensor([0.5]))
    assert not watch(one, 2 * torch.ones(1, N), torch.tensor([0.7]))
    assert watch.values.tolist() == [0.5]
    assert watch.codes[0, 0] == 1
    assert watch(one, torch.zeros(1, N), torch.tensor([0.05]))
    assert [round(values[0], 3) for _, _, values in watch.trace] == [0.5, 0.5, 0.05]
    assert Watch(objective, 1, stopped=lambda: True).spent
    assert Watch(objective, 1, seconds=0).spent
