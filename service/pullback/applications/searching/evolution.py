"""CMA-ES with a full and with a diagonal covariance, by the package `cmaes`, in any linear coordinates.

Source: Hansen, arXiv 1604.00772; Ros & Hansen, PPSN 2008, for the diagonal one. Codes outside the feasible set are
moved to its nearest code before they are scored, and CMA-ES learns from the moved codes. Both sets are star-shaped
around x = 0, so the move is a change of length, which commutes with the coordinates.

A covariance that a metric gives is a start covariance C = S Sᵀ, which is the same as C = I in the coordinates of
`coordinates`; the latter is what is done here, because a cut to k axes then costs k dimensions and not n.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from cmaes import CMA, SepCMA

from pullback.applications.searching.searcher import Floats, Searcher, Setting, State
from pullback.errors import PullbackError

LARGEST = 1000
"""Dimensions beyond which the full covariance is refused: a generation would take minutes, and the covariance learns in
about n² / 10 evaluations, more than any budget (Wang & Ponce, GECCO 2022)."""

_SEEDS = 2**32


class CovarianceSearch(Searcher):
    """CMA-ES with a full covariance.

    Raises:
        PullbackError: the coordinates have more than `LARGEST` dimensions.
    """

    default_population = None

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        k = setting.coordinates.k
        if k > LARGEST:
            raise PullbackError(
                f"a full covariance of {k} dimensions costs minutes a generation and learns nothing in any usual "
                f"budget. Nothing was computed. Choose the searcher sphere or sep-cma, or cut the metric's axes to at "
                f"most {LARGEST}"
            )
        self._cma = self._new(k)

    def _new(self, k: int) -> Any:
        return CMA(np.zeros(k), self.sigma, population_size=self.population)

    def ask(self) -> Floats:
        """Return codes drawn from the current normal distribution, moved into the feasible set."""
        self._cma.reseed_rng(int(self.stream().integers(_SEEDS)))
        drawn = np.stack([self._cma.ask() for _ in range(self.population)])
        return self.setting.feasible.inside(self.setting.coordinates.x(drawn))

    def learn(self, x: Floats, scores: Floats) -> None:
        """Update mean, step size and covariance."""
        coordinates = self.setting.coordinates.y(x)
        self._cma.tell([(y, -float(score)) for y, score in zip(coordinates, scores, strict=True)])

    def own_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays and numbers of the package's object; its random numbers are seeded by generation."""
        held = {name: value for name, value in vars(self._cma).items() if isinstance(value, np.ndarray | float | int)}
        return {f"cma{name}": np.array(value) for name, value in held.items()}

    def set_own_state(self, state: State) -> None:
        """Set the arrays and numbers of the package's object."""
        for name, value in vars(self._cma).items():
            held = state.get(f"cma{name}")
            if held is not None:
                setattr(self._cma, name, np.array(held) if isinstance(value, np.ndarray) else held.item())


class SeparableSearch(CovarianceSearch):
    """CMA-ES with a diagonal covariance, which learns n times faster; in the axes of a metric, one step an axis."""

    def __init__(self, setting: Setting) -> None:
        Searcher.__init__(self, setting)
        self._cma = self._new(setting.coordinates.k)

    def _new(self, k: int) -> Any:
        return SepCMA(np.zeros(k), self.sigma, population_size=self.population)


class FixedSearch(Searcher):
    """CMA-ES that adapts mean and step size, and no covariance: an evolution strategy with cumulative path length.

    Source: Hansen, arXiv 1604.00772, equations 42 to 44, with C = I.
    """

    default_population = None

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        k, selected = setting.coordinates.k, self.population // 2
        raw = np.log((self.population + 1) / 2) - np.log(np.arange(1, selected + 1))
        self._weights = raw / raw.sum()
        effective = 1 / float(np.sum(self._weights**2))
        self._rate = (effective + 2) / (k + effective + 5)
        self._damping = 1 + 2 * max(0.0, np.sqrt((effective - 1) / (k + 1)) - 1) + self._rate
        self._gain = np.sqrt(self._rate * (2 - self._rate) * effective)
        self._length = np.sqrt(k) * (1 - 1 / (4 * k) + 1 / (21 * k**2))  # of a standard normal vector
        self._mean, self._path, self._step = np.zeros(k), np.zeros(k), float(self.sigma)

    def ask(self) -> Floats:
        """Return codes drawn around the mean, moved into the feasible set."""
        drawn = self._mean + self._step * self.normal()
        return self.setting.feasible.inside(self.setting.coordinates.x(drawn))

    def learn(self, x: Floats, scores: Floats) -> None:
        """Move the mean to the weighted best, and adapt the step size to the length of the path."""
        best = np.argsort(-scores, kind="stable")[: len(self._weights)]
        move = self._weights @ (self.setting.coordinates.y(x[best]) - self._mean) / self._step
        self._mean = self._mean + self._step * move
        self._path = (1 - self._rate) * self._path + self._gain * move
        growth = self._rate / self._damping * (np.linalg.norm(self._path) / self._length - 1)
        self._step = float(self._step * np.exp(growth))

    def own_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return mean, path and step size."""
        return {"mean": self._mean, "path": self._path, "step": np.asarray(self._step)}

    def set_own_state(self, state: State) -> None:
        """Set mean, path and step size."""
        self._mean, self._path = np.array(state["mean"]), np.array(state["path"])
        self._step = float(state["step"])
