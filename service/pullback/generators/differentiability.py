"""Check that a generator's images have a derivative in its code; if not, find the source line that loses it.

A generator can return correct images and yet lose the derivative, or a part of it: through `torch.no_grad()`,
`.detach()`, numpy, rounding or integers. Torch raises no error if only a part is lost. `differentiability_problem`
watches one pass. If it sees a suspect operation, it compares the derivative with a finite difference, and names the
operation if they differ.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from pullback.errors import is_interrupt
from pullback.generators.base import generate
from pullback.generators.full_precision import HALF
from pullback.spec.messages import enumerated

_ROUNDING = {
    "round",
    "round_",
    "floor",
    "floor_",
    "ceil",
    "ceil_",
    "trunc",
    "trunc_",
    "fix",
    "sign",
    "sgn",
    "heaviside",
}
_ROUNDING |= {"floor_divide", "__floordiv__", "fake_quantize_per_tensor_affine", "quantize_per_tensor", "bucketize"}
_LEAVING = {"numpy", "tolist", "item", "__array__", "__float__", "__int__", "__index__", "__dlpack__"}
_RANDOM = {"rand", "randn", "randint", "rand_like", "randn_like", "randint_like", "normal", "normal_", "uniform_"}
_RANDOM |= {"bernoulli", "bernoulli_", "multinomial", "randperm", "poisson", "exponential_", "dropout", "dropout2d"}
_RANDOM |= {"dropout_", "alpha_dropout", "feature_dropout", "rrelu"}

_ADVICE = {
    "no_grad": ("runs under torch.no_grad()", "Remove it; Pullback turns gradients off where it needs none"),
    "inference": ("runs under torch.inference_mode()", "Remove it; Pullback turns gradients off where it needs none"),
    "detach": ("cuts the derivative with .detach()", "Remove it"),
    "data": ("goes through .data, which has no derivative", "Use the tensor itself and operations out of place"),
    "numpy": (
        "leaves torch (.numpy(), .item(), .tolist(), PIL)",
        "Compute the images with operations of torch alone",
    ),
    "integer": ("converts to integers, which have no derivative", "Return the floats in [0, 1] from before that"),
    "rounding": ("rounds, so that the derivative is zero", "Return the values from before that"),
}
_WRONG = 0.05
"""Smallest relative difference at which a derivative and a finite difference of the images contradict each other."""
_WRONG_ALONG = 0.3
"""The same bound for derivatives along the code or along its mean."""
_NOISE = 0.2
"""Smallest scale for the error along one direction, relative to the derivatives along other directions. Across kinks,
finite differences are off by a few per cent of those derivatives, so a smaller scale would report false errors."""
_PROJECTIONS = 8
"""Number of random projections of the images in which derivatives along one direction are compared."""
_STEPS = (3e-2, 1e-2, 1e-3)
"""Step lengths of the finite differences, relative to the code's norm. Without rounding operations, agreement at any
length is enough, since shorter steps cross fewer kinks. With them, only the longest step shows the effect of rounding.
"""
_DIRECTIONS = 3
_PACKAGES = tuple(
    str(Path(package.__file__).parent) for package in (torch, sys.modules["pullback"]) if package.__file__
)


@dataclass(frozen=True)
class Suspect:
    """An operation that loses the derivative, draws random numbers, or computes in low precision.

    Attributes:
        kind: a key of `_ADVICE`; `other`; `random`; or `coarse`, a result in half precision or bfloat16.
        function: the name of the operation.
        place: the file's name and the line in the generator's code.
    """

    kind: str
    function: str
    place: str

    @property
    def sentence(self) -> str:
        """A sentence with the operation's effect, its place and the remedy."""
        what, advice = _ADVICE.get(
            self.kind, (f"loses the derivative in {self.function}()", "Use another operation of torch")
        )
        return f"the code {what} ({self.place}). {advice}"


class Watch(TorchFunctionMode):
    """Context manager that collects suspect operations on tensors that require a gradient, in order of execution."""

    def __init__(self) -> None:
        super().__init__()
        self.suspects: list[Suspect] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        name = getattr(func, "__name__", str(func))
        if name in ("__get__", "__set__"):
            name = getattr(getattr(func, "__self__", None), "__name__", name)
        taken = [value for value in (*args, *given.values()) if isinstance(value, Tensor)]
        traced = any(tensor.requires_grad for tensor in taken)
        if name in _LEAVING and (traced or any(tensor.numel() > 1 for tensor in taken)):
            self._add("numpy", name)  # add it before the call, because the call may fail
        result = func(*args, **given)
        if isinstance(result, Tensor) and result.dtype in HALF:
            self._add("coarse", name)
        if name in _RANDOM and (not name.endswith("dropout") or given.get("training", True)):
            self._add("random", name)
        elif traced and name not in _LEAVING:
            self._look_at(name, result)
        return result

    def _look_at(self, name: str, result: Any) -> None:
        outputs = [
            value for value in (result if isinstance(result, tuple | list) else (result,)) if isinstance(value, Tensor)
        ]
        if name == "data":
            self._add("data", name)
        elif name in _ROUNDING:
            self._add("rounding", name)
        elif outputs and not any(tensor.requires_grad for tensor in outputs):
            masks = all(tensor.dtype == torch.bool for tensor in outputs)
            if masks or name == "grad" or name.endswith("_like") or name.startswith("new_"):
                return  # a mask selects values and keeps their derivatives; other boolean results are constants
            if torch.is_inference_mode_enabled():
                kind = "inference"
            elif name in ("detach", "detach_"):
                kind = "detach"
            elif not any(tensor.is_floating_point() for tensor in outputs):
                kind = "integer"
            elif not torch.is_grad_enabled():
                kind = "no_grad"
            else:
                kind = "other"
            self._add(kind, name)

    def _add(self, kind: str, name: str) -> None:
        place = _place()
        if place is not None:
            self.suspects.append(Suspect(kind, name, place))


