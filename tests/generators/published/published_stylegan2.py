"""StyleGAN2 in the style of rosinality's code: views into one sample with many groups, noise in buffers.

Each factory makes images [batch, 3, size, size] in [0, 1] of codes [batch, n], with random weights. `..._tiny` makes a
generator of the same architecture with few channels and 16 pixels.
"""

import math

import torch
from published_base import made, seeded
from torch import nn
from torch.nn import functional as F


class PixelNorm(nn.Module):
    def forward(self, input):
        return input * torch.rsqrt(torch.mean(input**2, dim=1, keepdim=True) + 1e-8)


def make_kernel(k):
    k = torch.tensor(k, dtype=torch.float32)
    if k.ndim == 1:
        k = k[None, :] * k[:, None]
    k /= k.sum()
    return k


def upfirdn2d_native(input, kernel, up, down, pad):
    """Insert zeros, pad, filter, drop; the reshapes are those of the native version."""
    _, channel, in_h, in_w = input.shape
    input = input.reshape(-1, in_h, in_w, 1)
    _, in_h, in_w, minor = input.shape
    kernel_h, kernel_w = kernel.shape
    out = input.view(-1, in_h, 1, in_w, 1, minor)
    out = F.pad(out, [0, 0, 0, up - 1, 0, 0, 0, up - 1])
    out = out.view(-1, in_h * up, in_w * up, minor)
    out = F.pad(out, [0, 0, max(pad[0], 0), max(pad[1], 0), max(pad[0], 0), max(pad[1], 0)])
    out = out.permute(0, 3, 1, 2)
    out = out.reshape([-1, 1, in_h * up + pad[0] + pad[1], in_w * up + pad[0] + pad[1]])
    w = torch.flip(kernel, [0, 1]).view(1, 1, kernel_h, kernel_w)
    out = F.conv2d(out, w)
    out = out.reshape(-1, minor, out.shape[2], out.shape[3])
    out = out.permute(0, 2, 3, 1)
    out = out[:, ::down, ::down, :]
    return out.view(-1, channel, out.shape[1], out.shape[2])


class Blur(nn.Module):
    def __init__(self, kernel, pad, upsample_factor=1):
        super().__init__()
        kernel = make_kernel(kernel)
        self.register_buffer("kernel", kernel * upsample_factor**2)
        self.pad = pad

    def forward(self, input):
        return upfirdn2d_native(input, self.kernel, 1, 1, self.pad)


class Upsample(nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.register_buffer("kernel", make_kernel(kernel) * 4)

    def forward(self, input):
        return upfirdn2d_native(input, self.kernel, 2, 1, (2, 1))


class EqualLinear(nn.Module):
    def __init__(self, in_dim, out_dim, bias_init=0, lr_mul=1, activation=False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim).div_(lr_mul))
        self.bias = nn.Parameter(torch.zeros(out_dim).fill_(bias_init))
        self.scale = (1 / math.sqrt(in_dim)) * lr_mul
        self.lr_mul = lr_mul
        self.activation = activation

    def forward(self, input):
        if self.activation:
            out = F.linear(input, self.weight * self.scale)
            return fused_leaky_relu(out, self.bias * self.lr_mul)
        return F.linear(input, self.weight * self.scale, bias=self.bias * self.lr_mul)


def fused_leaky_relu(input, bias):
    rest = [1] * (input.ndim - bias.ndim - 1)
    return F.leaky_relu(input + bias.view(1, bias.shape[0], *rest), negative_slope=0.2) * 2**0.5


