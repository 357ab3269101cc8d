"""What this machine tells of itself: the names of its processors, and how much memory a piece of work takes.

Leaves to others which work (`child`).
"""

import gc
import platform
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import torch

SAMPLED = 0.002
"""Seconds between two looks at a process's memory where its peak is not recorded."""


def peak_memory(work: Callable[[], object], device: torch.device) -> int:
    """The most memory that a piece of work takes beyond what is held before, in bytes.

    On a CPU that of the process: true where the C library gives back what is freed (`bench.metric.GIVES_BACK`).
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
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew (proc(5))
        before = _resident("VmRSS")
    except OSError:
        return sampled_peak(work)
    work()
    return max(0, _resident("VmHWM") - before)


def sampled_peak(work: Callable[[], object]) -> int:
    """As `peak_memory` on a CPU, where the system does not record it: seen by looking often, so rather too little."""
    process, done = psutil.Process(), threading.Event()
    before = highest = int(process.memory_info().rss)

    def watch() -> None:
        nonlocal highest
        while not done.wait(SAMPLED):
            highest = max(highest, int(process.memory_info().rss))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        work()
    finally:
        done.set()
        watching.join()
    return highest - before


def device_name(device: torch.device) -> str:
    """The model of a GPU, or of this machine's CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _resident(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