def _place() -> str | None:
    """Return file and line of the innermost frame outside torch and Pullback.

    Inside an `autograd.Function` return None, because it supplies its own derivative.
    """
    frame: FrameType | None = sys._getframe(2)
    found = None
    while frame is not None and frame.f_code is not _watched.__code__:
        if frame.f_code is torch.autograd.Function.apply.__func__.__code__:  # type: ignore[attr-defined]
            return None
        if found is None and not frame.f_code.co_filename.startswith(_PACKAGES):
            found = f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
        frame = frame.f_back
    return found or "in torch"


def first_suspect(kind: str, generator: nn.Module, z: Tensor, condition: Tensor | None) -> Suspect | None:
    """Return the first operation of this kind (`random` or `coarse`) in a pass; None if there is none."""
    with torch.no_grad():
        _, suspects, _ = _watched(generator, z, condition)
    return next((suspect for suspect in suspects if suspect.kind == kind), None)


def differentiability_problem(
    generator: nn.Module, codes: Tensor, condition: Tensor | None, strict: bool = True
) -> str | None:
    """Explain why the images have no derivative in the code, or a wrong one; None if no problem is found.

    Args:
        generator: a generator whose images are known to depend on its codes.
        codes: codes [batch, n]. The first is tried; the others only if its derivative is zero or looks incomplete. A
            part that the code loses is missing at every code. A kink that a finite difference crosses is not.
        condition: the classes of the codes [batch], if there are classes.
        strict: also look for a derivative that is zero or incomplete.

    Returns:
        A predicate whose subject is the generator, with the line of code and the remedy.
    """
    first: Tensor | None = None
    changes = False
    partial: str | None = None
    suspects: list[Suspect] = []
    with frozen(generator), torch.enable_grad():
        for index in range(len(codes)):
            own = None if condition is None else condition[index : index + 1]
            z = codes[index : index + 1].detach().clone().requires_grad_()
            images, suspects, error = _watched(generator, z, own)
            suspects = [suspect for suspect in suspects if suspect.kind not in ("random", "coarse")]
            if error is not None:
                return _failure(error, suspects)
            if not images.requires_grad:
                return f"gives images without a derivative in the code: {_cause(suspects)}"
            if not strict:
                return None
            first = images.detach() if first is None else first
            changes = changes or not torch.equal(first, images)
            try:
                gradient = _gradient(images, z)
            except (RuntimeError, NotImplementedError):
                return None  # reverse mode is unsupported or needs too much memory; the metric may not need it
            if gradient is not None and bool(gradient.any()):
                found = _partial_problem(generator, z, own, images, suspects)
                if found is None:
                    return None
                partial = partial or found
    if partial is not None:
        return partial
    if not changes:
        return None  # saturated at all of these codes: the zero derivative is correct
    return f"gives images whose derivative in the code is zero, though they change with it: {_cause(suspects)}"


def _watched(
    generator: nn.Module, z: Tensor, condition: Tensor | None
) -> tuple[Tensor, list[Suspect], Exception | None]:
    watch = Watch()
    try:
        with watch:
            return generate(generator, z, condition), watch.suspects, None
    except Exception as error:  # user code may raise anything
        if is_interrupt(error):
            raise KeyboardInterrupt from error
        return z, watch.suspects, error


def _gradient(images: Tensor, z: Tensor) -> Tensor | None:
    """Return the gradient of Σ random sign · image value; None if the images are detached from the code."""
    signs = torch.randn(images.shape, generator=torch.Generator().manual_seed(3)).sign().to(images)
    gradient: Tensor | None = torch.autograd.grad(images, z, signs, allow_unused=True, retain_graph=True)[0]
    return gradient


