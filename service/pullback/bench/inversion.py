"""Benchmark of the solvers of inversion: shared starts, equal budgets, controls, and paired comparison by target.

Suites: S1 own samples (the class given, if there are classes), S2b own samples of unknown class, S3 images out of range
(own samples with noise, mirrored or shifted, averages of two, with exchanged colours), S4 own samples with a start at
D² = 0.05 or 0.2 from the target, which separates convergence from search.

Every arm gets the same starts for a target (ridge regression, the nearest own sample, two random ones) and the same
budget in forward equivalents, which all starts share. On S1 and S2b the prior is 0.01 for 70 % of the budget and 0
for the rest; on S3 it is 0.01, on S4 0. The hybrid has its own rule for the prior and chooses among the starts itself.

Rows are appended to `rows.jsonl` one by one, so an interrupted run goes on. The arms of a target run in random order.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pullback.applications.inverting.library_cache import library_of
from pullback.applications.inverting.objective import Objective
from pullback.applications.inverting.solvers import SOLVERS
from pullback.applications.inverting.starts import Library
from pullback.applications.inverting.watch import Watch
from pullback.distances import ResidualDistance, load_distance
from pullback.distances.mse import Mse
from pullback.errors import ArgumentError, PullbackError, WeightsError
from pullback.generators import generate, load_generator, reference_tensor
from pullback.generators.attributes import class_names
from pullback.generators.codes import mapped

SUITES = ("S1", "S2b", "S3", "S4")
LEVELS = (0.05, 0.2)
"""D² of the starts of S4, one after the other."""
THRESHOLDS = (0.3, 0.1, 0.05, 0.02, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Values of f whose first time is recorded."""
PRIOR = 0.01
FAR = 0.7
"""Part of the budget with the prior on S1 and S2b."""
CONFIGURATIONS = 16
"""Most configurations of an arm that are tried in tuning."""
_TUNING = 10_000
"""First number of the targets that only tune."""
_OWN_RULE = ("hybrid", "hybrid_metric")
"""Solvers that leave out the prior themselves."""


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
        random: random starts of a target, besides the regression's and the nearest sample.
        tuning: targets on which each arm's configurations are compared first; 0 for the default settings.
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
    random: int = 2
    tuning: int = 8
    tuning_budget: float = 3000.0
    samples: int = 1500
    metric_samples: int = 100
    held_out: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (("suites", SUITES), ("arms", tuple(ARMS))):
            unknown = [each for each in getattr(self, name) if each not in known]
            if unknown or not getattr(self, name):
                raise ArgumentError(name, f"{', '.join(unknown) or 'none'} is not among {', '.join(known)}")
        if self.targets < 1 or not min(self.budget, self.local_budget, self.tuning_budget) > 0 or self.tuning < 0:
            raise ArgumentError("targets", "a benchmark needs at least one target and a budget above zero")


@dataclass(frozen=True)
class Problem:
    """One target of a suite with its starts.

    Attributes:
        image: the target [1, 3, height, width].
        code: its code [n]; None out of range.
        starts: codes [starts, n].
        condition: class of each start; None without classes.
    """

    image: Tensor
    code: Tensor | None
    starts: Tensor
    condition: Tensor | None


