"""Generators: latent code -> image. Start with `load_generator`."""

from pullback.generators.base import Generator, any_condition, class_indices, generate, reference_tensor
from pullback.generators.registry import load_for, load_generator, zoo

__all__ = [
    "Generator",
    "any_condition",
    "class_indices",
    "generate",
    "load_for",
    "load_generator",
    "reference_tensor",
    "zoo",
]
