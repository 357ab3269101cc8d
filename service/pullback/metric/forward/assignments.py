"""Writes into tensors, recorded as new values: `x[...] = y`, `copy_`, in-place arithmetic, `out=`.

The values on a tape never change. So a write is recorded as an operation that computes the new value without writing,
and the written tensor takes over that value. Tensors that share memory with the written tensor get new values too: the
whole memory is recomputed as one flat value, and each tensor reads its part of it.
A plain tensor, such as `torch.zeros(...)`, may be filled part by part with values that depend on the code. It then
becomes a traced value, and turns back into a plain tensor when the map has returned.

Invariant: a write raises `Untraceable` if a tensor unknown to the tape might read the written memory.
"""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_flatten

from pullback.metric.forward.names import named
from pullback.metric.forward.tape import Tape, Traced, Untraceable, plain, storage_of

_OPERATORS = {"__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div", "__ipow__": "pow"}
_OF_LAYOUT = named("transpose_ t_ swapaxes_ swapdims_")
"""Operations that change how a tensor reads its memory, but not the memory."""
_OF_SHAPE = named("squeeze_ unsqueeze_ resize_ resize_as_ as_strided_ set_ detach_ requires_grad_ rename_ apply_ map_")

Operation = Callable[..., Any]


@dataclass(frozen=True)
class _Place:
    """The part of its memory that a tensor reads: sizes, strides and offset, counted in numbers."""

    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, x: Tensor) -> "_Place":
        """The place of an ordinary tensor."""
        return cls(tuple(x.shape), x.stride(), int(x.storage_offset()))

    @property
    def overlaps(self) -> bool:
        """Whether two elements of the tensor may share one number in memory."""
        reach = 1
        for stride, side in sorted(zip(self.stride, self.size, strict=True)):
            if side > 1 and stride < reach:
                return True
            reach = max(reach, stride * (side - 1) + 1) if side > 1 else reach
        return False

    def in_memory(self, flat: Tensor) -> Tensor:
        """The tensor as a view of its flat memory [count]."""
        return flat.as_strided(self.size, self.stride, self.offset)

    def in_tangents(self, flat: Tensor) -> Tensor:
        """The tangents of the tensor as a view of the tangents of its flat memory [chunk, count]."""
        return flat.as_strided((len(flat), *self.size), (flat.shape[1], *self.stride), self.offset)


def writes(func: Operation, kwargs: dict[str, Any]) -> bool:
    """Whether an operation writes into one of its arguments."""
    name = str(getattr(func, "__name__", ""))
    single = name.endswith("_") and not name.startswith("_")
    named_so = single or name in _OPERATORS or name in ("__setitem__", "__set__")
    return named_so or kwargs.get("inplace") is True or kwargs.get("out") is not None