def _failure(error: Exception, suspects: Sequence[Suspect]) -> str | None:
    """Describe the problem of a generator that fails only while it is differentiated."""
    text = str(error)
    if suspects and suspects[-1].kind == "numpy":
        return f"gives images without a derivative in the code: {_cause(suspects)}"
    if "nference tensor" in text:
        return (
            "cannot be differentiated: it was built under torch.inference_mode(). Build it outside, or under "
            "torch.no_grad()"
        )
    if "in-place" in text or "inplace" in text:
        return (
            "cannot be differentiated: its code changes a tensor in place that the derivative needs "
            f"({text.splitlines()[0][:160]}). Use operations out of place"
        )
    return None  # a limit of reverse mode only; the metric may not need it


def _cause(suspects: Sequence[Suspect]) -> str:
    """Return the sentence of the operation that is most likely the cause."""
    if suspects:
        others = dict.fromkeys(f"{suspect.function}, {suspect.place}" for suspect in suspects[:-1])
        others.pop(f"{suspects[-1].function}, {suspects[-1].place}", None)
        return suspects[-1].sentence + (f" (as suspect: {enumerated([*others], 2)})" if others else "")
    return "no operation of torch leads from the code to the images. Compute them with operations of torch alone"


def _partial_problem(
    generator: nn.Module, z: Tensor, condition: Tensor | None, images: Tensor, suspects: Sequence[Suspect]
) -> str | None:
    """Describe the problem of images that lose a part of their derivative. Skipped if no operation is suspect."""
    if not suspects:
        return None
    if images.dtype in HALF:
        return None  # the dtype is too coarse for a finite difference
    drawn = torch.randn(_DIRECTIONS, z.shape[1], generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    directions = (drawn / drawn.norm(dim=1, keepdim=True)).to(z)
    steps = _STEPS[:1] if any(suspect.kind in ("rounding", "integer") for suspect in suspects) else _STEPS
    error = min(_difference_error(generator, z, condition, images, directions, step) for step in steps)
    where = ""
    if error < _WRONG:
        error, where = _error_of_normalization(generator, z, condition, images, steps), " along the code or its mean"
        if error < _WRONG_ALONG:
            return None
    return (
        f"loses a part of its derivative in the code, which differs from finite differences of the images by "
        f"{100 * error:.0f} %{where}: {_cause(suspects)}"
    )


def _difference_error(
    generator: nn.Module, z: Tensor, condition: Tensor | None, images: Tensor, directions: Tensor, step: float
) -> float:
    """Return the median of |dᵀJv / dᵀd − 1| over directions v, with d the images' finite difference along v."""
    length = step * float(z.detach().norm())
    errors = []
    for direction in directions:
        with torch.no_grad():
            ahead = generate(generator, z + length * direction, condition)
            behind = generate(generator, z - length * direction, condition)
        difference = (ahead.double() - behind.double()) / (2 * length)
        size = float(difference.square().sum())
        if size == 0:
            return 0.0
        (gradient,) = torch.autograd.grad(images, z, (difference / size).to(images), retain_graph=True)
        errors.append(abs(float(gradient[0].double() @ direction.double()) - 1))
    return sorted(errors)[len(errors) // 2]


def _error_of_normalization(
    generator: nn.Module, z: Tensor, condition: Tensor | None, images: Tensor, steps: Sequence[float]
) -> float:
    """Return the error of the derivative along the code itself and along equal changes of all coordinates.

    If a generator divides the code by its detached norm, or subtracts its detached mean, the derivative is wrong only
    along these directions. A random direction among many coordinates hardly contains them. The error is relative to the
    larger of the two derivatives that are compared. A derivative far below the typical size is mostly round-off and
    kinks, so the scale has a lower bound.
    """
    n = z.shape[1]
    drawn = torch.randn(_PROJECTIONS, *images.shape, generator=torch.Generator().manual_seed(8)).to(images)
    pulled = [torch.autograd.grad(images, z, each, retain_graph=True)[0][0].double() for each in drawn]
    gradients = torch.stack(pulled)
    typical = float(gradients.square().mean().sqrt())
    length = float(z.detach().norm())
    worst = 0.0
    for direction in (z.detach() / length, torch.full_like(z, n**-0.5)):
        errors = []
        for step in steps:
            with torch.no_grad():
                ahead = generate(generator, z + step * length * direction, condition)
                behind = generate(generator, z - step * length * direction, condition)
            difference = (ahead.double() - behind.double()) / (2 * step * length)
            found = gradients @ direction[0].double()
            wanted = (drawn.double() * difference).flatten(1).sum(dim=1)
            size = max(_NOISE * typical, *(float(each.square().mean().sqrt()) for each in (found, wanted)))
            errors.append(float((found - wanted).square().mean().sqrt()) / size)
        worst = max(worst, min(errors))
    return worst


class frozen:  # noqa: N801 - a context manager
    """Context manager: parameters require no gradient, so any tensor that requires one depends on the code."""

    def __init__(self, module: nn.Module) -> None:
        self.held = [held for held in module.parameters() if held.requires_grad and not held.is_inference()]

    def __enter__(self) -> None:
        for parameter in self.held:
            parameter.requires_grad_(False)

    def __exit__(self, *_: object) -> None:
        for parameter in self.held:
            parameter.requires_grad_(True)
