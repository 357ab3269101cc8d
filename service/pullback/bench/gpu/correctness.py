"""Check the metrics of a GPU: methods, precisions, batch sizes and decompositions against float64."""

import torch
from torch import Tensor

from pullback.bench.gpu.rates import precisions
from pullback.bench.gpu.rows import RowFile
from pullback.bench.gpu.subjects import Subject, subject
from pullback.errors import PullbackError
from pullback.metric import metric_at
from pullback.metric.backprop import backprop_metric
from pullback.metric.precision import arithmetic, in_double
from pullback.spec.metric import METHODS, Precision

_LIMITS: dict[Precision, float] = {"float32": 0.02, "float64": 1e-9, "tf32": 0.1, "bfloat16": 0.2}
"""Goals for ‖H − H64‖ / ‖H64‖. In float32, ReLUs whose input is within round-off of 0 may switch."""
_TOP = 5


def measure(rows: RowFile, device: torch.device, quick: bool) -> None:
    """Compare the metrics of small generators with double backpropagation in float64."""
    names = ["biggan_deep_tiny"] if quick else ["biggan_deep_tiny", "stylegan2_tiny", "fc6_tiny"]
    for name in names:
        small = subject(name, device, points=4)
        exact = _exact(small)
        for precision in (*precisions(device), "float64"):
            for method in METHODS if precision == "float32" else ("gauss_newton", "block_krylov"):
                _compare(rows, small, exact, method, precision)
        _batches(rows, small)
    _decompositions(rows, device, 32 if quick else 256)


def _exact(small: Subject) -> Tensor:
    """Compute H [n, n] of the first code in float64 by the paper's method."""
    generator, distance = in_double(small.generator), in_double(small.distance)
    own = None if small.classes is None else small.classes[:1]
    with arithmetic():
        return backprop_metric(generator, distance, small.codes[0].double(), own).cpu()


def _compare(rows: RowFile, small: Subject, exact: Tensor, method: str, precision: Precision) -> None:
    what = f"{small.name}: {method}, {precision}"
    dense = method in ("gauss_newton", "backprop")
    try:
        found = metric_at(
            small.generator,
            small.distance,
            small.codes[:1],
            condition=small.condition(1),
            method=method,
            precision=precision,
            components=None if dense else _TOP,
        )
    except PullbackError as error:
        rows.add(what, None, note=str(error))
        return
    passed = (
        "certified" if bool(found.certificate.passed.all()) else f"not certified: {found.certificate.failures()[0]}"
    )
    limit = 0.1 if method == "finite_difference" else _LIMITS[precision]
    if dense:
        assert found.matrix is not None
        error_of_h = float((found.matrix[0] - exact).norm() / exact.norm())
        rows.add(what, error_of_h, at_most=limit, note=f"‖H − H64‖ / ‖H64‖; {passed}")
    else:
        wanted = torch.linalg.eigvalsh((exact + exact.T) / 2).flip(0)
        error_of_pairs = float((found.eigenvalues[0].cpu() - wanted[:_TOP]).abs().max() / wanted[0])
        rows.add(what, error_of_pairs, at_most=limit, note=f"largest |λ − λ64| / λ₁; {passed}")


def _batches(rows: RowFile, small: Subject) -> None:
    """Compare the metric of a code computed alone with the same metric computed in a batch."""
    alone, together = (
        metric_at(small.generator, small.distance, small.codes, condition=small.condition(4), batch=batch).matrix
        for batch in (1, 4)
    )
    assert alone is not None
    assert together is not None
    difference = ((alone - together).flatten(1).norm(dim=1) / alone.flatten(1).norm(dim=1)).max()
    rows.add(f"{small.name}: one code alone against four", float(difference), at_most=0.02, note="largest ‖ΔH‖ / ‖H‖")


def _decompositions(rows: RowFile, device: torch.device, n: int) -> None:
    """Check batched `eigh` of low-rank matrices, which has returned wrong vectors without an error on GPUs."""
    stream = torch.Generator().manual_seed(0)
    factors = torch.randn(8, n, n // 8, generator=stream, dtype=torch.float64)
    matrices = factors @ factors.transpose(1, 2)
    for kind, limit in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        batch = matrices.to(device, kind)
        values, vectors = torch.linalg.eigh(batch)
        product = vectors @ torch.diag_embed(values) @ vectors.transpose(1, 2)
        worst = float(((product - batch).flatten(1).norm(dim=1) / batch.flatten(1).norm(dim=1)).max())
        identity = torch.eye(n, device=device, dtype=kind)
        loss = float((vectors.transpose(1, 2) @ vectors - identity).abs().max())
        name = str(kind).removeprefix("torch.")
        rows.add(
            f"batched eigh on the device, rank n/8, {name}",
            max(worst, loss),
            at_most=limit,
            note=f"the larger of ‖VΛVᵀ − H‖ / ‖H‖ and |VᵀV − I|; n = {n}; the engine decomposes on the CPU",
        )
