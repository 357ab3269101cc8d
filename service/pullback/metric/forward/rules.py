"""Rules of torch operations: the terms of a result's tangent, given the terms of the inputs; see `linearize`.

The following kinds of operations have rules, which are found by name. Torch itself differentiates all others
(`torch_modes`).
- Elementwise: the factor of each term is multiplied by the derivative with respect to the term's value.
- Sums and products of values: the terms of all values are joined, each multiplied by the other value in a product.
- Rearrangements (views, slices, max pooling): the tangent and the factor are rearranged in the same way.
- Linear with fixed weights (convolutions, matrix products, sums): applied to the tangents, without the bias.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from pullback.metric.forward.compositions import composed
from pullback.metric.forward.convolutions import Doubling, weighted
from pullback.metric.forward.elementwise import ARITHMETIC, ELEMENTWISE, arithmetic, elementwise
from pullback.metric.forward.modulation import modulated
from pullback.metric.forward.names import named
from pullback.metric.forward.parts import JOINING, PICKING, SCATTERING, joined, picked, scattered, split
from pullback.metric.forward.products import product
from pullback.metric.forward.rearrangements import REARRANGING, SAME, deferred, full, rearranged
from pullback.metric.forward.reductions import REDUCTIONS, contracted, reduced
from pullback.metric.forward.tape import Step, Tape, Term, Traced, Untraceable, plain
from pullback.metric.forward.torch_modes import Pushforward

Func = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


_LINEAR = named("sum mean cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool2d grid_sample tril triu diff fold")
_CONVOLUTIONS = named("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d")
_WEIGHTED = _CONVOLUTIONS | {"linear"}
_PRODUCTS = named("matmul bmm mm")
_DROPOUT = named("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout")
_CONSTANT = named(
    """
    detach zeros_like ones_like empty_like full_like rand_like randn_like
    new_zeros new_ones new_empty new_full new_tensor
    """
)
_LIKE = named("to type_as view_as reshape_as expand_as")
"""Operations whose further arguments give only a dtype, device or shape."""


def differentiate(
    tape: Tape, func: Func, name: str, args: Args, kwargs: Kwargs, inputs: list[Traced], result: Any
) -> Any:
    """The result of an operation on traced values, with its tensors traced. Tensors without a tangent stay plain.

    Args:
        tape: receives the steps.
        func: the operation.
        name: the name of the operation, whether it is called as a function, a method or an operator.
        args: the positional arguments of the call, with traced values.
        kwargs: the keyword arguments of the call.
        inputs: the traced values among the arguments.
        result: the plain result of the operation for the primal values.
    """
    if name in _CONSTANT or (name in _LIKE and args and not isinstance(args[0], Traced)):
        return result
    if isinstance(result, Tensor):
        later = deferred(tape, func, name, args, kwargs, inputs, result)
        if later is not None:
            return tape.wrap(result, later)
    else:
        parts = split(tape, func, name, args, kwargs, inputs, result)
        if parts is None and name in PICKING:
            parts = picked(tape, name, args, kwargs, inputs, result)
        if parts is None:
            parts = composed(func, name, args, kwargs, result)
        return _by_jvp(tape, func, args, kwargs, result) if parts is None else parts
    terms = _terms(tape, func, name, args, kwargs, inputs, result)
    made = tape.wrap(result, terms) if terms is not None else composed(func, name, args, kwargs, result)
    return _by_jvp(tape, func, args, kwargs, result) if made is None else made


def _terms(
    tape: Tape, func: Func, name: str, args: Args, kwargs: Kwargs, inputs: list[Traced], result: Tensor
) -> list[Term] | None:
    """The terms of the result's tangent by a rule; None if no rule covers the call."""
    if name in ARITHMETIC:
        return arithmetic(tape, func, name, args, kwargs, result)
    if name in JOINING and args:
        return joined(tape, func, args, kwargs, result)
    number = name == "scatter" and any(type(x) is int for x in args[3:4])
    if name in SCATTERING and not kwargs.keys() & {"reduce", "alpha"} and not number:
        return scattered(tape, func, args, kwargs, result)
    if name in _PRODUCTS and not kwargs:
        return product(tape, func, args[0], args[1], result)
    if name in _CONVOLUTIONS and not (args and isinstance(args[0], Traced) and len(inputs) == 1):
        return modulated(tape, func, args, kwargs, result)
    value = args[0] if args else None
    if name in ELEMENTWISE and not (name == "prelu" and len(inputs) > 1):
        return elementwise(tape, func, name, args, kwargs, result)
    if name in ("view_as", "reshape_as", "expand_as") and len(args) == 2 and isinstance(value, Traced):
        shape = result.shape  # the second argument gives only the shape, so its tangent does not matter
        return rearranged(
            tape, name, lambda x: x.expand(shape) if name == "expand_as" else x.reshape(shape), (), value, result
        )
    if name in ("to", "type_as") and isinstance(value, Traced) and result.device == value.primal.device:
        return list(value.terms)
    if len(inputs) != 1 or not isinstance(value, Traced):
        return None
    rest = args[1:]  # without the value: a step that held it would keep it in memory

    def call(x: Tensor) -> Tensor:
        made: Tensor = func(x, *rest, **kwargs)
        return made

    if (name in SAME and result.device == value.primal.device) or result is value.primal:
        return list(value.terms)
    if name in _DROPOUT and kwargs.get("training") is False:
        return list(value.terms)
    if name in REDUCTIONS:
        terms = reduced(tape, name, args, kwargs, result)
        if terms is not None:
            return terms
    if name in REARRANGING and func is not F.unfold and result.dtype == value.primal.dtype:
        return rearranged(tape, name, call, rest, value, result)
    if name in ("max_pool2d", "max_pool2d_with_indices"):
        return _max_pool(tape, value, rest, kwargs, result)
    if func is F.batch_norm:  # torch.batch_norm has another argument order
        return _batch_norm(value, args, kwargs)
    if name == "softmax":
        return _softmax(tape, value, args, kwargs, result)
    if name in _WEIGHTED:
        return weighted(func, value, rest, kwargs, result)
    if name == "pad":
        return _padded(tape, value, rest, kwargs, result)
    if name == "cumprod" and bool((value.primal != 0).all()):
        return _running_product(tape, value, args, kwargs, result)
    if name in _LINEAR:
        return [tape.emit(vmap(call), [tape.whole(value)], result.shape)]
    if name == "interpolate":
        return _resized(tape, call, kwargs, value, result)
    return None


