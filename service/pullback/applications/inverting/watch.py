"""What an inversion has found so far, by target, and when its solvers have to stop."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pullback.applications.inverting.objective import Objective


@dataclass
class Watch:
    """Keeps the best code of each target and the trace, and says when the budget is spent.

    A solver calls it after each step with the values that the step has computed.

    Args:
        objective: counts the cost.
        targets: number of targets.
        forward_equivalents: most work, in images, of everything that this watch sees.
        seconds: most CPU seconds of this process.
        tolerance: a target is solved at this value of f.
        stopped: returns whether somebody asked to stop; called after each step.

    Attributes:
        values: best value of each target [targets], float64.
        codes: code of each best value [targets, n]; None before the first call.
        conditions: class of each best code [targets], -1 without classes.
        trace: (forward equivalents, CPU seconds, best value of each target) after each step.
    """

    objective: Objective
    targets: int
    forward_equivalents: float = float("inf")
    seconds: float = float("inf")
    tolerance: float = 0.0
    stopped: Callable[[], bool] = lambda: False
    values: Tensor = field(init=False)
    conditions: Tensor = field(init=False)
    codes: Tensor | None = field(default=None, init=False)
    trace: list[tuple[float, float, list[float]]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self.values = torch.full((self.targets,), torch.inf, dtype=torch.float64)
        self.conditions = torch.full((self.targets,), -1, dtype=torch.int64)
        self._cost = self.objective.cost.forward_equivalents
        self._began = time.process_time()

    @property
    def used(self) -> float:
        """Forward equivalents since the watch was made."""
        return self.objective.cost.forward_equivalents - self._cost

    @property
    def elapsed(self) -> float:
        """CPU seconds since the watch was made."""
        return time.process_time() - self._began

    @property
    def time_share(self) -> float:
        """Part of the CPU seconds that is spent; 0 without a limit."""
        return self.elapsed / self.seconds if math.isfinite(self.seconds) else 0.0

    @property
    def spent(self) -> bool:
        """Whether the budget or the time is spent, every target is solved, or somebody asked to stop."""
        solved = bool((self.values <= self.tolerance).all())
        return solved or self.used >= self.forward_equivalents or self.elapsed >= self.seconds or self.stopped()

    def __call__(self, target: Tensor, codes: Tensor, values: Tensor, condition: Tensor | None = None) -> bool:
        """Record codes [rows, n] and their values [rows] of the targets with the indices [rows]; return `spent`."""
        if self.codes is None:
            self.codes = torch.zeros(self.targets, codes.shape[1], dtype=torch.float64)
        values, codes = values.detach().cpu(), codes.detach().to("cpu", torch.float64)
        for row, index in enumerate(target.tolist()):
            if float(values[row]) < float(self.values[index]):
                self.values[index], self.codes[index] = values[row], codes[row]
                if condition is not None:
                    self.conditions[index] = condition[row].cpu()
        self.trace.append((self.used, self.elapsed, self.values.tolist()))
        return self.spent


def rows_of(condition: Tensor | None, rows: Tensor) -> Tensor | None:
    """Return the classes of some rows; None without classes."""
    return None if condition is None else condition[rows]
