"""Profile the replay of the tape, and compare other ways to replay it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity
from torch.profiler import profile as profiled

from pullback.bench.gpu.rows import RowFile
from pullback.bench.gpu.subjects import Subject, subject
from pullback.bench.gpu.timing import seconds
from pullback.bench.processes import sentence_of
from pullback.errors import PullbackError
from pullback.metric import metric_at
from pullback.metric.jacobian import derivative_at, feature_map, jacobian
from pullback.metric.precision import arithmetic, in_double, relative_error, tangent_dtype
from pullback.metric.replay import check_replay, cuda_graph
from pullback.spec.metric import REPLAYS, Precision

_KERNELS = 8
"""Number of kernels to list."""
_CHECKED = 4
"""Number of Jacobian columns whose error is measured."""


def profile(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Measure where the time of one Jacobian goes."""
    measured, tangents = _shape(device, quick)
    push = derivative_at(_features(measured), measured.codes[:1])

    def work() -> None:
        jacobian(push, measured.codes[:1], tangents)

    with arithmetic():
        alone = seconds(work, device, runs=3, at_most=3)
        activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
        with profiled(activities=activities) as recorded:
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
    events = [event for event in recorded.events() if _on(device, event)]
    busy = _union([(event.time_range.start, event.time_range.end) for event in events]) * 1e-6
    name = measured.name
    rows.add(f"{name}: one Jacobian", alone, "s", note=f"strict float32, {tangents} tangents at once")
    rows.add(f"{name}: share of the time without a kernel", max(0.0, 1 - busy / alone), at_most=0.1)
    rows.add(f"{name}: kernels", len(events), "", note="launched for one Jacobian")
    copies = sum(_length(event) for event in events if "memcpy" in event.name.lower() or "copy" in event.name.lower())
    rows.add(f"{name}: share of copies", copies / max(busy, 1e-12))
    totals: dict[str, float] = {}
    for event in events:
        totals[event.name] = totals.get(event.name, 0.0) + _length(event)
    for kernel, taken in sorted(totals.items(), key=lambda item: -item[1])[:_KERNELS]:
        rows.add(f"kernel {kernel[:60]}", taken / max(busy, 1e-12), note="share of the busy time")


def _on(device: torch.device, event: Any) -> bool:
    if device.type == "cuda":
        return bool(str(event.device_type).endswith("CUDA"))
    return bool(event.cpu_parent is None)


def _length(event: Any) -> float:
    return 1e-6 * float(event.time_range.end - event.time_range.start)


