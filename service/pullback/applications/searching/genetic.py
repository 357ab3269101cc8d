"""The genetic algorithm of XDream (Xiao & Kreiman, PLOS Comput. Biol. 16, 2020; Ponce et al., Cell 177, 2019).

Parents are drawn with probability ∝ exp(score / kT), with kT = 2 standard deviations of the scores. A child takes each
coordinate from its first parent with probability .75, otherwise from its second, and a quarter of the coordinates gets
normal noise of deviation .75. The ten best codes of a generation are kept and scored again. These are the settings of
the benchmark by Wang & Ponce (GECCO 2022), with a population of 40.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.applications.searching.searcher import Floats, Searcher, Setting, State

TEMPERATURE, SKEW, MUTATED, MUTATION, KEPT = 2.0, 0.75, 0.25, 0.75, 10


class GeneticSearch(Searcher):
    """Recombines and mutates the codes with the best scores."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._codes: Floats | None = None
        self._scores: Floats = np.zeros(0)

    def ask(self) -> Floats:
        """Return the kept codes and their children."""
        setting = self.setting
        if self._codes is None:
            return setting.feasible.inside(self.sigma * setting.coordinates.x(self.normal()))
        stream = self.stream()
        order = np.argsort(-self._scores, kind="stable")
        codes, scores = self._codes[order], self._scores[order]
        chances = np.exp((scores - scores[0]) / max(TEMPERATURE * float(scores.std()), 1e-8))
        kept = min(KEPT, self.population // 4)
        children = self.population - kept
        first, second = stream.choice(len(codes), size=(2, children), p=chances / chances.sum())
        new = np.where(stream.random((children, codes.shape[1])) < SKEW, codes[first], codes[second])
        noise = stream.normal(0, MUTATION, (children, setting.coordinates.k))
        noise[stream.random(noise.shape) >= MUTATED] = 0
        return setting.feasible.inside(np.concatenate([codes[:kept], new + setting.coordinates.x(noise)]))

    def learn(self, x: Floats, scores: Floats) -> None:
        """Replace the population."""
        self._codes, self._scores = np.array(x), np.array(scores)

    def own_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return codes and scores of the current population."""
        assert self._codes is not None
        return {"codes": self._codes, "scores": self._scores}

    def set_own_state(self, state: State) -> None:
        """Set the current population."""
        self._codes, self._scores = np.array(state["codes"]), np.array(state["scores"])
