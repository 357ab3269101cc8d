"""The record of a search, one entry a generation, and its loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pullback.applications.searching.evaluation import Evaluation
from pullback.applications.searching.objective import Floats, Noise
from pullback.applications.searching.searcher import Searcher, State


@dataclass
class Trace:
    """What a search has found so far.

    Attributes:
        evaluations: number of evaluations at the end of each generation.
        best: best score of each generation, without noise.
        mean: mean score of each generation, without noise.
        norm: mean norm of the codes x of each generation.
        codes: the code z of each generation's best score as the search saw it.
        best_code: the code z of the best score without noise; None before the first generation.
        best_score: that score.
        seconds: time of all generations, in this run and in interrupted ones.
    """

    evaluations: list[int] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    mean: list[float] = field(default_factory=list)
    norm: list[float] = field(default_factory=list)
    codes: list[Floats] = field(default_factory=list)
    best_code: Floats | None = None
    best_score: float = -np.inf
    seconds: float = 0.0

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return the trace as arrays."""
        assert self.best_code is not None
        named = {name: np.asarray(getattr(self, name)) for name in ("evaluations", "best", "mean", "norm", "codes")}
        return {
            **named,
            "best_code": self.best_code,
            "best_score": np.asarray(self.best_score),
            "seconds": np.asarray(self.seconds),
        }

    @classmethod
    def restored(cls, state: State) -> "Trace":
        """Return the trace of a `state`."""
        lists = {name: list(state[name].tolist()) for name in ("evaluations", "best", "mean", "norm")}
        return cls(
            **lists,
            codes=list(state["codes"]),
            best_code=state["best_code"],
            best_score=float(state["best_score"]),
            seconds=float(state["seconds"]),
        )


def run_search(
    searcher: Searcher,
    evaluation: Evaluation,
    noise: Noise,
    evaluations: int,
    *,
    seconds: float | None = None,
    state: State | None = None,
    after_generation: Callable[[dict[str, npt.NDArray[Any]], Trace], None] = lambda state, trace: None,
) -> Trace:
    """Search until the budget or the time is used up. At least one generation is scored.

    Args:
        searcher: a new searcher.
        evaluation: gives scores without noise.
        noise: added to what the searcher sees.
        evaluations: budget; the last generation ends at or before it.
        seconds: time limit, checked after each generation.
        state: the last state that `after_generation` received, to resume from it.
        after_generation: called after each generation with the state and the trace.
    """
    trace = Trace()
    if state is not None:
        searcher.restore({name[2:]: value for name, value in state.items() if name.startswith("s_")})
        trace = Trace.restored({name[2:]: value for name, value in state.items() if name.startswith("t_")})
    begun, before = time.monotonic(), trace.seconds
    done = trace.evaluations[-1] if trace.evaluations else 0
    while done + searcher.population <= evaluations and (seconds is None or not done or trace.seconds < seconds):
        x = searcher.ask()
        codes = searcher.setting.feasible.codes(x)
        clean = evaluation.scores(codes)
        seen = noise(clean, done)
        searcher.tell(x, seen)
        done += len(x)
        top = int(np.argmax(clean))
        if clean[top] > trace.best_score:
            trace.best_score, trace.best_code = float(clean[top]), codes[top].copy()
        trace.evaluations.append(done)
        trace.best.append(float(clean[top]))
        trace.mean.append(float(clean.mean()))
        trace.norm.append(float(np.linalg.norm(x, axis=1).mean()))
        trace.codes.append(codes[int(np.argmax(seen))].copy())
        trace.seconds = before + time.monotonic() - begun
        arrays = {f"s_{name}": value for name, value in searcher.state().items()}
        after_generation({**arrays, **{f"t_{name}": value for name, value in trace.state().items()}}, trace)
    return trace
