"""The derivative of a network at fixed latent codes, recorded once and applied to many tangents.

`Linearization` runs a map once with values that note every torch operation (through `__torch_function__`), and keeps
the linear map that each operation has become: a tape of steps. Pushing a chunk of tangents replays the tape, so the
primal pass is paid once and not once a chunk, and whatever is elementwise (norms, activations, masks, the weights of
a distance) has been multiplied together beforehand, at the size of the codes and not of the tangents.

Invariants: the tangent of a value of shape s is [chunk, *s]; it is the sum of the value's terms, each a slot of
the tape times a constant; a slot is written once. What no rule is known for is differentiated by `torch.func.jvp`.
Leaves to others: the rules of single operations (`tangent_rules`), and the proof that a derivative is right
(`certificate`, which compares it with reverse mode and with differences).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class Untraceable(Exception):
    """The map does something that a tape cannot hold; `torch.func.jvp` may still be able to differentiate it."""


@dataclass(frozen=True)
class Term:
    """A part of a value's tangent: the tangent in a slot, times a constant that broadcasts to the value (None is 1)."""

    slot: int
    factor: Tensor | None = None

    def times(self, factor: Tensor) -> "Term":
        """The term, multiplied by another constant."""
        return Term(self.slot, factor if self.factor is None else self.factor * factor)


@dataclass(frozen=True)
class Step:
    """One step of the tape.

    Attributes:
        apply: tangents of the inputs [chunk, ...], then the constants, to the tangent of the output, or a tuple.
        inputs: the slots that it reads.
        constants: tensors that do not depend on the tangents; None stays None.
        outputs: the slots that it writes.
        last: inputs that no later step reads.
        exact: the dtype in which it must be computed, whatever that of the tangents; None where any will do.
    """

    apply: Callable[..., Any]
    inputs: tuple[int, ...]
    constants: tuple[Tensor | None, ...]
    outputs: tuple[int, ...]
    last: tuple[int, ...] = ()
    exact: torch.dtype | None = None


class Traced(Tensor):
    """A primal value that knows the terms of its tangent."""

    tape: "Tape"
    terms: tuple[Term, ...]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every torch operation on a traced value comes here."""
        from pullback.metric.tangent_rules import trace  # which needs this module

        return trace(func, args, kwargs or {})


def plain(value: Any) -> Any:
    """A traced value as an ordinary tensor; everything else as it is."""
    if not isinstance(value, Traced):
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(Tensor)  # type: ignore[arg-type]


class Tape:
    """The steps so far, and what is needed to add to them.

    Attributes:
        steps: in the order in which they run.
        shapes: of the value that each slot's tangent belongs to.
        made_by: what is worth remembering of how a slot was made, for rules that see two operations as one.
        viewed: storages that several values look at, so that none of them may be written into.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.shapes: list[torch.Size] = []
        self.made_by: dict[int, Any] = {}
        self.viewed: set[int] = set()

    def slot(self, shape: torch.Size) -> int:
        """A slot that nothing has written yet."""
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def wrap(self, value: Tensor, terms: Sequence[Term]) -> Traced:
        """A primal value with the terms of its tangent."""
        traced: Traced = Tensor._make_subclass(Traced, value.detach())  # type: ignore[assignment]
        traced.tape, traced.terms = self, tuple(terms)
        return traced

    def emit(
        self,
        apply: Callable[..., Tensor],
        inputs: Sequence[int],
        shape: torch.Size,
        constants: Sequence[Tensor | None] = (),
    ) -> Term:
        """Append a step with one output of a shape; returns it as a term."""
        term = Term(self.slot(shape))
        self.steps.append(Step(apply, tuple(inputs), tuple(constants), (term.slot,)))
        return term

    def whole(self, value: Traced) -> int:
        """The slot that holds the value's tangent in full; a step that adds its terms up where there is none yet."""
        shape, terms = plain(value).shape, value.terms
        if len(terms) == 1 and terms[0].factor is None and self.shapes[terms[0].slot] == shape:
            return terms[0].slot
        # those of full size first: the others can then be added in place
        terms = tuple(sorted(terms, key=lambda term: -self.shapes[term.slot].numel()))
        count = len(terms)

        def add_up(*given: Tensor) -> Tensor:
            return combine(given[:count], given[count:], shape)

        term = self.emit(add_up, [t.slot for t in terms], shape, [t.factor for t in terms])
        value.terms = (term,)  # once for all its readers
        return term.slot


