"""Structural similarity (Wang, Bovik, Sheikh & Simoncelli, IEEE TIP 2004) as a squared distance, 1 − mean SSIM.

With means μ, variances σ² and the covariance σ_xy of x and y under a Gaussian window,
SSIM = (2 μ_x μ_y + C1)(2 σ_xy + C2) / ((μ_x² + μ_y² + C1)(σ_x² + σ_y² + C2)). Each factor is 1 minus a relative squared
difference, l = (μ_x − μ_y)² / (μ_x² + μ_y² + C1) and c = Var(x − y) / (σ_x² + σ_y² + C2), so 1 − SSIM = l + c − l c.
The code uses this form. It is exactly zero for equal images and loses no digits near x = y, where the metric is
defined. C1 and C2 keep the denominators away from zero, so all derivatives are finite.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from pullback.distances.base import ScalarDistance
from pullback.distances.mask import Mask
from pullback.spec import DistanceOptions

WINDOW = 11
"""Side of the Gaussian window, in pixels."""
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)² and (K2 L)², for images of range L = 1

SUMMARY = "1 − mean SSIM (Wang et al. 2004) of images in [0, 1]"


class Options(DistanceOptions):
    """The options of SSIM: those of every distance."""


class Ssim(ScalarDistance):
    """D² = 1 − SSIM, averaged over channels and over the windows that lie completely in the image ('valid').

    With a mask, the weight of each window is its Gaussian average of the mask. The sum over windows is still divided by
    their number: D²_m + D²_(1−m) = D².
    """

    name = "ssim"

    def between(self, x: Tensor, y: Tensor) -> Tensor:
        """Return 1 − mean SSIM [batch] of images [batch, channels, height, width] in [0, 1].

        Raises:
            ValueError: the images are smaller than the window.
        """
        height, width = x.shape[-2:]
        if min(height, width) < WINDOW:
            raise ValueError(
                f"images of {height} × {width} are too small for {self.name}, whose window needs {WINDOW}; set "
                "its `size` to 16 or more"
            )
        difference = x - y
        mean_x, mean_y, mean_difference = _smooth(x), _smooth(y), _smooth(difference)
        energy = mean_x**2 + mean_y**2  # a separate term makes the result exactly symmetric in x and y
        variances = _smooth(x * x + y * y) - energy
        variance_of_difference = _smooth(difference * difference) - mean_difference**2
        luminance = mean_difference**2 / (energy + _C1)
        structure = variance_of_difference / (variances + _C2)
        lost = luminance + structure - luminance * structure
        if self.mask is not None:
            weight = _smooth(self.mask.at(height, width)[None, None])
            lost = lost * weight.to(lost.device, lost.dtype)
        return lost.mean(dim=(1, 2, 3))


def _smooth(images: Tensor) -> Tensor:
    """Return the Gaussian average in each window: [batch, channels, height − 10, width − 10]."""
    steps = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-(steps**2) / (2 * _SIGMA**2))
    window = (weights / weights.sum()).to(images.device, images.dtype)
    planes = images.flatten(0, 1)[:, None]
    smooth = conv2d(conv2d(planes, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))
    return smooth.view(*images.shape[:2], *smooth.shape[-2:])


def build(options: Options, mask: Mask | None) -> Ssim:
    """Build the distance of a job."""
    return Ssim(options.clamp, options.size, mask)
