"""The tape of a linearization: values with the terms of their tangents, and the steps that compute these tangents.

Invariants: the tangent of a value of shape s is [chunk, *s]. It is the sum of the value's terms. Each term is a slot of
the tape times a constant. Each slot is written once.
Elsewhere: the steps that an operation becomes (`recording`, `rules`).
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class Untraceable(Exception):  # noqa: N818 - it describes the map, and users never see it
    """The map does something that a tape cannot record. Torch may still differentiate it (`torch_modes`)."""


@dataclass(frozen=True)
class Term:
    """A part of a value's tangent: the tangent in a slot times a constant that broadcasts to the value (None: 1)."""

    slot: int
    factor: Tensor | None = None

    def times(self, factor: Tensor) -> "Term":
        """The term multiplied by another constant."""
        return Term(self.slot, factor if self.factor is None else self.factor * factor)

    def within(self, mask: Tensor) -> "Term":
        """As `times`, but exactly zero where the mask is zero, even if the term's factor is infinite there."""
        if self.factor is None:
            return self.times(mask)
        return Term(self.slot, torch.where(mask == 0, mask, self.factor * mask))


@dataclass(frozen=True)
class Step:
    """One step of the tape.

    Attributes:
        apply: maps tangents of the inputs [chunk, ...] and the constants to the tangent of the output, or to a tuple.
        inputs: the slots that the step reads.
        constants: tensors that do not depend on the tangents; None stays None.
        outputs: the slots that the step writes.
        last: inputs that no later step reads.
    """

    apply: Callable[..., Any]
    inputs: tuple[int, ...]
    constants: tuple[Tensor | None, ...]
    outputs: tuple[int, ...]
    last: tuple[int, ...] = ()


@dataclass(frozen=True)
class Deferred:
    """A rearrangement whose tangent has not been needed yet.

    Attributes:
        source: the value before the rearrangement.
        call: the rearrangement of a tensor of the source's shape.
        make: appends the steps that rearrange the tangent, and returns the terms.
    """

    source: "Traced"
    call: Callable[[Tensor], Tensor]
    make: Callable[[], Sequence[Term]]


class Traced(Tensor):
    """A tensor with a primal value and the terms of its tangent.

    A subclass records its operations (`recording.Recorded`). An access that bypasses `__torch_function__` (to the
    memory, or by a transform of `torch.func`) would lose the tangent, so it raises `Untraceable`.
    """

    tape: "Tape"
    primal: Tensor
    kept: tuple[Term, ...] | Deferred

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms of the tangent. Deferred terms are computed now."""
        if isinstance(self.kept, Deferred):
            self.kept = tuple(self.kept.make())
        return self.kept

    @terms.setter
    def terms(self, terms: Sequence[Term]) -> None:
        self.kept = tuple(terms)

    @property
    def is_deferred(self) -> bool:
        """Whether the tangent is still to be rearranged."""
        return isinstance(self.kept, Deferred)

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """Raise `Untraceable`: an operation bypassed `__torch_function__`, so the tape cannot record it."""
        raise Untraceable(f"`{func}` is done to a value that depends on the latent code where it cannot be followed")


def plain(value: Any) -> Any:
    """The primal tensor of a traced value; any other value unchanged."""
    return value.primal if isinstance(value, Traced) else value


def storage_of(value: Tensor) -> int:
    """The address of the memory of a tensor, or of a traced value's primal tensor."""
    primal: Tensor = plain(value)
    return primal.untyped_storage().data_ptr()


