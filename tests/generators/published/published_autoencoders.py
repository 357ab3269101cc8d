"""Decoders of autoencoders, a U-Net, and a generator with parts in TorchScript.

Each factory makes images [batch, 3, size, size] in [0, 1] of codes [batch, n], with random weights. `..._tiny` makes a
generator of the same architecture with few channels and 16 pixels.
"""

import math

import torch
from published_base import made, seeded
from torch import nn
from torch.nn import functional as F


def nonlinearity(x):
    return x * torch.sigmoid(x)


def Normalize(in_channels, num_groups=8):  # noqa: N802 - as the authors call it
    return nn.GroupNorm(min(num_groups, in_channels), in_channels, eps=1e-6, affine=True)


class ResnetBlock(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.norm1, self.norm2 = Normalize(in_channels), Normalize(out_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, 1, 1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.dropout = nn.Dropout(0.0)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x):
        h = self.conv1(nonlinearity(self.norm1(x)))
        h = self.conv2(self.dropout(nonlinearity(self.norm2(h))))
        if self.in_channels != self.out_channels:
            x = self.nin_shortcut(x)
        return x + h


class AttnBlock(nn.Module):
    def __init__(self, in_channels):
        super().__init__()
        self.norm = Normalize(in_channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(in_channels, in_channels, 1) for _ in range(4))

    def forward(self, x):
        h_ = self.norm(x)
        q, k, v = self.q(h_), self.k(h_), self.v(h_)
        b, c, h, w = q.shape
        q = q.reshape(b, c, h * w)
        q = q.permute(0, 2, 1)
        k = k.reshape(b, c, h * w)
        w_ = torch.bmm(q, k)
        w_ = w_ * (int(c) ** (-0.5))
        w_ = torch.nn.functional.softmax(w_, dim=2)
        v = v.reshape(b, c, h * w)
        w_ = w_.permute(0, 2, 1)
        h_ = torch.bmm(v, w_)
        h_ = h_.reshape(b, c, h, w)
        return x + self.proj_out(h_)


class MultiheadBlock(nn.Module):
    """Attention of tokens as diffusers has it: projections, heads, softmax by `baddbmm` of an empty tensor."""

    def __init__(self, channels, heads):
        super().__init__()
        self.group_norm = Normalize(channels)
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(channels, channels) for _ in range(4))
        self.heads = heads
        self.scale = (channels // heads) ** -0.5

    def head_to_batch_dim(self, tensor):
        batch, tokens, dim = tensor.shape
        tensor = tensor.reshape(batch, tokens, self.heads, dim // self.heads)
        return tensor.permute(0, 2, 1, 3).reshape(batch * self.heads, tokens, dim // self.heads)

    def forward(self, hidden_states):
        residual = hidden_states
        batch, channel, height, width = hidden_states.shape
        hidden_states = hidden_states.view(batch, channel, height * width).transpose(1, 2)
        hidden_states = self.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        query, key, value = (f(hidden_states) for f in (self.to_q, self.to_k, self.to_v))
        query, key, value = (self.head_to_batch_dim(part) for part in (query, key, value))
        scores = torch.baddbmm(
            torch.empty(query.shape[0], query.shape[1], key.shape[1], dtype=query.dtype, device=query.device),
            query, key.transpose(-1, -2), beta=0, alpha=self.scale,
        )  # fmt: skip
        out = torch.bmm(scores.softmax(dim=-1), value)
        out = out.reshape(batch, self.heads, height * width, -1).permute(0, 2, 1, 3)
        out = self.to_out(out.reshape(batch, height * width, channel))
        return out.transpose(-1, -2).reshape(batch, channel, height, width) + residual


class Decoder(nn.Module):
    """The decoder of latent diffusion's autoencoders, and of VQGAN where `attention` asks for more of it."""

    def __init__(self, z_channels, ch, ch_mult, attention, heads=None):
        super().__init__()
        block_in = ch * ch_mult[-1]
        self.z_channels = z_channels
        self.conv_in = nn.Conv2d(z_channels, block_in, 3, 1, 1)
        self.mid = nn.Module()
        self.mid.block_1 = ResnetBlock(block_in, block_in)
        self.mid.attn_1 = MultiheadBlock(block_in, heads) if heads else AttnBlock(block_in)
        self.mid.block_2 = ResnetBlock(block_in, block_in)
        self.up = nn.ModuleList()
        for level in reversed(range(len(ch_mult))):
            out = ch * ch_mult[level]
            up = nn.Module()
            up.block = nn.ModuleList([ResnetBlock(block_in, out)])
            up.attn = nn.ModuleList([AttnBlock(out)] if level in attention else [])
            if level:
                up.upsample = nn.Conv2d(out, out, 3, 1, 1)
            self.up.append(up)
            block_in = out
        self.norm_out = Normalize(block_in)
        self.conv_out = nn.Conv2d(block_in, 3, 3, 1, 1)

    def forward(self, z):
        side = math.isqrt(z.shape[1] // self.z_channels)
        h = self.conv_in(z.view(-1, self.z_channels, side, side))
        h = self.mid.block_1(h)
        h = self.mid.attn_1(h)
        h = self.mid.block_2(h)
        for up in self.up:
            for block in up.block:
                h = block(h)
                if len(up.attn) > 0:
                    h = up.attn[0](h)
            if hasattr(up, "upsample"):
                h = up.upsample(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.conv_out(nonlinearity(self.norm_out(h)))
        return torch.tanh(h)


class UNet(nn.Module):
    """A code as an image, down, up, and joined with what it was on the way."""

    def __init__(self, latent_dim, size, channels):
        super().__init__()
        self.size = size
        self.fc = nn.Linear(latent_dim, 4 * (size // 2) ** 2)
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        into = 4
        for out in channels:
            self.downs.append(nn.Sequential(nn.Conv2d(into, out, 4, 2, 1), nn.InstanceNorm2d(out), nn.LeakyReLU(0.2)))
            into = out
        for out in [*channels[-2::-1], channels[0]]:
            self.ups.append(
                nn.Sequential(
                    nn.ConvTranspose2d(into, out, 4, 2, 1, bias=False), nn.InstanceNorm2d(out), nn.ReLU(inplace=True)
                )
            )
            into = 2 * out
        self.shuffle = nn.PixelShuffle(2)
        self.last = nn.Conv2d(channels[0] + 4, 12, 3, padding=1)

    def forward(self, z):
        x = self.fc(z).view(len(z), 4, self.size // 2, self.size // 2)
        kept = [x]
        for down in self.downs:
            kept.append(down(kept[-1]))
        x = kept.pop()
        for up in self.ups:
            x = up(x)
            x = torch.cat((x, kept.pop()), 1)
        return torch.tanh(self.shuffle(self.last(x)))


@torch.jit.script
def scripted_gate(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    """A helper compiled by TorchScript, as in many published repositories."""
    return x * torch.sigmoid(g)


class Scripted(nn.Module):
    def __init__(self, latent_dim, channels):
        super().__init__()
        self.fc = nn.Linear(latent_dim, channels * 64)
        self.body = torch.jit.script(nn.Sequential(nn.Conv2d(channels, 2 * channels, 3, padding=1), nn.LeakyReLU(0.2)))
        self.last = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, z):
        x = self.body(self.fc(z).view(len(z), -1, 8, 8))
        a, b = x.chunk(2, 1)
        x = F.interpolate(scripted_gate(a, b), scale_factor=2, mode="bilinear", align_corners=False)
        return torch.tanh(self.last(x))


def vae_decoder():
    return made(seeded(7, Decoder, 1, 32, [1, 2, 4, 4], (), 2), 64)


def vae_decoder_tiny():
    return made(seeded(7, Decoder, 1, 8, [1, 2], (), 2), 64)


def vqgan_decoder():
    return made(seeded(7, Decoder, 1, 32, [1, 2, 3, 4], (2, 3)), 64)


def vqgan_decoder_tiny():
    return made(seeded(7, Decoder, 1, 8, [1, 2], (1,)), 64)


def unet():
    return made(seeded(7, UNet, 64, 64, [32, 64, 96]), 64)


def unet_tiny():
    return made(seeded(7, UNet, 8, 16, [4, 6]), 8)


def scripted_tiny():
    return made(seeded(7, Scripted, 8, 6), 8)
