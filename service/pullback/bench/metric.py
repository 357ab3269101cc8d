"""`pullback bench metric`: compare methods with each other, with the paper's method, and with the floor.

The floor is the time of n plain forward passes of generator and distance at the best batch size. The floor and every
method have their own processes. They are timed in rounds, one after the other, so that other load on the machine
affects all of them. Ratios are computed within a round. Memory and errors are measured afterwards, in further
processes.

Invariants: a failed measurement loses only its own result. Every process has ended before `bench_metric` returns or
raises.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from sys import path as search_path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from pullback.bench.baselines import BASELINES
from pullback.bench.processes import Child, ChildError
from pullback.errors import SpecError
from pullback.generators import zoo
from pullback.generators.registry import resolve_device
from pullback.spec import DistanceSpec, explain, names_code, nearest
from pullback.spec.metric import METHODS, Precision

METHODS_BY_DEFAULT = ("gauss_newton", "backprop")
EXACT_UP_TO = 512
"""Largest n for which H is computed in float64 by double backpropagation, to measure errors."""
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072"}
"""Environment that makes glibc return freed arrays to the system, so that resident memory is memory in use. It must be
set when the process starts. If it is set later, memory that was freed before is counted again."""
_CHILD = "pullback.bench.child"
_SOURCE = "pullback bench metric"
_FLOOR = "the floor"
_NO_TANGENTS = (*BASELINES, "finite_difference")


@dataclass(frozen=True)
class MetricBench:
    """Settings of `bench_metric`.

    Attributes:
        generator: argument of `load_generator`.
        family: the family of a checkpoint; None to recognise it.
        space: the latent space of its codes; None for the family's first.
        options: options of the family that the checkpoint does not hold.
        distance: name of a distance.
        trunk: trunk of LPIPS.
        size: height and width to which the distance resizes images; None keeps their size.
        methods: `auto`, members of `spec.metric.METHODS`, or `arpack`, each optionally with `@` and a precision.
            `backprop` is the paper's method, and `arpack` is scipy's with products by a second backward pass. Both run
            as in a plain script: one code at a time, without a certificate.
        device: `auto`, `cpu` or `cuda`.
        points: number of latent codes from N(0, I), the same for all methods.
        components: number of eigenpairs of each metric; None for all.
        threads: CPU threads of each process; None uses torch's default.
        rounds: number of timed runs of each method.
        error: whether to measure errors against float64 (up to n = 512; for larger n, residuals of eigenpairs).
        tf32: whether the floor and the baselines may use TF32 on a GPU. If not, they use IEEE float32, as Pullback's
            methods do.
    """

    generator: str
    family: str | None = None
    space: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    distance: str = "lpips"
    trunk: str | None = None
    size: int | None = None
    methods: Sequence[str] = METHODS_BY_DEFAULT
    device: str = "auto"
    points: int = 4
    components: int | None = None
    threads: int | None = None
    rounds: int = 3
    error: bool = True
    tf32: bool = False


@dataclass
class _Entry:
    """Results so far of a method or of the floor.

    Attributes:
        asked: arguments of its requests.
        runs: one reply per round.
        found: results of measurements that are made once.
        error: why there are no times; None if there are.
    """

    asked: dict[str, Any]
    runs: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    @property
    def seconds(self) -> list[float]:
        """Seconds per metric in each round; empty after a failure."""
        return [] if self.error is not None else [float(run["seconds"]) for run in self.runs]


def bench_metric(bench: MetricBench, report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Compare methods on this machine.

    Args:
        bench: the settings.
        report: called with each line of progress.

    Returns:
        JSON values. `device`, `generator`, `family`, `space`, `distance`, `latent_dim`, `threads`, `date`, `versions`,
        and the settings `rounds`, `components` and `tf32`. `methods` has an entry for each name: `seconds` per metric
        (median of the rounds) and `seconds_range`; `relative_error` and `error_of`, its definition ("metric":
        ‖H − H64‖ / ‖H64‖; "eigenvalues": the largest |λᵢ − λᵢ64| / λ₁64; "residual": the largest ‖Hv − λv‖ / λ₁);
        `peak_memory_bytes` of one metric beyond what is allocated before, and `predicted_memory_bytes`; the `method`
        that was used; `points`, the codes timed in a round; `certified`, whether every certificate passed;
        `certificate_share`, the median share of the time that the certificates take; and `error`, one sentence, only
        after a failure. `floor_seconds`, `floor_range` and `floor_batch`. `times_floor` and `speedup_vs_backprop` are
        medians over the rounds of the ratio within a round, and have their own ranges in `times_floor_range` and
        `speedup_range`; if `arpack` was measured, there is `speedup_vs_arpack` too. Missing measurements are None.

    Raises:
        SpecError: there is no such generator, distance, method, precision or device, or they do not fit together.
    """
    requests, setup, label = _checked(bench)
    entries = {_FLOOR: _Entry({}), **{name: _Entry(asked) for name, asked in requests.items()}}
    facts: dict[str, Any] = {}
    with ExitStack() as stack:
        children = _started(entries, setup, facts, stack, report)
        for turn in range(bench.rounds):
            waiting = [name for name in children if entries[name].error is None]
            for name in (
                waiting if turn % 2 == 0 else waiting[::-1]
            ):  # the alternating order cancels a drift of the machine's speed
                report(f"round {turn + 1} of {bench.rounds}: {name}")
                entry = entries[name]
                try:
                    entry.runs.append(children[name].ask("floor" if name == _FLOOR else "run", **entry.asked))
                except ChildError as error:
                    entry.error = str(error)
                    report(f"{name} failed: {error}")
    floor = entries.pop(_FLOOR)
    timed = {name: entry for name, entry in entries.items() if entry.error is None}
    alone = {**setup, "points": 1}
    for name, entry in timed.items():
        report(f"memory: {name}")
        with ExitStack() as stack:
            try:
                entry.found |= _load(alone, stack, RETURN_FREED_MEMORY)[0].ask("memory", **entry.asked)
            except ChildError as error:
                report(f"the memory of {name} could not be measured: {error}")
    if bench.error and timed:
        _find_errors(timed, int(facts["latent_dim"]), alone, report)
    made: dict[str, Any] = {
        "device": None,
        "generator": bench.generator,
        "family": None,
        "space": None,
        "distance": label,
    }
    made |= {"latent_dim": None, **facts}
    made |= {"components": bench.components, "rounds": bench.rounds, "tf32": bench.tf32}
    return {**made, "date": datetime.now(UTC).isoformat(timespec="seconds"), **_summary(floor, entries)}


