"""What each torch operation does to the terms of a tangent; see `linearize`.

Operations of these kinds have rules, found by name; every other is differentiated by `torch.func.jvp` at its inputs.
- Elementwise, of one traced value: each term's factor is multiplied by the derivative.
- Sums and products of values: their terms are joined, each multiplied by what the other value is.
- Rearrangements (views, slices, max pooling): the tangent and the factor are rearranged alike.
- Linear with fixed weights (convolutions, products with a matrix, sums): applied to the tangents, without the bias.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten, tree_unflatten

from pullback.metric.linearize import Step, Tape, Term, Traced, Untraceable, plain
from pullback.metric.tangent_convolutions import Convolution, Doubling, first_channels, weighted

Func = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FLAT = _names("relu relu6 hardtanh hardsigmoid hardswish threshold clamp clamp_min clamp_max clip")
"""Elementwise, and zero over a range: what is infinite there is hidden."""
_ELEMENTWISE = _FLAT | _names(
    """
    leaky_relu elu selu celu gelu silu mish softplus softsign logsigmoid tanh tanhshrink sigmoid
    exp expm1 log log1p sqrt rsqrt square sin cos erf neg negative reciprocal pow abs
    """
)
_REARRANGING = _names(
    """
    view view_as reshape flatten unflatten permute transpose t T mT swapaxes movedim squeeze unsqueeze
    getitem narrow select expand flip roll repeat tile pixel_shuffle pixel_unshuffle
    """
)
_LINEAR = _names("sum mean cumsum avg_pool2d adaptive_avg_pool2d grid_sample")
_WEIGHTED = _names("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear")
_ARITHMETIC = _names("add radd sub rsub mul rmul multiply div rdiv divide truediv rtruediv true_divide where addcmul")
_JOINING = _names("cat concat concatenate stack")
_PRODUCTS = _names("matmul bmm mm")
_SAME = _names("clone contiguous positive to type float double half bfloat16")
"""The same numbers in another layout or dtype."""
_DROPOUT = _names("dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout")
_CONSTANT = _names(
    """
    detach zeros_like ones_like empty_like full_like rand_like randn_like
    new_zeros new_ones new_empty new_full new_tensor
    """
)
_MOST_TERMS = 3
"""A sum of more terms than this is added up at once: each of its readers would have to do it again."""


def differentiate(
    tape: Tape, func: Func, name: str, args: Args, kwargs: Kwargs, inputs: list[Traced], result: Any
) -> Any:
    """The result of an operation on traced values, with its tensors traced too; as it is where its tangent is zero.

    Args:
        tape: to add steps to.
        func: the operation.
        name: what it is called, whether as a function, a method or an operator.
        args: as it was called, with its traced values.
        kwargs: the same.
        inputs: the traced values among them.
        result: of ordinary tensors, what it has returned for their primal values.
    """
    if name in _CONSTANT:
        return result
    if not isinstance(result, Tensor):
        return _by_jvp(tape, func, args, kwargs, result)
    terms = _terms(tape, func, name, args, kwargs, inputs, result)
    return _by_jvp(tape, func, args, kwargs, result) if terms is None else tape.wrap(result, terms)


def _terms(
    tape: Tape, func: Func, name: str, args: Args, kwargs: Kwargs, inputs: list[Traced], result: Tensor
) -> list[Term] | None:
    """The terms of the result's tangent by a rule; None where there is none for this call."""
    if name in _ARITHMETIC:
        return _arithmetic(tape, func, name, args, kwargs, result)
    if name in _JOINING and args:
        return _joined(tape, func, args, kwargs, result)
    if name in _PRODUCTS and not kwargs:
        return _product(tape, func, args, result)
    value = args[0] if args else None
    if len(inputs) != 1 or not isinstance(value, Traced):
        return None
    rest = args[1:]  # a step that held the value too would keep it in memory

    def call(x: Tensor) -> Tensor:
        made: Tensor = func(x, *rest, **kwargs)
        return made

    if (name in _SAME and result.device == value.primal.device) or result is value.primal:
        return list(value.terms)
    if name in _DROPOUT and kwargs.get("training") is False:
        return list(value.terms)
    if name in _ELEMENTWISE:
        slope = _slope(call, value.primal, result)
        return [term.within(slope) if name in _FLAT else term.times(slope) for term in value.terms]
    if name in _REARRANGING and result.dtype == value.primal.dtype:
        return _rearranged(tape, name, call, rest, value, result)
    if name in ("max_pool2d", "max_pool2d_with_indices"):
        return _max_pool(tape, value, rest, kwargs, result)
    if func is F.batch_norm:  # torch.batch_norm takes them in another order
        return _batch_norm(value, args, kwargs)
    if name == "softmax":
        return _softmax(tape, value, args, kwargs, result)
    if name in _WEIGHTED:
        return weighted(func, value, rest, kwargs, result)
    if name in _LINEAR or (name == "pad" and not kwargs.get("value") and len(args) < 4):
        return [tape.emit(vmap(call), [tape.whole(value)], result.shape)]
    if name == "interpolate":
        return _resized(tape, call, kwargs, value, result)
    return None


def _slope(call: Callable[[Tensor], Tensor], x: Tensor, result: Tensor) -> Tensor:
    """The derivative of an elementwise operation, by reverse mode, which costs less than forward mode there."""
    with torch.enable_grad():
        point = x.expand(result.shape).detach().requires_grad_()  # another argument may be larger
        (slope,) = torch.autograd.grad(call(point).sum(), point)
    return slope