class Tape:
    """The steps recorded so far, and the state needed to record more.

    Args:
        kind: the class of traced values on this tape.

    Attributes:
        steps: the steps in the order in which they run.
        shapes: for each slot, the shape of the value whose tangent it holds.
        made_by: how a slot was made, for rules that treat two operations as one.
        borrowed: pairs of a plain tensor that is now a traced value, and the object that keeps its original tensor.
        fallbacks: names of the operations that have no rule here and use torch's own derivative.
        ended: whether the map has returned. Traced values that the map kept are constants from then on.
    """

    def __init__(self, kind: type[Traced] = Traced) -> None:
        self._kind = kind
        self.ended = False
        self.steps: list[Step] = []
        self.shapes: list[torch.Size] = []
        self.made_by: dict[int, Any] = {}
        self.borrowed: list[tuple[Tensor, Tensor]] = []
        self.fallbacks: list[str] = []
        self._read: list[tuple[Tensor, int]] = []
        self._views: dict[int, list[weakref.ref[Tensor]]] = {}

    def read(self, value: Tensor, version: int) -> None:
        """Record that the tape depends on the present contents of a plain tensor."""
        self._read.append((value, version))

    def check_unwritten(self) -> None:
        """Raise `Untraceable` if a tensor that the tape depends on was written after it was read."""
        if any(value._version != version for value, version in self._read):
            raise Untraceable("a tensor is written into after an operation has read it")

    def view(self, address: int, *values: Tensor) -> None:
        """Record that values share memory."""
        self._views.setdefault(address, []).extend(weakref.ref(value) for value in values)

    def has_read(self, value: Tensor) -> bool:
        """Whether the tape depends on the contents of a plain tensor."""
        return any(known is value for known, _ in self._read)

    def sharing(self, value: Traced) -> list[Tensor]:
        """The other tensors that share the value's memory."""
        address = storage_of(value)
        alive = {id(o): o for o in (reference() for reference in self._views.get(address, ())) if o is not None}
        return [o for o in alive.values() if o is not value and storage_of(o) == address]

    def viewed(self, value: Traced) -> bool:
        """Whether other tensors share the value's memory."""
        return bool(self.sharing(value))

    def slot(self, shape: torch.Size) -> int:
        """A new slot, which no step has written yet."""
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def wrap(self, value: Tensor, terms: Sequence[Term] | Deferred) -> Traced:
        """A traced value from a primal value and the terms of its tangent."""
        traced: Traced = Tensor._make_subclass(self._kind, value)
        traced.tape, traced.primal = self, value
        traced.kept = terms if isinstance(terms, Deferred) else tuple(terms)
        return traced

    def emit(
        self,
        apply: Callable[..., Tensor],
        inputs: Sequence[int],
        shape: torch.Size,
        constants: Sequence[Tensor | None] = (),
    ) -> Term:
        """Append a step whose single output has the given shape, and return the output as a term."""
        term = Term(self.slot(shape))
        self.steps.append(Step(apply, tuple(inputs), tuple(constants), (term.slot,)))
        return term

    def whole(self, value: Traced) -> int:
        """The slot with the value's full tangent. If there is none yet, append a step that adds the terms up."""
        shape, terms = value.primal.shape, value.terms
        if len(terms) == 1 and terms[0].factor is None and self.shapes[terms[0].slot] == shape:
            return terms[0].slot
        if not terms:  # a constant: a part of it may be written later
            return self.emit(lambda t: t.new_zeros(len(t), *shape), [0], shape).slot
        # Terms of full size come first, so that the others can be added in place.
        terms = tuple(sorted(terms, key=lambda term: -self.shapes[term.slot].numel()))
        count = len(terms)

        def add_up(*given: Tensor) -> Tensor:
            return combine(given[:count], given[count:], shape)

        term = self.emit(add_up, [t.slot for t in terms], shape, [t.factor for t in terms])
        value.terms = (term,)  # all readers of the value share this sum
        return term.slot


def combine(tangents: Sequence[Tensor], factors: Sequence[Tensor | None], shape: torch.Size) -> Tensor:
    """Σ factor · tangent [chunk, *shape], where each factor and each tangent [chunk, ...] broadcasts to the shape."""
    full = torch.Size([tangents[0].shape[0], *shape])
    total, fresh = tangents[0], False  # fresh: `total` is a new tensor, so it may be written in place
    for index, (tangent, factor) in enumerate(zip(tangents, factors, strict=True)):
        missing = len(shape) + 1 - tangent.dim()
        part = tangent.reshape(tangent.shape[0], *([1] * missing), *tangent.shape[1:]) if missing > 0 else tangent
        if index == 0:
            total, fresh = (part, False) if factor is None else (part * factor, True)
            if total.shape != full:
                total, fresh = total.expand(full), False
        elif fresh:
            total = total.add_(part) if factor is None else total.addcmul_(part, factor)
        else:
            total, fresh = (total + part if factor is None else torch.addcmul(total, part, factor)), True
    return total
