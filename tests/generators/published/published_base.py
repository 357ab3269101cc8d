"""What the published generators share: images in [0, 1], fixed random weights, settled statistics."""

import torch
from torch import nn


class Images(nn.Module):
    """A generator of images in [-1, 1] as one of images in [0, 1] with the size of its code."""

    def __init__(self, network, latent_dim):
        super().__init__()
        self.network = network
        self.latent_dim = latent_dim

    def forward(self, z):
        image = self.network(z)
        return (image.clamp(-1, 1) + 1) / 2


def made(network, latent_dim):
    """In evaluation mode, without gradients of its weights."""
    return Images(network, latent_dim).eval().requires_grad_(False)


def settled(network, latent_dim):
    """With statistics of batch norms from a pass in training mode, and spectral norms that have converged."""
    network.train()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.momentum = None
        for _ in range(2):
            network(torch.randn(16, latent_dim))
    return made(network, latent_dim)


def seeded(seed, make, *args, **kwargs):
    """Call `make` after seeding torch, for the same random weights each time."""
    torch.manual_seed(seed)
    return make(*args, **kwargs)
