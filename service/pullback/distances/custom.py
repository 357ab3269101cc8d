"""A user's own function as a distance: `module:function` in a job.

The signature determines the form: with one argument, f(images) -> [batch, m] is a residual; with two arguments,
f(x, y) -> [batch] is a squared distance. Every call checks the result's type and shape. A torch module may be used as a
function with the arguments of its `forward`; it is set to evaluation mode and frozen.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pullback.distances.base import Distance, ResidualDistance, ScalarDistance
from pullback.distances.features import as_taken
from pullback.distances.mask import Mask
from pullback.errors import ArgumentError
from pullback.generators.fingerprint import ORIGIN
from pullback.generators.user_code import declared_weights, imported, origin_for
from pullback.generators.user_files import Window
from pullback.spec import CustomOptions


class ResidualFunction(ResidualDistance):
    """D²(x, y) = ||f(x) − f(y)||² with a function f of images [batch, 3, height, width] in [0, 1].

    Args:
        function: returns a tensor [batch, m] of real numbers.
        name: the function's name in tables and messages.
        clamp: see `Distance`.
        size: see `Distance`.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], name: str, *, clamp: bool = False, size: int | None = None
    ) -> None:
        super().__init__(clamp, size)
        self.function = function
        self.name = name

    def features(self, images: Tensor) -> Tensor:
        """Return f(images) [batch, m].

        Raises:
            ValueError: f returns anything else.
        """
        given: Any = self.function(as_taken(images, self.function))
        return _fitting(given, self.name, f"a residual [{len(images)}, m]", len(images), dim=2)


class ScalarFunction(ScalarDistance):
    """D²(x, y) = f(x, y) with a function f of two batches of images [batch, 3, height, width] in [0, 1].

    For a metric, f must have its minimum at x = y and be twice differentiable there.

    Args:
        function: returns a tensor [batch] of real numbers.
        name: the function's name in tables and messages.
        clamp: see `Distance`.
        size: see `Distance`.
    """

    def __init__(
        self, function: Callable[[Tensor, Tensor], Tensor], name: str, *, clamp: bool = False, size: int | None = None
    ) -> None:
        super().__init__(clamp, size)
        self.function = function
        self.name = name

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """Return f(x, y) [batch].

        Raises:
            ValueError: f returns anything else.
        """
        given: Any = self.function(as_taken(x, self.function), as_taken(y, self.function))
        return _fitting(given, self.name, f"squared distances [{len(x)}]", len(x), dim=1)


def _fitting(given: Any, name: str, needed: str, batch: int, dim: int) -> Tensor:
    """Return the function's result if it is a real tensor with `dim` axes, the first of size `batch`; else raise."""
    if not isinstance(given, Tensor):
        raise ValueError(f"{name} gave {type(given).__name__}; a tensor of {needed} is needed")
    if given.dim() != dim or len(given) != batch or not given.is_floating_point():
        what = list(given.shape) if given.is_floating_point() else f"{list(given.shape)} of {given.dtype}"
        raise ValueError(f"{name} gave {what} for images [{batch}, ...]; {needed} of real numbers are needed")
    return given


def _arguments(function: Callable[..., Any], name: str) -> int:
    """Return the number of arguments that the function requires: 1 or 2.

    Raises:
        SpecError: the number is different or unknown.
    """
    needed = "f(images) -> [batch, m], or f(x, y) -> [batch], is needed"
    try:
        called = function.forward if isinstance(function, nn.Module) else function
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError) as error:  # functions written in C have no signature
        raise ArgumentError("name", f"the arguments of {name} cannot be read: {error}; {needed}") from error
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) not in (1, 2) or any(p.kind is p.KEYWORD_ONLY for p in required):
        listed = ", ".join(str(parameter) for parameter in parameters)
        raise ArgumentError("name", f"{name} takes ({listed}); {needed}")
    return len(required)


def build(options: CustomOptions, mask: Mask | None) -> Distance:
    """Build the distance of a job.

    Raises:
        SpecError: there is no such function, it takes neither one nor two arguments, or there is a mask.
        PullbackError: importing its module failed.
    """
    if mask is not None:
        raise ArgumentError(
            "mask", f"{options.name} may use any part of the image; apply the mask in it, and omit this argument"
        )
    window = Window()
    function, source = imported(options.name, "name", window)
    origin = origin_for(function, options.name, window)
    kind = ResidualFunction if _arguments(function, options.name) == 1 else ScalarFunction
    distance = kind(function, options.name, clamp=options.clamp, size=options.size)
    distance.weights |= {**declared_weights(function), **source}
    setattr(distance, ORIGIN, origin)
    return distance.eval().requires_grad_(False)
