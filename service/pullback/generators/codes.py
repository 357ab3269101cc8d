"""Codes of a generator's latent space, and the mapping network that computes them."""

from typing import Any

import torch
from torch import Tensor, nn

from pullback.errors import ArgumentError
from pullback.generators.attributes import class_names, latent_size
from pullback.generators.base import any_condition, reference_tensor


def has_mapping(generator: nn.Module) -> bool:
    """Return whether a generator maps inputs to codes: it has a method `map`, and `z_dim`, the size of an input."""
    size: Any = getattr(generator, "z_dim", None)
    if not (isinstance(size, int) and size > 0 and callable(getattr(generator, "map", None))):
        return False
    return bool(getattr(generator, "maps", True))


def input_size(generator: nn.Module) -> int:
    """Return the size of the vector drawn for each code: `z_dim` if there is a mapping, else the code's size."""
    return int(generator.z_dim) if has_mapping(generator) else latent_size(generator)  # type: ignore[arg-type]


def input_condition(generator: nn.Module, count: int, device: torch.device) -> Tensor | None:
    """Return class indices [count] for a trial of a mapping: its classes in turn, or None if it takes no class.

    In some spaces only the mapping needs a class, and images of codes do not. The generator then has no `classes`, and
    `map_classes` names the classes of its mapping.
    """
    names = getattr(generator, "map_classes", ())
    if names and not class_names(generator):
        return torch.arange(count, device=device) % len(names)
    return any_condition(generator, count, device)


@torch.no_grad()
def mapped(generator: nn.Module, z: Tensor, condition: Tensor | None = None) -> Tensor:
    """Map inputs z [batch, z_dim] to codes [batch, n], on the device and in the dtype of the generator.

    Raises:
        SpecError: the generator has no mapping, or its mapping returns codes of a wrong size.
    """
    z = z.to(reference_tensor(generator))
    if not has_mapping(generator):
        return z
    own = None if condition is None else condition.to(z.device)
    codes: Tensor = generator.map(z) if own is None else generator.map(z, own)  # type: ignore[operator]
    if codes.shape != (len(z), latent_size(generator)):
        raise ArgumentError(
            "space", f"its map gives codes {list(codes.shape)}; {[len(z), latent_size(generator)]} are needed"
        )
    return codes


def trial_codes(generator: nn.Module, count: int, seed: int, scale: float = 1.0) -> Tensor:
    """Return trial codes [count, n]: standard normal vectors, mapped if the generator has a mapping.

    Args:
        generator: any generator.
        count: number of codes.
        seed: seed of the draws.
        scale: standard deviation of the draws.
    """
    drawn = torch.randn(count, input_size(generator), generator=torch.Generator().manual_seed(seed)) * scale
    z = drawn.to(reference_tensor(generator))
    return mapped(generator, z, input_condition(generator, count, z.device))
