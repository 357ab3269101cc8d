"""The generator interface: latent codes in, images in [0, 1] out, deterministic, each image from its own code.

Architectures are in `families` (one module per family), names in `registry`, weight files in `pullback.weights`.
"""

import itertools
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pullback.errors import ArgumentError
from pullback.generators.attributes import class_names, name_of
from pullback.generators.full_precision import full_precision
from pullback.spec import CYCLE, nearest
from pullback.spec.messages import enumerated

OVERSHOOT = 0.25
"""How far the values of an image may lie outside [0, 1]. A trained generator exceeds the range slightly; images in
[-1, 1] or [0, 255] exceed it by more than this."""

_MOST_LISTED = 12
"""How many class names an error lists."""


class Generator(nn.Module):
    """A map from latent codes to images.

    Subclasses set the attributes and implement `forward`. The metric relies on three properties: an image depends only
    on its own code (and condition), the same code gives the same image, and the map can be differentiated.

    Attributes:
        name: the generator's name in results.
        latent_dim: n, the size of a latent code.
        classes: class names of a class-conditional generator, in index order; empty otherwise.
        weights: SHA-256 of each weight file by its name, recorded with every result.
        blocks: the named blocks of a latent code, name -> (start, stop) of its coordinates; empty without blocks.
    """

    name: str = "generator"
    latent_dim: int
    classes: tuple[str, ...] = ()
    blocks: Mapping[str, tuple[int, int]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[str, str] = {}

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return images of latent codes.

        Args:
            z: latent codes [batch, n].
            condition: class indices [batch] (int64) of a class-conditional generator, else None.

        Returns:
            Images [batch, channels, height, width] in [0, 1], with one channel or three.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward(z, condition)")


def reference_tensor(generator: nn.Module) -> Tensor:
    """Return a tensor that has the generator's dtype and device, for use in `codes.to(...)`."""
    held = itertools.chain(generator.parameters(), generator.buffers())
    return next((tensor.detach() for tensor in held if tensor.is_floating_point()), torch.empty(0))


def generate(generator: nn.Module, z: Tensor, condition: Tensor | None = None) -> Tensor:
    """Return images [batch, channels, height, width] of codes [batch, n].

    A generator without classes is called with the codes only. It gets a copy, so it may write into them. Casts to half
    precision are left out if `full_precision.mark` says so, and what `torch.compile` made runs as ordinary Python.
    """
    z = z.clone()
    with full_precision(generator), _uncompiled():
        images: Tensor = generator(z) if condition is None else generator(z, condition)
    return images


def _uncompiled() -> AbstractContextManager[Any]:
    """Within this context, compiled modules and functions run as ordinary Python.

    Otherwise torch compiles them again for each kind of derivative and each batch size, Pullback's recording of their
    operations included, which takes minutes.
    """
    if "torch._dynamo" not in sys.modules or torch.compiler.is_compiling():  # nothing is compiled; the import is slow
        return nullcontext()
    return torch.compiler.set_stance("force_eager")  # type: ignore[no-any-return]


def any_condition(generator: nn.Module, batch: int, device: torch.device) -> Tensor | None:
    """Return class indices [batch] for a trial of a generator: its classes in turn, or None if it has no classes."""
    condition = class_indices(generator, CYCLE if class_names(generator) else None, range(batch))
    return None if condition is None else condition.to(device)


def repeat_rows(condition: Tensor, times: int) -> Tensor:
    """Repeat class indices [batch] or soft labels [batch, classes] as whole copies: [times · batch, ...]."""
    return condition.repeat(times, *[1] * (condition.dim() - 1))


def one_row(condition: Tensor) -> Tensor:
    """Return the condition of one sample as a batch of one: a class index as [1], soft labels as [1, classes]."""
    return condition.reshape(1, -1) if condition.is_floating_point() else condition.reshape(1)


def class_indices(generator: nn.Module, condition: Any, samples: Sequence[int] | range) -> Tensor | None:
    """Return the class index of each sample, or None for a generator without classes.

    Args:
        generator: its `classes` are the allowed names.
        condition: a class name, a class index, a sequence of either (one per sample), `cycle`, soft labels or class
            embeddings [samples, size] that the generator accepts, or None.
        samples: the samples' indices in their sweep; `cycle` assigns classes by these indices.

    Returns:
        Class indices [len(samples)] int64, or the soft labels as a tensor; None also if the codes contain the class.

    Raises:
        SpecError: the condition is missing, the generator accepts no condition, or the class is unknown.
    """
    classes, name = class_names(generator), name_of(generator)
    if not classes and condition is not None:  # images of codes in W need no class, but the mapping needs one
        classes = tuple(getattr(generator, "map_classes", ()))
    if not classes:
        if condition is not None:
            raise ArgumentError("condition", f"{name} has no classes; remove the condition {condition!r}")
        return None
    if condition is None and getattr(generator, "condition_in_code", False) is True:
        return None
    if isinstance(condition, np.ndarray | torch.Tensor) and condition.ndim == 2:  # soft labels, or class embeddings
        return torch.as_tensor(condition)
    allowed = f"{enumerated(classes, _MOST_LISTED)}, or {CYCLE} to take them in turn"
    if condition is None:
        raise ArgumentError("condition", f"{name} is class-conditional; choose one of {allowed}")
    if isinstance(condition, str) and condition == CYCLE:
        return torch.tensor([index % len(classes) for index in samples], dtype=torch.int64)
    if isinstance(condition, str) or np.ndim(condition) == 0:
        condition = [condition] * len(samples)
    chosen = [_class_index(item, classes, name, allowed) for item in condition]
    if len(chosen) != len(samples):
        raise ArgumentError("condition", f"{len(chosen)} classes for {len(samples)} codes")
    return torch.tensor(chosen, dtype=torch.int64)


def _class_index(item: Any, classes: tuple[str, ...], name: str, allowed: str) -> int:
    if isinstance(item, str) and item in classes:
        return classes.index(item)
    if not isinstance(item, str) and hasattr(item, "__index__") and 0 <= int(item) < len(classes):
        return int(item)
    hint = nearest(item, (*classes, CYCLE)) if isinstance(item, str) else ""
    raise ArgumentError("condition", f"{name} has no class {item!r}{hint or ';'} choose one of {allowed}")
