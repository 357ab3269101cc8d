"""Distances: image -> residual features. `load_distance` is the way in."""

from pullback.distances.base import ResidualDistance
from pullback.distances.registry import build_distance, load_distance

__all__ = ["ResidualDistance", "build_distance", "load_distance"]
