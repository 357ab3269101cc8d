"""What a distance is: images -> a residual vector r(x), with D²(x, y) = ||r(x) − r(y)||².

Every distance of that form has zero residual at its operating point, so its metric is H = 2 JᵀJ exactly, with J the
Jacobian of r∘G. Subclasses give `features`; clamping and resizing, which are conventions of the measurement and
not of any distance, are done here, inside the differentiated path.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pullback.generators.base import OVERSHOOT


class ResidualDistance(nn.Module):
    """A squared image distance ||r(x) − r(y)||².

    Args:
        clamp: clamp images to [0, 1] first, so that saturated pixels have no derivative (Wang & Ponce do).
        size: resize images bilinearly to size × size first; None keeps their own size.

    Attributes:
        name: a short name for tables, such as `lpips-alex`.
        weights: SHA-256 of each weight file by its name, recorded with every result.
    """

    name: str = "distance"

    def __init__(self, clamp: bool = False, size: int | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self.size = size
        self.weights: dict[str, str] = {}

    def residual(self, images: Tensor) -> Tensor:
        """The residual r(x) of images [batch, 3, height, width] in [0, 1], as [batch, features]."""
        if self.clamp:
            images = images.clamp(0, 1)
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            images = interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return self.features(images)

    def features(self, images: Tensor) -> Tensor:
        """The residual of images that are already clamped and resized; [batch, features]."""
        raise NotImplementedError(f"{type(self).__name__} must implement features(images)")

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The squared distance D² of each pair of images.

        Args:
            x: images [batch, 3, height, width] in [0, 1].
            y: as x; either batch may be 1.

        Returns:
            D² [batch], at least 0.

        Raises:
            ValueError: the images lie far outside [0, 1], as images in [-1, 1] or [0, 255] do.
        """
        _refuse_other_ranges(x)
        _refuse_other_ranges(y)
        difference = self.residual(x) - self.residual(y)
        return torch.sum(difference * difference, dim=1)


def _refuse_other_ranges(images: Tensor) -> None:
    try:
        low, high = float(images.detach().min()), float(images.detach().max())
    except RuntimeError:
        return  # inside torch.func.vmap a tensor has no values to look at
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise ValueError(
            f"images in [0, 1] are needed, these go from {low:.3g} to {high:.3g}; "
            "rescale them first, for example (x + 1) / 2 for images in [-1, 1]"
        )
