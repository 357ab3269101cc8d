"""The measurements of `bench.analysis`, each in a process of its own: `python -m pullback.bench.analysis_child`."""

import hashlib
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pullback.bench.processes import serve

SHARD = 500
"""Samples of a shard of the written sweep."""

PROBE = 4096
"""Samples that are read at once where only reading is timed, as many as the statistics read."""


def loop(folder: str, samples: int) -> dict[str, Any]:
    """Time the paper's loop; seconds of an ordered pair."""
    from pullback.bench.analysis import paper_loop

    values, vectors = _metrics(folder, samples)
    paper_loop(values[:2], vectors[:2])
    taken, _ = _timed(lambda: paper_loop(values, vectors))
    return {name: seconds / samples**2 for name, seconds in taken.items()}


def matrix(folder: str, samples: int, workers: int) -> dict[str, Any]:
    """Time all pairs, by this process alone where `workers` is 1, and measure the error of float32 products."""
    from pullback.analysis.pair_kernel import PairValues, Spectra
    from pullback.analysis.pair_matrix import in_turn, matrices, measured_error
    from pullback.analysis.tile_workers import shared

    values, vectors = _metrics(folder, samples)
    before = _peak()
    identity = f"bench {time.time_ns()}"  # nothing of an earlier run may count
    run: Any = in_turn if workers == 1 else partial(shared, workers=workers, identity=identity)
    taken, found = _timed(lambda: matrices(Spectra(values), vectors, run=run))
    peak, of_workers = _peak(), _peak(resource.RUSAGE_CHILDREN)
    i, j = np.triu_indices(samples, 1)
    few = np.random.default_rng(0).choice(len(i), min(64, len(i)), replace=False)
    i, j = i[few], j[few]
    pairs = PairValues(
        np.stack([found.log[i, j], found.log[j, i]]),
        np.stack([found.linear[i, j], found.linear[j, i]]),
        found.vec[i, j],
    )
    return {
        **taken,
        "mean_log": float(np.nanmean(found.log[~np.eye(samples, dtype=bool)])),
        "mean_linear": float(np.nanmean(found.linear[~np.eye(samples, dtype=bool)])),
        "precision_error": measured_error(values, vectors, np.column_stack([i, j]), pairs),
        "peak_bytes": peak - before,
        "worker_peak_bytes": of_workers if workers > 1 else None,
        "digest": hashlib.sha256(found.log.tobytes() + found.linear.tobytes() + found.vec.tobytes()).hexdigest(),
    }


def sampled(folder: str, samples: int, standard_error: float) -> dict[str, Any]:
    """Time sampled pairs to a standard error."""
    from pullback.analysis.pair_kernel import Spectra
    from pullback.analysis.pair_sampling import compare_sampled, deviations, sampling_error

    values, vectors = _metrics(folder, samples)
    before = _peak()
    taken, (pairs, found) = _timed(
        lambda: compare_sampled(Spectra(values), vectors, seed=0, standard_error=standard_error)
    )
    total = samples * (samples - 1) // 2
    return {
        **taken,
        "pairs": 2 * len(pairs),
        "mean_log": float(np.nanmean(found.log)),
        "mean_linear": float(np.nanmean(found.linear)),
        "standard_error_log": sampling_error(deviations(found.log), total),
        "standard_error_linear": sampling_error(deviations(found.linear), total),
        "peak_bytes": _peak() - before,
    }


def write(folder: str, samples: int, latent_dim: int, kept: int) -> dict[str, Any]:
    """Write a sweep of random eigenpairs, which no compression makes smaller."""
    from pullback.store.creation import create
    from pullback.store.schema import CERTIFICATE, GOOD, Layout, Reason, ShardRecord
    from pullback.store.shard_writing import write_shard

    layout = Layout(samples=samples, latent_dim=latent_dim, components=kept, shard_size=min(SHARD, samples))
    store = create(Path(folder) / "sweep", layout, {"name": "stream", "method": "gauss_newton"})
    generator = np.random.default_rng(0)
    for shard in range(layout.shards):
        many = len(layout.samples_of(shard))
        rows = generator.standard_normal((many, kept, latent_dim), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=2, keepdims=True)
        values = np.sort(10.0 ** -np.linspace(0, 4, kept) * 10 ** generator.normal(0, 0.1, (many, kept)))[
            :, ::-1
        ].copy()
        record = ShardRecord(
            shard=shard,
            latent=generator.standard_normal((many, latent_dim), dtype=np.float32),
            condition=np.full(many, -1, np.int32),
            eigenvalue=values,
            eigenvector=rows,
            metric_sum=np.diag(np.linspace(2, 1, latent_dim)) * values.sum() / latent_dim,
            trace=1.5 * values.sum(axis=1),
            status=np.full(many, GOOD, np.uint8),
            reason=np.full(many, int(Reason.NONE), np.uint8),
            products=np.zeros(many, np.int64),
            seconds=np.ones(many),
            **{name: np.zeros(many) for name in CERTIFICATE},
        )
        store.merge(shard, write_shard(store.fork(), record))
    store.commit("all shards")
    return {"bytes": 4 * samples * kept * latent_dim}


def stream(folder: str, draws: int) -> dict[str, Any]:
    """Time anisotropy and mean metric of the written sweep, and reading its eigenvectors alone."""
    from pullback.analysis.request import choose
    from pullback.analysis.runner import compute_statistics
    from pullback.analysis.samples import Samples
    from pullback.store.reader import open_sweep

    def read() -> None:
        stack = open_sweep(Path(folder) / "sweep").dataset()["eigenvector"]
        for start in range(0, stack.shape[0], PROBE):
            np.asarray(stack[start : start + PROBE])

    def compute(name: str) -> None:
        compute_statistics(Samples.of_sweep(open_sweep(Path(folder) / "sweep")), choose([name], {"draws": draws}))

    read()  # fills the page cache, as for what follows
    reading, _ = _timed(read)
    anisotropy, _ = _timed(lambda: compute("anisotropy"))
    mean_metric, _ = _timed(lambda: compute("mean_metric"))
    return {
        "seconds_reading": reading["seconds"],
        "seconds_anisotropy": anisotropy["seconds"],
        "seconds_mean_metric": mean_metric["seconds"],
        "peak_bytes": _peak(),
    }


def _metrics(folder: str, samples: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.load(Path(folder) / "eigenvalues.npy")[:samples]
    return values, np.load(Path(folder) / "eigenvectors.npy", mmap_mode="r")[:samples]


def _timed(work: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Seconds, and seconds of all processors in this process and in those that it started and that ended."""
    wall, cpu = time.perf_counter(), _cpu()
    found = work()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": max(_cpu() - cpu, 1e-9)}, found


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _peak(who: int = resource.RUSAGE_SELF) -> int:
    return resource.getrusage(who).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    serve({"loop": loop, "matrix": matrix, "sampled": sampled, "write": write, "stream": stream})