def _resized(tape: Tape, call: Callable[[Tensor], Tensor], kwargs: Kwargs, value: Traced, result: Tensor) -> list[Term]:
    shape = value.primal.shape
    slot = tape.whole(value)  # add the terms up before resizing, usually at the smaller size
    term = tape.emit(_by_samples(call), [slot], result.shape)
    doubled = result.dim() == 4 and list(result.shape[2:]) == [2 * side for side in shape[2:]]
    scale = kwargs.get("scale_factor")  # a scale of 2.2 may double the size, but repeats other pixels
    exact = scale in (None, 2, (2, 2), [2, 2]) or kwargs.get("recompute_scale_factor")
    if doubled and exact and kwargs.get("mode", "nearest") in ("nearest", "nearest-exact"):
        tape.made_by[term.slot] = Doubling(slot, result.shape)
    return [term]


def _padded(tape: Tape, value: Traced, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term] | None:
    given = {**dict(zip(("pad", "mode", "value"), args, strict=False)), **kwargs}
    pad, mode = tuple(given["pad"]), given.get("mode", "constant")

    def widen(t: Tensor) -> Tensor:
        return F.pad(t, pad, mode)

    widened: Callable[[Tensor], Tensor] = widen
    if mode != "constant":  # constant padding gives zero tangents for any value, and takes any number of axes
        widened = _by_samples(widen) if value.primal.dim() >= len(pad) // 2 + 2 else vmap(widen)
    return [tape.emit(widened, [tape.whole(value)], result.shape)]


