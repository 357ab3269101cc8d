"""Tangents of values that are a fixed array times a few numbers, such as modulated weights.

The weight of a modulated convolution is W ∘ s ∘ d, with one style s per input channel and one demodulation factor d per
output channel. Its tangent W ∘ d ∘ ds + W ∘ s ∘ dd has as many numbers as the weight, for each tangent, but it need not
be computed. Convolving an image x with the first part equals convolving ds ∘ x with W ∘ d. Convolving x with the second
part gives dd times a known result. `pieces` finds how each number of the weight depends on the few numbers, through any
views, transpositions and flips.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pullback.metric.forward.tape import Deferred, Tape, Term, Traced


@dataclass(frozen=True)
class Piece:
    """A part of a value's tangent: factor ∘ t[index], where t is the tangent in a slot.

    Attributes:
        slot: the slot of the tangent t.
        index: for each number of the value, the position of its number in t.
        factor: a constant of the value's shape.
    """

    slot: int
    index: Tensor
    factor: Tensor

    def depends_on(self, *axes: int) -> bool:
        """Whether the index changes along any of the axes."""
        return any(bool((self.index != self.index.narrow(axis, 0, 1)).any()) for axis in axes)


def is_small(tape: Tape, value: Traced) -> bool:
    """Whether a part of the value's tangent has at most half as many numbers as the value."""
    count = value.primal.numel()
    return value.is_deferred or any(2 * tape.shapes[term.slot].numel() <= count for term in value.terms)


def pieces(tape: Tape, value: Traced) -> list[Piece]:
    """The parts of a value's tangent, with all deferred rearrangements applied to their index and factor."""
    calls: list[Callable[[Tensor], Tensor]] = []
    while isinstance(value.kept, Deferred):
        calls.insert(0, value.kept.call)
        value = value.kept.source
    made = []
    for term in value.terms:
        shape, own = value.primal.shape, tape.shapes[term.slot]
        aligned = (*[1] * (len(shape) - len(own)), *own)
        index = torch.arange(own.numel(), device=value.primal.device).view(aligned).expand(shape)
        factor = value.primal.new_ones(()) if term.factor is None else term.factor
        factor = factor.to(value.primal.dtype).expand(shape)
        for call in calls:
            index, factor = call(index), call(factor)
        made.append(Piece(term.slot, index, factor))
    return made


def gathered(tape: Tape, slot: int, index: Tensor, shape: Sequence[int]) -> Term:
    """The term of t[index], as the tangent of a value of the given shape."""
    size, places = torch.Size(shape), index.flatten()
    same = torch.equal(places, torch.arange(tape.shapes[slot].numel(), device=places.device))
    if same:
        return tape.emit(lambda t: t.reshape(len(t), *size), [slot], size)
    return tape.emit(lambda t, at: t.flatten(1)[:, at].view(len(t), *size), [slot], size, [places])


def ratio(whole: Tensor, part: Tensor, axes: Sequence[int]) -> Tensor | None:
    """The tensor r, constant along axes, with part ∘ r = whole up to round-off; None if there is no such r."""
    others = [axis for axis in range(part.dim()) if axis not in axes]
    order = [*others, *axes]
    kept = [part.shape[axis] for axis in others]
    wide, narrow = (x.permute(order).reshape(*kept, -1) for x in (whole, part))
    best = narrow.abs().argmax(-1, keepdim=True)
    above, below = wide.gather(-1, best), narrow.gather(-1, best)
    found = torch.where(below == 0, 0, above / below)
    error = (wide - narrow * found).abs()
    if not bool((error <= 32 * torch.finfo(part.dtype).eps * wide.abs()).all()):
        return None
    return found.view([1 if axis in axes else side for axis, side in enumerate(part.shape)])