def written(func: Operation, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Record an operation that writes. Return what it returns: the written tensor, or None for `x[...] = y`.

    Raises:
        Untraceable: the tensor, or one that shares its memory, cannot take over a new value.
    """
    name = str(getattr(func, "__name__", ""))
    target = kwargs["out"] if kwargs.get("out") is not None else args[0] if args else kwargs.get("input")
    if not isinstance(target, Tensor) or name == "__set__" or name in _OF_SHAPE:
        raise Untraceable(f"`{name}` writes into what a tape cannot follow")
    leaves = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Traced)]
    tape = leaves[0].tape
    if not isinstance(target, Traced):
        _become_traced(tape, target, name)
    assert isinstance(target, Traced)
    result = _assigned(tape, target, *args[1:]) if name == "__setitem__" else _result(func, name, target, args, kwargs)
    if isinstance(result, Tensor) and not isinstance(result, Traced):
        result = tape.wrap(result.clone(), ())  # cloned: it may be a view of a constant that changes later
    if not isinstance(result, Traced) or result.primal.shape != target.primal.shape:
        raise Untraceable(f"`{name}` does not give its tensor a new value")
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        if name in _OF_LAYOUT:
            target.primal, target.terms = result.primal, result.terms
            tape.view(storage_of(target), target)
        else:
            _take_over(tape, target, result, name)
    return None if name == "__setitem__" else target


def _result(func: Operation, name: str, target: Traced, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The result of the operation for its arguments, computed without writing."""
    if kwargs.get("out") is not None:
        return func(*args, **{key: value for key, value in kwargs.items() if key != "out"})
    if kwargs.get("inplace"):
        return func(*args, **{**kwargs, "inplace": False})
    rest = args[1:]
    if name == "copy_":
        source = rest[0] if rest else kwargs["other"]
        return source.to(target.primal.dtype).expand(target.primal.shape)
    if name == "zero_":
        return torch.zeros_like(target.primal)
    if name == "fill_":
        value = rest[0] if rest else kwargs["value"]
        return value.expand(target.primal.shape) if isinstance(value, Tensor) else torch.full_like(target.primal, value)
    plain_name = _OPERATORS.get(name, name.rstrip("_"))
    pure = next((getattr(place, plain_name) for place in (Tensor, torch, F) if hasattr(place, plain_name)), None)
    if not callable(pure):
        raise Untraceable(f"`{name}` writes into a tensor and has no form that does not")
    return pure(target, *rest, **kwargs)


def _assigned(tape: Tape, target: Traced, index: Any, value: Any) -> Traced:
    """The value of `target` after `target[index] = value`."""
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        index = tuple(plain(place) for place in index) if isinstance(index, tuple) else plain(index)
        for place in _listed(index):
            if isinstance(place, Tensor):
                tape.read(place, place._version)
        old = target.primal
        basic = all(p is None or p is Ellipsis or type(p) in (int, slice) for p in _listed(index))
        own = isinstance(value, Traced) and value.tape is tape and storage_of(value) == storage_of(old)
        if own and basic and _Place.of(plain(value)) == _Place.of(old[index]):
            return target  # Python expands `x[...] += y` to an in-place add, then an assignment of the same view
        new = old.clone()
        new[index] = plain(value)
        if basic:
            everywhere = (slice(None), *_listed(index))
            chosen = old[index].shape
        else:
            found = torch.arange(old.numel(), device=old.device).view(old.shape)[index]
            everywhere = (slice(None), found.flatten())
            chosen = found.shape
        shape = plain(value).shape if isinstance(value, Tensor) else ()
        while len(shape) > len(chosen):  # an assignment may have extra leading axes of length 1
            shape = shape[1:]
        given = [tape.whole(target)] if target.terms else []
        given += [tape.whole(value)] if isinstance(value, Traced) and value.terms else []
        size, ones = tuple(old.shape), [1] * (len(chosen) - len(shape))
        has_old, has_new = bool(target.terms), len(given) > bool(target.terms)

        def assign(*given: Tensor) -> Tensor:
            first = given[0]
            made = first.clone(memory_format=torch.contiguous_format) if has_old else first.new_zeros(len(first), *size)
            t = first.new_zeros(()) if not has_new else given[-1].reshape(len(first), *ones, *shape)
            t = t.expand(len(first), *chosen)
            if basic:
                made[everywhere] = t
            else:
                made.view(len(first), -1)[everywhere] = t.reshape(len(first), -1)
            return made

        return tape.wrap(new, [tape.emit(assign, given, old.shape)] if given else [])


def _listed(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else (index,)


def _swap(x: Tensor, y: Tensor) -> None:
    """Swap the tensors of two Python objects. Unlike `torch.utils.swap_tensors`, this works while views exist."""
    x.__class__, y.__class__ = y.__class__, x.__class__
    x.__dict__, y.__dict__ = y.__dict__, x.__dict__
    torch._C._swap_tensor_impl(x, y)


def _take_over(tape: Tape, target: Traced, result: Traced, name: str) -> None:
    """Give the new value to a tensor and to all tensors that share its memory."""
    old, new = target.primal, result.primal.to(target.primal.dtype)
    sharing = tape.sharing(target)
    if not sharing:
        shared = storage_of(new) == storage_of(old) or new.data_ptr() == 0 or tape.viewed(result)
        target.primal, target.terms = new.clone() if shared else new, result.terms
        return
    others = [other for other in sharing if isinstance(other, Traced) and other.tape is tape]
    if len(others) < len(sharing) or any(other.primal.dtype != old.dtype for other in others):
        raise Untraceable(f"`{name}` writes into a tensor that others look at")
    count = old.untyped_storage().nbytes() // old.element_size()
    everything = old.as_strided((count,), (1,), 0).clone()
    where = _Place.of(old)
    if where.overlaps:
        raise Untraceable(f"`{name}` writes several times into the same place")
    where.in_memory(everything).copy_(new)
    whole = [other for other in (target, *others) if other.primal.is_contiguous() and other.primal.numel() == count]
    known = whole[:1] or [other for other in (target, *others) if not _Place.of(other.primal).overlaps]
    if not whole and len(known) <= len(others):
        raise Untraceable(f"`{name}` writes into a tensor that an expanded one looks at")
    known = [other for other in known if other.terms]
    places = [_Place.of(other.primal) for other in known]
    slots = [tape.whole(other) for other in known]
    changes = bool(result.terms)

    def rewrite(*given: Tensor) -> Tensor:
        first = given[0]
        memory = first.new_zeros(len(first), count)
        for place, t in zip(places, given, strict=False):
            place.in_tangents(memory).copy_(t)
        into = where.in_tangents(memory)
        into.copy_(given[-1]) if changes else into.zero_()
        return memory

    inputs = [*slots, tape.whole(result)] if changes else slots
    flat = tape.emit(rewrite, inputs, torch.Size([count])) if inputs else None
    for other in (target, *others):
        place = _Place.of(other.primal)
        other.primal = place.in_memory(everything)
        if flat is not None:
            read = tape.emit(place.in_tangents, [flat.slot], other.primal.shape)
            other.terms = (read,)
    tape.view(storage_of(target), target, *others)


def _become_traced(tape: Tape, target: Tensor, name: str) -> None:
    """Turn a plain tensor into a traced value, in place. If it is a view, do the same with its base."""
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        if type(target) is not Tensor or isinstance(target, nn.Parameter) or target.requires_grad:
            raise Untraceable(f"`{name}` writes values that depend on the latent code into {type(target).__name__}")
        base = target._base if target._is_view() else None
        tensors = [target] if base is None else [base, target]
        storage = target.untyped_storage()
        known = len(tensors) + 1  # plus one reference held by `storage`
        if any(type(x) is not Tensor for x in tensors) or torch._C._storage_Use_Count(storage._cdata) != known:
            raise Untraceable(f"`{name}` writes into a tensor that others look at")
        if any(weakref.getweakrefs(x) for x in tensors):  # a cache may use it as a key
            raise Untraceable(f"`{name}` writes into a tensor that something refers to weakly")
        if any(tape.has_read(x) for x in tensors):
            raise Untraceable("a tensor is written into after an operation has read it")
        places = [_Place.of(x) for x in tensors]
        memory = target.as_strided((storage.nbytes() // target.element_size(),), (1,), 0).clone()
        stands = [tape.wrap(place.in_memory(memory), ()) for place in places]
        for x, traced in zip(tensors, stands, strict=True):
            _swap(x, traced)
            tape.borrowed.append((x, traced))
        if len(tensors) > 1:
            tape.view(storage_of(target), *tensors)


def give_back(tape: Tape) -> None:
    """Turn the traced values that were plain tensors back into plain tensors, with the values written into them."""
    with torch._C.DisableTorchFunctionSubclass(), torch.no_grad():
        for traced, original in tape.borrowed:
            value = plain(traced)
            _swap(traced, original)
            traced.copy_(value)
        tape.borrowed.clear()