@dataclass
class Bench:
    """The parts of a benchmark; networks are loaded, and metrics computed, when they are first used."""

    settings: InversionBench
    folder: Path
    say: Callable[[str], None] = field(default=lambda line: None)

    @cached_property
    def generator(self) -> Any:
        """G, on the CPU: CPU seconds are an endpoint."""
        return load_generator(self.settings.generator, device="cpu")

    @cached_property
    def distance(self) -> ResidualDistance:
        """D, a residual distance."""
        found = load_distance(self.settings.distance, device="cpu")
        if not isinstance(found, ResidualDistance):
            raise ArgumentError("distance", f"{found.name} is no sum of squares")
        return found

    @cached_property
    def judge(self) -> Any:
        """LPIPS-vgg; None if it is not wanted or not there."""
        if not self.settings.held_out:
            return None
        try:
            return load_distance("lpips", trunk="vgg", device="cpu")
        except WeightsError:
            return None

    @cached_property
    def library(self) -> Library:
        """The own samples of the starts; not those of the targets."""
        return library_of(self.generator, self.settings.samples, self.settings.seed)

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
            shuffled = kind == "shuffled"
            generator = (
                load_generator(self.settings.generator, device="cpu", control="shuffled")
                if shuffled
                else self.generator
            )
            self.say(f"mean metric of {self.settings.metric_samples} own samples ({kind})")
            codes, own = self._drawn(generator, 9, range(self.settings.metric_samples))
            objective = Objective(generator, self.distance, generate(generator, codes[:1], _row(own, 0)).detach(), 0.0)
            found = objective.mean_metric(codes, own)
        np.save(path, found.numpy())
        return found

    def _drawn(self, generator: Any, stream: int, numbers: Sequence[int] | range) -> tuple[Tensor, Tensor | None]:
        """Codes [numbers, n] that depend on the seed, the stream and their number alone, and their classes."""
        from pullback.generators.codes import input_size

        size = input_size(generator)
        rows = [
            np.random.default_rng(
                np.random.SeedSequence(self.settings.seed, spawn_key=(stream, number))
            ).standard_normal(size)
            for number in numbers
        ]
        names = class_names(generator)
        own = torch.tensor([number % len(names) for number in numbers]) if names else None
        inputs = torch.from_numpy(np.stack(rows)).to(reference_tensor(generator))
        return mapped(generator, inputs, own), own

    def problem(self, suite: str, number: int) -> Problem:
        """Return the target with this number and its starts."""
        codes, own = self._drawn(self.generator, 1, [number, number + 5000])
        with torch.no_grad():
            images = generate(self.generator, codes, own).clamp(0, 1)
        image, code = images[:1], codes[0].double()
        if suite == "S4":
            return self._local(number, codes[:1], image, _row(own, 0))
        if suite == "S3":
            image = _out_of_range(images, number, self.settings.seed)
        objective = Objective(self.generator, self.distance, image)
        given = None if own is None or suite in ("S2b", "S3") else int(own[0])
        starts = self.library.starts(
            objective, nearest=1, random=self.settings.random, condition=given, seed=self.settings.seed, first=number
        )
        return Problem(image, None if suite == "S3" else code, starts.codes, starts.condition)

    def _local(self, number: int, code: Tensor, image: Tensor, own: Tensor | None) -> Problem:
        """A start in a random direction at the wanted distance, which bisection finds."""
        wanted = LEVELS[number % len(LEVELS)]
        stream = np.random.default_rng(np.random.SeedSequence(self.settings.seed, spawn_key=(4, number)))
        direction = torch.from_numpy(stream.standard_normal(code.shape[1]))
        direction /= direction.norm()

        def away(step: float) -> float:
            with torch.no_grad():
                moved = generate(self.generator, (code.double() + step * direction).to(code), own)
                return float(self.distance.squared(moved, image))

        low, high = 0.0, 1.0
        while away(high) < wanted and high < 100:
            low, high = high, 2 * high
        for _ in range(12):
            middle = (low + high) / 2
            low, high = (middle, high) if away(middle) < wanted else (low, middle)
        return Problem(image, code[0].double(), code.double() + high * direction, own)

    def measure(self, suite: str, number: int, name: str, settings: Mapping[str, Any], budget: float) -> dict[str, Any]:
        """Run an arm on a target and return its row."""
        arm, problem = ARMS[name], self.problem(suite, number)
        solver, metric = SOLVERS[arm.solver], self.metric(arm.metric)
        objective = Objective(
            self.generator,
            self.distance,
            problem.image,
            prior=0.0 if suite == "S4" else PRIOR,
            centre=self.library.centre,
            scale=self.library.scale,
        )
        target = torch.zeros(len(problem.starts), dtype=torch.int64)
        chosen = {**solver.given(metric), **settings}
        whole = Watch(objective, 1, budget, tolerance=1e-8)
        phases = [(objective, 1.0)]
        if suite in ("S1", "S2b") and arm.solver not in _OWN_RULE:
            phases = [(objective, FAR), (objective.without_prior(), 1.0)]
        codes = problem.starts.double()
        values = objective.without_prior().values(codes, target, problem.condition)
        marks: list[tuple[float, float, float]] = [(whole.used, whole.elapsed, float(values.min()))]
        best, best_value = codes[int(values.argmin())], math.inf
        condition = -1
        for used, part in phases:
            left = budget * part - whole.used
            if left <= 0:
                continue
            watch = Watch(used, 1, left, tolerance=1e-8)
            steps = {"steps": max(1, int(left / (3 * len(codes))))} if _first_order(arm.solver) else {}
            before = whole.used, whole.elapsed
            codes, values = solver.minimise(used, codes, target, problem.condition, watch, **chosen, **steps)
            marks += [(before[0] + a, before[1] + b, c[0]) for a, b, c in watch.trace]
            if watch.codes is not None:  # the last phase has the objective that counts
                best, best_value, condition = watch.codes[0], float(watch.values[0]), int(watch.conditions[0])
        cost, seconds = asdict(objective.cost), whole.elapsed
        own = None if problem.condition is None else torch.tensor([condition])
        image = objective.images(best[None], own)
        with torch.no_grad():
            held = math.nan if self.judge is None else float(self.judge.squared(image, problem.image))
            distance = float(self.distance.squared(image, problem.image))
            mse = float(Mse(False, None, None).squared(image, problem.image))
        away = best - self.library.centre
        return {
            "suite": suite,
            "target": number,
            "arm": name,
            "value": best_value,
            "distance": distance,
            "mse": mse,
            "held_out": held,
            "code_error": None if problem.code is None else float((best - problem.code).norm() / problem.code.norm()),
            "norm": float((away / self.library.scale).norm()) / math.sqrt(len(best)),
            "seconds": seconds,
            "work": objective.cost.forward_equivalents,
            **cost,
            "reached": _reached(marks),
        }


