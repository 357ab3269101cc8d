"""Timing on a GPU or a CPU: the median of several synchronised runs after a warm-up."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch

from pullback.metric.check_timing import synchronize


def seconds(
    work: Callable[[], Any], device: torch.device, *, runs: int = 5, warm: int = 1, at_most: float = 10.0
) -> float:
    """Return the median time of a piece of work.

    Args:
        work: the function to time.
        device: the device that it uses.
        runs: number of timed runs.
        warm: number of untimed runs before.
        at_most: seconds of timed runs after which no further run starts.
    """
    for _ in range(warm):
        work()
    taken: list[float] = []
    while len(taken) < runs and sum(taken) < at_most:
        synchronize(device)
        began = time.perf_counter()
        work()
        synchronize(device)
        taken.append(time.perf_counter() - began)
    return median(taken)


@contextmanager
def torch_defaults() -> Iterator[None]:
    """Use the arithmetic of a plain script on a GPU: TF32 in cuDNN's convolutions, float32 in matrix products."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
