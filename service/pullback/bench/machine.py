"""Measure the machine: names of processors, and peak memory of a piece of work."""

import gc
import platform
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch

SAMPLED = 0.002
"""Seconds between two samples of a process's memory, on systems that do not record its peak."""


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """Return the peak memory of a piece of work in bytes, beyond the memory allocated before.

    On a CPU this is the memory of the process. It is accurate only if the C library returns freed memory to the system
    (`bench.metric.RETURN_FREED_MEMORY`).
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the recorded peak (proc(5))
        before = _resident("VmRSS")
    except OSError:
        return sampled_peak(work)
    work()
    return max(0, _resident("VmHWM") - before)


def sampled_peak(work: Callable[[], object]) -> int:
    """Estimate `peak_memory` on a CPU whose system records no peak: a lower bound from frequent samples."""
    process, done = psutil.Process(), threading.Event()
    before = highest = int(process.memory_info().rss)

    def sample() -> None:
        nonlocal highest
        while not done.wait(SAMPLED):
            highest = max(highest, int(process.memory_info().rss))

    sampling = threading.Thread(target=sample)
    sampling.start()
    try:
        work()
    finally:
        done.set()
        sampling.join()
    return highest - before


def device_name(device: torch.device) -> str:
    """Return the model of a GPU, or of this machine's CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _resident(key: str) -> int:
    """Return a size from /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
