"""Measure the limits of a device: its rate of matrix products, its bandwidth, and the cost of a kernel launch."""

import torch

from pullback.bench.gpu.rows import RowFile
from pullback.bench.gpu.timing import seconds
from pullback.metric.precision import arithmetic
from pullback.spec.metric import Precision


def matrix_rate(device: torch.device, precision: Precision, size: int) -> float:
    """Return the floating-point operations per second of a product of two random square matrices.

    Args:
        device: a torch device.
        precision: `float32` (IEEE), `tf32`, `bfloat16` or `float64`.
        size: number of rows of the matrices.
    """
    kind = {"bfloat16": torch.bfloat16, "float64": torch.float64}.get(precision, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=torch.float32).to(kind) for _ in range(2))
    out = torch.empty_like(a)
    with arithmetic("tf32" if precision == "tf32" else "float32"):
        return 2 * size**3 / seconds(lambda: torch.matmul(a, b, out=out), device, runs=10, warm=3, at_most=3)


def bandwidth(device: torch.device, numbers: int) -> float:
    """Return the bytes per second that a copy reads and writes."""
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    return 8 * numbers / seconds(lambda: target.copy_(source), device, runs=10, warm=2, at_most=3)


def measure(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Measure all limits."""
    size = 256 if quick else 8192
    for precision in precisions(device):
        rows.add(
            f"matrix products, {precision}", matrix_rate(device, precision, size) / 1e12, "TFLOP/s", note=f"{size}²"
        )
    rows.add("matrix products, float64", matrix_rate(device, "float64", size // 2) / 1e12, "TFLOP/s")
    numbers = 2**20 if quick else 2**29
    rows.add("bandwidth", bandwidth(device, numbers) / 1e9, "GB/s", note=f"a copy of {4 * numbers / 1e9:.2g} GB")
    tiny = torch.zeros(8, device=device)

    def launches() -> None:
        for _ in range(1000):
            tiny.add_(1)

    rows.add("one small operation", seconds(launches, device, at_most=2) * 1e3, "µs", note="1,000 in a row")


def precisions(device: torch.device) -> tuple[Precision, ...]:
    """Return the precisions that a device supports, except float64."""
    return ("float32", "tf32", "bfloat16") if device.type == "cuda" else ("float32", "bfloat16")
