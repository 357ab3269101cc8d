"""Equal-change steps: the steps t at which the image distance D from the unmoved image has given values.

Near t = 0, D²(t) = ½λt² with the rate λ of the metric along the direction, so D = s at t = s (2/λ)^½. Farther out D is
measured. t(D) is interpolated monotonically (PCHIP: Fritsch & Carlson, SIAM J. Numer. Anal. 17, 1980) through the
measured values, D is measured at the step found, and the new value joins the others until D is within `TOLERANCE`.

The range of a slider ends where D stops growing: beyond it no step gives a larger change, and the nearest is taken.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pullback.analysis.bootstrap import Floats, Integers

TOLERANCE = 0.01
"""Largest error of D at a step, relative to the value asked for."""
_FIRST = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25)
"""First measured steps, relative to the step of ½λt² for the largest value."""
_GROWTH = 1.4
_ROUNDS = 6

Measure = Callable[[Integers, Floats], Floats]
"""Returns D for tracks (by index) at steps t: `(tracks [m], t [m]) -> D [m]`."""


@dataclass(frozen=True, eq=False)
class Curve:
    """D(t) of one track, as measured.

    Attributes:
        t: ascending from 0, latent units.
        distance: D at each t; 0 at t = 0.
    """

    t: Floats
    distance: Floats

    @property
    def growing(self) -> int:
        """How many of the first points have ascending D."""
        still = np.flatnonzero(np.diff(self.distance) <= 0)
        return int(still[0]) + 1 if still.size else len(self.t)

    @property
    def reach(self) -> tuple[float, float]:
        """The largest t, and its D, up to which D grows."""
        last = self.growing - 1
        return float(self.t[last]), float(self.distance[last])

    def inverse(self, distance: float) -> float:
        """Return the step at which D has a value within `reach`."""
        from scipy.interpolate import PchipInterpolator

        end = self.growing
        return float(PchipInterpolator(self.distance[:end], self.t[:end])(distance))

    def quadratic_reach(self, rate: float, tolerance: float = 0.2) -> float:
        """Return the t up to which D² is within a relative `tolerance` of ½λt², interpolated between measured steps."""
        ratio = np.ones(len(self.t))  # at t = 0 by the definition of λ
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio[1:] = self.distance[1:] ** 2 / (0.5 * rate * self.t[1:] ** 2)
        error = np.abs(ratio - 1)
        off = np.flatnonzero(~(error <= tolerance))
        if not off.size:
            return float(self.t[-1])
        first = int(off[0])
        if not np.isfinite(error[first]):
            return float(self.t[first - 1])
        part = (tolerance - error[first - 1]) / (error[first] - error[first - 1])
        return float(self.t[first - 1] + part * (self.t[first] - self.t[first - 1]))


@dataclass(frozen=True, eq=False)
class EqualSteps:
    """Steps of equal change.

    Attributes:
        t: `[tracks, values]`, latent units.
        distance: D measured there `[tracks, values]`.
        curves: what was measured of each track.
    """

    t: Floats
    distance: Floats
    curves: list[Curve]


def equal_steps(
    measure: Measure,
    rates: npt.ArrayLike,
    limits: npt.ArrayLike,
    values: Sequence[float] | Floats,
    done: Callable[[int], None] = lambda round_: None,
) -> EqualSteps:
    """Return the steps at which D has the values, for many tracks at once.

    Args:
        measure: measures D.
        rates: λ of each track `[tracks]`, squared distance per squared latent length.
        limits: the largest step of each track `[tracks]`.
        values: D asked for, positive and ascending.
        done: called after each round of measurements with its number.
    """
    rates, limits = np.asarray(rates, dtype=np.float64), np.asarray(limits, dtype=np.float64)
    wanted = np.asarray(values, dtype=np.float64)
    tracks = len(rates)
    most = float(wanted[-1])
    with np.errstate(divide="ignore"):
        unit = np.where(rates > 0, most * np.sqrt(2 / np.maximum(rates, 1e-300)), np.inf)
    unit = np.minimum(unit, limits / _FIRST[-1])
    points = [[(0.0, 0.0)] for _ in range(tracks)]

    def take(index: Integers, t: Floats) -> None:
        for track, step, distance in zip(index, t, measure(index, t), strict=True):
            points[track].append((float(step), float(distance)))

    everyone = np.arange(tracks)
    take(np.repeat(everyone, len(_FIRST)), (unit[:, None] * np.array(_FIRST)).ravel())
    rounds = 1
    done(rounds)
    ends = unit * _FIRST[-1]
    while True:
        short = [i for i in everyone if not _reaches(points[i], most) and ends[i] < limits[i] * (1 - 1e-9)]
        short = [i for i in short if _curve(points[i]).growing == len(points[i])]
        if not short:
            break
        chosen = np.array(short)
        ends[chosen] = np.minimum(ends[chosen] * _GROWTH, limits[chosen])
        take(chosen, ends[chosen])
        rounds += 1
        done(rounds)
    steps, found = np.zeros((tracks, len(wanted))), np.zeros((tracks, len(wanted)))
    settled = np.zeros((tracks, len(wanted)), dtype=bool)
    for _ in range(_ROUNDS):
        for track in everyone:
            curve = _curve(points[track])
            _, top = curve.reach
            for place, value in enumerate(wanted):
                if settled[track, place]:
                    continue
                if value >= top * (1 - TOLERANCE):  # beyond the reach: the end of it
                    near = int(np.argmin(np.abs(curve.distance[: curve.growing] - value)))
                    steps[track, place], found[track, place] = curve.t[near], curve.distance[near]
                    settled[track, place] = abs(found[track, place] - value) <= TOLERANCE * value or value > top
                    if settled[track, place]:
                        continue
                steps[track, place] = curve.inverse(min(float(value), top))
        open_ones = np.argwhere(~settled)
        if not len(open_ones):
            break
        index = open_ones[:, 0]
        t = steps[~settled]
        distances = measure(index, t)
        rounds += 1
        done(rounds)
        found[~settled] = distances
        for (track, place), step, distance in zip(open_ones, t, distances, strict=True):
            settled[track, place] = abs(distance - wanted[place]) <= TOLERANCE * wanted[place]
            points[track].append((float(step), float(distance)))
    return EqualSteps(steps, found, [_curve(each) for each in points])


def _reaches(points: list[tuple[float, float]], most: float) -> bool:
    return max(distance for _, distance in points) >= most


def _curve(points: list[tuple[float, float]]) -> Curve:
    """Sort measured points; equal steps, which rounds of interpolation may repeat, count once."""
    t, first = np.unique([step for step, _ in points], return_index=True)
    return Curve(t, np.array([points[i][1] for i in first]))
