"""Generators whose derivative, in forward and in reverse mode alike, is not that of their images; what checks them."""

import torch
from torch import Tensor, nn

from pullback.distances import load_distance
from pullback.distances.base import ResidualDistance
from pullback.metric import metric_at
from pullback.metric.memory import Fit
from pullback.metric.strategy import Strategy
from toy_generators import Smooth


class Planted(nn.Module):
    """A right generator with one fault.

    Args:
        generator: the right one.
        place: the coordinate that has the fault, where one has it.
    """

    def __init__(self, generator: nn.Module, place: int = 3) -> None:
        super().__init__()
        self.generator, self.place, self.latent_dim = generator, place, generator.latent_dim

    def forward(self, z: Tensor) -> Tensor:
        return self.generator(z)

    def coordinate(self, z: Tensor, value: Tensor) -> Tensor:
        """Codes with another value of the coordinate."""
        return torch.cat([z[:, : self.place], value, z[:, self.place + 1 :]], dim=1)

    def one(self, z: Tensor) -> Tensor:
        return z[:, self.place : self.place + 1]


class DetachedCoordinate(Planted):
    def forward(self, z):
        return self.generator(self.coordinate(z, self.one(z).detach()))


class CoordinateByNumpy(Planted):
    def forward(self, z):
        value = torch.as_tensor(self.one(z).detach().numpy().astype("float64")).to(z)
        return self.generator(self.coordinate(z, value))


class HalfDetachedCoordinate(Planted):
    def forward(self, z):
        one = self.one(z)
        return self.generator(self.coordinate(z, 0.5 * one + 0.5 * one.detach()))


class HalfDetachedInSingle(Planted):
    """The lost half passes through float32, so that short steps in float64 do not move it."""

    def forward(self, z):
        one = self.one(z)
        return self.generator(self.coordinate(z, 0.5 * one + 0.5 * one.detach().float().to(one)))


class ScaledByNumbers(Planted):
    """A factor of the image is made from Python numbers."""

    def forward(self, z):
        factor = 1 + 0.1 * torch.tensor(self.one(z).tolist()).to(z)
        return factor[:, :, None, None] * self.generator(z)


class RoundedCoordinate(Planted):
    def forward(self, z):
        return self.generator(self.coordinate(z, (8 * self.one(z)).round() / 8))


class StraightThroughCoordinate(Planted):
    def forward(self, z):
        one = self.one(z)
        return self.generator(self.coordinate(z, one + ((8 * one).round() / 8 - one).detach()))


class StraightThroughCode(Planted):
    def forward(self, z):
        return self.generator(z + ((8 * z).round() / 8 - z).detach())


class StraightThroughImage(Planted):
    def forward(self, z):
        image = self.generator(z)
        return image + ((255 * image).round() / 255 - image).detach()


class RoundedImage(Planted):
    def forward(self, z):
        return (255 * self.generator(z)).round() / 255


class RoundedChannel(Planted):
    def forward(self, z):
        image = self.generator(z)
        return torch.cat([(255 * image[:, :1]).round() / 255, image[:, 1:]], dim=1)


class RoundedCode(Planted):
    def forward(self, z):
        return self.generator((8 * z).round() / 8)


class DetachedImage(Planted):
    def forward(self, z):
        return self.generator(z).detach() + 0 * z.sum()


class DetachedPart(Planted):
    def forward(self, z):
        image = self.generator(z)
        return torch.cat([image[:, :1].detach(), image[:, 1:]], dim=1)


class Leaking(Planted):
    """Detached but for a trace of the code, so that no derivative is exactly zero."""

    def forward(self, z):
        return self.generator(z).detach() + 1e-8 * z.sum(dim=1)[:, None, None, None]


class Scaled(Planted):
    """Every derivative is 5 per cent too small."""

    def forward(self, z):
        image = self.generator(z)
        return 0.95 * image + 0.05 * image.detach()


FAULTS = [
    DetachedCoordinate,
    CoordinateByNumpy,
    HalfDetachedCoordinate,
    HalfDetachedInSingle,
    ScaledByNumbers,
    RoundedCoordinate,
    StraightThroughCoordinate,
    StraightThroughCode,
    StraightThroughImage,
    RoundedImage,
    RoundedChannel,
    RoundedCode,
    DetachedImage,
    DetachedPart,
    Leaking,
    Scaled,
]


def smooth(n: int, size: int = 16) -> Smooth:
    return Smooth(latent_dim=n, size=size)


MSE, SSIM = load_distance("mse", device="cpu"), load_distance("ssim", device="cpu")


ROUTES = {"backprop": "second", "finite_difference": "differences"}


def code(n=40, seed=0, batch=None):
    """A latent code [n], or several [batch, n]."""
    shape = (n,) if batch is None else (batch, n)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def failures(generator, distance=MSE, method="gauss_newton", precision="float32", z=None, **asked):
    """The first failed check of the metric at each code, or an empty text."""
    z = code(generator.latent_dim) if z is None else z
    asked = asked if method in ("gauss_newton", "backprop") else {"components": 3, **asked}
    # what would be decided; measuring memory to decide it takes longer than the metric
    route = ROUTES.get(method) or ("forward" if isinstance(distance, ResidualDistance) else "second")
    strategy = Strategy(method, route, Fit(batch=1, tangents=8, bytes=0, available=0))
    return metric_at(
        generator, distance, z, method=method, precision=precision, strategy=strategy, **asked
    ).certificate.failures()
