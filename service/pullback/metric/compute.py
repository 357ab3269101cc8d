"""`metric_at`: the metric tensor at latent codes, with its eigen-decomposition and certificate."""

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pullback.distances import Distance, ResidualDistance
from pullback.errors import ArgumentError, PullbackError, is_interrupt
from pullback.generators.attributes import latent_blocks
from pullback.generators.base import class_indices, generate, reference_tensor
from pullback.generators.checks import check_once
from pullback.metric.allocation import is_out_of_memory
from pullback.metric.checks import limits_of
from pullback.metric.contents import one_call
from pullback.metric.exact import Maps
from pullback.metric.memory import Fit, checked_at_once, codes_together
from pullback.metric.methods import DENSE, Setting, by_jacobian, by_rows, product_at, push_at, top
from pullback.metric.precision import arithmetic, as_precise_as, in_double, in_single, require
from pullback.metric.replay import check_replay
from pullback.metric.result import PullbackMetric
from pullback.metric.strategy import Request, Strategy, decide
from pullback.spec.metric import DEFAULTS, Precision, Replay


@torch.inference_mode(False)  # a caller's inference mode forbids derivatives
def metric_at(
    generator: nn.Module,
    distance: Distance,
    z: Any,
    *,
    condition: Any = None,
    components: int | None = None,
    method: str = "auto",
    precision: Precision = DEFAULTS.precision,
    deterministic: bool = False,
    tolerance: float = DEFAULTS.tolerance,
    max_products: int | None = None,
    relative_step: float = DEFAULTS.relative_step,
    batch: int | None = None,
    tangents: int | None = None,
    replay: Replay = "eager",
    strategy: Strategy | None = None,
) -> PullbackMetric:
    """The pull-back metric H(z) = ∂²/∂z² D²(G(z0), G(z)) at z = z0.

    Source: Wang & Ponce, ICLR 2021. The Gauss-Newton form is exact for residual distances.

    Args:
        generator: maps codes to images; from `load_generator`, or any module with a `latent_dim`.
        distance: from `load_distance`.
        z: a latent code [n], or several [batch, n]: a tensor or any array-like. It is moved to the generator's device
            and dtype. A generator and a distance in float64 give a float64 metric.
        condition: for a class-conditional generator: a class name or index, one for each code, or `cycle`.
        components: number of eigenpairs to return, largest first; all by default.
        method: `gauss_newton`, `backprop`, `lanczos`, `block_krylov`, `finite_difference` (see `methods`), or `auto`.
            `auto` chooses by the distance, n, `components`, memory, and the derivatives that exist.
            `PullbackMetric.method` names its choice, and `PullbackMetric.note` gives the reason for a fallback.
        precision: `float32`, `float64`, `tf32` (GPUs) or `bfloat16` (tangents only). The certificate reports the
            measured error.
        deterministic: use only algorithms whose results repeat bit by bit.
        tolerance: iterative methods stop when the residuals ‖Hv − λv‖ / λ₁ are this small.
        max_products: iterative methods multiply at most this many vectors; 2n by default.
        relative_step: step of `finite_difference`, relative to the norm of the code.
        batch: codes computed at once; by default chosen to fit into memory.
        tangents: Jacobian columns computed at once; by default chosen to fit into memory.
        replay: on a GPU, how the chunks of a Jacobian are pushed. `eager` runs one operation after the other, `graph`
            replays a captured CUDA graph, and `auto` takes the faster one if both give the same result.
        strategy: a result of `strategy.decide`, for example from a plan. It replaces method, batch and tangents, and
            nothing is measured. If an allocation fails, smaller batches and chunks follow, but never another method.

    Raises:
        PullbackError: the generator is invalid (see `generators.checks`), z or `components` does not fit the
            generator, z is not finite, or the device does not support the precision.
        MemoryPlanError: even one code with one tangent (or with the fixed `batch` or `tangents`) does not fit into
            memory.
        SpecError: the condition does not fit the generator, or the method does not fit the distance.
    """
    check_once(generator)
    if not isinstance(distance, Distance):
        raise PullbackError(
            f"a distance of `load_distance` is needed, such as load_distance('lpips'), not {distance!r}"
        )
    originals = generator, distance
    generator = in_single(generator)
    distance = as_precise_as(distance, generator)
    codes = torch.as_tensor(z).to(reference_tensor(generator)).clone()
    single = codes.dim() == 1
    codes = codes[None] if single else codes
    n = int(generator.latent_dim)  # type: ignore[arg-type]
    if codes.dim() != 2 or codes.shape[1] != n or len(codes) == 0:
        raise PullbackError(f"latent codes [{n}] or [batch, {n}] are needed, not {list(torch.as_tensor(z).shape)}")
    if not bool(codes.isfinite().all()):
        raise PullbackError("the latent codes have values that are not finite")
    kept = n if components is None else components
    if not 1 <= kept <= n:
        raise PullbackError(f"components must be between 1 and {n}, the size of a code, not {components}")
    require(precision, codes.device)
    check_replay(replay, codes.device)
    classes = class_indices(generator, condition, range(len(codes)))
    blocks = latent_blocks(generator)
    if precision == "float64":
        generator, distance, codes = in_double(generator), in_double(distance), codes.double()
        if generator is not originals[0]:
            _try_in_double(generator, codes[:1], classes)
    with arithmetic(precision, deterministic), one_call():
        copies_of = originals if (generator, distance) != originals else None
        setting = Setting("gauss_newton", precision, deterministic, tolerance, max_products, relative_step)
        if strategy is None:
            request = Request(method, kept, len(codes), setting, batch=batch, tangents=tangents)
            strategy = decide(generator, distance, request, copies_of)
        setting = replace(setting, method=strategy.method, route=strategy.route, replay=replay)
        plan = strategy.fit
        parts: list[PullbackMetric] = []
        start = 0
        while start < len(codes):
            many = (plan.together or codes_together(plan.batch, n)) if setting.method in DENSE else 1
            own = None if classes is None else classes[start : start + many].to(codes.device)
            try:
                compute = _dense if setting.method in DENSE else _top
                parts.append(compute(generator, distance, codes[start : start + many], own, kept, setting, plan))
                start += many
            except Exception as error:
                if isinstance(error, PullbackError) or not is_out_of_memory(error):
                    raise
                smaller = plan.halved(error)
            else:
                continue
            # Outside the `except` block: its traceback keeps alive the tensors that filled the memory.
            plan = smaller
            if codes.device.type == "cuda":
                torch.cuda.empty_cache()
    joined = replace(
        PullbackMetric.concatenate(parts),
        blocks=blocks,
        batch=plan.batch,
        tangents=plan.tangents,
        whole=plan.whole,
        route=strategy.route,
        note=strategy.note,
    )
    return joined[0] if single else joined


