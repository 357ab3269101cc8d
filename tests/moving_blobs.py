"""A generator whose axes are known, `moving_blobs:blobs`: a blob gets brighter, moves, grows, turns and reddens."""

import torch

from pullback.generators import Generator

BRIGHTER, RIGHT, LARGER, CLOCKWISE, REDDER = range(5)
"""Coordinates of the code, by what they do to the image."""
GAINS = (0.02, 0.05, 0.09, 0.12, 0.003)


class Blobs(Generator):
    """An elongated blob on grey; each coordinate of the code has one effect. The last coordinate has none."""

    name = "blobs"
    latent_dim = 6

    def __init__(self, size: int = 24) -> None:
        super().__init__()
        self.size = size
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, z, condition=None):
        z = z * self.one
        light, right, larger, turn, red = (gain * z[:, i, None, None] for i, gain in enumerate(GAINS))
        places = torch.linspace(-1, 1, self.size, dtype=z.dtype)
        y, x = torch.meshgrid(places, places, indexing="ij")
        x = (x - right) * torch.exp(-larger)
        y = y * torch.exp(-larger)
        angle = turn + 0.6
        along = x * torch.cos(angle) + y * torch.sin(angle)
        across = y * torch.cos(angle) - x * torch.sin(angle)
        blob = torch.exp(-(along**2) / 0.16 - across**2 / 0.05)
        grey = 0.25 + 0.3 * blob + 0.5 * light
        return torch.stack([grey + 4 * red, grey - 2 * red, grey - 2 * red], dim=1)


def blobs():
    return Blobs()
