"""StyleGAN2 and 3 in the style of NVIDIA's code: filters of zero insertions, transforms filled in number by number.

Each factory makes images [batch, 3, size, size] in [0, 1] of codes [batch, n], with random weights. `..._tiny` makes a
generator of the same architecture with few channels and 16 pixels.
"""

import math

import torch
from published_base import made, seeded
from torch import nn
from torch.nn import functional as F


def setup_filter(f):
    f = torch.as_tensor(f, dtype=torch.float32)
    f = f.ger(f)
    f /= f.sum()
    return f


def upfirdn2d(x, f, up=1, down=1, padding=(0, 0, 0, 0), gain=1):
    """The reference version: no custom operation."""
    batch_size, num_channels, in_height, in_width = x.shape
    px0, px1, py0, py1 = padding
    x = x.reshape([batch_size, num_channels, in_height, 1, in_width, 1])
    x = F.pad(x, [0, up - 1, 0, 0, 0, up - 1])
    x = x.reshape([batch_size, num_channels, in_height * up, in_width * up])
    x = F.pad(x, [max(px0, 0), max(px1, 0), max(py0, 0), max(py1, 0)])
    x = x[:, :, max(-py0, 0) : x.shape[2] - max(-py1, 0), max(-px0, 0) : x.shape[3] - max(-px1, 0)]
    f = f * (gain ** (f.ndim / 2))
    f = f.to(x.dtype)
    f = f.flip(list(range(f.ndim)))
    f = f[None, None].repeat([num_channels, 1] + [1] * f.ndim)
    if f.ndim == 4:
        x = F.conv2d(input=x, weight=f, groups=num_channels)
    else:
        x = F.conv2d(input=x, weight=f.unsqueeze(2), groups=num_channels)
        x = F.conv2d(input=x, weight=f.unsqueeze(3), groups=num_channels)
    return x[:, :, ::down, ::down]


def bias_act(x, b=None, act="linear", alpha=0.2, gain=1.0, clamp=-1.0):
    if b is not None:
        x = x + b.reshape([-1 if i == 1 else 1 for i in range(x.ndim)])
    if act == "lrelu":
        x = F.leaky_relu(x, alpha)
    if gain != 1:
        x = x * gain
    if clamp >= 0:
        x = x.clamp(-clamp, clamp)
    return x


def conv2d_wrapper(x, w, stride=1, padding=0, groups=1, transpose=False, flip_weight=True):
    if not flip_weight:
        w = w.flip([2, 3])
    op = F.conv_transpose2d if transpose else F.conv2d
    return op(x, w, stride=stride, padding=padding, groups=groups)