class ModulatedConv2d(nn.Module):
    def __init__(self, in_channel, out_channel, kernel_size, style_dim, demodulate=True, upsample=False, fused=True):
        super().__init__()
        self.kernel_size, self.out_channel, self.in_channel = kernel_size, out_channel, in_channel
        self.upsample, self.demodulate, self.fused = upsample, demodulate, fused
        if upsample:
            p = (4 - 2) - (kernel_size - 1)
            self.blur = Blur([1, 3, 3, 1], pad=((p + 1) // 2 + 1, p // 2 + 1), upsample_factor=2)
        self.scale = 1 / math.sqrt(in_channel * kernel_size**2)
        self.padding = kernel_size // 2
        self.weight = nn.Parameter(torch.randn(1, out_channel, in_channel, kernel_size, kernel_size))
        self.modulation = EqualLinear(style_dim, in_channel, bias_init=1)

    def forward(self, input, style):
        batch, in_channel, height, width = input.shape
        if not self.fused:
            weight = self.scale * self.weight.squeeze(0)
            style = self.modulation(style)
            if self.demodulate:
                w = weight.unsqueeze(0) * style.view(batch, 1, in_channel, 1, 1)
                dcoefs = (w.square().sum((2, 3, 4)) + 1e-8).rsqrt()
            input = input * style.reshape(batch, in_channel, 1, 1)
            if self.upsample:
                out = self.blur(F.conv_transpose2d(input, weight.transpose(0, 1), padding=0, stride=2))
            else:
                out = F.conv2d(input, weight, padding=self.padding)
            return out * dcoefs.view(batch, -1, 1, 1) if self.demodulate else out
        style = self.modulation(style).view(batch, 1, in_channel, 1, 1)
        weight = self.scale * self.weight * style
        if self.demodulate:
            demod = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
            weight = weight * demod.view(batch, self.out_channel, 1, 1, 1)
        weight = weight.view(batch * self.out_channel, in_channel, self.kernel_size, self.kernel_size)
        input = input.view(1, batch * in_channel, height, width)
        if self.upsample:
            weight = weight.view(batch, self.out_channel, in_channel, self.kernel_size, self.kernel_size)
            weight = weight.transpose(1, 2).reshape(
                batch * in_channel, self.out_channel, self.kernel_size, self.kernel_size
            )
            out = F.conv_transpose2d(input, weight, padding=0, stride=2, groups=batch)
            _, _, height, width = out.shape
            return self.blur(out.view(batch, self.out_channel, height, width))
        out = F.conv2d(input, weight, padding=self.padding, groups=batch)
        _, _, height, width = out.shape
        return out.view(batch, self.out_channel, height, width)


class NoiseInjection(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1) * 0.1)

    def forward(self, image, noise=None):
        if noise is None:
            batch, _, height, width = image.shape
            noise = image.new_empty(batch, 1, height, width).normal_()
        return image + self.weight * noise


class StyledConv(nn.Module):
    def __init__(self, in_channel, out_channel, kernel_size, style_dim, upsample=False, fused=True):
        super().__init__()
        self.conv = ModulatedConv2d(in_channel, out_channel, kernel_size, style_dim, upsample=upsample, fused=fused)
        self.noise = NoiseInjection()
        self.bias = nn.Parameter(torch.randn(out_channel) * 0.1)

    def forward(self, input, style, noise=None):
        out = self.conv(input, style)
        out = self.noise(out, noise=noise)
        return fused_leaky_relu(out, self.bias)


class ToRGB(nn.Module):
    def __init__(self, in_channel, style_dim, upsample=True, fused=True):
        super().__init__()
        if upsample:
            self.upsample = Upsample([1, 3, 3, 1])
        self.conv = ModulatedConv2d(in_channel, 3, 1, style_dim, demodulate=False, fused=fused)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, input, style, skip=None):
        out = self.conv(input, style)
        out = out + self.bias
        if skip is not None:
            skip = self.upsample(skip)
            out = out + skip
        return out


class ConstantInput(nn.Module):
    def __init__(self, channel, size=4):
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channel, size, size))

    def forward(self, input):
        return self.input.repeat(input.shape[0], 1, 1, 1)


class StyleGAN2(nn.Module):
    def __init__(self, size, style_dim, channels, fused=True):
        super().__init__()
        self.style = nn.Sequential(
            PixelNorm(), *[EqualLinear(style_dim, style_dim, lr_mul=0.01, activation=True) for _ in range(4)]
        )
        self.input = ConstantInput(channels[0])
        self.conv1 = StyledConv(channels[0], channels[0], 3, style_dim, fused=fused)
        self.to_rgb1 = ToRGB(channels[0], style_dim, upsample=False, fused=fused)
        self.convs, self.to_rgbs, self.noises = nn.ModuleList(), nn.ModuleList(), nn.Module()
        self.log_size = int(math.log2(size))
        self.num_layers = (self.log_size - 2) * 2 + 1
        for index in range(self.num_layers):
            res = (index + 5) // 2
            self.noises.register_buffer(f"noise_{index}", torch.randn(1, 1, 2**res, 2**res))
        into = channels[0]
        for out in channels[1 : self.log_size - 1]:
            self.convs.append(StyledConv(into, out, 3, style_dim, upsample=True, fused=fused))
            self.convs.append(StyledConv(out, out, 3, style_dim, fused=fused))
            self.to_rgbs.append(ToRGB(out, style_dim, fused=fused))
            into = out
        self.n_latent = self.log_size * 2 - 2

    def forward(self, z):
        noise = [getattr(self.noises, f"noise_{i}") for i in range(self.num_layers)]
        styles = [self.style(s) for s in [z]]
        latent = styles[0].unsqueeze(1).repeat(1, self.n_latent, 1)
        out = self.input(latent)
        out = self.conv1(out, latent[:, 0], noise=noise[0])
        skip = self.to_rgb1(out, latent[:, 1])
        i = 1
        for conv1, conv2, noise1, noise2, to_rgb in zip(
            self.convs[::2], self.convs[1::2], noise[1::2], noise[2::2], self.to_rgbs, strict=True
        ):
            out = conv1(out, latent[:, i], noise=noise1)
            out = conv2(out, latent[:, i + 1], noise=noise2)
            skip = to_rgb(out, latent[:, i + 2], skip)
            i += 2
        return skip


WIDE = [128, 128, 64, 64, 32]
TINY = [8, 8, 6, 6, 4]


def stylegan2_rosinality():
    return made(seeded(5, StyleGAN2, 64, 64, WIDE), 64)


def stylegan2_rosinality_tiny():
    return made(seeded(5, StyleGAN2, 16, 8, TINY), 8)


def stylegan2_not_fused():
    return made(seeded(5, StyleGAN2, 64, 64, WIDE, fused=False), 64)


def stylegan2_not_fused_tiny():
    return made(seeded(5, StyleGAN2, 16, 8, TINY, fused=False), 8)
