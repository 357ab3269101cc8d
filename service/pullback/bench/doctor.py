"""`pullback generators doctor`: check a generator, its support by the fast path, and the cost of its metric.

Each check measures one number and compares it with a limit. A failed check suggests a remedy. Derivatives are compared
in a float64 copy of the network. Weights of a distance are used only if they are on this machine.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pullback.distances import Distance, load_distance
from pullback.errors import PullbackError, WeightsError
from pullback.generators.attributes import class_names, latent_blocks, latent_size, loading_notes, name_of
from pullback.generators.base import OVERSHOOT, any_condition, generate, reference_tensor
from pullback.generators.codes import has_mapping, input_condition, input_size, mapped, trial_codes
from pullback.generators.family import FamilyGenerator
from pullback.generators.user_code import unmoved
from pullback.metric.cost import estimate
from pullback.metric.forward.linearize import Linearization
from pullback.metric.forward.tape import Untraceable
from pullback.metric.kernels import DifferentiableKernels, differentiable_kernels
from pullback.metric.precision import in_double

SEED = 2027
CODES = 4
"""Number of codes in each check."""
TOP = 10
"""Number of eigenpairs of the top-k metric whose cost is measured."""
_SMALLEST = 64
"""Images with a smaller height or width are enlarged for LPIPS."""
_RANGE, _RANGE_OF_FAMILIES = 0.05, 0.5
"""Largest share of values far outside [0, 1], for other generators and for families. The range of a family is known,
and untrained weights often leave it."""
_PROBES = 3
_STEPS = (1e-5, 1e-6, 1e-7)
"""Lengths of the finite differences, relative to the code's norm. The best one counts, because longer ones may cross
kinks."""
_VISIBLE = 0.01
"""An error above this counts even if only the two longer steps show it: a part of the network may round to float32, so
that the shortest step does not move it."""
_MODAL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        passed: whether the value is within the limit.
        value: the measured number; None if the measurement failed.
        limit: the largest value that passes; for `varies` and `class_matters` the smallest.
        detail: what was measured, and the remedy after a failure.
    """

    passed: bool
    value: float | None
    limit: float
    detail: str


Images = Callable[[Tensor, Tensor | None], Tensor]
_ADVICE = {
    "evaluation_mode": "call .eval(): some layers do something else in training mode",
    "finite": "images hold NaN or infinite values; half precision overflows, use float32",
    "repeatable": "freeze the noise: draw it once and keep it in a buffer",
    "batch_rows": "an image depends on the other codes of its batch or on its place there: batch statistics, or noise "
    "that is drawn for each row",
    "range": "rescale the images to [0, 1], for example (x + 1) / 2 for a tanh output",
    "varies": "images must depend on the code",
    "saturation": "most pixels have no derivative: they are clamped, or the network saturates at these codes",
    "jvp_differences": "the derivative is not that of the images: look for .detach(), torch.no_grad(), rounding, numpy "
    "or an autograd function with a wrong derivative",
    "jvp_vjp": "forward and reverse mode disagree: an autograd function has a wrong backward or jvp",
    "coordinates": "some coordinates of the code change no pixel",
    "class_matters": "two classes give the same image of the same code",
    "mapping": "the mapping network gives other codes in a batch than alone",
}


