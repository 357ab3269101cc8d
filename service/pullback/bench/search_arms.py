"""The arms of `pullback bench search`: searchers, their settings, and controls."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.applications.searching.coordinates import Coordinates, dimension, metric_coordinates
from pullback.applications.searching.evolution import LARGEST, CovarianceSearch, FixedSearch, SeparableSearch
from pullback.applications.searching.genetic import GeneticSearch
from pullback.applications.searching.random_codes import RandomSearch
from pullback.applications.searching.searcher import Floats, Searcher, Setting, population_of
from pullback.applications.searching.sphere import SphereSearch
from pullback.bench.search_suites import Suite


class PycmaSearch(Searcher):
    """CMA-ES by pycma with its own defaults, the reference. It needs the package `cma`."""

    default_population = None

    def __init__(self, setting: Setting) -> None:
        import cma

        super().__init__(setting)
        k = setting.coordinates.k
        given = {"popsize": self.population, "seed": setting.seed % 2**31 + 1, "verbose": -9, "maxiter": math.inf}
        self._strategy = cma.CMAEvolutionStrategy(np.zeros(k), self.sigma, given)

    def ask(self) -> Floats:
        """Return feasible codes."""
        drawn = np.asarray(self._strategy.ask())
        return self.setting.feasible.inside(self.setting.coordinates.x(drawn))

    def learn(self, x: Floats, scores: Floats) -> None:
        """Tell pycma the feasible codes."""
        self._strategy.tell(list(self.setting.coordinates.y(x)), list(-scores))

    def own_state(self) -> dict[str, npt.NDArray[Any]]:
        """Return nothing: a run of the benchmark is not resumed within."""
        return {}


@dataclass(frozen=True)
class Arm:
    """A searcher with its settings.

    Attributes:
        words: in tables.
        searcher: the class.
        exponent: p of Λ^−p along the axes of a metric; None for no metric.
        share: the cut: leading axes that hold this share of the trace; None for all.
        axes: `mean`, `random` for a random basis with the same spectrum, or `shuffled` weights.
        sigma: first standard deviation; None for the searcher's own.
    """

    words: str
    searcher: type[Searcher]
    exponent: float | None = None
    share: float | None = None
    axes: str = "mean"
    sigma: float | None = None

    def made(self, suite: Suite, evaluations: int, seed: int) -> Searcher | None:
        """Return a new searcher; None if the suite has no shuffled metric, or has too many dimensions for this arm."""
        coordinates = Coordinates(suite.feasible.n)
        if self.exponent is not None:
            metric = suite.shuffled if self.axes == "shuffled" else suite.metric
            if metric is None:
                return None
            cut = None if self.share is None else dimension(metric.eigenvalues, self.share)
            if cut is None and len(metric.axes) < suite.feasible.n:
                return None  # the whole basis is not at hand
            if self.axes == "random":
                leading = type(metric)(metric.eigenvalues[:cut], metric.axes[:cut])
                metric = leading.with_random_axes(seed)
            coordinates = metric_coordinates(metric, self.exponent, cut)
        full = issubclass(self.searcher, CovarianceSearch | PycmaSearch)
        if full and not issubclass(self.searcher, SeparableSearch) and coordinates.k > LARGEST:
            return None
        population = population_of(self.searcher, coordinates.k)
        evolves = self.searcher.default_population is None  # CMA-ES in all its forms
        sigma = suite.sigma if evolves and self.sigma is None else self.sigma
        return self.searcher(Setting(suite.feasible, coordinates, max(1, evaluations // population), seed, None, sigma))


P = 1 / 2.5
"""p of Wang & Ponce for BigGAN."""

ARMS: dict[str, Arm] = {
    "random": Arm("random codes", RandomSearch),
    "genetic": Arm("genetic (XDream)", GeneticSearch),
    "pycma": Arm("CMA-ES (pycma)", PycmaSearch),
    "cma": Arm("CMA-ES (cmaes)", CovarianceSearch),
    "sep-cma": Arm("diagonal CMA-ES in z", SeparableSearch),
    "fixed": Arm("no covariance adaptation, z", FixedSearch),
    "sphere": Arm("SphereCMA", SphereSearch),
    "axes-sep-cma": Arm("diagonal CMA-ES in the axes of H̄", SeparableSearch, 0.0),
    "metric-cma": Arm("CMA-ES, Λ^−p, p = 1/2.5", CovarianceSearch, P),
    "metric-cma-quarter": Arm("CMA-ES, Λ^−p, p = 1/4", CovarianceSearch, 0.25),
    "metric-cma-minus": Arm("CMA-ES, Λ^−p, p = −1/4", CovarianceSearch, -0.25),
    "metric-cma-cut": Arm("CMA-ES, p = 1/4, axes of 99.9 %", CovarianceSearch, 0.25, 0.999),
    "cut-cma": Arm("CMA-ES, p = 0, axes of 99.9 %", CovarianceSearch, 0.0, 0.999),
    "metric-fixed": Arm("no adaptation, p = 1/4, axes of 99.9 %", FixedSearch, 0.25, 0.999),
    "metric-fixed-minus": Arm("no adaptation, p = −1/4, axes of 99.9 %", FixedSearch, -0.25, 0.999),
    "metric-sphere": Arm("SphereCMA, p = 1/4, axes of 99.9 %", SphereSearch, 0.25, 0.999),
    "cut-sphere": Arm("SphereCMA, p = 0, axes of 99.9 %", SphereSearch, 0.0, 0.999),
    "metric-sphere-minus": Arm("SphereCMA, p = −1/4, axes of 99.9 %", SphereSearch, -0.25, 0.999),
    "random-basis-cma": Arm("control: random basis, CMA-ES, p = 1/2.5", CovarianceSearch, P, None, "random"),
    "random-basis-minus": Arm("control: random basis, CMA-ES, p = −1/4", CovarianceSearch, -0.25, None, "random"),
    "random-basis-axes": Arm("control: random basis, diagonal CMA-ES", SeparableSearch, 0.0, None, "random"),
    "random-basis-sphere": Arm("control: random basis, SphereCMA, p = −1/4", SphereSearch, -0.25, 0.999, "random"),
    "shuffled-cma": Arm("control: shuffled weights, CMA-ES, p = −1/4", CovarianceSearch, -0.25, None, "shuffled"),
    "shuffled-axes": Arm("control: shuffled weights, diagonal CMA-ES", SeparableSearch, 0.0, None, "shuffled"),
}
MAIN = (
    *("random", "genetic", "pycma", "cma", "sep-cma", "sphere", "axes-sep-cma", "metric-cma", "metric-cma-minus"),
    *("metric-sphere-minus", "random-basis-axes", "random-basis-minus"),
)
"""The arms of a default run on a generator."""
SHUFFLED = ("shuffled-axes", "shuffled-cma")
"""The arms that a default run adds if there is a sweep of the generator with shuffled weights."""
LARGE = (
    *("random", "genetic", "sep-cma", "fixed", "sphere", "metric-fixed", "metric-fixed-minus"),
    *("metric-sphere", "cut-sphere", "metric-sphere-minus", "random-basis-sphere"),
)
"""The arms of a default run on the synthetic generator of 4,096 dimensions."""
