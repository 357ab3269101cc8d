"""The searchers on a score whose maximum is known, and their states, coordinates and feasible sets."""

import numpy as np
import pytest

from pullback.applications.searching.coordinates import Coordinates, Metric, dimension, metric_coordinates
from pullback.applications.searching.evolution import LARGEST
from pullback.applications.searching.feasible import Feasible
from pullback.applications.searching.objective import Noise
from pullback.applications.searching.searchers import KINDS, coordinates_of, make_searcher
from pullback.errors import PullbackError

N = 8
BUDGET = 600
TARGET = 1.5 * np.arange(1, N + 1) / N
BALL, SPHERE = (
    Feasible(np.zeros(N), 1.0, radius, sphere) for radius, sphere in ((1.25 * N**0.5, False), (N**0.5, True))
)
STEEP = Metric.of_matrix(np.diag(10.0 ** -np.arange(N)))


def score(x):
    """Largest, 0, at TARGET, whose norm is within the ball and not far from the sphere."""
    return -np.sum((x - TARGET) ** 2, axis=1)


def searched(name, feasible=BALL, metric=STEEP, exponent=0.0, cut=None, seed=0, generations=None, saved=None):
    searcher = make_searcher(
        name, feasible, coordinates_of(name, N, metric, exponent, cut), evaluations=BUDGET, seed=seed
    )
    if saved is not None:
        searcher.restore(saved)
    asked, scores = [], []
    for _ in range(BUDGET // searcher.population - searcher.generation if generations is None else generations):
        x = searcher.ask()
        asked.append(x)
        scores.append(score(x))
        searcher.tell(x, scores[-1])
    return searcher, asked, np.concatenate(scores)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "random"])
def test_each_searcher_finds_better_codes_than_random_ones(name):
    best = np.mean([searched(name, seed=seed)[2].max() for seed in range(3)])
    control = np.mean([searched("random", seed=seed)[2].max() for seed in range(3)])
    assert best > control + 0.5


@pytest.mark.parametrize("name", KINDS)
def test_a_restored_searcher_goes_on_to_the_bit(name):
    whole = searched(name, exponent=0.25)[1]
    first, early, _ = searched(name, exponent=0.25, generations=5)
    late = searched(name, exponent=0.25, saved={key: value.copy() for key, value in first.state().items()})[1]
    np.testing.assert_array_equal(np.concatenate([*early, *late]), np.concatenate(whole))


@pytest.mark.parametrize("name", KINDS)
def test_asking_again_gives_the_same_codes(name):
    searcher = searched(name, generations=2)[0]
    np.testing.assert_array_equal(searcher.ask(), searcher.ask())


@pytest.mark.parametrize("name", KINDS)
def test_codes_stay_in_the_feasible_set(name):
    norms = np.linalg.norm(np.concatenate(searched(name, feasible=SPHERE, exponent=0.4)[1]), axis=1)
    np.testing.assert_allclose(norms, N**0.5, rtol=1e-6)
    norms = np.linalg.norm(np.concatenate(searched(name, feasible=BALL, exponent=0.4)[1]), axis=1)
    assert norms.max() <= 1.25 * N**0.5 * (1 + 1e-12)


@pytest.mark.parametrize(
    ("arm", "plain"), [("metric-cma", "cma"), ("axes-sep-cma", "sep-cma"), ("metric-sphere", "sphere")]
)
def test_an_identity_metric_gives_the_plain_searcher(arm, plain):
    identity = Metric.of_matrix(np.eye(N))
    found = np.concatenate(searched(arm, metric=identity, exponent=0.4)[1])
    np.testing.assert_allclose(found, np.concatenate(searched(plain)[1]), atol=1e-9)


def test_a_cut_keeps_the_search_in_the_leading_axes():
    for name in ("metric-cma", "metric-sphere", "metric-fixed", "axes-sep-cma"):
        asked = np.concatenate(searched(name, cut=3)[1])
        assert np.abs(asked[:, 3:]).max() < 1e-12
        assert np.abs(asked[:, :3]).max() > 1


def test_coordinates_scale_steps_by_the_power_and_keep_the_length():
    coordinates = metric_coordinates(STEEP, 0.25, 4)
    steps = np.linalg.norm(coordinates.rows, axis=1)
    np.testing.assert_allclose(steps[1:] / steps[:-1], 10**0.25)
    y = np.random.default_rng(0).standard_normal((20_000, 4))
    assert np.mean(np.sum(coordinates.x(y) ** 2, axis=1)) == pytest.approx(N, rel=0.05)
    np.testing.assert_allclose(coordinates.y(coordinates.x(y)), y, atol=1e-12)
    assert Coordinates(N).k == N


def test_round_off_eigenvalues_do_not_explode():
    values = np.array([1.0, 1e-3, -1e-12, 0.0])
    rows = metric_coordinates(Metric(values, np.eye(4)), 0.5).rows
    assert np.isfinite(rows).all()
    assert dimension(values, 0.99) == 1
    assert dimension(values, 0.9999) == 2


def test_the_random_basis_has_the_spectrum_and_is_orthonormal():
    control = STEEP.with_random_axes(3)
    np.testing.assert_array_equal(control.eigenvalues, STEEP.eigenvalues)
    np.testing.assert_allclose(control.axes @ control.axes.T, np.eye(N), atol=1e-12)
    assert np.abs(control.axes - STEEP.axes).max() > 0.1


def test_noise_belongs_to_the_evaluation_and_not_to_the_generation():
    noise, scores = Noise(0.5, 7), np.ones(60)
    whole = noise(scores, 0)
    np.testing.assert_array_equal(whole, np.concatenate([noise(scores[:17], 0), noise(scores[17:], 17)]))
    assert whole.std() == pytest.approx(0.5, rel=0.4)
    assert (whole >= 0).all()
    np.testing.assert_array_equal(Noise()(scores, 0), scores)


def test_the_angle_falls_from_50_to_7_degrees():
    searcher = make_searcher("sphere", SPHERE, Coordinates(N), evaluations=40 * 75)
    searcher.generation = 1
    assert np.rad2deg(searcher.angle) == pytest.approx(50)
    searcher.generation = 74
    assert np.rad2deg(searcher.angle) == pytest.approx(7.33)


def test_what_cannot_work_is_refused():
    with pytest.raises(PullbackError, match="one generation of 40"):
        make_searcher("sphere", BALL, Coordinates(N), evaluations=39)
    large = Feasible(np.zeros(LARGEST + 1), 1.0, 30.0)
    with pytest.raises(PullbackError, match="full covariance"):
        make_searcher("cma", large, Coordinates(LARGEST + 1), evaluations=3000)
    with pytest.raises(PullbackError, match="mean metric of a sweep"):
        coordinates_of("metric-cma", N, None, 0.25, None)
