"""Benchmark of the solvers of inversion: shared starts, equal budgets, controls, and paired comparison by target.

Suites: S1 own samples (the class given, if there are classes), S2b own samples of unknown class, S3 images out of range
(own samples with noise, mirrored or shifted, averages of two, with exchanged colours, and crops of a photograph), S4
own samples with a start at D² = 0.05 or 0.2 from the target, which separates convergence from search.

Every arm gets the same starts for a target (ridge regression, the nearest own sample, two random ones) and the same
budget, which all starts share: forward equivalents, CPU seconds, or both. On S1 and S2b the prior is 0.01 for 70 % of
the budget and 0 for the rest; on S3 it is 0.01, on S4 0. The hybrids have their own rule for the prior and choose among
the starts themselves.

Rows are appended to `rows.jsonl` one by one, so an interrupted run goes on. The arms of a target run in random order.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pullback.applications.inverting.objective import Objective
from pullback.applications.inverting.solvers import SOLVERS
from pullback.applications.inverting.watch import Watch
from pullback.bench.inversion_problems import Problems, row_of
from pullback.bench.inversion_settings import ARMS, MARKS, THRESHOLDS, InversionBench
from pullback.bench.inversion_tuning import tuned_settings
from pullback.distances import load_distance
from pullback.distances.mse import Mse
from pullback.errors import PullbackError, WeightsError
from pullback.generators import generate, load_generator

PRIOR = 0.01
FAR = 0.7
"""Part of the budget with the prior on S1 and S2b."""
_TOLERANCE = 1e-8
"""Value of f at which a target is solved."""
_FREE = ("suites", "arms", "targets")
"""Settings that may differ between the runs of one folder."""


@dataclass
class Bench:
    """Measures arms on targets; metrics are computed when they are first used.

    Args:
        settings: of the benchmark.
        folder: holds the metrics.
        say: called with a line of progress.
    """

    settings: InversionBench
    folder: Path
    say: Callable[[str], None] = field(default=lambda line: None)

    @cached_property
    def problems(self) -> Problems:
        """The targets with their starts."""
        return Problems(self.settings)

    @cached_property
    def judge(self) -> Any:
        """LPIPS-vgg; None if it is not wanted or not there."""
        if not self.settings.held_out:
            return None
        try:
            return load_distance("lpips", trunk="vgg", device="cpu")
        except WeightsError:
            return None

    def metric(self, kind: str | None) -> Tensor | None:
        """Return the metric of an arm [n, n]; it is computed once and kept in the benchmark's folder."""
        if kind is None:
            return None
        path = self.folder / f"metric-{kind}.npy"
        if path.is_file():
            return torch.from_numpy(np.load(path))
        if kind == "random":
            mean = self.metric("mean")
            assert mean is not None
            stream = torch.Generator().manual_seed(self.settings.seed)
            turn = torch.linalg.qr(torch.randn(mean.shape, generator=stream, dtype=torch.float64))[0]
            found: Tensor = (turn * torch.linalg.eigvalsh(mean)) @ turn.T
        else:
            problems = self.problems
            generator = problems.generator
            if kind == "shuffled":
                generator = load_generator(self.settings.generator, device="cpu", control="shuffled")
            self.say(f"mean metric of {self.settings.metric_samples} own samples ({kind})")
            codes, own = problems.drawn(generator, 9, range(self.settings.metric_samples))
            objective = Objective(
                generator, problems.distance, generate(generator, codes[:1], row_of(own, 0)).detach(), 0.0
            )
            found = objective.mean_metric(codes, own)
        np.save(path, found.numpy())
        return found

    def warm_up(self, suite: str) -> None:
        """Compute a gradient and a Jacobian, whose first calls take seconds that belong to no arm."""
        problems = self.problems
        problem = problems.problem(suite, 0)
        objective = Objective(problems.generator, problems.distance, problem.image)
        codes, own = problem.starts[:1].double(), row_of(problem.condition, 0)
        target = torch.zeros(1, dtype=torch.int64)
        objective.gradients(codes, target, own)
        objective.local(codes, target, own)

    def measure(self, suite: str, number: int, name: str, settings: Mapping[str, Any], budget: float) -> dict[str, Any]:
        """Run an arm on a target within the settings' CPU seconds and a budget in forward equivalents.

        Returns:
            Its row: the value of f, D² and other distances of the best start, the cost, and when f was where.
        """
        problem, found = self.problems.problem(suite, number), self._solved(suite, number, name, settings, budget)
        objective, best = found.objective, found.code
        cost, work = asdict(objective.cost), objective.cost.forward_equivalents
        own = None if problem.condition is None else torch.tensor([found.condition])
        image = objective.images(best[None], own)
        with torch.no_grad():
            held = math.nan if self.judge is None else float(self.judge.squared(image, problem.image))
            distance = float(objective.distance.squared(image, problem.image))
            mse = float(Mse(False, None, None).squared(image, problem.image))
        library = self.problems.library
        return {
            "suite": suite,
            "target": number,
            "arm": name,
            "value": found.value,
            "distance": distance,
            "mse": mse,
            "held_out": held,
            "code_error": None if problem.code is None else float((best - problem.code).norm() / problem.code.norm()),
            "norm": float(((best - library.centre) / library.scale).norm()) / math.sqrt(len(best)),
            "seconds": found.seconds,
            "start_seconds": problem.seconds,
            "work": work,
            **cost,
            "settings": dict(settings),
            "reached": _reached(found.marks),
            "at_seconds": _at_seconds(found.marks, found.seconds, self.settings.seconds),
        }

    def _solved(self, suite: str, number: int, name: str, settings: Mapping[str, Any], budget: float) -> "_Solved":
        arm, problem, library = ARMS[name], self.problems.problem(suite, number), self.problems.library
        solver, metric = SOLVERS[arm.solver], self.metric(arm.metric)
        objective = Objective(
            self.problems.generator,
            self.problems.distance,
            problem.image,
            prior=0.0 if suite == "S4" else PRIOR,
            centre=library.centre,
            scale=library.scale,
        )
        target = torch.zeros(len(problem.starts), dtype=torch.int64)
        chosen = {**solver.given(metric), **settings}
        limit = math.inf if self.settings.seconds is None else self.settings.seconds
        whole = Watch(objective, 1, budget, limit, _TOLERANCE)
        phases = [(objective, 1.0)]
        if suite in ("S1", "S2b") and not arm.solver.startswith("hybrid"):
            phases = [(objective, FAR), (objective.without_prior(), 1.0)]
        codes = problem.starts.double()
        values = objective.without_prior().values(codes, target, problem.condition)
        marks: list[tuple[float, float, float]] = [(whole.used, whole.elapsed, float(values.min()))]
        found = _Solved(objective, codes[int(values.argmin())], math.inf, -1, 0.0, marks)
        for used, part in phases:
            before = whole.used, whole.elapsed
            left, time_left = budget * part - before[0], limit * part - before[1]
            if left <= 0 or time_left <= 0:
                continue
            watch = Watch(used, 1, left, time_left, _TOLERANCE)
            steps = {"steps": max(1, int(left / (3 * len(codes))))} if _first_order(arm.solver) else {}
            codes, values = solver.minimise(used, codes, target, problem.condition, watch, **chosen, **steps)
            marks += [(before[0] + a, before[1] + b, c[0]) for a, b, c in watch.trace]
            if watch.codes is not None:  # the last phase has the objective that counts
                found.code, found.value = watch.codes[0], float(watch.values[0])
                found.condition = int(watch.conditions[0])
        found.seconds = whole.elapsed
        return found


