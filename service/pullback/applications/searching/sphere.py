"""SphereCMA, and its combination with a metric: a search on a sphere of codes, in steps along tangents.

A generation is drawn around a base b: a tangent t at b, a normal vector without its part along b, gives the code
cos(‖t‖) b + sin(‖t‖) ‖b‖ t/‖t‖, the exponential map of the sphere. The base moves by 1.5 times the angle to the
weighted mean of the best 20 of 40 codes. The typical angle ‖t‖ falls from 50° to 7.33° over the generations,
exponentially. Source: Wang & Ponce, "High-performance evolutionary algorithms for online neuron control", GECCO 2022,
and their code (Animadversio/ActMax-Optimizer-Dev, `ZOHA_Sphere_lr_euclid`). Their first generation is normal codes on
the sphere. They also score the base, to which they give no weight; here it is left out.

With a metric the normal vector is y S, in the coordinates of `coordinates`: steps scaled by Λ^−p along the axes of H̄,
and only along the k leading ones. The first generation is drawn in the same way, so the base starts in the span of
these axes, and stays there. The norm is kept. We know of no earlier combination of the two.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.applications.searching.searcher import Floats, Searcher, Setting, State, rank_weights

ANGLES = (50.0, 7.33)
"""Degrees of the typical step in the first and in the last generation."""
RATE, SELECTED = 1.5, 0.5

_TINY = 1e-300


class SphereSearch(Searcher):
    """Searches on the sphere of the feasible set: the boundary, if the set is a ball."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.radius = setting.feasible.radius
        self._base: Floats | None = None

    @property
    def angle(self) -> float:
        """The typical angle of the current generation's steps, in radians."""
        first, last = ANGLES
        steps = max(self.setting.generations - 2, 1)  # the first generation has none
        share = min(max(self.generation - 1, 0) / steps, 1.0)
        return float(np.deg2rad(first * (last / first) ** share))

    def ask(self) -> Floats:
        """Return codes around the base, all of one norm."""
        drawn = self.setting.coordinates.x(self.normal())
        if self._base is None:
            return self._on_sphere(drawn)
        base = self._base
        # x has E‖x‖² = n, so ‖t‖ is near the angle.
        tangents = self.angle / np.sqrt(len(base)) * drawn
        tangents -= np.outer(tangents @ base, base) / self.radius**2
        lengths = np.linalg.norm(tangents, axis=1, keepdims=True)
        units = tangents / np.maximum(lengths, _TINY)
        return self._on_sphere(np.cos(lengths) * base + np.sin(lengths) * self.radius * units)

    def learn(self, x: Floats, scores: Floats) -> None:
        """Move the base along the great circle towards the weighted mean of the best codes, and beyond it."""
        weights = rank_weights(scores, max(1, round(SELECTED * len(scores))))
        mean = self._on_sphere((weights @ x)[None])[0]
        if self._base is None:
            self._base = mean
            return
        unit, target = self._base / self.radius, mean / self.radius
        across = target - (target @ unit) * unit
        length = float(np.linalg.norm(across))
        if length > 0:
            angle = RATE * np.arctan2(length, float(target @ unit))
            moved = np.cos(angle) * unit + np.sin(angle) * across / length
            self._base = self._on_sphere(moved[None])[0]

    def _on_sphere(self, x: Floats) -> Floats:
        return np.asarray(x * (self.radius / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _TINY)))

    def own_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the base."""
        assert self._base is not None
        return {"base": self._base}

    def set_own_state(self, state: State) -> None:
        """Set the base."""
        self._base = np.array(state["base"])
