"""Compare the top 20 eigenpairs of a metric (n = 4096) with scipy's ARPACK on products by a second backward pass."""

import torch

from pullback.bench.baselines import arpack_pairs
from pullback.bench.gpu.rows import RowFile
from pullback.bench.gpu.subjects import subject
from pullback.bench.gpu.timing import seconds
from pullback.metric import metric_at
from pullback.metric.precision import arithmetic
from pullback.metric.products import squared_map


def measure(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Time Pullback and ARPACK, and compare their eigenvalues."""
    shape = subject("fc6_tiny" if quick else "fc6", device, points=1)
    count = 5 if quick else 20
    values: dict[str, torch.Tensor] = {}

    def ours() -> None:
        found = metric_at(shape.generator, shape.distance, shape.codes[0], components=count, method="block_krylov")
        values["ours"] = found.eigenvalues
        values["products"] = found.products

    def arpack() -> None:
        with arithmetic():
            squared = squared_map(shape.generator, shape.distance, shape.codes[0])
            values["arpack"], _ = arpack_pairs(squared, shape.codes[0], count)

    longest = 1.0 if quick else 12.0
    taken = seconds(ours, device, runs=3, at_most=longest)
    theirs = seconds(arpack, device, runs=2, at_most=longest)
    difference = float((values["ours"] - values["arpack"]).abs().max() / values["arpack"][0])
    name = f"{shape.name}, top {count} of {shape.latent_dim}"
    goal = 5.0 if device.type == "cuda" else None
    rows.add(f"{name}: block_krylov", taken, "s", note=f"{int(values['products'])} products, certificate included")
    rows.add(f"{name}: times ARPACK", theirs / taken, at_least=goal, note=f"ARPACK {theirs:.3g} s")
    rows.add(f"{name}: largest |Δλ| / λ₁", difference, at_most=1e-3)
