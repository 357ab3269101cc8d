"""Settings of the benchmark of inversion: its suites, its arms with their controls, and its budgets."""

from collections.abc import Mapping
from dataclasses import dataclass

from pullback.applications.inverting.solvers import SOLVERS
from pullback.errors import ArgumentError

SUITES = ("S1", "S2b", "S3", "S4")
"""Names of the suites; see `inversion`."""
THRESHOLDS = (0.3, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Values of f whose first time is recorded."""
MARKS = (1.0, 3.0, 10.0, 30.0)
"""CPU seconds at which the best f is recorded."""


@dataclass(frozen=True)
class Arm:
    """A solver with a metric.

    Attributes:
        solver: a name in `SOLVERS`.
        metric: `mean` for H̄ of own samples; as controls `random` for a random basis with the same spectrum, and
            `shuffled` for H̄ of the generator with shuffled weights; None for no metric.
        label: its name in tables.
    """

    solver: str
    metric: str | None
    label: str


def _arms() -> dict[str, Arm]:
    arms = {}
    for name, solver in SOLVERS.items():
        arms[name] = Arm(name, "mean" if solver.metric else None, solver.label)
        if solver.metric:
            arms[f"{name}_random"] = Arm(name, "random", f"{solver.label} (random basis)")
            arms[f"{name}_shuffled"] = Arm(name, "shuffled", f"{solver.label} (shuffled weights)")
    return arms


ARMS: Mapping[str, Arm] = _arms()
"""Every arm by name: the solvers, and the controls of those with a metric."""
DEFAULT_ARMS = (
    "adam",
    "adam_basis",
    "adam_basis_random",
    "lbfgs",
    "lbfgs_metric",
    "levenberg_marquardt",
    "hybrid",
    "hybrid_lbfgs",
    "hybrid_lbfgs_metric",
)


@dataclass(frozen=True)
class InversionBench:
    """Settings of a benchmark of inversion.

    Attributes:
        generator: the generator's name.
        distance: the distance that is minimised.
        suites: names in `SUITES`.
        arms: names in `ARMS`.
        targets: targets of each suite.
        budget: forward equivalents of a target, for all its starts.
        local_budget: forward equivalents of a target of S4, which has one start.
        seconds: most CPU seconds of a target, besides the budget; None for no limit.
        random: random starts of a target, besides the regression's and the nearest sample.
        tuning: targets on which configurations are compared first; 0 for the default settings.
        tuned: arms that are tuned; None for all.
        tuning_budget: forward equivalents of a target in tuning.
        samples: own samples of the library of starts.
        metric_samples: own samples whose metrics are averaged.
        held_out: whether LPIPS-vgg judges, where its weights are present.
        seed: seed of targets, starts and order.
    """

    generator: str = "dcgan-faces"
    distance: str = "lpips"
    suites: tuple[str, ...] = ("S1", "S4")
    arms: tuple[str, ...] = DEFAULT_ARMS
    targets: int = 64
    budget: float = 3000.0
    local_budget: float = 1500.0
    seconds: float | None = None
    random: int = 2
    tuning: int = 8
    tuned: tuple[str, ...] | None = None
    tuning_budget: float = 3000.0
    samples: int = 1500
    metric_samples: int = 100
    held_out: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("suites", SUITES), ("arms", tuple(ARMS)), ("tuned", tuple(ARMS))):
            unknown = [each for each in getattr(self, name) or () if each not in known]
            if unknown or not (getattr(self, name) or name == "tuned"):
                raise ArgumentError(name, f"{', '.join(unknown) or 'none'} is not among {', '.join(known)}")
        limits = (self.budget, self.local_budget, self.tuning_budget, 1.0 if self.seconds is None else self.seconds)
        if self.targets < 1 or not min(limits) > 0 or self.tuning < 0:
            raise ArgumentError("targets", "a benchmark needs at least one target and a budget above zero")
