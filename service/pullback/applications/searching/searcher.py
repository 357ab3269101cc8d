"""The protocol of a searcher: ask for a generation of codes, tell their scores, save and restore the state.

A searcher maximises. `ask` returns feasible x [population, n] (see `feasible`); `tell` gets the same x with their
scores. Random numbers of generation g come from `SeedSequence(seed, spawn_key=(g,))`, so the state needs no generator
of random numbers, and a search that is restored after any `tell` goes on with the same codes to the bit.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.applications.searching.coordinates import Coordinates
from pullback.applications.searching.feasible import Feasible

Floats = npt.NDArray[np.float64]
State = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Setting:
    """What every searcher is given.

    Attributes:
        feasible: the feasible set.
        coordinates: the coordinates in which steps are drawn.
        generations: number of generations that the budget allows; for schedules.
        seed: seed of all random numbers.
        population: codes of a generation; None for the searcher's own default.
        sigma: first standard deviation of the steps, in units of the usual norm per coordinate; None for the
            searcher's own default.
    """

    feasible: Feasible
    coordinates: Coordinates
    generations: int
    seed: int = 0
    population: int | None = None
    sigma: float | None = None


class Searcher(ABC):
    """A search in generations.

    Args:
        setting: see `Setting`.

    Attributes:
        population: codes of a generation.
        generation: number of generations whose scores it has received.
    """

    default_population: int | None = 40
    default_sigma: float = 1.0

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.population = population_of(type(self), setting.coordinates.k, setting.population)
        self.generation = 0

    @property
    def sigma(self) -> float:
        """The first standard deviation of the steps."""
        return self.default_sigma if self.setting.sigma is None else self.setting.sigma

    @abstractmethod
    def ask(self) -> Floats:
        """Return the next codes x [population, n], all feasible. Without a `tell` it returns the same again."""

    def tell(self, x: Floats, scores: Floats) -> None:
        """Learn from the scores [population] of the codes that `ask` returned."""
        self.learn(x, scores)
        self.generation += 1

    @abstractmethod
    def learn(self, x: Floats, scores: Floats) -> None:
        """Update the state from codes and scores."""

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the state after a `tell` as arrays, for `restore`."""
        return {"generation": np.asarray(self.generation), **self.own_state()}

    def restore(self, state: State) -> None:
        """Go on from a state of a searcher with the same setting."""
        self.generation = int(state["generation"])
        self.set_own_state(state)

    def own_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return what the searcher has learnt, as arrays."""
        return {}

    def set_own_state(self, state: State) -> None:  # noqa: B027 - a searcher may have no state
        """Set what `own_state` returned."""

    def stream(self) -> np.random.Generator:
        """Return the random numbers of the current generation, from their beginning."""
        return np.random.default_rng(np.random.SeedSequence(self.setting.seed, spawn_key=(self.generation,)))

    def normal(self) -> Floats:
        """Return the standard normal vectors y [population, k] of the current generation."""
        return self.stream().standard_normal((self.population, self.setting.coordinates.k))


def population_of(kind: type[Searcher], k: int, given: int | None = None) -> int:
    """Return the population of a kind of searcher in k dimensions: the given one, its own, or 4 + ⌊3 ln k⌋.

    The last is that of CMA-ES (Hansen, arXiv 1604.00772, equation 48).
    """
    if given is not None:
        return given
    return 4 + int(3 * np.log(k)) if kind.default_population is None else kind.default_population


def rank_weights(scores: Floats, selected: int) -> Floats:
    """Return weights [population] by rank: ln(m + ½) − ln(i) for the i-th of the m best, 0 for others; sum 1.

    Source: Hansen, arXiv 1604.00772, equation 49. Equal scores are ranked in their order.
    """
    m = min(selected, len(scores))
    weights = np.zeros(len(scores))
    values = np.log(m + 0.5) - np.log(np.arange(1, m + 1))
    weights[np.argsort(-scores, kind="stable")[:m]] = values / values.sum()
    return weights
