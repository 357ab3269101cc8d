"""The mean absolute gradient of images, as an example. Say here what the distance measures, and its source.

TEMPLATE: copy to service/pullback/distances/NAME.py. The file's name is the distance's name in jobs.
"""

from pydantic import Field
from torch import Tensor, cat

from pullback.distances.base import ResidualDistance
from pullback.distances.mask import Mask
from pullback.spec import DistanceOptions

SUMMARY = "squared differences of neighbouring pixels"  # TEMPLATE: one line, for `pullback plugins` and error messages


class Options(DistanceOptions):
    """Options of this distance: the keys under `distance:` in a job, besides `name`, `clamp`, `size` and `mask`."""

    # TEMPLATE: a type, a default and a docstring for each. The docstring is the help text; bounds go into Field.
    strength: float = Field(default=1.0, gt=0)
    """Factor of D²."""


class Edges(ResidualDistance):
    """D²(x, y) = s ‖∇x − ∇y‖² / m, where ∇ has the m differences of neighbouring pixels, down and to the right."""

    # TEMPLATE: subclass ResidualDistance if D² is a sum of squares, else ScalarDistance with between(x, y) -> [batch].
    name = "edges"

    def __init__(self, given: Options, mask: Mask | None) -> None:
        super().__init__(given.clamp, given.size, mask)
        self.strength = given.strength

    def features(self, images: Tensor) -> Tensor:
        """Return the residual [batch, m] of images [batch, 3, height, width], already clamped and resized."""
        # TEMPLATE: use torch operations only, so that the derivative can be recorded. `weighted` applies the mask.
        pixels = self.weighted(images)
        down = (pixels[:, :, 1:] - pixels[:, :, :-1]).flatten(1)
        right = (pixels[:, :, :, 1:] - pixels[:, :, :, :-1]).flatten(1)
        differences = cat([down, right], dim=1)
        return differences * (self.strength / differences.shape[1]) ** 0.5


def build(given: Options, mask: Mask | None) -> Edges:
    """Return the distance that the options describe; `mask` is the job's, or None."""
    return Edges(given, mask)
