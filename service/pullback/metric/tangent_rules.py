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

_ELEMENTWISE = frozenset(
    [
        "relu",
        "relu6",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "gelu",
        "silu",
        "mish",
        "hardswish",
        "hardtanh",
        "hardsigmoid",
        "softplus",
        "softsign",
        "logsigmoid",
        "tanh",
        "tanhshrink",
        "sigmoid",
        "threshold",
        "exp",
        "expm1",
        "log",
        "log1p",
        "sqrt",
        "rsqrt",
        "square",
        "sin",
        "cos",
        "erf",
        "neg",
        "negative",
        "positive",
        "reciprocal",
        "clamp",
        "clamp_min",
        "clamp_max",
        "clip",
        "pow",
        "abs",
    ]
)
_REARRANGING = frozenset(
    [
        "view",
        "view_as",
        "reshape",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "t",
        "swapaxes",
        "movedim",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "clone",
        "getitem",
        "narrow",
        "select",
        "expand",
        "flip",
        "roll",
        "repeat",
        "tile",
        "pixel_shuffle",
        "pixel_unshuffle",
        "T",
        "mT",
    ]
)
_LINEAR = frozenset(["sum", "mean", "avg_pool2d", "adaptive_avg_pool2d", "cumsum"])
_WEIGHTED = frozenset(
    ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear"]
)
_ARITHMETIC = frozenset(
    [
        "add",
        "radd",
        "sub",
        "rsub",
        "mul",
        "rmul",
        "multiply",
        "div",
        "divide",
        "truediv",
        "rtruediv",
        "true_divide",
        "where",
    ]
)
_JOINING = frozenset(["cat", "concat", "stack"])
_PRODUCTS = frozenset(["matmul", "bmm", "mm"])
_DROPOUT = frozenset(["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"])
_CONSTANT = frozenset(
    [
        "detach",
        "zeros_like",
        "ones_like",
        "empty_like",
        "full_like",
        "rand_like",
        "randn_like",
        "new_zeros",
        "new_ones",
        "new_empty",
        "new_full",
    ]
)
_NUMBERS = frozenset(["item", "tolist", "numpy", "float", "int", "complex", "index"])
_MOST_TERMS = 3
"""A sum of more terms than this is added up at once: each of its readers would have to do it again."""


def trace(func: Func, args: Args, kwargs: Kwargs) -> Any:
    """The value of an operation of which some inputs are traced, with its tangent's terms where it has any."""
    name = _name(func)
    if name in _NUMBERS:
        raise Untraceable(f"`{name}` takes a number out of a tensor that depends on the latent code")
    if _writes(func, kwargs):
        return _written(func, name, args, kwargs)
    with torch._C.DisableTorchFunctionSubclass():
        inputs: list[Traced] = []
        result = func(*_plainly(args, inputs), **_plainly(kwargs, inputs))
        leaves = [result] if isinstance(result, Tensor) else tree_flatten(result)[0]
        found = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if name in _CONSTANT or not found:
            return result  # sizes, flags, masks, indices
        tape = inputs[0].tape
        for leaf in found:
            if any(_storage(leaf) == _storage(plain(value)) for value in inputs):
                tape.viewed.add(_storage(leaf))
        terms = _terms(tape, func, name, args, kwargs, inputs, result) if isinstance(result, Tensor) else None
        return tape.wrap(result, terms) if terms is not None else _by_jvp(tape, func, args, kwargs, result)


def _plainly(tree: Any, found: list[Traced]) -> Any:
    """Arguments with plain tensors in place of traced ones, which are added to those found.

    As pytree's `tree_map`, which takes longer than most operations on a single code.
    """
    if isinstance(tree, Traced):
        found.append(tree)
        return plain(tree)
    if type(tree) in (tuple, list):
        return type(tree)([_plainly(item, found) for item in tree])
    if type(tree) is dict:
        return {key: _plainly(item, found) for key, item in tree.items()}
    return tree


def _name(func: Func) -> str:
    """The operation's name: `add` for torch.add, Tensor.add and Tensor.__add__, `T` for the property of that name."""
    name = str(getattr(func, "__name__", ""))
    if name == "__get__":
        name = str(getattr(getattr(func, "__self__", None), "__name__", ""))
    return name.strip("_") if name.startswith("__") else name


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()


