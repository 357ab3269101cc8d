"""The metric of each of a generator's layers, from one pass over the tangents.

At a layer the distance is D² = Σ (a − a_ref)² of its activation a (method of Wang & Ponce's layer analysis), so its
metric is 2 JᵀJ with the Jacobian of that activation. All chosen layers' activations are pushed forward together: the
analysis of a network of many layers costs one forward mode through it, not one a layer.
"""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pullback.errors import PullbackError
from pullback.generators.base import class_indices, images_of, like
from pullback.generators.checks import check_once
from pullback.metric.certificate import limits_of
from pullback.metric.gauss_newton import metric_from_jacobian
from pullback.metric.jacobian import Features, derivative_at, jacobian
from pullback.metric.precision import arithmetic
from pullback.metric.probes import look, probe_jacobian
from pullback.metric.result import PullbackMetric
from pullback.spec import nearest


def layer_metrics(
    generator: nn.Module,
    z: Any,
    layers: Sequence[str] | None = None,
    *,
    condition: Any = None,
    components: int | None = None,
    tangents: int = 16,
) -> dict[str, PullbackMetric]:
    """The metric of each layer's activation at latent codes.

    Args:
        generator: from `load_generator`, or your own module with `latent_dim`.
        z: a latent code [n], or several [batch, n].
        layers: names among the generator's `named_modules()`, such as `main.3`; by default every layer without parts
            that gives one tensor [batch, ...] and runs once, in the order in which they run.
        condition: see `metric_at`.
        components: eigenpairs to return of each, all by default.
        tangents: Jacobian columns computed at once; memory grows with them, and holds the Jacobians of all layers.

    Returns:
        Each layer's metrics by its name, in squared activation per squared latent unit.

    Raises:
        PullbackError: there is no such layer, or it gives no single tensor [batch, ...] of real numbers.
        SpecError: the condition does not fit the generator.
    """
    check_once(generator)
    codes = torch.as_tensor(z).to(like(generator))
    single = codes.dim() == 1
    codes = codes[None] if single else codes
    classes = class_indices(generator, condition, range(len(codes)))
    n = codes.shape[1]
    parts: dict[str, list[PullbackMetric]] = {}
    with arithmetic():
        for index in range(len(codes)):
            began = time.perf_counter()
            code, own = codes[index : index + 1], None if classes is None else classes[index : index + 1]
            own = None if own is None else own.to(code.device)
            with torch.no_grad():
                found = activations(generator, layers, code, own)
            names, sizes = list(found), [value.numel() for value in found.values()]

            rows = jacobian(derivative_at(_joined(generator, names, own), code), code, tangents)
            for name, piece in zip(names, torch.split(rows, sizes, dim=2), strict=True):
                raw = metric_from_jacobian(piece)
                checks = probe_jacobian(_joined(generator, [name], own), code, look(piece, raw))
                parts.setdefault(name, []).append(
                    PullbackMetric.of_matrix(
                        raw.cpu(),
                        components or n,
                        {check: value.to("cpu", torch.float64) for check, value in checks.items()},
                        {key: limit for key, limit in limits_of("gauss_newton").items() if key != "precision_error"},
                        seconds=torch.full((1,), (time.perf_counter() - began) / len(names), dtype=torch.float64),
                        method="gauss_newton",
                    )
                )
    joined = {name: PullbackMetric.concatenate(metrics) for name, metrics in parts.items()}
    return {name: metric[0] if single else metric for name, metric in joined.items()}


def _joined(generator: nn.Module, layers: Sequence[str], condition: Tensor | None) -> Features:
    """Codes to the activations of layers, one after the other [batch, Σ m]."""

    def features(z: Tensor) -> Tensor:
        classes = condition if condition is None else condition.repeat(len(z) // len(condition))
        found = activations(generator, layers, z, classes)
        return torch.cat([value.flatten(1) for value in found.values()], dim=1)

    return features


def activations(
    generator: nn.Module, layers: Sequence[str] | None, z: Tensor, condition: Tensor | None
) -> dict[str, Tensor]:
    """The activations [batch, ...] of layers in one pass, in the order in which they run; see `layer_metrics`."""
    modules = {name: module for name, module in generator.named_modules() if name}
    chosen = [name for name, module in modules.items() if not list(module.children())] if layers is None else layers
    for name in chosen:
        if name not in modules:
            hint = nearest(name, modules) or ";"
            raise PullbackError(f"the generator has no layer {name!r}{hint} it has {', '.join(modules) or 'none'}")
    found: dict[str, list[Any]] = {}

    def keep(name: str) -> Any:
        # a copy: the layer behind may work in place
        return lambda _module, _inputs, output: found.setdefault(name, []).append(
            output.clone() if isinstance(output, Tensor) else output
        )

    handles = [modules[name].register_forward_hook(keep(name)) for name in chosen]
    try:
        images_of(generator, z, condition)
    finally:
        for handle in handles:
            handle.remove()
    usable = {
        name: outputs[0]
        for name, outputs in found.items()
        if len(outputs) == 1 and isinstance(outputs[0], Tensor) and outputs[0].is_floating_point()
        if outputs[0].dim() > 1 and len(outputs[0]) == len(z)
    }
    missing = [name for name in chosen if name not in usable]
    if layers is not None and missing:
        raise PullbackError(
            f"the layer {missing[0]!r} has no activation [batch, ...] of its own: it did not run once in a pass, or "
            "gives something else than one tensor of real numbers. Choose another layer"
        )
    if not usable:
        raise PullbackError("the generator has no layer that gives one tensor [batch, ...]")
    return usable