def _union(spans: list[tuple[float, float]]) -> float:
    """Return the length of a union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def variants(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Time ways to compute one Jacobian, relative to the eager replay in float32, with their errors."""
    measured, tangents = _shape(device, quick)
    exact = _exact_columns(measured)
    longest = 0.3 if quick else 3.0
    eager: list[float] = []

    def tried(what: str, precision: Precision, make: Callable[[], Callable[[], Tensor]], codes: int = 1) -> None:
        """Time a variant and add its row. A failed variant gets a row with the reason."""
        try:
            with arithmetic(precision):
                work = make()
                taken = seconds(work, device, runs=5, warm=2, at_most=longest) / codes
                found = work()[:1]
        except Exception as error:  # a compiler or a driver may raise anything
            rows.add(what, None, note=sentence_of(error)[:160])
            return
        wrong = float(relative_error(found[:, :_CHECKED].flatten(1), exact.flatten(1)).max())
        eager.append(taken)
        note = f"{taken:.3g} s a Jacobian; ‖J − J64‖ / ‖J64‖ {wrong:.1e} of {_CHECKED} columns"
        rows.add(what, eager[0] / taken, "times eager", note=note)

    features, codes = _features(measured), measured.codes[:1]

    def replayed(precision: Precision = "float32", width: int = tangents) -> Callable[[], Tensor]:
        push = derivative_at(features, codes, tangent_dtype(precision))
        return lambda: jacobian(push, codes, width)

    def many() -> Callable[[], Tensor]:
        several = measured.codes[:4]
        classes = None if measured.classes is None else measured.classes[:4]
        push = derivative_at(feature_map(measured.generator, measured.distance, classes), several)
        return lambda: jacobian(push, several, max(1, tangents // 4))

    tried("eager, float32", "float32", replayed)
    for width in (tangents // 4, tangents * 2, tangents * 4):
        if 0 < width <= measured.latent_dim:
            tried(f"eager, {width} tangents at once", "float32", lambda width=width: replayed(width=width))  # type: ignore[misc]
    tried("eager, four codes at once", "float32", many, codes=4)
    if device.type == "cuda" or quick:
        tried("eager, tf32", "tf32" if device.type == "cuda" else "float32", replayed)
    tried("eager, bfloat16 tangents", "float32", lambda: replayed("bfloat16"))
    tried("channels last", "float32", lambda: _channels_last(measured, tangents))
    tried("CUDA graph", "float32", lambda: _graphed(features, codes, tangents))
    _engine(rows, measured, tangents, longest)
    tried("torch.compile", "float32", lambda: _compiled(features, codes, tangents, quick))


def _engine(rows: RowFile, measured: Subject, tangents: int, longest: float) -> None:
    """Time each value of the option `metric_at(replay=...)`, with certificates."""
    device, eager = measured.codes.device, 0.0
    for replay in REPLAYS:
        what = f"metric_at with replay {replay}"
        try:
            taken = seconds(
                lambda replay=replay: metric_at(  # type: ignore[misc]
                    measured.generator,
                    measured.distance,
                    measured.codes[:1],
                    condition=measured.condition(1),
                    method="gauss_newton",
                    tangents=tangents,
                    replay=replay,
                ),
                device,
                runs=3,
                at_most=longest,
            )
        except (PullbackError, RuntimeError) as error:
            rows.add(what, None, note=sentence_of(error))
            continue
        eager = eager or taken
        rows.add(what, eager / taken, "times eager", note=f"{taken:.3g} s a metric")


def _channels_last(measured: Subject, tangents: int) -> Callable[[], Tensor]:
    """Store the weights in channels-last order. Convolutions pass this order on to their outputs."""
    generator, distance = (
        part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for part in (measured.generator, measured.distance)
    )
    own = None if measured.classes is None else measured.classes[:1]
    push = derivative_at(feature_map(generator, distance, own), measured.codes[:1])
    return lambda: jacobian(push, measured.codes[:1], tangents)


def _graphed(features: Callable[[Tensor], Tensor], codes: Tensor, tangents: int) -> Callable[[], Tensor]:
    """Return the replay of one chunk, captured as a CUDA graph."""
    check_replay("graph", codes.device)
    push = derivative_at(features, codes)
    zeros = torch.zeros(tangents, *codes.shape, device=codes.device, dtype=codes.dtype)
    graph = cuda_graph(push, zeros)
    return lambda: jacobian(lambda chunk: (graph if len(chunk) == tangents else push)(chunk), codes, tangents)


def _compiled(features: Callable[[Tensor], Tensor], codes: Tensor, tangents: int, quick: bool) -> Callable[[], Tensor]:
    """Return the compiled replay. The quick check compiles without generating code."""
    push = torch.compile(derivative_at(features, codes), backend="eager" if quick else "inductor", dynamic=False)
    return lambda: jacobian(push, codes, tangents)


def _shape(device: torch.device, quick: bool) -> tuple[Subject, int]:
    return subject("biggan_deep_tiny" if quick else "biggan_deep_256", device, points=4), 8 if quick else 32


def _features(measured: Subject) -> Callable[[Tensor], Tensor]:
    own = None if measured.classes is None else measured.classes[:1]
    return feature_map(measured.generator, measured.distance, own)


def _exact_columns(measured: Subject) -> Tensor:
    """Compute the first columns of J in float64 [1, columns, m]."""
    own = None if measured.classes is None else measured.classes[:1]
    features = feature_map(in_double(measured.generator), in_double(measured.distance), own)
    code = measured.codes[:1].double()
    axes = torch.eye(measured.latent_dim, dtype=torch.float64, device=code.device)[:_CHECKED, None]
    with arithmetic():
        return derivative_at(features, code)(axes).transpose(0, 1)