_IN_PLACE = {"__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div"}


def _writes(func: Func, kwargs: Kwargs) -> bool:
    name = str(getattr(func, "__name__", ""))
    single = name.endswith("_") and not name.startswith("_")
    return single or name in _IN_PLACE or name in ("__setitem__", "__set__") or kwargs.get("inplace") is True


def _written(func: Func, name: str, args: Args, kwargs: Kwargs) -> Any:
    """An operation in place, as the one that makes a new value, which then takes the place of the old."""
    target = args[0]
    fresh = _IN_PLACE.get(func.__name__, name.rstrip("_"))
    if kwargs.get("inplace"):
        kwargs = {**kwargs, "inplace": False}
        pure: Func | None = func
    else:
        pure = getattr(torch.Tensor, fresh, None) if func.__name__ not in ("__setitem__", "__set__") else None
    if not isinstance(target, Traced) or pure is None or _storage(plain(target)) in target.tape.viewed:
        raise Untraceable(f"`{func.__name__}` writes into a tensor that others look at")
    result = trace(pure, args, kwargs)
    plain(target).copy_(plain(result))
    target.terms = result.terms
    return target


def _terms(
    tape: Tape, func: Func, name: str, args: Args, kwargs: Kwargs, inputs: list[Traced], result: Tensor
) -> list[Term] | None:
    """The terms of the result's tangent by a rule; None where there is none for this call."""
    if name in _ARITHMETIC:
        return _arithmetic(tape, name, args, kwargs, result)
    if name in _JOINING:
        return _joined(tape, func, args, kwargs, result)
    if name in _PRODUCTS and not kwargs:
        return _product(tape, func, args, result)
    value = args[0] if args else None
    if len(inputs) != 1 or not isinstance(value, Traced):
        return None

    def call(x: Tensor) -> Tensor:
        made: Tensor = func(x, *args[1:], **kwargs)
        return made

    if name in _ELEMENTWISE:
        with torch.enable_grad():  # reverse mode costs less than forward mode where a derivative is a vector
            point = plain(value).detach().requires_grad_()
            (slope,) = torch.autograd.grad(call(point).sum(), point)
        return [term.times(slope) for term in value.terms]
    if name in _DROPOUT and kwargs.get("training") is False:
        return list(value.terms)
    if name in _REARRANGING:
        return _rearranged(tape, name, call, args, value, result)
    if name in ("max_pool2d", "max_pool2d_with_indices"):
        return _max_pool(tape, value, args[1:], kwargs, result)
    if name == "batch_norm":
        return _batch_norm(value, args, kwargs)
    if name == "softmax":
        return _softmax(tape, value, args, kwargs, result)
    if name in _WEIGHTED:
        return weighted(func, value, args[1:], kwargs, result)
    if name in _LINEAR or (name == "pad" and not kwargs.get("value") and len(args) < 4):
        return [tape.emit(vmap(call), [tape.whole(value)], result.shape)]
    if name == "interpolate" and kwargs.get("mode", "nearest") in ("nearest", "bilinear", "area", "bicubic"):
        return _resized(tape, call, kwargs, value, result)
    return None


def _arithmetic(tape: Tape, name: str, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term] | None:
    if kwargs or len(args) < 2 or result.is_complex():
        return None
    if name == "where":
        if len(args) != 3 or isinstance(args[0], Traced):
            return None
        pieces = [(args[1], args[0]), (args[2], ~args[0])]
    else:
        x, y = args[1::-1] if name.startswith("r") else args[:2]
        a, b = plain(x), plain(y)
        match name.removeprefix("r"):
            case "add":
                pieces = [(x, None), (y, None)]
            case "sub":
                pieces = [(x, None), (y, -1.0)]
            case "mul" | "multiply":
                pieces = [(x, b), (y, a)]
            case _ if len(args) == 2:
                pieces = [(x, 1 / b), (y, -result / b if isinstance(y, Traced) else None)]
            case _:
                return None
    by_slot: dict[int, list[Term]] = {}
    for value, factor in pieces:
        if isinstance(value, Traced):
            constant = None if factor is None else torch.as_tensor(factor, dtype=result.dtype, device=result.device)
            for term in value.terms:
                by_slot.setdefault(term.slot, []).append(term if constant is None else term.times(constant))
    terms = [_one(same, result) for same in by_slot.values()]
    return [Term(tape.whole(tape.wrap(result, terms)))] if len(terms) > _MOST_TERMS else terms


