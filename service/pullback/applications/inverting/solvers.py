"""The solvers of an inversion by name.

A solver is a function `minimise(objective, codes, target, condition, watch, **settings)` that returns the best codes
and their values. It calls `watch` after each step, and ends when that returns true. A new one is a module beside this
one and an entry of `SOLVERS`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pullback.applications.inverting import (
    adam,
    cma,
    gauss_newton_cg,
    hybrid,
    lbfgs,
    levenberg_marquardt,
    natural_gradient,
)

Minimise = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Solver:
    """A solver with its settings.

    Attributes:
        label: its name in tables.
        minimise: the function.
        settings: fixed settings.
        metric: how it uses a metric M: None if it needs none, `matrix` for M itself, `basis` for coordinates B.
        power: p of B = U (Λ + μI)^−p.
        tuned: values of the settings that a benchmark tunes.
    """

    label: str
    minimise: Minimise
    settings: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    power: float = 0.0
    tuned: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def given(self, metric: Tensor | None) -> dict[str, Any]:
        """Return the settings, with the metric M [n, n] in the form that the solver takes.

        Raises:
            ValueError: the solver needs a metric, and there is none.
        """
        if self.metric is None:
            return dict(self.settings)
        if metric is None:
            raise ValueError(f"{self.label} needs a metric")
        if self.metric == "matrix":
            return {**self.settings, "metric": metric}
        return {**self.settings, "basis": adam.scaled_basis(metric, self.power)}


_RATES = {"rate": (0.01, 0.02, 0.05, 0.1, 0.2)}
_DAMPED = {"damping": (1e-4, 1e-3, 1e-2, 1e-1)}

SOLVERS: Mapping[str, Solver] = {
    "hybrid": Solver("hybrid", hybrid.minimise, tuned={"first_damping": (1e-3, 1e-2, 1e-1)}),
    "hybrid_metric": Solver("hybrid, metric in L-BFGS", hybrid.minimise, metric="matrix"),
    "hybrid_lbfgs": Solver("hybrid, L-BFGS to the end", hybrid.minimise, {"last": "lbfgs"}),
    "hybrid_lbfgs_metric": Solver(
        "hybrid, L-BFGS with the metric to the end", hybrid.minimise, {"last": "lbfgs"}, metric="matrix"
    ),
    "hybrid_continuation": Solver(
        "hybrid, L-BFGS along 10, 25, 50 and all axes to the end",
        hybrid.minimise,
        {"last": "lbfgs", "continuation": (10, 25, 50)},
        metric="matrix",
    ),
    "adam": Solver("Adam", adam.minimise, tuned=_RATES),
    "adam_basis": Solver("Adam in the eigenbasis", adam.minimise, metric="basis", tuned=_RATES),
    "adam_quarter": Solver("Adam scaled by Λ^-1/4", adam.minimise, metric="basis", power=0.25, tuned=_RATES),
    "adam_half": Solver("Adam scaled by Λ^-1/2", adam.minimise, metric="basis", power=0.5, tuned=_RATES),
    "natural_gradient": Solver(
        "natural gradient",
        natural_gradient.minimise,
        metric="matrix",
        tuned={"rate": (0.03, 0.1, 0.3, 1.0), "damping": (1e-3, 1e-2, 1e-1)},
    ),
    "lbfgs": Solver("L-BFGS", lbfgs.minimise),
    "lbfgs_metric": Solver("L-BFGS with the metric", lbfgs.minimise, metric="matrix", tuned=_DAMPED),
    "levenberg_marquardt": Solver(
        "Levenberg-Marquardt", levenberg_marquardt.minimise, tuned={"first_damping": (1e-3, 1e-2, 1e-1, 1.0)}
    ),
    "levenberg_marquardt_exact": Solver(
        "Levenberg-Marquardt, a Jacobian each step",
        levenberg_marquardt.minimise,
        {"lagged": False},
        tuned={"first_damping": (1e-3, 1e-2, 1e-1, 1.0)},
    ),
    "gauss_newton_cg": Solver("Gauss-Newton-CG", gauss_newton_cg.minimise),
    "gauss_newton_cg_metric": Solver(
        "Gauss-Newton-CG, preconditioned", gauss_newton_cg.minimise, metric="matrix", tuned=_DAMPED
    ),
    "cma": Solver("CMA-ES", cma.minimise, tuned={"sigma": (0.1, 0.2, 0.4, 0.8)}),
    "cma_metric": Solver(
        "CMA-ES scaled by the metric", cma.minimise, metric="basis", power=0.25, tuned={"sigma": (0.1, 0.2, 0.4, 0.8)}
    ),
    "basin_cma": Solver("BasinCMA", cma.minimise, {"inner": 10, "population": 8}, tuned=_RATES),
    "basin_cma_basis": Solver(
        "BasinCMA in the eigenbasis", cma.minimise, {"inner": 10, "population": 8}, metric="basis", tuned=_RATES
    ),
}
"""Every solver by its name in options."""

DEFAULT_SOLVER, DEFAULT_WITH_SWEEP = "hybrid", "hybrid_lbfgs_metric"
"""The solver of an inversion that names none, without a sweep and with the mean metric of one.

`pullback bench inversion` compares both with the others.
"""
MOST_AXES = 2048
"""Size of codes up to which the default uses the mean metric of a sweep; beyond, its eigenvectors take minutes."""