def _try_in_double(generator: nn.Module, code: Tensor, classes: Tensor | None) -> None:
    """Run a float64 copy of a generator once.

    Raises:
        PullbackError: the copy does not run in float64.
    """
    own = None if classes is None else classes[:1].to(code.device)
    try:
        with torch.no_grad():
            generate(generator, code, own)
    except (RuntimeError, TypeError, AssertionError) as error:
        if is_interrupt(error) or is_out_of_memory(error):
            raise
        raise ArgumentError(
            "precision",
            f"float64 computes with a copy of {type(generator).__name__} in float64, which does not run "
            f"({type(error).__name__}: {error}). Nothing was computed; use float32. A generator runs in float64 if it "
            "casts nothing to another dtype, and if its functions take weights from `self` only",
        ) from error


def _dense(
    generator: nn.Module,
    distance: Distance,
    z: Tensor,
    condition: Tensor | None,
    kept: int,
    setting: Setting,
    plan: Fit,
) -> PullbackMetric:
    """The metrics of a batch of codes by a method that computes the whole matrix."""
    began = time.perf_counter()
    whole = setting.method == "gauss_newton" and plan.whole
    looks = None
    if whole:
        assert isinstance(distance, ResidualDistance)
        raw, looks = by_jacobian(generator, distance, z, condition, setting, plan.batch, plan.tangents)
    else:
        raw = by_rows(generator, distance, z, condition, setting, plan.tangents)
    metric = PullbackMetric.of_matrix(
        raw,
        kept,
        limits_of(setting.method, setting.precision, latent_dim=z.shape[1], whole=whole),
        seconds=torch.zeros(len(z), dtype=torch.float64),
        method=setting.method,
        z=z,
        looks=looks,
        push_at=lambda features, code, recorded: push_at(features, code, setting, recorded),
        maps=Maps(generator, distance, z, condition),  # per batch: float64 copies take memory that a Jacobian needs
        at_once=checked_at_once(plan.tangents),
    )
    return _timed(metric, began)


def _top(
    generator: nn.Module,
    distance: Distance,
    z: Tensor,
    condition: Tensor | None,
    kept: int,
    setting: Setting,
    plan: Fit,
) -> PullbackMetric:
    """The metric of one code [1, n] by a method that finds the largest eigenpairs."""
    began = time.perf_counter()
    product = product_at(generator, distance, z[0], condition, setting, plan.tangents)
    found = top(product, z[0], kept, setting, plan.tangents)
    limits = limits_of(setting.method, setting.precision, latent_dim=z.shape[1])
    maps = Maps(generator, distance, z, condition)
    metric = PullbackMetric.of_pairs(
        found, z, product, limits, maps, method=setting.method, at_once=checked_at_once(plan.tangents)
    )
    return _timed(metric, began)


def _timed(metric: PullbackMetric, began: float) -> PullbackMetric:
    """The metric with `seconds` set: the time elapsed since `began`, shared equally among the codes."""
    many = len(metric.seconds)
    return replace(metric, seconds=torch.full_like(metric.seconds, (time.perf_counter() - began) / many))
