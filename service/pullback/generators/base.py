"""What a generator is: latent codes in, images in [0, 1] out, deterministic, sample by sample.

Leaves to others: architectures (one module a family), names (`zoo`), weights (`weights`).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pullback.errors import SpecError
from pullback.spec import CYCLE, nearest

OVERSHOOT = 0.25
"""How far the values of an image may leave [0, 1]: a trained generator's do by a little, those of images in [-1, 1] or
[0, 255] by more."""


class Generator(nn.Module):
    """A map from latent codes to images.

    Subclasses set the attributes and implement `forward`. The metric relies on three properties: an image depends on
    its own code (and condition) alone, the same code gives the same image, and the map can be differentiated.

    Attributes:
        name: how the generator is called in results.
        latent_dim: n, the size of a latent code.
        classes: the names of the classes of a class-conditional generator, in index order; empty otherwise.
        weights: SHA-256 of each weight file by its name, recorded with every result.
        blocks: the named blocks of a latent code that has any, name -> (start, stop) of its coordinates.
    """

    name: str = "generator"
    latent_dim: int
    classes: tuple[str, ...] = ()
    blocks: Mapping[str, tuple[int, int]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[str, str] = {}

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images of latent codes.

        Args:
            z: latent codes [batch, n].
            condition: class indices [batch] (int64) of a class-conditional generator, else None.

        Returns:
            Images [batch, 3, height, width] in [0, 1].
        """
        raise NotImplementedError(f"{type(self).__name__} must implement forward(z, condition)")


def like(generator: nn.Module) -> Tensor:
    """A tensor of the generator's dtype and device, to make codes `.to(...)`."""
    held = itertools.chain(generator.parameters(), generator.buffers())
    return next((tensor.detach() for tensor in held if tensor.is_floating_point()), torch.empty(0))


def images_of(generator: nn.Module, z: Tensor, condition: Tensor | None = None) -> Tensor:
    """Images [batch, 3, height, width] of codes [batch, n]; a generator without classes is given its codes alone."""
    images: Tensor = generator(z) if condition is None else generator(z, condition)
    return images


def any_condition(generator: nn.Module, batch: int, device: torch.device) -> Tensor | None:
    """Class indices [batch] to try a generator with: its classes in turn, or None where it has none."""
    condition = class_indices(generator, CYCLE if getattr(generator, "classes", ()) else None, range(batch))
    return None if condition is None else condition.to(device)


def class_indices(generator: nn.Module, condition: Any, samples: Sequence[int] | range) -> Tensor | None:
    """The class index of each sample, or None for a generator without classes.

    Args:
        generator: its `classes` are the allowed names.
        condition: a class name, a class index, a sequence of either (one a sample), `cycle`, or None.
        samples: the samples' indices in their sweep, which `cycle` goes by.

    Returns:
        Class indices [len(samples)] int64.

    Raises:
        SpecError: the generator needs a condition and has none, has one and takes none, or the class is unknown.
    """
    classes = tuple(getattr(generator, "classes", ()))
    name = getattr(generator, "name", type(generator).__name__)
    if not classes:
        if condition is not None:
            raise SpecError([f"generator.condition: {name} has no classes; remove the condition {condition!r}"])
        return None
    allowed = f"{', '.join(classes)}, or {CYCLE} to take them in turn"
    if condition is None:
        raise SpecError([f"generator.condition: {name} is class-conditional; choose one of {allowed}"])
    if isinstance(condition, str) and condition == CYCLE:
        return torch.tensor([index % len(classes) for index in samples], dtype=torch.int64)
    if isinstance(condition, str) or np.ndim(condition) == 0:
        condition = [condition] * len(samples)
    chosen = [_class_index(item, classes, name, allowed) for item in condition]
    if len(chosen) != len(samples):
        raise SpecError([f"generator.condition: {len(chosen)} classes for {len(samples)} codes"])
    return torch.tensor(chosen, dtype=torch.int64)


def _class_index(item: Any, classes: tuple[str, ...], name: str, allowed: str) -> int:
    if isinstance(item, str) and item in classes:
        return classes.index(item)
    if not isinstance(item, str) and hasattr(item, "__index__") and 0 <= int(item) < len(classes):
        return int(item)
    hint = nearest(item, (*classes, CYCLE)) if isinstance(item, str) else ""
    raise SpecError([f"generator.condition: {name} has no class {item!r}{hint or ';'} choose one of {allowed}"])
