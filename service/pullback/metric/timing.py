"""The expected time of a metric, measured on this machine.

Small metrics are timed as a whole, with their certificates, after a warm-up. Large ones are estimated from parts.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pullback.distances import Distance, ResidualDistance
from pullback.generators.base import any_condition, reference_tensor
from pullback.metric.check_timing import synchronize
from pullback.metric.jacobian import Features, feature_map, pull_back
from pullback.metric.methods import DENSE, Setting, expected_products, product_at, push_at
from pullback.metric.precision import arithmetic, in_double
from pullback.metric.strategy import Strategy

_WHOLE_SECONDS = 2.0
"""Dense metrics that are expected to take longer than this are estimated from parts."""
_TIMED_SECONDS = 0.5
"""Metrics are computed until this much time has been measured."""
_WHOLE_ITERATIVE_SECONDS = 10.0
"""As `_WHOLE_SECONDS`, for an iterative method. Its parts show neither how fast it converges nor the time of its
certificate. For dcgan-faces with LPIPS, the estimate from parts was an eighth of the true time."""
_PROBING_PRODUCTS = 20
"""Products that the certificate of an iterative method needs, in addition to one per eigenpair."""


def seconds_per_code(
    generator: nn.Module,
    distance: Distance,
    strategy: Strategy,
    setting: Setting,
    kept: int,
    together: int,
    compute: Callable[[], Any],
    threads: int | None = None,
) -> float:
    """Seconds per code, including its certificate.

    Args:
        generator: G, on the device that computes.
        distance: the distance, on the same device.
        strategy: how metrics are computed.
        setting: the arithmetic.
        kept: number of eigenpairs of each metric.
        together: number of codes in one call of `compute`.
        compute: computes the metrics of that many codes.
        threads: CPU threads to use for the timing; by default the current number.
    """
    device = reference_tensor(generator).device
    with _threads(threads, device):
        seconds = _by_pieces(generator, distance, strategy, setting, kept)
        if seconds * together >= (_WHOLE_SECONDS if setting.method in DENSE else _WHOLE_ITERATIVE_SECONDS):
            return seconds
        first = _seconds(compute, device)
        if first >= _WHOLE_SECONDS:  # so long that its warm-up does not matter
            return first / together
        durations: list[float] = []
        while not durations or sum(durations) < _TIMED_SECONDS:
            durations.append(_seconds(compute, device))
        return sum(durations) / len(durations) / together


def _by_pieces(generator: nn.Module, distance: Distance, strategy: Strategy, setting: Setting, kept: int) -> float:
    """Seconds per code, estimated from the times of a few vectors, a certificate and a decomposition."""
    if setting.precision == "float64":
        generator, distance = in_double(generator), in_double(distance)
    device, n = reference_tensor(generator).device, int(generator.latent_dim)  # type: ignore[arg-type]
    method, fit = strategy.method, strategy.fit
    batch = fit.batch if fit.whole else 1
    condition = any_condition(generator, batch, device)
    few = min(fit.tangents, n) if method != "backprop" else 1
    drawn = torch.randn(batch + few, n, generator=torch.Generator().manual_seed(0)).to(reference_tensor(generator))
    z, directions = drawn[:batch], drawn[batch:]
    setup = certificate = 0.0
    products = expected_products(method, n, kept)
    with arithmetic(setting.precision):
        if isinstance(distance, ResidualDistance):
            features = feature_map(generator, distance, condition)
            with torch.no_grad():
                residual = features(z)
            certificate = _seconds(lambda: (_pulled(features, z, residual), features(z.repeat(2, 1))), device) / batch
        if fit.whole and strategy.route == "rows":
            return certificate * (1 + residual.shape[1]) + _eigen_seconds(n)
        if fit.whole:
            push_at(features, z, setting)(directions[:, None].expand(-1, batch, -1))  # warm-up
            push = push_at(features, z, setting)
            setup = _seconds(lambda: push_at(features, z, setting), device) / batch
            work = _seconds(lambda: push(directions[:, None].expand(-1, batch, -1)), device)
            rows = torch.zeros(1, n, min(2048, residual.shape[1]), dtype=torch.float64, device=device)
            gram = _seconds(lambda: torch.bmm(rows, rows.transpose(1, 2)), device)
            setup += gram * residual.shape[1] / rows.shape[2]
        else:
            product = product_at(generator, distance, z[0], None if condition is None else condition[:1], setting, few)
            product(directions)
            work = _seconds(lambda: product(directions), device)
            products += 0 if method in DENSE else kept + _PROBING_PRODUCTS
    eigen = _eigen_seconds(n) if method in DENSE else 0.0
    return setup + work * products / few / batch + certificate + eigen


def _pulled(features: Features, z: Tensor, residual: Tensor) -> Any:
    try:
        return pull_back(features, z, residual)
    except (NotImplementedError, RuntimeError):  # no reverse mode: the certificate does not use it
        return None


def _eigen_seconds(n: int) -> float:
    """Seconds for the eigen-decomposition of one metric, scaled as n³ from a smaller one."""
    tried = min(n, 256)
    drawn = torch.randn(tried, tried, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = drawn + drawn.T
    torch.linalg.eigh(matrix)
    return _seconds(lambda: torch.linalg.eigh(matrix), torch.device("cpu")) * (n / tried) ** 3


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - began


@contextmanager
def _threads(threads: int | None, device: torch.device) -> Iterator[None]:
    """Use the given number of CPU threads in torch within the context."""
    before = torch.get_num_threads()
    if device.type == "cpu" and threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