def _checked(bench: MetricBench) -> tuple[dict[str, dict[str, Any]], dict[str, Any], str]:
    """Return the request arguments by method, the setup that every process loads, and the label of the distance.

    Raises:
        SpecError: see `bench_metric`. It lists all problems.
    """
    problems: list[str] = []
    name = bench.generator
    if not (name in zoo() or names_code(name) or Path(name).exists()):
        problems.append(f"generator: {name!r} is neither registered nor a file{nearest(name, zoo())}")
    options = {"trunk": bench.trunk, "size": bench.size}
    distance = {"name": bench.distance, **{key: value for key, value in options.items() if value is not None}}
    label = bench.distance
    try:
        adapter: TypeAdapter[DistanceSpec] = TypeAdapter(DistanceSpec)
        label = adapter.validate_python(distance).label
    except ValidationError as error:
        problems += explain(error, ("distance",))
    device = "cpu"
    try:
        device = str(resolve_device(bench.device))
    except SpecError as error:
        problems += [problem.removeprefix("resources.") for problem in error.problems]
    for key in ("points", "components", "threads", "rounds"):
        number = getattr(bench, key)
        if number is not None and number < 1:
            problems.append(f"{key}: must be at least 1, not {number}")
    if bench.tf32 and not device.startswith("cuda"):
        problems.append("tf32: only GPUs support it; remove it, or choose the device cuda")
    requests: dict[str, dict[str, Any]] = {}
    for method in bench.methods:
        try:
            requests[method] = _parsed(method, device)
        except ValueError as error:
            problems.append(f"methods: {error}")
    if not bench.methods:
        problems.append(f"methods: at least one is needed, of auto, {', '.join(METHODS)}, arpack")
    if any(request["method"] == "arpack" for request in requests.values()):
        if bench.components is None:
            problems.append("components: arpack finds only some of the eigenpairs; give their number")
        if find_spec("scipy") is None:
            problems.append("methods: arpack needs scipy, which is not installed (pip install scipy)")
    if problems:
        raise SpecError(problems, _SOURCE)
    chosen = {key: value for key in ("family", "space") if (value := getattr(bench, key)) is not None}
    setup = {
        "path": list(search_path),
        "generator": name,
        "options": {**chosen, **bench.options},
        "distance": distance,
        "device": device,
        "threads": bench.threads,
        "points": bench.points,
        "components": bench.components,
        "tf32": bench.tf32,
        "keep_memory": False,
    }
    return requests, setup, label


def _parsed(name: str, device: str) -> dict[str, Any]:
    """Parse `method@precision` into the arguments of a request.

    Raises:
        ValueError: the method is unknown, or it does not support the precision.
    """
    method, at, precision = name.partition("@")
    known = ("auto", *METHODS, "arpack")
    if method not in known:
        raise ValueError(f"{method!r} is not one of {', '.join(known)}{nearest(method, known)}")
    precisions = get_args(Precision)
    if at and precision not in precisions:
        raise ValueError(f"{name}: {precision!r} is not one of {', '.join(precisions)}{nearest(precision, precisions)}")
    if precision == "tf32" and not device.startswith("cuda"):
        raise ValueError(f"{name}: only GPUs support tf32; use float32, float64 or bfloat16")
    if precision == "bfloat16" and method in _NO_TANGENTS:
        raise ValueError(f"{name}: bfloat16 applies to tangents, and {method} has none; use float32 or float64")
    return {"method": method, "precision": precision or "float32"}


