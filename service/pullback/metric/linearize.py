"""The derivative of a network at fixed latent codes, recorded once and applied to many tangents.

`Linearization` runs a map once with values that note every torch operation (through `__torch_function__`), and keeps
the linear map that each operation has become: a tape of steps. Pushing a chunk of tangents replays the tape, so the
primal pass is paid once and not once a chunk, and whatever is elementwise (norms, activations, masks, the weights of
a distance) has been multiplied together beforehand, at the size of the codes and not of the tangents.

Invariants: the tangent of a value of shape s is [chunk, *s]; it is the sum of the value's terms, each a slot of
the tape times a constant; a slot is written once. What no rule is known for is differentiated by `torch.func.jvp`.
A derivative is right or there is none: a traced value that gets where its operations are not seen raises
`Untraceable`, and so does a tensor that is written after the tape has read it.
Leaves to others: the rules of single operations (`tangent_rules`), and the proof that a derivative is right
(`certificate`, which compares it with reverse mode and with differences).
"""

import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.weak import WeakTensorKeyDictionary


class Untraceable(Exception):  # noqa: N818 - it says what the map is, and no user sees it
    """The map does something that a tape cannot hold; `torch.func.jvp` may still be able to differentiate it."""


@dataclass(frozen=True)
class Term:
    """A part of a value's tangent: the tangent in a slot, times a constant that broadcasts to the value (None is 1)."""

    slot: int
    factor: Tensor | None = None

    def times(self, factor: Tensor) -> "Term":
        """The term, multiplied by another constant."""
        return Term(self.slot, factor if self.factor is None else self.factor * factor)

    def within(self, mask: Tensor) -> "Term":
        """As `times`, and zero where the mask is, though the term be infinite there: it is hidden."""
        if self.factor is None:
            return self.times(mask)
        return Term(self.slot, torch.where(mask == 0, mask, self.factor * mask))


@dataclass(frozen=True)
class Step:
    """One step of the tape.

    Attributes:
        apply: tangents of the inputs [chunk, ...], then the constants, to the tangent of the output, or a tuple.
        inputs: the slots that it reads.
        constants: tensors that do not depend on the tangents; None stays None.
        outputs: the slots that it writes.
        last: inputs that no later step reads.
    """

    apply: Callable[..., Any]
    inputs: tuple[int, ...]
    constants: tuple[Tensor | None, ...]
    outputs: tuple[int, ...]
    last: tuple[int, ...] = ()


class Traced(Tensor):
    """A value that knows the terms of its tangent, and stands for an ordinary tensor, its primal value.

    What is not an operation that `__torch_function__` sees (a look at its memory, a transform of `torch.func`) would
    lose the tangent, and is refused.
    """

    tape: "Tape"
    primal: Tensor
    terms: tuple[Term, ...]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every torch operation on a traced value comes here."""
        return _trace(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        """What comes here has come past `__torch_function__`."""
        raise Untraceable(f"`{func}` is done to a value that depends on the latent code where it cannot be followed")


def plain(value: Any) -> Any:
    """A traced value as an ordinary tensor; everything else as it is."""
    return value.primal if isinstance(value, Traced) else value


def storage_of(value: Tensor) -> int:
    """The address of the memory that a value, or a traced value's primal value, looks at."""
    primal: Tensor = plain(value)
    return primal.untyped_storage().data_ptr()


