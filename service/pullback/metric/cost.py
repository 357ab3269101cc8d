"""`estimate`: decide how to compute metrics, and measure the memory and time they take before computing them."""

from dataclasses import dataclass

import torch
from torch import nn

from pullback.distances import Distance
from pullback.generators.base import any_condition, reference_tensor
from pullback.metric.allocation import usable_bytes
from pullback.metric.compute import metric_at
from pullback.metric.memory import codes_together
from pullback.metric.methods import DENSE, Setting
from pullback.metric.precision import as_precise_as, in_double, in_single, require
from pullback.metric.strategy import Request, Strategy, decide
from pullback.metric.timing import seconds_per_code
from pullback.spec.metric import DEFAULTS, Precision


@dataclass(frozen=True)
class Estimate:
    """How to compute metrics, and the memory and time this takes.

    Attributes:
        strategy: argument for `metric_at(strategy=...)`: method, route, batch and tangents.
        together: number of codes to pass to one call of `metric_at`.
        bytes: peak memory beyond the weights.
        available: bytes that the plan may use.
        seconds_per_code: time of one code including its certificate; None if it was not measured.
    """

    strategy: Strategy
    together: int
    bytes: int
    available: int
    seconds_per_code: float | None = None


def estimate(
    generator: nn.Module,
    distance: Distance,
    *,
    codes: int = 1,
    components: int | None = None,
    method: str = "auto",
    precision: Precision = DEFAULTS.precision,
    deterministic: bool = False,
    tolerance: float = DEFAULTS.tolerance,
    max_products: int | None = None,
    relative_step: float = DEFAULTS.relative_step,
    batch: int | None = None,
    tangents: int | None = None,
    budget: int | None = None,
    shared_by: int = 1,
    held: int = 0,
    timed: bool = False,
    threads: int | None = None,
    scale: float = 1.0,
) -> Estimate:
    """Decide how to compute metrics, and measure the memory and time this takes on this machine.

    Args:
        generator: as for `metric_at`.
        distance: as for `metric_at`.
        codes: number of codes, and the upper bound of a batch.
        components: eigenpairs of each metric; all by default.
        method: as for `metric_at`; so are `precision`, `deterministic`, `tolerance`, `max_products`, `relative_step`,
            `batch` and `tangents`.
        budget: bytes that may be used; by default an equal share of most of the free memory.
        shared_by: number of processes like this one that share the free memory.
        held: bytes that the caller needs in addition, for example for results.
        timed: also measure the time, by computing metrics of random codes or parts of such metrics.
        threads: CPU threads to use for the timing.
        scale: standard deviation of the random codes.

    Raises:
        ArgumentError: an argument does not fit these networks or this device.
        MemoryPlanError: even the smallest batch and chunk, or the fixed ones, do not fit into memory.
        PullbackError: no method can differentiate these networks.
    """
    device = reference_tensor(generator).device
    require(precision, device)
    n = int(generator.latent_dim)  # type: ignore[arg-type]
    kept = n if components is None else components
    computing = in_single(generator)
    compared = as_precise_as(distance, computing)
    originals = (generator, distance)
    if precision == "float64":
        computing, compared = in_double(computing), in_double(compared)
        held += sum(p.numel() * 8 for part in (computing, compared) for p in part.parameters())
    setting = Setting("gauss_newton", precision, deterministic, tolerance, max_products, relative_step)
    available = usable_bytes(device) // shared_by if budget is None else budget
    request = Request(method, kept, codes, setting, available, batch, tangents, held)
    copies_of = originals if (computing, compared) != originals else None
    strategy = decide(computing, compared, request, copies_of)
    fit = strategy.fit
    together = min(codes_together(fit.batch, n), codes) if strategy.method in DENSE else 1
    seconds = None
    if timed:
        drawn, classes = torch.Generator().manual_seed(0), any_condition(generator, together, device)

        def compute() -> None:
            metric_at(
                generator,
                distance,
                torch.randn(together, n, generator=drawn) * scale,
                condition=None if classes is None else classes.tolist(),
                components=kept,
                precision=precision,
                deterministic=deterministic,
                tolerance=tolerance,
                max_products=max_products,
                relative_step=relative_step,
                strategy=strategy,
            )

        setting = Setting(strategy.method, precision, route=strategy.route)
        seconds = seconds_per_code(computing, compared, strategy, setting, kept, together, compute, threads)
    return Estimate(strategy, together, fit.bytes, fit.available, seconds)
