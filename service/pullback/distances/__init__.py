"""Distances: two images -> D², or an image -> residual features. Start with `load_distance`."""

from pullback.distances.base import Distance, ResidualDistance, ScalarDistance
from pullback.distances.features import FeatureDistance, GeneratorLayer
from pullback.distances.mask import Mask
from pullback.distances.registry import build_distance, load_distance

__all__ = [
    "Distance",
    "FeatureDistance",
    "GeneratorLayer",
    "Mask",
    "ResidualDistance",
    "ScalarDistance",
    "build_distance",
    "load_distance",
]