def _arithmetic(tape: Tape, func: Func, name: str, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term] | None:
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
    terms = [_one(same, result) for same in by_slot.values()]
    return [Term(tape.whole(tape.wrap(result, terms)))] if len(terms) > _MOST_TERMS else terms


def _one(terms: list[Term], result: Tensor) -> Term:
    """Terms of one slot as one."""
    if len(terms) == 1:
        return terms[0]
    total = result.new_zeros(())
    for term in terms:
        total = total + (1 if term.factor is None else term.factor)
    return Term(terms[0].slot, total)


def _full(tape: Tape, value: Traced) -> tuple[Term, ...]:
    """Terms whose tangents have the value's own shape, so that they can be rearranged like it."""
    shape = value.primal.shape
    if any(tape.shapes[term.slot] != shape for term in value.terms):
        tape.whole(value)
    return value.terms


def _rearranged(
    tape: Tape, name: str, call: Callable[[Tensor], Tensor], rest: Args, value: Traced, result: Tensor
) -> list[Term]:
    shape, terms = value.primal.shape, []
    if name == "getitem" and len(value.terms) == 1 and value.terms[0].factor is None:
        slot, channels = value.terms[0].slot, _channels(rest[0])
        made = tape.made_by.get(slot)
        if channels is not None and isinstance(made, Convolution) and tape.shapes[slot] == shape:
            return [first_channels(tape, made, channels, result.shape)]
    for term in _full(tape, value):
        moved = tape.emit(vmap(call), [term.slot], result.shape)
        terms.append(moved if term.factor is None else moved.times(call(term.factor.expand(shape))))
    return terms


def _channels(places: Any) -> slice | None:
    """The slice of channels, where an index is of nothing else."""
    if not isinstance(places, tuple) or len(places) < 2 or not isinstance(places[1], slice) or places[1].step:
        return None
    others = [isinstance(place, slice) and place == slice(None) for place in (places[0], *places[2:])]
    return places[1] if all(others) or (others[0] and places[2:] == (Ellipsis,)) else None


def _resized(tape: Tape, call: Callable[[Tensor], Tensor], kwargs: Kwargs, value: Traced, result: Tensor) -> list[Term]:
    shape = value.primal.shape
    slot = tape.whole(value)  # at the smaller size, as a rule
    term = tape.emit(_by_samples(call), [slot], result.shape)
    doubled = result.dim() == 4 and list(result.shape[2:]) == [2 * side for side in shape[2:]]
    scale = kwargs.get("scale_factor")  # a scale of 2.2 may double the size, and yet repeat other pixels
    exact = scale in (None, 2, (2, 2), [2, 2]) or kwargs.get("recompute_scale_factor")
    if doubled and exact and kwargs.get("mode", "nearest") in ("nearest", "nearest-exact"):
        tape.made_by[term.slot] = Doubling(slot, result.shape)
    return [term]


def _by_samples(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A call that treats samples alike, on [chunk, batch, ...]."""

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
        return x.flatten(-2).gather(-1, wide).view(*x.shape[:-2], *tail)

    terms = []
    for term in _full(tape, value):
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
    mean = tape.emit(
        lambda t, p: (t * p).sum(axis, keepdim=True), [slot], result.sum(axis, keepdim=True).shape, [result]
    )
    return [Term(slot, result), Term(mean.slot, -result)]


def _joined(tape: Tape, func: Func, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term]:
    parts, rest = list(args[0]), args[1:]
    places = [index for index, part in enumerate(parts) if isinstance(part, Traced)]
    shapes = [plain(part).shape for part in parts]

    def join(*tangents: Tensor) -> Tensor:
        zero = tangents[0].new_zeros(())
        whole = [zero.expand(len(tangents[0]), *shape) for shape in shapes]
        for place, tangent in zip(places, tangents, strict=True):
            whole[place] = tangent
        joined: Tensor = vmap(lambda *values: func(list(values), *rest, **kwargs))(*whole)
        return joined

    return [tape.emit(join, [tape.whole(parts[place]) for place in places], result.shape)]


def _product(tape: Tape, func: Func, args: Args, result: Tensor) -> list[Term]:
    left, right = args

    def turned(tangent: Tensor, other: Tensor) -> Tensor:
        made: Tensor = func(other, tangent)
        return made

    terms = []
    if isinstance(left, Traced):
        terms.append(tape.emit(vmap(func, (0, None)), [tape.whole(left)], result.shape, [plain(right)]))
    if isinstance(right, Traced):
        terms.append(tape.emit(vmap(turned, (0, None)), [tape.whole(right)], result.shape, [plain(left)]))
    return terms


def _by_jvp(tape: Tape, func: Func, args: Args, kwargs: Kwargs, result: Any) -> Any:
    """Any operation, by forward-mode differentiation at its inputs."""
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

    primals = tuple(fixed[place] for place in places)
    if torch.is_autocast_enabled(primals[0].device.type):
        raise Untraceable(f"`{func.__name__}` would have to be done again in autocast")

    def apply(*tangents: Tensor) -> Any:
        exact = [tangent.to(primal.dtype) for tangent, primal in zip(tangents, primals, strict=True)]
        pushed = vmap(lambda *given: jvp(call, primals, given)[1])(*exact)
        return pushed if len(wanted) > 1 else pushed[0]

    slots = tuple(tape.slot(outputs[index].shape) for index in wanted)
    sources = tuple(tape.whole(leaves[place]) for place in places)
    tape.steps.append(Step(apply, sources, (), slots))
    for index, slot in zip(wanted, slots, strict=True):
        outputs[index] = tape.wrap(outputs[index], [Term(slot)])
    return tree_unflatten(outputs, output_spec)
