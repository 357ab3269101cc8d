"""What a distance is: a squared distance D² of two images, in one of two forms.

`ResidualDistance`: images -> a residual vector r(x), with D²(x, y) = ||r(x) − r(y)||². It has zero residual at its
operating point, so its metric is H = 2 JᵀJ exactly, with J the Jacobian of r∘G.
`ScalarDistance`: any other D²(x, y) that is smallest, and twice differentiable, at x = y.

Clamping, resizing and the mask, which are conventions of the measurement and not of any distance, are here, inside
the differentiated path. Leaves to others: names (`registry`), and derivatives (`metric`).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pullback.distances.mask import Mask
from pullback.generators.base import OVERSHOOT, images_of


class Distance(nn.Module):
    """A squared distance of images; use one of its two subclasses.

    Args:
        clamp: clamp images to [0, 1] first, so that saturated pixels have no derivative (Wang & Ponce do).
        size: resize images bilinearly to size × size first; None keeps their own size.
        mask: how much each place of the image counts; None counts all alike. With m and 1 − m,
            D²_m + D²_(1−m) = D²: nothing is renormalised, so the metrics of complementary masks add up to the whole.

    Attributes:
        name: a short name for tables, such as `lpips-alex`.
        weights: SHA-256 of each weight file by its name, recorded with every result; that of a mask as `mask`.
    """

    name: str = "distance"

    def __init__(self, clamp: bool = False, size: int | None = None, mask: Mask | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self.size = size
        self.mask = mask
        self.weights: dict[str, str] = {}
        if mask is not None and mask.sha256 is not None:
            self.weights["mask"] = mask.sha256

    def prepared(self, images: Tensor) -> Tensor:
        """Images [batch, 3, height, width] in [0, 1] as they are measured: clamped and resized."""
        if self.clamp:
            images = images.clamp(0, 1)
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            images = interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return images

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """D² [batch] of images whose range and number were checked; either batch may be 1."""
        raise NotImplementedError(f"{type(self).__name__} is neither a ResidualDistance nor a ScalarDistance")

    def squared_at(self, generator: nn.Module, reference: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """d²(z0, z) = D²(G(z0), G(z)) of codes, whose Hessian in z at z = z0 is the metric tensor.

        Args:
            generator: G.
            reference: z0 [batch, n].
            z: codes [batch, n].
            condition: the classes [batch] of both, where G has classes.

        Returns:
            [batch], in squared distance.
        """
        return self.squared(images_of(generator, reference, condition), images_of(generator, z, condition))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The squared distance D² of each pair of images.

        Args:
            x: images [batch, 3, height, width] in [0, 1].
            y: as x; either batch may be 1.

        Returns:
            D² [batch], at least 0.

        Raises:
            ValueError: the images lie far outside [0, 1], as images in [-1, 1] or [0, 255] do; or there are as many
                as cannot be paired, or they are of different sizes and `size` is not set.
        """
        for images in (x, y):
            if images.dim() != 4:
                raise ValueError(
                    f"images [batch, 3, height, width] are needed, not {list(images.shape)}; "
                    "a single image is images[None]"
                )
            _refuse_other_ranges(images)
        if self.size is None and x.shape[1:] != y.shape[1:]:
            raise ValueError(
                f"images {list(x.shape[1:])} cannot be compared with images {list(y.shape[1:])}; resize them, or set "
                "the distance's size"
            )
        if len(x) != len(y) and 1 not in (len(x), len(y)):
            raise ValueError(f"{len(x)} images cannot be paired with {len(y)}: give as many of both, or one of either")
        return self.squared(x, y)


class ResidualDistance(Distance):
    """A squared image distance ||r(x) − r(y)||²; subclasses give `features`. See `Distance` for the arguments."""

    def residual(self, images: Tensor) -> Tensor:
        """The residual r(x) of images [batch, 3, height, width] in [0, 1], as [batch, features]."""
        return self.features(self.prepared(images))

    def features(self, images: Tensor) -> Tensor:
        """The residual of images that are already clamped and resized; [batch, features]."""
        raise NotImplementedError(f"{type(self).__name__} must implement features(images)")

    def residual_at(self, generator: nn.Module, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """The residual r(G(z)) of codes [batch, n], for classes [batch] where G has classes; [batch, features].

        The metric asks for this and not for images, so that a distance may read more of the generator than its image.
        """
        return self.residual(images_of(generator, z, condition))

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """||r(x) − r(y)||² [batch]; either batch may be 1."""
        return _squared_norm(self.residual(x) - self.residual(y))

    def squared_at(self, generator: nn.Module, reference: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """||r(G(z0)) − r(G(z))||² of codes; see `Distance.squared_at`."""
        there = self.residual_at(generator, reference, condition)
        return _squared_norm(there - self.residual_at(generator, z, condition))

    def weighted(self, activation: Tensor) -> Tensor:
        """An activation [batch, channels, height, width] times the root of the mask at its resolution.

        The root, because a residual is squared: D² then has the mask itself as its factor.
        """
        if self.mask is None:
            return activation
        weight = self.mask.at(*activation.shape[-2:]).sqrt()
        return activation * weight.to(activation.device, activation.dtype)


class ScalarDistance(Distance):
    """A squared distance that is no sum of squares; subclasses give `between`. See `Distance` for the arguments."""

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """D² [batch] of images [batch, 3, height, width], as many of both, that are already clamped and resized."""
        raise NotImplementedError(f"{type(self).__name__} must implement between(x, y)")

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """D²(x, y) [batch]; either batch may be 1."""
        x, y = self.prepared(x), self.prepared(y)
        batch = max(len(x), len(y))  # a user's function need not know that one may stand for many
        return self.between(x.expand(batch, -1, -1, -1), y.expand(batch, -1, -1, -1))


def _squared_norm(difference: Tensor) -> Tensor:
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