class Tape:
    """The steps so far, and what is needed to add to them.

    Attributes:
        steps: in the order in which they run.
        shapes: of the value that each slot's tangent belongs to.
        made_by: what is worth remembering of how a slot was made, for rules that see two operations as one.
        ended: whether the map has returned; what it kept of its traced values are constants from then on.
    """

    def __init__(self) -> None:
        self.ended = False
        self.steps: list[Step] = []
        self.shapes: list[torch.Size] = []
        self.made_by: dict[int, Any] = {}
        self._read: list[tuple[Tensor, int]] = []
        self._views: dict[int, list[weakref.ref[Tensor]]] = {}

    def read(self, value: Tensor, version: int) -> None:
        """Remember that the tape depends on an ordinary tensor as it was."""
        self._read.append((value, version))

    def check_unwritten(self) -> None:
        """Raise `Untraceable` if what the tape depends on was written after it was read."""
        if any(value._version != version for value, version in self._read):
            raise Untraceable("a tensor is written into after an operation has read it")

    def view(self, address: int, *values: Tensor) -> None:
        """Remember that values look at the same memory."""
        self._views.setdefault(address, []).extend(weakref.ref(value) for value in values)

    def viewed(self, value: Traced) -> bool:
        """Whether others look at the value's memory."""
        address = storage_of(value)
        others = [reference() for reference in self._views.get(address, ())]
        return any(o is not None and o is not value and storage_of(o) == address for o in others)

    def slot(self, shape: torch.Size) -> int:
        """A slot that nothing has written yet."""
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def wrap(self, value: Tensor, terms: Sequence[Term]) -> Traced:
        """A primal value with the terms of its tangent."""
        traced: Traced = Tensor._make_subclass(Traced, value)
        traced.tape, traced.primal, traced.terms = self, value, tuple(terms)
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
        shape, terms = value.primal.shape, value.terms
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


_ABOUT = (int, bool, str, type(None), torch.Size, torch.dtype, torch.device, torch.layout)
"""What an operation may tell of a value without a tangent of its own: its shape, a comparison, ..."""


def _trace(func: Any, args: Any, kwargs: Any) -> Any:
    """The value of an operation of which some inputs are traced, with its tangent's terms where it has any."""
    from pullback.metric.tangent_rules import differentiate  # which needs this module

    if torch.compiler.is_compiling() or _in_custom_function():
        raise Untraceable("a torch.autograd.Function, or what is compiled, has a derivative of its own")
    name = _name(func)
    sources: list[Tensor] = []
    plain_args, plain_kwargs = _plainly(args, sources), _plainly(kwargs, sources)
    inputs = [source for source in sources if isinstance(source, Traced)]
    if any(value.tape.ended for value in inputs):
        args, kwargs = tree_map(lambda leaf: plain(leaf) if _ended(leaf) else leaf, (args, kwargs))
        return func(*args, **kwargs)
    if _writes(func, kwargs):
        return _written(func, name, args, kwargs)
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        versions = [plain(source)._version for source in sources]
        result = func(*plain_args, **plain_kwargs)
        if isinstance(result, _ABOUT):
            return result
        leaves = [result] if isinstance(result, Tensor) else tree_flatten(result)[0]
        if any(leaf.is_complex() if isinstance(leaf, Tensor) else not isinstance(leaf, _ABOUT) for leaf in leaves):
            raise Untraceable(f"`{name}` makes something else of a value that depends on the latent code than a tensor")
        tape = inputs[0].tape
        if any(value.tape is not tape for value in inputs):
            raise Untraceable("a derivative is taken within another")
        for source, version in zip(sources, versions, strict=True):
            if plain(source)._version != version:
                raise Untraceable(f"`{name}` writes into what it is given")
            if not isinstance(source, Traced):
                tape.read(source, version)
        smooth = any(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves)  # no mask or index
        made = differentiate(tape, func, name, args, kwargs, inputs, result) if smooth else result
        for value in _tensors(made):
            address = storage_of(value)
            sharing = [source for source in sources if storage_of(source) == address]
            if sharing:
                tape.view(address, value, *sharing)
                if not isinstance(value, Traced):  # a way to write into a primal value unseen
                    tape.read(value, value._version)
        return made


def _ended(value: Any) -> bool:
    return isinstance(value, Traced) and value.tape.ended


def _plainly(tree: Any, found: list[Tensor]) -> Any:
    """Arguments with plain tensors in place of traced ones; all tensors are added to those found.

    As pytree's `tree_map`, which takes longer than most operations on a single code.
    """
    if isinstance(tree, Tensor):
        found.append(tree)
        return plain(tree)
    if type(tree) in (tuple, list):
        return type(tree)([_plainly(item, found) for item in tree])
    if type(tree) is dict:
        return {key: _plainly(item, found) for key, item in tree.items()}
    return tree


