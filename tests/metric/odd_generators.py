"""Generators that are wrong, or degenerate, in one known way."""

import torch
from torch import nn

from toy_generators import Linear, Smooth


class Constant(Linear):
    """The same grey image for every code shorter than 100: the metric is zero there."""

    name = "constant"

    def forward(self, z, condition=None):
        far = torch.relu(z.square().sum(dim=1) - 10_000).view(-1, 1, 1, 1)
        return 0.5 + 1e-4 * torch.tanh(far) * (0.5 + 0 * super().forward(z))


class Black(Linear):
    """As `Linear` without its grey offset: black at the origin, where the MSE residual itself is zero."""

    name = "black"

    def forward(self, z, condition=None):
        return super().forward(z) - 0.5


class Turned(nn.Module):
    """A generator whose latent space is turned by an orthogonal matrix R: z -> G(R z)."""

    def __init__(self, generator, rotation):
        super().__init__()
        self.generator = generator
        self.latent_dim = generator.latent_dim
        self.register_buffer("rotation", rotation)

    def forward(self, z, condition=None):
        return self.generator(z @ self.rotation.T)


class WrongDerivative(Smooth):
    """As `Smooth`, with a derivative that is wrong by a factor in every mode: a part of it is detached."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, z, condition=None):
        image = super().forward(z)
        return self.factor * image + ((1 - self.factor) * image).detach()


class OnlySingle(Smooth):
    """As `Smooth`, and refuses to compute in anything but float32."""

    def forward(self, z, condition=None):
        assert z.dtype == torch.float32
        return super().forward(z)
