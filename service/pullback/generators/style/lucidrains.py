"""The StyleGAN2 of lucidrains/stylegan2-pytorch, which differs from NVIDIA's in most of its arithmetic.

The differences: both convolutions and the RGB layer of a resolution share one code of W; bilinear interpolation doubles
features before the first convolution; noise is one uniform map, cropped and transposed, with a weight and a bias for
each channel; convolutions have no bias; images are doubled bilinearly and blurred. Blocks may begin with linear
attention (Shen et al., "Efficient attention: attention with linear complexities", WACV 2021).
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pullback.generators.family import Found
from pullback.generators.style.base import StyleGenerator
from pullback.generators.style.mapping import SLOPE
from pullback.generators.style.mapping import Mapping as MappingNetwork
from pullback.weights.content import Content

_HEADS = 8
_HEAD_SIZE = 64
_EPS = 1e-8
_NORM_EPS = 1e-5
_BLOCK = re.compile(r"blocks\.(\d+)\.to_style1\.weight$")


class Modulated(nn.Module):
    """A convolution whose input channels are scaled by 1 + a style; see `families.stylegan2`.

    Args:
        into: input channels.
        out: output channels.
        kernel: its size.
        demodulate: whether each output channel is divided by the norm of its scaled kernel.
    """

    def __init__(self, into: int, out: int, kernel: int, demodulate: bool = True) -> None:
        super().__init__()
        self.demodulate = demodulate
        self.weight = nn.Parameter(torch.zeros(out, into, kernel, kernel))

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Return features [batch, out, height, width] for styles [batch, into]."""
        scale = style + 1
        made = F.conv2d(x * scale[:, :, None, None], self.weight, padding=self.weight.shape[-1] // 2)
        if not self.demodulate:
            return made
        squares = F.linear(scale.square(), self.weight.square().sum((2, 3)))
        return made * (squares + _EPS).rsqrt()[:, :, None, None]


class ToRgb(nn.Module):
    """A modulated 1×1 convolution to RGB, added to the previous image. Except in the last block, the sum is doubled."""

    kernel: Tensor

    def __init__(self, into: int, out: int, code: int, doubles: bool) -> None:
        super().__init__()
        self.doubles = doubles
        self.to_style = nn.Linear(code, into)
        self.conv = Modulated(into, out, 1, demodulate=False)
        line = torch.tensor([1.0, 2.0, 1.0])
        self.register_buffer("kernel", torch.outer(line, line) / 16, persistent=False)

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor) -> Tensor:
        """Return images [batch, out, height, width], or [batch, out, 2 · height, 2 · width] if they are doubled."""
        made: Tensor = self.conv(x, self.to_style(w))
        made = made if image is None else made + image
        if not self.doubles:
            return made
        made = F.pad(_doubled(made), (1, 1, 1, 1), mode="reflect")
        channels = made.shape[1]
        return F.conv2d(made, self.kernel.expand(channels, 1, 3, 3), groups=channels)


class Block(nn.Module):
    """Two modulated convolutions, each followed by noise and a leaky ReLU, and the RGB layer."""

    def __init__(self, into: int, out: int, code: int, colours: int, doubles: bool, last: bool) -> None:
        super().__init__()
        self.doubles = doubles
        self.to_style1, self.to_noise1 = nn.Linear(code, into), nn.Linear(1, out)
        self.conv1 = Modulated(into, out, 3)
        self.to_style2, self.to_noise2 = nn.Linear(code, out), nn.Linear(1, out)
        self.conv2 = Modulated(out, out, 3)
        self.to_rgb = ToRgb(out, colours, code, not last)

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and images; `noise` [1 or batch, size, size, 1] is cropped to the features' size."""
        x = _doubled(x) if self.doubles else x
        cropped = noise[:, : x.shape[2], : x.shape[3]]
        # the original turns [batch, height, width, channels] into [batch, channels, width, height]
        first, second = (layer(cropped).permute(0, 3, 2, 1) for layer in (self.to_noise1, self.to_noise2))
        x = F.leaky_relu(self.conv1(x, self.to_style1(w)) + first, SLOPE)
        x = F.leaky_relu(self.conv2(x, self.to_style2(w)) + second, SLOPE)
        return x, self.to_rgb(x, image, w)


class ChannelNorm(nn.Module):
    """Normalisation over channels at each pixel, with a gain and a shift for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.b = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, channels, height, width] of the same shape."""
        centred = x - x.mean(1, keepdim=True)
        return centred * (centred.square().mean(1, keepdim=True) + _NORM_EPS).rsqrt() * self.g + self.b


