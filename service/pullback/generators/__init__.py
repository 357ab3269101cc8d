"""Generators: latent code -> image. `load_generator` is the way in."""

from pullback.generators.base import Generator, class_indices
from pullback.generators.zoo import load_generator, zoo

__all__ = ["Generator", "class_indices", "load_generator", "zoo"]
