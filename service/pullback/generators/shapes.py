"""Old name of `pullback.generators.random_weights`, kept for jobs of earlier versions."""

from pullback.generators.random_weights import (
    biggan_deep_128,
    biggan_deep_256,
    biggan_deep_tiny,
    fc6,
    fc6_tiny,
    stylegan2_256,
    stylegan2_tiny,
)

__all__ = [
    "biggan_deep_128",
    "biggan_deep_256",
    "biggan_deep_tiny",
    "fc6",
    "fc6_tiny",
    "stylegan2_256",
    "stylegan2_tiny",
]
