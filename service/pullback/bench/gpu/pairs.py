"""Time homogeneity on a device: the correlations of all pairs of samples, tile by tile as `pullback analyze` does."""

import numpy as np
import torch

from pullback.bench.gpu.rows import RowFile
from pullback.bench.gpu.timing import seconds


def measure(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Time the correlations on the device, and compare some of them with float64 correlations on the CPU.

    The eigenvectors are in the host's memory, as those of a sweep are, so the time includes copying them to the device.
    """
    from pullback.analysis.correlations import correlations
    from pullback.analysis.pair_kernel import Spectra
    from pullback.analysis.pair_matrix import matrices
    from pullback.analysis.pairs import on_device

    points, n = (24, 32) if quick else (1000, 256)
    values, vectors = random_metrics(points, n)

    def compute(samples: int) -> list[np.ndarray]:
        found = matrices(Spectra(values[:samples]), vectors[:samples], run=on_device(device))
        return [found.log, found.linear, found.vec]

    taken = seconds(lambda: compute(points), device, runs=3, at_most=1.0 if quick else 10.0)
    few = min(points, 48)
    wanted = [
        *correlations(values[:few], vectors[:few].astype(np.float64)),
        _entry_correlations(values[:few], vectors[:few]),
    ]
    error = max(float(np.nanmax(np.abs(a - b))) for a, b in zip(compute(few), wanted, strict=True))
    goal = 2.0 if device.type == "cuda" else None
    rows.add(f"C_log, C_lin and C_vec of {points} points, n = {n}", taken, "s", at_most=goal)
    rows.add("largest error of a correlation", error, at_most=1e-3, note=f"against float64, of {few} points")


def random_metrics(points: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw eigenvalues [points, n] and eigenvectors [points, n, n] of metrics that share some directions."""
    stream = np.random.default_rng(0)
    spectrum = 10.0 ** -np.linspace(0, 4, n)
    values = np.sort(spectrum * 10.0 ** stream.normal(0, 0.1, (points, n)), axis=1)[:, ::-1].copy()
    moved = np.eye(n, dtype=np.float32) + stream.normal(0, 0.3 / n**0.5, (points, n, n)).astype(np.float32)
    vectors = torch.linalg.qr(torch.from_numpy(moved))[0].transpose(1, 2).contiguous().numpy()
    return values, vectors


def _entry_correlations(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """C_vec [points, points] from the matrices themselves, in float64."""
    wide = vectors.astype(np.float64)
    metrics = wide.transpose(0, 2, 1) @ (values[:, :, None] * wide)
    return np.atleast_2d(np.corrcoef(metrics.reshape(len(metrics), -1)))
