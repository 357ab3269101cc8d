"""A user's own function as a distance: `module:function` in a job.

Of one argument, f(images) -> [batch, m], it is a residual; of two, f(x, y) -> [batch], a squared distance. Which of
them is read off its signature; whether it gives what it must is looked at whenever it is called. A torch module is a
function as well, of the arguments of its `forward`; it is put into evaluation mode and frozen.
"""

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pullback.distances.base import Distance, ResidualDistance, ScalarDistance
from pullback.distances.mask import Mask
from pullback.errors import SpecError
from pullback.generators.user_code import imported, weights_told
from pullback.spec import CustomSpec


class ResidualFunction(ResidualDistance):
    """D²(x, y) = ||f(x) − f(y)||² with a function f of images [batch, 3, height, width] in [0, 1].

    Args:
        function: gives a tensor [batch, m] of real numbers.
        name: how the function is called in tables and messages.
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
        """f(images) [batch, m].

        Raises:
            ValueError: f gives something else.
        """
        given: Any = self.function(images)
        return _fitting(given, self.name, f"a residual [{len(images)}, m]", len(images), dim=2)


class ScalarFunction(ScalarDistance):
    """D²(x, y) = f(x, y) with a function f of two sets of images [batch, 3, height, width] in [0, 1].

    For a metric, f must be smallest at x = y, and twice differentiable there.

    Args:
        function: gives a tensor [batch] of real numbers.
        name: how the function is called in tables and messages.
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
        """f(x, y) [batch].

        Raises:
            ValueError: f gives something else.
        """
        given: Any = self.function(x, y)
        return _fitting(given, self.name, f"squared distances [{len(x)}]", len(x), dim=1)


def _fitting(given: Any, name: str, needed: str, batch: int, dim: int) -> Tensor:
    """What the function gave, if it is a tensor of real numbers of this many axes, the first one the batch."""
    if not isinstance(given, Tensor):
        raise ValueError(f"{name} gave {type(given).__name__}; a tensor of {needed} is needed")
    if given.dim() != dim or len(given) != batch or not given.is_floating_point():
        what = list(given.shape) if given.is_floating_point() else f"{list(given.shape)} of {given.dtype}"
        raise ValueError(f"{name} gave {what} for images [{batch}, ...]; {needed} of real numbers are needed")
    return given


def _arguments(function: Callable[..., Any], name: str) -> int:
    """How many arguments the function must be given: 1 or 2.

    Raises:
        SpecError: it is another number, or cannot be told.
    """
    needed = "f(images) -> [batch, m], or f(x, y) -> [batch], is needed"
    try:
        called = function.forward if isinstance(function, nn.Module) else function
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError) as error:  # functions written in C have none
        raise SpecError([f"distance.name: the arguments of {name} cannot be told: {error}; {needed}"]) from error
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(required) not in (1, 2) or any(p.kind is p.KEYWORD_ONLY for p in required):
        listed = ", ".join(str(parameter) for parameter in parameters)
        raise SpecError([f"distance.name: {name} takes ({listed}); {needed}"])
    return len(required)


def build(spec: CustomSpec, mask: Mask | None) -> Distance:
    """The distance of a job.

    Raises:
        SpecError: there is no such function, it takes neither one nor two arguments, or there is a mask.
        PullbackError: importing its module failed.
    """
    if mask is not None:
        raise SpecError([f"distance.mask: where {spec.name} looks is not known; apply the mask in it, remove this key"])
    function, source = imported(spec.name, "distance.name")
    kind = ResidualFunction if _arguments(function, spec.name) == 1 else ScalarFunction
    distance = kind(function, spec.name, clamp=spec.clamp, size=spec.size)
    distance.weights |= {**weights_told(function), **source}
    return distance.eval().requires_grad_(False)