def examine(generator: nn.Module) -> dict[str, Check]:
    """Run every check on a loaded generator. No check raises an error.

    Args:
        generator: maps codes [batch, n] to images. It need not have passed `check_generator`.
    """
    checks: dict[str, Check] = {}

    def measure(
        name: str, limit: float, value: Callable[[], float | Tensor], what: str, at_least: bool = False
    ) -> None:
        try:
            with unmoved():
                found = float(value())
        except Exception as error:  # a user's generator may raise anything
            text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
            checks[name] = Check(False, None, limit, f"{what}: it raised {text}")
            return
        passed = found >= limit if at_least else found <= limit
        checks[name] = Check(
            passed, found if math.isfinite(found) else None, limit, what if passed else f"{what}; {_ADVICE[name]}"
        )

    modal = [path for path, part in generator.named_modules() if part.training and isinstance(part, _MODAL)]
    measure(
        "evaluation_mode",
        0,
        lambda: len(modal),
        f"layers in training mode{': ' if modal else ''}{', '.join(modal[:3])}",
    )
    z = trial_codes(generator, CODES, SEED)
    condition = any_condition(generator, CODES, z.device)
    one_class = None if condition is None else condition[:1].expand(CODES)

    @torch.no_grad()
    def images(rows: list[int], classes: Tensor | None = one_class, codes: Tensor = z) -> Tensor:
        return generate(generator, codes[rows], None if classes is None else classes[rows])

    everything = list(range(CODES))
    measure("finite", 0, lambda: (~images(everything).isfinite()).sum(), "values that are not finite")
    measure(
        "repeatable",
        1e-6 if z.device.type == "cpu" else 1e-4,
        lambda: (images(everything) - images(everything)).abs().max(),
        "largest difference between two images of the same code",
    )

    def batch_rows() -> float:
        together, turned = images(everything), images(everything[::-1]).flip(0)
        alone = torch.cat([images([row]) for row in everything])
        return float(torch.maximum((together - alone).abs().max(), (together - turned).abs().max()))

    measure("batch_rows", 1e-4, batch_rows, "largest difference between an image in a batch and the same code's alone")
    measure(
        "range",
        _RANGE_OF_FAMILIES if isinstance(generator, FamilyGenerator) else _RANGE,
        lambda: ((found := images(everything)) < -OVERSHOOT).logical_or(found > 1 + OVERSHOOT).float().mean(),
        "share of values that leave [0, 1] by more than 0.25",
    )
    measure(
        "varies",
        1e-4,
        lambda: (images([0]) - images([1])).abs().max(),
        "largest difference between the images of two codes",
        at_least=True,
    )
    in_code = getattr(generator, "condition_in_code", False) is True
    if condition is not None and len(class_names(generator)) > 1 and not in_code:
        measure(
            "class_matters",
            1e-5,
            lambda: images([0, 1], torch.arange(2, device=z.device), z[:1].expand(2, -1)).diff(dim=0).abs().max(),
            "largest difference between the images of two classes",
            at_least=True,
        )
    if has_mapping(generator):
        drawn = torch.randn(CODES, input_size(generator), generator=torch.Generator().manual_seed(SEED))
        classes = input_condition(generator, CODES, z.device)

        def mapping() -> float:
            together = mapped(generator, drawn, classes)
            alone = [
                mapped(generator, drawn[i : i + 1], None if classes is None else classes[i : i + 1]) for i in everything
            ]
            return float((together - torch.cat(alone)).abs().max())

        measure("mapping", 1e-4, mapping, "largest difference between a mapped code in a batch and alone")
    _examine_derivatives(generator, z, one_class, measure)
    return checks


