"""PGGAN and StyleGAN1 in the style of their authors' code, with equalized learning rates.

Each factory makes images [batch, 3, size, size] in [0, 1] of codes [batch, n], with random weights. `..._tiny` makes a
generator of the same architecture with few channels and 16 pixels.
"""

import itertools
import math

import torch
from published_base import made, seeded
from published_stylegan2 import EqualLinear, PixelNorm
from torch import nn
from torch.nn import functional as F


class EqualConv(nn.Module):
    """A convolution whose weight is scaled in each call by He's constant."""

    def __init__(self, into, out, kernel_size, padding=0, gain=2**0.5):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out, into, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out))
        self.w_mul = gain * (into * kernel_size**2) ** -0.5
        self.padding = padding

    def forward(self, x):
        return F.conv2d(x, self.weight * self.w_mul, self.bias, padding=self.padding)


def upscale2d(x, factor=2):
    """Nearest neighbours by an expanded view."""
    s = x.size()
    x = x.view(-1, s[1], s[2], 1, s[3], 1)
    x = x.expand(-1, s[1], s[2], factor, s[3], factor)
    return x.contiguous().view(-1, s[1], s[2] * factor, s[3] * factor)


class PGGAN(nn.Module):
    def __init__(self, size, latent_dim, channels, alpha=0.3):
        super().__init__()
        self.formatLayer = EqualConv(latent_dim, channels[0] * 16, 1)
        self.first = EqualConv(channels[0], channels[0], 3, padding=1)
        count = int(math.log2(size)) - 1
        self.scaleLayers = nn.ModuleList(
            nn.ModuleList([EqualConv(a, b, 3, 1), EqualConv(b, b, 3, 1)])
            for a, b in itertools.pairwise(channels[:count])
        )
        self.toRGBLayers = nn.ModuleList(EqualConv(c, 3, 1, gain=1) for c in channels[:count])
        self.leakyRelu = nn.LeakyReLU(0.2)
        self.pixelNorm = PixelNorm()
        self.alpha = alpha

    def forward(self, z):
        x = self.pixelNorm(z)
        x = x.view(-1, x.shape[1], 1, 1)
        x = self.leakyRelu(self.formatLayer(x))
        x = x.view(x.size()[0], -1, 4, 4)
        x = self.pixelNorm(x)
        x = self.pixelNorm(self.leakyRelu(self.first(x)))
        before = None
        for scale, group in enumerate(self.scaleLayers):
            if scale == len(self.scaleLayers) - 1:
                before = upscale2d(self.toRGBLayers[scale](x))
            x = upscale2d(x)
            for layer in group:
                x = self.leakyRelu(layer(x))
                x = self.pixelNorm(x)
        x = self.toRGBLayers[-1](x)
        if before is not None:
            x = self.alpha * before + (1.0 - self.alpha) * x
        return x


class AdaIN(nn.Module):
    def __init__(self, style_dim, channels):
        super().__init__()
        self.style = EqualLinear(style_dim, channels * 2)
        self.noise = nn.Parameter(torch.full((1, channels, 1, 1), 0.1))

    def forward(self, x, w, noise):
        x = x + noise * self.noise
        x = F.leaky_relu_(x, 0.2)
        x = x - torch.mean(x, (2, 3), True)
        tmp = torch.mul(x, x)
        tmp = torch.rsqrt(torch.mean(tmp, (2, 3), True) + 1e-8)
        x = x * tmp
        style = self.style(w)
        shape = [-1, 2, x.size(1)] + (x.dim() - 2) * [1]
        style = style.view(shape)
        return x * (style[:, 0] + 1.0) + style[:, 1]


class Blur2d(nn.Module):
    def __init__(self):
        super().__init__()
        f = torch.tensor([1, 2, 1], dtype=torch.float32)
        f = f[None, None, :, None] * f[None, None, None, :]
        self.register_buffer("f", f / f.sum())

    def forward(self, x):
        kernel = self.f.expand(x.size(1), -1, -1, -1)
        return F.conv2d(x, kernel, padding=1, groups=x.size(1))


class StyleGAN1(nn.Module):
    def __init__(self, size, latent_dim, channels):
        super().__init__()
        layers = [PixelNorm()]
        for _ in range(4):
            layers += [EqualLinear(latent_dim, latent_dim), nn.LeakyReLU(0.2)]
        self.mapping = nn.Sequential(*layers)
        self.const = nn.Parameter(torch.ones(1, channels[0], 4, 4))
        self.bias = nn.Parameter(torch.randn(channels[0]))
        count = int(math.log2(size)) - 1
        self.convs = nn.ModuleList()
        self.adains = nn.ModuleList([AdaIN(latent_dim, channels[0])])
        into = channels[0]
        for index, out in enumerate(channels[:count]):
            if index:
                self.convs.append(EqualConv(into, out, 3, 1))
                self.adains.append(AdaIN(latent_dim, out))
            self.convs.append(EqualConv(out, out, 3, 1))
            self.adains.append(AdaIN(latent_dim, out))
            into = out
        self.blur = Blur2d()
        self.to_rgb = EqualConv(into, 3, 1, gain=1)
        for index in range(count):
            side = 4 * 2**index
            self.register_buffer(f"noise{index}", torch.randn(1, 1, side, side))
        self.count = count

    def forward(self, z):
        w = self.mapping(z)
        x = self.const.expand(z.size(0), -1, -1, -1) + self.bias.view(1, -1, 1, 1)
        adains, convs = iter(self.adains), iter(self.convs)
        for index in range(self.count):
            noise = getattr(self, f"noise{index}")
            if index:
                x = self.blur(next(convs)(upscale2d(x)))
            x = next(adains)(x, w, noise)
            x = next(convs)(x)
            x = next(adains)(x, w, noise)
        return self.to_rgb(x)


WIDE = [128, 128, 64, 64, 32]
TINY = [8, 8, 6, 6, 4]


def pggan():
    return made(seeded(5, PGGAN, 64, 64, WIDE), 64)


def pggan_tiny():
    return made(seeded(5, PGGAN, 16, 8, TINY), 8)


def stylegan1():
    return made(seeded(5, StyleGAN1, 64, 64, WIDE), 64)


def stylegan1_tiny():
    return made(seeded(5, StyleGAN1, 16, 8, TINY), 8)
