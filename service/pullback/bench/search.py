"""`pullback bench search`: gradient-free searchers on many units, with shared noise and budgets, and controls.

Every run of an arm on a unit is one row of a file of JSON lines. Rows that are there are not computed again, so a run
that was interrupted goes on, and one with more units or arms adds to it. Seeds belong to repeat and unit and not to the
arm: all arms draw from the same streams of normal numbers and meet the same noise.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pullback.applications.protocol import Subject
from pullback.applications.searching.coordinates import Metric
from pullback.applications.searching.objective import Noise
from pullback.bench.search_arms import ARMS, Arm
from pullback.bench.search_statistics import Outcome, outcome
from pullback.bench.search_suites import Suite, trunk_suite
from pullback.errors import PullbackError, SpecError
from pullback.spec import nearest
from pullback.store.reader import open_sweep

Row = dict[str, Any]
Say = Callable[[str], None]


SYNTHETIC = "synthetic 4096"


def suite_of_sweep(
    address: str,
    control: str | None = None,
    noises: tuple[float, ...] = (0.0,),
    *,
    trunk: str = "alex",
    sphere: bool = False,
    condition: str | int | None = None,
) -> Suite:
    """Return the suite of a sweep's generator with units of a feature network.

    Args:
        address: the sweep.
        control: a sweep of the same generator with shuffled weights.
        noises: levels of noise.
        trunk: the network: `alex`, `vgg` or `squeeze`.
        sphere: search on ‖z‖ = √n, in place of ‖z‖ ≤ 1.25 √n.
        condition: class of a generator with classes.

    Raises:
        PullbackError: a sweep cannot be read, its generator cannot be loaded, or the control has another size.
    """
    sweep = open_sweep(address)
    subject = Subject(sweep)
    shuffled = None if control is None else open_sweep(control).mean_metric(kept=True)
    matrix = sweep.mean_metric(kept=True)
    if shuffled is not None and shuffled.shape != matrix.shape:
        raise PullbackError(f"the control {control} has codes of another size than {address}. Nothing was computed")
    name = str(sweep.provenance.get("generator", sweep.name))
    parts = [name, *([str(condition)] if condition is not None else []), *([trunk] if trunk != "alex" else [])]
    return trunk_suite(
        ", ".join([*parts, *(["on the sphere"] if sphere else [])]),
        subject.generator,
        Metric.of_matrix(matrix),
        None if shuffled is None else Metric.of_matrix(shuffled),
        trunk,
        condition=condition,
        noises=noises,
        sphere=sphere,
    )


def refuse_unknown(arms: Sequence[str]) -> None:
    """Raise SpecError for an arm that does not exist."""
    for name in arms:
        if name not in ARMS:
            raise SpecError(
                [f"arms: there is no arm {name!r}{nearest(name, ARMS) or '; there are ' + ', '.join(ARMS)}"]
            )


def outcomes_of(rows: Sequence[Row]) -> list[Outcome]:
    """Return the outcome of every suite and noise in the rows; the reference of the synthetic suite is SphereCMA."""
    made = []
    for suite, noise in dict.fromkeys((row["suite"], row["noise"]) for row in rows):
        found = outcome(rows, suite, noise, "sphere" if suite == SYNTHETIC else "pycma")
        if found is not None:
            made.append(found)
    return made


@dataclass(frozen=True)
class SearchBench:
    """The size of a benchmark.

    Attributes:
        units: units of each suite.
        repeats: runs of each arm on each unit.
        evaluations: budget of a run.
        arms: names of `ARMS`, by suite.
        first_unit: number of the first unit; units before it may be used to choose settings.
    """

    units: int = 10
    repeats: int = 5
    evaluations: int = 3000
    arms: dict[str, Sequence[str]] = field(default_factory=dict)
    first_unit: int = 0


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a file; a last line that was cut off by an interruption is left out.

    Raises:
        PullbackError: the file holds other lines.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({**row, "key": tuple(row[name] for name in _KEY)})
        except (ValueError, KeyError, TypeError):
            if number == len(lines) and not line.endswith("\n"):
                break
            raise PullbackError(f"line {number} of {path} is no row of this benchmark. Name another file") from None
    return rows


_KEY = ("suite", "unit", "repeat", "arm", "noise", "budget")


def bench_search(suites: Sequence[Suite], settings: SearchBench, path: Path, say: Say = lambda line: None) -> list[Row]:
    """Run what is missing, and return all rows of these suites and this budget.

    Args:
        suites: what to search on.
        settings: how much.
        path: the file of rows; made if it is missing.
        say: called with a line of progress.
    """
    known = {row["key"] for row in read_rows(path)}
    planned = list(_planned(suites, settings))
    path.parent.mkdir(parents=True, exist_ok=True)
    _end_cut_line(path)
    with path.open("a", encoding="utf-8") as file:
        for place, (suite, number, repeat, name, noise) in enumerate(planned, 1):
            key = (suite.name, suite.unit(number), repeat, name, noise, settings.evaluations)
            if key in known:
                continue
            found = run_arm(ARMS[name], suite, number, repeat, noise, settings.evaluations)
            if found is None:
                continue
            row = {**dict(zip(_KEY, key, strict=True)), **found}
            file.write(json.dumps(row) + "\n")
            file.flush()
            say(f"{place} of {len(planned)}: {suite.name}, {key[1]}, {name}: {max(found['best']):.4g}")
    names = {suite.name for suite in suites}
    return [row for row in read_rows(path) if row["suite"] in names and row["budget"] == settings.evaluations]


def _end_cut_line(path: Path) -> None:
    """Remove a last line that an interruption cut off."""
    if path.exists():
        text = path.read_text(encoding="utf-8")
        if text and not text.endswith("\n"):
            path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")


def _planned(suites: Sequence[Suite], settings: SearchBench) -> Iterator[tuple[Suite, int, int, str, float]]:
    for repeat in range(settings.repeats):
        for number in range(settings.first_unit, settings.first_unit + settings.units):
            for suite in suites:
                for noise in suite.noises:
                    for name in settings.arms[suite.name]:
                        yield suite, number, repeat, name, noise


def run_arm(arm: Arm, suite: Suite, number: int, repeat: int, noise: float, evaluations: int) -> Row | None:
    """Return scores by generation of one run; None if the arm does not apply to the suite."""
    seed = 1000 * number + repeat
    searcher = arm.made(suite, evaluations, seed)
    if searcher is None:
        return None
    score, disturbed = suite.score(number), Noise(noise, seed)
    begun = time.process_time()
    spent, best, mean = [], [], []
    done = 0
    while done + searcher.population <= evaluations:
        x = searcher.ask()
        clean = score(suite.feasible.codes(x))
        searcher.tell(x, disturbed(clean, done))
        done += len(x)
        spent.append(done)
        best.append(float(clean.max()))
        mean.append(float(clean.mean()))
    return {
        "evaluations": spent,
        "best": [float(f"{value:.6g}") for value in best],
        "mean": [float(f"{value:.6g}") for value in mean],
        "known": suite.best(number),
        "axes": searcher.setting.coordinates.k,
        "population": searcher.population,
        "seconds": round(time.process_time() - begun, 3),
        "last_norm": float(f"{np.linalg.norm(x, axis=1).mean():.5g}"),
    }
