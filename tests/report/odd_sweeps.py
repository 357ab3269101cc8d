"""Sweeps that are odd, of generators whose metrics are known: jobs name them `odd_sweeps:factory`."""

import torch
from torch import Tensor, nn

from pullback.driving.pool_protocol import serial_pool
from pullback.driving.run import run_sweep
from pullback.generators import Generator
from pullback.spec import JobSpec
from pullback.store.reader import Sweep, open_sweep
from pullback.sweep.plan import make_plan


class Plain(Generator):
    """A sigmoid of a linear map: the metric depends on the code, and is differentiable everywhere."""

    name = "odd"

    def __init__(self, latent_dim: int = 6, decay: float = 1.0) -> None:
        super().__init__()
        self.latent_dim, self.size = latent_dim, 8
        drawn = torch.randn(3 * self.size**2, latent_dim, generator=torch.Generator().manual_seed(0))
        self.matrix = nn.Parameter(0.02 * drawn * decay ** torch.arange(latent_dim))

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return torch.sigmoid(8 * (z @ self.matrix.T)).view(-1, 3, self.size, self.size)


class RankOne(Plain):
    """Sees the first coordinate only."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(z[:, :1].expand(z.shape))


class Isotropic(Plain):
    """Images linear in the code, by an orthogonal map: H is one multiple of the identity."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        orthogonal = torch.linalg.qr(self.matrix)[0].detach()
        return 0.5 + 0.1 * (z @ orthogonal.T).view(-1, 3, self.size, self.size)


class Identical(Plain):
    """Images linear in the code: H is the same everywhere."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return 0.5 + (z @ self.matrix.T).view(-1, 3, self.size, self.size)


class PartlyFlat(Plain):
    """The same image wherever the first coordinate is above an edge: H is exactly zero there."""

    edge = 0.0

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        alive = torch.where(z[:, :1] > self.edge, 0.0, 1.0).view(-1, 1, 1, 1)
        return 0.5 + alive * (super().forward(z) - 0.5)


class PartlyBroken(Plain):
    """NaN where the second coordinate is above 1; nowhere where a generator is checked before a sweep."""

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(z) + torch.where(z[:, 1] > 1, torch.nan, 0.0).view(-1, 1, 1, 1)


class OneClass(Plain):
    """With one class."""

    classes = ("cat",)


def plain() -> Plain:
    return Plain()


def one_dimension() -> Plain:
    return Plain(1)


def two_dimensions() -> Plain:
    return Plain(2)


def wide() -> Plain:
    return Plain(40, decay=0.95)


def steep() -> Plain:
    return Plain(40, decay=0.6)


def rank_one() -> RankOne:
    return RankOne()


def isotropic() -> Isotropic:
    return Isotropic()


def identical() -> Identical:
    return Identical()


def partly_flat() -> PartlyFlat:
    return PartlyFlat()


def partly_broken() -> PartlyBroken:
    return PartlyBroken()


def one_class() -> OneClass:
    return OneClass()


def sweep_of(name: str, count: int, **metric: object) -> Sweep:
    """A finished sweep of a factory here under MSE, in `sweeps/` of the working directory."""
    content = {
        "name": "-".join([name, *map(str, metric.values())]).replace("_", "-"),
        "generator": {"name": f"odd_sweeps:{name}", "condition": "cycle" if name == "one_class" else None},
        "distance": "mse",
        "samples": {"count": count, "seed": 1},
        "metric": metric,
        "resources": {"device": "cpu", "workers": 1},
    }
    plan = make_plan(JobSpec.model_validate(content))
    run_sweep(plan, serial_pool)
    return open_sweep(plan.place)
