"""Glow and RealNVP in the style of their authors' code.

Each factory makes images [batch, 3, size, size] in [0, 1] of codes [batch, n], with random weights. `..._tiny` makes a
generator of the same architecture with few channels and 16 pixels.
"""

import torch
from published_base import made, seeded
from torch import nn
from torch.nn import functional as F


class ActNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.loc = nn.Parameter(torch.randn(1, channels, 1, 1) * 0.1)
        self.scale = nn.Parameter(torch.rand(1, channels, 1, 1) + 0.5)

    def reverse(self, output):
        return output / self.scale - self.loc


class InvConv2dLU(nn.Module):
    def __init__(self, channels):
        super().__init__()
        weight, _ = torch.linalg.qr(torch.randn(channels, channels))
        p, lower, upper = torch.linalg.lu(weight)
        self.register_buffer("w_p", p)
        self.register_buffer("u_mask", torch.triu(torch.ones_like(upper), 1))
        self.register_buffer("l_mask", torch.tril(torch.ones_like(lower), -1))
        self.register_buffer("s_sign", torch.sign(torch.diagonal(upper)))
        self.register_buffer("l_eye", torch.eye(channels))
        self.w_l, self.w_u = nn.Parameter(lower), nn.Parameter(torch.triu(upper, 1))
        self.w_s = nn.Parameter(torch.log(torch.abs(torch.diagonal(upper))))

    def calc_weight(self):
        weight = (
            self.w_p
            @ (self.w_l * self.l_mask + self.l_eye)
            @ ((self.w_u * self.u_mask) + torch.diag(self.s_sign * torch.exp(self.w_s)))
        )
        return weight.unsqueeze(2).unsqueeze(3)

    def reverse(self, output):
        weight = self.calc_weight()
        return F.conv2d(output, weight.squeeze().inverse().unsqueeze(2).unsqueeze(3))


class ZeroConv2d(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.conv = nn.Conv2d(into, out, 3, padding=0)
        nn.init.normal_(self.conv.weight, std=0.01)
        self.scale = nn.Parameter(torch.zeros(1, out, 1, 1))

    def forward(self, input):
        out = F.pad(input, [1, 1, 1, 1], value=1)
        out = self.conv(out)
        return out * torch.exp(self.scale * 3)


class AffineCoupling(nn.Module):
    def __init__(self, channels, hidden, additive=False):
        super().__init__()
        self.additive = additive
        self.net = nn.Sequential(
            nn.Conv2d(channels // 2, hidden, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True), ZeroConv2d(hidden, channels // 2 if additive else channels),
        )  # fmt: skip
        nn.init.normal_(self.net[0].weight, 0, 0.05)
        nn.init.normal_(self.net[2].weight, 0, 0.05)

    def reverse(self, output):
        out_a, out_b = output.chunk(2, 1)
        if self.additive:
            return torch.cat([out_a, out_b - self.net(out_a)], 1)
        log_s, t = self.net(out_a).chunk(2, 1)
        s = torch.sigmoid(log_s + 2)
        in_b = out_b / s - t
        return torch.cat([out_a, in_b], 1)


class Glow(nn.Module):
    """The inverse, from a code of one latent that is spread over the channels of the coarsest level."""

    def __init__(self, latent_dim, size, hidden, flows, levels):
        super().__init__()
        channels = 3 * 4**levels
        self.side = size // 2**levels
        self.spread = nn.Linear(latent_dim, channels * self.side**2)
        self.levels = nn.ModuleList()
        for _ in range(levels):
            steps = [[ActNorm(channels), InvConv2dLU(channels), AffineCoupling(channels, hidden)] for _ in range(flows)]
            self.levels.append(nn.ModuleList(nn.ModuleList(step) for step in steps))
            channels //= 4

    def forward(self, z):
        x = self.spread(z).view(len(z), -1, self.side, self.side)
        for level in self.levels:
            for flow in level[::-1]:
                for step in reversed(flow):
                    x = step.reverse(x)
            b, c, h, w = x.shape
            unsqueezed = x.view(b, c // 4, 2, 2, h, w)
            unsqueezed = unsqueezed.permute(0, 1, 4, 2, 5, 3)
            x = unsqueezed.contiguous().view(b, c // 4, h * 2, w * 2)
        return torch.tanh(0.5 * x)


class RealNVP(nn.Module):
    """Couplings with checkerboards and with masks of channels, which write into a copy."""

    def __init__(self, latent_dim, size, hidden, count):
        super().__init__()
        self.size = size
        self.spread = nn.Linear(latent_dim, 3 * size * size)
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Conv2d(3, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, 6, 3, padding=1))
            for _ in range(count)
        )
        rows = torch.arange(size)
        self.register_buffer("board", ((rows[:, None] + rows) % 2).float()[None, None])
        self.rescale = nn.Parameter(torch.full((1, 3, 1, 1), 0.5))

    def forward(self, z):
        y = self.spread(z).view(-1, 3, self.size, self.size)
        for index, net in enumerate(self.nets):
            mask = self.board if index % 2 == 0 else 1 - self.board
            s, t = net(y * mask).chunk(2, dim=1)
            s = self.rescale * torch.tanh(s)
            x = y.clone()
            x.sub_(t * (1 - mask)).mul_(torch.exp(-s * (1 - mask)))
            y = x
        return torch.tanh(y)


def glow():
    return made(seeded(7, Glow, 64, 64, 64, 4, 3), 64)


def glow_tiny():
    return made(seeded(7, Glow, 8, 16, 6, 2, 2), 8)


def realnvp():
    return made(seeded(7, RealNVP, 64, 64, 48, 6), 64)


def realnvp_tiny():
    return made(seeded(7, RealNVP, 8, 16, 6, 3), 8)
