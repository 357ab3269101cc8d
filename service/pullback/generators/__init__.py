"""Generators: latent code -> image. `load_generator` is the way in."""

from pullback.generators.base import Generator, any_condition, class_indices, images_of, like
from pullback.generators.zoo import load_generator, zoo

__all__ = ["Generator", "any_condition", "class_indices", "images_of", "like", "load_generator", "zoo"]