def _name(func: Any) -> str:
    """The operation's name: `add` for torch.add, Tensor.add and Tensor.__add__, `T` for the property of that name."""
    name = str(getattr(func, "__name__", ""))
    if name == "__get__":
        name = str(getattr(getattr(func, "__self__", None), "__name__", ""))
    return name.strip("_") if name.startswith("__") else name


_APPLY = torch.autograd.Function.apply.__func__.__code__  # type: ignore[attr-defined]


def _in_custom_function() -> bool:
    """Whether a `torch.autograd.Function` is being applied, whose derivative need not be that of its operations."""
    frame: FrameType | None = sys._getframe()
    while frame is not None and frame.f_code is not Linearization.__init__.__code__:
        if frame.f_code is _APPLY:
            return True
        frame = frame.f_back
    return False


_IN_PLACE = {"__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div", "__ipow__": "pow"}


def _writes(func: Any, kwargs: Any) -> bool:
    name = str(getattr(func, "__name__", ""))
    single = name.endswith("_") and not name.startswith("_")
    return single or name in _IN_PLACE or name in ("__setitem__", "__set__") or kwargs.get("inplace") is True


def _written(func: Any, name: str, args: Any, kwargs: Any) -> Any:
    """An operation in place, as the one that makes a new value, which then takes the place of the old."""
    target = args[0]
    if kwargs.get("inplace"):
        pure: Any = func
        kwargs = {**kwargs, "inplace": False}
    else:
        pure = getattr(Tensor, _IN_PLACE.get(func.__name__, name.rstrip("_")), None)
    if not isinstance(target, Traced) or not callable(pure) or target.tape.viewed(target):
        raise Untraceable(f"`{name}` writes into a tensor that others look at")
    result = _trace(pure, args, kwargs)
    if not isinstance(result, Traced) or result.primal.shape != target.primal.shape:
        raise Untraceable(f"`{name}` does not give its tensor a new value")
    target.primal, target.terms = result.primal.to(target.primal.dtype), result.terms
    return target


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors of a result, traced or not."""
    leaves = [tree] if isinstance(tree, Tensor) else tree_flatten(tree)[0]
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


class Linearization:
    """The derivative of a map at latent codes.

    Args:
        features: the map, latent codes [batch, n] to features [batch, m], sample by sample.
        z: latent codes [batch, n].
        dtype: of the tangents, by default that of z; the primal values keep theirs.

    Attributes:
        value: the features at z [batch, m].

    Raises:
        Untraceable: the map leaves the tape: it writes into a part of a tensor, takes numbers out of one, has a
            derivative of its own (`torch.autograd.Function`), ...
    """

    def __init__(self, features: Callable[[Tensor], Tensor], z: Tensor, dtype: torch.dtype | None = None) -> None:
        tape = Tape()
        with torch.no_grad():
            try:
                result = features(tape.wrap(z.detach(), [Term(tape.slot(z.shape))]))
            finally:
                tape.ended = True
            if not isinstance(result, Traced) or result.tape is not tape:
                raise Untraceable("the features do not depend on the latent code by operations that can be followed")
            tape.check_unwritten()
            self.value: Tensor = result.primal
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


def state_of(tensor: Tensor) -> tuple[Any, ...]:
    """What changes when a tensor is written into, moved or cast; not when it is written through its `data`."""
    return tensor._version, tensor.data_ptr(), tensor.dtype, tensor.device


_casts: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _cast(step: Step, dtype: torch.dtype) -> Step:
    """The step with its constants in a dtype; those of weights, which outlive the tape, are kept."""
    if all(c is None or c.dtype == dtype for c in step.constants):
        return step
    return replace(step, constants=tuple(None if c is None else _cast_once(c, dtype) for c in step.constants))


def _cast_once(constant: Tensor, dtype: torch.dtype) -> Tensor:
    if not constant.is_floating_point() or constant.dtype == dtype:
        return constant
    key = (dtype, *state_of(constant))
    known: tuple[Any, Tensor] | None = _casts.get(constant)  # type: ignore[no-untyped-call]
    if known is None or known[0] != key:
        known = (key, constant.to(dtype))
        _casts[constant] = known
    return known[1]
