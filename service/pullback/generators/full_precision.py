"""Casts to half precision inside a generator, left out: the generator computes in the dtype of its codes.

A float16 image has 11 bits. It does not follow the small steps of a code that a derivative describes, so its metric is
that of the network without the cast. `checks` marks the generators for which this is necessary.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

HALF = (torch.float16, torch.bfloat16)
"""Dtypes that are too coarse for derivatives. Generators in these dtypes are converted to float32."""

_marked: "WeakSet[nn.Module]" = WeakSet()


def mark(generator: nn.Module) -> None:
    """Leave casts to half precision out whenever the generator runs."""
    _marked.add(generator)


def unmark(generator: nn.Module) -> None:
    """Undo `mark`."""
    _marked.discard(generator)


def is_marked(generator: nn.Module) -> bool:
    """Whether casts to half precision are left out when the generator runs."""
    return generator in _marked


@contextmanager
def full_precision(generator: nn.Module) -> Iterator[None]:
    """Leave casts to half precision out within the context, if the generator is marked."""
    if not is_marked(generator):
        yield
        return
    with _WithoutHalf():
        yield


class _WithoutHalf(TorchFunctionMode):
    """Copies a floating-point tensor instead of casting it to float16 or bfloat16."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        value = args[0] if args else None
        if isinstance(value, Tensor) and value.is_floating_point() and value.dtype not in HALF:
            name = getattr(func, "__name__", "")
            if name in ("half", "bfloat16"):
                return value.clone()
            if name in ("to", "type"):
                dtype = value.dtype
                args = (value, *(dtype if _is_half(item) else item for item in args[1:]))
                given = {key: dtype if _is_half(item) else item for key, item in given.items()}
        return func(*args, **given)


def _is_half(item: Any) -> bool:
    return isinstance(item, torch.dtype) and item in HALF
