"""Generators whose memory is used by one known part, and a program that compares a prediction with a real peak.

`python memory_cases.py GENERATOR DISTANCE METHOD PRECISION CODES` prints the predicted and the measured peak in bytes.
Every Jacobian is put in doubt, so that its certificate takes the most memory that it may need.
"""

import ctypes
import gc
import json
import pathlib
import sys

import torch
from torch import nn
from torch.nn import functional

from pullback.distances import load_distance
from pullback.generators import load_generator
from pullback.metric import curvature, differences, metric_at
from pullback.metric.methods import Setting
from pullback.metric.precision import in_double
from pullback.metric.strategy import Request, decide


class Attending(nn.Module):
    """A decoder with GroupNorm and attention over the pixels, as in a VAE."""

    def __init__(self, latent_dim=32, size=32, width=64):
        super().__init__()
        self.latent_dim, self.size, self.width = latent_dim, size, width
        self.first = nn.Linear(latent_dim, width * 16)
        self.norms = nn.ModuleList([nn.GroupNorm(8, width) for _ in range(3)])
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z):
        x = functional.interpolate(self.first(z).reshape(-1, self.width, 4, 4), size=(self.size, self.size))
        q, k, v = self.qkv(self.norms[0](x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        weights = torch.softmax(q @ k.transpose(1, 2) / self.width**0.5, dim=2)
        x = x + (weights @ v).transpose(1, 2).reshape(x.shape)
        x = x + self.convolution(functional.silu(self.norms[1](x)))
        return torch.sigmoid(self.last(functional.silu(self.norms[2](x))))


class Modulated(nn.Module):
    """Convolutions whose weights depend on the code, as in StyleGAN2."""

    def __init__(self, latent_dim=32, size=32, width=64):
        super().__init__()
        self.latent_dim, self.size, self.width = latent_dim, size, width
        self.constant = nn.Parameter(torch.randn(1, width, 4, 4))
        self.weights = nn.ParameterList([torch.randn(width, width, 3, 3) / 24 for _ in range(2)])
        self.styles = nn.ModuleList([nn.Linear(latent_dim, width) for _ in range(2)])
        self.last = nn.Conv2d(width, 3, 1)

    def forward(self, z):
        batch = len(z)
        x = self.constant.expand(batch, -1, -1, -1)
        x = functional.interpolate(x, size=(self.size, self.size))
        for weight, style in zip(self.weights, self.styles, strict=True):
            scaled = weight[None] * (1 + style(z))[:, None, :, None, None]
            scaled = scaled * torch.rsqrt(scaled.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
            x = functional.conv2d(x.reshape(1, -1, *x.shape[2:]), scaled.flatten(0, 1), padding=1, groups=batch)
            x = functional.leaky_relu(x.reshape(batch, -1, *x.shape[2:]), 0.2)
        return torch.sigmoid(self.last(x))


class Large(nn.Module):
    """Large images from a small network."""

    def __init__(self, latent_dim=16, size=256, width=16):
        super().__init__()
        self.latent_dim, self.size, self.width = latent_dim, size, width
        self.first = nn.Linear(latent_dim, width * 64)
        self.convolution = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z):
        x = functional.interpolate(self.first(z).reshape(-1, self.width, 8, 8), size=(self.size, self.size))
        return torch.sigmoid(self.last(torch.tanh(self.convolution(x))))


class Wide(nn.Module):
    """Many latent coordinates and a small image: the n × n matrices decide."""

    def __init__(self, latent_dim=1500):
        super().__init__()
        self.latent_dim = latent_dim
        self.first = nn.Linear(latent_dim, 192)

    def forward(self, z):
        return torch.sigmoid(self.first(z)).reshape(-1, 3, 8, 8)


GENERATORS = {"attending": Attending, "modulated": Modulated, "large": Large, "wide": Wide}


def status(key):
    """An entry of Linux's account of this process, in bytes."""
    return 1024 * int(pathlib.Path("/proc/self/status").read_text().partition(key)[2].split()[0])


def put_everything_in_doubt():
    settle = differences._in_own_arithmetic

    def doubtful(*arguments):
        *errors, settled = settle(*arguments)
        return *errors, torch.zeros_like(settled)

    differences._in_own_arithmetic = doubtful
    curvature._Curvature.is_settled = lambda *_: False


def main(name, distance_name, method, precision, codes):
    put_everything_in_doubt()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if name in GENERATORS:
        generator = GENERATORS[name]().eval().requires_grad_(False)
    else:
        generator = load_generator(name, device="cpu")
    distance = load_distance(distance_name, device="cpu")
    n, codes = generator.latent_dim, int(codes)
    kept = n if method in ("auto", "gauss_newton", "backprop") else 4
    networks = (in_double(generator), in_double(distance)) if precision == "float64" else (generator, distance)
    setting = Setting("gauss_newton", precision)
    strategy = decide(*networks, Request(method, kept, codes, setting))
    z = torch.randn(codes, n)
    condition = "cycle" if getattr(generator, "classes", ()) else None
    small = Request(method, kept, 1, setting, batch=1, tangents=1)
    warm = decide(*networks, small)
    if precision == "float64":  # whose certificate makes no other copy of the networks
        metric_at(generator, distance, z[:1], condition=condition, components=kept, precision=precision, strategy=warm)
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak from now on
    before = status("VmRSS:")
    metric_at(generator, distance, z, condition=condition, components=kept, precision=precision, strategy=strategy)
    predicted, needed = strategy.fit.bytes, status("VmHWM:") - before
    print(json.dumps([predicted, needed, strategy.method, strategy.fit.batch, strategy.fit.tangents]))


if __name__ == "__main__":
    main(*sys.argv[1:])
