"""Elementwise operations: each term of a value is multiplied by the operation's derivative with respect to the value.

Sums and products of values have explicit formulas. The derivative of any other elementwise operation is computed in
reverse mode. That is cheaper than forward mode here, because each number of the result depends on one number per value.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from pullback.metric.forward.names import named
from pullback.metric.forward.tape import Tape, Term, Traced, plain

Func = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]

_FLAT = named("relu relu6 hardtanh hardsigmoid hardswish threshold clamp clamp_min clamp_max clip")
"""Elementwise operations that are constant over a range. Infinite tangents in that range contribute zero."""
ELEMENTWISE = _FLAT | named(
    """
    leaky_relu prelu elu selu celu gelu silu mish softplus softsign logsigmoid log_sigmoid tanh tanhshrink sigmoid expit
    hardshrink softshrink exp exp2 expm1 log log2 log10 log1p sqrt rsqrt square sin cos tan asin acos atan arcsin
    arccos arctan sinh cosh asinh acosh atanh arcsinh arccosh arctanh sinc erf erfc erfinv erfcx neg negative
    reciprocal pow rpow float_power abs absolute fabs atan2 arctan2 hypot maximum minimum fmax fmin copysign ldexp
    logaddexp logaddexp2 xlogy xlog1py addcdiv lerp remainder fmod mod rmod nan_to_num frac fix trunc ceil floor round
    sign deg2rad rad2deg lgamma digamma polygamma mvlgamma logit i0 i0e i1 i1e ndtr ndtri log_ndtr entr
    """
)
ARITHMETIC = named("add radd sub rsub mul rmul multiply div rdiv divide truediv rtruediv true_divide where addcmul")
_MOST_TERMS = 3
"""A sum of more terms than this is added up at once. Otherwise each of its readers would repeat the addition."""


def elementwise(tape: Tape, func: Func, name: str, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term] | None:
    """Each term times the derivative with respect to its value; None if broadcast arguments change the result's shape.

    The derivative is computed in reverse mode, which is cheaper than forward mode here.
    """
    leaves, spec = tree_flatten((args, kwargs))
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Traced)]
    filled = [plain(leaf) for leaf in leaves]
    with torch.enable_grad():
        for place in places:  # broadcast to the result: another argument may be larger
            filled[place] = filled[place].expand(result.shape).detach().requires_grad_()
        call_args, call_kwargs = tree_unflatten(filled, spec)
        made = func(*call_args, **call_kwargs)
        if made.shape != result.shape:
            return None
        points = [filled[place] for place in places]
        slopes = torch.autograd.grad(made.sum(), points, allow_unused=True, materialize_grads=True)
    by_slot: dict[int, list[Term]] = {}
    for place, slope in zip(places, slopes, strict=True):
        for term in leaves[place].terms:
            scaled = term.within(slope) if name in _FLAT else term.times(slope)
            by_slot.setdefault(term.slot, []).append(scaled)
    return _joined_by_slot(tape, by_slot, result)


def arithmetic(tape: Tape, func: Func, name: str, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term] | None:
    """The terms of a sum, product, quotient or choice of two values; None for any other form of the call."""
    if kwargs or len(args) != (3 if name in ("where", "addcmul") else 2):
        return None
    if name == "where":
        mask = args[0]
        if func is not torch.where or isinstance(mask, Traced) or mask.dtype is not torch.bool:
            return None
        pieces = [(args[1], mask), (args[2], ~mask)]
    elif name == "addcmul":
        pieces = [(args[0], None), (args[1], plain(args[2])), (args[2], plain(args[1]))]
    else:
        x, y = args[::-1] if name.startswith("r") else args
        a, b = plain(x), plain(y)
        match name.removeprefix("r"):
            case "add":
                pieces = [(x, None), (y, None)]
            case "sub":
                pieces = [(x, None), (y, -1.0)]
            case "mul" | "multiply":
                pieces = [(x, b), (y, a)]
            case _:
                pieces = [(x, 1 / b), (y, -result / b if isinstance(y, Traced) else None)]
    by_slot: dict[int, list[Term]] = {}
    for value, factor in pieces:
        if isinstance(value, Traced):
            constant = None if factor is None else torch.as_tensor(factor, dtype=result.dtype, device=result.device)
            for term in value.terms:
                if constant is not None:
                    term = term.within(constant) if name == "where" else term.times(constant)
                by_slot.setdefault(term.slot, []).append(term)
    return _joined_by_slot(tape, by_slot, result)


def _joined_by_slot(tape: Tape, by_slot: dict[int, list[Term]], result: Tensor) -> list[Term]:
    """One term for each slot, or a single term if there would be many."""
    terms = [_one(same, result) for same in by_slot.values()]
    return [Term(tape.whole(tape.wrap(result, terms)))] if len(terms) > _MOST_TERMS else terms


def _one(terms: list[Term], result: Tensor) -> Term:
    """Merge terms of the same slot into one term."""
    if len(terms) == 1:
        return terms[0]
    total = result.new_zeros(())
    for term in terms:
        total = total + (1 if term.factor is None else term.factor)
    return Term(terms[0].slot, total)
