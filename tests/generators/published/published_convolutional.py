"""DCGAN, DeePSiM, FastGAN and SPADE in the style of their authors' code.

Each factory makes images [batch, 3, size, size] in [0, 1] of codes [batch, n], with random weights. `..._tiny` makes a
generator of the same architecture with few channels and 16 pixels.
"""

import itertools

import torch
from published_base import seeded, settled
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm


class DCGAN(nn.Module):
    def __init__(self, latent_dim, channels):
        super().__init__()
        layers = [nn.ConvTranspose2d(latent_dim, channels[0], 4, 1, 0, bias=False)]
        for into, out in itertools.pairwise(channels):
            layers += [nn.BatchNorm2d(into), nn.ReLU(True), nn.ConvTranspose2d(into, out, 4, 2, 1, bias=False)]
        layers += [nn.BatchNorm2d(channels[-1]), nn.ReLU(True)]
        self.main = nn.Sequential(*layers, nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, input):
        return self.main(input[:, :, None, None])


class DeePSiM(nn.Module):
    """Fully connected layers, then transposed convolutions; its images have blue first and a mean taken off."""

    def __init__(self, latent_dim, hidden, channels):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.LeakyReLU(0.3, inplace=True),
            nn.Linear(hidden, 16 * channels[0]), nn.LeakyReLU(0.3, inplace=True),
        )  # fmt: skip
        layers = []
        for into, out in itertools.pairwise(channels):
            layers += [nn.ConvTranspose2d(into, out, 4, 2, 1), nn.LeakyReLU(0.3, inplace=True)]
            layers += [nn.ConvTranspose2d(out, out, 3, 1, 1), nn.LeakyReLU(0.3, inplace=True)]
        self.deconv = nn.Sequential(*layers, nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1))
        self.register_buffer("mean", torch.tensor([123.0, 117.0, 104.0]).view(1, 3, 1, 1))

    def forward(self, z):
        y = self.fc(z).view(len(z), -1, 4, 4)
        y = self.deconv(y) * 300 + self.mean
        y = y[:, [2, 1, 0], :, :] / 255
        return y.clamp_(0, 1) * 2 - 1


class SEBlock(nn.Module):
    """FastGAN's skip-layer excitation."""

    def __init__(self, into, out):
        super().__init__()
        self.main = nn.Sequential(
            nn.AdaptiveAvgPool2d(4), nn.Conv2d(into, out, 4, 1, 0, bias=False), nn.SiLU(),
            nn.Conv2d(out, out, 1, 1, 0, bias=False), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, feat_small, feat_big):
        return feat_big * self.main(feat_small)


class GLU(nn.Module):
    def forward(self, x):
        nc = x.size(1)
        assert nc % 2 == 0
        nc = int(nc / 2)
        return x[:, :nc] * torch.sigmoid(x[:, nc:])


class NoiseOfFastGAN(nn.Module):
    def __init__(self, side):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 0.1), requires_grad=True)
        self.register_buffer("noise", torch.randn(1, 1, side, side))

    def forward(self, feat):
        return feat + self.weight * self.noise


class FastGAN(nn.Module):
    def __init__(self, latent_dim, channels):
        super().__init__()

        def up(into, out, side):
            return nn.Sequential(
                nn.Upsample(scale_factor=2, mode="nearest"),
                spectral_norm(nn.Conv2d(into, out * 2, 3, 1, 1, bias=False)), NoiseOfFastGAN(side),
                nn.BatchNorm2d(out * 2), GLU(),
                spectral_norm(nn.Conv2d(out, out * 2, 3, 1, 1, bias=False)), NoiseOfFastGAN(side),
                nn.BatchNorm2d(out * 2), GLU(),
            )  # fmt: skip

        self.init = nn.Sequential(
            spectral_norm(nn.ConvTranspose2d(latent_dim, channels[0] * 2, 4, 1, 0, bias=False)),
            nn.BatchNorm2d(channels[0] * 2),
            GLU(),
        )
        pairs = itertools.pairwise(channels)
        self.feats = nn.ModuleList(up(a, b, 8 * 2**index) for index, (a, b) in enumerate(pairs))
        self.se = SEBlock(channels[0], channels[-1])
        self.to_big = spectral_norm(nn.Conv2d(channels[-1], 3, 3, 1, 1, bias=False))

    def forward(self, input):
        noise = input.view(input.shape[0], -1, 1, 1)
        first = self.init(noise)
        feat = first
        for layer in self.feats:
            feat = layer(feat)
        feat = self.se(first, feat)
        return torch.tanh(self.to_big(feat))


class SPADE(nn.Module):
    """A normalization whose gains and biases are maps made of a small image, which here the code makes."""

    def __init__(self, channels, label_channels, hidden):
        super().__init__()
        self.param_free_norm = nn.InstanceNorm2d(channels, affine=False)
        self.mlp_shared = nn.Sequential(nn.Conv2d(label_channels, hidden, 3, padding=1), nn.ReLU())
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x, segmap):
        normalized = self.param_free_norm(x)
        segmap = F.interpolate(segmap, size=x.size()[2:], mode="nearest")
        actv = self.mlp_shared(segmap)
        return normalized * (1 + self.mlp_gamma(actv)) + self.mlp_beta(actv)


class SPADEGenerator(nn.Module):
    def __init__(self, latent_dim, channels, hidden):
        super().__init__()
        self.fc = nn.Linear(latent_dim, 16 * channels[0])
        self.label = nn.Linear(latent_dim, 4 * 64)
        self.first = channels[0]
        self.norms, self.convs = nn.ModuleList(), nn.ModuleList()
        for into, out in itertools.pairwise(channels):
            self.norms.append(SPADE(into, 4, hidden))
            self.convs.append(spectral_norm(nn.Conv2d(into, out, 3, padding=1)))
        self.conv_img = nn.Conv2d(channels[-1], 3, 3, padding=1)
        self.up = nn.Upsample(scale_factor=2)

    def forward(self, z):
        seg = self.label(z).view(-1, 4, 8, 8).softmax(dim=1)
        x = self.fc(z).view(-1, self.first, 4, 4)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = self.up(x)
            x = conv(F.leaky_relu(norm(x, seg), 2e-1))
        return torch.tanh(self.conv_img(F.leaky_relu(x, 2e-1)))


WIDE = [128, 96, 64, 48, 32]
TINY = [16, 16, 8]


def dcgan():
    return settled(seeded(7, DCGAN, 64, [128, 96, 64, 48]), 64)


def dcgan_tiny():
    return settled(seeded(7, DCGAN, 8, [16, 8]), 8)


def deepsim():
    return settled(seeded(7, DeePSiM, 64, 256, [96, 64, 48, 32]), 64)


def deepsim_tiny():
    return settled(seeded(7, DeePSiM, 8, 16, [12, 8]), 8)


def fastgan():
    return settled(seeded(7, FastGAN, 64, WIDE), 64)


def fastgan_tiny():
    return settled(seeded(7, FastGAN, 8, TINY), 8)


def spade():
    return settled(seeded(7, SPADEGenerator, 64, [96, 96, 64, 48, 32], 32), 64)


def spade_tiny():
    return settled(seeded(7, SPADEGenerator, 8, TINY, 4), 8)
