"""Reductions of tangents over axes: sums, means, variances, norms, and others whose derivative is a weighted sum.

The derivative of each is Σ w ∘ dx over the reduced axes. The values determine the weights w: 1 for a sum,
2 (x − μ) / N for a variance, x / ‖x‖ for a norm, softmax(x) for `logsumexp`. A term of dx is a tangent t times a factor
f. The sum of f ∘ w ∘ t is computed without storing the product. Axes along which t is constant are summed once, at the
size of the values. The product over the other axes is computed one tangent at a time, within the CPU's cache.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pullback.metric.forward.names import named
from pullback.metric.forward.tape import Tape, Term, Traced

REDUCTIONS = named("sum mean var std norm vector_norm linalg_vector_norm linalg_norm logsumexp amax amin max min prod")
"""Reductions from one tensor to one tensor that have a rule."""
_AT_ONCE = 2**14
"""If one tangent has at most this many numbers, its products with the weights are computed for all tangents at once."""
_LETTERS = "abcdefghijklmnopqrstuvwxy"


def reduced(tape: Tape, name: str, args: Sequence[Any], kwargs: dict[str, Any], result: Tensor) -> list[Term] | None:
    """The terms of a reduction's tangent; None if the rule does not cover the arguments.

    Args:
        tape: receives the steps.
        name: a member of `REDUCTIONS`.
        args: the traced value, then the other positional arguments of the call.
        kwargs: the keyword arguments of the call.
        result: the reduction of the primal value.
    """
    value: Traced = args[0]
    given = _arguments(name, args[1:], kwargs)
    x = value.primal
    if given is None or not x.is_floating_point() or x.dtype != result.dtype or x.dim() == 0:
        return None
    axes = _axes(given["dim"], x.dim())
    keepdim = bool(given["keepdim"])
    shape = [1 if axis in axes else side for axis, side in enumerate(x.shape)]
    if result.numel() != math.prod(shape) or result.dim() != (x.dim() if keepdim else x.dim() - len(axes)):
        return None
    count = math.prod(x.shape[axis] for axis in axes)
    kept = result.reshape(shape)
    weights: Tensor | float
    match name:
        case "sum":
            weights = 1.0
        case "mean":
            weights = 1 / max(count, 1)
        case "amax" | "amin" | "max" | "min":
            if name in ("max", "min") and (len(args) > 1 or kwargs):
                return None  # with an axis they return indices too; with two values they are elementwise
            equal = (x == kept).to(x.dtype)
            weights = equal / equal.sum(axes, keepdim=True)
        case "prod":
            if not bool((x != 0).all()):
                return None
            weights = kept / x
        case "logsumexp":
            weights = (x - kept).exp()
        case "var" | "std":
            free = count - given["correction"]
            if free <= 0:
                return None
            weights = (x - x.mean(axes, keepdim=True)) * (2 / free)
            if name == "std":
                weights = torch.where(kept == 0, 0, weights / (2 * kept))  # torch also gives 0 if all values are equal
        case _:
            weights = torch.where(kept == 0, 0, x / kept)
    return [contracted(tape, term, weights, x, axes, keepdim) for term in value.terms]


def _arguments(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """`dim`, `keepdim` and `correction` of a call; None if it has other arguments."""
    given = dict(kwargs)
    for alias, usual in (("axis", "dim"), ("keepdims", "keepdim")):
        if alias in given:
            given[usual] = given.pop(alias)
    rest = list(args)
    if name in ("norm", "vector_norm", "linalg_vector_norm", "linalg_norm"):
        order = rest.pop(0) if rest else given.pop("p" if name == "norm" else "ord", None)
        if order not in (None, 2, 2.0, "fro"):
            return None
    correction: Any = 1
    if name in ("var", "std"):
        # var(unbiased), var(dim, unbiased, keepdim), var(dim, *, correction, keepdim)
        if rest and isinstance(rest[0], bool):
            rest.insert(0, None)
        if len(rest) > 1:
            correction = int(rest.pop(1))
        correction = given.pop("correction", int(given.pop("unbiased", correction)))
        if correction is None:
            correction = 1
    made = {"dim": None, "keepdim": False, **dict(zip(("dim", "keepdim"), rest, strict=False))}
    if len(rest) > 2 or given.pop("dtype", None) is not None or given.pop("out", None) is not None:
        return None
    if not given.keys() <= {"dim", "keepdim"} or not isinstance(made["keepdim"], bool):
        return None
    return {**made, **given, "correction": correction}


def _axes(dim: Any, count: int) -> tuple[int, ...]:
    """The reduced axes, counted from the front; all axes if `dim` is missing or empty."""
    listed = [dim] if isinstance(dim, int) else list(dim or range(count))
    return tuple(sorted(axis % count for axis in listed))


def contracted(
    tape: Tape,
    term: Term,
    weights: Tensor | float,
    value: Tensor,
    axes: Sequence[int],
    keepdim: bool,
) -> Term:
    """Σ weights ∘ term over axes, as a term.

    Args:
        tape: receives the step.
        term: a term of the value's tangent.
        weights: broadcast to the value's shape.
        value: the primal value.
        axes: axes to sum over, counted from the front.
        keepdim: whether the summed axes remain, with length 1.
    """
    shape, rank = value.shape, value.dim()
    own = _aligned(tape.shapes[term.slot], rank)
    factor = _product(term.factor, weights, rank)
    scale = 1.0
    for axis in axes:
        if own[axis] == 1 and shape[axis] != 1:  # the tangent is constant along it
            if isinstance(factor, Tensor) and factor.shape[axis] != 1:
                factor = factor.sum(axis, keepdim=True)
            else:
                scale *= shape[axis]
    if scale != 1.0:
        factor = factor * scale
    varying = tuple(axis for axis in axes if own[axis] != 1)
    inside = isinstance(factor, Tensor) and any(factor.shape[axis] != 1 for axis in varying)
    weighed = _broadcast(own, factor.shape) if inside and isinstance(factor, Tensor) else own
    kept = [1 if axis in axes else side for axis, side in enumerate(weighed)]
    final = torch.Size(kept if keepdim else [side for axis, side in enumerate(kept) if axis not in axes])
    if inside:
        assert isinstance(factor, Tensor)
        outer = any(mine == 1 != theirs for mine, theirs in zip(own, factor.shape, strict=True))
        sum_up = _by_einsum(own, factor, varying, final) if outer else _one_by_one(own, factor, varying, final)
        return tape.emit(sum_up, [term.slot], final, [factor])

    def summed(t: Tensor) -> Tensor:
        t = t.reshape(len(t), *own)
        return (t.sum([axis + 1 for axis in varying]) if varying else t).reshape(len(t), *final)

    made = Term(term.slot) if final == tape.shapes[term.slot] else tape.emit(summed, [term.slot], final)
    if isinstance(factor, Tensor):
        factor = factor.reshape([s for axis, s in enumerate(factor.shape) if keepdim or axis not in axes])
        return made.times(factor)
    return made if factor == 1.0 else made.times(value.new_tensor(factor))


def _aligned(shape: Sequence[int], rank: int) -> tuple[int, ...]:
    return (*[1] * (rank - len(shape)), *shape)


def _broadcast(left: Sequence[int], right: Sequence[int]) -> tuple[int, ...]:
    return tuple(max(a, b) if a and b else 0 for a, b in zip(left, right, strict=True))


def _product(factor: Tensor | None, weights: Tensor | float, rank: int) -> Tensor | float:
    """Factor times weights. A tensor gets as many axes as the value."""
    made = weights if factor is None else factor * weights
    return made.reshape(_aligned(made.shape, rank)) if isinstance(made, Tensor) else made


def _one_by_one(
    own: Sequence[int], factor: Tensor, varying: Sequence[int], final: torch.Size
) -> Callable[[Tensor, Tensor], Tensor]:
    """Multiply tangents [chunk, *own] by a factor and sum over axes; large tangents one at a time."""
    axes = list(varying)

    def sum_up(t: Tensor, factor: Tensor) -> Tensor:
        t = t.reshape(len(t), *own)
        if t[0].numel() <= _AT_ONCE:
            return (t * factor).sum([axis + 1 for axis in axes]).reshape(len(t), *final)
        made = t.new_empty(len(t), *(side for axis, side in enumerate(own) if axis not in axes))
        product = t.new_empty(tuple(own))
        for one, into in zip(t, made, strict=True):
            torch.sum(torch.mul(one, factor, out=product), axes, out=into)
        return made.reshape(len(t), *final)

    return sum_up


def _by_einsum(
    own: Sequence[int], factor: Tensor, varying: Sequence[int], final: torch.Size
) -> Callable[[Tensor, Tensor], Tensor]:
    """As `_one_by_one`, for a factor that varies along axes that the tangents lack. This is a matrix product."""
    rank = len(own)
    mine = [axis for axis in range(rank) if own[axis] != 1]
    theirs = [axis for axis in range(rank) if factor.shape[axis] != 1]
    into = [axis for axis in range(rank) if axis in {*mine, *theirs} and axis not in varying]

    def word(axes: Sequence[int]) -> str:
        return "".join(_LETTERS[axis] for axis in axes)

    equation = f"z{word(mine)},{word(theirs)}->z{word(into)}"

    def sum_up(t: Tensor, factor: Tensor) -> Tensor:
        small = t.reshape(len(t), *(own[axis] for axis in mine))
        return torch.einsum(equation, small, factor.reshape([factor.shape[a] for a in theirs])).reshape(len(t), *final)

    return sum_up
