"""DeePSiM generators: AlexNet codes to images (Dosovitskiy and Brox, NIPS 2016, "Generating images with perceptual
similarity metrics based on deep networks", table of the feature inversion generator).

Three fully connected layers, a reshape to 4×4, then 4×4 transposed convolutions that double the image, some of them
followed by a 3×3 one; leaky ReLU of slope 0.3 between all. No norm, no bound on the output: images are BGR with the
mean subtracted, in units of 1/255, and are turned to RGB in about [0, 1] here. They are not clamped, since clamping is
the distance's choice.

Names in the state dict are those of the authors' Caffe layers (`defc7`, `deconv5`, `conv5_1`, ...), which the ports to
torch kept. Their 3×3 layers are transposed convolutions too.
Leaves to others: random weights (`shapes`), and reading files. The generator for pool5 codes begins otherwise and is
not built here.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pullback.generators.base import Generator

SLOPE = 0.3
"""Of the leaky ReLUs, below 0."""
RGB_MEAN = (123.0, 117.0, 104.0)
"""What was subtracted from the training images, in units of 1/255."""
_START = 4
"""Height and width of the first feature map."""

FC6_WIDTHS = ((256, 512), (256, 256), (128, 128), (64,), (32,), (3,))
"""Channels of each doubling of the published generators: of the 4×4 layer, then of the 3×3 layer where there is one."""


class DeepSim(Generator):
    """An upconvolutional generator of codes [batch, n].

    Args:
        latent_dim: n; 4096 for codes of AlexNet's layers fc6 and fc7, 1000 for fc8.
        start: channels of the first feature map; the fully connected layers have 16 times as many units.
        widths: channels of each doubling, as `FC6_WIDTHS`; the last must be (3,).

    Raises:
        ValueError: the widths do not end in an image.
    """

    name = "deepsim"
    mean: Tensor

    def __init__(
        self, latent_dim: int = 4096, start: int = 256, widths: tuple[tuple[int, ...], ...] = FC6_WIDTHS
    ) -> None:
        super().__init__()
        if not widths or widths[-1] != (3,):
            raise ValueError(f"the last width must be (3,), the channels of an image; the widths are {widths}")
        self.latent_dim = latent_dim
        self.start = start
        units = start * _START * _START
        self.dense = ("defc7", "defc6", "defc5")
        for name, (into, out) in zip(self.dense, pairwise((latent_dim, units, units, units)), strict=True):
            self.add_module(name, nn.Linear(into, out))
        self.spatial: list[str] = []
        before = start
        for number, outs in zip(reversed(range(len(widths))), widths, strict=True):
            kinds = ((f"deconv{number}", 4, 2), (f"conv{number}_1", 3, 1))[: len(outs)]
            for (name, kernel, stride), out in zip(kinds, outs, strict=True):
                self.add_module(name, nn.ConvTranspose2d(before, out, kernel, stride, padding=1))
                self.spatial.append(name)
                before = out
        self.register_buffer("mean", torch.tensor(RGB_MEAN)[:, None, None], persistent=False)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        """Images [batch, 3, size, size] in about [0, 1] of codes [batch, n]; see `Generator.forward`."""
        x = z
        for name in self.dense:
            x = F.leaky_relu(self.get_submodule(name)(x), SLOPE)
        x = x.reshape(len(z), self.start, _START, _START)
        *inner, last = self.spatial
        for name in inner:
            x = F.leaky_relu(self.get_submodule(name)(x), SLOPE)
        bgr: Tensor = self.get_submodule(last)(x)
        return (bgr.flip(1) + self.mean) / 255