def _examine_derivatives(
    generator: nn.Module, z: Tensor, condition: Tensor | None, measure: Callable[..., None]
) -> None:
    """Run the checks that need derivatives, in float64 if the network can be copied."""
    held: dict[str, Any] = {}

    def exact() -> tuple[nn.Module, Tensor]:
        if "network" not in held:
            try:
                held["network"] = in_double(generator)
            except PullbackError:
                held["network"] = generator
            held["z"] = z.to(reference_tensor(held["network"]))
        return held["network"], held["z"]

    def images(codes: Tensor) -> Tensor:
        network, _ = exact()
        own = None if condition is None else condition[: len(codes)]
        with differentiable_kernels(), DifferentiableKernels():
            return generate(network, codes, own)

    def along() -> tuple[Tensor, Tensor]:
        """Directions [codes, n] and the derivatives of the images along them."""
        if "jvp" not in held:
            _, codes = exact()
            stream = torch.Generator().manual_seed(SEED + 1)
            held["v"] = torch.randn(codes.shape, generator=stream, dtype=torch.float64).to(codes)
            held["jvp"] = _along(images, codes, held["v"])
        return held["v"], held["jvp"]

    def against_differences() -> float:
        v, derivative = along()
        _, codes = exact()
        unit = codes.norm(dim=1, keepdim=True) / v.norm(dim=1, keepdim=True)
        errors = []
        with torch.no_grad():
            for step in _STEPS if codes.dtype == torch.float64 else (1e-2, 1e-3):
                h = step * unit
                shape = (-1, *[1] * (derivative.dim() - 1))
                difference = (images(codes + h * v) - images(codes - h * v)) / (2 * h).reshape(shape)
                scale = torch.maximum(difference.flatten(1).norm(dim=1), derivative.flatten(1).norm(dim=1))
                error = (difference - derivative).flatten(1).norm(dim=1) / scale.clamp_min(1e-300)
                errors.append(error)
        least, visible = torch.stack(errors).amin(dim=0), torch.stack(errors[:2]).amin(dim=0)
        return float(torch.where(visible > _VISIBLE, visible, least).median())

    def inner_products() -> float:
        v, derivative = along()
        _, codes = exact()
        u = torch.randn(derivative.shape, generator=torch.Generator().manual_seed(SEED + 2), dtype=torch.float64).to(
            codes
        )
        left = codes.detach().requires_grad_()
        (gradient,) = torch.autograd.grad((images(left) * u).sum(), left)
        apart = ((u * derivative).flatten(1).sum(1) - (gradient * v).flatten(1).sum(1)).abs()
        scale = u.flatten(1).norm(dim=1) * derivative.flatten(1).norm(dim=1)
        return float((apart / scale.clamp_min(1e-300)).max())

    def dead_coordinates() -> float:
        _, codes = exact()
        largest = torch.zeros(codes.shape[1], dtype=codes.dtype, device=codes.device)
        for probe in range(_PROBES):
            left = codes.detach().requires_grad_()
            made = images(left)
            u = torch.randn(made.shape, generator=torch.Generator().manual_seed(SEED + 3 + probe)).to(codes)
            (gradient,) = torch.autograd.grad((made * u).sum(), left)
            largest = torch.maximum(largest, gradient.abs().max(dim=0).values)
        return float((largest <= 1e-9 * largest.max()).sum())

    def saturated() -> float:
        _, derivative = along()
        return float((derivative.abs() <= 1e-9 * derivative.abs().max()).float().mean())

    precise = reference_tensor(generator).dtype in (torch.float32, torch.float64)
    measure(
        "jvp_differences",
        1e-4 if precise else 0.1,
        against_differences,
        "relative difference between the derivative along a direction and finite differences",
    )
    measure("jvp_vjp", 1e-6 if precise else 1e-2, inner_products, "relative difference of ⟨u, Jv⟩ and ⟨Jᵀu, v⟩")
    measure("coordinates", 0, dead_coordinates, "coordinates of the code that change no pixel")
    measure("saturation", 0.5, saturated, "share of values whose derivative is zero")


def _along(images: Callable[[Tensor], Tensor], codes: Tensor, v: Tensor) -> Tensor:
    """The derivative of images along directions v [codes, n], in forward mode.

    If an autograd function has no forward mode, reverse mode is applied twice instead.
    """
    try:
        forward: Tensor = torch.func.jvp(images, (codes,), (v,))[1]
        return forward.detach()
    except RuntimeError:
        left = codes.detach().requires_grad_()
        made = images(left)
        u = torch.zeros_like(made, requires_grad=True)
        (pulled,) = torch.autograd.grad(made, left, u, create_graph=True)
        (pushed,) = torch.autograd.grad(pulled, u, v)
        return pushed.detach()


def fast_path(generator: nn.Module) -> tuple[bool, list[str]]:
    """Whether every operation has a rule, and the operations without one (or why the network cannot be recorded)."""
    z = trial_codes(generator, 1, SEED)
    condition = any_condition(generator, 1, z.device)
    try:
        with differentiable_kernels(), unmoved():
            made = Linearization(lambda codes: generate(generator, codes, condition).flatten(1), z)
    except Untraceable as reason:
        return False, [str(reason)]
    except Exception as error:  # a user's generator may raise anything
        return False, [f"{type(error).__name__}: {error}"]
    return not made.fallbacks, list(made.fallbacks)


