"""The searchers by name: which algorithm, and in which coordinates."""

from dataclasses import dataclass
from typing import Literal, get_args

from pullback.applications.searching.coordinates import Coordinates, Metric, metric_coordinates
from pullback.applications.searching.evolution import CovarianceSearch, FixedSearch, SeparableSearch
from pullback.applications.searching.feasible import Feasible
from pullback.applications.searching.genetic import GeneticSearch
from pullback.applications.searching.random_codes import RandomSearch
from pullback.applications.searching.searcher import Searcher, Setting, population_of
from pullback.applications.searching.sphere import SphereSearch
from pullback.errors import PullbackError

Name = Literal[
    "random",
    "genetic",
    "cma",
    "sep-cma",
    "sphere",
    "axes-sep-cma",
    "metric-cma",
    "metric-fixed",
    "metric-sphere",
]


@dataclass(frozen=True)
class Kind:
    """A searcher's algorithm.

    Attributes:
        searcher: the class.
        metric: whether it uses the axes of a mean metric.
        scaled: whether steps along these axes are scaled by Λ^−p.
        words: what it is, in a few words.
    """

    searcher: type[Searcher]
    metric: bool
    scaled: bool
    words: str


KINDS: dict[Name, Kind] = {
    "random": Kind(RandomSearch, False, False, "independent codes"),
    "genetic": Kind(GeneticSearch, False, False, "the genetic algorithm of XDream"),
    "cma": Kind(CovarianceSearch, False, False, "CMA-ES"),
    "sep-cma": Kind(SeparableSearch, False, False, "CMA-ES with a diagonal covariance"),
    "sphere": Kind(SphereSearch, False, False, "SphereCMA"),
    "axes-sep-cma": Kind(SeparableSearch, True, False, "CMA-ES with a diagonal covariance in the axes of H̄"),
    "metric-cma": Kind(CovarianceSearch, True, True, "CMA-ES in the axes of H̄, scaled by Λ^−p"),
    "metric-fixed": Kind(FixedSearch, True, True, "as metric-cma, with no adaptation of the covariance"),
    "metric-sphere": Kind(SphereSearch, True, True, "SphereCMA with tangents scaled by Λ^−p along the axes of H̄"),
}
assert tuple(KINDS) == get_args(Name)


def coordinates_of(name: Name, n: int, metric: Metric | None, exponent: float, cut: int | None) -> Coordinates:
    """Return the coordinates of a searcher.

    Raises:
        PullbackError: it needs a metric and there is none.
    """
    kind = KINDS[name]
    if not kind.metric:
        return Coordinates(n)
    if metric is None:
        raise PullbackError(
            f"the searcher {name} uses the mean metric of a sweep, and the job has none. Nothing was computed. Name a "
            f"sweep of this generator, or choose one of {', '.join(each for each in KINDS if not KINDS[each].metric)}"
        )
    return metric_coordinates(metric, exponent if kind.scaled else 0.0, cut)


def make_searcher(
    name: Name,
    feasible: Feasible,
    coordinates: Coordinates,
    *,
    evaluations: int,
    seed: int = 0,
    population: int | None = None,
    sigma: float | None = None,
) -> Searcher:
    """Return a searcher that has not begun.

    Args:
        name: one of `KINDS`.
        feasible: the feasible set.
        coordinates: of `coordinates_of`.
        evaluations: budget, which sets the number of generations.
        seed: seed of its random numbers.
        population: codes of a generation; by default the searcher's own.
        sigma: first standard deviation; by default the searcher's own.

    Raises:
        PullbackError: the budget is less than one generation, or the searcher cannot work in these dimensions.
    """
    kind = KINDS[name].searcher
    size = population_of(kind, coordinates.k, population)
    if evaluations < size:
        raise PullbackError(
            f"{evaluations} evaluations are less than one generation of {size} codes. Nothing was computed. Raise "
            "`evaluations`, or set a smaller `population`"
        )
    return kind(Setting(feasible, coordinates, evaluations // size, seed, population, sigma))
