"""The distance interface: a squared distance D² of two images, in one of two forms.

`ResidualDistance`: images -> a residual vector r(x), with D²(x, y) = ||r(x) − r(y)||². The difference of residuals is
zero at x = y, so its metric is exactly H = 2 JᵀJ, with J the Jacobian of r∘G.
`ScalarDistance`: any other D²(x, y) that has its minimum at x = y and is twice differentiable there.

Clamping, resizing and the mask are conventions of the measurement, common to all distances. They are applied here,
inside the differentiated path. Names are in `registry`, derivatives in `metric`.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from pullback.distances.mask import Mask
from pullback.generators.base import OVERSHOOT, generate
from pullback.generators.full_precision import HALF


class Distance(nn.Module):
    """A squared distance of images; use one of its two subclasses.

    Args:
        clamp: clamp images to [0, 1] first, as Wang & Ponce do; saturated pixels then have zero derivative.
        size: resize images bilinearly to size × size first; None keeps their size.
        mask: the weight of each place in the image; None gives all places weight 1. Nothing is renormalised:
            D²_m + D²_(1−m) = D², so the metrics of complementary masks add up to the whole metric.

    Attributes:
        name: a short name for tables, such as `lpips-alex`.
        weights: SHA-256 of each weight file by its name, recorded with every result; the hash of a mask as `mask`.
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
        """Prepare images for the measurement: clamp and resize them. Returns [batch, 3, height, width].

        Args:
            images: [batch, channels, height, width]. A single (grey) channel is repeated to three; half precision and
                bfloat16 become float32.
        """
        if images.shape[1] == 1:
            images = torch.cat([images, images, images], dim=1)
        if images.dtype in HALF:  # a squared distance would have only two or three digits
            images = images.float()
        if self.clamp:
            images = images.clamp(0, 1)
        if self.size is not None and images.shape[-2:] != (self.size, self.size):
            images = interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        return images

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """Return D² [batch] of images with checked range and batch sizes; either batch may be 1."""
        raise NotImplementedError(f"{type(self).__name__} is neither a ResidualDistance nor a ScalarDistance")

    def squared_at(self, generator: nn.Module, reference: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return d²(z0, z) = D²(G(z0), G(z)) of codes. Its Hessian in z at z = z0 is the metric tensor.

        Args:
            generator: G.
            reference: z0 [batch, n].
            z: codes [batch, n].
            condition: the classes [batch] of both codes, if G has classes.

        Returns:
            Squared distances [batch].
        """
        return self.squared(generate(generator, reference, condition), generate(generator, z, condition))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the squared distance D² of each pair of images.

        Args:
            x: images [batch, 3, height, width] in [0, 1].
            y: like x; either batch may be 1.

        Returns:
            D² [batch], at least 0.

        Raises:
            ValueError: the images lie far outside [0, 1] (as images in [-1, 1] or [0, 255] do), the batch sizes do not
                match, or the image sizes differ and `size` is not set.
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
    """A squared image distance ||r(x) − r(y)||²; subclasses implement `features`. Arguments as in `Distance`."""

    def residual(self, images: Tensor) -> Tensor:
        """Return the residual r(x) [batch, features] of images [batch, 3, height, width] in [0, 1]."""
        return self.features(self.prepared(images))

    def features(self, images: Tensor) -> Tensor:
        """Return the residual [batch, features] of images that are already clamped and resized."""
        raise NotImplementedError(f"{type(self).__name__} must implement features(images)")

    def residual_at(self, generator: nn.Module, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return the residual r(G(z)) [batch, features] of codes [batch, n], with classes [batch] if G has classes.

        The metric calls this method and not the generator, so a distance can use more of the generator than its image.
        """
        return self.residual(generate(generator, z, condition))

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ||r(x) − r(y)||² [batch]; either batch may be 1."""
        return _squared_norm(self.residual(x) - self.residual(y))

    def squared_at(self, generator: nn.Module, reference: Tensor, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Return ||r(G(z0)) − r(G(z))||² of codes; see `Distance.squared_at`."""
        there = self.residual_at(generator, reference, condition)
        return _squared_norm(there - self.residual_at(generator, z, condition))

    def weighted(self, activation: Tensor) -> Tensor:
        """Multiply an activation [batch, channels, height, width] by the root of the mask at its resolution.

        The residual is squared in D², so the root gives the mask itself as a factor.
        """
        if self.mask is None:
            return activation
        weight = self.mask.at(*activation.shape[-2:]).sqrt()
        return activation * weight.to(activation.device, activation.dtype)


class ScalarDistance(Distance):
    """A squared distance that is not a sum of squares; subclasses implement `between`. Arguments as in `Distance`."""

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """Return D² [batch] of clamped and resized images [batch, 3, height, width]; both batches have one size."""
        raise NotImplementedError(f"{type(self).__name__} must implement between(x, y)")

    def squared(self, x: Tensor, y: Tensor) -> Tensor:
        """Return D²(x, y) [batch]; either batch may be 1."""
        x, y = self.prepared(x), self.prepared(y)
        batch = max(len(x), len(y))  # so a user's function need not support broadcasting
        return self.between(x.expand(batch, -1, -1, -1), y.expand(batch, -1, -1, -1))


def _squared_norm(difference: Tensor) -> Tensor:
    return torch.sum(difference * difference, dim=1)


def _refuse_other_ranges(images: Tensor) -> None:
    try:
        low, high = float(images.detach().min()), float(images.detach().max())
    except RuntimeError:
        return  # tensors have no values inside torch.func.vmap
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise ValueError(
            f"images in [0, 1] are needed, not in [{low:.3g}, {high:.3g}]; "
            "rescale them first, for example (x + 1) / 2 for images in [-1, 1]"
        )
