"""Does it behave as a generator? Tried on two codes, before anything is computed that could not be trusted."""

from typing import Any
from weakref import WeakSet

import torch
from torch import nn

from pullback.errors import PullbackError
from pullback.generators.base import OVERSHOOT, any_condition, images_of, like

_SAME = 1e-3
"""Differences of images in [0, 1] up to this are round-off, which on a GPU may differ from call to call."""

_SEED = 2021
"""Of the codes that are tried; not 0, which a user's own random weights may have been made from."""
_MODAL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Layers that do something else in training mode."""

_checked: WeakSet[nn.Module] = WeakSet()


def check_once(generator: nn.Module) -> None:
    """As `check_generator`, unless that was done with this very module before."""
    if not isinstance(generator, nn.Module) or generator not in _checked:
        check_generator(generator, str(getattr(generator, "name", type(generator).__name__)))


@torch.no_grad()
def check_generator(generator: nn.Module, name: str) -> None:
    """Try a generator on two codes and refuse one that the metric could not trust.

    Raises:
        PullbackError: it has no `latent_dim`, its `classes` are not names, or its images have a wrong shape, are not
            finite, leave [0, 1] by far, or differ between two calls with the same code, alone or in a batch.
    """
    if not isinstance(generator, nn.Module):
        raise PullbackError(f"a torch.nn.Module is needed, not {generator!r}; `load_generator` makes one")
    if any(module.training and isinstance(module, _MODAL) for module in generator.modules()):
        raise PullbackError(f"{name} is in training mode, in which images depend on chance or batch: call its .eval()")
    latent_dim: Any = getattr(generator, "latent_dim", None)
    if not isinstance(latent_dim, int) or latent_dim < 1:
        raise PullbackError(
            f"{name} needs an attribute `latent_dim`, the size of its latent code; it has {latent_dim!r}"
        )
    classes: Any = getattr(generator, "classes", ())
    if not isinstance(classes, list | tuple) or not all(isinstance(item, str) for item in classes):
        raise PullbackError(f"{name} has the attribute `classes` {classes!r}; it must be a tuple of class names")
    z = torch.randn(2, latent_dim, generator=torch.Generator().manual_seed(_SEED)).to(like(generator))
    condition = any_condition(generator, 2, z.device)
    try:
        images, again = images_of(generator, z, condition), images_of(generator, z, condition)
    except Exception as error:
        raise PullbackError(f"{name} failed on codes {tuple(z.shape)}: {type(error).__name__}: {error}") from error
    if not isinstance(images, torch.Tensor) or images.dim() != 4 or images.shape[:2] != (2, 3):
        shape = tuple(images.shape) if isinstance(images, torch.Tensor) else type(images).__name__
        raise PullbackError(f"{name} gave {shape} for 2 codes; images [2, 3, height, width] are needed")
    if not bool(images.isfinite().all()):
        raise PullbackError(f"{name} gives images that are not finite")
    low, high = float(images.min()), float(images.max())
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise PullbackError(
            f"{name} gives values from {low:.2f} to {high:.2f}; images must be in [0, 1] "
            "(for a tanh output: (x + 1) / 2)"
        )
    if not torch.allclose(images, again, atol=_SAME):
        raise PullbackError(f"{name} gives another image for the same code: freeze its noise, and leave training mode")
    alone = images_of(generator, z[:1], None if condition is None else condition[:1])
    if not torch.allclose(images[:1], alone, atol=_SAME):
        raise PullbackError(
            f"{name} gives another image for a code alone than for the same code in a batch: its images must not "
            "depend on each other (batch statistics, minibatch deviation); leave training mode"
        )
    _checked.add(generator)