@torch.no_grad()
def seconds_per_forward(generator: nn.Module) -> float | None:
    """Median seconds of one image [1, channels, height, width]; None if the generator fails."""
    z = trial_codes(generator, 1, SEED)
    condition = any_condition(generator, 1, z.device)
    times = []
    try:
        with unmoved():
            for _ in range(4):
                began = time.perf_counter()
                generate(generator, z, condition)
                if z.device.type == "cuda":
                    torch.cuda.synchronize(z.device)
                times.append(time.perf_counter() - began)
    except Exception:  # a check reports this error
        return None
    return sorted(times[1:])[1]


def cost_distance(device: torch.device, image: Sequence[int]) -> tuple[str, Distance]:
    """LPIPS if its weights are on this machine, else the mean squared error; with the name of the choice.

    Args:
        device: the device of the distance.
        image: shape of an image [channels, height, width]. Small images are enlarged for LPIPS.
    """
    size = _SMALLEST if min(image[1:], default=_SMALLEST) < _SMALLEST else None
    try:
        return "lpips-alex", load_distance("lpips", trunk="alex", size=size, device=device)
    except WeightsError:
        return "mse", load_distance("mse", device=device)


def metric_cost(generator: nn.Module) -> dict[str, Any]:
    """Time and memory of one dense metric and of the top eigenpairs; None for numbers that cannot be computed."""
    cost: dict[str, Any] = {"distance": None, "problem": None}
    n = latent_size(generator)
    for kind, components in (("dense", None), ("topk", min(TOP, n))):
        seconds = size = method = None
        try:
            name, distance = cost_distance(reference_tensor(generator).device, _image_shape(generator) or ())
            with unmoved():
                found = estimate(generator, distance, components=components, timed=True)
            seconds, size, method = found.seconds_per_code, found.bytes, found.strategy.method
            cost["distance"] = name
        except Exception as error:  # a user's generator may raise anything
            cost["problem"] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
        cost |= {f"{kind}_seconds": seconds, f"{kind}_bytes": size, f"{kind}_method": method}
    return {**cost, "components": min(TOP, n)}


def diagnose(generator: nn.Module, cost: bool = True) -> dict[str, Any]:
    """All values that `pullback generators doctor --json` prints.

    Args:
        generator: from `load_generator(..., check=False)`.
        cost: whether to measure the cost of a metric, by computing one.

    Returns:
        `name`, `family`, `options`, `space`, `latent_dim`, `blocks`, `classes`, `image`, `parameters`, `bytes`,
        `notes`, `checks` {name: {`passed`, `value`, `limit`, `detail`}}, `fast_path`, `fallbacks`,
        `seconds_per_forward`, `metric` and `passed`.
    """
    checks = examine(generator)
    fast, fallbacks = fast_path(generator)
    tensors = [*generator.parameters(), *generator.buffers()]
    return {
        "name": name_of(generator),
        "family": getattr(generator, "family", None),
        "options": _options(generator),
        "space": getattr(generator, "space", None),
        "latent_dim": latent_size(generator),
        "blocks": {name: list(bounds) for name, bounds in latent_blocks(generator).items()},
        "classes": list(class_names(generator)),
        "image": _image_shape(generator),
        "parameters": sum(parameter.numel() for parameter in generator.parameters()),
        "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "notes": list(loading_notes(generator)),
        "checks": {name: asdict(check) for name, check in checks.items()},
        "fast_path": fast,
        "fallbacks": fallbacks,
        "seconds_per_forward": seconds_per_forward(generator),
        "metric": metric_cost(generator) if cost else None,
        "passed": all(check.passed for check in checks.values()),
    }


def _options(generator: nn.Module) -> dict[str, Any]:
    options = getattr(generator, "options", None)
    return dict(options) if isinstance(options, Mapping) else {}


@torch.no_grad()
def _image_shape(generator: nn.Module) -> list[int] | None:
    z = trial_codes(generator, 1, SEED)
    try:
        with unmoved():
            return list(generate(generator, z, any_condition(generator, 1, z.device)).shape[1:])
    except Exception:  # a check reports this error
        return None