def _running_product(tape: Tape, value: Traced, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term] | None:
    """y = cumprod(x) has dy = y ∘ cumsum(dx / x), if x has no zero."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not isinstance(dim, int) or value.primal.dtype != result.dtype:
        return None
    axis = dim if dim < 0 else dim - result.dim()
    terms = [term.times(1 / value.primal) for term in value.terms]
    slot = tape.whole(tape.wrap(result, terms))
    return [tape.emit(lambda t: t.cumsum(axis), [slot], result.shape).times(result)]


def _by_samples(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Turn a call that treats samples independently into a call on [chunk, batch, ...]."""

    def by_samples(t: Tensor) -> Tensor:
        made = call(t.flatten(0, 1))
        return made.view(*t.shape[:2], *made.shape[1:])

    return by_samples


def _max_pool(tape: Tape, value: Traced, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term]:
    primal = value.primal
    index = F.max_pool2d_with_indices(primal, *args, **kwargs)[1].flatten(-2)
    tail = result.shape[-2:]

    def pick(x: Tensor, index: Tensor) -> Tensor:
        wide = index.expand(*x.shape[:-2], index.shape[-1])
        return x.flatten(-2).gather(-1, wide).reshape(*x.shape[:-2], *tail)

    terms = []
    for term in full(tape, value):
        picked = tape.emit(pick, [term.slot], result.shape, [index])
        terms.append(picked if term.factor is None else picked.times(pick(term.factor.expand(primal.shape), index)))
    return terms


def _batch_norm(value: Traced, args: Args, kwargs: Kwargs) -> list[Term] | None:
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    if given.get("training") or given.get("running_var") is None:
        return None
    scale = (given["running_var"] + given.get("eps", 1e-5)).rsqrt()
    if given.get("weight") is not None:
        scale = scale * given["weight"]
    per_channel = scale.view(1, -1, *([1] * (value.primal.dim() - 2)))
    return [term.times(per_channel) for term in value.terms]


def _softmax(tape: Tape, value: Traced, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term] | None:
    """p = softmax(x) has dp = p ∘ (dx − Σ p ∘ dx)."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not isinstance(dim, int) or value.primal.dtype != result.dtype:
        return None
    axis = dim if dim < 0 else dim - result.dim()
    slot = tape.whole(value)
    mean = contracted(tape, Term(slot), result, value.primal, (axis % result.dim(),), keepdim=True)
    return [Term(slot, result), mean.times(-result)]


def _by_jvp(tape: Tape, func: Func, args: Args, kwargs: Kwargs, result: Any) -> Any:
    """The result of any operation, differentiated by torch itself at its inputs; see `torch_modes`."""
    leaves, spec = tree_flatten((args, kwargs))
    places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Traced)]
    fixed = [plain(leaf) for leaf in leaves]
    outputs, output_spec = tree_flatten(result)
    wanted = [i for i, leaf in enumerate(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]

    def call(*values: Tensor) -> tuple[Tensor, ...]:
        filled = list(fixed)
        for place, value in zip(places, values, strict=True):
            filled[place] = value
        call_args, call_kwargs = tree_unflatten(filled, spec)
        found = tree_flatten(func(*call_args, **call_kwargs))[0]
        return tuple(found[index] for index in wanted)

    primals = [fixed[place] for place in places]
    if torch.is_autocast_enabled(primals[0].device.type):
        raise Untraceable(f"`{func.__name__}` would have to be done again in autocast")
    tape.fallbacks.append(getattr(func, "__name__", str(func)))
    push = Pushforward(call, primals)

    def apply(*tangents: Tensor) -> Any:
        pushed = push(*tangents)
        return pushed if len(wanted) > 1 else pushed[0]

    slots = tuple(tape.slot(outputs[index].shape) for index in wanted)
    sources = tuple(tape.whole(leaves[place]) for place in places)
    tape.steps.append(Step(apply, sources, (), slots))
    for index, slot in zip(wanted, slots, strict=True):
        outputs[index] = tape.wrap(outputs[index], [Term(slot)])
    return tree_unflatten(outputs, output_spec)
