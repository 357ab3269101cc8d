"""CIPS and INR-GAN in the style of their authors' code: every pixel on its own.

Each factory makes images [batch, 3, size, size] in [0, 1] of codes [batch, n], with random weights. `..._tiny` makes a
generator of the same architecture with few channels and 16 pixels.
"""

import torch
from published_base import made, seeded
from published_stylegan2 import ConstantInput, EqualLinear, PixelNorm, StyledConv, ToRGB
from torch import nn
from torch.nn import functional as F


class SkipRGB(ToRGB):
    """As `ToRGB` without upsampling of what it adds to."""

    def forward(self, input, style, skip=None):
        out = self.conv(input, style) + self.bias
        return out if skip is None else out + skip


class CIPS(nn.Module):
    def __init__(self, size, latent_dim, hidden, layers):
        super().__init__()
        self.size = size
        self.style = nn.Sequential(
            PixelNorm(), *[EqualLinear(latent_dim, latent_dim, lr_mul=0.01, activation=True) for _ in range(3)]
        )
        self.lff = nn.Conv2d(2, hidden, 1)
        self.emb = ConstantInput(hidden, size)
        self.conv1 = StyledConv(2 * hidden, hidden, 1, latent_dim)
        self.linears = nn.ModuleList(StyledConv(hidden, hidden, 1, latent_dim) for _ in range(layers))
        self.to_rgbs = nn.ModuleList(SkipRGB(hidden, latent_dim, upsample=False) for _ in range(layers // 2))
        x, y = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
        self.register_buffer("coords", torch.stack([x, y])[None])

    def forward(self, z):
        latent = self.style(z)
        coords = self.coords.repeat(len(z), 1, 1, 1)
        x = torch.sin(self.lff(coords))
        x = torch.cat([x, self.emb(x)], 1)
        rgb = None
        x = self.conv1(x, latent, noise=0)
        for index, layer in enumerate(self.linears):
            x = layer(x, latent, noise=0)
            if index % 2 == 1:
                rgb = self.to_rgbs[index // 2](x, latent, rgb)
        return rgb


class ModulatedLinear(nn.Module):
    """A modulated layer of pixels as a product of batches of matrices."""

    def __init__(self, into, out, style_dim):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out, into) / into**0.5)
        self.bias = nn.Parameter(torch.zeros(1, out, 1))
        self.affine = nn.Linear(style_dim, into)
        nn.init.ones_(self.affine.bias)

    def forward(self, x, style):
        weight = self.weight * self.affine(style).unsqueeze(1)
        weight = weight * torch.rsqrt(weight.pow(2).sum(2, keepdim=True) + 1e-8)
        return F.leaky_relu(torch.baddbmm(self.bias, weight, x), 0.2, inplace=True)


class PixelMLP(nn.Module):
    """CIPS and INR-GAN by `bmm`."""

    def __init__(self, size, latent_dim, hidden, layers):
        super().__init__()
        self.size = size
        self.layers = nn.ModuleList(ModulatedLinear(hidden, hidden, latent_dim) for _ in range(layers))
        self.to_rgb = nn.Conv1d(hidden, 3, 1)
        side = torch.linspace(-1, 1, size)
        grid = torch.stack(torch.meshgrid(side, side, indexing="ij")).view(2, -1)
        self.register_buffer("features", torch.sin(torch.randn(hidden, 2) * 4 @ grid)[None])

    def forward(self, z):
        x = self.features.expand(len(z), -1, -1)
        for layer in self.layers:
            x = layer(x, z)
        return self.to_rgb(x).view(-1, 3, self.size, self.size)


def cips():
    return made(seeded(5, CIPS, 64, 64, 64, 6), 64)


def cips_tiny():
    return made(seeded(5, CIPS, 16, 8, 6, 4), 8)


def pixel_mlp():
    return made(seeded(5, PixelMLP, 64, 64, 96, 6), 64)


def pixel_mlp_tiny():
    return made(seeded(5, PixelMLP, 16, 8, 6, 3), 8)
