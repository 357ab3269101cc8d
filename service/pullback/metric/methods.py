"""The methods that compute a metric, their results, and the choice among them.

Two methods compute the whole matrix: `gauss_newton` (H = 2 JᵀJ, for a residual distance) and `backprop` (the paper's
method: a second backward pass per coordinate, for any distance). Three methods find the top k eigenpairs from products
with H: `lanczos` (one vector at a time), `block_krylov` (several at once) and `finite_difference` (products from
differences of gradients).
Elsewhere: the arithmetic (`precision`), the memory (`memory`), and the checks of the result (`certificate`).
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from pullback.distances import Distance, ResidualDistance
from pullback.errors import ArgumentError
from pullback.generators.base import one_row
from pullback.metric.backprop import backprop_metric
from pullback.metric.checks import limits_of
from pullback.metric.gauss_newton import metric_from_jacobian
from pullback.metric.jacobian import Features, Push, can_be_recorded, derivative_at, feature_map, jacobian
from pullback.metric.krylov import KrylovResult, top_eigenpairs
from pullback.metric.precision import tangent_dtype
from pullback.metric.probes import SMALLEST, Looks, compare_columns, look
from pullback.metric.products import (
    Product,
    difference_product,
    double_backward_product,
    gauss_newton_product,
    squared_map,
)
from pullback.metric.replay import replayed
from pullback.metric.reverse import product_by_reverse, push_by_reverse, rows_by_reverse
from pullback.spec import nearest
from pullback.spec.metric import DEFAULTS, ITERATIVE_METHODS, METHODS, Method, Precision, Replay

Route = Literal["forward", "reverse", "rows", "second", "differences"]
"""How derivatives are computed. `forward`: J v in forward mode. `reverse` and `rows`, if there is no forward mode: J v
by two reverse passes, or J row by row. `second`: H v by a second backward pass. `differences`: H v from gradients."""
DENSE: tuple[Method, ...] = tuple(method for method in METHODS if method not in ITERATIVE_METHODS)
"""The methods that compute the whole matrix."""
_PRODUCTS_PER_PAIR = 24
"""Approximate cost of one eigenpair by a Krylov method, in forward passes. If k pairs cost more than n passes,
computing the whole matrix is cheaper."""


@dataclass(frozen=True)
class Setting:
    """How metrics are computed.

    Attributes:
        method: one of `spec.metric.METHODS`.
        route: how derivatives are computed. `differences` belongs to `finite_difference`, and `second` to `backprop`
            and to distances without a residual.
        precision: the arithmetic.
        deterministic: whether to use only algorithms whose results repeat bit by bit.
        tolerance: residuals ‖Hv − λv‖ / λ₁ at which an iterative method stops.
        max_products: largest number of vectors that an iterative method multiplies; None means 2n.
        relative_step: step of `finite_difference`, relative to the norm of the code.
        replay: how the chunks of a Jacobian are pushed on a GPU; see `replay`.
    """

    method: Method
    precision: Precision = DEFAULTS.precision
    deterministic: bool = False
    tolerance: float = DEFAULTS.tolerance
    max_products: int | None = None
    relative_step: float = DEFAULTS.relative_step
    route: Route = "forward"
    replay: Replay = "eager"


def choose(method: str, distance: Distance, latent_dim: int, kept: int, whole: bool) -> Method:
    """The method to use. `auto` depends on the kind of distance, n, k and whether the Jacobian fits into memory.

    Args:
        method: `auto` or one of `spec.metric.METHODS`.
        distance: decides between `gauss_newton` and `backprop`.
        latent_dim: n.
        kept: k, the number of wanted eigenpairs.
        whole: whether a whole Jacobian fits into memory. If not, a matrix costs three times as much.

    Raises:
        ArgumentError: there is no such method, or it does not support this distance.
    """
    residual = isinstance(distance, ResidualDistance)
    if method == "auto":
        if (1 if whole and residual else 3) * latent_dim > _PRODUCTS_PER_PAIR * kept:
            return "block_krylov"
        return "gauss_newton" if residual else "backprop"
    for known in METHODS:
        if method == known:
            if known == "gauss_newton" and not residual:
                raise ArgumentError(
                    "method",
                    f"gauss_newton needs a sum of squares, which {distance.name} is not; use auto, backprop (the whole "
                    "matrix) or block_krylov (the top eigenpairs)",
                )
            return known
    raise ArgumentError(
        "method", f"{method!r} is not one of auto, {', '.join(METHODS)}{nearest(method, ('auto', *METHODS))}"
    )


def by_jacobian(
    generator: nn.Module,
    distance: ResidualDistance,
    z: Tensor,
    condition: Tensor | None,
    setting: Setting,
    batch: int,
    tangents: int,
) -> tuple[Tensor, Looks]:
    """Whole metrics 2 JᵀJ of codes, and the records of the Jacobians that their checks need.

    Args:
        generator: G.
        distance: a sum of squares.
        z: codes [codes, n].
        condition: classes of the codes [codes], if G is class-conditional.
        setting: the arithmetic.
        batch: Jacobians computed at once.
        tangents: columns computed at once.

    Returns:
        H [codes, n, n] float64 on the CPU as computed, and the records of the Jacobians.
    """
    metrics, looks = _by_jacobian(generator, distance, z, condition, setting, batch, tangents, recorded=True)
    limits = limits_of(setting.method, setting.precision)
    doubtful = torch.nonzero(~(looks.column_error <= limits["column_error"])).flatten().tolist()
    if setting.route == "forward" and setting.precision != "bfloat16":
        # A tape rarely misreads a network. If it does, torch's own forward mode may be right.
        for index in doubtful:
            part = slice(index, index + 1)
            own = None if condition is None else condition[part]
            again, seen = _by_jacobian(generator, distance, z[part], own, setting, 1, tangents, recorded=False)
            if bool(looks.column_error[index].isnan()) and can_be_recorded(
                feature_map(generator, distance, own), z[part]
            ):
                # Without reverse mode, compare the tape with torch's own forward mode.
                seen = replace(seen, column_error=_column_difference(metrics[index], again[0])[None])
            if bool(seen.column_error[0] < looks.column_error[index]) or bool(looks.column_error[index].isnan()):
                metrics[index] = again[0]
                looks = Looks.joined([looks[:index], seen, looks[index + 1 :]])
    return metrics, looks


def _column_difference(metric: Tensor, other: Tensor) -> Tensor:
    """max |H − H'|ᵢⱼ / (‖Jᵢ‖ ‖Jⱼ‖) of two metrics [n, n]. Columns count as at least 1/1000 of the largest."""
    sizes = metric.diagonal().clamp_min(0).sqrt()
    sizes = sizes.clamp_min(SMALLEST * float(sizes.amax()))
    difference = (metric - other).abs()
    return torch.where(difference == 0, difference, difference / (sizes[:, None] * sizes)).amax().to("cpu")


