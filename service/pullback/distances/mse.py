"""The mean squared difference of pixels."""

import math

from torch import Tensor

from pullback.distances.base import ResidualDistance
from pullback.distances.mask import Mask
from pullback.spec import DistanceOptions

SUMMARY = "the mean squared difference of pixels in [0, 1]"


class Options(DistanceOptions):
    """The options of the mean squared difference: those of every distance."""


class Mse(ResidualDistance):
    """D²(x, y) = mean over pixels and channels of (x − y)², for images in [0, 1]: r(x) = x / sqrt(m)."""

    name = "mse"

    def features(self, images: Tensor) -> Tensor:
        """Return pixels [batch, m] divided by sqrt(m), each times the root of its mask weight."""
        pixels = self.weighted(images).flatten(1)
        return pixels / math.sqrt(pixels.shape[1])


def build(options: Options, mask: Mask | None) -> Mse:
    """Build the distance of a job."""
    return Mse(options.clamp, options.size, mask)
