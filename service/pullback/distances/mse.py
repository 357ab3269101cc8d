"""The mean squared difference of pixels."""

import math

from torch import Tensor

from pullback.distances.base import ResidualDistance
from pullback.distances.mask import Mask
from pullback.spec import MseSpec


class Mse(ResidualDistance):
    """D²(x, y) = mean over pixels and channels of (x − y)², for images in [0, 1]: r(x) = x / sqrt(m)."""

    name = "mse"

    def features(self, images: Tensor) -> Tensor:
        """Pixels [batch, m] over sqrt(m), each times the root of its mask."""
        pixels = self.weighted(images).flatten(1)
        return pixels / math.sqrt(pixels.shape[1])


def build(spec: MseSpec, mask: Mask | None) -> Mse:
    """The distance of a job."""
    return Mse(spec.clamp, spec.size, mask)