def conv2d_resample(x, w, f=None, up=1, padding=0, groups=1, flip_weight=True):
    out_channels, in_channels_per_group, kh, kw = w.shape
    if up == 1:
        return conv2d_wrapper(x, w, padding=padding, groups=groups, flip_weight=flip_weight)
    px0 = px1 = py0 = py1 = padding
    fw = f.shape[-1]
    px0, px1, py0, py1 = ((p + (fw + up - 1) // 2) if i % 2 == 0 else (p + (fw - up) // 2)
                          for i, p in enumerate((px0, px1, py0, py1)))  # fmt: skip
    if groups == 1:
        w = w.transpose(0, 1)
    else:
        w = w.reshape(groups, out_channels // groups, in_channels_per_group, kh, kw)
        w = w.transpose(1, 2)
        w = w.reshape(groups * in_channels_per_group, out_channels // groups, kh, kw)
    px0, px1, py0, py1 = px0 - (kw - 1), px1 - (kw - up), py0 - (kh - 1), py1 - (kh - up)
    pxt, pyt = max(min(-px0, -px1), 0), max(min(-py0, -py1), 0)
    x = conv2d_wrapper(
        x=x, w=w, stride=up, padding=[pyt, pxt], groups=groups, transpose=True, flip_weight=(not flip_weight)
    )
    return upfirdn2d(x, f, padding=[px0 + pxt, px1 + pxt, py0 + pyt, py1 + pyt], gain=up**2)


def modulated_conv2d(x, weight, styles, noise=None, up=1, padding=0, resample_filter=None, demodulate=True):
    batch_size = x.shape[0]
    _out_channels, in_channels, kh, kw = weight.shape
    w = weight.unsqueeze(0)
    w = w * styles.reshape(batch_size, 1, -1, 1, 1)
    if demodulate:
        dcoefs = (w.square().sum(dim=[2, 3, 4]) + 1e-8).rsqrt()
        w = w * dcoefs.reshape(batch_size, -1, 1, 1, 1)
    batch_size = int(batch_size)
    x = x.reshape(1, -1, *x.shape[2:])
    w = w.reshape(-1, in_channels, kh, kw)
    x = conv2d_resample(
        x=x, w=w.to(x.dtype), f=resample_filter, up=up, padding=padding, groups=batch_size, flip_weight=(up == 1)
    )
    x = x.reshape(batch_size, -1, *x.shape[2:])
    if noise is not None:
        x = x.add_(noise)
    return x


class FullyConnectedLayer(nn.Module):
    def __init__(self, in_features, out_features, activation="linear", lr_multiplier=1.0, bias_init=0.0):
        super().__init__()
        self.activation = activation
        self.weight = nn.Parameter(torch.randn([out_features, in_features]) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([out_features], float(bias_init)))
        self.weight_gain = lr_multiplier / math.sqrt(in_features)
        self.bias_gain = lr_multiplier

    def forward(self, x):
        w = self.weight.to(x.dtype) * self.weight_gain
        b = self.bias.to(x.dtype)
        if self.bias_gain != 1:
            b = b * self.bias_gain
        if self.activation == "linear":
            return torch.addmm(b.unsqueeze(0), x, w.t())
        x = x.matmul(w.t())
        return bias_act(x, b, act=self.activation, gain=2**0.5)


class MappingNetwork(nn.Module):
    def __init__(self, z_dim, w_dim, num_ws, num_layers=2):
        super().__init__()
        self.num_ws = num_ws
        for idx in range(num_layers):
            setattr(self, f"fc{idx}", FullyConnectedLayer(z_dim if idx == 0 else w_dim, w_dim, "lrelu", 0.01))
        self.num_layers = num_layers
        self.register_buffer("w_avg", torch.zeros([w_dim]))

    def forward(self, z, truncation_psi=0.7):
        x = z.to(torch.promote_types(z.dtype, torch.float32))
        x = x * (x.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()
        for idx in range(self.num_layers):
            x = getattr(self, f"fc{idx}")(x)
        x = x.unsqueeze(1).repeat([1, self.num_ws, 1])
        if truncation_psi != 1:
            x[:, :2] = self.w_avg.lerp(x[:, :2], truncation_psi)
        return x


class SynthesisLayer2(nn.Module):
    def __init__(self, in_channels, out_channels, w_dim, resolution, up=1):
        super().__init__()
        self.up, self.padding = up, 1
        self.register_buffer("resample_filter", setup_filter([1, 3, 3, 1]))
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn([out_channels, in_channels, 3, 3]))
        self.register_buffer("noise_const", torch.randn([resolution, resolution]))
        self.noise_strength = nn.Parameter(torch.full([], 0.1))
        self.bias = nn.Parameter(torch.zeros([out_channels]))

    def forward(self, x, w, gain=1):
        styles = self.affine(w)
        noise = self.noise_const * self.noise_strength
        x = modulated_conv2d(x, self.weight, styles, noise, self.up, self.padding, self.resample_filter)
        return bias_act(x, self.bias.to(x.dtype), act="lrelu", gain=2**0.5 * gain, clamp=256 * gain)


class ToRGBLayer2(nn.Module):
    def __init__(self, in_channels, out_channels, w_dim):
        super().__init__()
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn([out_channels, in_channels, 1, 1]))
        self.bias = nn.Parameter(torch.zeros([out_channels]))
        self.weight_gain = 1 / math.sqrt(in_channels)

    def forward(self, x, w):
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x=x, weight=self.weight, styles=styles, demodulate=False)
        return bias_act(x, self.bias.to(x.dtype), clamp=256)


class StyleGAN2ADA(nn.Module):
    def __init__(self, size, w_dim, channels):
        super().__init__()
        self.resolutions = [2**i for i in range(2, int(math.log2(size)) + 1)]
        self.mapping = MappingNetwork(w_dim, w_dim, 2 * len(self.resolutions))
        self.const = nn.Parameter(torch.randn([channels[0], 4, 4]))
        self.register_buffer("resample_filter", setup_filter([1, 3, 3, 1]))
        into = channels[0]
        for res, out in zip(self.resolutions, channels, strict=False):
            if res > 4:
                setattr(self, f"b{res}_conv0", SynthesisLayer2(into, out, w_dim, res, up=2))
            setattr(self, f"b{res}_conv1", SynthesisLayer2(out, out, w_dim, res))
            setattr(self, f"b{res}_torgb", ToRGBLayer2(out, 3, w_dim))
            into = out

    def forward(self, z):
        ws = self.mapping(z)
        ws = ws.to(torch.float64 if z.dtype == torch.float64 else torch.float32)
        x, img, w_iter = None, None, iter(ws.unbind(dim=1))
        for res in self.resolutions:
            if res == 4:
                x = self.const.to(ws.dtype)
                x = x.unsqueeze(0).repeat([ws.shape[0], 1, 1, 1])
            else:
                x = getattr(self, f"b{res}_conv0")(x, next(w_iter))
            x = getattr(self, f"b{res}_conv1")(x, next(w_iter))
            if img is not None:
                img = upfirdn2d(img, self.resample_filter, up=2, padding=[2, 1, 2, 1], gain=4)
            y = getattr(self, f"b{res}_torgb")(x, next(w_iter) if res == 4 else w_iter_last(ws))
            y = y.to(dtype=ws.dtype, memory_format=torch.contiguous_format)
            img = img.add_(y) if img is not None else y
        return img


def w_iter_last(ws):
    return ws[:, -1]


class SynthesisInput(nn.Module):
    """The Fourier features of StyleGAN3, moved by a transform of the code's own."""

    def __init__(self, w_dim, channels, size, sampling_rate, bandwidth):
        super().__init__()
        self.size, self.sampling_rate, self.bandwidth, self.channels = size, sampling_rate, bandwidth, channels
        freqs = torch.randn([channels, 2])
        radii = freqs.square().sum(dim=1, keepdim=True).sqrt()
        freqs /= radii * radii.square().exp().pow(0.25)
        freqs *= bandwidth
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", torch.rand([channels]) - 0.5)
        self.register_buffer("transform", torch.eye(3, 3))
        self.weight = nn.Parameter(torch.randn([channels, channels]))
        self.affine = FullyConnectedLayer(w_dim, 4)
        self.affine.bias.data.copy_(torch.as_tensor([1.0, 0, 0, 0]))

    def forward(self, w):
        transforms = self.transform.unsqueeze(0)
        freqs = self.freqs.unsqueeze(0)
        phases = self.phases.unsqueeze(0)
        t = self.affine(w)
        t = t / t[:, :2].norm(dim=1, keepdim=True)
        m_r = torch.eye(3, device=w.device, dtype=w.dtype).unsqueeze(0).repeat([w.shape[0], 1, 1])
        m_r[:, 0, 0] = t[:, 0]
        m_r[:, 0, 1] = -t[:, 1]
        m_r[:, 1, 0] = t[:, 1]
        m_r[:, 1, 1] = t[:, 0]
        m_t = torch.eye(3, device=w.device, dtype=w.dtype).unsqueeze(0).repeat([w.shape[0], 1, 1])
        m_t[:, 0, 2] = -t[:, 2]
        m_t[:, 1, 2] = -t[:, 3]
        transforms = m_r @ m_t @ transforms
        phases = phases + (freqs @ transforms[:, :2, 2:]).squeeze(2)
        freqs = freqs @ transforms[:, :2, :2]
        amplitudes = (1 - (freqs.norm(dim=2) - self.bandwidth) / (self.sampling_rate / 2 - self.bandwidth)).clamp(0, 1)
        theta = torch.eye(2, 3, device=w.device, dtype=w.dtype)
        theta[0, 0] = 0.5 * self.size / self.sampling_rate
        theta[1, 1] = 0.5 * self.size / self.sampling_rate
        grids = F.affine_grid(theta.unsqueeze(0), [1, 1, self.size, self.size], align_corners=False)
        x = (grids.unsqueeze(3) @ freqs.permute(0, 2, 1).unsqueeze(1).unsqueeze(2)).squeeze(3)
        x = x + phases.unsqueeze(1).unsqueeze(2)
        x = torch.sin(x * (math.pi * 2))
        x = x * amplitudes.unsqueeze(1).unsqueeze(2)
        weight = self.weight / math.sqrt(self.channels)
        x = x @ weight.t()
        return x.permute(0, 3, 1, 2)


def modulated_conv2d_v3(x, w, s, demodulate=True, padding=0, input_gain=None):
    batch_size = int(x.shape[0])
    _, in_channels, kh, kw = w.shape
    if demodulate:
        w = w * w.square().mean([1, 2, 3], keepdim=True).rsqrt()
        s = s * s.square().mean(1, keepdim=True).rsqrt()
    w = w.unsqueeze(0)
    w = w * s.unsqueeze(1).unsqueeze(3).unsqueeze(4)
    if demodulate:
        dcoefs = (w.square().sum(dim=[2, 3, 4]) + 1e-8).rsqrt()
        w = w * dcoefs.unsqueeze(2).unsqueeze(3).unsqueeze(4)
    if input_gain is not None:
        input_gain = input_gain.expand(batch_size, in_channels)
        w = w * input_gain.unsqueeze(1).unsqueeze(3).unsqueeze(4)
    x = x.reshape(1, -1, *x.shape[2:])
    w = w.reshape(-1, in_channels, kh, kw)
    x = F.conv2d(input=x, weight=w.to(x.dtype), padding=padding, groups=batch_size)
    return x.reshape(batch_size, -1, *x.shape[2:])


def filtered_lrelu(x, fu, fd, b, up, down, padding, gain=2**0.5, slope=0.2, clamp=256):
    px0, px1, py0, py1 = padding
    x = bias_act(x=x, b=b)
    x = upfirdn2d(x=x, f=fu, up=up, padding=[px0, px1, py0, py1], gain=up**2)
    x = bias_act(x=x, act="lrelu", alpha=slope, gain=gain, clamp=clamp)
    return upfirdn2d(x=x, f=fd, down=down)


def lowpass(taps, cutoff, width):
    """A windowed sinc, as the Kaiser design of StyleGAN3 gives; separable, in one axis."""
    n = torch.arange(taps, dtype=torch.float32) - (taps - 1) / 2
    f = torch.sinc(2 * cutoff * n) * torch.kaiser_window(taps, periodic=False, beta=width)
    return f / f.sum()


class SynthesisLayer3(nn.Module):
    def __init__(self, w_dim, in_channels, out_channels, in_size, out_size, kernel_size, up, is_torgb=False):
        super().__init__()
        self.is_torgb, self.kernel_size = is_torgb, kernel_size
        self.up, self.down = (1, 1) if is_torgb else (2 * up, 2)
        self.affine = FullyConnectedLayer(w_dim, in_channels, bias_init=1)
        self.weight = nn.Parameter(torch.randn([out_channels, in_channels, kernel_size, kernel_size]))
        self.bias = nn.Parameter(torch.zeros([out_channels]))
        self.register_buffer("magnitude_ema", torch.ones([]) * 1.3)
        taps = 6
        self.register_buffer("up_filter", None if is_torgb else lowpass(taps * self.up, 0.4 / self.up, 4.0))
        self.register_buffer("down_filter", None if is_torgb else lowpass(taps * self.down, 0.4 / self.down, 4.0))
        if not is_torgb:
            total = (out_size - 1) * self.down + 1
            total -= (in_size + kernel_size - 1) * self.up
            total += taps * self.up + taps * self.down - 2
            low = (total + self.up) // 2
            self.padding = [low, total - low, low, total - low]

    def forward(self, x, w):
        input_gain = self.magnitude_ema.rsqrt()
        styles = self.affine(w)
        if self.is_torgb:
            styles = styles * (1 / math.sqrt(self.weight.shape[1] * self.kernel_size**2))
        x = modulated_conv2d_v3(
            x=x, w=self.weight, s=styles, padding=self.kernel_size - 1, demodulate=(not self.is_torgb),
            input_gain=input_gain,
        )  # fmt: skip
        if self.is_torgb:
            return bias_act(x, self.bias, gain=1, clamp=256)
        return filtered_lrelu(
            x=x, fu=self.up_filter, fd=self.down_filter, b=self.bias.to(x.dtype), up=self.up, down=self.down,
            padding=self.padding,
        )  # fmt: skip


class StyleGAN3(nn.Module):
    """Translation-equivariant with kernels of 3, rotation-equivariant with kernels of 1 and radial filters."""

    def __init__(self, size, w_dim, channels, kernel_size):
        super().__init__()
        sizes = [16 + 8]
        while sizes[-1] - 8 < size:
            sizes.append(2 * (sizes[-1] - 8) + 8)
        self.size = size
        self.mapping = MappingNetwork(w_dim, w_dim, 2 * len(sizes))
        self.input = SynthesisInput(w_dim, channels[0], sizes[0], 16.0, 2.0)
        self.names = []
        into, before = channels[0], sizes[0]
        for index, (side, out) in enumerate(zip(sizes, channels, strict=False)):
            for part in range(2):
                up = 2 if part == 0 and index > 0 else 1
                layer = SynthesisLayer3(w_dim, into, out, before, side, kernel_size, up)
                self.names.append(f"L{index}_{part}_{side}_{out}")
                setattr(self, self.names[-1], layer)
                into, before = out, side
        self.names.append("torgb")
        self.torgb = SynthesisLayer3(w_dim, into, 3, before, before, 1, 1, is_torgb=True)

    def forward(self, z):
        ws = self.mapping(z)
        ws = ws.unbind(dim=1)
        x = self.input(ws[0])
        for name, w in zip(self.names, [*ws[1:], ws[-1], ws[-1]], strict=False):
            x = getattr(self, name)(x, w)
        x = x[:, :, 4 : 4 + self.size, 4 : 4 + self.size]
        return x * 0.25


WIDE = [128, 128, 64, 64, 32]
TINY = [8, 8, 6, 6, 4]


def stylegan2_nvidia():
    return made(seeded(5, StyleGAN2ADA, 64, 64, WIDE), 64)


def stylegan2_nvidia_tiny():
    return made(seeded(5, StyleGAN2ADA, 16, 8, TINY), 8)


def stylegan3_t():
    return made(seeded(5, StyleGAN3, 64, 64, [64, 48, 32], 3), 64)


def stylegan3_t_tiny():
    return made(seeded(5, StyleGAN3, 16, 8, [6], 3), 8)


def stylegan3_r():
    return made(seeded(5, StyleGAN3, 64, 64, [96, 64, 48], 1), 64)


def stylegan3_r_tiny():
    return made(seeded(5, StyleGAN3, 16, 8, [6], 1), 8)
