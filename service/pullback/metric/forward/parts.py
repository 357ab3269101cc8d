"""Operations that take values apart and join them: splits, picks along an axis, joins, scatters."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_flatten, tree_unflatten

from pullback.metric.forward.names import named
from pullback.metric.forward.rearrangements import SPLITTING, part_of, rearranged
from pullback.metric.forward.tape import Tape, Term, Traced, plain

Func = Callable[..., Any]
Args = tuple[Any, ...]
Kwargs = dict[str, Any]

JOINING = named("cat concat concatenate stack hstack vstack dstack column_stack row_stack")
PICKING = {"max": 1, "min": 1, "sort": 1, "topk": 2, "kthvalue": 2, "median": 1, "nanmedian": 1, "mode": 1}
"""Operations that pick values along an axis and return their indices; and the position of the axis argument."""
SCATTERING = named(
    "index_add index_copy index_put scatter scatter_add masked_scatter select_scatter slice_scatter diagonal_scatter"
)
"""Operations that are jointly linear in a tensor and in the values put into it."""


def split(
    tape: Tape, func: Func, name: str, args: Args, kwargs: Kwargs, inputs: list[Traced], result: Any
) -> Any | None:
    """The parts of a value that is split into views; None if the operation is no split."""
    if name not in SPLITTING or len(inputs) != 1 or not args or args[0] is not inputs[0]:
        return None
    rest = args[1:]

    def call(x: Tensor) -> Sequence[Tensor]:
        made: Sequence[Tensor] = func(x, *rest, **kwargs)
        return made

    value = inputs[0]
    parts = []
    for index, part in enumerate(result):
        terms = rearranged(tape, name, part_of(index, name, call), rest, value, part)
        parts.append(tape.wrap(part, terms))
    return type(result)(parts)


def picked(tape: Tape, name: str, args: Args, kwargs: Kwargs, inputs: list[Traced], result: Any) -> Any | None:
    """The values that an operation picks along an axis, and their indices; None if no rule covers the call."""
    if len(inputs) != 1 or not args or args[0] is not inputs[0] or inputs[0].primal.dim() == 0:
        return None
    value, (values, indices) = inputs[0], result
    place = PICKING[name]
    axis = kwargs.get("dim", args[place] if len(args) > place and type(args[place]) is int else -1)
    axis %= value.primal.dim()
    dropped = indices.dim() < value.primal.dim()
    at = indices.unsqueeze(axis) if dropped else indices

    def pick(x: Tensor) -> Tensor:
        made = x.gather(axis, at)
        return made.squeeze(axis) if dropped else made

    if not torch.equal(pick(value.primal), values):
        return None
    return type(result)((tape.wrap(values, rearranged(tape, name, pick, (), value, values)), indices))


def joined(tape: Tape, func: Func, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term]:
    """The tangents, joined like the values. Constant parts have zero tangents."""
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


def scattered(tape: Tape, func: Func, args: Args, kwargs: Kwargs, result: Tensor) -> list[Term] | None:
    """The tangents, put at the places of the values. Constants put zeros."""
    leaves, spec = tree_flatten((args, kwargs))
    traced = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Traced)]
    fixed = [leaf.new_zeros(leaf.shape) if _is_float(leaf) and index not in traced else leaf
             for index, leaf in enumerate(leaves)]  # fmt: skip
    fixed = [0.0 if isinstance(leaf, float) else leaf for leaf in fixed]  # a constant number that is put

    def put(*values: Tensor) -> Tensor:
        filled = list(fixed)
        for index, value in zip(traced, values, strict=True):
            filled[index] = value
        call_args, call_kwargs = tree_unflatten(filled, spec)
        made: Tensor = func(*call_args, **call_kwargs)
        return made

    for index in traced:
        fixed[index] = None
    return [tape.emit(vmap(put), [tape.whole(leaves[index]) for index in traced], result.shape)]


def _is_float(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
