"""Compare predicted and measured peak memory, and run with less memory than planned."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from pullback.bench.gpu.rows import RowFile
from pullback.bench.gpu.subjects import Subject, subject
from pullback.bench.machine import peak_memory
from pullback.metric import metric_at
from pullback.metric.methods import Setting
from pullback.metric.strategy import Request, decide


def measure(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Compare predictions with measurements, then run with less memory."""
    for name in ("biggan_deep_tiny",) if quick else ("biggan_deep_128", "stylegan2_256", "fc6"):
        shape = subject(name, device, points=4)
        _peaks(rows, shape)
        if name == "biggan_deep_tiny" or (name == "biggan_deep_128" and not quick):
            _out_of_memory(rows, shape)


def _metrics(shape: Subject, points: int, batch: int | None = None) -> tuple[torch.Tensor, int, int]:
    """Return the traces of the first metrics, and the batch and chunk size used last."""
    components = None if shape.latent_dim <= 512 else 8
    found = metric_at(
        shape.generator,
        shape.distance,
        shape.codes[:points],
        condition=shape.condition(points),
        components=components,
        batch=batch,
    )
    return found.trace, found.batch, found.tangents


def _predicted(shape: Subject, points: int, batch: int | None = None) -> int:
    """Return the predicted peak memory of `_metrics`, in bytes."""
    request = Request("auto", shape.latent_dim, points, Setting("gauss_newton"), batch=batch)
    return decide(shape.generator, shape.distance, request).fit.bytes


def _peaks(rows: RowFile, shape: Subject) -> None:
    device = shape.codes.device
    if shape.latent_dim > 512:
        _metrics(shape, 1)
        peak = peak_memory(lambda: _metrics(shape, 1), device)
        rows.add(
            f"{shape.name}: peak of top 8", peak / 2**30, "GiB", note="no prediction is made for iterative methods"
        )
        return
    _metrics(shape, 1)
    peak = peak_memory(lambda: _metrics(shape, 1), device)
    predicted = _predicted(shape, 1)
    goal = 0.25 if device.type == "cuda" else None  # on a CPU, small processes hold more memory than they use
    rows.add(
        f"{shape.name}: |predicted − measured| / measured",
        abs(predicted - peak) / max(peak, 1),
        at_most=goal,
        note=f"predicted {predicted / 2**20:.0f} MiB, measured {peak / 2**20:.0f} MiB",
    )


def _out_of_memory(rows: RowFile, shape: Subject) -> None:
    """Check that metrics computed with less memory than planned equal metrics computed with enough memory."""
    wanted, batch, tangents = _metrics(shape, 4, batch=4)
    planned, halved = _predicted(shape, 4, batch=4), False
    found, smaller, fewer = wanted, batch, tangents
    for share in (2, 4, 8):  # plans include memory for closer checks of certificates, which most runs do not need
        with _little_memory(shape.codes.device, planned // share):
            found, smaller, fewer = _metrics(shape, 4, batch=4)
        halved = smaller * fewer < batch * tangents
        if halved:
            break
    difference = float(((found - wanted).abs() / wanted).max())
    rows.add(
        f"{shape.name}: trace after running out of memory",
        difference if halved else None,
        at_most=0.01,
        note=f"{batch} codes with {tangents} tangents at once became {smaller} with {fewer}"
        + ("" if halved else ": the memory did not run out, so nothing was tried"),
    )


@contextmanager
def _little_memory(device: torch.device, allowed: int) -> Iterator[None]:
    """Limit the process to `allowed` more bytes, without changing the free memory that the plan sees."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.mem_get_info(device)[1]
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(device) + allowed) / total, device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    import resource

    ctypes.CDLL("libc.so.6").malloc_trim(0)
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - a file of the kernel
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + allowed, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
