"""Small distances of every kind, and the functions and modules that jobs name `small_distances:...`."""

import torch
from torch import Tensor, nn

from pullback.distances import FeatureDistance, Mask
from pullback.distances.custom import ResidualFunction, ScalarFunction
from pullback.distances.lpips import Lpips
from pullback.distances.mse import Mse
from pullback.distances.ssim import Ssim
from pullback.distances.trunks import Fire, Trunk


def some_images(seed, batch=2, size=6):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def randomized(module, seed=0):
    stream = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=stream)
    return module.requires_grad_(False)


def tiny_lpips(**options):
    trunk = Trunk([[nn.Conv2d(3, 4, 3), nn.ReLU()], [nn.Conv2d(4, 6, 2), nn.ReLU()]], smallest=4)
    stream = torch.Generator().manual_seed(1)
    return Lpips(randomized(trunk), [torch.rand(4, generator=stream), torch.rand(6, generator=stream)], **options)


def tiny_squeeze(**options):
    """As SqueezeNet is built: pooling that rounds up, and fire modules."""
    stages = [[nn.Conv2d(3, 4, 3), nn.ReLU()], [nn.MaxPool2d(3, 2, ceil_mode=True), Fire(4, 2, 3)]]
    stream = torch.Generator().manual_seed(1)
    heads = [torch.rand(4, generator=stream), torch.rand(6, generator=stream)]
    return Lpips(randomized(Trunk(stages, smallest=4)), heads, **options)


class Net(nn.Module):
    """Images to class scores, with a ReLU that works in place and a head without height and width."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 5, 2), nn.Tanh())
        self.head = nn.Linear(5, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(images).mean(dim=(2, 3)))


def net():
    return randomized(Net(), 3)


def brightness(images):
    """Mean of each channel: [batch, 3]."""
    return images.mean(dim=(2, 3))


def gradients(images):
    """Differences of neighbouring pixels: [batch, m]."""
    return (images[..., 1:] - images[..., :-1]).flatten(1)


def logarithmic(x, y):
    """log(1 + mean squared difference) [batch]: no sum of squares."""
    return torch.log1p(((x - y) ** 2).mean(dim=(1, 2, 3)))


def with_option(images, power=2):
    return images.flatten(1) ** power


RESIDUAL = {
    "mse": Mse(),
    "mse clamped": Mse(clamp=True),
    "mse resized": Mse(size=4),
    "mse masked": Mse(mask=Mask.of_box(0.1, 0.2, 0.9, 1)),
    "lpips": tiny_lpips(),
    "lpips masked": tiny_lpips(mask=Mask.of_box(0.1, 0.2, 0.9, 1)),
    "lpips like squeeze": tiny_squeeze(),
    "features": FeatureDistance(net(), "blocks.2"),
    "features masked": FeatureDistance(net(), "blocks.2", mask=Mask.of_box(0.1, 0.2, 0.9, 1)),
    "features of a head": FeatureDistance(net(), "head"),
    "function of one": ResidualFunction(gradients, "gradients"),
}
SCALAR = {
    "ssim": Ssim(size=16),
    "ssim masked": Ssim(size=16, mask=Mask.of_box(0.1, 0.2, 0.9, 1)),
    "function of two": ScalarFunction(logarithmic, "logarithmic"),
}
DISTANCES = {**RESIDUAL, **SCALAR}