class Attention(nn.Module):
    """Linear attention and a network of two 1×1 convolutions, each added to its normalised input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = _HEADS * _HEAD_SIZE
        self.norm1, self.norm2 = ChannelNorm(channels), ChannelNorm(channels)
        self.to_q = nn.Conv2d(channels, inner, 1, bias=False)
        self.to_kv_depth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.to_kv = nn.Conv2d(channels, 2 * inner, 1, bias=False)
        self.to_out = nn.Conv2d(inner, channels, 1)
        self.feed1, self.feed2 = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return features [batch, channels, height, width] of the same shape."""
        x = x + self._attended(self.norm1(x))
        made: Tensor = self.feed2(F.leaky_relu(self.feed1(self.norm2(x)), SLOPE))
        return x + made

    def _attended(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        key, value = self.to_kv(self.to_kv_depth(x)).chunk(2, dim=1)
        # [batch · heads, size, pixels]: the softmax of queries is over the size of a head, that of keys over pixels
        query, key, value = (t.reshape(batch * _HEADS, _HEAD_SIZE, -1) for t in (self.to_q(x), key, value))
        context = key.softmax(2) @ value.transpose(1, 2)
        gathered = context.transpose(1, 2) @ (query.softmax(1) * _HEAD_SIZE**-0.5)
        made: Tensor = self.to_out(F.gelu(gathered.reshape(batch, -1, height, width)))
        return made


class LucidrainsStyleGan2(StyleGenerator):
    """The generator and its style network.

    Args:
        options: `families.stylegan2.Options` of the layout `lucidrains`; `channels` are the output channels of each
            block.
    """

    value_range = (0.0, 1.0)
    noise_stored = False
    noise_uniform = True
    noise_map: Tensor

    def __init__(self, options: Any) -> None:
        o = options
        mapping = MappingNetwork(o.z_dim, o.mapping, gain=None, lr=o.mapping_lr, after=1.0, norm="unit")
        super().__init__(mapping, o.z_dim, o.w_dim, len(o.channels), w_avg=o.w_avg)
        first = o.channels[0]
        if o.constant:
            self.initial_block = nn.Parameter(torch.zeros(1, first, 4, 4))
        else:
            self.to_initial_block = nn.ConvTranspose2d(o.w_dim, first, 4, bias=False)
        self.initial_conv = nn.Conv2d(first, first, 3, padding=1)
        widths = list(pairwise((first, *o.channels)))
        last = len(widths) - 1
        self.blocks_ = nn.ModuleList(
            [Block(i, out, o.w_dim, o.image_channels, n > 0, n == last) for n, (i, out) in enumerate(widths)]
        )
        self.attentions = nn.ModuleDict({str(n): Attention(widths[n][0]) for n in o.attention})
        side = 4 << last
        self.register_buffer("noise_map", torch.zeros(1, side, side, 1), persistent=False)

    def noise_buffers(self) -> list[Tensor]:
        """Return the single noise map that all layers share."""
        return [self.noise_map]

    def synthesise(self, styles: Sequence[Tensor]) -> Tensor:
        """Return images [batch, channels, size, size] in about [0, 1]; see `StyleGenerator.synthesise`."""
        if hasattr(self, "initial_block"):
            x = self.initial_block.expand(len(styles[0]), -1, -1, -1)
        else:
            x = self.to_initial_block(torch.stack(list(styles)).mean(0)[:, :, None, None])
        x, image = self.initial_conv(x), None
        for number, (w, block) in enumerate(zip(styles, self.blocks_, strict=True)):
            if str(number) in self.attentions:
                x = self.attentions[str(number)](x)
            x, image = block(x, image, w, self.noise_map)
        assert isinstance(image, Tensor)
        return image


def read(content: Content) -> Found | None:
    """Recognise a checkpoint by its averaged networks `SE.` and `GE.`, or by the live ones `S.` and `G.`."""
    state, found = content.state, _prefixes(content.state)
    if found is None:
        return None
    generator, styles = found
    kind = "moving averages" if generator == "GE." else "live networks"
    own = {name.removeprefix(generator): value for name, value in state.items() if name.startswith(generator)}
    made = {_renamed(name): value for name, value in own.items() if not name.endswith(".upsample.1.f")}
    layers = sorted(
        {int(m[1]) for m in (re.match(re.escape(styles) + r"net\.(\d+)\.weight$", name) for name in state) if m}
    )
    for number, layer in enumerate(layers):
        for part in ("weight", "bias"):
            made[f"mapping.layers.{number}.{part}"] = state[f"{styles}net.{layer}.{part}"]
    blocks = len({m[1] for m in map(_BLOCK.match, own) if m})
    options = {
        "layout": "lucidrains",
        "resolution": 4 << (blocks - 1),
        "channels": tuple(int(own[f"blocks.{number}.conv2.weight"].shape[0]) for number in range(blocks)),
        "z_dim": int(state[f"{styles}net.{layers[0]}.weight"].shape[1]),
        "w_dim": int(own["blocks.0.to_style1.weight"].shape[1]),
        "mapping": tuple(int(state[f"{styles}net.{layer}.weight"].shape[0]) for layer in layers),
        "mapping_lr": float(content.config.get("lr_mlp", 0.1)),
        "image_channels": int(own["blocks.0.to_rgb.conv.weight"].shape[0]),
        "constant": "initial_block" in own,
        "attention": tuple(sorted({int(m[1]) for m in (re.match(r"attns\.(\d+)\.", name) for name in own) if m})),
        "noise_stored": False,
        "conv_clamp": None,
    }
    return Found(options, made, notes=(f"took the {kind} {generator[:-1]} and {styles[:-1]}",))


def _prefixes(state: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return the prefixes of the generator and its style network, of the averaged networks if the file has them."""
    for generator, styles in (("GE.", "SE."), ("G.", "S.")):
        if f"{generator}blocks.0.to_style1.weight" in state and f"{styles}net.0.weight" in state:
            return generator, styles
    return None


_ATTENTION = {
    "0.fn.norm.": "norm1.",
    "1.fn.norm.": "norm2.",
    "0.fn.fn.to_q.": "to_q.",
    "0.fn.fn.to_kv.net.0.": "to_kv_depth.",
    "0.fn.fn.to_kv.net.1.": "to_kv.",
    "0.fn.fn.to_out.": "to_out.",
    "1.fn.fn.0.": "feed1.",
    "1.fn.fn.2.": "feed2.",
}


def _renamed(name: str) -> str:
    if match := re.match(r"attns\.(\d+)\.(.*)", name):
        for old, new in _ATTENTION.items():
            if match[2].startswith(old):
                return f"attentions.{match[1]}.{new}{match[2].removeprefix(old)}"
    return re.sub(r"^blocks\.", "blocks_.", name)


def _doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