def combine(tangents: Sequence[Tensor], factors: Sequence[Tensor | None], shape: torch.Size) -> Tensor:
    """Σ factor · tangent [chunk, *shape], where each factor and each tangent [chunk, ...] broadcasts to the shape."""
    full = torch.Size([tangents[0].shape[0], *shape])
    total, fresh = tangents[0], False  # fresh: ours to write into
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


class Linearization:
    """The derivative of a map at latent codes.

    Args:
        features: the map, latent codes [batch, n] to features [batch, m], sample by sample.
        z: latent codes [batch, n].
        dtype: of the tangents, by default that of z; the primal values keep theirs.

    Attributes:
        value: the features at z [batch, m].

    Raises:
        Untraceable: the map leaves the tape: it writes into a part of a tensor, takes numbers out of one, ...
    """

    def __init__(self, features: Callable[[Tensor], Tensor], z: Tensor, dtype: torch.dtype | None = None) -> None:
        tape = Tape()
        with torch.no_grad():
            result = features(tape.wrap(z, [Term(tape.slot(z.shape))]))
        if not isinstance(result, Traced):
            raise Untraceable("the features do not depend on the latent code by operations that can be followed")
        self.value: Tensor = plain(result)
        self.dtype = dtype or z.dtype
        self._output = tape.whole(result)
        self._steps = [_cast(step, self.dtype) for step in _needed(tape.steps, self._output)]

    def push(self, tangents: Tensor) -> Tensor:
        """J applied to tangents [chunk, batch, n]; [chunk, batch, m], in the dtype of the primal values."""
        held: dict[int, Tensor] = {0: tangents.to(self.dtype)}
        with torch.no_grad():
            for step in self._steps:
                given = [held[slot] for slot in step.inputs]
                for slot in step.last:
                    del held[slot]
                if step.exact is not None and step.exact != self.dtype:
                    result = step.apply(*[tangent.to(step.exact) for tangent in given], *step.constants)
                else:
                    result = step.apply(*given, *step.constants)
                del given
                results = result if len(step.outputs) > 1 else (result,)
                held.update(zip(step.outputs, (tangent.to(self.dtype) for tangent in results), strict=True))
        return held[self._output].to(self.value.dtype)


def _needed(steps: Sequence[Step], output: int) -> list[Step]:
    """The steps that the output needs, each knowing which slots nothing needs after it."""
    needed, kept = {output}, []
    for step in reversed(steps):
        if needed.isdisjoint(step.outputs):
            continue
        kept.append(replace(step, last=tuple({slot for slot in step.inputs if slot not in needed})))
        needed.update(step.inputs)
    return kept[::-1]


_casts: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _cast(step: Step, dtype: torch.dtype) -> Step:
    """The step with its constants in a dtype; those of weights, which outlive the tape, are kept."""
    if step.exact is not None or all(c is None or c.dtype == dtype for c in step.constants):
        return step
    return replace(step, constants=tuple(None if c is None else _cast_once(c, dtype) for c in step.constants))


def _cast_once(constant: Tensor, dtype: torch.dtype) -> Tensor:
    if not constant.is_floating_point():
        return constant
    known = _casts.get(constant)
    if known is None or known[0] != (dtype, constant._version):
        known = ((dtype, constant._version), constant.to(dtype))
        _casts[constant] = known
    result: Tensor = known[1]
    return result