def _load(
    setup: Mapping[str, Any], stack: ExitStack, environment: Mapping[str, str] | None = None
) -> tuple[Child, dict[str, Any]]:
    """Start a process that loads generator and distance. Return it with its facts. It ends when the stack closes."""
    child = Child(_CHILD, environment)
    stack.callback(child.end)
    return child, child.ask("load", **setup)


def _started(
    entries: Mapping[str, _Entry],
    setup: Mapping[str, Any],
    facts: dict[str, Any],
    stack: ExitStack,
    report: Callable[[str], None],
) -> dict[str, Child]:
    """Start and warm up a process for the floor and for each method, one after the other. Fill in `facts`.

    Raises:
        SpecError: the generator or the distance cannot be loaded, so no other process could load them either.
    """
    children: dict[str, Child] = {}
    for name, entry in entries.items():
        report(f"loading and warming up: {name}")
        is_plain = name == _FLOOR or entry.asked["method"] in BASELINES
        try:
            children[name], found = _load({**setup, "keep_memory": not is_plain}, stack)
            facts |= found
            if name == _FLOOR:
                entry.asked = {"batch": children[name].ask("find_floor")["batch"]}
            else:
                children[name].ask("warm_up", **entry.asked)
        except ChildError as error:
            if error.problems and name not in children:
                raise SpecError(error.problems, _SOURCE) from error
            entry.error = str(error)
            report(f"{name} failed: {error}")
    return children


def _find_errors(
    entries: Mapping[str, _Entry], latent_dim: int, setup: Mapping[str, Any], report: Callable[[str], None]
) -> None:
    """Measure the errors of methods against float64; for large n, the residuals of their eigenpairs."""
    if latent_dim > EXACT_UP_TO:
        for entry in entries.values():
            residual = max((run["residual"] for run in entry.runs if run["residual"] is not None), default=None)
            entry.found |= {"relative_error": residual, "error_of": None if residual is None else "residual"}
        return
    with ExitStack() as stack:
        child: Child | None = None
        for name, entry in entries.items():
            report(f"error against float64: {name}")
            try:
                child = child or _load(setup, stack)[0]  # shared by all methods, so H in float64 is computed once
                entry.found |= child.ask("error", **entry.asked)
            except ChildError as error:
                report(f"the error of {name} could not be measured: {error}")


def _summary(floor: _Entry, entries: Mapping[str, _Entry]) -> dict[str, Any]:
    """Return the numbers of the result: ratios, medians and ranges."""
    ratios = {"times_floor": {name: _ratios(entry.seconds, floor.seconds) for name, entry in entries.items()}}
    for baseline in BASELINES:
        reference = entries.get(baseline, _Entry({})).seconds
        others = {name: entry.seconds for name, entry in entries.items() if name != baseline}
        ratios[baseline] = {name: _ratios(reference, seconds) for name, seconds in others.items()}
    middles = {key: {name: median(each) for name, each in parts.items() if each} for key, parts in ratios.items()}
    ranges = {key: {name: _range(each) for name, each in parts.items() if each} for key, parts in ratios.items()}
    return {
        "methods": {name: _described(entry) for name, entry in entries.items()},
        "speedup_vs_backprop": middles["backprop"],
        "speedup_range": ranges["backprop"],
        **({"speedup_vs_arpack": middles["arpack"]} if middles["arpack"] else {}),
        "floor_seconds": median(floor.seconds) if floor.seconds else None,
        "floor_range": _range(floor.seconds),
        "floor_batch": floor.asked.get("batch"),
        "times_floor": middles["times_floor"],
        "times_floor_range": ranges["times_floor"],
        **({} if floor.error is None else {"floor_error": floor.error}),
    }


def _described(entry: _Entry) -> dict[str, Any]:
    """Return a method's entry of the result."""
    seconds = entry.seconds
    last = entry.runs[-1] if seconds else {}
    certified = [run["certified"] for run in entry.runs] if seconds else []
    return {
        "seconds": median(seconds) if seconds else None,
        "seconds_range": _range(seconds),
        "relative_error": entry.found.get("relative_error"),
        "error_of": entry.found.get("error_of"),
        "peak_memory_bytes": entry.found.get("peak_memory_bytes"),
        "predicted_memory_bytes": entry.found.get("predicted_memory_bytes"),
        "method": last.get("method"),
        "points": min((run["points"] for run in entry.runs), default=None) if seconds else None,
        "certified": None if None in certified or not certified else all(certified),
        "certificate_share": median(run["certificate_share"] for run in entry.runs) if seconds else None,
        **({} if entry.error is None else {"error": entry.error}),
    }


def _ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Return the ratios within each round; empty if either side failed."""
    return [one / other for one, other in zip(above, below, strict=False)]


def _range(values: Sequence[float]) -> list[float] | None:
    return [min(values), max(values)] if values else None
