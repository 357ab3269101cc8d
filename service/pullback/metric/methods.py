"""The ways to a metric, what each of them makes, and which one suits a task.

Two make the whole matrix: `gauss_newton` (H = 2 JᵀJ, of a residual distance) and `backprop` (a second backward pass a
coordinate, the paper's, of any distance). Three find the top k eigenpairs from products with H: `lanczos` (one
vector at a time), `block_krylov` (several at once) and `finite_difference` (from differences of gradients).
Leaves to others: the arithmetic around them (`precision`), their memory (`memory`), and checks of the result
(`certificate`).
"""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from pullback.distances import Distance, ResidualDistance
from pullback.errors import SpecError
from pullback.metric.backprop import backprop_metric
from pullback.metric.gauss_newton import metric_from_jacobian
from pullback.metric.jacobian import derivative_at, feature_map, jacobian
from pullback.metric.krylov import KrylovResult, top_eigenpairs
from pullback.metric.precision import Precision, tangent_dtype
from pullback.metric.probes import Looks, look, probe_jacobian
from pullback.metric.products import (
    Product,
    difference_product,
    double_backward_product,
    gauss_newton_product,
    squared_map,
)
from pullback.spec import nearest

Method = Literal["gauss_newton", "backprop", "lanczos", "block_krylov", "finite_difference"]
METHODS: tuple[Method, ...] = get_args(Method)
DENSE: tuple[Method, ...] = ("gauss_newton", "backprop")
"""Those that make the whole matrix."""
_PRODUCTS_PER_PAIR = 24
"""Forward passes that an eigenpair costs a Krylov method, about: where k of them cost more than n, the whole matrix
is the cheaper way to them."""


@dataclass(frozen=True)
class Setting:
    """How metrics are computed.

    Attributes:
        method: one of `METHODS`.
        precision: the arithmetic.
        deterministic: only algorithms that repeat themselves.
        tolerance: of the residuals ‖Hv − λv‖ / λ₁ of an iterative method.
        max_products: vectors that an iterative method may multiply at most; None is twice n.
        relative_step: of `finite_difference`, relative to the norm of the code.
    """

    method: Method
    precision: Precision = "float32"
    deterministic: bool = False
    tolerance: float = 1e-6
    max_products: int | None = None
    relative_step: float = 1e-3


def choose(method: str, distance: Distance, latent_dim: int, kept: int, whole: bool) -> Method:
    """The method to use, `auto` resolved by the kind of the distance, n, k and whether the Jacobian fits into memory.

    Args:
        method: `auto` or one of `METHODS`.
        distance: decides between `gauss_newton` and `backprop`.
        latent_dim: n.
        kept: k, the eigenpairs that are wanted.
        whole: whether a whole Jacobian fits into memory; without it a matrix costs three times as much.

    Raises:
        SpecError: there is no such method, or it cannot do with this distance.
    """
    residual = isinstance(distance, ResidualDistance)
    if method == "auto":
        if (1 if whole and residual else 3) * latent_dim > _PRODUCTS_PER_PAIR * kept:
            return "block_krylov"
        return "gauss_newton" if residual else "backprop"
    for known in METHODS:
        if method == known:
            if known == "gauss_newton" and not residual:
                raise SpecError(
                    [
                        f"metric.method: gauss_newton needs a sum of squares, which {distance.name} is not; "
                        "use auto, backprop (the whole matrix) or block_krylov (the top eigenpairs)"
                    ]
                )
            return known
    raise SpecError(
        [f"metric.method: {method!r} is not one of auto, {', '.join(METHODS)}{nearest(method, ('auto', *METHODS))}"]
    )


def by_jacobian(
    generator: nn.Module,
    distance: ResidualDistance,
    z: Tensor,
    condition: Tensor | None,
    setting: Setting,
    batch: int,
    tangents: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Whole metrics 2 JᵀJ of codes, and what was checked on the way.

    Args:
        generator: G.
        distance: a sum of squares.
        z: codes [codes, n].
        condition: their classes [codes], where G has classes.
        setting: the arithmetic.
        batch: Jacobians at once. The probes are made of all codes together: they cost less so.
        tangents: columns at once.

    Returns:
        H [codes, n, n] float64 on the CPU as computed, and checks of the certificate [codes].
    """
    metrics, checks = _by_jacobian(generator, distance, z, condition, setting, batch, tangents, recorded=True)
    if bool((checks["column_error"] > _DOUBT).any()) and setting.precision != "bfloat16":
        # a network that a tape misreads is rare, and torch's own forward mode may read it right
        return _by_jacobian(generator, distance, z, condition, setting, batch, tangents, recorded=False)
    return metrics, checks


_DOUBT = 1e-4
"""A column error that round-off does not explain."""


def _by_jacobian(
    generator: nn.Module,
    distance: ResidualDistance,
    z: Tensor,
    condition: Tensor | None,
    setting: Setting,
    batch: int,
    tangents: int,
    recorded: bool,
) -> tuple[Tensor, dict[str, Tensor]]:
    metrics, looks = [], []
    for start in range(0, len(z), batch):
        codes = z[start : start + batch]
        features = feature_map(generator, distance, None if condition is None else condition[start : start + batch])
        rows = jacobian(derivative_at(features, codes, tangent_dtype(setting.precision), recorded), codes, tangents)
        metric = metric_from_jacobian(rows)
        looks.append(look(rows, metric))
        metrics.append(metric.cpu())
        del rows  # the largest array of all; nothing that follows needs it
    return torch.cat(metrics), probe_jacobian(feature_map(generator, distance, condition), z, Looks.joined(looks))


def by_rows(
    generator: nn.Module,
    distance: Distance,
    z: Tensor,
    condition: Tensor | None,
    setting: Setting,
    tangents: int,
) -> Tensor:
    """Whole metrics [codes, n, n] float64 on the CPU without a whole Jacobian, code by code.

    By `backprop`, or by products 2 Jᵀ(J v) with each latent coordinate v. The arguments are those of `by_jacobian`.
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
    """Vectors [p, n] to H times them [p, n] at one code z [n] of a class, by the products that the setting needs."""
    own = None if condition is None else condition.reshape(1)
    if setting.method == "finite_difference":
        squared = squared_map(generator, distance, z, own)
        return difference_product(squared, z, relative_step=setting.relative_step, chunk=tangents)
    if not isinstance(distance, ResidualDistance) or setting.method == "backprop":
        return double_backward_product(squared_map(generator, distance, z, own), z, chunk=tangents)
    features = feature_map(generator, distance, own)
    push = derivative_at(features, z[None], tangent_dtype(setting.precision))
    return gauss_newton_product(features, z, chunk=tangents, push=lambda vectors: push(vectors[:, None])[:, 0])


def expected_products(method: Method, latent_dim: int, kept: int) -> int:
    """Vectors that one metric is expected to multiply (or push): what its time is proportional to."""
    return latent_dim if method in DENSE else min(2 * latent_dim, _PRODUCTS_PER_PAIR // 3 * kept)


def top(product: Product, z: Tensor, kept: int, setting: Setting, tangents: int) -> KrylovResult:
    """The largest eigenpairs at one code z [n], by one of the iterative methods."""
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
