"""Rearrangements of tangents: views, permutations, slices, and other operations that move numbers unchanged.

The tangent [chunk, ...] and the constant factor of a term are rearranged in the same way. Common rearrangements act
directly on the tangents, which have one more leading axis. The others use `vmap`, whose bookkeeping takes longer than
the rearrangement itself.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn import functional as F

from pullback.metric.forward.convolutions import Convolution, first_channels
from pullback.metric.forward.names import named
from pullback.metric.forward.structures import is_small
from pullback.metric.forward.tape import Deferred, Tape, Term, Traced

RESHAPING = named("view view_as reshape reshape_as flatten unflatten squeeze unsqueeze ravel")
PERMUTING = named("permute transpose t T mT swapaxes swapdims movedim moveaxis adjoint")
REARRANGING = (
    RESHAPING
    | PERMUTING
    | named("""
        getitem narrow select expand expand_as broadcast_to flip fliplr flipud rot90 roll repeat repeat_interleave tile
        pixel_shuffle pixel_unshuffle channel_shuffle index_select gather take_along_dim diagonal unfold movedim
        """)
)
SPLITTING = named("chunk split split_with_sizes tensor_split hsplit vsplit dsplit unbind")
"""Rearrangements that return several parts."""
SAME = named("clone contiguous positive to type float double half bfloat16")
"""Operations that keep the numbers, but may change their layout or dtype."""

Call = Callable[[Tensor], Tensor]


def for_tangents(name: str, call: Call, rest: Sequence[Any], shape: Sequence[int], result: Sequence[int]) -> Call:
    """Turn a rearrangement of values into a rearrangement of tangents.

    Args:
        name: a member of `REARRANGING`.
        call: the rearrangement of one value.
        rest: the positional arguments after the value.
        shape: the shape of the value.
        result: the shape of the rearranged value.
    """
    into = tuple(result)
    if name in RESHAPING:  # `reshape`, not `view`: the memory order of the tangent may differ from the value's
        return lambda t: t.reshape(len(t), *into)
    if name in PERMUTING:
        # Find the order of the axes: permute a tensor whose sides all differ, and see where each side ends up.
        order = [side - 2 for side in call(torch.empty(tuple(range(2, 2 + len(shape))), device="meta")).shape]
        axes = (0, *(axis + 1 for axis in order))
        return lambda t: t.permute(axes)
    if name in ("expand", "expand_as", "broadcast_to"):
        front = (1,) * (len(into) - len(shape))
        return lambda t: t.reshape(len(t), *front, *t.shape[1:]).expand(len(t), *into)
    if name == "getitem":
        places = rest[0] if isinstance(rest[0], tuple) else (rest[0],)
        if all(place is None or place is Ellipsis or type(place) in (int, slice) for place in places):
            everywhere = (slice(None), *places)
            return lambda t: t[everywhere]
    mapped: Call = vmap(call)
    return mapped


def for_constants(name: str, call: Call, result: Sequence[int]) -> Call:
    """Turn a rearrangement of values into one of constants of the same shape, whose memory order may differ."""
    into = tuple(result)
    return (lambda x: x.reshape(into)) if name in RESHAPING else call


def part_of(index: int, name: str, call: Callable[[Tensor], Sequence[Tensor]]) -> Call:
    """A function that returns one part of a value that is split into several."""
    return lambda x: call(x)[index]


def rearranged(tape: Tape, name: str, call: Call, rest: Sequence[Any], value: Traced, result: Tensor) -> list[Term]:
    """The terms of a rearranged value. `call` is the rearrangement, and `rest` holds its arguments after the value."""
    shape, terms = value.primal.shape, []
    if name == "getitem" and len(value.terms) == 1 and value.terms[0].factor is None:
        slot, channels = value.terms[0].slot, _channels(rest[0])
        made = tape.made_by.get(slot)
        if channels is not None and isinstance(made, Convolution) and tape.shapes[slot] == shape:
            return [first_channels(tape, made, channels, result.shape)]
    fixed = for_constants(name, call, result.shape)
    for term in full(tape, value):
        moved = tape.emit(for_tangents(name, call, rest, shape, result.shape), [term.slot], result.shape)
        terms.append(moved if term.factor is None else moved.times(fixed(term.factor.expand(shape))))
    return terms


def full(tape: Tape, value: Traced) -> tuple[Term, ...]:
    """Terms whose tangents have the full shape of the value, so that they can be rearranged like the value."""
    shape = value.primal.shape
    if any(tape.shapes[term.slot] != shape for term in value.terms):
        tape.whole(value)
    return value.terms


def _channels(places: Any) -> slice | None:
    """The slice of channels if an index selects channels only; else None."""
    if not isinstance(places, tuple) or len(places) < 2 or not isinstance(places[1], slice) or places[1].step:
        return None
    others = [isinstance(place, slice) and place == slice(None) for place in (places[0], *places[2:])]
    return places[1] if all(others) or (others[0] and places[2:] == (Ellipsis,)) else None


def deferred(
    tape: Tape,
    func: Callable[..., Any],
    name: str,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    inputs: list[Traced],
    result: Tensor,
) -> Deferred | None:
    """Defer the rearrangement of a value whose tangent depends on few numbers, because readers may need only these."""
    if name not in REARRANGING | SAME or len(inputs) != 1 or not args or args[0] is not inputs[0]:
        return None
    value, rest = tape.wrap(inputs[0].primal, inputs[0].kept), args[1:]  # a snapshot: the value may be overwritten
    reference_tensor = result.dtype == value.primal.dtype and result.device == value.primal.device
    if not reference_tensor or func is F.unfold or not is_small(tape, value):
        return None

    def call(x: Tensor) -> Tensor:
        made: Tensor = func(x, *rest, **kwargs)
        return made

    if name in SAME:
        return Deferred(value, lambda x: x, lambda: value.terms)
    return Deferred(
        value, for_constants(name, call, result.shape), lambda: rearranged(tape, name, call, rest, value, result)
    )