def _first_order(solver: str) -> bool:
    return "rate" in SOLVERS[solver].tuned and "inner" not in SOLVERS[solver].settings


def _row(own: Tensor | None, row: int) -> Tensor | None:
    return None if own is None else own[row : row + 1]


def _reached(marks: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """The work and the CPU seconds at which f first was at each threshold: rows (threshold, work, seconds)."""
    found = []
    for threshold in THRESHOLDS:
        first = next(((used, seconds) for used, seconds, value in marks if value <= threshold), None)
        if first is not None:
            found.append([threshold, *first])
    return found


def _out_of_range(images: Tensor, number: int, seed: int) -> Tensor:
    """A target that no code has, from the images [2, 3, height, width] of two own samples."""
    kind = number % 4
    if kind == 0:
        noise = torch.randn(images[:1].shape, generator=torch.Generator().manual_seed(seed + number))
        return (images[:1] + 0.05 * noise).clamp(0, 1)
    if kind == 1:
        return images[:1].flip(3) if number % 8 == 1 else images[:1].roll((4, 4), (2, 3))
    if kind == 2:
        return images.mean(dim=0, keepdim=True)
    return images[:1].flip(1)


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

            chosen = _tuned(bench, rows, done, keep)
            order = np.random.default_rng(settings.seed)
            for number in range(settings.targets):
                jobs = [(suite, name) for suite in settings.suites for name in settings.arms]
                for place in order.permutation(len(jobs)):
                    suite, name = jobs[place]
                    if (suite, number, name, None) in done:
                        continue
                    budget = settings.local_budget if suite == "S4" else settings.budget
                    row = bench.measure(suite, number, name, chosen[name], budget)
                    keep(row)
                    say(
                        f"{suite} target {number + 1} of {settings.targets}, {ARMS[name].label}: {row['distance']:.2g} "
                        f"in {row['seconds']:.1f} CPU s"
                    )
    except OSError as error:
        raise PullbackError(
            f"the benchmark's folder {folder} cannot be written: {error.strerror or error}. Rows until now are kept"
        ) from error
    return rows


def _same(settings: InversionBench, folder: Path) -> None:
    """Keep the settings; raise if the folder holds rows of others. More targets, suites and arms may be added."""
    path = folder / "settings.json"
    now = json.loads(json.dumps(asdict(settings)))
    if path.is_file():
        free = ("targets", "suites", "arms")
        before = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(key for key in now if key not in free and before.get(key) != now[key])
        if other:
            raise PullbackError(
                f"{folder} holds a benchmark with another {', '.join(other)}. Nothing was computed; name another folder"
            )
    path.write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")


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


def configurations(name: str) -> Iterator[dict[str, Any]]:
    """Yield the configurations of an arm that tuning compares, at most 16."""
    tuned = SOLVERS[ARMS[name].solver].tuned
    for values in itertools.islice(itertools.product(*tuned.values()), CONFIGURATIONS):
        yield dict(zip(tuned, values, strict=True))


def _tuned(
    bench: Bench, rows: list[dict[str, Any]], done: set[Any], keep: Callable[[dict[str, Any]], None]
) -> dict[str, dict[str, Any]]:
    """The settings of each arm: those with the best mean rank of f on the tuning targets, or the defaults."""
    settings = bench.settings
    chosen: dict[str, dict[str, Any]] = {name: {} for name in settings.arms}
    for name in settings.arms if settings.tuning else ():
        tried = list(configurations(name))
        if len(tried) < 2:
            continue
        for number, given in itertools.product(range(settings.tuning), tried):
            text = json.dumps(given, sort_keys=True)
            if ("tuning", _TUNING + number, name, text) in done:
                continue
            row = bench.measure("S1", _TUNING + number, name, given, settings.tuning_budget)
            keep({**row, "suite": "tuning", "configuration": text})
            bench.say(f"tuning {ARMS[name].label} {text}: {row['value']:.2g} in {row['seconds']:.1f} CPU s")
        chosen[name] = best_configuration(rows, name)
    return chosen


def best_configuration(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Any]:
    """Return the configuration of an arm with the best mean rank of f over the tuning targets; {} if none was tuned."""
    values: dict[int, dict[str, float]] = {}
    for row in rows:
        if row["suite"] == "tuning" and row["arm"] == name:
            value = row["value"] if math.isfinite(row["value"]) else math.inf
            values.setdefault(row["target"], {})[row["configuration"]] = value
    if not values:
        return {}
    ranks: dict[str, list[int]] = {}
    for each in values.values():
        for rank, text in enumerate(sorted(each, key=lambda key: each[key])):
            ranks.setdefault(text, []).append(rank)
    best: dict[str, Any] = json.loads(min(ranks, key=lambda text: float(np.mean(ranks[text]))))
    return best