@dataclass
class _Solved:
    """What an arm has found on a target: the best code, its f, its class, and the marks (work, CPU seconds, f)."""

    objective: Objective
    code: Tensor
    value: float
    condition: int
    seconds: float
    marks: list[tuple[float, float, float]]


def _first_order(solver: str) -> bool:
    return "rate" in SOLVERS[solver].tuned and "inner" not in SOLVERS[solver].settings


def _reached(marks: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """The work and the CPU seconds at which f first was at each threshold: rows (threshold, work, seconds)."""
    found = []
    for threshold in THRESHOLDS:
        first = next(((used, seconds) for used, seconds, value in marks if value <= threshold), None)
        if first is not None:
            found.append([threshold, *first])
    return found


def _at_seconds(marks: Sequence[tuple[float, float, float]], end: float, limit: float | None) -> list[list[float]]:
    """The best f at some CPU seconds: rows (seconds, f). After its end an arm stays where it is."""
    found = []
    for second in MARKS:
        if second <= (end if limit is None else limit):
            last = math.inf if second == limit else max(second, marks[0][1])  # the last step may end a little late
            found.append([second, min(value for _, seconds, value in marks if seconds <= last)])
    return found


def run_inversion_bench(
    settings: InversionBench, folder: Path, say: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Run what is missing of a benchmark, and return all rows.

    Args:
        settings: what to measure.
        folder: holds `settings.json`, `rows.jsonl` and the metrics; made if it is missing.
        say: called with a line of progress.

    Raises:
        PullbackError: the folder holds a benchmark of other settings, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _same(settings, folder)
        rows = read_rows(folder)
        done = {(row["suite"], row["target"], row["arm"], row.get("configuration")) for row in rows}
        bench = Bench(settings, folder, say)
        with (folder / "rows.jsonl").open("a", encoding="utf-8") as file:

            def keep(row: dict[str, Any]) -> None:
                rows.append(row)
                file.write(json.dumps(row) + "\n")
                file.flush()
                told = json.dumps(row["settings"]) if row["settings"] else ""
                say(
                    f"{row['suite']} target {row['target'] + 1}, {ARMS[row['arm']].label}{told}: "
                    f"{row['distance']:.2g} in {row['seconds']:.1f} CPU s"
                )

            def tuning(number: int, name: str, given: Mapping[str, Any]) -> dict[str, Any]:
                return bench.measure("S1", number, name, given, settings.tuning_budget)

            bench.warm_up(settings.suites[0])
            chosen = tuned_settings(settings, rows, tuning, keep)
            order = np.random.default_rng(settings.seed)
            for number in range(settings.targets):
                jobs = [(suite, name) for suite in settings.suites for name in settings.arms]
                for place in order.permutation(len(jobs)):
                    suite, name = jobs[place]
                    if (suite, number, name, None) in done:
                        continue
                    budget = settings.local_budget if suite == "S4" else settings.budget
                    keep(bench.measure(suite, number, name, chosen[name], budget))
    except OSError as error:
        raise PullbackError(
            f"the benchmark's folder {folder} cannot be written: {error.strerror or error}. Rows until now are kept"
        ) from error
    return rows


def _same(settings: InversionBench, folder: Path) -> None:
    """Keep the settings; raise if the folder holds rows of others. More targets, suites and arms may be added."""
    path = folder / "settings.json"
    now = json.loads(json.dumps(asdict(settings)))
    runs = []
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(key for key in now if key not in _FREE and before.get(key) != now[key])
        if other:
            raise PullbackError(
                f"{folder} holds a benchmark with another {', '.join(other)}. Nothing was computed; name another folder"
            )
        runs = before.get("runs", [{key: before[key] for key in _FREE}])
    run = {key: now[key] for key in _FREE}
    runs = [*(each for each in runs if each != run), run]
    path.write_text(json.dumps({**now, "runs": runs}, indent=2) + "\n", encoding="utf-8")


def read_runs(folder: Path) -> list[InversionBench]:
    """Return the settings of all runs in a benchmark's folder, the first run first.

    Raises:
        PullbackError: the folder holds no benchmark.
    """
    try:
        held = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        runs = held.pop("runs", [{}])
        held = {key: tuple(value) if isinstance(value, list) else value for key, value in held.items()}
        return [
            InversionBench(
                **{**held, **{key: tuple(value) if isinstance(value, list) else value for key, value in run.items()}}
            )
            for run in runs
        ]
    except (OSError, ValueError, TypeError) as error:
        raise PullbackError(f"{folder} holds no benchmark of inversion") from error


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a benchmark; a line that an interruption cut is left out."""
    path = folder / "rows.jsonl"
    rows = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows
