"""BigGAN, BigGAN-deep, SAGAN and SNGAN in the style of their authors' code.

Each factory makes images [batch, 3, size, size] in [0, 1] of codes [batch, n], with random weights. `..._tiny` makes a
generator of the same architecture with few channels and 16 pixels.
"""

import functools
import itertools

import torch
from published_base import seeded, settled
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm


class ConditionalNorm(nn.Module):
    """Batch norm whose gains and biases are linear in the class and in a part of the code."""

    def __init__(self, channels, condition_dim):
        super().__init__()
        self.gain = spectral_norm(nn.Linear(condition_dim, channels, bias=False))
        self.bias = spectral_norm(nn.Linear(condition_dim, channels, bias=False))
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))
        self.eps = 1e-5

    def forward(self, x, y):
        gain = (1 + self.gain(y)).view(y.size(0), -1, 1, 1)
        bias = self.bias(y).view(y.size(0), -1, 1, 1)
        out = F.batch_norm(x, self.stored_mean, self.stored_var, None, None, False, 0.1, self.eps)
        return out * gain + bias


class SelfAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.ch = channels
        self.theta = spectral_norm(nn.Conv2d(channels, channels // 8 or 1, 1, bias=False))
        self.phi = spectral_norm(nn.Conv2d(channels, channels // 8 or 1, 1, bias=False))
        self.g = spectral_norm(nn.Conv2d(channels, channels // 2, 1, bias=False))
        self.o = spectral_norm(nn.Conv2d(channels // 2, channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.tensor(0.5), requires_grad=True)

    def forward(self, x, y=None):
        theta = self.theta(x)
        phi = F.max_pool2d(self.phi(x), [2, 2])
        g = F.max_pool2d(self.g(x), [2, 2])
        theta = theta.view(-1, theta.size(1), x.shape[2] * x.shape[3])
        phi = phi.view(-1, phi.size(1), x.shape[2] * x.shape[3] // 4)
        g = g.view(-1, self.ch // 2, x.shape[2] * x.shape[3] // 4)
        beta = F.softmax(torch.bmm(theta.transpose(1, 2), phi), -1)
        o = self.o(torch.bmm(g, beta.transpose(1, 2)).view(-1, self.ch // 2, x.shape[2], x.shape[3]))
        return self.gamma * o + x


class BigGANBlock(nn.Module):
    def __init__(self, into, out, condition_dim):
        super().__init__()
        self.activation = nn.ReLU(inplace=False)
        self.upsample = functools.partial(F.interpolate, scale_factor=2)
        self.conv1 = spectral_norm(nn.Conv2d(into, out, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(out, out, 3, padding=1))
        self.conv_sc = spectral_norm(nn.Conv2d(into, out, 1))
        self.bn1, self.bn2 = ConditionalNorm(into, condition_dim), ConditionalNorm(out, condition_dim)

    def forward(self, x, y):
        h = self.activation(self.bn1(x, y))
        h, x = self.upsample(h), self.upsample(x)
        h = self.conv1(h)
        h = self.activation(self.bn2(h, y))
        h = self.conv2(h)
        return h + self.conv_sc(x)


class BigGAN(nn.Module):
    """The code is split: a part for the first layer, one for each block together with the class."""

    def __init__(self, latent_dim, channels, attention_at):
        super().__init__()
        self.chunks = len(channels)
        self.each = latent_dim // self.chunks
        self.shared = nn.Embedding(10, 2 * self.each)
        self.linear = spectral_norm(nn.Linear(latent_dim - (self.chunks - 1) * self.each, channels[0] * 16))
        self.blocks = nn.ModuleList()
        for index, (into, out) in enumerate(itertools.pairwise(channels)):
            self.blocks.append(nn.ModuleList([BigGANBlock(into, out, 3 * self.each)]))
            if index == attention_at:
                self.blocks[-1].append(SelfAttention(out))
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(channels[-1]), nn.ReLU(inplace=True), spectral_norm(nn.Conv2d(channels[-1], 3, 3, padding=1))
        )

    def forward(self, z):
        y = self.shared(torch.full((len(z),), 3, device=z.device))
        zs = torch.split(z, [z.shape[1] - (self.chunks - 1) * self.each, *[self.each] * (self.chunks - 1)], 1)
        z, ys = zs[0], [torch.cat([y, item], 1) for item in zs[1:]]
        h = self.linear(z)
        h = h.view(h.size(0), -1, 4, 4)
        for index, blocklist in enumerate(self.blocks):
            for block in blocklist:
                h = block(h, ys[index])
        return torch.tanh(self.output_layer(h))


class DeepBlock(nn.Module):
    """BigGAN-deep's: a bottleneck, and a shortcut that drops channels."""

    def __init__(self, into, out, condition_dim, up):
        super().__init__()
        middle = into // 4
        self.out, self.up = out, up
        sizes = [(into, middle, 1), (middle, middle, 3), (middle, middle, 3), (middle, out, 1)]
        self.convs = nn.ModuleList(spectral_norm(nn.Conv2d(a, b, k, padding=k // 2)) for a, b, k in sizes)
        self.bns = nn.ModuleList(ConditionalNorm(a, condition_dim) for a, _, _ in sizes)

    def forward(self, x, y):
        h = x
        for index, (bn, conv) in enumerate(zip(self.bns, self.convs, strict=True)):
            h = F.relu(bn(h, y))
            if index == 1 and self.up:
                h = F.interpolate(h, scale_factor=2, mode="nearest")
            h = conv(h)
        if x.shape[1] != self.out:
            x = x[:, : self.out]
        if self.up:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        return h + x


class BigGANDeep(nn.Module):
    def __init__(self, latent_dim, channels):
        super().__init__()
        self.gen_z = spectral_norm(nn.Linear(latent_dim, 16 * channels[0]))
        layers = []
        for into, out in itertools.pairwise(channels):
            layers += [DeepBlock(into, into, latent_dim, False), DeepBlock(into, out, latent_dim, True)]
        layers.insert(len(layers) // 2, SelfAttention(channels[len(channels) // 2 - (len(layers) // 2) % 2]))
        self.layers = nn.ModuleList(layers)
        self.bn = nn.BatchNorm2d(channels[-1])
        self.conv_to_rgb = spectral_norm(nn.Conv2d(channels[-1], channels[-1], 3, padding=1))
        self.first = channels[0]

    def forward(self, z):
        h = self.gen_z(z)
        h = h.view(-1, 4, 4, self.first)
        h = h.permute(0, 3, 1, 2).contiguous()
        for layer in self.layers:
            h = layer(h, z) if isinstance(layer, DeepBlock) else layer(h)
        h = F.relu(self.bn(h))
        h = self.conv_to_rgb(h)
        h = h[:, :3, ...]
        return torch.tanh(h)


class SAGAN(nn.Module):
    def __init__(self, latent_dim, channels):
        super().__init__()

        def layer(into, out, stride, pad):
            return nn.Sequential(
                spectral_norm(nn.ConvTranspose2d(into, out, 4, stride, pad)), nn.BatchNorm2d(out), nn.ReLU()
            )

        self.l1 = layer(latent_dim, channels[0], 1, 0)
        self.rest = nn.ModuleList(layer(a, b, 2, 1) for a, b in itertools.pairwise(channels))
        self.attn = SelfAttention(channels[-1])
        self.last = nn.Sequential(nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1), nn.Tanh())

    def forward(self, z):
        z = z.view(z.size(0), z.size(1), 1, 1)
        out = self.l1(z)
        for layer in self.rest:
            out = layer(out)
        out = self.attn(out)
        return self.last(out)


class ResNetBlock(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        conv1, conv2 = nn.Conv2d(into, out, 3, 1, padding=1), nn.Conv2d(out, out, 3, 1, padding=1)
        nn.init.xavier_uniform_(conv1.weight.data, 1.0)
        self.model = nn.Sequential(
            nn.BatchNorm2d(into), nn.ReLU(), nn.Upsample(scale_factor=2), conv1, nn.BatchNorm2d(out), nn.ReLU(), conv2
        )
        self.bypass = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(into, out, 1))

    def forward(self, x):
        return self.model(x) + self.bypass(x)


class SNGAN(nn.Module):
    def __init__(self, latent_dim, channels):
        super().__init__()
        self.dense = nn.Linear(latent_dim, 16 * channels[0])
        blocks = [ResNetBlock(a, b) for a, b in itertools.pairwise(channels)]
        last = nn.Conv2d(channels[-1], 3, 3, 1, padding=1)
        self.model = nn.Sequential(*blocks, nn.BatchNorm2d(channels[-1]), nn.ReLU(), last, nn.Tanh())
        self.first = channels[0]

    def forward(self, z):
        return self.model(self.dense(z).view(-1, self.first, 4, 4))


WIDE = [128, 96, 64, 48, 32]
TINY = [16, 16, 8]


def biggan():
    return settled(seeded(7, BigGAN, 60, WIDE, 2), 60)


def biggan_tiny():
    return settled(seeded(7, BigGAN, 9, TINY, 0), 9)


def biggan_deep():
    return settled(seeded(7, BigGANDeep, 64, [128, 128, 96, 64, 32]), 64)


def biggan_deep_tiny():
    return settled(seeded(7, BigGANDeep, 8, TINY), 8)


def sagan():
    return settled(seeded(7, SAGAN, 64, [128, 96, 64, 48]), 64)


def sagan_tiny():
    return settled(seeded(7, SAGAN, 8, [16, 8]), 8)


def sngan():
    return settled(seeded(7, SNGAN, 64, WIDE), 64)


def sngan_tiny():
    return settled(seeded(7, SNGAN, 8, TINY), 8)
