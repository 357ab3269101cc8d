"""Derivatives of a function along tangents by torch alone, in several ways. If one way fails, the next is tried.

1. Forward mode, mapped over the tangents: `vmap` of `jvp`. The fastest way.
2. Forward mode, one tangent after the other: for operations without a batching rule.
3. Reverse mode twice: the vector-Jacobian product u -> Jᵀu is linear in u, so the derivative of ⟨Jᵀu, v⟩ in u is Jv.
   For operations without a forward-mode derivative.
4. The Jacobian, row by row in reverse mode. For small functions without a second derivative.

The result is compared once with reverse mode, by ⟨Jv, u⟩ = ⟨v, Jᵀu⟩ for a random u. Torch has a few wrong formulas in
forward mode (`cholesky_inverse`) and in reverse mode (`batch_norm` of five axes in channels-last order). If the two
modes disagree, finite differences of the function decide. If they agree with reverse mode, the third way is used.
Random numbers that the function draws from its own seed are the same for each tangent in each way.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.overrides import TorchFunctionMode

from pullback.errors import is_interrupt, with_message
from pullback.metric.allocation import is_out_of_memory
from pullback.metric.forward.names import MEMORY
from pullback.metric.kernels import DifferentiableKernels, differentiable_kernels

Function = Callable[..., tuple[Tensor, ...]]
"""Maps tensors to a tuple of tensors."""
Pushes = Callable[..., tuple[Tensor, ...]]
"""Maps tangents of each argument [chunk, *shape] to tangents of each result [chunk, *shape]."""

_MOST_ROWS = 4096
"""Largest number of results for which a Jacobian is computed row by row."""


class Pushforward:
    """The derivative of a function at given primal values, as a function of tangents. The module lists the ways.

    Args:
        function: maps tensors to a tuple of floating-point tensors.
        primals: the arguments at which to differentiate. Tensors that overlap themselves (expanded ones) are copied,
            because forward mode cannot give them a tangent of the same layout.
        rows: whether to try the fourth way. False for whole networks, for which plans choose it (`strategy`).

    Call it with tangents [chunk, *shape] of each primal value to get the tangents of each result [chunk, *shape]. A way
    that has failed is not tried again.

    Raises:
        Exception: every way failed. The error is that of the first way.
    """

    def __init__(self, function: Function, primals: Sequence[Tensor], rows: bool = True) -> None:
        self.function = function
        self.primals = tuple(dense(primal) for primal in primals)
        self._ways = [self._mapped, self._one_by_one, self._by_reverse_mode_twice, *([self._by_rows] if rows else [])]
        self._looked = False
        self._first_error: Exception | None = None
        self._matrix: tuple[list[torch.Size], Tensor] | None = None

    def __call__(self, *tangents: Tensor) -> tuple[Tensor, ...]:
        """The tangents [chunk, *shape] of each result, from the tangents of each primal value."""
        given = [
            laid_out_like(tangent.to(primal.dtype), primal)
            for tangent, primal in zip(tangents, self.primals, strict=True)
        ]
        while self._ways:
            try:
                with differentiable_kernels(), DifferentiableKernels(), _MemoryRefused():
                    return self._checked(given, self._ways[0](given))
            except Exception as error:
                raise_if_no_way_helps(error)
                self._first_error = self._first_error or with_message(error).with_traceback(
                    None
                )  # a traceback would keep tensors alive
                self._ways.pop(0)
        assert self._first_error is not None
        raise self._first_error

    def _checked(self, given: Sequence[Tensor], pushed: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Compare the pushed tangents once with reverse mode, and return them if they agree.

        If differences of the function confirm reverse mode, return the tangents by reverse mode twice instead.
        """
        if self._looked or not any(bool(tangent.any()) for tangent in given):
            return pushed
        self._looked = True
        forward = self._ways[0] in (self._mapped, self._one_by_one)
        try:
            with torch.enable_grad():
                pulled, cotangents = self._pull(pushed)
            if _transposed(given, pushed, pulled, cotangents):
                return pushed
            again = self._by_reverse_mode_twice(given) if forward else pushed
        except Exception as error:  # no reverse mode to compare with
            raise_if_no_way_helps(error)
            return pushed
        if not forward:
            self._looked = False
            raise NotImplementedError("torch leaves a part of its backward pass out of the graph")
        differences = self._differences(given)
        if _distance(again, differences) < 0.5 * _distance(pushed, differences):
            self._ways = [self._by_reverse_mode_twice]
            return again
        return pushed

    def _mapped(self, tangents: Sequence[Tensor]) -> tuple[Tensor, ...]:
        pushed: tuple[Tensor, ...] = vmap(lambda *along: jvp(self.function, self.primals, along)[1], randomness="same")(
            *tangents
        )
        return pushed

    def _one_by_one(self, tangents: Sequence[Tensor]) -> tuple[Tensor, ...]:
        pushed = [jvp(self.function, self.primals, along)[1] for along in zip(*tangents, strict=True)]
        return tuple(torch.stack(parts) for parts in zip(*pushed, strict=True))

    def _by_reverse_mode_twice(self, tangents: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            points, results = self._graph()
            cotangents = [torch.zeros_like(result).requires_grad_() for result in results]
            pulled = _gradients(results, points, cotangents, create_graph=True)
            if not any(part.requires_grad for part in pulled):
                raise NotImplementedError("its backward pass cannot be differentiated")
            pushed = [_gradients(pulled, cotangents, along, retain_graph=True) for along in zip(*tangents, strict=True)]
        return tuple(torch.stack(parts) for parts in zip(*pushed, strict=True))

    def _by_rows(self, tangents: Sequence[Tensor]) -> tuple[Tensor, ...]:
        if self._matrix is None:
            with torch.enable_grad():
                points, results = self._graph()
                joined = torch.cat([result.flatten() for result in results])
                rows = len(joined)
                if rows > _MOST_ROWS or rows * sum(point.numel() for point in points) > _LARGEST_MATRIX:
                    raise NotImplementedError(f"it has too many results, {rows}, to differentiate one by one")
                matrix = [
                    torch.cat([part.flatten() for part in _gradients([entry], points, None, retain_graph=True)])
                    for entry in joined
                ]
            self._matrix = [result.shape for result in results], torch.stack(matrix)
        shapes, found = self._matrix
        pushed = torch.cat([tangent.flatten(1) for tangent in tangents], dim=1) @ found.T
        parts = torch.split(pushed, [shape.numel() for shape in shapes], dim=1)
        return tuple(part.reshape(len(part), *shape) for part, shape in zip(parts, shapes, strict=True))

    def _graph(self) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """The primal values as leaves of a new graph, and the results of the function."""
        points = [primal.detach().requires_grad_() for primal in self.primals]
        results = self.function(*points)
        if not any(result.requires_grad for result in results):
            raise NotImplementedError("it has no gradient")
        return points, results

    def _pull(self, pushed: Sequence[Tensor]) -> tuple[tuple[Tensor, ...], list[Tensor]]:
        """Jᵀu in reverse mode, and the random cotangents u, one for each result."""
        stream = torch.Generator().manual_seed(0)
        cotangents = [torch.randn(part.shape[1:], generator=stream).to(part) for part in pushed]
        points, results = self._graph()
        return _gradients(results, points, cotangents), cotangents

    def _differences(self, tangents: Sequence[Tensor]) -> list[Tensor]:
        """Central differences of the results along the first tangent."""
        along = [tangent[0] for tangent in tangents]
        size = max(float(primal.norm()) for primal in self.primals) / max(float(tangent.norm()) for tangent in along)
        step = torch.finfo(along[0].dtype).eps ** (1 / 3) * (size or 1.0)
        ahead, behind = (
            self.function(*[p + sign * step * v for p, v in zip(self.primals, along, strict=True)]) for sign in (1, -1)
        )
        return [(a - b) / (2 * step) for a, b in zip(ahead, behind, strict=True)]


_LARGEST_MATRIX = 2**24
"""Largest number of elements of a Jacobian that is computed row by row."""


class _MemoryRefused(TorchFunctionMode):
    """Raise an error if a network reads the memory of a tensor that depends on the code (`names.MEMORY`).

    Inside `vmap` and `jvp` torch raises the error itself, because values there have no memory. Values in reverse mode
    do have memory.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, unless it reads the memory of a tensor that requires a gradient."""
        name = getattr(func, "__name__", "")
        if name in MEMORY and args and isinstance(args[0], Tensor) and args[0].requires_grad:
            raise NotImplementedError(f"`{name}` reads the memory of a value that depends on the latent code")
        return func(*args, **(kwargs or {}))


def _gradients(
    results: Sequence[Tensor], points: Sequence[Tensor], cotangents: Sequence[Tensor] | None, **options: bool
) -> tuple[Tensor, ...]:
    """The gradient of Σ ⟨cotangent, result⟩ with respect to each tensor in `points`; zeros without dependence."""
    pairs = [
        (result, None if cotangents is None else cotangents[index])
        for index, result in enumerate(results)
        if result.requires_grad
    ]
    given, along = [result for result, _ in pairs], [cotangent for _, cotangent in pairs]
    return torch.autograd.grad(given, points, along, allow_unused=True, materialize_grads=True, **options)


def _transposed(
    tangents: Sequence[Tensor], pushed: Sequence[Tensor], pulled: Sequence[Tensor], cotangents: Sequence[Tensor]
) -> bool:
    """Whether ⟨Jv, u⟩ = ⟨v, Jᵀu⟩ for each tangent v, up to round-off."""
    left, left_size = _product_of(pushed, cotangents)
    right, right_size = _product_of(tangents, pulled)
    allowed = torch.finfo(pushed[0].dtype).eps ** 0.5 * (left_size + right_size)
    return not bool(((left - right).abs() > allowed).any())


def _product_of(tangents: Sequence[Tensor], others: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sums of the products of tangents [chunk, *shape] with tensors [*shape], and of their sizes; [chunk] float64."""
    parts = [(a * b).reshape(len(a), -1).double() for a, b in zip(tangents, others, strict=True)]
    joined = torch.cat(parts, dim=1)
    return joined.sum(1), joined.abs().sum(1)


def _distance(pushed: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Euclidean distance between the first tangent of each result and the wanted tensors."""
    return math.hypot(*(float((a[0] - b).norm()) for a, b in zip(pushed, wanted, strict=True)))


def raise_if_no_way_helps(error: Exception) -> None:
    """Raise on an interrupt or when memory is exhausted. In these cases trying another way is useless."""
    if is_interrupt(error):
        raise KeyboardInterrupt from error
    if is_out_of_memory(error):
        raise error


def dense(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if its numbers overlap in memory or have gaps between them."""
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1:
            if stride != expected:
                return tensor.contiguous() if not tensor.is_contiguous() else tensor
            expected *= size
    return tensor


def laid_out_like(tangents: Tensor, primal: Tensor) -> Tensor:
    """Tangents [chunk, *shape], each with the strides of a dense primal value [*shape]."""
    if primal.is_contiguous():
        return tangents.contiguous()
    if tangents.stride()[1:] == primal.stride():
        return tangents
    laid_out = tangents.new_empty_strided(tangents.shape, (primal.numel(), *primal.stride()))
    return laid_out.copy_(tangents)