def _by_jacobian(
    generator: nn.Module,
    distance: ResidualDistance,
    z: Tensor,
    condition: Tensor | None,
    setting: Setting,
    batch: int,
    tangents: int,
    recorded: bool,
) -> tuple[Tensor, Looks]:
    metrics, looks = [], []
    for start in range(0, len(z), batch):
        codes = z[start : start + batch]
        features = feature_map(generator, distance, None if condition is None else condition[start : start + batch])
        if setting.route == "rows":
            rows = rows_by_reverse(features, codes, tangents)
        else:
            chunks = -(-codes.shape[1] // tangents)
            push = replayed(push_at(features, codes, setting, recorded), setting.replay, chunks)
            rows = jacobian(push, codes, tangents)
        metric = metric_from_jacobian(rows)
        seen = look(rows, metric, codes)
        metrics.append(metric.cpu())
        del rows  # the largest array; the rest does not need it
        looks.append(seen)
    limit = limits_of(setting.method, setting.precision)["column_error"]
    return torch.cat(metrics), _compared(generator, distance, z, condition, Looks.joined(looks), batch, limit)


def _compared(
    generator: nn.Module,
    distance: ResidualDistance,
    z: Tensor,
    condition: Tensor | None,
    looks: Looks,
    batch: int,
    limit: float,
) -> Looks:
    """The records with their `column_error`, by reverse mode for all codes at once.

    Layers round differently if the batch differs from the Jacobian's, so a ReLU whose input is within round-off of 0
    may switch. If the error exceeds the limit, it is computed again in the Jacobian's batches, which round alike.
    """

    def of(part: slice) -> Looks:
        features = feature_map(generator, distance, None if condition is None else condition[part])
        return compare_columns(features, z[part], looks[part])

    parts = [slice(start, start + batch) for start in range(0, len(z), batch)]
    together = of(slice(0, len(z)))
    if len(parts) == 1 or bool((together.column_error <= limit).all()):
        return together
    return Looks.joined([together[p] if bool((together.column_error[p] <= limit).all()) else of(p) for p in parts])


def push_at(features: Features, z: Tensor, setting: Setting, recorded: bool = True) -> Push:
    """The push from tangents [chunk, batch, n] to J v [chunk, batch, m] at codes [batch, n], by the setting's route.

    Args:
        features: the map whose Jacobian is J.
        z: latent codes.
        setting: its route is `forward` or `reverse`.
        recorded: see `derivative_at`.
    """
    if setting.route == "reverse":
        return push_by_reverse(features, z)
    return derivative_at(features, z, tangent_dtype(setting.precision), recorded)


def by_rows(
    generator: nn.Module,
    distance: Distance,
    z: Tensor,
    condition: Tensor | None,
    setting: Setting,
    tangents: int,
) -> Tensor:
    """Whole metrics [codes, n, n] float64 on the CPU, one code at a time, without holding a whole Jacobian.

    They are computed by `backprop`, or by products 2 Jᵀ(J v) with each latent coordinate v. The arguments are those of
    `by_jacobian`.
    """
    classes = [None] * len(z) if condition is None else list(condition)
    if setting.method == "gauss_newton":
        axes = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
        matrices = [
            product_at(generator, distance, code, own, setting, tangents)(axes)
            for code, own in zip(z, classes, strict=True)
        ]
    else:
        matrices = [backprop_metric(generator, distance, code, own) for code, own in zip(z, classes, strict=True)]
    return torch.stack(matrices).to("cpu", torch.float64)


def product_at(
    generator: nn.Module, distance: Distance, z: Tensor, condition: Tensor | None, setting: Setting, tangents: int
) -> Product:
    """The map from vectors [p, n] to H times them at one code z [n] of a class, by the setting's kind of product."""
    own = None if condition is None else one_row(condition)
    if setting.method == "finite_difference":
        squared = squared_map(generator, distance, z, own)
        return difference_product(squared, z, relative_step=setting.relative_step, chunk=tangents)
    if not isinstance(distance, ResidualDistance) or setting.method == "backprop":
        return double_backward_product(squared_map(generator, distance, z, own), z, chunk=tangents)
    features = feature_map(generator, distance, own)
    if setting.route == "reverse":
        return product_by_reverse(features, z, chunk=tangents)
    push = push_at(features, z[None], setting)
    return gauss_newton_product(features, z, chunk=tangents, push=lambda vectors: push(vectors[:, None])[:, 0])


def expected_products(method: Method, latent_dim: int, kept: int) -> int:
    """Expected number of vectors that one metric multiplies (or pushes). Its time is proportional to this number."""
    return latent_dim if method in DENSE else min(2 * latent_dim, _PRODUCTS_PER_PAIR // 3 * kept)


def top(product: Product, z: Tensor, kept: int, setting: Setting, tangents: int) -> KrylovResult:
    """The largest eigenpairs at one code z [n], by an iterative method."""
    block = None if setting.method == "block_krylov" else min(tangents, 8) if setting.method != "lanczos" else 1
    return top_eigenpairs(
        product,
        len(z),
        kept,
        block=block,
        tolerance=setting.tolerance if setting.method != "finite_difference" else max(setting.tolerance, 0.02),
        max_products=setting.max_products,
        dtype=z.dtype,
        device=z.device,
    )
