"""Equal-change steps against curves D(t) with a closed form."""

import numpy as np
import pytest

from pullback.applications.walking.equal_steps import Curve, equal_steps

CURVES = [
    lambda t: t,
    lambda t: np.tanh(t),
    lambda t: t + 0.3 * np.sin(4 * t) / 4,
    lambda t: np.log1p(30 * t) / 10,
    lambda t: t**3,
]


def measured(curves):
    calls = []

    def measure(tracks, t):
        calls.append(len(t))
        return np.array([curves[track](step) for track, step in zip(tracks, t, strict=True)])

    return measure, calls


def test_steps_are_equal_to_two_per_cent_on_curves_that_the_rate_predicts_badly():
    measure, calls = measured(CURVES)
    values = [0.1, 0.2, 0.3]
    found = equal_steps(measure, np.full(len(CURVES), 2.0), np.full(len(CURVES), 10.0), values)
    for track, curve in enumerate(CURVES):
        np.testing.assert_allclose(curve(found.t[track]), values, rtol=0.02)
    np.testing.assert_allclose(found.distance, np.tile(values, (len(CURVES), 1)), rtol=0.02)
    assert sum(calls) < 20 * len(CURVES)


def test_a_curve_that_turns_back_ends_its_range_where_it_does():
    measure, _ = measured([lambda t: np.sin(t)])
    found = equal_steps(measure, [2.0], [10.0], [0.5, 0.9, 1.5])
    np.testing.assert_allclose(np.sin(found.t[0, :2]), [0.5, 0.9], rtol=0.02)
    end, top = found.curves[0].reach
    assert end <= 2.2
    assert found.t[0, 2] <= end
    assert found.distance[0, 2] == pytest.approx(top, rel=0.02)


def test_a_limit_keeps_steps_of_weak_directions_finite():
    measure, _ = measured([lambda t: 1e-6 * t, lambda t: 0 * t])
    found = equal_steps(measure, [2e-12, 0.0], [5.0, 5.0], [0.1, 0.2])
    assert (found.t <= 5.0).all()
    assert (found.distance <= 1e-5).all()


def test_the_quadratic_range_is_where_the_law_holds():
    t = np.linspace(0, 2, 41)
    curve = Curve(t, np.where(t < 1, t, 1 + 2 * (t - 1)))
    assert 1.0 <= curve.quadratic_reach(2.0) <= 1.2
    assert Curve(t, t).quadratic_reach(2.0) == 2.0
    # D² is four times what the law says from the first measured step on: only a part of that step can hold.
    assert Curve(t, 2 * t).quadratic_reach(2.0) == pytest.approx(0.2 / 3 * 0.05)
    assert Curve(t, t).quadratic_reach(0.0) == 0.0
