"""Measure the statistics: homogeneity against the paper's loop, processes against one, and streaming of a large sweep.

The baseline is the paper's loop over ordered pairs, written plainly (`paper_loop`). It is measured on some samples,
before and after ours, and extrapolated to all pairs. Each measurement has a process of its own, because BLAS fixes its
threads when it starts, and memory depends on what ran before.
"""

import os
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from pullback.analysis.tile_workers import ONE_THREAD
from pullback.bench.processes import Child
from pullback.spec.options import Options

CHILD = "pullback.bench.analysis_child"


class AnalysisBench(Options):
    """What `pullback bench analysis` measures."""

    samples: int = Field(default=1000, ge=4)
    """Samples whose homogeneity is computed."""
    latent_dim: int = Field(default=256, ge=4)
    """n; all n eigenpairs of each metric are compared."""
    part: int = Field(default=40, ge=2)
    """Samples whose ordered pairs the baseline computes; the rest is extrapolated."""
    workers: int = Field(default=2, ge=1)
    """Processes that share the full matrix."""
    shared_samples: int = Field(default=300, ge=4)
    """Samples whose matrix is computed by one and by several processes, to compare them."""
    standard_error: float = Field(default=0.001, gt=0)
    """Standard error of the means at which sampling of pairs ends."""
    stream_samples: int = Field(default=100_000, ge=10)
    """Samples of the sweep that is streamed."""
    stream_dim: int = Field(default=128, ge=4)
    """n of that sweep."""
    stream_kept: int = Field(default=16, ge=2)
    """k of that sweep: 16 of 128 take 0.8 GB on the disk."""
    draws: int = Field(default=1000, ge=2)
    """Bootstrap draws of the streamed statistics."""


QUICK = AnalysisBench(
    samples=24,
    latent_dim=16,
    part=6,
    shared_samples=12,
    standard_error=0.05,
    stream_samples=60,
    stream_dim=8,
    stream_kept=3,
    draws=20,
)
"""Small sizes, at which everything runs and the times mean nothing."""


def bench_analysis(settings: AnalysisBench, say: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Run every measurement, and return seconds, ratios, errors and peak memory, ready for JSON.

    Args:
        settings: the sizes.
        say: called with a status message before each measurement.

    Raises:
        ChildError: a measurement failed.
    """
    with tempfile.TemporaryDirectory(prefix="pullback-bench-") as name:
        folder = Path(name)
        say(f"drawing {settings.samples} metrics, n = {settings.latent_dim}")
        _draw(folder, settings)
        say(f"the paper's loop over {settings.part} samples")
        loops = [_ask("loop", folder, samples=settings.part)]
        say(f"all pairs of {settings.samples} samples, {settings.workers} processes")
        full = _ask("matrix", folder, samples=settings.samples, workers=settings.workers)
        loops.append(_ask("loop", folder, samples=settings.part))
        say(f"sampled pairs, to a standard error of {settings.standard_error:g}")
        sampled = _ask("sampled", folder, samples=settings.samples, standard_error=settings.standard_error)
        loops.append(_ask("loop", folder, samples=settings.part))
        few = min(settings.shared_samples, settings.samples)
        say(f"all pairs of {few} samples, by one process of one thread and by {settings.workers}")
        one = _ask("matrix", folder, threads=1, samples=few, workers=1)
        several = _ask("matrix", folder, samples=few, workers=settings.workers)
        say(f"writing a sweep of {settings.stream_samples} samples")
        sizes = {"latent_dim": settings.stream_dim, "kept": settings.stream_kept}
        written = _ask("write", folder, samples=settings.stream_samples, **sizes)
        say("streaming anisotropy and mean metric")
        stream = _ask("stream", folder, draws=settings.draws)
    pairs = settings.samples**2
    loop = {name: _mean([each[name] for each in loops]) * pairs for name in ("seconds", "cpu_seconds")}
    result = {
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": {"numpy": version("numpy"), "pullback": version("pullback")},
        "cores": os.cpu_count(),
        "settings": settings.model_dump(),
        "baseline": {
            "what": "the paper's loop over ordered pairs, float32, with all threads of BLAS",
            "measured_pairs": settings.part**2,
            "extrapolated": f"from {settings.part**2} to {pairs} ordered pairs, mean of three measurements",
            **loop,
        },
        "full": {**full, **_ratios(loop, full)},
        "sampled": {**sampled, **_ratios(loop, sampled)},
        "shared": {
            "samples": few,
            "workers": settings.workers,
            "seconds_one": one["seconds"],
            "seconds": several["seconds"],
            "times_faster": one["seconds"] / several["seconds"],
            "same_bits": one["digest"] == several["digest"],
        },
        "stream": {**stream, "bytes": written["bytes"], "samples": settings.stream_samples, **sizes},
    }
    return {**result, "goals": goals(result)}


def goals(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each goal with the measured value and whether it is reached.

    The goals are those of the default sizes with two processes; small sizes reach none of them.
    """
    shared, stream = result["shared"], result["stream"]
    measured: list[tuple[str, float, float, bool]] = [
        ("all pairs, times the loop", 3.5, result["full"]["times_faster"], True),
        ("sampled pairs, times the loop", 20.0, result["sampled"]["times_faster"], True),
        ("streaming, GiB of memory", 2.0, stream["peak_bytes"] / 2**30, False),
    ]
    if shared["workers"] == 2:
        measured.insert(2, ("two processes, times one", 1.8, shared["times_faster"], True))
    return [
        {"what": what, "goal": goal, "measured": value, "reached": value >= goal if larger else value <= goal}
        for what, goal, value, larger in measured
    ]


def paper_loop(eigenvalues: np.ndarray, eigenvectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute C_log and C_lin pair by pair, as the paper's code does (Wang & Ponce, ICLR 2021).

    Args:
        eigenvalues: `[samples, n]`, positive.
        eigenvectors: `[samples, n, n]`, unit rows.

    Returns:
        C_log and C_lin, `[samples, samples]` each.
    """
    samples = len(eigenvalues)
    metrics = [
        (rows.T * values.astype(rows.dtype)) @ rows for values, rows in zip(eigenvalues, eigenvectors, strict=True)
    ]
    log, linear = np.empty((2, samples, samples))
    for i in range(samples):
        for j in range(samples):
            rates = np.diag(eigenvectors[i] @ metrics[j] @ eigenvectors[i].T)
            known = (rates > 0) & (eigenvalues[j] > 0)
            log[i, j] = np.corrcoef(np.log10(rates[known]), np.log10(eigenvalues[j][known]))[0, 1]
            linear[i, j] = np.corrcoef(rates, eigenvalues[j])[0, 1]
    return log, linear


def _draw(folder: Path, settings: AnalysisBench) -> None:
    from pullback.bench.gpu.pairs import random_metrics

    values, vectors = random_metrics(settings.samples, settings.latent_dim)
    np.save(folder / "eigenvalues.npy", values)
    np.save(folder / "eigenvectors.npy", vectors)


def _ask(request: str, folder: Path, threads: int | None = None, **arguments: Any) -> dict[str, Any]:
    child = Child(CHILD, ONE_THREAD if threads == 1 else None)
    try:
        return child.ask(request, folder=str(folder), **arguments)
    finally:
        child.end()


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _ratios(loop: dict[str, float], ours: dict[str, Any]) -> dict[str, float]:
    return {
        "times_faster": loop["seconds"] / ours["seconds"],
        "times_less_cpu": loop["cpu_seconds"] / ours["cpu_seconds"],
    }
