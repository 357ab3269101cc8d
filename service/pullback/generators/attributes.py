"""Attributes that describe a generator: the size of its code, its classes, the blocks of its code.

A user's module may use these names for its own purposes (a `ModuleList` called `blocks`, a number called `classes`).
An attribute counts only if it has the form that is described here. Any other value is ignored.
"""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from pullback.errors import PullbackError

_NOTES = "_pullback_notes"
_OTHER_NAMES = ("z_dim", "dim_z", "nz", "latent_size", "dim_latent", "n_latent", "style_dim", "zdim", "z_size")
"""Other attribute names that published generators use for the size of their code."""


def latent_size(generator: nn.Module, name: str | None = None) -> int:
    """Return n, the size of a latent code: the attribute `latent_dim`, a positive whole number of any numeric type.

    Args:
        generator: any module.
        name: the generator's name in messages; by default its own name.

    Raises:
        PullbackError: the attribute is missing. The message suggests an attribute that may hold the size instead.
    """
    value: Any = getattr(generator, "latent_dim", None)
    size = _whole(value)
    if size is not None and size > 0:
        return size
    called = name_of(generator) if name is None else name
    held = {key: _whole(getattr(generator, key, None)) for key in _OTHER_NAMES}
    hint = next(
        (f"; it has `{key}` {found}: set generator.latent_dim = {found}" for key, found in held.items() if found), ""
    )
    inner = next((key for key, part in generator.named_children() if _whole(getattr(part, "latent_dim", None))), None)
    if inner is not None:
        hint = (
            f"; its part `{inner}` has one: use that part, or set generator.latent_dim = generator.{inner}.latent_dim"
        )
    if isinstance(value, tuple | list) and value:
        hint = "; for codes of a shape, set latent_dim to their number of coordinates and reshape them in forward"
    raise PullbackError(
        f"{called} needs an attribute `latent_dim`, the size of its latent code; it has {value!r}{hint}"
    )


def class_names(generator: nn.Module) -> tuple[str, ...]:
    """Return the class names of a class-conditional generator, in index order; empty for any other generator.

    The attribute `classes` is a list, tuple or array of names, or a mapping between names and indices 0, 1, ...
    """
    value: Any = getattr(generator, "classes", ())
    if isinstance(value, Mapping) and value:
        by_index = value if all(isinstance(name, str) for name in value.values()) else {v: k for k, v in _pairs(value)}
        order = {_whole(index): name for index, name in by_index.items()}
        value = [order.get(index) for index in range(len(value))]
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    named = isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)
    return tuple(str(name) for name in value) if named else ()


def latent_blocks(generator: nn.Module) -> dict[str, tuple[int, int]]:
    """Return the named blocks of a latent code: name -> (start, stop) of its coordinates; empty if it has no blocks.

    The attribute `blocks` is a mapping from names to slices, ranges or pairs (start, stop) inside the code.
    """
    value: Any = getattr(generator, "blocks", None)
    if not isinstance(value, Mapping):
        return {}
    size = latent_size(generator)
    blocks = {name: _bounds(part, size) for name, part in value.items() if isinstance(name, str)}
    found = {name: bounds for name, bounds in blocks.items() if bounds is not None}
    return found if len(found) == len(value) else {}


def add_note(generator: nn.Module, note: str) -> None:
    """Add a sentence on how a generator was loaded. Every result records it."""
    setattr(generator, _NOTES, (*loading_notes(generator), note))


def loading_notes(generator: nn.Module) -> tuple[str, ...]:
    """Return the sentences that `add_note` added."""
    notes: tuple[str, ...] = getattr(generator, _NOTES, ())
    return notes


def name_of(generator: nn.Module) -> str:
    """Return the generator's name in messages and results."""
    name = getattr(generator, "name", None)
    return name if isinstance(name, str) and name else type(generator).__name__


def _whole(value: Any) -> int | None:
    """Return a whole number of any type (numpy, tensor, float without a fraction) as an int; None for other values."""
    if isinstance(value, torch.Tensor | np.ndarray):
        value = value.item() if value.ndim == 0 else None
    if isinstance(value, bool | np.bool_) or value is None:
        return None
    if isinstance(value, float | np.floating):
        return int(value) if float(value).is_integer() else None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _pairs(value: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    return [(key, index) for key, index in value.items() if _whole(index) is not None]


def _bounds(part: Any, size: int) -> tuple[int, int] | None:
    """Return (start, stop) of a slice, range or pair inside a code of this size; None for any other value."""
    if isinstance(part, slice):
        try:
            start, stop, step = part.indices(size)
        except TypeError:
            return None
        inside = all(_whole(end) is None or abs(int(end)) <= size for end in (part.start, part.stop))
        if step != 1 or not inside:
            return None
    elif isinstance(part, range):
        if part.step != 1:
            return None
        start, stop = part.start, part.stop
    elif isinstance(part, tuple | list) and len(part) == 2:
        first, last = _whole(part[0]), _whole(part[1])
        if first is None or last is None:
            return None
        start, stop = first, last
    else:
        return None
    return (start, stop) if 0 <= start < stop <= size else None
