"""Neural fields: SIREN and pi-GAN in the style of their authors' code.

Each factory makes images [batch, 3, size, size] in [0, 1] of codes [batch, n], with random weights. `..._tiny` makes a
generator of the same architecture with few channels and 16 pixels.
"""

import math

import torch
from published_base import made, seeded
from torch import nn
from torch.nn import functional as F


class Siren(nn.Module):
    """A field with sines; the code is joined to the coordinates."""

    def __init__(self, latent_dim, size, hidden, layers, omega=10.0):
        super().__init__()
        self.size, self.omega = size, omega
        side = torch.linspace(-1, 1, size)
        self.register_buffer("coords", torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(1, -1, 2))
        self.layers = nn.ModuleList(
            nn.Linear(2 + latent_dim if index == 0 else hidden, hidden) for index in range(layers)
        )
        for index, layer in enumerate(self.layers):
            bound = 1 / layer.in_features if index == 0 else math.sqrt(6 / hidden) / omega
            nn.init.uniform_(layer.weight, -bound, bound)
        self.last = nn.Linear(hidden, 3)

    def forward(self, z):
        coords = self.coords.expand(z.shape[0], -1, -1)
        x = torch.cat([coords, z.unsqueeze(1).expand(-1, coords.shape[1], -1)], -1)
        for layer in self.layers:
            x = torch.sin(self.omega * layer(x))
        return self.last(x).permute(0, 2, 1).view(-1, 3, self.size, self.size)


class FiLMLayer(nn.Module):
    def __init__(self, into, hidden):
        super().__init__()
        self.layer = nn.Linear(into, hidden)

    def forward(self, x, freq, phase_shift):
        x = self.layer(x)
        freq = freq.unsqueeze(1).expand_as(x)
        phase_shift = phase_shift.unsqueeze(1).expand_as(x)
        return torch.sin(freq * x + phase_shift)


class PiGAN(nn.Module):
    """pi-GAN's network of sines, on rays through a volume, with the colours summed by their opacities."""

    def __init__(self, latent_dim, size, hidden, layers, samples):
        super().__init__()
        self.size, self.samples, self.hidden = size, samples, hidden
        self.network = nn.ModuleList(FiLMLayer(3 if index == 0 else hidden, hidden) for index in range(layers))
        self.final_layer = nn.Linear(hidden, 1)
        self.color_layer_sine = FiLMLayer(hidden + 3, hidden)
        self.color_layer_linear = nn.Sequential(nn.Linear(hidden, 3), nn.Sigmoid())
        self.mapping_network = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.LeakyReLU(0.2, inplace=True), nn.Linear(hidden, (layers + 1) * hidden * 2)
        )
        with torch.no_grad():
            self.mapping_network[-1].weight *= 0.25
        for layer in [*list(self.network)[1:], self.color_layer_sine]:
            nn.init.uniform_(layer.layer.weight, -math.sqrt(6 / hidden) / 25, math.sqrt(6 / hidden) / 25)
        side = torch.linspace(-1, 1, size)
        rays = torch.stack([*torch.meshgrid(side, side, indexing="xy"), torch.full((size, size), -2.0)], -1)
        rays = F.normalize(rays.view(-1, 3), dim=-1)
        self.register_buffer("z_vals", torch.linspace(0.8, 1.6, samples).view(1, 1, samples, 1))
        points = rays[None, :, None] * self.z_vals + torch.tensor([0.0, 0.0, 1.0])
        self.register_buffer("points", points.reshape(1, -1, 3))
        self.register_buffer("directions", rays[None, :, None].expand(1, -1, samples, 3).reshape(1, -1, 3))

    def forward(self, z):
        frequencies_offsets = self.mapping_network(z)
        half = frequencies_offsets.shape[-1] // 2
        frequencies = frequencies_offsets[..., :half] * 15 + 30
        phase_shifts = frequencies_offsets[..., half:]
        x = self.points.expand(len(z), -1, -1)
        directions = self.directions.expand(len(z), -1, -1)
        for index, layer in enumerate(self.network):
            start, end = index * self.hidden, (index + 1) * self.hidden
            x = layer(x, frequencies[..., start:end], phase_shifts[..., start:end])
        sigma = self.final_layer(x)
        rgb = self.color_layer_sine(
            torch.cat([directions, x], dim=-1), frequencies[..., -self.hidden :], phase_shifts[..., -self.hidden :]
        )
        rgb = self.color_layer_linear(rgb)
        rgb_sigma = torch.cat([rgb, sigma], dim=-1).view(len(z), -1, self.samples, 4)
        rgbs, sigmas = rgb_sigma[..., :3], rgb_sigma[..., 3:]
        deltas = self.z_vals[:, :, 1:] - self.z_vals[:, :, :-1]
        delta_inf = 1e10 * torch.ones_like(deltas[:, :, :1])
        deltas = torch.cat([deltas, delta_inf], -2)
        alphas = 1 - torch.exp(-deltas * F.softplus(sigmas))
        alphas_shifted = torch.cat([torch.ones_like(alphas[:, :, :1]), 1 - alphas + 1e-10], -2)
        weights = alphas * torch.cumprod(alphas_shifted, -2)[:, :, :-1]
        rgb_final = torch.sum(weights * rgbs, -2)
        return rgb_final.permute(0, 2, 1).reshape(-1, 3, self.size, self.size) * 2 - 1


def siren():
    return made(seeded(7, Siren, 64, 64, 64, 5), 64)


def siren_tiny():
    return made(seeded(7, Siren, 8, 16, 8, 3), 8)


def pigan():
    return made(seeded(7, PiGAN, 64, 64, 48, 4, 6), 64)


def pigan_tiny():
    return made(seeded(7, PiGAN, 8, 16, 8, 2, 3), 8)
