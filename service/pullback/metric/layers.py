"""The metric of each layer of a generator, from one pass over the tangents.

The distance at a layer with activation a is D² = Σ (a − a_ref)² (Wang & Ponce's layer analysis). Its metric is 2 JᵀJ,
where J is the Jacobian of that activation. The activations of all chosen layers are pushed forward together. So the
analysis of a network costs one forward-mode pass in total, not one per layer.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pullback.errors import PullbackError
from pullback.generators.base import class_indices, generate, reference_tensor, repeat_rows
from pullback.generators.checks import check_once
from pullback.generators.differentiability import frozen
from pullback.metric.checks import limits_of
from pullback.metric.contents import one_call
from pullback.metric.exact import Maps
from pullback.metric.gauss_newton import metric_from_jacobian
from pullback.metric.jacobian import Features, FeaturesOf, derivative_at, jacobian
from pullback.metric.precision import arithmetic, in_double, in_single
from pullback.metric.probes import compare_columns, look
from pullback.metric.result import PullbackMetric
from pullback.spec import nearest
from pullback.spec.messages import enumerated


@torch.inference_mode(False)  # a caller's inference mode forbids derivatives
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
        generator: from `load_generator`, or any module with `latent_dim`.
        z: a latent code [n], or several [batch, n].
        layers: names among the generator's `named_modules()`, such as `main.3`. By default every layer without
            sublayers that returns one tensor [batch, ...], runs once and depends on the code, in running order.
        condition: see `metric_at`.
        components: number of eigenpairs of each metric; all by default.
        tangents: Jacobian columns computed at once. Memory grows with them, and holds the Jacobians of all layers.

    Returns:
        The metrics of each layer by its name, in squared activation per squared latent unit.

    Raises:
        PullbackError: there is no such layer, or it does not return a single real tensor [batch, ...] that depends on
            the code.
        SpecError: the condition does not fit the generator.
    """
    check_once(generator)
    generator = in_single(generator)
    codes = torch.as_tensor(z).to(reference_tensor(generator)).clone()
    single = codes.dim() == 1
    codes = codes[None] if single else codes
    classes = class_indices(generator, condition, range(len(codes)))
    n = codes.shape[1]
    names = _layers_of_codes(generator, layers, codes[:1], None if classes is None else classes[:1].to(codes.device))
    parts: dict[str, list[PullbackMetric]] = {}
    doubled = _Doubled(generator)
    with arithmetic(), one_call():
        for index in range(len(codes)):
            began = time.perf_counter()
            code, own = codes[index : index + 1], None if classes is None else classes[index : index + 1]
            own = None if own is None else own.to(code.device)
            with torch.no_grad():
                sizes = [value.numel() for value in activations(generator, names, code, own).values()]
            rows = jacobian(derivative_at(_joined(generator, names, own), code), code, tangents)
            for name, piece in zip(names, torch.split(rows, sizes, dim=2), strict=True):
                raw = metric_from_jacobian(piece)
                features = _joined(generator, [name], own)
                looks = compare_columns(features, code, look(piece, raw, code))
                metric = PullbackMetric.of_matrix(
                    raw.cpu(),
                    components or n,
                    limits_of("gauss_newton"),
                    seconds=torch.zeros(1, dtype=torch.float64),
                    method="gauss_newton",
                    z=code,
                    looks=looks,
                    maps=_LayerMaps(doubled, name, code, own),
                )
                taken = torch.full_like(metric.seconds, (time.perf_counter() - began) / len(names))
                parts.setdefault(name, []).append(replace(metric, seconds=taken))
    joined = {name: PullbackMetric.concatenate(metrics) for name, metrics in parts.items()}
    return {name: metric[0] if single else metric for name, metric in joined.items()}


class _Doubled:
    """A generator and its float64 copy. The copy is made when a certificate first needs it; None if that fails."""

    def __init__(self, generator: nn.Module) -> None:
        self.generator = generator

    @cached_property
    def copy(self) -> nn.Module | None:
        try:
            return in_double(self.generator)
        except PullbackError:
            return None


class _LayerMaps(Maps):
    """The maps from a code to a layer's activation, for its certificate."""

    def __init__(self, networks: _Doubled, layer: str, code: Tensor, condition: Tensor | None) -> None:
        self._networks, self._layer, self._code, self._class = networks, layer, code, condition

    def features_of(self, part: slice | Tensor) -> Features:
        return _joined(self._networks.generator, [self._layer], self._class)

    def exact_features_of(self) -> FeaturesOf | None:
        copy = self._networks.copy
        return None if copy is None else lambda part: _joined(copy, [self._layer], self._class)

    def seen_at(self, index: int) -> list[tuple[Features, torch.dtype]]:
        exact = self.exact_features_of()
        copied = [] if exact is None else [(exact(slice(0, 1)), torch.float64)]
        return [*copied, (self.features_of(slice(0, 1)), self._code.dtype)]


def _layers_of_codes(
    generator: nn.Module, layers: Sequence[str] | None, code: Tensor, condition: Tensor | None
) -> list[str]:
    """The requested layers whose activation depends on the code, in running order.

    A learned input (StyleGAN's constant) does not depend on the code. The test uses two codes, because with a single
    code an activation [1, ...] would look like one of a batch.
    """
    with frozen(generator), torch.enable_grad():
        pair = torch.cat([code, -code]).detach().requires_grad_()
        classes = None if condition is None else repeat_rows(condition, 2)
        found = activations(generator, layers, pair, classes)
    names = [name for name, value in found.items() if value.requires_grad]
    constant = [name for name in found if name not in names]
    if layers is not None and constant:
        raise PullbackError(
            f"the layer {constant[0]!r} gives the same for every code, so it has no metric. Choose another"
        )
    if not names:
        raise PullbackError("the generator has no layer whose activation [batch, ...] depends on the code")
    return names


def _joined(generator: nn.Module, layers: Sequence[str], condition: Tensor | None) -> Features:
    """The map from codes to the concatenated activations of layers [batch, Σ m]."""

    def features(z: Tensor) -> Tensor:
        classes = condition if condition is None else repeat_rows(condition, len(z) // len(condition))
        found = activations(generator, layers, z, classes)
        return torch.cat([value.flatten(1) for value in found.values()], dim=1)

    return features


def activations(
    generator: nn.Module, layers: Sequence[str] | None, z: Tensor, condition: Tensor | None
) -> dict[str, Tensor]:
    """The activations [batch, ...] of layers in one pass, in running order; see `layer_metrics`."""
    modules = {name: module for name, module in generator.named_modules() if name}
    chosen = [name for name, module in modules.items() if not list(module.children())] if layers is None else layers
    for name in chosen:
        if name not in modules:
            hint = nearest(name, modules) or ";"
            raise PullbackError(f"the generator has no layer {name!r}{hint} it has {enumerated(modules, 30) or 'none'}")
    found: dict[str, list[Any]] = {}

    def keep(name: str) -> Any:
        # Copy, because the next layer may work in place.
        return lambda _module, _inputs, output: found.setdefault(name, []).append(
            output.clone() if isinstance(output, Tensor) else output
        )

    handles = [modules[name].register_forward_hook(keep(name)) for name in chosen]
    try:
        generate(generator, z, condition)
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
            "gives something else than one tensor of real numbers, or one for every code. Choose another layer"
        )
    if not usable:
        raise PullbackError("the generator has no layer that gives one tensor [batch, ...]")
    return usable