def _one(terms: list[Term], result: Tensor) -> Term:
    """Terms of one slot as one."""
    if len(terms) == 1:
        return terms[0]
    one = result.new_ones(())
    return Term(
        terms[0].slot,
        torch.stack(torch.broadcast_tensors(*[one if t.factor is None else t.factor for t in terms])).sum(0),
    )


def _full(tape: Tape, value: Traced) -> tuple[Term, ...]:
    """Terms whose tangents have the value's own shape, so that they can be rearranged like it."""
    shape = plain(value).shape
    if any(tape.shapes[term.slot] != shape for term in value.terms):
        tape.whole(value)
    return value.terms


def _rearranged(
    tape: Tape, name: str, call: Callable[[Tensor], Tensor], args: Args, value: Traced, result: Tensor
) -> list[Term]:
    if name == "getitem" and len(value.terms) == 1 and value.terms[0].factor is None:
        made, places = tape.made_by.get(value.terms[0].slot), args[1]
        everything = (slice(None), Ellipsis)
        some = isinstance(places, tuple) and len(places) > 1 and isinstance(places[1], slice) and places[1].step is None
        if some and isinstance(made, Convolution) and all(p in everything for p in (places[0], *places[2:])):
            return [first_channels(tape, made, places[1], result.shape)]
    shape, terms = plain(value).shape, []
    for term in _full(tape, value):
        moved = tape.emit(vmap(call), [term.slot], result.shape)
        terms.append(moved if term.factor is None else moved.times(call(term.factor.expand(shape))))
    return terms


def _resized(tape: Tape, call: Callable[[Tensor], Tensor], kwargs: Kwargs, value: Traced, result: Tensor) -> list[Term]:
    shape = plain(value).shape
    slot = tape.whole(value)  # at the smaller size, as a rule
    term = tape.emit(_by_samples(call), [slot], result.shape)
    doubled = result.dim() == 4 and list(result.shape[2:]) == [2 * side for side in shape[2:]]
    if doubled and kwargs.get("mode", "nearest") == "nearest":
        tape.made_by[term.slot] = Doubling(slot, result.shape)
    return [term]


def _by_samples(call: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A call that treats samples alike, on [chunk, batch, ...]."""
    return lambda t: call(t.flatten(0, 1)).unflatten(0, t.shape[:2])


def _max_pool(tape: Tape, value: Traced, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term]:
    primal = plain(value)
    index = F.max_pool2d_with_indices(primal, *args, **kwargs)[1].flatten(-2)
    tail = result.shape[-2:]

    def pick(x: Tensor, index: Tensor) -> Tensor:
        wide = index.expand(*x.shape[:-2], index.shape[-1])
        return x.flatten(-2).gather(-1, wide).unflatten(-1, tail)

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
    per_channel = scale.view(1, -1, *([1] * (plain(value).dim() - 2)))
    return [term.times(per_channel) for term in value.terms]


def _softmax(tape: Tape, value: Traced, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term] | None:
    """p = softmax(x) has dp = p ∘ (dx − Σ p ∘ dx)."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
    if not isinstance(dim, int) or plain(value).dtype != result.dtype:
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
    left, right = args[:2]
    terms = []
    if isinstance(left, Traced):
        slot = tape.whole(left)
        terms.append(tape.emit(vmap(func, (0, None)), [slot], result.shape, [plain(right)]))
    if isinstance(right, Traced):
        slot = tape.whole(right)
        terms.append(tape.emit(vmap(lambda t, other: func(other, t), (0, None)), [slot], result.shape, [plain(left)]))
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

    def apply(*tangents: Tensor) -> Any:
        pushed = vmap(lambda *given: jvp(call, primals, given)[1], randomness="same")(*tangents)
        return pushed if len(wanted) > 1 else pushed[0]

    slots = tuple(tape.slot(outputs[index].shape) for index in wanted)
    sources = tuple(tape.whole(leaves[place]) for place in places)
    tape.steps.append(Step(apply, sources, (), slots, exact=primals[0].dtype))
    for index, slot in zip(wanted, slots, strict=True):
        outputs[index] = tape.wrap(outputs[index], [Term(slot)])
    return tree_unflatten(outputs, output_spec)
